"""Encoder folders: what is written is read, same bytes twice, and nothing else is taken for one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ecglm.errors import ConfigError, EcglmError, TornOutputError
from ecglm.files import file_sha256, write_manifest
from ecglm.models.encoder_files import differences, load_encoder, read_encoder, save_encoder
from ecglm.models.encoders.base import build_encoder

OPTIONS = {"size": "tiny", "patch_size": 10}
FACTS = {"made_by": "a test", "scores": {"auroc": 0.5}}


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return build_encoder("mtae", input_shape=(12, 160), options=OPTIONS).eval()


def write(folder: Path, encoder, **changes) -> Path:
    kept = {
        "name": "mtae",
        "options": OPTIONS,
        "input_shape": (12, 160),
        "pipeline": {"name": "default", "version": 2, "rate": 50},
        "representation": {"name": "signal", "num_samples": 160},
        "trained_on": np.array([9, 3, 2**63 + 5, 3], np.uint64),
        "extra": {"decoder_head.weight": torch.ones(3, 2)},
        "facts": FACTS,
    }
    return save_encoder(folder, encoder, **kept | changes)


def test_what_is_written_is_read(tmp_path, encoder):
    found = read_encoder(write(tmp_path / "e", encoder))
    assert (found.name, found.options, found.input_shape) == ("mtae", OPTIONS, (12, 160))
    assert found.pipeline == {"name": "default", "version": 2, "rate": 50}
    assert found.representation == {"name": "signal", "num_samples": 160}
    assert found.trained_on.tolist() == [3, 9, 2**63 + 5] and found.trained_on.dtype == np.uint64
    assert found.facts == FACTS
    assert torch.equal(found.extra()["decoder_head.weight"], torch.ones(3, 2))
    assert found.weights().keys() == encoder.state_dict().keys()
    again = load_encoder(tmp_path / "e")
    assert not again.training
    x = torch.randn(2, 12, 160)
    with torch.no_grad():
        assert torch.equal(again(x), encoder(x))


def test_the_least_that_can_be_said(tmp_path, encoder):
    nothing = dict.fromkeys(("pipeline", "representation", "trained_on", "extra", "facts"))
    found = read_encoder(write(tmp_path / "e", encoder, **nothing))
    assert found.pipeline is None and found.representation is None
    assert len(found.trained_on) == 0 and found.extra() == {} and found.facts == {}
    assert sorted(p.name for p in (tmp_path / "e").iterdir()) == [
        "config.json",
        "encoder.safetensors",
        "manifest.json",
    ]


def test_the_same_call_gives_the_same_bytes(tmp_path, encoder):
    one, two = write(tmp_path / "a", encoder), write(tmp_path / "b" / "c", encoder)
    write(two, encoder)  # over itself
    assert {p.name: file_sha256(p) for p in one.iterdir()} == {p.name: file_sha256(p) for p in two.iterdir()}
    assert {p.suffix for p in one.iterdir()} == {".json", ".safetensors"}


def test_loading_draws_nothing(tmp_path, encoder):
    write(tmp_path / "e", encoder)
    before = torch.get_rng_state()
    load_encoder(tmp_path / "e")
    assert torch.equal(torch.get_rng_state(), before)


def test_another_length_where_that_is_exact(tmp_path, encoder):
    write(tmp_path / "e", encoder)
    longer = load_encoder(tmp_path / "e", (12, 300))
    assert longer.num_tokens == 30
    with torch.no_grad():
        assert longer(torch.randn(1, 12, 300)).shape == (1, 30, 128)
    with pytest.raises(ConfigError, match=r"305 samples are no multiple of patch_size 10; prepare segments of 300 or"):
        load_encoder(tmp_path / "e", (12, 305))
    with pytest.raises(EcglmError, match=r"not the weights.*of another shape.*for input of 12 x 160, not 3 x 160") as e:
        load_encoder(tmp_path / "e", (3, 160))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", ["encoder.safetensors", "extra.safetensors", "config.json", "trained_on.safetensors"])
def test_a_missing_or_damaged_file_is_named(tmp_path, encoder, name):
    file = write(tmp_path / "e", encoder) / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(TornOutputError, match=f"{name}: differs from the manifest"):
        read_encoder(tmp_path / "e")
    file.unlink()
    with pytest.raises(TornOutputError, match=f"lacks {name}"):
        read_encoder(tmp_path / "e")


def test_weights_that_are_not_this_encoder_s_are_listed(tmp_path, encoder):
    folder = write(tmp_path / "e", encoder)
    other = build_encoder("mlae", input_shape=(12, 160), options={"size": "tiny"})
    save_encoder(tmp_path / "o", other, name="mlae", options={"size": "tiny"}, input_shape=(12, 160))
    data = (tmp_path / "o" / "encoder.safetensors").read_bytes()
    (folder / "encoder.safetensors").write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["outputs"]["encoder.safetensors"] = file_sha256(folder / "encoder.safetensors")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(EcglmError, match=r"3 of another shape \(to_patch_embedding\.1\.weight 160 instead of 120, "):
        load_encoder(folder)


def test_differences_are_told_whole():
    wanted = {"a": torch.zeros(2, 3), "b": torch.zeros(()), "c": torch.zeros(1)}
    found = {"a": torch.zeros(3, 2), "b": torch.zeros(()), "d": torch.zeros(1)}
    assert differences(wanted, found) == "1 missing (c); 1 unexpected (d); 1 of another shape (a 3x2 instead of 2x3)"
    assert differences(wanted, wanted) == ""
    many = {f"k{i:02d}": torch.zeros(1) for i in range(20)}
    assert differences(many, {}).endswith("k07, and 12 more)")


def test_what_is_no_encoder_folder(tmp_path, encoder):
    (tmp_path / "best").mkdir()
    write_manifest(tmp_path / "best" / "manifest.json", "checkpoint", {}, {}, {})
    with pytest.raises(EcglmError, match=r"is a 'checkpoint', an encoder is needed here"):
        read_encoder(tmp_path / "best")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TornOutputError, match="no manifest"):
        read_encoder(tmp_path / "empty")
    with pytest.raises(
        EcglmError, match=r"absent: no such encoder folder; `ecglm pretrain` or `ecglm import`"
    ) as error:
        read_encoder(tmp_path / "absent")
    with pytest.raises(EcglmError, match=r"no such encoder folder .*, and not to be had from the hub"):
        read_encoder("absent")
    assert "\n" not in str(error.value)
    folder = write(tmp_path / "e", encoder)
    settings = json.loads((folder / "config.json").read_text()) | {"format": 99}
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match="encoder format 99"):
        read_encoder(folder, verify=False)


def test_an_image_tower_needs_no_other_folder(tmp_path):
    tower = build_encoder("vit", input_shape=(3, 32, 32), options={"size": "nano", "config": SMALL}).eval()
    save_encoder(tmp_path / "v", tower, name="vit", options={"weights": "somewhere"}, input_shape=(3, 32, 32))
    again = load_encoder(tmp_path / "v")
    x = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(again(x), tower(x))


SMALL = {"image_size": 32, "patch_size": 16}
