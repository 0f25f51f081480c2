"""ECG-Bench's own result files: ``seed_{s}_{perturb}_{rag}_{k}.json`` and ``statistical_results_….json``, both ways.

In seed files scores are fractions and BERTScore is a list over the answers. In statistical files mean, sd and interval
are times 100 and ``raw_values`` are fractions, as ECG-Bench's own summary prints them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ecglm import files, registry
from ecglm.errors import EcglmError
from ecglm.evaluation.metrics.base import Metric, Row, answer_text
from ecglm.evaluation.metrics.bertscore import computed_with
from ecglm.evaluation.predictions import by_control, read_predictions
from ecglm.evaluation.resampling import by_seed
from ecglm.evaluation.seeds import over_seeds

#: ECG-Bench's name → our metric of the same definition.
METRICS: dict[str, str] = {"BLEU": "bleu", "METEOR": "meteor_nltk", "ACC": "exact"}
ROUGE: dict[str, str] = {"rouge-1": "rouge_legacy_1", "rouge-2": "rouge_legacy_2", "rouge-l": "rouge_legacy_l"}
BERTSCORE: dict[str, str] = {"hf-prec": "bertscore_p", "hf-rec": "bertscore_r", "hf-f1": "bertscore_f1"}

_SEED_FILE = re.compile(r"seed_(\d+)_(.+)_(True|False)_([^_]+)\.json")
_STATISTICS_FILE = re.compile(r"statistical_results_(?:(.+)_)?(True|False)_(\d+|None)\.json")


def bench_files(folder: str | Path) -> list[Path]:
    """ECG-Bench's result files in a folder, by name."""
    found = sorted(Path(folder).glob("*.json")) if Path(folder).is_dir() else []
    return [f for f in found if _SEED_FILE.fullmatch(f.name) or _STATISTICS_FILE.fullmatch(f.name)]


def holds_bench_alone(folder: str | Path) -> bool:
    """Whether a folder holds ECG-Bench's result files and no predictions of ours, which say more."""
    return bool(bench_files(folder)) and not any(Path(folder).glob("predictions*.jsonl"))


def read_bench(folder: str | Path) -> dict[str, dict[str, dict[str, Any]]]:
    """condition → metric (ECG-Bench's name) → ``over_seeds`` of a folder of its result files, as fractions.

    The condition is made of perturbation and retrieval, so that clean and perturbed runs never mix (D39). Seed files
    are summarised anew; a condition that has only a statistical file is read from its ``raw_values``. Raises EcglmError
    for a folder without such files, and for a file that is not one.
    """
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    from_statistics: dict[str, dict[str, dict[str, float | None]]] = {}
    if not bench_files(folder):
        raise EcglmError(f"{folder}: no result files of ECG-Bench (seed_….json, statistical_results_….json) here")
    for file in bench_files(folder):
        data = files.read_json(file)
        if match := _SEED_FILE.fullmatch(file.name):
            seed, perturb, rag, k = match.groups()
            for metric, value in _averages(file, data).items():
                found.setdefault(_condition(perturb, rag, k), {}).setdefault(metric, {})[seed] = value
        elif match := _STATISTICS_FILE.fullmatch(file.name):
            perturb, rag, k = match.groups()
            for metric, raw in _raw_values(file, data).items():
                table = from_statistics.setdefault(_condition(perturb or "", rag, k), {})
                table[metric] = {str(i): value for i, value in enumerate(raw)}
    merged = {**from_statistics, **found}
    return {
        condition: {metric: over_seeds(values) for metric, values in sorted(merged[condition].items())}
        for condition in sorted(merged)
    }


def _condition(perturb: str, rag: str, k: str) -> str:
    parts = [perturb if perturb not in ("", "None", "False") else "", f"rag k={k}" if rag == "True" else ""]
    return ", ".join(part for part in parts if part)


def _averages(file: Path, data: Any) -> dict[str, float | None]:
    averages = data.get("averages") if isinstance(data, dict) else None
    if not isinstance(averages, dict):
        raise EcglmError(f"{file}: the key 'averages' (an object) is missing; is it a result file of ECG-Bench?")
    found: dict[str, float | None] = {}
    for metric, value in averages.items():
        if isinstance(value, dict):
            found |= {f"{metric} {part}": _number(file, part, number) for part, number in value.items()}
        else:
            found[metric] = _number(file, metric, value)
    return found


def _number(file: Path, name: str, value: Any) -> float | None:
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and np.isfinite(v) for v in values):
        raise EcglmError(f"{file}: '{name}' is no number (or list of numbers)")
    return float(np.mean(values)) if values else None


def _raw_values(file: Path, data: Any) -> dict[str, list[float | None]]:
    found: dict[str, list[float | None]] = {}

    def visit(name: str, value: Any) -> None:
        if isinstance(value, dict) and isinstance(value.get("raw_values"), list):
            found[name] = [_number(file, name, v) for v in value["raw_values"]]
        elif isinstance(value, dict):
            for part, inner in value.items():
                visit(f"{name} {part}".strip(), inner)
        else:
            raise EcglmError(f"{file}: '{name}' has no raw_values; is it a result file of ECG-Bench?")

    visit("", data)
    return found


def export_bench(
    predictions: str | Path, out: str | Path, bertscore: str | None = None
) -> tuple[list[Path], list[str]]:
    """Write predictions as ECG-Bench's result files: one per condition and decoding seed, one summary per condition.

    Returns (files written, metrics left out with the reason). bertscore: the model BERTScore is computed with; without,
    it is left out. The condition stands in the name, ``None`` for the true ECG, and
    whether ECGs were retrieved, and how many. Failed and empty answers stay in and
    score 0 (ECG-Bench drops them); ACC is exact match of stripped strings.
    Raises EcglmError for a folder that holds other result files of the same names.
    """
    found = read_predictions(predictions)
    tables, rag = by_control(found, str(predictions)), _retrieval(found, predictions)
    folder, written, left_out = Path(out), [], []
    for condition, table in tables.items():
        name = "None" if condition == "real" else condition
        per_seed: dict[str, dict[str, Any]] = {}
        for seed, rows in by_seed(table).items():
            answers = [rows[question] for question in sorted(rows)]
            with computed_with(bertscore):
                averages, missing = _score(answers)
            left_out += missing
            result = {
                "averages": averages,
                "qa_results": {
                    "questions": [str(row.get("prompt") or "") for row in answers],
                    "gt_answers": [str(row["reference"]) for row in answers],
                    "gen_answers": [answer_text(row) for row in answers],
                },
            }
            file = folder / f"seed_{seed}_{name}_{rag}.json"
            _write(file, result)
            written.append(file)
            per_seed[str(seed)] = averages
        summary = folder / f"statistical_results_{name}_{rag}.json"
        _write(summary, _statistics(per_seed))
        written.append(summary)
    return written, list(dict.fromkeys(left_out))


def _retrieval(rows: Sequence[Row], name: str | Path) -> str:
    """ECG-Bench's ``{rag}_{k}`` of predictions: ``True_1``, or ``False_None`` without retrieved ECGs."""
    found = {f"True_{row['rag']['k']}" if row.get("rag") else "False_None" for row in rows}
    if len(found) > 1:
        raise EcglmError(f"{name}: rows with and without retrieved ECGs, or with different k; predict them apart")
    return found.pop()


def _write(file: Path, value: Any) -> None:
    if file.exists() and files.read_json(file) != value:
        raise EcglmError(f"{file}: another result file stands here; choose another folder for --export-ecg-bench")
    files.write_json(file, value)


def _score(rows: Sequence[Row]) -> tuple[dict[str, Any], list[str]]:
    """(``averages`` of ECG-Bench's seed file, what could not be computed)."""
    left_out: list[str] = []

    def metric_of(name: str, metric_name: str) -> Metric | None:
        metric: Metric = registry.get("metrics", metric_name)
        if reason := metric.lacks(rows):
            left_out.append(f"{name}: {reason}")
        return None if reason else metric

    averages: dict[str, Any] = {}
    for name, metric_name in METRICS.items():
        if metric := metric_of(name, metric_name):
            averages[name] = float(metric(rows, ()))
    rouge = {part: metric_of("ROUGE", metric_name) for part, metric_name in ROUGE.items()}
    bert = {part: metric_of("BERTSCORE", metric_name) for part, metric_name in BERTSCORE.items()}
    if all(rouge.values()):
        averages["ROUGE"] = {part: float(metric(rows, ())) for part, metric in rouge.items() if metric}
    if all(bert.values()):
        averages["BERTSCORE"] = {
            part: metric.statistics(rows, ())[:, 0].tolist() for part, metric in bert.items() if metric
        }
    return averages, left_out


def _statistics(per_seed: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """``statistical_results``: per metric mean, std and conf_interval times 100, and the seeds' fractions."""

    def summary(values: Sequence[Any]) -> dict[str, Any]:
        flat = [float(np.mean(v)) for v in values]
        found = over_seeds({str(i): v for i, v in enumerate(flat)})
        percent = {key: None if found[key] is None else 100 * found[key] for key in ("mean", "sd", "low", "high")}
        return {
            "mean": percent["mean"],
            "std": percent["sd"],
            "conf_interval": [percent["low"], percent["high"]],
            "raw_values": flat,
        }

    first = next(iter(per_seed.values()))
    result: dict[str, Any] = {}
    for name, value in first.items():
        if isinstance(value, Mapping):
            result[name] = {part: summary([seed[name][part] for seed in per_seed.values()]) for part in value}
        else:
            result[name] = summary([seed[name] for seed in per_seed.values()])
    return result
