"""What an audit keeps of a million conversations: hashes and numbers in columns, a few dozen bytes each."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator

import numpy as np

#: Different answers of which the text is kept, per task and split; of later ones only the hash.
_TEXTS = 20_000


def digest(text: str) -> int:
    """64-bit hash of a text, the same in every process. Two of a million texts share one with a chance of 3e-8."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


class Names:
    """A list of texts in one block of bytes."""

    def __init__(self) -> None:
        self._bytes, self._ends = bytearray(), array("Q")

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, name: str) -> int:
        """The number of the new entry."""
        self._bytes += name.encode()
        self._ends.append(len(self._bytes))
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> str:
        start = self._ends[number - 1] if number else 0
        return self._bytes[start : self._ends[number]].decode()


class Keys:
    """Hashes with the split (0, 1, 2) and the number of the conversation each came from."""

    def __init__(self) -> None:
        self._keys, self._splits, self._numbers = array("Q"), array("b"), array("I")

    def add(self, key: int, split: int, number: int) -> None:
        self._keys.append(key)
        self._splits.append(split)
        self._numbers.append(number)

    def in_two_splits(self) -> Iterator[list[tuple[int, int]]]:
        """For every key in more than one split: (split, first conversation's number) of each, by split."""
        keys, splits, numbers = (np.array(column) for column in (self._keys, self._splits, self._numbers))
        order = np.lexsort((numbers, splits, keys))
        keys, splits, numbers = keys[order], splits[order], numbers[order]
        if not len(keys):
            return
        first = np.r_[True, (keys[1:] != keys[:-1]) | (splits[1:] != splits[:-1])]
        keys, splits, numbers = keys[first], splits[first], numbers[first]
        starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
        ends = np.r_[starts[1:], len(keys)]
        for start, end in zip(starts[ends - starts > 1], ends[ends - starts > 1], strict=True):
            yield [(int(splits[i]), int(numbers[i])) for i in range(start, end)]

    def twice(self) -> Iterator[int]:
        """The number of every conversation whose key stood before."""
        keys, numbers = np.array(self._keys), np.array(self._numbers)
        order = np.lexsort((numbers, keys))
        again = order[1:][keys[order][1:] == keys[order][:-1]] if len(order) else order
        yield from np.sort(numbers[again]).tolist()


class Group:
    """What one corpus and split holds: hashes of its patients, ECGs and question texts."""

    def __init__(self) -> None:
        self.num_conversations = 0
        self._columns = {name: array("Q") for name in ("patients", "ecgs", "question texts")}

    def add(self, name: str, key: int) -> None:
        self._columns[name].append(key)

    def distinct(self) -> dict[str, np.ndarray]:
        """Name → sorted distinct hashes."""
        return {name: np.unique(np.array(column, np.uint64)) for name, column in self._columns.items()}


class Answers:
    """Counts of the answers of one task and split."""

    def __init__(self) -> None:
        self._keys = array("Q")
        self._texts: dict[int, str] = {}

    def add(self, text: str) -> None:
        key = digest(text)
        self._keys.append(key)
        if key not in self._texts and len(self._texts) < _TEXTS:
            self._texts[key] = text

    def counts(self) -> tuple[int, int, list[tuple[str, int]]]:
        """(answers, different answers, the three commonest with their counts)."""
        keys, counts = np.unique(np.array(self._keys, np.uint64), return_counts=True)
        found: Counter[str] = Counter()
        floor = np.sort(counts)[-3:][0] if len(counts) else 0
        for key, count in zip(keys[counts >= floor].tolist(), counts[counts >= floor].tolist(), strict=True):
            if key in self._texts:
                found[self._texts[key]] = count
        return len(self._keys), len(keys), sorted(found.items(), key=lambda item: (-item[1], item[0]))[:3]
