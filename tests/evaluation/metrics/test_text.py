"""Text metrics against nltk, sacreBLEU, rouge-score and golden values of the package rouge, run on whole corpora."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.stem.porter import PorterStemmer
from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu, sentence_bleu
from nltk.translate.meteor_score import single_meteor_score
from rouge_score import rouge_scorer

from ecglm import registry
from ecglm.errors import EcglmError
from ecglm.evaluation.metrics import meteor, pairs

PHRASE = "sinus rhythm with left axis deviation and first degree AV block , normal ECG . ST elevation in V1-V4"
WORDS = PHRASE.split()


def corpora():
    """Reference and answer texts: random ones near each other, and the edges."""
    generator = np.random.default_rng(3)

    def text(low, high):
        return " ".join(generator.choice(WORDS, size=generator.integers(low, high)))

    for size in (1, 3, 20):
        truth = [text(1, 15) for _ in range(size)]
        yield (
            truth,
            [
                " ".join(w if generator.random() < 0.8 else str(generator.choice(WORDS)) for w in t.split())
                for t in truth
            ],
        )
    yield ["normal ECG with sinus rhythm"] * 2, ["normal ECG with sinus rhythm", ""]
    yield ["normal ECG"], ["normal ECG"]
    yield ["sinus rhythm with left axis deviation"], ["rhythm sinus axis left"]
    yield ["a b c d"], ["x y z"]
    yield ["a b c d"], [""]
    yield ["Sinus rhythm."], ["sinus rhythm"]


def as_rows(make_row, truth, stated):
    return [make_row(t, s, "text") for t, s in zip(truth, stated, strict=True)]


@pytest.mark.parametrize(("truth", "stated"), list(corpora()))
def test_bleu_equals_nltk(make_row, truth, stated):
    expected = corpus_bleu(
        [[t.split()] for t in truth],
        [s.split() for s in stated],
        smoothing_function=SmoothingFunction(epsilon=0.1).method1,
    )
    got = registry.get("metrics", "bleu")(as_rows(make_row, truth, stated))
    assert got == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("truth", "stated"), list(corpora()))
def test_bleu_sacre_equals_sacrebleu(make_row, truth, stated):
    expected = sacrebleu.corpus_bleu(stated, [truth]).score / 100
    got = registry.get("metrics", "bleu_sacre")(as_rows(make_row, truth, stated))
    assert got == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("truth", "stated"), list(corpora()))
def test_rouge_equals_rouge_score(make_row, truth, stated):
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    expected = np.mean([scorer.score(t, s)["rougeL"].fmeasure for t, s in zip(truth, stated, strict=True)])
    got = registry.get("metrics", "rougeL")(as_rows(make_row, truth, stated))
    assert got == pytest.approx(expected, abs=1e-12)


def test_bleu_by_hand(make_row):
    """6 words of 6, 4 of 5 pairs, 2 of 4 triples, 1 of 3 quadruples; two words short of the reference's 8."""
    row = make_row("a b c d e f g h", "a b c d f e", "text")
    expected = np.exp(1 - 8 / 6) * (6 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25
    assert registry.get("metrics", "bleu")([row]) == pytest.approx(expected, abs=1e-12)


# --- any text: few words, so that they repeat; points, numbers, entities, blanks and letters of other scripts

PIECES = ["ST", "st", "V1-V4", "rhythm", "rhythms", "the", "a", ".", ",", "72.5",
          "1,000", "-5", "&amp;", "<b>", "\n", "\t", "é", "心电图",
          "a.b", "-", "-\n", "no", "elevation", "elevated", "",
          "...", "x.", ".x", "5.", "()", "'s", "%", "\u2003"]  # fmt: skip
texts = st.lists(st.sampled_from(PIECES), max_size=14).map(" ".join)
#: A reference is never empty in predictions.jsonl.
references = texts.filter(lambda t: t.strip())
corpora_of = st.lists(st.tuples(references, texts), min_size=1, max_size=6)


def rows_of(corpus):
    return [{"reference": t, "prediction": s, "metadata": {"question_type": "text"}} for t, s in corpus]


def value(name, corpus):
    return registry.get("metrics", name)(rows_of(corpus))


@settings(max_examples=30, deadline=None)
@given(corpora_of)
def test_any_corpus_bleu_equals_nltk_and_sacrebleu(corpus):
    truth, stated = [t.strip() for t, _ in corpus], [s.strip() for _, s in corpus]
    method1 = SmoothingFunction(epsilon=0.1).method1
    expected = corpus_bleu([[t.split()] for t in truth], [s.split() for s in stated], smoothing_function=method1)
    assert value("bleu", corpus) == pytest.approx(expected, abs=1e-12)
    expected = sacrebleu.corpus_bleu(stated, [truth]).score / 100
    assert value("bleu_sacre", corpus) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(corpora_of)
def test_any_corpus_sentence_bleu_equals_nltk(corpus):
    method1, scores = SmoothingFunction(epsilon=0.1).method1, []
    for truth, stated in corpus:
        t, s = truth.split(), stated.split()
        n = min(4, len(t), len(s))
        scores.append(sentence_bleu([t], s, (1 / n,) * n, method1) if n else 0.0)
    assert value("bleu_sent", corpus) == pytest.approx(np.mean(scores), abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(corpora_of)
def test_any_corpus_rouge_equals_rouge_score(corpus):
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    found = [scorer.score(t.strip(), s.strip()) for t, s in corpus]
    for name in ("rouge1", "rouge2", "rougeL"):
        assert value(name, corpus) == pytest.approx(np.mean([f[name].fmeasure for f in found]), abs=1e-12)


#: Words → lemmas, in place of WordNet's data.
SYNSETS = {"rhythm": [["rhythm", "beat"], ["cycle", "regular_recurrence"]], "elev": [["st", "raise"]], "a": [["the"]]}


class ToyWordNet:
    def synsets(self, word):
        return [
            SimpleNamespace(lemmas=lambda names=names: [SimpleNamespace(name=lambda n=n: n) for n in names])
            for names in SYNSETS.get(word, [])
        ]


@settings(max_examples=30, deadline=None)
@given(corpora_of, st.booleans())
def test_any_corpus_meteor_equals_nltk(corpus, with_synonyms):
    toy = ToyWordNet() if with_synonyms else SimpleNamespace(synsets=lambda word: [])
    expected = [single_meteor_score(t.split(), s.split(), stemmer=PorterStemmer(), wordnet=toy) for t, s in corpus]

    def synonyms(word):
        return frozenset({word, *(n for names in SYNSETS.get(word, []) for n in names if "_" not in n)})

    got = meteor.compare([t for t, _ in corpus], [s for _, s in corpus], synonyms if with_synonyms else None)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)
    if not with_synonyms:
        assert value("meteor_exact_stem", corpus) == pytest.approx(np.mean(expected), abs=1e-12)


def test_meteor_by_hand():
    """4 of 5 words match in two chunks: "a b", "d e"; P = 4/5, R = 4/6."""
    p, r = 4 / 5, 4 / 6
    expected = (1 - 0.5 * (2 / 4) ** 3) * p * r / (0.9 * p + 0.1 * r)
    assert value("meteor_exact_stem", [("a b c d e f", "a b x d e")]) == pytest.approx(expected, abs=1e-12)


def test_meteor_without_wordnet_says_why_and_with_it_reads_synonyms(monkeypatch):
    monkeypatch.setattr(meteor, "wordnet", lambda: None)
    metric = registry.get("metrics", "meteor_nltk")
    assert "WordNet" in metric.lacks([{}])
    with pytest.raises(EcglmError, match="WordNet data"):
        value("meteor_nltk", [("a rhythm", "a beat")])
    monkeypatch.setattr(meteor, "wordnet", ToyWordNet)
    meteor.wordnet_synonyms.cache_clear()
    expected = single_meteor_score(["a", "beat"], ["a", "rhythm"], wordnet=ToyWordNet())
    assert meteor.wordnet_synonyms("rhythm") == {"rhythm", "beat", "cycle"}
    assert value("meteor_nltk", [("a beat", "a rhythm")]) == pytest.approx(expected, abs=1e-12)
    meteor.wordnet_synonyms.cache_clear()


# --- the package rouge 1.0.1, whose values were computed with it once

GOLDEN = [
    ("sinus rhythm with left axis deviation", "rhythm sinus axis left", (0.7999999952000001, 0.0, 0.39999999520000007)),
    ("Normal ECG. Sinus rhythm.", "sinus rhythm. Normal ECG.", (0.749999995, 0.3333333283333334, 0.749999995)),
    ("a b a b c", "a b", (0.7999999952000001, 0.4999999962500001, 0.7999999952000001)),
    ("rate 72.5 bpm. a. . b", "rate 72.5 bpm", (0.7272727226446282, 0.6666666622222223, 0.7272727226446282)),
    ("the the the", "the", (0.999999995, 0.0, 0.999999995)),
    (
        "w1 w2 w3 w4 w5",
        "w1 w2 w6 w7 w8. w1 w3 w8 w9 w5",
        (0.6153846106508877, 0.15384614958579892, 0.6153846106508877),
    ),
]


@pytest.mark.parametrize(("truth", "stated", "expected"), GOLDEN)
def test_rouge_legacy_equals_the_package_rouge(truth, stated, expected):
    names = ("rouge_legacy_1", "rouge_legacy_2", "rouge_legacy_l")
    assert [value(name, [(truth, stated)]) for name in names] == pytest.approx(expected, abs=1e-15)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(references, references), min_size=1, max_size=4))
def test_any_corpus_rouge_legacy_equals_the_package(corpus):
    import rouge

    corpus = [(t.strip(), s.strip()) for t, s in corpus if t.strip(". \n\t\u2003") and s.strip(". \n\t\u2003")]
    for truth, stated in corpus:
        expected = rouge.Rouge().get_scores([stated], [truth])[0]
        for ours, theirs in (("1", "rouge-1"), ("2", "rouge-2"), ("l", "rouge-l")):
            assert value(f"rouge_legacy_{ours}", [(truth, stated)]) == pytest.approx(expected[theirs]["f"], abs=1e-12)


# --- SQuAD's token F1

SQUAD = [
    ("The sinus rhythm.", "a Sinus Rhythm", 1.0),  # articles, case, punctuation
    ("a b c d", "b c x", 0.0 + 2 * (2 / 3) * (2 / 3) / (2 / 3 + 2 / 3)),  # the article "a" is no word
    ("yes yes no", "yes", 2 * 1 * (1 / 3) / (1 + 1 / 3)),
    ("st-elevation", "ST elevation", 0.0),  # a hyphen is taken out, not cut at
    ("心电图 é", "é", 2 * 1 * 0.5 / 1.5),
    ("sinus", "", 0.0),
    ("the", "the", 0.0),  # no word is left of either
]


@pytest.mark.parametrize(("truth", "stated", "expected"), SQUAD)
def test_token_f1_by_hand(truth, stated, expected):
    assert value("token_f1", [(truth, stated)]) == pytest.approx(expected, abs=1e-12)


# --- the tables behind them


def test_an_empty_corpus_of_answers_scores_zero_and_not_nothing():
    names = ("bleu", "bleu_sacre", "bleu_sent", "rouge1", "rouge2", "rougeL", "meteor_exact_stem", "token_f1")
    for name in (*names, "rouge_legacy_1", "rouge_legacy_2", "rouge_legacy_l"):
        assert value(name, [("sinus rhythm", ""), ("a b", " . ")]) == 0.0, name


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(references, texts), min_size=2, max_size=8), st.randoms())
def test_a_row_counts_the_same_wherever_and_however_often_it_stands(corpus, random):
    for name in ("bleu", "bleu_sacre", "rougeL", "rouge_legacy_l", "meteor_exact_stem", "token_f1"):
        metric = registry.get("metrics", name)
        rows = rows_of(corpus)
        table = metric.statistics(rows, ())
        order = random.sample(range(len(rows)), len(rows))
        np.testing.assert_array_equal(
            metric.statistics([rows[i] for i in order] * 2, ()), np.tile(table[order], (2, 1))
        )


def test_tables_start_anew_when_they_are_full(monkeypatch):
    monkeypatch.setattr(pairs, "MAX_KEPT", 5)
    words = pairs.Words(str.split, first=("|",))

    def lengths(truth, stated):
        return np.array([[float(len(t) + len(s))] for t, s in zip(truth, stated, strict=True)])

    table = pairs.Pairs(1, lengths)
    for n in range(20):
        rows = rows_of([("x" * (n + 1), "y"), ("z", "y" * n)])
        assert table(rows)[:, 0].tolist() == [n + 2, n + 1]
        numbers, ends = words([f"a{n} | b", "|"])
        assert numbers[1] == 0 and numbers[-1] == 0 and ends.tolist() == [0, 3, 4]
        # answers and references are cut in two calls, between which the table may become full
        assert words([f"c{n} d"])[0].tolist()[0] == words([f"e{n} c{n}"])[0].tolist()[1]


def test_a_reference_without_tokens_scores_zero():
    """The 13a tokenizer removes "<skipped>"; sacrebleu says 0 too."""
    assert value("bleu_sacre", [("<skipped>", "<skipped>")]) == 0.0
