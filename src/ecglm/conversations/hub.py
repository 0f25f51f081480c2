"""Conversations as a Hugging Face dataset: a folder of Parquet and a dataset card, to and from the hub."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecglm.conversations.card import dataset_card
from ecglm.conversations.table import (
    KIND,
    SCHEMA,
    conversation_of,
    conversations_fingerprint,
    manifest_path,
    read_rows,
    write_conversations,
)
from ecglm.errors import EcglmError, StaleOutputError, TornOutputError, hub_errors
from ecglm.files import MANIFEST, atomic_dir, file_sha256, inside, read_manifest, write_manifest, write_text
from ecglm.types import SPLITS, Conversation

FOLDER_KIND = "conversations-dataset"
#: Our split → the name that ``datasets`` knows it by.
HUB_SPLITS = {"train": "train", "val": "validation", "test": "test", "": "unassigned"}
ROWS_PER_FILE = 200_000
_ALLOWED = ("*.parquet", "*.json", "*.md")
#: Corpora whose licence lets anybody pass them on, with that licence.
FREE = {
    "labels": "as the recordings' own labels",
    "ecg-qa-ptbxl": "CC BY 4.0",
    "ecg-qa-mimic": "CC BY 4.0; the recordings' ids and labels ODbL 1.0",
    "ecg-reasoning": "MIT; made from PTB-XL (CC BY 4.0) and MIMIC-IV-ECG (ODbL 1.0)",
}
#: Corpora that state no licence, or whose licence stands only on their own page.
NOT_FREE = {
    "ecg-expert-qa": "none stated: not to be passed on",
    "ecg-instruct-45k": "none stated",
    "pretrain-mimic": "none stated; made from MIMIC-IV-ECG (ODbL 1.0)",
    "ecg-instruct-pulse": "as its page says",
    "ecgbench": "as its page says",
    "ecg-grounding": "as its page says",
    "ecg-grounding-pulse": "as its page says",
    "ecg-grounding-test": "as its page says",
}


def export_dataset(
    file: str | Path, folder: str | Path, *, allow: Collection[str] = (), overwrite: bool = False
) -> Path:
    """Write a conversations file as a folder that ``datasets.load_dataset(folder)`` reads: Parquet per split, a card.

    Raises EcglmError for a corpus that must not be passed on, unless ``allow`` names it (a folder for oneself), and
    for a folder that is there already and not ours, or not to be overwritten.
    """
    source, target = Path(file), Path(folder)
    sha = conversations_fingerprint(source)
    if file_sha256(source) != sha:
        raise TornOutputError(f"{source}: is not the file its manifest was written for; make it again")
    manifest = read_manifest(manifest_path(source), KIND)
    counts, origins = _contents(source)
    _check_licences({corpus for corpus, _ in counts}, allow, source)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        ours = (target / MANIFEST).exists() and read_manifest(target, FOLDER_KIND)
        if ours and ours["inputs"] == {"data": sha} and not overwrite:
            return target
        if not ours or not overwrite:
            mend = "use --overwrite to replace it, or another folder" if ours else "choose another folder"
            raise StaleOutputError(f"{target}: holds something else; {mend}")
    with atomic_dir(target) as temporary:
        (temporary / "data").mkdir()
        outputs = _write_parts(source, temporary, manifest["splits"])
        write_text(temporary / "README.md", dataset_card(manifest, sha, counts, origins, FREE | NOT_FREE))
        outputs["README.md"] = file_sha256(temporary / "README.md")
        facts = {"made_by": manifest["settings"], "made_from": manifest["inputs"], "splits": manifest["splits"]}
        write_manifest(temporary / MANIFEST, FOLDER_KIND, {}, {"data": sha}, outputs, **facts)
    return target


def push_dataset(
    file: str | Path, repo_id: str, *, private: bool = True, allow: Collection[str] = (), revision: str | None = None
) -> str:
    """Upload a conversations file to the hub as a dataset; returns its address.

    The token is read from the environment (``HF_TOKEN``). Raises EcglmError without one, for a corpus that must not be
    passed on (unless ``allow`` names it), and when the hub refuses.
    """
    from huggingface_hub import HfApi

    token = os.environ.get("HF_TOKEN")
    if not token:
        raise EcglmError("no HF_TOKEN in the environment; make a token with write access on the hub and set it")
    with tempfile.TemporaryDirectory(prefix="ecglm-push-") as temporary:
        folder = export_dataset(file, Path(temporary) / "dataset", allow=allow)
        api = HfApi(token=token)
        try:
            api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
            told = api.upload_folder(
                repo_id=repo_id,
                folder_path=str(folder),
                repo_type="dataset",
                revision=revision,
                commit_message=f"conversations {conversations_fingerprint(file)[:16]}",
                delete_patterns=["data/*.parquet"],
            )
        except hub_errors() as error:
            raise EcglmError(f"{repo_id}: the hub refused ({_line(error)}); check name and token") from error
    return str(told.repo_url if hasattr(told, "repo_url") else told)


def pull_dataset(
    source: str, out: str | Path, *, revision: str | None = None, overwrite: bool = False
) -> dict[str, Any]:
    """A dataset folder, or a dataset of the hub, as a conversations file; returns its manifest.

    Only Parquet, JSON and Markdown files are fetched, nothing is executed, and every row is checked as it is written.
    Raises TornOutputError when a file differs from the dataset's own manifest, and EcglmError when there is no such
    dataset or its columns are not those of conversations.
    """
    if Path(source).is_dir():
        return _read_folder(Path(source), source, out, overwrite)
    from huggingface_hub import snapshot_download

    with tempfile.TemporaryDirectory(prefix="ecglm-pull-") as temporary:
        try:
            token = os.environ.get("HF_TOKEN") or False
            snapshot_download(
                source,
                repo_type="dataset",
                revision=revision,
                allow_patterns=list(_ALLOWED),
                local_dir=temporary,
                token=token,
            )
        except hub_errors() as error:
            raise EcglmError(
                f"{source}: no such dataset folder, and not to be had from the hub ({_line(error)})"
            ) from error
        return _read_folder(Path(temporary), source, out, overwrite)


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}…"


def _check_licences(corpora: set[str], allow: Collection[str], source: Path) -> None:
    for corpus in sorted(corpora):
        if corpus not in FREE and corpus not in allow:
            licence = NOT_FREE.get(corpus, "not known here")
            raise EcglmError(
                f"{source}: corpus '{corpus}' may not be passed on (licence: {licence}); leave it out of the mix, or, "
                f"if you have the right, say --allow {corpus}"
            )


def _contents(file: Path) -> tuple[Counter[tuple[str, str]], Counter[str]]:
    """((corpus, split) → rows, dataset of the recordings → rows that show one of them)."""
    counts: Counter[tuple[str, str]] = Counter()
    origins: Counter[str] = Counter()
    with pq.ParquetFile(file) as opened:
        for batch in opened.iter_batches(batch_size=8192, columns=["corpus", "split", "ecgs"]):
            corpora, splits, ecgs = (batch.column(n).to_pylist() for n in ("corpus", "split", "ecgs"))
            counts.update(zip(corpora, splits, strict=True))
            for row in ecgs:
                origins.update({record.partition("/")[0] for record in row})
    return counts, origins


def _write_parts(source: Path, folder: Path, splits: Mapping[str, int]) -> dict[str, str]:
    """``data/<split>-00000-of-00001.parquet`` …; returns name → sha256."""
    outputs: dict[str, str] = {}
    for split, total in splits.items():
        num_parts = -(-total // ROWS_PER_FILE)
        rows = _batches(source, split)
        left = next(rows, None)
        for part in range(num_parts):
            name = f"data/{HUB_SPLITS[split]}-{part:05d}-of-{num_parts:05d}.parquet"
            space = ROWS_PER_FILE
            with pq.ParquetWriter(folder / name, SCHEMA, compression="zstd") as writer:
                while left is not None and space:
                    writer.write_table(left[:space])
                    taken = min(space, len(left))
                    space, left = space - taken, left[taken:] if taken < len(left) else next(rows, None)
            outputs[name] = file_sha256(folder / name)
    return outputs


def _batches(source: Path, split: str) -> Iterator[pa.Table]:
    with pq.ParquetFile(source) as file:
        for batch in file.iter_batches(batch_size=8192):
            table = pa.table(batch).select(SCHEMA.names).replace_schema_metadata(None)
            mask = pc.equal(table.column("split"), split)
            table = table.filter(mask)
            if len(table):
                yield table


def _read_folder(folder: Path, source: str, out: str | Path, overwrite: bool) -> dict[str, Any]:
    files = sorted((folder / "data").glob("*.parquet"))
    order = {name: place for place, name in enumerate((*(HUB_SPLITS[s] for s in SPLITS), HUB_SPLITS[""]))}
    files.sort(key=lambda path: (order.get(path.name.split("-")[0], len(order)), path.name))
    if not files:
        raise EcglmError(f"{source}: no data/*.parquet here; not a dataset of conversations")
    for path in files:
        inside(folder, path, source)
    settings: dict[str, Any] = {"pulled": True}
    if (folder / MANIFEST).exists():
        manifest = read_manifest(folder, FOLDER_KIND)
        settings |= {"made_by": manifest["made_by"], "made_from": manifest["made_from"]}
        for name, sha in manifest["outputs"].items():
            path = inside(folder, folder / name, source)
            if not path.is_file() or file_sha256(path) != sha:
                raise TornOutputError(f"{source}: {name} is missing or differs from its manifest; get it again")
        known = set(manifest["outputs"])
        for path in files:
            if path.relative_to(folder).as_posix() not in known:
                raise TornOutputError(f"{source}: {path.name} is not in its manifest; get it again")
    inputs = {path.name: file_sha256(path) for path in files}
    return write_conversations(out, _rows(files, source), settings, inputs, overwrite=overwrite)


def _rows(files: list[Path], source: str) -> Iterator[Conversation]:
    for path in files:
        for number, row in enumerate(read_rows(path)):
            yield conversation_of(row, Path(f"{source}/data/{path.name}"), number)
