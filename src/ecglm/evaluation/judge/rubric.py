"""Rubrics: what a judge is asked, read from YAML. One file in ``rubrics/`` adds one; so does any file of a user."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ecglm import config, files, registry
from ecglm.errors import ConfigError, nearest
from ecglm.registry import register

#: How an item is laid out behind the instruction; see ``prompts.py``.
LAYOUTS = ("report", "turns", "answer")


def norm(key: str) -> str:
    """A key as it is compared: without case, blanks, ``_`` and ``-``."""
    return re.sub(r"[\s_-]+", "", key).casefold()


@dataclass(frozen=True)
class Criterion:
    """One thing that is scored.

    scale: lowest and highest score of an entry. text: what it means and where the scale is anchored. entries ``one``:
    one score per item; ``many``: a list of scores, one per diagnosis, lead …, which become one value by ``value``:
    ``share`` of the highest possible sum in percent, or the plain ``sum``; total: how many entries there can be (12
    leads), where a share is of so many and no item gets more. aliases: other names under which a judge may give it.
    """

    name: str
    text: str
    scale: tuple[float, float] = (0.0, 10.0)
    entries: Literal["one", "many"] = "one"
    value: Literal["share", "sum"] = "share"
    total: int | None = None
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name.strip() or not self.text.strip():
            raise ValueError("a criterion needs a name and a text")
        if not self.name.isprintable() or len(self.name) > 80 or norm(self.name) == "overall":
            raise ValueError(
                f"criterion {self.name[:80]!r}: up to 80 printable letters, and not 'overall' (their mean)"
            )
        if self.scale[0] >= self.scale[1]:
            raise ValueError(f"criterion '{self.name}': scale must be [lowest, highest], found {list(self.scale)}")
        if self.entries == "many" and self.scale[0] != 0:
            raise ValueError(f"criterion '{self.name}': a scale of many entries begins at 0")
        if self.total is not None and (self.total < 1 or self.entries == "one"):
            raise ValueError(f"criterion '{self.name}': total is for many entries, 1 or more")

    @property
    def keys(self) -> set[str]:
        return {norm(name) for name in (self.name, *self.aliases)}


@dataclass(frozen=True)
class Rubric:
    """A rubric. version: raised with every change of what is asked; scores of two versions are never compared."""

    name: str
    version: int
    about: str
    instruction: str
    criteria: tuple[Criterion, ...] = field(default=())
    layout: Literal["report", "turns", "answer"] = "answer"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,39}", self.name):
            raise ValueError(f"name '{self.name[:80]}' must be lower-case letters, digits, - and _ (at most 40)")
        if self.version < 1:
            raise ValueError("version counts from 1")
        if not self.instruction.strip() or not self.criteria:
            raise ValueError("a rubric needs an instruction and at least one criterion")
        seen: dict[str, str] = {}
        for criterion in self.criteria:
            for key in criterion.keys:
                if key in seen:
                    raise ValueError(f"criteria '{seen[key]}' and '{criterion.name}' share the name '{key}'")
                seen[key] = criterion.name

    @property
    def sha256(self) -> str:
        return files.fingerprint(config.to_dict(self))

    def facts(self) -> dict[str, Any]:
        """What names this rubric in outputs."""
        return {"name": self.name, "version": self.version, "sha256": self.sha256}

    @property
    def has_overall(self) -> bool:
        """Whether the criteria have one mean: only single scores do, sums of entries are of different sizes."""
        return all(c.entries == "one" for c in self.criteria)


def read_rubric(path: str | Path) -> Rubric:
    """A rubric from a YAML file. ConfigError, one line, with file, field and line (of a criterion its name)."""
    try:
        return config.load(path, Rubric)
    except ConfigError as error:
        inner = re.fullmatch(r"config, line \d+: (.*)", str(error))  # of a list's entry, whose own line is not known
        if inner is None:
            raise
        raise ConfigError(f"{path}: criteria: {inner[1]}") from error


def rubric_named(name: str) -> Rubric:
    """A packaged or plugged-in rubric by name, or a file by its path (``*.yaml``, ``*.yml``)."""
    if name.endswith((".yaml", ".yml")):
        return read_rubric(name)
    if name not in registry.names("rubrics"):
        known = registry.names("rubrics")
        raise ConfigError(f"no rubric '{name}'{nearest(name, known)}; known: {', '.join(known)}, or a FILE.yaml")
    make: Callable[[], Rubric] = registry.get("rubrics", name)
    return make()


for _file in sorted((Path(__file__).parent / "rubrics").glob("*.yaml")):
    register("rubrics", _file.stem)(partial(read_rubric, _file))

__all__ = ["Criterion", "Rubric", "norm", "read_rubric", "rubric_named"]
