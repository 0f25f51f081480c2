"""A LLaVA-1.6 checkpoint, such as PULSE-7B (arXiv 2410.19008) → an ordinary checkpoint of ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, snapshot_download
from safetensors.torch import save_file
from torch import nn
from transformers import GenerationConfig, LlamaForCausalLM

from ecglm.errors import ConfigError, EcglmError, StaleOutputError, hub_errors, is_path
from ecglm.files import MANIFEST, atomic_dir, file_sha256, folder_lock, read_json, read_manifest
from ecglm.models.checkpoint import CONFIG, KIND, WEIGHTS, finish_checkpoint, writing_weights
from ecglm.models.config import ModelConfig
from ecglm.models.connector import TileConnector
from ecglm.models.encoder_files import differences
from ecglm.models.encoders.vision import ClipTower
from ecglm.models.encoders.vision_config import pixel_statistics, read_processor
from ecglm.models.llava import (
    CLIP_336,
    NEWLINE,
    VISION,
    Llava,
    in_order,
    read_llava,
    to_llava,
    to_ours,
    tower_options,
)
from ecglm.models.llava_tokenizer import llava_tokenizer, tokenizer_files
from ecglm.models.llm import no_bars
from ecglm.models.shards import STEMS, checked, find_shards, open_shards, write_shards
from ecglm.prompts.chat import chat_format
from ecglm.prompts.examples import Prompter
from ecglm.representations.anyres import AnyresRepresentation
from ecglm.representations.base import build_representation
from ecglm.signals.pipeline import get_pipeline

#: Hz and samples of the signals that are drawn for it: 10 s as the recordings have them that PULSE's pictures show.
RATE, SEG_LEN = 500, 5000


def import_pulse(
    source: str | Path,
    out: str | Path,
    *,
    vision: str | None = None,
    chat: str = "llava_v1",
    dtype: str | None = None,
    rate: int = RATE,
    seg_len: int = SEG_LEN,
    overwrite: bool = False,
) -> tuple[Path, dict[str, Any]]:
    """Write a LLaVA-1.6 checkpoint (folder or hub id) as a checkpoint folder of ours; returns it and its facts.

    vision: folder or hub id of the CLIP checkpoint, where the configuration's is not to be had. chat: chat format.
    dtype: of the language model once loaded, ``float32`` or ``bfloat16``; None is what loses nothing. rate, seg_len: of
    the stores whose signals will be drawn for it. Weights keep the type they are released in, and pass from file to
    file: no model is built. A folder made from the same files in the same way is kept as it is.

    Raises ConfigError for a configuration that is another kind of model's, EcglmError listing the names that are
    missing, unexpected or of another shape, UnsafeInputError for a file that could run code, StaleOutputError where
    ``out`` holds something else.
    """
    folder, found = Path(out), _folder_of(str(source))
    llava, files = read_llava(found), find_shards(found)
    origin = {
        "format": "pulse",
        "files": {p.name: file_sha256(p) for p in [*files, found / "config.json", *tokenizer_files(found)]},
        "vision": _vision_files(_vision_of(llava, found, vision)),
        "settings": {"chat_format": chat, "dtype": dtype, "rate": rate, "seg_len": seg_len},
    }
    with folder_lock(folder):
        if (facts := _made_before(folder, origin, overwrite)) is not None:
            return folder, facts
        facts = _write(folder, found, llava, files, _vision_of(llava, found, vision), origin)
    return folder, facts


def _vision_files(name: str) -> dict[str, str] | str:
    """What tells one CLIP checkpoint from another: the sha256 of a folder's files, or a hub id."""
    folder = Path(name)
    if not folder.is_dir():
        return name
    files = [p for p in sorted(folder.iterdir()) if p.suffix in (".json", ".safetensors") and p.is_file()]
    return {p.name: file_sha256(p) for p in files}


def _made_before(folder: Path, origin: Mapping[str, Any], overwrite: bool) -> dict[str, Any] | None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    if not (folder / MANIFEST).is_file():
        raise StaleOutputError(f"{folder}: exists and is no {KIND} folder; choose another --out")
    facts = read_manifest(folder, KIND)
    if facts.get("imported_from") == origin:
        return facts
    if not overwrite:
        raise StaleOutputError(f"{folder}: holds another {KIND}; use --overwrite to replace it, or another --out")
    return None


def _write(
    folder: Path, source: Path, llava: Llava, files: list[Path], weights: str, origin: Mapping[str, Any]
) -> dict[str, Any]:
    settings = origin["settings"]
    tensors = open_shards(files)
    inside = any(name.startswith(VISION) for name in tensors)
    options = tower_options(weights, llava.layer)
    with torch.device("meta"):  # names and shapes alone
        tower = ClipTower(**options)
        llm = LlamaForCausalLM(llava.llm)
    shown = _representation(llava, tower)
    with torch.device("meta"):
        name, sizes = llava.connector, {"dim": tower.dim, "hidden": int(llava.llm.hidden_size)}
        connector = TileConnector(name, **sizes, patches=shown.patches, merge=shown.merge)
    names, ignored = _matched(tensors, llm, tower if inside else None, connector, str(source))
    kinds = {tensors[name].dtype for name, (part, _) in names.items() if part == "llm"}
    lossless = "bfloat16" if kinds == {torch.bfloat16} else "float32"
    with writing_weights(folder), atomic_dir(folder) as temporary:
        below = temporary / "llm"
        below.mkdir()
        tokenizer = llava_tokenizer(source, shown.added_tokens, int(llava.llm.vocab_size))
        prompter = Prompter.create(tokenizer, chat_format(settings["chat_format"], tokenizer), shown.added_tokens)
        model = ModelConfig(
            llm=llava.kind,
            encoder="clip",
            encoder_options=tower.settings(),
            connector=llava.connector,
            chat_format=prompter.chat.name,
            dtype=settings["dtype"] or lossless,  # type: ignore[arg-type]
            max_len=llava.max_len,
        )
        _write_llm(below, llava, tokenizer, prompter.end_id, next(iter(sorted(kinds, key=str))))
        ecg = _ecg_weights(tensors, names, llava, weights, inside, tower)
        save_file(ecg, temporary / WEIGHTS)
        del ecg
        of_llm = sorted((n for n, (part, _) in names.items() if part == "llm"), key=in_order)
        write_shards(tensors, {name: names[name][1] for name in of_llm}, below)
        facts = {
            "imported_from": dict(origin),
            "merge": {"type": llava.merge, "told": llava.told_merge},
            "vision_inside": inside,
            "ignored": ignored,
        }
        pipeline = get_pipeline("default", rate=settings["rate"], seg_len=settings["seg_len"]).config()
        finish_checkpoint(temporary, model, shown, pipeline, facts)
    return read_manifest(folder, KIND)


def _representation(llava: Llava, tower: Any) -> AnyresRepresentation:
    tile = tower.image_size
    patch = int(tower.config.patch_size)
    patches = (tile[0] // patch, tile[1] // patch)
    return AnyresRepresentation(image_size=tile, patches=patches, grids=llava.grids(tile), merge=llava.merge)


def _vision_of(llava: Llava, source: Path, given: str | None) -> str:
    """The CLIP checkpoint: as given, or as the configuration names it, a folder beside it before others."""
    name = given or llava.vision
    if not name:
        raise ConfigError(f"{source / 'config.json'}: names no mm_vision_tower; name a CLIP checkpoint with --vision")
    beside = source / name
    if given is None and beside.is_dir() and beside.resolve().is_relative_to(source.resolve()):
        return str(beside)
    if is_path(name) and not Path(name).is_dir():
        where = "--vision" if given else f"{source / 'config.json'}: mm_vision_tower"
        raise ConfigError(f"{where}: no folder {name} here; name that of the CLIP checkpoint with --vision")
    return name


def _matched(
    tensors: Mapping[str, torch.Tensor], llm: Any, tower: Any, connector: nn.Module, where: str
) -> tuple[dict[str, tuple[str, str]], dict[str, int]]:
    """Name in the files → part and name of ours, and what is left out; EcglmError where the two do not agree."""
    wanted = dict(llm.state_dict())
    if llm.config.tie_word_embeddings:
        wanted.pop("lm_head.weight", None)
    ecg = {f"connector.{k}": v for k, v in connector.state_dict().items()}
    if tower is not None:
        ecg |= {f"encoder.model.{k}": v for k, v in tower.model.state_dict().items()}
    wanted |= {str(to_llava(k)): v for k, v in ecg.items()}
    names: dict[str, tuple[str, str]] = {}
    ignored: dict[str, int] = {}
    for name in tensors:
        if why := "" if name in wanted else _unused(name):
            ignored[why] = ignored.get(why, 0) + 1
        else:
            names[name] = to_ours(name)
    if problems := differences(wanted, {name: tensors[name] for name in names}):
        raise EcglmError(f"{where}: not the weights its config.json asks for: {problems}")
    return names, ignored


def _unused(name: str) -> str:
    """Why nothing reads a tensor that is not wanted; empty for one that should not be there."""
    if name.endswith(".inv_freq"):
        return "inv_freq, which is computed"
    if name == NEWLINE:
        return "image_newline, which merge type flat and spatial do not use"
    if name == "lm_head.weight":
        return "lm_head, tied to the embeddings"
    if name.startswith(VISION) and re.search(r"encoder\.layers\.\d+\.|post_layernorm|position_ids", name):
        return "of the vision tower behind the layer that is read"
    return ""


def _ecg_weights(
    tensors: dict[str, torch.Tensor],
    names: Mapping[str, tuple[str, str]],
    llava: Llava,
    weights: str,
    inside: bool,
    tower: Any,
) -> dict[str, torch.Tensor]:
    """Connector and encoder, with the pixel statistics of the CLIP checkpoint."""
    ecg = {ours: checked(n, tensors.pop(n)).clone() for n, (part, ours) in names.items() if part == "ecg"}
    known = {} if weights == CLIP_336 else read_processor(weights)
    for key, value in zip(("mean", "std"), pixel_statistics(known, ClipTower.family), strict=True):
        ecg[f"encoder.{key}"] = torch.tensor(value).view(3, 1, 1)
    if not inside:
        ecg |= {f"encoder.model.{k}": v for k, v in _clip_weights(weights, llava.layer, tower).items()}
    return dict(sorted(ecg.items()))


def _clip_weights(weights: str, layer: int, tower: Any) -> dict[str, torch.Tensor]:
    """Those of a tower that the checkpoint does not hold; OpenAI has released its CLIP as pytorch_model.bin alone."""
    folder = _folder_of(weights)
    files = find_shards(folder)
    if files[0].suffix == ".safetensors":
        with no_bars():
            loaded: Any = ClipTower(weights=str(folder), layer=layer)
        return {k: v.contiguous() for k, v in loaded.model.state_dict().items()}
    found, wanted = open_shards(files), tower.model.state_dict()
    bare = {k: found.get(f"vision_model.{k}", found.get(k)) for k in wanted}
    state = {k: v for k, v in bare.items() if v is not None}
    if problems := differences(wanted, state):
        raise EcglmError(f"{folder}: not the weights its config.json asks for: {problems}")
    return {k: checked(k, v).to(torch.float32, copy=True) for k, v in state.items()}


def _write_llm(folder: Path, llava: Llava, tokenizer: Any, end_id: int, dtype: torch.dtype) -> None:
    """Configuration, tokenizer and generation settings: greedy, whatever the original's say."""
    llava.llm.architectures = ["LlamaForCausalLM"]
    llava.llm.dtype = dtype
    llava.llm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    greedy = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=end_id, pad_token_id=tokenizer.pad_token_id
    )
    greedy.save_pretrained(folder)


def _folder_of(source: str) -> Path:
    """A local folder, or what is needed of a hub id."""
    path = Path(source)
    if path.is_dir():
        return path
    if is_path(source) or not re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        raise EcglmError(f"{source}: no such folder, and no hub id (owner/name)")
    suffixes = [suffix for _, suffix in STEMS]
    try:
        names = HfApi().list_repo_files(source)
        suffixes = [next((s for s in suffixes if any(n.endswith(s) for n in names)), suffixes[0])]
    except hub_errors():
        pass  # out of reach: what an earlier download left in the cache will do
    try:
        wanted = ["*.json", "tokenizer.model", *(f"*{suffix}" for suffix in suffixes)]
        return Path(snapshot_download(source, allow_patterns=wanted))
    except hub_errors() as error:
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise EcglmError(f"{source}: no such folder, and not to be had from the hub: {said}") from error


def summary(folder: Path, facts: Mapping[str, Any]) -> list[str]:
    """What a user should know of an imported model: sizes, how pictures become tokens, what was left out."""
    settings = read_json(folder / CONFIG)
    shown: Any = build_representation(settings["representation"], folder)
    model, made, llm = settings["model"], settings["pipeline"], read_json(folder / "llm" / "config.json")
    tile, page = shown.image_size, shown.page_size(made["seg_len"], made["rate"])
    tokens, tiles = shown.page_tokens(made["seg_len"], made["rate"])
    told = "as config.json says" if facts["merge"]["told"] else "as config.json says no other"
    lines = [
        f"{model['llm']}: {llm['num_hidden_layers']} layers of width {llm['hidden_size']}, {llm['vocab_size']} tokens, "
        f"{model['dtype']}, chat format {model['chat_format']}, at most {model['max_len']} tokens",
        f"pictures: tiles of {tile[1]} x {tile[0]}, merged {shown.merge} ({told}); one of {page[0]} x {page[1]} makes "
        f"{tiles} tiles and {tokens} tokens",
    ]
    lines += [f"left out: {number} tensors {name}" for name, number in facts["ignored"].items()]
    lines.append(
        f"recordings are drawn as such pages; store for it: ecglm prepare … --rate {made['rate']} --seg-len "
        f"{made['seg_len']}"
    )
    return lines
