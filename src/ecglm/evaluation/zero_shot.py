"""Zero-shot classification: which class's prompt, as a text, is nearest to an ECG, without a label ever learned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ecglm.conversations.label_questions import ANSWERS
from ecglm.errors import ConfigError, nearest
from ecglm.evaluation.auroc import Aurocs, macro_aurocs
from ecglm.evaluation.labelled import Labelled, tensors
from ecglm.evaluation.probe import RANDOM, aurocs_as_dict, interval_text
from ecglm.models.two_towers import retrieval
from ecglm.prompts.data import EcgSource

#: Label group → class → prompt, beside those of ``conversations.label_questions.ANSWERS``: PTB-XL's subclasses and
#: form statements.
PROMPTS: dict[str, dict[str, str]] = {
    "subclass": {
        "NORM": "normal ECG",
        "IMI": "inferior myocardial infarction",
        "AMI": "anterior myocardial infarction",
        "LMI": "lateral myocardial infarction",
        "PMI": "posterior myocardial infarction",
        "LVH": "left ventricular hypertrophy",
        "RVH": "right ventricular hypertrophy",
        "SEHYP": "septal hypertrophy",
        "LAO/LAE": "left atrial enlargement",
        "RAO/RAE": "right atrial enlargement",
        "LAFB/LPFB": "left anterior or left posterior fascicular block",
        "IRBBB": "incomplete right bundle branch block",
        "CRBBB": "complete right bundle branch block",
        "ILBBB": "incomplete left bundle branch block",
        "CLBBB": "complete left bundle branch block",
        "IVCD": "non-specific intraventricular conduction disturbance",
        "_AVB": "AV block",
        "WPW": "Wolff-Parkinson-White syndrome",
        "STTC": "ST-T changes",
        "NST_": "non-specific ST changes",
        "ISC_": "non-specific ischemia",
        "ISCA": "ischemia in anterior leads",
        "ISCI": "ischemia in inferior leads",
    },
    "form": {
        "NDT": "non-diagnostic T wave abnormalities",
        "NST_": "non-specific ST changes",
        "DIG": "digitalis effect",
        "LNGQT": "long QT interval",
        "ABQRS": "abnormal QRS complex",
        "PVC": "premature ventricular complexes",
        "PAC": "premature atrial complexes",
        "PRC(S)": "premature complexes",
        "STD_": "non-specific ST depression",
        "STE_": "non-specific ST elevation",
        "VCLVH": "voltage criteria for left ventricular hypertrophy",
        "QWAVE": "Q waves present",
        "LOWT": "low amplitude T waves",
        "NT_": "non-specific T wave changes",
        "INVT": "inverted T waves",
        "TAB_": "T wave abnormality",
        "LPR": "prolonged PR interval",
        "LVOLT": "low QRS voltages",
        "HVOLT": "high QRS voltages",
    },
}


@dataclass(frozen=True)
class ZeroShotRow:
    """One group of labels. prompts: class → its text. systems: towers → their AUROCs. skipped: why there are none."""

    group: str
    num_test: int
    prompts: Mapping[str, str]
    systems: Mapping[str, Aurocs] | None = None
    skipped: str = ""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        base = {"group": self.group, "num_test": self.num_test, "prompts": dict(self.prompts)}
        if self.systems is None:
            return {**base, "skipped": self.skipped}
        return {**base, "systems": aurocs_as_dict(self.systems)}


def prompt_of(group: str, name: str, own: Mapping[str, Mapping[str, str]] | None = None) -> str:
    """What a class is asked by, in lower case as in MERL: one's own text, the table's, or the name in plain words."""
    for table in (own or {}, PROMPTS, ANSWERS):
        if name in table.get(group, {}):
            return table[group][name].lower()
    return name.replace("_", " ").strip().lower()


def zero_shot(
    towers: Mapping[str, Any],
    ecgs: EcgSource,
    labelled: Labelled,
    *,
    groups: Sequence[str] = (),
    prompts: Mapping[str, Mapping[str, str]] | None = None,
    num_resamples: int = 2000,
    batch_size: int = 64,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> list[ZeroShotRow]:
    """Macro-AUROC of the cosine between each test ECG and each class's prompt (arXiv 2403.06659).

    towers: name → model with ``embed_ecg`` and ``embed_text``; ``"random"`` is what the others are compared with.
    groups: all that the records have, unless named; a record without a label of a group is no part of it. prompts:
    group → class → text, instead of the table's. Raises ConfigError for a prompt of a group or class
    that is not there.
    """
    known = labelled.groups()
    wanted = list(groups or known)
    for group, own in (prompts or {}).items():
        if group not in known:
            raise ConfigError(f"prompts: no label group '{group}' in these records{nearest(group, known)}")
        for name in own:
            if group in wanted and name not in labelled.classes(group):
                raise ConfigError(f"prompts: no class '{name}' in the group '{group}' of these records")
    test = labelled.at("test")
    records = [labelled.records[i] for i in test]
    seen: dict[str, np.ndarray] = {}
    for name, model in towers.items():
        say(f"zero-shot, {len(records)} ECGs: {name}")
        seen[name] = _embedded(model, ecgs, records, batch_size)
    place = {int(row): i for i, row in enumerate(test)}
    out = []
    for group in wanted:
        rows, targets, classes = labelled.targets(group)
        at = np.array([i for i, row in enumerate(rows) if int(row) in place], np.int64)
        texts = {name: prompt_of(group, name, prompts) for name in classes}
        if not len(at):
            out.append(ZeroShotRow(group, 0, texts, skipped="no test ECG"))
            continue
        chosen = [place[int(rows[i])] for i in at]
        scores = {}
        for name, model in towers.items():
            with torch.inference_mode():
                told = model.embed_text(list(texts.values())).double().cpu().numpy()
            scores[name] = seen[name][chosen] @ told.T
        found = macro_aurocs(
            scores,
            targets[at],
            classes,
            [labelled.patients[int(rows[i])] for i in at],
            reference=RANDOM if RANDOM in scores else None,
            num_resamples=num_resamples,
            seed=seed,
        )
        out.append(ZeroShotRow(group, len(at), texts, found))
    return out


def report_retrieval(
    towers: Mapping[str, Any], ecgs: EcgSource, labelled: Labelled, *, batch_size: int = 64
) -> dict[str, dict[str, float]]:
    """Towers → recall at 1 and 5 between the test ECGs and their stores' English reports, with chance
    (``models.two_towers.retrieval``); empty where fewer than two test records have one.
    """
    told: dict[str, str] = {}
    for store in ecgs.stores:
        columns = (store.index.column(name).to_pylist() for name in ("record_id", "report_en"))
        told |= {record: (text or "").strip() for record, text in zip(*columns, strict=True)}
    records = [labelled.records[i] for i in labelled.at("test") if told[labelled.records[i]]]
    numbers: dict[str, int] = {}
    ids = torch.tensor([numbers.setdefault(told[r], len(numbers)) for r in records])
    if len(records) < 2:
        return {}
    found = {}
    for name, model in towers.items():
        seen = torch.from_numpy(_embedded(model, ecgs, records, batch_size))
        parts = []
        with torch.inference_mode():
            for start in range(0, len(records), batch_size):
                parts.append(model.embed_text([told[r] for r in records[start : start + batch_size]]).double().cpu())
        found[name] = {key: round(value, 9) for key, value in retrieval(seen, torch.cat(parts), ids).items()}
    return found


def retrieval_lines(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Recall as Markdown, one line per way and k."""
    some = next(iter(found.values()))
    keys = [key for key in some if "@" in key and not key.endswith("by chance")]
    heads = [f"{some['num_ecgs']:.0f} ECGs, {some['num_texts']:.0f} reports", *found, "chance"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for key in sorted(keys):
        cells = [f"{found[name][key]:.3f}" for name in found]
        lines.append("| " + " | ".join([key.replace("_", " "), *cells, f"{some[f'{key} by chance']:.3f}"]) + " |")
    return lines


def _embedded(model: Any, ecgs: EcgSource, records: Sequence[str], batch_size: int) -> np.ndarray:
    device = next(model.parameters()).device
    found = []
    with torch.inference_mode():
        for start in range(0, len(records), batch_size):
            batch = tensors(ecgs, records[start : start + batch_size]).to(device)
            found.append(model.embed_ecg(batch).double().cpu().numpy())
    return np.concatenate(found)


def table(rows: Sequence[ZeroShotRow]) -> list[str]:
    """The results as Markdown, one line per group."""
    names = [n for n in next((r.systems for r in rows if r.systems), {}) if n != RANDOM]
    heads = ["labels", "test ECGs", "classes", *names, RANDOM, *(f"{n} − {RANDOM}" for n in names)]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        cells = [row.group, str(row.num_test), str(len(row.prompts))]
        if row.systems is None:
            cells += [f"skipped: {row.skipped}", *[""] * (len(heads) - 4)]
        else:
            some = next(iter(row.systems.values()))
            cells[2] = f"{len(some.classes)} of {len(row.prompts)}"
            cells += [interval_text(row.systems[n].macro) if n in row.systems else "" for n in (*names, RANDOM)]
            cells += [interval_text(row.systems[n].difference, signed=True) for n in names]
        lines.append("| " + " | ".join(cells) + " |")
    return lines
