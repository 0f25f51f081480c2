"""Conversations on disk: one Parquet row each, a reject log and a manifest beside the file."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ecglm.conversations.messages import check_turns
from ecglm.errors import EcglmError, RejectedRecord, StaleOutputError, TornOutputError
from ecglm.files import (
    atomic_path,
    canonical_json,
    file_sha256,
    plan_fingerprint,
    read_json,
    read_manifest,
    write_manifest,
    write_text,
)
from ecglm.types import SPLITS, Conversation, Turn

KIND = "conversations"
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("corpus", pa.string()),
        ("task", pa.string()),
        ("split", pa.string()),
        ("ecgs", pa.list_(pa.string())),
        ("patients", pa.list_(pa.string())),
        ("turns", pa.list_(pa.struct([("role", pa.string()), ("text", pa.string())]))),
        ("source_id", pa.string()),
        ("metadata", pa.string()),
    ]
)
_PLAN = b"ecglm.plan"  # in the Parquet file itself: tells an unfinished output of ours from somebody else's file


@dataclass(frozen=True)
class MapResult:
    """What mapping a corpus gives.

    counts: ``in`` = ``mapped`` + every reason; each reason is counted once per item. rejected: items that cannot be
    used, ``{"item", "reason", "detail"}``. set_aside: items counted under their own heading that are no rejects
    (a question whose ECG is in no store), same keys; items that were never a question are only in ``counts``.
    """

    conversations: list[Conversation]
    counts: dict[str, int]
    rejected: list[dict[str, str]] = field(default_factory=list)
    set_aside: list[dict[str, str]] = field(default_factory=list)

    def check_rejects(self, max_reject: float = 0.05) -> None:
        """Raise EcglmError when more than this fraction of the items was rejected."""
        if len(self.rejected) > max_reject * max(self.counts["in"], 1):
            reasons = sorted({row["reason"] for row in self.rejected})
            raise EcglmError(
                f"{len(self.rejected)} of {self.counts['in']} items were rejected ({', '.join(reasons)}), more than "
                f"the allowed {max_reject:.1%}; see the reject log, or raise --max-reject"
            )


def manifest_path(path: str | Path) -> Path:
    """``<file>.manifest.json``: it is written last, so its presence means the conversations are complete."""
    return Path(f"{path}.manifest.json")


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
    conversations: Sequence[Conversation] | MapResult,
    settings: Mapping[str, Any],
    inputs: Mapping[str, Any],
    *,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write conversations to ``path`` (Parquet) and return the manifest; the same input gives the same bytes.

    Of a MapResult the counts go into the manifest, and rejects and items set aside into ``<file>.rejects.jsonl``
    and ``<file>.set_aside.jsonl``. A finished output with the same settings and inputs is reused as it is.
    Raises StaleOutputError (see ``is_finished``) and EcglmError for no conversation at all, a duplicate id, or a
    conversation that breaks the rules of ``check_turns``.
    """
    target = Path(path)
    if is_finished(target, settings, inputs, overwrite=overwrite):
        return read_manifest(manifest_path(target), KIND)
    result = conversations if isinstance(conversations, MapResult) else None
    rows = result.conversations if result else list(conversations)  # type: ignore[arg-type]
    if not rows:
        why = f" ({', '.join(f'{name}: {n}' for name, n in result.counts.items())})" if result else ""
        raise EcglmError(f"{target}: no conversation to write{why}; check that the stores hold the corpus' ECGs")
    _check(rows, str(target))
    table = pa.Table.from_pylist([_row(row) for row in rows], schema=SCHEMA)
    table = table.replace_schema_metadata({_PLAN: plan_fingerprint(KIND, settings, inputs).encode()})
    manifest_path(target).unlink(missing_ok=True)
    with atomic_path(target) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=10_000)
    outputs = {target.name: file_sha256(target)}
    facts: dict[str, Any] = {"num_conversations": len(rows), "splits": _count(c.split for c in rows)}
    if result:
        facts["counts"] = result.counts
        for suffix, log in (("rejects", result.rejected), ("set_aside", result.set_aside)):
            log_path = Path(f"{target}.{suffix}.jsonl")
            write_text(log_path, "".join(canonical_json(line) + "\n" for line in log))
            outputs[log_path.name] = file_sha256(log_path)
    return write_manifest(manifest_path(target), KIND, settings, inputs, outputs, **facts)


def _count(values: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return dict(sorted(counts.items()))


def _row(conversation: Conversation) -> dict[str, Any]:
    return {
        "id": conversation.id,
        "corpus": conversation.corpus,
        "task": conversation.task,
        "split": conversation.split,
        "ecgs": list(conversation.ecgs),
        "patients": list(conversation.patients),
        "turns": [{"role": turn.role, "text": turn.text} for turn in conversation.turns],
        "source_id": conversation.source_id,
        "metadata": canonical_json(dict(conversation.metadata)),
    }


def _check(conversations: Sequence[Conversation], where: str) -> None:
    """Raise EcglmError for the first conversation that breaks a rule; ``where`` opens the message."""
    seen: set[str] = set()
    for number, conversation in enumerate(conversations):
        place = f"{where}, row {number} ({conversation.id or 'no id'})"
        if not conversation.id or not conversation.task:
            raise EcglmError(f"{place}: id and task must not be empty")
        if conversation.id in seen:
            raise EcglmError(f"{place}: the id stands twice; ids must be unique")
        seen.add(conversation.id)
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


def read_conversations(
    path: str | Path,
    *,
    split: str | Collection[str] | None = None,
    task: str | Collection[str] | None = None,
    limit: int | None = None,
) -> list[Conversation]:
    """Conversations of a file in its order, those of the given split(s) and task(s) only, at most ``limit``.

    Raises TornOutputError when the manifest is missing or the file is not the one it was written for, and EcglmError
    naming the row and the field when the content breaks a rule.
    """
    target = Path(path)
    if not target.exists():
        raise EcglmError(f"{target}: no such file; `ecglm map` makes it")
    manifest = read_manifest(manifest_path(target), KIND)
    if file_sha256(target) != manifest["outputs"].get(target.name):
        raise TornOutputError(f"{target}: is not the file its manifest was written for; make it again")
    try:
        table = pq.read_table(target, partitioning=None)
    except (pa.ArrowInvalid, OSError) as error:
        raise TornOutputError(f"{target}: cannot be read as Parquet ({str(error).splitlines()[0]})") from error
    _check_schema(table.schema, target)
    conversations = [_conversation(row, target, number) for number, row in enumerate(table.to_pylist())]
    _check(conversations, str(target))
    splits = {split} if isinstance(split, str) else split
    tasks = {task} if isinstance(task, str) else task
    kept = [c for c in conversations if (splits is None or c.split in splits) and (tasks is None or c.task in tasks)]
    return kept if limit is None else kept[:limit]


def conversations_fingerprint(path: str | Path) -> str:
    """sha256 of a complete conversations file, as its manifest states: what later steps name as their input."""
    if not Path(path).exists():
        raise EcglmError(f"{path}: no such file; `ecglm map` makes it")
    return str(read_manifest(manifest_path(path), KIND)["outputs"][Path(path).name])


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


def _conversation(row: Mapping[str, Any], path: Path, number: int) -> Conversation:
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
