"""SPH (Liu et al. 2022, figshare 5779802): one HDF5 file per record, ``metadata.csv`` with AHA statement codes."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecglm.errors import EcglmError, RejectedRecord
from ecglm.files import file_sha256, fingerprint
from ecglm.records.aha_codes import code_name, parse_codes
from ecglm.records.arrays import RawArray, to_signal
from ecglm.records.hdf5 import read_hdf5, read_hdf5_bytes
from ecglm.records.tables import number, read_table, whole_number
from ecglm.records.tree import FolderTree, Tree, open_tree
from ecglm.registry import register
from ecglm.types import LEADS, Record

TABLE, DATASET, RATE = "metadata.csv", "ecg", 500.0
ARCHIVES = ("records.tar", "records.zip")
_COLUMNS = ("ECG_ID", "AHA_Code", "Patient_ID", "Age", "Sex", "N", "Date")
_FILE = re.compile(r"(?:A|SPH)(\d{5})\.h5", re.ASCII)
_KEY = re.compile(r"sph/A\d{5}", re.ASCII)
_SEX = {"M": "male", "F": "female"}
_MAX_FILE = 1 << 26
_MEND = "--root must hold metadata.csv and records/ or records.tar (see https://doi.org/10.6084/m9.figshare.c.5779802)"


@register("records", "sph")
@dataclass(frozen=True, kw_only=True)
class Sph:
    """The folder ``root`` with ``metadata.csv`` and the records in ``records/``, beside it, or in ``records.tar``.

    An archive is read in place when no record lies unpacked. Files are called as in the table (``A00001.h5``) or, as
    in a renamed copy, ``SPH00001.h5``. Labels are ``aha:`` and the code of each statement; the codes with their
    modifiers and their names stand in ``metadata`` under ``aha`` and ``aha_names``. There is no report.
    """

    root: Path
    name = "sph"

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root))

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker gets the folder, and reads the table once however many tasks it is sent.
        return _shared, (self.root,)

    def version(self) -> str:
        """The files do not say."""
        return ""

    def fingerprint(self) -> dict[str, Any]:
        """The table by sha256, and which records are there with their sizes; the same in any folder, packed or not."""
        tree, files = self._files
        return {
            "source": self.name,
            "reader": 1,
            "table": file_sha256(self.root / TABLE),
            "files": fingerprint({key: tree.size(name) for key, name in files.items()}),
        }

    def keys(self) -> list[str]:
        """Record ids (``"sph/A00001"``) that have a row and a file, sorted. EcglmError when there is none."""
        files = self._files[1]
        keys = sorted(key for key in self._rows if key in files)
        if not keys:
            raise EcglmError(f"{self.root}: no record of {TABLE} is there; {_MEND}")
        return keys

    def accounting(self) -> dict[str, list[str]]:
        """``no_metadata``: a file without a row; ``not_on_disk``: a row without a file."""
        files, rows = self._files[1], self._rows
        return {
            "no_metadata": sorted(key for key in files if key not in rows),
            "not_on_disk": sorted(key for key in rows if key not in files),
        }

    def read(self, key: str) -> Record:
        """The record ``key``: float32 ``(12, samples)``, mV, 500 Hz; NaN where a sample is no finite number.

        Raises RejectedRecord (``signal_size_mismatch`` where the table says another length, ``shape_invalid``,
        ``metadata_invalid``, and those of HDF5 files) and EcglmError for a key that is not there.
        """
        tree, files = self._files
        if not _KEY.fullmatch(key) or key not in self._rows or key not in files:
            raise EcglmError(f"{self.root / TABLE}: no row or no file for {key}; keys look like sph/A00001")
        row = self._rows[key]
        where = f"{self.root / TABLE}, ECG_ID {row['ECG_ID']}"
        try:
            codes = parse_codes(row["AHA_Code"])
            age = number(row["Age"]) if row["Age"] else None
            length = whole_number(row["N"])
        except ValueError as error:
            raise RejectedRecord("metadata_invalid", f"{where}: {error}") from error
        values = _read(tree, files[key]).values
        file = f"{tree.root}/{files[key]}"
        if values.ndim != 2 or values.shape[0] != len(LEADS) or values.dtype.kind != "f":
            raise RejectedRecord(
                "shape_invalid",
                f"{file}: '{DATASET}' is {values.dtype} {values.shape}; floats (12, samples) are needed",
            )
        if values.shape[1] != length:
            raise RejectedRecord("signal_size_mismatch", f"{file}: {values.shape[1]} samples, {TABLE} says {length}")
        signal, notes = to_signal(values)
        patient = row["Patient_ID"]
        return Record(
            record_id=key,
            signal=signal,
            sampling_rate=RATE,
            leads=LEADS,
            patient_id=f"{self.name}/{patient}" if patient else key,
            patient_known=bool(patient),
            labels=tuple(dict.fromkeys(f"aha:{statement}" for statement, _ in codes)),
            metadata={
                "notes": notes,
                "age": age,
                "sex": _SEX.get(row["Sex"]),
                "recorded": row["Date"] or None,
                "aha": ["+".join(map(str, (statement, *modifiers))) for statement, modifiers in codes],
                "aha_names": [code_name(statement, modifiers) for statement, modifiers in codes],
            },
        )

    @functools.cached_property
    def _rows(self) -> dict[str, dict[str, str]]:
        """Record id → the columns that are used."""
        rows: dict[str, dict[str, str]] = {}
        for row in read_table(self.root / TABLE, _COLUMNS, "ECG_ID", mend=_MEND):
            key = f"{self.name}/{row['ECG_ID']}"
            if not _KEY.fullmatch(key):
                raise EcglmError(f"{self.root / TABLE}: ECG_ID '{row['ECG_ID'][:40]}' is not like A00001")
            rows[key] = {column: row[column] for column in _COLUMNS}
        if not rows:
            raise EcglmError(f"{self.root / TABLE}: has no rows; {_MEND}")
        return rows

    @functools.cached_property
    def _files(self) -> tuple[Tree, dict[str, str]]:
        """Where the records lie, and record id → name there."""
        if not self.root.is_dir():
            raise EcglmError(f"{self.root}: no such folder; {_MEND}")
        tree: Tree = FolderTree(self.root)
        files = _record_files(tree)
        packed = [self.root / name for name in ARCHIVES if (self.root / name).is_file()]
        if not files and packed:
            tree = open_tree(packed[0])
            files = _record_files(tree)
        return tree, files


@functools.lru_cache(maxsize=8)
def _shared(root: Path) -> Sph:
    return Sph(root=root)


def _record_files(tree: Tree) -> dict[str, str]:
    """Record id → file; EcglmError where two files are the same record."""
    files: dict[str, str] = {}
    for name in tree.names():
        found = _FILE.fullmatch(name.rpartition("/")[2])
        if found:
            key = f"sph/A{found[1]}"
            if key in files:
                raise EcglmError(f"{tree.root}: {files[key]} and {name} are the same record; keep one")
            files[key] = name
    return files


def _read(tree: Tree, name: str) -> RawArray:
    where = f"{tree.root}/{name}"
    try:
        if isinstance(tree, FolderTree):
            return read_hdf5(Path(tree.path(name)), DATASET)
        return read_hdf5_bytes(tree.read(name, _MAX_FILE), where, DATASET)
    except FileNotFoundError as error:
        raise RejectedRecord("signal_missing", f"{where}: no such file") from error
    except OSError as error:
        raise RejectedRecord("unreadable", f"{where}: {error.strerror or error}") from error
