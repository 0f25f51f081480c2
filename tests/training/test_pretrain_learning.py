"""Pretraining works: run by `make test-all`, on patients that nobody has seen."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ecglm import config
from ecglm.evaluation.judge_encoder import judge_encoder
from ecglm.files import read_jsonl
from ecglm.records.ptb_xl import PtbXl
from ecglm.records.synthetic import Synthetic
from ecglm.signals.pipeline import get_pipeline
from ecglm.store.prepare import prepare
from ecglm.training.pretrain import PretrainResult, pretrain
from ecglm.training.pretrain_recipe import EncoderConfig, PretrainData, PretrainRecipe
from pretrain_world import make_pretrain_world

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def silent(text: str) -> None:
    pass


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("learning") / "store"
    pipeline = get_pipeline("default", rate=100, seg_len=1000)
    return prepare(Synthetic(num_patients=500), pipeline, folder, workers=2, progress=False).path


def run(name: str, store: Path, out: Path, steps: int) -> PretrainResult:
    recipe = config.load(RECIPES / f"pretrain-{name}.yaml", PretrainRecipe)
    train = replace(recipe.train, max_steps=steps, warmup_steps=steps // 10, eval_every=steps // 4, batch_size=32)
    return pretrain(replace(recipe, data=PretrainData(stores=(str(store),)), train=train, probe=None), out, say=silent)


@pytest.fixture(scope="module")
def merl(store, tmp_path_factory) -> PretrainResult:
    return run("merl", store, tmp_path_factory.mktemp("merl") / "run", 300)


@pytest.mark.slow
def test_reports_are_found_far_above_chance(merl):
    for way in ("ecg_to_text", "text_to_ecg"):
        assert merl.judged[f"{way}@1"] > 10 * merl.judged[f"{way}@1 by chance"]
        assert merl.judged[f"{way}@5"] > 10 * merl.judged[f"{way}@5 by chance"]


@pytest.mark.slow
def test_a_linear_probe_beats_random_weights_and_prompts_beat_chance(merl, store, tmp_path):
    options = {"groups": ("rhythm", "superclass"), "shares": (0.1, 1.0), "num_resamples": 300, "say": silent}
    scores = judge_encoder(merl.best, [store], tmp_path / "probe", **options).scores
    whole = {row["group"]: row["systems"]["encoder"] for row in scores["probe"] if row["share"] == 1.0}
    assert whole["rhythm"]["macro_auroc"]["value"] > 0.9
    assert whole["rhythm"]["difference"]["low"] > 0
    asked = {row["group"]: row["systems"]["encoder"] for row in scores["zero_shot"]}
    assert asked["rhythm"]["macro_auroc"]["low"] > 0.6
    assert asked["rhythm"]["difference"]["low"] > 0


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tmp_path):
    """``torchrun`` with two processes: the same losses, validation too, as one process with the whole batch."""
    small = make_pretrain_world(tmp_path)
    recipe = small.recipe("siglip", encoder=EncoderConfig(name="mtae", options={"size": "tiny"}), max_steps=3)
    (tmp_path / "recipe.yaml").write_text(config.dumps(recipe))
    pretrain(recipe, tmp_path / "one", say=silent)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    run = ["-m", "ecglm", "pretrain", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "two")]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *run]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (read_jsonl(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    assert len(one) == len(two)
    for ours, theirs in zip(one, two, strict=True):
        assert ours.keys() == theirs.keys()
        for key in {"loss", "eval_loss", "grad_norm"} & ours.keys():
            assert theirs[key] == pytest.approx(ours[key], rel=1e-4)


@pytest.mark.slow
def test_masked_patches_are_told_better_than_by_the_best_constant(store, tmp_path):
    result = run("vit", store, tmp_path / "run", 100)
    assert result.val_loss < 0.9 * result.judged["best_constant"]


@pytest.mark.slow
@pytest.mark.realdata
def test_on_real_ecgs_the_table_says_what_it_finds(merl, ptb_xl, tmp_path):
    """Never trained on a real ECG: no bar for the score, but everything that must stand beside it."""
    pipeline = get_pipeline("default", rate=100, seg_len=1000)
    real = prepare(PtbXl(root=ptb_xl, resolution="100"), pipeline, tmp_path / "store", workers=2, progress=False).path
    groups = ("superclass", "subclass", "form", "rhythm")
    judged = judge_encoder(merl.best, [real], tmp_path / "probe", groups=groups, num_resamples=100, say=silent)
    assert sum(judged.scores["records"].values()) == 782
    assert judged.scores["records"] == {"train": 573, "val": 111, "test": 98}  # folds 1-8, 9, 10
    rows = {(row["group"], row["share"]): row for row in judged.scores["probe"]}
    assert len(rows) == 12 and "skipped" in rows["subclass", 0.01]
    superclass = rows["superclass", 1.0]["systems"]
    assert set(superclass) == {"encoder", "random"} and len(superclass["encoder"]["classes"]) == 5
    assert 0.5 < superclass["encoder"]["macro_auroc"]["value"] < 1
    assert {row["group"] for row in judged.scores["zero_shot"]} == set(groups)
