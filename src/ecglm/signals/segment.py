"""Cut a clean signal into windows of equal length."""

from __future__ import annotations

import math

import numpy as np

from ecglm.errors import RejectedRecord


def segment_starts(num_samples: int, seg_len: int, hop: int, min_fill: float = 1.0) -> list[int]:
    """First samples of the windows that hold at least ``min_fill * seg_len`` samples."""
    least = max(1, math.ceil(min_fill * seg_len))
    return list(range(0, num_samples - least + 1, hop))


def require_length(num_samples: int, rate: float, seg_len: int, min_fill: float = 1.0) -> None:
    """Raise RejectedRecord ``too_short`` when ``num_samples`` at ``rate`` Hz do not give one segment."""
    if num_samples < max(1, math.ceil(min_fill * seg_len)):
        raise RejectedRecord(
            "too_short", f"{num_samples / rate:.3g} s of signal, one segment has {seg_len / rate:.3g} s at {rate:g} Hz"
        )


def cut_segments(
    signal: np.ndarray, seg_len: int, hop: int | None = None, min_fill: float = 1.0
) -> tuple[np.ndarray, list[int], list[float]]:
    """``(num_leads, N)`` → float32 ``(num_segments, num_leads, seg_len)``, first samples, filled shares.

    hop: samples between starts, ``seg_len`` when None. min_fill: a last window filled at least so far is kept, its end
    padded with zeros and its share below 1. The remainder is dropped; no window at all is an empty array. Whole windows
    side by side are a view of float32 ``signal``, anything else a copy.
    """
    num_leads, num_samples = signal.shape
    starts = segment_starts(num_samples, seg_len, hop or seg_len, min_fill)
    if (hop or seg_len) == seg_len and len(starts) * seg_len <= num_samples and signal.dtype == np.float32:
        side_by_side = signal[:, : len(starts) * seg_len].reshape(num_leads, len(starts), seg_len)
        return side_by_side.swapaxes(0, 1), starts, [1.0] * len(starts)
    segments = np.zeros((len(starts), signal.shape[0], seg_len), dtype=np.float32)
    fills = []
    for k, start in enumerate(starts):
        window = signal[:, start : start + seg_len]
        segments[k, :, : window.shape[1]] = window
        fills.append(window.shape[1] / seg_len)
    return segments, starts, fills
