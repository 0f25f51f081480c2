"""Normalisation of a segment: instance, percentile, lead_zscore, record_zscore, none (millivolts)."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from ecglm.errors import ConfigError, EcglmError, nearest
from ecglm.store.percentiles import read_percentiles

#: Every mode of ``normalise``.
MODES: tuple[str, ...] = ("instance", "percentile", "lead_zscore", "record_zscore", "none")

EPSILON = 1e-6  # keeps a constant segment at z = 0 instead of dividing by zero
MARGIN_MV = 0.5  # room around the percentiles, so that most peaks stay inside the clip range


def value_range(signal: np.ndarray, mode: str, percentiles: Mapping[str, float] | None = None) -> tuple[float, float]:
    """``(low, high)`` in mV, the values that ``instance`` or ``percentile`` map to z = 0 and (nearly) 1.

    signal: ``(num_leads, num_samples)`` in mV. percentiles: ``p1`` and ``p99`` in mV, of the training split.
    Raises EcglmError for an empty signal, NaN or infinity, missing percentiles, or a mode without a range.
    """
    if signal.size == 0:
        raise EcglmError(f"empty ECG signal of shape {signal.shape}; a segment (num_leads, num_samples) is needed")
    low, high = float(signal.min()), float(signal.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise EcglmError("ECG signal holds NaN or infinity; choose a NaN policy in the pipeline that made it")
    if mode == "instance":
        return low, high
    if mode == "percentile":
        return percentile_range(percentiles)
    raise EcglmError(f"normalisation '{mode}' has no value range; use 'instance' or 'percentile'")


def percentile_range(percentiles: Mapping[str, float] | None) -> tuple[float, float]:
    """``(p1 - 0.5, p99 + 0.5)`` in mV; EcglmError when the percentiles are missing or not in order."""
    if percentiles is None or "p1" not in percentiles or "p99" not in percentiles:
        raise EcglmError("normalisation 'percentile' needs percentiles {p1, p99} in mV of the training split")
    p1, p99 = float(percentiles["p1"]), float(percentiles["p99"])
    if not (np.isfinite(p1) and np.isfinite(p99) and p1 <= p99):
        raise EcglmError(f"percentiles p1 = {p1}, p99 = {p99} are not finite values in ascending order")
    return p1 - MARGIN_MV, p99 + MARGIN_MV


def normalise(signal: np.ndarray, mode: str, percentiles: Mapping[str, float] | None = None) -> np.ndarray:
    """A segment ``(num_leads, num_samples)`` in mV, normalised; float32 of the same shape.

    instance: ``(x - min) / (max - min + 1e-6)`` over all leads, in [0, 1]. percentile: the same between
    ``p1 - 0.5`` and ``p99 + 0.5`` mV, clipped. lead_zscore, record_zscore: mean 0 and (population) sd 1 per lead, or
    over all leads together. none: mV as they are. A constant segment gives 0 everywhere (``none`` excepted).
    Raises EcglmError for an unknown mode, NaN or infinity, or missing percentiles.
    """
    if mode not in MODES:
        raise EcglmError(f"no normalisation '{mode}'{nearest(mode, MODES)}; known: {', '.join(MODES)}")
    if not np.isfinite(signal).all():
        raise EcglmError("ECG signal holds NaN or infinity; choose a NaN policy in the pipeline that made it")
    if mode == "none":
        return np.asarray(signal, np.float32)
    x = np.asarray(signal, np.float64)
    if mode in ("instance", "percentile"):
        low, high = value_range(x, mode, percentiles)
        z = np.clip((x - low) / (high - low + EPSILON), 0.0, 1.0)
    else:
        axis = -1 if mode == "lead_zscore" else None
        z = (x - x.mean(axis, keepdims=True)) / (x.std(axis, keepdims=True) + EPSILON)
    return z.astype(np.float32)


def pair_problem(mode: str, file: str | os.PathLike[str] | None, mode_name: str, file_name: str) -> str | None:
    """What is wrong with a mode and a percentiles file given together, or None; the names are the user's."""
    if mode == "percentile" and file is None:
        return f"{mode_name} percentile needs {file_name}; ecglm store percentiles makes the file"
    if mode != "percentile" and file is not None:
        return f"{file_name} is for {mode_name} percentile"
    return None


def read_amplitudes(
    mode: str,
    file: str | os.PathLike[str] | None,
    mode_name: str = "--normalise",
    file_name: str = "--percentiles",
) -> tuple[dict[str, float] | None, str | None]:
    """``({p1, p99}, fingerprint)`` of a file of ``ecglm store percentiles`` where ``mode`` needs one, else two Nones.

    Raises ConfigError for a file too many or too few, EcglmError for one that is not of the training split.
    """
    if problem := pair_problem(mode, file, mode_name, file_name):
        raise ConfigError(problem)
    if file is None:
        return None, None
    found = read_percentiles(file)
    split = found["settings"].get("split")
    if split != "train":
        raise EcglmError(f"{file}: is of the split '{split}'; only train may be learnt from")
    return {"p1": found["p1"], "p99": found["p99"]}, found["fingerprint"]
