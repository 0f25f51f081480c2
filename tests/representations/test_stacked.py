"""The stacked signal: which samples reach the picture, by formula and by trying each one."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from PIL import Image

from ecglm.errors import ConfigError, EcglmError
from ecglm.representations.base import BuildContext, build_representation
from ecglm.representations.stacked import StackedOptions, StackedRepresentation, kept_by_crop, stack
from ecglm.store.percentiles import write_percentiles


def context(**changes) -> BuildContext:
    values = {"rate": 250, "seg_len": 1250, "seed": 0, "records": (), "segment": lambda name: np.zeros((12, 1250))}
    return BuildContext(**{**values, "image_size": (224, 224), "image_tokens": 49, **changes})


def ecg(num_samples: int = 1250, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.3, (12, num_samples)).astype(np.float32)


@pytest.mark.parametrize(
    "mode, num_samples, side, step",
    [
        *[("resize", 500, 224, 1), ("resize", 1250, 224, 17), ("resize", 2500, 336, 67)],
        *[("tile", 500, 224, 1), ("tile", 1250, 224, 17), ("tile", 2500, 336, 67)],
        ("crop", 1250, 224, 67),
    ],
)
def test_d09_every_sample_of_every_lead_changes_the_tensor(mode, num_samples, side, step) -> None:
    """One sample of each lead at a time goes to the other end of the range, which itself stays: nothing else moves."""
    show = StackedRepresentation(image_size=(side, side), mode=mode)
    x = ecg(num_samples).clip(-1, 1)
    x[:, 0], x[:, 1] = -1.0, 1.0
    x[0, 0], x[0, 1], x[1, 0], x[1, 1] = -1, 1, -1, 1
    before = show(x, 250).tensor.astype(int)
    changed = []
    for at in range(2, num_samples, step):
        other = x.copy()
        other[:, at] = np.where(x[:, at] > 0, -1.0, 1.0)
        bands = np.abs(show(other, 250).tensor.astype(int) - before)[0].max(axis=1)
        rows = np.arange(side) * 12 // side
        changed.append(all(bands[rows == lead].any() for lead in range(12)))
    assert all(changed) if mode != "crop" else np.mean(changed) < 0.15


def test_d09_the_original_keeps_12_of_1250_samples() -> None:
    assert kept_by_crop(1250, (224, 224)) == 12  # 224 / (224 / 12): 48 ms at 250 Hz
    with pytest.warns(UserWarning, match=r"about 12 of 1250 samples \(48 ms of 5\.0 s\)"):
        show = StackedRepresentation.from_recipe(StackedOptions(mode="crop"), context())
    x = np.zeros((12, 1250), np.float32)
    x[:, 0], x[:, 1] = -1, 1  # the range
    outside, inside = x.copy(), x.copy()
    outside[:, 30:600], inside[:, 622:628] = 0.9, 0.9
    assert np.array_equal(show(outside, 250).tensor, show(x, 250).tensor)
    assert not np.array_equal(show(inside, 250).tensor, show(x, 250).tensor)


def test_crop_is_what_pillow_makes_of_the_whole() -> None:
    z = np.random.default_rng(1).random((12, 300)).astype(np.float32)
    whole = np.asarray(Image.fromarray((z * 255).astype(np.uint8)).resize((5600, 224), Image.Resampling.BICUBIC))
    assert np.array_equal(stack(z, (224, 224), "crop"), whole[:, 2688:2912])


@pytest.mark.parametrize("num_samples, factor", [(1120, 5), (448, 2), (224, 1)])
def test_resize_is_the_mean_of_the_samples_on_a_pixel(num_samples: int, factor: int) -> None:
    z = np.random.default_rng(2).random((12, num_samples)).astype(np.float32)
    means = z.reshape(12, 224, factor).mean(axis=2)
    grey = stack(z, (224, 224))
    for row in range(224):
        assert np.abs(grey[row] - 255 * means[row * 12 // 224]).max() <= 0.501


def test_fewer_samples_than_pixels_keep_their_places() -> None:
    z = np.tile(np.linspace(0, 1, 50, dtype=np.float32), (12, 1))
    grey = stack(z, (224, 224)).astype(int)
    assert (np.diff(grey[0]) >= 0).all() and grey[0, 0] <= 3 and grey[0, -1] >= 252


@pytest.mark.parametrize("num_samples", [1250, 4032, 224, 100])
def test_tile_holds_every_sample_where_the_rule_says(num_samples: int) -> None:
    """Row ``y`` shows piece ``y * rows // height``: lead ``piece // k``, samples from ``224 * (piece % k)``."""
    z = np.random.default_rng(3).random((12, num_samples)).astype(np.float32)
    grey, k = stack(z, (224, 224), "tile"), -(-num_samples // 224)
    found = np.zeros((12, k * 224))
    for y in range(224):
        piece = y * 12 * k // 224
        found[piece // k, 224 * (piece % k) : 224 * (piece % k) + 224] = grey[y]
    assert np.abs(found[:, :num_samples] - 255 * z).max() <= 0.501
    assert not found[:, num_samples:].any()


def test_tile_of_more_than_fits_is_resized_to_what_fits() -> None:
    z = np.full((12, 9000), 0.5, np.float32)
    assert set(stack(z, (224, 224), "tile").ravel()) == {128}


def test_three_equal_channels_of_unsigned_bytes() -> None:
    out = StackedRepresentation()(ecg(), 250)
    assert out.tensor.dtype == np.uint8 and out.tensor.shape == (3, 224, 224) and out.tensor.flags.c_contiguous
    assert np.array_equal(out.tensor[0], out.tensor[1]) and np.array_equal(out.tensor[0], out.tensor[2])
    assert (out.tensor.min(), out.tensor.max()) != (0, 0) and out.token_ids.tolist() == [0] * 49
    assert not StackedRepresentation()(ecg() * 0, 250).tensor.any()


def test_percentiles_come_from_the_stores_file_and_into_the_checkpoint(tmp_path) -> None:
    facts = {"p1": -0.5, "p99": 1.25, "n_values": 100, "n_records": 3, "dataset": "x", "fs": 250, "seed": 0}
    made = {**facts, "fingerprint": "", "settings": {"split": "train"}, "inputs": {}}
    write_percentiles(tmp_path / "p.json", made)
    options = StackedOptions(normalise="percentile", percentiles=str(tmp_path / "p.json"))
    assert options.files() == {"percentiles": str(tmp_path / "p.json")}
    show = StackedRepresentation.from_recipe(options, context())
    (tmp_path / "p.json").unlink()
    again = build_representation(json.loads(json.dumps(show.config())))
    assert again == show
    # p1 - 0.5 is black, p99 + 0.5 white: 0.375 mV lies in the middle
    flat = np.full((12, 1250), 0.375, np.float32)
    assert set(again(flat, 250).tensor.ravel()) <= {127, 128}
    with pytest.raises(ValueError, match=r"percentile needs stacked\.percentiles; ecglm store percentiles makes"):
        StackedOptions(normalise="percentile")
    write_percentiles(tmp_path / "p.json", {**made, "settings": {"split": "test"}})
    with pytest.raises(EcglmError, match="is of the split 'test'; only train may be learnt from"):
        StackedRepresentation.from_recipe(options, context())


def test_tokens_are_the_encoders_or_fewer() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert StackedRepresentation.from_recipe(StackedOptions(), context()).num_tokens == 49
    assert StackedRepresentation.from_recipe(StackedOptions(num_tokens=6), context()).num_tokens == 6
    with pytest.raises(ConfigError, match=r"stacked\.num_tokens: the encoder gives 49 tokens, not 50"):
        StackedRepresentation.from_recipe(StackedOptions(num_tokens=50), context())
    with pytest.raises(ConfigError, match="needs an encoder that reads a picture"):
        StackedRepresentation.from_recipe(StackedOptions(), context(image_size=None, image_tokens=None))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "squash"}, "no 'squash'.*known: resize, tile, crop"),
        ({"normalise": "none"}, "known: instance, percentile"),
        ({"normalise": "percentile"}, "percentiles"),
        ({"num_tokens": 0}, "num_tokens"),
        ({"image_size": (8, 224)}, "12 pixels or more"),
    ],
)
def test_options_that_make_no_sense_are_errors(options, message) -> None:
    with pytest.raises(EcglmError, match=message):
        StackedRepresentation(**options)


@pytest.mark.parametrize("x", [np.zeros((11, 100)), np.zeros(100), np.zeros((12, 0)), np.full((12, 100), np.nan)])
def test_segments_that_cannot_be_shown_are_errors(x) -> None:
    with pytest.raises(EcglmError):
        StackedRepresentation()(x.astype(np.float32), 250)
