"""Checkpoints: the same model comes back from the folder alone, and a damaged one is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ecglm.errors import ConfigError, EcglmError, TornOutputError
from ecglm.files import file_sha256
from ecglm.models.checkpoint import Bundle, ModelConfig, create, from_pretrained, save_pretrained
from ecglm.models.generate import generate
from ecglm.prompts.collate import collate
from ecglm.prompts.data import EcgSource
from ecglm.representations.signal import SignalRepresentation
from ecglm.store.reader import SegmentStore
from tiny_world import tree

PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}


def outcome(bundle: Bundle, world) -> tuple[torch.Tensor, list[dict]]:
    """Logits and answers of the world's first questions."""
    ecgs = EcgSource([SegmentStore(world.store)], bundle.representation)
    examples = [
        bundle.prompter.build(c.id, c.turns[:1], [ecgs.encode(e) for e in c.ecgs], generate=True)
        for c in world.conversations()[:8]
    ]
    batch = collate(examples, pad_id=0)
    bundle.elm.eval()
    with torch.no_grad():
        logits = bundle.elm(batch["input_ids"], batch["attention_mask"], batch["position_ids"], batch.get("ecg"))
    return logits, generate(bundle.elm, bundle.prompter, examples, max_new_tokens=8)


@pytest.mark.parametrize("kind", ["signal", "symbols"])
def test_saved_and_loaded_elsewhere_it_is_the_same_model(kind: str, world, request, tmp_path: Path) -> None:
    first = from_pretrained(request.getfixturevalue(f"{kind}_run") / "best")
    with torch.no_grad():  # weights that no recipe or seed could make again
        for weight in first.elm.parameters():
            weight.add_(0.01 * torch.randn_like(weight))
    wanted = outcome(first, world)
    save_pretrained(first, tmp_path / "a")
    moved = tmp_path / "other place" / "b"
    shutil.move(shutil.copytree(tmp_path / "a", moved), moved)
    shutil.rmtree(tmp_path / "a")
    second = from_pretrained(moved)
    got = outcome(second, world)
    assert torch.equal(got[0], wanted[0])
    assert got[1] == wanted[1]
    assert second.representation.config() == first.representation.config()
    assert (second.pipeline, second.model) == (first.pipeline, first.model)
    assert not second.elm.training
    assert not any(world.folder.as_posix() in p.read_text(errors="ignore") for p in moved.rglob("*.json"))


@pytest.mark.parametrize("family", ["gpt2", "opt", "qwen2"])
def test_a_pretrained_llm_with_new_tokens_comes_back(family: str, world, llm_folders, tmp_path: Path) -> None:
    llm = Path(shutil.copytree(llm_folders[family], tmp_path / "llm"))
    config = ModelConfig(llm=str(llm), encoder_options={"widths": [16], "stem_stride": 4}, max_len=200)
    first = create(config, SignalRepresentation(num_tokens=4, num_samples=250), {"rate": 50}, [], seed=1)
    save_pretrained(first, tmp_path / "checkpoint")
    wanted = outcome(first, world)
    shutil.rmtree(llm)  # complete by itself: the LLM it came from is gone
    got = outcome(from_pretrained(tmp_path / "checkpoint"), world)
    assert torch.equal(got[0], wanted[0]) and got[1] == wanted[1]


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_more_tokens_than_the_llm_reads_are_refused(family: str, llm_folders) -> None:
    """GPT-2 would stop in the middle of training, with an index out of range."""
    positions = 256
    options = {"llm": str(llm_folders[family]), "encoder_options": {"widths": [16], "stem_stride": 4}}
    representation = SignalRepresentation(num_tokens=4, num_samples=250)
    create(ModelConfig(max_len=positions, **options), representation, {"rate": 50}, [], seed=1)
    with pytest.raises(ConfigError, match=r"model\.max_len is 257, but .* reads at most 256 tokens; lower") as error:
        create(ModelConfig(max_len=positions + 1, **options), representation, {"rate": 50}, [], seed=1)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["signal", "symbols"])
def test_d25_nothing_in_a_checkpoint_can_run_code(kind: str, request) -> None:
    files = [p for p in (request.getfixturevalue(f"{kind}_run") / "best").rglob("*") if p.is_file()]
    assert not {p.suffix for p in files} & PICKLES
    assert {p.suffix for p in files} <= {".json", ".safetensors", ".jinja", ".txt"}
    for file in files:  # neither a pickle nor a zip by another name
        assert file.read_bytes()[:2] not in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"PK"), file


@pytest.fixture
def copy(signal_run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(signal_run / "best", tmp_path / "copy"))


def refusal(kind: type[EcglmError], folder: Path, **options: bool) -> str:
    with pytest.raises(kind) as error:
        from_pretrained(folder, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_missing_file_is_named(copy: Path) -> None:
    for file in sorted(p for p in copy.rglob("*") if p.is_file()):
        data = file.read_bytes()
        file.unlink()
        assert file.relative_to(copy).as_posix() in refusal(TornOutputError, copy)
        file.write_bytes(data)
    from_pretrained(copy)


def test_a_flipped_bit_in_any_file_is_found_and_named(copy: Path) -> None:
    for file in sorted(p for p in copy.rglob("*") if p.is_file() and p.name != "manifest.json"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        original, _ = file.read_bytes(), file.write_bytes(data)
        assert str(file) in refusal(TornOutputError, copy)
        file.write_bytes(original)


def edit(folder: Path, name: str, change) -> None:
    """Change a JSON file and make the manifest agree, as another version of the program would have written it."""
    values = json.loads((folder / name).read_text())
    change(values)
    (folder / name).write_text(json.dumps(values))
    sign(folder, name)


def sign(folder: Path, name: str) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["outputs"][name] = file_sha256(folder / name)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_another_format_version_is_refused(copy: Path) -> None:
    edit(copy, "config.json", lambda c: c.update(format=99))
    told = refusal(ConfigError, copy)
    assert "config.json" in told and "99" in told


def test_an_unknown_setting_is_refused(copy: Path) -> None:
    edit(copy, "config.json", lambda c: c["model"].update(encodr="x"))
    assert "did you mean 'encoder'" in refusal(ConfigError, copy)


@pytest.mark.parametrize("what", ["another shape", "missing", "unexpected"])
def test_weights_of_another_model_are_told_apart(copy: Path, what: str) -> None:
    file = copy / "ecg.safetensors"
    weights = load_file(file)
    name = "encoder.stem.0.weight"
    if what == "another shape":
        weights[name] = weights[name][:, :, :5].contiguous()
    elif what == "missing":
        del weights[name]
    else:
        name = "encoder.extra"
        weights[name] = torch.zeros(2)
    save_file(weights, file)
    sign(copy, "ecg.safetensors")
    told = refusal(EcglmError, copy)
    assert str(file) in told and what in told and name in told


@pytest.mark.parametrize("what", ["missing", "misshapen"])
def test_llm_weights_of_another_model_are_refused(copy: Path, what: str) -> None:
    file = copy / "llm" / "model.safetensors"
    weights = load_file(file)
    name = "model.layers.0.mlp.up_proj.weight"
    kept = weights.pop(name)
    if what == "misshapen":
        weights[name] = kept[:7].contiguous()
    save_file(weights, file, metadata={"format": "pt"})
    sign(copy, "llm/model.safetensors")
    assert str(copy / "llm") in refusal(ConfigError, copy)


def test_another_tokenizer_is_refused(copy: Path, symbols_run) -> None:
    for name in ("llm/tokenizer.json", "llm/tokenizer_config.json"):
        shutil.copy(symbols_run / "best" / name, copy / name)
        sign(copy, name)
    assert "lacks 1 ECG tokens (first: <ecg_token>)" in refusal(ConfigError, copy)


def test_another_ecg_byte_tokenizer_is_refused(symbols_run, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(symbols_run / "best", tmp_path / "copy"))
    edit(copy, "ecg_byte.json", lambda c: c["merges"].pop())
    assert "ecg_byte.json" in refusal(EcglmError, copy)


def test_a_folder_that_is_no_checkpoint_and_no_folder_at_all(tmp_path: Path, world) -> None:
    assert "segment-store" in refusal(EcglmError, world.store)
    (tmp_path / "empty").mkdir()
    assert "manifest.json" in refusal(TornOutputError, tmp_path / "empty")
    assert "no such checkpoint" in refusal(EcglmError, tmp_path / "absent")


def test_saving_again_replaces_the_whole_folder(copy: Path, signal_run, tmp_path: Path) -> None:
    bundle = from_pretrained(copy)
    (copy / "stray.json").write_text("{}")
    save_pretrained(bundle, copy, {"step": 3})
    assert not (copy / "stray.json").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy"]
    saved, original = tree(copy), tree(signal_run / "best")
    assert saved.keys() == original.keys()
    changed = {n for n in saved if saved[n] != original[n]}
    assert "manifest.json" in changed  # the facts: step 3
    assert changed <= {"manifest.json", "llm/tokenizer_config.json"}  # the library notes there how it was loaded
