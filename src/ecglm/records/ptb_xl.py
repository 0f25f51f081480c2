"""PTB-XL (Wagner et al. 2020, PhysioNet): WFDB records at 100 and 500 Hz, one metadata table, SCP-ECG statements."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from ecglm.errors import EcglmError, RejectedRecord, UnsafeInputError
from ecglm.files import fingerprint
from ecglm.records.marian import DEFAULT_MODEL, MarianTranslator
from ecglm.records.tables import number, parse_table, whole_number
from ecglm.records.translate import phrases_fingerprint, report_language, translate_phrases
from ecglm.records.tree import FolderTree, Tree, open_tree
from ecglm.records.wfdb_files import read_wfdb
from ecglm.registry import register
from ecglm.types import Record

TABLE = "ptbxl_database.csv"
STATEMENTS = "scp_statements.csv"
_MEND = "--root must be a PTB-XL folder or its official zip (see https://physionet.org/content/ptb-xl/)"
_MAX_TABLE = 1 << 28
_COLUMNS = (
    *("ecg_id", "patient_id", "age", "sex", "device", "recording_date", "report", "scp_codes", "heart_axis"),
    *("validated_by_human", "strat_fold", "filename_lr", "filename_hr"),
)
_FILENAME = {"100": "filename_lr", "500": "filename_hr"}
_STATEMENT = re.compile(r"\s*(['\"])([A-Za-z0-9_/()+.\- ]{1,40})\1\s*:\s*([-+]?\d{1,9}(?:\.\d{0,9})?)\s*")
_MAX_CODES_TEXT = 4096
#: What all official names look like; others are looked at part by part.
_PLAIN_NAME = re.compile(r"records\d+/\d+/\w+", re.ASCII)

#: Records of version 1.0.1 that later versions removed.
_REMOVED_AFTER_1_0_1 = frozenset({137, *range(139, 144), 145, 456, 458, 459, 461, 462})


def parse_scp_codes(text: str) -> dict[str, float]:
    """``{'NORM': 100.0, 'SR': 0.0}`` as a dict; ValueError for anything but a flat dict of names to numbers."""
    body = text.strip()
    if len(body) > _MAX_CODES_TEXT or not (body.startswith("{") and body.endswith("}")):
        raise ValueError("a flat dict of statements to likelihoods is needed")
    codes: dict[str, float] = {}
    items = body[1:-1].split(",")
    if not items[-1].strip():
        items.pop()  # an empty dict, or a comma after the last item
    for item in items:
        found = _STATEMENT.fullmatch(item)
        if not found or found[2] in codes:
            raise ValueError(f"{item.strip()[:60]!r} is not a statement and its likelihood")
        codes[found[2]] = float(found[3])
    return codes


@register("records", "ptb-xl")
@dataclass(frozen=True, kw_only=True)
class PtbXl:
    """PTB-XL at ``root``: the folder (``ptbxl_database.csv``, ``scp_statements.csv``, ``records100/``,
    ``records500/``), or the official zip of it, read as it is.

    resolution: ``"100"`` or ``"500"`` Hz; ``"auto"`` takes the set of which more table rows are on disk, 500 on ties.
    on_checksum: what a record is whose data and header disagree: noted, or rejected.

    translator: where the English of the reports, most of them German, some Swedish, comes from. ``"phrases"`` is the
    built-in lossless dictionary; ``"marian"`` asks a MarianMT model (``translation_model``, folder or hub id) besides,
    for German reports and those in no known language that the dictionary cannot render; ``"none"`` translates nothing.
    English reports stand for themselves. translation_cache: file of the model's translations (default: in the user's
    cache folder); ``keys`` fills it, so that workers read it.

    Labels: ``superclass:`` and ``subclass:`` of every diagnostic statement whatever its likelihood (as the official
    example code aggregates), ``form:``, ``rhythm:``, and ``scp:`` for every statement; names as ``scp_statements.csv``
    has them. Folds are the official ``strat_fold``: 1-8 train, 9 val, 10 test. The report is kept in its
    language, which ``metadata["report_language"]`` names (``"de"``, ``"sv"``, ``"en"``; empty: none of them, or mixed).
    """

    root: Path
    resolution: Literal["auto", "100", "500"] = "auto"
    on_checksum: Literal["warn", "reject"] = "warn"
    translator: Literal["phrases", "none", "marian"] = "phrases"
    translation_model: str = DEFAULT_MODEL
    translation_cache: str = ""
    name = "ptb-xl"

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root))
        if self.resolution not in ("auto", "100", "500"):
            raise EcglmError(f"resolution '{self.resolution}' is unknown; 'auto', '100' or '500' is needed")
        if self.on_checksum not in ("warn", "reject"):
            raise EcglmError(f"on_checksum '{self.on_checksum}' is unknown; 'warn' or 'reject' is needed")
        if self.translator not in ("phrases", "none", "marian"):
            raise EcglmError(f"translator '{self.translator}' is unknown; 'phrases', 'none' or 'marian' is needed")

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker gets the options, and reads the tables once however many tasks it is sent.
        how = (self.translator, self.translation_model, self.translation_cache)
        return _shared, (self.root, self.resolution, self.on_checksum, *how)

    def version(self) -> str:
        """``"1.0.1"``, ``"1.0.3"`` or ``"unknown"``, told from records that only the older version has."""
        ids = self._rows.keys()  # a table has rows
        if ids & _REMOVED_AFTER_1_0_1:
            return "1.0.1"
        covers = min(ids) < min(_REMOVED_AFTER_1_0_1) and max(ids) > max(_REMOVED_AFTER_1_0_1)
        return "1.0.3" if covers else "unknown"

    def fingerprint(self) -> dict[str, Any]:
        """What is read: options, tables by sha256, and which records are there; the same in any folder."""
        keys = self.keys()
        return {
            "source": self.name,
            "reader": 2,
            "version": self.version(),
            "resolution": self._resolution,
            "on_checksum": self.on_checksum,
            "translator": self._translator_facts(),
            "tables": {name: hashlib.sha256(self._bytes(name)).hexdigest() for name in (TABLE, STATEMENTS)},
            "records": fingerprint(keys),
        }

    def keys(self) -> list[str]:
        """Record ids that have a table row and a header on disk, by ascending ``ecg_id``.

        With a translation model, all their reports are translated here, once.
        """
        _ = self._statements  # a mistake in a table is told before the long work
        keys = list(self._on_disk[self._resolution]["read"])
        if self.translator == "marian":
            reports = {self._row(key)[1]["report"] for key in keys}
            self._marian.translate(sorted(report for report in reports if _for_a_model(report)))
        return keys

    def accounting(self) -> dict[str, list[str]]:
        """``no_metadata``: on disk without a table row; ``not_on_disk``: in the table without a header on disk."""
        found = self._on_disk[self._resolution]
        return {name: list(found[name]) for name in ("no_metadata", "not_on_disk")}

    def header_path(self, key: str) -> Path:
        """The header file of the record ``key`` (in a zip: where it would be); EcglmError for a key without a row."""
        return self.root / self._header(self._row(key)[1])

    def _header(self, row: dict[str, str]) -> str:
        return f"{row[_FILENAME[self._resolution]]}.hea"

    def _row(self, key: str) -> tuple[int, dict[str, str]]:
        ecg_id = _ecg_id(key)
        if ecg_id is None or ecg_id not in self._rows:
            raise EcglmError(f"{self.root / TABLE}: no row for {key}; keys look like ptb-xl/00001")
        return ecg_id, self._rows[ecg_id]

    def read(self, key: str) -> Record:
        """The record ``key`` (``"ptb-xl/00001"``) with labels, report, patient, fold and metadata.

        Raises RejectedRecord for a row or a signal that cannot be used, EcglmError for a key without a table row.
        """
        ecg_id, row = self._row(key)
        record = read_wfdb(self._header(row), key, on_checksum=self.on_checksum, tree=self.tree)
        try:
            codes = parse_scp_codes(row["scp_codes"])
        except ValueError as error:
            raise RejectedRecord("scp_codes_invalid", f"{self.root / TABLE}, ecg_id {ecg_id}: {error}") from error
        try:
            patient = whole_number(row["patient_id"]) if row["patient_id"] else None
            fold = whole_number(row["strat_fold"]) if row["strat_fold"] else None
            age = number(row["age"]) if row["age"] else None
            if fold is not None and not 1 <= fold <= 10:
                raise ValueError(f"strat_fold {fold} is not in 1..10")
        except ValueError as error:
            raise RejectedRecord("metadata_invalid", f"{self.root / TABLE}, ecg_id {ecg_id}: {error}") from error
        metadata = {
            **record.metadata,
            "age": age if age != 300 else None,  # 300 stands for "over 89"
            "age_over_89": age is not None and age > 89,
            "sex": {"0": "male", "1": "female"}.get(row["sex"].removesuffix(".0")),
            "likelihoods": codes,
            "heart_axis": row["heart_axis"] or None,
            "device": row["device"] or None,
            "validated_by_human": {"true": True, "false": False}.get(row["validated_by_human"].lower()),
            "recording_date": row["recording_date"] or None,
            "dataset_version": self._version,
            "report_language": report_language(row["report"]),
        }
        english, origin = self._english(row["report"])
        return dataclasses.replace(
            record,
            patient_id=f"{self.name}/{patient}" if patient is not None else key,
            patient_known=patient is not None,
            fold=fold,
            split="" if fold is None else "train" if fold <= 8 else "val" if fold == 9 else "test",
            report=row["report"],
            report_en=english,
            report_origin=origin,
            labels=self._labels(codes),
            metadata=metadata,
        )

    def _labels(self, codes: dict[str, float]) -> tuple[str, ...]:
        """``group:name`` of the statements, groups in the order of the class docstring, names sorted within."""
        groups: dict[str, set[str]] = {"superclass": set(), "subclass": set(), "form": set(), "rhythm": set()}
        for code in codes:
            for group, name in self._statements.get(code, ()):
                groups[group].add(name)
        groups["scp"] = set(codes)
        return tuple(f"{group}:{name}" for group, names in groups.items() for name in sorted(names))

    def _english(self, report: str) -> tuple[str, str]:
        """The report in English and where that comes from; two empty texts where it stays as it is."""
        if report_language(report) == "en":
            return report, "original"
        if self.translator != "none" and (english := translate_phrases(report)) and report:
            return english, "phrases"
        if self.translator == "marian" and _for_a_model(report) and (english := self._marian.cached(report)):
            return english, self._marian.name
        return "", ""

    @functools.cached_property
    def _marian(self) -> MarianTranslator:
        return MarianTranslator(
            self.translation_model, cache=Path(self.translation_cache) if self.translation_cache else None
        )

    def _translator_facts(self) -> dict[str, str]:
        facts: dict[str, str] = {"name": self.translator}
        if self.translator != "none":
            facts["phrases"] = phrases_fingerprint()
        if self.translator == "marian":
            facts["model"] = self._marian.fingerprint
        return facts

    @functools.cached_property
    def tree(self) -> Tree:
        """Where the files are: the folder or the zip."""
        if not self.root.exists():
            raise EcglmError(f"{self.root / TABLE}: no such file; {_MEND}")
        return open_tree(self.root)

    def _bytes(self, name: str) -> bytes:
        try:
            return self.tree.read(name, _MAX_TABLE)
        except FileNotFoundError as error:
            raise EcglmError(f"{self.root / name}: no such file; {_MEND}") from error
        except OSError as error:
            raise EcglmError(f"{self.root / name}: cannot be read ({error.strerror}); {_MEND}") from error

    def _table(self, name: str, columns: tuple[str, ...], key: str) -> list[dict[str, str]]:
        return parse_table(self._bytes(name), str(self.root / name), columns, key, mend=_MEND)

    @functools.cached_property
    def _version(self) -> str:
        return self.version()

    @functools.cached_property
    def _rows(self) -> dict[int, dict[str, str]]:
        """Table rows by ``ecg_id``, ascending; only the columns that are used."""
        path = self.root / TABLE
        rows: dict[int, dict[str, str]] = {}
        for row in self._table(TABLE, _COLUMNS, "ecg_id"):
            try:
                ecg_id = whole_number(row["ecg_id"])
            except ValueError as error:
                raise EcglmError(f"{path}: ecg_id {row['ecg_id']!r} is no whole number") from error
            if ecg_id in rows:
                raise EcglmError(f"{path}: ecg_id {ecg_id} stands twice; keep one row")
            for column in _FILENAME.values():
                _check_file_name(row[column], f"{path}, ecg_id {ecg_id}, {column}")
            rows[ecg_id] = {column: row[column] for column in _COLUMNS}
        if not rows:
            raise EcglmError(f"{path}: has no rows; {_MEND}")
        return dict(sorted(rows.items()))

    @functools.cached_property
    def _statements(self) -> dict[str, tuple[tuple[str, str], ...]]:
        """SCP statement → the (group, name) labels it stands for. The column of statements has no name."""
        columns = ("", "diagnostic", "form", "rhythm", "diagnostic_class", "diagnostic_subclass")
        result = {}
        for row in self._table(STATEMENTS, columns, ""):
            labels = []
            if _is_one(row["diagnostic"]):
                labels.append(("superclass", row["diagnostic_class"]))
                if row["diagnostic_subclass"]:
                    labels.append(("subclass", row["diagnostic_subclass"]))
            labels += [(group, row[""]) for group in ("form", "rhythm") if _is_one(row[group])]
            result[row[""]] = tuple(labels)
        return result

    @functools.cached_property
    def _on_disk(self) -> dict[str, dict[str, list[str]]]:
        """Per resolution, ids: ``read`` (row and header), ``no_metadata``, ``not_on_disk``; files are listed once."""
        wanted = ("500", "100") if self.resolution == "auto" else (self.resolution,)
        result = {}
        for resolution in wanted:
            column = _FILENAME[resolution]
            found = _headers(self.tree, f"records{resolution}")
            rows = {_record_id(i): row[column] for i, row in self._rows.items()}
            unclaimed = found - set(rows.values())
            result[resolution] = {
                "read": [i for i, name in rows.items() if name in found],
                "not_on_disk": [i for i, name in rows.items() if name not in found],
                "no_metadata": sorted(f"ptb-xl/{name.rsplit('/', 1)[1].split('_', 1)[0]}" for name in unclaimed),
            }
        return result

    @functools.cached_property
    def _resolution(self) -> str:
        """The resolution that is read; EcglmError when none of its records is on disk."""
        best = max(self._on_disk, key=lambda r: len(self._on_disk[r]["read"]))  # the first (500) on ties
        if not self._on_disk[best]["read"]:
            folders = " or ".join(f"records{r}" for r in self._on_disk)
            raise EcglmError(f"{self.root}: no record of {TABLE} lies in {folders}; {_MEND}")
        return best


@functools.lru_cache(maxsize=8)
def _shared(root: Path, resolution: Any, on_checksum: Any, translator: Any, model: str, cache: str) -> PtbXl:
    return PtbXl(
        root=root,
        resolution=resolution,
        on_checksum=on_checksum,
        translator=translator,
        translation_model=model,
        translation_cache=cache,
    )


def _for_a_model(report: str) -> bool:
    """Whether a German-English model is asked: neither English nor Swedish, and beyond the dictionary."""
    words = re.search(r"[^\W\d_]{3}", report)
    return bool(words) and report_language(report) in ("de", "") and translate_phrases(report) is None


def _headers(tree: Tree, folder: str) -> set[str]:
    """Relative names without suffix of all headers below ``folder``, as the table spells them."""
    if not isinstance(tree, FolderTree):
        return {n[:-4] for n in tree.names() if n.startswith(f"{folder}/") and n.endswith(".hea")}
    found: set[str] = set()  # a link that leads out is the trouble of its record alone
    for place, _, files in os.walk(tree.root / folder):
        relative = PurePosixPath(folder, Path(place).relative_to(tree.root / folder).as_posix())
        found.update(f"{relative}/{name[:-4]}" for name in files if name.endswith(".hea"))
    return found


def _record_id(ecg_id: int) -> str:
    return f"ptb-xl/{ecg_id:05d}"


def _ecg_id(key: str) -> int | None:
    found = re.fullmatch(r"ptb-xl/(\d{5,9})", key, re.ASCII)
    return int(found[1]) if found and _record_id(int(found[1])) == key else None


def _is_one(text: str) -> bool:
    return text in ("1", "1.0")


def _check_file_name(name: str, context: str) -> None:
    """Refuse a file name of the table that is not a plain relative path."""
    if _PLAIN_NAME.fullmatch(name):
        return
    parts = name.split("/")
    if name and (any(p in ("", ".", "..") or p.startswith("~") for p in parts) or any(c in name for c in "\\:\0")):
        raise UnsafeInputError(f"{context}: refuses {name!r}; a path inside the folder is needed")
