"""Sine transform of oddly continued signals by real FFTs of the signal's own length: the passes between them (numba).

For x(1) … x(N-1) between two zeros, S(k) = sum of x(n) sin(pi n k / N), k = 1 … N-1, is read off the length-N spectrum
Y of y(n) = sin(pi n / N) (x(n) + x(N-n)) + (x(n) - x(N-n)) / 2:  S(2q) = -Im Y(q),  S(1) = Re Y(0) / 2,
S(2q+1) = S(2q-1) + Re Y(q). The transform is its own inverse up to 2 / N.

The running sum makes an error of Y up to N / pi times as large at the signal's ends: float32 is for short signals
(``resample.MAX_NARROW_FIRST``, ``MAX_NARROW``). All else is computed in float64.
"""

from __future__ import annotations

import numpy as np

from ecglm.signals.compiled import compiled


@compiled
def _mix(x: np.ndarray, sines: np.ndarray, y: np.ndarray) -> None:
    """y of the docstring above from x(0) … x(N); sines: sin(pi n / N)."""
    y[0] = 0
    for n in range(1, len(y)):
        mirrored = np.uint64(len(y)) - np.uint64(n)  # unsigned: no check for an index from the end, so it vectorises
        y[n] = sines[n] * (x[n] + x[mirrored]) + 0.5 * (x[n] - x[mirrored])


@compiled
def continue_oddly(
    signal: np.ndarray, ramp: np.ndarray, sines: np.ndarray, mixed: np.ndarray, ends: np.ndarray
) -> None:
    """Fill ``mixed`` ``(num_leads, N)``, what the first FFT is taken of.

    signal: float32 ``(num_leads, num_samples)``, num_samples <= N; lengthened to N by its odd reflection about the last
    sample (a constant where it is too short for that). The line from sample 0 to node N, which repeats sample N-1, is
    taken away first; its start and slope go to ``ends`` ``(num_leads, 2)``. ramp: 0 … N. ``mixed`` may be float32.
    """
    num_leads, num_samples = signal.shape
    size = mixed.shape[1]
    extra = size - num_samples
    body = np.empty(size + 1)
    for lead in range(num_leads):
        row = signal[lead]
        last = row[num_samples - 1]
        body[:num_samples] = row
        for k in range(extra):
            body[num_samples + k] = last + last - row[num_samples - 2 - k] if extra < num_samples else last
        start = body[0]
        slope = (body[size - 1] - start) / size
        for n in range(size):
            body[n] -= start + slope * ramp[n]
        body[0], body[size] = 0, 0
        _mix(body, sines, mixed[lead])
        ends[lead, 0], ends[lead, 1] = start, slope


@compiled
def apply_gain(spectrum: np.ndarray, gain: np.ndarray, sines: np.ndarray, mixed: np.ndarray) -> None:
    """Multiply S(1) … S(K) by ``gain`` and fill ``mixed`` ``(num_leads, M)``, what the second FFT is taken of.

    spectrum: the first FFT as real numbers ``(num_leads, 2 * bins)``, real and imaginary parts in turn.
    """
    size, kept = mixed.shape[1], len(gain)
    scaled = np.zeros(size + 1)
    for lead in range(len(mixed)):
        row = spectrum[lead]
        odd = 0.5 * np.float64(row[0])
        scaled[1] = odd * gain[0]
        for q in range(1, (kept + 1) // 2):
            odd += row[2 * q]
            scaled[2 * q + 1] = odd
            scaled[2 * q] = -row[2 * q + 1]
        if kept % 2 == 0:
            scaled[kept] = -row[kept + 1]
        for k in range(2, kept + 1):
            scaled[k] *= gain[k - 1]
        _mix(scaled, sines, mixed[lead])


@compiled
def read_samples(spectrum: np.ndarray, ends: np.ndarray, step: float, keeps_line: bool, out: np.ndarray) -> None:
    """The filtered samples out of the second FFT (as in ``apply_gain``), the line put back when ``keeps_line``.

    out: float32 ``(num_leads, num_kept)``, num_kept <= M. step: samples in per sample out.
    """
    num_leads, num_kept = out.shape
    for lead in range(num_leads):
        row, samples = spectrum[lead], out[lead]
        odd = 0.5 * row[0]
        samples[0] = 0
        if num_kept > 1:
            samples[1] = np.float32(odd)
        for q in range(1, (num_kept + 1) // 2):
            samples[2 * q] = np.float32(-row[2 * q + 1])
            odd += row[2 * q]
            if 2 * q + 1 < num_kept:
                samples[2 * q + 1] = np.float32(odd)
        if keeps_line:
            start, slope = ends[lead, 0], ends[lead, 1]
            for m in range(num_kept):
                samples[m] = np.float32(samples[m] + (start + slope * (step * m)))
