"""Recipes of image synthesis as plain data: effect → how likely (``p``), and what its options are drawn from.

A recipe can stand in YAML as it is here. ``paper`` says how the sheet is printed; every other key is an effect. An
option with two numbers is drawn between them, one with several words is one of them, anything else is fixed; an option
left out keeps the effect's default, ``p`` left out is 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, make_dataclass
from typing import Any

from ecglm import config as strict
from ecglm.errors import ConfigError, nearest
from ecglm.representations.effects import EFFECTS, STAGES, Choice, Effect, Number
from ecglm.representations.paper import LAYOUTS, PULSES

#: Name → recipe. clean: a good scan. pulse: what hospitals send, after PULSE (arXiv 2410.19008), whose pictures were
#: made with the effects of ECG-image-kit. hard: photographs of sheets that had a hard life.
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "clean": {
        "paper": {
            "layout": "any",
            "colour": ["pink", "red", "orange"],
            "grid": 1.0,
            "header": 0.5,
            "density": [0.85, 1],
            "line_mm": [0.35, 0.45],
        },
        "machine_text": {"p": 0.5},
        "grain": {"p": 0.5, "depth": [0.01, 0.03]},
        "rotation": {"p": 0.5, "degrees": [-0.7, 0.7]},
        "exposure": {"p": 0.5, "stops": [-0.15, 0.1]},
        "noise": {"p": 0.5, "sd": [0.5, 3.0]},
        "jpeg": {"p": 0.5, "quality": [85, 97]},
    },
    "pulse": {
        "paper": {"layout": "any", "grid": 0.9, "header": 0.6, "density": [0.7, 1]},
        "machine_text": {"p": 0.5, "height_mm": [1.5, 2.2], "edge": ["bottom", "bottom", "top"]},
        "handwriting": {"p": 0.3, "words": [1, 4], "height_mm": [1.8, 3.5], "ink": ["blue", "black", "red"]},
        "pen_strokes": {"p": 0.15, "count": [1, 2], "ink": ["blue", "black", "red", "pencil"]},
        "tint": {"p": 0.4, "colour": ["yellow", "cream", "grey", "pink"], "strength": [0.2, 0.9]},
        "grain": {"p": 0.5, "depth": [0.01, 0.06]},
        "creases": {
            "p": 0.3,
            "spacing_mm": [40, 130],
            "width_mm": [0.8, 2.5],
            "depth": [0.1, 0.5],
            "angle": [86, 94],
            "directions": [1, 2],
        },
        "wrinkles": {"p": 0.3, "spacing_mm": [10, 35], "depth": [0.1, 0.4]},
        "crop": {"p": 0.2, "mm": [1, 5]},
        "margins": {"p": 0.3, "mm": [2, 14]},
        "rotation": {"p": 0.5, "degrees": [-5, 5]},
        "perspective": {"p": 0.25, "tilt": [2, 14]},
        "exposure": {"p": 0.3, "stops": [-0.8, 0.25]},
        "uneven_light": {"p": 0.3, "stops": [0.2, 1.0], "shape": ["gradient", "spot"]},
        "shadow": {"p": 0.2, "stops": [0.2, 0.8], "softness_mm": [3, 15], "shape": ["edge", "telephone"]},
        "vignette": {"p": 0.2, "stops": [0.2, 1.0]},
        "white_balance": {"p": 0.3, "kelvin": [4000, 9000]},
        "defocus": {"p": 0.35, "sigma_mm": [0.05, 0.18]},
        "motion_blur": {"p": 0.1, "length_mm": [0.15, 0.45]},
        "noise": {"p": 0.4, "sd": [2, 10]},
        "salt_pepper": {"p": 0.05, "share": [0.0002, 0.002]},
        "resolution": {"p": 0.2, "dots_per_mm": [3.0, 5.0]},
        "grid_removal": {"p": 0.1, "strength": [0.7, 1.0]},
        "jpeg": {"p": 0.6, "quality": [40, 95]},
    },
    "hard": {
        "paper": {
            "layout": "any",
            "grid": 0.85,
            "header": 0.6,
            "density": [0.6, 1],
            "line_mm": [0.35, 0.5],
            "fit": "no",
        },
        "machine_text": {"p": 0.5, "height_mm": [1.5, 2.2], "edge": ["bottom", "top"]},
        "handwriting": {
            "p": 0.6,
            "words": [2, 7],
            "height_mm": [2, 4.5],
            "pen_mm": [0.3, 0.7],
            "ink": ["blue", "black", "red"],
        },
        "pen_strokes": {"p": 0.4, "count": [1, 4], "pen_mm": [0.3, 0.7], "ink": ["blue", "black", "red", "pencil"]},
        "tint": {"p": 0.5, "strength": [0.3, 1.2]},
        "grain": {"p": 0.5, "depth": [0.03, 0.08]},
        "creases": {
            "p": 0.5,
            "spacing_mm": [30, 110],
            "width_mm": [0.8, 3],
            "depth": [0.3, 0.9],
            "angle": [0, 180],
            "directions": [1, 2],
        },
        "wrinkles": {"p": 0.5, "spacing_mm": [8, 35], "depth": [0.25, 0.8]},
        "crop": {"p": 0.3, "mm": [2, 8]},
        "margins": {"p": 0.4, "mm": [4, 25]},
        "rotation": {"p": 0.7, "degrees": [-12, 12]},
        "perspective": {"p": 0.6, "tilt": [5, 28]},
        "exposure": {"p": 0.5, "stops": [-1.4, 0.4]},
        "uneven_light": {"p": 0.5, "stops": [0.5, 1.8], "shape": ["gradient", "spot"]},
        "shadow": {"p": 0.5, "stops": [0.4, 1.3], "softness_mm": [2, 15], "shape": ["edge", "telephone"]},
        "vignette": {"p": 0.4, "stops": [0.4, 1.6]},
        "white_balance": {"p": 0.5, "kelvin": [3000, 11000]},
        "defocus": {"p": 0.5, "sigma_mm": [0.1, 0.28]},
        "motion_blur": {"p": 0.25, "length_mm": [0.2, 0.7]},
        "noise": {"p": 0.6, "sd": [4, 18]},
        "salt_pepper": {"p": 0.1, "share": [0.0005, 0.006]},
        "resolution": {"p": 0.3, "dots_per_mm": [2.4, 4.5]},
        "grid_removal": {"p": 0.1, "strength": [0.6, 1.0]},
        "jpeg": {"p": 0.8, "quality": [15, 85]},
    },
}

#: Grid → its heavy lines on white paper.
GRIDS = {
    "pink": (240, 170, 168),
    "red": (228, 128, 122),
    "orange": (240, 178, 130),
    "green": (150, 205, 160),
    "blue": (160, 185, 232),
    "grey": (178, 178, 178),
}
#: Printer's ink, at full density.
INKS = {"black": (18, 18, 20), "blue-black": (22, 26, 62), "brown": (66, 44, 36)}
#: What the sheet lies on; the first two are a scanner's.
BACKGROUNDS = {
    "white": (252, 252, 252),
    "black": (16, 16, 18),
    "grey": (126, 128, 130),
    "wood": (150, 112, 78),
    "blue": (74, 96, 122),
}
_PAPER: dict[str, Number | Choice] = {
    "colour": Choice(tuple(GRIDS)),
    "ink": Choice(tuple(INKS)),
    "background": Choice(tuple(BACKGROUNDS)),
    "grid": Number(0, 1),
    "header": Number(0, 1),
    "density": Number(0.3, 1),
    "line_mm": Number(0.1, 1, "mm"),
    "pulse": Choice(PULSES),
    "fit": Choice(("yes", "no")),
}
_DEFAULTS: dict[str, Any] = {
    "layout": "any",
    "colour": list(GRIDS),
    "ink": ["black", "black", "blue-black", "brown"],
    "background": list(BACKGROUNDS),
    "grid": 1.0,
    "header": 0.5,
    "density": 1.0,
    "line_mm": [0.3, 0.45],
    "pulse": ["left", "left", "left", "right", "none"],
    "fit": "yes",
}
#: Stands for a key that a file does not give; an effect without options (``jpeg:``) is given all the same.
_ABSENT: Any = object()


@dataclass(frozen=True)
class Step:
    """One effect of a recipe: applied with probability ``p``, options drawn from ``ranges``."""

    effect: Effect
    p: float
    ranges: Mapping[str, list[Any]]


@dataclass(frozen=True)
class Plan:
    """A recipe that was checked: options of the paper (name → option, range), and the steps in order of the stages."""

    paper: Mapping[str, tuple[Number | Choice, list[Any]]]
    steps: tuple[Step, ...]


def plan_of(recipe: str | Mapping[str, Any]) -> Plan:
    """Check a recipe, by name or as a mapping; ConfigError, naming effect and option, for what is wrong in it."""
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            raise ConfigError(f"synthesis: no recipe '{recipe}'{nearest(recipe, RECIPES)}; known: {', '.join(RECIPES)}")
        recipe = RECIPES[recipe]
    if not isinstance(recipe, Mapping):
        raise ConfigError(f"synthesis: a recipe is a name or a mapping of effects, found {type(recipe).__name__}")
    steps = []
    for name, given in recipe.items():
        options = {} if given is None else given
        if not isinstance(options, Mapping):
            raise ConfigError(f"synthesis: effect '{name}': a mapping of options is needed, found {given!r}")
        if name == "paper":
            continue
        if name not in EFFECTS:
            known = ", ".join(("paper", *EFFECTS))
            raise ConfigError(f"synthesis: no effect '{name}'{nearest(str(name), EFFECTS)}; known: {known}")
        steps.append(_step(EFFECTS[name], options))
    table = list(EFFECTS)  # the order of keys in a recipe means nothing: YAML and JSON do not keep it for sure
    steps.sort(key=lambda step: (STAGES.index(step.effect.stage), table.index(step.effect.name)))
    return Plan(_paper(recipe.get("paper") or {}), tuple(steps))


def is_recipe_file(recipe: str) -> bool:
    """Whether a recipe's name is the path of a YAML file: it ends like one, and no recipe has that name."""
    return recipe not in RECIPES and recipe.lower().endswith((".yaml", ".yml"))


def read_recipe(recipe: str) -> str | dict[str, Any]:
    """A recipe by name, as it is, or the one of a YAML file, as a mapping, checked.

    Raises ConfigError for an unknown name, naming the known ones; for a file, naming it and the line.
    """
    if not is_recipe_file(recipe):
        if recipe not in RECIPES:
            known = f"{', '.join(RECIPES)}, or a .yaml file of your own"
            raise ConfigError(f"synthesis: no recipe '{recipe}'{nearest(recipe, RECIPES)}; known: {known}")
        return recipe
    effects = [(name, _section(name, made.options) | None, _ABSENT) for name, made in EFFECTS.items()]
    kind = make_dataclass("SynthesisRecipe", [("paper", _section("paper", _paper_options()) | None, _ABSENT), *effects])
    found: Any = strict.load(recipe, kind)
    return {
        f.name: {o.name: v for o in fields(value) if (v := getattr(value, o.name)) is not _ABSENT} if value else {}
        for f in fields(kind)
        if (value := getattr(found, f.name)) is not _ABSENT
    }


def _section(effect: str, options: Iterable[str]) -> type:
    """A dataclass with the options of an effect, so that a mistake in a file is told with its line."""

    def check(self: Any) -> None:
        given = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not _ABSENT}
        if isinstance(given.get("fit"), bool):  # YAML's yes and no
            self.fit = given["fit"] = "yes" if given["fit"] else "no"
        try:
            plan_of({effect: given})
        except ConfigError as error:
            raise ValueError(str(error)) from error

    names = options if effect == "paper" else ("p", *options)
    table = [(name, Any, _ABSENT) for name in names]
    made = make_dataclass("Options", table, namespace={"__post_init__": check})
    made.__name__ = "a mapping of options"  # what an error says
    return made


def _step(effect: Effect, options: Mapping[str, Any]) -> Step:
    probability, ranges = Number(0, 1), {}
    if not probability.accepts(options.get("p", 1)):
        raise ConfigError(f"synthesis: effect '{effect.name}': p must be {probability}, found {options['p']!r}")
    for name, value in options.items():
        if name != "p":
            ranges[name] = _range(effect.name, name, effect.option(name), value)
    ordered = {name: ranges[name] for name in effect.options if name in ranges}  # drawn in the effect's own order
    return Step(effect, float(options.get("p", 1)), ordered)


def _range(effect: str, name: str, option: Number | Choice, value: Any) -> list[Any]:
    found = option.choices(value)
    if found is None:
        several = "a list of them" if isinstance(option, Choice) else "[least, most]"
        raise ConfigError(f"synthesis: effect '{effect}': {name} must be {option}, or {several}; found {value!r}")
    return found


def _paper_options() -> dict[str, Number | Choice]:
    return {"layout": Choice(("any", *LAYOUTS)), **_PAPER}


def _paper(given: Mapping[str, Any]) -> dict[str, tuple[Number | Choice, list[Any]]]:
    known = _paper_options()
    for name in given:
        if name not in known:
            near = nearest(str(name), known)
            raise ConfigError(f"synthesis: effect 'paper': no option '{name}'{near}; options: {', '.join(known)}")
    values = {**_DEFAULTS, **given}
    return {name: (option, _range("paper", name, option, values[name])) for name, option in known.items()}
