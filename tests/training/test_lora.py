"""A LoRA recipe on a pretrained LLM: trains, leaves a plain checkpoint, and survives being killed to the byte."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ecglm import config as strict
from ecglm.errors import ConfigError
from ecglm.files import read_jsonl
from ecglm.models.adapters import LoraConfig, is_adapted
from ecglm.models.checkpoint import create, from_pretrained
from ecglm.models.llm import load_llm, tiny_llm, train_tokenizer
from ecglm.training.recipe import Recipe
from ecglm.training.run import train
from tiny_world import tree


def quiet(text: str) -> None:
    """No progress lines."""


@pytest.fixture(scope="module")
def llm_folder(world, tmp_path_factory) -> Path:
    """A small Llama with its tokenizer, as if it had been pretrained elsewhere; tied, spare rows behind its words."""
    folder = tmp_path_factory.mktemp("llm") / "base"
    tokenizer = train_tokenizer([t.text for c in world.conversations() for t in c.turns], 300)
    model = tiny_llm(tokenizer, hidden=32, num_layers=2, num_heads=2, seed=4)
    model.resize_token_embeddings(len(tokenizer) + 7, mean_resizing=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def recipe(world, llm_folder: Path, symbols: bool, **changes: Any) -> Recipe:
    found = world.recipe(symbols, **{"batch_size": 2, "eval_every": 3, "max_steps": 7, "log_every": 2, **changes})
    model = replace(found.model, llm=str(llm_folder), lora=LoraConfig(rank=4, dropout=0.1))
    return replace(found, model=model)


@pytest.mark.parametrize("symbols", [True, False], ids=["symbols", "signal"])
def test_a_lora_recipe_trains_and_leaves_a_plain_checkpoint(world, llm_folder: Path, symbols: bool, tmp_path) -> None:
    said: list[str] = []
    run = train(recipe(world, llm_folder, symbols, max_steps=30, eval_every=10), tmp_path / "run", say=said.append)
    assert any(line.startswith("LoRA: ") and "weights learn" in line for line in said)
    losses = [r["loss"] for r in read_jsonl(run.path / "metrics.jsonl") if "loss" in r]
    assert losses[-1] < 0.9 * losses[0]
    bundle = from_pretrained(run.best)
    assert not is_adapted(bundle.elm.llm)  # merged: any library reads it
    plain, _ = load_llm(str(run.best / "llm"))
    base, its = load_llm(str(llm_folder))
    assert type(plain) is type(base) and plain.config.tie_word_embeddings
    before, after = base.get_input_embeddings().weight, plain.get_input_embeddings().weight
    assert torch.equal(after[: len(its)], before[: len(its)])  # words stay as they are, to the bit
    fresh = create(bundle.model, bundle.representation, bundle.pipeline, [], seed=0)
    started = fresh.elm.llm.get_input_embeddings().weight
    new = [i for i in bundle.prompter.ecg_ids if i != bundle.elm.placeholder_id]
    shown = {i for i in new if not torch.equal(after[i], started[i])}
    # with tied tables a symbol's row is an output row too, so all of them move, shown in training or not
    assert (len(shown) == len(new) > 20) if symbols else not new
    if not symbols:
        assert torch.equal(after, started)  # the placeholder's row stays where it began
    moved = {k for k, v in plain.state_dict().items() if not torch.equal(v, fresh.elm.llm.state_dict().get(k, v))}
    assert moved <= {"model.embed_tokens.weight", "lm_head.weight"}


def test_d36_killed_under_lora_and_run_again_equals_uninterrupted(world, llm_folder: Path, tmp_path: Path) -> None:
    asked = recipe(world, llm_folder, True)
    (tmp_path / "recipe.yaml").write_text(strict.dumps(asked))
    script = Path(__file__).with_name("killed.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "recipe.yaml"), str(tmp_path), "step-5"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=240,
    )
    assert done.stdout == f"step-5 {int(signal.SIGKILL)}\n", done.stderr
    state = tmp_path / "step-5" / "states" / "checkpoint-3"
    names = {n.rpartition(".lora_")[2] for n in load_file(state / "adapter.safetensors") if ".lora_" in n}
    assert names == {"A.default.weight", "B.default.weight"} and not (state / "llm").exists()
    said: list[str] = []
    train(asked, tmp_path / "step-5", say=said.append)
    assert "goes on from checkpoint-3" in said
    train(asked, tmp_path / "whole", say=quiet)
    ours, theirs = ({k: v for k, v in tree(tmp_path / n).items() if k != "plan.json"} for n in ("step-5", "whole"))
    assert ours.keys() == theirs.keys() and not [n for n in ours if n.endswith((".bin", ".pt", ".pth", ".pkl"))]
    assert [n for n in ours if ours[n] != theirs[n]] == []


def test_lora_is_a_section_of_a_recipe() -> None:
    model = "llm: some/model, lora: {rank: 8, targets: [q_proj]}"
    text = f"name: x\ndata: {{files: [q], stores: [s]}}\nsymbols: {{}}\nmodel: {{{model}}}\n"
    found = strict.loads(text, Recipe).model.lora
    assert (found.rank, found.alpha, found.dropout, found.targets) == (8, 32.0, 0.05, ("q_proj",))
    assert found.train_new_embeddings == "input"
    for wrong, told in (
        ("llm: tiny, lora: {rank: 8}", "tiny has learned nothing"),
        ("llm: some/model, lora: {rank: 0}", "rank must be 1 or more"),
        ("llm: some/model, lora: {train_new_embeddings: output}", "train_new_embeddings"),
        ("llm: some/model, init_new_embeddings: median", "init_new_embeddings"),
    ):
        with pytest.raises(ConfigError, match=told):
            strict.loads(text.replace(model, wrong), Recipe)


def test_the_recipe_of_the_repository_trains_on_an_llm_at_hand(world, llm_folder: Path, tmp_path) -> None:
    """As the file stands, but for the data, the LLM, and how long."""
    found = strict.load(Path(__file__).resolve().parents[2] / "recipes" / "ptb-xl-ecg-byte-lora.yaml", Recipe)
    assert found.representation == "symbols" and found.model.lora is not None and "/" in found.model.llm
    base = world.recipe(True)
    model = replace(found.model, llm=str(llm_folder), max_len=1024)
    short = replace(found.train, max_steps=2, warmup_steps=1, eval_every=2, accumulation=1, bf16=False)
    options = replace(found.symbols, num_merges=30, max_ecg_tokens=600)
    small = replace(found, data=base.data, model=model, train=short, symbols=options)
    bundle = from_pretrained(train(small, tmp_path / "run", say=quiet).best)
    assert bundle.representation.rate == 50 and len(bundle.representation.leads) == 12
