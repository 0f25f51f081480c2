"""Fewer tokens than patches: means on the patches' own grid, as the library pools it, or a refusal with numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d

from ecglm.errors import ConfigError
from ecglm.representations.base import BuildContext
from ecglm.representations.pictures import Pooling, encoder_fit, patch_grid


@pytest.mark.parametrize(
    "size, num_tokens, grid",
    [
        ((224, 224), 49, (7, 7)),  # CLIP B/32
        ((224, 224), 50, (7, 7)),  # and its class token
        ((336, 336), 576, (24, 24)),  # CLIP L/14 at 336
        ((224, 224), 197, (14, 14)),  # ViT B/16 with its class token
        ((96, 160), 60, (6, 10)),
        ((100, 100), 9, (3, 3)),  # one pixel behind the last patch
        ((224, 224), 47, None),
    ],
)
def test_the_grid_of_patches(size: tuple[int, int], num_tokens: int, grid: tuple[int, int] | None) -> None:
    assert patch_grid(size, num_tokens) == grid


@pytest.mark.parametrize(
    "size, encoder_tokens, num_tokens, grid, extra",
    [
        ((224, 224), 196, 196, (14, 14), 0),
        ((224, 224), 196, 49, (7, 7), 0),
        ((224, 224), 196, 25, (5, 5), 0),
        ((224, 224), 196, 20, (4, 5), 0),  # wider rather than higher: time runs across
        ((224, 224), 196, 2, (1, 2), 0),
        ((224, 224), 197, 50, (7, 7), 1),  # a class token keeps its place
        ((96, 160), 60, 15, (3, 5), 0),
        ((96, 160), 60, 2, (1, 2), 0),
    ],
)
def test_the_grid_of_means_has_the_shape_of_the_patches(size, encoder_tokens, num_tokens, grid, extra) -> None:
    found = Pooling.of(size, encoder_tokens, num_tokens)
    assert found is not None and (found.grid, found.extra) == (grid, extra)
    assert found.extra + found.grid[0] * found.grid[1] == num_tokens


@pytest.mark.parametrize(
    "encoder_tokens, num_tokens, told",
    [
        (196, 23, "23 tokens make no grid over the encoder's 14 x 14 patches; nearest numbers that do: 20 and 24"),
        (196, 190, "182 and 196"),
        (196, 3, ": 2 and 4"),
        (197, 24, ": 21 and 25"),
        (197, 1, ": 2$"),
    ],
)
def test_a_number_that_makes_no_grid_is_refused_with_the_nearest_that_do(encoder_tokens, num_tokens, told) -> None:
    with pytest.raises(ConfigError, match=told):
        Pooling.of((224, 224), encoder_tokens, num_tokens)


def test_every_number_is_a_grid_or_refused_with_one_that_is() -> None:
    for number in range(1, 197):
        try:
            found = Pooling.of((224, 224), 196, number)
        except ConfigError as error:
            for near in str(error).rpartition(": ")[2].split(" and "):
                assert Pooling.of((224, 224), 196, int(near)) is not None
        else:
            assert found is not None and found.grid[0] * found.grid[1] == number
            assert found.grid[0] <= found.grid[1] <= 2 * found.grid[0]


@pytest.mark.parametrize("patches, grid", [((14, 14), (7, 7)), ((14, 14), (5, 5)), ((3, 7), (2, 5)), ((4, 4), (4, 4))])
def test_the_windows_are_the_librarys(patches: tuple[int, int], grid: tuple[int, int]) -> None:
    x = torch.randn(1, 1, *patches, dtype=torch.float64)
    down, across = Pooling(patches, grid).windows()
    np.testing.assert_allclose(down @ x[0, 0].numpy() @ across.T, adaptive_avg_pool2d(x, grid)[0, 0], atol=1e-12)


def test_a_recipe_is_told_before_anything_is_built() -> None:
    values = {"rate": 250, "seg_len": 2500, "seed": 0, "records": (), "segment": lambda name: np.zeros((12, 2500))}
    context = BuildContext(**values, image_size=(224, 224), image_tokens=196)
    assert encoder_fit("image", 49, context)["num_tokens"] == 49
    with pytest.raises(ConfigError, match=r"image\.num_tokens: 11 tokens make no grid .*: 9 and 12"):
        encoder_fit("image", 11, context)
    odd = BuildContext(**values, image_size=(224, 224), image_tokens=47)  # an encoder whose tokens are no patches
    assert encoder_fit("image", 11, odd)["num_tokens"] == 11
