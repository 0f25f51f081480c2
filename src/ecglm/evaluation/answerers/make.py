"""Which kind of model a name stands for, told by its files and never by its path; and opening it on a device."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import snapshot_download

from ecglm.errors import ConfigError, EcglmError, hub_errors, is_path
from ecglm.evaluation.answerers.base import Answerer
from ecglm.evaluation.answerers.fixed import FixedAnswerer, check_name
from ecglm.evaluation.endpoint import Endpoint
from ecglm.evaluation.predict_checks import ModelFacts
from ecglm.files import MANIFEST, file_sha256, fingerprint, read_manifest
from ecglm.representations.base import WithWords

BASELINE = "baseline:"
#: What is fetched of a model on the hub: data, no code.
_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]


@dataclass(frozen=True)
class ModelSpec:
    """A model that can be opened in any process.

    kind: ``elm``, ``vlm``, ``endpoint`` or ``baseline``. source: folder, or name. facts: what its answers depend on,
    besides the question: they go into the fingerprint of the settings. texts: the answers of a baseline.
    """

    kind: str
    source: str
    facts: Mapping[str, Any]
    max_new_tokens: int
    stores: tuple[str, ...] = ()
    dtype: str = "auto"
    endpoint: Endpoint | None = None
    detail: Literal["low", "high", "auto"] = "low"
    texts: Mapping[str, str] = field(default_factory=dict)

    def open(self, device: str) -> Answerer:
        """Load it. Raises what loading raises."""
        if self.kind == "baseline":
            return FixedAnswerer(self.source, self.texts)
        if self.kind == "endpoint":
            from ecglm.evaluation.answerers.chat import ChatAnswerer

            assert self.endpoint is not None
            return ChatAnswerer(self.endpoint, self.max_new_tokens, self.detail)
        if self.kind == "elm":
            from ecglm.evaluation.answerers.elm import ElmAnswerer

            made = ElmAnswerer.load(self.source, stores=self.stores, max_new_tokens=self.max_new_tokens, device=device)
            return made
        from ecglm.evaluation.answerers.vlm import VlmAnswerer

        return VlmAnswerer.load(self.source, max_new_tokens=self.max_new_tokens, device=device, dtype=self.dtype)


def find_model(
    model: str,
    *,
    endpoint: Endpoint | None = None,
    detail: Literal["low", "high", "auto"] = "low",
    stores: tuple[str, ...] = (),
    dtype: str = "auto",
    max_new_tokens: int | None = None,
) -> ModelSpec:
    """The kind of a model: with an endpoint its model's name, ``baseline:NAME``, a checkpoint folder of ours, a folder
    of ``transformers``, or the hub id of either. EcglmError where it is none of them.
    """
    length = (2000 if endpoint else 1024) if max_new_tokens is None else max_new_tokens
    if endpoint is not None:
        facts = {**endpoint.facts(), "detail": detail, "max_new_tokens": length}
        return ModelSpec("endpoint", endpoint.model, facts, length, endpoint=endpoint, detail=detail)
    if model.startswith(BASELINE):
        name = check_name(model.removeprefix(BASELINE))
        return ModelSpec("baseline", name, {"baseline": name}, length)
    folder = Path(model) if Path(model).is_dir() else _download(model)
    kind = kind_of(folder)
    if kind == "elm":
        facts = {"checkpoint": fingerprint(ModelFacts.of(folder).outputs), "max_new_tokens": length}
        return ModelSpec("elm", str(folder), facts, length, stores=stores)
    if stores:
        raise EcglmError(f"{folder}: --store is for models that ecglm trained or imported; this one reads pictures")
    facts = {"files": _files_fingerprint(folder), "dtype": dtype, "max_new_tokens": length}
    return ModelSpec("vlm", str(folder), facts, length, dtype=dtype)


def kind_of(folder: Path) -> str:
    """``elm`` for a checkpoint of ours, ``vlm`` for a folder of ``transformers``, by manifest and configuration."""
    manifest = folder / MANIFEST
    if manifest.is_file():
        read_manifest(folder, "checkpoint")  # an error for any other kind
        return "elm"
    from ecglm.evaluation.answerers.vlm import check_folder

    check_folder(folder)
    return "vlm"


def reads_pictures(spec: ModelSpec) -> bool:
    """Whether pictures can be shown to a model; known without its weights."""
    if spec.kind != "elm":
        return True
    representation, _ = ModelFacts.of(spec.source).settings()
    return not isinstance(representation, WithWords) and hasattr(representation, "of_picture")


def model_name(model: str, spec: ModelSpec) -> str:
    """How a model is called: the last part of its path, ``<parent>_best`` where that says little. A folder
    ``checkpoint-<N>`` goes by its parent's name: see ``step_of``."""
    if spec.kind == "baseline":
        return f"baseline-{spec.source}"
    if not Path(model).is_dir():
        return re.sub(r"[^\w.+-]+", "-", model.rsplit("/", 1)[-1])  # llama3:8b
    path = Path(model).resolve()
    if step_of(spec) != "final":
        return path.parent.name
    return f"{path.parent.name}_{path.name}" if path.name in ("best", "last", "final") else path.name


def step_of(spec: ModelSpec) -> str:
    """``300`` for the folder ``checkpoint-300``, else ``final``."""
    kind, _, number = Path(spec.source).resolve().name.partition("-")
    return number if spec.kind in ("elm", "vlm") and kind == "checkpoint" and number.isdigit() else "final"


def _files_fingerprint(folder: Path) -> str:
    """Of everything that is loaded of a ``transformers`` folder."""
    found = sorted(p for pattern in _FILES for p in folder.glob(pattern) if p.is_file())
    return fingerprint({p.name: file_sha256(p) for p in found})


def _download(name: str) -> Path:
    if is_path(name):
        raise EcglmError(f"{name}: no such folder; --model takes a folder, a hub id, baseline:NAME, or --base-url")
    try:
        return Path(snapshot_download(name, allow_patterns=_FILES))
    except hub_errors() as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ConfigError(f"{name}: no such folder, and not to be had from the hub ({reason})") from error
