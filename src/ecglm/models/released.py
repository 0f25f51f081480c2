"""Released weight files, read as data and never as a program: safetensors, or PyTorch's zip format by its weights-only
loader."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from huggingface_hub import HfApi, hf_hub_download
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from ecglm.errors import EcglmError, UnsafeInputError, hub_errors, nearest

SAFE, PICKLED = (".safetensors",), (".pt", ".pth", ".bin")
MAX_PROGRAM = 64 << 20  # bytes of the pickle beside the tensors' own bytes; released ones have some kilobytes
#: Where a training script puts the weights among other things.
WRAPPERS = ("model", "state_dict", "model_state_dict")
PREFIXES = ("module.", "_orig_mod.")
_DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    AssertionError,
    RuntimeError,
)


def find_weights(source: str | Path, file: str | None = None) -> Path:
    """The weights file that ``source`` names: a file, a folder with one such file, or a hub id, from which that one
    file alone is downloaded. file: its name, where there are several. Raises EcglmError naming those it found.
    """
    path = Path(source)
    if path.is_file():
        return path
    if path.is_dir():
        names = [p.relative_to(path).as_posix() for p in sorted(path.rglob("*")) if p.is_file()]
        return path / _choose(names, file, str(path))
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) or path.suffix in (*SAFE, *PICKLED):
        raise EcglmError(f"{source}: no such file or folder, and no hub id (owner/name)")
    name = str(source)
    try:
        return Path(hf_hub_download(name, _choose(HfApi().list_repo_files(name), file, name)))
    except hub_errors() as error:
        raise EcglmError(f"{name}: no such file, and not to be had from the hub: {_first_line(error)}") from error


def _choose(names: list[str], file: str | None, where: str) -> str:
    """The weights file among ``names``; safetensors before others when nothing else tells them apart."""
    fitting = [n for n in names if n.lower().endswith((*SAFE, *PICKLED))]
    if file is not None:
        if file not in fitting:
            raise EcglmError(f"{where}: no weights file '{file}'{nearest(file, fitting)}; it has {', '.join(fitting)}")
        return file
    safe = [n for n in fitting if n.lower().endswith(SAFE)]
    if len(safe) == 1 or len(fitting) == 1:
        return (safe if len(safe) == 1 else fitting)[0]
    if not fitting:
        raise EcglmError(f"{where}: no weights file there ({', '.join((*SAFE, *PICKLED))})")
    raise EcglmError(f"{where}: several weights files; choose one with --file: {', '.join(fitting)}")


def read_released(path: str | Path, *, mapped: bool = False) -> tuple[dict[str, torch.Tensor], list[str]]:
    """``(tensors, left out)`` of a weights file: its state dict, taken out of what a training script wrapped around it,
    and the names of what lay beside it or is no tensor. mapped: values stay on the disk until they are used.

    Raises UnsafeInputError for a file that could do more than hold tensors, EcglmError for one that is damaged.
    """
    path = Path(path)
    if path.suffix.lower() in SAFE:
        try:
            found: Any = _mapped(path) if mapped else load_file(path)
        except (OSError, SafetensorError) as error:
            raise EcglmError(f"{path}: cannot be read as safetensors ({_first_line(error)}); fetch it again") from error
    elif path.suffix.lower() in PICKLED:
        _check_zip(path)
        found = _load(path, mapped)
    else:
        raise EcglmError(f"{path}: no weights file by its name; {', '.join((*SAFE, *PICKLED))} are read")
    return _unwrap(found, path)


def _check_zip(path: Path) -> None:
    """A zip of stored members, none larger than the file: nothing can unfold into more than lies on the disk."""
    with path.open("rb") as handle:
        start = handle.read(4)
    if not zipfile.is_zipfile(path) or start != b"PK\x03\x04":  # torch would read a zip behind a pickle as the pickle
        if start[:2] == b"PK":
            raise EcglmError(f"{path}: damaged or cut short; fetch it again")
        raise UnsafeInputError(
            f"{path}: not PyTorch's zip format but a bare pickle or something else; refused. Have it saved again as "
            "safetensors, or by a current PyTorch"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise EcglmError(f"{path}: damaged or cut short ({_first_line(error)}); fetch it again") from error
    packed = [m.filename for m in members if m.compress_type != zipfile.ZIP_STORED]
    if packed or sum(m.file_size for m in members) > path.stat().st_size:
        raise UnsafeInputError(f"{path}: holds compressed or overlapping members, which PyTorch never writes; refused")
    program = [m for m in members if m.filename.endswith("data.pkl")]
    if len(program) != 1 or program[0].file_size > MAX_PROGRAM:
        raise UnsafeInputError(f"{path}: not one list of tensors of a usual size; refused")


def _mapped(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, "pt") as file:  # type: ignore[no-untyped-call]
        return {name: file.get_tensor(name) for name in file.keys()}


def _load(path: Path, mapped: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except torch.serialization.pickle.UnpicklingError as error:  # type: ignore[attr-defined]  # the name alone
        _refuse(path, str(error), error)
    except _DAMAGED as error:
        raise EcglmError(f"{path}: damaged or no weights file ({_first_line(error)}); fetch it again") from error


def _refuse(path: Path, said: str, error: Exception) -> NoReturn:
    what = re.search(r"(?:GLOBAL|Unsupported global:|global)\s+([\w.]+\.[\w.]+)", said)
    holds = f"holds '{what[1]}'" if what else "holds more than tensors"
    raise UnsafeInputError(
        f"{path}: {holds}, which weights do not need and which could run code; refused. Have the state dict alone "
        "saved as safetensors"
    ) from error


def _unwrap(found: Any, path: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    beside: list[str] = []
    for _ in range(3):
        inner = next((w for w in WRAPPERS if isinstance(found, Mapping) and isinstance(found.get(w), Mapping)), None)
        if inner is None:
            break
        beside += [str(k) for k in found if k != inner]
        found = found[inner]
    if not isinstance(found, Mapping):
        raise EcglmError(f"{path}: holds a {type(found).__name__}, not tensors by name")
    tensors = {str(k): v for k, v in found.items() if isinstance(v, torch.Tensor)}
    beside += [str(k) for k in found if str(k) not in tensors]
    if not tensors:
        raise EcglmError(f"{path}: holds no tensors by name")
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise EcglmError(f"{path}: {name} is sparse or quantised; plain weights are read")
        if tensor.is_meta:
            raise EcglmError(f"{path}: {name} has a shape but no values; have it saved again with its weights")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise UnsafeInputError(f"{path}: {name} claims more values than the file holds; refused")
    for prefix in PREFIXES:
        if all(k.startswith(prefix) for k in tensors):
            tensors = {k.removeprefix(prefix): v for k, v in tensors.items()}
    return tensors, beside


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
