"""``ecglm probe``: an encoder folder and labelled stores → probe.json and a table, beside random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ecglm.errors import EcglmError
from ecglm.evaluation import probe as linear
from ecglm.evaluation import zero_shot as prompted
from ecglm.evaluation.labelled import read_labelled
from ecglm.files import (
    MANIFEST,
    file_sha256,
    folder_lock,
    output_state,
    plan_fingerprint,
    read_json,
    write_json,
    write_manifest,
    write_text,
)
from ecglm.models.encoder_files import EncoderFile, load_encoder, read_encoder, representation_of
from ecglm.models.encoders.base import build_encoder
from ecglm.models.towers import check_pipeline
from ecglm.models.two_towers import load_towers
from ecglm.prompts.data import EcgSource
from ecglm.store.reader import SegmentStore

KIND = "encoder-probe"
SCORES, TABLE = "probe.json", "probe.md"
#: What the encoder that is judged is called in tables.
NAME = "encoder"


@dataclass(frozen=True)
class Judged:
    """Where the results lie, what ``probe.json`` holds, and the tables as Markdown lines."""

    path: Path
    scores: dict[str, Any]
    lines: list[str]
    reused: bool


def judge_encoder(
    source: str | Path,
    stores: Sequence[str | Path],
    out: str | Path,
    *,
    groups: Sequence[str] = (),
    shares: Sequence[float] = linear.SHARES,
    solver: Literal["logistic", "adam"] = "logistic",
    zero_shot: bool = True,
    prompts: Mapping[str, Mapping[str, str]] | None = None,
    num_resamples: int = 2000,
    batch_size: int = 64,
    seed: int = 0,
    split_seed: int = 0,
    limit: int | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> Judged:
    """Linear probe, and zero-shot classification where the encoder was pretrained with texts, of an encoder folder.

    Every figure stands beside that of the same architecture with random weights. Records are split by patient as
    ``ecglm map`` does; one of them that the encoder has learned from is an error where it is a test record. limit: the
    first so many records of each split. The same call again reuses what is there. Raises EcglmError for stores prepared
    otherwise than what the encoder learned from.
    """
    folder, file = Path(out), read_encoder(source)
    if prompts and not (zero_shot and "towers" in file.facts):
        why = "this encoder was pretrained without texts" if zero_shot else "zero-shot classification is switched off"
        raise EcglmError(f"prompts are given, but {why}; leave them out")
    opened = [SegmentStore(p) for p in stores]
    if not opened:
        raise EcglmError("no store; name one with labels with --store DIR")
    settings = {
        "groups": list(groups),
        "shares": list(shares),
        "solver": solver,
        "zero_shot": zero_shot,
        "prompts": {g: dict(p) for g, p in (prompts or {}).items()},
        "num_resamples": num_resamples,
        "seed": seed,
        "split_seed": split_seed,
        "limit": limit,
    }
    inputs = {"encoder": file_sha256(file.folder / MANIFEST)}
    inputs |= {f"store{i or ''}": s.fingerprint for i, s in enumerate(opened)}
    with folder_lock(folder):
        if output_state(folder, KIND, plan_fingerprint(KIND, settings, inputs), overwrite) == "finished":
            return Judged(folder, read_json(folder / SCORES), _read_lines(folder), reused=True)
        representation = representation_of(file)
        for store in opened:
            made = store.manifest["settings"]["pipeline"]
            check_pipeline(file, "encoder", made, getattr(representation, "rate", None))
        labelled = read_labelled(opened, split_seed=split_seed, limit=limit, trained_on=file.trained_on)
        ecgs = EcgSource(opened, representation)
        common = {"groups": groups, "num_resamples": num_resamples, "batch_size": batch_size, "seed": seed, "say": say}
        encoders = {NAME: load_encoder(file).to(device), linear.RANDOM: untrained(file, seed).to(device)}
        rows = linear.probe(encoders, ecgs, labelled, shares=shares, solver=solver, **common)  # type: ignore[arg-type]
        asked: list[prompted.ZeroShotRow] = []
        retrieved: dict[str, dict[str, float]] = {}
        if zero_shot and "towers" in file.facts:
            towers = {
                NAME: load_towers(file).to(device),
                linear.RANDOM: load_towers(file, weights=False, seed=seed).to(device),
            }
            asked = prompted.zero_shot(towers, ecgs, labelled, prompts=prompts, **common)  # type: ignore[arg-type]
            retrieved = prompted.report_retrieval(towers, ecgs, labelled, batch_size=batch_size)
        lines = _lines(file, rows, asked, solver)
        if retrieved:
            lines += ["", "Recall of the report among the k nearest, and of the ECG, on test patients.", ""]
            lines += prompted.retrieval_lines(retrieved)
        records = {split: len(labelled.at(split)) for split in ("train", "val", "test")}
        scores = {
            "encoder": {"name": file.name, "options": file.options, "objective": file.facts.get("objective")},
            "solver": solver,
            "records": records,
            "probe": [row.as_dict() for row in rows],
            "zero_shot": [row.as_dict() for row in asked],
            "retrieval": retrieved,
        }
        write_json(folder / SCORES, scores)
        write_text(folder / TABLE, "\n".join(lines) + "\n")
        outputs = {name: file_sha256(folder / name) for name in (SCORES, TABLE)}
        write_manifest(folder / MANIFEST, KIND, settings, inputs, outputs)
    return Judged(folder, scores, lines, reused=False)


def untrained(file: EncoderFile, seed: int) -> nn.Module:
    """An encoder of a folder's architecture with seeded random weights, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_encoder(file.name, input_shape=file.input_shape, options=file.options).eval()


def _lines(
    file: EncoderFile, rows: Sequence[linear.ProbeRow], asked: Sequence[prompted.ZeroShotRow], solver: str
) -> list[str]:
    how = {"logistic": "L2 logistic regression, penalty chosen on validation", "adam": "Adam, MERL's protocol"}[solver]
    by = f" pretrained by {file.facts['objective']}" if "objective" in file.facts else ""
    lines = [f"Linear probe of {file.name}{by}: macro-AUROC on test patients with 95 % interval ({how}).", ""]
    lines += linear.table(rows)
    if asked:
        lines += ["", "Zero-shot from class prompts: macro-AUROC on test patients with 95 % interval.", ""]
        lines += prompted.table(asked)
    undefined: dict[str, str] = {}
    for group, systems in [*((r.group, r.systems) for r in rows), *((r.group, r.systems) for r in asked)]:
        for found in (systems or {}).values():
            undefined |= {f"{group}:{name}": why for name, why in found.undefined.items()}
    if undefined:
        told = ", ".join(f"{name} ({why})" for name, why in sorted(undefined.items()))
        lines += ["", f"Classes without an AUROC, no part of the means: {told}."]
    return lines


def _read_lines(folder: Path) -> list[str]:
    return (folder / TABLE).read_text(encoding="utf-8").splitlines()
