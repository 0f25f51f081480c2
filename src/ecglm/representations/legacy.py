"""The original ECG-Byte tokenizers (arXiv 2412.14373): their pickle files, read as data, never as a program.

A pickle is a program for a small machine. ``pickletools`` lists its opcodes without running them; the few that a
tokenizer needs are carried out here, and build nothing but the one shape that a tokenizer has:
``({id: text, …}, [([byte, …], id), …])``. Every other opcode refuses the file before anything is built.
"""

from __future__ import annotations

import hashlib
import heapq
import os
import pickletools
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from ecglm.errors import EcglmError, UnsafeInputError
from ecglm.representations.bpe import MAX_VOCAB
from ecglm.representations.ecg_byte import EcgByte

MAX_BYTES = 64 << 20
MAX_OPCODES = 4_000_000  # twenty times those of the largest file known: bounds time and memory
MAX_SYMBOLS = 2_000_000  # in all expansions together, which may share one list in the file

_INTS = frozenset({"BININT", "BININT1", "BININT2", "INT"})
_TEXTS = frozenset({"SHORT_BINUNICODE", "BINUNICODE", "UNICODE"})
_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"})
_GETS = frozenset({"GET", "BINGET", "LONG_BINGET"})
_CONTAINERS = frozenset(
    {"MARK", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "TUPLE", "TUPLE2"}
)
_ALLOWED = _INTS | _TEXTS | _PUTS | _GETS | _CONTAINERS | {"PROTO", "FRAME", "STOP"}
_MARK = object()


def convert_legacy(
    path: str | os.PathLike[str], *, normalise: str = "instance", percentiles: Mapping[str, float] | None = None
) -> EcgByte:
    """The tokenizer of an original pickle file: greedy, without boundaries, its vocabulary's order kept.

    The file says nothing of normalisation: ``instance`` is what the original uses by default, ``percentile`` needs
    the ``percentiles`` (p1 and p99 in mV). Raises UnsafeInputError for a pickle that could do more than hold numbers
    and text or is out of all measure, EcglmError for one that is damaged or no tokenizer.
    """
    data = _read(path)
    vocab, expansions = parse_legacy(data, os.fspath(path))
    return EcgByte(
        recover_pairs(expansions, os.fspath(path)),
        normalise=normalise,
        boundary="none",
        encode_mode="greedy",
        percentiles=percentiles,
        trained_on={"legacy_sha256": hashlib.sha256(data).hexdigest()},
        legacy_vocab_order=list(vocab),
    )


def _read(path: str | os.PathLike[str]) -> bytes:
    file = Path(path)
    if not file.is_file():
        raise EcglmError(f"{file}: no such file")
    with open(file, "rb") as handle:
        data = handle.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise UnsafeInputError(f"{file}: larger than {MAX_BYTES >> 20} MiB, which no tokenizer is; refused")
    return data


def parse_legacy(data: bytes, name: str = "tokenizer") -> tuple[dict[int, str], list[bytes]]:
    """``(vocabulary, expansions)`` of a pickle: id → text in the file's order, and what merge i stands for.

    Checked: ids 0 … 255 + n once each, merges numbered in order, every text equal to what its id stands for (bytes
    from 128 shown as ``<128>``). Raises as ``convert_legacy``; ``name`` stands in the message.
    """
    _scan(data, name)
    vocab, merges = _Builder(name).run(data)
    if len(merges) > MAX_VOCAB - 256:
        raise EcglmError(f"{name}: {len(merges)} merges, at most {MAX_VOCAB - 256} are possible")
    if sum(len(symbols) for symbols, _ in merges) > MAX_SYMBOLS:
        raise UnsafeInputError(f"{name}: tokens stand for more than {MAX_SYMBOLS} symbols together; refused")
    expansions: list[bytes] = []
    for index, (symbols, new) in enumerate(merges):
        if new != 256 + index:
            raise EcglmError(f"{name}: merge {index} makes id {new}, {256 + index} is next; the file is damaged")
        if len(symbols) < 2 or max(symbols) > 255:
            raise EcglmError(f"{name}: merge {index} does not stand for two or more bytes; the file is damaged")
        expansions.append(bytes(symbols))
    if len(vocab) != 256 + len(merges):
        raise EcglmError(f"{name}: {len(vocab)} ids for 256 bytes and {len(merges)} merges; the file is damaged")
    shown = [chr(byte) if byte < 128 else f"<{byte}>" for byte in range(256)]
    texts = [*shown, *("".join(shown[byte] for byte in text) for text in expansions)]
    for token, text in enumerate(texts):
        if vocab.get(token) != text:
            raise EcglmError(f"{name}: the text of id {token} is not what the id stands for; the file is damaged")
    return vocab, expansions


def recover_pairs(expansions: Sequence[bytes], name: str = "tokenizer") -> list[list[int]]:
    """The pair ``[left, right]`` of each merge, from what the merges stand for: ids 256, 257, … in training order.

    Merge i was the first to join two tokens of the merges before it; these, carried out in order on its expansion,
    leave exactly that pair. (Other pairs of tokens spell the same expansion; they would encode other texts.)
    EcglmError where another number of tokens is left: the merges are of no byte-pair encoding.
    """
    ranks: dict[tuple[int, int], int] = {}
    for text in expansions:
        left = _ranked(text, ranks)
        if len(left) != 2:
            raise EcglmError(
                f"{name}: merge {len(ranks)} joins {len(left)} tokens of the merges before it, not two; "
                "the file is damaged"
            )
        ranks[left[0], left[1]] = 256 + len(ranks)
    return [list(pair) for pair in ranks]


def _ranked(text: bytes, ranks: Mapping[tuple[int, int], int]) -> list[int]:
    """Byte-pair encoding in training order, O(n log n): pairs by id of the merge, then from left to right."""
    ids: list[int | None] = list(text)
    after, before = list(range(1, len(ids) + 1)), list(range(-1, len(ids) - 1))
    heap = [(ranks[pair], at) for at, pair in enumerate(pairwise(text)) if pair in ranks]
    heapq.heapify(heap)

    def consider(at: int) -> None:
        if at >= 0 and after[at] < len(ids):
            new = ranks.get((ids[at], ids[after[at]]))  # type: ignore[arg-type]
            if new is not None:
                heapq.heappush(heap, (new, at))

    while heap:
        new, at = heapq.heappop(heap)
        other = after[at]
        if ids[at] is None or other == len(ids) or ranks.get((ids[at], ids[other])) != new:  # type: ignore[arg-type]
            continue  # one of the two has gone into another token since
        ids[at], ids[other] = new, None
        after[at] = after[other]
        if after[at] < len(ids):
            before[after[at]] = at
        consider(before[at])
        consider(at)
    return [token for token in ids if token is not None]


# ---------------------------------------------------------------------------------------------------------------------
# The pickle itself.


def _opcodes(data: bytes, name: str) -> Iterator[tuple[str, Any, int]]:
    """(opcode, argument, place) of each; nothing is carried out."""
    try:
        for opcode, argument, place in pickletools.genops(data):
            assert place is not None
            yield opcode.name, argument, place
    except (ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())[:100]
        raise EcglmError(f"{name}: is no whole pickle ({reason}); get the file again") from error


def _scan(data: bytes, name: str) -> None:
    """Look at every opcode before any is carried out."""
    frame_end = 0
    for number, (opcode, argument, place) in enumerate(_opcodes(data, name)):
        if opcode not in _ALLOWED:
            raise UnsafeInputError(
                f"{name}: pickle opcode {opcode} at byte {place}; only dict, list, tuple, int and str are read; refused"
            )
        if number >= MAX_OPCODES:
            raise UnsafeInputError(f"{name}: more than {MAX_OPCODES} pickle opcodes, which no tokenizer has; refused")
        if opcode == "PROTO" and (argument > 5 or place):
            raise EcglmError(f"{name}: pickle protocol {argument} at byte {place}; 5 and below are read, at the start")
        if opcode == "FRAME":
            if place < frame_end or place + 9 + argument > len(data):
                raise EcglmError(f"{name}: the pickle frame at byte {place} does not fit; the file is damaged")
            frame_end = place + 9 + argument
        if opcode == "STOP" and place != len(data) - 1:
            raise EcglmError(f"{name}: {len(data) - 1 - place} bytes behind the end of the pickle; refused")


Merge = tuple[list[int], int]


class _Builder:
    """Carries out the allowed opcodes.

    Lists hold numbers alone or merges alone, dictionaries lead from a number to a text, tuples are a merge or the
    whole: so nothing can contain itself, and nothing nests deeper than the tokenizer does.
    """

    def __init__(self, name: str) -> None:
        self.name, self.place = name, 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> tuple[dict[int, str], list[Merge]]:
        """The vocabulary and the merges."""
        for opcode, argument, place in _opcodes(data, self.name):
            self.place = place
            if opcode in _INTS:
                if type(argument) is not int or not 0 <= argument < MAX_VOCAB:
                    self.fail(f"no number from 0 to {MAX_VOCAB - 1}")
                self.stack.append(argument)
            elif opcode in _TEXTS:
                self.stack.append(argument)
            elif opcode in _PUTS:
                self.memo[len(self.memo) if opcode == "MEMOIZE" else int(argument)] = self.top()
            elif opcode in _GETS:
                if int(argument) not in self.memo:
                    self.fail(f"nothing was kept under {argument}")
                self.stack.append(self.memo[int(argument)])
            elif opcode in _CONTAINERS:
                self.container(opcode)
        whole = self.stack.pop() if len(self.stack) == 1 else None
        if not isinstance(whole, tuple) or not isinstance(whole[0], dict):
            self.fail("no pair of vocabulary and merges")
        return whole[0], whole[1]

    def container(self, opcode: str) -> None:
        """Make a container, or put what stands on the stack into one."""
        if opcode == "MARK":
            self.stack.append(_MARK)
        elif opcode in ("EMPTY_DICT", "DICT"):
            self.stack.append(self.fill({}, self.to_mark() if opcode == "DICT" else []))
        elif opcode in ("EMPTY_LIST", "LIST"):
            self.stack.append(self.extend([], self.to_mark() if opcode == "LIST" else []))
        elif opcode in ("TUPLE", "TUPLE2"):
            items = self.to_mark() if opcode == "TUPLE" else [self.pop(), self.pop()][::-1]
            self.stack.append(self.pair(items))
        elif opcode in ("SETITEM", "SETITEMS"):
            items = self.to_mark() if opcode == "SETITEMS" else [self.pop(), self.pop()][::-1]
            self.fill(self.top(), items)
        else:
            items = self.to_mark() if opcode == "APPENDS" else [self.pop()]
            self.extend(self.top(), items)

    def pair(self, items: list[Any]) -> tuple[Any, Any]:
        """A merge, or the whole."""
        first, second = items if len(items) == 2 else (None, None)
        merge = isinstance(first, list) and bool(first) and type(first[0]) is int and type(second) is int
        merges = isinstance(second, list) and (not second or isinstance(second[0], tuple))
        if not merge and not (isinstance(first, dict) and merges):
            self.fail("a tuple that is neither a merge nor the whole")
        return first, second

    def fill(self, target: Any, items: list[Any]) -> dict[int, str]:
        """Put keys and values into a dictionary."""
        if not isinstance(target, dict) or len(items) % 2:
            self.fail("items for what is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is not int or type(value) is not str or key in target:
                self.fail("a dictionary that does not lead from ids, each once, to texts")
            target[key] = value
        return target

    def extend(self, target: Any, items: list[Any]) -> list[Any]:
        """Put numbers into a list of numbers, or merges into a list of merges."""
        if not isinstance(target, list):
            self.fail("items for what is no list")
        for item in items:
            kind = type(target[0] if target else item)
            merge = kind is tuple and type(item) is tuple and type(item[1]) is int
            if not merge and not (kind is int and type(item) is int):
                self.fail("a list that holds neither numbers alone nor merges alone")
            target.append(item)
        return target

    def top(self) -> Any:
        """What stands on top."""
        if not self.stack or self.stack[-1] is _MARK:
            self.fail("nothing on the stack")
        return self.stack[-1]

    def pop(self) -> Any:
        """Take what stands on top."""
        self.top()
        return self.stack.pop()

    def to_mark(self) -> list[Any]:
        """Take everything above the last mark, and the mark."""
        for at in range(len(self.stack) - 1, -1, -1):
            if self.stack[at] is _MARK:
                items = self.stack[at + 1 :]
                del self.stack[at:]
                return items
        self.fail("no mark on the stack")

    def fail(self, what: str) -> NoReturn:
        """Refuse the file."""
        raise EcglmError(f"{self.name}: is no ECG-Byte tokenizer: {what} at byte {self.place} of the pickle")
