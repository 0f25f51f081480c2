"""The table of image effects: one decorated function each, its options declared with their limits and checked."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from ecglm.errors import ConfigError, nearest

#: What happens to a picture, in order: print and pen, the sheet, where it lies before the camera, light, lens and
#: sensor, the file.
STAGES = ("ink", "paper", "geometry", "light", "sensor", "file")
WHITE = (255, 255, 255)


@dataclass(frozen=True)
class Number:
    """An option between ``low`` and ``high``, in ``unit``; in a recipe a number, or ``[least, most]`` to draw from."""

    low: float
    high: float
    unit: str = ""
    whole: bool = False

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        return f"{kind} from {self.low:g} to {self.high:g}{f' {self.unit}' if self.unit else ''}"

    def accepts(self, value: Any) -> bool:
        """Whether a value is allowed."""
        if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
            return False
        return bool(self.low <= value <= self.high) and (not self.whole or value == int(value))

    def choices(self, value: Any) -> list[Any] | None:
        """A recipe's value as ``[least, most]``, or None where it cannot be understood."""
        pair = list(value) if isinstance(value, list | tuple) else [value, value]
        good = len(pair) == 2 and all(self.accepts(v) for v in pair) and pair[0] <= pair[1]
        return pair if good else None

    def draw(self, rng: np.random.Generator, pair: list[Any]) -> float | int:
        """A value between the two of ``pair``, all equally likely."""
        if self.whole:
            return int(rng.integers(int(pair[0]), int(pair[1]), endpoint=True))
        return float(rng.uniform(pair[0], pair[1]))


@dataclass(frozen=True)
class Choice:
    """An option that is one of ``words``; in a recipe a word, or a list of words to draw from."""

    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"one of {', '.join(self.words)}"

    def accepts(self, value: Any) -> bool:
        """Whether a value is allowed."""
        return isinstance(value, str) and value in self.words

    def choices(self, value: Any) -> list[Any] | None:
        """A recipe's value as a list of words, or None where it cannot be understood."""
        words = [value] if isinstance(value, str) else list(value) if isinstance(value, list | tuple) else []
        return words if words and all(self.accepts(w) for w in words) else None

    def draw(self, rng: np.random.Generator, words: list[Any]) -> str:
        """One of the words, all equally likely."""
        return str(words[int(rng.integers(len(words)))])


Option = Number | Choice


@dataclass(frozen=True)
class Effect:
    """One effect: call it on a picture, with a generator, the scale, and its options.

    run: what was decorated. takes_places: whether it wants ``places``, the points (x, y) where leads begin.
    """

    name: str
    stage: str
    run: Callable[..., np.ndarray]
    options: Mapping[str, Option] = field(default_factory=dict)
    takes_places: bool = False

    def __call__(self, image: np.ndarray, rng: np.random.Generator, *, px_per_mm: float, **options: Any) -> np.ndarray:
        """The picture changed: uint8 ``(height, width, 3)`` RGB of the same size; ``image`` itself stays as it is.

        Raises ConfigError, naming the effect and the option, for an option that is unknown or outside its limits.
        """
        check_picture(image, self.name)
        if not 0.1 <= px_per_mm <= 1000:
            raise ConfigError(f"effect '{self.name}': px_per_mm must be between 0.1 and 1000, found {px_per_mm!r}")
        found = self.run(image, rng, px_per_mm=px_per_mm, **self.checked(options))
        return warp(image, found) if self.stage == "geometry" else found

    def matrix(self, image: np.ndarray, rng: np.random.Generator, *, px_per_mm: float, **options: Any) -> np.ndarray:
        """Where a point of ``image`` goes: float64 ``(3, 3)``, on homogeneous pixels; the identity without geometry."""
        if self.stage != "geometry":
            return np.eye(3)
        return self.run(image, rng, px_per_mm=px_per_mm, **self.checked(options))

    def checked(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options, after a look at each."""
        for name, value in options.items():
            if name == "places" and self.takes_places:
                continue
            if not self.option(name).accepts(value):
                raise ConfigError(f"effect '{self.name}': {name} must be {self.option(name)}, found {value!r}")
        return dict(options)

    def option(self, name: Any) -> Option:
        """The declaration of an option; ConfigError for an unknown one."""
        if name not in self.options:
            known = ", ".join(self.options) or "none"
            near = nearest(str(name), self.options)
            raise ConfigError(f"effect '{self.name}': no option '{name}'{near}; options: {known}")
        return self.options[name]


#: Every effect by name, in the order they are applied within a stage.
EFFECTS: dict[str, Effect] = {}


def effect(
    name: str, stage: str, **options: Option
) -> Callable[[Callable[..., np.ndarray]], Callable[..., np.ndarray]]:
    """Decorator: a function ``f(image, rng, *, px_per_mm, **options)`` becomes the effect ``name`` of a stage.

    The function returns a new picture; one of the stage ``geometry`` returns a 3 × 3 matrix, old pixels → new pixels,
    so that several are joined and the picture is resampled once. ``options`` are its keywords, each with a default.
    Raises ConfigError for a name that is taken, an unknown stage, or keywords that are not the function's.
    """
    if stage not in STAGES:
        raise ConfigError(f"effect '{name}': no stage '{stage}'{nearest(stage, STAGES)}; stages: {', '.join(STAGES)}")

    def wrap(run: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
        if name in EFFECTS and EFFECTS[name].run is not run:
            raise ConfigError(f"effect '{name}' is registered twice")
        keywords = {k: p for k, p in inspect.signature(run).parameters.items() if p.kind is p.KEYWORD_ONLY}
        own = [k for k in keywords if k not in ("px_per_mm", "places")]
        if "px_per_mm" not in keywords or set(own) != set(options):
            raise ConfigError(
                f"effect '{name}': the function takes px_per_mm and {', '.join(own) or 'no option'} by keyword, "
                f"declared: {', '.join(options) or 'none'}"
            )
        for option in own:
            if not options[option].accepts(keywords[option].default):
                raise ConfigError(f"effect '{name}': the default of {option} must be {options[option]}")
        EFFECTS[name] = Effect(name, stage, run, {k: options[k] for k in own}, "places" in keywords)
        return run

    return wrap


def check_picture(image: Any, name: str) -> None:
    """ConfigError unless ``image`` is uint8 ``(height, width, 3)`` with at least 2 × 2 pixels."""
    good = isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8
    if not good or min(image.shape[:2]) < 2:
        found = f"{image.shape} {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ConfigError(f"effect '{name}': a picture is (height, width, 3) uint8, found {found}")


def warp(image: np.ndarray, matrix: np.ndarray, background: tuple[int, ...] = WHITE) -> np.ndarray:
    """The picture seen through a matrix old pixels → new pixels; what lies outside it has one colour."""
    height, width = image.shape[:2]
    return cv2.warpPerspective(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=background)


def shade(image: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """The picture times a field of any smaller size: float32 ``(h, w)`` or ``(h, w, 3)``, 1 = unchanged."""
    height, width = image.shape[:2]
    full = cv2.resize(np.ascontiguousarray(gain, np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return cv2.multiply(image, full if full.ndim == 3 else cv2.merge([full] * 3), dtype=cv2.CV_8U)


def gain_of(stops: np.ndarray | float) -> np.ndarray:
    """The factor on coded pixel values (gamma 2.2) of an exposure step: +1 stop is twice the light."""
    return np.exp2(np.asarray(stops, np.float32) / 2.2)


def field_shape(image: np.ndarray, px_per_mm: float, per_mm: float) -> tuple[int, int]:
    """(height, width) of a field with ``per_mm`` points a millimetre, at most one a pixel and never below 2 × 2."""
    ratio = min(1.0, per_mm / px_per_mm)
    return max(2, round(image.shape[0] * ratio)), max(2, round(image.shape[1] * ratio))


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cells: tuple[float, float]) -> np.ndarray:
    """Slowly varying noise in about -1 to 1, float32 of ``shape``; ``cells``: hills along height and width."""
    rows, columns = (max(2, int(np.ceil(c)) + 3) for c in cells)
    coarse = rng.uniform(-1, 1, (rows, columns)).astype(np.float32)
    zoom = ((shape[1] - 1) / max(cells[1], 1e-3), (shape[0] - 1) / max(cells[0], 1e-3))
    matrix = np.array([[zoom[0], 0, -zoom[0]], [0, zoom[1], -zoom[1]]])
    return cv2.warpAffine(coarse, matrix, shape[::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
