"""Measurements against the synthetic truth, closed forms, and records whose labels say what must come out."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from ecglm.records.synthetic import Synthetic
from ecglm.signals.measured import PER_LEAD, Measurements, measure
from ecglm.signals.rhythm import letters, rhythm_of
from ecglm.types import LEADS

BOUNDS = {"heart_rate": 1.0, "qrs_ms": 15.0, "qt_ms": 15.0, "pr_ms": 15.0, "axis_deg": 10.0, "sokolow_mv": 0.15}


def errors(source: Synthetic) -> dict[str, np.ndarray]:
    """Measurement less truth, NaN where nothing was measured."""
    found: dict[str, list[float]] = defaultdict(list)
    for key in source.keys():
        record = source.read(key)
        truth, m = record.metadata["measurements"], measure(record.signal, source.rate)
        for name in BOUNDS:
            if name in truth:
                value = getattr(m, name)
                found[name].append(np.nan if value is None else value - truth[name])
    return {name: np.array(values) for name, values in found.items()}


@pytest.mark.parametrize(("rate", "artefacts"), [(500, False), (250, True), (100, False)])
def test_synthetic_ecgs_of_every_kind_are_within_the_bounds(rate, artefacts):
    source = Synthetic(num_patients=40, rate=rate, seed=11, artefacts=artefacts, records_per_patient=(1, 1))
    for name, off in errors(source).items():
        share = (np.abs(off) <= BOUNDS[name]).mean()
        assert share >= (0.9 if artefacts or name == "axis_deg" else 0.93), (
            f"{name}: {share:.3f} within ± {BOUNDS[name]}"
        )


def test_the_st_level_is_the_one_it_was_drawn_with():
    source = Synthetic(num_patients=25, rate=500, seed=4, artefacts=False, rhythms=("sinus_rhythm",))
    worst = []
    for key in source.keys():
        record = source.read(key)
        m = measure(record.signal, 500)
        truth = record.metadata["measurements"]["st_leads_mv"]
        worst.append(max(abs(m.st_mv[lead] - truth[lead]) for lead in LEADS))
    assert np.median(worst) < 0.015 and np.quantile(worst, 0.9) < 0.06


def test_a_p_wave_is_not_invented_and_regularity_is_told():
    of = defaultdict(list)
    kinds = ("atrial_fibrillation", "sinus_rhythm", "pvc", "pac", "av_block_2_1")
    for rhythm in kinds:
        source = Synthetic(num_patients=12, rate=250, seed=8, rhythms=(rhythm,), artefacts=False)
        of[rhythm] = [measure(source.read(key).signal, 250) for key in source.keys()]
    absent = [
        m.pr_ms is None and m.reasons["pr_ms"] in ("no_p_wave", "p_not_constant") for m in of["atrial_fibrillation"]
    ]
    assert np.mean(absent) >= 0.85
    assert np.mean([m.regularity == "irregularly irregular" for m in of["atrial_fibrillation"]]) >= 0.9
    assert all(m.regularity == "regular" for m in (*of["sinus_rhythm"], *of["av_block_2_1"]))
    assert np.mean([m.regularity == "regularly irregular" and "V" in m.beats for m in of["pvc"]]) >= 0.9
    assert np.mean([m.regularity == "regularly irregular" and "A" in m.beats for m in of["pac"]]) >= 0.9


def test_formulas_follow_from_the_measured_intervals():
    m = measure(Synthetic(num_patients=1, rate=500, seed=1, artefacts=False).read("synthetic/s1-p00000-1").signal, 500)
    rr = np.diff(m.onsets_s)
    assert m.heart_rate == pytest.approx(60 / rr.mean(), rel=1e-4)
    assert m.rr_sd_ms == pytest.approx(rr.std() * 1000, abs=0.2)
    assert m.rmssd_ms == pytest.approx(np.sqrt(np.mean(np.diff(rr) ** 2)) * 1000, abs=0.3)
    assert m.qtc_bazett_ms == pytest.approx(m.qt_ms / np.sqrt(m.rr_mean_ms / 1000))
    assert m.qtc_fridericia_ms == pytest.approx(m.qt_ms / np.cbrt(m.rr_mean_ms / 1000))
    assert m.sokolow_mv == pytest.approx(-m.s_mv["V1"] + max(m.r_mv["V5"], m.r_mv["V6"]))


def test_amplitudes_scale_and_times_do_not():
    signal = Synthetic(num_patients=1, rate=500, seed=1, artefacts=False).read("synthetic/s1-p00000-1").signal
    one, two = measure(signal, 500), measure(2 * signal + 1.0, 500)
    for name in ("heart_rate", "qrs_ms", "qt_ms", "pr_ms", "axis_deg"):
        assert getattr(two, name) == pytest.approx(getattr(one, name), abs=4)
    for name in ("r_mv", "t_mv"):
        assert getattr(two, name)["V5"] == pytest.approx(2 * getattr(one, name)["V5"], rel=0.03)
    turned = measure(-signal, 500)
    assert abs(abs(turned.axis_deg - one.axis_deg) - 180) < 1


def test_nothing_is_said_where_nothing_can_be_measured():
    for segment in (np.zeros((12, 2500)), np.random.default_rng(0).standard_normal((12, 2500)) * 0.3):
        m = measure(segment.astype(np.float32), 250)
        numbers = [value for name, value in m.row().items() if name not in ("beats", "onsets_s", "reasons", "paced")]
        assert all(value in (None, "") for value in numbers) and m.beats == "" and not m.paced
        assert m.heart_rate is None and m.reasons["heart_rate"] in ("no_signal", "no_clear_qrs")
        assert all(value is None for name, value in m.row().items() if name.startswith(("st_", "r_V", "t_")))


def test_a_flat_lead_has_no_values_and_the_others_keep_theirs():
    signal = Synthetic(num_patients=1, rate=500, seed=1, artefacts=False).read("synthetic/s1-p00000-1").signal.copy()
    whole = measure(signal, 500)
    signal[LEADS.index("V1")] = 0.3
    signal[LEADS.index("aVF")] = 0
    m = measure(signal, 500)
    assert m.r_mv["V1"] is None and m.st_mv["V1"] is None and m.shapes["V1"] == ""
    assert m.sokolow_mv is None and m.reasons["sokolow_mv"] == "lead_flat"
    assert m.axis_deg is None and m.reasons["axis_deg"] == "lead_flat"
    assert m.qrs_ms == pytest.approx(whole.qrs_ms, abs=6)


@pytest.mark.parametrize("seconds", [2.5, 5, 20, 60])
def test_short_and_long_segments(seconds):
    source = Synthetic(num_patients=1, rate=250, duration_s=max(seconds, 5), seed=3, rhythms=("sinus_rhythm",))
    record = source.read(source.keys()[0])
    m = measure(record.signal[:, : int(seconds * 250)], 250)
    assert m.heart_rate == pytest.approx(record.metadata["measurements"]["heart_rate"], rel=0.06)
    assert m.qrs_ms == pytest.approx(record.metadata["measurements"]["qrs_ms"], abs=15)


def test_one_beat_has_intervals_but_no_rate():
    source = Synthetic(num_patients=3, rate=500, seed=3, rhythms=("sinus_bradycardia",), artefacts=False)
    record = source.read(source.keys()[0])
    second = record.metadata["qrs_onsets_s"][2]
    m = measure(record.signal[:, int((second - 0.5) * 500) : int((second + 0.6) * 500)], 500)
    assert len(m.onsets_s) == 1 and m.heart_rate is None and m.reasons["heart_rate"] == "one_beat"
    assert m.qrs_ms == pytest.approx(record.metadata["measurements"]["qrs_ms"], abs=15)


def test_a_row_is_flat_and_has_the_same_columns_for_every_segment():
    signal = Synthetic(num_patients=1, rate=250, seed=1).read("synthetic/s1-p00000-1").signal
    row = measure(signal, 250).row()
    assert list(row) == list(Measurements().row())
    assert all(value is None or isinstance(value, (float, str, bool)) for value in row.values())
    assert {f"{name[:-3]}_V6_mv" for name in PER_LEAD} <= set(row)


def test_rhythm_of_hand_made_intervals():
    def rhythm(rr: list[float], shapes: list[int] | None = None):
        onsets = np.concatenate([[0.0], np.cumsum(rr)])
        kinds = np.array(shapes or [0] * len(onsets))
        return rhythm_of(onsets, kinds, np.where(kinds > 0, 150.0, 90.0))

    assert rhythm([0.8] * 9).regularity == "regular"
    assert rhythm([0.8, 0.79, 0.82, 0.81, 0.8, 0.78]).heart_rate == pytest.approx(75, abs=0.5)
    early = rhythm([0.8, 0.8, 0.5, 0.9, 0.8, 0.8, 0.5, 0.9, 0.8])
    assert early.kinds == "NNNANNNANN" and early.regularity == "regularly irregular"
    bigeminy = rhythm([0.5, 1.1] * 5, [0, 1] * 5 + [0])
    assert bigeminy.kinds == "NV" * 5 + "N" and bigeminy.regularity == "regularly irregular"
    wild = rhythm([0.5, 0.9, 0.63, 1.1, 0.72, 0.48, 0.83, 1.0, 0.55])
    assert wild.regularity == "irregularly irregular" and wild.kinds == "N" * 10
    assert rhythm([0.8, 0.8]).regularity is None and rhythm([0.8]).rmssd_ms is None
    assert letters(np.array([800.0]), np.array([0, 1]), np.array([90.0, 95.0]), 800.0) == "NQ"


@pytest.mark.realdata
def test_real_records_at_100_and_500_hz_agree(ptb_xl):
    wfdb = pytest.importorskip("wfdb")
    differences = defaultdict(list)
    for number in range(1, 41):
        m = {}
        for rate, suffix in ((100, "lr"), (500, "hr")):
            path = ptb_xl / f"records{rate}" / "00000" / f"{number:05d}_{suffix}"
            m[rate] = measure(wfdb.rdsamp(str(path))[0].T.astype(np.float32), rate)
        for name in ("heart_rate", "qrs_ms", "qt_ms", "pr_ms"):
            low, high = getattr(m[100], name), getattr(m[500], name)
            differences[name].append(np.nan if low is None or high is None else abs(low - high))
    assert np.nanquantile(differences["heart_rate"], 0.95) < 1
    for name in ("qrs_ms", "qt_ms", "pr_ms"):
        assert np.nanmean(np.array(differences[name]) <= 15) >= 0.85, name
