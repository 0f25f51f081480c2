"""MIMIC-IV-ECG (Gow et al., PhysioNet): 800,000 ten-second ECGs with the machine's statements and measurements."""

from __future__ import annotations

import dataclasses
import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ecglm.errors import EcglmError, RejectedRecord
from ecglm.files import fingerprint
from ecglm.records.mimic_tables import MACHINE, NOTES, RECORDS, Tables, read_tables
from ecglm.records.tree import Tree, check_name, open_tree, tree_sha256
from ecglm.records.wfdb_files import read_with_header
from ecglm.registry import register
from ecglm.types import Record

#: Rows of ``record_list.csv`` in version 1.0, the only one so far.
_ROWS_1_0 = 800_035
_SUBJECT = re.compile(r"<?subject_id>?\s*:\s*(\d{1,18})|<?(\d{1,18})>?\s*:", re.ASCII)
_KEY = re.compile(r"mimic-iv-ecg/(\d{1,18})", re.ASCII)
_STRIPPED = " .,;:"


@register("records", "mimic-iv-ecg")
@dataclass(frozen=True, kw_only=True)
class MimicIvEcg:
    """The folder ``root`` (``record_list.csv``, ``machine_measurements.csv``, ``files/p1000/…``), or its ``.zip``.

    report_separator: what joins the machine's statements, each without the punctuation at its end; ``"original"``
    joins them by one blank, as they are. on_checksum: what a record is whose data and header disagree: noted, or
    rejected.

    ``metadata`` has ``measurements`` (ms and degrees; what is coded as missing is left out), ``ecg_time`` of the table
    beside the header's ``recorded`` (both shifted to 2100-2200, and not always equal), ``cart_id bandwidth filtering``
    and ``note_ids``. A record without statements is kept, and noted as ``no_report``.
    """

    root: Path
    report_separator: str = ". "
    on_checksum: Literal["warn", "reject"] = "warn"
    name = "mimic-iv-ecg"

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root))
        if self.on_checksum not in ("warn", "reject"):
            raise EcglmError(f"on_checksum '{self.on_checksum}' is unknown; 'warn' or 'reject' is needed")

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker gets the options, and reads the tables once (seconds) however many tasks it is sent.
        return _shared, (self.root, self.report_separator, self.on_checksum)

    def version(self) -> str:
        """``"1.0"`` for a complete table of that version, else ``"unknown"``."""
        return "1.0" if len(self._tables.study) == _ROWS_1_0 else "unknown"

    def fingerprint(self) -> dict[str, Any]:
        """What is read: options, tables by sha256, and which records are there; the same in any place."""
        return {
            "source": self.name,
            "reader": 1,
            "version": self.version(),
            "report_separator": self.report_separator,
            "on_checksum": self.on_checksum,
            "tables": {n: tree_sha256(self._tree, n) for n in (RECORDS, MACHINE, NOTES) if self._tree.has(n)},
            "records": fingerprint(self.keys()),
        }

    def keys(self) -> list[str]:
        """Record ids of the rows of ``record_list.csv`` whose header is there, in the order of the table."""
        found = list(self._on_disk["read"])
        if not found:
            raise EcglmError(f"{self.root}: no record of {RECORDS} is there; its files/ folder is needed beside it")
        return found

    def accounting(self) -> dict[str, list[str]]:
        """``no_metadata``: a header without a row; ``not_on_disk``: a row without a header; ``no_report``: read, but
        without a statement of the machine."""
        return {name: list(self._on_disk[name]) for name in ("no_metadata", "not_on_disk", "no_report")}

    def read(self, key: str) -> Record:
        """The record ``key`` (``"mimic-iv-ecg/40689238"``) with report, patient and metadata.

        Raises RejectedRecord as `read_wfdb` and ``subject_mismatch`` where tables and header name different patients;
        EcglmError for a key without a row.
        """
        tables = self._tables
        found = _KEY.fullmatch(key)
        row = tables.row(int(found[1])) if found else -1
        if row < 0 or not found:
            raise EcglmError(f"{self.root}/{RECORDS}: no row for {key}; keys look like mimic-iv-ecg/40689238")
        study, subject = int(found[1]), int(tables.subject[row])
        name = f"{tables.path[row].as_py()}.hea"
        record, header = read_with_header(name, key, on_checksum=self.on_checksum, tree=self._tree)
        claims = {int(m[1] or m[2]) for comment in header.comments if (m := _SUBJECT.match(comment))}
        if tables.machine[row] >= 0:
            claims.add(int(tables.machine_subject[tables.machine[row]]))
        if claims - {subject}:
            other = sorted(claims - {subject})[0]
            raise RejectedRecord("subject_mismatch", f"{name}: {RECORDS} says subject {subject}, another place {other}")
        report = join_report(tables.report_lines(row), self.report_separator)
        metadata = {
            **record.metadata,
            "notes": record.metadata["notes"] if report else [*record.metadata["notes"], "no_report"],
            "ecg_time": tables.time[row].as_py() or None,
            **tables.details_of(row),
            "measurements": tables.measurements(row),
            "note_ids": tables.note_ids(study),
        }
        return dataclasses.replace(
            record,
            patient_id=f"{self.name}/{subject}",
            patient_known=True,
            report=report,
            report_en=report,
            report_origin="original" if report else "",
            metadata=metadata,
        )

    @functools.cached_property
    def _tree(self) -> Tree:
        return open_tree(self.root)

    @functools.cached_property
    def _tables(self) -> Tables:
        return read_tables(self._tree)

    @functools.cached_property
    def _on_disk(self) -> dict[str, list[str]]:
        """``read``, ``not_on_disk``, ``no_metadata`` and ``no_report`` ids; the folder is walked once."""
        tables = self._tables
        unclaimed = {name for name in self._tree.names() if name.endswith(".hea")}
        read, not_on_disk, no_report = [], [], []
        rows = zip(tables.study.tolist(), tables.path.to_pylist(), tables.with_report().tolist(), strict=True)
        for study, path, said in rows:
            key, name = f"{self.name}/{study}", f"{path}.hea"
            check_name(name, f"{self.root}/{RECORDS}, study_id {study}, path")
            if name not in unclaimed:
                not_on_disk.append(key)
                continue
            unclaimed.discard(name)
            read.append(key)
            if not said:
                no_report.append(key)
        no_metadata = sorted(f"{self.name}/{name.rpartition('/')[2][:-4]}" for name in unclaimed)
        return {"read": read, "not_on_disk": not_on_disk, "no_metadata": no_metadata, "no_report": no_report}


@functools.lru_cache(maxsize=8)
def _shared(root: Path, report_separator: str, on_checksum: Any) -> MimicIvEcg:
    return MimicIvEcg(root=root, report_separator=report_separator, on_checksum=on_checksum)


def join_report(lines: list[str], separator: str) -> str:
    """The machine's statements as one text: joined by ``separator``, each without the punctuation at its end.

    ``"original"``: by one blank, as they are.
    """
    if separator == "original":
        return " ".join(lines)
    return separator.join(text for line in lines if (text := line.rstrip(_STRIPPED)))
