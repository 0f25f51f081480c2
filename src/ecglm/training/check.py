"""What is wrong with a recipe, told before any data is read: ``ecglm validate`` and the start of training ask it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ecglm import registry
from ecglm.errors import ConfigError, EcglmError
from ecglm.files import file_sha256
from ecglm.models.config import ImageConfig, ModelConfig
from ecglm.models.connector import resamples, too_few
from ecglm.models.elm import check_parts
from ecglm.models.encoder_files import EncoderFile
from ecglm.models.encoders.base import picture, reads
from ecglm.models.start import check_start, read_start
from ecglm.models.towers import build_tower, check_files, count_tokens, reads_symbols, resolved
from ecglm.prompts.pictures import PictureFiles
from ecglm.representations.base import BuildContext, RecipeOptions, Representation, WithWords, build_representation
from ecglm.representations.dual import Dual
from ecglm.representations.pictures import Pooling
from ecglm.store.reader import SegmentStore
from ecglm.training.deepspeed import check_deepspeed, zero_stage
from ecglm.training.distributed import check_device
from ecglm.training.logs import check_tracker
from ecglm.training.options import TrainConfig
from ecglm.training.rag import read_index
from ecglm.training.recipe import SECTIONS, Recipe


def check_recipe(recipe: Recipe) -> None:
    """Raises ConfigError or EcglmError, one line with the mend, for what cannot be trained: an unknown part, objective
    or connector, an encoder or LLM that is not there, weights of another shape, an ECG shown to a pretrained encoder
    otherwise than before, more tokens than the encoder gives or the model reads. Manifests are read, no data.
    """
    check_parts(recipe.train.parts)
    if recipe.train.deepspeed is not None:
        zero_stage(recipe.train.deepspeed)
    if isinstance(registry.get("objectives", recipe.train.objective), type):
        raise ConfigError(
            f"train.objective '{recipe.train.objective}' pretrains an encoder: write a recipe for ecglm pretrain"
        )
    registry.get("connectors", recipe.model.connector)
    for name, options in recipe.used.items():
        named_files(name, options)
    _check_images(recipe)
    index = read_index(recipe)
    model, files = resolved(recipe.model, verify=False)
    _check_learning(recipe, model)
    _check_symbols(recipe)
    stores = [SegmentStore(p) for p in recipe.data.stores]
    if not stores:
        raise ConfigError("data.stores names no store; name one (ecglm prepare)")
    if index is not None:
        index.check_stores(stores)
    now, rate = stores[0].rate, getattr(recipe.representation_options, "rate", None)
    if rate is not None and (rate < 1 or now % rate):
        section = recipe.representation
        raise ConfigError(f"{section}.rate: cannot reduce {now} Hz to {rate} Hz; choose a divisor of {now}")
    if SECTIONS[recipe.representation].gives is not None:
        _check_shown(recipe, model, files, stores)
    check_llm(model)


def _check_images(recipe: Recipe) -> None:
    """Folders of pictures that are not there, or that nothing reads."""
    if not recipe.data.images:
        return
    PictureFiles(recipe.data.images)
    if not hasattr(SECTIONS[recipe.representation], "of_picture") or recipe.words or recipe.model.image is not None:
        raise ConfigError(
            f"data.images shows picture files, but {recipe.shown} reads something else; choose image or anyres alone"
        )


def check_machine(train: TrainConfig) -> None:
    """EcglmError for what a recipe asks for and this machine lacks: a device, or a package."""
    check_device(train.device)
    if train.deepspeed is not None:
        check_deepspeed(train.deepspeed)
    for name in train.report_to:
        check_tracker(name)


def _check_shown(
    recipe: Recipe, model: ModelConfig, files: dict[str, EncoderFile], stores: Sequence[SegmentStore]
) -> None:
    """What the encoders read, and how many tokens they give."""
    shown = shown_by(recipe, model, stores, (), _no_segment)
    check_files(files, shown, stores[0].manifest["settings"]["pipeline"])
    if model.start_from is not None:
        check_start(model.start_from, shown, stores[0].manifest["settings"]["pipeline"])
    _check_towers(model, files, shown)
    if shown.num_tokens is not None:
        check_room(recipe, shown.num_tokens, f"{recipe.representation}.num_tokens")
    elif hasattr(shown, "page_tokens") and not recipe.data.images:
        tokens, _ = shown.page_tokens(stores[0].seg_len, stores[0].rate)
        check_room(recipe, tokens, f"{recipe.representation}.grids or the size of the page")


def check_room(recipe: Recipe, tokens: int, option: str) -> None:
    """ConfigError where an ECG of so many tokens fills all that is read at once. option: what makes them fewer."""
    most, packed = recipe.model.max_len, recipe.train.pack_len
    limit, size = ("train.pack_len", packed) if packed is not None and packed < most else ("model.max_len", most)
    told = 0 if recipe.rag is None else recipe.rag.max_tokens
    if told and tokens + told >= size > tokens:
        raise ConfigError(
            f"an ECG takes {tokens} tokens and retrieved text up to {told}, but {limit} is {size}, question and answer "
            f"included; raise {limit}, or lower rag.max_tokens"
        )
    if tokens >= size:
        raise ConfigError(
            f"an ECG takes {tokens} tokens, but {limit} is {size}, question and answer included; raise {limit}, or "
            f"lower {option}"
        )


def _no_segment(record_id: str) -> np.ndarray:
    raise AssertionError(f"{record_id}: a recipe is checked before data is read")


def named_files(name: str, options: RecipeOptions) -> dict[str, str]:
    """Option → sha256 of the file it names, of the section ``name``; ConfigError where that cannot be read."""
    found = {}
    for option, path in options.files().items():
        try:
            found[option] = file_sha256(path)
        except OSError as error:
            mend = "; `ecglm store percentiles` makes it" if option == "percentiles" else ""
            raise ConfigError(f"{name}.{option}: {path} cannot be read ({error.strerror}){mend}") from error
    return found


def _check_learning(recipe: Recipe, model: ModelConfig) -> None:
    """Parts that are to learn, and are not there or never do."""
    parts = recipe.train.parts
    feeds = SECTIONS[recipe.representation].gives is not None or reads_symbols(model)
    for part in parts:
        there = {"encoder": feeds, "connector": feeds, "image_encoder": model.image is not None}.get(part, True)
        if not there:
            raise ConfigError(f"this model has no {part}; leave it out of train.parts")
    for part, section in (("encoder", model), ("image_encoder", model.image)):
        if part not in parts or section is None or section.encoder is None:
            continue
        if getattr(registry.get("encoders", section.encoder), "frozen", False):
            raise ConfigError(
                f"train.parts names {part}, but encoder '{section.encoder}' never learns; leave {part} out there"
            )
    if model.lora is not None and parts and "llm" not in parts:
        raise ConfigError(
            "model.lora adapts the LLM, but train.parts leaves llm out; name it there, or drop model.lora"
        )
    if model.lora is not None and model.lora.where == "ecg" and SECTIONS[recipe.representation].gives is None:
        raise ConfigError("model.lora.where ecg adapts the LLM where an encoder's tokens stand, and here are none")


def check_llm(model: ModelConfig) -> None:
    """ConfigError for a language model that is not to be had, reads fewer tokens than ``model.max_len``, or writes a
    talk otherwise than the chat format.
    """
    if model.llm == "tiny" and model.system_file is None:
        return
    from ecglm.models.access import check_language_model  # loads much of the library: late

    folder = Path(model.llm)
    if model.llm != "tiny" and folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(f"model.llm: {folder} holds no config.json; name the folder of a causal language model")
        if not any(folder.glob("*.safetensors")):
            raise ConfigError(
                f"model.llm: {folder} holds no weights in safetensors; save them so, or name another folder"
            )
    check_language_model(model)


def _check_symbols(recipe: Recipe) -> None:
    """Symbols that may fill the whole context."""
    most = getattr(recipe.used.get("symbols"), "max_ecg_tokens", None)
    if most is not None and most >= recipe.model.max_len:
        raise ConfigError(
            f"symbols.max_ecg_tokens is {most}, but model.max_len is {recipe.model.max_len}, question and answer "
            "included; lower the one or raise the other"
        )


def shown_by(
    recipe: Recipe,
    model: ModelConfig,
    stores: Sequence[SegmentStore],
    records: tuple[str, ...],
    segment: Callable[[str], np.ndarray],
) -> Representation:
    """The representation of a run. model: its resolved settings. records, segment: its training ECGs.

    Of a run that starts from a checkpoint and gives no section, it is the checkpoint's.
    """
    if model.start_from is not None and all(getattr(recipe, name) is None for name in recipe.used):
        return build_representation(read_start(model.start_from)["representation"], model.start_from)
    size, tokens = picture(model.encoder, model.encoder_options)
    context = BuildContext(
        rate=stores[0].rate,
        seg_len=stores[0].seg_len,
        seed=recipe.train.seed,
        records=records,
        segment=segment,
        image_size=size,
        image_tokens=tokens,
    )
    used = recipe.used
    made = {n: SECTIONS[n].from_recipe(options, context) for n, options in used.items() if n != recipe.picture}
    shown = made[recipe.representation]
    if model.image is not None and recipe.picture is not None:
        size, tokens = picture(model.image.encoder, model.image.encoder_options)
        context = replace(context, image_size=size, image_tokens=tokens)
        page = SECTIONS[recipe.picture].from_recipe(used[recipe.picture], context)
        shown = Dual(shown, page, model.image.modality_dropout)
    return shown if recipe.words is None else WithWords(shown, made[recipe.words])


def _check_towers(model: ModelConfig, files: dict[str, EncoderFile], shown: Representation) -> None:
    inner: Any = getattr(shown, "main", shown)
    first = inner.signal if isinstance(inner, Dual) else inner
    _check_tower(model, "model", files.get("encoder"), first)
    if model.image is not None:
        if model.image.shared and resamples(model.image.connector):
            raise ConfigError(
                "model.image.shared sends the signal's tokens one by one through the picture's connector, which a "
                "resampler is not; choose mlp2x_gelu or linear"
            )
        _check_tower(model.image, "model.image", files.get("image"), inner.image)


def _check_tower(
    section: ModelConfig | ImageConfig, where: str, file: EncoderFile | None, shown: Representation
) -> None:
    """Weights that do not fit, and fewer tokens than placeholders, of an encoder made without values."""
    assert section.encoder is not None and shown.input_shape is not None
    if file is None and section.encoder_options.get("weights"):  # its configuration has told all there is to know
        return
    tower = _tower(section, where, file, shown.input_shape)
    given = count_tokens(tower, shown.input_shape, reads(section.encoder))
    if shown.num_tokens is not None and given < shown.num_tokens and not resamples(section.connector):
        raise ConfigError(f"{where}.encoder '{section.encoder}': {too_few(given, shown.num_tokens)}")
    if (grid := getattr(tower, "grid", None)) is not None and shown.num_tokens is not None:
        Pooling.of_leads(grid, shown.num_tokens)


def _tower(
    section: ModelConfig | ImageConfig, where: str, file: EncoderFile | None, shape: tuple[int, ...]
) -> nn.Module:
    try:
        if file is not None:
            return build_tower(section, shape, file)
        with torch.device("meta"):
            return build_tower(section, shape)
    except EcglmError as error:
        raise type(error)(f"{where}.{error}" if str(error).startswith("encoder") else str(error)) from error
