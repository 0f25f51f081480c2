"""What is wrong with a recording: measured without changing it; missing samples handled before any filter.

Flags and facts are of the whole recording (``assess``). Six measures are of each lead of each segment
(``lead_measures``), taken of the raw samples behind it, before gaps are filled and filters run:

- ``nan_share``: share of the samples that are missing (NaN or infinite).
- ``flat_share``: share of the samples in runs of at least 0.2 s of one value.
- ``clip_share``: share of the samples in runs of at least 5 that stand at the lead's lowest or highest value in the
  whole recording; 0 for a lead that is flat throughout.
- ``baseline_mv``: baseline wander in mV, peak to peak of the means of consecutive windows of 1 s.
- ``mains_share``: power at 50 or at 60 Hz, whichever is larger, over the power P. Power at a frequency is the mean over
  the windows of 2 abs(X)^2 / n^2, X being the window's Fourier sum there: a band of about ±1 Hz. NaN where half the
  rate does not lie above 50 Hz; only 50 Hz counts where it does not lie above 60 Hz.
- ``snr_db``: 10 log10((P - N) / N). Noise N is that at high frequencies plus the power at 50 and 60 Hz. The former:
  second differences over 4 ms (most sensitive near 125 Hz), divided by 6 as for white noise, their mean square in
  stretches of 0.1 s, the median of these (most lie between the QRS complexes), less what 50 and 60 Hz add to it.

P is the mean square of the samples about the mean of their 1-s window, in mV^2: what lies above about 0.5 Hz. Windows
of which more than half is missing do not count, nor do samples after the last whole window; a segment shorter than 1 s
is one window. All powers are at least (0.1 µV)^2; a lead whose P is no larger has no mains_share and no snr_db (NaN),
and one without a usable window no baseline_mv.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ecglm.errors import RejectedRecord
from ecglm.signals.leads import plain
from ecglm.types import LEADS

FLAT_SD_MV = 1e-4
PLAUSIBLE_MV = (0.1, 10.0)
SATURATED_RUN = 5
EINTHOVEN_MV = 0.05
MAX_NAN_SHARE = 0.01
MAX_NAN_GAP_S = 0.040
# Between two beats a noise-free recording may be exactly zero for most of a second; padding is longer.
MIN_PADDING_S = 1.0
FLAT_RUN_S = 0.2
BEND_S = 0.004
MAINS_HZ = (50.0, 60.0)
#: The measures of a lead in a segment, in the order of the index.
MEASURES = ("nan_share", "flat_share", "clip_share", "baseline_mv", "mains_share", "snr_db")


@dataclass(frozen=True)
class Extremes:
    """Lowest and highest finite sample (0 and 0 without one) and number of missing samples, of each lead."""

    low: np.ndarray
    high: np.ndarray
    missing: np.ndarray

    @property
    def whole(self) -> bool:
        """Nothing is missing in any lead."""
        return not self.missing.any()


def extremes(signal: np.ndarray) -> Extremes:
    """``Extremes`` of ``(num_leads, num_samples)``."""
    from ecglm.signals.measures import lead_extremes  # the compiler is loaded only where it is used

    num_leads = len(signal)
    found = Extremes(np.empty(num_leads, np.float32), np.empty(num_leads, np.float32), np.empty(num_leads, np.int64))
    lead_extremes(plain(signal), found.low, found.high, found.missing)
    return found


def lead_measures(
    signal: np.ndarray, sampling_rate: float, spans: Sequence[tuple[int, int]], found: Extremes | None = None
) -> dict[str, np.ndarray]:
    """The measures above, each float32 ``(len(spans), num_leads)``.

    signal: ``(num_leads, num_samples)`` in mV, raw; spans: first sample and end of each segment, none empty; found:
    ``extremes(signal)`` where the caller has them.
    """
    from ecglm.signals.measures import measure

    signal, found = plain(signal), found or extremes(signal)
    second, lag, flat_run, known, leak = _steps(float(sampling_rate))
    out = np.empty((len(spans), len(MEASURES), len(signal)), dtype=np.float32)
    for number, (start, stop) in enumerate(spans):
        part = signal if (start, stop) == (0, signal.shape[1]) else np.ascontiguousarray(signal[:, start:stop])
        window = min(second, stop - start)
        waves = _mains_waves(float(sampling_rate), window)
        measure(
            part, found.low, found.high, found.missing, window, waves.shape[1], lag, flat_run, SATURATED_RUN,
            waves, known, leak, out[number],
        )  # fmt: skip
    return {name: np.ascontiguousarray(out[:, row]) for row, name in enumerate(MEASURES)}


@lru_cache(maxsize=32)
def _steps(rate: float) -> tuple[int, int, int, np.ndarray, np.ndarray]:
    """Per rate: samples in a second, the lag of second differences, samples of a flat run, and for 50 and 60 Hz whether
    they lie below half the rate and the gain that second differences have for them."""
    lag = max(1, round(BEND_S * rate))
    known = np.array([mains < rate / 2 for mains in MAINS_HZ])
    leak = np.array([(2 - 2 * math.cos(2 * math.pi * mains * lag / rate)) ** 2 / 6 for mains in MAINS_HZ])
    return max(1, round(rate)), lag, max(2, math.ceil(FLAT_RUN_S * rate)), known, leak


@lru_cache(maxsize=32)
def _mains_waves(rate: float, window: int) -> np.ndarray:
    """``(4, fold)`` cosine and sine of 50 and 60 Hz; 0.1 s of them, where that divides the window, say all of it."""
    fold = round(rate / 10) if window == rate and rate % 10 == 0 else window
    phases = [2 * np.pi * mains * np.arange(fold) / rate for mains in MAINS_HZ]
    return np.stack([wave(phase) for phase in phases for wave in (np.cos, np.sin)])


def trim_zero_padding(signal: np.ndarray, sampling_rate: float) -> tuple[np.ndarray, int]:
    """Cut runs of at least 1 s at either end in which every lead is exactly zero (CODE-15 pads so).

    Returns ``(num_leads, fewer samples)`` and the number of samples cut from the start. An all-zero signal is left
    alone: it is flat, not padded.
    """
    if signal.shape[1] == 0 or (signal[:, 0].any() and signal[:, -1].any()):
        return signal, 0
    alive = np.flatnonzero(signal.any(axis=0))  # NaN counts as alive
    if len(alive) == 0:
        return signal, 0
    least = max(2, int(MIN_PADDING_S * sampling_rate))
    start = int(alive[0]) if alive[0] >= least else 0
    tail = signal.shape[1] - 1 - int(alive[-1])
    stop = signal.shape[1] - tail if tail >= least else signal.shape[1]
    return signal[:, start:stop], start


def fill_gaps(signal: np.ndarray, sampling_rate: float, policy: str) -> np.ndarray:
    """Deal with NaN and infinite samples; a signal without any is returned as it is. Never writes zeros.

    policy: ``interpolate`` draws straight lines across short gaps (edges are held) and rejects a record with a lead
    above 1 % missing or a gap above 40 ms; ``keep`` draws the lines whatever the length; ``reject`` takes no gap.
    Raises RejectedRecord ``nan``, also for a lead without a single sample.
    """
    finite = np.isfinite(signal)
    if finite.all():
        return signal
    num_samples = signal.shape[1]
    filled = signal.copy()
    for row in np.flatnonzero(~finite.all(axis=1)):
        good = np.flatnonzero(finite[row])
        lead = LEADS[row] if signal.shape[0] == len(LEADS) else f"row {row}"
        missing = num_samples - len(good)
        if len(good) == 0:
            raise RejectedRecord("nan", f"lead {lead} has no sample that is a number")
        edges = np.concatenate([[-1], good, [num_samples]])
        gap_s = (np.diff(edges).max() - 1) / sampling_rate
        too_much = missing > MAX_NAN_SHARE * num_samples or gap_s > MAX_NAN_GAP_S
        if policy == "reject" or (policy == "interpolate" and too_much):
            found = f"{missing / num_samples:.2%} of samples missing, longest gap {gap_s * 1000:.0f} ms"
            raise RejectedRecord("nan", f"lead {lead}: {found} (nan_policy {policy})")
        bad = np.flatnonzero(~finite[row])
        filled[row, bad] = np.interp(bad, good, signal[row, good])
    return filled


def assess(signal: np.ndarray, sampling_rate: float, found: Extremes | None = None) -> dict[str, Any]:
    """Quality of ``(12, num_samples)`` canonical leads in mV, as JSON-able facts with ``flags``. Changes nothing.

    Flags: ``nan`` (missing samples), ``flat`` (all leads), ``flat_lead`` (max == min or sd < 1e-4 mV), ``saturated``
    (5 or more identical samples in a row at a lead's extreme), ``amplitude_implausible`` (median peak-to-peak over the
    leads outside 0.1–10 mV), ``einthoven`` (median of abs(II - I - III) at or above 0.05 mV).
    """
    found = found or extremes(signal)
    num_samples = signal.shape[1]
    nan_share = {}
    if not found.whole:
        nan_share = {
            LEADS[row]: round(int(found.missing[row]) / num_samples, 6) for row in np.flatnonzero(found.missing)
        }
    ranges = found.high - found.low
    flat = (ranges == 0) | _still(signal, found)
    saturated = [LEADS[row] for row in _saturated(signal, found) if not flat[row]]
    middle = sorted(ranges.tolist())
    peak_to_peak = (middle[(len(middle) - 1) // 2] + middle[len(middle) // 2]) / 2
    einthoven = _einthoven(signal)
    checks = {
        "nan": not found.whole,
        "flat": bool(flat.all()),
        "flat_lead": bool(flat.any()),
        "saturated": bool(saturated),
        "amplitude_implausible": not PLAUSIBLE_MV[0] <= peak_to_peak <= PLAUSIBLE_MV[1],
        "einthoven": einthoven >= EINTHOVEN_MV,
    }
    return {
        "duration_s": round(num_samples / sampling_rate, 6),
        "nan_share": nan_share,
        "flat_leads": [LEADS[row] for row in np.flatnonzero(flat)],
        "saturated_leads": saturated,
        "peak_to_peak_mv": round(peak_to_peak, 6),
        "einthoven_mv": round(einthoven, 6),
        "flags": [name for name, raised in checks.items() if raised],
    }


def refuse_bad(quality: dict[str, Any], on_bad: str) -> None:
    """Raise RejectedRecord ``flat`` when every lead is flat; with ``on_bad="reject"`` also ``flat_lead``,
    ``saturated`` and ``amplitude_implausible``. The Einthoven residual only warns: it rejects nothing."""
    flags = quality["flags"]
    if "flat" in flags:
        raise RejectedRecord("flat", "every lead is flat")
    if on_bad == "reject":
        if "flat_lead" in flags:
            raise RejectedRecord("flat_lead", f"flat: {', '.join(quality['flat_leads'])}")
        if "saturated" in flags:
            raise RejectedRecord("saturated", f"saturated: {', '.join(quality['saturated_leads'])}")
        if "amplitude_implausible" in flags:
            raise RejectedRecord("amplitude_implausible", f"median peak-to-peak {quality['peak_to_peak_mv']} mV")


def _still(signal: np.ndarray, found: Extremes) -> np.ndarray:
    """Leads whose standard deviation is under ``FLAT_SD_MV``; computed only where the range leaves it possible."""
    still = np.zeros(len(signal), dtype=bool)
    # sd >= range / sqrt(2 n): a lead with a larger range cannot be that still
    bound = FLAT_SD_MV * math.sqrt(2 * max(signal.shape[1], 1))
    ranges = found.high - found.low
    for row in np.flatnonzero(ranges <= bound) if len(ranges) and ranges.min() <= bound else ():
        values = signal[row][np.isfinite(signal[row])].astype(np.float64)
        still[row] = values.size == 0 or values.std() < FLAT_SD_MV
    return still


def _saturated(signal: np.ndarray, found: Extremes) -> np.ndarray:
    """Rows in which ``SATURATED_RUN`` samples in a row stand at the lead's lowest or highest value."""
    from ecglm.signals.measures import clipped_leads

    clipped = np.empty(len(signal), dtype=np.int64)
    clipped_leads(plain(signal), found.low, found.high, SATURATED_RUN, clipped)
    return np.flatnonzero(clipped)


def _einthoven(signal: np.ndarray) -> float:
    """Median of abs(II - I - III) over the samples that all three leads have; 0 without any."""
    from ecglm.signals.measures import median_residual

    return float(median_residual(plain(signal)))
