"""Groups of similar feature vectors and an even draw from them: what stratified sampling is made of. Numpy alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Numbers of clusters that are tried; the knee of their inertias is taken.
GRID: tuple[int, ...] = (4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128)
MIN_CLUSTER = 3
CLIP = 10.0
VARIANCE, MAX_COMPONENTS = 0.95, 64
#: Points that k-means is fitted on, and that the silhouette is measured on (it is quadratic).
FIT_POINTS, SILHOUETTE_POINTS = 8192, 1024
_BATCH, _BATCHES, _RESTARTS, _PASSES = 1024, 30, 3, 3
#: Gaps between clusters, in standard deviations of both (added, along the line through their centres). Pieces that
#: k-means cuts a cloud into are some ``CONTINUOUS`` apart, whatever its shape; from ``SEPARATE`` on groups may begin.
CONTINUOUS, SEPARATE = 1.75, 3.0
#: Members with the average shape of a cluster that each cluster's own shape is mixed with: three points have none.
_PRIOR_MEMBERS = 10.0
_ROWS = 16384


@dataclass(frozen=True)
class Strata:
    """An even draw from the clusters of some feature vectors.

    chosen: int64, ascending rows of the features. clusters, groups: int64, the cluster and the group of each chosen
    row. cluster_sizes: members of each cluster, largest first; cluster_groups: the group each belongs to. k: what the
    knee said; inertias: of every number of clusters tried. silhouette: mean over a subsample, of the clusters.
    num_components: of the reduced features.
    """

    chosen: np.ndarray
    clusters: np.ndarray
    groups: np.ndarray
    cluster_sizes: tuple[int, ...]
    cluster_groups: tuple[int, ...]
    k: int
    inertias: dict[int, float]
    silhouette: float
    num_components: int


def stratify(features: np.ndarray, n: int, rng: np.random.Generator) -> Strata:
    """Draw ``n`` rows of ``(num_rows, num_features)`` evenly from what is alike among them; all rows where too few.

    Features are scaled by median and interquartile range, clipped at ±10 and reduced to the principal components that
    keep 95 % of the variance (at most 64). Mini-batch k-means (Sculley 2010) on a subsample gives the inertia for
    every number of clusters of ``GRID``; the one at the knee is used for all rows. Clusters below three members join
    their neighbours. Clusters without a wide gap between them form one group (``connected``): a frequent morphology
    that k-means cut in pieces counts once. ``n`` is shared evenly among groups, then among the clusters of a group;
    what small ones cannot give goes to the others. Linear in the number of rows; the same rows and generator state
    give the same draw.
    """
    points = reduce(features)
    fit = points if len(points) <= FIT_POINTS else points[np.sort(rng.permutation(len(points))[:FIT_POINTS])]
    grid = [k for k in GRID if MIN_CLUSTER * k <= len(fit)] or [max(1, len(fit) // MIN_CLUSTER)]
    if not points.shape[1]:
        grid = [1]
    fits = {k: kmeans(fit, k, rng) for k in grid}
    k = knee(grid, [fits[k][1] for k in grid])
    labels = _merged_small(points, fits[k][0])
    groups = connected(points, labels)
    chosen = _draw(labels, groups, n, rng)
    sizes = np.bincount(labels)
    return Strata(
        chosen=chosen,
        clusters=labels[chosen],
        groups=groups[labels[chosen]],
        cluster_sizes=tuple(sizes.tolist()),
        cluster_groups=tuple(groups.tolist()),
        k=k,
        inertias={k: float(inertia) for k, (_, inertia) in fits.items()},
        silhouette=_silhouette_of_some(points, labels, rng),
        num_components=points.shape[1],
    )


def reduce(features: np.ndarray) -> np.ndarray:
    """Robust scaling, clipping, principal components: float32 ``(num_rows, num_components)``; no component where every
    row is the same."""
    scaled = np.empty(features.shape, np.float32)
    for column in range(features.shape[1]):
        values = features[:, column].astype(np.float64)
        low, middle, high = np.percentile(values, (25, 50, 75))
        tiny = 1e-9 * max(1.0, float(np.abs(values).max(initial=0.0)))  # what is left of a constant by rounding
        spread = next((s for s in (high - low, values.std()) if s > tiny), np.inf)
        scaled[:, column] = np.clip((values - middle) / spread, -CLIP, CLIP)
    scaled -= scaled.mean(axis=0, dtype=np.float64).astype(np.float32)
    products = np.zeros((features.shape[1],) * 2)
    for start in range(0, len(scaled), _ROWS):
        part = scaled[start : start + _ROWS].astype(np.float64)
        products += part.T @ part
    variances, axes = np.linalg.eigh(products / max(len(scaled), 1))
    variances, axes = np.maximum(variances[::-1], 0), axes[:, ::-1]
    if variances.sum() < 1e-9:
        return np.zeros((len(scaled), 0), np.float32)
    needed = int(np.searchsorted(np.cumsum(variances) / variances.sum(), VARIANCE)) + 1
    components: np.ndarray = scaled @ axes[:, : min(needed, MAX_COMPONENTS)].astype(np.float32)
    return components


def kmeans(points: np.ndarray, k: int, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Centres ``(at most k, num_components)`` and mean squared distance to them, the best of some starts.

    k-means++ chooses where to start, mini-batches move the centres, some passes over all points settle them.
    """
    best: tuple[np.ndarray, float] | None = None
    for _ in range(_RESTARTS):
        centres = _spread_out(points, k, rng)
        counts = np.zeros(len(centres))
        for _ in range(_BATCHES if len(points) > _BATCH else 0):
            batch = points[rng.integers(0, len(points), _BATCH)]
            _move(centres, counts, batch, nearest_centre(batch, centres)[0])
        for _ in range(_PASSES if len(points) > _BATCH else _BATCHES):
            labels, _ = nearest_centre(points, centres)
            _move(centres, np.zeros(len(centres)), points, labels)
        inertia = float(nearest_centre(points, centres)[1].mean(dtype=np.float64))
        if best is None or inertia < best[1]:
            best = centres, inertia
    assert best is not None
    return best


def _spread_out(points: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """k-means++: each further centre is drawn with odds of its squared distance to those before."""
    chosen = [int(rng.integers(len(points)))]
    distance = nearest_centre(points, points[chosen])[1]
    while len(chosen) < k:
        total = np.cumsum(distance, dtype=np.float64)
        if not total[-1] > 0:  # fewer different points than centres
            break
        chosen.append(min(int(np.searchsorted(total, rng.random() * total[-1], side="right")), len(points) - 1))
        distance = np.minimum(distance, nearest_centre(points, points[chosen[-1:]])[1])
    return points[chosen].copy()


def _move(centres: np.ndarray, counts: np.ndarray, batch: np.ndarray, labels: np.ndarray) -> None:
    """Draw each centre to the mean of its members, those it had before (``counts``) and those of the batch."""
    new = np.bincount(labels, minlength=len(centres)).astype(np.float64)
    sums = np.eye(len(centres), dtype=np.float32)[labels].T @ batch
    counts += new
    met = new > 0
    centres[met] += ((sums[met] - new[met, None] * centres[met]) / counts[met, None]).astype(np.float32)


def nearest_centre(points: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the nearest centre of each point (int64; the first of equal ones), and the squared distance."""
    labels, distances = np.empty(len(points), np.int64), np.empty(len(points), np.float32)
    norms = np.square(centres).sum(axis=1)
    for start in range(0, len(points), _ROWS):
        part = points[start : start + _ROWS]
        labels[start : start + _ROWS] = (norms - 2 * (part @ centres.T)).argmin(axis=1)
        off = part - centres[labels[start : start + _ROWS]]
        distances[start : start + _ROWS] = np.square(off).sum(axis=1)
    return labels, distances


def knee(grid: Sequence[int], inertias: Sequence[float]) -> int:
    """The number of clusters where the curve lies farthest below the line through its ends, both axes scaled to 1."""
    k, curve = np.asarray(grid, np.float64), np.minimum.accumulate(np.asarray(inertias, np.float64))
    if len(k) < 3 or curve[0] <= curve[-1]:
        return int(grid[0])
    below = 1 - (k - k[0]) / (k[-1] - k[0]) - (curve - curve[-1]) / (curve[0] - curve[-1])
    return int(grid[int(below.argmax())])


def _merged_small(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The cluster of every point, 0 the largest; none below ``MIN_CLUSTER`` unless there are fewer points."""
    labels, _ = nearest_centre(points, centres)
    sizes = np.bincount(labels, minlength=len(centres))
    large = np.flatnonzero(sizes >= MIN_CLUSTER)
    if not len(large):
        return np.zeros(len(points), np.int64)
    lost = sizes[labels] < MIN_CLUSTER
    labels[lost] = large[nearest_centre(points[lost], centres[large])[0]]
    _, first, named, sizes = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(sizes), np.int64)
    rank[np.lexsort((first, -sizes))] = np.arange(len(sizes))
    ranked: np.ndarray = rank[named.reshape(-1)]
    return ranked


def connected(points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The group (0, 1, …) of each cluster: clusters that a chain of near neighbours joins.

    Joining the nearest first, the gaps that are bridged grow; what near is ends at their largest relative growth, if
    that leads to a gap of three standard deviations or more. Otherwise all clusters are one group.
    """
    gaps = _gaps(points, labels)
    one, other = np.triu_indices(len(gaps), 1)
    order = np.argsort(gaps[one, other], kind="stable")
    group = np.arange(len(gaps))
    bridged: list[float] = []
    joined: list[tuple[int, int]] = []
    for a, b in zip(one[order].tolist(), other[order].tolist(), strict=True):
        if group[a] != group[b]:
            bridged.append(max(float(gaps[a, b]), CONTINUOUS))
            joined.append((a, b))
            group[group == group[b]] = group[a]
    growth = np.array(bridged) / np.array([CONTINUOUS, *bridged[:-1]])
    growth[np.array(bridged) < SEPARATE] = 0
    near = int(growth.argmax()) if growth.any() else len(joined)
    group = np.arange(len(gaps))
    for a, b in joined[:near]:
        group[group == group[b]] = group[a]
    _, first, named = np.unique(group, return_index=True, return_inverse=True)
    result: np.ndarray = np.argsort(np.argsort(first))[named.reshape(-1)]
    return result


def _gaps(points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Distance of the centres of any two clusters in the sum of their standard deviations along it, ``(k, k)``."""
    num, width = int(labels.max()) + 1, points.shape[1]
    sizes = np.bincount(labels, minlength=num)
    means, shapes = np.zeros((num, width)), np.zeros((num, width, width))
    for cluster in range(num):
        members = points[labels == cluster].astype(np.float64)
        means[cluster] = members.mean(axis=0)
        shapes[cluster] = (members - means[cluster]).T @ (members - means[cluster])
    # by how much few members move a centre: without it the halves of a small cluster seem far apart
    chance = np.trace(shapes, axis1=1, axis2=2) / np.maximum(sizes - 1, 1) / sizes
    average = shapes.sum(axis=0) / sizes.sum()
    shapes = (shapes + _PRIOR_MEMBERS * average) / (sizes + _PRIOR_MEMBERS)[:, None, None]
    gaps = np.zeros((num, num))
    for one in range(num):
        lines = means - means[one]
        lengths = np.linalg.norm(lines, axis=1)
        lines /= np.maximum(lengths, 1e-12)[:, None]
        own = np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", lines, shapes[one], lines, optimize=True), 0))
        theirs = np.sqrt(np.maximum(np.einsum("ij,ijk,ik->i", lines, shapes, lines, optimize=True), 0))
        apart = np.sqrt(np.maximum(lengths**2 - chance[one] - chance, 0))
        gaps[one] = apart / np.maximum(own + theirs, 1e-6 * (apart + 1e-12))
    return gaps


def share_out(sizes: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """How many of ``n`` each of several stocks gives: equal counts, as far as stocks reach; odd ones at random."""
    counts = np.zeros(len(sizes), np.int64)
    left = min(n, int(sizes.sum()))
    while left:
        able = np.flatnonzero(counts < sizes)
        if left < len(able):
            counts[np.sort(rng.permutation(able)[:left])] += 1
            break
        counts[able] = np.minimum(sizes[able], counts[able] + left // len(able))
        left = min(n, int(sizes.sum())) - int(counts.sum())
    return counts


def _draw(labels: np.ndarray, groups: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Rows, ascending: evenly from groups, then from the clusters of each."""
    sizes = np.bincount(labels, minlength=len(groups))
    of_groups = share_out(np.bincount(groups, weights=sizes).astype(np.int64), n, rng)
    chosen: list[np.ndarray] = []
    for group, count in enumerate(of_groups):
        clusters = np.flatnonzero(groups == group)
        for cluster, give in zip(clusters, share_out(sizes[clusters], int(count), rng), strict=True):
            chosen.append(rng.permutation(np.flatnonzero(labels == cluster))[:give])
    return np.sort(np.concatenate(chosen))


def _silhouette_of_some(points: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> float:
    some = np.sort(rng.permutation(len(points))[:SILHOUETTE_POINTS])
    return silhouette(points[some], labels[some])


def silhouette(points: np.ndarray, labels: np.ndarray) -> float:
    """Mean silhouette (Rousseeuw 1987); a point alone in its cluster counts 0, and so does a single cluster."""
    names, named, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    if len(names) < 2:
        return 0.0
    x = points.astype(np.float64)
    norms = np.square(x).sum(axis=1)
    distances = np.sqrt(np.maximum(norms[:, None] + norms - 2 * (x @ x.T), 0))
    np.fill_diagonal(distances, 0)
    member = np.eye(len(names))[named.reshape(-1)]
    sums = distances @ member
    own = sizes[named.reshape(-1)]
    inside = (sums * member).sum(axis=1) / np.maximum(own - 1, 1)
    outside = np.where(member > 0, np.inf, sums / sizes).min(axis=1)
    larger = np.maximum(inside, outside)
    values = np.divide(outside - inside, larger, out=np.zeros(len(x)), where=larger > 0)
    return float(np.where(own > 1, values, 0).mean())
