"""A user's own ECGs: every readable file below a folder, and what an optional ``metadata.csv`` says about them."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecglm.errors import EcglmError, RejectedRecord, UnsafeInputError, nearest
from ecglm.files import file_sha256, fingerprint, inside
from ecglm.records.formats import HDF5_SUFFIXES, SIGNAL_SUFFIXES, SUFFIXES, read_array_file
from ecglm.records.tables import number, read_table, whole_number
from ecglm.records.wfdb_files import read_wfdb
from ecglm.registry import register
from ecglm.types import SPLITS, Record

METADATA = "metadata.csv"
_KEYS = ("file", "record_id")
_OPTION = re.compile(r"--(rate|leads|units|dataset)\b")
_OPTION_OF_VALUE = re.compile(r"--(rate|leads|units) (standard|\d+|mV)\b")
_COLUMNS = (
    *_KEYS,
    *("patient_id", "report", "labels", "split", "fold", "age", "sex", "rate", "leads", "units"),
)
_SEX = {"m": "male", "male": "male", "f": "female", "female": "female"}


@register("records", "folder")
@dataclass(frozen=True, kw_only=True)
class Folder:
    """All ECG files below ``root``: WFDB (``.hea``), ``.npy``, ``.npz``, ``.csv``, ``.mat``, ``.h5``, ``.hdf5``.

    Found recursively, one record per file. A ``.mat`` in a folder that has headers is the data of a WFDB record.
    rate (Hz), leads (``"I,II,V1"`` or ``"standard"``), units (``mV``, ``uV``, ``V``): for files that do not say.
    dataset: the one to read of HDF5 files that hold several. report_language: of the reports in ``metadata.csv``; those
    in another language than ``en`` have no English text.

    ``metadata.csv`` in ``root`` is optional. It has a column ``file`` (path below ``root``) or ``record_id`` and any of
    ``patient_id, report, labels`` (separated by ``;``, each ``group:name`` or a bare name, which becomes
    ``label:name``), ``split`` (train, val, test), ``fold, age, sex, rate, leads, units`` (of that file, before the
    options). A record id is ``"folder/<path below root without suffix>"``.
    """

    root: Path
    rate: float | None = None
    leads: str | None = None
    units: str | None = None
    dataset: str | None = None
    report_language: str = "en"
    name = "folder"

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root))

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker gets the options, and lists the folder once however many tasks it is sent.
        return _shared, tuple(getattr(self, field.name) for field in dataclasses.fields(self))

    def version(self) -> str:
        """A user's folder has no version."""
        return ""

    def fingerprint(self) -> dict[str, Any]:
        """What is read: options, metadata by sha256, names and sizes of all files; the same in any place."""
        table = self.root / METADATA
        return {
            "source": self.name,
            "reader": 3,
            "options": {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "root"},
            "metadata": file_sha256(table) if table.exists() else None,
            "files": fingerprint(self._listing.sizes),
        }

    def keys(self) -> list[str]:
        """Record ids of all files, sorted by path. EcglmError for a folder without ECGs or with two of one name."""
        _ = self._metadata  # a mistake in the table is told before the long work
        return list(self._listing.files)

    def accounting(self) -> dict[str, list[str]]:
        """``not_on_disk``: in ``metadata.csv`` without a file; ``no_header``: data of WFDB records without one."""
        missing = [key for key in self._metadata if key not in self._listing.files]
        return {"not_on_disk": missing, "no_header": list(self._listing.no_header)}

    def read(self, key: str) -> Record:
        """The record ``key`` with what the metadata says. EcglmError, RejectedRecord and UnsafeInputError as `read`."""
        file = self._listing.files.get(key)
        if file is None:
            raise EcglmError(f"{self.root}: no record {key}{nearest(key, self._listing.files)}")
        row = self._metadata.get(key, {})
        if file.suffix.casefold() == ".hea":
            record = read_wfdb(file, key)
        else:
            rate = float(row["rate"]) if row.get("rate") else self.rate
            leads, units = row.get("leads") or self.leads, row.get("units") or self.units
            dataset = self.dataset if file.suffix.casefold() in HDF5_SUFFIXES else None
            try:
                record = read_array_file(file, key, rate, leads, units, dataset)
            except (RejectedRecord, UnsafeInputError):
                raise
            except EcglmError as error:
                raise EcglmError(_as_settings(str(error))) from error
        if not row:
            return record
        facts: dict[str, Any] = {name: row[name] for name in ("age", "sex") if name in row}
        report = row.get("report") or ""
        english = bool(report) and self.report_language == "en"
        if report:
            facts["report_language"] = self.report_language
        return dataclasses.replace(
            record,
            patient_id=f"{self.name}/{row['patient_id']}" if row.get("patient_id") else key,
            patient_known=bool(row.get("patient_id")),
            fold=row.get("fold"),
            split=row.get("split") or "",
            report=report,
            report_en=report if english else "",
            report_origin="original" if english else "",
            labels=row.get("labels") or (),
            metadata={**record.metadata, **facts},
        )

    @functools.cached_property
    def _listing(self) -> _Listing:
        return _list_files(self.root)

    @functools.cached_property
    def _metadata(self) -> dict[str, dict[str, Any]]:
        """Record id → parsed row of ``metadata.csv``; empty where there is none."""
        path = self.root / METADATA
        if not path.exists():
            return {}
        rows = read_table(path, (), None, mend="")
        columns = list(rows[0]) if rows else []
        for column in columns:
            if column not in _COLUMNS:
                raise EcglmError(
                    f"{path}: unknown column '{column}'{nearest(column, _COLUMNS)}; known: {', '.join(_COLUMNS)}"
                )
        key = next((k for k in _KEYS if k in columns), None)
        if key is None:
            raise EcglmError(f"{path}: column 'file' is missing; give each row the path of its file below {self.root}")
        result: dict[str, dict[str, Any]] = {}
        for row in rows:
            record_id = _row_id(row[key].removeprefix("folder/") if key == "record_id" else row[key])
            if record_id in result:
                raise EcglmError(f"{path}: {key} '{row[key]}' stands twice; keep one row per file")
            try:
                result[record_id] = _parse_row(row)
            except ValueError as error:
                raise EcglmError(f"{path}, {key} '{row[key]}': {error}") from error
        return result


@functools.lru_cache(maxsize=8)
def _shared(*options: Any) -> Folder:
    return Folder(**dict(zip((field.name for field in dataclasses.fields(Folder)), options, strict=True)))


def _as_settings(message: str) -> str:
    """``ecglm prepare`` takes as ``--set rate=500`` what other verbs take as ``--rate 500``."""
    message = _OPTION_OF_VALUE.sub(r"--set \1=\2", message)
    return _OPTION.sub(r"--set \1=…", message)


@dataclass(frozen=True)
class _Listing:
    """files: record id → file, sorted. no_header: ids of data files without a header. sizes: relative name → bytes."""

    files: dict[str, Path]
    no_header: tuple[str, ...]
    sizes: dict[str, int]


def _list_files(root: Path) -> _Listing:
    """Find the records below ``root``; hidden files and folders are not looked at, links must stay inside."""
    if not root.is_dir():
        raise EcglmError(f"{root}: no such folder; --root names the folder that holds the ECG files")
    files: dict[str, Path] = {}
    orphans: set[str] = set()
    matlab: list[tuple[str, Path]] = []
    headers: set[Path] = set()
    sizes: dict[str, int] = {}
    for place, folders, names in os.walk(root):
        folders[:] = [f for f in folders if not f.startswith(".")]
        for name in names:
            file = Path(place, name)
            suffix = file.suffix.casefold()
            relative = file.relative_to(root).as_posix()
            if name.startswith(".") or relative == METADATA or suffix not in (*SUFFIXES, *SIGNAL_SUFFIXES):
                continue
            if file.is_symlink():
                inside(root, file, str(root))
            _check_text(file)
            sizes[relative] = file.stat().st_size
            record_id = _row_id(relative)
            if suffix == ".dat":
                orphans.add(record_id)
            elif suffix == ".mat":
                matlab.append((record_id, file))
            else:
                _add(files, record_id, file)
            if suffix == ".hea":
                headers.add(file.parent)
    for record_id, file in matlab:
        if file.parent in headers:
            orphans.add(record_id)
        else:
            _add(files, record_id, file)
    if not files:
        raise EcglmError(f"{root}: holds no ECG files ({', '.join(SUFFIXES)}); name the folder they lie in with --root")
    ordered = dict(sorted(files.items()))
    return _Listing(ordered, tuple(sorted(orphans - ordered.keys())), dict(sorted(sizes.items())))


def _add(files: dict[str, Path], record_id: str, file: Path) -> None:
    if record_id in files:
        raise EcglmError(f"{files[record_id]} and {file.name}: two records of one name; rename one of them")
    files[record_id] = file


def _check_text(file: Path) -> None:
    try:
        str(file).encode()
    except UnicodeEncodeError as error:
        raise EcglmError(f"{os.fsencode(file)!r}: the file name is not UTF-8; rename the file") from error


def _row_id(text: str) -> str:
    """``sub/x.npy`` or ``sub/x`` → ``folder/sub/x``."""
    path = text.replace("\\", "/").removeprefix("./")
    stem, dot, suffix = path.rpartition(".")
    if dot and f".{suffix.casefold()}" in (*SUFFIXES, *SIGNAL_SUFFIXES):
        path = stem
    return f"folder/{path}"


def _parse_row(row: dict[str, str]) -> dict[str, Any]:
    """The cells of a metadata row as values; ValueError saying which one is wrong. Empty cells are left out."""
    values: dict[str, Any] = {name: text for name, text in row.items() if text}
    for name, parse in (("fold", whole_number), ("age", number), ("rate", number)):
        if name in values:
            try:
                values[name] = parse(values[name])
            except ValueError as error:
                raise ValueError(f"{name} {values[name]!r} is no number") from error
    if values.get("split", "train") not in SPLITS:
        raise ValueError(f"split '{values['split']}' is unknown; {', '.join(SPLITS)} or empty")
    if "sex" in values:
        values["sex"] = _SEX.get(values["sex"].casefold(), values["sex"])
    if "labels" in values:
        values["labels"] = tuple(dict.fromkeys(_label(t) for t in values["labels"].split(";") if t.strip()))
    return values


def _label(text: str) -> str:
    group, colon, name = (part.strip() for part in text.partition(":"))
    if not colon:
        return f"label:{group}"
    if not group or not name:
        raise ValueError(f"label '{text.strip()}' is neither 'group:name' nor a bare name")
    return f"{group}:{name}"
