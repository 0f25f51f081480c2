"""Which of a million texts stands twice, in 16 bytes each."""

from __future__ import annotations

import numpy as np

_RECENT = 1 << 16


class Seen:
    """Remembers texts by their 64-bit hash, and the number each came with.

    Two different texts are taken for one with a probability of about n² / 2⁶⁵: 4e-8 for a million.
    """

    def __init__(self) -> None:
        self._recent: dict[int, int] = {}
        self._hashes = np.empty(0, dtype=np.int64)  # sorted
        self._numbers = np.empty(0, dtype=np.int64)

    def add(self, text: str, number: int) -> int | None:
        """Remember ``text``; the number it was first seen with where it was seen before, else None."""
        key = hash(text)
        if key in self._recent:
            return self._recent[key]
        place = int(self._hashes.searchsorted(key))
        if place < len(self._hashes) and self._hashes[place] == key:
            return int(self._numbers[place])
        self._recent[key] = number
        if len(self._recent) >= _RECENT:
            self._merge()
        return None

    def _merge(self) -> None:
        num = len(self._recent)
        hashes = np.concatenate([self._hashes, np.fromiter(self._recent, np.int64, num)])
        numbers = np.concatenate([self._numbers, np.fromiter(self._recent.values(), np.int64, num)])
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._numbers = hashes[order], numbers[order]
        self._recent = {}
