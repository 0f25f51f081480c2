"""Training of byte-pair encoding on symbol sequences: incremental, deterministic (numba)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np

from ecglm.errors import EcglmError

MAX_VOCAB = 1 << 16  # an id fits 16 bits, which the heap key of the trainer relies on
MAX_SYMBOLS = 1_000_000_000  # positions are 32-bit

_HIGH = 0x7FFFFFFF


def njit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile once per machine; where no folder can hold the cache, once per process."""
    try:
        return numba.njit(function, cache=True, nogil=True)
    except RuntimeError:
        return numba.njit(function, nogil=True)


# ---------------------------------------------------------------------------------------------------------------------
# Trainer. A token covers a stretch of cells of ``sym``; its id stands in the first and in the last cell of it, so the
# neighbours of a token are found from the lengths of ids, without links. Sequences are parted by cells of -1.
# ``pair[p]`` is the number of the pair that starts at cell p, or -1; a pair's count is the number of cells that carry
# its number, which is the overlapping count ("aaaa" has 3) whatever happens around runs of equal symbols. All cells of
# a pair are known when the younger of its two ids is made, so they are written once, ascending, to a block of ``pool``
# and looked at once more when the pair is merged; cells that belong to another pair by then are passed over.


@njit
def _key(count, left, right):  # smallest first: highest count, then smallest left id, then smallest right id
    return ((_HIGH - np.int64(count)) << 32) | (np.int64(left) << 16) | np.int64(right)


@njit
def push(keys, heap, n, key, item):
    """Put (key, item) into a heap of n entries."""
    while n > 0:
        parent = (n - 1) >> 1
        if keys[parent] <= key:
            break
        keys[n] = keys[parent]
        heap[n] = heap[parent]
        n = parent
    keys[n] = key
    heap[n] = item


@njit
def replace_top(keys, heap, n, key, item):
    """Put (key, item) in the place of the top of a heap of n entries."""
    i = 0
    while True:
        child = 2 * i + 1
        if child >= n:
            break
        if child + 1 < n and keys[child + 1] < keys[child]:
            child += 1
        if key <= keys[child]:
            break
        keys[i] = keys[child]
        heap[i] = heap[child]
        i = child
    keys[i] = key
    heap[i] = item


@njit
def _grown(array, size):
    new = np.empty(size, array.dtype)
    new[: array.size] = array
    return new


@njit
def _first_pairs(sym, pair, pool, min_count):
    """Number the pairs of the untouched text: the state that ``_merge`` goes on from."""
    n = sym.size
    number = np.zeros(1 << 16, np.int32)
    for p in range(n - 1):
        pair[p] = -1
        if sym[p] >= 0 and sym[p + 1] >= 0:
            number[(sym[p] << 8) | sym[p + 1]] += 1
    pair[n - 1] = -1
    capacity = 1 << 16
    left, right, count = np.empty(capacity, np.int32), np.empty(capacity, np.int32), np.empty(capacity, np.int32)
    start, size = np.empty(capacity, np.int64), np.zeros(capacity, np.int32)
    keys, heap = np.empty(capacity, np.int64), np.empty(capacity, np.int32)
    num_pairs, used = 0, 0
    for code in range(number.size):
        c = number[code]
        number[code] = -1
        if c >= min_count:
            left[num_pairs], right[num_pairs], count[num_pairs] = code >> 8, code & 255, c
            start[num_pairs] = used
            push(keys, heap, num_pairs, _key(c, code >> 8, code & 255), num_pairs)
            number[code] = num_pairs
            used += c
            num_pairs += 1
    for p in range(n - 1):
        if sym[p] >= 0 and sym[p + 1] >= 0:
            s = number[(sym[p] << 8) | sym[p + 1]]
            if s >= 0:
                pair[p] = s
                pool[start[s] + size[s]] = p
                size[s] += 1
    head = np.array([used, num_pairs, num_pairs], np.int64)
    return pool, left, right, count, start, size, keys, heap, head


@njit
def _merge(sym, pair, state, length, merges, done, until, min_count):
    """Make merges number ``done`` .. ``until - 1``; returns the state and the number of merges made so far."""
    pool, left, right, count, start, size, keys, heap, head = state
    used, num_pairs, heap_size = head[0], head[1], head[2]
    to_left, to_right = np.zeros(length.size, np.int32), np.zeros(length.size, np.int32)
    seen_left, seen_right = np.empty(length.size, np.int32), np.empty(length.size, np.int32)
    while done < until:
        best = np.int32(-1)
        while heap_size > 0:  # a stored count may be too high, never too low: what is up to date on top is the best
            s = heap[0]
            key = _key(count[s], left[s], right[s])
            if keys[0] == key:
                best = s
                break
            if count[s] >= min_count:
                replace_top(keys, heap, heap_size, key, s)
            else:
                heap_size -= 1
                replace_top(keys, heap, heap_size, keys[heap_size], heap[heap_size])
        if best < 0:
            break

        room = 2 * np.int64(count[best])
        if used + room > pool.size:  # drop the cells that have gone to other pairs
            used = 0
            for s in range(num_pairs):
                first, stop = start[s], start[s] + size[s]
                start[s] = used
                for k in range(first, stop):
                    if pair[pool[k]] == s:
                        pool[used] = pool[k]
                        used += 1
                size[s] = used - start[s]
            if used + room > pool.size:
                pool = _grown(pool, used + room)

        new = 256 + done
        a, b = left[best], right[best]
        length_a, length_b = length[a], length[b]
        span = length_a + length_b
        length[new] = span
        merges[done, 0], merges[done, 1] = a, b

        base, num_merged = start[best], 0
        for k in range(base, base + size[best]):
            p = pool[k]
            if pair[p] != best:
                continue  # another pair by now, or swallowed by the merge before it in a run of equal symbols
            q = p + length_a
            x = sym[p - 1]
            if x >= 0:
                before = p - length[x]
                if pair[before] >= 0:
                    count[pair[before]] -= 1
                    pair[before] = -1
            if pair[q] >= 0:
                count[pair[q]] -= 1
                pair[q] = -1
            count[best] -= 1
            pair[p] = -1
            sym[p] = new
            sym[q + length_b - 1] = new
            pool[base + num_merged] = p
            num_merged += 1
        size[best] = 0

        num_left, num_right = 0, 0
        for k in range(base, base + num_merged):
            p = pool[k]
            x, y = sym[p - 1], sym[p + span]
            if x >= 0 and x != new:  # (new, new) is counted once, from its left token
                if to_left[x] == 0:
                    seen_left[num_left] = x
                    num_left += 1
                to_left[x] += 1
            if y >= 0:
                if to_right[y] == 0:
                    seen_right[num_right] = y
                    num_right += 1
                to_right[y] += 1

        if num_pairs + num_left + num_right > left.size:
            wanted = 2 * (num_pairs + num_left + num_right)
            left, right, count = _grown(left, wanted), _grown(right, wanted), _grown(count, wanted)
            start, size = _grown(start, wanted), _grown(size, wanted)
            keys, heap = _grown(keys, wanted), _grown(heap, wanted)
        for k in range(num_left + num_right):
            if k < num_left:
                x, y = seen_left[k], np.int32(new)
                c = to_left[x]
            else:
                x, y = np.int32(new), seen_right[k - num_left]
                c = to_right[y]
            s = -1
            if c >= min_count:  # counts never grow: a rarer pair can never be chosen and is not followed
                s = num_pairs
                left[s], right[s], count[s], start[s], size[s] = x, y, c, used, 0
                used += c
                push(keys, heap, heap_size, _key(c, x, y), s)
                heap_size += 1
                num_pairs += 1
            if k < num_left:
                to_left[x] = s
            else:
                to_right[y] = s
        for k in range(base, base + num_merged):
            p = pool[k]
            x, y = sym[p - 1], sym[p + span]
            if x >= 0 and x != new and to_left[x] >= 0:
                s = to_left[x]
                pair[p - length[x]] = s
                pool[start[s] + size[s]] = p - length[x]
                size[s] += 1
            if y >= 0 and to_right[y] >= 0:
                s = to_right[y]
                pair[p] = s
                pool[start[s] + size[s]] = p
                size[s] += 1
        for k in range(num_left):
            to_left[seen_left[k]] = 0
        for k in range(num_right):
            to_right[seen_right[k]] = 0
        done += 1
    head[0], head[1], head[2] = used, num_pairs, heap_size
    return (pool, left, right, count, start, size, keys, heap, head), done


def train_merges(
    sequences: Sequence[np.ndarray],
    num_merges: int,
    *,
    min_count: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Learn BPE merges (arXiv 2412.14373): int32 ``(n, 2)`` of left and right ids, merge i making id ``256 + i``.

    sequences: uint8 arrays; no pair crosses from one to the next. The pair with the highest overlapping count is
    merged, ties by smallest left id, then smallest right id, until ``num_merges`` are made or the best count is under
    ``min_count``: n may be smaller than asked. Cost grows with the number of symbols, hardly with that of merges;
    about 16 bytes per symbol. ``progress(done, num_merges)`` is called about four times a second, and Ctrl-C is heeded
    as often. Raises EcglmError for numbers out of range.
    """
    if not 0 <= num_merges <= MAX_VOCAB - 256:
        raise EcglmError(f"num_merges must be 0 to {MAX_VOCAB - 256}, not {num_merges}")
    if min_count < 1:
        raise EcglmError(f"min_count must be at least 1, not {min_count}")
    num_cells = sum(len(s) + 1 for s in sequences) + 1
    if num_cells > MAX_SYMBOLS:
        raise EcglmError(f"{num_cells} symbols to train on, at most {MAX_SYMBOLS} are possible; sample fewer segments")
    sym = np.full(num_cells, -1, np.int32)
    position = 1
    for sequence in sequences:
        sym[position : position + len(sequence)] = sequence
        position += len(sequence) + 1
    pair = np.empty(num_cells, np.int32)
    length = np.ones(256 + num_merges, np.int32)
    merges = np.zeros((num_merges, 2), np.int32)
    state = _first_pairs(sym, pair, np.empty(num_cells + num_cells // 2, np.int32), min_count)
    done, chunk = 0, 1
    while done < num_merges:
        until, began = min(done + chunk, num_merges), time.monotonic()
        state, done = _merge(sym, pair, state, length, merges, done, until, min_count)
        if progress is not None:
            progress(done, num_merges)
        if done < until:
            break
        chunk = min(2 * chunk, 256) if time.monotonic() - began < 0.12 else max(chunk // 2, 1)
    return merges[:done].copy()
