"""Named pipelines, Record → Segments: ``default``, and ``ecg_bench`` (ECG-Bench's chain, arXiv 2412.14373)."""

from __future__ import annotations

import dataclasses
import math
import typing
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from ecglm import files, registry
from ecglm.config import coerce, describe
from ecglm.errors import ConfigError, RejectedRecord, nearest
from ecglm.registry import register
from ecglm.signals.denoise import ecg_bench_denoise_lanes, wavelet_denoise
from ecglm.signals.filters import ecg_bench_coefficients, ecg_bench_filter_lanes, ecg_bench_min_samples, exact_decimals
from ecglm.signals.leads import canonical_leads
from ecglm.signals.quality import Extremes, assess, extremes, fill_gaps, lead_measures, refuse_bad, trim_zero_padding
from ecglm.signals.resample import filter_and_resample, num_resampled, rate_ratio, spline_lanes
from ecglm.signals.segment import cut_segments, require_length
from ecglm.types import Record, Segments


class Pipeline(Protocol):
    """What a named pipeline offers. Same record and same config give the same bytes."""

    name: ClassVar[str]
    version: ClassVar[int]
    rate: int
    seg_len: int

    def config(self) -> dict[str, Any]:
        """Name, version and every option, JSON-able; ``pipeline_from_config`` reads it back."""
        ...

    def fingerprint(self) -> str:
        """sha256 of ``config()``."""
        ...

    def run(self, record: Record) -> Segments:
        """Clean segments of one record; RejectedRecord when it cannot be used."""
        ...


@dataclass(frozen=True)
class _Checked:
    """A record's canonical leads once judged: without gaps, as they came, their extremes and quality."""

    signal: np.ndarray
    raw: np.ndarray
    found: Extremes
    quality: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Options:
    """What both pipelines share."""

    rate: int = 250
    """Output rate in Hz."""
    seg_len: int = 2500
    """Samples per segment, at the output rate."""
    hop: int | None = None
    """Samples between the starts of two segments; seg_len when empty."""
    nan_policy: Literal["interpolate", "reject", "keep"] = "interpolate"
    """Missing samples: fill short gaps and reject the rest, reject any, or fill all and flag."""
    on_bad: Literal["keep", "reject"] = "keep"
    """Flat, saturated or implausibly large records: keep with a flag, or reject. All leads flat is always rejected."""

    name: ClassVar[str]
    version: ClassVar[int]

    def __post_init__(self) -> None:
        for field in ("rate", "seg_len", "hop"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ValueError(f"{field} must be at least 1, found {value}")

    def config(self) -> dict[str, Any]:
        """Name, version and every option, JSON-able; ``pipeline_from_config`` reads it back."""
        return {"name": self.name, "version": self.version, **dataclasses.asdict(self)}

    def fingerprint(self) -> str:
        """sha256 of ``config()``: changes with any option and with the pipeline's version."""
        return files.fingerprint(self.config())

    def _checked(self, signal: np.ndarray, record: Record) -> _Checked:
        """Quality of canonical leads, and the signal without gaps."""
        if signal.shape[1] == 0:
            raise RejectedRecord("too_short", "the record has no samples")
        found = extremes(signal)
        if found.missing.min() == signal.shape[1]:
            raise RejectedRecord("nan", "no lead has a sample that is a number")
        quality = assess(signal, record.sampling_rate, found)
        refuse_bad(quality, self.on_bad)
        filled = signal if found.whole else fill_gaps(signal, record.sampling_rate, self.nan_policy)
        return _Checked(filled, signal, found, quality)

    def _segments(
        self, checked: _Checked, record: Record, clean: np.ndarray, min_fill: float = 1.0, offset_s: float = 0.0
    ) -> Segments:
        """Cut the clean signal, which starts ``offset_s`` into the record; measures of the raw samples behind."""
        segments, starts, fills = cut_segments(clean, self.seg_len, self.hop, min_fill)
        if fills[-1] < 1:
            checked.quality["fill"] = [round(fill, 6) for fill in fills]
        num_raw, step = checked.raw.shape[1], record.sampling_rate / self.rate
        spans = [(round(at * step), min(num_raw, round((at + self.seg_len) * step))) for at in starts]
        measures = lead_measures(checked.raw, record.sampling_rate, spans, checked.found)
        start_s = tuple(offset_s + at / self.rate for at in starts)
        return Segments(segments, start_s, self.rate, checked.quality, measures)


@register("pipelines", "default")
@dataclass(frozen=True, kw_only=True)
class DefaultPipeline(_Options):
    """Leads by name, trim, quality, gaps, (denoise), zero-phase filter with anti-aliased resampling, segments."""

    preset: Literal["diagnostic", "st", "monitor", "none"] = "diagnostic"
    """Pass band: 0.5–100 Hz, 0.05–100 Hz (keeps ST), 0.5–40 Hz, or none; capped at 0.45 × the lower rate."""
    mains: float | None = None
    """Mains notch in Hz (50 or 60); none when empty."""
    denoise: bool = False
    """Wavelet denoising at the source rate, universal threshold from the finest detail."""
    min_fill: float = 1.0
    """A last segment filled at least so far is kept, zero-padded; its share stands in the quality under fill."""

    name: ClassVar[str] = "default"
    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mains is not None and not (math.isfinite(self.mains) and self.mains > 0):
            raise ValueError(f"mains must be a frequency in Hz such as 50 or 60, found {self.mains}")
        if not 0 < self.min_fill <= 1:
            raise ValueError(f"min_fill must lie above 0 and at most at 1, found {self.min_fill}")

    def run(self, record: Record) -> Segments:
        """Clean segments, float32 ``(num_segments, 12, seg_len)`` in mV.

        Raises RejectedRecord: ``leads_mismatch``, ``lead_duplicate``, ``lead_unknown``, ``lead_missing``,
        ``rate_invalid``, ``rate_unsupported``, ``rate_too_low``, ``too_short``, ``flat``, ``nan``, and with
        ``on_bad="reject"`` also ``flat_lead``, ``saturated``, ``amplitude_implausible``.
        """
        source_rate = record.sampling_rate
        ratio = rate_ratio(source_rate, self.rate)
        # Trimmed before the quality is judged: zero padding would pass for a saturated, longer recording.
        signal, start = trim_zero_padding(canonical_leads(record.signal, record.leads), source_rate)
        require_length(num_resampled(signal.shape[1], ratio), self.rate, self.seg_len, self.min_fill)
        checked = self._checked(signal, record)
        clean = wavelet_denoise(checked.signal) if self.denoise else checked.signal
        clean = filter_and_resample(clean, source_rate, self.rate, self.preset, self.mains)
        return self._segments(checked, record, clean, self.min_fill, start / source_rate)


@register("pipelines", "ecg_bench")
@dataclass(frozen=True, kw_only=True)
class EcgBenchPipeline(_Options):
    """ECG-Bench's chain with its constants and numerics, but leads by name and missing samples before the filters."""

    name: ClassVar[str] = "ecg_bench"
    version: ClassVar[int] = 1

    def run(self, record: Record) -> Segments:
        """Segments, float32 ``(num_segments, 12, seg_len)`` in mV, within 1e-6 mV of the original chain.

        Raises RejectedRecord as ``default`` does; ``rate_too_low`` for records of 200 Hz and less, which the original
        filters (up to 100 Hz) cannot take.
        """
        rate_ratio(record.sampling_rate, self.rate)
        ecg_bench_coefficients(record.sampling_rate)
        signal = canonical_leads(record.signal, record.leads)
        num_out = int(signal.shape[1] * self.rate / record.sampling_rate)
        require_length(num_out, self.rate, self.seg_len)
        require_length(signal.shape[1], record.sampling_rate, ecg_bench_min_samples())
        checked = self._checked(signal, record)
        num_leads, rate = len(signal), record.sampling_rate
        rows = ecg_bench_denoise_lanes(ecg_bench_filter_lanes(exact_decimals(checked.signal), rate), num_leads)
        clean = rows[:, :num_leads].T if rate == self.rate else spline_lanes(rows, num_leads, rate, self.rate)
        return self._segments(checked, record, clean)


def get_pipeline(name: str, *, rate: int = 250, seg_len: int = 2500, **options: Any) -> Pipeline:
    """The pipeline ``name`` with its options; ConfigError for an unknown name or option, or a value of another type."""
    kind = registry.get("pipelines", name)
    hints = typing.get_type_hints(kind)
    known = [field.name for field in dataclasses.fields(kind)]
    values = {"rate": rate, "seg_len": seg_len, **options}
    for key, value in values.items():
        if key not in known:
            raise ConfigError(
                f"pipeline '{name}' has no option '{key}'{nearest(key, known)}; its options: {', '.join(known)}"
            )
        try:
            values[key] = coerce(value, hints[key])
        except TypeError:
            raise ConfigError(f"pipeline '{name}': {key} must be {describe(hints[key])}, found {value!r}") from None
    try:
        return kind(**values)
    except ValueError as error:
        raise ConfigError(f"pipeline '{name}': {error}") from error


def pipeline_from_config(config: dict[str, Any]) -> Pipeline:
    """The pipeline that wrote ``config``; ConfigError when this version of the package no longer runs it the same."""
    options = dict(config)
    name, version = options.pop("name", None), options.pop("version", None)
    pipeline = get_pipeline(str(name), **options)
    if version != pipeline.version:
        raise ConfigError(
            f"pipeline '{name}' is version {pipeline.version} here, the config was made by version {version}; "
            "prepare the store again"
        )
    return pipeline


def preprocess(
    record: Record, pipeline: str = "default", rate: int = 250, seg_len: int = 1250, **options: Any
) -> np.ndarray:
    """Clean segments of one record: float32 ``(num_segments, 12, seg_len)``, mV, canonical leads.

    Raises ConfigError for a wrong option and RejectedRecord for a record that cannot be used.
    """
    return get_pipeline(pipeline, rate=rate, seg_len=seg_len, **options).run(record).signal
