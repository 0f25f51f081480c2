"""Contact sheets of image synthesis: every effect at two strengths, every recipe on three ECGs.

python -m ecglm.representations.synthesis_sheet docs/img
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ecglm.files import write_bytes
from ecglm.randomness import generator_for
from ecglm.records.synthetic import Synthetic
from ecglm.representations.effects import EFFECTS, STAGES, Effect
from ecglm.representations.lettering import write
from ecglm.representations.paper import paper_geometry
from ecglm.representations.render import jpeg_bytes, render
from ecglm.representations.synthesis import synthesise
from ecglm.representations.synthesis_recipes import RECIPES

Options = dict[str, Any]
#: Effect → a mild and a strong use of it. One that is not listed is shown with its defaults.
SHOWN: dict[str, tuple[Options, Options]] = {
    "machine_text": ({"height_mm": 1.8}, {"height_mm": 3.0}),
    "handwriting": ({"words": 6, "ink": "blue"}, {"words": 9, "height_mm": 4.0, "pen_mm": 0.6, "ink": "red"}),
    "pen_strokes": ({"count": 5, "ink": "pencil"}, {"count": 10, "pen_mm": 0.6}),
    "tint": ({"colour": "cream", "strength": 0.8}, {"colour": "yellow", "strength": 1.2}),
    "grain": ({"depth": 0.04}, {"depth": 0.12}),
    "creases": ({"spacing_mm": 100, "depth": 0.3}, {"spacing_mm": 60, "depth": 0.8, "directions": 2}),
    "wrinkles": ({"spacing_mm": 25, "depth": 0.25}, {"spacing_mm": 12, "depth": 0.7}),
    "crop": ({"mm": 6}, {"mm": 25}),
    "margins": ({"mm": 8}, {"mm": 25}),
    "rotation": ({"degrees": 3}, {"degrees": -12}),
    "perspective": ({"tilt": 8}, {"tilt": 28}),
    "exposure": ({"stops": 0.4}, {"stops": -1.4}),
    "uneven_light": ({"stops": 0.8}, {"stops": 1.8, "shape": "spot"}),
    "shadow": ({"stops": 0.5}, {"stops": 1.3, "softness_mm": 3, "shape": "telephone"}),
    "vignette": ({"stops": 0.6}, {"stops": 1.8}),
    "white_balance": ({"kelvin": 9000}, {"kelvin": 3000}),
    "defocus": ({"sigma_mm": 0.12}, {"sigma_mm": 0.35}),
    "motion_blur": ({"length_mm": 0.4}, {"length_mm": 1.0}),
    "noise": ({"sd": 6}, {"sd": 18}),
    "salt_pepper": ({"share": 0.001}, {"share": 0.008}),
    "resolution": ({"dots_per_mm": 3.2}, {"dots_per_mm": 2.0}),
    "grid_removal": ({"strength": 0.5}, {"strength": 1.0}),
    "jpeg": ({"quality": 50}, {"quality": 8}),
}
_HALF = ("machine_text", "handwriting", "pen_strokes", "grain")
_SIZE, _TILE, _TITLE = (1100, 850), (240, 186), 20


def effects_sheet(segment: np.ndarray, rate: int, stages: tuple[str, ...] = STAGES) -> np.ndarray:
    """Every effect of the stages twice, mild and strong, three effects to a row: uint8 ``(height, width, 3)`` RGB."""
    picture = render(segment, rate, size=_SIZE)
    geometry = paper_geometry(segment.shape[1], rate, size=_SIZE)
    places = [(p.x, p.name_y) for p in geometry.panels]
    tiles = []
    for effect in sorted(EFFECTS.values(), key=lambda e: STAGES.index(e.stage)):
        if effect.stage not in stages:
            continue
        for options in SHOWN.get(effect.name, ({}, {})):
            given = dict(options) | ({"places": places} if effect.takes_places else {})
            rng = generator_for(7, "sheet", effect.name)
            image = effect(picture, rng, px_per_mm=geometry.px_per_mm, **given)
            tiles.append(_titled(_tile(image, effect), f"{effect.name}   {_said(options)}"))
    return _rows(tiles, 6)


def recipes_sheet(segments: list[np.ndarray], rate: int) -> np.ndarray:
    """Every recipe, one to a row, on the segments: uint8 ``(height, width, 3)`` RGB."""
    tiles = []
    for recipe in RECIPES:
        for number, segment in enumerate(segments):
            image = synthesise(segment, rate, recipe=recipe, seed=number, row_id=f"sheet-{recipe}")
            small = cv2.resize(image, (480, 371), interpolation=cv2.INTER_AREA)
            tiles.append(_titled(small, f"{recipe}, seed {number}"))
    return _rows(tiles, len(segments))


def _tile(image: np.ndarray, effect: Effect) -> np.ndarray:
    """The whole picture, half of it along each side, or a piece in its own pixels, by what there is to see."""
    wide, high = _TILE
    if effect.name in _HALF:
        top = image.shape[0] - 2 * high if effect.name == "machine_text" else 0
        left = image.shape[1] - 2 * wide if top else 0
        image = image[top : top + 2 * high, left : left + 2 * wide]
    elif effect.stage in ("sensor", "file") and effect.name not in ("vignette", "white_balance"):
        return np.ascontiguousarray(image[60 : 60 + high, 10 : 10 + wide])
    return cv2.resize(image, _TILE, interpolation=cv2.INTER_AREA)


def _said(options: Options) -> str:
    return ", ".join(f"{v:g}" if isinstance(v, int | float) else str(v) for v in options.values())


def _titled(tile: np.ndarray, title: str) -> np.ndarray:
    height, width = tile.shape[:2]
    out = np.full((height + _TITLE + 4, width + 6, 3), 255, np.uint8)
    out[_TITLE : _TITLE + height, 3 : 3 + width] = tile
    write(out, title, (4, _TITLE - 6), 8.0, (20, 20, 20))
    return out


def _rows(tiles: list[np.ndarray], columns: int) -> np.ndarray:
    blank = np.full_like(tiles[0], 255)
    filled = tiles + [blank] * (-len(tiles) % columns)
    return np.vstack([np.hstack(filled[i : i + columns]) for i in range(0, len(filled), columns)])


def main(folder: str) -> None:
    """Write ``effects.jpg`` and ``recipes.jpg``, from synthetic ECGs."""
    source = Synthetic(num_patients=3, rate=250, seed=11, records_per_patient=(1, 1), artefacts=False)
    segments = [source.read(key).signal for key in source.keys()]
    for name, sheet in (("effects", effects_sheet(segments[0], 250)), ("recipes", recipes_sheet(segments, 250))):
        data = jpeg_bytes(sheet, quality=70)
        write_bytes(Path(folder) / f"{name}.jpg", data)
        print(f"{name}.jpg: {sheet.shape[1]} × {sheet.shape[0]}, {len(data) // 1000} kB")


if __name__ == "__main__":
    main(sys.argv[1])
