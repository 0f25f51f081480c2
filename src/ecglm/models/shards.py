"""Weights in several files: which files a folder's are in, their tensors without loading them, and writing them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from ecglm.errors import EcglmError
from ecglm.files import bare_file_name, read_json, write_json
from ecglm.models.released import read_released

#: A folder's weights, the safer first: in several files that an index names, or in one.
STEMS = (("model", ".safetensors"), ("pytorch_model", ".bin"))
#: Bytes of a file that is written.
SHARD = 1 << 30


def find_shards(folder: str | Path) -> list[Path]:
    """The weight files of a folder in the library's layout, safetensors before .bin.

    Raises EcglmError naming the files that the index names and the folder lacks, UnsafeInputError for an index that
    leads elsewhere.
    """
    folder = Path(folder)
    for stem, suffix in STEMS:
        index, alone = folder / f"{stem}{suffix}.index.json", folder / f"{stem}{suffix}"
        if index.is_file():
            return _indexed(index)
        if alone.is_file():
            return [alone]
    names = ", ".join(f"{stem}{suffix}" for stem, suffix in STEMS)
    raise EcglmError(f"{folder}: holds no weights ({names}, or several with an index)")


def _indexed(index: Path) -> list[Path]:
    told = read_json(index)
    where = told.get("weight_map") if isinstance(told, dict) else None
    if not isinstance(where, dict) or not where or not all(isinstance(v, str) for v in where.values()):
        raise EcglmError(f"{index}: no weight_map from tensors to files; fetch it again")
    names = sorted({bare_file_name(name, str(index)) for name in where.values()})
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise EcglmError(
            f"{index.parent}: {len(missing)} of {len(names)} weight files are missing: {', '.join(missing)}; fetch them"
        )
    return [index.parent / name for name in names]


def open_shards(files: list[Path]) -> dict[str, torch.Tensor]:
    """Name → tensor of all files; the values stay on the disk until they are used.

    Raises what ``read_released`` raises, and EcglmError for a tensor that is in two files.
    """
    found: dict[str, torch.Tensor] = {}
    for file in files:
        tensors, _ = read_released(file, mapped=True)
        if twice := sorted(found.keys() & tensors.keys()):
            raise EcglmError(f"{file}: {twice[0]} is in another file too; fetch the checkpoint again")
        found |= tensors
    return found


def write_shards(
    tensors: dict[str, torch.Tensor], names: Mapping[str, str], folder: Path, *, most: int = SHARD
) -> list[str]:
    """Write tensors as safetensors, ``model.safetensors`` or several of ``most`` bytes and an index; returns the files.

    names: theirs → the name to write, in the order to write. Each tensor is taken out of ``tensors`` when it is
    written, so that no more than one file's are in memory. The bytes depend on values, names and order alone. Raises
    EcglmError for a value that is not finite.
    """
    groups: list[list[str]] = [[]]
    size = total = 0
    for name in names:
        needed = tensors[name].numel() * tensors[name].element_size()
        if size and size + needed > most:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size, total = size + needed, total + needed
    width = len(groups)
    where: dict[str, str] = {}
    files = []
    for number, group in enumerate(groups, 1):
        file = "model.safetensors" if width == 1 else f"model-{number:05d}-of-{width:05d}.safetensors"
        written = {names[name]: checked(name, tensors.pop(name)) for name in group}
        save_file(written, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(written, file)
        files.append(file)
        del written
    if width > 1:
        index = "model.safetensors.index.json"
        write_json(folder / index, {"metadata": {"total_size": total}, "weight_map": where})
        files.append(index)
    return files


def checked(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as safetensors wants it; EcglmError where it holds no finite floating point numbers."""
    if not tensor.is_floating_point():
        raise EcglmError(f"{name}: holds {tensor.dtype}, not floating point numbers; name unquantised weights")
    if not bool(torch.isfinite(tensor).all()):
        raise EcglmError(f"{name}: holds NaN or infinity; fetch the checkpoint again")
    return tensor.contiguous()
