"""CODE-15% (Ribeiro et al. 2021, Zenodo 4916206): exams in HDF5 parts, unpacked or as their zips, and ``exams.csv``."""

from __future__ import annotations

import functools
import os
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ecglm.errors import EcglmError, RejectedRecord
from ecglm.files import file_sha256, fingerprint, inside
from ecglm.records.arrays import to_signal
from ecglm.records.code15_exams import LABELS, Exams, read_exams
from ecglm.records.hdf5 import Hdf5Table
from ecglm.registry import register
from ecglm.types import LEADS, Record

TABLE = "exams.csv"
RATE, NUM_SAMPLES = 400.0, 4096
_PART = re.compile(r"(exams_part\d{1,3})\.(hdf5|zip)", re.ASCII)
_KEY = re.compile(r"code15/(\d{1,15})", re.ASCII)
_MEND = (
    "--root must hold exams.csv and exams_part0.hdf5 … or exams_part0.zip … (see https://zenodo.org/records/4916206)"
)


@register("records", "code15")
@dataclass(frozen=True, kw_only=True)
class Code15:
    """The folder ``root`` with ``exams.csv`` and any of ``exams_part{i}.hdf5`` and ``exams_part{i}.zip``.

    A zip is read in place; nothing is unpacked onto the disk, and an unpacked part is preferred to its zip. Exams are
    found by ``exam_id`` inside the file that ``exams.csv`` names, never by position. Signals are float32 ``(12, 4096)``
    at 400 Hz with the zero padding they are shipped with (the pipelines trim it); their unit is mV only nominally,
    which ``metadata["unit_confidence"]`` says. Labels are ``code15:`` and one of 1dAVb, RBBB, LBBB, SB, ST, AF. There
    is no report. Keys are in the order of the parts and of the rows in them, so that each is read from front to back.
    """

    root: Path
    name = "code15"

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root))

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker gets the folder, and reads the table once however many tasks it is sent.
        return _shared, (self.root,)

    def version(self) -> str:
        """The files do not say; there is one release, 1.0.0."""
        return ""

    def fingerprint(self) -> dict[str, Any]:
        """The table by sha256, size and exams of every part; the same in any folder, packed or not."""
        parts = {name: [_unpacked_size(table), len(self._rows[name])] for name, table in self._parts.items()}
        return {
            "source": self.name,
            "reader": 1,
            "table": file_sha256(self.root / TABLE),
            "parts": parts,
            "exams": fingerprint([rows.tolist() for rows in self._rows.values()]),
        }

    def keys(self) -> list[str]:
        """Record ids (``"code15/<exam_id>"``) of exams on disk that have a row, by part, then by row.

        Raises EcglmError for a part that cannot be read or in which an exam stands twice.
        """
        keys = [f"{self.name}/{exam}" for ids in self._index["read"] for exam in ids.tolist()]
        if not keys:
            raise EcglmError(f"{self.root}: none of the exams on disk has a row in {TABLE}; {_MEND}")
        return keys

    def accounting(self) -> dict[str, list[str]]:
        """``not_on_disk``: in the table, but neither in its part nor is the part there; ``no_metadata``: without a row;

        ``dummy_row``: rows with ``exam_id`` 0 that the files end with; ``other_trace_file``: in another part than the
        table says (and not read from there).
        """
        index = self._index
        named = {name: [f"{self.name}/{exam}" for exam in index[name].tolist()] for name in ("not_on_disk",)}
        return {**named, **{name: list(index[name]) for name in ("no_metadata", "dummy_row", "other_trace_file")}}

    def read(self, key: str) -> Record:
        """The exam ``key``: float32 ``(12, 4096)``, nominal mV, 400 Hz; NaN where a sample is no finite number.

        ``metadata``: age, sex, normal_ecg, death and follow_up_years (of a patient's first exam), unit_confidence,
        notes. Raises RejectedRecord (``empty`` for an all-zero tracing, ``file_corrupt``, ``metadata_invalid`` …) and
        EcglmError for a key that is not there.
        """
        found = _KEY.fullmatch(key)
        at = self._exams.find(int(found[1])) if found else None
        if at is None or found is None or f"{self.name}/{int(found[1])}" != key:
            raise EcglmError(f"{self.root / TABLE}: no row for {key}; keys look like code15/438277")
        exam, part = int(found[1]), self._exams.part(at)
        row = _position(self._rows[part], exam) if part in self._parts else None
        if row is None:
            raise EcglmError(f"{self.root}: {key} should lie in {part}, which is not there or lacks it")
        if exam in self._exams.bad:
            raise RejectedRecord("metadata_invalid", f"{self.root / TABLE}, exam_id {exam}: {self._exams.bad[exam]}")
        signal, notes = to_signal(self._parts[part].read_row(row).T)
        if not np.count_nonzero(signal):
            raise RejectedRecord("empty", f"{self._parts[part].where}, row {row}: every sample is zero")
        exams, patient = self._exams, int(self._exams.patient[at])
        return Record(
            record_id=key,
            signal=signal,
            sampling_rate=RATE,
            leads=LEADS,
            patient_id=f"{self.name}/{patient}" if patient >= 0 else key,
            patient_known=patient >= 0,
            labels=tuple(f"code15:{name}" for bit, name in enumerate(LABELS) if exams.labels[at] >> bit & 1),
            metadata={
                **exams.facts(at),
                "unit_confidence": "nominal",
                "notes": notes,
            },
        )

    @functools.cached_property
    def _exams(self) -> Exams:
        return read_exams(self.root / TABLE, _MEND)

    @functools.cached_property
    def _parts(self) -> dict[str, Hdf5Table]:
        """``exams_part3.hdf5`` → where it is read from, in the order of the numbers."""
        if not self.root.is_dir():
            raise EcglmError(f"{self.root}: no such folder; {_MEND}")
        found: dict[str, dict[str, Path]] = {}
        for file in os.listdir(self.root):
            match = _PART.fullmatch(file)
            if match:
                path = self.root / file
                found.setdefault(f"{match[1]}.hdf5", {})[match[2]] = inside(self.root, path, str(path))
        if not found:
            raise EcglmError(f"{self.root}: holds no exams_part*.hdf5 or exams_part*.zip; {_MEND}")
        parts = {}
        for name in sorted(found, key=lambda part: (int(re.sub(r"\D", "", part[:-5])), part)):
            path = found[name].get("hdf5") or found[name]["zip"]
            member = None if "hdf5" in found[name] else _member(path, name)
            parts[name] = Hdf5Table(path, member, "exam_id", "tracings", (NUM_SAMPLES, len(LEADS)))
        return parts

    @functools.cached_property
    def _rows(self) -> _Rows:
        return _Rows(self._parts)

    @functools.cached_property
    def _index(self) -> dict[str, Any]:
        """What lies where: ``read``: exam ids per part, in row order; the headings of `accounting`."""
        parts, exams = self._parts, self._exams
        index: dict[str, Any] = {"read": [], "no_metadata": [], "dummy_row": [], "other_trace_file": []}
        there = np.zeros(len(exams), dtype=bool)
        for name, table in parts.items():
            ids = self._rows[name]
            at, known = exams.find_all(ids)
            dummy = ~known & (ids == 0)
            right = known & (exams.trace_file[at] == exams.part_number(name))
            for exam in ids[~known & ~dummy].tolist():
                index["no_metadata"].append(f"{self.name}/{exam}")
            index["dummy_row"] += [f"{name} row {row}" for row in np.flatnonzero(dummy).tolist()]
            index["other_trace_file"] += [f"{self.name}/{exam} in {name}" for exam in ids[known & ~right].tolist()]
            unique, counts = np.unique(ids[~dummy], return_counts=True)
            if len(unique) != len(ids[~dummy]):
                raise EcglmError(f"{table.where}: exam_id {unique[counts > 1][0]} stands twice; download it again")
            index["read"].append(ids[right])
            there[at[right]] = True
        index["not_on_disk"] = exams.exam_id[~there]
        return index


@functools.lru_cache(maxsize=8)
def _shared(root: Path) -> Code15:
    return Code15(root=root)


class _Rows(dict[str, np.ndarray]):
    """Part → exam ids by row, read when first asked for: a worker needs those of its own parts only."""

    def __init__(self, parts: dict[str, Hdf5Table]) -> None:
        super().__init__()
        self.parts = parts

    def __missing__(self, name: str) -> np.ndarray:
        try:
            self[name] = self.parts[name].read_ids()
        except RejectedRecord as error:
            raise EcglmError(f"{error.detail}; download it again, or move it away to go on without it") from error
        except OSError as error:
            raise EcglmError(f"{self.parts[name].path}: cannot be read ({error.strerror})") from error
        return self[name]


def _position(ids: np.ndarray, exam: int) -> int | None:
    at = np.flatnonzero(ids == exam)
    return int(at[0]) if len(at) else None


def _member(path: Path, name: str) -> str:
    """The part inside its zip; EcglmError when it is not there."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = [member for member in archive.namelist() if member.rpartition("/")[2] == name]
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        raise EcglmError(f"{path}: not a readable zip archive ({error}); download it again") from error
    if len(found) != 1:
        raise EcglmError(f"{path}: should hold one {name}, holds {len(found)}; download it again")
    return found[0]


def _unpacked_size(table: Hdf5Table) -> int:
    if table.member is None:
        return os.stat(table.path).st_size
    with zipfile.ZipFile(table.path) as archive:
        return archive.getinfo(table.member).file_size
