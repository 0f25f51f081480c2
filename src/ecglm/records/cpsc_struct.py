"""CPSC2018 in its original form: MATLAB structs ``ECG`` and the table ``REFERENCE.csv`` of labels 1 to 9."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

import numpy as np

from ecglm.errors import EcglmError, RejectedRecord, nearest
from ecglm.records.arrays import to_signal
from ecglm.records.matlab import CPSC_RATE, CPSC_VARIABLE, cpsc_data, parse_mat
from ecglm.records.tables import decode, whole_number
from ecglm.records.tree import Tree
from ecglm.types import LEADS, Record

#: The nine classes in the order of the numbers 1 to 9.
CLASSES = ("NORM", "AF", "I-AVB", "LBBB", "RBBB", "PAC", "PVC", "STD", "STE")
_RECORDING = "Recording"
_LABELS = ("First_label", "Second_label", "Third_label")
_MAX_MAT = _MAX_TABLE = 1 << 26
_SEX = {"male": "male", "female": "female", "m": "male", "f": "female"}


def read_cpsc_struct(tree: Tree, name: str, record_id: str) -> Record:
    """The record in the file ``name`` of ``tree``: float32 ``(12, samples)`` in mV at 500 Hz, canonical leads.

    ``metadata`` has ``age`` in years (None where it is no number), ``sex`` (``male``, ``female``, None) and ``notes``
    (of `ecglm.records.arrays.to_signal`). Labels stand in ``REFERENCE.csv`` (`read_reference`).
    Raises RejectedRecord (``signal_missing``, ``shape_invalid``, ``empty``, ``file_corrupt``, ``format_unsupported`` …)
    and UnsafeInputError as `ecglm.records.matlab.read_mat`.
    """
    where = f"{tree.root}/{name}"
    try:
        variables = parse_mat(tree.read(name, _MAX_MAT), where)
    except FileNotFoundError as error:
        raise RejectedRecord("signal_missing", f"{where}: no such file") from error
    fields = variables.get(CPSC_VARIABLE)
    if not isinstance(fields, dict):
        raise RejectedRecord(
            "signal_missing", f"{where}: a struct '{CPSC_VARIABLE}' is needed, found {sorted(variables)[:9]}"
        )
    signal, notes = to_signal(cpsc_data(fields, where))
    return Record(
        record_id=record_id,
        signal=signal,
        sampling_rate=CPSC_RATE,
        leads=LEADS,
        patient_id=record_id,
        patient_known=False,
        metadata={
            "notes": notes,
            "age": _age(fields.get("age")),
            "sex": _sex(fields.get("sex")),
        },
    )


def read_reference(tree: Tree) -> dict[str, tuple[int, ...]]:
    """Stem of a record → its labels, 1 to 9 in the order of `CLASSES`, first label first; empty without a table.

    Every table whose name ends like ``…REFERENCE….csv`` counts (training and validation set); it needs the columns
    ``Recording`` and ``First_label``, others than the three labels are left alone. Raises EcglmError naming the line
    for a label that is none, and for a recording that stands twice with different labels.
    """
    result: dict[str, tuple[int, ...]] = {}
    for name in tree.names():
        last = name.rpartition("/")[2].casefold()
        if last.endswith(".csv") and "reference" in last:
            for stem, (labels, line) in _read_table(tree.read(name, _MAX_TABLE), f"{tree.root}/{name}").items():
                if result.setdefault(stem, labels) != labels:
                    raise EcglmError(
                        f"{tree.root}/{name}, line {line}: {stem} has other labels than in another table; keep one"
                    )
    return result


def _read_table(data: bytes, where: str) -> dict[str, tuple[tuple[int, ...], int]]:
    """Stem → (labels, line) of one table."""
    rows: dict[str, tuple[tuple[int, ...], int]] = {}
    reader = csv.reader(io.StringIO(decode(data), newline=""), strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        for needed in (_RECORDING, _LABELS[0]):
            if names.count(needed) != 1:
                raise EcglmError(f"{where}: one column '{needed}' is needed{nearest(needed, names)}")
        stem_at, labels_at = names.index(_RECORDING), [names.index(label) for label in _LABELS if label in names]
        for cells in reader:
            if not cells:
                continue
            line = reader.line_num
            if len(cells) != len(names):
                raise EcglmError(f"{where}, line {line}: {len(cells)} cells, {len(names)} columns")
            stem = cells[stem_at].strip()
            labels = _labels([cells[at].strip() for at in labels_at], f"{where}, line {line}, {stem}")
            if stem in rows and rows[stem][0] != labels:
                raise EcglmError(f"{where}, line {line}: {stem} stands twice with different labels; keep one row")
            rows[stem] = labels, line
    except csv.Error as error:
        raise EcglmError(f"{where}, line {reader.line_num}: {error}") from error
    return rows


def _labels(cells: list[str], where: str) -> tuple[int, ...]:
    """Labels of a row, each once; further ones may be empty."""
    found: list[int] = []
    for cell in cells:
        if not cell or cell.casefold() == "nan":
            continue
        try:
            label = whole_number(cell)
        except ValueError as error:
            raise EcglmError(f"{where}: label {cell[:40]!r} is no number from 1 to {len(CLASSES)}") from error
        if not 1 <= label <= len(CLASSES):
            raise EcglmError(f"{where}: label {label} is no number from 1 to {len(CLASSES)}")
        if label not in found:
            found.append(label)
    return tuple(found)


def _age(value: Any) -> int | float | None:
    if isinstance(value, np.ndarray) and value.size == 1 and math.isfinite(float(value.ravel()[0])):
        age = float(value.ravel()[0])
        return (int(age) if age.is_integer() else age) if 0 <= age < 150 else None
    return None


def _sex(value: Any) -> str | None:
    return _SEX.get(value.strip("\0 ").casefold()) if isinstance(value, str) else None
