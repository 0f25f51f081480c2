"""The ECG as a picture in tiles of the encoder's size, as many as its shape asks for: LLaVA-1.6's anyres, for PULSE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image

from ecglm.errors import ConfigError, EcglmError, nearest
from ecglm.registry import register
from ecglm.representations.base import BuildContext, RecipeOptions
from ecglm.representations.image import PageOptions, PageRepresentation
from ecglm.representations.pictures import check_picture, patch_grid
from ecglm.types import EcgInput

#: LLaVA-1.6's grids, (columns, rows) of tiles, in the order in which the first of equally good ones is taken.
GRIDS = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
MERGES = ("flat", "spatial", "spatial_unpad")
#: A picture of more tiles than this fills any context.
MOST_TILES = 64


@dataclass(frozen=True, kw_only=True)
class AnyresOptions(PageOptions):
    """Show the ECG as paper in tiles of the image encoder's size, one token per patch, as LLaVA-1.6 and PULSE do
    (arXiv 2410.19008): the whole page, then the page in a grid of tiles. size (width, height), layout, dpi, color,
    grid, header, line_width, synthesis: as in ``image``. grids: (columns, rows) of tiles to choose from. merge: how
    tiles become one sequence: ``flat`` one after another, ``spatial`` the grid row by row, ``spatial_unpad`` without
    its padding and with a learned vector behind every row.
    """

    size: tuple[int, int] | None = (2200, 1700)
    grids: tuple[tuple[int, int], ...] = GRIDS
    merge: Literal["flat", "spatial", "spatial_unpad"] = "flat"


@register("representations", "anyres")
@dataclass(frozen=True, kw_only=True)
class AnyresRepresentation(PageRepresentation):
    """A page as uint8 ``(num_tiles, 3, height, width)``; a picture's shape decides how many tiles and tokens it has.

    image_size: of a tile, (height, width). patches: (rows, columns) of the encoder's patches in one tile.
    """

    name: ClassVar[str] = "anyres"
    Options: ClassVar[type[RecipeOptions]] = AnyresOptions
    #: One ECG is several tensors of ``input_shape``, told apart by ``EcgInput.tiles``.
    tiled: ClassVar[bool] = True

    num_tokens: None = None  # type: ignore[assignment]
    image_size: tuple[int, int] = (336, 336)
    size: tuple[int, int] | None = (2200, 1700)
    patches: tuple[int, int] = (24, 24)
    grids: tuple[tuple[int, int], ...] = GRIDS
    merge: str = "flat"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.merge not in MERGES:
            raise EcglmError(f"merge: no '{self.merge}'{nearest(self.merge, MERGES)}; known: {', '.join(MERGES)}")
        if not self.grids or any(min(g) < 1 or g[0] * g[1] >= MOST_TILES for g in self.grids):
            raise EcglmError(f"grids: (columns, rows) of 1 or more, below {MOST_TILES} tiles, found {self.grids}")

    @classmethod
    def from_recipe(cls, options: AnyresOptions, context: BuildContext) -> AnyresRepresentation:
        """Draws one empty page first. ConfigError for an encoder that gives other tokens than one per patch."""
        if context.image_size is None or context.image_tokens is None:
            raise ConfigError("representation 'anyres' needs an encoder that reads a picture; see ecglm ls encoders")
        patches = patch_grid(context.image_size, context.image_tokens)
        if patches is None or patches[0] * patches[1] != context.image_tokens:
            raise ConfigError("anyres reads one token per patch, and this encoder gives others too; set drop_cls: true")
        made: AnyresRepresentation = cls._drawn(options, context, image_size=context.image_size, patches=patches)
        return made

    def config(self) -> dict[str, Any]:
        """Every option but the number of tokens, which there is none of."""
        values = {k: v for k, v in super().config().items() if k != "num_tokens"}
        return {**values, "grids": [list(grid) for grid in self.grids]}

    def of_picture(self, picture: np.ndarray) -> EcgInput:
        """The tiles of any picture, and as many placeholders as it has tokens."""
        picture = check_picture(picture)
        found = choose_grid((picture.shape[1], picture.shape[0]), self.image_size, self.grids)
        tiles = cut_tiles(picture, self.image_size, found)
        shape = np.array([*found, picture.shape[1], picture.shape[0]], np.int64)
        number = num_tokens(shape, self.patches, self.merge)
        return EcgInput(np.zeros(number, np.int64), tiles.transpose(0, 3, 1, 2).copy(), tiles=shape)

    def page_size(self, num_samples: int, rate: int) -> tuple[int, int]:
        """(width, height) of the pages it draws."""
        geometry = self._geometry(num_samples, rate)
        return geometry.width, geometry.height

    def page_tokens(self, num_samples: int, rate: int) -> tuple[int, int]:
        """Tokens and tiles of a page it draws itself."""
        size = self.page_size(num_samples, rate)
        found = choose_grid(size, self.image_size, self.grids)
        return num_tokens(np.array([*found, *size]), self.patches, self.merge), 1 + found[0] * found[1]

    def _scale(self, size: tuple[int, int]) -> float:
        page = (size[1], size[0])
        across, down = choose_grid(page, self.image_size, self.grids)
        return min(across * self.image_size[1] / page[0], down * self.image_size[0] / page[1])


def choose_grid(
    size: tuple[int, int], tile: tuple[int, int], grids: Sequence[tuple[int, int]] = GRIDS
) -> tuple[int, int]:
    """The grid (columns, rows) for a picture of ``size`` (width, height): the one that keeps most of its pixels, then
    the one that wastes fewest, then the first. tile: (height, width).
    """
    width, height = size
    best, chosen = (-1, 0), tuple(grids[0])
    for columns, rows in grids:
        wide, high = columns * tile[1], rows * tile[0]
        scale = min(wide / width, high / height)
        effective = min(int(width * scale) * int(height * scale), width * height)
        found = (effective, effective - wide * high)
        if found > best:
            best, chosen = found, (columns, rows)
    return chosen[0], chosen[1]


def cut_tiles(picture: np.ndarray, tile: tuple[int, int], grid: tuple[int, int]) -> np.ndarray:
    """uint8 ``(1 + columns * rows, *tile, 3)`` of a picture ``(height, width, 3)``: all of it squashed into one tile,
    then, on black, as large as the grid lets it be, tile by tile. Bicubic by Pillow, whose pixels the original has.
    """
    high, wide = tile
    columns, rows = grid
    height, width = picture.shape[:2]
    page = Image.fromarray(picture)
    target = (columns * wide, rows * high)
    across, down = target[0] / width, target[1] / height
    if across < down:
        fitted = (target[0], min(ceil(height * across), target[1]))
    else:
        fitted = (min(ceil(width * down), target[0]), target[1])
    large = np.zeros((target[1], target[0], 3), np.uint8)
    left, top = (target[0] - fitted[0]) // 2, (target[1] - fitted[1]) // 2
    resized = page.resize(fitted, Image.Resampling.BICUBIC)
    large[top : top + fitted[1], left : left + fitted[0]] = np.asarray(resized)
    tiles = large.reshape(rows, high, columns, wide, 3).swapaxes(1, 2).reshape(-1, high, wide, 3)
    whole = np.asarray(page.resize((wide, high), Image.Resampling.BICUBIC))
    return np.concatenate([whole[None], tiles])


def unpadded(tiles: Sequence[int] | np.ndarray, patches: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of the grid's patches that are not padding alone. tiles: columns, rows, width and height of the
    picture, as ``EcgInput.tiles`` says them.
    """
    columns, rows, width, height = (int(v) for v in tiles)
    down, across = rows * patches[0], columns * patches[1]
    if width / height > across / down:
        cut = (down - int(height * (across / width))) // 2
        return slice(cut, down - cut), slice(0, across)
    cut = (across - int(width * (down / height))) // 2
    return slice(0, down), slice(cut, across - cut)


def num_tokens(tiles: Sequence[int] | np.ndarray, patches: tuple[int, int], merge: str) -> int:
    """Tokens of a picture whose tiles ``EcgInput.tiles`` describes."""
    whole = patches[0] * patches[1]
    if merge != "spatial_unpad":
        return whole * (1 + int(tiles[0]) * int(tiles[1]))
    down, across = unpadded(tiles, patches)
    return whole + (down.stop - down.start) * (across.stop - across.start + 1)
