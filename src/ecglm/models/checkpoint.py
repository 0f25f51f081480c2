"""Checkpoints: a folder of safetensors and JSON that is complete by itself and cannot run code."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import HfApi, get_token, snapshot_download
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file

from ecglm import config as strict
from ecglm.errors import ConfigError, EcglmError, hub_errors, is_path
from ecglm.files import (
    atomic_dir,
    check_outputs,
    file_sha256,
    read_json,
    read_manifest,
    write_errors,
    write_json,
    write_manifest,
)
from ecglm.models.access import check_length, choose_attention, read_system
from ecglm.models.adapters import add_lora, ecg_gate, load_adapter, plain_llm, save_adapter
from ecglm.models.config import LoraConfig
from ecglm.models.config import ModelConfig as ModelConfig
from ecglm.models.config import TinyConfig as TinyConfig
from ecglm.models.connector import Connector, TileConnector, resamples
from ecglm.models.elm import Elm
from ecglm.models.encoder_files import EncoderFile
from ecglm.models.encoders.signal2vec import Signal2Vec, symbol_names
from ecglm.models.llm import add_ecg_tokens, load_llm, no_bars, tiny_llm, train_tokenizer, use_attention
from ecglm.models.start import begin_from, check_start
from ecglm.models.towers import build_tower, check_files, learned_from, reads_symbols, resolved, settings_of
from ecglm.prompts.chat import chat_format, refuse_mismatch
from ecglm.prompts.examples import Prompter
from ecglm.prompts.retrieved import RagOptions
from ecglm.representations.base import build_representation
from ecglm.representations.dual import Dual
from ecglm.representations.pictures import Pooling

KIND = "checkpoint"
FORMAT = 1
CONFIG, WEIGHTS = "config.json", "ecg.safetensors"
TRAINED_ON = "trained_on.safetensors"


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

    @property
    def rag(self) -> RagOptions | None:
        """How it was told of retrieved ECGs when it learned; None where it was not."""
        return self.prompter.rag

    def with_rag(self, options: RagOptions | None) -> Bundle:
        """The same model, told of retrieved ECGs in another way."""
        return replace(self, prompter=replace(self.prompter, rag=options))


def create(
    model: ModelConfig,
    representation: Any,
    pipeline: dict[str, Any],
    texts: list[str],
    seed: int,
    symbols: Callable[[int], Iterable[np.ndarray]] | None = None,
    device: str = "cpu",
    own_masks: bool = False,
) -> Bundle:
    """A new model with random connector (and, for ``tiny``, random everything). texts: corpus for its tokenizer.
    symbols: number → ``token_ids`` of at most so many training ECGs, for a table of symbols that learns from them.
    device, own_masks: where it will run, and whether its batches bring masks of their own; they decide the attention.

    An encoder of ``encoder_from`` begins with the weights in that folder, all parts with ``start_from`` with those of
    that checkpoint, and the model remembers whom they learned from. Raises ConfigError where the run would not show it
    the ECG as it was shown when it learned, and for a chat format that is not the tokenizer's.
    """
    model, files = resolved(read_system(model))
    check_files(files, representation, pipeline)
    if model.start_from is not None:
        check_start(model.start_from, representation, pipeline)
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
        llm, tokenizer = load_llm(model.llm, dtype=model.dtype)
        check_length(model, llm.config)
        refuse_mismatch(tokenizer, chat_format(model.chat_format, tokenizer))
        if model.start_from is None:  # else they are known, and a placeholder may have no row
            add_ecg_tokens(llm, tokenizer, representation.added_tokens, seed, init=model.init_new_embeddings)
    use_attention(llm, choose_attention(model, llm.config, device=device, own_masks=own_masks))
    bundle = _bundle(llm, tokenizer, model, representation, pipeline, seed, files)
    bundle.trained_on = learned_from(files)
    if isinstance(table := bundle.elm.encoder, Signal2Vec):
        if symbols is None:
            raise ConfigError("encoder 'signal2vec' learns from training ECGs before all else, and none are given")
        table.learn(symbols(table.train_segments))
    if model.start_from is not None:
        begin_from(bundle, model.start_from)
    if model.lora is not None:
        _adapt(bundle, model.lora, seed)
    return bundle


def _adapt(bundle: Bundle, lora: LoraConfig, seed: int) -> None:
    """Put adapters into the LLM. A placeholder's row is never read: an encoder's output stands in its place."""
    if lora.where == "ecg" and bundle.elm.placeholder_id is None:
        raise ConfigError("model.lora.where ecg adapts the LLM where an encoder's tokens stand, and here are none")
    symbols = [i for i in bundle.prompter.ecg_ids if i not in bundle.elm.placeholder_ids]
    add_lora(bundle.elm.llm, lora, symbols, seed)


def _bundle(
    llm: Any,
    tokenizer: Any,
    model: ModelConfig,
    representation: Any,
    pipeline: dict[str, Any],
    seed: int,
    files: Mapping[str, EncoderFile] | None = None,
) -> Bundle:
    chat = chat_format(model.chat_format, tokenizer)
    prompter = Prompter.create(tokenizer, chat, representation.added_tokens, model.max_len, model.system)
    parts: dict[str, Any] = {}
    if representation.placeholder is None and reads_symbols(model):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            parts = _symbol_table(llm, tokenizer, model, representation)
    elif representation.placeholder is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            parts, model = _towers(llm, tokenizer, model, representation, files or {})
    elm = Elm(llm, **parts, bidirectional=model.ecg_attention == "bidirectional")
    return Bundle(elm, prompter, representation, pipeline, model)


def _towers(
    llm: Any, tokenizer: Any, model: ModelConfig, representation: Any, files: Mapping[str, EncoderFile]
) -> tuple[dict[str, Any], ModelConfig]:
    """Encoders, connectors and placeholders of the ``Elm``; and settings that name nothing outside the checkpoint."""
    if model.encoder is None:
        raise ConfigError(f"representation '{representation.name}' feeds an encoder: model.encoder must name one")
    hidden = llm.get_input_embeddings().weight.shape[1]
    vocab = tokenizer.get_vocab()
    shown: Any = getattr(representation, "main", representation)  # behind which words may stand
    first = shown.signal if isinstance(shown, Dual) else shown
    encoder = build_tower(model, first.input_shape, files.get("encoder"))
    parts: dict[str, Any] = {"encoder": encoder, "placeholder_id": int(vocab[representation.placeholder])}
    name = model.connector
    if (image := model.image) is not None:
        if not isinstance(shown, Dual):
            raise ConfigError("model.image reads a picture beside the signal: give the sections of both")
        second = shown.image
        tower = build_tower(image, second.input_shape, files.get("image"))
        parts |= {"image_encoder": tower, "image_placeholder_id": int(vocab[shown.image_placeholder])}
        parts["image_connector"] = _connector(image.connector, tower, hidden, second.num_tokens)
        if image.shared:
            name, hidden, parts["shared"] = "linear", tower.dim, True
        model = replace(model, image=settings_of(image, tower))
    elif isinstance(shown, Dual):
        raise ConfigError("this representation feeds two encoders: the model needs model.image")
    if getattr(first, "tiled", False):
        if model.ecg_attention == "bidirectional":
            raise ConfigError("model.ecg_attention: bidirectional needs one number of tokens, anyres gives several")
        fit = {"patches": first.patches, "merge": first.merge}
        parts["connector"] = TileConnector(name, dim=encoder.dim, hidden=hidden, **fit)  # type: ignore[arg-type]
    else:
        parts["connector"] = _connector(name, encoder, hidden, first.num_tokens)
    return parts, settings_of(model, encoder)


def _symbol_table(llm: Any, tokenizer: Any, model: ModelConfig, representation: Any) -> dict[str, Any]:
    """A frozen table of the symbols' vectors, and the connector that projects each."""
    names = symbol_names(representation.added_tokens)
    if not names:
        raise ConfigError(f"encoder '{model.encoder}' is for the representation symbols, not {representation.name}")
    if resamples(model.connector):
        raise ConfigError(f"encoder '{model.encoder}': each symbol is projected by itself; use the connector linear")
    table: Any = build_tower(model, (len(names),))
    rows, hidden = llm.get_input_embeddings().weight.shape
    vocab = tokenizer.get_vocab()
    table.bind([vocab[name] for name in names], rows)
    return {"encoder": table, "connector": Connector(model.connector, dim=table.dim, hidden=hidden, num_tokens=1)}


def _connector(name: str, encoder: Any, hidden: int, num_tokens: int) -> Connector:
    return Connector(name, dim=encoder.dim, hidden=hidden, num_tokens=num_tokens, pooling=_pooling(encoder, num_tokens))


def _pooling(encoder: Any, num_tokens: int) -> Pooling | None:
    """How the connector makes fewer of the tokens of a picture, or of a signal that has some for every lead; None for
    an encoder whose tokens follow one another in time, or that does not say enough.
    """
    if (grid := getattr(encoder, "grid", None)) is not None:
        return Pooling.of_leads(grid, num_tokens)
    if getattr(encoder, "reads", "signal") != "image" or not hasattr(encoder, "num_tokens"):
        return None
    return Pooling.of(encoder.image_size, encoder.num_tokens, num_tokens)


def write_checkpoint(bundle: Bundle, folder: Path, facts: dict[str, Any] | None = None) -> None:
    """Write a checkpoint's files into an existing folder, the manifest last."""
    with no_bars():
        plain_llm(bundle.elm.llm).save_pretrained(folder / "llm")
    bundle.prompter.tokenizer.save_pretrained(folder / "llm")
    save_ecg_weights(bundle.elm, folder)
    if ecg_gate(bundle.elm.llm) is not None:
        save_adapter(bundle.elm.llm, folder)
    if len(bundle.trained_on):
        save_arrays({"people": bundle.trained_on}, folder / TRAINED_ON)
    finish_checkpoint(folder, bundle.model, bundle.representation, bundle.pipeline, facts, bundle.rag)


def finish_checkpoint(
    folder: Path,
    model: ModelConfig,
    representation: Any,
    pipeline: dict[str, Any],
    facts: dict[str, Any] | None = None,
    rag: RagOptions | None = None,
) -> None:
    """Write what a checkpoint holds beside its weights and its tokenizer, the manifest last."""
    representation.save(folder)
    settings = {
        "format": FORMAT,
        "model": strict.to_dict(model),
        "representation": representation.config(),
        "pipeline": pipeline,
    }
    if rag is not None:
        settings["rag"] = strict.to_dict(rag)
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
    folder = checkpoint_folder(source)
    check_outputs(folder, KIND, verify=verify)
    settings = read_json(folder / CONFIG)
    if settings.get("format") != FORMAT:
        raise ConfigError(f"{folder / CONFIG}: checkpoint format {settings.get('format')}, this ecglm reads {FORMAT}")
    model = strict.from_dict(ModelConfig, settings["model"], str(folder / CONFIG))
    representation = build_representation(settings["representation"], folder)
    llm, tokenizer = load_llm(str(folder / "llm"), dtype=model.dtype)
    if model.attention != "flash_attention_2":  # which the machine that loads it may not have
        use_attention(llm, choose_attention(model, llm.config))
    bundle = _bundle(llm, tokenizer, model, representation, settings["pipeline"], seed=0)
    load_ecg_weights(bundle.elm, folder)
    if model.lora is not None and model.lora.where == "ecg":  # all other adapters are merged into the LLM
        _adapt(bundle, model.lora, seed=0)
        load_adapter(llm, folder)
    if (rag := settings.get("rag")) is not None:
        bundle = bundle.with_rag(strict.from_dict(RagOptions, rag, str(folder / CONFIG)))
    if (folder / TRAINED_ON).is_file():
        bundle.trained_on = load_arrays(folder / TRAINED_ON)["people"]
    bundle.elm.eval()
    return bundle


def checkpoint_folder(source: str | Path) -> Path:
    """The folder of a checkpoint: itself, or the local copy of a hub id; EcglmError where neither is to be had."""
    folder = Path(source)
    return folder if folder.is_dir() else _download(str(source))


def checkpoint_fingerprint(source: str | Path) -> str:
    """What tells this checkpoint from others, a folder or a hub id; EcglmError as ``checkpoint_folder``."""
    return str(read_manifest(checkpoint_folder(source), KIND)["fingerprint"])


def save_ecg_weights(elm: Elm, folder: Path) -> None:
    """Write encoder and connector, if there are any."""
    ecg = {k: v.contiguous().cpu() for k, v in elm.state_dict().items() if not k.startswith("llm.")}
    if ecg:
        save_file(ecg, folder / WEIGHTS)


def load_ecg_weights(elm: Elm, folder: Path, *, optional: Sequence[str] = ()) -> None:
    """Load encoder and connector; EcglmError listing the names when the weights are not those of this model. optional:
    weights that may be missing, and then stay as they are, or be there for nothing.
    """
    wanted = {k: v for k, v in elm.state_dict().items() if not k.startswith("llm.")}
    found = load_file(folder / WEIGHTS) if (folder / WEIGHTS).is_file() else {}
    wrong = [k for k in wanted if k in found and found[k].shape != wanted[k].shape]
    problems = {
        "missing": sorted(wanted.keys() - found.keys() - set(optional)),
        "unexpected": sorted(found.keys() - wanted.keys() - set(optional)),
        "of another shape": wrong,
    }
    if any(problems.values()):
        told = "; ".join(f"{len(v)} {k} (first: {v[0]})" for k, v in problems.items() if v)
        raise EcglmError(f"{folder / WEIGHTS}: not the weights of this model: {told}")
    elm.load_state_dict({k: v for k, v in found.items() if k in wanted}, strict=False)


def _download(name: str) -> Path:
    if is_path(name):
        raise EcglmError(f"{name}: no such checkpoint folder; `ecglm train` makes one, best/ of its run")
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]))
    except hub_errors() as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise EcglmError(f"{name}: no such checkpoint folder, and not to be had from the hub ({reason})") from error


def push_to_hub(
    folder: str | Path, repo_id: str, *, private: bool = True, card: str | None = None, kind: str = KIND
) -> str:
    """Upload a checkpoint folder (or one of another ``kind``) to the Hugging Face hub; returns its address. card: its
    README.md (``models/card.py``). EcglmError without a token, and when the hub refuses.
    """
    read_manifest(folder, kind)
    if get_token() is None:
        raise EcglmError("no token for the hub; make one with write access there, then set HF_TOKEN or: hf auth login")
    api = HfApi()
    try:
        address = str(api.create_repo(repo_id, private=private, exist_ok=True))
        api.upload_folder(folder_path=str(folder), repo_id=repo_id, ignore_patterns=["README.md"] if card else None)
        if card is not None:
            api.upload_file(path_or_fileobj=card.encode(), path_in_repo="README.md", repo_id=repo_id)
    except hub_errors() as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise EcglmError(f"{repo_id}: the hub refused ({first}); check name and token") from error
    return address
