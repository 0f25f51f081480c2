"""The synthetic source against measurements made on its signals by other means than it was drawn by."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import find_peaks
from scipy.stats import chisquare

from ecglm.errors import ConfigError, EcglmError
from ecglm.records.synthetic import Synthetic
from ecglm.types import LEADS, Record

RHYTHMS = (
    "sinus_rhythm",
    "sinus_bradycardia",
    "sinus_tachycardia",
    "atrial_fibrillation",
    "pvc",
    "pac",
    "first_degree_av_block",
    "av_block_2_1",
    "paced",
)
TERRITORY = {
    "anterior": ("V1", "V2", "V3", "V4"),
    "inferior": ("II", "III", "aVF"),
    "lateral": ("I", "aVL", "V5", "V6"),
}
RATE = 500


def read_all(source: Synthetic) -> list[Record]:
    keys = source.keys()
    return [source.read(key) for key in keys]


@pytest.fixture(scope="module")
def records() -> list[Record]:
    """Records with artefacts."""
    return read_all(Synthetic(num_patients=320, seed=11))


@pytest.fixture(scope="module")
def clean() -> list[Record]:
    """Records without artefacts."""
    return read_all(Synthetic(num_patients=320, seed=11, artefacts=False))


def group(record: Record, name: str) -> list[str]:
    return [label.split(":")[1] for label in record.labels if label.startswith(name + ":")]


def having(found: list[Record], *labels: str) -> list[Record]:
    chosen = [r for r in found if set(labels) <= set(r.labels)]
    assert chosen, f"no record with {labels}"
    return chosen


def lead(record: Record, name: str) -> np.ndarray:
    return record.signal[LEADS.index(name)].astype(np.float64)


def beats_by_slope(record: Record) -> np.ndarray:
    """QRS times in s: peaks of the way the eight independent leads, smoothed over 8 ms, travel in 140 ms."""
    independent = record.signal[[0, 1, *range(6, 12)]].astype(np.float64)
    smooth = sum(independent[:, i : i - 4] for i in range(4)) / 4
    way = np.abs(smooth[:, 5:] - smooth[:, :-5]).sum(axis=0)
    energy = np.convolve(way, np.ones(int(0.14 * RATE)), mode="same")
    floor, top = np.percentile(energy, (15, 97))
    peaks, _ = find_peaks(energy, height=floor + 0.42 * (top - floor), distance=int(0.28 * RATE))
    return peaks / RATE


def at(record: Record, name: str, seconds: np.ndarray) -> np.ndarray:
    signal = lead(record, name)
    return np.interp(seconds, np.arange(len(signal)) / RATE, signal)


def clear_onsets(record: Record) -> np.ndarray:
    """Onsets of conducted beats far enough from both ends to be measured."""
    onsets = np.array(record.metadata["qrs_onsets_s"])
    kinds = np.array(list(record.metadata["beats"]))
    return onsets[(kinds == "N") & (onsets > 0.5) & (onsets < 9.2)]


def test_interface_and_ids() -> None:
    source = Synthetic(num_patients=12, seed=7)
    keys = source.keys()
    assert len(keys) == len(set(keys)) and keys[0] == "synthetic/s7-p00000-1"
    record = source.read(keys[-1])
    assert record.record_id == keys[-1] and record.patient_id == "synthetic/s7-p00011" and record.patient_known
    assert record.leads == LEADS and record.signal.shape == (12, 5000) and record.signal.dtype == np.float32
    assert record.sampling_rate == 500.0 and np.isfinite(record.signal).all() and record.report
    assert source.accounting() == {} and source.name == "synthetic"
    json.dumps([source.fingerprint(), record.metadata, source.version()], allow_nan=False)
    assert Synthetic(num_patients=12, seed=8).fingerprint() != source.fingerprint()


def test_registered_under_its_name() -> None:
    from ecglm import registry

    assert registry.get("records", "synthetic") is Synthetic


def test_patients_have_one_to_three_ecgs_and_share_traits(records: list[Record]) -> None:
    counts = Counter(r.patient_id for r in records)
    assert set(counts.values()) == {1, 2, 3}
    by_patient: dict[str, list[Record]] = {}
    for r in records:
        by_patient.setdefault(r.patient_id, []).append(r)
    for mine in by_patient.values():
        assert len({(r.metadata["age"], r.metadata["sex"]) for r in mine}) == 1
        axes = [r.metadata["measurements"]["axis_deg"] for r in mine if group(r, "rhythm") != ["paced"]]
        assert not axes or max(axes) - min(axes) <= 5


def test_a_record_depends_on_its_key_alone() -> None:
    many = Synthetic(num_patients=40, seed=3)
    few = copy.deepcopy(Synthetic(num_patients=6, seed=3))  # as a worker process gets it
    forwards = {r.record_id: r for r in read_all(many)}
    for key in reversed(few.keys()):
        again = few.read(key)
        assert again.signal.tobytes() == forwards[key].signal.tobytes()
        assert (again.labels, again.report, again.metadata) == (
            forwards[key].labels,
            forwards[key].report,
            forwards[key].metadata,
        )


def test_another_process_draws_the_same_bytes() -> None:
    code = (
        "import hashlib\nfrom ecglm.records.synthetic import Synthetic\ns = Synthetic(num_patients=4, seed=5)\n"
        "print(hashlib.sha256(b''.join(s.read(k).signal.tobytes() for k in s.keys())).hexdigest())"
    )
    runs = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(runs) == 1


def test_other_seeds_are_other_patients() -> None:
    first, second = Synthetic(num_patients=30, seed=1), Synthetic(num_patients=30, seed=2)
    assert not set(first.keys()) & set(second.keys())
    a, b = first.read(first.keys()[0]), second.read(second.keys()[0])
    assert a.patient_id != b.patient_id and not np.array_equal(a.signal, b.signal)


@pytest.mark.parametrize(
    "options, word",
    [
        ({"num_patients": 0}, "num_patients"),
        ({"seed": -1}, "seed"),
        ({"rate": 50}, "rate"),
        ({"duration_s": 1.0}, "duration_s"),
        ({"records_per_patient": (3, 1)}, "records_per_patient"),
        ({"records_per_patient": (2,)}, "records_per_patient"),
        ({"rhythms": ("sinus_rythm",)}, "did you mean 'sinus_rhythm'"),
    ],
)
def test_bad_options_are_one_clear_line(options: dict, word: str) -> None:
    with pytest.raises(ConfigError, match=word) as error:
        Synthetic(**options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "key", ["synthetic/s9-p00000-1", "synthetic/s7-p00099-1", "synthetic/s7-p00000-9", "x", "synthetic/s7-p000000-1"]
)
def test_an_unknown_key_is_an_error(key: str) -> None:
    with pytest.raises(EcglmError, match="no record"):
        Synthetic(num_patients=10, seed=7).read(key)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    rate=st.sampled_from([100, 250, 400, 500, 1000]),
    duration=st.sampled_from([5.0, 7.5, 10.0, 30.0]),
    rhythm=st.sampled_from(RHYTHMS),
)
def test_any_rate_and_length(seed: int, rate: int, duration: float, rhythm: str) -> None:
    source = Synthetic(num_patients=1, seed=seed, rate=rate, duration_s=duration, rhythms=(rhythm,))
    record = source.read(source.keys()[0])
    assert record.signal.shape == (12, round(rate * duration)) and np.isfinite(record.signal).all()
    assert np.abs(record.signal).max() < 6 and group(record, "rhythm") == [rhythm]


def test_the_same_ecg_at_half_the_rate_is_every_second_sample() -> None:
    rhythms = tuple(r for r in RHYTHMS if r != "paced")  # a pacing spike is as short as the rate allows
    fast = Synthetic(num_patients=12, seed=4, rhythms=rhythms, artefacts=False)
    slow = Synthetic(num_patients=12, seed=4, rhythms=rhythms, artefacts=False, rate=250)
    for a, b in zip(read_all(slow), read_all(fast), strict=True):
        np.testing.assert_allclose(a.signal, b.signal[:, ::2], atol=2e-6)


def test_einthoven_and_goldberger_hold_to_rounding(records: list[Record]) -> None:
    for r in records:
        one, two, three, avr, avl, avf = r.signal[:6].astype(np.float64)
        for left, right in (
            (three, two - one),
            (avr, -(one + two) / 2),
            (avl, one - two / 2),
            (avf, two - one / 2),
            (avr + avl + avf, 0 * one),
        ):
            assert np.abs(left - right).max() <= 1e-6, r.record_id


@pytest.mark.parametrize("rhythm", RHYTHMS)
def test_heart_rate_by_another_peak_detector(clean: list[Record], records: list[Record], rhythm: str) -> None:
    good = [r for r in records if "quality:good" in r.labels]
    for r in having(clean, f"rhythm:{rhythm}")[:25] + having(good, f"rhythm:{rhythm}")[:15]:
        found = 60 / np.diff(beats_by_slope(r)).mean()
        assert abs(found - r.metadata["measurements"]["heart_rate"]) < 2, r.record_id
        assert f"{r.metadata['measurements']['heart_rate']:.0f} bpm" in r.report


def test_rates_fit_their_rhythm(records: list[Record]) -> None:
    limits = {"sinus_rhythm": (60, 100), "sinus_bradycardia": (30, 60), "sinus_tachycardia": (100, 160)}
    limits["first_degree_av_block"] = (58, 92)
    for r in records:
        low, high = limits.get(group(r, "rhythm")[0], (30, 150))
        assert low <= r.metadata["measurements"]["heart_rate"] <= high


def test_af_is_irregular_and_sinus_is_not(clean: list[Record]) -> None:
    def spread(r: Record) -> float:
        rr = np.diff(beats_by_slope(r))
        return float(rr.std() / rr.mean())

    assert min(spread(r) for r in having(clean, "rhythm:atrial_fibrillation")) > 0.1
    for rhythm in ("sinus_rhythm", "sinus_bradycardia", "sinus_tachycardia"):
        spreads = [spread(r) for r in having(clean, f"rhythm:{rhythm}")]
        assert max(spreads) < 0.09 and np.median(spreads) > 0.008  # sinus rhythm varies with breathing
    assert max(spread(r) for r in having(clean, "rhythm:paced")) < 0.012


def test_af_has_fibrillatory_waves_and_no_p(clean: list[Record]) -> None:
    for r in having(clean, "rhythm:atrial_fibrillation"):
        assert not r.metadata["p_onsets_s"] and "pr_ms" not in r.metadata["measurements"]
        quiet = [at(r, "V1", t - 0.09 + np.arange(0, 0.08, 0.002)) for t in clear_onsets(r)]
        assert np.mean([np.ptp(q) for q in quiet]) > 0.03
    for r in having(clean, "rhythm:sinus_bradycardia")[:20]:
        pr_ms = r.metadata["measurements"]["pr_ms"]
        quiet = [at(r, "V1", t - pr_ms / 1000 - 0.09 + np.arange(0, 0.08, 0.002)) for t in clear_onsets(r)]
        assert max(np.ptp(q) for q in quiet) < 0.002


def measurable(clean: list[Record]) -> list[Record]:
    """Slow enough that P, QRS and T stand apart, with a flat ST segment and a steady baseline."""
    return [
        r
        for r in having(clean, "conduction:normal", "st:none", "twave:normal")
        if r.metadata["measurements"]["heart_rate"] < 75
        and group(r, "rhythm")[0] in ("sinus_rhythm", "sinus_bradycardia", "first_degree_av_block")
    ]


def test_pr_qrs_and_qt_measured_from_the_signal(clean: list[Record]) -> None:
    chosen = measurable(clean)
    assert len(chosen) > 20
    for r in chosen:
        truth = r.metadata["measurements"]
        span = np.abs(r.signal[[0, 1, *range(6, 12)]].astype(np.float64)).max(axis=0)
        speed = np.abs(np.diff(r.signal[[0, 1, *range(6, 12)]].astype(np.float64), axis=1)).max(axis=0)
        widths, prs, qts = [], [], []
        for peak in (beats_by_slope(r) * RATE).astype(int):
            if not 0.6 * RATE < peak < 9.2 * RATE:
                continue
            peak = peak - 30 + int(np.argmax(span[peak - 30 : peak + 30]))
            start = peak - int(np.argmax(span[peak::-1] < 0.006))
            fast = np.flatnonzero(speed[peak : peak + 36] > 0.012) + peak
            p_end = start - int(np.argmax(span[start::-1] > 0.02))
            p_start = p_end - int(np.argmax(span[p_end::-1] < 0.004))
            t_peak = peak + 80 + int(np.argmax(span[peak + 80 : peak + 300]))
            t_end = t_peak + int(np.argmax(span[t_peak:] < 0.006))
            widths.append((fast[-1] + 1 - start) / RATE * 1000)
            prs.append((start - p_start) / RATE * 1000)
            qts.append((t_end - start) / RATE * 1000)
        assert abs(np.median(widths) - truth["qrs_ms"]) <= 10, r.record_id
        assert abs(np.median(prs) - truth["pr_ms"]) <= 10, r.record_id
        assert abs(np.median(qts) - truth["qt_ms"]) <= 20, r.record_id
        assert f"PR {truth['pr_ms']} ms" in r.report and f"QRS {truth['qrs_ms']} ms" in r.report


def test_intervals_fit_their_labels(records: list[Record]) -> None:
    for r in records:
        m, rhythm = r.metadata["measurements"], group(r, "rhythm")[0]
        assert (m.get("pr_ms", 0) > 200) == (rhythm == "first_degree_av_block")
        wide = rhythm == "paced" or group(r, "conduction") != ["normal"]
        assert m["qrs_ms"] >= 120 if wide else m["qrs_ms"] < 112
        for label in group(r, "qt"):
            assert m["qtc_ms"] > 480 if label == "long" else m["qtc_ms"] <= 450
        assert abs(m["qtc_ms"] - m["qt_ms"] / np.sqrt(60 / m["heart_rate"])) < 2  # Bazett


def test_axis_from_net_qrs_area(clean: list[Record]) -> None:
    for r in clean:
        if group(r, "rhythm") == ["atrial_fibrillation"]:
            continue
        m = r.metadata["measurements"]
        onsets = np.array(r.metadata["qrs_onsets_s"])
        kinds = np.array(list(r.metadata["beats"]))
        steps = np.arange(0, m["qrs_ms"] / 1000 - 0.012, 0.001)
        inside = onsets[(kinds != "V") & (kinds != "A") & (onsets > 0.3) & (onsets < 9.6)]
        one, avf = (np.mean([at(r, name, t + steps).sum() for t in inside]) for name in ("I", "aVF"))
        found = np.degrees(np.arctan2(2 / np.sqrt(3) * avf, one))
        assert abs((found - m["axis_deg"] + 180) % 360 - 180) < 12, r.record_id
        side = "left" if m["axis_deg"] < -30 else "right" if m["axis_deg"] > 90 else "normal"
        assert group(r, "axis") == [side] and f"({m['axis_deg']} degrees)" in r.report


def test_lvh_by_sokolow_lyon(clean: list[Record]) -> None:
    for r in clean:
        if not group(r, "hypertrophy") or group(r, "rhythm")[0] in ("atrial_fibrillation", "pvc"):
            continue
        windows = [t + np.arange(0, 0.11, 0.001) for t in clear_onsets(r)]
        s = -min(at(r, "V1", w).min() for w in windows)
        tall = max(at(r, name, w).max() for w in windows for name in ("V5", "V6"))
        assert abs(s + tall - r.metadata["measurements"]["sokolow_mv"]) < 0.15, r.record_id
        assert (s + tall > 3.5) == (group(r, "hypertrophy") == ["lvh"])


def test_st_at_j60_has_the_stated_sign_and_size(clean: list[Record]) -> None:
    seen = Counter()
    for r in clean:
        label = group(r, "st")
        if not label or group(r, "rhythm")[0] in ("atrial_fibrillation", "sinus_tachycardia"):
            continue
        m = r.metadata["measurements"]
        onsets = clear_onsets(r)
        level = {
            name: float(np.median(at(r, name, onsets + m["qrs_ms"] / 1000 + 0.06) - at(r, name, onsets - 0.003)))
            for name in LEADS
        }
        for name in LEADS:
            assert abs(level[name] - m["st_leads_mv"][name]) < 0.04, (r.record_id, name)
        seen[label[0]] += 1
        if label == ["none"]:
            assert max(map(abs, level.values())) < 0.1
            continue
        kind, territory = label[0].split("_")
        sign = 1 if kind == "elevation" else -1
        there = [sign * level[name] for name in TERRITORY[territory]]
        assert min(there) > 0.05 and max(there) > 0.15 and f"ST {kind} in the {territory} leads" in r.report
        mirror = {"inferior": "aVL", "lateral": "III"}.get(territory)
        assert mirror is None or sign * level[mirror] < -0.02  # reciprocal change
    assert len(seen) == 7


def test_t_waves_point_where_the_label_says(clean: list[Record]) -> None:
    leads = {"anterior": ("V1", "V2", "V3"), "inferior": TERRITORY["inferior"], "lateral": TERRITORY["lateral"]}
    for r in clean:
        if not group(r, "twave") or group(r, "rhythm")[0] not in ("sinus_rhythm", "sinus_bradycardia"):
            continue
        m, name = r.metadata["measurements"], group(r, "twave")[0]
        around = np.arange(m["qrs_ms"] / 1000 + 0.08, m["qt_ms"] / 1000, 0.002)
        for lead_name in leads[name.split("_")[1]] if name != "normal" else ("I", "II", "V3", "V4", "V5"):
            wave = np.median([at(r, lead_name, t + around) for t in clear_onsets(r)], axis=0)
            assert np.sign(wave[np.argmax(np.abs(wave))]) == (1 if name == "normal" else -1), (r.record_id, lead_name)


def test_bundle_branch_blocks_have_their_shape(clean: list[Record]) -> None:
    for r in having(clean, "conduction:lbbb"):
        w = np.arange(0, r.metadata["measurements"]["qrs_ms"] / 1000, 0.002)
        v1, v6 = (np.median([at(r, x, t + w) for t in clear_onsets(r)], axis=0) for x in ("V1", "V6"))
        assert (
            v1.min() < -0.7 and v1[: int(0.8 * len(w))].max() < 0.05 and v6.min() > -0.15 and v6.max() > 0.3
        )  # no q, no S in V6
    for r in having(clean, "conduction:rbbb"):
        w = np.arange(0, r.metadata["measurements"]["qrs_ms"] / 1000, 0.002)
        late = len(w) // 2
        v1, v6 = (np.median([at(r, x, t + w) for t in clear_onsets(r)], axis=0) for x in ("V1", "V6"))
        assert v1[late:].max() > 0.3 and v1[:late].max() > 0.05 and v6[late:].min() < -0.15  # r, R', wide S


def test_pvcs_are_early_wide_without_p_and_fully_compensated(clean: list[Record]) -> None:
    for r in having(clean, "rhythm:pvc"):
        onsets, kinds = np.array(r.metadata["qrs_onsets_s"]), r.metadata["beats"]
        p = np.array(r.metadata["p_onsets_s"])
        sinus = [b - a for a, b, k in zip(onsets, onsets[1:], pairwise(kinds), strict=False) if k == ("N", "N")]
        for half in (0, 5):
            assert 1 <= sum(k == "V" and half <= t < half + 5 for t, k in zip(onsets, kinds, strict=True)) <= 3
        for i in range(1, len(onsets) - 1):
            if kinds[i] != "V":
                continue
            before, after = onsets[i] - onsets[i - 1], onsets[i + 1] - onsets[i]
            assert before < 0.8 * np.median(sinus)
            assert before + after == pytest.approx(2 * np.median(sinus), rel=0.15)
            assert not ((p > onsets[i] - 0.25) & (p < onsets[i])).any()
            complex_ = r.signal[[0, 1, *range(6, 12)], int(onsets[i] * RATE) : int((onsets[i] + 0.22) * RATE)]
            assert np.mean(np.abs(complex_).max(axis=0) > 0.25) > 0.5  # wide: above 0.25 mV for more than 110 ms


def test_pacs_are_early_narrow_and_have_a_p(clean: list[Record]) -> None:
    for r in having(clean, "rhythm:pac"):
        onsets, kinds = np.array(r.metadata["qrs_onsets_s"]), r.metadata["beats"]
        p = np.array(r.metadata["p_onsets_s"])
        for half in (0, 5):
            assert sum(k == "A" and half <= t < half + 5 for t, k in zip(onsets, kinds, strict=True)) >= 1
        sinus = [b - a for a, b, k in zip(onsets, onsets[1:], pairwise(kinds), strict=False) if k == ("N", "N")]
        for i in range(1, len(onsets)):
            if kinds[i] == "A" and kinds[i - 1] == "N":
                assert onsets[i] - onsets[i - 1] < 0.82 * np.median(sinus)
                assert ((p > onsets[i] - 0.2) & (p < onsets[i])).sum() == 1


def test_every_second_p_of_a_2_1_block_is_not_conducted(clean: list[Record]) -> None:
    for r in having(clean, "rhythm:av_block_2_1"):
        onsets, p = np.array(r.metadata["qrs_onsets_s"]), np.array(r.metadata["p_onsets_s"])
        for a, b in pairwise(onsets):
            assert ((p > a) & (p < b)).sum() == 2
        assert np.diff(p).std() / np.diff(p).mean() < 0.06  # the atria go on regularly


def test_paced_beats_begin_with_a_spike(clean: list[Record]) -> None:
    for r in having(clean, "rhythm:paced"):
        jumps = np.abs(np.diff(lead(r, "II")))
        spikes, _ = find_peaks(jumps, height=0.25, distance=int(0.4 * RATE))
        onsets = np.array(r.metadata["qrs_onsets_s"])
        assert len(spikes) == len(onsets) and np.abs(spikes / RATE - onsets).max() < 0.012


def test_labels_are_plausible_and_of_the_stated_vocabulary(records: list[Record]) -> None:
    shifts = {f"{k}_{t}" for k in ("elevation", "depression") for t in TERRITORY}
    vocabulary = {
        "rhythm": set(RHYTHMS),
        "conduction": {"normal", "lbbb", "rbbb"},
        "axis": {"normal", "left", "right"},
        "st": {"none", *shifts},
        "hypertrophy": {"none", "lvh"},
        "twave": {"normal", *(f"inversion_{t}" for t in TERRITORY)},
        "qt": {"normal", "long"},
        "quality": {"good", "noise", "wander", "mains_hum", "flat_lead"},
        "superclass": {"NORM", "MI", "STTC", "CD", "HYP"},
    }
    found: dict[str, set[str]] = {}
    for r in records:
        for label in r.labels:
            name, _, value = label.partition(":")
            found.setdefault(name, set()).add(value)
        for name in ("rhythm", "axis"):
            assert len(group(r, name)) == 1
        for name in ("conduction", "st", "hypertrophy", "twave", "qt"):
            assert len(group(r, name)) <= 1
        if "rhythm:paced" in r.labels:
            assert not any(group(r, g) for g in ("conduction", "st", "hypertrophy", "twave", "qt"))
        if "conduction:lbbb" in r.labels:
            assert not any(group(r, g) for g in ("st", "hypertrophy", "twave", "qt"))
        if "superclass:NORM" in r.labels:
            normal = {"rhythm:sinus_rhythm", "conduction:normal", "axis:normal", "st:none", "hypertrophy:none"}
            assert normal | {"twave:normal", "qt:normal"} <= set(r.labels) and "Normal ECG." in r.report
            assert group(r, "superclass") == ["NORM"]
    assert found == vocabulary


def test_rhythms_are_drawn_evenly(records: list[Record]) -> None:
    counts = Counter(group(r, "rhythm")[0] for r in records)
    assert set(counts) == set(RHYTHMS) and chisquare([counts[r] for r in RHYTHMS]).pvalue > 0.001
    few = Synthetic(num_patients=60, seed=2, rhythms=("pvc", "paced"))
    assert {group(r, "rhythm")[0] for r in read_all(few)} == {"pvc", "paced"}


def test_artefacts_are_what_their_label_says(records: list[Record], clean: list[Record]) -> None:
    def findings(r: Record) -> list[str]:
        return [label for label in r.labels if not label.startswith("quality:")]

    for r, quiet in zip(records, clean, strict=True):
        assert r.record_id == quiet.record_id and findings(quiet) == findings(r)
        assert group(quiet, "quality") == ["good"] and quiet.metadata == r.metadata
        flat = [LEADS[i] for i in range(12) if not r.signal[i].any()]
        assert len(flat) == ("quality:flat_lead" in r.labels) and all(name.startswith("V") for name in flat)
        rest = [i for i in range(12) if LEADS[i] not in flat]
        noise = (r.signal - quiet.signal)[rest].astype(np.float64)
        power = np.abs(np.fft.rfft(noise, axis=1)) ** 2 / noise.shape[1] ** 2 * 2
        hertz = np.fft.rfftfreq(noise.shape[1], 1 / RATE)
        hum = power[:, (np.abs(hertz - 50) < 0.06) | (np.abs(hertz - 60) < 0.06)].max()
        sway = np.sqrt(power[:, hertz < 1].sum(axis=1).max())
        muscle = np.sqrt(power[:, hertz > 70].sum(axis=1).min())
        assert (muscle > 0.018) == ("quality:noise" in r.labels)
        if "quality:noise" not in r.labels:
            assert (hum > 1e-4) == ("quality:mains_hum" in r.labels)
        if "quality:wander" not in r.labels:
            assert sway < 0.06
    swayed = [np.ptp(r.signal - q.signal) for r, q in zip(records, clean, strict=True) if "quality:wander" in r.labels]
    assert np.median(swayed) > 0.3


def test_a_ten_second_ecg_takes_less_than_five_milliseconds() -> None:
    source = Synthetic(num_patients=20, seed=1)
    keys = source.keys()

    def once() -> float:
        start = time.thread_time()
        for key in keys:
            source.read(key)
        return (time.thread_time() - start) / len(keys)

    assert min(once() for _ in range(5)) < 0.005
