"""Packing: examples one after another in rows of ``pack_len`` tokens, so that hardly a token is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, islice

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from ecglm.errors import EcglmError
from ecglm.types import Example

#: Examples among which rows are filled: more fill better, fewer cost less time before the first row.
WINDOW = 4096
#: A row of a window with more of it free than this is opened again in the next window.
FREE = 0.01


def fill_rows(lengths: Sequence[int] | np.ndarray, pack_len: int) -> list[list[int]]:
    """Rows of positions of ``lengths``, each row of at most ``pack_len`` tokens; every position stands in one row.

    A row begins with the longest that is left, goes on with whatever comes next in the order given, and ends with the
    one or two that fill it best. ValueError for a length below 1 or above ``pack_len``.
    """
    size = np.asarray(lengths, np.int64)
    if len(size) and not 1 <= size.min() <= size.max() <= pack_len:
        raise ValueError(f"lengths between {size.min()} and {size.max()} tokens do not fit rows of {pack_len}")
    by_length: dict[int, list[int]] = {}
    for position in range(len(size) - 1, -1, -1):
        by_length.setdefault(int(size[position]), []).append(position)
    left = np.bincount(size, minlength=pack_len + 1)
    waiting = np.ones(len(size), bool)
    upcoming = iter(range(len(size)))
    rows: list[list[int]] = []
    longest = int(size.max(initial=0))

    def take(length: int) -> int:
        position = by_length[length].pop()
        waiting[position] = False
        left[length] -= 1
        return position

    for _ in range(len(size)):
        while longest and not left[longest]:
            longest -= 1
        if not longest:
            break
        row, free = [take(longest)], pack_len - longest
        while free >= 2 * longest and (coming := next((i for i in upcoming if waiting[i]), None)) is not None:
            row.append(take(int(size[coming])))  # of its length it is the first that waits
            free -= int(size[coming])
        while found := _best_end(np.flatnonzero(left[: free + 1]), left, free):
            row += [take(length) for length in found]
            free -= sum(found)
        rows.append(row)
    return rows


def _best_end(fits: np.ndarray, left: np.ndarray, free: int) -> tuple[int, ...]:
    """The one or two lengths with the largest sum up to ``free``. fits: lengths to choose from, sorted."""
    if not len(fits):
        return ()
    partner = np.searchsorted(fits, free - fits, side="right") - 1
    partner -= (partner == np.arange(len(fits))) & (left[fits] < 2)
    sums = np.where(partner >= 0, fits + fits[partner], 0)
    best = int(np.argmax(sums))
    if sums[best] <= fits[-1]:
        return (int(fits[-1]),)
    return int(fits[best]), int(fits[partner[best]])


class PackedSampler(Sampler[tuple[tuple[int, ...], int]]):
    """Rows of items for a whole training: ``num_rows`` of them, epoch after epoch without a border between batches.

    Gives ``((item, item, …), epoch)``, what ``PackedRows`` takes. Every item is in one row of every epoch. The order is
    a function of (seed, epoch) alone: the same for any number of workers, ranks and batch sizes, and after a resume.
    In an epoch the items are shuffled and packed in windows of ``WINDOW``. The last rows of an epoch may be short.

    EcglmError when an item is longer than ``pack_len``.
    """

    def __init__(self, lengths: Sequence[int], pack_len: int, seed: int, num_rows: int) -> None:
        self.lengths = np.asarray(lengths, np.int64)
        self.pack_len, self.seed, self.num_rows = pack_len, seed, num_rows
        longest = int(self.lengths.max(initial=0))
        if longest > pack_len:
            raise EcglmError(f"train.pack_len is {pack_len}, but the longest sequence has {longest} tokens; raise it")
        if not len(self.lengths):
            raise EcglmError("no sequences to pack")

    def __len__(self) -> int:
        return self.num_rows

    def __iter__(self) -> Iterator[tuple[tuple[int, ...], int]]:
        endless = ((row, epoch) for epoch in count() for row in self.rows(epoch))
        return islice(endless, self.num_rows)

    def set_epoch(self, epoch: int) -> None:
        """Nothing: the rows say which epoch they are of."""

    def rows(self, epoch: int) -> Iterator[tuple[int, ...]]:
        """The rows of one epoch, in the order in which they are shown."""
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.lengths))
        kept = order[:0]
        for start in range(0, len(order), WINDOW):
            window = np.concatenate([kept, order[start : start + WINDOW]])
            last = start + WINDOW >= len(order)
            rows, kept = self._fill(window, last)
            for i in rng.permutation(len(rows)):
                yield tuple(rows[i].tolist())

    def _fill(self, window: np.ndarray, last: bool) -> tuple[list[np.ndarray], np.ndarray]:
        """``(rows, items for the next window)``; the last window keeps nothing back."""
        rows = [window[row] for row in fill_rows(self.lengths[window], self.pack_len)]
        if last:
            return rows, window[:0]
        free = np.array([self.pack_len - self.lengths[row].sum() for row in rows])
        worst = np.argsort(-free, kind="stable")[: len(rows) // 4]  # no more, or long items would wait for ever
        again = {int(i) for i in worst if free[i] > FREE * self.pack_len}
        kept = [rows[i] for i in sorted(again)]
        done = [row for i, row in enumerate(rows) if i not in again]
        return done, np.concatenate(kept) if kept else window[:0]


def rows_of(lengths: Sequence[int], pack_len: int, seed: int, num_epochs: int) -> int:
    """Rows that a ``PackedSampler`` fills in so many epochs."""
    sampler = PackedSampler(lengths, pack_len, seed, 0)
    return sum(1 for epoch in range(num_epochs) for _ in sampler.rows(epoch))


class PackedRows(Dataset[list[Example]]):
    """A dataset of rows: ``[(item, …), epoch]`` → the examples ``data[item, epoch]``, as a ``PackedSampler`` asks.

    With ``rows``, ``[i]`` → the examples ``data[item]`` of the i-th of these rows: for validation.
    """

    def __init__(self, data: Dataset[Example], rows: Sequence[Sequence[int]] = ()) -> None:
        self.data, self.rows = data, rows

    def __len__(self) -> int:
        return len(self.rows) or len(self.data)  # type: ignore[arg-type]

    def __getitem__(self, index: int | tuple[tuple[int, ...], int]) -> list[Example]:
        if isinstance(index, tuple):
            items, epoch = index
            return [self.data[item, epoch] for item in items]
        return [self.data[item] for item in self.rows[index]]


def padding_share(lengths: Sequence[int], rows: Sequence[Sequence[int]], pack_len: int) -> float:
    """Share of the rows' tokens that hold nothing, were every row padded to ``pack_len``."""
    shown = sum(lengths[item] for row in rows for item in row)
    return 1 - shown / (len(rows) * pack_len)


def document_table(documents: np.ndarray, branches: np.ndarray, positions: np.ndarray) -> torch.Tensor:
    """The ``attention_mask`` of a packed row: int64 ``(1, 1, 3, length)``, document, branch and position of each token.

    Four axes, because every family of ``transformers`` hands a mask of four axes to its attention as it is.
    """
    return torch.from_numpy(np.stack([documents, branches, positions]).astype(np.int64))[None, None]


def is_document_table(mask: torch.Tensor | None) -> bool:
    """Whether an ``attention_mask`` is a ``document_table``; all others are boolean, additive or of two axes."""
    return mask is not None and mask.ndim == 4 and mask.dtype == torch.int64
