"""Exported in LLaVA-1.6's format: the original's names and settings, read back with the same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ecglm.errors import ConfigError, StaleOutputError
from ecglm.models.assistant import Assistant, load
from ecglm.models.checkpoint import Bundle, create, from_pretrained, save_pretrained
from ecglm.models.config import ModelConfig
from ecglm.models.pulse_export import export_llava, llava_config, pulse_state
from ecglm.models.pulse_import import import_pulse
from ecglm.representations.anyres import AnyresRepresentation
from llava_world import PINPOINTS, config_of, state_of, write_llava

QUESTION = "What is the rhythm?"


def page(width: int = 61, height: int = 47) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def weights(bundle: Bundle) -> dict[str, torch.Tensor]:
    return dict(bundle.elm.state_dict())


def all_files(folder: Path) -> dict[str, torch.Tensor]:
    return {k: v for f in sorted(folder.glob("*.safetensors")) for k, v in load_file(f).items()}


@pytest.mark.parametrize("merge", ["flat", "spatial_unpad"])
def test_import_and_export_give_back_the_original(tmp_path: Path, merge: str) -> None:
    original = write_llava(tmp_path / "in", merge=merge)
    out, _ = import_pulse(tmp_path / "in", tmp_path / "ours")
    back = export_llava(out, tmp_path / "back")
    wanted = {k: v for k, v in state_of(original).items() if not k.endswith("inv_freq")}
    unread = {k for k in wanted if ".layers.2." in k and "vision" in k}  # behind the layer that is read
    unread |= {"model.image_newline"} if merge == "flat" else set()
    found = all_files(back)
    assert found.keys() == wanted.keys() - unread
    assert all(torch.equal(found[k], wanted[k]) for k in found)
    told, config = json.loads((back / "config.json").read_text()), config_of(original, merge)
    assert told["image_grid_pinpoints"] == PINPOINTS
    same = [k for k in config if k not in ("mm_vision_tower", "freeze_mm_mlp_adapter")]
    assert {k: told[k] for k in same} == {k: config[k] for k in same}


@pytest.mark.parametrize("merge", ["flat", "spatial", "spatial_unpad"])
def test_export_and_import_give_back_the_model(tmp_path: Path, merge: str) -> None:
    write_llava(tmp_path / "in", merge=merge)
    ours, _ = import_pulse(tmp_path / "in", tmp_path / "ours", rate=250, seg_len=2500)
    first = from_pretrained(ours)
    with torch.no_grad():  # as if it had learned
        for weight in first.elm.parameters():
            weight += 0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    save_pretrained(first, tmp_path / "learned")
    back = export_llava(tmp_path / "learned", tmp_path / "back")
    again, _ = import_pulse(back, tmp_path / "again", rate=250, seg_len=2500)
    second = from_pretrained(again)
    assert weights(first).keys() == weights(second).keys()
    assert all(torch.equal(v, weights(second)[k]) for k, v in weights(first).items())
    assert second.model == first.model and second.representation == first.representation
    asked = [Assistant(b).ask(page(), QUESTION, max_new_tokens=6) for b in (first, second)]
    assert asked[0] == asked[1]
    ids = [b.prompter.spelling.raw("What is it?\n 7") for b in (first, second)]
    assert ids[0] == ids[1] and len(first.prompter.tokenizer) == len(second.prompter.tokenizer)


def test_a_model_whose_table_grew_is_exported_without_our_rows(tmp_path: Path) -> None:
    """A Llama of one's own, to which training added the placeholder as a row."""
    write_llava(tmp_path / "in")
    ours, _ = import_pulse(tmp_path / "in", tmp_path / "ours")
    tower = {"config": {"image_size": 28, "patch_size": 14}, "size": "nano"}
    model = ModelConfig(llm=str(ours / "llm"), encoder="clip", encoder_options=tower, chat_format="llava_v1")
    shown = AnyresRepresentation(image_size=(28, 28), patches=(2, 2), size=(220, 170))
    made = create(model, shown, from_pretrained(ours).pipeline, [], 0)
    assert made.elm.llm.get_input_embeddings().weight.shape[0] == 401
    state, config = pulse_state(made), llava_config(made)
    assert (
        state["model.embed_tokens.weight"].shape[0] == state["lm_head.weight"].shape[0] == config["vocab_size"] == 400
    )
    back = export_llava(save_pretrained(made, tmp_path / "made"), tmp_path / "back")
    again = load(import_pulse(back, tmp_path / "again")[0])
    found = weights(again.bundle)
    for name, value in weights(made).items():
        assert torch.equal(found[name], value[: len(found[name])]), name
    assert again.ask(page(), QUESTION, max_new_tokens=5) == Assistant(made).ask(page(), QUESTION, max_new_tokens=5)


def test_scaled_rotary_positions_come_back(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"rope_theta": 50000.0, "rope_scaling": {"type": "linear", "factor": 2.0}}
    write_llava(tmp_path / "in", **changes)
    ours, _ = import_pulse(tmp_path / "in", tmp_path / "ours")
    rope = from_pretrained(ours).elm.llm.config.rope_parameters
    assert (rope["rope_theta"], rope["rope_type"], rope["factor"]) == (50000.0, "linear", 2.0)
    again, _ = import_pulse(export_llava(ours, tmp_path / "back"), tmp_path / "again")
    assert from_pretrained(again).elm.llm.config.rope_parameters == rope


def test_what_the_format_has_no_room_for(tmp_path: Path, signal_run: Path) -> None:
    with pytest.raises(ConfigError, match="'signal', not 'anyres'"):
        export_llava(signal_run / "best", tmp_path / "out")


def test_a_folder_of_another_model_is_kept(tmp_path: Path) -> None:
    for number in range(2):
        write_llava(tmp_path / f"in{number}", seed=number)
        import_pulse(tmp_path / f"in{number}", tmp_path / f"ours{number}")
    back = export_llava(tmp_path / "ours0", tmp_path / "back")
    stamp = (back / "manifest.json").stat().st_mtime_ns
    assert export_llava(tmp_path / "ours0", back) == back and (back / "manifest.json").stat().st_mtime_ns == stamp
    with pytest.raises(StaleOutputError, match="--overwrite"):
        export_llava(tmp_path / "ours1", back)
    export_llava(tmp_path / "ours1", back, overwrite=True)
    name = "model.embed_tokens.weight"
    assert torch.equal(all_files(back)[name], load_file(tmp_path / "ours1" / "llm" / "model.safetensors")[name])
