"""A training that starts from a checkpoint: its weights and its ways, and one line for what does not fit them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cli_tools import ecglm
from ecglm import config as strict
from ecglm.errors import ConfigError, EcglmError
from ecglm.files import read_json, read_manifest
from ecglm.models.checkpoint import from_pretrained, save_pretrained
from ecglm.models.config import LoraConfig, ModelConfig
from ecglm.models.start import begin_from, changed_tiles, check_start, read_start, shown_as, started
from ecglm.prompts.people import people
from ecglm.representations.anyres import AnyresRepresentation
from ecglm.representations.signal import SignalOptions
from ecglm.training.recipe import Recipe
from ecglm.training.run import train


@pytest.fixture(scope="module")
def best(signal_run: Path) -> Path:
    return signal_run / "best"


def recipe_from(world: Any, best: Path, **changes: Any) -> Recipe:
    """A recipe that says of its model only where it starts."""
    plain = world.recipe(**{"max_steps": 1, "eval_every": 1, "warmup_steps": 0, **changes})
    return replace(plain, signal=None, model=ModelConfig(start_from=str(best)))


def quiet(text: str) -> None:
    """No progress lines."""


def test_the_first_step_begins_with_the_checkpoints_weights_and_ways(world, best: Path, tmp_path: Path) -> None:
    """At a learning rate of next to nothing what comes out is what went in."""
    run = train(recipe_from(world, best, lr=1e-12), tmp_path / "run", say=quiet)
    before, after = from_pretrained(best), from_pretrained(run.best)
    old, new = before.elm.state_dict(), after.elm.state_dict()
    assert old.keys() == new.keys()
    for name, values in old.items():
        torch.testing.assert_close(new[name], values, rtol=0, atol=1e-9, msg=name)
    assert after.prompter.tokenizer.get_vocab() == before.prompter.tokenizer.get_vocab()
    assert after.prompter.chat == before.prompter.chat and after.prompter.max_len == before.prompter.max_len
    assert after.representation.config() == before.representation.config()
    assert after.model == before.model, "nothing outside the checkpoint is named in it"
    assert run.val_loss == pytest.approx(read_manifest(best, "checkpoint")["val_loss"], rel=1e-5)


def test_it_remembers_whom_the_checkpoint_learned_from(world, best: Path, tmp_path: Path) -> None:
    rows = world.conversations("train")
    few = world.write(tmp_path / "few.parquet", [rows[0], *world.conversations("val")])
    recipe = recipe_from(world, best)
    recipe = replace(recipe, data=replace(recipe.data, files=(str(few),)))
    run = train(recipe, tmp_path / "run", say=quiet)
    assert np.isin(people(rows), from_pretrained(run.best).trained_on).all()


def test_the_same_recipe_elsewhere_is_the_same_run_and_another_checkpoint_is_another(world, best, tmp_path) -> None:
    moved = shutil.copytree(best, tmp_path / "moved")
    run = train(recipe_from(world, best), tmp_path / "run", say=quiet)
    assert train(recipe_from(world, moved), tmp_path / "run", say=quiet).reused
    other = from_pretrained(best)
    with torch.no_grad():
        other.elm.connector.project[0].bias.add_(1)
    save_pretrained(other, tmp_path / "other")
    with pytest.raises(EcglmError, match="--overwrite"):
        train(recipe_from(world, tmp_path / "other"), tmp_path / "run", say=quiet)
    assert run.path.is_dir()


def test_what_the_recipe_leaves_out_is_the_checkpoints(best: Path) -> None:
    made = started(ModelConfig(start_from=str(best)))
    saved = from_pretrained(best).model
    assert (made.encoder, made.encoder_options, made.connector) == ("resnet1d", saved.encoder_options, saved.connector)
    assert made.llm == str(best / "llm") and made.max_len == saved.max_len == 256
    assert started(ModelConfig(start_from=str(best), max_len=512, encoder="resnet1d")).max_len == 512
    assert shown_as(best) == "signal" and shown_as(best / "none") is None
    assert read_start(best)["pipeline"]["rate"] == 50


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"encoder": "merl"}, "model.encoder is merl, but model.start_from .* has resnet1d; leave model.encoder out"),
        ({"connector": "linear"}, "model.connector is linear, .* has mlp2x_gelu"),
        ({"llm": "gpt2"}, "model.llm is gpt2, .* has tiny; leave model.llm out"),
        ({"chat_format": "plain"}, "model.chat_format is plain, .* has auto"),
        ({"lora": LoraConfig()}, "has a tiny one: drop model.lora"),
    ],
)
def test_what_the_weights_have_fixed_cannot_be_said_otherwise(best: Path, said: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        started(ModelConfig(start_from=str(best), **said))


def test_a_folder_that_is_no_checkpoint_is_one_line(world, best: Path, signal_run: Path, tmp_path: Path) -> None:
    for folder, told in ((tmp_path / "none", "no such checkpoint"), (signal_run, "a checkpoint is needed here")):
        with pytest.raises(ConfigError, match=rf"^model\.start_from: .*{told}.*; name best/ of a run") as error:
            read_start(folder)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"and model\.encoder_from names another"):
        ModelConfig(start_from=str(best), encoder_from="x")
    broken = shutil.copytree(best, tmp_path / "broken")
    (broken / "ecg.safetensors").unlink()
    with pytest.raises(EcglmError, match=r"lacks ecg\.safetensors"):
        train(recipe_from(world, broken), tmp_path / "run", say=quiet)
    damaged = shutil.copytree(best, tmp_path / "damaged")
    with open(damaged / "ecg.safetensors", "r+b") as file:
        file.seek(-4, 2)
        file.write(b"\1\2\3\4")
    with pytest.raises(EcglmError, match="differs from the manifest"):
        train(recipe_from(world, damaged), tmp_path / "run", say=quiet)


def test_ecgs_shown_otherwise_are_refused_before_training(world, best: Path) -> None:
    shown, pipeline = from_pretrained(best).representation, dict(read_start(best)["pipeline"])
    check_start(best, shown, pipeline)
    with pytest.raises(ConfigError, match=r"learned with signal\.num_tokens 4, but this run has 2; set it alike"):
        check_start(best, replace(shown, num_tokens=2), pipeline)
    with pytest.raises(ConfigError, match="reads ECGs as 'signal', but this recipe shows them as 'anyres'"):
        check_start(best, AnyresRepresentation(), pipeline)
    with pytest.raises(ConfigError, match=r"segments made otherwise: rate 50 \(here 100\)"):
        check_start(best, shown, {**pipeline, "rate": 100})
    recipe = replace(recipe_from(world, best), signal=SignalOptions(num_tokens=2))
    with pytest.raises(ConfigError, match="set it alike"):
        train(recipe, world.folder / "never", say=quiet)


def test_how_a_page_is_drawn_and_laid_out_is_free(best: Path, tmp_path: Path, monkeypatch) -> None:
    before = AnyresRepresentation(image_size=(28, 28), patches=(2, 2), merge="spatial_unpad")
    found = {"model": None, "representation": before.config(), "pipeline": {}}
    monkeypatch.setattr("ecglm.models.start.read_start", lambda source: found)
    now = replace(before, merge="flat", synthesis="pulse", size=(220, 170), color="gray")
    check_start("x", now, {"rate": 7})
    assert changed_tiles("x", now) == ["merge flat (there spatial_unpad)"] and changed_tiles("x", before) == []
    with pytest.raises(ConfigError, match=r"anyres\.patches \[2, 2\], but this run has \[4, 4\]"):
        check_start("x", replace(now, patches=(4, 4)), {})


def test_the_newline_of_rows_is_left_behind_or_begins_anew(tmp_path: Path) -> None:
    """spatial_unpad has one weight that the other ways of laying tiles out have not."""
    from ecglm.models.pulse_import import import_pulse
    from llava_world import write_llava

    for merge in ("flat", "spatial_unpad"):
        write_llava(tmp_path / merge / "original", merge=merge)
        import_pulse(tmp_path / merge / "original", tmp_path / merge / "start", rate=50, seg_len=250)
    flat, rows = (from_pretrained(tmp_path / merge / "start") for merge in ("flat", "spatial_unpad"))
    newline = rows.elm.connector.image_newline.detach().clone()
    begin_from(flat, tmp_path / "spatial_unpad" / "start")
    assert flat.elm.connector.image_newline is None
    begin_from(rows, tmp_path / "flat" / "start")
    assert torch.equal(rows.elm.connector.image_newline, newline)


def test_validate_and_train_say_where_it_starts(world, best: Path, tmp_path: Path) -> None:
    file = tmp_path / "start.yaml"
    file.write_text(strict.dumps(recipe_from(world, best)))
    said = ecglm("validate", file)
    assert said.status == 0, said.error
    assert f": signal, {best}, 1 steps: valid" in said.out and "learns: encoder" in said.out
    plain = read_json(best / "config.json")["model"]
    assert "start_from" in plain and plain["start_from"] is None
    wrong = ecglm("validate", file, "--model.start-from", tmp_path / "none")
    assert f"model.start_from: no checkpoint {tmp_path / 'none'}; name best/ of a run" in wrong.error
