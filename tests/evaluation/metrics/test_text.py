"""BLEU and ROUGE-L against nltk, sacreBLEU and rouge-score run on whole corpora."""

from __future__ import annotations

import numpy as np
import pytest
import sacrebleu
from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu
from rouge_score import rouge_scorer

from ecglm import registry

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
