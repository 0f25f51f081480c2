"""Every option of training is checked when it is read, and does something (D35)."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from ecglm.models.config import LoraConfig, ModelConfig
from ecglm.training.options import TrainConfig
from toy_run import Run

TESTS = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "given, told",
    [
        ({"max_steps": 0}, r"train\.max_steps must be 1 or more, found 0"),
        ({"max_epochs": 0}, r"train\.max_epochs must be 1 or more, found 0"),
        (
            {"max_steps": 5, "max_epochs": 2},
            r"give train\.max_steps or train\.max_epochs, found 5 and 2; set the other",
        ),
        ({"lr": 0.0}, r"train\.lr must be above 0"),
        ({"lr": -1.0}, r"train\.lr must be above 0"),
        ({"lr": float("nan")}, r"train\.lr must be above 0"),
        ({"warmup_steps": 10, "max_steps": 10}, r"train\.warmup_steps must be below max_steps \(10\), found 10"),
        ({"max_steps": 20}, r"below max_steps \(20\), found 20"),  # the usual warm-up
        ({"warmup_steps": 1, "warmup_share": 0.1}, r"give train\.warmup_steps or train\.warmup_share"),
        ({"warmup_share": 1.0}, r"warmup_share must be at least 0 and below 1"),
        ({"schedule": "noam_compat", "warmup_steps": 0}, "noam_compat needs a warm-up"),
        ({"schedule": "noam_compat", "max_steps": 500}, r"below max_steps \(500\), found 500"),
        ({"accumulation": 0}, r"train\.accumulation must be 1 or more"),
        ({"batch_size": 0}, r"train\.batch_size must be 1 or more"),
        ({"save_every": 0}, r"train\.save_every must be 1 or more"),
        ({"patience": 0}, r"train\.patience must be 1 or more"),
        ({"max_bad_steps": -1}, r"train\.max_bad_steps must be 0 or more"),
        ({"min_delta": -0.1}, r"train\.min_delta must be 0 or more"),
        ({"beta1": 1.0}, r"train\.beta1 must be at least 0 and below 1"),
        ({"beta2": -0.1}, r"train\.beta2 must be at least 0"),
        ({"eps": 0.0}, r"train\.eps must be above 0"),
        ({"clip": 0.0}, r"train\.clip must be above 0"),
        ({"weight_decay": -1.0}, r"train\.weight_decay must be 0 or more"),
        ({"seed": -1}, r"train\.seed must lie between"),
        ({"device": "gpu"}, r"train\.device must be auto, cpu, cuda or cuda:N, found 'gpu'"),
        ({"device": "cuda:x"}, r"train\.device must be"),
        ({"report_to": ("wand",)}, r"no tracker 'wand'.*tensorboard, trackio, wandb"),
    ],
)
def test_a_mistake_is_told_in_one_line(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told) as error:
        TrainConfig(**given)
    assert "\n" not in str(error.value)


def test_what_is_not_given() -> None:
    plain = TrainConfig()
    assert (plain.max_steps, plain.max_epochs, plain.warmup(1000), plain.length) == (1000, None, 20, "1000 steps")
    assert (plain.optimizer, plain.schedule, plain.beta1, plain.beta2, plain.weight_decay) == (
        "adamw",
        "cosine",
        0.9,
        0.98,
        0.01,
    )
    epochs = TrainConfig(max_epochs=3, warmup_share=0.03)
    assert (epochs.max_steps, epochs.warmup(100), epochs.length) == (None, 3, "3 epochs")
    assert TrainConfig(schedule="noam_compat").warmup(1000) == 500
    assert dataclasses.replace(epochs, max_epochs=None, max_steps=50).warmup(50) == 2


#: Option → values that must make another training of ``toy_run`` than the usual ones, with what else must be set.
CHANGES: dict[str, list[dict[str, Any]]] = {
    "max_steps": [{"max_steps": 4}, {"max_steps": 5}],
    "max_epochs": [{"max_steps": None, "max_epochs": 1}, {"max_steps": None, "max_epochs": 2}],
    "batch_size": [{"batch_size": 2}, {"batch_size": 3}],
    "accumulation": [{"accumulation": 1}, {"accumulation": 2}],
    "lr": [{"lr": 0.01}, {"lr": 0.02}],
    "warmup_steps": [{"warmup_steps": 1}, {"warmup_steps": 3}],
    "warmup_share": [{"warmup_steps": None, "warmup_share": s} for s in (0.2, 0.5)],
    "schedule": [{"schedule": s} for s in ("cosine", "linear", "constant", "inverse_sqrt", "noam_compat")],
    "optimizer": [{"optimizer": "adamw", "weight_decay": 0.5}, {"optimizer": "adam", "weight_decay": 0.5}],
    "weight_decay": [{"weight_decay": 0.0}, {"weight_decay": 0.5}],
    "beta1": [{"beta1": 0.9}, {"beta1": 0.5}],
    "beta2": [{"beta2": 0.98}, {"beta2": 0.5}],
    "eps": [{"eps": 1e-8}, {"eps": 1e-2}],
    "clip": [{"clip": c, "eps": 1e-2} for c in (1.0, 0.01)],  # Adam alone does not see the scale of a gradient
    "log_every": [{"log_every": 1}, {"log_every": 5}],
    "eval_every": [{"eval_every": 3}, {"eval_every": 2}],
    "save_every": [{"save_every": 3}, {"save_every": 4}],
    "bf16": [{"bf16": False}, {"bf16": True}],
}
#: Option → the test that shows what it does, where a training of ``toy_run`` cannot.
SHOWN: dict[str, str] = {
    "seed": "training/test_run.py::test_every_epoch_has_its_own_order_and_uses_everything_once",
    "objective": "training/test_run.py::test_an_unknown_objective_is_refused",
    "parts": "training/test_run.py::test_d07_a_runs_frozen_parts_stay_bit_identical",
    "share_ecg": "training/test_run.py::test_sharing_the_ecg_is_the_same_training",
    "augment": "training/test_resume.py::recipe",
    "patience": "training/test_stateful.py::test_patience_wants_more_progress_than_min_delta",
    "min_delta": "training/test_stateful.py::test_patience_wants_more_progress_than_min_delta",
    "max_bad_steps": "training/test_run.py::test_too_many_losses_that_are_no_numbers_in_a_row_end_the_run",
    "device": "training/test_arguments.py::test_a_device_that_is_not_there_is_refused",
    "gradient_checkpointing": "training/test_stateful.py::test_gradient_checkpointing_and_compilation_reach_the_model",
    "torch_compile": "training/test_stateful.py::test_gradient_checkpointing_and_compilation_reach_the_model",
    "report_to": "training/test_trackers.py::test_a_tracker_that_is_not_installed_is_one_line",
    "num_workers": "training/test_stateful.py::WAYS",
    "packing": "training/test_packed_training.py",
    "pack_len": "training/test_packed_training.py",
    "sharding": "training/test_fsdp.py",
    "deepspeed": "training/test_fsdp.py",
    "timeout": "training/test_distributed.py",
}
#: The same for the options of the model, and of LoRA.
MODEL: dict[str, str] = {
    "llm": "training/test_lora.py",
    "tiny": "training/test_recipe.py",
    "encoder": "training/test_ways.py",
    "encoder_options": "training/test_run.py",
    "encoder_from": "training/test_ways.py",
    "start_from": "models/test_start.py",
    "connector": "training/test_ways.py",
    "image": "training/test_ways.py",
    "ecg_attention": "training/test_ways.py",
    "chat_format": "models/test_access.py",
    "system": "models/test_access.py",
    "system_file": "models/test_access.py",
    "dtype": "models/test_access.py",
    "attention": "models/test_access.py",
    "max_len": "training/test_run.py",
    "init_new_embeddings": "training/test_lora.py",
    "lora": "training/test_lora.py",
}
LORA: dict[str, str] = {
    "rank": "models/test_adapters.py",
    "alpha": "models/test_adapters.py",
    "dropout": "models/test_adapters.py",
    "targets": "models/test_adapters.py",
    "train_new_embeddings": "models/test_adapters.py",
    "where": "training/test_ways.py",
    "dora": "models/test_adapters.py",
    "rank_stabilised": "models/test_adapters.py",
}


def outcome(folder: Path, changes: dict[str, Any]) -> tuple[Any, ...]:
    """Everything a training of ``toy_run`` leaves that an option may change."""
    logged: list[int] = []
    run = Run(folder, **{"max_steps": 6, **changes})
    run.trainer.log, log = lambda logs, *a: (logged.append(len(logs)), log(logs, *a))[1], run.trainer.log
    run.train()
    states = sorted(p.name for p in (folder / "states").iterdir())
    weights = [w.flatten().tolist() for w in run.weights()]
    return (folder / "metrics.jsonl").read_bytes(), states, weights, logged, run.best


@pytest.mark.parametrize("name", CHANGES)
def test_d35_every_value_of_an_option_makes_another_training(tmp_path: Path, name: str) -> None:
    found = [outcome(tmp_path / str(i), changes) for i, changes in enumerate(CHANGES[name])]
    assert all(a != b for i, a in enumerate(found) for b in found[:i])
    assert all(name in changes for changes in CHANGES[name])


def test_d35_every_option_is_shown_to_do_something() -> None:
    """A new option without an entry fails here: say in CHANGES or SHOWN where it is exercised."""
    for config, shown in ((TrainConfig, {**CHANGES, **SHOWN}), (ModelConfig, MODEL), (LoraConfig, LORA)):
        names = {f.name for f in dataclasses.fields(config)}
        assert names - shown.keys() == set(), f"{config.__name__}: no test shows what these do"
        assert shown.keys() - names == set(), f"{config.__name__}: no such options any more"


@pytest.mark.parametrize("name, where", [(n, w) for t in (SHOWN, MODEL, LORA) for n, w in t.items()])
def test_d35_the_tests_that_show_an_option_set_it(name: str, where: str) -> None:
    file, _, test = where.partition("::")
    text = (TESTS / file).read_text()
    assert not test or f"def {test}(" in text or f"{test} = " in text, where
    assert re.search(rf"\b{name}\b[\"']?\s*[=:]|\b{name}\b[\"']", text), f"{where} does not set {name}"
