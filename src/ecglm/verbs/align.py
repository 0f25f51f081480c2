"""Verb: a trained model learns what is preferred, or what is rewarded."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import tyro

from ecglm.errors import ConfigError, EcglmError
from ecglm.verbs.common import say, tell

#: Keys that recipes of an alignment alone have.
_ALIGNING = frozenset({"method", "beta", "label_smoothing", "mean", "grpo"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class _AlignOptions:
    """out: folder of the run. limit: at most so many training pairs or questions. dev: six steps on 64 of them."""

    out: Path = Path("runs")
    limit: int | None = None
    dev: bool = False
    overwrite: bool = False


def is_alignment(path: str) -> bool:
    """Whether a recipe file is one for ``ecglm align``: its model is a checkpoint folder, not a section, and it names a
    method or preferences, which no other recipe has.
    """
    found = _plain(path)
    if not isinstance(found.get("model"), str):
        return False
    data = found.get("data")
    return bool(_ALIGNING & found.keys()) or (isinstance(data, dict) and "pairs" in data)


def _plain(path: str) -> dict[Any, Any]:
    """What a recipe file holds, unchecked; nothing where it cannot be read: whoever reads it next says so."""
    import yaml

    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def read_recipe(args: list[str], verb: str) -> tuple[Any, _AlignOptions]:
    """A recipe of an alignment, with ``--section.field value`` laid over it, and the options of the verb."""
    from ecglm import config
    from ecglm.training.align_recipe import AlignRecipe, GrpoConfig, LoraConfig

    usage = f"usage: ecglm {verb} RECIPE.yaml [--out DIR] [--limit N] [--dev] [--overwrite] [--section.field value …]"
    if not args or args[0].startswith("-"):
        if not {"-h", "--help"} & set(args):
            raise EcglmError(f"the recipe comes first; {usage}")
        tell([usage, f"ecglm {verb} RECIPE.yaml --help lists every field of the recipe with its value"])
        raise SystemExit(0)
    if isinstance(_plain(args[0]).get("model"), dict):
        raise ConfigError(
            f"{args[0]}: model is a section, as in a recipe of ecglm train; one of ecglm align names the checkpoint "
            "folder it begins with, as recipes/align/dpo.yaml does"
        )
    recipe = config.load(args[0], AlignRecipe)
    both = dataclasses.make_dataclass(
        "Arguments",
        [
            ("recipe", Annotated[AlignRecipe, tyro.conf.arg(name="")]),
            ("run", Annotated[_AlignOptions, tyro.conf.arg(name="")]),
        ],
    )
    options = _AlignOptions(out=Path("runs") / recipe.name)
    named = {a[2:].partition(".")[0] for a in args[1:] if a.startswith("--") and "." in a}
    kinds: dict[str, type[Any]] = {"lora": LoraConfig, "grpo": GrpoConfig}
    try:
        chosen: dict[str, Any] = {n: kinds[n]() for n in sorted(named & kinds.keys()) if getattr(recipe, n) is None}
        if chosen:  # by the command line
            recipe = dataclasses.replace(recipe, **chosen)
        with _one_line():
            found: Any = tyro.cli(
                both,
                args=args[1:],
                default=both(recipe, options),
                prog=f"ecglm {verb} {args[0]}",
                config=(tyro.conf.AvoidSubcommands,),
            )
    except ValueError as error:  # what a recipe's own checks say of fields that are sound one by one
        raise ConfigError(f"ecglm {verb} {args[0]}: {error}") from error
    # Read back once more: what YAML refuses (nan, say) is refused on the command line too.
    return config.from_dict(AlignRecipe, config.to_dict(found.recipe), f"ecglm {verb} {args[0]}"), found.run


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """ValueError with the words of a recipe's own check, where tyro would draw a box around them and end."""
    boxed = io.StringIO()
    try:
        with contextlib.redirect_stderr(boxed):
            yield
    except SystemExit as stopped:
        cause = stopped.__context__
        if isinstance(cause, ValueError):
            raise cause from None
        if isinstance(getattr(cause, "arg", None), str):  # a section, not a word that cannot be read as its type
            raise ValueError(getattr(cause, "message", cause)) from None
        sys.stderr.write(boxed.getvalue())
        raise


def align_(args: list[str]) -> None:
    """Teach a trained model what is preferred, or rewarded."""
    recipe, run = read_recipe(args, "align")
    from ecglm.training.align_recipe import short
    from ecglm.training.check import check_machine

    check_machine(recipe.train)  # told in seconds, before the libraries that train are loaded
    limit = run.limit
    if limit is not None and limit < 1:
        raise ConfigError(f"--limit must be 1 or more, found {limit}")
    if run.dev:
        limit = 64 if limit is None else limit
        recipe = short(recipe)
    if recipe.method == "grpo":
        from ecglm.verbs.rewarding import align_by_rewards

        result = align_by_rewards(recipe, run.out, overwrite=run.overwrite, limit=limit)
    else:
        from ecglm.training.align import align

        result = align(recipe, run.out, overwrite=run.overwrite, limit=limit, say=say)
    from ecglm.training.distributed import ranks

    if not ranks().main:  # one process of several speaks
        return
    reused = " (was complete already, reused)" if result.reused else ""
    say(f"best: step {result.best_step}, validation loss {result.val_loss:.4f}{reused}")
    tell(f"  {name}: {value:.4g}" for name, value in result.told.items())
    say(f"checkpoint: {result.best}")


def validate_alignment(args: list[str]) -> None:
    """Read a recipe of an alignment and everything it names but weights, and say what would be learned from."""
    from ecglm.training.align_check import align_plan
    from ecglm.training.check import check_machine

    recipe, _ = read_recipe(args, "validate")
    try:
        check_machine(recipe.train)
    except EcglmError as error:  # it may well be there on the machine that trains
        say(f"not on this machine: {error}")
    if recipe.method == "grpo":
        from ecglm.verbs.rewarding import validate_rewards

        validate_rewards(recipe)
        return
    plan = align_plan(recipe)
    tell(plan.lines())
    say(f"train: {plan.val.count(False)} pairs, val: {plan.val.count(True)}")
    kind = "LoRA" if recipe.lora is not None else "whole weights"
    say(f"{recipe.name}: {recipe.method}, beta {recipe.beta:g}, {kind}, {recipe.train.length}: valid")


align_.reads_arguments = True  # type: ignore[attr-defined]
