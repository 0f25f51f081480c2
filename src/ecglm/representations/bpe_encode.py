"""Encoding and decoding with byte-pair merges: greedy longest match over a flat trie, or ranked (numba)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ecglm.errors import EcglmError
from ecglm.signals.compiled import compiled

MAX_TABLE = 1 << 22  # steps in the table of a trie: 8 MB; beyond, the nodes themselves are walked
MAX_EXPANSION = 1 << 24  # symbols in all expansions together: bounds what a hostile file can make us allocate


def id_type(vocab_size: int) -> type[np.unsignedinteger[Any]]:
    """uint16 where the ids of a vocabulary fit 16 bits, else uint32."""
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32


# ---------------------------------------------------------------------------------------------------------------------
# Expansions, and the greedy encoder: longest match in a trie whose nodes stand in depth-first order, so that the only
# child of a node is the node behind it, and only branching nodes need a row of children. Each node knows the longest
# expansion on the way to it, so the walk remembers nothing. A trie of usual size is also laid out as a table of all
# steps, and two rows are walked at a time, each while the other waits for its memory. Indices are unsigned, which
# spares the wrap-around check.

_LEAF, _BRANCH = -1, -2


class Expansions:
    """What each id stands for: ``symbols[offsets[i]:offsets[i + 1]]`` (uint8) of id i."""

    def __init__(self, merges: np.ndarray) -> None:
        """merges: ``(n, 2)``; EcglmError when a merge names an id made later, or the expansions grow out of bounds."""
        texts = [bytes([i]) for i in range(256)]
        total = 256
        for index, (left, right) in enumerate(merges.tolist()):
            if not (0 <= left < len(texts) and 0 <= right < len(texts)):
                raise EcglmError(f"merge {index} ({left}, {right}) names an id that does not exist before it")
            total += len(texts[left]) + len(texts[right])
            if total > MAX_EXPANSION:
                raise EcglmError(f"merge {index}: expansions exceed {MAX_EXPANSION} symbols together; use fewer merges")
            texts.append(texts[left] + texts[right])
        self.texts = texts
        self.lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths)])
        self.symbols = np.frombuffer(b"".join(texts), np.uint8)

    def spans(self, ids: np.ndarray) -> np.ndarray:
        """int64 ``(n, 2)``: the first and the past-the-last symbol of each of a sequence of ids, all in range."""
        spans = np.empty((len(ids), 2), np.int64)
        _spans(ids, self.lengths, spans)
        return spans

    def decode(self, ids: np.ndarray) -> np.ndarray:
        """The symbols (uint8) of a sequence of ids, all in range."""
        return _decode(self.symbols, self.offsets, np.ascontiguousarray(ids), int(self.lengths[ids].sum()))


@compiled
def _spans(ids, lengths, spans):
    at = 0
    for k in range(ids.size):
        spans[k, 0] = at
        at += lengths[ids[k]]
        spans[k, 1] = at


@compiled
def _decode(symbols, offsets, ids, size):
    out = np.empty(size, np.uint8)
    w = 0
    for i in ids:
        for k in range(offsets[i], offsets[i + 1]):
            out[w] = symbols[k]
            w += 1
    return out


@compiled
def _build_trie(symbols, starts, lengths, ids, classes, num_classes):
    """Nodes ``(number, 3)``: class of the only child (or leaf, or branch), row of children, longest id; and the rows.

    The expansions come in ascending order of their classes, each once. The last class, that of bytes in no expansion,
    leads nowhere.
    """
    total = 1
    for k in range(ids.size):
        total += lengths[k]
    path = np.zeros(total + 1, np.int32)
    parents, labels = np.empty(total, np.int32), np.empty(total, np.int32)
    children, found = np.zeros(total, np.int32), np.full(total, -1, np.int32)
    num_nodes = 1
    for k in range(ids.size):
        shared = 0
        if k > 0:
            while shared < min(lengths[k], lengths[k - 1]):
                if symbols[starts[k] + shared] != symbols[starts[k - 1] + shared]:
                    break
                shared += 1
        for depth in range(shared, lengths[k]):
            parent = path[depth]
            parents[num_nodes], labels[num_nodes] = parent, classes[symbols[starts[k] + depth]]
            children[parent] += 1
            path[depth + 1] = num_nodes
            num_nodes += 1
        found[path[lengths[k]]] = ids[k]
    nodes = np.empty((num_nodes, 3), np.int32)
    num_rows = 0
    for node in range(num_nodes):
        if found[node] < 0 and node > 0:
            found[node] = found[parents[node]]
        nodes[node, 0], nodes[node, 1], nodes[node, 2] = _LEAF, -1, found[node]
        if children[node] == 1:
            nodes[node, 0] = labels[node + 1]
        elif children[node] > 1:
            nodes[node, 0], nodes[node, 1] = _BRANCH, num_rows
            num_rows += 1
    rows = np.full((max(num_rows, 1), num_classes), -1, np.int32)
    for node in range(1, num_nodes):
        if children[parents[node]] > 1:
            rows[nodes[parents[node], 1], labels[node]] = node
    return nodes, rows


@compiled
def _encode_nodes(texts, classes, nodes, rows, lengths, out, ends):
    """Encode each row of ``texts``, one behind the other; ``ends``: where each row's ids end in ``out``."""
    one, num_out = np.uint64(1), np.uint64(0)
    for r in range(texts.shape[0]):
        text = texts[r]
        n, i = np.uint64(text.size), np.uint64(0)
        while i < n:
            node, k = np.uint64(0), i
            while k < n:
                symbol_class = classes[text[k]]
                only = nodes[node, 0]
                if only == symbol_class:
                    node += one
                elif only == _BRANCH:
                    child = rows[np.uint64(nodes[node, 1]), np.uint64(symbol_class)]
                    if child < 0:
                        break
                    node = np.uint64(child)
                else:
                    break
                k += one
            best = nodes[node, 2]
            if best < 0:  # still at the root: a byte in no merge
                best = np.int32(text[i])
            out[num_out] = best
            num_out += one
            i += np.uint64(lengths[best])
        ends[r] = num_out


@compiled
def _step_table(nodes, rows, shift):
    """The node behind each node ``v`` by class ``c`` at ``v << shift | c``, 0 for none; and each node's longest id."""
    table = np.zeros(nodes.shape[0] << shift, np.uint16)
    for node in range(nodes.shape[0]):
        if nodes[node, 0] == _BRANCH:
            for symbol_class in range(rows.shape[1]):
                if rows[nodes[node, 1], symbol_class] >= 0:
                    table[(node << shift) | symbol_class] = rows[nodes[node, 1], symbol_class]
        elif nodes[node, 0] != _LEAF:
            table[(node << shift) | nodes[node, 0]] = node + 1
    return table, nodes[:, 2].copy()


@compiled
def _walk(text, i, num_out, classes, table, shift, longest, lengths, out):
    """Encode the text from its symbol ``i`` on; returns the number of ids written in all."""
    none, one, n = np.uint64(0), np.uint64(1), np.uint64(text.size)
    while i < n:
        node, k = none, i
        while k < n:
            child = np.uint64(table[(node << shift) | np.uint64(classes[text[k]])])
            if child == none:
                break
            node = child
            k += one
        best = longest[node]
        if best < 0:  # still at the root: a byte in no merge
            best = np.int32(text[i])
        out[num_out] = best
        num_out += one
        i += np.uint64(lengths[best])
    return num_out


@compiled
def _walk_two(text_a, text_b, classes, table, shift, longest, lengths, out_a, out_b):
    """Encode two texts of one length until one of them ends; returns how far, and the number of ids, of each."""
    none, one, n = np.uint64(0), np.uint64(1), np.uint64(text_a.size)
    start_a, at_a, node_a, num_a = none, none, none, none
    start_b, at_b, node_b, num_b = none, none, none, none
    while start_a < n and start_b < n:
        child_a, child_b = none, none
        if at_a < n:
            child_a = np.uint64(table[(node_a << shift) | np.uint64(classes[text_a[at_a]])])
        if at_b < n:
            child_b = np.uint64(table[(node_b << shift) | np.uint64(classes[text_b[at_b]])])
        if child_a != none:
            node_a = child_a
            at_a += one
        else:
            best = longest[node_a]
            if best < 0:
                best = np.int32(text_a[start_a])
            out_a[num_a] = best
            num_a += one
            start_a += np.uint64(lengths[best])
            at_a, node_a = start_a, none
        if child_b != none:
            node_b = child_b
            at_b += one
        else:
            best = longest[node_b]
            if best < 0:
                best = np.int32(text_b[start_b])
            out_b[num_b] = best
            num_b += one
            start_b += np.uint64(lengths[best])
            at_b, node_b = start_b, none
    return start_a, num_a, start_b, num_b


@compiled
def _encode_table(texts, classes, table, shift, longest, lengths, out, ends):
    """``_encode_nodes`` by the table of steps."""
    n = texts.shape[1]
    for r in range(0, texts.shape[0], 2):
        start, num, here = np.uint64(0), np.uint64(0), out[r * n : (r + 1) * n]
        if r + 1 < texts.shape[0]:
            there = out[(r + 1) * n : (r + 2) * n]
            start, num, start_b, num_b = _walk_two(
                texts[r], texts[r + 1], classes, table, shift, longest, lengths, here, there
            )
            ends[r + 1] = _walk(texts[r + 1], start_b, num_b, classes, table, shift, longest, lengths, there)
        ends[r] = _walk(texts[r], start, num, classes, table, shift, longest, lengths, here)
    total = 0
    for r in range(texts.shape[0]):  # close the gaps between the rows
        for k in range(ends[r]):
            out[total + k] = out[r * n + k]
        total += ends[r]
        ends[r] = total


class GreedyEncoder:
    """Longest match at each position over the 256 bytes and all expansions (not BPE order). Built once."""

    def __init__(self, expansions: Expansions) -> None:
        first: dict[bytes, int] = {}
        for index, text in enumerate(expansions.texts):
            first.setdefault(text, index)  # of two ids with one expansion the older is given
        #: ids this encoder can give, ascending
        self.reachable = np.array(sorted(first.values()), np.int32)
        self._lengths, self._type = expansions.lengths, id_type(len(expansions.texts))
        used = sorted(set(b"".join(text for text in first if len(text) > 1)))
        self._classes = np.full(256, len(used), np.int32)
        self._classes[used] = np.arange(len(used))
        texts = sorted(text for text in first if len(text) > 1 or text[0] in used)
        ids = np.array([first[text] for text in texts], np.int32)
        self._nodes, self._rows = _build_trie(
            expansions.symbols, expansions.offsets[ids], expansions.lengths[ids], ids, self._classes, len(used) + 1
        )
        self._table: tuple[np.ndarray, np.uint64, np.ndarray] | None = None
        shift = len(used).bit_length()
        if len(self._nodes) <= 1 << 16 and len(self._nodes) << shift <= MAX_TABLE:
            table, longest = _step_table(self._nodes, self._rows, shift)
            self._table = table, np.uint64(shift), longest

    def rows(self, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ids (uint16 or uint32) of each row of uint8 ``(n, length)``, one behind the other, and where they end."""
        out, ends = np.empty(texts.size, self._type), np.empty(len(texts), np.int64)
        if self._table is not None:
            _encode_table(texts, self._classes, *self._table, self._lengths, out, ends)
        else:
            _encode_nodes(texts, self._classes, self._nodes, self._rows, self._lengths, out, ends)
        return out[: ends[-1] if len(ends) else 0].copy(), ends

    def __call__(self, text: np.ndarray) -> np.ndarray:
        """Ids of a uint8 sequence."""
        return self.rows(text[None])[0]


# ---------------------------------------------------------------------------------------------------------------------
# Ranked encoder: the merges in training order. A merge can only bring forth pairs of later merges, so the cells where a
# merge may apply wait in a list of it, and the lists are gone through once; each is filled in ascending order of cells.


@compiled
def _slot_of(table, left, right):
    """Where the pair stands, or should stand, in the open-addressing table of rows (left, right, merge)."""
    mask = table.shape[0] - 1
    slot = (np.int64(left) * 40503 + np.int64(right) * 2654435761) & mask
    while table[slot, 2] >= 0 and (table[slot, 0] != left or table[slot, 1] != right):
        slot = (slot + 1) & mask
    return slot


@compiled
def _build_pairs(merges, table):
    for i in range(merges.shape[0]):
        slot = _slot_of(table, merges[i, 0], merges[i, 1])
        table[slot, 0], table[slot, 1], table[slot, 2] = merges[i, 0], merges[i, 1], i


@compiled
def _append(first, last, entries, size, merge, cell):
    """Put a cell at the end of a merge's list: entries are rows (cell, next entry)."""
    entries[size, 0], entries[size, 1] = cell, -1
    if first[merge] < 0:
        first[merge] = size
    else:
        entries[last[merge], 1] = size
    last[merge] = size


@compiled
def _encode_one_ranked(text, merges, table, lengths, sym, first, last, entries, out):
    n, size = text.size, 0
    sym[0] = sym[n + 1] = -1
    for p in range(n):
        sym[p + 1] = text[p]
    for p in range(1, n):
        merge = table[_slot_of(table, sym[p], sym[p + 1]), 2]
        if merge >= 0:
            _append(first, last, entries, size, merge, p)
            size += 1
    for merge in range(merges.shape[0]):
        entry = first[merge]
        first[merge] = -1
        while entry >= 0:
            begin = np.int64(entries[entry, 0])
            entry = entries[entry, 1]
            left, right = merges[merge, 0], merges[merge, 1]
            q = begin + lengths[left]
            if sym[begin] != left or sym[q] != right:
                continue
            sym[q] = -2  # no token starts here any more
            sym[begin] = sym[q + lengths[right] - 1] = 256 + merge
            before = begin - lengths[sym[begin - 1]] if sym[begin - 1] >= 0 else begin
            for start in (before, begin):
                other = sym[start + lengths[sym[start]]]
                if other >= 0:
                    found = table[_slot_of(table, sym[start], other), 2]
                    if found >= 0:
                        _append(first, last, entries, size, found, start)
                        size += 1
    num_out, cell = 0, 1
    while cell <= n:
        out[num_out] = sym[cell]
        cell += lengths[sym[cell]]
        num_out += 1
    return num_out


@compiled
def _encode_ranked(texts, merges, table, lengths, out, ends):
    length = texts.shape[1]
    sym, entries = np.empty(length + 2, np.int32), np.empty((3 * length + 3, 2), np.int32)
    first, last = np.full(merges.shape[0], -1, np.int32), np.empty(merges.shape[0], np.int32)
    num_out = 0
    for r in range(texts.shape[0]):
        here = out[num_out:]
        num_out += _encode_one_ranked(texts[r], merges, table, lengths, sym, first, last, entries, here)
        ends[r] = num_out


class RankedEncoder:
    """Standard BPE: the merges in training order, each from left to right."""

    def __init__(self, merges: np.ndarray, expansions: Expansions) -> None:
        self._merges, self._lengths = np.ascontiguousarray(merges, np.int32), expansions.lengths
        self._type = id_type(256 + len(merges))
        self._table = np.full((1 << (2 * len(merges) + 1).bit_length(), 3), -1, np.int32)
        _build_pairs(self._merges, self._table)
        #: ids this encoder can give, as far as the merges tell, ascending
        self.reachable = np.arange(256 + len(merges), dtype=np.int32)

    def rows(self, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ids (uint16 or uint32) of each row of uint8 ``(n, length)``, one behind the other, and where they end."""
        out, ends = np.empty(texts.size, self._type), np.empty(len(texts), np.int64)
        _encode_ranked(texts, self._merges, self._table, self._lengths, out, ends)
        return out[: ends[-1] if len(ends) else 0].copy(), ends

    def __call__(self, text: np.ndarray) -> np.ndarray:
        """Ids of a uint8 sequence."""
        return self.rows(text[None])[0]
