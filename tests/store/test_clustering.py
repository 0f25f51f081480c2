"""Clusters and the even draw: against closed forms, brute force and known mixtures of many shapes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecglm.store.clustering import (
    GRID,
    connected,
    kmeans,
    knee,
    nearest_centre,
    reduce,
    share_out,
    silhouette,
    stratify,
)

SHAPES = {
    "normal": lambda rng, n: rng.standard_normal((n, 12)),
    "uniform": lambda rng, n: rng.uniform(-1.7, 1.7, (n, 12)),
    "long": lambda rng, n: rng.standard_normal((n, 12)) * ([4] + [1] * 11),
    "skew": lambda rng, n: rng.exponential(1, (n, 12)) - 1,
    "tight": lambda rng, n: 0.1 * rng.standard_normal((n, 12)),
}


def mixture(shape: str, seed: int, apart: float, num: int = 1600) -> tuple[np.ndarray, np.ndarray]:
    """288 features of four kinds, 97/1/1/1 %, and the kind of each row."""
    rng = np.random.default_rng(seed)
    kinds = rng.permutation(np.repeat(np.arange(4), [num - 3 * (num // 100)] + [num // 100] * 3))
    mixing = rng.standard_normal((12, 288))
    features = SHAPES[shape](rng, num) @ mixing + 2 * rng.standard_normal((num, 288))
    centres = 8 * apart * rng.standard_normal((4, 288))
    return features + centres[kinds], kinds


@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in range(1, 6))])
@pytest.mark.parametrize("shape", SHAPES)
def test_d20_rare_kinds_get_their_share_whatever_the_shape_of_the_cloud(shape, seed):
    features, kinds = mixture(shape, seed, apart=1)
    strata = stratify(features, 56, np.random.default_rng(seed))
    shares = np.bincount(kinds[strata.chosen], minlength=4) / len(strata.chosen)
    assert ((shares >= 0.2) & (shares <= 0.3)).all(), (shape, seed, shares, strata.cluster_groups)


@pytest.mark.parametrize("shape", SHAPES)
def test_one_cloud_is_one_group_and_is_drawn_from_evenly_by_cluster(shape):
    features, _ = mixture(shape, 5, apart=0)
    strata = stratify(features, 150, np.random.default_rng(0))
    assert set(strata.cluster_groups) == {0}
    drawn = np.bincount(strata.clusters, minlength=len(strata.cluster_sizes))
    fair = 150 // len(strata.cluster_sizes)
    for count, size in zip(drawn, strata.cluster_sizes, strict=True):
        assert count >= min(size, fair)


def test_a_draw_is_the_same_for_a_seed_without_repeats_and_of_known_clusters():
    features, _ = mixture("normal", 0, apart=1)
    one, two = (stratify(features, 100, np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(one.chosen, two.chosen) and np.array_equal(one.clusters, two.clusters)
    assert len(set(one.chosen.tolist())) == 100 and (np.diff(one.chosen) > 0).all()
    assert one.k in one.inertias and list(one.inertias) == list(GRID)
    assert sum(one.cluster_sizes) == 1600 and min(one.cluster_sizes) >= 3
    assert list(one.cluster_sizes) == sorted(one.cluster_sizes, reverse=True)
    assert not np.array_equal(one.chosen, stratify(features, 100, np.random.default_rng(8)).chosen)


def test_equal_rows_few_rows_and_too_few_rows():
    equal = stratify(np.full((50, 288), 0.3), 20, np.random.default_rng(0))
    assert len(equal.chosen) == 20 and equal.cluster_sizes == (50,) and equal.num_components == 0
    assert equal.silhouette == 0 and equal.k == 1
    for num in (1, 2, 3, 5, 23):
        rows = np.random.default_rng(num).standard_normal((num, 288))
        strata = stratify(rows, 100, np.random.default_rng(0))
        assert strata.chosen.tolist() == list(range(num))
        assert sum(strata.cluster_sizes) == num and min(strata.cluster_sizes) >= min(num, 3)
    two_kinds = np.repeat(np.eye(2, 288), [30, 5], axis=0)  # interquartile ranges of 0
    strata = stratify(two_kinds, 8, np.random.default_rng(0))
    assert np.bincount(strata.groups).tolist() == [4, 4] and strata.cluster_sizes == (30, 5)


def test_reduce_scales_by_the_interquartile_range_clips_and_keeps_95_percent():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((500, 6)) * [1, 1e6, 1e-6, 1, 1, 1] + [0, 5e6, 3, 0, 0, 0]
    features[:, 4] = features[:, 3]
    features[:, 5] = 7.0
    features[0, 0] = 1e9
    low, middle, high = np.percentile(features, [25, 50, 75], axis=0)
    scaled = np.clip((features[:, :5] - middle[:5]) / (high - low)[:5], -10, 10)
    assert scaled.max() == 10
    scaled -= scaled.mean(axis=0)
    _, singular, axes = np.linalg.svd(scaled, full_matrices=False)
    kept = int(np.searchsorted(np.cumsum(singular**2) / (singular**2).sum(), 0.95)) + 1
    found = reduce(features)
    assert found.shape == (500, kept) and found.dtype == np.float32
    np.testing.assert_allclose(np.abs(found), np.abs(scaled @ axes[:kept].T), atol=2e-4)
    assert reduce(np.random.default_rng(1).standard_normal((400, 288))).shape[1] == 64


def test_knee_is_where_the_curve_is_farthest_below_its_chord():
    grid = [4, 8, 16, 32, 64, 128]
    assert knee(grid, [100, 100, 10, 9, 8, 7]) == 16
    assert knee(grid, [100, 20, 19, 18, 17, 16]) == 8
    hyperbola = [1 / k for k in range(1, 101)]  # (k - 1) / 99 + (100 / k - 1) / 99 is least where k = sqrt(100)
    assert knee(range(1, 101), hyperbola) == 10
    assert knee(grid, [5, 5, 5, 5, 5, 5]) == knee(grid, [0] * 6) == knee([4, 6], [9, 1]) == 4


def test_kmeans_finds_separate_clouds_and_its_inertia_is_the_mean_squared_distance():
    rng = np.random.default_rng(0)
    truth = np.array([[0, 0], [10, 0], [0, 10], [10, 10], [30, 30]], np.float32)
    kinds = rng.integers(0, 5, 3000)
    points = (truth[kinds] + 0.1 * rng.standard_normal((3000, 2))).astype(np.float32)
    centres, inertia = kmeans(points, 5, np.random.default_rng(1))
    assert np.linalg.norm(centres[:, None] - truth, axis=2).min(axis=0).max() < 0.05
    exact = np.square(points[:, None].astype(float) - centres).sum(axis=2)
    assert inertia == pytest.approx(exact.min(axis=1).mean(), rel=1e-4)
    labels, distance = nearest_centre(points, centres)
    assert np.array_equal(labels, exact.argmin(axis=1))
    np.testing.assert_allclose(distance, exact.min(axis=1), atol=1e-4)
    assert len(kmeans(np.repeat(truth[:2], 9, axis=0), 5, rng)[0]) == 2  # fewer different points than centres


def test_connected_joins_pieces_of_a_ring_and_keeps_a_far_cloud_apart():
    rng = np.random.default_rng(0)
    angles = rng.uniform(0, 2 * np.pi, 3000)
    ring = 5 * np.stack([np.cos(angles), np.sin(angles)], axis=1) + 0.3 * rng.standard_normal((3000, 2))
    far = [0, 25] + 0.3 * rng.standard_normal((40, 2))
    points = np.concatenate([ring, far]).astype(np.float32)
    pieces = np.concatenate([(angles / (2 * np.pi) * 9).astype(int), np.full(40, 9)])
    groups = connected(points, pieces)
    assert len(set(groups[:9].tolist())) == 1 and groups[9] != groups[0]
    assert connected(points[:3000], pieces[:3000]).tolist() == [0] * 9


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(0, 200), st.integers(0, 2**32 - 1))
def test_share_out_is_even_as_far_as_stocks_reach(sizes, n, seed):
    stocks = np.array(sizes)
    counts = share_out(stocks, n, np.random.default_rng(seed))
    assert counts.sum() == min(n, stocks.sum()) and (counts >= 0).all() and (counts <= stocks).all()
    full = counts == stocks
    if not full.all():  # nobody who could give more gives less than another, but for the odd one
        assert counts[~full].max() - counts[~full].min() <= 1
        assert counts[full].max(initial=0) <= counts[~full].min() + 1
        assert counts[~full].min() >= min(n // len(sizes), stocks[~full].min())


def test_silhouette_is_rousseeuws():
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.standard_normal((20, 3)), rng.standard_normal((15, 3)) + 3, [[9, 9, 9]]])
    labels = np.repeat([4, 1, 7], [20, 15, 1])
    values = []
    for i in range(36):
        away = np.linalg.norm(points - points[i], axis=1)
        same = (labels == labels[i]) & (np.arange(36) != i)
        if not same.any():
            values.append(0.0)
            continue
        a, b = away[same].mean(), min(away[labels == other].mean() for other in {4, 1, 7} - {labels[i]})
        values.append((b - a) / max(a, b))
    assert silhouette(points.astype(np.float64), labels) == pytest.approx(np.mean(values), rel=1e-9)
    assert silhouette(points, np.zeros(36, int)) == 0
