"""ROUGE-L: F1 of the longest common subsequence of stemmed words, mean over rows."""

from __future__ import annotations

from functools import cache, lru_cache

from rouge_score import rouge_scorer

from ecglm.evaluation.metrics.base import Row, answer_text, row_mean
from ecglm.registry import register


@cache
def _scorer() -> rouge_scorer.RougeScorer:
    return rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)


@register("metrics", "rougeL")
@row_mean(kinds=("text",))
def rouge_l(row: Row) -> float:
    """F1 on lower-cased alphanumeric tokens with Porter stemming; 0 for an empty answer."""
    return _f1(str(row["reference"]), answer_text(row))


@lru_cache(maxsize=1 << 16)  # a task is measured several times, and short reports repeat
def _f1(reference: str, answer: str) -> float:
    return float(_scorer().score(reference, answer)["rougeL"].fmeasure)
