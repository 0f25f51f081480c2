"""What the instruction corpora share: their files, source ids, ECGs in the stores, splits by patient, turns."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ecglm.conversations.json_stream import iter_items
from ecglm.conversations.messages import check_metadata, make_turns
from ecglm.conversations.outcomes import Outcome, Reject, SetAside
from ecglm.conversations.resolve import StoreRecords
from ecglm.conversations.seen import Seen
from ecglm.errors import ConfigError, EcglmError, RejectedRecord, nearest
from ecglm.store.splits import hash_split
from ecglm.types import ECG_MARK, Conversation, Turn

DUPLICATES = ("error", "reject", "keep")
#: A file whose first so many items are all malformed is not of the corpus.
GIVE_UP_AFTER = 100
_NOT_OURS = ("malformed_item", "no_turns", "bad_turn", "unknown_ecg_key")


@dataclass(frozen=True)
class Item:
    """An item as its corpus reads it, before its ECGs are looked for.

    pairs: (role as written, value) of each turn. ecgs: record ids. source_id: empty where the item has none: then its
    position stands for it. separator: how a value that is a list of strings is joined. patients: of ECGs that need no
    store (pictures), one for each; empty: an item whose ECGs are in no store is set aside.
    """

    pairs: Sequence[tuple[str, object]]
    ecgs: tuple[str, ...]
    task: str
    source_id: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    separator: str | None = None
    patients: tuple[str, ...] = ()


class Aside(Exception):
    """An item that is set aside under ``reason``."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How the items of a corpus become conversations.

    split: the official split of all items, or empty: then ``splits`` (patient id → split) decides, and for items
    without ECG a hash of ``seed`` and the question, with ``fractions``. duplicates: a source id that stands twice is
    an ``error``, or the later item is ``reject``-ed (``duplicate_id``) or ``keep``-t with its position added to the id.
    """

    corpus: str
    version: int
    split: str = ""
    splits: Mapping[str, str] | None = None
    seed: int = 0
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    limit: int | None = None
    duplicates: str = "error"
    say_signal: bool = False
    strip_prefixes: Sequence[str] = ()
    give_up_after: int = GIVE_UP_AFTER

    def check(self, *, text_only: bool = False) -> None:
        """ConfigError for an unknown ``duplicates`` and for a corpus whose patients have no splits."""
        if self.duplicates not in DUPLICATES:
            closest = nearest(self.duplicates, DUPLICATES)
            raise ConfigError(
                f"{self.corpus}: no rule for duplicates '{self.duplicates}'{closest}; known: {', '.join(DUPLICATES)}"
            )
        if not self.split and self.splits is None and not text_only:
            raise ConfigError(
                f"{self.corpus}: has no official split; give splits (patient id → split), e.g. assign_splits(stores)"
            )


Parse = Callable[[Mapping[str, Any], int], Item]


def map_items(
    stores: Any, sources: Sequence[tuple[str, Iterator[tuple[int, Any]]]], parse: Parse, rules: Rules
) -> Iterator[Outcome]:
    """One outcome for every item of the sources: (name, (position, item) …) each, read one after the other.

    parse: (item, position) → Item; raises RejectedRecord, or Aside. An item whose ECGs are not all in ``stores`` is set
    aside as ``ecg_not_in_store``, one whose ECGs fall into two splits as ``ecgs_in_two_splits``. ``limit`` is for each
    source. Raises EcglmError for a source id that stands twice, a patient without split, and a source that begins with
    nothing but items of another form.
    """
    records = stores if isinstance(stores, StoreRecords) else StoreRecords(stores)
    seen = Seen()
    total = 0
    for name, items in sources:
        good = False
        for position, value in items:
            if rules.limit is not None and position >= rules.limit:
                break
            place = f"{name}[{position}]"
            try:
                if not isinstance(value, dict):
                    raise RejectedRecord("malformed_item", f"an object is needed, found {type(value).__name__}")
                item = parse(value, position)
                good = True
                source_id = item.source_id or (f"{name}#{position}" if len(sources) > 1 else f"#{position}")
                if (first := seen.add(source_id, total)) is not None:
                    source_id = _duplicate(rules, place, source_id, position, first)
                missing = [ecg for ecg in item.ecgs if ecg not in records]
                if missing and not item.patients:
                    raise Aside("ecg_not_in_store", f"in no store: {' and '.join(missing)}")
                yield _conversation(item, source_id, records, rules, place)
            except Aside as aside:
                good = True
                yield SetAside(place, aside.reason, aside.detail)
            except RejectedRecord as error:
                if not good and error.reason in _NOT_OURS and position + 1 >= rules.give_up_after:
                    raise EcglmError(f"{place}: no item of corpus '{rules.corpus}': {error}") from error
                yield Reject(place, error.reason, error.detail)
            except RecursionError:
                yield Reject(place, "malformed_item", "nested too deep")
            total += 1


def corpus_mapper(
    corpus: str, files: Sequence[str], parse: Parse, home: str, *, split: str = "", **rules: Any
) -> Callable[..., Iterator[Outcome]]:
    """The mapper of a corpus that is one file of items; ``split``: its official one, or empty: patients are split.

    files: where the file lies below ``root``, in the order they are tried. home: the module whose ``VERSION`` and
    ``__doc__`` are the mapper's. rules: of ``Rules``, what the corpus fixes.

    The mapper's options: root: the file, its folder, or one above it as ``files`` says. splits: patient id → split,
    where there is no official one. limit: number of items. duplicates: what to do with a source id that stands twice:
    ``error``, ``reject`` or ``keep``. say_signal: the word ``image`` in user turns becomes ``signal``. strip_prefixes:
    cut off the turns, e.g. ``("user:",)``.
    """

    def outcomes(stores: Any, root: str | Path, **chosen: Any) -> Iterator[Outcome]:
        made = Rules(corpus=corpus, version=sys.modules[home].VERSION, split=split, **chosen, **rules)
        made.check()
        yield from map_items(stores, read_files(root, files, corpus), parse, made)

    def official(
        stores: Any,
        *,
        root: str | Path,
        limit: int | None = None,
        duplicates: str = "error",
        say_signal: bool = False,
        strip_prefixes: Sequence[str] = (),
    ) -> Iterator[Outcome]:
        chosen = {"limit": limit, "duplicates": duplicates, "say_signal": say_signal, "strip_prefixes": strip_prefixes}
        return outcomes(stores, root, **chosen)

    def by_patient(
        stores: Any,
        *,
        root: str | Path,
        splits: Mapping[str, str] | None = None,
        limit: int | None = None,
        duplicates: str = "error",
        say_signal: bool = False,
        strip_prefixes: Sequence[str] = (),
    ) -> Iterator[Outcome]:
        chosen = {"limit": limit, "duplicates": duplicates, "say_signal": say_signal, "strip_prefixes": strip_prefixes}
        return outcomes(stores, root, splits=splits, **chosen)

    mapper: Callable[..., Iterator[Outcome]] = official if split else by_patient
    mapper.__module__, mapper.__doc__ = home, sys.modules[home].__doc__
    return mapper


def _duplicate(rules: Rules, place: str, source_id: str, position: int, first: int) -> str:
    told = f"id '{source_id}' stands twice, first as item {first}"
    if rules.duplicates == "error":
        raise EcglmError(f"{place}: {told}; set duplicates to 'reject' (keep the first) or 'keep' (number the others)")
    if rules.duplicates == "reject":
        raise RejectedRecord("duplicate_id", told)
    return f"{source_id}#{position}"


def _conversation(item: Item, source_id: str, records: StoreRecords, rules: Rules, place: str) -> Conversation:
    turns = make_turns(
        item.pairs,
        len(item.ecgs),
        separator=item.separator,
        strip_prefixes=rules.strip_prefixes,
        say_signal=rules.say_signal,
    )
    metadata = {**item.metadata, "version": rules.version}
    check_metadata({"id": source_id, **metadata})
    own = item.patients or item.ecgs
    patients = tuple(records.patient(e) if e in records else p for e, p in zip(item.ecgs, own, strict=True))
    outside = tuple(p for e, p in zip(item.ecgs, patients, strict=True) if e not in records)
    split = rules.split or _split(turns, patients, rules, place, outside)
    return Conversation(
        id=f"{rules.corpus}/{split}/{source_id}",
        corpus=rules.corpus,
        task=item.task,
        split=split,
        ecgs=item.ecgs,
        patients=patients,
        turns=turns,
        source_id=source_id,
        metadata=metadata,
    )


def _split(
    turns: Sequence[Turn], patients: Sequence[str], rules: Rules, place: str, outside: Sequence[str] = ()
) -> str:
    """By patient; a question without ECG by its own words, so that the same question is never in two splits. outside:
    patients whom no store need know: a hash of their id decides, as for those of a store without official splits.
    """
    if not patients:
        question = next(turn.text for turn in turns if turn.role == "user")
        words = " ".join(re.findall(r"\w+", question.replace(ECG_MARK, " ").lower()))
        return hash_split(words, rules.seed, rules.fractions)
    assert rules.splits is not None  # Rules.check
    found = set()
    for patient in patients:
        if patient not in rules.splits and patient in outside:
            found.add(hash_split(patient, rules.seed, rules.fractions))
            continue
        if patient not in rules.splits:
            raise EcglmError(f"{place}: patient {patient} has no split; make the splits again from all stores")
        found.add(rules.splits[patient])
    if len(found) > 1:
        raise Aside("ecgs_in_two_splits", f"patients {' and '.join(patients)} are in {' and '.join(sorted(found))}")
    return found.pop()


def text_of(item: Mapping[str, Any], name: str) -> str:
    """The text of a field that must be there; RejectedRecord ``malformed_item`` naming it otherwise."""
    if not isinstance(value := item.get(name), str) or not value.strip():
        shown = f"found {value!r:.80}" if name in item else f"found only {', '.join(map(str, item))[:120]}"
        raise RejectedRecord("malformed_item", f"field {name} must be text, {shown}")
    return value


def source_id_of(item: Mapping[str, Any], *names: str) -> str:
    """The item's own id, from the first of these fields that is there; empty where none is."""
    for name in names or ("id",):
        if name in item:
            value = item[name]
            if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
                raise RejectedRecord("malformed_item", f"field {name} must be text or a number, found {value!r:.80}")
            return str(value).strip()
    return ""


def is_id(text: str) -> bool:
    """Whether a text is plain digits, not too many for a study, exam or record."""
    return text.isascii() and text.isdigit() and len(text) <= 18


def unknown_key(key: str, what: str) -> RejectedRecord:
    """For an ECG key that no rule of the corpus reads."""
    return RejectedRecord("unknown_ecg_key", f"{key!r:.120}: {what}")


def ptb_xl_record(name: str, key: str) -> str:
    """``00001_hr`` or ``00001`` → ``ptb-xl/00001``."""
    digits = name.split("_", 1)[0]
    if not is_id(digits) or len(digits) > 5:
        raise unknown_key(key, "a PTB-XL record such as 00001_hr is needed")
    return f"ptb-xl/{int(digits):05d}"


def numbered_record(dataset: str, number: str, key: str) -> str:
    """A study or exam number → ``<dataset>/<number>``, without leading zeros."""
    if not is_id(number):
        raise unknown_key(key, f"a number of {dataset} is needed, found {number!r:.40}")
    return f"{dataset}/{int(number)}"


def read_files(root: str | Path, names: Sequence[str], corpus: str) -> list[tuple[str, Iterator[tuple[int, Any]]]]:
    """(name, items) of a corpus' file(s): ``root`` itself, the first of ``names`` below it, or all its Parquet files.

    Where none is there, the one JSON file of the folder. Raises EcglmError naming what was looked for.
    """
    root = Path(root)
    return [(path.name, iter_items(path)) for path in _found(root, names, corpus)]


def _found(root: Path, names: Sequence[str], corpus: str) -> list[Path]:
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise EcglmError(f"{root}: no such file or folder; say with --root where the files of {corpus} lie")
    for name in names:
        if (root / name).is_file():
            return [root / name]
    for folder in (root, root / "data"):
        if parts := visible(folder, ".parquet"):
            return parts
    alone = [p for suffix in (".json", ".jsonl") for p in visible(root, suffix)]
    if len(alone) == 1:
        return alone
    found = f"{len(alone)} JSON files; give one of them as --root" if alone else "no JSON or Parquet file"
    raise EcglmError(f"{root}: no {' or '.join(names)} here, and {found}")


def visible(folder: Path, suffix: str) -> list[Path]:
    """Files of a folder with this suffix, by name, without hidden ones."""
    return sorted(p for p in folder.glob(f"*{suffix}") if p.is_file() and not p.name.startswith("."))
