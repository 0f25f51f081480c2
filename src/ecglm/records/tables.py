"""Metadata tables (CSV), read strictly: a byte-order mark, quotes and latin-1 are fine, a lost column is not."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

from ecglm.errors import EcglmError, nearest


def decode(data: bytes) -> str:
    """Text of a table: UTF-8 with or without byte-order mark, else latin-1."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def read_table(path: Path, required: Sequence[str], key: str | None, *, mend: str) -> list[dict[str, str]]:
    """Rows of a CSV file with a header row, as dicts of stripped text.

    required: columns that must be there; others come along. key: the column whose values must differ from row to
    row. mend: what the user does when the file is missing. Raises EcglmError naming the line.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise EcglmError(f"{path}: no such file; {mend}") from error
    except OSError as error:
        raise EcglmError(f"{path}: cannot be read ({error.strerror}); {mend}") from error
    return parse_table(data, str(path), required, key, mend=mend)


def parse_table(data: bytes, path: str, required: Sequence[str], key: str | None, *, mend: str) -> list[dict[str, str]]:
    """``read_table`` of the bytes of a file that lies anywhere; ``path`` is its name in messages."""
    text = decode(data)
    if "\0" in text:
        raise EcglmError(f"{path}: holds binary data, a CSV table is needed")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[dict[str, str]] = []
    lines: dict[str, int] = {}
    try:
        names = [name.strip() for name in next(reader, [])]
        for name in required:
            if name not in names:
                raise EcglmError(f"{path}: column '{name}' is missing{nearest(name, names)}; {mend}")
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise EcglmError(f"{path}: column '{twice}' stands twice; keep one")
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(names):
                raise EcglmError(
                    f"{path}, line {reader.line_num}: {len(cells)} cells, {len(names)} columns; quote cells with commas"
                )
            row = dict(zip(names, map(str.strip, cells), strict=True))
            if key is not None:
                value = row[key]
                if value in lines:
                    raise EcglmError(
                        f"{path}, line {reader.line_num}: {key} '{value}' stands twice (first on line {lines[value]})"
                    )
                lines[value] = reader.line_num
            rows.append(row)
    except csv.Error as error:
        raise EcglmError(f"{path}, line {reader.line_num}: {error}") from error
    return rows


def number(text: str) -> int | float:
    """A finite number, as an int where it is whole (``56.0`` is 56); ValueError for anything else."""
    try:
        return int(text)
    except ValueError:
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(f"not a number: {text!r}") from None
        return int(value) if value.is_integer() else value


def whole_number(text: str) -> int:
    """``15709`` or ``15709.0`` as an int; ValueError for anything else."""
    value = number(text)
    if not isinstance(value, int):
        raise ValueError(f"not a whole number: {text!r}")
    return value
