"""Answers without a model: the most frequent one, and a random one; what every score has to be compared with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ecglm.errors import EcglmError, nearest
from ecglm.evaluation.answerers.base import Reply, Request
from ecglm.randomness import generator_for

NAMES = ("majority", "random")


@dataclass(frozen=True)
class FixedAnswerer:
    """texts: id of a request → its answer, known beforehand."""

    name: str
    texts: Mapping[str, str]

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        return [Reply(self.texts[r.id]) for r in requests]


def check_name(name: str) -> str:
    """A baseline's name; EcglmError for one that nobody knows."""
    if name not in NAMES:
        raise EcglmError(f"no baseline '{name}'{nearest(name, NAMES)}; known: {', '.join(NAMES)}")
    return name


def majority_answer(answers: Sequence[str]) -> str:
    """The most frequent answer, the first in the alphabet among equals."""
    counts = Counter(answers)
    return min(counts, key=lambda a: (-counts[a], a))


def random_label_set(labels: Sequence[str], seed: int, request_id: str) -> str:
    """Each label by the toss of a fair coin, tossed again where none would be named: ``"A, B"``."""
    generator = generator_for(seed, "random", request_id)
    while True:
        chosen = [label for label, heads in zip(labels, generator.random(len(labels)) < 0.5, strict=True) if heads]
        if chosen:
            return ", ".join(chosen)


def random_choice(options: Sequence[str], seed: int, request_id: str) -> str:
    """One of the options, each as likely as the others."""
    return options[int(generator_for(seed, "random", request_id).integers(len(options)))]
