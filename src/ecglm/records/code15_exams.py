"""``exams.csv`` of CODE-15%: 345,779 rows as a few arrays, read in a second, rows found by exam id."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ecglm.errors import EcglmError, nearest
from ecglm.records.tables import decode, number

#: The six label columns; bit k of `Exams.labels` is the k-th.
LABELS = ("1dAVb", "RBBB", "LBBB", "SB", "ST", "AF")
_NEEDED = ("exam_id", "age", "is_male", *LABELS, "patient_id", "trace_file")
_OPTIONAL = ("normal_ecg", "death", "timey")
_BOOL = {"True": 1, "False": 0, "true": 1, "false": 0, "1": 1, "0": 0, "1.0": 1, "0.0": 0}
_EMPTY, _BAD = 2, 3
_MAX_ID = 10**15


@dataclass(frozen=True)
class Exams:
    """Columns of the table, ordered by ``exam_id`` (int64).

    patient: int64, -1 where unknown. trace_file: index into ``files``. labels: uint8, bits by `LABELS`. age and
    follow_up: years, NaN where empty. male, normal, death: 1, 0, or 2 where empty. bad: exam id → what is wrong with
    its row.
    """

    exam_id: np.ndarray
    patient: np.ndarray
    trace_file: np.ndarray
    files: tuple[str, ...]
    labels: np.ndarray
    age: np.ndarray
    male: np.ndarray
    normal: np.ndarray
    death: np.ndarray
    follow_up: np.ndarray
    bad: dict[int, str]

    def __len__(self) -> int:
        return len(self.exam_id)

    def find_all(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Row of every id (anything where there is none), and whether there is one."""
        at = np.minimum(np.searchsorted(self.exam_id, ids), len(self) - 1)
        return at, self.exam_id[at] == ids

    def find(self, exam: int) -> int | None:
        """The row of an exam id, or None."""
        at, known = self.find_all(np.array([exam]))
        return int(at[0]) if known[0] else None

    def part(self, at: int) -> str:
        """The file that a row names."""
        return self.files[int(self.trace_file[at])]

    def part_number(self, name: str) -> int:
        """The index of a file in ``files``, -1 where no row names it."""
        return self.files.index(name) if name in self.files else -1

    def facts(self, at: int) -> dict[str, Any]:
        """A row's share of a record's metadata."""
        age, years = float(self.age[at]), float(self.follow_up[at])
        return {
            "age": None if np.isnan(age) else int(age) if age.is_integer() else age,
            "sex": {1: "male", 0: "female"}.get(int(self.male[at])),
            "normal_ecg": _optional(self.normal[at]),
            "death": _optional(self.death[at]),
            "follow_up_years": None if np.isnan(years) else years,
        }


def _optional(code: np.integer) -> bool | None:
    return {1: True, 0: False}.get(int(code))


def read_exams(path: Path, mend: str) -> Exams:
    """Read the table. EcglmError naming the line for a lost column, a bad or doubled ``exam_id``, a ragged row."""
    columns = _read_columns(path, mend)
    ids = _numbers(columns["exam_id"], np.nan)
    wrong = np.flatnonzero(~((ids >= 0) & (ids < _MAX_ID) & (ids == np.floor(ids))))
    if len(wrong):
        text = str(columns["exam_id"][int(wrong[0])])[:40]
        raise EcglmError(f"{path}, row {wrong[0] + 1}: exam_id '{text}' is no whole number")
    order = np.argsort(ids, kind="stable")
    exam_id = ids[order].astype(np.int64)
    twice = np.flatnonzero(exam_id[1:] == exam_id[:-1])
    if len(twice):
        raise EcglmError(f"{path}: exam_id {exam_id[twice[0]]} stands twice; keep one row")
    bad: dict[int, str] = {}

    def note(name: str, rows: np.ndarray, needed: str) -> None:
        for row in np.flatnonzero(rows).tolist():
            text = str(columns[name][int(order[row])])[:40]
            bad.setdefault(int(exam_id[row]), f"{name} '{text}' is not {needed}")

    flags = {}
    for name in ("is_male", *LABELS, *_OPTIONAL[:2]):
        flags[name] = _flags(columns[name])[order]
        note(name, flags[name] == _BAD, "True or False")
    for name in LABELS:
        note(name, flags[name] == _EMPTY, "True or False")
    years = {}
    for name in ("age", "timey", "patient_id"):
        years[name] = _numbers(columns[name], np.nan)[order]
        note(name, np.isinf(years[name]), "a whole number" if name == "patient_id" else "a number")
    patient = years["patient_id"]
    note("patient_id", (patient < 0) | (patient != np.floor(patient)) & np.isfinite(patient), "a whole number")
    files, trace_file = np.unique(np.array(columns["trace_file"].to_pylist(), dtype=str), return_inverse=True)
    labels = np.zeros(len(exam_id), dtype=np.uint8)
    for bit, name in enumerate(LABELS):
        labels |= (flags[name] == 1).astype(np.uint8) << np.uint8(bit)
    return Exams(
        exam_id=exam_id,
        patient=np.where(np.isfinite(patient) & (patient >= 0), patient, -1).astype(np.int64),
        trace_file=trace_file[order].astype(np.int32),
        files=tuple(files.tolist()),
        labels=labels,
        age=years["age"].astype(np.float32),
        male=flags["is_male"],
        normal=flags["normal_ecg"],
        death=flags["death"],
        follow_up=years["timey"],
        bad=bad,
    )


def _read_columns(path: Path, mend: str) -> dict[str, Any]:
    """The columns that are used, as Arrow arrays of stripped text; an optional one that is lacking is empty."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv as pacsv

    try:
        text = decode(path.read_bytes())
    except FileNotFoundError as error:
        raise EcglmError(f"{path}: no such file; {mend}") from error
    except OSError as error:
        raise EcglmError(f"{path}: cannot be read ({error.strerror}); {mend}") from error
    if "\0" in text:
        raise EcglmError(f"{path}: holds binary data, a CSV table is needed")
    head, _, body = text.partition("\n")
    try:
        names = [name.strip() for name in next(csv.reader([head], strict=True), [])]
    except csv.Error as error:
        raise EcglmError(f"{path}, line 1: {error}") from error
    for name in _NEEDED:
        if names.count(name) != 1:
            what = "is missing" if name not in names else "stands twice"
            raise EcglmError(f"{path}: column '{name}' {what}{nearest(name, set(names) - {name})}; {mend}")
    if not body.strip():
        raise EcglmError(f"{path}: has no rows; {mend}")
    used = [name for name in (*_NEEDED, *_OPTIONAL) if names.count(name) == 1]
    places = [str(place) for place in range(len(names))]
    try:
        table = pacsv.read_csv(
            io.BytesIO(body.encode()),
            read_options=pacsv.ReadOptions(column_names=places, use_threads=False),
            parse_options=pacsv.ParseOptions(newlines_in_values=True),
            convert_options=pacsv.ConvertOptions(
                include_columns=[str(names.index(name)) for name in used],
                column_types=dict.fromkeys(places, pa.string()),
                check_utf8=False,
            ),
        )
    except pa.ArrowException as error:
        found = " ".join(str(error).split())[:160]
        raise EcglmError(f"{path}: {found} (rows are counted without the first line)") from error
    columns = {n: pc.utf8_trim_whitespace(table[str(names.index(n))]).combine_chunks() for n in used}
    empty = pa.array([""] * table.num_rows)
    return {name: columns.get(name, empty) for name in (*_NEEDED, *_OPTIONAL)}


def _flags(column: Any) -> np.ndarray:
    """True, False, empty or bad, as uint8."""
    import pyarrow.compute as pc

    words = pc.dictionary_encode(column)
    codes = [_BOOL.get(word, _EMPTY if not word else _BAD) for word in words.dictionary.to_pylist()]
    return np.array(codes, dtype=np.uint8)[words.indices.to_numpy()]


def _numbers(column: Any, empty: float) -> np.ndarray:
    """Text as float64; infinity for what is no finite number."""
    import pyarrow as pa
    import pyarrow.compute as pc

    filled = pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)
    try:
        values = pc.cast(filled, pa.float64())
        return np.where(pc.is_null(values), empty, _finite(values.fill_null(0.0).to_numpy(zero_copy_only=False)))
    except pa.ArrowInvalid:
        return np.array([empty if not text else _number(text) for text in column.to_pylist()], dtype=np.float64)


def _finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.inf)


def _number(text: str) -> float:
    try:
        return float(number(text))
    except (ValueError, OverflowError):
        return np.inf
