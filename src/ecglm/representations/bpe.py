"""Training of byte-pair encoding on symbol sequences: incremental, deterministic (numba)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from ecglm.errors import EcglmError
from ecglm.signals.compiled import compiled

MAX_VOCAB = 1 << 17  # ids have 17 bits in the heap key of the trainer
MAX_SYMBOLS = 1_000_000_000  # positions are 32-bit, counts have 30 bits in the key

_WIDTH = 512  # ids in the table of the sweeps, the last of which stands for a gap between sequences
_RARE = 96  # sweeps end where the best pair has less than one cell in so many


# ---------------------------------------------------------------------------------------------------------------------
# Text: one array of ids, the sequences parted, preceded and followed by gaps. Bytes that occur are numbered in
# ascending order from 0, merges go on from there, so ids compare as the real ones do.
#
# Sweeps: as long as the best pair is frequent, the text is rewritten for it from end to end, counts kept up to date on
# the way: sequential, and every sweep shortens the text by 1/_RARE at least, so all sweeps together look at no more
# than _RARE times the text's cells. On ECGs some fifty sweeps leave a fifth of the text to the links below.


@compiled
def _mark(sequence, seen):
    for symbol in sequence:
        seen[symbol] = True


@compiled
def _renumber(sequence, number, out):
    for p in range(sequence.size):
        out[p] = number[sequence[p]]


@compiled
def _first_counts(text, table):
    """Count the (overlapping) adjacent pairs of the text."""
    left = np.int64(text[0])
    for p in range(1, text.size):
        right = np.int64(text[p])
        table[left * _WIDTH + right] += 1
        left = right


@compiled
def _best_pair(table, num_ids):
    """The code of the most frequent pair, of equal ones the smallest, and its count."""
    most, row = np.int32(0), 0
    for left in range(num_ids):
        counts = table[left * _WIDTH : left * _WIDTH + num_ids]
        top = np.int32(0)
        for right in range(num_ids):
            top = max(top, counts[right])
        if top > most:
            most, row = top, left
    code = row * _WIDTH
    while most > 0 and table[code] != most:
        code += 1
    return code, most


@compiled
def _sweep(text, out, table, a, b, new, block):
    """Write the text with each pair (a, b), left to right, made ``new``; returns the number of cells written.

    Stretches of ``block`` cells without the pair are looked at and copied as a whole. The counts are those of what has
    been written followed by what has not been read yet: exact at every step, also in runs of equal symbols.
    """
    n, p, w = text.size, 0, 0
    merged = np.int32(0)
    while p < n:
        stop = p + block
        if stop < n:
            here, there, copy = text[p:stop], text[p + 1 : stop + 1], out[w : w + block]
            hit = np.uint16(0)
            for k in range(here.size):
                hit |= np.uint16((here[k] == a) & (there[k] == b))
            if hit == 0:
                for k in range(here.size):
                    copy[k] = here[k]
                p += block
                w += block
                continue
        else:
            stop = n
        while p < stop:
            symbol = text[p]
            if symbol == a and text[p + 1] == b:  # the last cell is a gap, which is no a
                before, after = np.int64(out[w - 1]), np.int64(text[p + 2])
                table[before * _WIDTH + a] -= 1
                table[before * _WIDTH + new] += 1
                table[np.int64(b) * _WIDTH + after] -= 1
                table[np.int64(new) * _WIDTH + after] += 1
                merged += 1
                out[w] = new
                p += 2
            else:
                out[w] = symbol
                p += 1
            w += 1
    table[np.int64(a) * _WIDTH + b] -= merged
    return w


# ---------------------------------------------------------------------------------------------------------------------
# Links: where pairs have become rare, only their own cells are visited. A token covers a stretch of cells of ``sym``
# (one cell, when the sweeps end); its id stands in the first and in the last of them, so the neighbours of a token are
# found from the lengths of ids. ``pair[p]`` is the number of the pair that starts at cell p, or -1; a pair's count is
# the number of cells that carry its number, which is the overlapping count ("aaaa" has 3) whatever happens around runs
# of equal symbols. All cells of a pair are known when the younger of its two ids is made, so they are written once,
# ascending, to a block of ``pool`` and looked at once more when the pair is merged; cells that belong to another pair
# by then are passed over.


@compiled
def _key(count, left, right):  # smallest first: highest count (30 bits), smallest left id, smallest right id (17 each)
    return ((np.int64(1 << 29) - count) << 34) | (np.int64(left) << 17) | np.int64(right)


@compiled
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


@compiled
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


@compiled
def _grown(array, size):
    new = np.empty(size, array.dtype)
    new[: array.size] = array
    return new


@compiled
def _first_pairs(sym, pair, pool, table, num_ids, min_count):
    """Number the pairs that ``table`` has counted: the state that ``_merge`` goes on from. ``table`` is used up."""
    num_pairs, used = 0, np.int64(0)
    for left_id in range(num_ids):
        for right_id in range(num_ids):
            if table[left_id * _WIDTH + right_id] >= min_count:
                num_pairs += 1
    capacity = 2 * num_pairs + 1024
    left, right, count = np.empty(capacity, np.int32), np.empty(capacity, np.int32), np.empty(capacity, np.int32)
    start, size = np.empty(capacity, np.int64), np.zeros(capacity, np.int32)
    keys, heap = np.empty(capacity, np.int64), np.empty(capacity, np.int32)
    num_pairs = 0
    for code in range(table.size):
        c, x, y = table[code], code // _WIDTH, code % _WIDTH
        table[code] = -1
        if c >= min_count and x < num_ids and y < num_ids:
            left[num_pairs], right[num_pairs], count[num_pairs], start[num_pairs] = x, y, c, used
            push(keys, heap, num_pairs, _key(c, x, y), num_pairs)
            table[code] = num_pairs
            used += c
            num_pairs += 1
    gap = sym[0]
    for p in range(sym.size - 1):
        pair[p] = -1
        if sym[p] != gap and sym[p + 1] != gap:
            s = table[np.int64(sym[p]) * _WIDTH + sym[p + 1]]
            if s >= 0:
                pair[p] = s
                pool[start[s] + size[s]] = p
                size[s] += 1
    pair[sym.size - 1] = -1
    head = np.array([used, num_pairs, num_pairs], np.int64)
    return pool, left, right, count, start, size, keys, heap, head


@compiled
def _merge(sym, pair, state, length, offset, merges, done, until, min_count):
    """Make merges number ``done`` .. ``until - 1``, ids ``offset + done`` ..; returns state and merges made so far."""
    gap = sym[0]
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

        new = offset + done
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
            if x != gap:
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
            if x != gap and x != new:  # (new, new) is counted once, from its left token
                if to_left[x] == 0:
                    seen_left[num_left] = x
                    num_left += 1
                to_left[x] += 1
            if y != gap:
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
            if x != gap and x != new and to_left[x] >= 0:
                s = to_left[x]
                pair[p - length[x]] = s
                pool[start[s] + size[s]] = p - length[x]
                size[s] += 1
            if y != gap and to_right[y] >= 0:
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


def _as_text(sequences: Sequence[np.ndarray], joined: bool) -> tuple[np.ndarray, np.ndarray]:
    """The text of the sweeps (uint16), and the byte that each of its first ids stands for."""
    seen = np.zeros(256, bool)
    for sequence in sequences:
        _mark(sequence, seen)
    symbols = np.flatnonzero(seen)
    number = np.zeros(256, np.uint16)
    number[symbols] = np.arange(len(symbols))
    text = np.full(sum(map(len, sequences)) + len(sequences) * (not joined) + 2, _WIDTH - 1, np.uint16)
    position = 1
    for sequence in sequences:
        _renumber(sequence, number, text[position : position + len(sequence)])
        position += len(sequence) + (not joined)
    return text, symbols


def train_merges(
    sequences: Sequence[np.ndarray],
    num_merges: int,
    *,
    min_count: int = 2,
    joined: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Learn BPE merges (arXiv 2412.14373): int32 ``(n, 2)`` of left and right ids, merge i making id ``256 + i``.

    sequences: uint8 arrays; no pair crosses from one to the next, unless all are ``joined``. The pair with the highest
    overlapping count is merged, ties by smallest left id, then smallest right id, until ``num_merges`` are made or the
    best count is under ``min_count``: n may be smaller than asked. Cost grows with the number of symbols, hardly with
    that of merges; 4 to 5 bytes per symbol on ECGs, up to 16 on noise that nothing compresses, beside the sequences.
    ``progress(done, num_merges)`` is called about four times a second, and Ctrl-C is heeded as often. Raises
    EcglmError for numbers out of range.
    """
    if not 0 <= num_merges <= MAX_VOCAB - 256:
        raise EcglmError(f"num_merges must be 0 to {MAX_VOCAB - 256}, not {num_merges}")
    if min_count < 1:
        raise EcglmError(f"min_count must be at least 1, not {min_count}")
    num_symbols = sum(map(len, sequences)) + len(sequences)
    if num_symbols > MAX_SYMBOLS:
        raise EcglmError(
            f"{num_symbols} symbols to train on, at most {MAX_SYMBOLS} are possible; sample fewer segments"
        )
    text, symbols = _as_text(sequences, joined)
    merges = np.zeros((num_merges, 2), np.int32)
    table = np.zeros(_WIDTH * _WIDTH, np.int32)
    _first_counts(text, table)
    done, told, began = 0, -1, time.monotonic()
    spare = text[:0]
    while done < num_merges and len(symbols) + done < _WIDTH - 1:
        new = len(symbols) + done
        code, count = _best_pair(table, new)
        if count < min_count or count * _RARE < text.size:
            break
        left, right = divmod(int(code), _WIDTH)
        if spare.size == 0:
            spare = np.empty_like(text)
        block = min(max(16, text.size // (4 * int(count))), 128)
        size = _sweep(text, spare, table, np.uint16(left), np.uint16(right), np.uint16(new), block)
        text, spare = spare[:size], text
        merges[done] = left, right
        done += 1
        if progress is not None and time.monotonic() - began > 0.25:
            told, began = done, time.monotonic()
            progress(done, num_merges)

    small = len(symbols) + num_merges < 0xFFFF
    sym = text.astype(np.uint16 if small else np.int32)
    sym[text == _WIDTH - 1] = 0xFFFF if small else 0x7FFFFFFF
    del text, spare
    pair, pool = np.empty(sym.size, np.int32), np.empty(sym.size + sym.size // 2, np.int32)
    state = _first_pairs(sym, pair, pool, table, len(symbols) + done, min_count)
    del pool
    length = np.ones(len(symbols) + num_merges, np.int32)
    chunk, until = 1, done
    while done < num_merges and done == until:
        until, began = min(done + chunk, num_merges), time.monotonic()
        state, done = _merge(sym, pair, state, length, len(symbols), merges, done, until, min_count)
        if progress is not None and done > told:
            told = done
            progress(done, num_merges)
        chunk = min(2 * chunk, 256) if time.monotonic() - began < 0.12 else max(chunk // 2, 1)
    if progress is not None and done > told:
        progress(done, num_merges)
    return np.concatenate([symbols, np.arange(256, 256 + num_merges)]).astype(np.int32)[merges[:done]]
