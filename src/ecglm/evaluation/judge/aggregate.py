"""Judgements → one number per criterion: strict means with patient intervals, and the originals' own aggregations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ecglm.errors import ConfigError, EcglmError, nearest
from ecglm.evaluation.judge.items import REAL, Item
from ecglm.evaluation.judge.judgements import SUMMARY_FORMAT, Judged, graded
from ecglm.evaluation.judge.reply import BadReply, json_object, loose_scores, scores_in
from ecglm.evaluation.judge.rubric import Rubric
from ecglm.evaluation.judge.values import values_of
from ecglm.evaluation.statistics import FEW_PATIENTS, patient_bootstrap

VERSION = 1
#: Aggregation → the rubric layouts or names it is for.
AGGREGATES: dict[str, tuple[str, ...]] = {
    "strict": (),
    "pulse": ("report", "arena"),
    "gem_v1": ("grounding",),
    "gem_v2": ("grounding",),
}
#: States of judgements that no judge made: the answer is not there, and scores lowest.
_UNSENT = ("empty", "failed_answer", "missing")


def check_aggregate(name: str, rubric: Rubric) -> None:
    """ConfigError where an aggregation does not exist, or is another rubric's."""
    if name not in AGGREGATES:
        raise ConfigError(f"--aggregate: no '{name}'{nearest(name, AGGREGATES)}; one of {', '.join(AGGREGATES)}")
    if AGGREGATES[name] and rubric.name not in AGGREGATES[name]:
        raise ConfigError(f"--aggregate {name} is for the rubric {' or '.join(AGGREGATES[name])}, not '{rubric.name}'")


def summarise(
    items: Sequence[Item],
    judged: Sequence[Judged],
    rubric: Rubric,
    judge: Mapping[str, Any],
    aggregate: str = "strict",
    *,
    num_resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """The content of ``judge.json``.

    ``scores``: per criterion the mean over the items that were judged, and ``overall`` in percent where there is one,
    with a 95 % interval over patients; ``scores_failures_as_zero``: the same with a judge's failures as the lowest
    score. An answer that is empty, failed or missing scores lowest in both. ``controls`` holds the same for rows of
    controls, ``gaps`` real − control on the items judged under both, ``robustness`` real − each perturbation.
    """
    check_aggregate(aggregate, rubric)
    if not any(item.control == REAL for item in items):
        raise EcglmError(f"judge: no items with control '{REAL}'; there is nothing to compare the controls with")
    measure = _Measure(num_resamples, seed)
    rows = list(zip(items, judged, strict=True))
    conditions = sorted({item.control for item in items} - {REAL})
    disturbed = _disturbed(conditions)
    values = {item.key: _values(found, rubric) for item, found in rows}

    def part(control: str) -> dict[str, Any]:
        chosen = [(i, j) for i, j in rows if i.control == control]
        return _part(chosen, rubric, values, aggregate, measure)

    return {
        "format": SUMMARY_FORMAT,
        "version": VERSION,
        "mode": "strict",
        "aggregate": aggregate,
        "rubric": rubric.facts(),
        "judge": dict(judge),
        "served_models": sorted({found.served_model for found in judged if found.served_model}),
        "settings": {"num_resamples": num_resamples, "seed": seed, "interval": "95 % percentile bootstrap of patients"},
        **part(REAL),
        "controls": {control: part(control) for control in conditions},
        "gaps": {c: _gap(rows, c, values, measure) for c in conditions if c not in disturbed},
        "robustness": {c: _gap(rows, c, values, measure) for c in disturbed},
        "warnings": _warnings(rows, judge),
    }


def _disturbed(conditions: Sequence[str]) -> list[str]:
    """Those that show the patient's own ECG, disturbed: no controls of the gap."""
    if not conditions:
        return []
    from ecglm.evaluation.controls import is_perturbation  # it brings the augmentations along

    return [condition for condition in conditions if is_perturbation(condition)]


class _Measure:
    """Means with intervals on one set of settings."""

    def __init__(self, num_resamples: int, seed: int) -> None:
        self.num_resamples, self.seed = num_resamples, seed

    def __call__(self, rows: Sequence[tuple[Item, Mapping[str, float]]]) -> dict[str, Any]:
        """Means over rows of (item, values); values None at no row."""
        if not rows:
            return {}
        patients = [item.patient_id or f"row:{item.id}:{item.seed}" for item, _ in rows]
        result = {}
        for name in rows[0][1]:
            statistics = np.array([[values[name], 1.0] for _, values in rows])
            found = patient_bootstrap(patients, statistics, _mean, num_resamples=self.num_resamples, seed=self.seed)
            result[name] = found.as_dict()
        return result


def _mean(sums: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[..., 0] / sums[..., 1]


def _values(judged: Judged, rubric: Rubric) -> dict[str, float] | None:
    """An item's values; None where the judge failed."""
    if judged.state in _UNSENT:
        return values_of(rubric, None)
    grading = graded(judged, rubric) if judged.state == "judged" else None
    return values_of(rubric, grading) if grading is not None else None


def _part(
    rows: Sequence[tuple[Item, Judged]],
    rubric: Rubric,
    values: Mapping[str, dict[str, float] | None],
    aggregate: str,
    measure: _Measure,
) -> dict[str, Any]:
    """One control's counts and scores."""
    states = [found.state for _, found in rows]
    known = [(item, found) for item, _ in rows if (found := values[item.key]) is not None]
    lowest = values_of(rubric, None)
    result: dict[str, Any] = {
        "n": len(rows),
        "n_judged": states.count("judged"),
        "n_failed": states.count("failed"),
        "n_empty": states.count("empty"),
        "n_failed_answers": states.count("failed_answer"),
        "n_missing": states.count("missing"),
        "n_patients": len({item.patient_id for item, _ in rows if item.patient_id}),
        "failed": [{"id": item.id, "reason": found.reason} for item, found in rows if found.state == "failed"],
        "scores": measure(known),
        "scores_failures_as_zero": measure([(item, values[item.key] or lowest) for item, _ in rows]),
    }
    if aggregate != "strict":
        result["compat"] = {"aggregate": aggregate, **COMPAT[aggregate]([found for _, found in rows], rubric)}
    return result


def _gap(
    rows: Sequence[tuple[Item, Judged]], control: str, values: Mapping[str, dict[str, float] | None], measure: _Measure
) -> dict[str, Any]:
    """real − control, paired by item; positive where the real ECG does better."""
    places = {(i.id, i.turn, i.seed, i.control): i for i, _ in rows}
    pairs = []
    for item, _ in rows:
        other = places.get((item.id, item.turn, item.seed, control))
        if item.control != REAL or other is None:
            continue
        ours, theirs = values[item.key], values[other.key]
        if ours is not None and theirs is not None:
            pairs.append((item, {name: ours[name] - theirs[name] for name in ours}))
    return measure(pairs)


def _warnings(rows: Sequence[tuple[Item, Judged]], judge: Mapping[str, Any]) -> list[str]:
    real = [(item, found) for item, found in rows if item.control == REAL]
    patients = {item.patient_id for item, _ in real if item.patient_id}
    unknown = sum(item.patient_id is None for item, _ in real)
    failed = sum(found.state == "failed" for _, found in real)
    told = []
    if judge.get("provider") == "dummy":
        told.append("dummy judge (word overlap): these scores mean nothing")
    if failed:
        told.append(f"{failed} of {len(real)} items have no judgement; compare only runs with few failures")
    if unknown:
        told.append(f"{unknown} of {len(real)} items name no patient: each counts as a patient of its own")
    elif len(patients) < FEW_PATIENTS:
        told.append(f"only {len(patients)} patients: the intervals are rough")
    served = {found.served_model for _, found in rows if found.served_model}
    if len(served) > 1:
        told.append(f"the endpoint answered as {len(served)} models: {', '.join(sorted(served))}")
    if any("estimated" in found.usage for _, found in rows):
        told.append("the endpoint told no usage for some calls: their tokens are estimated")
    return told


# --- as the originals aggregate


def pulse(judged: Sequence[Judged], rubric: Rubric) -> dict[str, Any]:
    """PULSE's means (arXiv 2410.19008), x 10: report, over items of the mean of whatever scores the reply has; arena,
    of all scores of its three criteria together. Also replies that lack a criterion count; an empty answer counts 0.
    """
    means, pooled = [], []
    for found in judged:
        if found.state == "empty":
            scores = [0.0] * len(rubric.criteria)
        else:
            scores = _all_scores(found.reply)
        if scores:
            means.append(sum(scores) / len(scores))
            pooled += scores
    taken = pooled if rubric.layout == "turns" else means
    return {"score": 10.0 * sum(taken) / len(taken) if taken else None, "n": len(means)}


def _all_scores(reply: str | None) -> list[float]:
    try:
        found = json_object(reply or "")
    except BadReply:
        return []
    return [score for value in found.values() for score in scores_in(value)[:1]]


def gem(judged: Sequence[Judged], rubric: Rubric, *, first: bool) -> dict[str, Any]:
    """GEM's means (arXiv 2503.06073), rounded to two decimals; first: its first scorer, else its latest.

    Items count under the criteria that their reply holds. Sums written as scores are worked out; other broken JSON,
    which the originals patch as text, is left out and counted.
    """
    listed: dict[str, list[float]] = {c.name: [] for c in rubric.criteria}
    used = 0
    for found in judged:
        if found.reply is None:
            continue
        try:
            given = loose_scores(found.reply, rubric)
        except BadReply:
            continue
        used += 1
        for name, scores in given.items():
            listed[name].append(_gem_value(name, scores, first))
    means = {name: round(sum(v) / len(v), 2) if v else None for name, v in listed.items()}
    return {"scores": means, "n": used, "n_unreadable": sum(f.reply is not None for f in judged) - used}


def _gem_value(name: str, scores: Sequence[float], first: bool) -> float:
    positive = [score for score in scores if score > 0]
    mean = sum(positive) / len(positive) if positive else 0.0
    if name == "DiagnosisAccuracy":
        return mean / 2 * 100 if first else (100.0 * len(positive) / len(scores) if scores else 0.0)
    if name == "LeadAssessmentCoverage":
        return min(sum(scores), 12.0) / 12 * 100
    if name == "LeadAssessmentAccuracy":
        return sum(scores) / 24 * 100
    if name in ("AnalysisCompleteness", "AnalysisRelevance"):
        return sum(scores)
    return mean if first else sum(scores)


COMPAT: dict[str, Callable[[Sequence[Judged], Rubric], dict[str, Any]]] = {
    "pulse": pulse,
    "gem_v1": lambda judged, rubric: gem(judged, rubric, first=True),
    "gem_v2": lambda judged, rubric: gem(judged, rubric, first=False),
}
