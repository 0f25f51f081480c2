"""Image synthesis: a segment as a scan or photograph of ECG paper, with what was done to it and where its points went.

The effects are those of ECG-image-kit (doi 10.1088/1361-6579/ad4954), with which the pictures of PULSE (arXiv
2410.19008) were made. The code, the models of the effects and their parameters are our own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from ecglm.errors import EcglmError
from ecglm.randomness import generator_for
from ecglm.representations.effects.base import smooth_noise, warp
from ecglm.representations.paper import LAYOUTS, Geometry, paper_geometry, signal_to_pixel
from ecglm.representations.render import blank_paper, render
from ecglm.representations.synthesis_recipes import BACKGROUNDS, GRIDS, INKS, Plan, plan_of

#: A pixel of the renderer's heavy grid lines lacks this much green; the grid is recoloured by it.
_HEAVY = 95.0
#: Room that a pulse, a lead's name left of its trace, and the letters at the sheet's edges take.
_PULSE_MM, _NAME_MM, _EDGE_MM = 6.0, 11.0, 2.0
_SURNAMES = ("SAMPLE", "EXAMPLE", "SPECIMEN", "TESTPATIENT", "DEMO", "PLACEHOLDER", "NOBODY", "MUSTER", "DUMMY")
_FIRST_NAMES = ("Alex", "Robin", "Kim", "Chris", "Sam", "Jo", "Pat", "Nico", "Toni", "Lee")


@dataclass(frozen=True)
class Synthesis:
    """A picture and how it came about.

    image: uint8 ``(height, width, 3)`` RGB. matrix: float64 ``(3, 3)``, pixels of the flat sheet (those of
    ``signal_to_pixel`` with ``geometry``) → pixels of ``image``, homogeneous. paper: how the sheet was printed.
    applied: effects in order, each with the options it had; JSON-able.
    """

    image: np.ndarray
    matrix: np.ndarray
    geometry: Geometry
    paper: dict[str, Any]
    applied: tuple[tuple[str, dict[str, Any]], ...]

    def to_image(self, points: np.ndarray) -> np.ndarray:
        """Points ``(n, 2)`` of the flat sheet, in pixels, as pixels of the image."""
        return _through(self.matrix, np.asarray(points, np.float64))


def synthesise(
    segment: np.ndarray,
    rate: float,
    *,
    recipe: str | Mapping[str, Any] = "pulse",
    seed: int = 0,
    row_id: str = "",
    size: tuple[int, int] = (1100, 850),
    header: str = "",
) -> np.ndarray:
    """A segment as a scan or photograph: uint8 ``(height, width, 3)`` RGB of exactly ``size`` = (width, height).

    segment: ``(12, samples)`` in millivolts, canonical leads, at ``rate`` Hz. recipe: a name of ``RECIPES`` or a
    mapping of effects (see there). header: the line at the top; without one the recipe decides whether there is one,
    with an invented name. The pixels depend on segment, recipe, seed, row_id, size and header alone, never on the
    process or on what was drawn before. Raises EcglmError (ConfigError for the recipe) for what cannot be drawn.
    """
    return synthesise_detailed(segment, rate, recipe=recipe, seed=seed, row_id=row_id, size=size, header=header).image


def synthesise_detailed(
    segment: np.ndarray,
    rate: float,
    *,
    recipe: str | Mapping[str, Any] = "pulse",
    seed: int = 0,
    row_id: str = "",
    size: tuple[int, int] = (1100, 850),
    header: str = "",
) -> Synthesis:
    """As ``synthesise``, with the effects that were applied and the transform of the sheet."""
    plan = plan_of(recipe)
    signal = np.asarray(segment)
    paper, header = _draw_paper(plan, signal, rate, seed, row_id, size, header)
    image, geometry = _print(signal, rate, paper, size, header)
    places = tuple((panel.x, panel.name_y) for panel in geometry.panels)
    applied: list[tuple[str, dict[str, Any]]] = []
    matrix, laid = np.eye(3), False
    for step in plan.steps:
        effect = step.effect
        if effect.stage in ("light", "sensor", "file") and not laid:
            image, matrix, laid = *_lay(image, matrix, geometry, paper, seed, row_id), True
        rng = generator_for(seed, "synthesis", row_id, effect.name)
        if rng.random() >= step.p:
            continue
        options: dict[str, Any] = {name: effect.options[name].draw(rng, values) for name, values in step.ranges.items()}
        applied.append((effect.name, dict(options)))
        if effect.takes_places:
            options["places"] = places
        if effect.stage == "geometry":
            matrix = effect.matrix(image, rng, px_per_mm=geometry.px_per_mm, **options) @ matrix
        else:
            image = effect(image, rng, px_per_mm=geometry.px_per_mm, **options)
    if not laid:
        image, matrix = _lay(image, matrix, geometry, paper, seed, row_id)
    return Synthesis(image, matrix / matrix[2, 2], geometry, paper, tuple(applied))


def _draw_paper(
    plan: Plan, signal: np.ndarray, rate: float, seed: int, row_id: str, size: tuple[int, int], header: str
) -> tuple[dict[str, Any], str]:
    """How the sheet is printed, one value per option, and the header's text."""
    rng = generator_for(seed, "synthesis", row_id, "paper")
    paper: dict[str, Any] = {name: option.draw(rng, values) for name, (option, values) in plan.paper.items()}
    paper["grid"] = bool(rng.random() < paper["grid"])
    invented = _patient_line(rng)
    if not header and rng.random() < paper["header"]:
        header = invented
    paper["header"] = header
    paper["line_mm"] = round(paper["line_mm"] / 0.05) * 0.05  # few widths, so that empty papers are drawn once
    if paper["layout"] == "any":
        fitting = [name for name in LAYOUTS if _fits(signal, rate, name, size, header)]
        paper["layout"] = str((fitting or ["3x4"])[int(rng.integers(max(1, len(fitting))))])
    return paper, header


def _fits(signal: np.ndarray, rate: float, layout: str, size: tuple[int, int], header: str) -> bool:
    """Whether the sheet is large enough for a layout; where the input itself is wrong, ``render`` will say so."""
    try:
        paper_geometry(signal.shape[-1], rate, layout=layout, size=size, header=header)
    except (EcglmError, IndexError):
        return False
    return True


def _patient_line(rng: np.random.Generator) -> str:
    """A patient who cannot be mistaken for one: speaking names, numbers marked as tests, dates far in the future."""
    name = f"{_SURNAMES[int(rng.integers(len(_SURNAMES)))]}, {_FIRST_NAMES[int(rng.integers(len(_FIRST_NAMES)))]}"
    number = f"{('ID TEST', 'No. FAKE', 'MRN DEMO')[int(rng.integers(3))]}-{int(rng.integers(10**6)):06d}"
    day, month, year = int(rng.integers(1, 29)), int(rng.integers(1, 13)), int(rng.integers(2090, 2100))
    date = (f"{day:02d}.{month:02d}.{year}", f"{year}-{month:02d}-{day:02d}")[int(rng.integers(2))]
    time = f"{int(rng.integers(24)):02d}:{int(rng.integers(60)):02d}"
    parts = [name, number, f"{date} {time}"]
    order = rng.permutation(3)
    return ("   ", "     ", "  |  ")[int(rng.integers(3))].join(parts[i] for i in order[: int(rng.integers(2, 4))])


@lru_cache(maxsize=12)
def _grid_of(geometry: Geometry) -> np.ndarray:
    """What the grid alone leaves of green light: uint8 ``(height, width)``, 255 on white."""
    green = blank_paper(geometry, "pink", True, 0.35)[..., 1]
    # A grid is level and upright lines: what a row and a column are for the most part, whatever letters lie on them.
    rows, columns = np.median(green[:, ::7], axis=1), np.median(green[::7], axis=0)
    lines = np.minimum.outer(rows.astype(np.uint8), columns.astype(np.uint8))
    lines.setflags(write=False)
    return lines


def _print(
    signal: np.ndarray, rate: float, paper: Mapping[str, Any], size: tuple[int, int], header: str
) -> tuple[np.ndarray, Geometry]:
    """The flat sheet: the renderer's grid in the colour of the paper, and its traces and letters in ink on top."""
    options: dict[str, Any] = {name: paper[name] for name in ("layout", "pulse")} | {"size": size, "header": header}
    traced = render(signal, rate, grid=False, line_width=paper["line_mm"], **options)[..., 1]
    geometry = paper_geometry(signal.shape[1], rate, **options)
    ink = 1 - paper["density"] * (1 - np.array(INKS[paper["ink"]]) / 255)
    share = np.arange(256)[:, None] / 255  # of the paper that is seen
    printed = _coloured(traced, 255 * (share + (1 - share) * ink))
    if not paper["grid"]:
        return printed, geometry
    heavy = np.clip((255 - np.arange(256)) / _HEAVY, 0, 1)[:, None]
    colours = 255 - heavy * (255 - np.array(GRIDS[paper["colour"]]))
    green = _grid_of(replace(geometry, header=(), capital=0.0, top=0))
    return cv2.multiply(printed, _coloured(green, colours), dst=printed, scale=1 / 255), geometry


def _coloured(grey: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Grey values ``(height, width)`` as the colours of a table ``(256, 3)``."""
    return cv2.applyColorMap(np.ascontiguousarray(grey), np.round(table).astype(np.uint8)[:, None])


def _lay(
    image: np.ndarray, matrix: np.ndarray, geometry: Geometry, paper: Mapping[str, Any], seed: int, row_id: str
) -> tuple[np.ndarray, np.ndarray]:
    """The sheet on what it lies on, seen through the joined matrix; and that matrix, with the drawing fitted in."""
    if np.array_equal(matrix, np.eye(3)):
        return image, matrix
    matrix = matrix / matrix[2, 2]
    if paper["fit"] == "yes":
        matrix = _fit(geometry, matrix) @ matrix
    colour = BACKGROUNDS[paper["background"]]
    if paper["background"] in ("white", "black"):
        return warp(image, matrix, colour), matrix
    rng = generator_for(seed, "synthesis", row_id, "background")
    desk = _desk(colour, matrix, geometry, rng)
    size = (geometry.width, geometry.height)
    flags = {"flags": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_TRANSPARENT}
    return cv2.warpPerspective(image, matrix, size, dst=desk, **flags), matrix


def _desk(colour: tuple[int, ...], matrix: np.ndarray, geometry: Geometry, rng: np.random.Generator) -> np.ndarray:
    """A table top with uneven colour, and the shadow that the sheet's edge throws on it."""
    height, width = max(2, geometry.height // 4), max(2, geometry.width // 4)
    corners = np.array([[0, 0], [geometry.width, 0], [geometry.width, geometry.height], [0, geometry.height]]) - 0.5
    there = (_through(matrix, corners) + rng.uniform(-1.5, 1.5, 2) * geometry.px_per_mm) / 4
    mask = np.zeros((height, width), np.float32)
    cv2.fillPoly(mask, [np.round(np.clip(there, -30_000, 30_000)).astype(np.int32)], 1.0)
    soft = cv2.GaussianBlur(mask, (0, 0), max(0.7, 1.2 * geometry.px_per_mm / 4))
    light = (1 + 0.07 * smooth_noise(rng, (height, width), (3, 4))) * (1 - 0.45 * soft)
    field = np.clip(light[..., None] * np.array(colour, np.float32), 0, 255).astype(np.uint8)
    return cv2.resize(field, (geometry.width, geometry.height), interpolation=cv2.INTER_LINEAR)


def _fit(geometry: Geometry, matrix: np.ndarray) -> np.ndarray:
    """The shift, and where it must be the shrinking, that brings the drawing back inside the picture."""
    scale = geometry.px_per_mm
    ends = [signal_to_pixel(geometry, panel, panel.stop, 0)[0] for panel in geometry.panels]
    pulses = [x + side * _PULSE_MM * scale for x, _ in geometry.pulses for side in (-0.2, 1)]
    left, right = min([*(panel.x - _NAME_MM * scale for panel in geometry.panels), *pulses]), max([*ends, *pulses])
    left, right = max(left, 0.0), min(right, geometry.width - 1.0)
    edge = _EDGE_MM * scale
    corners = np.array([[x, y] for x in (left, right) for y in (edge, geometry.height - 1 - edge)])
    seen = _through(matrix, corners)
    low, high = seen.min(axis=0), seen.max(axis=0)
    room = np.array([geometry.width - 1, geometry.height - 1], np.float64)
    shrink = min(1.0, *(room / (high - low)))
    low, high = low * shrink, high * shrink
    move = np.where(low < 0, -low, np.minimum(0, room - high))
    return np.array([[shrink, 0, move[0]], [0, shrink, move[1]], [0, 0, 1]])


def _through(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    moved = np.column_stack([points, np.ones(len(points))]) @ matrix.T
    return moved[:, :2] / moved[:, 2:]
