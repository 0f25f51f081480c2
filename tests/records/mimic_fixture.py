"""A folder shaped like MIMIC-IV-ECG: synthetic waveforms under MIMIC's header conventions, tables of the real schema.

The real waveforms are behind an agreement, so none are here; the columns are those of the official tables, the rows
are made up.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ecglm.records.synthetic import Synthetic
from ecglm.types import LEADS

#: Limb leads end with aVF, aVL.
MIMIC_LEADS = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")
GAIN = 200.0
RECORD_COLUMNS = ("subject_id", "study_id", "file_name", "ecg_time", "path")
REPORTS = tuple(f"report_{k}" for k in range(18))
MEASURED = ("rr_interval", "p_onset", "p_end", "qrs_onset", "qrs_end", "t_end", "p_axis", "qrs_axis", "t_axis")
MACHINE_COLUMNS = ("subject_id", "study_id", "cart_id", "ecg_time", *REPORTS, "bandwidth", "filtering", *MEASURED)
NOTE_COLUMNS = ("subject_id", "study_id", "waveform_path", "note_id", "note_seq", "charttime")


@dataclass
class Study:
    """One ECG. counts: int16 ``(5000, 12)`` in MIMIC_LEADS order; None draws a synthetic one."""

    subject: int
    study: int
    lines: Sequence[str] = ("Sinus rhythm", "Borderline ECG")
    measured: Sequence[object] = (800, 40, 150, 190, 280, 560, 50, 30, 40)
    counts: np.ndarray | None = None
    notes: Sequence[str] = ()
    comment: str | None = None
    machine: bool = True
    on_disk: bool = True
    row: bool = True
    filtering: str = "60 Hz notch Baseline filter"
    time: str = "2180-07-23 08:44:00"
    files: list[Path] = field(default_factory=list)

    @property
    def path(self) -> str:
        return f"files/p{self.subject // 10_000}/p{self.subject}/s{self.study}/{self.study}"


def synthetic_counts(number: int, seed: int = 5) -> np.ndarray:
    """int16 ``(5000, 12)`` of the synthetic ECG of a patient, at 200 per mV, in MIMIC_LEADS order."""
    source = Synthetic(num_patients=number + 1, seed=seed, records_per_patient=(1, 1), artefacts=False)
    record = source.read(f"synthetic/s{seed}-p{number:05d}-1")
    rows = [LEADS.index(lead) for lead in MIMIC_LEADS]
    return np.rint(record.signal[rows].T * GAIN).astype(np.int16)


def write_mimic(root: Path, studies: Sequence[Study], *, encoding: str = "utf-8") -> Path:
    """Write the tables and waveforms of ``studies`` below ``root``."""
    root.mkdir(parents=True, exist_ok=True)
    for number, study in enumerate(studies):
        if study.on_disk:
            _write_waveform(root, study, number)
    with_rows = [s for s in studies if s.row]
    _write_table(
        root / "record_list.csv",
        RECORD_COLUMNS,
        [(s.subject, s.study, s.study, s.time, s.path) for s in with_rows],
        encoding,
    )
    machine = [
        (s.subject, s.study, 6848296, s.time, *_padded(s.lines), "0.005-150 Hz", s.filtering, *s.measured)
        for s in with_rows
        if s.machine
    ]
    _write_table(root / "machine_measurements.csv", MACHINE_COLUMNS, machine, encoding)
    notes = [(s.subject, s.study, s.path, note, i + 1, s.time) for s in with_rows for i, note in enumerate(s.notes)]
    _write_table(root / "waveform_note_links.csv", NOTE_COLUMNS, notes, encoding)
    return root


def _padded(lines: Sequence[str]) -> list[str]:
    return [*lines, *[""] * (len(REPORTS) - len(lines))]


def _write_table(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]], encoding: str) -> None:
    with open(path, "w", encoding=encoding, newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def _write_waveform(root: Path, study: Study, number: int) -> None:
    counts = synthetic_counts(number) if study.counts is None else study.counts
    header = root / f"{study.path}.hea"
    header.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{study.study} 12 500 {len(counts)} 08:44:00 23/07/2180"]
    for column, lead in enumerate(MIMIC_LEADS):
        values = counts[:, column].astype(np.int64)
        checksum = (int(values.sum()) + 0x8000) % 0x10000 - 0x8000
        lines.append(f"{study.study}.dat 16 200.0(0)/mV 16 0 {values[0]} {checksum} 0 {lead}")
    lines.append(f"#<subject_id>: {study.subject}" if study.comment is None else study.comment)
    header.write_text("\n".join(lines) + "\n")
    header.with_suffix(".dat").write_bytes(counts.astype("<i2").tobytes())
