"""What the verbs share: stores on the command line, KEY=VALUE options, printing."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import tyro

from ecglm.errors import ConfigError, EcglmError, StaleOutputError

Stores = Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DIR [DIR …]")]
#: Stores that stand first on the command line.
FewStores = tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DIR [DIR …]")]]


def split_options(source: Any, pipeline: Any, given: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """``KEY=VALUE`` texts to the options of the source and of the pipeline, by name and type."""
    import typing

    from ecglm.config import coerce, describe
    from ecglm.errors import nearest

    known = {f.name: kind for kind in (pipeline, source) for f in dataclasses.fields(kind) if f.name != "root"}
    found: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or key not in known:
            raise ConfigError(
                f"--set {text}: no option '{key}'{nearest(key, known)}; KEY=VALUE with {', '.join(known)}"
            )
        hint = typing.get_type_hints(known[key])[key]
        for candidate in _readings(value):
            try:
                found[0 if known[key] is source else 1][key] = coerce(candidate, hint)
                break
            except TypeError:
                continue
        else:
            raise ConfigError(f"--set {text}: {key} must be {describe(hint)}")
    return found


def function_options(known: dict[str, Any], hints: dict[str, Any], given: tuple[str, ...]) -> dict[str, Any]:
    """``KEY=VALUE`` texts as options of a function: names and types as its signature has them."""
    from ecglm.config import coerce, describe
    from ecglm.errors import nearest

    found: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or key not in known:
            listed = f"KEY=VALUE with {', '.join(known)}" if known else "there is none to set"
            raise ConfigError(f"--set {text}: no option '{key}'{nearest(key, known)}; {listed}")
        for candidate in _readings(value):
            try:
                found[key] = coerce(candidate, hints[key])
                break
            except TypeError:
                continue
        else:
            raise ConfigError(f"--set {text}: {key} must be {describe(hints[key])}")
    return found


def _readings(value: str) -> list[Any]:
    """What a word on the command line may mean: text, a number, yes or no, a list."""
    readings: list[Any] = []
    for kind in (int, float):
        try:
            readings.append(kind(value))
        except ValueError:
            continue
    if value in ("true", "false"):
        readings.append(value == "true")
    parts = [part for part in value.split(",") if part]
    numbers = [int(p) if p.lstrip("-").isdigit() else p for p in parts]
    return [*readings, value, numbers, parts]


def is_made(out: Path, fingerprint: str, found: Callable[[Path], str], overwrite: bool) -> bool:
    """Whether ``out`` holds this very result; StaleOutputError when it holds another, unless ``overwrite``."""
    if out.is_dir():
        raise EcglmError(f"{out}: is a folder, a file is made here; choose another --out")
    if overwrite or not out.exists():
        return False
    if found(out) != fingerprint:
        raise StaleOutputError(
            f"{out}: made with other settings or from other stores; use --overwrite, or another --out"
        )
    return True


def segment_of(store: Path, position: int) -> tuple[Any, int]:
    """Segment ``position`` of a store, ``(12, seg_len)`` in mV, and its rate in Hz; EcglmError where it has none."""
    from ecglm.store.reader import SegmentStore

    found = SegmentStore(store)
    if not 0 <= position < len(found):
        raise EcglmError(f"{store}: no segment {position}; it holds 0 to {len(found) - 1}")
    return found[position], found.rate


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def tell(lines: Iterable[str]) -> None:
    """Print lines."""
    for line in lines:
        say(line)


def model_name(source: str | Path) -> str:
    """A checkpoint's name for people: its folder's, or that of its run."""
    parts = [p for p in Path(source).parts if p not in (".", "..", "/")] or ["model"]
    name = parts[-2] if parts[-1] in ("best", "last") and len(parts) > 1 else parts[-1]
    return re.sub(r"[^\w.:-]", "-", name)
