"""The six measures per lead against closed forms: hum, clipping, gaps, flat runs, wander, known noise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecglm.signals.measures import middle_bin, run_samples
from ecglm.signals.pipeline import get_pipeline
from ecglm.signals.quality import MEASURES, Extremes, extremes, lead_measures
from ecglm.types import LEADS, Record

SECONDS = 10


def sine(freq: float, rate: float, amplitude: float = 1.0, phase: float = 0.3) -> np.ndarray:
    t = np.arange(round(SECONDS * rate)) / rate
    return (amplitude * np.sin(2 * np.pi * freq * t + phase)).astype(np.float32)


def of_lead(x: np.ndarray, rate: float) -> dict[str, float]:
    """The measures of one lead, as one segment."""
    found = lead_measures(x[None].astype(np.float32), rate, [(0, len(x))])
    assert tuple(found) == MEASURES
    assert all(values.shape == (1, 1) and values.dtype == np.float32 for values in found.values())
    return {name: float(values[0, 0]) for name, values in found.items()}


@pytest.mark.parametrize("rate", [250.0, 257.0, 360.0, 400.0, 500.0, 1000.0])
@pytest.mark.parametrize("mains", [50.0, 60.0])
def test_mains_share_is_the_share_of_a_hum_in_the_power(rate, mains):
    hum, wave = sine(mains, rate, 0.2), sine(7, rate, 0.6)
    assert of_lead(hum, rate)["mains_share"] == pytest.approx(1, abs=1e-3)
    assert of_lead(hum + wave + 3, rate)["mains_share"] == pytest.approx(0.04 / 0.4, rel=0.01)
    assert of_lead(wave, rate)["mains_share"] < 1e-3


def test_mains_share_falls_off_within_a_hertz_or_two():
    shares = [of_lead(sine(freq, 500), 500)["mains_share"] for freq in (50, 50.5, 51, 52, 55)]
    expected = [np.sinc(freq - 50) ** 2 for freq in (50, 50.5, 51, 52, 55)]
    assert shares == pytest.approx(expected, abs=0.02)


def test_mains_share_where_the_rate_is_too_low():
    assert np.isnan(of_lead(sine(10, 100), 100.0)["mains_share"])
    assert of_lead(sine(50, 110), 110.0)["mains_share"] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("rate", [250.0, 500.0, 1000.0])
@pytest.mark.parametrize("noise_sd", [0.01, 0.05])
def test_snr_of_beats_in_white_noise(rate, noise_sd):
    t = np.arange(round(SECONDS * rate)) / rate
    beats = sum(np.exp(-0.5 * ((t - at) / 0.015) ** 2) for at in np.arange(0.5, SECONDS, 1.0))
    noise = np.random.default_rng(3).normal(0, noise_sd, len(t))
    found = of_lead(beats + noise, rate)["snr_db"]
    expected = 10 * np.log10(beats.reshape(SECONDS, -1).var(axis=1).mean() / noise_sd**2)
    assert found == pytest.approx(expected, abs=1.0)


def test_hum_counts_as_noise():
    wave = sine(7, 500, 0.6)
    assert of_lead(wave + sine(50, 500, 0.06), 500)["snr_db"] == pytest.approx(20, abs=1.0)
    assert of_lead(wave, 500)["snr_db"] > 35


@pytest.mark.parametrize("freq", [0.1, 0.2, 0.3])
def test_baseline_is_the_range_of_the_means_over_a_second(freq):
    wander, wave = sine(freq, 500, 0.5), sine(8, 500, 0.3)
    expected = np.ptp(wander.reshape(SECONDS, -1).mean(axis=1))
    assert of_lead(wander + wave + 2, 500)["baseline_mv"] == pytest.approx(expected, abs=1e-5)
    assert of_lead(wave + 2, 500)["baseline_mv"] < 1e-5


def test_clip_share_of_a_clipped_sine():
    rng = np.random.default_rng(0)
    wave = sine(5, 500) + rng.normal(0, 1e-3, 5000).astype(np.float32)
    assert of_lead(wave, 500)["clip_share"] == 0
    clipped = np.clip(wave, -0.8, 0.8)
    expected = 2 * np.arccos(0.8) / np.pi  # share of a sine beyond ±0.8, both sides
    assert of_lead(clipped, 500)["clip_share"] == pytest.approx(expected, abs=0.02)


def test_the_lead_s_extreme_is_that_of_the_whole_recording():
    wave = np.tile(np.clip(sine(5, 500), -0.8, 0.8), 2)[None]
    wave[0, 5000:] *= 0.5
    assert lead_measures(wave, 500.0, [(0, 5000), (5000, 10000)])["clip_share"][1, 0] == 0


@pytest.mark.parametrize(("run", "counted"), [(99, 0), (100, 100), (101, 101), (700, 700)])
def test_flat_share_counts_runs_of_a_fifth_of_a_second(run, counted):
    x = np.random.default_rng(1).normal(0, 0.3, 5000).astype(np.float32)
    x[1234 : 1234 + run] = 0.7
    assert of_lead(x, 500)["flat_share"] == pytest.approx(counted / 5000)


def test_a_flat_lead():
    found = of_lead(np.full(5000, 0.4), 500)
    assert (found["nan_share"], found["flat_share"], found["clip_share"], found["baseline_mv"]) == (0, 1, 0, 0)
    assert np.isnan(found["mains_share"]) and np.isnan(found["snr_db"])


@settings(deadline=None, max_examples=30)
@given(gaps=st.lists(st.tuples(st.integers(0, 4999), st.integers(1, 400)), max_size=4), infinite=st.booleans())
def test_missing_samples_are_counted_and_change_the_rest_little(gaps, infinite):
    x = sine(7, 500, 0.6) + sine(50, 500, 0.2) + 1
    holed = x.copy()
    for start, length in gaps:
        holed[start : start + length] = np.inf if infinite else np.nan
    found = of_lead(holed, 500)
    assert found["nan_share"] == pytest.approx(np.mean(~np.isfinite(holed)))
    assert found["flat_share"] == found["clip_share"] == 0
    assert found["mains_share"] == pytest.approx(0.1, abs=0.05)


def test_nothing_but_missing_samples():
    found = of_lead(np.full(5000, np.nan), 500)
    assert found["nan_share"] == 1 and found["flat_share"] == found["clip_share"] == 0
    assert all(np.isnan(found[name]) for name in ("baseline_mv", "mains_share", "snr_db"))


@pytest.mark.parametrize("num_samples", [1, 2, 30, 499, 501, 749])
def test_short_segments_are_one_window(num_samples):
    x = sine(7, 500)[:num_samples]
    found = of_lead(x, 500)
    assert found["baseline_mv"] == 0 and found["nan_share"] == 0


def test_extremes():
    x = np.random.default_rng(0).normal(size=(3, 777)).astype(np.float32)
    x[1, 5:80], x[1, 90] = np.nan, np.inf
    x[2] = np.nan
    found = extremes(x)
    assert isinstance(found, Extremes) and not found.whole
    finite = np.where(np.isfinite(x[1]), x[1], 0)
    assert found.low.tolist() == [x[0].min(), finite.min(), 0]
    assert found.high.tolist() == [x[0].max(), finite.max(), 0]
    assert found.missing.tolist() == [0, 76, 777]


@settings(deadline=None)
@given(st.lists(st.integers(-1, 1), max_size=60), st.integers(2, 7), st.booleans())
def test_runs_against_a_plain_count(values, least, only_extremes):
    row = np.array(values, dtype=np.float32)
    expected, start = 0, 0
    for end in range(1, len(values) + 1):
        if end == len(values) or values[end] != values[start]:
            wanted = not only_extremes or values[start] in (-1, 1)
            expected += (end - start) * (wanted and end - start >= least)
            start = end
    assert run_samples(row, least, only_extremes, -1.0, 1.0) == expected


@pytest.mark.parametrize("name", ["default", "ecg_bench"])
def test_pipelines_measure_the_raw_samples_behind_each_segment(name):
    rng = np.random.default_rng(0)
    x = (np.stack([sine(7 + k, 500, 0.5) for k in range(12)]) + rng.normal(0, 0.02, (12, 5000))).astype(np.float32)
    x[4, 2500:] += sine(50, 500, 0.3)[2500:]
    x[9, 100:110] = np.nan
    x[6, 4000:4200] = 0.123
    segments = get_pipeline(name, seg_len=1250).run(Record("folder/1", x, 500.0, LEADS))
    found = segments.lead_quality
    assert {name: (v.shape, v.dtype) for name, v in found.items()} == dict.fromkeys(MEASURES, ((2, 12), np.float32))
    assert found["mains_share"][0, 4] < 0.01 and found["mains_share"][1, 4] > 0.2
    assert found["nan_share"][0, 9] == pytest.approx(10 / 2500) and not found["nan_share"][1].any()
    assert found["flat_share"][1, 6] == pytest.approx(200 / 2500) and not found["flat_share"][0].any()
    for number, span in enumerate([(0, 2500), (2500, 5000)]):
        alone = lead_measures(x, 500.0, [span])
        for measure, values in found.items():
            np.testing.assert_array_equal(values[number], alone[measure][0])


def test_padding_is_not_measured_and_the_last_segment_is_of_what_is_there():
    x = np.stack([sine(7 + k, 400, 0.5) for k in range(12)])
    padded = np.pad(x, ((0, 0), (500, 800)))
    segments = get_pipeline("default", seg_len=2000, min_fill=0.2).run(Record("folder/1", padded, 400.0, LEADS))
    assert segments.signal.shape[0] == 2
    assert not segments.lead_quality["flat_share"].any()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0, 3, width=32), min_size=1, max_size=40), st.integers(1, 50))
def test_the_middle_bin_holds_the_median(values, repeat):
    x = np.array(values * repeat, dtype=np.float32)
    found, below = middle_bin(x)
    ordered = np.sort(x)
    np.testing.assert_array_equal(np.sort(found), ordered[below : below + len(found)])
    assert below <= (len(x) - 1) // 2 and len(x) // 2 < below + len(found)
