"""The loops of ``features``: each row (lead) by itself, so that nothing else changes its numbers.

Sums run in four strands, as a processor adds four numbers in the time of one.
"""

from __future__ import annotations

import numpy as np
import pywt

from ecglm.signals.compiled import compiled

WAVELET, LEVEL = "db4", 5
_LOW, _HIGH = (np.array(taps)[::-1].copy() for taps in pywt.Wavelet(WAVELET).filter_bank[:2])
_EDGE = 7  # taps less one


@compiled
def total(values: np.ndarray) -> float:
    """Sum of ``(L,)``."""
    a, b, c, d = 0.0, 0.0, 0.0, 0.0
    whole = len(values) - len(values) % 4
    for i in range(0, whole, 4):
        a, b, c, d = a + values[i], b + values[i + 1], c + values[i + 2], d + values[i + 3]
    for i in range(whole, len(values)):
        a += values[i]
    return (a + b) + (c + d)


@compiled
def statistics(x: np.ndarray, out: np.ndarray) -> None:
    """Mean, sd, greatest, least, mean absolute and root mean square of the differences of ``(n, L)``: ``(6, n)``."""
    num_rows, length = x.shape
    work = np.empty(length)
    for row in range(num_rows):
        lead = x[row]
        mean = total(lead) / length
        most, least = lead[0], lead[0]
        for value in lead:
            most = value if value > most else most
            least = value if value < least else least
        for i in range(length):
            work[i] = (lead[i] - mean) * (lead[i] - mean)
        out[0, row], out[1, row], out[2, row], out[3, row] = mean, np.sqrt(total(work) / length), most, least
        for i in range(length - 1):
            work[i] = abs(lead[i + 1] - lead[i])
        out[4, row] = total(work[:-1]) / (length - 1)
        for i in range(length - 1):
            work[i] *= work[i]
        out[5, row] = np.sqrt(total(work[:-1]) / (length - 1))


@compiled
def wavelet_sizes(x: np.ndarray, out: np.ndarray) -> None:
    """Mean absolute a5, d5, d4, d3, d2, d1 of ``pywt.wavedec`` with symmetric edges, of ``(n, L)``: ``(n, 6)``."""
    num_rows, length = x.shape
    longer, odd, even = np.empty(length + 2 * _EDGE), np.empty(length), np.empty(length)
    detail = np.empty(length)
    for row in range(num_rows):
        num = length
        for i in range(num):
            longer[_EDGE + i] = x[row, i]
        for level in range(LEVEL):
            for k in range(_EDGE):
                longer[k] = longer[2 * _EDGE - 1 - k]
                longer[_EDGE + num + k] = longer[_EDGE + num - 1 - k]
            num = (num + _EDGE) // 2
            for i in range(num + 3):
                odd[i], even[i] = longer[2 * i + 1], longer[2 * i + 2]
            for i in range(num):
                slow, fast = 0.0, 0.0
                for k in range(4):
                    slow += _LOW[2 * k] * odd[i + k] + _LOW[2 * k + 1] * even[i + k]
                    fast += _HIGH[2 * k] * odd[i + k] + _HIGH[2 * k + 1] * even[i + k]
                longer[_EDGE + i], detail[i] = slow, abs(fast)
            out[row, LEVEL - level] = total(detail[:num]) / num
        for i in range(num):
            detail[i] = abs(longer[_EDGE + i])
        out[row, 0] = total(detail[:num]) / num


@compiled
def windowed(x: np.ndarray, window: np.ndarray, out: np.ndarray) -> None:
    """Pieces of rows ``(n, L)``, half overlapping, mean removed, times the window: into ``(n, pieces, size)``."""
    size = len(window)
    for row in range(len(x)):
        for number in range(out.shape[1]):
            piece, to = x[row, number * (size - size // 2) :][:size], out[row, number]
            mean = total(piece) / size
            for i in range(size):
                to[i] = (piece[i] - mean) * window[i]


@compiled
def density(spectra: np.ndarray, size: int, rate: float, energy: float, out: np.ndarray) -> None:
    """Sum, maximum, its frequency and the centroid of the one-sided density of ``(n, pieces, size // 2 + 1)``.

    energy: sum of the squared window.
    """
    num_rows, pieces, bins = spectra.shape
    for row in range(num_rows):
        whole, centre, most, at = 0.0, 0.0, -1.0, 0
        for k in range(bins):
            power = 0.0
            for number in range(pieces):
                value = spectra[row, number, k]
                power += value.real * value.real + value.imag * value.imag
            if 0 < k < (size + 1) // 2:  # both sides in one; neither 0 Hz nor, where there is one, Nyquist
                power *= 2.0
            whole += power
            centre += k * power
            if power > most:
                most, at = power, k
        unit = 1.0 / (pieces * rate * energy)
        out[row, 0], out[row, 1], out[row, 2] = whole * unit, most * unit, at * (rate / size)
        out[row, 3] = centre / whole * (rate / size) if whole > 0 else 0.0


@compiled
def peaks(x: np.ndarray, height: float, distance: int) -> np.ndarray:
    """``features.find_peaks``."""
    found = np.empty(len(x) + 1, np.int64)
    rises = 0
    for i in range(1, len(x) - 1):  # without branches, which noise would make the processor guess wrong
        found[rises] = i
        rises += (x[i] >= height) & (x[i - 1] < x[i]) & (x[i] >= x[i + 1])
    count = 0
    for rise in range(rises):
        i = found[rise]
        ahead = i + 1
        while ahead < len(x) - 1 and x[ahead] == x[i]:
            ahead += 1
        found[count] = (i + ahead - 1) // 2
        count += x[ahead] < x[i]
    keep = np.zeros(count, np.bool_)
    climb = np.empty(count, np.int64)
    start = 0
    while start < count:
        # from the first undecided peak up to one that none within reach tops: it stays, and all within its reach go;
        # of the steps up to it, which top all about them but the next step, stays what is out of reach again
        steps, best, other = 1, start, start + 1
        climb[0] = start
        while other < count and found[other] - found[best] < distance:
            if x[found[other]] >= x[found[best]]:
                best = other
                climb[steps] = best
                steps += 1
            other += 1
        start = other
        keep[best] = True
        for step in range(steps - 2, -1, -1):
            if found[best] - found[climb[step]] >= distance:
                best = climb[step]
                keep[best] = True
    kept = 0
    for place in range(count):
        if keep[place]:
            found[kept] = found[place]
            kept += 1
    return found[:kept]


@compiled
def beats(
    x: np.ndarray,
    rate: float,
    low: np.ndarray,
    high: np.ndarray,
    distance: int,
    window: int,
    later: int,
    out: np.ndarray,
) -> None:
    """Heart rate (bpm), RR sd (s), QRS width (s), T amplitude (mV), ST deviation (mV) of each row of ``(n, L)``."""
    num_rows, length = x.shape
    for row in range(num_rows):
        out[row] = 0.0
        if high[row] == low[row]:
            continue
        lead = x[row]
        found = peaks(lead, low[row] + 0.3 * (high[row] - low[row]), distance)
        num = len(found)
        if num < 2:
            continue
        mean = (found[num - 1] - found[0]) / rate / (num - 1)
        spread = 0.0
        for i in range(num - 1):
            off = (found[i + 1] - found[i]) / rate - mean
            spread += off * off
        out[row, 0] = 60.0 / mean
        out[row, 1] = np.sqrt(spread / (num - 1))
        wide = 0
        for peak in found:
            near = lead[max(0, peak - window) : min(length, peak + window)]
            most, least, added = -np.inf, np.inf, 0.0
            for value in near:
                most = value if value > most else most
                least = value if value < least else least
                added += value
            if most <= least:  # flat, or a window of no sample
                continue
            threshold, middle = 0.1 * (most - least) + least, added / len(near)
            for value in near:
                wide += abs(value - middle) > threshold
        out[row, 2] = wide / rate / num
        most, least = -np.inf, np.inf
        for value in lead[found[num - 2] : found[num - 1]]:
            most = value if value > most else most
            least = value if value < least else least
        out[row, 3] = most - least
        out[row, 4] = lead[min(found[num - 1] + later, length - 1)] - lead[found[num - 1]]
