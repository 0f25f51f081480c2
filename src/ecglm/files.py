"""Atomic writes, manifests, fingerprints, locks, safe file names."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ecglm.errors import EcglmError, StaleOutputError, TornOutputError, UnsafeInputError

MANIFEST = "manifest.json"
MANIFEST_VERSION = 1


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no blanks: the text that fingerprints are taken of. NaN is refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fingerprint(value: Any) -> str:
    """sha256 (hex) of a JSON-able value; equal for equal values whatever the order of keys."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_sha256(path: str | os.PathLike[str]) -> str:
    """sha256 (hex) of a file's bytes, read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


_NOT_WRITABLE = (
    *(errno.EACCES, errno.EROFS, errno.EPERM, errno.EFBIG, errno.EIO),
    *(errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG),
)


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn what the disk says while writing ``path`` into one line for the user."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EcglmError(f"{path}: no space left on the disk; free some and run the same command again") from error
        if error.errno in _NOT_WRITABLE:
            raise EcglmError(f"{path}: cannot be written ({os.strerror(error.errno)}); choose another --out") from error
        raise


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path in the same folder; renamed over ``path`` (after fsync) when the block ends without error.

    Raises EcglmError when the disk is full or read-only; the temporary file is removed on any error.
    """
    target = Path(path)
    with write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        suffix = f"-{target.name[-40:]}"
        _sweep(target.parent, suffix)
        handle, name = tempfile.mkstemp(prefix=".tmp-", suffix=suffix, dir=target.parent)
        temporary = Path(name)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)  # held as long as we live: a free one was left behind by a kill
            yield temporary
            with open(temporary, "rb+") as written:
                os.fsync(written.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, target)
            _fsync_folder(target.parent)
        finally:
            os.close(handle)
            temporary.unlink(missing_ok=True)


def _sweep(folder: Path, suffix: str) -> None:
    """Remove the temporary files of killed processes that wrote the same file."""
    for name in os.listdir(folder):
        if name.startswith(".tmp-") and name.endswith(suffix):
            with contextlib.suppress(OSError), open(folder / name, "rb") as leftover:
                fcntl.flock(leftover, fcntl.LOCK_EX | fcntl.LOCK_NB)
                (folder / name).unlink()


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a whole file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a whole UTF-8 text file atomically."""
    write_bytes(path, text.encode())


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write indented JSON with sorted keys atomically; NaN and infinity are refused (ValueError)."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Parse a JSON file; EcglmError with the position when it is torn or no JSON, or when a key stands twice."""

    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            seen: set[str] = set()
            twice = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
            raise EcglmError(f"{path}: key '{twice}' stands twice in one object")
        return result

    try:
        with open(path, encoding="utf-8-sig") as handle:
            return json.load(handle, object_pairs_hook=no_duplicates)
    except FileNotFoundError as error:
        raise EcglmError(f"{path}: no such file") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise EcglmError(f"{path}: not valid JSON ({error})") from error
    except RecursionError as error:
        raise EcglmError(f"{path}: JSON nested too deeply to be read") from error


@contextlib.contextmanager
def atomic_dir(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder beside ``path``, renamed to it when the block ends; an existing ``path`` is replaced."""
    target = Path(path)
    with write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".tmp-{target.name[:80]}-", dir=target.parent))
        try:
            yield temporary
            os.chmod(temporary, 0o755)
            for file in sorted(temporary.rglob("*")):
                if file.is_file():
                    with open(file, "rb+") as written:
                        os.fsync(written.fileno())
            if target.exists():
                old = Path(tempfile.mkdtemp(prefix=f".old-{target.name[:80]}-", dir=target.parent))
                os.replace(target, old / "replaced")
                os.replace(temporary, target)
                shutil.rmtree(old)
            else:
                os.replace(temporary, target)
            _fsync_folder(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_manifest(
    path: str | os.PathLike[str],
    kind: str,
    settings: Mapping[str, Any],
    inputs: Mapping[str, Any],
    outputs: Mapping[str, str],
    **facts: Any,
) -> dict[str, Any]:
    """Write a manifest (always the last file of an output) and return it.

    kind: what the output is (``"segment-store"``, ``"conversations"``, ``"checkpoint"`` …). settings: what shaped it;
    inputs: name → fingerprint of what it was made from; outputs: relative file name → sha256. The manifest's own
    ``fingerprint`` is taken of kind, settings and inputs: it is known before the work starts and has no clock in it.
    """
    manifest = {
        "manifest_version": MANIFEST_VERSION,
        "kind": kind,
        "fingerprint": plan_fingerprint(kind, settings, inputs),
        "settings": dict(settings),
        "inputs": dict(inputs),
        "outputs": dict(outputs),
        **facts,
    }
    write_json(path, manifest)
    return manifest


def plan_fingerprint(kind: str, settings: Mapping[str, Any], inputs: Mapping[str, Any]) -> str:
    """The fingerprint a manifest with these facts will carry."""
    return fingerprint({"kind": kind, "settings": dict(settings), "inputs": dict(inputs)})


def read_manifest(path: str | os.PathLike[str], kind: str) -> dict[str, Any]:
    """Read a manifest and check its kind and version. ``path`` is the file, or the folder that holds it.

    Raises TornOutputError when it is missing (the output is unfinished) and EcglmError when it is another kind.
    """
    file = Path(path) / MANIFEST if Path(path).is_dir() else Path(path)
    if not file.exists():
        if not Path(path).exists() and Path(path).suffix != ".json":
            raise EcglmError(f"{path}: no such {kind}")
        raise TornOutputError(
            f"{path}: unfinished or not {_a(kind)} (no {file.name}); run the command that makes it again"
        )
    manifest = read_json(file)
    if not isinstance(manifest, dict) or manifest.get("kind") != kind:
        found = manifest.get("kind") if isinstance(manifest, dict) else type(manifest).__name__
        raise EcglmError(f"{file}: is a '{found}', {_a(kind)} is needed here")
    if manifest.get("manifest_version") != MANIFEST_VERSION:
        raise StaleOutputError(
            f"{file}: made with manifest version {manifest.get('manifest_version')}, this ecglm reads "
            f"{MANIFEST_VERSION}; make it again with --overwrite"
        )
    return manifest


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def check_outputs(folder: Path, kind: str, *, verify: bool = True) -> dict[str, Any]:
    """The manifest of a folder, after a look at each file it names; ``verify`` compares their sha256.

    Raises TornOutputError naming a file that is missing or differs, and what ``read_manifest`` raises.
    """
    manifest = read_manifest(folder, kind)
    for name, digest in manifest["outputs"].items():
        file = folder / name
        if not file.is_file():
            raise TornOutputError(f"{folder}: the {kind} lacks {name}; copy it again, whole")
        if verify and file_sha256(file) != digest:
            raise TornOutputError(f"{file}: differs from the manifest (damaged or edited); copy the {kind} again")
    return manifest


def output_state(path: str | os.PathLike[str], kind: str, plan: str, overwrite: bool) -> str:
    """``"new"``, ``"unfinished"`` (goes on) or ``"finished"`` (is reused) for an output folder and a plan fingerprint.

    The plan of unfinished work stands in ``plan.json``. Raises StaleOutputError when the folder was made with other
    settings or holds something else, unless ``overwrite``: then the folder is emptied.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise StaleOutputError(f"{folder}: is a file, a folder is made here; choose another --out")
    if overwrite and folder.exists():
        if not (folder / MANIFEST).exists() and not (folder / "plan.json").exists() and any(folder.iterdir()):
            raise EcglmError(f"{folder}: not made by ecglm, will not be overwritten; choose another --out")
        _refuse_other_kind(folder, kind)
        shutil.rmtree(folder)
    if not folder.exists() or _contents(folder) <= {"plan.json", "rejects.jsonl"}:
        with write_errors(folder):  # an attempt that ended before its first result binds nobody
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "plan.json", {"kind": kind, "fingerprint": plan})
        return "new"
    finished = (folder / MANIFEST).exists()
    source = folder / (MANIFEST if finished else "plan.json")
    if not source.exists():
        raise StaleOutputError(f"{folder}: exists and is no {kind}; choose another --out")
    found = read_json(source)
    _refuse_other_kind(folder, kind)
    if found.get("fingerprint") != plan:
        raise StaleOutputError(
            f"{folder}: made with other settings or from other inputs; use --overwrite to replace it, or another --out"
        )
    return "finished" if finished else "unfinished"


def _refuse_other_kind(folder: Path, kind: str) -> None:
    """StaleOutputError where ``--overwrite`` would remove another verb's output: a trained run, by a slip of --out."""
    if _contents(folder) <= {"plan.json", "rejects.jsonl"}:
        return
    for name in (MANIFEST, "plan.json"):
        try:
            found = read_json(folder / name).get("kind") if (folder / name).exists() else None
        except EcglmError:  # torn: nothing is lost with it
            found = None
        if found is not None and found != kind:
            raise StaleOutputError(f"{folder}: holds another output ({found}), not {_a(kind)}; choose another --out")


def _contents(folder: Path) -> set[str]:
    """Names in a folder; folders that hold nothing do not count."""
    return {p.name for p in folder.iterdir() if not p.is_dir() or any(p.iterdir())}


def bare_file_name(name: str, context: str) -> str:
    """``name`` if it is a plain file name, else UnsafeInputError: no folders, ``..``, ``~``, drive or NUL in it."""
    bad = not name or name in (".", "..") or name.startswith("~") or any(c in name for c in "/\\\0:")
    if bad:
        raise UnsafeInputError(f"{context}: refuses file name {name!r}; it must be a plain name in the same folder")
    return name


def inside(root: Path, path: Path, context: str) -> Path:
    """``path`` if it stays inside ``root`` once links are followed, else UnsafeInputError."""
    if not path.resolve().is_relative_to(root.resolve()):
        raise UnsafeInputError(f"{context}: {path.name} leads outside its folder; refused")
    return path


def read_jsonl(path: str | os.PathLike[str], *, allow_torn: bool = False) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file. A broken line is an EcglmError, except the last one when ``allow_torn``."""
    rows: list[dict[str, Any]] = []
    data = Path(path).read_bytes()
    lines = data.split(b"\n")
    for number, line in enumerate(lines, 1):
        torn = number == len(lines) and line != b""
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            if torn and allow_torn:
                break
            raise EcglmError(f"{path}, line {number}: not valid JSON ({error})") from error
        except RecursionError as error:
            raise EcglmError(f"{path}, line {number}: JSON nested too deeply to be read") from error
        if not isinstance(row, dict):
            raise EcglmError(f"{path}, line {number}: a JSON object is needed, found {type(row).__name__}")
        if torn and allow_torn:
            break
        rows.append(row)
    return rows


def append_jsonl(path: str | os.PathLike[str], rows: list[dict[str, Any]]) -> None:
    """Append rows with one write and fsync, so that a killed run loses at most this call's rows."""
    target = Path(path)
    text = "".join(json.dumps(row, ensure_ascii=False, sort_keys=True, allow_nan=False) + "\n" for row in rows)
    with write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "ab") as handle:
            handle.write(text.encode())
            handle.flush()
            os.fsync(handle.fileno())


@contextlib.contextmanager
def exclusive_lock(path: str | os.PathLike[str]) -> Iterator[None]:
    """Hold a lock file for the block; EcglmError at once when another process holds it. Freed when a process dies."""
    target = Path(path)
    with write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle = open(target, "a")  # noqa: SIM115 - held for the block
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        handle.close()
        raise EcglmError(
            f"{target.parent}: another process is working here; wait for it or choose another --out"
        ) from error
    if not target.exists() or os.fstat(handle.fileno()).st_ino != target.stat().st_ino:
        handle.close()  # whoever held it before us removed the file between our open and our lock
        raise EcglmError(f"{target.parent}: another process has just finished here; run the command again")
    try:
        yield
    finally:
        target.unlink(missing_ok=True)
        handle.close()


@contextlib.contextmanager
def folder_lock(folder: str | os.PathLike[str]) -> Iterator[None]:
    """One process per output folder. The lock stands beside the folder, whose content is the output's alone."""
    target = Path(folder)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(exclusive_lock(target.parent / f".{target.name}.lock"))
        except EcglmError as error:
            if isinstance(error.__cause__, BlockingIOError):
                raise EcglmError(f"{target}: another process is working on it; wait for it") from error
            raise
        yield
