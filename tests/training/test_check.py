"""Bad recipes are told in one line with the mend, by training and by ``ecglm validate``, before any data is read."""

from __future__ import annotations

import importlib.util
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ecglm import config as strict
from ecglm.errors import EcglmError
from ecglm.models.config import ImageConfig
from ecglm.representations.image import ImageOptions
from ecglm.store.reader import SegmentStore
from ecglm.training.check import check_machine, check_recipe, check_room
from ecglm.training.recipe import Recipe
from ecglm.training.run import train
from tiny_world import World

VIT = {"size": "nano", "config": {"image_size": 64, "patch_size": 16}}


def changed(recipe: Recipe, section: str, **changes: object) -> Recipe:
    return replace(recipe, **{section: replace(getattr(recipe, section), **changes)})


def page(recipe: Recipe, **model: object) -> Recipe:
    """The recipe with a picture in place of the signal."""
    return replace(recipe, signal=None, image=ImageOptions(), model=replace(recipe.model, **model))


BAD = {
    "unknown part": (lambda r: changed(r, "train", parts=("encodr",)), "did you mean 'encoder'"),
    "absent part": (lambda r: changed(r, "train", parts=("image_encoder",)), "no image_encoder; leave it out"),
    "unknown objective": (lambda r: changed(r, "train", objective="sfft"), "did you mean 'sft'"),
    "unknown connector": (lambda r: changed(r, "model", connector="linar"), "did you mean 'linear'"),
    "no such LLM": (lambda r: changed(r, "model", llm="./nowhere/llm"), r"model\.llm: \./nowhere/llm is no folder"),
    "no such encoder folder": (
        lambda r: changed(r, "model", encoder_from="./nowhere"),
        r"model\.encoder_from: .*nowher",
    ),
    "no such vision weights": (
        lambda r: page(r, encoder="vit", encoder_options={"weights": "./nowhere/vit"}),
        "nowhere/vit cannot be loaded",
    ),
    "wrong option": (
        lambda r: changed(r, "model", encoder_options={"width": [3]}),
        r"no option 'width' \(did you mean 'widths'\?\); options:",
    ),
    "wrong dims": (lambda r: changed(r, "model", encoder_options={"widths": [16] * 9}), "too few for 9 stages"),
    "too many tokens": (lambda r: changed(r, "signal", num_tokens=60), r"gives 16 tokens, the representation wants 60"),
    "too many of a picture": (
        lambda r: changed(page(r, encoder="vit", encoder_options=VIT), "image", num_tokens=25),
        r"image\.num_tokens: the encoder gives 16 tokens, not 25",
    ),
    "an ECG too long": (
        lambda r: changed(changed(r, "signal", num_tokens=16), "model", max_len=16),
        r"an ECG takes 16 tokens, but model\.max_len is 16",
    ),
    "an ECG too long for a packed row": (
        lambda r: changed(changed(r, "signal", num_tokens=16), "train", packing=True, pack_len=16),
        r"an ECG takes 16 tokens, but train\.pack_len is 16",
    ),
    "no such DeepSpeed settings": (
        lambda r: changed(r, "train", deepspeed="nowhere.json"),
        r"train\.deepspeed: nowhere\.json: no such file",
    ),
    "a package that is not installed": (
        lambda r: changed(r, "train", deepspeed="recipes/deepspeed/zero2.json"),
        r"needs a package that is not installed",
    ),
    "a tracker that is not installed": (lambda r: changed(r, "train", report_to=("wandb",)), "wandb is not installed"),
    "a device that is not there": (lambda r: changed(r, "train", device="cuda:99"), r"train\.device is cuda:99"),
    "no such store": (lambda r: changed(r, "data", stores=("gone",)), "gone: no such segment-store"),
    "a rate it cannot have": (lambda r: changed(r, "signal", rate=33), "cannot reduce 50 Hz to 33 Hz"),
    "a resampler shared": (
        lambda r: replace(
            changed(
                r, "model", image=ImageConfig(encoder="vit", encoder_options=VIT, connector="resampler", shared=True)
            ),
            image=ImageOptions(num_tokens=4),
        ),
        r"model\.image\.shared sends .* which a resampler is not",
    ),
}

#: Packages that the tests take for not installed, whether they are or not.
ABSENT = ("deepspeed", "wandb")


@pytest.fixture
def unread(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world whose data must not be read."""

    def read(*args: object, **kwargs: object) -> None:
        raise AssertionError("data was read")

    monkeypatch.setattr(SegmentStore, "__getitem__", read)
    monkeypatch.setattr(SegmentStore, "take", read)
    monkeypatch.setattr("ecglm.training.run.read_conversations", read)
    monkeypatch.setattr("ecglm.training.run.conversations_fingerprint", read)
    return world


@pytest.mark.parametrize("what", BAD)
def test_a_bad_recipe_is_told_before_data_is_read(
    what: str, unread: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, told = BAD[what]
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in ABSENT else found(name, *rest))
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.raises(EcglmError, match=told) as error:
        train(make(unread.recipe()), tmp_path / "run", say=lambda text: None)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_symbols_that_fill_the_context(unread: World) -> None:
    recipe = unread.recipe(symbols=True)
    with pytest.raises(EcglmError, match=r"symbols\.max_ecg_tokens is 60, but model\.max_len is 60"):
        check_recipe(changed(recipe, "model", max_len=60))
    check_recipe(recipe)
    check_room(recipe, recipe.model.max_len - 1, "symbols.rate")
    with pytest.raises(
        EcglmError, match=r"an ECG takes 400 tokens, but model\.max_len is 400.* or lower symbols\.rate"
    ):
        check_room(changed(recipe, "model", max_len=400), 400, "symbols.rate")


def test_what_this_machine_lacks_does_not_make_a_recipe_bad(unread: World) -> None:
    """A recipe for a GPU is checked where there is none."""
    recipe = changed(unread.recipe(), "train", device="cuda:99")
    check_recipe(recipe)
    with pytest.raises(EcglmError, match="cuda:99"):
        check_machine(recipe.train)


def test_good_recipes_pass_without_their_data(unread: World) -> None:
    recipe = unread.recipe()
    check_recipe(recipe)
    check_recipe(page(recipe, encoder="vit", encoder_options=VIT))
    check_recipe(changed(changed(recipe, "model", connector="resampler"), "signal", num_tokens=60))  # makes any number


@pytest.mark.parametrize("verb", ["validate", "train"])
def test_the_command_says_so_within_five_seconds(verb: str, world: World, tmp_path: Path) -> None:
    """Processor time of the whole command, the interpreter's start and all libraries in it; clocks vary with load."""
    file = tmp_path / "bad.yaml"
    file.write_text(strict.dumps(changed(world.recipe(), "signal", num_tokens=60)))
    out = [] if verb == "validate" else ["--out", str(tmp_path / "run")]
    seconds = []
    while not seconds or (min(seconds) >= 5 and len(seconds) < 3):  # a busy machine's second processor is a slow one
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        done = subprocess.run(
            [sys.executable, "-m", "ecglm", verb, str(file), *out], capture_output=True, text=True, timeout=120
        )
        seconds.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before)
    assert done.returncode == 2
    assert done.stderr.startswith("ecglm: error: model.encoder 'resnet1d': the encoder gives 16 tokens")
    assert len(done.stderr.strip().splitlines()) == 1 and not done.stdout
    assert min(seconds) < 5
