"""Verbs: encoders, pretrained and judged."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ecglm.errors import ConfigError, EcglmError
from ecglm.verbs.common import Stores, say, tell


@dataclasses.dataclass(frozen=True, kw_only=True)
class _PretrainOptions:
    """out: folder of the run. limit: at most so many segments of each split. dev: six steps on 64 segments."""

    out: Path = Path("runs")
    limit: int | None = None
    dev: bool = False
    overwrite: bool = False


def is_pretraining(path: str) -> bool:
    """Whether a recipe file is one for ``ecglm pretrain``: it has an encoder section of its own at the top."""
    import yaml

    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):  # whoever reads it next says so, with the line
        return False
    return isinstance(found, dict) and isinstance(found.get("encoder"), dict)


def read_recipe(args: list[str], verb: str) -> tuple[Any, _PretrainOptions]:
    """A pretraining recipe, with ``--section.field value`` laid over it, and the options of the verb."""
    from ecglm import config
    from ecglm.training.pretrain_recipe import OBJECTIVES, REPRESENTATIONS, PretrainRecipe, ProbeConfig

    usage = f"usage: ecglm {verb} RECIPE.yaml [--out DIR] [--limit N] [--dev] [--overwrite] [--section.field value …]"
    if not args or args[0].startswith("-"):
        if not {"-h", "--help"} & set(args):
            raise EcglmError(f"the recipe comes first; {usage}")
        tell([usage, f"ecglm {verb} RECIPE.yaml --help lists every field of the recipe with its value"])
        raise SystemExit(0)
    recipe = config.load(args[0], PretrainRecipe)
    both = dataclasses.make_dataclass(
        "Arguments",
        [
            ("recipe", Annotated[PretrainRecipe, tyro.conf.arg(name="")]),
            ("run", Annotated[_PretrainOptions, tyro.conf.arg(name="")]),
        ],
    )
    options = _PretrainOptions(out=Path("runs") / recipe.name)
    named = {a[2:].partition(".")[0] for a in args[1:] if a.startswith("--") and "." in a}
    kinds: dict[str, type[Any]] = {name: kind.Options for name, kind in REPRESENTATIONS.items()}
    kinds |= {name: kind.Options for name, kind in OBJECTIVES.items()}
    kinds["probe"] = ProbeConfig
    try:
        chosen: dict[str, Any] = {n: kinds[n]() for n in named & kinds.keys() if getattr(recipe, n) is None}
        if chosen:  # by the command line
            recipe = dataclasses.replace(recipe, **chosen)
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
    return config.from_dict(PretrainRecipe, config.to_dict(found.recipe), f"ecglm {verb} {args[0]}"), found.run


def pretrain_(args: list[str]) -> None:
    """Pretrain an encoder from a recipe."""
    recipe, run = read_recipe(args, "pretrain")
    from ecglm.training.pretrain_plan import plan_of

    plan_of(recipe)  # what cannot be is told in seconds, before the libraries that train are loaded
    from ecglm.training.pretrain import pretrain

    limit = run.limit
    if run.dev:
        limit = 64 if limit is None else limit
        short = dataclasses.replace(
            recipe.train, max_steps=6, max_epochs=None, warmup_steps=2, warmup_share=None, log_every=1, eval_every=3
        )
        recipe = dataclasses.replace(recipe, train=short)
    result = pretrain(recipe, run.out, overwrite=run.overwrite, limit=limit, say=say)
    reused = " (was complete already, reused)" if result.reused else ""
    say(f"best: step {result.best_step}, validation loss {result.val_loss:.4f}{reused}")
    tell(f"  {name}: {value:.4g}" for name, value in result.judged.items())
    say(f"encoder: {result.best}")
    if recipe.probe is not None:
        _judge(result.best, recipe, run)


def _judge(best: Path, recipe: Any, run: _PretrainOptions) -> None:
    from ecglm.evaluation.judge_encoder import judge_encoder

    asked = recipe.probe
    judged = judge_encoder(
        best,
        asked.stores or recipe.data.stores,
        run.out / "probe",
        groups=asked.groups,
        shares=asked.shares,
        solver=asked.solver,
        zero_shot=asked.zero_shot,
        num_resamples=asked.num_resamples,
        seed=recipe.train.seed,
        split_seed=recipe.data.split_seed,
        overwrite=run.overwrite,
        say=say,
    )
    tell(judged.lines)
    say(f"results: {judged.path}")


def validate_pretraining(args: list[str]) -> None:
    """Read a pretraining recipe and everything it names, and say what would be learned."""
    from ecglm.training.pretrain_data import read_rows
    from ecglm.training.pretrain_plan import make_encoder, make_objective, plan_of
    from ecglm.training.pretrain_recipe import OBJECTIVES

    recipe, _ = read_recipe(args, "validate")
    plan = plan_of(recipe)
    texts = OBJECTIVES[recipe.objective].reads_text
    left_out: Counter[str] = Counter()
    rows = read_rows(plan.stores, recipe.data.files, split_seed=recipe.data.split_seed, texts=texts, left_out=left_out)
    for what, number in sorted(left_out.items()):
        say(f"not read of data.files: {what} {number}")
    for split, found in rows.items():
        without = f", {sum(not r.text for r in found)} without a report" if texts else ""
        say(f"{split}: {len(found)} segments of {len({r.patient_id for r in found})} patients{without}")
    encoder = make_encoder(plan)
    objective = make_objective(plan, encoder, rows["train"], say)
    shape = " x ".join(map(str, plan.representation.input_shape or ()))
    say(f"encoder {plan.name} reads {shape} of each ECG: {sum(p.numel() for p in encoder.parameters()):,} weights")
    learned = sum(p.numel() for p in objective.model.parameters() if p.requires_grad)
    say(f"{recipe.name}: {recipe.objective}, {learned:,} weights learn, {recipe.train.length}: valid")


pretrain_.reads_arguments = True  # type: ignore[attr-defined]


def probe_(
    encoder: Path,
    store: Stores,
    out: Path,
    groups: tuple[str, ...] = (),
    shares: tuple[float, ...] = (0.01, 0.1, 1.0),
    solver: Literal["logistic", "adam"] = "logistic",
    zero_shot: bool = True,
    prompts: Path | None = None,
    num_resamples: int = 2000,
    batch_size: int = 64,
    seed: int = 0,
    split_seed: int = 0,
    device: str = "cpu",
    limit: int | None = None,
    overwrite: bool = False,
) -> None:
    """Judge a frozen encoder on labelled ECGs, beside the same architecture with random weights.

    Args:
        encoder: an encoder folder (ecglm pretrain, ecglm import), or a hub id.
        store: segment stores with labels.
        out: folder for probe.json and probe.md.
        groups: label groups (superclass, subclass, form, rhythm, …); all there are, unless named.
        shares: of the training patients that the linear probe learns from.
        solver: L2 logistic regression to its minimum, or MERL's protocol with Adam.
        zero_shot: classify from class prompts too, where the encoder was pretrained with texts.
        prompts: a YAML file of your own prompts, prompts: {group: {class: text}}.
        num_resamples: of the patient bootstrap behind the intervals.
        batch_size: ECGs at once; the result does not depend on it.
        seed: of the shares, the random weights and the resamples.
        split_seed: of the split of patients without official folds, as in ecglm map --seed.
        device: cpu, or cuda:N.
        limit: the first N records of each split only.
        overwrite: replace results made otherwise.
    """
    from ecglm.evaluation.judge_encoder import judge_encoder

    judged = judge_encoder(
        encoder,
        store,
        out,
        groups=groups,
        shares=shares,
        solver=solver,
        zero_shot=zero_shot,
        prompts=None if prompts is None else _prompts(prompts),
        num_resamples=num_resamples,
        batch_size=batch_size,
        seed=seed,
        split_seed=split_seed,
        limit=limit,
        device=device,
        overwrite=overwrite,
        say=say,
    )
    tell(judged.lines)
    say(f"results: {judged.path}{' (were complete already, reused)' if judged.reused else ''}")


@dataclasses.dataclass(frozen=True)
class _Prompts:
    prompts: dict[str, dict[str, str]]


def _prompts(path: Path) -> dict[str, dict[str, str]]:
    """Group → class → text of a YAML file with the one key ``prompts``."""
    from ecglm import config

    return config.load(path, _Prompts).prompts
