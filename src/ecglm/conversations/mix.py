"""``ecglm mix``: several conversations files → one, with weights, one split per patient, and no row twice."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecglm.conversations.mix_plan import REASONS, MixInput, Rows, choose, draw, official_claims, scan
from ecglm.conversations.outcomes import NotAsked, Outcome, SetAside
from ecglm.conversations.table import (
    KIND,
    SCHEMA,
    conversation_of,
    conversations_fingerprint,
    is_finished,
    log_path,
    manifest_path,
    write_conversations,
)
from ecglm.errors import EcglmError, TornOutputError
from ecglm.files import file_sha256, fingerprint, read_manifest
from ecglm.store.reader import SegmentStore
from ecglm.types import SPLITS, Conversation

#: Raised whenever the same inputs would give another mix.
VERSION = 1
#: Rows that are shuffled in memory at a time.
BUCKET = 50_000
_PLACE = pa.schema([("position", pa.int64()), ("copy", pa.int64()), ("source", pa.int64()), ("number", pa.int64())])


def mix(
    inputs: Sequence[MixInput],
    out: str | Path,
    *,
    stores: Sequence[SegmentStore] = (),
    splits: Mapping[str, str] | None = None,
    seed: int = 0,
    dedupe: bool = True,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Mix conversations files into ``out``, an ordinary conversations file; returns its manifest.

    A patient (and an ECG) has one split across all inputs: where they disagree test wins, then validation, and the rows
    lost to it are left out, counted by reason and listed in ``<out>.set_aside.jsonl``. With ``stores`` their official
    folds and splits have a say as well. ``splits`` (patient id → split, such as ``fold_splits`` gives) replaces the
    rows' own splits; a file that is all test stays so, and a row without ECG keeps its own. dedupe: of rows with the
    same ECGs and the same words only the first stays, training and validation rows across all inputs, test rows within
    their corpus.

    Training rows are drawn by weight and cap and shuffled by ``seed``; a second copy of a row has ``~2`` behind its id.
    Metadata gain ``mixed_from`` (the first 16 digits of the input file's sha256). Memory: some 60 bytes a row, and
    ``BUCKET`` rows of text. Raises EcglmError for a row without split, for two rows of one id (two variants of one
    corpus, which must not stand beside each other), and for an input that is not whole.
    """
    paths = [Path(given.path) for given in inputs]
    if not inputs:
        raise EcglmError(f"{out}: nothing to mix; name at least one conversations file")
    target = Path(out)
    if any(path.resolve() == target.resolve() for path in paths):
        raise EcglmError(f"{out}: is one of the files to mix; choose another --out")
    prints = [conversations_fingerprint(path) for path in paths]
    settings: dict[str, Any] = {
        "mix": VERSION,
        "weights": [given.weight for given in inputs],
        "caps": [given.cap for given in inputs],
        "seed": seed,
        "dedupe": dedupe,
        "splits": fingerprint(dict(splits)) if splits is not None else None,
        "split_plan": getattr(splits, "plan", None),
    }
    made_from = {f"data{n or ''}": sha for n, sha in enumerate(prints)}
    made_from |= {f"store{n or ''}": store.fingerprint for n, store in enumerate(stores)}
    if is_finished(target, settings, made_from, overwrite=overwrite):
        return read_manifest(manifest_path(target), KIND)
    for path, sha in zip(paths, prints, strict=True):
        if file_sha256(path) != sha:
            raise TornOutputError(f"{path}: is not the file its manifest was written for; make it again")
    rows, torn = scan(paths, splits)
    reason = choose(rows, torn, official_claims(stores), dedupe)
    chosen, copies = draw(rows, reason, inputs, seed)
    _check_ids(rows, chosen, paths)
    facts = {
        "mixed": [_account(n, inputs[n], prints[n], rows, reason, chosen, copies) for n in range(len(inputs))],
        "corpora": _corpora(rows, chosen),
        "num_unknown": rows.num_unknown,
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tmp-mix-", dir=target.parent) as folder:
        stream = _outcomes(paths, prints, rows, reason, chosen, copies, Path(folder))
        return write_conversations(target, stream, settings, made_from, overwrite=overwrite, facts=facts)


def _account(
    number: int, given: MixInput, sha: str, rows: Rows, reason: np.ndarray, chosen: np.ndarray, copies: np.ndarray
) -> dict[str, Any]:
    """What became of one input: rows = kept + dropped + not drawn, and how many copies were added."""
    mine = rows.input == number
    drawn, first = mine[chosen], copies == 0
    dropped = Counter(REASONS[code] for code in reason[mine & (reason > 0)])
    kept = Counter(SPLITS[code] for code in rows.split[chosen[drawn & first]])
    return {
        "file": Path(given.path).name,
        "sha256": sha,
        "weight": given.weight,
        "cap": given.cap,
        "rows": int(mine.sum()),
        "kept": dict(sorted(kept.items())),
        "dropped": dict(sorted(dropped.items())),
        "not_drawn": int((mine & (reason == 0)).sum() - (drawn & first).sum()),
        "copies": int((drawn & ~first).sum()),
    }


def _corpora(rows: Rows, chosen: np.ndarray) -> dict[str, dict[str, int]]:
    """Corpus → split → rows in the mix, copies counted."""
    counts: dict[str, dict[str, int]] = {}
    pairs, numbers = np.unique(rows.corpus[chosen].astype(np.int64) * 3 + rows.split[chosen], return_counts=True)
    for pair, number in zip(pairs.tolist(), numbers.tolist(), strict=True):
        counts.setdefault(rows.corpora[pair // 3], {})[SPLITS[pair % 3]] = number
    return dict(sorted(counts.items()))


def _check_ids(rows: Rows, chosen: np.ndarray, paths: Sequence[Path]) -> None:
    used = np.unique(chosen)
    order = used[np.argsort(rows.ids[used], kind="stable")]
    again = np.flatnonzero(rows.ids[order][1:] == rows.ids[order][:-1])
    if len(again):
        one, other = (int(order[again[0] + k]) for k in (0, 1))
        name = _id_of(other, rows, paths)
        files = " and ".join(dict.fromkeys(paths[int(rows.input[row])].name for row in (one, other)))
        raise EcglmError(
            f"{len(again)} ids stand twice, with other words or ECGs (first: {name}, in {files}); two wordings of one "
            "corpus must not be mixed as if they were independent: leave one out"
        )


def _id_of(row: int, rows: Rows, paths: Sequence[Path]) -> str:
    number = int(rows.input[row])
    local = row - int(np.searchsorted(rows.input, number))
    return str(pq.read_table(paths[number], columns=["id"], partitioning=None).column("id")[local])


def _outcomes(
    paths: Sequence[Path],
    prints: Sequence[str],
    rows: Rows,
    reason: np.ndarray,
    chosen: np.ndarray,
    copies: np.ndarray,
    folder: Path,
) -> Iterator[Outcome]:
    """The mix as a stream: what is left out while the inputs are read, then the rows in their order."""
    yield from _spill(paths, rows, reason, chosen, copies, folder)
    left = int((reason == 0).sum()) - len(np.unique(chosen))
    if left:
        yield NotAsked("not_drawn", left)
    for file in sorted(folder.glob("*.arrow")):
        with pa.OSFile(str(file)) as handle, pa.ipc.open_stream(handle) as reader:
            table = reader.read_all()
        table = table.sort_by("position")
        for batch in table.to_batches(max_chunksize=4096):
            for row in batch.to_pylist():
                source, split = row["source"], SPLITS[int(rows.split[row["number"]])]
                yield _mixed(row, paths[source], prints[source], split)
        file.unlink()


def _spill(
    paths: Sequence[Path], rows: Rows, reason: np.ndarray, chosen: np.ndarray, copies: np.ndarray, folder: Path
) -> Iterator[SetAside]:
    """Read the inputs once and put every chosen row into the file of its bucket; yields what is left out."""
    order = np.argsort(chosen, kind="stable")
    by_row = chosen[order]
    writers: dict[int, pa.RecordBatchStreamWriter] = {}
    schema = pa.schema([*SCHEMA, *_PLACE])
    row = 0
    try:
        for number, path in enumerate(paths):
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=8192):
                    table = pa.table(batch).select(SCHEMA.names)
                    stop = row + len(table)
                    yield from _left_out(table, reason[row:stop], path)
                    entries = order[np.searchsorted(by_row, row) : np.searchsorted(by_row, stop)]
                    for bucket in np.unique(entries // BUCKET).tolist():
                        mine = entries[entries // BUCKET == bucket]
                        place = (mine, copies[mine], np.full(len(mine), number), chosen[mine])
                        taken = table.take(pa.array(chosen[mine] - row))
                        columns = [*taken.columns, *(pa.array(column, pa.int64()) for column in place)]
                        if bucket not in writers:
                            writers[bucket] = pa.ipc.new_stream(str(folder / f"{bucket:06d}.arrow"), schema)
                        writers[bucket].write_table(pa.table(columns, schema=schema))
                    row = stop
    finally:
        for writer in writers.values():
            writer.close()


def _left_out(table: pa.Table, reason: np.ndarray, path: Path) -> Iterator[SetAside]:
    at = np.flatnonzero(reason)
    lost = table.select(["id", "split", "ecgs", "patients"]).take(pa.array(at)).to_pylist()
    for row, code in zip(lost, reason[at].tolist(), strict=True):
        about = ", ".join(row["patients"]) or "no ECG"
        yield SetAside(row["id"], REASONS[code], f"{path.name}: {row['split'] or 'no split'}, {about}")


def _mixed(row: Mapping[str, Any], path: Path, sha: str, split: str) -> Conversation:
    conversation = conversation_of(row, path, row["position"])
    copy = f"~{row['copy'] + 1}" if row["copy"] else ""
    metadata = {**conversation.metadata, "mixed_from": sha[:16]}
    return replace(conversation, id=conversation.id + copy, split=split, metadata=metadata)


def lines(manifest: Mapping[str, Any], out: str | Path) -> list[str]:
    """What became of each input, for people; and where the mix lies."""
    told = []
    for part in manifest["mixed"]:
        kept = ", ".join(f"{split} {part['kept'][split]}" for split in SPLITS if split in part["kept"]) or "nothing"
        line = f"{part['file']} × {part['weight']:g}: {part['rows']} rows, kept {kept}"
        for name, count in (("copies", part["copies"]), ("not drawn", part["not_drawn"]), *part["dropped"].items()):
            line += f", {name} {count}" if count else ""
        told.append(line)
    for corpus, sizes in manifest["corpora"].items():
        told.append(f"{corpus}: " + ", ".join(f"{split} {sizes[split]}" for split in SPLITS if split in sizes))
    if manifest["num_unknown"]:
        told.append(f"{manifest['num_unknown']} ECGs have no patient id: each counts as a patient of its own")
    if any(part["dropped"] for part in manifest["mixed"]):
        told.append(f"left out: {log_path(out, 'set_aside')}")
    return [*told, f"conversations: {out}"]
