"""Whole pipelines: golden arrays of the original chain, bad records, options, fingerprints."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st

from ecglm import files
from ecglm.errors import ConfigError, RejectedRecord
from ecglm.signals.denoise import ecg_bench_denoise
from ecglm.signals.filters import ecg_bench_filter, exact_decimals
from ecglm.signals.pipeline import (
    DefaultPipeline,
    EcgBenchPipeline,
    get_pipeline,
    pipeline_from_config,
    preprocess,
)
from ecglm.signals.resample import ecg_bench_resample
from ecglm.types import LEADS, Record


def ecg(rate: float = 500.0, seconds: float = 10.0, seed: int = 0) -> np.ndarray:
    """A beat a second in every lead, Einthoven and Goldberger kept, wander and a little noise; float32 mV."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(rate * seconds)) / rate
    wave = sum(np.exp(-0.5 * ((t - at) / 0.012) ** 2) for at in np.arange(0.5, seconds, 1.0))
    x = np.outer(rng.uniform(0.4, 1.2, 12), wave) + rng.normal(0, 0.01, (12, len(t)))
    x += 0.2 * np.sin(2 * np.pi * 0.1 * t + 0.4)
    x[2] = x[1] - x[0]
    x[3], x[4], x[5] = -(x[0] + x[1]) / 2, x[0] - x[1] / 2, x[1] - x[0] / 2
    return x.astype(np.float32)


def record(signal: np.ndarray, rate: float = 500.0, leads: tuple[str, ...] = LEADS) -> Record:
    return Record("folder/1", signal, rate, leads)


GOLDEN = {"csn_JS00001": (500.0, 1e-6), "code15_438277": (400.0, 1e-4)}


@pytest.mark.realdata
@pytest.mark.parametrize("name", GOLDEN)
def test_ecg_bench_gives_what_the_original_gave(shared, name):
    rate, tolerance = GOLDEN[name]
    with np.load(shared / "golden" / f"{name}.npz", allow_pickle=False) as golden:
        millivolts = golden["input"] if "input" in golden else golden["input_adc"] / 1000
        signal = millivolts.T.astype(np.float32)  # as a reader hands it over
        filtered = ecg_bench_filter(exact_decimals(signal), rate)
        denoised = ecg_bench_denoise(filtered)
        resampled = ecg_bench_resample(denoised, rate, 250)
        for stage, got in (("a_filtered", filtered), ("b_denoised", denoised), ("c_resampled", resampled)):
            assert np.abs(got.T - golden[stage]).max() <= tolerance, stage
        segments = preprocess(record(signal, rate), pipeline="ecg_bench", seg_len=1250)
        assert segments.shape == golden["d_segments"].shape
        assert segments.dtype == np.float32
        assert np.abs(segments - golden["d_segments"]).max() <= tolerance


@pytest.mark.realdata
def test_ecg_bench_resampling_alone_gives_the_later_chain(shared):
    with np.load(shared / "golden" / "csn_JS00001.npz", allow_pickle=False) as golden:
        got = ecg_bench_resample(golden["input_adc"].T / 1000, 500.0, 250)
        assert np.abs(got.T - golden["head_resampled"]).max() <= 1e-6


@pytest.mark.realdata
def test_real_records_by_header_name(ptb_xl):
    for number in (1, 100, 200):
        path = ptb_xl / "records500" / "00000" / f"{number:05d}_hr"
        millivolts, fields = wfdb.rdsamp(str(path))
        rec = record(millivolts.T.astype(np.float32), fields["fs"], tuple(fields["sig_name"]))
        segments = get_pipeline("default").run(rec)
        assert segments.signal.shape == (1, 12, 2500)
        assert np.isfinite(segments.signal).all()
        assert segments.quality["duration_s"] == 10.0
        one, two, three, avr = segments.signal[0, :4]
        assert np.median(np.abs(two - one - three)) < 0.01
        assert np.median(np.abs(avr + (one + two) / 2)) < 0.01
        low = get_pipeline("default")
        small, fields = wfdb.rdsamp(str(ptb_xl / "records100" / "00000" / f"{number:05d}_lr"))
        rec = record(small.T.astype(np.float32), fields["fs"], tuple(fields["sig_name"]))
        both = low.run(rec).signal[0], segments.signal[0]
        assert np.corrcoef(both[0][1, 250:-250], both[1][1, 250:-250])[0, 1] > 0.95  # both rates tell the same story
        with pytest.raises(RejectedRecord, match=r"rate_too_low.*--pipeline default"):
            get_pipeline("ecg_bench").run(rec)


@pytest.mark.parametrize("name", ["default", "ecg_bench"])
@settings(deadline=None, max_examples=10)
@given(order=st.permutations(range(12)), upper=st.booleans())
def test_d03_permuted_headers_give_identical_arrays(name, order, upper):
    x = ecg()
    names = tuple(LEADS[i].upper() if upper else LEADS[i] for i in order)
    pipeline = get_pipeline(name)
    straight = pipeline.run(record(x)).signal
    shuffled = pipeline.run(record(x[list(order)], leads=names)).signal
    assert np.array_equal(straight, shuffled)
    one, two, three, avr, avl, avf = straight[0, :6]
    slack = 1e-4 if name == "default" else 0.05  # ecg_bench thresholds each lead by itself
    assert np.abs(two - one - three).max() < slack
    assert np.abs(avr + (one + two) / 2).max() < slack
    assert np.abs(avl - (one - two / 2)).max() < slack
    assert np.abs(avf - (two - one / 2)).max() < slack


@pytest.mark.parametrize("name", ["default", "ecg_bench"])
@pytest.mark.parametrize("missing", [slice(2000, 2001), slice(0, 3), slice(4990, 5000), slice(2000, 2020)])
def test_d19_missing_samples_never_become_a_flat_lead(name, missing):
    x = ecg()
    holed = x.copy()
    holed[7, missing] = np.nan
    sound, mended = (get_pipeline(name).run(record(signal)) for signal in (x, holed))
    assert "nan" in mended.quality["flags"]
    assert np.isfinite(mended.signal).all()
    assert np.array_equal(np.delete(mended.signal, 7, axis=1), np.delete(sound.signal, 7, axis=1))
    assert mended.signal[0, 7].std() > 0.8 * sound.signal[0, 7].std()
    with pytest.raises(RejectedRecord, match=r"^nan: lead V2"):
        get_pipeline(name, nan_policy="reject").run(record(holed))


@pytest.mark.parametrize("name", ["default", "ecg_bench"])
def test_d19_long_gaps_are_rejected_or_kept_with_a_flag(name):
    x = ecg()
    x[7, 2000:2100] = np.nan
    with pytest.raises(RejectedRecord, match=r"^nan: lead V2.*200 ms"):
        get_pipeline(name).run(record(x))
    kept = get_pipeline(name, nan_policy="keep").run(record(x))
    assert kept.quality["flags"] == ["nan"]
    assert kept.quality["nan_share"] == {"V2": 0.02}
    assert kept.signal[0, 7].std() > 0.05
    x[7] = np.nan
    with pytest.raises(RejectedRecord, match=r"^nan"):
        get_pipeline(name, nan_policy="keep").run(record(x))


@pytest.mark.parametrize("rate", [62.5, 100.0, 257.0, 360.0, 400.0, 500.0, 1000.0])
def test_rates(rate):
    segments = get_pipeline("default", seg_len=1250).run(record(ecg(rate), rate))
    assert segments.signal.shape == (2, 12, 1250)
    assert segments.start_s == (0.0, 5.0)
    assert segments.rate == 250
    joined = np.concatenate(list(segments.signal), axis=1)
    peaks = np.argsort(joined[1])[-40:]
    assert np.abs((peaks / 250 - 0.5) - np.round(peaks / 250 - 0.5)).max() < 0.03  # R waves at k + 0.5 s


def test_a_long_record():
    segments = get_pipeline("default").run(record(np.tile(ecg(1000), (1, 11)), 1000.0))
    assert segments.signal.shape == (11, 12, 2500)
    assert segments.start_s[-1] == 100.0


@pytest.mark.parametrize("name", ["default", "ecg_bench"])
@pytest.mark.parametrize(
    ("signal", "rate", "leads", "reason"),
    [
        (ecg()[:, :4990], 500.0, LEADS, "too_short"),
        (ecg()[:, :1], 500.0, LEADS, "too_short"),
        (ecg()[:, :0], 500.0, LEADS, "too_short"),
        (ecg()[:11], 500.0, LEADS[:11], "lead_missing"),
        (ecg(), 500.0, (*LEADS[:11], "X"), "lead_unknown"),
        (ecg(), 500.0, (*LEADS[:11], "V1"), "lead_duplicate"),
        (ecg(), 500.0, LEADS[:11], "leads_mismatch"),
        (np.zeros((12, 5000), np.float32), 500.0, LEADS, "flat"),
        (np.full((12, 5000), 0.5, np.float32), 500.0, LEADS, "flat"),
        (np.full((12, 5000), np.nan, np.float32), 500.0, LEADS, "nan"),
        (ecg(), 0.0, LEADS, "rate_invalid"),
        (ecg(), float("nan"), LEADS, "rate_invalid"),
        (ecg(), 1e-9, LEADS, "rate_unsupported"),
    ],
)
def test_records_that_cannot_be_used(name, signal, rate, leads, reason):
    with pytest.raises(RejectedRecord) as caught:
        get_pipeline(name).run(record(signal, rate, leads))
    assert caught.value.reason == reason
    assert "\n" not in str(caught.value)


def test_on_bad():
    x = ecg()
    x[8] = 0.0
    for name in ("default", "ecg_bench"):
        kept = get_pipeline(name).run(record(x))
        assert kept.quality["flags"] == ["flat_lead"]
        assert not kept.signal[0, 8].any()
        with pytest.raises(RejectedRecord, match=r"^flat_lead: flat: V3"):
            get_pipeline(name, on_bad="reject").run(record(x))


def test_zero_padding_is_trimmed_and_the_start_told():
    padded = np.pad(ecg(400.0), ((0, 0), (400, 560)))
    segments = get_pipeline("default", seg_len=1250).run(record(padded, 400.0))
    assert segments.start_s == (1.0, 6.0)
    assert np.array_equal(segments.signal, preprocess(record(ecg(400.0), 400.0)))
    assert segments.quality["duration_s"] == 10.0


def test_hop_and_min_fill():
    segments = get_pipeline("default", seg_len=1000, hop=500, min_fill=0.5).run(record(ecg()))
    assert segments.start_s == (0.0, 2.0, 4.0, 6.0, 8.0)
    assert segments.quality["fill"] == [1.0, 1.0, 1.0, 1.0, 0.5]
    assert not segments.signal[-1, :, 500:].any()
    assert "fill" not in get_pipeline("default", seg_len=500).run(record(ecg())).quality


def test_denoising_keeps_the_qrs():
    plain, clean = (preprocess(record(ecg()), seg_len=2500, denoise=flag) for flag in (False, True))
    assert not np.array_equal(plain, clean)
    assert np.ptp(clean[0, 1]) > 0.95 * np.ptp(plain[0, 1])


def test_the_input_is_not_changed_and_runs_repeat():
    x = ecg()
    x[3, 9] = np.nan
    x.setflags(write=False)
    for name in ("default", "ecg_bench"):
        pipeline = get_pipeline(name)
        assert pipeline.run(record(x)).signal.tobytes() == pipeline.run(record(x)).signal.tobytes()


def test_quality_is_json():
    json.dumps(get_pipeline("default", min_fill=0.5).run(record(ecg(500, 13))).quality, allow_nan=False)


OTHER = {
    "rate": 100, "seg_len": 500, "hop": 100, "nan_policy": "keep", "on_bad": "reject", "preset": "st", "mains": 50.0,
    "denoise": True, "min_fill": 0.5,
}  # fmt: skip


@pytest.mark.parametrize("name", ["default", "ecg_bench"])
def test_every_option_changes_the_fingerprint(name):
    base = get_pipeline(name)
    seen = {base.fingerprint()}
    for field in dataclasses.fields(base):
        changed = get_pipeline(name, **{field.name: OTHER[field.name]})
        assert changed.fingerprint() not in seen
        seen.add(changed.fingerprint())
    assert base.fingerprint() == get_pipeline(name, rate=250, seg_len=2500).fingerprint()
    assert base.fingerprint() == files.fingerprint(base.config())


def test_the_version_is_part_of_the_fingerprint(monkeypatch):
    before = get_pipeline("default").fingerprint()
    monkeypatch.setattr(DefaultPipeline, "version", DefaultPipeline.version + 1)
    assert get_pipeline("default").fingerprint() != before
    assert get_pipeline("default").fingerprint() != get_pipeline("ecg_bench").fingerprint()


@pytest.mark.parametrize("name", ["default", "ecg_bench"])
def test_config_survives_json(name):
    pipeline = get_pipeline(name, seg_len=500, hop=250)
    config = json.loads(json.dumps(pipeline.config()))
    assert pipeline_from_config(config) == pipeline
    with pytest.raises(ConfigError, match="version 99"):
        pipeline_from_config({**config, "version": 99})


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("defualt", {}, "did you mean 'default'"),
        ("default", {"presett": "st"}, "did you mean 'preset'"),
        ("ecg_bench", {"preset": "st"}, "no option 'preset'"),
        ("default", {"preset": "loud"}, "preset must be one of 'diagnostic'"),
        ("default", {"seg_len": "long"}, "seg_len must be a whole number"),
        ("default", {"seg_len": 0}, "seg_len must be at least 1"),
        ("default", {"rate": -250}, "rate must be at least 1"),
        ("default", {"hop": 0}, "hop must be at least 1"),
        ("default", {"mains": 0}, "mains must be a frequency"),
        ("default", {"mains": float("nan")}, "mains must be a frequency"),
        ("default", {"min_fill": 0.0}, "min_fill must lie above 0"),
        ("default", {"min_fill": 1.5}, "min_fill must lie above 0"),
    ],
)
def test_wrong_options_are_told(name, options, told):
    with pytest.raises(ConfigError) as caught:
        get_pipeline(name, **options)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_class_can_be_used_directly():
    assert EcgBenchPipeline() == get_pipeline("ecg_bench")
    with pytest.raises(ValueError, match="min_fill"):
        DefaultPipeline(min_fill=2.0)
