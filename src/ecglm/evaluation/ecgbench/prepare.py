"""``ecglm ecgbench prepare``: the nine subsets as ``{subset}.json`` and pictures, in the published layout."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ecglm import files
from ecglm.errors import ConfigError, EcglmError, RejectedRecord, StaleOutputError
from ecglm.evaluation.ecgbench.gold import PATIENTS, GoldItem, gold_item
from ecglm.evaluation.ecgbench.pictures import SIZE, Drawn, Originals, Pictures, drawn_name, safe_name
from ecglm.evaluation.ecgbench.score import patients_of
from ecglm.evaluation.ecgbench.sources import files_fingerprint, find_subsets, read_items, source_folder
from ecglm.evaluation.ecgbench.subsets import SUBSETS, Subset, subsets_named
from ecglm.store.reader import SegmentStore

KIND = "ecgbench-data"
FORMAT = 1
IMAGES = "images"
REJECTS = "rejects.jsonl"
#: What is known of finished subsets while others are still worked on.
_PARTS = "parts"
_EVERY = 200


@dataclass(frozen=True)
class Prepared:
    """What ``prepare`` made. items: subset → number; rejects: subset → reason → number."""

    path: Path
    items: Mapping[str, int]
    rejects: Mapping[str, Mapping[str, int]]

    def lines(self) -> list[str]:
        """One line per subset, for people."""
        found = []
        for name, number in self.items.items():
            left_out = sum(self.rejects[name].values())
            why = ", ".join(f"{reason} {count}" for reason, count in self.rejects[name].items())
            short = f", {SUBSETS[name].rows} are published" if number != SUBSETS[name].rows else ""
            found.append(f"{name}: {number} items" + (f", {left_out} left out ({why})" if left_out else "") + short)
        return found


@dataclass
class _Part:
    """A subset while it is read."""

    rows: list[str] = field(default_factory=list)
    rejects: list[dict[str, Any]] = field(default_factory=list)
    records: set[str] = field(default_factory=set)
    digest: Any = field(default_factory=hashlib.sha256)


def prepare_ecgbench(
    source: str | Path,
    out: str | Path,
    *,
    subsets: Sequence[str] = (),
    stores: Sequence[str | Path] = (),
    pictures: Pictures | None = None,
    seed: int = 0,
    limit: int | None = None,
    revision: str | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> Prepared:
    """Write ``out/{subset}.json`` and ``out/images/<path as in the data>``, items in the dataset's order.

    source: a dataset of the hub, a folder of ``<subset>/*.parquet`` or ``<subset>.json``, or one such file. pictures:
    ``original`` bytes, never re-encoded, or drawn from the recordings in ``stores``: ``clean`` or with the ``pulse``
    synthesis; without a word original, with stores clean. Subsets of photographs, and of recordings of a source that
    no store has, keep their original pictures then; without any they are left out, unless named. Stores also say whose
    the recordings are (``patients.json``). limit: the first so many items of each subset.

    An item that cannot be used is left out, logged in ``rejects.jsonl`` and counted: ``malformed_item``,
    ``missing_id``, ``duplicate_id``, ``turn_order`` …, ``image_missing``, ``image_corrupt``, ``image_too_large``,
    ``image_path_unsafe``, ``image_path_taken`` (another picture has its path), ``ecg_not_in_store``, ``no_recording``.
    A killed run goes on where it was; other subsets may be added later. Raises EcglmError for a source without the
    subsets, and StaleOutputError for a folder made otherwise, unless ``overwrite``.
    """
    chosen = pictures or ("clean" if stores else "original")
    if chosen not in ("original", "clean", "pulse"):
        raise ConfigError(f"--pictures {chosen}: original, clean or pulse")
    if chosen != "original" and not stores:
        raise ConfigError(f"--pictures {chosen} draws recordings; say with --store where they are")
    if limit is not None and limit < 1:
        raise ConfigError("--limit: 1 or more")
    opened = [SegmentStore(store) for store in stores]
    sources = {record.split("/", 1)[0] for store in opened for record in store.records()}
    asked = subsets_named(subsets)
    settings: dict[str, Any] = {"format": FORMAT, "pictures": chosen, "limit": limit}
    if chosen != "original":
        settings |= {"seed": seed, "size": list(SIZE)}
    inputs = {"stores": [store.fingerprint for store in opened]}
    folder = Path(out)
    root = source_folder(str(source), asked, revision)
    found = find_subsets(root, asked, bool(subsets))
    originals, drawn = Originals(root), None if chosen == "original" else Drawn(opened, chosen, seed)
    with files.folder_lock(folder):
        plan = files.plan_fingerprint(KIND, settings, inputs)
        done = _done(folder, files.output_state(folder, KIND, plan, overwrite), plan)
        patients = patients_of(opened)
        for name, paths in found.items():
            sha = files_fingerprint(paths)
            if name in done:
                if done[name]["input"] != sha:
                    raise StaleOutputError(
                        f"{folder}: {name} was made from other files; use --overwrite, or another --out"
                    )
                continue
            subset = SUBSETS[name]
            get = drawn if drawn is not None and subset.source in sources else originals
            if drawn is not None and get is originals:
                say(f"{name}: original pictures, {_why_not_drawn(subset)}")
            _open_again(folder, done, plan)
            part = _subset(subset, paths, folder, get, limit, say)
            if not part.rows:
                if drawn is None or get is drawn or subsets or {r["reason"] for r in part.rejects} != {"image_missing"}:
                    raise EcglmError(f"{name}: no item can be used {_reasons(part)}")
                say(f"{name}: left out, its pictures are not in {root}")
                continue
            files.write_text(folder / f"{name}.json", "[\n" + ",\n".join(part.rows) + "\n]\n")
            files.write_json(folder / _PARTS / f"{name}.json", _facts(folder, name, sha, part))
            done[name] = files.read_json(folder / _PARTS / f"{name}.json")
        if not (folder / files.MANIFEST).exists():
            _finish(folder, settings, inputs, done, patients)
    shown = {name: facts for name, facts in done.items() if name in found}
    return Prepared(
        folder, {name: f["items"] for name, f in shown.items()}, {name: f["reasons"] for name, f in shown.items()}
    )


def _done(folder: Path, state: str, plan: str) -> dict[str, Any]:
    """Subset → what is known of it, of those that are finished."""
    if state == "finished":
        return dict(files.check_outputs(folder, KIND)["subsets"])
    parts = sorted((folder / _PARTS).glob("*.json")) if state == "unfinished" else []
    return {path.stem: files.read_json(path) for path in parts}


def _open_again(folder: Path, done: Mapping[str, Any], plan: str) -> None:
    """Make a finished folder an unfinished one, before a subset is added to it."""
    if (folder / files.MANIFEST).exists():
        for name, facts in done.items():
            files.write_json(folder / _PARTS / f"{name}.json", facts)
        files.write_json(folder / "plan.json", {"kind": KIND, "fingerprint": plan})
        (folder / files.MANIFEST).unlink()


def _subset(
    subset: Subset,
    paths: Sequence[Path],
    folder: Path,
    get: Originals | Drawn,
    limit: int | None,
    say: Callable[[str], None],
) -> _Part:
    """The items that can be used, their pictures written, and those that cannot."""
    part, ids, drawn = _Part(), set[str](), isinstance(get, Drawn)
    for position, value, cell in read_items(paths, with_pictures=not drawn):
        if limit is not None and position >= limit:
            break
        try:
            value = _with_path(value, cell)
            item = gold_item(value, subset)
            if item.id in ids:
                raise RejectedRecord("duplicate_id", f"id '{item.id}' stands in the subset already")
            name = safe_name(item.image)
            name = drawn_name(name) if drawn else name
            text = _row(item, name, value)
            data = _picture(folder / IMAGES / name, get, item, cell, name)
        except RejectedRecord as error:
            told = value.get("id") if isinstance(value, dict) else None
            row = {"subset": subset.name, "position": position, "id": "" if told is None else ascii(told)[:200]}
            part.rejects.append({**row, "reason": error.reason, "detail": error.detail[:300]})
            continue
        ids.add(item.id)
        part.rows.append(text)
        part.digest.update(f"{name}\0{hashlib.sha256(data).hexdigest()}\n".encode())
        if item.record is not None:
            part.records.add(item.record)
        if (position + 1) % _EVERY == 0:
            say(f"{subset.name}: {position + 1} items read, {len(part.rejects)} left out")
    return part


def _reasons(part: _Part) -> str:
    """Why no item could be used, with the first one's own words."""
    reasons = ", ".join(f"{r} {n}" for r, n in Counter(r["reason"] for r in part.rejects).items()) or "it is empty"
    return f"({reasons})" + (f"; first: {part.rejects[0]['detail']}" if part.rejects else "")


def _why_not_drawn(subset: Subset) -> str:
    if not subset.source:
        return "it shows photographs"
    return f"no store has recordings of {subset.source}"


def _with_path(item: Any, cell: Any) -> Any:
    """The item with the path that stands beside its picture's bytes, where it names none itself."""
    if isinstance(item, dict) and isinstance(cell, Mapping) and cell.get("path") and "image_path" not in item:
        return {"image_path": str(cell["path"]), **item}
    return item


def _row(item: GoldItem, name: str, value: Mapping[str, Any]) -> str:
    """An item as a line of ``{subset}.json``: its turns stay as they were."""
    turns = next(value[key] for key in ("conversations", "conversation", "messages") if key in value)
    text = json.dumps({"id": item.id, "image": name, "conversations": turns}, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RejectedRecord("bad_characters", f"a lone surrogate at character {error.start} of the item") from error
    return text


def _picture(target: Path, get: Originals | Drawn, item: GoldItem, cell: Any, name: str) -> bytes:
    """Write a picture unless it is there; RejectedRecord where another one is."""
    there = target.is_file()
    data = get(item, cell, name, target if there else None)
    if there:
        if target.read_bytes() != data:
            raise RejectedRecord("image_path_taken", f"{name}: another item's picture is kept under this path")
        return data
    if target.exists() or any(parent.is_file() for parent in target.parents):
        raise RejectedRecord("image_path_taken", f"{name}: is a folder for other pictures, or goes through a file")
    files.write_bytes(target, data)
    return data


def _facts(folder: Path, name: str, sha: str, part: _Part) -> dict[str, Any]:
    return {
        "input": sha,
        "json": files.file_sha256(folder / f"{name}.json"),
        "images": part.digest.hexdigest(),
        "items": len(part.rows),
        "records": sorted(part.records),
        "reasons": dict(sorted(Counter(row["reason"] for row in part.rejects).items())),
        "rejects": part.rejects,
    }


def _finish(
    folder: Path,
    settings: Mapping[str, Any],
    inputs: Mapping[str, Any],
    done: Mapping[str, Any],
    patients: Mapping[str, str],
) -> None:
    """Rejects, patients, and last the manifest."""
    ordered = {name: done[name] for name in SUBSETS if name in done}
    rejects = [row for facts in ordered.values() for row in facts["rejects"]]
    text = "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rejects)
    files.write_text(folder / REJECTS, text)
    outputs = {f"{name}.json": facts["json"] for name, facts in ordered.items()}
    outputs[REJECTS] = files.file_sha256(folder / REJECTS)
    if inputs["stores"]:
        records = {record for facts in ordered.values() for record in facts["records"]}
        files.write_json(folder / PATIENTS, {r: patients[r] for r in sorted(records) if r in patients})
        outputs[PATIENTS] = files.file_sha256(folder / PATIENTS)
    files.write_manifest(folder / files.MANIFEST, KIND, settings, inputs, outputs, subsets=ordered)
    for name in ordered:
        (folder / _PARTS / f"{name}.json").unlink(missing_ok=True)
    if (folder / _PARTS).is_dir():
        (folder / _PARTS).rmdir()
    (folder / "plan.json").unlink(missing_ok=True)
