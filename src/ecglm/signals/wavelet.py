"""The db6 wavelet on rows of leads (``recursion.to_lanes``): PyWavelets' transform with symmetric edges (numba)."""

from __future__ import annotations

import numpy as np
import pywt

from ecglm.signals.compiled import compiled

WAVELET = "db6"
TAPS = 12
_FILTERS = tuple(np.array(taps) for taps in pywt.Wavelet(WAVELET).filter_bank)


def decompose(rows: np.ndarray, level: int) -> list[np.ndarray]:
    """``pywt.wavedec`` down the rows of float64 ``(num_samples, lanes)``: approximation, details from coarse to fine.

    The signal must have at least 11 samples at every level, so that one reflection makes an edge.
    """
    details = []
    for _ in range(level):
        edge = TAPS - 1
        longer = np.concatenate([rows[edge - 1 :: -1], rows, rows[: -edge - 1 : -1]])
        shape = ((len(rows) + edge) // 2, rows.shape[1])
        rows, detail = np.empty(shape), np.empty(shape)
        _analyse(longer, _FILTERS[0], _FILTERS[1], rows, detail)
        details.append(detail)
    return [rows, *reversed(details)]


def compose(coefficients: list[np.ndarray]) -> np.ndarray:
    """``pywt.waverec``: the inverse of ``decompose``, one sample longer where the number of samples was odd."""
    rows, *details = coefficients
    for detail in details:
        longer = np.empty((2 * len(detail) - TAPS + 2, rows.shape[1]))
        _synthesise(rows[: len(detail)], detail, _FILTERS[2], _FILTERS[3], longer)
        rows = longer
    return rows


@compiled
def _analyse(rows: np.ndarray, low: np.ndarray, high: np.ndarray, smooth: np.ndarray, detail: np.ndarray) -> None:
    for i in range(len(smooth)):
        for lane in range(smooth.shape[1]):
            slow, fast = 0.0, 0.0
            for k in range(TAPS):
                value = rows[2 * i + 1 + k, lane]
                slow += low[TAPS - 1 - k] * value
                fast += high[TAPS - 1 - k] * value
            smooth[i, lane] = slow
            detail[i, lane] = fast


@compiled
def _synthesise(smooth: np.ndarray, detail: np.ndarray, low: np.ndarray, high: np.ndarray, rows: np.ndarray) -> None:
    half = TAPS // 2
    for i in range(len(rows) // 2):
        for lane in range(rows.shape[1]):
            even, odd = 0.0, 0.0
            for k in range(half):
                slow, fast = smooth[i + half - 1 - k, lane], detail[i + half - 1 - k, lane]
                even += low[2 * k] * slow + high[2 * k] * fast
                odd += low[2 * k + 1] * slow + high[2 * k + 1] * fast
            rows[2 * i, lane] = even
            rows[2 * i + 1, lane] = odd


@compiled
def shrink(rows: np.ndarray, threshold: np.ndarray, negligible: float) -> None:
    """Soft-threshold in place, lane by lane; what is not finite, or at most ``negligible`` then, becomes 0."""
    for i in range(len(rows)):
        for lane in range(rows.shape[1]):
            value = rows[i, lane]
            size = max(abs(value) - threshold[lane], 0.0)
            rows[i, lane] = np.copysign(size, value) if negligible < size < np.inf else 0.0
