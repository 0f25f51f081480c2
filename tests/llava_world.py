"""Small checkpoints in the original's format: random weights under LLaVA-1.6's names, with their library's models."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

TILE, PATCH, HIDDEN, DIM, LAYERS = 28, 14, 32, 16, 3
PINPOINTS = [[TILE, 2 * TILE], [2 * TILE, TILE], [2 * TILE, 2 * TILE], [3 * TILE, TILE], [TILE, 3 * TILE]]
_TEXT = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the human's questions. USER: ASSISTANT: What is the rhythm? sinus rhythm with a rate of 72 "
    "bpm and a normal axis; left bundle branch block, atrial fibrillation. Yes No"
)
WORDS = _TEXT.split()


def grid_by_hand(width: int, height: int, pinpoints: Sequence[Sequence[int]]) -> tuple[int, int]:
    """(width, height) of the grid, word for word as models_and_training §8.2, point 1, says it."""
    ranked = []
    for place, (wide, high) in enumerate(pinpoints):
        scale = min(wide / width, high / height)
        effective = min(int(width * scale) * int(height * scale), width * height)
        ranked.append((-effective, wide * high - effective, place))
    wide, high = pinpoints[min(ranked)[2]]
    return wide, high


def tiles_by_hand(page: np.ndarray, pinpoints: Sequence[Sequence[int]], tile: int, **processing: bool) -> np.ndarray:
    """§8.2, points 2 and 3, by Pillow's own paste and crop, each tile through the library's CLIP processor."""
    image = Image.fromarray(page)
    wide, high = grid_by_hand(*image.size, pinpoints)
    across, down = wide / image.width, high / image.height
    if across < down:
        new = (wide, min(ceil(image.height * across), high))
    else:
        new = (min(ceil(image.width * down), wide), high)
    canvas = Image.new("RGB", (wide, high), (0, 0, 0))
    canvas.paste(image.resize(new, Image.Resampling.BICUBIC), ((wide - new[0]) // 2, (high - new[1]) // 2))
    tiles = [image.resize((tile, tile), Image.Resampling.BICUBIC)]
    for top in range(0, high, tile):
        tiles += [canvas.crop((left, top, left + tile, top + tile)) for left in range(0, wide, tile)]
    clip = CLIPImageProcessorPil(size={"shortest_edge": tile}, crop_size={"height": tile, "width": tile}, **processing)
    return np.stack([np.asarray(clip(t, return_tensors="np")["pixel_values"][0]) for t in tiles])


@dataclass
class Original:
    """The library's models with the weights of a checkpoint folder, and the projector's."""

    folder: Path
    llm: LlamaForCausalLM
    vision: CLIPVisionModel
    projector: torch.nn.Sequential
    newline: torch.Tensor


def tokenizer_files(folder: Path, *, legacy: bool | None = False) -> Any:
    """A slow Llama tokenizer (tokenizer.model) learned from a few words; returns sentencepiece's own."""
    import sentencepiece

    model = io.BytesIO()
    texts = [" ".join(WORDS[i : i + 12]) for i in range(len(WORDS) - 8)] * 5
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=400,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        hard_vocab_limit=False,
        character_coverage=1.0,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": None,
        "legacy": legacy,
        "add_bos_token": True,
        "add_eos_token": False,
        "model_max_length": 4096,
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def build(folder: Path, *, rows: int = 400, seed: int = 0) -> Original:
    """The models, seeded; nothing is written."""
    torch.manual_seed(seed)
    llm = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=rows,
            hidden_size=HIDDEN,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=4096,
            initializer_range=0.2,
            bos_token_id=1,
            eos_token_id=2,
        )
    ).eval()
    vision = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=DIM,
            intermediate_size=32,
            num_hidden_layers=LAYERS,
            num_attention_heads=2,
            image_size=TILE,
            patch_size=PATCH,
        )
    ).eval()
    projector = torch.nn.Sequential(torch.nn.Linear(DIM, HIDDEN), torch.nn.GELU(), torch.nn.Linear(HIDDEN, HIDDEN))
    return Original(folder, llm, vision, projector, torch.randn(HIDDEN))


def config_of(original: Original, merge: str | None, **changes: Any) -> dict[str, Any]:
    """``config.json`` as LLaVA writes it."""
    told = original.llm.config.to_dict()
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    names += ("num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "hidden_act", "bos_token_id")
    config = {name: told[name] for name in (*names, "eos_token_id", "tie_word_embeddings", "initializer_range")}
    config |= {
        "model_type": "llava_llama",
        "architectures": ["LlavaLlamaForCausalLM"],
        "rope_theta": 10000.0,
        "torch_dtype": "float32",
        "mm_vision_tower": "clip",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_projector_type": "mlp2x_gelu",
        "mm_hidden_size": DIM,
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "image_aspect_ratio": "anyres",
        "image_grid_pinpoints": PINPOINTS,
        "tokenizer_model_max_length": 2048,
        "freeze_mm_mlp_adapter": False,
    }
    if merge is not None:
        config["mm_patch_merge_type"] = merge
    return config | changes


def state_of(original: Original, *, vision: bool = True, newline: bool = True) -> dict[str, torch.Tensor]:
    """All tensors under the original's names."""
    state = dict(original.llm.state_dict())
    state |= {f"model.mm_projector.{k}": v for k, v in original.projector.state_dict().items()}
    if newline:
        state["model.image_newline"] = original.newline
    for layer in range(2):  # a buffer of older versions
        state[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    if vision:
        plain = {k.removeprefix("vision_model."): v for k, v in original.vision.state_dict().items()}
        state |= {f"model.vision_tower.vision_tower.vision_model.{k}": v for k, v in plain.items()}
    return {k: v.clone().contiguous() for k, v in state.items()}


def write_llava(
    folder: Path,
    *,
    merge: str | None = None,
    form: str = "safetensors",
    num_shards: int = 2,
    dtype: torch.dtype = torch.float32,
    vision: bool = True,
    newline: bool = True,
    rows: int = 400,
    seed: int = 0,
    legacy: bool | None = False,
    **changes: Any,
) -> Original:
    """A checkpoint folder in LLaVA-1.6 format. form: ``safetensors`` or ``bin``. changes: of ``config.json``."""
    folder.mkdir(parents=True)
    original = build(folder, rows=rows, seed=seed)
    for module in (original.llm, original.vision, original.projector):
        module.to(dtype)
    original.newline = original.newline.to(dtype)
    state = state_of(original, vision=vision, newline=newline)
    (folder / "config.json").write_text(json.dumps(config_of(original, merge, **changes)))
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 0.9, "top_p": 0.6, "do_sample": True}))
    write_weights(folder, state, form, num_shards)
    tokenizer_files(folder, legacy=legacy)
    (folder / "clip").mkdir()
    original.vision.config.save_pretrained(folder / "clip")
    if not vision:
        original.vision.save_pretrained(folder / "clip")
    return original


def write_weights(folder: Path, state: dict[str, torch.Tensor], form: str, num_shards: int) -> None:
    """The tensors in so many files, with an index where there are several."""
    stem, suffix = {"safetensors": ("model", ".safetensors"), "bin": ("pytorch_model", ".bin")}[form]
    names = list(state)
    where = {}
    for number in range(num_shards):
        file = f"{stem}{suffix}" if num_shards == 1 else f"{stem}-{number + 1:05d}-of-{num_shards:05d}{suffix}"
        part = {n: state[n] for n in names[len(names) * number // num_shards : len(names) * (number + 1) // num_shards]}
        where |= dict.fromkeys(part, file)
        if form == "safetensors":
            save_file(part, folder / file, metadata={"format": "pt"})
        else:
            torch.save(part, folder / file)
    if num_shards > 1:
        index = {"metadata": {"total_size": 0}, "weight_map": where}
        (folder / f"{stem}{suffix}.index.json").write_text(json.dumps(index))


def write_wide(folder: Path, form: str, num_shards: int) -> int:
    """A checkpoint of 200 MB, zeros in bfloat16, to see what memory it takes; returns its bytes."""
    write_llava(folder, form=form, num_shards=1)
    for file in (*folder.glob("*.safetensors"), *folder.glob("*.bin")):
        file.unlink()
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 8}
    sizes |= {"num_key_value_heads": 8, "vocab_size": 400}
    config = json.loads((folder / "config.json").read_text()) | sizes
    (folder / "config.json").write_text(json.dumps(config))
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in LlamaForCausalLM(LlamaConfig(**sizes)).state_dict().items()}
    vision = {k: v for k, v in state_of(build(folder)).items() if "vision" in k}
    projector = {"0.weight": (512, DIM), "0.bias": (512,), "2.weight": (512, 512), "2.bias": (512,)}
    shapes |= {f"model.mm_projector.{k}": torch.Size(v) for k, v in projector.items()}
    state = {k: torch.zeros(v, dtype=torch.bfloat16) for k, v in shapes.items()} | vision
    write_weights(folder, state, form, num_shards)
    return sum(v.numel() * v.element_size() for v in state.values())
