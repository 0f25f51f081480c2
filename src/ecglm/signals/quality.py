"""What is wrong with a recording: measured without changing it; missing samples handled before any filter."""

from __future__ import annotations

from typing import Any

import numpy as np

from ecglm.errors import RejectedRecord
from ecglm.types import LEADS

FLAT_SD_MV = 1e-4
PLAUSIBLE_MV = (0.1, 10.0)
SATURATED_RUN = 5
EINTHOVEN_MV = 0.05
MAX_NAN_SHARE = 0.01
MAX_NAN_GAP_S = 0.040
# Between two beats a noise-free recording may be exactly zero for most of a second; padding is longer.
MIN_PADDING_S = 1.0


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


def assess(signal: np.ndarray, sampling_rate: float) -> dict[str, Any]:
    """Quality of ``(12, num_samples)`` canonical leads in mV, as JSON-able facts with ``flags``. Changes nothing.

    Flags: ``nan`` (missing samples), ``flat`` (all leads), ``flat_lead`` (max == min or sd < 1e-4 mV), ``saturated``
    (5 or more identical samples in a row at a lead's extreme), ``amplitude_implausible`` (median peak-to-peak over the
    leads outside 0.1–10 mV), ``einthoven`` (median of abs(II - I - III) at or above 0.05 mV).
    """
    num_samples = signal.shape[1]
    finite = np.isfinite(signal)
    whole = bool(finite.all())
    nan_share = {}
    if not whole:
        share = 1 - finite.mean(axis=1)
        nan_share = {LEADS[row]: round(float(share[row]), 6) for row in np.flatnonzero(share)}
        signal = np.where(finite, signal, np.nan)
    low, high = _extremes(signal, whole)
    flat = (high == low) | _still(signal, low, high)
    saturated = [LEADS[row] for row in _saturated(signal, low, high) if not flat[row]]
    peak_to_peak = float(np.median(high - low)) if num_samples else 0.0
    residual = np.abs(signal[1] - signal[0] - signal[2])
    residual = residual if whole else residual[np.isfinite(residual)]
    einthoven = float(np.median(residual)) if residual.size else 0.0
    checks = {
        "nan": not whole,
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


def _extremes(signal: np.ndarray, whole: bool) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest sample of each lead, NaN left out; both 0 for a lead without samples."""
    if whole and signal.shape[1]:
        return signal.min(axis=1), signal.max(axis=1)
    missing = np.isnan(signal)
    low = np.where(missing, np.inf, signal).min(axis=1, initial=np.inf)
    high = np.where(missing, -np.inf, signal).max(axis=1, initial=-np.inf)
    empty = low > high
    return np.where(empty, 0, low), np.where(empty, 0, high)


def _still(signal: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Leads whose standard deviation is under ``FLAT_SD_MV``; computed only where the range leaves it possible."""
    still = np.zeros(len(signal), dtype=bool)
    # sd >= range / sqrt(2 n): a lead with a larger range cannot be that still
    bound = FLAT_SD_MV * np.sqrt(2 * max(signal.shape[1], 1))
    for row in np.flatnonzero(high - low <= bound):
        values = signal[row][np.isfinite(signal[row])].astype(np.float64)
        still[row] = values.size == 0 or values.std() < FLAT_SD_MV
    return still


def _saturated(signal: np.ndarray, low: np.ndarray, high: np.ndarray) -> list[int]:
    """Rows in which ``SATURATED_RUN`` samples in a row stand at the lead's lowest or highest value."""
    found: set[int] = set()
    ahead = SATURATED_RUN - 1
    for extreme in (low, high):
        touching = signal == extreme[:, None]
        for row in np.flatnonzero(np.count_nonzero(touching, axis=1) > ahead):
            at = np.flatnonzero(touching[row])
            if bool((at[ahead:] - at[:-ahead] == ahead).any()):
                found.add(int(row))
    return sorted(found)
