"""Pretraining end to end: every objective learns, only from training patients, and goes on where it was killed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from ecglm import config as strict
from ecglm.errors import ConfigError, EcglmError, StaleOutputError
from ecglm.files import read_jsonl, read_manifest
from ecglm.models.encoder_files import load_encoder, read_encoder
from ecglm.models.encoders.base import build_encoder
from ecglm.representations.signal import SignalOptions
from ecglm.representations.stacked import StackedOptions
from ecglm.store.audit_table import digest
from ecglm.store.reader import SegmentStore
from ecglm.store.splits import assign_splits
from ecglm.training import stateful
from ecglm.training.objectives.captioning import Captioning
from ecglm.training.pretrain import KIND, _settings, pretrain
from ecglm.training.pretrain_plan import make_encoder, make_objective, plan_of
from ecglm.training.pretrain_recipe import EncoderConfig, PretrainRecipe
from pretrain_world import OBJECTIVES, PretrainWorld, make_pretrain_world
from tiny_world import tree


def silent(text: str) -> None:
    pass


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> PretrainWorld:
    torch.set_num_threads(1)
    return make_pretrain_world(tmp_path_factory.mktemp("pretrain"))


@pytest.fixture(scope="module")
def runs(small: PretrainWorld):
    """Objective → finished run, each made once."""
    made = {}

    def run(objective: str):
        if objective not in made:
            made[objective] = pretrain(small.recipe(objective), small.folder / objective, say=silent)
        return made[objective]

    return run


def final(folder: Path) -> dict[str, bytes]:
    """All but the plan and what holds a clock."""
    return {k: v for k, v in tree(folder).items() if k not in ("plan.json", "speed.jsonl")}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_gives_an_encoder_folder_that_has_learned(objective, small, runs):
    result = runs(objective)
    assert {"best", "loss.png", "manifest.json", "metrics.jsonl", "recipe.yaml"} <= {
        p.name for p in result.path.iterdir()
    }
    assert not (result.path / "states").exists()
    file, recipe = read_encoder(result.best), small.recipe(objective)
    assert (file.name, file.facts["objective"]) == (recipe.encoder.name, objective)
    encoder = load_encoder(file)
    begun = make_encoder(plan_of(recipe))
    moved = [
        n for (n, a), b in zip(begun.named_parameters(), encoder.parameters(), strict=True) if not torch.equal(a, b)
    ]
    assert len(moved) > 0.8 * sum(1 for _ in begun.parameters())
    losses = [r["eval_loss"] for r in read_jsonl(result.path / "metrics.jsonl") if "eval_loss" in r]
    assert result.val_loss == min(losses) and len(losses) == 2  # validated every second step, the best one kept
    assert strict.load(result.path / "recipe.yaml", PretrainRecipe) == recipe


def test_only_training_patients_are_learned_from_and_remembered(small, runs):
    splits = assign_splits(SegmentStore(small.store))
    known = set(read_encoder(runs("masked").best).trained_on.tolist())
    for patient, split in splits.items():
        assert (digest(patient) in known) == (split == "train")
    index = SegmentStore(small.store).index
    pairs = zip(index.column("record_id").to_pylist(), index.column("patient_id").to_pylist(), strict=True)
    assert all((digest(record) in known) == (splits[patient] == "train") for record, patient in pairs)


def test_what_an_objective_says_beside_its_loss(runs):
    assert runs("masked").judged["best_constant"] > 0
    told = runs("merl").judged
    assert told["num_ecgs"] >= told["num_texts"] >= 2
    assert {f"{way}@{k}" for way in ("ecg_to_text", "text_to_ecg") for k in (1, 5)} <= told.keys()


class Killed(BaseException):
    """As abrupt as a signal: nothing of ours catches it."""


@pytest.mark.parametrize(
    "objective",
    ["masked", pytest.param("siglip", marks=pytest.mark.slow), pytest.param("captioning", marks=pytest.mark.slow)],
)
def test_d36_pretraining_killed_and_run_again_equals_uninterrupted(objective, small, monkeypatch, tmp_path):
    """In the second epoch, from a state in the middle of one: weights, curve and manifest have the same bytes."""
    augment = {"noise": {"p": 0.5, "sd": 0.05}}
    recipe = small.recipe(objective, max_steps=9, eval_every=2, augment=augment)
    whole = pretrain(recipe, tmp_path / "whole", say=silent)
    step = stateful.StatefulTrainer.training_step

    def dying(self, *args, **kwargs):
        if self.state.global_step == 7:
            raise Killed
        return step(self, *args, **kwargs)

    monkeypatch.setattr(stateful.StatefulTrainer, "training_step", dying)
    with pytest.raises(Killed):
        pretrain(recipe, tmp_path / "run", say=silent)
    monkeypatch.undo()
    assert not (tmp_path / "run" / "manifest.json").exists()
    said: list[str] = []
    torch.manual_seed(99)
    again = pretrain(recipe, tmp_path / "run", say=said.append)
    assert "goes on from checkpoint-6" in said
    assert again.best_step == whole.best_step
    ours, theirs = final(tmp_path / "run"), final(tmp_path / "whole")
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_finished_runs_are_reused_and_other_settings_refused(small, runs):
    done = runs("masked")
    assert pretrain(small.recipe("masked"), done.path, say=silent).reused
    with pytest.raises(StaleOutputError, match="--overwrite"):
        pretrain(small.recipe("masked", lr=1e-4), done.path, say=silent)
    assert read_manifest(done.path, KIND)["counts"]["train"]["used"] > 20


def test_pictures_of_the_signal_through_a_vision_tower(small, tmp_path):
    vit = EncoderConfig(name="vit", options={"size": "nano", "config": {"image_size": 48, "patch_size": 12}})
    recipe = small.recipe("masked", encoder=vit, stacked=StackedOptions())
    file = read_encoder(pretrain(recipe, tmp_path / "run", say=silent).best)
    assert file.input_shape == (3, 48, 48) and "weights" not in file.options
    assert "mask_token" in file.extra()
    assert load_encoder(file)(torch.zeros(1, 3, 48, 48, dtype=torch.uint8)).shape == (1, 16, 64)


def test_going_on_from_an_encoder_folder(small, runs, tmp_path):
    """Finetuning: weights of the folder, heads too where they fit, and whom it learned from stays known."""
    start = runs("siglip").best
    said: list[str] = []
    recipe = small.recipe("siglip", encoder=EncoderConfig(start_from=str(start)), max_steps=2)
    plan = plan_of(recipe)
    encoder = make_encoder(plan)
    for name, value in read_encoder(start).weights().items():
        assert torch.equal(encoder.state_dict()[name], value)
    objective = make_objective(plan, encoder, [], said.append)
    assert torch.equal(objective.model.ecg_projection.weight, read_encoder(start).extra()["ecg_projection.weight"])
    assert said == [f"begins with the encoder and the heads of {start}"]
    more = read_encoder(pretrain(recipe, tmp_path / "more", say=silent).best)
    assert set(read_encoder(start).trained_on.tolist()) <= set(more.trained_on.tolist())
    other = small.recipe("clip", encoder=EncoderConfig(start_from=str(start)))
    plan = plan_of(other)
    make_objective(plan, make_encoder(plan), [], said.append)
    assert said[-1] == f"begins with the encoder of {start}, heads are new"
    short = small.recipe(
        "siglip", encoder=EncoderConfig(start_from=str(start)), signal=SignalOptions(leads=("I", "II"))
    )
    with pytest.raises(ConfigError, match=r"encoder\.start_from"):
        plan_of(short)


def test_captions_that_are_too_long_are_rejected_and_counted(small, tmp_path):
    _, options = OBJECTIVES["captioning"]
    recipe = small.recipe("captioning")
    tight = dataclasses.replace(recipe, captioning=dataclasses.replace(options, max_len=70))
    try:
        pretrain(tight, tmp_path / "run", say=silent)
    except EcglmError as error:
        assert "no usable ECG" in str(error)  # every report of a split was too long
    rows = read_jsonl(tmp_path / "run" / "rejects.jsonl")
    assert rows and {row["reason"] for row in rows} == {"sequence_too_long"}


def test_captioning_is_the_models_own_forward(small):
    """The loss per token is the cross-entropy of the report's tokens, and the encoder in the model is the one given."""
    plan = plan_of(small.recipe("captioning"))
    encoder = make_encoder(plan)
    text = "Sinus rhythm. Normal axis (30 degrees)."
    row = type("Row", (), {"text": text})()
    objective = make_objective(plan, encoder, [row])
    assert isinstance(objective, Captioning) and objective.model.encoder is encoder
    segment = plan.stores[0][0]
    from ecglm.training.objectives.base import Shown

    item = objective.item(Shown("a", plan.representation(segment, 50), text, 0, np.random.default_rng(0)))
    batch = objective.collate([item])
    assert objective.prompter.tokenizer.decode(batch["input_ids"][0][batch["labels"][0] >= 0]).startswith(text)
    objective.model.eval()
    with torch.no_grad():
        logits = objective.model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            position_ids=batch["position_ids"],
            ecg=batch["ecg"],
        )[0]
        by_hand = [
            -float(torch.log_softmax(logits[i], -1)[label])
            for i, label in enumerate(batch["labels"][0][1:].tolist())
            if label >= 0
        ]
        total, count = objective.measure(objective.model, batch)
    assert count == len(by_hand)
    assert float(total) == pytest.approx(sum(by_hand), rel=1e-4)


def test_the_random_start_is_seeded(small):
    first, again = (make_encoder(plan_of(small.recipe("masked"))) for _ in range(2))
    other = make_encoder(plan_of(small.recipe("masked", seed=1)))
    key = "to_patch_embedding.2.weight"
    assert torch.equal(first.state_dict()[key], again.state_dict()[key])
    assert not torch.equal(first.state_dict()[key], other.state_dict()[key])
    torch.manual_seed(0)
    assert torch.equal(
        build_encoder("mtae", input_shape=(12, 200), options={"size": "tiny"}).state_dict()[key],
        first.state_dict()[key],
    )


def test_a_run_is_told_by_what_changes_it(small, tmp_path):
    """Not by how many processes make its batches; by what a DeepSpeed file says, not by where it lies."""
    plan = plan_of(small.recipe("masked"))
    other = plan_of(small.recipe("masked", num_workers=2))
    assert _settings(plan, None) == _settings(other, None)
    files = [tmp_path / "a.json", tmp_path / "b.json", tmp_path / "c.json"]
    for file, text in zip(files, ("{}", "{}", '{"zero_optimization": {"stage": 2}}'), strict=True):
        file.write_text(text)
    a, b, c = (_settings(plan_of(small.recipe("masked", deepspeed=str(f))), None) for f in files)
    assert a == b != c
