"""Approximate search of many vectors: faiss' inverted lists choose candidates, which are then measured exactly."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ecglm.errors import EcglmError, TornOutputError
from ecglm.randomness import generator_for
from ecglm.retrieval.nearest import Hits, exact_search, ordered

#: From so many vectors on an index is approximate, unless it is told otherwise.
MANY = 100_000
#: Recall among the ten nearest that lists are opened for, and how many members are asked to measure it.
_RECALL, _ASKED, _TEN = 0.98, 256, 10
#: Vectors per list that the centres are learned from, and rounds of it.
_PER_LIST, _ROUNDS = 40, 8
#: Candidates measured exactly for each neighbour wanted: lists hold half precision.
_SPARE = 3


def load_faiss() -> Any:
    """The library; EcglmError with the mend where it is not installed."""
    try:
        import faiss
    except ImportError as error:
        raise EcglmError(
            "approximate search needs faiss; pip install 'ecglm[rag]', or search exactly (--search exact)"
        ) from error
    return faiss


@dataclass
class Approximate:
    """Inverted lists in half precision (IVF) over ``vectors``; num_probes: lists opened for a query."""

    lists: Any
    vectors: np.ndarray
    num_probes: int

    @classmethod
    def build(cls, vectors: np.ndarray, seed: int = 0) -> tuple[Approximate, dict[str, Any]]:
        """Lists over float32 ``(n, d)``, and facts: num_lists, num_probes, and the recall@10 that was measured on
        members asked for their own neighbours. As many lists are opened as 0.98 takes.
        """
        faiss = load_faiss()
        num, dim = vectors.shape
        num_lists = max(1, min(int(4 * np.sqrt(num)), num // 8))
        quantizer = faiss.IndexFlatL2(dim)
        lists = faiss.IndexIVFScalarQuantizer(quantizer, dim, num_lists, faiss.ScalarQuantizer.QT_fp16)
        lists.own_fields = True
        quantizer.this.disown()
        lists.cp.niter, lists.cp.seed = _ROUNDS, seed + 1
        lists.cp.max_points_per_centroid = _PER_LIST
        lists.cp.min_points_per_centroid = 1
        draw = generator_for(seed, "index")
        chosen = np.sort(draw.permutation(num)[: _PER_LIST * num_lists])
        lists.train(vectors[chosen])
        lists.add(vectors)
        made = cls(lists, vectors, 1)
        asked = np.sort(draw.permutation(num)[:_ASKED])
        recall = made._tune(asked, num_lists)
        return made, {"num_lists": num_lists, "num_probes": made.num_probes, "recall_at_10": round(recall, 4)}

    def _tune(self, asked: np.ndarray, num_lists: int) -> float:
        """Open twice as many lists until the recall is reached, or all are open."""
        queries, banned = self.vectors[asked], [np.array([row]) for row in asked]
        truth = [set(rows.tolist()) for _, rows in exact_search(self.vectors, queries, _TEN, banned)]
        while True:
            found = self.search(queries, _TEN, banned)
            hit = sum(len(t & set(rows.tolist())) for t, (_, rows) in zip(truth, found, strict=True))
            recall = hit / max(1, sum(map(len, truth)))
            if recall >= _RECALL or self.num_probes >= num_lists:
                return recall
            self.num_probes = min(num_lists, 2 * self.num_probes)

    @classmethod
    def read(cls, file: Path, vectors: np.ndarray, facts: dict[str, Any]) -> Approximate:
        """From the file of ``write``, whose bytes were compared with the manifest's sha256 before. TornOutputError
        where it is not over these vectors.
        """
        faiss = load_faiss()
        try:
            lists = faiss.read_index(os.fspath(file))
        except RuntimeError as error:
            raise TornOutputError(f"{file}: cannot be read by faiss; build the index again") from error
        fits = isinstance(lists, faiss.IndexIVFScalarQuantizer) and (lists.ntotal, lists.d) == vectors.shape
        if not fits:
            raise TornOutputError(f"{file}: is not over the {len(vectors)} vectors of its index; build it again")
        return cls(lists, vectors, int(facts["num_probes"]))

    def write(self, file: Path) -> None:
        """The lists in faiss' own format."""
        load_faiss().write_index(self.lists, os.fspath(file))

    def search(
        self,
        queries: np.ndarray,
        k: int,
        excluded: Sequence[np.ndarray],
        groups: np.ndarray | None = None,
        norms: np.ndarray | None = None,
    ) -> list[Hits]:
        """As ``exact_search``. A query whose open lists hold too few that it may find is searched exactly."""
        faiss = load_faiss()
        found: list[Hits] = []
        most = max((len(rows) for rows in excluded), default=0)
        wanted = min(len(self.vectors), _SPARE * k * (1 if groups is None else 2) + most)
        options = faiss.SearchParametersIVF(nprobe=self.num_probes)
        _, rows = self.lists.search(np.ascontiguousarray(queries, np.float32), wanted, params=options)
        for line, query in enumerate(queries):
            candidates = np.setdiff1d(rows[line][rows[line] >= 0], excluded[line])  # -1 stands for no hit
            hits = ordered(self.vectors, query, candidates, k, groups)
            if len(hits[1]) < k:
                hits = exact_search(self.vectors, queries[line : line + 1], k, [excluded[line]], groups, norms)[0]
            found.append(hits)
        return found
