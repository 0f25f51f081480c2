"""Zero-phase filters as magnitude responses, and the original ECG-Bench filters in (b, a) form."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ecglm.errors import RejectedRecord

#: preset → pass band in Hz; ``None`` filters nothing.
PRESETS: dict[str, tuple[float, float] | None] = {
    "diagnostic": (0.5, 100.0),
    "st": (0.05, 100.0),
    "monitor": (0.5, 40.0),
    "none": None,
}
ORDER = 4
NOTCH_Q = 30.0
#: The upper band edge stays below this share of the lower of the two rates.
BAND_LIMIT = 0.45


def band_edges(preset: str, source_rate: float, target_rate: float) -> tuple[float, float] | None:
    """Pass band in Hz after the cap at 0.45 × the lower rate, or None. RejectedRecord ``rate_too_low`` without room."""
    band = PRESETS[preset]
    if band is None:
        return None
    low, high = band[0], min(band[1], BAND_LIMIT * min(source_rate, target_rate))
    if high < 2 * low:
        raise RejectedRecord(
            "rate_too_low", f"{source_rate:g} Hz leaves no room for filter preset '{preset}'; use preset 'none'"
        )
    return low, high


def band_response(freqs: np.ndarray, low: float, high: float, rate: float) -> np.ndarray:
    """Forward-backward gain of a digital Butterworth band-pass of order 4 (per side), at ``freqs`` in Hz.

    Closed form of ``abs(H)**2`` for the bilinear design at ``rate``: 0.5 (-6 dB) at both edges, 0 at 0 Hz.
    """
    warped = np.tan(np.pi * np.minimum(freqs, rate / 2) / rate)
    warped_low, warped_high = np.tan(np.pi * low / rate), np.tan(np.pi * high / rate)
    with np.errstate(divide="ignore", over="ignore"):
        x = (warped**2 - warped_low * warped_high) / ((warped_high - warped_low) * warped)
        return 1.0 / (1.0 + x ** (2 * ORDER))


def notch_response(freqs: np.ndarray, mains: float, rate: float) -> np.ndarray:
    """Forward-backward gain of the second-order notch (Q = 30) at ``mains`` Hz; 1 everywhere when mains >= rate / 2."""
    if mains >= rate / 2:
        return np.ones_like(freqs)
    omega, centre = 2 * np.pi * freqs / rate, 2 * np.pi * mains / rate
    depth = (np.cos(omega) - np.cos(centre)) ** 2
    width = (np.tan(centre / NOTCH_Q / 2) * np.sin(omega)) ** 2
    return depth / np.maximum(depth + width, np.finfo(float).tiny)


def antialias_response(freqs: np.ndarray, target_rate: float) -> np.ndarray:
    """Raised-cosine edge from 1 at 0.45 × the target rate down to 0 at its Nyquist frequency."""
    position = (freqs / target_rate - BAND_LIMIT) / (0.5 - BAND_LIMIT)
    return 0.5 + 0.5 * np.cos(np.pi * np.clip(position, 0.0, 1.0))


def steady_state(b: np.ndarray, a: np.ndarray) -> np.ndarray:
    """Filter state at rest under a constant input of 1, length ``len(a) - 1``, for (b, a) with ``a[0] == 1``.

    What scipy.signal.lfilter_zi computes, with the eliminations in LAPACK's textbook order. At 0.05 Hz the system is so
    ill-conditioned that scipy's answer changes with the processor's BLAS kernels, by up to 1.3e-4 mV in a filtered
    ECG; this order is the same on every machine and gives what the original chain gave.
    """
    size = len(a) - 1
    matrix = np.eye(size) - np.eye(size, k=1)
    matrix[:, 0] += a[1:]
    right = b[1:] - a[1:] * b[0]
    for k in range(size):
        pivot = k + int(np.argmax(np.abs(matrix[k:, k])))
        matrix[[k, pivot]], right[[k, pivot]] = matrix[[pivot, k]], right[[pivot, k]]
        factors = matrix[k + 1 :, k] * (1.0 / matrix[k, k])
        matrix[k + 1 :, k + 1 :] -= factors[:, None] * matrix[k, k + 1 :]
        right[k + 1 :] -= factors * right[k]
    for k in range(size - 1, -1, -1):
        right[k] /= matrix[k, k]
        right[:k] -= matrix[:k, k] * right[k]
    return right


@lru_cache(maxsize=32)
def ecg_bench_coefficients(rate: float) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], ...]:
    """(b, a, steady state) of ECG-Bench's four filters: notch 50 Hz, notch 60 Hz, band-pass 0.5–100, high-pass 0.05.

    Raises RejectedRecord ``rate_too_low`` when half the rate does not lie above 100 Hz.
    """
    if rate <= 200:
        raise RejectedRecord(
            "rate_too_low",
            f"pipeline ecg_bench filters up to 100 Hz and needs more than 200 Hz, the record has {rate:g} Hz; "
            "use --pipeline default, or the 500 Hz records",
        )
    import scipy.signal  # slow to import, and the default pipeline does without

    pairs = (
        scipy.signal.iirnotch(50.0, NOTCH_Q, fs=rate),
        scipy.signal.iirnotch(60.0, NOTCH_Q, fs=rate),
        scipy.signal.butter(ORDER, [0.5, 100.0], btype="bandpass", fs=rate),
        scipy.signal.butter(ORDER, 0.05, btype="highpass", fs=rate),
    )
    return tuple((b, a, steady_state(b, a)) for b, a in pairs)


def forward_backward(b: np.ndarray, a: np.ndarray, state: np.ndarray, rows: np.ndarray, margin: int) -> None:
    """Zero-phase (b, a) filter down the rows, in place, with odd padding of ``3 * len(a)`` rows, as scipy's filtfilt.

    rows: float64 ``(margin + num_samples + margin, num_leads)``, at most 16 leads; what stands in the margins (at least
    that padding) is overwritten. More samples than the padding has are needed.
    """
    from ecglm.signals.recursion import filter_in_place  # the compiler is loaded only where it is used

    pad = 3 * len(a)
    samples, padded = rows[margin:-margin], rows[margin - pad : len(rows) - margin + pad]
    padded[:pad] = 2 * samples[:1] - samples[pad:0:-1]
    padded[-pad:] = 2 * samples[-1:] - samples[-2 : -pad - 2 : -1]
    filter_in_place(b, a, state[:, None] * padded[0], padded, False)
    filter_in_place(b, a, state[:, None] * padded[-1], padded, True)


def exact_decimals(signal: np.ndarray) -> np.ndarray:
    """float64 samples: the decimals behind float32 millivolts where all of them have at most six.

    A 16-bit recording with a gain of 1000 or 200 per mV is such. Its float32 copy is off by up to 1e-7 mV, which the
    filters of ``ecg_bench`` turn into 1e-4; rounding restores ``adc / gain`` exactly. Other signals are only cast.
    """
    wide = signal.astype(np.float64)
    if signal.dtype == np.float32:
        slack = np.abs(signal) * np.float32(2.4e-7)  # two roundings of a reader's own float32 arithmetic
        for decimals in range(3, 7):
            rounded = np.round(wide, decimals)
            if bool((np.abs(rounded.astype(np.float32) - signal) <= slack).all()):
                return rounded
    return wide


def ecg_bench_filter(signal: np.ndarray, rate: float) -> np.ndarray:
    """ECG-Bench's four filters in turn, float64 ``(num_leads, num_samples)``; needs ``ecg_bench_min_samples()``.

    The (b, a) form is numerically poor at 0.05 Hz (up to 1.9e-3 mV off); kept, because the original has it.
    """
    from ecglm.signals.recursion import from_lanes

    return from_lanes(ecg_bench_filter_lanes(signal, rate), len(signal))


def ecg_bench_filter_lanes(signal: np.ndarray, rate: float) -> np.ndarray:
    """``ecg_bench_filter``, its result as ``(num_samples, 16)`` (``recursion.to_lanes``)."""
    from ecglm.signals.recursion import to_lanes

    margin = ecg_bench_min_samples() - 1
    rows = to_lanes(signal, margin)
    for b, a, state in ecg_bench_coefficients(rate):
        forward_backward(b, a, state, rows, margin)
    return rows[margin:-margin]


def ecg_bench_min_samples() -> int:
    """Fewest samples the padding of ``ecg_bench_filter`` takes."""
    return 3 * (2 * ORDER + 1) + 1
