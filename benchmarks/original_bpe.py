"""The original training of byte-pair encoding, compiled and on all cores: the baseline of ``ecg_byte.py``.

For each merge all adjacent pairs are counted anew and the whole text is rewritten, as ECG-Byte's trainer does. It is
kinder to the original than the original is: symbols are renumbered so that counts fit a dense table while there are few
ids, later an open-addressing table of the size of the second-level cache; each core keeps a stretch of the text for
itself, so nothing is copied between cores; and the most frequent pair is looked for on all cores too. Ties as in ours
(smallest left id, then smallest right id), where the original leaves them to its hash map's order.
"""

from __future__ import annotations

import numba
import numpy as np

DENSE_IDS = 700  # up to so many ids a dense table is the faster one
_ALL = 0xFFFFFFFF


@numba.njit(cache=True)
def _count_dense(text, size, following, table, num_ids):
    for code in range(num_ids * num_ids):
        table[code] = 0
    if size == 0:
        return
    left = text[0]
    for i in range(1, size):
        right = text[i]
        table[left * num_ids + right] += 1
        left = right
    if following >= 0:
        table[left * num_ids + following] += 1


@numba.njit(cache=True)
def _slot(keys, code):
    mask = np.uint32(keys.size - 1)
    slot = ((np.uint32(code) * np.uint32(2654435769)) >> np.uint32(10)) & mask
    while keys[slot] != code and keys[slot] >= 0:
        slot = (slot + np.uint32(1)) & mask
    return slot


@numba.njit(cache=True)
def _count_hashed(text, size, following, keys, counts, num_ids):
    """Returns how many slots are used; gives up where the table is more than three quarters full."""
    for slot in range(keys.size):
        keys[slot] = -1
    used, limit = 0, keys.size // 4 * 3
    if size == 0:
        return used
    left = text[0]
    for i in range(1, size + 1):
        right = text[i] if i < size else following
        if right < 0 or used > limit:
            break
        code = np.int32(left * num_ids + right)
        slot = _slot(keys, code)
        if keys[slot] < 0:
            keys[slot] = code
            counts[slot] = 0
            used += 1
        counts[slot] += 1
        left = right
    return used


@numba.njit(cache=True, parallel=True)
def _best_dense(texts, sizes, tables, num_ids):
    num_parts = sizes.size
    for part in numba.prange(num_parts):
        following = texts[part + 1, 0] if part + 1 < num_parts else -1
        _count_dense(texts[part], sizes[part], following, tables[part], num_ids)
    best = np.zeros(num_parts, np.int64)
    for part in numba.prange(num_parts):
        top, top_code = np.int64(0), 0
        for code in range(num_ids * num_ids * part // num_parts, num_ids * num_ids * (part + 1) // num_parts):
            count = np.int64(0)
            for other in range(num_parts):
                count += tables[other, code]
            if count > top:
                top, top_code = count, code
        best[part] = (top << 32) | (_ALL - top_code)
    return best.max()


@numba.njit(cache=True, parallel=True)
def _best_hashed(texts, sizes, keys, counts, num_ids):
    num_parts = sizes.size
    used = np.zeros(num_parts, np.int64)
    for part in numba.prange(num_parts):
        following = texts[part + 1, 0] if part + 1 < num_parts else -1
        used[part] = _count_hashed(texts[part], sizes[part], following, keys[part], counts[part], num_ids)
    size = keys.shape[1]
    if used.max() > size // 4 * 3:
        return np.int64(-1)
    best = np.zeros(num_parts, np.int64)
    for part in numba.prange(num_parts):
        top = np.int64(0)
        for first in range(num_parts):
            for slot in range(size * part // num_parts, size * (part + 1) // num_parts):
                code = keys[first, slot]
                if code < 0:
                    continue
                count = np.int64(counts[first, slot])
                for other in range(num_parts):
                    if other != first:
                        found = _slot(keys[other], code)
                        if keys[other, found] == code:
                            count += counts[other, found]
                top = max(top, (count << 32) | (_ALL - np.int64(code)))
        best[part] = top
    return best.max()


@numba.njit(cache=True)
def _rewrite(text, begin, size, a, b, new, crossing):
    write, i, end = 0, begin, size - 1 if crossing else size
    while i < end:
        symbol = text[i]
        if symbol == a and i + 1 < end and text[i + 1] == b:
            symbol = new
            i += 1
        text[write] = symbol
        write += 1
        i += 1
    if crossing:
        text[write] = new
        write += 1
    return write


@numba.njit(cache=True, parallel=True)
def _rewrite_all(texts, sizes, a, b, new):
    num_parts = sizes.size
    begin, crossing = np.zeros(num_parts, np.int64), np.zeros(num_parts, np.bool_)
    for part in range(num_parts - 1):  # does a pair lie across the end of a part? In a run, every second one counts
        run, last = 0, sizes[part] - 1
        while last - run >= begin[part] and texts[part, last - run] == a:
            run += 1
            if a != b:
                break
        if run % 2 == 1 and texts[part + 1, 0] == b:
            crossing[part] = True
            begin[part + 1] = 1
    for part in numba.prange(num_parts):
        sizes[part] = _rewrite(texts[part], begin[part], sizes[part], a, b, new, crossing[part])


def train_original(text: np.ndarray, num_merges: int) -> list[list[int]]:
    """Merges of one text (uint8), which stays much longer than there are cores; stops where no pair occurs twice."""
    symbols = np.unique(text)
    number = np.zeros(256, np.int32)
    number[symbols] = np.arange(len(symbols))
    parts = np.array_split(text, numba.get_num_threads())
    texts = np.zeros((len(parts), max(map(len, parts))), np.int32)
    for row, part in zip(texts, parts, strict=True):
        row[: len(part)] = number[part]
    sizes = np.array([len(part) for part in parts])
    tables = np.zeros((len(parts), DENSE_IDS * DENSE_IDS), np.int32)
    keys, counts = (np.zeros((len(parts), 1 << 16), np.int32) for _ in range(2))
    merges: list[list[int]] = []
    for new in range(len(symbols), len(symbols) + num_merges):
        if new <= DENSE_IDS:
            best = int(_best_dense(texts, sizes, tables, new))
        else:
            while (best := int(_best_hashed(texts, sizes, keys, counts, new))) < 0:
                keys, counts = (np.zeros((len(parts), 2 * keys.shape[1]), np.int32) for _ in range(2))
        if best >> 32 < 2:
            break
        left, right = divmod(_ALL - (best & _ALL), new)
        _rewrite_all(texts, sizes, left, right, new)
        merges.append([left, right])
    ids = [*symbols.tolist(), *range(256, 256 + num_merges)]
    return [[ids[left], ids[right]] for left, right in merges]
