"""When the atria and ventricles of a synthetic ECG fire: QRS onsets, their kinds, and P onsets, per rhythm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: rhythm → (lowest, highest) underlying rate in bpm; for 2:1 block it is the ventricular rate.
RATES: dict[str, tuple[float, float]] = {
    "sinus_rhythm": (62.0, 97.0),
    "sinus_bradycardia": (40.0, 57.0),
    "sinus_tachycardia": (104.0, 150.0),
    "atrial_fibrillation": (65.0, 140.0),
    "pvc": (60.0, 94.0),
    "pac": (60.0, 84.0),
    "first_degree_av_block": (60.0, 90.0),
    "av_block_2_1": (34.0, 49.0),
    "paced": (60.0, 82.0),
}
RHYTHMS: tuple[str, ...] = tuple(RATES)

#: Kinds of ventricular beats.
NORMAL, PVC, PAC, PACED = 0, 1, 2, 3


@dataclass(frozen=True)
class Timing:
    """Onsets in seconds (also a little before 0 and behind the end, so that waves are cut as on a real strip).

    qrs, kinds: ``(num_beats,)``. p, p_ectopic: ``(num_p,)`` onsets of P waves and whether each is ectopic.
    """

    qrs: np.ndarray
    kinds: np.ndarray
    p: np.ndarray
    p_ectopic: np.ndarray

    def inside(self, duration: float) -> np.ndarray:
        """Which beats belong to the record: QRS onset in [0, duration)."""
        return (self.qrs >= 0) & (self.qrs < duration)


def plan(
    rhythm: str, rng: np.random.Generator, *, duration: float, rate: float, pr: float, qtc: float, p_before_pacing: bool
) -> Timing:
    """Beat times of one record. rate: underlying bpm; pr, qtc: seconds (Bazett), used to place ectopic P waves."""
    mean_rr = 60.0 / rate
    intervals, kinds = _intervals(rhythm, rng, duration, mean_rr, pr, qtc)
    qrs = _place(np.concatenate([[0.0], np.cumsum(intervals)]), rng, duration, mean_rr)
    premature = kinds == PAC
    if rhythm == "atrial_fibrillation" or (rhythm == "paced" and not p_before_pacing):
        p, ectopic = np.zeros(0), np.zeros(0, bool)
    else:
        has_p = kinds != PVC
        p = (qrs - np.where(premature, ectopic_pr(pr), pr))[has_p]
        ectopic = premature[has_p]
    if rhythm == "av_block_2_1":  # every second P is not conducted
        between = qrs[:-1] - pr + np.diff(qrs) / 2
        p, ectopic = np.concatenate([p, between]), np.concatenate([ectopic, np.zeros(len(between), bool)])
    return Timing(qrs, kinds, p, ectopic)


def ectopic_pr(pr: float) -> float:
    """PR of an atrial premature beat in seconds: a little shorter, its focus lies nearer to the AV node."""
    return max(0.11, 0.88 * pr)


def _intervals(
    rhythm: str, rng: np.random.Generator, duration: float, mean_rr: float, pr: float, qtc: float
) -> tuple[np.ndarray, np.ndarray]:
    """RR intervals in seconds and the kinds of the beats around them (one more than intervals)."""
    count = int(np.ceil((duration + 4.0) / mean_rr)) + 6
    if rhythm == "paced":
        return np.full(count, mean_rr), np.full(count + 1, PACED)
    if rhythm == "atrial_fibrillation":
        spread = rng.uniform(0.2, 0.3)
        z = rng.standard_normal(count)
        rr = np.clip(np.exp(spread * (z - z.mean()) / z.std()), 0.58, 1.75)
        rr = np.maximum(rr / rr.mean() * mean_rr, 0.34)
        return rr, np.full(count + 1, NORMAL)
    depth = 0.008 if rhythm == "av_block_2_1" else rng.uniform(0.015, 0.05)
    breathing = rng.uniform(0.18, 0.32) * mean_rr * np.arange(count) + rng.uniform()
    rr = 1 + depth * np.sin(2 * np.pi * breathing) + 0.008 * rng.standard_normal(count)
    rr *= mean_rr / rr.mean()
    kinds = np.full(count + 1, NORMAL)
    if rhythm in ("pvc", "pac"):
        _ectopics(rhythm, rng, rr, kinds, pr, qtc)
    return rr, kinds


def _ectopics(rhythm: str, rng: np.random.Generator, rr: np.ndarray, kinds: np.ndarray, pr: float, qtc: float) -> None:
    """Make some beats premature, in place: never two in a row, never 4.5 s without one."""
    beat, since = 1, rng.uniform(0.0, 2.0)
    gap = rng.uniform(2.4, 3.4)
    while beat < len(rr) - 1:
        since += rr[beat - 1]
        if since >= gap and kinds[beat - 1] == NORMAL:
            coupling = rng.uniform(0.56, 0.68)
            if rhythm == "pac":  # its P wave must come out of the T wave before it
                room = (0.97 * qtc * np.sqrt(rr[beat]) + ectopic_pr(pr)) / rr[beat]
                coupling = min(max(coupling, room), 0.76)
            sinus = rr[beat - 1]
            kinds[beat] = PVC if rhythm == "pvc" else PAC
            rr[beat - 1] = coupling * sinus
            # PVC: full compensatory pause, the sinus node goes on undisturbed; PAC: the node is reset.
            rr[beat] = (2 - coupling) * sinus if rhythm == "pvc" else rng.uniform(1.02, 1.12) * sinus
            since, gap = 0.0, rng.uniform(2.4, 3.4)
        beat += 1


def _place(times: np.ndarray, rng: np.random.Generator, duration: float, mean_rr: float) -> np.ndarray:
    """Shift the beats to a random phase in which neither end of the record cuts a QRS complex, where there is one."""
    starts = times[2] + mean_rr * (np.arange(24) + rng.uniform()) / 24
    onsets = times - starts[rng.permutation(24)][:, None]
    cut = ((onsets > -0.2) & (onsets < 0.06)) | ((onsets > duration - 0.2) & (onsets < duration + 0.02))
    return onsets[int(np.argmin(cut.sum(axis=1)))]
