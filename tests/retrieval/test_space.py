"""What a distance means: standard deviations, each part alike."""

from __future__ import annotations

import numpy as np

from ecglm.retrieval.space import Space


def test_two_members_are_the_square_root_of_two_apart_whatever_the_parts_measure():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((4000, 6)) * [1, 1e3, 1e-3, 5, 5, 5] + 100
    embedding = rng.standard_normal((4000, 40)) * 7
    parts = [features.astype(np.float32), embedding.astype(np.float32)]
    space = Space.fit(parts)
    vectors = space.vectors(np.concatenate(parts, axis=1)).astype(np.float64)
    assert np.isclose((vectors**2).sum(axis=1).mean(), 1.0, atol=1e-5)
    assert np.isclose(((vectors[::2] - vectors[1::2]) ** 2).sum(axis=1).mean(), 2.0, rtol=0.05)
    # each part counts half, each number of a part alike
    assert np.isclose((vectors[:, :6] ** 2).sum(axis=1).mean(), 0.5, atol=1e-5)
    np.testing.assert_allclose((vectors**2).mean(axis=0)[:6], 0.5 / 6, rtol=1e-4)


def test_what_never_varies_tells_nothing():
    raw = np.array([[1.0, 5.0, 0.1], [3.0, 5.0, 0.1]], np.float32)
    space = Space.fit([raw])
    assert space.factor.tolist()[1:] == [0.0, 0.0]
    np.testing.assert_allclose(space.vectors(raw), [[-1, 0, 0], [1, 0, 0]])
    assert space.vectors(np.array([[2.0, 99.0, 7.0]], np.float32)).tolist() == [[0.0, 0.0, 0.0]]


def test_one_member_alone():
    space = Space.fit([np.array([[4.0, 2.0]], np.float32)])
    assert space.vectors(np.array([[4.0, 3.0]], np.float32)).tolist() == [[0.0, 0.0]]
    assert space.raw(np.zeros((1, 2), np.float32), 2).tolist() == [[4.0, 2.0]]


def test_raw_numbers_come_back():
    raw = (np.random.default_rng(3).standard_normal((50, 9)) * 200).astype(np.float32)
    space = Space.fit([raw[:, :5], raw[:, 5:]])
    vectors = space.vectors(raw)
    np.testing.assert_allclose(space.raw(vectors, 5), raw[:, :5], rtol=1e-5, atol=1e-4)
