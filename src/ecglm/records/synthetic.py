"""Synthetic 12-lead ECGs with exact ground truth: the embedded source, for trying things out and for exact tests."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from ecglm.errors import ConfigError, EcglmError, nearest
from ecglm.records.synthetic_artefacts import add_artefacts
from ecglm.records.synthetic_draw import draw
from ecglm.records.synthetic_patient import draw_findings, draw_patient
from ecglm.records.synthetic_report import labels_of, report_of
from ecglm.records.synthetic_rhythm import RHYTHMS
from ecglm.registry import register
from ecglm.types import LEADS, Record

#: Changes whenever the same options give other records.
VERSION = "2"

_KEY = re.compile(r"synthetic/s(\d+)-p(\d{5,})-(\d+)")


@register("records", "synthetic")
@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """Generated ECGs from a heart-vector model; labels, report and measurements are the truth they were drawn from.

    num_patients: how many patients; another ``seed`` gives other patients (the seed is part of their ids).
    rate: Hz. duration_s: seconds. records_per_patient: fewest and most ECGs of one patient. rhythms: the rhythms drawn
    from, all equally likely; empty means all of ``RHYTHMS``. artefacts: False leaves out noise, wander, hum and flat
    leads, the ECG beneath staying the same. Raises ConfigError for options outside their range.
    """

    num_patients: int = 200
    seed: int = 0
    rate: int = 500
    duration_s: float = 10.0
    records_per_patient: tuple[int, int] = (1, 3)
    rhythms: tuple[str, ...] = ()
    artefacts: bool = True

    name: ClassVar[str] = "synthetic"

    def __post_init__(self) -> None:
        fewest_most = tuple(self.records_per_patient)
        checks = [
            ("num_patients", self.num_patients >= 1, "at least 1"),
            ("seed", self.seed >= 0, "0 or more"),
            ("rate", 100 <= self.rate <= 2000, "between 100 and 2000 Hz"),
            ("duration_s", 5 <= self.duration_s <= 60, "between 5 and 60 s"),
            (
                "records_per_patient",
                len(fewest_most) == 2 and 1 <= fewest_most[0] <= fewest_most[1] <= 9,
                "two counts between 1 and 9, the smaller first",
            ),
        ]
        for option, good, rule in checks:
            if not good:
                raise ConfigError(f"synthetic: {option} must be {rule}, found {getattr(self, option)!r}")
        for rhythm in self.rhythms:
            if rhythm not in RHYTHMS:
                raise ConfigError(
                    f"synthetic: no rhythm '{rhythm}'{nearest(rhythm, RHYTHMS)}; known: {', '.join(RHYTHMS)}"
                )

    def version(self) -> str:
        """The version of the generator: the same options and version give the same records."""
        return VERSION

    def fingerprint(self) -> dict[str, Any]:
        """All that decides the records, JSON-able."""
        options = asdict(self)
        options["records_per_patient"] = list(self.records_per_patient)
        options["rhythms"] = list(self.rhythms or RHYTHMS)
        return {"source": self.name, "version": VERSION, **options}

    def accounting(self) -> dict[str, list[str]]:
        """Nothing is left out."""
        return {}

    def keys(self) -> list[str]:
        """All record ids, by patient and then by ECG: ``"synthetic/s<seed>-p<patient>-<ecg>"``."""
        return [
            f"synthetic/s{self.seed}-p{patient:05d}-{ecg}"
            for patient in range(self.num_patients)
            for ecg in range(1, self._count(patient) + 1)
        ]

    def read(self, key: str) -> Record:
        """The record ``key``; depends on nothing but options and key. EcglmError for a key not in ``keys()``."""
        match = _KEY.fullmatch(key)
        seed, number, ecg = (int(g) for g in match.groups()) if match else (-1, 0, 0)
        if seed != self.seed or number >= self.num_patients:
            raise EcglmError(f"synthetic: no record '{key}' (seed {self.seed}, {self.num_patients} patients)")
        patient_id = f"synthetic/s{seed}-p{number:05d}"
        if key != f"{patient_id}-{ecg}" or not 1 <= ecg <= self._count(number):
            raise EcglmError(f"synthetic: no record '{key}'; patient {patient_id} has {self._count(number)}")
        patient = draw_patient(_rng(seed, number, 0, 0))
        rng, noise_rng = (_rng(seed, number, ecg, stream) for stream in (1, 2))
        findings = draw_findings(rng, patient, self.rhythms or RHYTHMS)
        truth = draw(patient, findings, rng, rate=self.rate, duration=self.duration_s)
        signal = truth.signal
        artefacts: tuple[str, ...] = ()
        if self.artefacts:
            signal, artefacts = add_artefacts(signal, noise_rng, self.rate, spare=findings.conduction, lvh=findings.lvh)
        labels = labels_of(findings, truth.measurements, artefacts)
        report = report_of(labels, truth.measurements)
        return Record(
            record_id=key,
            signal=signal,
            sampling_rate=float(self.rate),
            leads=LEADS,
            patient_id=patient_id,
            report=report,
            report_en=report,
            report_origin="original",
            labels=labels,
            metadata={
                "age": patient.age,
                "sex": patient.sex,
                "measurements": truth.measurements,
                "qrs_onsets_s": truth.qrs_onsets_s,
                "beats": truth.beats,
                "p_onsets_s": truth.p_onsets_s,
            },
        )

    def _count(self, number: int) -> int:
        """How many ECGs a patient has; drawn apart, so that the option changes no patient."""
        low, high = self.records_per_patient
        return int(_rng(self.seed, number, 0, 3).integers(low, high + 1))


def _rng(seed: int, patient: int, ecg: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, patient, ecg, stream))))
