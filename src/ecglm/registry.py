"""Name → thing, by decorator; the only registry of the package."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, TypeVar

from ecglm.errors import ConfigError, nearest

T = TypeVar("T")

#: kind → the package (or module) whose modules register things of that kind when they are imported.
HOMES: dict[str, str] = {
    "records": "ecglm.records",
    "pipelines": "ecglm.signals.pipeline",
    "conversations": "ecglm.conversations",
    "representations": "ecglm.representations",
    "augmentations": "ecglm.representations.augment_effects",
    "encoders": "ecglm.models.encoders",
    "connectors": "ecglm.models.connector",
    "chat_formats": "ecglm.prompts.chat",
    "objectives": "ecglm.training.objectives",
    "metrics": "ecglm.evaluation.metrics",
    "controls": "ecglm.evaluation.controls",
    "rubrics": "ecglm.evaluation.judge.rubric",
    "rewards": "ecglm.evaluation.rewards",
}

_things: dict[str, dict[str, Any]] = {kind: {} for kind in HOMES}
_loaded: set[str] = set()


def register(kind: str, name: str) -> Callable[[T], T]:
    """Decorator: make a class or function known as ``name`` among the things of ``kind``."""

    def wrap(thing: T) -> T:
        if _things[kind].get(name, thing) is not thing:
            raise ConfigError(f"{kind} '{name}' is registered twice")
        _things[kind][name] = thing
        return thing

    return wrap


def _load(kind: str) -> None:
    """Import every module of the kind's home, then other packages' things (entry points ``ecglm.plugins``)."""
    if kind in _loaded:
        return
    home = importlib.import_module(HOMES[kind])
    for module in sorted(m.name for m in pkgutil.iter_modules(getattr(home, "__path__", []))):
        importlib.import_module(f"{HOMES[kind]}.{module}")
    for plugin in entry_points(group="ecglm.plugins"):
        plugin.load()
    _loaded.add(kind)


def _load_one(kind: str, name: str) -> None:
    """Import the module called like the thing, where there is one: the whole home takes seconds."""
    home = importlib.import_module(HOMES[kind])
    module = name.replace("-", "_")
    if module.isidentifier() and any(m.name == module for m in pkgutil.iter_modules(getattr(home, "__path__", []))):
        importlib.import_module(f"{HOMES[kind]}.{module}")


def get(kind: str, name: str) -> Any:
    """The thing called ``name``; ConfigError naming the nearest known name otherwise."""
    if kind not in HOMES:
        raise ConfigError(f"no kind '{kind}'{nearest(kind, HOMES)}; kinds: {', '.join(HOMES)}")
    if name not in _things[kind]:
        _load_one(kind, name)
    if name not in _things[kind]:
        _load(kind)
    if name not in _things[kind]:
        known = names(kind)
        raise ConfigError(f"no {kind} named '{name}'{nearest(name, known)}; known: {', '.join(known)}")
    return _things[kind][name]


def names(kind: str) -> list[str]:
    """Every registered name of a kind, sorted."""
    _load(kind)
    return sorted(_things[kind])
