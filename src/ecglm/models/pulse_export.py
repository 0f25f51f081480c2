"""A checkpoint of tiles and a Llama → a folder in LLaVA-1.6's format, with the original's names: PULSE's way back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from ecglm import config as strict
from ecglm.errors import ConfigError
from ecglm.files import MANIFEST, atomic_dir, file_sha256, output_state, plan_fingerprint, write_json, write_manifest
from ecglm.models.adapters import ecg_gate, plain_llm
from ecglm.models.checkpoint import Bundle, from_pretrained, writing_weights
from ecglm.models.connector import TileConnector
from ecglm.models.encoders.vision import ClipTower
from ecglm.models.encoders.vision_config import pixel_statistics, values_of
from ecglm.models.llava import CLIP_336, CLIP_336_CONFIG, PROJECTORS, in_order, is_clip_336, to_llava
from ecglm.models.llm import PAD
from ecglm.models.shards import write_shards

KIND = "llava-export"
_TOWER = "vision_tower"
_LLM_VALUES = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps"),
    *("pad_token_id", "bos_token_id", "eos_token_id", "pretraining_tp", "tie_word_embeddings"),
    *("attention_bias", "attention_dropout", "mlp_bias", "head_dim"),
)


def export_llava(source: str | Path, out: str | Path, *, overwrite: bool = False) -> Path:
    """Write a checkpoint (folder or hub id) in LLaVA-1.6 format: config.json, safetensors under the original's names,
    tokenizer. ``ecglm import pulse`` reads it back with the same weights.

    The placeholder is no token there. A tower other than CLIP-L/336 is described in a folder ``vision_tower`` beside
    its weights. Raises ConfigError for a model that format has no room for, StaleOutputError for an ``out`` of another
    model, unless ``overwrite``.
    """
    folder = Path(out)
    bundle = from_pretrained(source)
    _check(bundle, str(source))
    made = Path(source) / MANIFEST
    settings = {
        "model": strict.to_dict(bundle.model),
        "weights": file_sha256(made) if made.is_file() else str(source),
    }
    if output_state(folder, KIND, plan_fingerprint(KIND, settings, {}), overwrite) == "finished":
        return folder
    with writing_weights(folder), atomic_dir(folder) as temporary:
        write_json(temporary / "config.json", llava_config(bundle))
        if _needs_tower(bundle):
            _write_tower(bundle.elm.encoder, temporary / _TOWER)
        _write_tokenizer(bundle, temporary)
        state = pulse_state(bundle)
        write_shards(state, {name: name for name in sorted(state, key=in_order)}, temporary)
        files = sorted(p for p in temporary.rglob("*") if p.is_file())
        outputs = {p.relative_to(temporary).as_posix(): file_sha256(p) for p in files}
        write_manifest(temporary / MANIFEST, KIND, settings, {}, outputs)
    return folder


def _check(bundle: Bundle, source: str) -> None:
    elm, problem = bundle.elm, ""
    if bundle.representation.name != "anyres":
        problem = f"shows ECGs as '{bundle.representation.name}', not 'anyres'"
    elif not isinstance(elm.encoder, ClipTower):
        problem = f"has the encoder '{bundle.model.encoder}', not 'clip'"
    elif bundle.model.connector not in PROJECTORS:
        problem = f"has the connector '{bundle.model.connector}', not {' or '.join(PROJECTORS)}"
    elif elm.llm.config.model_type != "llama":
        problem = f"has a language model of type '{elm.llm.config.model_type}', not 'llama'"
    elif ecg_gate(elm.llm) is not None:
        problem = "has adapters beside its language model (lora.where: ecg)"
    if problem:
        raise ConfigError(f"{source}: {problem}; LLaVA-1.6's format has no room for it")


def pulse_state(bundle: Bundle) -> dict[str, torch.Tensor]:
    """The weights of a model under the original's names, without rows for tokens that are ours."""
    llm = plain_llm(bundle.elm.llm)
    state = {k: v.detach().cpu() for k, v in llm.state_dict().items()}
    if llm.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    rows = _rows(bundle)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in state:
            state[name] = state[name][:rows]
    for name, value in bundle.elm.state_dict().items():
        if not name.startswith("llm.") and (theirs := to_llava(name)) is not None:
            state[theirs] = value.detach().cpu()
    return state


def _rows(bundle: Bundle) -> int:
    """Rows of the table without those at its end that were made for the placeholder and our padding."""
    rows = int(bundle.elm.llm.get_input_embeddings().weight.shape[0])
    if rows != len(bundle.prompter.tokenizer):  # never enlarged, or with the original's own spare rows
        return rows
    ours = _our_tokens(bundle)
    ids = {i for token, i in bundle.prompter.tokenizer.get_vocab().items() if token in ours}
    while rows - 1 in ids:
        rows -= 1
    return rows


def _our_tokens(bundle: Bundle) -> set[str]:
    return {*bundle.representation.added_tokens, PAD}


def llava_config(bundle: Bundle) -> dict[str, Any]:
    """``config.json`` of a model, as LLaVA-1.6 has it."""
    llm, shown, tower = plain_llm(bundle.elm.llm), bundle.representation, bundle.elm.encoder
    connector = bundle.elm.connector
    assert isinstance(tower, ClipTower) and isinstance(connector, TileConnector)
    told = llm.config.to_dict()
    rope = dict(told.get("rope_parameters") or {})
    theta = rope.pop("rope_theta", 10000.0)
    plain = rope.get("rope_type", "default") == "default"
    high, wide = shown.image_size
    layers = int(tower.config.num_hidden_layers)
    own = _needs_tower(bundle)
    behind = 0 if tower._last else 1 if own else CLIP_336_CONFIG["num_hidden_layers"] - layers
    rows = _rows(bundle)
    ids = {name: told.get(name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {
        **{name: told[name] for name in _LLM_VALUES if told.get(name) is not None},
        **{name: i for name, i in ids.items() if i is not None and i < rows},
        "vocab_size": rows,
        "rope_theta": theta,
        "rope_scaling": None if plain else rope,
        "torch_dtype": str(llm.dtype).removeprefix("torch."),
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava_llama",
        "image_aspect_ratio": "anyres",
        "image_grid_pinpoints": [[columns * wide, rows * high] for columns, rows in shown.grids],
        "mm_hidden_size": tower.dim,
        "mm_patch_merge_type": shown.merge,
        "mm_projector_type": bundle.model.connector,
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -1 - behind,
        "mm_vision_tower": _TOWER if own else CLIP_336,
        "tokenizer_model_max_length": bundle.prompter.max_len,
        "tokenizer_padding_side": "right",
        "use_mm_proj": True,
    }


def _needs_tower(bundle: Bundle) -> bool:
    """Whether the tower is another than the one of the published models, and has to be described."""
    tower: Any = bundle.elm.encoder
    usual = pixel_statistics({}, ClipTower.family)
    same = all(
        torch.allclose(a.flatten().cpu(), torch.tensor(b)) for a, b in zip((tower.mean, tower.std), usual, strict=True)
    )
    return not (same and is_clip_336(tower.config))


def _write_tower(tower: Any, folder: Path) -> None:
    """The tower's configuration and pixels; its weights stand among the others."""
    folder.mkdir()
    values = values_of(tower.config)
    layers = int(values["num_hidden_layers"]) + (0 if tower._last else 1)  # the one behind is never read
    config = {**values, "num_hidden_layers": layers, "model_type": "clip_vision_model"}
    write_json(folder / "config.json", config)
    high, wide = tower.image_size
    size = {"height": high, "width": wide}
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "crop_size": size,
        "size": {"shortest_edge": min(high, wide)},
        "resample": 3,
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "rescale_factor": 1 / 255,
        "image_mean": (tower.mean.flatten() / 255).tolist(),
        "image_std": (tower.std.flatten() / 255).tolist(),
    }
    write_json(folder / "preprocessor_config.json", processor)


def _write_tokenizer(bundle: Bundle, folder: Path) -> None:
    """The tokenizer without the tokens that are ours, and settings that generate greedily."""
    tokenizer = bundle.prompter.tokenizer
    tokenizer.save_pretrained(folder)
    ours, rows = _our_tokens(bundle), _rows(bundle)
    gone = {t for t, i in tokenizer.get_vocab().items() if t in ours and (i >= rows or t != PAD)}
    file, settings = folder / "tokenizer.json", folder / "tokenizer_config.json"
    told = json.loads(file.read_text(encoding="utf-8"))
    told["added_tokens"] = [t for t in told["added_tokens"] if t["content"] not in gone]
    file.write_text(json.dumps(told, ensure_ascii=False, indent=2), encoding="utf-8")
    plain = json.loads(settings.read_text(encoding="utf-8"))
    for key in ("extra_special_tokens", "additional_special_tokens"):
        if isinstance(plain.get(key), list):
            plain[key] = [t for t in plain[key] if (t["content"] if isinstance(t, dict) else t) not in gone]
    if isinstance(plain.get("added_tokens_decoder"), dict):
        kept = {i: t for i, t in plain["added_tokens_decoder"].items() if t["content"] not in gone}
        plain["added_tokens_decoder"] = kept
    if plain.get("pad_token") in gone:
        plain["pad_token"] = plain.get("unk_token") or plain.get("eos_token")
    settings.write_text(json.dumps(plain, ensure_ascii=False, indent=2), encoding="utf-8")
    GenerationConfig(bos_token_id=tokenizer.bos_token_id, eos_token_id=bundle.prompter.end_id).save_pretrained(folder)
