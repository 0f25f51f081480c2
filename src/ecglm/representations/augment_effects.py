"""The effects: noise, wander, muscle, mains, step, flat, lead-dropout, electrode-swap, time-shift, scale.

What disturbs an electrode disturbs every lead that is measured with it. Nine electrodes (RA LA LL V1–V6) make the
twelve leads, so disturbances drawn there keep I + III = II and aVR + aVL + aVF = 0. Units: mV, Hz, s.
"""

from __future__ import annotations

import functools
import math
from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
from scipy import fft, special

from ecglm.errors import EcglmError
from ecglm.representations.augment import Among, Between, effect
from ecglm.types import LEADS

ELECTRODES: tuple[str, ...] = ("RA", "LA", "LL", "V1", "V2", "V3", "V4", "V5", "V6")
CHEST: tuple[str, ...] = LEADS[6:]

#: Potentials of the nine electrodes → the twelve leads. The chest leads are measured against the mean of the limbs.
TO_LEADS = np.zeros((12, 9), np.float32)
TO_LEADS[0, [1, 0]] = 1, -1
TO_LEADS[1, [2, 0]] = 1, -1
TO_LEADS[2, [2, 1]] = 1, -1
TO_LEADS[3:6, :3] = 1.5 * np.eye(3) - 0.5
TO_LEADS[6:, 3:] = np.eye(6)
TO_LEADS[6:, :3] = -1 / 3

#: Limb cables changed over → the limb whose potential RA, LA and LL then pick up. The right leg, which no lead
#: measures, has nearly the left leg's potential: both are far from the heart.
LIMB_SWAPS: dict[str, tuple[int, int, int]] = {
    "RA-LA": (1, 0, 2),
    "LA-LL": (0, 2, 1),
    "RA-LL": (2, 1, 0),
    "RA-RL": (2, 1, 2),
    "LA-RL": (0, 2, 2),
}
SWAPS: tuple[str, ...] = (*LIMB_SWAPS, *(f"{a}-{b}" for i, a in enumerate(CHEST) for b in CHEST[i + 1 :]))
#: Neighbouring chest electrodes, and the limb cables.
USUAL_SWAPS: tuple[str, ...] = (*LIMB_SWAPS, *(f"{a}-{b}" for a, b in pairwise(CHEST)))

Range = tuple[float, float]
Counts = tuple[int, int]
Place = Literal["leads", "electrodes"]


@functools.cache
def _quantiles() -> np.ndarray:
    return special.ndtri((np.arange(1 << 16) + 0.5) / (1 << 16)).astype(np.float32)


def _gaussian(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal float32 from a table of 65,536 quantiles, so none beyond 4.3: a third of the time of
    ``standard_normal``, and the same on every processor."""
    drawn = np.frombuffer(rng.bytes(2 * math.prod(shape)), "<u2")
    return _quantiles()[drawn].reshape(shape)


def _uniform(rng: np.random.Generator, limits: Range) -> float:
    return float(rng.uniform(*limits))


def _weights(rng: np.random.Generator) -> np.ndarray:
    """``(12,)``: how strongly each lead shows something that reaches every electrode unequally; the strongest is 1."""
    leads = TO_LEADS @ rng.uniform(-1.0, 1.0, len(ELECTRODES)).astype(np.float32)
    return leads / np.abs(leads).max()


def _span(rng: np.random.Generator, samples: int, length: int) -> slice:
    length = min(length, samples)
    start = int(rng.integers(samples - length + 1))
    return slice(start, start + length)


@effect("noise", stage="disturbance", title="Gaussian noise", severity={"sd": 0.05})
def noise(
    signal: np.ndarray,
    rate: int,
    rng: np.random.Generator,
    *,
    sd: Annotated[float, Between(0, 10)] = 0.05,
    at: Place = "leads",
) -> np.ndarray:
    """White Gaussian noise of ``sd`` × the standard deviation of the whole segment (ECG-Bench, arXiv 2412.14373).

    at leads: each lead its own, as defined there, so that I + III = II no longer holds. at electrodes: it holds; I, II
    and III then have that standard deviation, the others a little less.
    """
    centred = signal.ravel().astype(np.float64)
    centred -= centred.mean()
    spread = np.float32(sd * np.sqrt(centred @ centred / centred.size))
    if at == "leads":
        drawn = _gaussian(rng, signal.shape)
    else:
        spread /= np.float32(np.sqrt(2))
        drawn = TO_LEADS @ _gaussian(rng, (len(ELECTRODES), signal.shape[1]))
    drawn *= spread
    signal += drawn
    return signal


@effect("wander", stage="disturbance", title="baseline wander", severity={"amplitude": 0.07})
def wander(
    signal: np.ndarray,
    rate: int,
    rng: np.random.Generator,
    *,
    amplitude: Annotated[float, Between(0, 10)] = 0.07,
    half_waves: Annotated[Counts, Between(1, 100)] = (1, 5),
    at: Place = "leads",
) -> np.ndarray:
    """``amplitude · max|x| · sin(linspace(0, k·π, L))`` along time, k a whole number of ``half_waves`` (ECG-Bench).

    at leads: the same in all leads, as defined there. at electrodes: unequal at the nine, strongest lead 1, so that
    I + III = II still holds.
    """
    k = int(rng.integers(half_waves[0], half_waves[1] + 1))
    peak = max(float(signal.max()), -float(signal.min()))
    wave = (amplitude * peak * np.sin(np.linspace(0, k * np.pi, signal.shape[1]))).astype(np.float32)
    signal += wave if at == "leads" else _weights(rng)[:, None] * wave
    return signal


@effect("muscle", stage="disturbance", title="muscle noise", severity={"rms": (0.05, 0.05)})
def muscle(
    signal: np.ndarray,
    rate: int,
    rng: np.random.Generator,
    *,
    rms: Annotated[Range, Between(0, 5)] = (0.01, 0.05),
    band: Annotated[Range, Between(0, 1000)] = (20.0, 100.0),
) -> np.ndarray:
    """Muscle noise: Gaussian between two frequencies (``band``, Hz), each electrode its own; ``rms`` mV in I, II, III.

    EcglmError when the band begins above half the sampling rate.
    """
    if band[0] >= rate / 2:
        raise EcglmError(f"effect 'muscle': band from {band[0]:g} Hz cannot be shown at {rate} samples per second")
    samples = signal.shape[1]
    frequencies = fft.rfftfreq(samples, 1 / rate)
    bins = np.flatnonzero((frequencies >= band[0]) & (frequencies <= band[1]) & (frequencies < rate / 2))
    strength = _uniform(rng, rms)
    if not len(bins):  # too short a segment to hold such a wave
        return signal
    drawn = _gaussian(rng, (len(ELECTRODES), len(bins), 2)).view(np.complex64)[..., 0]
    spectrum = np.zeros((len(ELECTRODES), len(frequencies)), np.complex64)
    # a bin's part of the variance is 4 s² / L²; an electrode has 1/√2 of what a lead between two of them has
    spectrum[:, bins] = drawn * np.float32(strength / np.sqrt(2) * samples / (2 * np.sqrt(len(bins))))
    signal += TO_LEADS @ fft.irfft(spectrum, samples)
    return signal


@effect("mains", stage="disturbance", title="mains hum", severity={"frequencies": (50,), "amplitude": (0.1, 0.1)})
def mains(
    signal: np.ndarray,
    rate: int,
    rng: np.random.Generator,
    *,
    frequencies: Annotated[tuple[int, ...], Among((50, 60))] = (50, 60),
    amplitude: Annotated[Range, Between(0, 5)] = (0.02, 0.1),
    harmonics: Annotated[Range, Between(0, 1)] = (0.0, 0.2),
    swing: Annotated[float, Between(0, 1)] = 0.3,
) -> np.ndarray:
    """Mains hum (powerline): one of ``frequencies`` Hz, ``amplitude`` mV in the lead that has most of it.

    harmonics: share of the 2nd and of the 3rd one, left out above half the rate. swing: how far the amplitude goes up
    and down, over 2 to 20 s. EcglmError for a frequency that the sampling rate cannot show.
    """
    if max(frequencies) >= rate / 2:
        raise EcglmError(f"effect 'mains': {max(frequencies)} Hz cannot be shown at {rate} samples per second")
    hertz = frequencies[int(rng.integers(len(frequencies)))]
    turns = np.arange(signal.shape[1]) * (2 * np.pi / rate)
    strength, slow, phases = _uniform(rng, amplitude), rng.uniform(0.05, 0.5), rng.uniform(0, 2 * np.pi, 4)
    shares = (1.0, *rng.uniform(*harmonics, 2))
    weights = _weights(rng)
    hum = np.zeros(signal.shape[1])
    for order, share in enumerate(shares, 1):
        if order * hertz < rate / 2:
            hum += share * np.sin(order * hertz * turns + phases[order - 1])
    hum *= strength * (1 + swing * np.sin(slow * turns + phases[3]))
    signal += weights[:, None] * hum.astype(np.float32)
    return signal


@effect("step", stage="disturbance", title="baseline step", severity={"amplitude": (0.5, 0.5)})
def step(
    signal: np.ndarray,
    rate: int,
    rng: np.random.Generator,
    *,
    amplitude: Annotated[Range, Between(0, 20)] = (0.2, 1.0),
    cutoff: Annotated[float, Between(0.01, 5)] = 0.5,
) -> np.ndarray:
    """A jump of one electrode's potential, ``amplitude`` mV up or down, that fades as a recorder's high-pass of
    ``cutoff`` Hz lets it: after 1 / (2π · cutoff) s a third is left."""
    electrode, sign = int(rng.integers(len(ELECTRODES))), rng.choice((-1.0, 1.0))
    start = int(rng.integers(signal.shape[1]))
    fading = np.exp(np.arange(signal.shape[1] - start) * (-2 * np.pi * cutoff / rate))
    jump = sign * _uniform(rng, amplitude) * fading
    signal[:, start:] += TO_LEADS[:, electrode, None] * jump.astype(np.float32)
    return signal


@effect("flat", stage="loss", title="a chest electrode off for 3 s", severity={"seconds": (3.0, 3.0)})
def flat(
    signal: np.ndarray,
    rate: int,
    rng: np.random.Generator,
    *,
    leads: Annotated[tuple[str, ...], Among(LEADS)] = CHEST,
    seconds: Annotated[Range, Between(0, 60)] = (0.5, 3.0),
) -> np.ndarray:
    """An electrode off for a while: one of ``leads`` is 0 mV for some seconds. By default a chest lead, since only
    those have an electrode to themselves."""
    row = LEADS.index(leads[int(rng.integers(len(leads)))])
    signal[row, _span(rng, signal.shape[1], round(_uniform(rng, seconds) * rate))] = 0
    return signal


@effect("lead-dropout", stage="loss", title="three leads missing", severity={"number": (3, 3)})
def lead_dropout(
    signal: np.ndarray,
    rate: int,
    rng: np.random.Generator,
    *,
    leads: Annotated[tuple[str, ...], Among(LEADS)] = LEADS,
    number: Annotated[Counts, Between(0, 12)] = (1, 3),
) -> np.ndarray:
    """Some of ``leads`` are 0 mV throughout: as many as ``number`` says, drawn without repeat, each lead alike."""
    count = min(int(rng.integers(number[0], number[1] + 1)), len(leads))
    lost = rng.permutation(len(leads))[:count]
    signal[[LEADS.index(leads[i]) for i in lost]] = 0
    return signal


@effect("electrode-swap", stage="electrodes", title="arm electrodes swapped", severity={"pairs": ("RA-LA",)})
def electrode_swap(
    signal: np.ndarray,
    rate: int,
    rng: np.random.Generator,
    *,
    pairs: Annotated[tuple[str, ...], Among(SWAPS)] = USUAL_SWAPS,
) -> np.ndarray:
    """Two electrodes changed over, one of ``pairs``. The limb leads are then recomputed from I and II.

    Among RA, LA and LL the chest leads keep their reference and stay as they are. With the right leg (RL) the mean of
    the limbs moves, and the chest leads with it.
    """
    return swap_electrodes(signal, pairs[int(rng.integers(len(pairs)))])


def swap_electrodes(signal: np.ndarray, pair: str) -> np.ndarray:
    """``(12, num_samples)`` mV as it would be with the electrodes of ``pair`` (one of ``SWAPS``) changed over."""
    if pair not in LIMB_SWAPS:
        rows = [LEADS.index(name) for name in pair.split("-")]
        signal[rows] = signal[rows[::-1]]
        return signal
    limbs = np.zeros((3, signal.shape[1]), np.float32)  # against the right arm, which limb leads do not notice
    limbs[1:] = signal[:2]
    picked = limbs[list(LIMB_SWAPS[pair])]
    signal[:6] = TO_LEADS[:6, :3] @ picked
    if "RL" in pair:
        signal[6:] -= (picked - limbs).mean(axis=0)
    return signal


@effect("time-shift", stage="time", title="shifted by half a second", severity={"seconds": (0.5, 0.5)})
def time_shift(
    signal: np.ndarray,
    rate: int,
    rng: np.random.Generator,
    *,
    seconds: Annotated[Range, Between(0, 60)] = (0.0, 0.5),
) -> np.ndarray:
    """Everything earlier or later by some seconds, at most half the segment. What leaves is lost; what comes free is
    the lead's resting level (its median): a beat brought round or mirrored there would be one that never was."""
    later = rng.random() < 0.5
    by = min(round(_uniform(rng, seconds) * rate), signal.shape[1] // 2)
    if by == 0:
        return signal
    level = np.median(signal[:, ::4], axis=1).astype(np.float32)  # of every fourth sample: as good, and fast
    level[2:6] = TO_LEADS[2:6, 1:3] @ level[:2]  # a median does not keep I + III = II by itself
    shown = np.empty_like(signal)
    kept, free = (slice(by, None), slice(0, by)) if later else (slice(0, -by), slice(-by, None))
    shown[:, kept] = signal[:, :-by] if later else signal[:, by:]
    shown[:, free] = level[:, None]
    return shown


@effect("scale", stage="gain", title="amplitude × 0.7", severity={"factor": (0.7, 0.7)})
def scale(
    signal: np.ndarray,
    rate: int,
    rng: np.random.Generator,
    *,
    factor: Annotated[Range, Between(0.01, 100)] = (0.8, 1.25),
    per_lead: bool = False,
) -> np.ndarray:
    """All leads times one factor, as likely halved as doubled (log-uniform); per_lead: each lead times its own, which
    breaks I + III = II."""
    low, high = np.log(factor)
    drawn = np.exp(rng.uniform(low, high, (len(LEADS) if per_lead else 1, 1)))
    signal *= drawn.astype(np.float32)
    return signal
