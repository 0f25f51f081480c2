"""Exact nearest neighbours: one matrix product finds the candidates, differences in double precision decide."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: Elements of a block of products: what a search takes of memory beside the vectors.
_BLOCK = 1 << 22
#: Rounding of a float32 product of d terms, relative to the norms: at most d times this, twice over.
_ROUNDING = 4 * 2.0**-24

#: What a search gives for one query: distances float64, ascending, and their rows int64; of equal distances the lower
#: row first.
Hits = tuple[np.ndarray, np.ndarray]


def squared_norms(vectors: np.ndarray) -> np.ndarray:
    """Squared Euclidean norms of the rows of ``(n, d)``, float32."""
    return np.einsum("ij,ij->i", vectors, vectors).astype(np.float32)


def exact_search(
    vectors: np.ndarray,
    queries: np.ndarray,
    k: int,
    excluded: Sequence[np.ndarray],
    groups: np.ndarray | None = None,
    norms: np.ndarray | None = None,
) -> list[Hits]:
    """The k rows of ``vectors`` nearest to each query, fewer where fewer are left.

    vectors: float32 ``(n, d)``. queries: float32 ``(m, d)``. excluded: for each query the rows that it must not find.
    groups: int64 ``(n,)``; of each group the nearest row alone counts. norms: ``squared_norms(vectors)`` where the
    caller has them. The result does not depend on how the product was rounded: every row that may belong to the k
    nearest is measured again, in double precision.
    """
    norms = squared_norms(vectors) if norms is None else norms
    step = max(1, _BLOCK // max(1, len(vectors)))
    roots = np.sqrt(norms)
    found: list[Hits] = []
    for start in range(0, len(queries), step):
        block = queries[start : start + step]
        sizes = squared_norms(block)
        with np.errstate(over="ignore", invalid="ignore"):
            near = norms[None, :] - 2.0 * (block @ vectors.T)
            near += sizes[:, None]
        for line, query in enumerate(block):
            slack = _ROUNDING * vectors.shape[1] * np.square(roots + np.sqrt(sizes[line]))
            near[line, excluded[start + line]] = np.inf
            found.append(_decided(vectors, query, near[line], slack, k, groups))
    return found


def _decided(
    vectors: np.ndarray, query: np.ndarray, near: np.ndarray, slack: np.ndarray, k: int, groups: np.ndarray | None
) -> Hits:
    """The k nearest of one query. near: squared distances ``(n,)``, infinite where excluded, right up to ``slack``."""
    left = int(np.isfinite(near).sum())
    wanted = min(k, left)
    if wanted <= 0:
        return np.empty(0), np.empty(0, np.int64)
    while True:
        if wanted < left:
            most = _bound(near + slack, wanted)
            rows = np.flatnonzero(near - slack <= most)
        else:
            rows = np.flatnonzero(np.isfinite(near))
        hits = ordered(vectors, query, rows, k, groups)
        if len(hits[1]) >= k or wanted >= left:
            return hits
        wanted = min(left, 4 * wanted)  # several rows of a group among them: look further


def _bound(values: np.ndarray, k: int) -> float:
    """A value that at least k of ``values`` do not exceed: the k-th smallest of the least of each of many stretches,
    which is seldom far above the k-th smallest of all, and found sooner.
    """
    parts = max(256, 8 * k)
    if len(values) > 4 * parts:
        least = np.minimum.reduceat(values, np.arange(parts) * len(values) // parts)
        bound = float(np.partition(least, k - 1)[k - 1])
        if np.isfinite(bound):
            return bound
    return float(np.partition(values, k - 1)[k - 1])


def ordered(vectors: np.ndarray, query: np.ndarray, rows: np.ndarray, k: int, groups: np.ndarray | None = None) -> Hits:
    """At most k of ``rows`` by distance, then by row, each group once: measured in double precision."""
    differences = vectors[rows].astype(np.float64) - query.astype(np.float64)
    distances = np.sqrt((differences**2).sum(axis=1))
    order = np.lexsort((rows, distances))
    if groups is not None:
        _, first = np.unique(groups[rows[order]], return_index=True)
        order = order[np.sort(first)]
    order = order[:k]
    return distances[order], rows[order].astype(np.int64)
