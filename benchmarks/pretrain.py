"""Does pretraining work? Losses beside what needs no ECG, retrieval beside chance, probes beside random weights.

    python benchmarks/pretrain.py [--out DIR] [--steps N] [--patients N]

Synthetic ECGs made in place: encoders are pretrained on training patients and judged on patients nobody has seen. Where
PTB-XL is at hand (ECGLM_SHARED_DATA, default ``../shared/data`` beside the repository) an encoder that has never seen a
real ECG is probed on it too, and so is one that was pretrained on its training patients, whatever comes of it. Runs on
the CPU, two threads. Ends with status 1 when a bar is missed: a held-out masked loss below the best constant, retrieval
at ten times chance, a linear probe above random weights (interval and all) for rhythm and superclass.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ecglm import config
from ecglm.evaluation.judge_encoder import Judged, judge_encoder
from ecglm.records.ptb_xl import PtbXl
from ecglm.records.synthetic import Synthetic
from ecglm.signals.pipeline import get_pipeline
from ecglm.store.prepare import prepare
from ecglm.training.pretrain import PretrainResult, pretrain
from ecglm.training.pretrain_recipe import PretrainData, PretrainRecipe

ROOT = Path(__file__).resolve().parents[1]
RATE, SECONDS, PATIENTS = 100, 10, 600
GROUPS = ("rhythm", "conduction", "axis", "superclass")
REAL_GROUPS = ("superclass", "subclass", "form", "rhythm")
#: Recipe, the ECGs it learns from, and steps of training in this benchmark.
JOBS = (("merl", "synthetic", 400), ("vit", "synthetic", 200), ("mtae", "synthetic", 700), ("merl", "ptb-xl", 150))


def silent(text: str) -> None:
    """No progress."""


def recipe_of(name: str, store: Path, steps: int) -> PretrainRecipe:
    """A recipe of the project on a store, so many steps long, without its own probe."""
    recipe = config.load(ROOT / "recipes" / f"pretrain-{name}.yaml", PretrainRecipe)
    changes = {"warmup_steps": max(1, steps // 10), "eval_every": max(1, steps // 4), "device": "cpu"}
    train = replace(recipe.train, max_steps=steps, **changes)  # type: ignore[arg-type]
    return replace(recipe, data=PretrainData(stores=(str(store),)), train=train, probe=None)


def told(result: PretrainResult) -> str:
    """The loss beside what it is to be compared with."""
    judged = result.judged
    if "best_constant" in judged:
        share = result.val_loss / judged["best_constant"]
        return f"held-out loss {result.val_loss:.4f}, best constant {judged['best_constant']:.4f} ({share:.0%})"
    ways = [
        f"{way.replace('_', ' ')} @{k} {judged[f'{way}@{k}']:.3f} (chance {judged[f'{way}@{k} by chance']:.3f})"
        for way in ("ecg_to_text", "text_to_ecg")
        for k in (1, 5)
    ]
    return f"held-out retrieval of {judged['num_ecgs']:.0f}: {', '.join(ways)}"


def figures(judged: Judged) -> dict[str, Any]:
    """Share 100 % and zero-shot: group → encoder, random, difference and its interval."""
    out: dict[str, Any] = {"retrieval": judged.scores["retrieval"]}
    for kind, rows in (("probe", judged.scores["probe"]), ("zero_shot", judged.scores["zero_shot"])):
        for row in rows:
            if "systems" in row and row.get("share", 1.0) == 1.0:
                mine, random = row["systems"]["encoder"], row["systems"]["random"]
                out[f"{kind}:{row['group']}"] = {
                    "encoder": mine["macro_auroc"]["value"],
                    "random": random["macro_auroc"]["value"],
                    "difference": mine["difference"],
                }
    return out


def bars(name: str, result: PretrainResult, scores: dict[str, Any]) -> dict[str, bool]:
    """What a run on synthetic ECGs must reach."""
    judged = result.judged
    if "best_constant" in judged:
        return {f"{name}: held-out loss below the best constant": result.val_loss < judged["best_constant"]}
    found: dict[str, bool] = {}
    recall = scores["retrieval"]["encoder"]
    for way in ("ecg_to_text@1", "text_to_ecg@1"):
        found[f"{name}: {way} at ten times chance"] = recall[way] >= 10 * recall[f"{way} by chance"]
    for group in ("rhythm", "superclass"):
        found[f"{name}: {group} probe above random"] = scores[f"probe:{group}"]["difference"]["low"] > 0
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="where runs go; a temporary folder unless given")
    parser.add_argument("--steps", type=int, help="of every training, for a quick look")
    parser.add_argument("--patients", type=int, default=PATIENTS)
    options = parser.parse_args()
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as temporary:
        return measure(options, options.out or Path(temporary))


def measure(options: argparse.Namespace, out: Path) -> int:
    """Make the stores, train, judge, print."""
    started = time.monotonic()
    pipeline = get_pipeline("default", rate=RATE, seg_len=RATE * SECONDS)
    stores = {"synthetic": out / "synthetic"}
    prepare(Synthetic(num_patients=options.patients), pipeline, stores["synthetic"], workers=2, progress=False)
    real = Path(os.environ.get("ECGLM_SHARED_DATA", ROOT.parent / "shared" / "data")) / "ptb-xl"
    if real.is_dir():
        stores["ptb-xl"] = out / "ptb-xl"
        prepare(PtbXl(root=real, resolution="100"), pipeline, stores["ptb-xl"], workers=2, progress=False)
    facts: dict[str, Any] = {"benchmark": "pretrain", "patients": options.patients, "runs": {}}
    reached: dict[str, bool] = {}
    for name, source, usual in JOBS:
        if source not in stores:
            continue
        begun, steps = time.monotonic(), options.steps or usual
        label = f"{name} on {source}"
        result = pretrain(recipe_of(name, stores[source], steps), out / f"{name}-{source}", say=silent)
        print(f"\n## {label}: {steps} steps, {time.monotonic() - begun:.0f} s; {told(result)}", flush=True)
        facts["runs"][label] = run = {"steps": steps, "val_loss": result.val_loss, **result.judged}
        for where, groups in (("synthetic", GROUPS), ("ptb-xl", REAL_GROUPS)):
            if where not in stores or (source == "ptb-xl" and where == "synthetic"):
                continue
            folder = out / f"probe-{name}-{source}-{where}"
            judged = judge_encoder(result.best, [stores[where]], folder, groups=groups, num_resamples=500, say=silent)
            print(f"\nOn {where}:", *judged.lines, sep="\n", flush=True)
            run[f"judged on {where}"] = figures(judged)
        if source == "synthetic":
            reached |= bars(name, result, run["judged on synthetic"])
    facts |= {"seconds": round(time.monotonic() - started, 1), "bars": reached, "passed": all(reached.values())}
    print(json.dumps(facts))
    return 0 if facts["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
