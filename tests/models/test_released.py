"""Released weight files are data: what could run code, unfold or mislead is refused."""

from __future__ import annotations

import collections
import os
import pickle
import sys
import zipfile
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ecglm.errors import EcglmError, UnsafeInputError
from ecglm.models.released import find_weights, read_released

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3)}


def saved(path: Path, value) -> Path:
    torch.save(value, path)
    return path


def equal(found: dict, wanted: dict) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[k], wanted[k]) for k in wanted)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".PTH"])
@pytest.mark.parametrize(
    ("value", "beside"),
    [
        (WEIGHTS, []),
        (collections.OrderedDict(WEIGHTS), []),
        ({"model": WEIGHTS, "epoch": 3, "optimizer": {"lr": 0.1}}, ["epoch", "optimizer"]),
        ({"state_dict": WEIGHTS}, []),
        ({"epoch": 1, "model_state_dict": WEIGHTS}, ["epoch"]),
        ({"model": {"state_dict": {f"module.{k}": v for k, v in WEIGHTS.items()}}}, []),
        ({f"module.{k}": v for k, v in WEIGHTS.items()}, []),
        ({f"_orig_mod.{k}": v for k, v in WEIGHTS.items()}, []),
        ({**WEIGHTS, "version": "1.0"}, ["version"]),
    ],
)
def test_a_state_dict_is_found_in_what_was_wrapped_around_it(tmp_path, suffix, value, beside):
    found, left = read_released(saved(tmp_path / f"w{suffix}", value))
    assert equal(found, WEIGHTS) and left == beside


def test_safetensors(tmp_path):
    save_file(WEIGHTS, tmp_path / "w.safetensors")
    assert equal(read_released(tmp_path / "w.safetensors")[0], WEIGHTS)
    (tmp_path / "w.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with pytest.raises(EcglmError, match=r"w\.safetensors: cannot be read as safetensors"):
        read_released(tmp_path / "w.safetensors")


def test_a_prefix_that_only_some_names_have_is_part_of_the_name(tmp_path):
    value = {"module.a": torch.zeros(1), "b": torch.zeros(1)}
    assert read_released(saved(tmp_path / "w.pt", value))[0].keys() == value.keys()


class Runs:
    """What unpickles to a call."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_d25_nothing_of_a_malicious_checkpoint_runs(tmp_path, suffix, wrapped):
    marker = tmp_path / "ran"
    value = {"model": WEIGHTS, "args": Runs(marker)} if wrapped else Runs(marker)
    file = saved(tmp_path / f"w{suffix}", value)
    with pytest.raises(UnsafeInputError, match=r"holds '\w+\.mkdir', which weights do not need.*refused") as error:
        read_released(file)
    assert not marker.exists() and "\n" not in str(error.value)


@pytest.mark.parametrize("protocol", range(6))
def test_d25_a_bare_pickle_is_refused_unread(tmp_path, protocol):
    marker, file = tmp_path / "ran", tmp_path / "w.pth"
    file.write_bytes(pickle.dumps({"model": Runs(marker)}, protocol))
    with pytest.raises(UnsafeInputError, match="a bare pickle or something else; refused"):
        read_released(file)
    torch.save(WEIGHTS, file, _use_new_zipfile_serialization=False)  # PyTorch before 1.6
    with pytest.raises(UnsafeInputError, match="saved again as safetensors, or by a current PyTorch"):
        read_released(file)
    assert not marker.exists()


def test_d25_a_whole_module_or_a_namespace_is_refused(tmp_path):
    import argparse

    for value in (torch.nn.Linear(2, 2), {"model": WEIGHTS, "args": argparse.Namespace(lr=1)}):
        with pytest.raises(UnsafeInputError, match="state dict alone saved as safetensors"):
            read_released(saved(tmp_path / "w.pt", value))


def test_a_file_that_unfolds_into_more_than_itself_is_refused(tmp_path):
    small, packed = saved(tmp_path / "w.pt", WEIGHTS), tmp_path / "packed.pt"
    with zipfile.ZipFile(small) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for member in source.infolist():
            target.writestr(member.filename, source.read(member) + b"\0" * 1000)
    with pytest.raises(UnsafeInputError, match="compressed or overlapping members"):
        read_released(packed)
    wide = saved(tmp_path / "wide.pt", {"a": torch.zeros(1).expand(10**6, 10**6)})  # one stored value
    with pytest.raises(UnsafeInputError, match="a claims more values than the file holds"):
        read_released(wide)


def test_a_zip_of_something_else_is_refused(tmp_path):
    file = tmp_path / "w.pt"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(UnsafeInputError, match="not one list of tensors"):
        read_released(file)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_file_cut_short_is_damaged(tmp_path, share):
    file = saved(tmp_path / "w.pt", {f"k{i}": torch.randn(50) for i in range(20)})
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    with pytest.raises(EcglmError, match=r"w\.pt: damaged or cut short") as error:
        read_released(file)
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_flipped_bytes_of_the_program_never_escape_as_another_error(tmp_path):
    file = saved(tmp_path / "w.pt", WEIGHTS)
    data = file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        inner = next(m for m in archive.infolist() if m.filename.endswith("data.pkl"))
        program = archive.read(inner)
    start, rng, refused = data.index(program), np.random.default_rng(0), 0
    for _ in range(150):
        bad = bytearray(data)
        bad[start + int(rng.integers(len(program)))] = int(rng.integers(256))
        file.write_bytes(bad)
        try:
            read_released(file)
        except EcglmError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 50


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ([1, 2], "holds a list, not tensors by name"),
        ({"epoch": 3}, "holds no tensors by name"),
        (torch.zeros(3), "holds a Tensor, not tensors by name"),
        ({"a": torch.eye(3).to_sparse()}, "a is sparse or quantised"),
    ],
)
def test_what_holds_no_plain_weights(tmp_path, value, told):
    with pytest.raises(EcglmError, match=told):
        read_released(saved(tmp_path / "w.pt", value))


def test_other_files(tmp_path):
    (tmp_path / "w.ckpt").write_bytes(b"x")
    with pytest.raises(EcglmError, match=r"no weights file by its name; \.safetensors, \.pt"):
        read_released(tmp_path / "w.ckpt")


# --- which file


def test_a_file_and_a_folder(tmp_path):
    file = saved(tmp_path / "w.pth", WEIGHTS)
    assert find_weights(file) == file
    (tmp_path / "readme.md").write_text("x")
    assert find_weights(tmp_path) == file
    second = saved(tmp_path / "v.pth", WEIGHTS)
    with pytest.raises(EcglmError, match=r"several weights files; choose one with --file: v\.pth, w\.pth"):
        find_weights(tmp_path)
    assert find_weights(tmp_path, "v.pth") == second
    with pytest.raises(EcglmError, match=r"no weights file 'x\.pth' \(did you mean 'v\.pth'\?\)|no weights file"):
        find_weights(tmp_path, "x.pth")
    save_file(WEIGHTS, tmp_path / "w.safetensors")
    assert find_weights(tmp_path).name == "w.safetensors"  # before others
    (tmp_path / "empty").mkdir()
    with pytest.raises(EcglmError, match="no weights file there"):
        find_weights(tmp_path / "empty")
    for name in ("absent", "absent/w.pth", "a/b/c"):
        with pytest.raises(EcglmError, match="no such file or folder, and no hub id"):
            find_weights(name)


class Hub:
    """A hub with one repository; remembers what was fetched."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.fetched = folder, []

    def list_repo_files(self, name: str) -> list[str]:
        if name != "lab/model":
            raise OSError("401 no such repository\nand more lines")
        return sorted(p.name for p in self.folder.iterdir())

    def fetch(self, name: str, file: str) -> str:
        self.fetched.append(file)
        return str(self.folder / file)


def test_from_the_hub_one_file_alone_is_fetched(tmp_path, monkeypatch):
    save_file(WEIGHTS, tmp_path / "w.safetensors")
    saved(tmp_path / "optimizer.bin", WEIGHTS)
    (tmp_path / "code.py").write_text("raise SystemExit")
    hub = Hub(tmp_path)
    monkeypatch.setattr("ecglm.models.released.HfApi", lambda: hub)
    monkeypatch.setattr("ecglm.models.released.hf_hub_download", hub.fetch)
    assert find_weights("lab/model") == tmp_path / "w.safetensors"
    assert hub.fetched == ["w.safetensors"]
    find_weights("lab/model", "optimizer.bin")
    assert hub.fetched[1:] == ["optimizer.bin"]
    with pytest.raises(EcglmError, match=r"no weights file 'code\.py'"):
        find_weights("lab/model", "code.py")
    with pytest.raises(EcglmError, match="lab/other: no such file, and not to be had from the hub: 401") as error:
        find_weights("lab/other")
    assert "\n" not in str(error.value)


def test_a_zip_behind_an_old_pickle_is_refused(tmp_path):
    """torch looks at the first bytes, zipfile at the last: both must see one and the same archive."""
    torch.save(WEIGHTS, tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(tmp_path / "w.pt", "a") as archive:
        archive.writestr("archive/data.pkl", b"")
    with pytest.raises(UnsafeInputError, match="a bare pickle or something else; refused"):
        read_released(tmp_path / "w.pt")


def test_a_tensor_without_values_is_refused(tmp_path):
    with pytest.raises(EcglmError, match=r"w\.a has a shape but no values"):
        read_released(saved(tmp_path / "w.pt", {"w.a": torch.zeros(3, device="meta")}))


def test_a_hub_that_does_not_answer_is_one_line(monkeypatch):
    """What the hub's HTTP client raises without a network is no OSError."""
    client = sys.modules[type(huggingface_hub.get_session()).__module__.partition(".")[0]]

    def silent(self, name):
        raise client.ConnectError("Name or service not known")

    monkeypatch.setattr("ecglm.models.released.HfApi.list_repo_files", silent)
    with pytest.raises(EcglmError, match="not to be had from the hub: Name or service not known"):
        find_weights("lab/model")
