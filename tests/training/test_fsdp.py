"""FSDP2: the same training with the weights shared out, and a checkpoint that knows nothing of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ecglm import config as strict
from ecglm.errors import ConfigError
from ecglm.models.checkpoint import from_pretrained
from ecglm.training.fsdp import layers_of, shard_units, shared_like, whole_tensor
from ecglm.training.recipe import TrainConfig
from ecglm.training.run import train
from two_processes import assert_same_training, torchrun


@pytest.mark.parametrize("name", ["fsdp", "fsdp-text", "fsdp-pages"])
def test_sharded_training_equals_one_process(name: str, two_processes: Path, one_process: Path) -> None:
    """``fsdp`` with gradient checkpointing; ``fsdp-text`` with rows without an ECG, where one process has none;
    ``fsdp-pages`` with both, as PULSE is trained: pages and picture files in tiles, the vision tower frozen.
    """
    assert_same_training(two_processes / name, one_process / name)
    if name == "fsdp-pages":
        rejects = [(folder / name / "rejects.jsonl").read_text() for folder in (two_processes, one_process)]
        assert rejects[0] == rejects[1] and rejects[0].count("image_missing") == len(rejects[0].splitlines()) == 1


def test_a_sharded_run_leaves_an_ordinary_checkpoint(two_processes: Path, one_process: Path) -> None:
    ours, theirs = (from_pretrained(folder / "fsdp" / "best") for folder in (two_processes, one_process))
    ids = torch.arange(5, 25)[None]
    ids[0, 2:6] = ours.elm.placeholder_id
    ecg = torch.randn(1, 12, 250, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = [b.elm(input_ids=ids, attention_mask=torch.ones_like(ids), ecg=ecg) for b in (ours, theirs)]
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)
    files = {p.suffix for p in (two_processes / "fsdp").rglob("*") if p.is_file()}
    assert not files & {".pt", ".pth", ".bin", ".distcp", ".pkl"}


def test_what_is_sharded_by_itself(signal_run: Path) -> None:
    elm = from_pretrained(signal_run / "best").elm
    units = shard_units(elm)
    assert units == [*elm.llm.model.layers, elm.encoder, elm.connector]
    assert layers_of(elm.llm) == list(elm.llm.model.layers)
    with pytest.raises(ConfigError, match="no list of layers"):
        layers_of(torch.nn.Linear(2, 2))


def test_plain_tensors_pass_through() -> None:
    value = torch.arange(3.0)
    assert whole_tensor(value) is value and shared_like(value, torch.zeros(3)) is value


def test_one_process_has_nothing_to_share(world, distributed_recipes, one_process: Path) -> None:
    """The fixture trained with ``sharding: fsdp`` here, alone, and gives what ``none`` gives."""
    assert_same_training(one_process / "fsdp", one_process / "ddp")


@pytest.mark.parametrize("changes", [{"deepspeed": "x.json"}, {"torch_compile": True}])
def test_what_does_not_go_together(changes) -> None:
    with pytest.raises(ValueError, match=r"train\.sharding"):
        TrainConfig(sharding="fsdp", **changes)


@pytest.mark.slow
def test_a_killed_sharded_run_is_resumed_sharded_or_alone(
    distributed_recipes, one_process: Path, tmp_path: Path
) -> None:
    recipe = distributed_recipes["fsdp"]
    recipe = replace(recipe, train=replace(recipe.train, save_every=1))
    for name in ("alone", "run"):
        (tmp_path / f"{name}.yaml").write_text(strict.dumps(recipe))
        assert torchrun("die", tmp_path, [tmp_path / f"{name}.yaml"]).returncode != 0
    again = torchrun("train", tmp_path, [tmp_path / "run.yaml"])
    assert again.returncode == 0 and "goes on from checkpoint-2" in again.stdout, again.stderr[-3000:]
    said: list[str] = []
    train(recipe, tmp_path / "alone", say=said.append)
    assert "goes on from checkpoint-2" in said
    for name in ("alone", "run"):
        assert_same_training(tmp_path / name, one_process / "fsdp")
