"""Checkpoints: a folder of safetensors and JSON that is complete by itself and cannot run code."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from huggingface_hub import HfApi, snapshot_download
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file

from ecglm import config as strict
from ecglm.errors import ConfigError, EcglmError, TornOutputError
from ecglm.files import atomic_dir, file_sha256, read_json, read_manifest, write_errors, write_json, write_manifest
from ecglm.models.adapters import LoraConfig, add_lora, plain_llm
from ecglm.models.connector import Connector
from ecglm.models.elm import Elm
from ecglm.models.encoders.base import build_encoder
from ecglm.models.llm import add_ecg_tokens, load_llm, no_bars, tiny_llm, train_tokenizer
from ecglm.prompts.chat import chat_format
from ecglm.prompts.examples import Prompter
from ecglm.representations.base import build_representation
from ecglm.representations.pictures import Pooling

KIND = "checkpoint"
FORMAT = 1
CONFIG, WEIGHTS = "config.json", "ecg.safetensors"
TRAINED_ON = "trained_on.safetensors"


@dataclass(frozen=True, kw_only=True)
class TinyConfig:
    """The small from-scratch language model of ``llm: tiny``."""

    hidden: int = 128
    num_layers: int = 4
    num_heads: int = 4
    vocab_size: int = 1024

    def __post_init__(self) -> None:
        for name in ("hidden", "num_layers", "num_heads", "vocab_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.tiny.{name} must be 1 or more, found {getattr(self, name)}")
        if self.hidden % self.num_heads:
            raise ValueError(
                f"model.tiny.hidden must be a multiple of num_heads ({self.num_heads}), found {self.hidden}"
            )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A recipe's ``model`` section. llm: ``tiny``, a hub id or a folder. encoder: what reads the tensor of the
    representation; empty for none. lora: adapt a pretrained LLM instead of training all of it.
    init_new_embeddings: how the rows of the ECG's tokens begin, ``mean`` of the LLM's own or ``random``.
    """

    llm: str = "tiny"
    tiny: TinyConfig = field(default_factory=TinyConfig)
    encoder: str | None = "resnet1d"
    encoder_options: dict[str, Any] = field(default_factory=dict)
    connector: str = "mlp2x_gelu"
    chat_format: str = "auto"
    system: str = ""
    max_len: int = 1024
    init_new_embeddings: Literal["mean", "random"] = "mean"
    lora: LoraConfig | None = None

    def __post_init__(self) -> None:
        if self.lora is not None and self.llm == "tiny":
            raise ValueError("model.lora adapts a pretrained LLM, and tiny has learned nothing yet; drop model.lora")


@dataclass
class Bundle:
    """A model with everything needed to use it: what a checkpoint holds.

    elm: the network. prompter: tokenizer, chat format, length policy. representation: segment → input.
    pipeline: configuration of the signal pipeline that made the training segments. model: the model settings.
    trained_on: sorted hashes (``prompts.people``) of the patients and ECGs it has learned from, uint64.
    """

    elm: Elm
    prompter: Prompter
    representation: Any
    pipeline: dict[str, Any]
    model: ModelConfig
    trained_on: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))

    @property
    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.elm.parameters())


def create(model: ModelConfig, representation: Any, pipeline: dict[str, Any], texts: list[str], seed: int) -> Bundle:
    """A new model with random connector (and, for ``tiny``, random everything). texts: corpus for its tokenizer."""
    if model.llm == "tiny":
        tokenizer = train_tokenizer(texts, model.tiny.vocab_size)
        add_ecg_tokens(None, tokenizer, representation.added_tokens)
        llm: Any = tiny_llm(
            tokenizer,
            hidden=model.tiny.hidden,
            num_layers=model.tiny.num_layers,
            num_heads=model.tiny.num_heads,
            max_len=model.max_len,
            seed=seed,
        )
    else:
        llm, tokenizer = load_llm(model.llm)
        positions = getattr(llm.config, "max_position_embeddings", None)
        if positions is not None and model.max_len > positions:
            most = f"{model.llm} reads at most {positions} tokens"
            raise ConfigError(f"model.max_len is {model.max_len}, but {most}; lower model.max_len")
        add_ecg_tokens(llm, tokenizer, representation.added_tokens, seed, init=model.init_new_embeddings)
    bundle = _bundle(llm, tokenizer, model, representation, pipeline, seed)
    if model.lora is not None:
        # The placeholder's row is never read: the encoder's output stands in its place.
        symbols = [i for i in bundle.prompter.ecg_ids if i != bundle.elm.placeholder_id]
        add_lora(llm, model.lora, symbols, seed)
    return bundle


def _bundle(
    llm: Any, tokenizer: Any, model: ModelConfig, representation: Any, pipeline: dict[str, Any], seed: int
) -> Bundle:
    chat = chat_format(model.chat_format, tokenizer)
    prompter = Prompter.create(tokenizer, chat, representation.added_tokens, model.max_len, model.system)
    encoder = connector = placeholder = None
    if representation.placeholder is not None:
        if model.encoder is None:
            raise ConfigError(f"representation '{representation.name}' feeds an encoder: model.encoder must name one")
        placeholder = int(tokenizer.get_vocab()[representation.placeholder])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = build_encoder(
                model.encoder, input_shape=representation.input_shape, options=model.encoder_options
            )
            if hasattr(encoder, "settings"):  # the checkpoint must not need the folder its weights once came from
                model = replace(model, encoder_options=encoder.settings())  # type: ignore[operator]
            connector = Connector(
                model.connector,
                dim=encoder.dim,  # type: ignore[arg-type]
                hidden=llm.get_input_embeddings().weight.shape[1],
                num_tokens=representation.num_tokens,
                pooling=_pooling(encoder, representation.num_tokens),
            )
    return Bundle(Elm(llm, encoder, connector, placeholder), prompter, representation, pipeline, model)


def _pooling(encoder: Any, num_tokens: int) -> Pooling | None:
    """How the connector pools an image encoder's patches; None for one that reads a signal or does not say enough."""
    if getattr(encoder, "reads", "signal") != "image" or not hasattr(encoder, "num_tokens"):
        return None
    return Pooling.of(encoder.image_size, encoder.num_tokens, num_tokens)


def write_checkpoint(bundle: Bundle, folder: Path, facts: dict[str, Any] | None = None) -> None:
    """Write a checkpoint's files into an existing folder, the manifest last."""
    with no_bars():
        plain_llm(bundle.elm.llm).save_pretrained(folder / "llm")
    bundle.prompter.tokenizer.save_pretrained(folder / "llm")
    save_ecg_weights(bundle.elm, folder)
    if len(bundle.trained_on):
        save_arrays({"people": bundle.trained_on}, folder / TRAINED_ON)
    bundle.representation.save(folder)
    settings = {
        "format": FORMAT,
        "model": strict.to_dict(bundle.model),
        "representation": bundle.representation.config(),
        "pipeline": bundle.pipeline,
    }
    write_json(folder / CONFIG, settings)
    outputs = {p.relative_to(folder).as_posix(): file_sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}
    write_manifest(folder / "manifest.json", KIND, settings, {}, outputs, **(facts or {}))


@contextlib.contextmanager
def writing_weights(path: str | Path) -> Iterator[None]:
    """What the disk says while weights are written below ``path``, as one line for the user."""
    try:
        with write_errors(Path(path)):
            yield
    except SafetensorError as error:  # how safetensors tells of a full disk
        raise EcglmError(f"{path}: cannot be written ({error}); run the same command again once it can") from error


def save_pretrained(bundle: Bundle, folder: str | Path, facts: dict[str, Any] | None = None) -> Path:
    """Save a checkpoint atomically; an older one of the same name is replaced."""
    with writing_weights(folder), atomic_dir(folder) as temporary:
        write_checkpoint(bundle, temporary, facts)
    return Path(folder)


def from_pretrained(source: str | Path, *, verify: bool = True) -> Bundle:
    """Load a checkpoint from a folder or a hub id. Nothing in it is executed.

    Raises TornOutputError naming the file when one is missing or differs from the manifest (``verify`` checks the
    sha256 of all), ConfigError when it belongs to another version of the format.
    """
    folder = Path(source)
    if not folder.is_dir():
        folder = _download(str(source))
    manifest = read_manifest(folder, KIND)
    for name, digest in manifest["outputs"].items():
        file = folder / name
        if not file.is_file():
            raise TornOutputError(f"{folder}: the checkpoint lacks {name}; copy it again, whole")
        if verify and file_sha256(file) != digest:
            raise TornOutputError(f"{file}: differs from the manifest (damaged or edited); copy the checkpoint again")
    settings = read_json(folder / CONFIG)
    if settings.get("format") != FORMAT:
        raise ConfigError(f"{folder / CONFIG}: checkpoint format {settings.get('format')}, this ecglm reads {FORMAT}")
    model = strict.from_dict(ModelConfig, settings["model"], str(folder / CONFIG))
    representation = build_representation(settings["representation"], folder)
    llm, tokenizer = load_llm(str(folder / "llm"))
    bundle = _bundle(llm, tokenizer, model, representation, settings["pipeline"], seed=0)
    load_ecg_weights(bundle.elm, folder)
    if (folder / TRAINED_ON).is_file():
        bundle.trained_on = load_arrays(folder / TRAINED_ON)["people"]
    bundle.elm.eval()
    return bundle


def save_ecg_weights(elm: Elm, folder: Path) -> None:
    """Write encoder and connector, if there are any."""
    ecg = {k: v.contiguous().cpu() for k, v in elm.state_dict().items() if not k.startswith("llm.")}
    if ecg:
        save_file(ecg, folder / WEIGHTS)


def load_ecg_weights(elm: Elm, folder: Path) -> None:
    """Load encoder and connector; EcglmError listing the names when the weights are not those of this model."""
    wanted = {k: v for k, v in elm.state_dict().items() if not k.startswith("llm.")}
    found = load_file(folder / WEIGHTS) if (folder / WEIGHTS).is_file() else {}
    wrong = [k for k in wanted if k in found and found[k].shape != wanted[k].shape]
    problems = {
        "missing": sorted(wanted.keys() - found.keys()),
        "unexpected": sorted(found.keys() - wanted.keys()),
        "of another shape": wrong,
    }
    if any(problems.values()):
        told = "; ".join(f"{len(v)} {k} (first: {v[0]})" for k, v in problems.items() if v)
        raise EcglmError(f"{folder / WEIGHTS}: not the weights of this model: {told}")
    elm.load_state_dict(found, strict=False)


def _download(name: str) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]))
    except (OSError, ValueError) as error:
        raise EcglmError(f"{name}: no such checkpoint folder, and not to be had from the hub ({error})") from error


def push_to_hub(folder: str | Path, repo_id: str, *, private: bool = True) -> str:
    """Upload a checkpoint folder to the Hugging Face hub; returns its address."""
    read_manifest(folder, KIND)
    api = HfApi()
    api.create_repo(repo_id, private=private, exist_ok=True)
    return str(api.upload_folder(folder_path=str(folder), repo_id=repo_id))
