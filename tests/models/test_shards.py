"""Weights in several files: found, opened without being loaded, written one file at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ecglm.errors import EcglmError
from ecglm.models.shards import find_shards, open_shards, write_shards
from llava_world import write_weights

STATE = {f"layers.{i}.weight": torch.full((4, 4), float(i)) for i in range(12)}


@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize("num_shards", [1, 3])
def test_tensors_of_all_files(tmp_path: Path, form: str, num_shards: int) -> None:
    write_weights(tmp_path, STATE, form, num_shards)
    files = find_shards(tmp_path)
    found = open_shards(files)
    assert len(files) == num_shards and found.keys() == STATE.keys()
    assert all(torch.equal(found[k], v) for k, v in STATE.items())


def test_safetensors_come_before_bin(tmp_path: Path) -> None:
    write_weights(tmp_path, {"a": torch.ones(1)}, "bin", 1)
    write_weights(tmp_path, STATE, "safetensors", 2)
    assert [p.suffix for p in find_shards(tmp_path)] == [".safetensors"] * 2


def test_what_cannot_be_found(tmp_path: Path) -> None:
    with pytest.raises(EcglmError, match="holds no weights"):
        find_shards(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    for told in ([], {}, {"weight_map": {}}, {"weight_map": {"a": 3}}):
        index.write_text(json.dumps(told))
        with pytest.raises(EcglmError, match="weight_map"):
            find_shards(tmp_path)
    save_file({"a": torch.ones(1)}, tmp_path / "one.safetensors")
    save_file({"a": torch.ones(1)}, tmp_path / "two.safetensors")
    with pytest.raises(EcglmError, match="a is in another file too"):
        open_shards([tmp_path / "one.safetensors", tmp_path / "two.safetensors"])


def test_files_are_filled_in_order_and_found_again(tmp_path: Path) -> None:
    tensors = dict(STATE)
    names = {name: f"model.{name}" for name in sorted(STATE, key=lambda n: int(n.split(".")[1]))}
    files = write_shards(tensors, names, tmp_path, most=3 * 64)
    assert not tensors and len(files) == 5
    assert [next(iter(load_file(tmp_path / f))) for f in files[1:2]] == ["model.layers.3.weight"]
    again = open_shards(find_shards(tmp_path))
    assert {k.removeprefix("model."): float(v[0, 0]) for k, v in again.items()} == {
        k: float(v[0, 0]) for k, v in STATE.items()
    }
    assert json.loads((tmp_path / files[-1]).read_text())["metadata"] == {"total_size": 12 * 64}


_CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import ecglm.models.shards as shards
from ecglm.models.pulse_import import import_pulse

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024

shards.write_shards.__kwdefaults__["most"] = 16 << 20
before = peak()
import_pulse(sys.argv[1], sys.argv[2])
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the peak")
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_an_import_needs_no_memory_for_the_model(tmp_path: Path, form: str) -> None:
    """203 MB of weights in eight files of 25 MB pass through files of 16 MB."""
    from llava_world import write_wide

    size = write_wide(tmp_path / "in", form, num_shards=8)
    told = [sys.executable, "-c", _CHILD, str(tmp_path / "in"), str(tmp_path / "out"), str(Path(__file__).parents[1])]
    more = int(subprocess.run(told, capture_output=True, text=True, check=True).stdout)
    assert size > 200e6 and more < 0.6 * size
    assert len(list((tmp_path / "out" / "llm").glob("*.safetensors"))) > 10
