"""Exact search, against a naive loop in double precision."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecglm.retrieval.nearest import exact_search, squared_norms

NONE = np.empty(0, np.int64)


def naive(vectors, query, k, excluded, groups=None):
    """Every distance by itself; ties to the lower row; a group once."""
    told = []
    for row, vector in enumerate(vectors.tolist()):
        if row not in set(excluded.tolist()):
            told.append((math.sqrt(math.fsum((a - b) ** 2 for a, b in zip(vector, query.tolist(), strict=True))), row))
    kept, seen = [], set()
    for distance, row in sorted(told):
        group = row if groups is None else int(groups[row])
        if group not in seen:
            seen.add(group)
            kept.append((distance, row))
    return kept[:k]


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_search_is_the_naive_loop(data):
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    num, dim, k = (data.draw(st.integers(*span)) for span in ((0, 40), (1, 12), (1, 50)))
    levels = data.draw(st.sampled_from([2, 5, 1000]))  # few levels: many ties and copies
    offset = data.draw(st.sampled_from([0.0, 3.0, 1e3]))  # norms far larger than the differences
    vectors = (rng.integers(0, levels, (num, dim)) / levels + offset).astype(np.float32)
    queries = (rng.integers(0, levels, (3, dim)) / levels + offset).astype(np.float32)
    excluded = [np.flatnonzero(rng.random(num) < share) for share in (0.0, 0.5, 1.0)]
    groups = rng.integers(0, 6, num) if data.draw(st.booleans()) else None
    found = exact_search(vectors, queries, k, excluded, groups)
    for query, one, (distances, rows) in zip(queries, excluded, found, strict=True):
        expected = naive(vectors, query, k, one, groups)
        assert rows.tolist() == [row for _, row in expected]
        np.testing.assert_allclose(distances, [d for d, _ in expected], rtol=1e-12, atol=1e-12)


def test_a_cancelled_product_does_not_decide():
    """At norms of 1e6 a float32 product is wrong by more than the neighbours differ."""
    steps = np.arange(50, dtype=np.float32) * 0.125
    vectors = np.full((50, 4), 4096.0, np.float32)
    vectors[:, 2] += np.random.default_rng(0).permutation(steps)
    query = np.full((1, 4), 4096.0, np.float32)
    distances, rows = exact_search(vectors, query, 5, [NONE])[0]
    assert distances.tolist() == [0.0, 0.125, 0.25, 0.375, 0.5]
    assert (vectors[rows, 2] - 4096).tolist() == distances.tolist()


def test_equal_distances_have_a_fixed_order():
    vectors = np.ones((30, 3), np.float32)
    for _, rows in exact_search(vectors, np.zeros((2, 3), np.float32), 4, [NONE, np.array([0, 2])]):
        assert len(rows) == 4
    assert exact_search(vectors, np.zeros((1, 3), np.float32), 4, [np.array([0, 2])])[0][1].tolist() == [1, 3, 4, 5]


def test_blocks_give_what_one_block_gives(monkeypatch):
    rng = np.random.default_rng(1)
    vectors, queries = rng.standard_normal((300, 8), np.float32), rng.standard_normal((40, 8), np.float32)
    whole = exact_search(vectors, queries, 7, [NONE] * 40)
    monkeypatch.setattr("ecglm.retrieval.nearest._BLOCK", 600)
    parts = exact_search(vectors, queries, 7, [NONE] * 40, norms=squared_norms(vectors))
    for (d1, r1), (d2, r2) in zip(whole, parts, strict=True):
        assert d1.tobytes() == d2.tobytes() and r1.tolist() == r2.tolist()


@pytest.mark.parametrize("num", [0, 1, 3])
def test_fewer_vectors_than_k_give_fewer_hits(num):
    assert len(exact_search(np.ones((num, 2), np.float32), np.ones((1, 2), np.float32), 10, [NONE])[0][1]) == num


@pytest.mark.parametrize("share", [0.0, 0.5, 0.995])
def test_many_vectors_are_searched_as_few_are(share):
    """Long rows are looked through by stretches; excluded ones may leave a stretch empty."""
    rng = np.random.default_rng(4)
    vectors = (rng.integers(0, 4, (5000, 6)) / 4).astype(np.float32)  # many ties
    excluded = np.flatnonzero(rng.random(5000) < share)
    for k in (1, 10, 200):
        expected = [row for _, row in naive(vectors, vectors[7], k, excluded)]
        assert exact_search(vectors, vectors[7:8], k, [excluded])[0][1].tolist() == expected
