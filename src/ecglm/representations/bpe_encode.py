"""Encoding and decoding with byte-pair merges: greedy longest match over a flat trie, or ranked (numba)."""

from __future__ import annotations

import numpy as np

from ecglm.errors import EcglmError
from ecglm.representations.bpe import njit, push, replace_top

MAX_EXPANSION = 1 << 24  # symbols in all expansions together: bounds what a hostile file can make us allocate


# ---------------------------------------------------------------------------------------------------------------------
# Expansions, and the greedy encoder: longest match in a trie whose nodes stand in depth-first order, so that the only
# child of a node is the node behind it, and only branching nodes need a row of children.

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

    def decode(self, ids: np.ndarray) -> np.ndarray:
        """The symbols (uint8) of a sequence of ids, all in range."""
        return _decode(self.symbols, self.offsets, np.ascontiguousarray(ids, np.int32), int(self.lengths[ids].sum()))


@njit
def _decode(symbols, offsets, ids, size):
    out = np.empty(size, np.uint8)
    w = 0
    for i in ids:
        for k in range(offsets[i], offsets[i + 1]):
            out[w] = symbols[k]
            w += 1
    return out


@njit
def _build_trie(symbols, starts, lengths, ids, classes, num_classes):
    """Nodes ``(number, 3)``: class of the only child (or leaf, or branch), row of children, id; and the rows.

    The expansions come in ascending order of their classes, each once.
    """
    depth_max = lengths.max()
    path = np.zeros(depth_max + 1, np.int32)
    total = 1
    for k in range(ids.size):
        total += lengths[k]
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


@njit
def _encode_greedy(text, classes, nodes, rows, out):
    n, i, num_out = text.size, 0, 0
    while i < n:
        node, k, end, best = 0, i, i + 1, np.int32(text[i])
        while k < n:
            symbol_class = classes[text[k]]
            if symbol_class < 0:
                break
            only = nodes[node, 0]
            if only == symbol_class:
                node += 1
            elif only == _BRANCH:
                node = rows[nodes[node, 1], symbol_class]
                if node < 0:
                    break
            else:
                break
            k += 1
            if nodes[node, 2] >= 0:
                best, end = nodes[node, 2], k
        out[num_out] = best
        num_out += 1
        i = end
    return num_out


class GreedyEncoder:
    """Longest match at each position over the 256 bytes and all expansions (not BPE order). Built once."""

    def __init__(self, expansions: Expansions) -> None:
        first: dict[bytes, int] = {}
        for index, text in enumerate(expansions.texts):
            first.setdefault(text, index)  # of two ids with one expansion the older is given
        #: ids this encoder can give, ascending
        self.reachable = np.array(sorted(first.values()), np.int32)
        used = sorted(set(b"".join(text for text in first if len(text) > 1)))
        self._classes = np.full(256, -1, np.int32)  # -1: a byte that stands in no merge, and matches no node
        self._classes[used] = np.arange(len(used))
        texts = sorted(text for text in first if len(text) > 1 or text[0] in used)
        if texts:
            ids = np.array([first[text] for text in texts], np.int32)
        else:
            ids = np.zeros(1, np.int32)  # no merges: a trie of one byte, which no class leads to
        self._nodes, self._rows = _build_trie(
            expansions.symbols, expansions.offsets[ids], expansions.lengths[ids], ids, self._classes, max(len(used), 1)
        )

    def __call__(self, text: np.ndarray) -> np.ndarray:
        """int32 ids of a uint8 sequence."""
        out = np.empty(text.size, np.int32)
        return out[: _encode_greedy(text, self._classes, self._nodes, self._rows, out)].copy()


# ---------------------------------------------------------------------------------------------------------------------
# Ranked encoder: the merges in training order, by a heap of (merge, position).


@njit
def _slot_of(table, left, right):
    """Where the pair stands, or should stand, in the open-addressing table of rows (left, right, merge)."""
    mask = table.shape[0] - 1
    slot = (np.int64(left) * 40503 + np.int64(right) * 2654435761) & mask
    while table[slot, 2] >= 0 and (table[slot, 0] != left or table[slot, 1] != right):
        slot = (slot + 1) & mask
    return slot


@njit
def _build_pairs(merges, table):
    for i in range(merges.shape[0]):
        slot = _slot_of(table, merges[i, 0], merges[i, 1])
        table[slot, 0], table[slot, 1], table[slot, 2] = merges[i, 0], merges[i, 1], i


@njit
def _encode_ranked(text, merges, table, lengths, out):
    n = text.size
    sym = np.full(n + 2, -1, np.int32)
    sym[1 : n + 1] = text
    keys, heap = np.empty(3 * n + 3, np.int64), np.empty(3 * n + 3, np.int32)
    size = 0
    for p in range(1, n):
        merge = table[_slot_of(table, sym[p], sym[p + 1]), 2]
        if merge >= 0:
            push(keys, heap, size, (np.int64(merge) << 32) | p, p)
            size += 1
    while size > 0:
        merge, p = keys[0] >> 32, keys[0] & 0xFFFFFFFF
        size -= 1
        replace_top(keys, heap, size, keys[size], heap[size])
        left, right = merges[merge, 0], merges[merge, 1]
        q = p + lengths[left]
        if sym[p] != left or sym[q] != right:
            continue
        new = np.int32(256 + merge)
        last = q + lengths[right] - 1
        sym[q] = -2  # no token starts here any more
        sym[p], sym[last] = new, new
        before = p - lengths[sym[p - 1]] if sym[p - 1] >= 0 else p
        for start in (before, p):
            other = sym[start + lengths[sym[start]]]
            if other >= 0:
                found = table[_slot_of(table, sym[start], other), 2]
                if found >= 0:
                    push(keys, heap, size, (np.int64(found) << 32) | start, start)
                    size += 1
    num_out, cell = 0, 1
    while cell <= n:
        out[num_out] = sym[cell]
        cell += lengths[sym[cell]]
        num_out += 1
    return num_out


class RankedEncoder:
    """Standard BPE: the merges in training order, each from left to right."""

    def __init__(self, merges: np.ndarray, expansions: Expansions) -> None:
        self._merges, self._lengths = np.ascontiguousarray(merges, np.int32), expansions.lengths
        self._table = np.full((1 << (2 * len(merges) + 1).bit_length(), 3), -1, np.int32)
        _build_pairs(self._merges, self._table)
        #: ids this encoder can give, as far as the merges tell, ascending
        self.reachable = np.arange(256 + len(merges), dtype=np.int32)

    def __call__(self, text: np.ndarray) -> np.ndarray:
        """int32 ids of a uint8 sequence."""
        out = np.empty(text.size, np.int32)
        return out[: _encode_ranked(text, self._merges, self._table, self._lengths, out)].copy()
