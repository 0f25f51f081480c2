"""The loops behind ``quality.py``: extremes of leads, runs of equal samples, measures of a segment (numba)."""

from __future__ import annotations

import numpy as np

from ecglm.signals.compiled import compiled

LANES = 64
#: Floor of every power, (0.1 µV)^2 in mV^2: below the resolution of any recorder, and no division by zero.
FLOOR = 1e-8
#: Of the second differences, so many samples apart are summed: neighbours say nearly the same.
BEND_STEP = 3


@compiled
def lead_extremes(signal: np.ndarray, low: np.ndarray, high: np.ndarray, missing: np.ndarray) -> None:
    """Lowest and highest finite sample and the number of others, of each lead of float32 ``(num_leads, num_samples)``.

    A lead without a finite sample gets 0 and 0.
    """
    num_leads, num_samples = signal.shape
    lows, highs, sums = (np.empty(LANES, np.float32), np.empty(LANES, np.float32), np.empty(LANES, np.float32))
    whole = num_samples - num_samples % LANES
    for lead in range(num_leads):
        row = signal[lead]
        lows[:], highs[:], sums[:] = np.inf, -np.inf, 0
        for at in range(0, whole, LANES):
            block = row[at : at + LANES]
            for k in range(len(block)):
                value = block[k]
                lows[k] = value if value < lows[k] else lows[k]
                highs[k] = value if value > highs[k] else highs[k]
                sums[k] += value
        lowest, highest, total = np.float32(np.inf), np.float32(-np.inf), np.float32(0)
        for k in range(LANES):
            lowest, highest, total = min(lowest, lows[k]), max(highest, highs[k]), total + sums[k]
        for k in range(whole, num_samples):
            lowest, highest, total = min(lowest, row[k]), max(highest, row[k]), total + row[k]
        missing[lead] = 0
        if not np.isfinite(total):  # a missing sample, or very large ones: look at each
            lowest, highest = np.float32(np.inf), np.float32(-np.inf)
            for k in range(num_samples):
                if np.isfinite(row[k]):
                    lowest, highest = min(lowest, row[k]), max(highest, row[k])
                else:
                    missing[lead] += 1
        low[lead], high[lead] = (lowest, highest) if lowest <= highest else (np.float32(0), np.float32(0))


@compiled
def run_samples(row: np.ndarray, least: int, only_extremes: bool, low: float, high: float) -> int:
    """How many samples of ``row`` stand in runs of at least ``least`` equal samples; with ``only_extremes`` only runs
    at ``low`` or ``high``. A run of that length covers a grid of that spacing, so only the grid is looked at."""
    count, at = 0, least - 1
    while at < len(row):
        value = row[at]
        if only_extremes and value != low and value != high:
            at += least
            continue
        first, end = at, at + 1
        while first > 0 and row[first - 1] == value:
            first -= 1
        while end < len(row) and row[end] == value:
            end += 1
        if end - first >= least and np.isfinite(value):
            count += end - first
        at = end + least - 1 if end > at + 1 else at + least
    return count


@compiled
def clipped_leads(signal: np.ndarray, low: np.ndarray, high: np.ndarray, least: int, out: np.ndarray) -> None:
    """``out[lead]``: samples in runs of at least ``least`` at the lead's lowest or highest value."""
    for lead in range(len(signal)):
        out[lead] = run_samples(signal[lead], least, True, low[lead], high[lead])


@compiled
def lead_residual(signal: np.ndarray, out: np.ndarray) -> int:
    """abs(II - I - III) of canonical leads where all three are finite, packed into ``out``; their number."""
    count = 0
    for k in range(signal.shape[1]):
        value = abs(signal[1, k] - signal[0, k] - signal[2, k])
        out[count] = value
        count += np.isfinite(value)
    return count


@compiled
def middle_bin(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Those of ``values`` (not negative, at least one) that share a bin of a histogram with a middle one, and how many
    are smaller: what is left for a median to sort."""
    lower, upper = (len(values) - 1) // 2, len(values) // 2
    highest = np.float32(0)
    for k in range(len(values)):
        highest = max(highest, values[k])
    scale = np.float32(1023) / highest if highest > np.float32(1e-30) else np.float32(0)
    counts = np.zeros(1024, dtype=np.int64)
    for k in range(len(values)):
        counts[np.int64(values[k] * scale)] += 1
    first, below = 0, 0
    while below + counts[first] <= lower:
        below += counts[first]
        first += 1
    last, upto = first, below + counts[first]
    while upto <= upper:
        last += 1
        upto += counts[last]
    found = np.empty(upto - below, dtype=np.float32)
    count = 0
    for k in range(len(values)):
        bin_number = np.int64(values[k] * scale)
        if first <= bin_number <= last:
            found[count] = values[k]
            count += 1
    return found, below


@compiled
def _select(values: np.ndarray, wanted: int) -> float:
    """The value that sorting would put at ``wanted``, found by partition in place (Hoare 1961): none before it is
    larger."""
    left, right = 0, len(values) - 1
    while left < right:
        pivot, i, j = values[wanted], left, right
        while i <= j:
            while values[i] < pivot:
                i += 1
            while pivot < values[j]:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i, j = i + 1, j - 1
        if j < wanted:
            left = i
        if wanted < i:
            right = j
    return values[wanted]


@compiled
def _middle(values: np.ndarray) -> float:
    """Median, the upper one of an even number; the values change places."""
    return _select(values, len(values) // 2)


@compiled
def median_residual(signal: np.ndarray) -> float:
    """Median of ``lead_residual``; 0 where there is nothing to take it of."""
    residual = np.empty(signal.shape[1], dtype=np.float32)
    count = lead_residual(signal, residual)
    if count == 0:
        return 0.0
    ordered, below = middle_bin(residual[:count])  # often few of the values, the middle ones among them
    lower, upper = (count - 1) // 2 - below, count // 2 - below
    high = np.float64(_select(ordered, upper))
    return high if lower == upper else (np.float64(ordered[:upper].max()) + high) / 2


@compiled
def _bends(row: np.ndarray, start: int, lag: int, out: np.ndarray) -> None:
    """Squared second differences (a - 2b + c)^2 over ``lag`` samples each, at ``len(out)`` samples from ``start``."""
    one, two, three = row[start:], row[start + lag :], row[start + 2 * lag :]
    for k in range(len(out)):
        bend = one[k] + three[k] - two[k] - two[k]
        out[k] = bend * bend


@compiled
def measure(
    signal: np.ndarray, low: np.ndarray, high: np.ndarray, missing: np.ndarray, window: int, fold: int, lag: int,
    flat_run: int, clip_run: int, waves: np.ndarray, known: np.ndarray, leak: np.ndarray, out: np.ndarray,
) -> None:  # fmt: skip
    """Fill ``out`` ``(6, num_leads)``: the measures of ``quality.lead_measures``, in the order of ``MEASURES``.

    signal: float32 ``(num_leads, num_samples)``, at least ``window`` samples. low, high, missing: ``lead_extremes`` of
    the whole recording. lag: samples between those of a second difference. waves: ``(4, fold)``, cosine and sine of
    50 Hz and of 60 Hz; ``fold`` divides ``window`` and is a multiple of their periods, so that a window is summed to
    that length before it is multiplied. known: whether each lies below half the rate; leak: the gain that second
    differences, divided by 6, have for its power.
    """
    num_leads, num_samples = signal.shape
    num_windows, rows = num_samples // window, window // fold
    sub = max(2 * lag + 1, window // 10)
    per_sub = (sub - 2 * lag + BEND_STEP - 1) // BEND_STEP
    sums, squares = np.empty(fold), np.empty(fold)
    energies = np.empty(num_windows * max(1, window // sub))
    bends = np.empty(max(0, window - 2 * lag), dtype=np.float32)
    waves_sum = np.zeros(4)
    for k in range(fold):
        for w in range(4):
            waves_sum[w] += rows * waves[w, k]
    # the median of a chi-square of that many degrees of freedom, over its mean (Wilson and Hilferty 1931)
    median_of_mean = (1.0 - 2.0 / (9.0 * per_sub)) ** 3
    for lead in range(num_leads):
        row = signal[lead]
        lowest, highest = np.inf, -np.inf
        power, num_used, num_energies, hum_50, hum_60, used = 0.0, 0, 0, 0.0, 0.0, 0
        for number in range(num_windows):
            start = number * window
            sums[:], squares[:] = 0.0, 0.0
            for at in range(start, start + window, fold):
                block = row[at : at + fold]
                for k in range(len(block)):
                    value = np.float64(block[k])
                    sums[k] += value
                    squares[k] += value * value
            total, square = 0.0, 0.0
            c50, s50, c60, s60 = 0.0, 0.0, 0.0, 0.0
            for k in range(fold):
                total += sums[k]
                square += squares[k]
                c50 += sums[k] * waves[0, k]
                s50 += sums[k] * waves[1, k]
                c60 += sums[k] * waves[2, k]
                s60 += sums[k] * waves[3, k]
            count, mean = window, total / window
            if np.isfinite(total):
                square -= total * mean
                c50, s50 = c50 - mean * waves_sum[0], s50 - mean * waves_sum[1]
                c60, s60 = c60 - mean * waves_sum[2], s60 - mean * waves_sum[3]
            else:  # missing samples stand at the mean of the others
                count, total = 0, 0.0
                for at in range(start, start + window):
                    if np.isfinite(row[at]):
                        count += 1
                        total += row[at]
                if 2 * count < window:
                    continue
                mean, square = total / count, 0.0
                c50, s50, c60, s60 = 0.0, 0.0, 0.0, 0.0
                for at in range(start, start + window):
                    if np.isfinite(row[at]):
                        value, k = row[at] - mean, (at - start) % fold
                        square += value * value
                        c50 += value * waves[0, k]
                        s50 += value * waves[1, k]
                        c60 += value * waves[2, k]
                        s60 += value * waves[3, k]
            lowest, highest = min(lowest, mean), max(highest, mean)
            power += square
            num_used += count
            used += 1
            hum_50 += 2.0 * (c50 * c50 + s50 * s50) / (np.float64(count) * count)
            hum_60 += 2.0 * (c60 * c60 + s60 * s60) / (np.float64(count) * count)
            _bends(row, start, lag, bends)
            for at in range(0, window - sub + 1, sub):
                energy = np.float32(0)
                for k in range(at, at + sub - 2 * lag, BEND_STEP):
                    energy += bends[k]
                if np.isfinite(energy):
                    energies[num_energies] = energy / (6.0 * per_sub)
                    num_energies += 1
        absent = 0
        if missing[lead]:
            for k in range(num_samples):
                absent += not np.isfinite(row[k])
        out[0, lead] = absent / num_samples
        out[1, lead] = run_samples(row, flat_run, False, 0.0, 0.0) / num_samples
        out[2, lead] = 0.0
        if low[lead] < high[lead]:
            out[2, lead] = run_samples(row, clip_run, True, low[lead], high[lead]) / num_samples
        out[3, lead] = highest - lowest if used else np.nan
        out[4, lead], out[5, lead] = np.nan, np.nan
        if not used or not power / num_used > FLOOR:
            continue
        power /= num_used
        hum_50, hum_60 = hum_50 / used * known[0], hum_60 / used * known[1]
        if known[0]:
            out[4, lead] = min(max(hum_50, hum_60) / power, 1.0)
        if num_energies:
            noise = _middle(energies[:num_energies]) / median_of_mean - leak[0] * hum_50 - leak[1] * hum_60
            noise = max(noise, 0.0) + hum_50 + hum_60
            out[5, lead] = 10.0 * np.log10(max(power - noise, FLOOR) / max(noise, FLOOR))
