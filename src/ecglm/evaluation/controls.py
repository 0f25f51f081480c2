"""Conditions of a test: controls, shown in place of the patient's ECG, and perturbations of the ECG itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ecglm import registry
from ecglm.errors import EcglmError
from ecglm.randomness import generator_for
from ecglm.registry import register
from ecglm.representations.augment import Effect, perturb
from ecglm.types import ECG_MARK

REAL = "real"
#: What the names of perturbations begin with.
PERTURB = "perturb-"
#: Other conditions that show the patient's own ECG, disturbed or in part.
ROBUSTNESS = ("lead_mask", "shuffle-leads", "no-signal", "no-image")


@dataclass(frozen=True)
class Control:
    """One condition. ``segment`` changes the signal; ``swaps``: the ECG shown is another patient's (``swap_partners``);
    ``removes_ecg``: nothing is shown and the marks leave the text (``remove_marks``); ``perturbs``: the effect
    (``representations/augment.py``) that disturbs the patient's own ECG, which is no control but a robustness test;
    ``hides``: the modality, ``signal`` or ``image``, that a model with two encoders goes without, likewise."""

    title: str
    segment: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None
    swaps: bool = False
    removes_ecg: bool = False
    perturbs: str = ""
    hides: str = ""


def _blank(segment: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return np.zeros_like(segment)


def _noise(segment: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    spread = segment.astype(np.float64).std(axis=-1, keepdims=True)
    return (generator.standard_normal(segment.shape) * spread).astype(np.float32)


def _lead_mask(segment: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A drawn half of the leads as zeros, the others as they are."""
    hidden = generator.permutation(len(segment))[: len(segment) // 2]
    shown = segment.copy()
    shown[hidden] = 0.0
    return shown


def _shuffle_leads(segment: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The leads in a drawn order, none of the orders that leave every lead in its place."""
    order = generator.permutation(len(segment))
    while len(segment) > 1 and np.all(order == np.arange(len(segment))):
        order = generator.permutation(len(segment))
    return np.ascontiguousarray(segment[order])


register("controls", "blank")(Control("blank ECG", _blank))
register("controls", "noise")(Control("noise", _noise))
register("controls", "swap")(Control("another patient's ECG", swaps=True))
register("controls", "no-ecg")(Control("no ECG (text only)", removes_ecg=True))
register("controls", "no-signal")(Control("picture alone", hides="signal"))
register("controls", "no-image")(Control("signal alone", hides="image"))
register("controls", "lead_mask")(Control("half of the leads blank", _lead_mask))
register("controls", "shuffle-leads")(Control("leads in another order", _shuffle_leads))
for _name in registry.names("augmentations"):
    _effect: Effect = registry.get("augmentations", _name)
    register("controls", PERTURB + _name)(Control(_effect.title, perturbs=_name))


def is_perturbation(name: str) -> bool:
    """Whether a condition shows the patient's own ECG, disturbed or in part: it says nothing about reading the ECG."""
    return name.startswith(PERTURB) or name in ROBUSTNESS


def apply_control(name: str, segment: np.ndarray, rate: int, *, seed: int, row_id: str) -> np.ndarray:
    """The segment the model is shown under a control: float32 ``(num_leads, num_samples)`` mV, never the same object.

    ``blank``: zeros. ``noise``: Gaussian, mean zero, each lead's own standard deviation, seeded by seed and row id
    (give each ECG of a row its own id). ``swap``: hand in the partner's segment, it comes back as it is. ``perturb-…``:
    the effect at its fixed severity, seeded likewise. ``lead_mask``: a drawn half of the leads (rows) as zeros.
    ``shuffle-leads``: the leads in a drawn order. ``no-signal``, ``no-image``: the segment as it is (what is hidden is
    the representation's). ``no-ecg`` shows no segment (use ``remove_marks`` on the text):
    asking for one is an EcglmError, like an unknown name. rate: Hz.
    """
    control: Control = registry.get("controls", name)
    if control.removes_ecg:
        raise EcglmError(f"control '{name}' shows no ECG, so it has no segment; remove the marks from the text")
    if control.perturbs:
        return perturb(control.perturbs, segment, rate, seed=seed, row_id=row_id)
    shown = np.array(segment, dtype=np.float32)
    return control.segment(shown, generator_for(seed, name, row_id)) if control.segment else shown


def remove_marks(text: str) -> str:
    """A text without its ECG marks, without the lines that only showed one (``ECG 1: <ecg>``), spaces tidied."""
    kept = []
    for line in text.split("\n"):
        words = " ".join(line.replace(ECG_MARK, " ").split())
        if words and not (ECG_MARK in line and words.endswith(":")):
            kept.append(words)
    return "\n".join(kept)


def swap_partners(records: Sequence[tuple[str, str]], seed: int) -> dict[str, str]:
    """For each record the record shown in its place, always of another patient.

    records: (record id, patient id), in any order, repeats allowed. Patients are paired by a seeded derangement; the
    i-th record of a patient gets the partner's i-th (counted round from a seeded start), so that a question about two
    ECGs gets two. Raises EcglmError with fewer than two patients, or for a record given to two patients.
    """
    patient_of: dict[str, str] = {}
    for record, patient in records:
        if patient_of.setdefault(record, patient) != patient:
            raise EcglmError(f"record '{record}' belongs to two patients, '{patient_of[record]}' and '{patient}'")
    by_patient: dict[str, list[str]] = {}
    for record in sorted(patient_of):
        by_patient.setdefault(patient_of[record], []).append(record)
    patients = sorted(by_patient)
    if len(patients) < 2:
        raise EcglmError(
            f"control 'swap' needs ECGs of at least two patients, found {len(patients)}; "
            "predict on more test patients or leave 'swap' out of --controls"
        )
    generator = generator_for(seed, "swap")
    order = generator.permutation(len(patients))
    while np.any(order == np.arange(len(patients))):  # uniform over derangements; about e tries whatever the size
        order = generator.permutation(len(patients))
    partners: dict[str, str] = {}
    for patient, other in zip(patients, order, strict=True):
        theirs = by_patient[patients[other]]
        start = int(generator.integers(len(theirs)))
        for i, record in enumerate(by_patient[patient]):
            partners[record] = theirs[(start + i) % len(theirs)]
    return partners
