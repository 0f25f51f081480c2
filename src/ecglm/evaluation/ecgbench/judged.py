"""What judges said of a run's reports and conversations, where such files lie beside its predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ecglm.evaluation.controls import REAL, is_perturbation
from ecglm.evaluation.ecgbench.runs import BenchRun
from ecglm.evaluation.ecgbench.subsets import SUBSETS
from ecglm.evaluation.judge.judgements import SUMMARY, ItemValues, read_run
from ecglm.evaluation.judge.values import OVERALL
from ecglm.evaluation.metrics.base import ratio
from ecglm.evaluation.statistics import clean, interval, patient_sums, resample_weights, resampled_sums

HOME = "judge"


@dataclass(frozen=True)
class Judgement:
    """One judge's word on one subset. judge: its model's name; rubric: name and version; scores: criterion → estimate,
    in percent for ``overall``, else in the criterion's own scale; controls: condition → overall; gap: overall, real −
    the best control, on the items judged under all; compat: the original's own mean, where it was asked for."""

    subset: str
    judge: str
    rubric: str
    scores: Mapping[str, Mapping[str, Any]]
    counts: Mapping[str, int]
    controls: Mapping[str, Mapping[str, Any]]
    gap: Mapping[str, Any] | None
    compat: float | None
    warnings: tuple[str, ...]


def judgements_of(run: BenchRun, *, num_resamples: int = 2000, seed: int = 0) -> list[Judgement]:
    """Judgements beside the real predictions of a run, each with those of the same name beside its controls'."""
    found = []
    for subset, file in sorted(run.files.get(REAL, {}).items()):
        if SUBSETS[subset].kind not in ("report", "arena"):
            continue
        for folder in _folders(file):
            summary, items = read_run(folder)
            rivals: dict[str, tuple[dict[str, Any], list[ItemValues]]] = {}
            for control, table in sorted(run.files.items()):
                place = table[subset].parent / HOME / folder.name if subset in table else None
                if control != REAL and not is_perturbation(control) and place and (place / SUMMARY).is_file():
                    told = read_run(place)
                    if all(told[0][part] == summary[part] for part in ("rubric", "judge")):
                        rivals[control] = told
            shown = {c: told["scores"][OVERALL] for c, (told, _) in rivals.items() if OVERALL in told["scores"]}
            gap = _gap(items, {c: rows for c, (_, rows) in rivals.items()}, num_resamples, seed) if shown else None
            found.append(
                Judgement(
                    subset=subset,
                    judge=str(summary["judge"].get("model", "")),
                    rubric=f"{summary['rubric']['name']} {summary['rubric']['version']}",
                    scores=summary["scores"],
                    counts={name: value for name, value in summary.items() if name.startswith("n")},
                    controls=shown,
                    gap=gap,
                    compat=(summary.get("compat") or {}).get("score"),
                    warnings=tuple(summary["warnings"]),
                )
            )
    return found


def _folders(file: Path) -> list[Path]:
    """Finished judgements of a predictions file: ``judge/<file>-<rubric>-<judge>/``."""
    return sorted(path.parent for path in (file.parent / HOME).glob(f"*/{SUMMARY}"))


def _gap(
    real: Sequence[ItemValues], rivals: Mapping[str, Sequence[ItemValues]], num_resamples: int, seed: int
) -> dict[str, Any] | None:
    tables = [{i.key[:3]: i.values[OVERALL] for i in rows if i.values} for rows in (real, *rivals.values())]
    shared = [i for i in real if all(i.key[:3] in table for table in tables)]
    if not shared:
        return None
    patients = [item.patient_id or f"row:{item.key}" for item in shared]
    keys = sorted(set(patients))
    weights = resample_weights(len(keys), num_resamples=num_resamples, seed=seed)
    points, spreads = [], []
    for table in tables:
        rows = np.array([[table[item.key[:3]], 1.0] for item in shared])
        sums = patient_sums(patients, rows, keys)
        points.append(float(ratio(sums.sum(0))))
        spreads.append(ratio(resampled_sums(sums, weights)))
    best = int(np.argmax(points[1:]))
    low, high = interval(spreads[0] - np.stack(spreads[1:]).max(0)) if len(keys) > 1 else (None, None)
    return {
        "control": list(rivals)[best],
        "value": clean(points[0] - points[1 + best]),
        "low": low,
        "high": high,
        "n": len(shared),
    }
