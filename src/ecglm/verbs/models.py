"""Verbs: recipes → models, and their answers to one recording."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, UseAppendAction

from ecglm.errors import ConfigError, EcglmError
from ecglm.verbs.common import say, tell

#: What makes fewer tokens of an ECG, of the representations whose number is not an option.
_FEWER = {
    "symbols": "symbols.max_ecg_tokens, symbols.rate or its number of leads",
    "anyres": "the tiles of anyres.grids, or the size of the pictures",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _TrainOptions:
    """out: folder of the run. limit: at most so many training questions. dev: six steps on 64 questions."""

    out: Path = Path("runs")
    limit: int | None = None
    dev: bool = False
    overwrite: bool = False


def _recipe(args: list[str], verb: str) -> tuple[Any, _TrainOptions]:
    """A recipe file, with ``--section.field value`` laid over it, and the options of the verb."""
    from ecglm import config
    from ecglm.training.recipe import SECTIONS, RagConfig, Recipe
    from ecglm.verbs.align import is_alignment

    usage = f"usage: ecglm {verb} RECIPE.yaml [--out DIR] [--limit N] [--dev] [--overwrite] [--section.field value …]"
    if not args or args[0].startswith("-"):
        if not {"-h", "--help"} & set(args):
            raise EcglmError(f"the recipe comes first; {usage}")
        tell([usage, f"ecglm {verb} RECIPE.yaml --help lists every field of the recipe with its value"])
        raise SystemExit(0)
    if verb != "validate" and is_alignment(args[0]):
        raise ConfigError(f"{args[0]}: a recipe of an alignment, which begins with a checkpoint; run ecglm align on it")
    recipe = config.load(args[0], Recipe)
    both = dataclasses.make_dataclass(
        "Arguments",
        [
            ("recipe", Annotated[Recipe, tyro.conf.arg(name="")]),
            ("run", Annotated[_TrainOptions, tyro.conf.arg(name="")]),
        ],
    )
    options = _TrainOptions(out=Path("runs") / recipe.name)
    given = {a[2:].partition(".")[0] for a in args[1:] if a.startswith("--") and "." in a}
    named = given & SECTIONS.keys()
    # The representation has been chosen: the options are that one's, not a choice of subcommands.
    try:
        chosen: dict[str, Any] = {n: SECTIONS[n].Options() for n in named if getattr(recipe, n) is None}
        if "rag" in given and recipe.rag is None:
            chosen["rag"] = RagConfig(index="")
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
    return config.from_dict(Recipe, config.to_dict(found.recipe), f"ecglm {verb} {args[0]}"), found.run


def train_(args: list[str]) -> None:
    """Train a recipe."""
    from ecglm.training.check import check_machine, check_recipe

    recipe, run = _recipe(args, "train")
    check_machine(recipe.train)  # told in seconds, before the libraries that train are loaded
    check_recipe(recipe)
    from ecglm.training.run import train

    limit = run.limit
    if run.dev:
        limit = 64 if limit is None else limit
        short = dataclasses.replace(
            recipe.train, max_steps=6, max_epochs=None, warmup_steps=2, warmup_share=None, log_every=1, eval_every=3
        )
        recipe = dataclasses.replace(recipe, train=short)
    result = train(recipe, run.out, overwrite=run.overwrite, limit=limit, say=say)
    from ecglm.training.distributed import ranks

    if not ranks().main:  # one process of several speaks
        return
    reused = " (was complete already, reused)" if result.reused else ""
    say(f"best: step {result.best_step}, validation loss {result.val_loss:.4f}{reused}")
    say(f"checkpoint: {result.best}")


def validate(args: list[str]) -> None:
    """Read a recipe and everything it names, and say what would be trained."""
    from ecglm.verbs.align import is_alignment, validate_alignment
    from ecglm.verbs.pretraining import is_pretraining, validate_pretraining

    if args and is_pretraining(args[0]):
        validate_pretraining(args)
        return
    if args and is_alignment(args[0]):
        validate_alignment(args)
        return
    recipe, _ = _recipe(args, "validate")
    from ecglm.training.check import check_machine, check_recipe, check_room

    check_recipe(recipe)
    try:
        check_machine(recipe.train)
    except EcglmError as error:  # it may well be there on the machine that trains
        say(f"not on this machine: {error}")
    from ecglm.conversations.table import read_conversations
    from ecglm.models.towers import known_name
    from ecglm.prompts.data import EcgSource
    from ecglm.prompts.pictures import PictureFiles, picture_id
    from ecglm.store.reader import SegmentStore
    from ecglm.training.run import representation_of

    stores = [SegmentStore(s) for s in recipe.data.stores]
    rows = [c for f in recipe.data.files for c in read_conversations(f, task=recipe.data.tasks or None)]
    held, images = {r for s in stores for r in s.records()}, recipe.data.images
    pictures = PictureFiles(images)

    def there(row: Any) -> bool:
        picture = picture_id(row) if images else None
        return all(e in held for e in row.ecgs) if picture is None else pictures.holds(picture)

    lacking = "ECGs that no store holds" + (", or picture files that no folder holds" if images else "")
    for split in ("train", "val", "test"):
        found = [c for c in rows if c.split == split]
        missing = sum(not there(c) for c in found)
        say(f"{split}: {len(found)} questions" + (f", {missing} on {lacking}" if missing else ""))
        if split != "test" and len(found) == missing:
            tasks = f" of the tasks {', '.join(recipe.data.tasks)}" if recipe.data.tasks else ""
            raise EcglmError(f"data: no question{tasks} in split '{split}' on an ECG of these stores; name others")
    if recipe.rag is not None:
        from ecglm.training.rag import rag_line

        say(rag_line(recipe, rows))
    usable = [c for c in rows if c.split == "train" and c.ecgs and there(c)]
    representation = representation_of(recipe, stores, usable)
    if representation.input_shape is not None:
        shape = " x ".join(map(str, representation.input_shape))
        each = "each tile of an ECG" if getattr(representation, "tiled", False) else "each ECG"
        say(f"encoder {known_name(recipe.model)} reads {shape} of {each}")
    if usable:
        ecgs = EcgSource(stores, representation, images)
        first = ecgs.shown(usable[0])[0]
        shown = ecgs.encode(first)
        words = f" and {len(shown.text.split())} words" if shown.text else ""
        tiles = 1 if shown.tiles is None or shown.tensor is None else len(shown.tensor)
        say(f"{first} takes {len(shown.token_ids)} ECG tokens{words}" + (f", {tiles} tiles" if tiles > 1 else ""))
        check_room(recipe, len(shown.token_ids), _FEWER.get(recipe.representation, "the tokens of an ECG"))
        from ecglm.training.memory_recipe import learning_line, memory_lines

        say(learning_line(recipe, representation))
        tell(memory_lines(recipe, usable, representation, len(shown.token_ids), tiles))
    named = recipe.model.start_from or recipe.model.llm
    say(f"{recipe.name}: {recipe.shown}, {named}, {recipe.train.length}: valid")


for _function in (train_, validate):
    _function.reads_arguments = True  # type: ignore[attr-defined]


def ask(
    question: Positional[str],
    model: Path,
    ecg: UseAppendAction[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE")]],
    rate: float | None = None,
    leads: str | None = None,
    units: Literal["mV", "uV", "V"] | None = None,
    dataset: str | None = None,
    max_new_tokens: int = 128,
    rag: Path | None = None,
) -> None:
    """Ask a trained model about an ECG. For research only.

    Args:
        question: what to ask.
        model: checkpoint folder or hub id.
        ecg: recording (WFDB, .mat, .npy, .npz, .csv, .h5), or, for a model of pictures, also a picture of one (.png,
            .jpg, .webp, .bmp, .gif, .tiff); give it several times for questions that compare.
        rate: samples per second, for files that do not say.
        leads: names of the rows, I,II,III,…, or "standard", for files that do not say.
        units: of the samples, for files that do not say.
        dataset: which one to read of an HDF5 file that holds several.
        max_new_tokens: longest answer.
        rag: an index (ecglm index build); the prompt tells of its ECGs that are most like the ones shown, as the model
            learned.
    """
    from ecglm.models.assistant import load
    from ecglm.records.formats import read
    from ecglm.records.picture_files import is_picture, read_picture

    if max_new_tokens < 1:
        raise EcglmError(f"max_new_tokens must be 1 or more, found {max_new_tokens}")
    if not ecg:
        raise EcglmError("no recording; say which with --ecg FILE")
    shown = [
        read_picture(file) if is_picture(file) else read(file, rate=rate, leads=leads, units=units, dataset=dataset)
        for file in ecg
    ]
    assistant = load(model)
    found = () if rag is None else _retrieve(assistant, rag, shown)
    say(assistant.ask(shown, question, max_new_tokens=max_new_tokens, retrieved=found))
    if rag is not None:
        told = ", ".join(f"{hit.segment_id} (distance {hit.distance:.3g})" for hit in found)
        say(f"retrieved: {told or 'nothing'}")
    elif (learned := assistant.bundle.rag) is not None:
        say(f"this model learned with retrieved ECGs ({learned.said()}) and is asked without; --rag gives them")


def _retrieve(assistant: Any, folder: Path, shown: list[Any]) -> Any:
    """The neighbours of the recordings that are asked about."""
    from ecglm.prompts.retrieved import RagOptions
    from ecglm.retrieval.index import Index
    from ecglm.retrieval.neighbours import nearest_to
    from ecglm.types import Record

    if not all(isinstance(ecg, Record) for ecg in shown):
        raise EcglmError("--rag searches by the signal, and a picture has none; give the ECG as a signal file")
    index, options = Index.load(folder), assistant.bundle.rag or RagOptions()
    options.check(index.feature_names, index.has_reports)
    return nearest_to(index, shown, k=options.k)
