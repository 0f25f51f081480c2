"""The memory a step is said to take, against what the system says it took and what arithmetic says it must."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from ecglm.models.elm import Elm
from ecglm.prompts.data import EcgSource
from ecglm.store.reader import SegmentStore
from ecglm.training.memory import Batch, estimate
from ecglm.training.memory_recipe import batch_of, memory_lines
from ecglm.training.run import representation_of

linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system tells no peak")


@linux
@pytest.mark.parametrize(
    ("family", "learns", "kept"),
    [
        ("llama", "all", "kept"),
        pytest.param("llama", "all", "checkpointed", marks=pytest.mark.slow),
        pytest.param("llama", "lora", "kept", marks=pytest.mark.slow),
        pytest.param("gpt2", "all", "kept", marks=pytest.mark.slow),
        pytest.param("gpt2", "all", "checkpointed", marks=pytest.mark.slow),
        pytest.param("gpt2", "lora", "kept", marks=pytest.mark.slow),
    ],
)
def test_the_estimate_is_within_a_fifth_of_the_measured(family: str, learns: str, kept: str) -> None:
    """The peak of resident memory of a process that makes two real steps, less what it held before."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    script = str(Path(__file__).with_name("peak.py"))
    done = subprocess.run(
        [sys.executable, script, family, learns, kept], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["told"] == pytest.approx(found["measured"], rel=0.2)


def tiny() -> Elm:
    config = LlamaConfig(
        vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2
    )
    with torch.device("meta"):
        return Elm(AutoModelForCausalLM.from_config(config))


def test_weights_gradients_and_states_are_counted_by_arithmetic() -> None:
    elm = tiny()
    count = sum(p.numel() for p in elm.parameters())
    batch = Batch(2, 16, 8, 4)
    alone = estimate(elm, batch)
    assert (alone.gradients, alone.optimizer) == (4 * count, 8 * count)
    assert 0 <= alone.parameters - 4 * count < 1000  # rotary frequencies
    for sharding, parts in {"fsdp": (8, 8, 8), "zero2": (1, 8, 8), "none": (1, 1, 1)}.items():
        many = estimate(tiny(), batch, processes=8, sharding=sharding)
        found = (many.parameters, many.gradients, many.optimizer)
        wanted = (alone.parameters, alone.gradients, alone.optimizer)
        assert found == tuple(whole // part for whole, part in zip(wanted, parts, strict=True)), sharding
        assert many.total == sum(found) + many.activations + many.gathered
        assert (many.gathered > 0) == (sharding == "fsdp")


def test_activations_grow_as_the_batch_does() -> None:
    small, large = (estimate(tiny(), Batch(rows, 64, 8, 4)).activations for rows in (4, 8))
    assert large == pytest.approx(2 * small, rel=0.15)


def test_a_recipe_tells_its_memory(world) -> None:
    recipe = world.recipe(batch_size=8)
    stores = [SegmentStore(world.store)]
    rows = world.conversations("train")
    representation = representation_of(recipe, stores, rows)
    tokens = len(EcgSource(stores, representation).encode(rows[0].ecgs[0]).token_ids)
    one, eight = memory_lines(recipe, rows, representation, tokens)
    assert one.startswith("memory, 8 rows of about ") and "optimiser" in one
    assert "train.sharding fsdp" in eight
    packed = replace(recipe, train=replace(recipe.train, packing=True, pack_len=128, share_ecg=False))
    batch = batch_of(packed, rows, representation, tokens, 8)
    assert (batch.rows, batch.length) == (8, 128) and batch.ecgs >= 8 and not batch.masked
