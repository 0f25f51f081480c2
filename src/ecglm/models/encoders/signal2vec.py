"""Vectors of ECG symbols learned from their neighbours and then frozen: Signal2Vec's idea for ECG-Byte's symbols.

Signal2Vec (Nalmpantis and Vrakas, EANN 2019) learns skip-gram vectors of a time series' symbols; skip-gram implicitly
factorises the symbols' mutual information (Levy and Goldberg, NeurIPS 2014), and here that is done outright, so that
the same ECGs always give the same table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.linalg import eigsh
from torch import nn

from ecglm import registry
from ecglm.errors import EcglmError


@registry.register("encoders", "signal2vec")
class Signal2Vec(nn.Module):
    """Symbols, int64 ``(…)`` below ``num_symbols`` → ``(…, dim)`` from a frozen table; the connector projects them.

    It stands beside the representation ``symbols``: wherever a symbol stands in the prompt, the LLM reads the
    projected row of this table instead of a row of its own. dim: of a vector, below ``num_symbols``. window: symbols
    on either side that count as neighbours. train_segments: training ECGs it is learned from. Raises TypeError for
    numbers that cannot be.
    """

    reads: ClassVar[str] = "symbols"
    frozen: ClassVar[bool] = True
    table: torch.Tensor
    place: torch.Tensor

    def __init__(self, *, num_symbols: int, dim: int = 64, window: int = 5, train_segments: int = 500) -> None:
        super().__init__()
        for name, value in (("window", window), ("train_segments", train_segments)):
            if value < 1:
                raise TypeError(f"{name} must be 1 or more, found {value}")
        if not 0 < dim < num_symbols:
            raise TypeError(
                f"dim must lie between 1 and {num_symbols - 1}, one less than there are symbols, found {dim}"
            )
        self.dim, self.window, self.train_segments = dim, window, train_segments
        self.register_buffer("table", torch.zeros(num_symbols, dim))
        self.register_buffer("place", torch.empty(0, dtype=torch.long), persistent=False)

    def learn(self, ecgs: Iterable[np.ndarray]) -> int:
        """Fill the table from ECGs of the training split, each the ``token_ids`` a representation gives; returns how
        many symbols were never seen, whose vectors are zero.
        """
        num_symbols = len(self.table)
        counts = neighbours(ecgs, num_symbols, self.window)
        self.table.copy_(torch.from_numpy(symbol_vectors(counts, self.dim)))
        return int((counts.sum(axis=0) == 0).sum())

    def bind(self, token_ids: Sequence[int], vocab_size: int) -> None:
        """Tell it the LLM's token of each symbol, in order."""
        if len(token_ids) != len(self.table):
            raise ValueError(f"{len(token_ids)} tokens for {len(self.table)} symbols")
        self.place = torch.full((vocab_size,), -1, device=self.table.device)
        self.place[torch.tensor(token_ids, device=self.table.device)] = torch.arange(
            len(token_ids), device=self.table.device
        )

    def forward(self, symbols: torch.Tensor) -> torch.Tensor:
        return self.table[symbols]

    def put(
        self, embedded: torch.Tensor, input_ids: torch.Tensor, project: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """Embeddings ``(batch, length, hidden)`` of ids ``(batch, length)`` with the projected vectors at the symbols.

        project: ``(…, dim)`` → ``(…, hidden)``.
        """
        row = self.place[input_ids]
        at = row >= 0
        return embedded.masked_scatter(at[..., None], project(self(row[at])).to(embedded.dtype))

    def rows(self, project: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """What the LLM reads for each symbol, ``(num_symbols, hidden)``: as rows of its own table they do the same."""
        return project(self.table)


def symbol_names(added_tokens: Sequence[str]) -> list[str]:
    """Those of a symbols representation's tokens that are symbols: all but the names of leads behind them."""
    return [token for token in added_tokens if token.startswith("signal_")]


def neighbours(ecgs: Iterable[np.ndarray], num_symbols: int, window: int) -> csr_array:
    """How often each symbol stands within ``window`` of each other: symmetric counts ``(num_symbols, num_symbols)``.

    An id of ``num_symbols`` or more (a lead's name) separates: symbols of two leads are no neighbours.
    """
    total = csr_array((num_symbols, num_symbols), dtype=np.float64)
    for ids in ecgs:
        ids = np.asarray(ids)
        lead = np.cumsum(ids >= num_symbols)
        for distance in range(1, min(window, len(ids) - 1) + 1):
            left, right = ids[:-distance], ids[distance:]
            near = (lead[:-distance] == lead[distance:]) & (left < num_symbols) & (right < num_symbols)
            pairs = (np.ones(int(near.sum())), (left[near], right[near]))
            found = csr_array(pairs, shape=total.shape)
            total = total + found + found.T
    return csr_array(total)


def symbol_vectors(counts: csr_array, dim: int) -> np.ndarray:
    """float32 ``(num_symbols, dim)``: the symmetric factor of rank ``dim`` of the positive pointwise mutual
    information of neighbours, columns by falling weight, scaled to a mean square of 1 over the symbols seen.

    Raises EcglmError where there are no neighbours, or none is likelier than another.
    """
    sums = np.asarray(counts.sum(axis=0)).ravel()
    found = counts.tocoo()
    row, column = found.coords
    information = np.log(found.data * sums.sum() / (sums[row] * sums[column]))
    kept = information > 0
    if not kept.any():
        raise EcglmError("signal2vec: no symbol tells anything of its neighbours in the training ECGs; show more ECGs")
    matrix = csr_array((information[kept], (row[kept], column[kept])), shape=counts.shape)
    values, vectors = eigsh(matrix, k=dim, which="LM", v0=np.full(len(sums), len(sums) ** -0.5))
    order = np.argsort(-np.abs(values), kind="stable")
    vectors = vectors[:, order] * np.sqrt(np.abs(values[order]))
    strongest = vectors[np.argmax(np.abs(vectors), axis=0), np.arange(dim)]
    vectors *= np.where(strongest < 0, -1.0, 1.0)  # an eigenvector's sign is arbitrary
    vectors[sums == 0] = 0.0
    scale = np.sqrt((vectors[sums > 0] ** 2).mean())
    return (vectors / max(scale, 1e-12)).astype(np.float32)
