"""Conversations on disk, written and read as streams: Parquet, a reject log and a manifest beside the file."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ecglm.conversations.messages import check_turns
from ecglm.conversations.outcomes import MapResult as MapResult
from ecglm.conversations.outcomes import NotAsked as NotAsked
from ecglm.conversations.outcomes import Outcome as Outcome
from ecglm.conversations.outcomes import Reject as Reject
from ecglm.conversations.outcomes import SetAside as SetAside
from ecglm.conversations.outcomes import Tally
from ecglm.conversations.outcomes import collect as collect
from ecglm.conversations.seen import Seen
from ecglm.errors import EcglmError, RejectedRecord, StaleOutputError, TornOutputError
from ecglm.files import (
    atomic_path,
    canonical_json,
    file_sha256,
    plan_fingerprint,
    read_json,
    read_manifest,
    write_manifest,
)
from ecglm.types import SPLITS, Conversation, Turn

KIND = "conversations"
_TURN = pa.struct([("role", pa.string()), ("text", pa.string())])
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("corpus", pa.string()),
        ("task", pa.string()),
        ("split", pa.string()),
        ("ecgs", pa.list_(pa.string())),
        ("patients", pa.list_(pa.string())),
        ("turns", pa.list_(_TURN)),
        ("source_id", pa.string()),
        ("metadata", pa.string()),
    ]
)
_PLAN = b"ecglm.plan"  # in the Parquet file itself: tells an unfinished output of ours from somebody else's file
#: A row group ends after so many rows, or so many characters of text: this bounds the memory of both ends.
ROW_GROUP, ROW_GROUP_CHARACTERS = 10_000, 1 << 25


def check_rejects(manifest: Mapping[str, Any], path: str | Path, max_reject: float = 0.05) -> None:
    """Raise EcglmError when more than this fraction of the items behind a conversations file was rejected."""
    reasons, total = manifest.get("rejected", {}), manifest.get("counts", {}).get("in", 0)
    if (rejected := sum(reasons.values())) > max_reject * max(total, 1):
        raise EcglmError(
            f"{rejected} of {total} items were rejected ({', '.join(sorted(reasons))}), more than the allowed "
            f"{max_reject:.1%}; see {log_path(path, 'rejects')}, or raise --max-reject"
        )


def manifest_path(path: str | Path) -> Path:
    """``<file>.manifest.json``: it is written last, so its presence means the conversations are complete."""
    return Path(f"{path}.manifest.json")


def log_path(path: str | Path, name: str) -> Path:
    """``<file>.rejects.jsonl`` or ``<file>.set_aside.jsonl``."""
    return Path(f"{path}.{name}.jsonl")


def is_finished(
    path: str | Path, settings: Mapping[str, Any], inputs: Mapping[str, Any], *, overwrite: bool = False
) -> bool:
    """Whether ``path`` holds complete conversations made from these inputs with these settings.

    Raises StaleOutputError when it was made with others (unless ``overwrite``), and EcglmError, even then, when
    the file is not one of ours.
    """
    target = Path(path)
    if not target.exists():
        return False
    plan = plan_fingerprint(KIND, settings, inputs)
    finished = manifest_path(target).exists()
    if overwrite:
        if not finished:
            _plan_in_file(target)
        return False
    manifest = read_json(manifest_path(target)) if finished else {"fingerprint": _plan_in_file(target)}
    if not isinstance(manifest, dict) or manifest.get("fingerprint") != plan:
        raise StaleOutputError(
            f"{target}: made with other settings or from other inputs; use --overwrite to replace it, or another --out"
        )
    return finished and file_sha256(target) == manifest["outputs"].get(target.name)


def _plan_in_file(path: Path) -> str:
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (pa.ArrowInvalid, OSError) as error:
        raise EcglmError(f"{path}: not made by ecglm, will not be overwritten; choose another --out") from error
    if _PLAN not in metadata:
        raise EcglmError(f"{path}: not made by ecglm, will not be overwritten; choose another --out")
    return metadata[_PLAN].decode()


def write_conversations(
    path: str | Path,
    outcomes: Iterable[Outcome] | MapResult,
    settings: Mapping[str, Any],
    inputs: Mapping[str, Any],
    *,
    overwrite: bool = False,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write conversations to ``path`` (Parquet) and return the manifest; the same input gives the same bytes.

    A list of conversations is written as it is. A stream of outcomes (or a MapResult) is written as it comes, in row
    groups, with memory for one of them: its counts go into the manifest (``in`` = ``mapped`` + every reason), rejects
    and items set aside into ``<file>.rejects.jsonl`` and ``<file>.set_aside.jsonl``. facts: more for the manifest,
    read when the stream has ended. A finished output with the same settings and inputs is reused as it is; then the
    stream is not even begun.
    Raises StaleOutputError (see ``is_finished``) and EcglmError for no conversation at all, a duplicate id, or a
    conversation that breaks the rules of ``check_turns``.
    """
    target = Path(path)
    if is_finished(target, settings, inputs, overwrite=overwrite):
        return read_manifest(manifest_path(target), KIND)
    plain = isinstance(outcomes, Sequence)
    stream = outcomes.outcomes() if isinstance(outcomes, MapResult) else outcomes
    tally, check = Tally(), _Check(str(target))
    schema = SCHEMA.with_metadata({_PLAN: plan_fingerprint(KIND, settings, inputs).encode()})
    names = () if plain else ("rejects", "set_aside")
    with contextlib.ExitStack() as stack:
        logs: dict[str, IO[str]] = {}
        for name in names:
            temporary = stack.enter_context(atomic_path(log_path(target, name)))
            # what a log quotes may hold a lone surrogate: it is written as JSON escapes it
            logs[name] = stack.enter_context(open(temporary, "w", encoding="utf-8", errors="backslashreplace"))
        file = stack.enter_context(atomic_path(target))
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for group in _row_groups(_counted(stream, tally, check, logs)):
                writer.write_table(_table(group, schema), row_group_size=len(group))
        if not tally.counts["mapped"]:
            raise EcglmError(f"{target}: {_nothing(tally)}")
        manifest_path(target).unlink(missing_ok=True)
    told: dict[str, Any] = {"num_conversations": tally.counts["mapped"], "splits": dict(sorted(tally.splits.items()))}
    if not plain:
        told |= {"counts": tally.counts, "rejected": tally.rejected}
    for stale in {"rejects", "set_aside"} - set(names):
        log_path(target, stale).unlink(missing_ok=True)
    outputs = {file.name: file_sha256(file) for file in (target, *(log_path(target, name) for name in names))}
    return write_manifest(manifest_path(target), KIND, settings, inputs, outputs, **told, **(facts or {}))


def _counted(
    stream: Iterable[Outcome], tally: Tally, check: _Check, logs: Mapping[str, IO[str]]
) -> Iterator[Conversation]:
    """The conversations of a stream; everything is counted, and what is no conversation goes to its log."""
    for outcome in stream:
        tally.add(outcome)
        if isinstance(outcome, Conversation):
            check(outcome)
            yield outcome
        elif not isinstance(outcome, NotAsked):
            log = logs["rejects" if isinstance(outcome, Reject) else "set_aside"]
            log.write(canonical_json(vars(outcome)) + "\n")


def _nothing(tally: Tally) -> str:
    counts = ", ".join(f"{name}: {n}" for name, n in tally.counts.items())
    first = tally.firsts.get(Reject) or tally.firsts.get(SetAside)
    told = f"; the first: {first.item}: {first.detail}" if isinstance(first, Reject | SetAside) else ""
    return f"no conversation to write ({counts}{told}); check that the stores hold the corpus' ECGs"


def _row_groups(conversations: Iterable[Conversation]) -> Iterator[list[Conversation]]:
    group: list[Conversation] = []
    characters = 0
    for conversation in conversations:
        group.append(conversation)
        characters += sum(len(turn.text) for turn in conversation.turns)
        if len(group) >= ROW_GROUP or characters >= ROW_GROUP_CHARACTERS:
            yield group
            group, characters = [], 0
    if group:
        yield group


def _table(group: Sequence[Conversation], schema: pa.Schema) -> pa.Table:
    turns = [turn for conversation in group for turn in conversation.turns]
    offsets = [0]
    for conversation in group:
        offsets.append(offsets[-1] + len(conversation.turns))
    spoken = pa.StructArray.from_arrays(
        [pa.array([t.role for t in turns], pa.string()), pa.array([t.text for t in turns], pa.string())],
        fields=list(_TURN),
    )
    columns = {
        "ecgs": pa.array([list(c.ecgs) for c in group], SCHEMA.field("ecgs").type),
        "patients": pa.array([list(c.patients) for c in group], SCHEMA.field("patients").type),
        "turns": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), spoken),
        "metadata": pa.array([canonical_json(dict(c.metadata)) for c in group], pa.string()),
    }
    for name in ("id", "corpus", "task", "split", "source_id"):
        columns[name] = pa.array([getattr(c, name) for c in group], pa.string())
    return pa.Table.from_arrays([columns[name].cast(schema.field(name).type) for name in schema.names], schema=schema)


class _Check:
    """Raises EcglmError for a conversation that breaks a rule; ``where`` opens the message."""

    def __init__(self, where: str) -> None:
        self.where, self.number, self.seen = where, 0, Seen()

    def __call__(self, conversation: Conversation) -> None:
        number, self.number = self.number, self.number + 1
        place = f"{self.where}, row {number} ({conversation.id or 'no id'})"
        if not conversation.id or not conversation.task:
            raise EcglmError(f"{place}: id and task must not be empty")
        if (first := self.seen.add(conversation.id, number)) is not None:
            raise EcglmError(f"{place}: the id stands twice, first in row {first}; ids must be unique")
        if conversation.split not in (*SPLITS, ""):
            raise EcglmError(f"{place}: split '{conversation.split}' is none of {', '.join(SPLITS)}")
        if len(conversation.patients) != len(conversation.ecgs):
            raise EcglmError(
                f"{place}: {len(conversation.patients)} patients for {len(conversation.ecgs)} ecgs; one each is needed"
            )
        try:
            check_turns(conversation.turns, len(conversation.ecgs))
        except RejectedRecord as error:
            raise EcglmError(f"{place}: field turns: {error}") from error


def iter_conversations(
    path: str | Path,
    *,
    split: str | Collection[str] | None = None,
    task: str | Collection[str] | None = None,
) -> Iterator[Conversation]:
    """Conversations of a file in its order, those of the given split(s) and task(s) only, with bounded memory.

    Raises TornOutputError when the manifest is missing or the file is not the one it was written for, and EcglmError
    naming the row and the field when the content breaks a rule.
    """
    target = Path(path)
    if not target.exists():
        raise EcglmError(f"{target}: no such file; `ecglm map` makes it")
    manifest = read_manifest(manifest_path(target), KIND)
    if file_sha256(target) != manifest["outputs"].get(target.name):
        raise TornOutputError(f"{target}: is not the file its manifest was written for; make it again")
    splits = {split} if isinstance(split, str) else split
    tasks = {task} if isinstance(task, str) else task
    check = _Check(str(target))
    for row in read_rows(target):
        conversation = conversation_of(row, target, check.number)
        check(conversation)
        if (splits is None or conversation.split in splits) and (tasks is None or conversation.task in tasks):
            yield conversation


def read_conversations(
    path: str | Path,
    *,
    split: str | Collection[str] | None = None,
    task: str | Collection[str] | None = None,
    limit: int | None = None,
) -> list[Conversation]:
    """The list of what ``iter_conversations`` gives, at most ``limit``; raises what it raises."""
    kept: list[Conversation] = []
    for conversation in iter_conversations(path, split=split, task=task):
        if limit is not None and len(kept) >= limit:
            break
        kept.append(conversation)
    return kept


def conversations_fingerprint(path: str | Path) -> str:
    """sha256 of a complete conversations file, as its manifest states: what later steps name as their input."""
    if not Path(path).exists():
        raise EcglmError(f"{path}: no such file; `ecglm map` makes it")
    manifest, name = manifest_path(path), Path(path).name
    outputs = read_manifest(manifest, KIND)["outputs"]
    if name not in outputs:
        raise EcglmError(f"{manifest}: tells of {', '.join(outputs)}, not of {name}; give the file its name back")
    return str(outputs[name])


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file as they stand, checked for columns alone. EcglmError for other columns,
    TornOutputError for what cannot be read."""
    try:
        with pq.ParquetFile(path) as file:
            _check_schema(file.schema_arrow, path)
            for batch in file.iter_batches(batch_size=4096):
                yield from batch.to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise TornOutputError(f"{path}: cannot be read as Parquet ({str(error).splitlines()[0]})") from error


def _check_schema(schema: pa.Schema, path: Path) -> None:
    for wanted in SCHEMA:
        index = schema.get_field_index(wanted.name)
        if index < 0:
            raise EcglmError(f"{path}: column '{wanted.name}' is missing")
        if schema.field(index).type != wanted.type:
            raise EcglmError(
                f"{path}: column '{wanted.name}' is {schema.field(index).type}, {wanted.type} is needed here"
            )
    for name in schema.names:
        if name not in SCHEMA.names:
            raise EcglmError(f"{path}: unknown column '{name}'; known: {', '.join(SCHEMA.names)}")


def conversation_of(row: Mapping[str, Any], path: Path, number: int) -> Conversation:
    """A row as a Conversation. EcglmError naming ``path`` and the row's ``number`` for an empty or broken field."""
    for name, value in row.items():
        parts = value if isinstance(value, list) else []
        inner = [v for part in parts for v in (part.values() if isinstance(part, dict) else [part])]
        if value is None or None in inner:
            raise EcglmError(f"{path}, row {number}: field {name} is empty (null)")
    try:
        metadata = json.loads(row["metadata"])
    except json.JSONDecodeError as error:
        raise EcglmError(f"{path}, row {number}: field metadata is not valid JSON ({error})") from error
    if not isinstance(metadata, dict):
        raise EcglmError(f"{path}, row {number}: field metadata must be a JSON object")
    return Conversation(
        id=row["id"],
        corpus=row["corpus"],
        task=row["task"],
        split=row["split"],
        ecgs=tuple(row["ecgs"]),
        patients=tuple(row["patients"]),
        turns=tuple(Turn(turn["role"], turn["text"]) for turn in row["turns"]),
        source_id=row["source_id"],
        metadata=metadata,
    )
