"""``ecglm compare``: several models on the same questions: gap to their controls, intervals, seeds, differences, p."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ecglm import registry
from ecglm.errors import EcglmError, nearest
from ecglm.evaluation.bench_export import holds_bench_alone, read_bench
from ecglm.evaluation.compare_load import Answered, Entrant, asked_of, check_alike, conditions_of, load
from ecglm.evaluation.controls import REAL, is_perturbation
from ecglm.evaluation.metrics.base import Metric
from ecglm.evaluation.metrics.bertscore import computed_with
from ecglm.evaluation.resampling import Questions
from ecglm.evaluation.score import main_metric
from ecglm.evaluation.seeds import over_seeds
from ecglm.evaluation.significance import NUM_DRAWS, detectable_gap, holm, permutation_test
from ecglm.evaluation.statistics import FEW_PATIENTS, clean, interval
from ecglm.evaluation.task_rows import Chosen, gap_to_best, metrics_of

#: What a row says of its gap; all but the first are marked in tables.
READS, UNSHOWN, WORSE = "above its controls", "gap includes zero", "below a control"
NO_INTERVAL, NO_GAP = "no interval", "no controls"
#: The fields of a row, in the order of the CSV columns.
FIELDS = (
    *("task", "metric", "model", "gap", "gap_low", "gap_high", "gap_control", "flag", "detectable_gap"),
    *("value", "low", "high", "questions", "patients"),
    *("training_seeds", "training_mean", "training_sd", "training_low", "training_high"),
    *("decoding_seeds", "decoding_mean", "decoding_sd", "decoding_low", "decoding_high"),
    *("against", "difference", "difference_low", "difference_high", "p", "p_holm", "detectable_difference"),
)


@dataclass(frozen=True)
class Comparison:
    """rows: dictionaries with ``FIELDS``, None where something is undefined. notes: what a reader must know."""

    rows: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    against: str = ""


def compare(
    entrants: Sequence[Entrant],
    *,
    metrics: Sequence[str] = (),
    tasks: Sequence[str] = (),
    against: str | None = None,
    shared: bool = False,
    num_resamples: int = 2000,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
    stores: Sequence[str | Path] = (),
    bertscore: str | None = None,
) -> Comparison:
    """Compare models on the questions that all were asked; one row per task, metric and model.

    A model's score is the mean over its folders (training seeds) and their decoding seeds. Intervals are the patient
    bootstrap, all on the same resamples; ``difference`` is to ``against`` (default: the first model), positive where
    the row's model is better, with the p of a permutation test over patients and Holm's p over the tasks of that model
    and metric. Seeds stand in columns of their own. metrics: names, default each task's main metric. shared: compare
    the questions that all were asked where they differ (default: that is refused). stores, bertscore: what some metrics
    need, as for ``score``. Folders of ECG-Bench's own result files become rows of seeds alone.

    Raises EcglmError for what cannot be compared (``compare_load.check_alike``), unknown names, nothing to compare.
    """
    bench = [e for e in entrants if all(map(holds_bench_alone, e.folders))]
    ours = [e for e in entrants if e not in bench]
    if against is not None and against not in {e.name for e in ours}:
        raise EcglmError(f"--against '{against}'{nearest(against, [e.name for e in ours])}: no such model among them")
    if num_resamples < 1 or seed < 0:
        raise EcglmError(f"num_resamples must be 1 or more and seed 0 or more, found {num_resamples} and {seed}")
    for name in metrics:
        registry.get("metrics", name)
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    base = against or (ours[0].name if ours else "")
    if ours:
        loaded = {e.name: [load(folder, stores) for folder in e.folders] for e in ours}
        notes += _retrieval(loaded)
        for task in _tasks(loaded, tasks, shared):
            check_alike(loaded, [task], shared=shared)
            with computed_with(bertscore):
                rows += _Task(task, loaded, base, num_resamples, num_draws, seed).rows(metrics, notes)
        if not rows:
            why = "; ".join(note for note in notes if "cannot be computed" in note)
            raise EcglmError(why or f"--metric {', '.join(metrics)} is meant for none of the questions here")
        _correct(rows)
    rows += sorted((row for e in bench for row in _bench_rows(e)), key=lambda row: row["metric"])
    for entrant in bench:
        notes.append(f"{entrant.name}: ECG-Bench's result files hold no patients: seeds alone, no test, no controls")
    return Comparison(rows, list(dict.fromkeys(notes)), base if len(ours) > 1 else "")


def _retrieval(loaded: Mapping[str, Sequence[Answered]]) -> list[str]:
    """Which models were told of retrieved ECGs, and how; EcglmError where the folders of one model differ in it."""
    notes = []
    for name, group in loaded.items():
        found = {"" if (rag := one.settings.get("rag")) is None else _said(rag) for one in group}
        if len(found) > 1:
            told = " and ".join(f"'{f or 'none'}'" for f in sorted(found))
            raise EcglmError(
                f"the folders of '{name}' were asked with different retrieval ({told}); predict them alike"
            )
        notes += [f"{name}: told of retrieved ECGs ({said})" for said in found if said]
    return notes


def _said(rag: Any) -> str:
    rag = rag if isinstance(rag, Mapping) else {}
    return f"k={rag.get('k')}, {rag.get('content')}, {rag.get('location')}"


def _tasks(loaded: Mapping[str, Sequence[Answered]], wanted: Sequence[str], shared: bool) -> list[str]:
    """The tasks to compare: those wanted, or all; EcglmError where models have others, unless shared."""
    found = {name: {str(r["task"]) for one in group for r in one.asked(()).values()} for name, group in loaded.items()}
    everything = set().union(*found.values())
    for task in wanted:
        if task not in everything:
            raise EcglmError(f"--task '{task}'{nearest(task, everything)}: no such task; there are {_list(everything)}")
    common = set.intersection(*found.values())
    chosen = sorted(set(wanted) or everything)
    for task in chosen:
        if task not in common and not (shared and not wanted):
            lacking = next(name for name, names in found.items() if task not in names)
            raise EcglmError(
                f"'{lacking}' was not asked task '{task}'; predict it too, name the tasks with --task, or compare "
                "what all share with --shared"
            )
    return [task for task in chosen if task in common]


def _list(names: set[str]) -> str:
    return ", ".join(sorted(names))


class _Task:
    """One task: the questions all models were asked, and every model's answers under every condition."""

    def __init__(
        self,
        task: str,
        loaded: Mapping[str, Sequence[Answered]],
        base: str,
        num_resamples: int,
        num_draws: int,
        seed: int,
    ) -> None:
        self.task, self.loaded, self.base, self.num_draws, self.seed = task, loaded, base, num_draws, seed
        self.questions = Questions(asked_of(loaded, [task]), num_resamples=num_resamples, seed=seed)
        self.systems: dict[tuple[str, str], list[str]] = {}
        for name, group in loaded.items():
            for condition in conditions_of(group):
                for number, one in enumerate(group):
                    system = f"{condition}/{number}/{name}"
                    tables = list(one.conditions[condition].values())
                    self.questions.add(system, tables, lacking_is_wrong=condition == REAL)
                    self.systems.setdefault((name, condition), []).append(system)

    def rows(self, metrics: Sequence[str], notes: list[str]) -> list[dict[str, Any]]:
        """The rows of the task, metric by metric; notes are added to."""
        main = main_metric(list(self.questions.asked.values()))
        chosen = [entry for entry in metrics_of(self.questions) if entry[0] in (metrics or (main,))]
        if self.questions.num_patients == 1:
            notes.append(f"{self.task}: one patient only, no interval can be given")
        elif self.questions.num_patients < FEW_PATIENTS:
            notes.append(f"{self.task}: only {self.questions.num_patients} patients, intervals are too narrow to trust")
        for name, group in self.loaded.items():
            alone = {c for one in group for c in one.conditions}.difference(conditions_of(group))
            if alone:
                notes.append(f"{name}: {', '.join(sorted(alone))} left out, since not all of its folders have it")
            if len(numbers := {len(one.conditions[REAL]) for one in group}) > 1:
                notes.append(f"{name}: its folders have different numbers of decoding seeds: {sorted(numbers)}")
        drawn = {name: sum(len(one.conditions[REAL]) for one in group) for name, group in self.loaded.items()}
        if len(set(drawn.values())) > 1:
            told = ", ".join(f"{name} {number}" for name, number in drawn.items())
            notes.append(f"p is approximate between models of different numbers of seeds ({told})")
        rivals = {name: self._rivals(name) for name in self.loaded}
        if len({tuple(found) for found in rivals.values()} - {()}) > 1:
            told = "; ".join(f"{name}: {', '.join(found) or 'none'}" for name, found in rivals.items())
            notes.append(f"gaps to different controls cannot be compared with each other ({told})")
        found = []
        for entry in chosen:
            asked = [r for r, fits in zip(self.questions.asked.values(), entry[3], strict=True) if fits]
            if reason := entry[1].lacks(asked):
                notes.append(f"{self.task}: {entry[0]} cannot be computed: {reason}")
                continue
            found += [self._row(name, entry) for name in self.loaded]
        return found

    def _measure(
        self, pairs: Sequence[tuple[str, str]], metric: Metric, labels: Sequence[str], mask: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Per (model, condition) the metric, mean over folders and seeds: ``(g,)`` and ``(num_resamples, g)``."""
        groups = [(system, mask) for pair in pairs for system in self.systems[pair]]
        values, spread = self.questions.measure([(metric, labels, groups)])[0].values(metric.value)
        counts = [len(self.systems[pair]) for pair in pairs]
        ends = np.cumsum(counts)
        parts = [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]
        return np.array([values[p].mean() for p in parts]), np.stack([spread[:, p].mean(axis=1) for p in parts], axis=1)

    def _present(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        systems = [system for pair in pairs for system in self.systems[pair]]
        return np.all([self.questions.present(system) for system in systems], axis=0)

    def _limits(self, spread: np.ndarray, mask: np.ndarray) -> tuple[float | None, float | None]:
        return interval(spread) if self.questions.num_patients_of(mask) > 1 else (None, None)

    def _row(self, name: str, entry: Chosen) -> dict[str, Any]:
        metric_name, metric, labels, fits = entry
        row: dict[str, Any] = dict.fromkeys(FIELDS)
        values, spread = self._measure([(name, REAL)], metric, labels, fits)
        low, high = self._limits(spread[:, 0], fits)
        row |= {"task": self.task, "metric": metric_name, "model": name, "value": clean(values[0])}
        row |= {"low": low, "high": high, "questions": int(fits.sum())}
        row["patients"] = self.questions.num_patients_of(fits)
        row |= self._seeds(name, metric, labels, fits)
        row |= self._gap(name, metric, labels, fits)
        if name != self.base:
            row |= self._difference(name, metric, labels, fits)
        return row

    def _seeds(self, name: str, metric: Metric, labels: Sequence[str], mask: np.ndarray) -> dict[str, Any]:
        """Training seeds (folders, each the mean of its decoding seeds), and decoding seeds of a single folder."""
        groups = [(system, mask) for system in self.systems[name, REAL]]
        measured = self.questions.measure([(metric, labels, groups)])[0]
        values, _ = measured.values(metric.value)
        found: dict[str, Any] = {}
        folders = over_seeds({str(i): clean(v) for i, v in enumerate(values)})
        decoded = [over_seeds({str(i): clean(v) for i, v in enumerate(metric.value(part))}) for part in measured.point]
        for axis, summary in (("training", folders), ("decoding", decoded[0])):
            if axis == "decoding" and len(decoded) > 1:  # decoding seeds of several models are no one axis
                numbers = {part["n"] for part in decoded}
                found["decoding_seeds"] = numbers.pop() if len(numbers) == 1 else None
                continue
            found[f"{axis}_seeds"] = summary["n"]
            if summary["n"] > 1:
                found |= {f"{axis}_{key}": summary[key] for key in ("mean", "sd", "low", "high")}
        return found

    def _rivals(self, name: str) -> list[str]:
        """The controls of a model, those that all of its folders have."""
        return [c for n, c in self.systems if n == name and c != REAL and not is_perturbation(c)]

    def _gap(self, name: str, metric: Metric, labels: Sequence[str], fits: np.ndarray) -> dict[str, Any]:
        """real − best control on the questions that every control has, positive where the true ECG does better."""
        rivals = self._rivals(name)
        pairs = [(name, REAL), *((name, c) for c in rivals)]
        mask = fits & self._present(pairs)
        if not rivals or not mask.any():
            return {"flag": NO_GAP}
        sign = 1.0 if metric.higher_is_better else -1.0
        values, spread = (sign * part for part in self._measure(pairs, metric, labels, mask))
        best, gap, differences = gap_to_best(values[0], values[1:], spread[:, 0], spread[:, 1:])
        if differences is None or np.isnan(gap):
            return {"flag": NO_GAP}
        low, high = self._limits(differences, mask)
        if low is None or high is None:
            flag = NO_INTERVAL
        else:
            flag = READS if low > 0 else WORSE if high < 0 else UNSHOWN
        found = {"gap": clean(gap), "gap_low": low, "gap_high": high, "gap_control": rivals[best], "flag": flag}
        return found | {"detectable_gap": detectable_gap(differences)}

    def _difference(self, name: str, metric: Metric, labels: Sequence[str], fits: np.ndarray) -> dict[str, Any]:
        """This model − the named one, signed so that positive is better, with the p of exchanging them."""
        pairs = [(name, REAL), (self.base, REAL)]
        sign = 1.0 if metric.higher_is_better else -1.0
        values, spread = (sign * part for part in self._measure(pairs, metric, labels, fits))
        differences = spread[:, 0] - spread[:, 1]
        low, high = self._limits(differences, fits)
        first, second = (self._mean_sums(pair, metric, labels, fits) for pair in pairs)
        p = permutation_test(first, second, metric.value, num_draws=self.num_draws, seed=self.seed)
        found = {"against": self.base, "difference": clean(values[0] - values[1])}
        found |= {"difference_low": low, "difference_high": high, "p": None if p is None else round(p, 12)}
        return found | {"detectable_difference": detectable_gap(differences)}

    def _mean_sums(self, pair: tuple[str, str], metric: Metric, labels: Sequence[str], mask: np.ndarray) -> np.ndarray:
        """Per patient the statistics, mean over folders and seeds: all answers of a patient are exchanged together."""
        folders = [self.questions.patient_sums(metric, labels, (system, mask)) for system in self.systems[pair]]
        return np.mean([np.mean(seeds, axis=0) for seeds in folders], axis=0)


def _correct(rows: list[dict[str, Any]]) -> None:
    """Holm's p over the tasks, for each model and metric (main metrics of different tasks are one family)."""
    families: dict[str, dict[str, dict[str, Any]]] = {}
    single = len({row["task"] for row in rows}) == len({(row["task"], row["metric"]) for row in rows})
    for row in rows:
        family = row["model"] if single else f"{row['model']}\0{row['metric']}"
        families.setdefault(family, {})[f"{row['task']}\0{row['metric']}"] = row
    for family in families.values():
        for key, p in holm({key: row["p"] for key, row in family.items()}).items():
            family[key]["p_holm"] = None if p is None else round(p, 12)


def _bench_rows(entrant: Entrant) -> list[dict[str, Any]]:
    """A row per folder, condition and metric of ECG-Bench's own files; two conditions are two rows (D39)."""
    rows = []
    for folder in entrant.folders:
        for condition, metrics in read_bench(Path(folder)).items():
            for metric, summary in metrics.items():
                row: dict[str, Any] = dict.fromkeys(FIELDS)
                said = [part for part in (str(folder) if len(entrant.folders) > 1 else "", condition) if part]
                name = f"{entrant.name} ({', '.join(said)})" if said else entrant.name
                row |= {"task": "ECG-Bench", "metric": metric, "model": name, "value": summary["mean"]}
                row |= {"flag": NO_GAP, "decoding_seeds": summary["n"]}
                row |= {f"decoding_{key}": summary[key] for key in ("mean", "sd", "low", "high")}
                rows.append(row)
    return rows
