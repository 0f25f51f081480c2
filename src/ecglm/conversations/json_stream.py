"""Items of JSON, JSON-lines and Parquet files of any size, one at a time."""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from ecglm.errors import EcglmError

CHUNK = 1 << 20  # bytes read at once
MAX_ITEM = 64 << 20  # characters of one item
_BLANKS = " \t\r\n"
# A decoder that runs into the end of the buffer complains at most so far before it: a cut \uD83D\uDE00 or -Infinity.
_EDGE = 16


def iter_items(path: str | Path) -> Iterator[tuple[int, Any]]:
    """(position, item) of a file, in its order: ``.jsonl`` by lines, ``.parquet`` by rows, else one JSON array.

    Memory does not grow with the file. An item may be any JSON value. Of a Parquet row only text, numbers, lists and
    structures are read, so no bytes of images; fields that are null are left out.
    Raises EcglmError, naming the file, the item and its line: no such file, torn or malformed JSON, a key that stands
    twice, NaN or Infinity, bytes that are no UTF-8, an item of more than 64 MB, a file that is no list.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        return _parquet_rows(path)
    return _json_lines(path) if path.suffix == ".jsonl" else _json_array(path)


class _Bad(Exception):
    """JSON that is well formed and still refused."""


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        raise _Bad(f"key '{next(name for name in names if names.count(name) > 1)}' stands twice in one object")
    return result


def _constant(name: str) -> NoReturn:
    raise _Bad(f"{name} is no JSON")


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _Bad(f"{text[:40]} is beyond all numbers")
    return number


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant, parse_float=_float)


def _open(path: Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except FileNotFoundError as error:
        raise EcglmError(f"{path}: no such file") from error
    except OSError as error:
        raise EcglmError(f"{path}: cannot be read ({error.strerror})") from error


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    with _open(path) as handle:
        position = line = 0
        while raw := handle.readline(MAX_ITEM + 1):
            line += 1
            place = f"{path}, line {line}"
            if len(raw) > MAX_ITEM:
                raise EcglmError(f"{place}: longer than {MAX_ITEM >> 20} MB; is it a list? then name the file .json")
            try:
                text = raw.decode("utf-8-sig" if line == 1 else "utf-8").strip(_BLANKS)
            except UnicodeDecodeError as error:
                raise EcglmError(f"{place}: not UTF-8 ({error.reason} at byte {error.start})") from error
            if not text:
                continue
            try:
                item, end = _DECODER.raw_decode(text)
            except (_Bad, ValueError, RecursionError) as error:
                what = "the file is cut off here" if not raw.endswith(b"\n") else "not valid JSON"
                raise EcglmError(f"{place}: {what if not isinstance(error, _Bad) else ''}{_why(error)}") from error
            if end != len(text):
                raise EcglmError(f"{place}: more than one item in the line (from character {end})")
            yield position, item
            position += 1


def _why(error: Exception) -> str:
    if isinstance(error, _Bad):
        return str(error)
    return " (nested too deep)" if isinstance(error, RecursionError) else f" ({error})"


class _Buffer:
    """A window of text that slides over a file."""

    def __init__(self, path: Path, handle: BinaryIO) -> None:
        self.path, self.handle = path, handle
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self.text, self.at, self.line, self.ended = "", 0, 1, False

    def more(self, num_bytes: int = CHUNK) -> bool:
        """Forget what was read, append the next piece; False at the end of the file."""
        if self.ended:
            return False
        raw = self.handle.read(num_bytes)
        self.ended = not raw
        try:
            new = self.decoder.decode(raw, final=self.ended)
        except UnicodeDecodeError as error:
            place = self.handle.tell() - len(error.object) + error.start
            raise EcglmError(f"{self.path}: not UTF-8 ({error.reason} at byte {place})") from error
        self.line += self.text.count("\n", 0, self.at)
        self.text, self.at = self.text[self.at :] + new, 0
        return True

    def here(self, at: int | None = None) -> int:
        """The line of a place in the window, the current one by default."""
        return self.line + self.text.count("\n", 0, self.at if at is None else at)

    def peek(self) -> str:
        """The next character that is no blank; empty at the end of the file."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in _BLANKS:
                self.at += 1
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""


def _json_array(path: Path) -> Iterator[tuple[int, Any]]:
    with _open(path) as handle:
        buffer = _Buffer(path, handle)
        if (first := buffer.peek()) != "[":
            what = {"{": "an object (one item per line? then name the file .jsonl)", "": "nothing"}
            raise EcglmError(f"{path}: a list of items is needed, found {what.get(first, repr(first))}")
        buffer.at += 1
        position = 0
        if buffer.peek() == "]":
            buffer.at += 1
        else:
            while True:
                yield position, _next_item(buffer, position)
                position += 1
                mark = buffer.peek()
                buffer.at += 1
                if mark == "]":
                    break
                if mark != ",":
                    found = f"',' or ']' is needed, found {mark!r}" if mark else "the file is cut off here"
                    raise EcglmError(f"{path}, line {buffer.here()}, behind item {position - 1}: {found}")
        if buffer.peek():
            raise EcglmError(f"{path}, line {buffer.here()}: more text behind the end of the list")


def _next_item(buffer: _Buffer, position: int) -> Any:
    buffer.peek()
    step = CHUNK
    while True:
        whole = len(buffer.text)
        try:
            item, end = _DECODER.raw_decode(buffer.text, buffer.at)
            if end < whole or buffer.ended:  # a number at the edge may go on behind it
                buffer.at = end
                return item
        except json.JSONDecodeError as error:
            cut = error.msg.startswith("Unterminated string") or error.pos >= whole - _EDGE
            if buffer.ended or not cut:
                cut = cut and "]" not in buffer.text[max(error.pos, whole - _EDGE) :]
                what = "the file is cut off here" if cut else "not valid JSON"
                raise _at(buffer, position, f"{what} ({error.msg} in line {buffer.here(error.pos)})") from error
        except (_Bad, ValueError, RecursionError) as error:
            raise _at(buffer, position, _why(error).strip()) from error
        if whole - buffer.at > MAX_ITEM:
            raise _at(buffer, position, f"more than {MAX_ITEM >> 20} MB, or a quote is missing; no item is that long")
        buffer.more(step)
        step *= 2  # so that a long item is not decoded from its start too often


def _at(buffer: _Buffer, position: int, what: str) -> EcglmError:
    return EcglmError(f"{buffer.path}, line {buffer.here()}, item {position}: {what}")


def _parquet_rows(path: Path) -> Iterator[tuple[int, Any]]:
    _open(path).close()
    try:
        with pq.ParquetFile(path) as file:
            columns = [field.name for field in file.schema_arrow if _is_json(field.type)]
            position = 0
            for batch in file.iter_batches(batch_size=256, columns=columns):
                for row in batch.to_pylist():
                    yield position, _without_nulls(row, f"{path}, row {position}")
                    position += 1
    except (pa.ArrowInvalid, OSError) as error:
        raise EcglmError(f"{path}: cannot be read as Parquet ({str(error).splitlines()[0]})") from error


def _is_json(kind: pa.DataType) -> bool:
    """Whether a column holds what JSON can: no bytes, no dates."""
    if pa.types.is_struct(kind):
        return all(_is_json(field.type) for field in kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_json(kind.value_type)
    simple = (pa.types.is_string, pa.types.is_large_string, pa.types.is_boolean, pa.types.is_integer)
    return any(test(kind) for test in (*simple, pa.types.is_floating))


def _without_nulls(value: Any, place: str) -> Any:
    """Objects without the fields that a column's common type gave them."""
    if isinstance(value, dict):
        return {name: _without_nulls(part, place) for name, part in value.items() if part is not None}
    if isinstance(value, float) and not math.isfinite(value):
        raise EcglmError(f"{place}: NaN or Infinity, which JSON does not have")
    return [_without_nulls(part, place) for part in value] if isinstance(value, list) else value
