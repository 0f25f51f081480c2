"""Training on packed rows: the same bytes for any number of workers and after a kill, the same step as unpacked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import MistralConfig, MistralForCausalLM

from ecglm import config as strict
from ecglm.errors import ConfigError, EcglmError
from ecglm.files import read_jsonl
from ecglm.models.checkpoint import create
from ecglm.models.llm import train_tokenizer
from ecglm.prompts.data import EcgSource, ElmDataset
from ecglm.prompts.packing import rows_of
from ecglm.store.reader import SegmentStore
from ecglm.training.options import TrainConfig
from ecglm.training.recipe import Recipe
from ecglm.training.run import representation_of, train
from ecglm.training.trainer import ElmTrainer
from tiny_world import tree

POINTS = (5, 10)  # steps in epochs 2 and 3, from states at steps 3 and 9
#: Trains until it dies in the step after so many.
KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from ecglm import config
from ecglm.training.recipe import Recipe
from ecglm.training.run import train
from ecglm.training.trainer import ElmTrainer

torch.set_num_threads(1)
folder, last, step = Path(sys.argv[1]), int(sys.argv[2]), ElmTrainer.training_step

def dying(self, *args, **options):
    if self.state.global_step == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *args, **options)

ElmTrainer.training_step = dying
train(config.load(folder / "recipe.yaml", Recipe), folder / sys.argv[2], say=lambda text: None)
"""


@pytest.fixture(scope="module")
def recipe(world) -> Recipe:
    augment = {"noise": {"p": 0.5, "sd": 0.2}}
    return world.recipe(max_steps=11, batch_size=1, eval_every=3, packing=True, pack_len=300, augment=augment)


@pytest.fixture(scope="module")
def whole(recipe: Recipe, tmp_path_factory) -> Path:
    return train(recipe, tmp_path_factory.mktemp("whole") / "run", say=lambda text: None).path


def with_workers(recipe: Recipe, num: int) -> Recipe:
    return replace(recipe, train=replace(recipe.train, num_workers=num))


def final(folder: Path) -> dict[str, bytes]:
    """All but the plan and the recipe as it was given, which names the workers."""
    return {name: data for name, data in tree(folder).items() if name not in ("plan.json", "recipe.yaml")}


def test_workers_change_nothing_and_nothing_is_padding(recipe: Recipe, whole: Path, tmp_path: Path) -> None:
    found = train(with_workers(recipe, 2), tmp_path / "run", say=lambda text: None).path
    assert final(found) == final(whole)
    steps = [r for r in read_jsonl(whole / "metrics.jsonl") if "loss" in r]
    assert len(steps) == 11 and all(r["useful"] == 1 and r["tokens"] <= 300 for r in steps)


def test_a_killed_packed_run_goes_on_with_other_workers_to_the_same_bytes(recipe, whole, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(strict.dumps(recipe))
    for point in POINTS:
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(tmp_path), str(point)],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            timeout=240,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
    for workers, point in enumerate(POINTS):
        said: list[str] = []
        train(with_workers(recipe, workers), tmp_path / str(point), say=said.append)
        assert any("goes on from" in text for text in said)
        assert final(tmp_path / str(point)) == final(whole)


@pytest.mark.parametrize("symbols", [False, True])
def test_a_packed_step_has_the_loss_and_gradient_of_the_unpacked(world, tmp_path: Path, symbols: bool) -> None:
    """One step over the whole training set, as one packed row and as one padded batch."""
    rows = []
    for packing in (False, True):
        recipe = world.recipe(symbols=symbols, max_steps=2, eval_every=1, batch_size=1 if packing else 8)
        settings = replace(recipe.train, packing=packing, pack_len=4000 if packing else None)
        options = {"dropout": 0.0} if not symbols else {}
        model = replace(recipe.model, encoder_options={**recipe.model.encoder_options, **options})
        made = replace(recipe, train=settings, model=model)
        found = train(made, tmp_path / str(packing), say=lambda text: None).path
        rows.append(read_jsonl(found / "metrics.jsonl"))
    for padded, packed in zip(*rows, strict=True):
        for name in ("loss", "grad_norm", "eval_loss"):
            if name in padded:
                assert packed[name] == pytest.approx(padded[name], rel=1e-5), (name, padded, packed)


def test_epochs_are_counted_in_rows(recipe: Recipe, world, tmp_path: Path) -> None:
    settings = replace(recipe.train, max_steps=None, max_epochs=3, warmup_steps=0)
    found = train(replace(recipe, train=settings), tmp_path / "run", say=lambda text: None).path
    store = SegmentStore(world.store)
    conversations = world.conversations("train")
    representation = representation_of(recipe, [store], conversations)
    texts = sorted({t.text for c in conversations for t in c.turns})
    bundle = create(recipe.model, representation, store.manifest["settings"]["pipeline"], texts, 0)
    data = ElmDataset(conversations, EcgSource([store], representation), bundle.prompter, share_ecg=True)
    steps = [r["step"] for r in read_jsonl(found / "metrics.jsonl") if "loss" in r]
    assert steps == list(range(1, 1 + rows_of(data.lengths, 300, 0, 3)))
    short = replace(settings, pack_len=50)
    with pytest.raises(EcglmError, match=r"train\.pack_len is 50, but the longest sequence has \d+ tokens"):
        ElmTrainer(bundle, data, data, short, tmp_path, lambda text: None)
    bundle.elm.llm.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ConfigError, match=r"train\.packing with train\.share_ecg needs a mask"):
        ElmTrainer(bundle, data, data, settings, tmp_path, lambda text: None)


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"train\.pack_len is 512, but train\.packing is off; set it to true"):
        TrainConfig(pack_len=512)
    with pytest.raises(ValueError, match=r"train\.num_workers must be 0 or more"):
        TrainConfig(num_workers=-1)
    with pytest.raises(ValueError, match=r"train\.pack_len must be 1 or more"):
        TrainConfig(packing=True, pack_len=0)


def test_a_window_shorter_than_a_shared_sequence_needs_packing(world, tmp_path: Path) -> None:
    """Some layers of Mistral, Gemma and others look back over so many tokens; a padded batch has one mask for all."""
    llm = tmp_path / "mistral"
    tokenizer = train_tokenizer([t.text for c in world.conversations() for t in c.turns], 300)
    tokenizer.save_pretrained(llm)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = MistralConfig(vocab_size=len(tokenizer) + 8, num_key_value_heads=2, sliding_window=12, **sizes)
    MistralForCausalLM(config).save_pretrained(llm)
    recipe = world.recipe(max_steps=1, eval_every=1, warmup_steps=0)
    recipe = replace(recipe, model=replace(recipe.model, llm=str(llm)))
    with pytest.raises(ConfigError, match=r"looks back over 12 tokens in some layers.*set train\.packing: true"):
        train(recipe, tmp_path / "padded", say=lambda text: None)
    packed = replace(recipe, train=replace(recipe.train, packing=True))
    assert train(packed, tmp_path / "packed", say=lambda text: None).val_loss > 0
