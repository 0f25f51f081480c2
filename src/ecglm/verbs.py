"""What each verb of the command line does: read its options, make one call, say where the result lies."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, UseAppendAction

from ecglm import registry
from ecglm.errors import ConfigError, EcglmError

Stores = Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DIR [DIR …]")]


def quickstart(
    data: Path | None = None,
    out: Path | None = None,
    seed: int = 0,
    limit: int | None = None,
    dev: bool = False,
    overwrite: bool = False,
) -> None:
    """Train small ELMs, one per representation, and compare them.

    Args:
        data: PTB-XL folder; without it synthetic ECGs are made.
        out: where everything goes; runs/quickstart, or runs/quickstart-ptb-xl with --data.
        seed: of everything random.
        limit: at most so many patients (synthetic) or records.
        dev: a run of seconds that tries the machinery; its numbers mean nothing.
        overwrite: replace an output made with other settings.
    """
    from ecglm.quickstart import quickstart as run

    run(out or "", data=data, seed=seed, limit=limit, dev=dev, overwrite=overwrite, say=_say)


def prepare(
    source: Positional[str],
    out: Path,
    root: Path | None = None,
    pipeline: str = "default",
    rate: int = 250,
    seg_len: int = 2500,
    set: UseAppendAction[tuple[str, ...]] = (),
    workers: int = 1,
    limit: int | None = None,
    dev: bool = False,
    max_reject: float = 0.05,
    overwrite: bool = False,
) -> None:
    """Read every recording of a source, clean it, cut it, store it.

    Args:
        source: name of the source (ecglm ls records).
        out: the store to make.
        root: folder of the recordings, for sources that have one.
        pipeline: signal pipeline (ecglm ls pipelines).
        rate: samples per second of the store, Hz.
        seg_len: samples per segment at that rate.
        set: KEY=VALUE, an option of the source or the pipeline (resolution=500, preset=st, num_patients=100 …).
        workers: processes; the result does not depend on their number.
        limit: the first N records only.
        dev: the first 20 records only, unless --limit says otherwise.
        max_reject: a larger share of rejected records is an error.
        overwrite: replace a store made with other settings.
    """
    from ecglm.signals.pipeline import get_pipeline
    from ecglm.store.prepare import prepare as run

    kind = registry.get("records", source)
    of_source, of_pipeline = _split_options(kind, registry.get("pipelines", pipeline), set)
    if root is not None:
        of_source["root"] = root
    elif any(f.name == "root" for f in dataclasses.fields(kind)):
        raise ConfigError(f"source '{source}' reads files: say where with --root DIR")
    made = get_pipeline(pipeline, rate=rate, seg_len=seg_len, **of_pipeline)
    limit = 20 if dev and limit is None else limit
    summary = run(
        kind(**of_source), made, out, workers=workers, limit=limit, overwrite=overwrite, max_reject=max_reject
    )
    _tell(summary.lines())


def _split_options(source: Any, pipeline: Any, given: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """``KEY=VALUE`` texts to the options of the source and of the pipeline, by name and type."""
    import typing

    from ecglm.config import coerce, describe
    from ecglm.errors import nearest

    known = {f.name: kind for kind in (pipeline, source) for f in dataclasses.fields(kind)}
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


def store_info(store: Positional[Path]) -> None:
    """Say what a store holds.

    Args:
        store: the store's folder.
    """
    from ecglm.store.reader import SegmentStore

    found = SegmentStore(store)
    counts, settings = found.manifest["counts"], found.manifest["settings"]
    patients = len(set(found.index.column("patient_id").to_pylist()))
    _say(f"{len(found)} segments of {found.seg_len / found.rate:g} s at {found.rate} Hz, {patients} patients")
    _say("counts: " + ", ".join(f"{k} {v}" for k, v in sorted(counts.items()) if isinstance(v, int)))
    _say("pipeline: " + ", ".join(f"{k} {v}" for k, v in settings["pipeline"].items()))
    _say(f"fingerprint: {found.fingerprint}")


def store_verify(store: Positional[Path]) -> None:
    """Check every file of a store against its sha256, and the index against the shards.

    Args:
        store: the store's folder.
    """
    from ecglm.store.verify import verify

    _tell(verify(store).lines())


def map_(
    corpus: Positional[str],
    store: Stores,
    out: Path,
    root: Path | None = None,
    tasks: tuple[str, ...] = (),
    variant: Literal["template", "paraphrased"] | None = None,
    seed: int = 0,
    limit: int | None = None,
    dev: bool = False,
    max_reject: float = 0.05,
    overwrite: bool = False,
) -> None:
    """Map a corpus onto the ECGs of one or more stores.

    Args:
        corpus: name of the corpus (ecglm ls conversations).
        store: segment stores that hold its ECGs.
        out: the Parquet file to make.
        root: folder of the corpus' own files, where it has some.
        tasks: only these tasks (corpus labels).
        variant: wording of ECG-QA's questions.
        seed: of phrasings and of splits by patient.
        limit: at most so many records (labels), or items of each split.
        dev: limit 50, unless --limit says otherwise.
        max_reject: a larger share of rejected items is an error.
        overwrite: replace a file made with other settings.
    """
    from ecglm.conversations.make import lines, map_corpus
    from ecglm.store.reader import SegmentStore
    from ecglm.store.splits import assign_splits

    registry.get("conversations", corpus)
    if root is None and corpus != "labels":
        raise ConfigError(f"corpus '{corpus}' reads files: say where with --root DIR")
    stores = [SegmentStore(s) for s in store]
    options: dict[str, Any] = {"limit": 50 if dev and limit is None else limit}
    if corpus == "labels":
        splits = assign_splits(stores, seed=seed)
        _tell(splits.lines())
        options |= {"splits": dict(splits), "seed": seed, "tasks": list(tasks) or None}
    if variant is not None:
        options["variant"] = variant
    made = map_corpus(corpus, stores, out, root=root, overwrite=overwrite, max_reject=max_reject, **options)
    _tell(lines(made, out))


def audit_(data: Positional[Path], store: Stores) -> int:
    """Look for leakage between splits and for sick items.

    Args:
        data: a conversations file.
        store: the stores it was mapped onto.
    """
    from ecglm.conversations.table import read_conversations
    from ecglm.store.audit import audit
    from ecglm.store.reader import SegmentStore

    report = audit(read_conversations(data), [SegmentStore(s) for s in store])
    _tell(report.lines())
    return 0 if report.ok else 1


def tokenizer_train(
    store: Positional[Path],
    out: Path,
    num_merges: int = 3500,
    boundary: Literal["none", "segment", "lead"] = "segment",
    leads: tuple[str, ...] = (),
    rate: int | None = None,
    limit: int = 2000,
    seed: int = 0,
) -> None:
    """Train an ECG-Byte tokenizer (arXiv 2412.14373) on training segments of a store.

    Args:
        store: the store; segments of official validation and test folds are left out.
        out: the JSON file to make.
        num_merges: how many pairs are merged.
        boundary: what no token crosses.
        leads: all twelve, or these.
        rate: Hz to encode at, a divisor of the store's.
        limit: segments drawn.
        seed: of the draw.
    """
    import numpy as np

    from ecglm.representations.symbols import train_symbols
    from ecglm.store.reader import SegmentStore
    from ecglm.store.splits import assign_splits
    from ecglm.types import LEADS

    found = SegmentStore(store)
    splits = assign_splits(found, seed=seed)
    train = [i for i, p in enumerate(found.index.column("patient_id").to_pylist()) if splits[p] == "train"]
    if not train:
        raise EcglmError(f"{store}: no training segments to learn from")
    chosen = sorted(np.random.default_rng(seed).permutation(train)[:limit].tolist())
    made = train_symbols(
        found.take(chosen),
        found.rate,
        leads=leads or LEADS,
        target_rate=rate,
        num_merges=num_merges,
        boundary=boundary,
        seed=seed,
    )
    made.tokenizer.save(out)
    _say(f"{made.tokenizer.vocab_size} ids from {len(chosen)} training segments")
    _say(f"tokenizer: {out}")


def tokenizer_encode(tokenizer: Positional[Path], store: Positional[Path], segment: Positional[int]) -> None:
    """Print the tokens of one segment.

    Args:
        tokenizer: a tokenizer file.
        store: a segment store.
        segment: position of the segment in the store.
    """
    from ecglm.representations.ecg_byte import EcgByte

    tokens = EcgByte.load(tokenizer).encode(_segment(store, segment)[0])
    _say(" ".join(map(str, tokens.ids)))
    _say(
        f"{len(tokens)} tokens for {tokens.shape[0]} × {tokens.shape[1]} samples "
        f"of {tokens.low:.3f} to {tokens.high:.3f} mV"
    )


def render_(
    store: Positional[Path],
    segment: Positional[int],
    out: Path,
    layout: Literal["3x4+1", "3x4", "6x2", "12x1"] = "3x4+1",
) -> None:
    """Draw one segment as ECG paper.

    Args:
        store: a segment store.
        segment: position of the segment in the store.
        out: the PNG file to make.
        layout: how the leads are arranged.
    """
    from ecglm.representations.render import render, save_png

    signal, rate = _segment(store, segment)
    save_png(out, render(signal, rate, layout=layout))
    _say(f"picture: {out}")


def _segment(store: Path, position: int) -> tuple[Any, int]:
    from ecglm.store.reader import SegmentStore

    found = SegmentStore(store)
    if not 0 <= position < len(found):
        raise EcglmError(f"{store}: no segment {position}; it holds 0 to {len(found) - 1}")
    return found[position], found.rate


def predict_(
    model: Path,
    data: Path,
    store: Stores,
    out: Path,
    controls: tuple[str, ...] = ("blank", "noise", "swap"),
    split: str = "test",
    tasks: tuple[str, ...] = (),
    seed: int = 0,
    history: Literal["own", "gold"] = "own",
    batch_size: int = 32,
    max_new_tokens: int = 128,
    limit: int | None = None,
    dev: bool = False,
    overwrite: bool = False,
) -> None:
    """Let a model answer every question of a split, on the true ECG and on each control.

    Args:
        model: checkpoint folder.
        data: conversations file.
        store: the stores that hold its ECGs.
        out: folder for predictions.jsonl.
        controls: what to show in place of the ECG (ecglm ls controls).
        split: which split to answer.
        tasks: all, or these.
        seed: of the controls.
        history: what a later turn sees: the model's own earlier answers, or the reference ones.
        batch_size: conversations at a time; the answers do not depend on it.
        max_new_tokens: longest answer.
        limit: questions about at most so many ECGs.
        dev: questions about at most 4 ECGs, unless --limit says otherwise.
        overwrite: replace predictions made with other settings.
    """
    from ecglm.evaluation.predict import predict

    result = predict(
        model,
        data,
        store,
        out,
        controls=controls,
        split=split,
        tasks=tasks,
        seed=seed,
        history=history,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        limit=4 if dev and limit is None else limit,
        overwrite=overwrite,
        say=_say,
    )
    failed = f", {result.num_failed} failed" if result.num_failed else ""
    _say(f"{result.num_answers} answers{failed}: {result.path / 'predictions.jsonl'}")


def score_(predictions: Positional[Path], num_resamples: int = 2000, seed: int = 0) -> None:
    """Score predictions with patient-bootstrap intervals.

    Args:
        predictions: folder of predictions.jsonl, or the file.
        num_resamples: bootstrap resamples of the patients.
        seed: of the bootstrap.
    """
    from ecglm.evaluation.score import score_file
    from ecglm.evaluation.tables import print_results

    path = score_file(predictions, num_resamples=num_resamples, seed=seed)
    print_results(_runs([predictions]))
    _say(f"scores: {path}")


def report_(predictions: Positional[tuple[Path, ...]], out: Path, store: Stores = ()) -> None:
    """Write a report a clinician can read.

    Args:
        predictions: scored prediction folders, one per model.
        out: the HTML file to make.
        store: segment stores, for pictures of a dozen test ECGs.
    """
    from ecglm.evaluation.cards import make_cards
    from ecglm.evaluation.report import write_report
    from ecglm.prompts.data import EcgSource
    from ecglm.representations.render import render
    from ecglm.store.reader import SegmentStore

    runs, cards = _runs(predictions), []
    if store:
        ecgs = EcgSource([SegmentStore(s) for s in store], None)
        cards = make_cards(runs, lambda r: render(ecgs.segment(r), ecgs.rate(r), size=(1000, 680)))
    _say(f"report: {write_report(out, runs, cards=cards)}")


def compare(predictions: Positional[tuple[Path, ...]]) -> None:
    """Print one table of several models' scores.

    Args:
        predictions: scored prediction folders, one per model.
    """
    from ecglm.evaluation.tables import print_results

    print_results(_runs(predictions))


def _runs(folders: Any) -> list[Any]:
    from ecglm.evaluation.predictions import read_predictions
    from ecglm.evaluation.tables import Run
    from ecglm.files import read_json

    runs = []
    for folder in folders:
        if not folder.exists():
            raise EcglmError(f"{folder}: no such predictions; make them with ecglm predict --out {folder}")
        home = folder if folder.is_dir() else folder.parent
        if not (home / "scores.json").exists():
            raise EcglmError(f"{home}: not scored yet; run ecglm score {home}")
        alone = sum(f.name == folder.name for f in folders) == 1
        name = home.name if alone else str(home)
        runs.append(Run(name=name, scores=read_json(home / "scores.json"), rows=read_predictions(folder)))
    return runs


def ask(
    question: Positional[str],
    model: Path,
    ecg: UseAppendAction[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE")]],
    rate: float | None = None,
    leads: str | None = None,
    units: Literal["mV", "uV", "V"] | None = None,
    max_new_tokens: int = 128,
) -> None:
    """Ask a trained model about a recording. For research only.

    Args:
        question: what to ask.
        model: checkpoint folder or hub id.
        ecg: recording (WFDB, .npy, .npz, .csv); give it several times for questions that compare.
        rate: samples per second, for files that do not say.
        leads: names of the rows, I,II,III,…, or "standard", for files that do not say.
        units: of the samples, for files that do not say.
        max_new_tokens: longest answer.
    """
    from ecglm.models.assistant import load
    from ecglm.records.formats import read

    if max_new_tokens < 1:
        raise EcglmError(f"max_new_tokens must be 1 or more, found {max_new_tokens}")
    if not ecg:
        raise EcglmError("no recording; say which with --ecg FILE")
    records = [read(file, rate=rate, leads=leads, units=units) for file in ecg]
    _say(load(model).ask(records, question, max_new_tokens=max_new_tokens))


def ls(kind: Positional[str | None] = None) -> None:
    """List what can be named: sources, corpora, encoders …

    Args:
        kind: one kind, or all.
    """
    kinds = [kind] if kind else list(registry.HOMES)
    for each in kinds:
        if each not in registry.HOMES:
            registry.get(each, "")
        _say(f"{each}: {', '.join(registry.names(each))}")


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
    from ecglm.training.recipe import Recipe

    usage = f"usage: ecglm {verb} RECIPE.yaml [--out DIR] [--limit N] [--dev] [--overwrite] [--section.field value …]"
    if not args or args[0].startswith("-"):
        if not {"-h", "--help"} & set(args):
            raise EcglmError(f"the recipe comes first; {usage}")
        _tell([usage, f"ecglm {verb} RECIPE.yaml --help lists every field of the recipe with its value"])
        raise SystemExit(0)
    recipe = config.load(args[0], Recipe)
    both = dataclasses.make_dataclass(
        "Arguments",
        [
            ("recipe", Annotated[Recipe, tyro.conf.arg(name="")]),
            ("run", Annotated[_TrainOptions, tyro.conf.arg(name="")]),
        ],
    )
    options = _TrainOptions(out=Path("runs") / recipe.name)
    # The recipe has chosen its representation: the options are that one's, not a choice of subcommands.
    found: Any = tyro.cli(
        both,
        args=args[1:],
        default=both(recipe, options),
        prog=f"ecglm {verb} {args[0]}",
        config=(tyro.conf.AvoidSubcommands,),
    )
    # Read back once more: what YAML refuses (nan, say) is refused on the command line too.
    return config.from_dict(Recipe, config.to_dict(found.recipe), f"ecglm {verb} {args[0]}"), found.run


def train_(args: list[str]) -> None:
    """Train a recipe."""
    from ecglm.training.run import train

    recipe, run = _recipe(args, "train")
    limit = run.limit
    if run.dev:
        limit = 64 if limit is None else limit
        short = dataclasses.replace(recipe.train, max_steps=6, warmup_steps=2, log_every=1, eval_every=3)
        recipe = dataclasses.replace(recipe, train=short)
    result = train(recipe, run.out, overwrite=run.overwrite, limit=limit, say=_say)
    reused = " (was complete already, reused)" if result.reused else ""
    _say(f"best: step {result.best_step}, validation loss {result.val_loss:.4f}{reused}")
    _say(f"checkpoint: {result.best}")


def validate(args: list[str]) -> None:
    """Read a recipe and everything it names, and say what would be trained."""
    from ecglm.conversations.table import read_conversations
    from ecglm.store.reader import SegmentStore

    recipe, _ = _recipe(args, "validate")
    stores = [SegmentStore(s) for s in recipe.data.stores]
    rows = [c for f in recipe.data.files for c in read_conversations(f, task=recipe.data.tasks or None)]
    held = {r for s in stores for r in s.records()}
    for split in ("train", "val", "test"):
        found = [c for c in rows if c.split == split]
        missing = sum(any(e not in held for e in c.ecgs) for c in found)
        _say(f"{split}: {len(found)} questions" + (f", {missing} on ECGs that no store holds" if missing else ""))
    _say(f"{recipe.name}: {recipe.representation}, {recipe.model.llm}, {recipe.train.max_steps} steps: valid")


for _function in (train_, validate):
    _function.reads_arguments = True  # type: ignore[attr-defined]


def _say(text: str) -> None:
    print(text, flush=True)


def _tell(lines: list[str]) -> None:
    for line in lines:
        _say(line)
