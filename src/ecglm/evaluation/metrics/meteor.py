"""METEOR in NLTK's variant (Banerjee and Lavie 2005), with and without WordNet synonyms: mean over rows, 0 to 1.

Whitespace tokens, lower case. Words are matched in stages, each from the end of both texts: equal words, equal Porter
stems, then (``meteor_nltk``) words of which one is a WordNet synonym of the other; as in NLTK it is the stems that are
looked up there. ``F = PR / (0.9 P + 0.1 R)``, times
``1 − 0.5 (chunks / matches)³``. It is not the Java METEOR, whose stages, weights and tokens are others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any

import nltk
import numpy as np
from nltk.corpus.reader.wordnet import WordNetCorpusReader

from ecglm.evaluation.metrics.base import Row, divide
from ecglm.evaluation.metrics.pairs import Pairs, Words, pair_mean
from ecglm.evaluation.metrics.rouge import stem
from ecglm.registry import register
from ecglm.signals.compiled import compiled

ALPHA, BETA, GAMMA = 0.9, 3.0, 0.5

WORDS = Words(lambda text: text.lower().split())


def _stems(text: str) -> list[str]:
    return [stem(word) for word in text.lower().split()]


STEMS = Words(_stems)

Synonyms = Callable[[str], frozenset[str]]


def compare(references: Sequence[str], answers: Sequence[str], synonyms: Synonyms | None = None) -> np.ndarray:
    """METEOR of each pair, ``(num,)``. synonyms: word → itself and its synonyms; without, the first two stages."""
    stated, stated_ends = WORDS(answers)
    truth, truth_ends = WORDS(references)
    partner = _align(stated, STEMS(answers)[0], stated_ends, truth, STEMS(references)[0], truth_ends)
    if synonyms is not None:
        for number, (answer, reference) in enumerate(zip(answers, references, strict=True)):
            part = partner[stated_ends[number] : stated_ends[number + 1]]
            if (part < 0).any():
                _add_synonyms(part, _stems(answer), _stems(reference), synonyms)
    matches, chunks = _matches_and_chunks(partner, stated_ends)
    precision = divide(matches, np.diff(stated_ends))
    recall = divide(matches, np.diff(truth_ends))
    mean = divide(precision * recall, ALPHA * precision + (1 - ALPHA) * recall)
    return np.nan_to_num((1 - GAMMA * divide(chunks, matches) ** BETA) * mean, nan=0.0)


def _add_synonyms(partner: np.ndarray, answer: list[str], reference: list[str], synonyms: Synonyms) -> None:
    """Match what is left over, from the end of both texts."""
    free = [place for place in range(len(reference)) if place not in set(partner.tolist())]
    for place in reversed(range(len(answer))):
        if partner[place] < 0 and free:
            known = synonyms(answer[place])
            found = next((other for other in reversed(free) if reference[other] in known), None)
            if found is not None:
                partner[place] = found
                free.remove(found)


@compiled
def _align(
    a: np.ndarray, a_stems: np.ndarray, a_ends: np.ndarray, b: np.ndarray, b_stems: np.ndarray, b_ends: np.ndarray
) -> np.ndarray:
    partner = np.full(len(a), -1, np.int64)
    for text in range(len(a_ends) - 1):
        start, stop, other, end = a_ends[text], a_ends[text + 1], b_ends[text], b_ends[text + 1]
        taken = np.zeros(end - other, np.bool_)
        for stage in range(2):
            x, y = (a, b) if stage == 0 else (a_stems, b_stems)
            for i in range(stop - 1, start - 1, -1):
                if partner[i] >= 0:
                    continue
                for j in range(end - 1, other - 1, -1):
                    if not taken[j - other] and x[i] == y[j]:
                        partner[i] = j - other
                        taken[j - other] = True
                        break
    return partner


@compiled
def _matches_and_chunks(partner: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    matches, chunks = np.zeros(len(ends) - 1), np.zeros(len(ends) - 1)
    for text in range(len(ends) - 1):
        last = -2
        for i in range(ends[text], ends[text + 1]):
            if partner[i] >= 0:
                matches[text] += 1
                chunks[text] += i == ends[text] or partner[i - 1] < 0 or partner[i] != last + 1
            last = partner[i]
    return matches, chunks


@cache
def wordnet() -> Any:
    """NLTK's WordNet reader, or None where its data are not on this machine."""
    for name in ("corpora/wordnet", "corpora/wordnet.zip/wordnet/"):
        try:
            return WordNetCorpusReader(nltk.data.find(name), None)
        except LookupError:
            continue
    return None


@lru_cache(maxsize=1 << 16)
def wordnet_synonyms(word: str) -> frozenset[str]:
    """A word and every one-word lemma of its WordNet synsets."""
    lemmas = (lemma.name() for synset in wordnet().synsets(word) for lemma in synset.lemmas())
    return frozenset({word, *(name for name in lemmas if "_" not in name)})


def _needs(rows: Sequence[Row]) -> str:
    if wordnet() is None:
        return "no WordNet data on this machine (python -m nltk.downloader wordnet); see meteor_exact_stem"
    return ""


METEOR = register("metrics", "meteor_nltk")(
    pair_mean(
        Pairs(1, lambda references, answers: compare(references, answers, wordnet_synonyms)),
        kinds=("text",),
        needs=_needs,
        about="METEOR, NLTK variant: equal words, stems, WordNet synonyms; mean over rows",
    )
)
METEOR_EXACT_STEM = register("metrics", "meteor_exact_stem")(
    pair_mean(Pairs(1, compare), kinds=("text",), about="METEOR, NLTK variant without synonyms; needs no data")
)
