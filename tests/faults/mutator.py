"""Broken copies of good files, drawn from a seed: flipped, cut, padded, shuffled bytes, and hostile words in texts."""

from __future__ import annotations

import re

import numpy as np

#: What stands where a number or a word stood.
HOSTILE = (
    *("0", "-1", "1", "nan", "inf", "-inf", "1e309", "1e-320", "99999999999999999999", "-2147483649", "4294967296"),
    *(
        "",
        "NaN",
        "null",
        "true",
        "[]",
        "{}",
        "../up",
        "/etc/passwd",
        "~root",
        "C:\\x",
        "a/b",
        "%s%n",
        "\u0663",
        "é\u202e",
    ),
    *(
        "x" * 5000,
        "[" * 3000,
        "1" * 400,
        "0x10",
        "1,5",
        "16+24",
        "212",
        "8x4:2+9",
        "1000(0)/uV",
        "0/mV",
        '"',
        "'",
        "\\",
    ),
)
_BYTES = (
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\r\n",
    b"\n\n",
    b"\xed\xa0\x80",
    b"\x1b[2J",
    b"\xff" * 8,
    b"#",
    b",",
    b'"',
)


def mutate(data: bytes, rng: np.random.Generator, *, text: bool) -> bytes:
    """``data`` with one to four random injuries; of texts mostly whole words and lines are hit."""
    for _ in range(int(rng.integers(1, 5))):
        data = _injure_text(data, rng) if text and rng.random() < 0.7 else _injure_bytes(data, rng)
    return data


def _injure_text(data: bytes, rng: np.random.Generator) -> bytes:
    word = str(rng.choice(HOSTILE)).encode("utf-8", "surrogatepass")
    kind = rng.integers(6)
    if kind <= 2:  # a word or a number is replaced
        found = list(re.finditer(rb"[-\w.+()]+", data))
        if found:
            hit = found[int(rng.integers(len(found)))]
            return data[: hit.start()] + word + data[hit.end() :]
        return data + word
    lines = data.split(b"\n")
    at = int(rng.integers(len(lines)))
    if kind == 3:
        del lines[at]
    elif kind == 4:
        lines.insert(at, lines[int(rng.integers(len(lines)))])
    else:
        lines[at] = lines[at].replace(b" ", b"\t", 1) + word
    return b"\n".join(lines)


def _injure_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    if not data:
        return bytes(rng.integers(0, 256, 16, dtype=np.uint8))
    start = int(rng.integers(len(data)))
    # Early bytes hold the structure of binary files: hit them as often as all the others together.
    if rng.random() < 0.5:
        start = int(rng.integers(min(len(data), 512)))
    stop = min(len(data), start + int(rng.integers(1, 64)))
    kind = rng.integers(8)
    if kind <= 2:
        broken = bytearray(data)
        for at in range(start, stop):
            broken[at] ^= 1 << int(rng.integers(8))
        return bytes(broken)
    if kind == 3:
        return data[:start]
    if kind == 4:
        return data[:start] + data[stop:]
    if kind == 5:
        return data[:start] + data[start:stop] * int(rng.integers(2, 9)) + data[stop:]
    if kind == 6:
        return data[:start] + _BYTES[int(rng.integers(len(_BYTES)))] + data[start:]
    return data[:start] + (b"\xff" if rng.random() < 0.5 else b"\0") * (stop - start) + data[stop:]
