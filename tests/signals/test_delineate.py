"""Beats, the median beat and its waves: against built signals with known edges, and hostile ones."""

from __future__ import annotations

import numpy as np
import pytest

from ecglm.errors import EcglmError
from ecglm.records.synthetic import Synthetic
from ecglm.signals.beats import find_beats
from ecglm.signals.delineate import Delineation, delineate
from ecglm.signals.median_beat import find_qrs, representative, smooth, straighten
from ecglm.signals.waves import find_p, find_t_off, find_t_peak

ALL = np.ones(12, bool)
#: Sizes of the same wave in twelve leads.
SIZES = np.array([0.6, 1.0, 0.4, -0.8, 0.2, 0.7, -0.5, -0.3, 0.6, 1.1, 1.0, 0.8])


def bump(t: np.ndarray, start: float, top: float, end: float) -> np.ndarray:
    """A smooth hill of height 1 from ``start`` to ``end``, zero with zero slope at both."""
    up, down = np.clip((t - start) / (top - start), 0, 1), np.clip((end - t) / (end - top), 0, 1)
    return up * up * (3 - 2 * up) * down * down * (3 - 2 * down)


def beat_at(t: np.ndarray, onset: float, p: bool = True) -> np.ndarray:
    """P 0.16 s before the QRS complex, which takes 0.09 s; T ends 0.40 s behind its onset."""
    qrs = -0.15 * bump(t, onset, onset + 0.015, onset + 0.04) + 1.2 * bump(
        t, onset + 0.015, onset + 0.045, onset + 0.07
    )
    qrs = qrs - 0.4 * bump(t, onset + 0.05, onset + 0.07, onset + 0.09)
    wave = 0.35 * bump(t, onset + 0.18, onset + 0.31, onset + 0.40)
    return qrs + wave + (0.13 * bump(t, onset - 0.16, onset - 0.11, onset - 0.06) if p else 0)


def strip(onsets: np.ndarray, seconds: float = 10.0, rate: int = 500, p: bool = True) -> np.ndarray:
    t = np.arange(round(seconds * rate)) / rate
    return SIZES[:, None] * sum(beat_at(t, onset, p) for onset in onsets)


REGULAR = np.arange(0.5, 9.6, 0.8)


def test_beats_stand_where_they_were_put_and_are_of_one_class():
    found = find_beats(strip(REGULAR), ALL)
    assert len(found.at) == len(REGULAR) and not found.kind.any() and found.reason == ""
    offsets = found.at / 500 - REGULAR
    assert np.ptp(offsets) <= 0.002 + 1e-9 and 0 < offsets[0] < 0.09  # all at the same place of the complex


def test_a_complex_of_another_shape_is_a_class_of_its_own():
    t = np.arange(5000) / 500
    onsets = np.delete(REGULAR, 5)
    wide = SIZES[::-1, None] * (1.4 * bump(t, 4.3, 4.36, 4.42) - 0.9 * bump(t, 4.38, 4.44, 4.49))
    found = find_beats(strip(onsets) + wide, ALL)
    assert len(found.at) == len(onsets) + 1
    assert found.kind.tolist().count(0) == len(onsets) and found.kind[5] == 1


@pytest.mark.parametrize("scale", [0.15, 1.0, 4.0])
def test_detection_does_not_depend_on_voltage_wander_or_a_bad_lead(scale):
    rng = np.random.default_rng(0)
    t = np.arange(5000) / 500
    x = scale * strip(REGULAR) + 0.8 * np.sin(2 * np.pi * 0.3 * t + np.arange(12)[:, None])
    x[9] += np.where((t > 3) & (t < 4), rng.standard_normal(5000) * 5, 0)  # a loose electrode for a second
    found = find_beats(x, ALL)
    assert len(found.at) == len(REGULAR)


def test_tall_t_waves_are_not_beats():
    t = np.arange(5000) / 500
    tall = strip(REGULAR) + SIZES[:, None] * sum(1.0 * bump(t, on + 0.20, on + 0.30, on + 0.39) for on in REGULAR)
    assert len(find_beats(tall, ALL).at) == len(REGULAR)


def test_what_holds_no_complexes_has_a_reason():
    t, rng = np.arange(5000) / 500, np.random.default_rng(1)
    assert find_beats(np.zeros((12, 5000)), np.zeros(12, bool)).reason == "no_signal"
    assert find_beats(0.3 * np.sin(2 * np.pi * 0.2 * t) * np.ones((12, 1)), ALL).reason == "no_qrs"
    assert find_beats(rng.standard_normal((12, 5000)) * 0.3, ALL).reason == "no_clear_qrs"


def test_ventricular_fibrillation_is_not_counted():
    t, rng = np.arange(5000) / 500, np.random.default_rng(2)
    phase = 2 * np.pi * np.cumsum(5 + np.interp(t, np.arange(11), rng.standard_normal(11))) / 500
    swell = 0.5 + np.interp(t, np.arange(0, 10.5, 0.5), rng.uniform(0, 0.6, 21))
    lag = rng.uniform(0, 6, (12, 1)) + np.cumsum(rng.standard_normal((12, 5000)) * 0.04, axis=1)
    assert delineate((swell * np.sin(phase + lag)).astype(np.float32), 500) == "no_clear_qrs"


def test_the_median_beat_is_the_beat_and_leaves_out_what_belongs_to_others():
    at = np.round(REGULAR * 500).astype(np.int64)
    x = strip(REGULAR)
    beat, middle = representative(x, at[1:-1], at)
    expected = x[:, at[5] - middle : at[5] - middle + beat.shape[1]]
    np.testing.assert_allclose(beat, expected, atol=1e-9)


def test_wander_goes_and_an_st_shift_stays():
    at = np.round(REGULAR * 500).astype(np.int64)
    t = np.arange(5000) / 500
    st = 0.2 * sum(bump(t, on + 0.07, on + 0.12, on + 0.40) for on in REGULAR)
    clean = strip(REGULAR) + SIZES[:, None] * st
    drift = 0.5 * np.sin(2 * np.pi * 0.25 * t + np.arange(12)[:, None])
    inside = slice(at[1], at[-2])
    left = straighten(clean + drift, at, -12) - straighten(clean, at, -12)
    assert np.abs(left[:, inside]).max() < 0.03  # of ± 0.5


def test_qrs_p_and_t_edges_are_found_within_8_ms():
    t = np.arange(600) / 500 - 0.5
    beat = SIZES[:, None] * beat_at(t, 0.0)
    on, off = find_qrs(beat, 270) or (np.nan, np.nan)
    assert (on - 250) * 2 == pytest.approx(0, abs=6) and (off - 250) * 2 == pytest.approx(90, abs=8)
    peak = find_t_peak(beat, off, 0.8)
    assert peak is not None and (peak - 250) * 2 == pytest.approx(310, abs=6)
    end = find_t_off(beat, peak, off, 600)
    assert end is not None and (end - 250) * 2 == pytest.approx(400, abs=12)
    p = find_p(beat, on, 0)
    assert p is not None and (p.on - 250) * 2 == pytest.approx(-160, abs=8)
    assert (p.off - 250) * 2 == pytest.approx(-60, abs=8)
    assert find_p(SIZES[:, None] * beat_at(t, 0.0, p=False), on, 0) is None


def test_smooth_is_a_moving_mean():
    x = np.random.default_rng(0).standard_normal((2, 50))
    expected = [np.convolve(row, np.ones(9) / 9, "valid") for row in x]
    np.testing.assert_allclose(smooth(x, 9)[:, 4:-4], expected, atol=1e-12)


@pytest.mark.parametrize("rate", [100, 250, 500])
def test_delineation_says_where_everything_is_at_any_rate(rate):
    found = delineate(strip(REGULAR, rate=rate).astype(np.float32), rate)
    assert isinstance(found, Delineation) and found.p is not None and found.t_off is not None
    assert (found.qrs_on - found.p.on) * 2 == pytest.approx(160, abs=12)
    assert (found.qrs_off - found.qrs_on) * 2 == pytest.approx(90, abs=12)
    assert (found.t_off - found.qrs_on) * 2 == pytest.approx(400, abs=12)
    assert np.abs(np.array(found.onsets_s) - REGULAR).max() < 0.008


def test_a_pacing_stimulus_is_seen_and_not_part_of_the_complex():
    source = Synthetic(
        num_patients=4, rate=500, seed=2, rhythms=("paced",), artefacts=False, records_per_patient=(1, 1)
    )
    for key in source.keys():
        record = source.read(key)
        found = delineate(record.signal, 500)
        assert isinstance(found, Delineation) and found.paced
        onsets = np.array(record.metadata["qrs_onsets_s"])
        assert np.abs(np.array(found.onsets_s) - onsets).max() < 0.015


def test_it_is_pure_and_deterministic():
    x = strip(REGULAR).astype(np.float32)
    before = x.copy()
    first, second = delineate(x, 500), delineate(x.copy(), 500)
    assert isinstance(first, Delineation) and isinstance(second, Delineation)
    assert np.array_equal(x, before) and np.array_equal(first.beat, second.beat)
    assert first.onsets_s == second.onsets_s


@pytest.mark.parametrize(
    ("segment", "rate", "what"),
    [
        (np.zeros((11, 500), np.float32), 500, "shape"),
        (np.zeros(500, np.float32), 500, "shape"),
        (np.zeros((12, 500), complex), 500, "shape"),
        (np.zeros((12, 499), np.float32), 500, "less than 1 s"),
        (np.zeros((12, 500), np.float32), 40, "rate"),
        (np.zeros((12, 500), np.float32), np.nan, "rate"),
        (np.full((12, 500), np.nan, np.float32), 500, "NaN"),
        (np.full((12, 500), np.inf, np.float32), 500, "NaN"),
    ],
)
def test_what_cannot_be_a_segment_is_refused(segment, rate, what):
    with pytest.raises(EcglmError, match=what):
        delineate(segment, rate)


def test_t_waves_behind_some_beats_of_an_irregular_rhythm_are_not_beats():
    for seed, patient in (
        (17, "p00015-1"),
        (17, "p00194-3"),
        (3, "p00055-2"),
    ):  # fibrillation, left bundle branch block
        source = Synthetic(num_patients=200, rate=250, seed=seed, artefacts=False)
        record = source.read(f"synthetic/s{seed}-{patient}")
        found = delineate(record.signal, 250)
        assert isinstance(found, Delineation) and len(found.onsets_s) == len(record.metadata["beats"])


def test_a_premature_beat_at_the_very_beginning_counts():
    source = Synthetic(num_patients=200, rate=250, seed=17, artefacts=False)
    record = source.read("synthetic/s17-p00148-1")
    found = delineate(record.signal, 250)
    assert record.metadata["beats"][0] == "V" and isinstance(found, Delineation)
    assert len(found.onsets_s) == len(record.metadata["beats"])


def test_the_level_behind_a_p_wave_is_no_p_wave():
    t = np.arange(600) / 500 - 0.5
    for level in (0.03, 0.06):  # before the P wave, which goes down steeply and leaves a long flat PR segment
        wave = np.interp(t, [-0.5, -0.28, -0.22, -0.17, -0.15, 0.0], [level, level, 0.13, 0.13, 0.0, 0.0])
        p = find_p(SIZES[:, None] * (beat_at(t, 0.0, p=False) + wave), 250.0, 0)
        assert p is not None and (p.on - 250) * 2 == pytest.approx(-280, abs=12)
        assert (p.off - 250) * 2 == pytest.approx(-150, abs=10)


def test_a_plateau_belongs_to_a_wide_complex_and_a_t_wave_does_not():
    t = np.arange(600) / 500 - 0.5
    paced = 1.2 * np.interp(t, [0.0, 0.04, 0.13, 0.17], [0, 1, 0.95, 0])
    on, off = find_qrs(SIZES[:, None] * paced, 292) or (np.nan, np.nan)
    assert (on - 250) * 2 == pytest.approx(0, abs=8) and (off - 250) * 2 == pytest.approx(170, abs=10)
    late = bump(t, 0.0, 0.03, 0.06) + 0.45 * np.interp(t, [0.055, 0.075, 0.11, 0.15], [0, 1, 1, 0])
    on, off = find_qrs(SIZES[:, None] * late, 265) or (np.nan, np.nan)
    assert (off - 250) * 2 == pytest.approx(150, abs=10)
    early_t = np.interp(t, [0.0, 0.04, 0.10, 0.14], [0, 1, 1, 0]) - 0.4 * bump(t, 0.142, 0.22, 0.28)
    on, off = find_qrs(SIZES[:, None] * early_t, 280) or (np.nan, np.nan)
    assert (off - 250) * 2 == pytest.approx(140, abs=12)
