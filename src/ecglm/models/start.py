"""``model.start_from``: a training that goes on with the weights of a checkpoint (ours, or an imported PULSE)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file as load_arrays

from ecglm import config as strict
from ecglm.errors import ConfigError, EcglmError
from ecglm.files import check_outputs, read_json, read_manifest
from ecglm.models.config import ModelConfig

KIND, CONFIG, TRAINED_ON = "checkpoint", "config.json", "trained_on.safetensors"
#: What the checkpoint decides; a recipe leaves it out, or says the same.
_FIXED = ("tiny", "encoder", "encoder_options", "encoder_from", "connector", "image", "ecg_attention", "chat_format")
#: What the checkpoint decides where the recipe leaves it at its default.
_USUAL = ("system", "max_len")
#: What a page looks like, and how its tiles are laid out: a training may choose it anew.
_FREE = (
    *("layout", "size", "dpi", "color", "grid", "header", "line_width", "synthesis", "modality_dropout"),
    *("grids", "merge"),
)
#: The weight that ``merge: spatial_unpad`` has and the others have not: it begins anew, or is left behind.
_NEWLINE = "connector.image_newline"


def read_start(source: str | Path) -> dict[str, Any]:
    """The settings of a checkpoint folder: ``model`` (a ModelConfig), ``representation`` and ``pipeline`` (plain).

    Raises ConfigError, with the mend, where there is none, or one whose adapters stand beside the LLM.
    """
    folder = Path(source)
    try:
        read_manifest(folder, KIND)
        plain = read_json(folder / CONFIG)
        model = strict.from_dict(ModelConfig, plain["model"], str(folder / CONFIG))
    except (EcglmError, OSError) as error:
        mend = "; name best/ of a run, or a folder that ecglm import made"
        raise ConfigError(f"model.start_from: {error}{mend}") from error
    if model.lora is not None and model.lora.where == "ecg":
        raise ConfigError(
            f"model.start_from: {folder} has adapters beside its LLM (lora.where: ecg), which a training cannot go on "
            "with; start from a checkpoint without"
        )
    return {"model": model, "representation": plain["representation"], "pipeline": plain["pipeline"]}


def started(model: ModelConfig) -> ModelConfig:
    """The settings of a training that starts from a checkpoint: the checkpoint's, where the recipe says nothing.

    ``llm`` is the folder of the checkpoint's language model. Raises ConfigError where the recipe says otherwise than
    the checkpoint of what its weights have fixed.
    """
    assert model.start_from is not None
    found: ModelConfig = read_start(model.start_from)["model"]
    usual = ModelConfig()
    if model.llm != usual.llm and model.llm != found.llm:
        raise ConfigError(_other("llm", model, found))
    for name in _FIXED:
        if getattr(model, name) != getattr(usual, name) and getattr(model, name) != getattr(found, name):
            raise ConfigError(_other(name, model, found))
    if model.lora is not None and found.llm == "tiny":
        raise ConfigError(f"model.lora adapts a pretrained LLM; {model.start_from} has a tiny one: drop model.lora")
    taken = {name: getattr(found, name) for name in _FIXED}
    taken |= {n: getattr(found, n) for n in _USUAL if getattr(model, n) == getattr(usual, n)}
    if model.system_file is not None:
        taken.pop("system", None)
    return replace(model, llm=str(Path(model.start_from) / "llm"), **taken)


def _other(name: str, model: ModelConfig, found: ModelConfig) -> str:
    told = f"model.{name} is {getattr(model, name)}, but model.start_from {model.start_from} has {getattr(found, name)}"
    return f"{told}; leave model.{name} out"


def shown_as(source: str | Path) -> str | None:
    """Name of the representation a checkpoint folder reads, of the signal's where there are two; None without one."""
    file = Path(source) / CONFIG
    if not file.is_file():
        return None
    config = read_json(file).get("representation", {})
    while "main" in config or "signal" in config:
        config = config.get("main") or config["signal"]
    return str(config.get("name")) or None


def check_start(source: str | Path, representation: Any, pipeline: Mapping[str, Any]) -> None:
    """ConfigError where a run would show ECGs otherwise than the checkpoint was shown them: another representation,
    other tokens, or for a signal another rate, normalisation or pipeline. How a page is drawn is free.
    """
    found = read_start(source)
    before, now = dict(found["representation"]), dict(representation.config())
    if before.get("name") != now.get("name"):
        raise ConfigError(
            f"model.start_from {source} reads ECGs as '{before.get('name')}', but this recipe shows them as "
            f"'{now.get('name')}'; give the section {before.get('name')}"
        )
    for key in sorted({*_flat(before), *_flat(now)}):
        old, new = _flat(before).get(key), _flat(now).get(key)
        if key.split(".")[-1] not in _FREE and _plain(old) != _plain(new):
            raise ConfigError(
                f"model.start_from {source} learned with {before['name']}.{key} {old}, but this run has {new}; set it "
                "alike"
            )
    if representation.gives == "image":
        return
    made = found["pipeline"]
    for key in sorted({*made, *pipeline}):
        if _plain(made.get(key)) != _plain(pipeline.get(key)):
            raise ConfigError(
                f"model.start_from {source} learned from segments made otherwise: {key} {made.get(key)} (here "
                f"{pipeline.get(key)}); prepare the store alike"
            )


def changed_tiles(source: str | Path, representation: Any) -> list[str]:
    """How tiles are laid out otherwise than in the checkpoint, for people: ``"merge flat (there spatial_unpad)"``."""
    before, now = read_start(source)["representation"], representation.config()
    differs = [k for k in ("merge", "grids") if k in before and _plain(before[k]) != _plain(now.get(k))]
    return [f"{key} {now.get(key)} (there {before[key]})" for key in differs]


def _flat(config: Mapping[str, Any], ahead: str = "") -> dict[str, Any]:
    """A config with its inner configs as ``outer.key``, but for a drawing recipe, which is one value."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and key not in _FREE:
            flat |= _flat(value, f"{ahead}{key}.")
        else:
            flat[f"{ahead}{key}"] = value
    return flat


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def begin_from(bundle: Any, source: str | Path) -> None:
    """Put the weights of a checkpoint's encoders and connectors into a new model, which has its LLM already, and whom
    it learned from. EcglmError listing the names that do not fit.
    """
    from ecglm.models.checkpoint import load_ecg_weights  # which builds on this file

    folder = Path(source)
    check_outputs(folder, KIND)
    load_ecg_weights(bundle.elm, folder, optional=(_NEWLINE,))
    if (folder / TRAINED_ON).is_file():
        bundle.trained_on = np.union1d(bundle.trained_on, load_arrays(folder / TRAINED_ON)["people"])
    found = read_start(source)["model"]
    bundle.model = replace(bundle.model, llm=found.llm, start_from=None)
