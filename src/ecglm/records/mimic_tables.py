"""The three tables of MIMIC-IV-ECG in compact form: 800,000 rows take seconds and 350 MB."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ecglm.errors import EcglmError, nearest
from ecglm.records.tables import decode
from ecglm.records.tree import Tree

if TYPE_CHECKING:
    import pyarrow as pa

RECORDS, MACHINE, NOTES = "record_list.csv", "machine_measurements.csv", "waveform_note_links.csv"
#: ms, then degrees.
INTERVALS = ("rr_interval", "p_onset", "p_end", "qrs_onset", "qrs_end", "t_end")
AXES = ("p_axis", "qrs_axis", "t_axis")
_MAX_REPORT_LINES = 64
_MISSING = (29999.0, 32767.0, 0.0, -21846.0)
_MEND = "--root must be MIMIC-IV-ECG (see https://physionet.org/content/mimic-iv-ecg/)"


class Tables(NamedTuple):
    """Rows of ``record_list.csv`` in their order. study, subject: int64 ``(rows,)``; path, time: text arrays.

    order: row numbers by ascending study, which sorted_study has. machine: row of ``machine_measurements.csv``, -1
    without. machine_subject: subject of each row there. lines: one text column per ``report_k`` as (int32 codes, the
    distinct lines). values: float32 ``(rows there, 9)``, INTERVALS then AXES, NaN where missing. details: ``cart_id
    bandwidth filtering`` like lines. note_study, note_id: the links, by ascending study.
    """

    study: np.ndarray
    subject: np.ndarray
    path: pa.Array
    time: pa.Array
    order: np.ndarray
    sorted_study: np.ndarray
    machine: np.ndarray
    machine_subject: np.ndarray
    lines: list[tuple[np.ndarray, list[str]]]
    values: np.ndarray
    details: dict[str, tuple[np.ndarray, list[str]]]
    note_study: np.ndarray
    note_id: pa.Array

    def row(self, study: int) -> int:
        """The row of a study in ``record_list.csv``, -1 for one that is not there."""
        at = int(self.sorted_study.searchsorted(study))
        return int(self.order[at]) if at < len(self.order) and self.sorted_study[at] == study else -1

    def report_lines(self, row: int) -> list[str]:
        """The machine's statements for a row, in order, without empty ones."""
        machine = self.machine[row]
        if machine < 0:
            return []
        found = (texts[codes[machine]] for codes, texts in self.lines)
        return [text for text in found if text]

    def with_report(self) -> np.ndarray:
        """bool ``(rows,)``: whether the machine said anything."""
        said = np.zeros(len(self.machine_subject) + 1, bool)  # the last one stands for "no row"
        for codes, texts in self.lines:
            said[:-1] |= np.array([bool(text) for text in texts])[codes]
        return said[self.machine]

    def measurements(self, row: int) -> dict[str, int | float]:
        """What the machine measured: ms and degrees, those that are missing left out."""
        machine = self.machine[row]
        if machine < 0:
            return {}
        values = zip((*INTERVALS, *AXES), self.values[machine].tolist(), strict=True)
        return {name: int(v) if v.is_integer() else round(v, 3) for name, v in values if v == v}

    def details_of(self, row: int) -> dict[str, str | None]:
        """``cart_id``, ``bandwidth`` and ``filtering``, None where empty."""
        machine = self.machine[row]
        return {
            n: (texts[codes[machine]] or None) if machine >= 0 else None for n, (codes, texts) in self.details.items()
        }

    def note_ids(self, study: int) -> list[str]:
        """Ids of the cardiologist's notes about a study (the notes themselves are not distributed)."""
        low, high = self.note_study.searchsorted((study, study + 1)).tolist()
        return [self.note_id[i].as_py() for i in range(low, high)]


def read_tables(tree: Tree) -> Tables:
    """Read the tables; ``waveform_note_links.csv`` may be absent.

    Raises EcglmError naming file and field for a missing table or column, a study that stands twice, a cell that is
    no number.
    """
    import pyarrow as pa

    records = _read(tree, RECORDS, {"subject_id": "int", "study_id": "int", "ecg_time": "text", "path": "text"})
    names = _columns(tree, MACHINE)
    reports = [name for name in names if name.startswith("report_") and name[7:].isdecimal()]
    reports = sorted(reports, key=lambda name: int(name[7:]))[:_MAX_REPORT_LINES]
    if not reports:
        raise EcglmError(f"{tree.root}/{MACHINE}: column 'report_0' is missing; {_MEND}")
    details = [name for name in ("cart_id", "bandwidth", "filtering") if name in names]
    kinds = {"subject_id": "int", "study_id": "int", **dict.fromkeys((*reports, *details), "repeated")}
    machine = _read(tree, MACHINE, {**kinds, **dict.fromkeys((*INTERVALS, *AXES), "float")})

    study = _numbers(records, "study_id", f"{tree.root}/{RECORDS}")
    order = _unique_order(study, f"{tree.root}/{RECORDS}")
    machine_study = _numbers(machine, "study_id", f"{tree.root}/{MACHINE}")
    machine_order = _unique_order(machine_study, f"{tree.root}/{MACHINE}")
    row = np.full(len(study), -1)
    if len(machine_order):
        at = machine_study[machine_order].searchsorted(study)
        nearby = machine_order[np.minimum(at, len(machine_order) - 1)]
        row = np.where(machine_study[nearby] == study, nearby, -1)

    if tree.has(NOTES):
        notes = _read(tree, NOTES, {"study_id": "int", "note_id": "text"})
        note_study = _numbers(notes, "study_id", f"{tree.root}/{NOTES}")
        by_study = np.argsort(note_study, kind="stable")
        note_study, note_id = note_study[by_study], notes["note_id"].take(pa.array(by_study)).combine_chunks()
    else:
        note_study, note_id = np.zeros(0, np.int64), pa.array([], pa.string())
    tables = Tables(
        study=study,
        subject=_numbers(records, "subject_id", f"{tree.root}/{RECORDS}"),
        path=records["path"].combine_chunks(),
        time=records["ecg_time"].combine_chunks(),
        order=order.astype(np.int32),
        sorted_study=study[order],
        machine=row.astype(np.int32),
        machine_subject=_numbers(machine, "subject_id", f"{tree.root}/{MACHINE}"),
        lines=[_repeated(machine, name) for name in reports],
        values=_measured(machine),
        details={name: _repeated(machine, name) for name in details},
        note_study=note_study,
        note_id=note_id,
    )
    del records, machine
    pa.default_memory_pool().release_unused()
    return tables


def _columns(tree: Tree, name: str) -> list[str]:
    """The names in a table's first row."""
    try:
        with tree.open(name) as handle:
            first = handle.readline(1 << 16)
    except FileNotFoundError as error:
        raise EcglmError(f"{tree.root}/{name}: no such file; {_MEND}") from error
    try:
        return [cell.strip() for cell in next(csv.reader(io.StringIO(decode(first)), strict=True), [])]
    except csv.Error as error:
        raise EcglmError(f"{tree.root}/{name}, line 1: {error}") from error


def _read(tree: Tree, name: str, kinds: dict[str, str]) -> pa.Table:
    """The columns of a table as their kinds say: ``int``, ``float``, ``text``, ``repeated`` (few distinct texts)."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    place = f"{tree.root}/{name}"
    names = _columns(tree, name)
    for column in kinds:
        if names.count(column) != 1:
            what = "is missing" if column not in names else "stands twice"
            raise EcglmError(f"{place}: column '{column}' {what}{nearest(column, names)}; {_MEND}")
    types = {
        "int": pa.int64(),
        "float": pa.float32(),
        "text": pa.string(),
        "repeated": pa.dictionary(pa.int32(), pa.string()),
    }
    convert = arrow_csv.ConvertOptions(
        column_types={column: types[kind] for column, kind in kinds.items()}, include_columns=list(kinds)
    )
    quoted = arrow_csv.ParseOptions(newlines_in_values=True)
    error: pa.ArrowException | None = None
    for encoding in ("utf8", "latin1"):  # the second one understands any bytes
        options = arrow_csv.ReadOptions(
            column_names=names, skip_rows=1, use_threads=False, block_size=1 << 22, encoding=encoding
        )
        try:
            with tree.open(name) as handle:
                table = arrow_csv.read_csv(handle, read_options=options, parse_options=quoted, convert_options=convert)
            return table.unify_dictionaries()
        except pa.ArrowException as found:
            error = found
            if "UTF8" not in str(found):
                break
    detail = " ".join(str(error).split())[:200]
    if found_at := re.match(r"In CSV column #(\d+): ", detail):
        detail = f"column '{names[int(found_at[1])]}': {detail[found_at.end() :]}"
    raise EcglmError(f"{place}: {detail}; fetch the table again") from error


def _numbers(table: pa.Table, column: str, place: str) -> np.ndarray:
    if table[column].null_count:
        raise EcglmError(f"{place}: column '{column}' has empty cells; fetch the table again")
    return np.asarray(table[column].to_numpy(), dtype=np.int64)


def _unique_order(study: np.ndarray, place: str) -> np.ndarray:
    """Row numbers by ascending study; EcglmError for one that stands twice."""
    order = np.argsort(study, kind="stable")
    twice = np.flatnonzero(np.diff(study[order]) == 0)
    if twice.size:
        raise EcglmError(f"{place}: study_id {study[order[twice[0]]]} stands twice; keep one row")
    return order


def _repeated(table: pa.Table, column: str) -> tuple[np.ndarray, list[str]]:
    """(int32 codes, distinct texts without blanks around them)."""
    texts = table[column].combine_chunks()
    if not len(texts):
        return np.zeros(0, np.int32), []
    codes = np.asarray(texts.indices.fill_null(len(texts.dictionary)).to_numpy(), dtype=np.int32)
    return codes, [*(" ".join(text.split()) for text in texts.dictionary.to_pylist()), ""]


def _measured(table: pa.Table) -> np.ndarray:
    """float32 ``(rows, 9)``: NaN for the codes that mean missing, times that are not positive, impossible angles."""
    columns: Sequence[Any] = [table[name].to_numpy() for name in (*INTERVALS, *AXES)]
    values = np.stack(columns, axis=1).astype(np.float32)
    times, angles = values[:, : len(INTERVALS)], values[:, len(INTERVALS) :]
    values[np.isin(values, np.array(_MISSING, np.float32))] = np.nan
    times[times < 0] = np.nan
    angles[np.abs(angles) > 360] = np.nan
    return values
