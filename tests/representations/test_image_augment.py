"""Augmentation of pictures: ranges and shares as the specification has them, and the seeds."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np
import pytest

from ecglm.errors import ConfigError
from ecglm.representations.image_augment import ImageAugmentation, augment_image


def plain(colour: tuple[int, int, int] = (200, 120, 60)) -> np.ndarray:
    return np.full((40, 60, 3), colour, np.uint8)


def only(name: str, pair: tuple[float, float]) -> ImageAugmentation:
    """Always this change, by this much; the others without strength."""
    still = {"brightness": (1.0, 1.0), "rotation": (0.0, 0.0), "blur": (0.0, 0.0), "shift": (0.0, 0.0)}
    return ImageAugmentation(p=1.0, each=1.0, **{**still, name: pair})


def test_the_defaults_are_those_of_the_specification() -> None:
    config = ImageAugmentation()
    assert (config.p, config.each) == (0.6, 0.5)
    assert config.brightness == (0.8, 1.2) and config.rotation == (-5, 5)
    assert config.blur == (0, 1.5) and config.shift == (-30, 30)


def test_brightness_is_a_factor() -> None:
    assert (augment_image(plain(), only("brightness", (1.2, 1.2)), seed=0, row_id="a")[0, 0] == [240, 144, 72]).all()
    factors = [
        augment_image(plain(), only("brightness", (0.8, 1.2)), seed=0, row_id=str(i))[0, 0, 0] / 200 for i in range(200)
    ]
    assert 0.79 < min(factors) < 0.82 and 1.18 < max(factors) < 1.21
    assert np.mean(factors) == pytest.approx(1.0, abs=0.03)


def test_rotation_is_in_degrees_counter_clockwise() -> None:
    image = np.full((201, 301, 3), 240, np.uint8)
    cv2.circle(image, (250, 100), 2, (0, 0, 0), -1)  # right of the centre (150, 100)
    turned = augment_image(image, only("rotation", (5.0, 5.0)), seed=0, row_id="a")
    y, x = np.nonzero(turned[..., 0] < 120)
    assert np.arctan2(100 - y.mean(), x.mean() - 150) == pytest.approx(np.deg2rad(5), abs=0.004)
    assert (turned[0, 0] == 240).all(), "uncovered corners get the border's colour"


def test_blur_has_its_sigma_in_pixels() -> None:
    image = np.zeros((61, 61, 3), np.uint8)
    image[29:32, 29:32] = 255
    light = augment_image(image, only("blur", (1.5, 1.5)), seed=0, row_id="a")[..., 0].astype(float)
    across = light.sum(axis=0) / light.sum()
    place = np.arange(61)
    variance = (across * (place - (across * place).sum()) ** 2).sum()
    assert variance == pytest.approx(1.5**2 + (9 - 1) / 12, rel=0.06)


def test_hue_and_saturation_shift_on_their_scales() -> None:
    """Hue in steps of 2 degrees round the circle, saturation in 255ths; the strongest colour stays as strong."""
    red, green, blue = (
        augment_image(plain((250, 10, 10)), only("shift", (20.0, 20.0)), seed=0, row_id="a")[0, 0] / 255.0
    )
    hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
    assert hue * 360 == pytest.approx(40, abs=2) and value == pytest.approx(250 / 255, abs=0.01)
    assert saturation == pytest.approx(1.0, abs=0.01)  # 245 + 20 is cut off
    grey = augment_image(plain((180, 180, 180)), only("shift", (-30.0, -30.0)), seed=0, row_id="a")
    assert (grey == 180).all()


def test_the_share_of_pictures_and_of_changes() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(40, 200, (8, 8, 3), dtype=np.uint8)
    changed = [
        not np.array_equal(augment_image(image, ImageAugmentation(), seed=1, row_id=str(i)), image) for i in range(2000)
    ]
    # 0.6 of the pictures; of those at least one of four changes, with 0.5 each
    assert np.mean(changed) == pytest.approx(0.6 * (1 - 0.5**4), abs=0.035)
    for p, share in ((0.0, 0.0), (1.0, 1.0)):
        config = ImageAugmentation(p=p, each=1.0)
        assert (
            np.mean([not np.array_equal(augment_image(image, config, seed=1, row_id=str(i)), image) for i in range(50)])
            == share
        )


def test_seed_row_and_epoch_decide_and_nothing_else() -> None:
    image, config = plain(), ImageAugmentation(p=1.0, each=1.0)
    first = augment_image(image, config, seed=3, row_id="r", epoch=2)
    for i in range(5):
        augment_image(image, config, seed=i, row_id="other")
    assert np.array_equal(first, augment_image(image, config, seed=3, row_id="r", epoch=2))
    others = [
        {"seed": 4, "row_id": "r", "epoch": 2},
        {"seed": 3, "row_id": "s", "epoch": 2},
        {"seed": 3, "row_id": "r"},
    ]
    assert all(not np.array_equal(first, augment_image(image, config, **other)) for other in others)  # type: ignore[arg-type]
    assert (image == plain()).all() and first.dtype == np.uint8 and first.shape == image.shape
    same = augment_image(image, ImageAugmentation(p=0.0), seed=0, row_id="a")
    assert not np.shares_memory(same, image)


@pytest.mark.parametrize(
    "options",
    [
        {"p": 1.5},
        {"p": "half"},
        {"each": -0.1},
        {"brightness": (1.2, 0.8)},
        {"brightness": 1.0},
        {"rotation": (-5, float("nan"))},
        {"blur": (-1, 1)},
        {"shift": (-30, 30, 3)},
    ],
)
def test_a_wrong_option_is_named(options: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))) as error:
        ImageAugmentation(**options)
    assert "\n" not in str(error.value)


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(ConfigError, match="picture"):
        augment_image(np.zeros((12, 2500), np.float32), ImageAugmentation(), seed=0, row_id="a")
