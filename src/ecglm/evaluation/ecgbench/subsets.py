"""The nine subsets of ECGBench: sizes, label spaces, letters, and how their items name a recording."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ecglm.conversations import ecgbench as corpus
from ecglm.errors import ConfigError, EcglmError, RejectedRecord, nearest

#: The condition without a control: the patient's own ECG.
REAL = "real"
#: Version of the tasks' definition: label spaces, names, rules. Scores of different versions are not compared.
TASK_VERSION = 1

_FIRST_DEGREE = ("first degree atrioventricular block", "first degree AV block", "1st degree AV block")
_LBBB, _RBBB = ("left bundle branch block",), ("right bundle branch block",)
_AF = ("atrial fibrillation",)
_PTB_XL: dict[str, tuple[str, ...]] = {
    "NORM": ("normal ECG", "normal electrocardiogram"),
    "MI": ("myocardial infarction",),
    "STTC": ("ST/T change", "ST/T changes", "ST-T change", "ST-T changes"),
    "CD": ("conduction disturbance", "conduction disturbances"),
    "HYP": ("hypertrophy",),
}
_CPSC: dict[str, tuple[str, ...]] = {
    "NORM": ("normal ECG", "normal electrocardiogram"),
    "AF": _AF,
    "I-AVB": _FIRST_DEGREE,
    "LBBB": _LBBB,
    "RBBB": _RBBB,
    "PAC": (
        *("premature atrial contraction", "premature atrial contractions", "premature atrial complex"),
        *("premature atrial complexes", "atrial premature beat", "atrial premature beats"),
        "PACs",
    ),
    "PVC": (
        *("premature ventricular contraction", "premature ventricular contractions", "premature ventricular complex"),
        *("premature ventricular complexes", "ventricular premature beat", "ventricular premature beats"),
        "PVCs",
    ),
    "STD": ("ST depression", "ST segment depression"),
    "STE": ("ST elevation", "ST segment elevation"),
}
_CODE_15: dict[str, tuple[str, ...]] = {
    "1dAVb": _FIRST_DEGREE,
    "RBBB": _RBBB,
    "LBBB": _LBBB,
    "SB": ("sinus bradycardia",),
    "ST": ("sinus tachycardia",),
    "AF": _AF,
}
#: The other half of ``code15-test`` asks only whether the ECG is normal.
NORMALITY: dict[str, tuple[str, ...]] = {
    "NORM": ("normal", "normal ECG", "normal electrocardiogram"),
    "ABNORMAL": ("abnormal", "abnormal ECG", "abnormal electrocardiogram"),
}


@dataclass(frozen=True)
class Subset:
    """One subset. kind: ``multi-label``, ``choice``, ``set``, ``report`` or ``arena``; the last two need a judge.

    labels: label → its full names (multi-label). letters: of the choices. rows: how many items are published. tag:
    what the original scorer looks for in a path. hub: the dataset's configuration. in_domain: PULSE was trained on the
    same source. source: name of the recordings, empty for photographs.
    """

    name: str
    kind: str
    rows: int
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    letters: str = ""
    tag: str = ""
    in_domain: bool = False
    source: str = ""

    @property
    def hub(self) -> str:
        return self.name

    def record(self, image: str) -> str | None:
        """Record id of the recording an image shows (``ptb-xl/00007``), or None for photographs and other names."""
        record = corpus.SUBSETS[self.name].record
        stem = image.strip().rsplit("/", 1)[-1].split("-", 1)[0].split(".", 1)[0]
        try:
            return None if record is None else record(stem, image)
        except RejectedRecord:
            return None


_ALL = (
    Subset("mmmu-ecg", "choice", 200, letters="ABCD", tag="mmmu-ecg"),
    Subset("ptb-test", "multi-label", 2082, _PTB_XL, tag="ptb-test", in_domain=True, source="ptb-xl"),
    Subset("cpsc-test", "multi-label", 2061, _CPSC, tag="cpsc-test", source="cpsc2018"),
    Subset("csn-test-no-cot", "choice", 1611, letters="ABCDEFGH", tag="csn-test", source="csn"),
    Subset("g12-test-no-cot", "choice", 2026, letters="ABCDEFGH", tag="g12-test", source="georgia"),
    Subset("ecgqa-test", "set", 1317, tag="ecgqa-test", in_domain=True, source="ptb-xl"),
    Subset("code15-test", "multi-label", 1400, _CODE_15, tag="code15-test", in_domain=True, source="code15"),
    Subset("ptb-test-report", "report", 500, in_domain=True, source="ptb-xl"),
    Subset("arena", "arena", 50),
)
#: Name → subset; those scored by rule come first, in the order of the original scorer.
SUBSETS: dict[str, Subset] = {subset.name: subset for subset in _ALL}
#: The seven scored by rule, in that order: the random letters of mode ``pulse`` depend on it.
TASK_ORDER: tuple[str, ...] = tuple(s.name for s in _ALL if s.tag)
#: The dataset's home on the Hugging Face hub.
HUB_DATASET = "PULSE-ECG/ECGBench"


def subset_named(name: str) -> Subset:
    """ConfigError naming the nearest known subset where there is none of this name."""
    if name not in SUBSETS:
        raise ConfigError(f"ecgbench: no subset '{name}'{nearest(name, SUBSETS)}; known: {', '.join(SUBSETS)}")
    return SUBSETS[name]


def subsets_named(names: Sequence[str]) -> list[Subset]:
    """Subsets in the order of ``SUBSETS``, all of them for no names; EcglmError for a name given twice."""
    for name in names:
        subset_named(name)
        if list(names).count(name) > 1:
            raise EcglmError(f"ecgbench: subset '{name}' is given twice; name it once")
    return [subset for subset in SUBSETS.values() if not names or subset.name in names]


def predictions_file(root: str | Path, model: str, subset: str, control: str = REAL, step: str = "final") -> Path:
    """Where a model's answers to a subset lie: ``<root>/<model>/<subset>/step-final.jsonl``. Those under a control lie
    beside the model's folder, in ``<root>/<model>@<control>/…``, so that whoever reads all of ``<root>/<model>``, as
    the original scorer does, never mixes them up; ``control_of`` tells them apart.
    """
    folder = model if control == REAL else f"{model}@{control}"
    return Path(root) / folder / subset / f"step-{step}.jsonl"


def control_of(path: str | Path) -> str:
    """Under which condition the answers of a predictions file were made, by its place: ``real``, ``blank``, …"""
    _, mark, control = Path(path).resolve().parent.parent.name.rpartition("@")
    return control if mark else REAL
