"""anyres: tiles bit-equal to the library's own processors, token counts of the specification, sizes that vary."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import LlavaNextImageProcessorPil
from transformers.models.llava_next.modeling_llava_next import unpad_image

from ecglm.errors import ConfigError, EcglmError
from ecglm.representations.anyres import (
    GRIDS,
    AnyresOptions,
    AnyresRepresentation,
    choose_grid,
    cut_tiles,
    num_tokens,
    unpadded,
)
from ecglm.representations.base import BuildContext, build_representation
from llava_world import grid_by_hand, tiles_by_hand

TILE, PATCHES = (336, 336), (24, 24)
#: The specification's five grids, (width, height) in pixels, as LLaVA writes them.
PIXELS = [(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)]


def picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def by_hand(width: int, height: int) -> tuple[int, int]:
    wide, high = grid_by_hand(width, height, PIXELS)
    return wide // 336, high // 336


def original(page: np.ndarray) -> np.ndarray:
    return tiles_by_hand(page, PIXELS, 336, do_rescale=False, do_normalize=False)


SIZES = [(2200, 1700), (300, 200), (1000, 300), (120, 2000), (336, 336), (337, 335), (17, 13), (1, 1), (900, 901)]


@pytest.mark.parametrize("size", SIZES)
def test_tiles_have_the_pixels_of_the_original(size: tuple[int, int]) -> None:
    page = picture(*size)
    shown = AnyresRepresentation().of_picture(page)
    wanted = original(page)
    assert shown.tensor is not None and shown.tensor.dtype == np.uint8
    assert np.array_equal(shown.tensor, wanted.astype(np.uint8)) and np.array_equal(wanted, wanted.round())
    assert shown.tiles is not None and tuple(shown.tiles) == (*by_hand(*size), *size)


@settings(max_examples=25, deadline=None)
@given(st.integers(20, 900), st.integers(20, 900), st.integers(0, 9))
def test_tiles_have_the_pixels_of_the_librarys_llava_processor(width: int, height: int, seed: int) -> None:
    """The library's pinpoints are (height, width): turned over, its order of equally good ones is the original's."""
    processor = LlavaNextImageProcessorPil(
        size={"shortest_edge": 336},
        crop_size={"height": 336, "width": 336},
        image_grid_pinpoints=[[h, w] for w, h in PIXELS],
        do_rescale=False,
        do_normalize=False,
    )
    page = picture(width, height, seed)
    wanted = processor(Image.fromarray(page), return_tensors="np")["pixel_values"][0]
    shown = AnyresRepresentation().of_picture(page)
    assert shown.tensor is not None and np.array_equal(shown.tensor, wanted)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 4000), st.integers(1, 4000))
def test_the_grid_is_the_one_of_the_specification(width: int, height: int) -> None:
    assert choose_grid((width, height), TILE) == by_hand(width, height)


def test_a_picture_inside_one_tile_takes_the_first_grid() -> None:
    assert choose_grid((300, 200), TILE) == choose_grid((336, 336), TILE) == (1, 2)


@pytest.mark.parametrize(
    ("size", "merge", "count"),
    [
        ((300, 200), "flat", 1728),
        ((1000, 300), "flat", 2304),
        ((2200, 1700), "flat", 2880),
        ((2200, 1700), "spatial", 2880),
        ((2200, 1700), "spatial_unpad", 2438),
    ],
)
def test_p17_token_counts_of_the_specification(size: tuple[int, int], merge: str, count: int) -> None:
    shown = AnyresRepresentation(merge=merge).of_picture(np.zeros((size[1], size[0], 3), np.uint8))
    assert len(shown.token_ids) == count and shown.token_ids.max() == 0


@settings(max_examples=200, deadline=None)
@given(st.integers(5, 3000), st.integers(5, 3000))
def test_padding_is_cut_as_in_the_library(width: int, height: int) -> None:
    """Its sizes are rounded at the seventh digit before they are truncated; ours, as the original's, are not."""
    import torch

    columns, rows = choose_grid((width, height), TILE)
    down, across = 24 * rows, 24 * columns
    grid = torch.arange(down * across).view(1, down, across)
    ours = grid[:, *unpadded([columns, rows, width, height], PATCHES)]
    exact = height * (across / width) if width / height > across / down else width * (down / height)
    if abs(exact - round(exact)) > 1e-6:
        assert torch.equal(ours, unpad_image(grid, (height, width)))
    unpad = num_tokens([columns, rows, width, height], PATCHES, "spatial_unpad")
    assert unpad == 576 + ours.shape[1] * (ours.shape[2] + 1)


def test_p22_several_sizes_have_several_numbers_of_tiles() -> None:
    show = AnyresRepresentation()
    sizes = ((2200, 1700), (1000, 300), (300, 200))
    assert [len(show.of_picture(picture(w, h)).tensor) for w, h in sizes] == [5, 4, 3]
    assert show.num_tokens is None and show.input_shape == (3, 336, 336)


def test_other_grids_and_tiles() -> None:
    show = AnyresRepresentation(image_size=(28, 28), patches=(2, 2), grids=((4, 1), (1, 1)))
    assert show.of_picture(picture(400, 90)).tensor.shape == (5, 3, 28, 28)
    assert show.of_picture(picture(90, 90)).tensor.shape == (2, 3, 28, 28)
    page = picture(400, 100)
    large = np.asarray(Image.fromarray(page).resize((112, 28), Image.Resampling.BICUBIC))
    assert np.array_equal(cut_tiles(page, (28, 28), (4, 1))[2], large[:, 28:56])


def test_a_signal_is_drawn_and_cut_like_its_picture() -> None:
    show = AnyresRepresentation(image_size=(28, 28), patches=(2, 2), size=(220, 170))
    segment = np.random.default_rng(0).normal(0, 0.3, (12, 2500)).astype(np.float32)
    page = show.page(segment, 250)
    assert page.shape == (170, 220, 3) and show.page_size(2500, 250) == (220, 170)
    drawn, seen = show(segment, 250), show.of_picture(page)
    assert np.array_equal(drawn.tensor, seen.tensor) and np.array_equal(drawn.tiles, seen.tiles)
    assert show.page_tokens(2500, 250) == (len(seen.token_ids), len(seen.tensor)) == (20, 5)


def test_training_shows_photographed_paper_of_the_same_size() -> None:
    show = AnyresRepresentation(synthesis="clean")
    segment = np.zeros((12, 2500), np.float32)
    one = show.in_training(segment, 250, seed=0, row_id="a/0")
    again, other = (show.in_training(segment, 250, seed=0, row_id=row) for row in ("a/0", "a/1"))
    assert np.array_equal(one.tensor, again.tensor) and not np.array_equal(one.tensor, other.tensor)
    assert len(one.token_ids) == len(show(segment, 250).token_ids)


def test_the_page_is_pulses_and_its_trace_is_seen() -> None:
    show = AnyresRepresentation()
    assert show.page_size(5000, 500) == (2200, 1700)
    page = show.page(np.zeros((12, 5000), np.float32), 500)
    shown = show.of_picture(page)
    assert shown.tiles is not None and tuple(shown.tiles) == (2, 2, 2200, 1700)
    rows = shown.tensor[1].min(axis=0)  # the left top tile: its flat traces are dark lines
    assert (np.sort(rows.mean(axis=1))[:3] < 120).all()


def test_config_comes_back() -> None:
    show = AnyresRepresentation(merge="spatial_unpad", grids=((2, 2),), patches=(2, 2), image_size=(28, 28))
    config = json.loads(json.dumps(show.config()))
    assert "num_tokens" not in config and config["name"] == "anyres"
    assert build_representation(config, None) == show
    with pytest.raises(ConfigError, match="merg"):
        build_representation({**config, "merg": "flat"}, None)


def context(**changes) -> BuildContext:
    values = {"rate": 250, "seg_len": 2500, "seed": 0, "records": (), "segment": lambda name: np.zeros((12, 2500))}
    return BuildContext(**{**values, "image_size": (28, 28), "image_tokens": 4, **changes})


def test_of_a_recipe() -> None:
    made = AnyresRepresentation.from_recipe(AnyresOptions(merge="spatial", size=(440, 340)), context())
    assert (made.patches, made.image_size, made.merge, made.grids) == ((2, 2), (28, 28), "spatial", GRIDS)
    with pytest.raises(ConfigError, match="drop_cls"):
        AnyresRepresentation.from_recipe(AnyresOptions(), context(image_tokens=5))
    with pytest.raises(ConfigError, match="reads a picture"):
        AnyresRepresentation.from_recipe(AnyresOptions(), context(image_size=None, image_tokens=None))


@pytest.mark.parametrize(
    ("options", "said"),
    [({"merge": "flatt"}, "did you mean 'flat'"), ({"grids": ()}, "grids"), ({"grids": ((0, 2),)}, "grids")],
)
def test_options_that_cannot_be(options: dict, said: str) -> None:
    with pytest.raises(EcglmError, match=said):
        AnyresRepresentation(**options)


@pytest.mark.parametrize("wrong", [np.zeros((5, 5)), np.zeros((5, 5, 4), np.uint8), np.zeros((0, 5, 3), np.uint8)])
def test_what_is_no_picture_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(EcglmError, match="uint8"):
        AnyresRepresentation().of_picture(wrong)
