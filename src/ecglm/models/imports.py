"""Released encoders → encoder folders: whose names and shapes are what, and what input the weights expect."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ecglm.errors import EcglmError, StaleOutputError, nearest
from ecglm.files import MANIFEST, file_sha256
from ecglm.models.encoder_files import KIND, differences, read_encoder, save_encoder
from ecglm.models.encoders.base import build_encoder
from ecglm.models.encoders.masked import SIZES
from ecglm.models.merl import UNUSED, Merl, released_shape, split_released
from ecglm.models.released import find_weights, read_released
from ecglm.representations.signal import SignalRepresentation
from ecglm.types import LEADS

#: MERL learned from MIMIC-IV-ECG as its files are: aVF stands before aVL.
MIMIC_LEADS = (*LEADS[:4], "aVF", "aVL", *LEADS[6:])
#: MERL's number of tokens → samples, where known; other numbers: 16 samples each.
MERL_SAMPLES = {32: 500, 79: 1250, 157: 2500, 313: 5000}


@dataclass(frozen=True, kw_only=True)
class Released:
    """A released encoder in this package's terms.

    weights: the encoder's tensors; extra: heads and decoder, under their released names. expects: what the input must
    be for the features to mean what they meant. ignored: what was left out, name of the group → number of tensors.
    """

    name: str
    options: dict[str, Any]
    input_shape: tuple[int, int]
    weights: dict[str, torch.Tensor]
    extra: dict[str, torch.Tensor]
    expects: dict[str, Any]
    ignored: dict[str, int] = field(default_factory=dict)


def import_encoder(
    kind: str, source: str | Path, out: str | Path, *, file: str | None = None, overwrite: bool = False
) -> tuple[Path, dict[str, Any]]:
    """Write released weights as an encoder folder; returns it and its facts.

    kind: of ``FORMATS``. source: a file, a folder, or a hub id; file: which one there. A folder made from the same file
    is kept as it is. Raises EcglmError listing the names that are missing, unexpected or of another shape,
    UnsafeInputError for a file that could run code, StaleOutputError where ``out`` holds something else.
    """
    if kind not in FORMATS:
        raise EcglmError(f"no released format '{kind}'{nearest(kind, FORMATS)}; known: {', '.join(FORMATS)}")
    path, folder = find_weights(source, file), Path(out)
    origin = {"format": kind, "file": path.name, "sha256": file_sha256(path)}
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        if not (folder / MANIFEST).is_file():
            raise StaleOutputError(f"{folder}: exists and is no {KIND} folder; choose another --out")
        facts = read_encoder(folder).facts
        if facts.get("imported_from") == origin:
            return folder, facts
        if not overwrite:
            raise StaleOutputError(f"{folder}: holds another encoder; use --overwrite to replace it, or another --out")
    tensors, beside = read_released(path)
    found = FORMATS[kind](tensors, str(path))
    encoder, extra = _checked(found, str(path))
    ignored = dict(found.ignored) | ({"beside the weights": len(beside)} if beside else {})
    facts = {"imported_from": origin, "expects": found.expects, "ignored": ignored}
    shown = SignalRepresentation(
        num_samples=found.input_shape[1],
        rate=found.expects["rate"],
        leads=tuple(found.expects["leads"]),
        normalise=found.expects["normalise"],
    )
    save_encoder(
        folder,
        encoder,
        name=found.name,
        options=found.options,
        input_shape=found.input_shape,
        representation=shown.config(),
        extra=extra,
        facts=facts,
    )
    return folder, facts


def summary(folder: Path, facts: Mapping[str, Any]) -> list[str]:
    """What a user should know of an imported encoder: sizes, what was left out, and what its input must be."""
    found, expects = read_encoder(folder, verify=False), facts["expects"]
    size = "".join(f", {key} {value}" for key, value in found.options.items())
    lines = [f"{found.name}{size}: reads {found.input_shape[0]} leads x {found.input_shape[1]} samples"]
    lines += [f"left out: {number} tensors {name}" for name, number in facts["ignored"].items()]
    band = expects["band_hz"]
    filtered = f", band {band[0]} to {band[1]} Hz" if band else ""
    lines.append(
        f"learned from {expects['num_samples']} samples at {expects['rate']} Hz{filtered}, normalised by "
        f"{expects['normalise']}, leads {' '.join(expects['leads'])} ({expects['from']})"
    )
    preset = " --set preset=monitor" if band else ""
    lines.append(f"store for it: ecglm prepare … --rate {expects['rate']} --seg-len {expects['num_samples']}{preset}")
    leads = f", leads: [{', '.join(expects['leads'])}]" if tuple(expects["leads"]) != LEADS else ""
    lines.append(f"recipe: signal: {{normalise: {expects['normalise']}{leads}}}, model: {{encoder_from: {folder}}}")
    return lines


def _float32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _checked(found: Released, where: str) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """The encoder with its weights, and the tensors beside it; every name and shape compared before a value is used."""
    with torch.device("meta"):  # names and shapes alone
        encoder = build_encoder(found.name, input_shape=found.input_shape, options=found.options)
    problems = differences(encoder.state_dict(), found.weights)
    if found.extra and not problems:
        known, heads = _extra_of(found.name, encoder), dict(found.extra)
        optional = [k for k in heads if k.startswith("head.")]  # a classifier somebody trained on top
        if heads.keys() - set(optional):
            problems = differences(known, {k: v for k, v in heads.items() if k not in optional})
    if problems:
        raise EcglmError(f"{where}: not the weights of a released {found.name}: {problems}")
    for name, tensor in {**found.weights, **found.extra}.items():
        if not bool(torch.isfinite(tensor).all()):
            raise EcglmError(f"{where}: {name} holds NaN or infinity; fetch the file again")
    encoder.load_state_dict({k: _float32(v) for k, v in found.weights.items()}, assign=True)
    return encoder, {k: _float32(v) for k, v in found.extra.items()}


def _extra_of(name: str, encoder: Any) -> dict[str, torch.Tensor]:
    """Names and shapes of what is released with an encoder."""
    with torch.device("meta"):
        if name == "merl":
            return Merl(encoder, None).extra()
        model: nn.Module = encoder.masked_model()
    return {k: v for k, v in model.state_dict().items() if not k.startswith("encoder.")}


# --- ST-MEM, MTAE, MLAE


def _masked(name: str, tensors: Mapping[str, torch.Tensor], where: str) -> Released:
    """Whole models and encoders alone; the patch embedding of a whole one stands in it twice."""
    whole = any(k.startswith("encoder.") for k in tensors)
    weights = {k.removeprefix("encoder."): v for k, v in tensors.items() if not whole or k.startswith("encoder.")}
    extra = {k: v for k, v in tensors.items() if whole and not k.startswith(("encoder.", "to_patch_embedding."))}
    if whole:
        for key in [k for k in tensors if k.startswith("to_patch_embedding.")]:
            own = weights.setdefault(key, tensors[key])
            if own.shape != tensors[key].shape or not torch.equal(own, tensors[key]):
                raise EcglmError(f"{where}: {key} and encoder.{key} differ, and should be one tensor")
    for key in [k for k in weights if k.startswith("head.")]:
        extra[key] = weights.pop(key)
    position, patch = weights.get("pos_embedding"), weights.get("to_patch_embedding.1.weight")
    if position is None or position.dim() != 3 or patch is None or patch.dim() != 1:
        raise EcglmError(
            f"{where}: not the weights of a released {name}: no pos_embedding (1, patches, width) and "
            f"to_patch_embedding.1.weight among its {len(tensors)} tensors"
        )
    width = position.shape[2]
    size = next((s for s, (w, _, _) in SIZES.items() if w == width), None)
    if size is None:
        sizes = ", ".join(f"{s} {w}" for s, (w, _, _) in SIZES.items())
        raise EcglmError(f"{where}: a released {name} of width {width}; known: {sizes}")
    options, shape = _geometry(name, weights, position.shape[1], len(patch), where)
    expects = {
        "rate": 250,
        "num_samples": shape[1],
        "leads": list(LEADS),
        "band_hz": [0.67, 40.0],
        "normalise": "record_zscore",
        "from": "recipe of arXiv 2402.09450",
    }
    return Released(
        name=name, options={"size": size, **options}, input_shape=shape, weights=weights, extra=extra, expects=expects
    )


def _geometry(
    name: str, weights: Mapping[str, torch.Tensor], slots: int, patch_dim: int, where: str
) -> tuple[dict[str, Any], tuple[int, int]]:
    """Options and ``(num_leads, num_samples)`` as the shapes tell them."""
    marks = 2 if name == "st_mem" else 1
    num_patches, leads = slots - marks, len(LEADS)
    if name == "mlae":
        leads, num_samples, options = num_patches, patch_dim, {}
    else:
        patch, rest = (patch_dim, 0) if name == "st_mem" else divmod(patch_dim, leads)
        if rest:
            raise EcglmError(
                f"{where}: not the weights of a released {name}: patches of {patch_dim} values for {leads} leads"
            )
        num_samples, options = num_patches * patch, {"patch_size": patch}
    if name == "st_mem" and (found := sum(k.startswith("lead_embeddings.") for k in weights)):
        leads = found
    if leads != len(LEADS) or num_patches < 1:
        raise EcglmError(f"{where}: weights for {leads} leads; a released {name} has {len(LEADS)}")
    return options, (leads, num_samples)


# --- MERL


def _merl(tensors: Mapping[str, torch.Tensor], where: str) -> Released:
    """Heads go beside the encoder; the text tower and a classifier that nothing uses are left out."""
    text = sum(k.startswith("lm_model.") for k in tensors)
    unused = sum(k.startswith(UNUSED) for k in tensors)
    weights, heads = split_released(tensors)
    try:
        depth, num_tokens = released_shape(weights, heads)
    except (ValueError, KeyError, IndexError) as error:
        raise EcglmError(f"{where}: not the weights of a released merl: {error}") from error
    if num_tokens < 1 or "conv1.weight" not in weights or weights["conv1.weight"].dim() != 3:
        raise EcglmError(f"{where}: not the weights of a released merl: no first convolution or no tokens")
    num_samples = MERL_SAMPLES.get(num_tokens, 16 * num_tokens)
    expects = {
        "rate": 500 if num_samples == 5000 else 250,  # the paper's, and ECG-Bench's for all other lengths
        "num_samples": num_samples,
        "leads": list(MIMIC_LEADS),
        "band_hz": None,
        "normalise": "instance",
        "from": "public data loaders of arXiv 2403.06659",
    }
    ignored = {"lm_model.*": text, f"{UNUSED}*": unused}
    return Released(
        name="merl",
        options={"depth": depth},
        input_shape=(int(weights["conv1.weight"].shape[1]), num_samples),
        weights=weights,
        extra=heads,
        expects=expects,
        ignored={k: n for k, n in ignored.items() if n},
    )


#: Name on the command line → what reads the tensors: ``(tensors, where) -> Released``.
FORMATS: dict[str, Callable[[Mapping[str, torch.Tensor], str], Released]] = {
    "st-mem": lambda tensors, where: _masked("st_mem", tensors, where),
    "mtae": lambda tensors, where: _masked("mtae", tensors, where),
    "mlae": lambda tensors, where: _masked("mlae", tensors, where),
    "merl": _merl,
}
