"""Several processes train as one would: the same steps, the same decisions, one writer, and none waits for ever."""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from ecglm import config as strict
from ecglm.errors import ConfigError, EcglmError
from ecglm.files import read_jsonl
from ecglm.prompts.examples import IGNORE
from ecglm.training.distributed import Blank, RankBatches, Ranks, agree, from_main, ranks, share_loader, shares
from ecglm.training.run import train
from two_processes import assert_same_training, torchrun

EVERYONE = (Ranks(0, 2), Ranks(1, 2))


@pytest.mark.parametrize(
    ("given", "own"),
    [
        ((8, 1, 1), (8, 1)),
        ((4, 2, 2), (4, 1)),
        ((8, 1, 2), (4, 1)),
        ((2, 8, 4), (2, 2)),
        ((3, 4, 2), (3, 2)),
        ((16, 1, 8), (2, 1)),
    ],
)
def test_a_step_is_shared_out_whole(given, own) -> None:
    assert shares(*given) == own


def test_a_step_that_cannot_be_shared_is_refused_with_the_mend() -> None:
    with pytest.raises(ConfigError, match=r"a step of 6 sequences \(train.batch_size 3 x train.accumulation 2\).* 4"):
        shares(3, 2, 4)


@settings(max_examples=60, deadline=None)
@given(
    items=st.integers(1, 60), batch=st.integers(1, 6), accumulation=st.integers(1, 4), size=st.sampled_from([2, 3, 4])
)
def test_the_steps_of_all_are_those_of_one(items: int, batch: int, accumulation: int, size: int) -> None:
    if batch * accumulation % size:
        return
    whole = BatchSampler(SequentialSampler(range(items)), batch, drop_last=False)
    found = [RankBatches(whole, accumulation, Ranks(rank, size)) for rank in range(size)]
    batches = [list(b) for b in found]
    assert {len(b) for b in batches} == {len(found[0])}  # nobody waits for another's missing batch
    own, passes = shares(batch, accumulation, size)
    step = batch * accumulation
    for start in range(0, items, step):
        at = slice(start // step * passes, start // step * passes + passes)
        read = [i for rank in range(size) for b in batches[rank][at] for i in b if not isinstance(i, Blank)]
        assert sorted(read) == list(range(start, min(start + step, items)))
    assert all(len(b) <= own for rank in batches for b in rank)


def test_a_blank_batch_counts_nothing() -> None:
    def collate(rows):
        labels = torch.tensor(rows)[:, None].expand(-1, 3).contiguous()
        return {"labels": labels, "facts": {"ids": ["a"], "examples": len(rows), "counts_labels": True}}

    plain = DataLoader([1, 2, 3, 4, 5], batch_size=2, collate_fn=collate)  # type: ignore[arg-type]
    own = [list(share_loader(plain, 2, here)) for here in EVERYONE]
    assert [[b["labels"][:, 0].tolist() for b in mine] for mine in own] == [[[1, 2], [5]], [[3, 4], [IGNORE]]]
    assert own[1][1]["facts"] == {"ids": [], "examples": 0, "counts_labels": True}
    assert share_loader(plain, 2, Ranks()) is plain


def test_alone_there_is_nobody_to_wait_for(monkeypatch) -> None:
    assert ranks() == Ranks(0, 1) and ranks().main
    assert from_main(lambda: 3) == 3
    agree("x", 1)
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(EcglmError, match="whole numbers"):
        ranks()


# --- two processes


@pytest.mark.parametrize("name", ["ddp", "text"])
def test_two_processes_train_as_one(name: str, two_processes: Path, one_process: Path) -> None:
    """``text``: rows without an ECG, and an epoch whose last step has fewer rows than two processes could share."""
    assert_same_training(two_processes / name, one_process / name)


def test_batch_8_is_4_times_2_accumulated(one_process: Path, distributed_recipes, tmp_path: Path) -> None:
    recipe = distributed_recipes["ddp"]
    whole = replace(recipe, train=replace(recipe.train, batch_size=8, accumulation=1))
    assert_same_training(train(whole, tmp_path / "run", say=lambda text: None).path, one_process / "ddp")


def test_the_order_does_not_depend_on_the_number_of_processes(two_processes: Path) -> None:
    zero, one = (json.loads((two_processes / f"text-{rank}.json").read_text())[-1]["read"] for rank in (0, 1))
    assert len(zero) == len(one) == 5
    for step, (mine, yours) in enumerate(zip(zero, one, strict=True)):
        assert len(mine) + len(yours) == (8 if step % 2 == 0 else 3)
        assert not set(mine) & set(yours)


def test_d21_one_decision_and_one_writer(two_processes: Path) -> None:
    """Each process validates on its own half, at a learning rate that makes the loss jump: they stop together."""
    zero, one = (json.loads((two_processes / f"stops-{rank}.json").read_text()) for rank in (0, 1))
    assert [(r["step"], r["loss"], r["best"], r["stop"]) for r in zero] == [
        (r["step"], r["loss"], r["best"], r["stop"]) for r in one
    ]
    assert all(abs(a["own"] - b["own"]) > 1e-4 for a, b in zip(zero, one, strict=True))
    assert zero[-1]["stop"] and len(zero) < 30
    trend = [[r["own"] - p["own"] > 0 for p, r in itertools.pairwise(rows)] for rows in (zero, one)]
    assert trend[0] != trend[1] or len(zero) < 4  # alone they would not always have agreed
    rows = read_jsonl(two_processes / "stops" / "metrics.jsonl")
    assert len(rows) == len({(r["step"], "eval_loss" in r) for r in rows})  # each once
    said = (two_processes / "stdout.txt").read_text().splitlines()
    assert said and all(line.startswith("0: ") for line in said)


def test_a_process_that_fails_stops_the_other_and_one_process_goes_on(
    world, distributed_recipes, one_process: Path, tmp_path: Path
) -> None:
    """States after every step, the second process dies in the third; then another number of processes resumes."""
    recipe = distributed_recipes["ddp"]
    recipe = replace(recipe, train=replace(recipe.train, save_every=1, timeout=60.0))
    (tmp_path / "run.yaml").write_text(strict.dumps(recipe))
    began = time.monotonic()
    done = torchrun("raise", tmp_path, [tmp_path / "run.yaml"])
    assert time.monotonic() - began < 120 and done.returncode != 0
    assert "1: error: the disk of this process is on fire" in done.stderr
    assert not (tmp_path / "run" / "manifest.json").exists()
    said: list[str] = []
    train(recipe, tmp_path / "run", say=said.append)
    assert "goes on from checkpoint-2" in said
    assert_same_training(tmp_path / "run", one_process / "ddp")


@pytest.mark.slow
def test_a_process_that_hangs_stops_the_other_in_time(distributed_recipes, tmp_path: Path) -> None:
    recipe = distributed_recipes["ddp"]
    (tmp_path / "run.yaml").write_text(strict.dumps(replace(recipe, train=replace(recipe.train, timeout=8.0))))
    done = torchrun("hang", tmp_path, [tmp_path / "run.yaml"])
    assert done.returncode != 0
    assert "0: error: process 0 stops, because another one did" in done.stderr


@pytest.mark.slow
def test_killed_and_resumed_by_as_many(distributed_recipes, one_process: Path, tmp_path: Path) -> None:
    recipe = distributed_recipes["ddp"]
    recipe = replace(recipe, train=replace(recipe.train, save_every=1))
    (tmp_path / "run.yaml").write_text(strict.dumps(recipe))
    assert torchrun("die", tmp_path, [tmp_path / "run.yaml"]).returncode != 0
    again = torchrun("train", tmp_path, [tmp_path / "run.yaml"])
    assert again.returncode == 0, again.stderr[-3000:]
    assert "goes on from checkpoint-2" in again.stdout
    assert_same_training(tmp_path / "run", one_process / "ddp")


@pytest.mark.slow
def test_the_command_line_under_torchrun(distributed_recipes, one_process: Path, tmp_path: Path) -> None:
    """As docs/scaling.md has it: ``torchrun -m ecglm train RECIPE``."""
    import os
    import subprocess
    import sys

    (tmp_path / "run.yaml").write_text(strict.dumps(distributed_recipes["ddp"]))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "ecglm"]
    done = subprocess.run(
        [*launch, "train", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("checkpoint:") == 1
    assert_same_training(tmp_path / "run", one_process / "ddp")
