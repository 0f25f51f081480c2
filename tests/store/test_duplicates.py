"""Near duplicates: found whatever small thing was done to them, and only those."""

from __future__ import annotations

import numpy as np
import pytest

from ecglm.store.duplicates import correlation, duplicates_across


class Arrays:
    """What the search asks of a store, over arrays in memory: record n is segment n."""

    def __init__(self, segments: np.ndarray) -> None:
        self.segments = segments.astype(np.float32)

    def segments_of(self, record_id: str) -> list[int]:
        return [int(record_id)]

    def take(self, indices) -> np.ndarray:
        return self.segments[list(indices)]

    def __getitem__(self, i: int) -> np.ndarray:
        return self.segments[i]


def beats(num: int, length: int = 500) -> np.ndarray:
    """(num, 12, length): twelve leads of spikes at a rate and phase of their own, different for each."""
    rng = np.random.default_rng(5)
    time = np.arange(length) / 100
    out = np.empty((num, 12, length))
    for n in range(num):
        at = np.arange(rng.uniform(0, 1), length / 100, rng.uniform(0.5, 1.2))
        wave = np.exp(-(((time[:, None] - at) / 0.03) ** 2)).sum(1) - 0.3 * np.exp(
            -(((time[:, None] - at - 0.3) / 0.1) ** 2)
        ).sum(1)
        out[n] = rng.uniform(-1.5, 1.5, (12, 1)) * wave + rng.normal(0, 0.01, (12, length))
    return out


def found(segments: np.ndarray, splits: list[list[str]]) -> dict[frozenset[str], float]:
    store = Arrays(segments)
    names = [str(n) for n in range(len(segments))]
    pairs = duplicates_across(dict.fromkeys(names, store), dict(zip(names, splits, strict=True)), batch=7)
    return {frozenset((pair.record, pair.other)): pair.correlation for pair in pairs}


def test_correlation_is_pearson_over_all_leads():
    one, other = np.random.default_rng(0).standard_normal((2, 12, 40))
    one -= one.mean(axis=1, keepdims=True)
    other -= other.mean(axis=1, keepdims=True)
    assert correlation(one + 3, other - 1) == pytest.approx(np.corrcoef(one.ravel(), other.ravel())[0, 1])
    assert correlation(np.ones((12, 40)), one) == 0.0


@pytest.mark.parametrize(
    ("change", "identical"),
    [
        (lambda x, rng: x, True),
        (lambda x, rng: x + rng.normal(0, 0.005, x.shape), False),
        (lambda x, rng: 1.1 * x, False),
        (lambda x, rng: np.round(x, 2), False),
        (lambda x, rng: x + 0.4, False),
    ],
)
def test_planted_copies_are_found_and_nothing_else(change, identical):
    segments = beats(60)
    rng = np.random.default_rng(1)
    for copy, original in ((50, 3), (51, 17), (52, 29)):
        segments[copy] = change(segments[original], rng)
    hits = found(segments, [["train"]] * 50 + [["test"]] * 10)
    assert set(hits) == {frozenset(p) for p in (("50", "3"), ("51", "17"), ("52", "29"))}
    assert all((value == 1.0) == identical for value in hits.values())


def test_copies_within_a_split_are_nobodys_leak():
    segments = beats(6)
    segments[1] = segments[0]
    assert found(segments, [["train"]] * 3 + [["test"]] * 3) == {}


def test_a_record_is_no_duplicate_of_itself_and_flat_ones_are_passed_over():
    segments = beats(4)
    segments[2] = segments[3] = 0.25
    assert found(segments, [["test", "train"], ["train"], ["train"], ["test"]]) == {}


def test_time_grows_with_the_number_of_segments_not_its_square():
    """Crowded buckets: hundreds of copies of one signal are compared with a few each, not with all."""
    segments = np.repeat(beats(1), 400, axis=0) + np.random.default_rng(0).normal(0, 1e-3, (400, 12, 500))
    compared = 0

    class Counting(Arrays):
        def __getitem__(self, i: int) -> np.ndarray:
            nonlocal compared
            compared += 1
            return super().__getitem__(i)

    store = Counting(segments)
    names = [str(n) for n in range(400)]
    splits = {name: ["train" if int(name) % 2 else "test"] for name in names}
    assert len(list(duplicates_across(dict.fromkeys(names, store), splits))) >= 399 // 2
    assert compared <= 400 * 8 * 4
