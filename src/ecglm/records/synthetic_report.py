"""The findings of a synthetic ECG as labels and as an English report."""

from __future__ import annotations

from typing import Any

from ecglm.records.synthetic_model import TERRITORIES
from ecglm.records.synthetic_patient import Findings

RHYTHM_WORDS: dict[str, str] = {
    "sinus_rhythm": "Sinus rhythm",
    "sinus_bradycardia": "Sinus bradycardia",
    "sinus_tachycardia": "Sinus tachycardia",
    "atrial_fibrillation": "Atrial fibrillation",
    "pvc": "Sinus rhythm with premature ventricular complexes",
    "pac": "Sinus rhythm with premature atrial complexes",
    "first_degree_av_block": "Sinus rhythm with first-degree AV block",
    "av_block_2_1": "Second-degree AV block with 2:1 conduction",
    "paced": "Ventricular paced rhythm",
}
_CONDUCTION_WORDS = {"lbbb": "Left bundle branch block.", "rbbb": "Right bundle branch block."}
_AXIS_WORDS = {"normal": "Normal axis", "left": "Left axis deviation", "right": "Right axis deviation"}
_QUALITY_WORDS = {
    "noise": "muscle noise",
    "wander": "baseline wander",
    "mains_hum": "mains hum",
    "flat_lead": "a flat precordial lead",
}


def labels_of(findings: Findings, measurements: dict[str, Any], artefacts: tuple[str, ...]) -> tuple[str, ...]:
    """All labels, each group at most once but ``quality``; a group that cannot be judged is absent.

    Bundle branch block and pacing hide LVH, QT and primary T changes; LBBB and pacing hide ST changes as well; strain
    of LVH is neither an ST nor a T label; an ST shift takes the T wave with it.
    """
    degrees = measurements["axis_deg"]
    axis = "left" if degrees < -30 else "right" if degrees > 90 else "normal"
    labels = [f"rhythm:{findings.rhythm}", f"axis:{axis}"]
    conduction = findings.conduction
    if conduction != "paced":
        labels.append(f"conduction:{conduction}")
    if conduction == "normal":
        labels.append("hypertrophy:lvh" if findings.lvh else "hypertrophy:none")
        labels.append("qt:long" if findings.long_qt else "qt:normal")
    if conduction in ("normal", "rbbb") and not findings.strain:
        labels.append(f"st:{'_'.join(findings.st)}" if findings.st else "st:none")
    if conduction == "normal" and not findings.strain and findings.st is None:
        labels.append(f"twave:{'_'.join(findings.twave)}" if findings.twave else "twave:normal")
    labels += [f"quality:{name}" for name in artefacts] or ["quality:good"]
    labels += [f"superclass:{name}" for name in _superclasses(findings, axis)]
    return tuple(labels)


def _superclasses(findings: Findings, axis: str) -> list[str]:
    """PTB-XL's five diagnostic classes; rhythm or axis alone gives none, and NORM is wholly normal."""
    found = []
    if findings.st is not None and findings.st[0] == "elevation":
        found.append("MI")
    if findings.twave is not None or findings.long_qt or (findings.st is not None and findings.st[0] == "depression"):
        found.append("STTC")
    if findings.conduction in ("lbbb", "rbbb") or findings.rhythm in ("first_degree_av_block", "av_block_2_1"):
        found.append("CD")
    if findings.lvh:
        found.append("HYP")
    return found or (["NORM"] if findings.rhythm == "sinus_rhythm" and axis == "normal" else [])


def report_of(labels: tuple[str, ...], measurements: dict[str, Any]) -> str:
    """The report: rhythm, rate, intervals, axis, findings, artefacts, one sentence each."""
    groups: dict[str, list[str]] = {}
    for label in labels:
        group, _, name = label.partition(":")
        groups.setdefault(group, []).append(name)
    intervals = [f"PR {measurements['pr_ms']} ms"] if "pr_ms" in measurements else []
    intervals += [
        f"QRS {measurements['qrs_ms']} ms",
        f"QT/QTc {measurements['qt_ms']}/{measurements['qtc_ms']} ms",
    ]
    text = [
        f"{RHYTHM_WORDS[groups['rhythm'][0]]}.",
        f"Ventricular rate {measurements['heart_rate']:.0f} bpm.",
        f"{', '.join(intervals)}.",
        f"{_AXIS_WORDS[groups['axis'][0]]} ({measurements['axis_deg']} degrees).",
    ]
    text += [_CONDUCTION_WORDS[c] for c in groups.get("conduction", []) if c in _CONDUCTION_WORDS]
    if "lvh" in groups.get("hypertrophy", []):
        text.append(f"Left ventricular hypertrophy by voltage (Sokolow-Lyon {measurements['sokolow_mv']:.1f} mV).")
        if "st" not in groups:
            text.append("Lateral ST depression and T wave inversion (strain).")
    for name in groups.get("st", []):
        if name != "none":
            kind, territory = name.split("_")
            text.append(f"ST {kind} in the {territory} leads ({', '.join(TERRITORIES[territory])}).")
    for name in groups.get("twave", []):
        if name != "normal":
            territory = name.split("_")[1]
            text.append(f"T wave inversion in the {territory} leads.")
    if "long" in groups.get("qt", []):
        text.append("Prolonged QT interval.")
    if "NORM" in groups.get("superclass", []):
        text.append("Normal ECG.")
    artefacts = [_QUALITY_WORDS[name] for name in groups["quality"] if name != "good"]
    if artefacts:
        text.append(f"Artefacts: {', '.join(artefacts)}.")
    return " ".join(text)
