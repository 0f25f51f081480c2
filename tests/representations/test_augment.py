"""Augmentation: every effect against its closed form or its physics, and the same draw whoever asks, in any order."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from itertools import permutations
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecglm import registry
from ecglm.errors import ConfigError, EcglmError
from ecglm.records.synthetic import Synthetic
from ecglm.representations.augment import ALSO_CALLED, Augmentation, Between, augment_signal, effect, perturb
from ecglm.representations.augment_effects import SWAPS, swap_electrodes
from ecglm.types import LEADS

RATE = 250
NAMES = registry.names("augmentations")
#: Effects that arise at electrodes, or treat all leads alike: they cannot break Einthoven's law.
LAWFUL = ["electrode-swap", "mains", "muscle", "scale", "step", "time-shift"]


def leads_of(potentials: np.ndarray) -> np.ndarray:
    """Potentials of RA, LA, LL, V1 … V6 ``(9, n)`` → the twelve leads, by their definitions."""
    ra, la, ll = potentials[:3]
    chest = potentials[3:] - potentials[:3].mean(axis=0)
    limbs = [la - ra, ll - ra, ll - la, ra - (la + ll) / 2, la - (ra + ll) / 2, ll - (ra + la) / 2]
    return np.concatenate([limbs, chest]).astype(np.float32)


@pytest.fixture(scope="module")
def segment() -> np.ndarray:
    """A made-up signal of nine electrodes, 10 s; the limbs are weaker than the chest."""
    size = np.array([0.3, 0.2, 0.4, 1, 2, 1, 1, 0.7, 0.5])[:, None]
    return leads_of(np.random.default_rng(5).normal(size=(9, 2500)) * size)


def einthoven(signal: np.ndarray) -> float:
    """The largest breach of I + III = II and aVR + aVL + aVF = 0, mV."""
    return float(max(np.abs(signal[0] + signal[2] - signal[1]).max(), np.abs(signal[3:6].sum(axis=0)).max()))


def alone(name: str, **options: Any) -> Augmentation:
    return Augmentation.from_plain({name: {"p": 1.0, **options}})


def shown(segment: np.ndarray, name: str, row: int | str = 0, rate: int = RATE, **options: Any) -> np.ndarray:
    return augment_signal(segment, rate, alone(name, **options), seed=1, row_id=str(row))


# --- the effects, one by one


def test_there_are_these() -> None:
    assert [
        *("electrode-swap", "flat", "lead-dropout", "mains", "muscle"),
        *("noise", "scale", "step", "time-shift", "wander"),
    ] == NAMES


def test_noise_is_white_and_a_twentieth_of_the_segment(segment) -> None:
    drawn = shown(segment, "noise") - segment
    assert drawn.std() == pytest.approx(0.05 * segment.std(), rel=0.02)
    np.testing.assert_allclose(drawn.std(axis=1), 0.05 * segment.std(), rtol=0.06)  # the same in every lead
    assert abs((drawn**4).mean() / (drawn**2).mean() ** 2 - 3) < 0.1  # Gaussian
    assert abs(np.corrcoef(drawn[:, :-1].ravel(), drawn[:, 1:].ravel())[0, 1]) < 0.02
    correlations = np.corrcoef(drawn) - np.eye(12)
    assert np.abs(correlations).max() < 0.08  # leads apart, as ECG-Bench defines it: Einthoven is broken
    assert einthoven(shown(segment, "noise")) > 0.05


def test_noise_at_electrodes_keeps_einthoven(segment) -> None:
    drawn = shown(segment, "noise", at="electrodes", sd=0.1) - segment
    assert einthoven(segment + drawn) < 1e-5
    np.testing.assert_allclose(drawn[:3].std(axis=1), 0.1 * segment.std(), rtol=0.05)
    # against the mean of three limbs: 1 + 1/3 of an electrode's variance, where I has 2
    np.testing.assert_allclose(drawn[6:].std(axis=1), 0.1 * segment.std() * np.sqrt(2 / 3), rtol=0.05)


def test_wander_is_the_formula_of_ecg_bench_along_time(segment) -> None:
    seen = set()
    for row in range(60):
        drawn = (shown(segment, "wander", row) - segment).astype(np.float64)
        fits = {
            k: np.abs(drawn - 0.07 * np.abs(segment).max() * np.sin(np.linspace(0, k * np.pi, 2500))).max()
            for k in range(1, 8)
        }
        k = min(fits, key=fits.__getitem__)
        assert fits[k] < 1e-6
        seen.add(k)
    assert seen == {1, 2, 3, 4, 5}


def test_wander_at_electrodes_keeps_einthoven(segment) -> None:
    drawn = shown(segment, "wander", at="electrodes", half_waves=[3, 3]) - segment
    assert einthoven(segment + drawn) < 1e-5
    assert np.abs(drawn).max() == pytest.approx(0.07 * np.abs(segment).max(), rel=1e-3)
    assert np.linalg.matrix_rank(drawn, tol=1e-3) == 1  # one wave, other sizes


def test_muscle_noise_stays_in_its_band(segment) -> None:
    drawn = shown(segment, "muscle", rms=[0.05, 0.05], band=[20, 60]) - segment
    power = np.abs(np.fft.rfft(drawn)) ** 2
    hertz = np.fft.rfftfreq(2500, 1 / RATE)
    inside = (hertz >= 20) & (hertz <= 60)
    assert power[:, ~inside].sum() < 1e-9 * power.sum()
    assert power[:, inside].min() < power[:, inside].mean() < power[:, inside].max()
    np.testing.assert_allclose(drawn[:3].std(axis=1), 0.05, rtol=0.08)
    assert drawn.std(axis=1)[6:].max() < 0.05


@pytest.mark.parametrize("hertz", [50, 60])
def test_mains_is_two_or_three_lines(segment, hertz: int) -> None:
    drawn = shown(segment, "mains", frequencies=[hertz], amplitude=[0.1, 0.1], harmonics=[0.2, 0.2], rate=500)
    drawn -= segment
    power = (np.abs(np.fft.rfft(drawn * np.hanning(2500))) ** 2).sum(axis=0)
    at = np.fft.rfftfreq(2500, 1 / 500)
    near = [np.abs(at - order * hertz) <= 1.5 for order in (1, 2, 3)]
    assert power[np.any(near, axis=0)].sum() > 0.999 * power.sum()
    first, second, third = (power[n].sum() for n in near)
    assert second / first == pytest.approx(0.04, rel=0.05) and third / first == pytest.approx(0.04, rel=0.05)
    assert 0.1 * 0.7 < np.abs(drawn).max() < 0.1 * 1.3 * 1.4  # swing and harmonics
    assert np.linalg.matrix_rank(drawn, tol=1e-3) == 1


def test_mains_amplitude_changes_slowly_and_harmonics_above_half_the_rate_are_left_out(segment) -> None:
    drawn = shown(segment, "mains", frequencies=[50], amplitude=[1, 1], harmonics=[1, 1], swing=0.5, rate=140)
    drawn -= segment
    hertz = np.fft.rfftfreq(2500, 1 / 140)
    power = (np.abs(np.fft.rfft(drawn * np.hanning(2500))) ** 2).sum(axis=0)
    assert power[np.abs(hertz - 50) < 1].sum() > 0.9999 * power.sum()  # an alias of 100 or 150 Hz would lie at 40 or 10
    loudest = drawn[np.abs(drawn).max(axis=1).argmax()]
    peaks = np.abs(loudest).reshape(-1, 20).max(axis=1)
    assert peaks.max() > 1.3 * peaks.min()
    with pytest.raises(EcglmError, match="'mains': 60 Hz cannot be shown at 100 samples"):
        shown(segment, "mains", rate=100)
    shown(segment, "mains", rate=110, frequencies=[50])


def test_step_jumps_once_at_one_electrode_and_fades(segment) -> None:
    patterns = set()
    for row in range(60):
        drawn = shown(segment, "step", row, amplitude=[0.5, 0.5], cutoff=0.5) - segment
        lead = int(np.abs(drawn).max(axis=1).argmax())
        start = int(np.flatnonzero(np.abs(drawn[lead]) > 1e-4)[0])
        assert not drawn[:, :start].any() or np.abs(drawn[:, :start]).max() < 1e-6
        tail = drawn[lead, start:]
        np.testing.assert_allclose(tail, tail[0] * np.exp(-2 * np.pi * 0.5 * np.arange(len(tail)) / RATE), atol=1e-5)
        jump = drawn[:, start] / np.abs(drawn[:, start]).max()
        assert np.abs(drawn[:, start]).max() == pytest.approx(0.5, abs=1e-5)
        moved = frozenset(np.flatnonzero(np.abs(jump) > 0.01).tolist())
        patterns.add(moved)
        if len(moved) > 1:  # a limb: its two bipolar leads in full, the mean of the limbs by a third
            np.testing.assert_allclose(np.sort(np.abs(jump[:6])), [0, 0.5, 0.5, 1, 1, 1], atol=1e-5)
            np.testing.assert_allclose(np.abs(jump[6:]), 1 / 3, atol=1e-5)
    assert len(patterns) == 9


def test_flat_is_one_chest_lead_for_a_while(segment) -> None:
    hit = set()
    for row in range(40):
        after = shown(segment, "flat", row, seconds=[1, 2])
        changed = np.flatnonzero((after != segment).any(axis=1))
        assert len(changed) == 1
        gap = np.flatnonzero(after[changed[0]] == 0)
        assert gap[-1] - gap[0] + 1 == len(gap) and 250 <= len(gap) <= 500
        hit.add(LEADS[changed[0]])
    assert hit == set(LEADS[6:])
    assert not shown(segment, "flat", leads=["II"], seconds=[60, 60])[1].any()  # longer than the segment: all of it


def test_lead_dropout_zeroes_as_many_of_these_leads(segment) -> None:
    counts, hit = set(), set()
    for row in range(80):
        after = shown(segment, "lead-dropout", row, number=[1, 3], leads=["I", "V1", "V2", "V3"])
        lost = np.flatnonzero(~after.any(axis=1))
        np.testing.assert_array_equal(np.delete(after, lost, axis=0), np.delete(segment, lost, axis=0))
        counts.add(len(lost))
        hit |= {LEADS[i] for i in lost}
    assert counts == {1, 2, 3} and hit == {"I", "V1", "V2", "V3"}
    assert not shown(segment, "lead-dropout", number=[12, 12]).any()
    assert (~shown(segment, "lead-dropout", number=[12, 12], leads=["V1"]).any(axis=1)).sum() == 1


#: Swapped cables → lead that is shown: (sign, lead whose trace it is), as textbooks have it.
TEXTBOOK: dict[str, dict[str, tuple[int, str]]] = {
    "RA-LA": {
        **{"I": (-1, "I"), "II": (1, "III"), "III": (1, "II")},
        **{"aVR": (1, "aVL"), "aVL": (1, "aVR"), "aVF": (1, "aVF")},
    },
    "LA-LL": {
        **{"I": (1, "II"), "II": (1, "I"), "III": (-1, "III")},
        **{"aVR": (1, "aVR"), "aVL": (1, "aVF"), "aVF": (1, "aVL")},
    },
    "RA-LL": {
        **{"I": (-1, "III"), "II": (-1, "II"), "III": (-1, "I")},
        **{"aVR": (1, "aVF"), "aVL": (1, "aVL"), "aVF": (1, "aVR")},
    },
}


@pytest.mark.parametrize("pair", TEXTBOOK)
def test_limb_swaps_are_those_of_the_textbook(segment, pair: str) -> None:
    after = shown(segment, "electrode-swap", pairs=[pair])
    for lead, (sign, other) in TEXTBOOK[pair].items():
        np.testing.assert_allclose(after[LEADS.index(lead)], sign * segment[LEADS.index(other)], atol=1e-5)
    np.testing.assert_array_equal(after[6:], segment[6:])  # Wilson's terminal is the mean of the same three


@pytest.mark.parametrize("pair", SWAPS)
def test_every_swap_is_what_the_ten_electrodes_give(pair: str) -> None:
    names = ["RA", "LA", "LL", "V1", "V2", "V3", "V4", "V5", "V6", "RL"]
    potentials = np.random.default_rng(0).normal(size=(10, 40))
    potentials[9] = potentials[2]  # the right leg is at the left leg's potential
    one, two = (names.index(n) for n in pair.split("-"))
    order = list(range(10))
    order[one], order[two] = two, one
    before, wanted = leads_of(potentials[:9]), leads_of(potentials[order][:9])
    np.testing.assert_allclose(swap_electrodes(before.copy(), pair), wanted, atol=2e-6)
    if pair == "RA-RL":  # what gives this one away: lead II is a flat line
        assert np.abs(wanted[1]).max() < 1e-6
    if pair == "LA-RL":
        assert np.abs(wanted[2]).max() < 1e-6
    if "RL" not in pair:  # swapped back
        np.testing.assert_allclose(swap_electrodes(swap_electrodes(before.copy(), pair), pair), before, atol=2e-6)


def test_time_shift_moves_everything_and_fills_with_the_resting_level() -> None:
    signal = next(iter_synthetic())
    shifts = set()
    for row in range(30):
        after = shown(signal, "time-shift", row, seconds=[0.4, 0.4])
        later = np.array_equal(after[:, 100:], signal[:, :-100])
        shifts.add(later)
        if not later:
            np.testing.assert_array_equal(after[:, :-100], signal[:, 100:])
        free = after[:, :100] if later else after[:, -100:]
        assert not np.ptp(free, axis=1).any()
        np.testing.assert_allclose(free[:, 0], np.median(signal, axis=1), atol=0.03)
    assert shifts == {True, False}
    assert einthoven(after) < 1e-4
    half = shown(signal, "time-shift", seconds=[60, 60])
    assert np.array_equal(half[:, 1250:], signal[:, :1250]) or np.array_equal(half[:, :1250], signal[:, 1250:])


def test_scale_is_one_factor_or_one_per_lead(segment) -> None:
    factors = np.array([(shown(segment, "scale", row) / segment) for row in range(200)])
    assert np.ptp(factors, axis=(1, 2)).max() < 1e-5
    drawn = factors[:, 0, 0]
    assert drawn.min() >= 0.8 - 1e-6 and drawn.max() <= 1.25 + 1e-6
    assert np.exp(np.log(drawn).mean()) == pytest.approx(1.0, abs=0.03) and np.ptp(drawn) > 0.35
    apart = shown(segment, "scale", per_lead=True) / segment
    assert np.ptp(apart, axis=1).max() < 1e-5 and len(np.unique(apart[:, 0].round(4))) > 8


@pytest.mark.parametrize("name", LAWFUL)
def test_what_arises_at_electrodes_keeps_einthoven(segment, name: str) -> None:
    for row in range(5):
        assert einthoven(perturb(name, segment, RATE, seed=0, row_id=str(row))) < 1e-5


def iter_synthetic():
    for key in (source := Synthetic(num_patients=2, seed=1)).keys():
        record = source.read(key)
        step = int(record.sampling_rate // RATE)
        yield record.signal[:, ::step]


# --- how they are chosen and seeded


EVERYTHING = Augmentation.from_plain(dict.fromkeys(NAMES))


@given(
    st.sampled_from(NAMES),
    st.integers(1, 700),
    st.sampled_from([150, 250, 500]),
    st.integers(0, 2**32),
    st.text(max_size=5),
    st.sampled_from([0.0, 1e-3, 1.0, 30.0]),
)
@settings(max_examples=150, deadline=None)
def test_any_effect_on_any_segment(name, samples, rate, seed, row, size) -> None:
    signal = (np.random.default_rng(samples).normal(size=(12, samples)) * size).astype(np.float32)
    before = signal.copy()
    for make in (
        lambda: perturb(name, signal, rate, seed=seed, row_id=row),
        lambda: augment_signal(signal, rate, EVERYTHING, seed=seed, row_id=row, epoch=3),
    ):
        after = make()
        assert after.shape == signal.shape and after.dtype == np.float32 and np.isfinite(after).all()
        assert after is not signal and after.flags.c_contiguous
        np.testing.assert_array_equal(after, make())
        np.testing.assert_array_equal(signal, before)


def test_seed_row_and_epoch_each_change_the_draw(segment) -> None:
    def make(seed: int = 0, row: str = "a", epoch: int = 0) -> bytes:
        return augment_signal(segment, RATE, alone("noise"), seed=seed, row_id=row, epoch=epoch).tobytes()

    assert len({make(), make(seed=1), make(row="b"), make(epoch=1)}) == 4
    assert make() == make()


def test_the_order_of_keys_does_not_matter_and_an_effect_more_leaves_the_others(segment) -> None:
    names = ["noise", "electrode-swap", "scale", "flat"]
    drawn = {
        augment_signal(
            segment, RATE, Augmentation.from_plain({n: {"p": 1} for n in order}), seed=0, row_id="a"
        ).tobytes()
        for order in permutations(names)
    }
    assert len(drawn) == 1
    # scaled first, then disturbed: the noise is that of a run with noise alone, on the scaled segment
    both = Augmentation.from_plain({"noise": {"p": 1, "sd": 0.2}, "scale": {"p": 1}})
    scaled = augment_signal(segment, RATE, alone("scale"), seed=0, row_id="a")
    np.testing.assert_array_equal(
        augment_signal(segment, RATE, both, seed=0, row_id="a"),
        augment_signal(scaled, RATE, alone("noise", sd=0.2), seed=0, row_id="a"),
    )


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 1.0])
def test_p_is_the_share_of_segments(segment, p: float) -> None:
    config = Augmentation.from_plain({"lead-dropout": {"p": p}})
    hits = [(augment_signal(segment, RATE, config, seed=0, row_id=str(i)) != segment).any() for i in range(300)]
    assert abs(np.mean(hits) - p) < 3.5 * np.sqrt(p * (1 - p) / 300) + 1e-9


def test_effects_are_independent_of_each_other(segment) -> None:
    config = Augmentation.from_plain({"lead-dropout": {}, "noise": {}})
    after = [augment_signal(segment, RATE, config, seed=0, row_id=str(i)) for i in range(300)]
    dropped = np.array([(~a.any(axis=1)).any() for a in after])
    noisy = np.array([(a[a.any(axis=1)] != segment[a.any(axis=1)]).any() for a in after])
    assert abs((dropped & noisy).mean() - 0.25) < 0.1


def test_nothing_chosen_changes_nothing(segment) -> None:
    after = augment_signal(segment, RATE, Augmentation(), seed=0, row_id="a")
    np.testing.assert_array_equal(after, segment)
    assert after is not segment


def test_another_process_draws_the_same(segment) -> None:
    code = (
        "import numpy as np; from ecglm.representations.augment import perturb;"
        "print(perturb('electrode-swap', np.arange(24).reshape(12, 2), 250, seed=3, row_id='x').tolist(),"
        " float(perturb('noise', np.arange(24).reshape(12, 2), 250, seed=3, row_id='x')[1, 1]))"
    )
    ramp = np.arange(24).reshape(12, 2)
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    here = perturb("electrode-swap", ramp, 250, seed=3, row_id="x").tolist()
    assert there.strip() == f"{here} {float(perturb('noise', ramp, 250, seed=3, row_id='x')[1, 1])}"


# --- mistakes


@pytest.mark.parametrize(
    ("plain", "told"),
    [
        ({"nosie": {}}, r"no effect 'nosie' \(did you mean 'noise'\?\); known: electrode-swap, flat"),
        ({"powerline": {}}, r"no effect 'powerline' \(it is called 'mains' here\)"),
        ({"noise": {"p": 1.5}}, r"augment\.noise\.p must lie between 0 and 1, found 1\.5"),
        ({"noise": {"p": True}}, r"augment\.noise\.p must lie"),
        ({"noise": {"p": float("nan")}}, r"augment\.noise\.p must lie"),
        ({"noise": {"sd": -1}}, r"augment\.noise\.sd must lie between 0 and 10, found -1"),
        ({"noise": {"sd": float("nan")}}, r"augment\.noise\.sd must lie"),
        ({"noise": {"spread": 1}}, r"augment\.noise: unknown option 'spread' .*; valid options: p, sd, at"),
        ({"noise": {"sd": "big"}}, r"augment\.noise\.sd must be a number, found 'big'"),
        ({"noise": {"at": "head"}}, r"must be one of 'leads', 'electrodes', found 'head'"),
        ({"noise": 0.5}, r"augment\.noise must be \{p: …, option: …\}, found 0\.5"),
        ({"scale": {"factor": [2, 1]}}, r"augment\.scale\.factor must be \[low, high\], found \[2\.0, 1\.0\]"),
        ({"scale": {"factor": [1, 2, 3]}}, r"augment\.scale\.factor must be a list of"),
        ({"scale": {"factor": [0, 1]}}, r"augment\.scale\.factor must lie between 0\.01 and 100"),
        ({"mains": {"frequencies": [55]}}, r"augment\.mains\.frequencies knows no 55"),
        ({"mains": {"frequencies": []}}, r"must name at least one of 50, 60"),
        ({"flat": {"leads": ["V7"]}}, r"augment\.flat\.leads knows no 'V7' \(did you mean 'V6'\?\)"),
        ({"electrode-swap": {"pairs": ["LA-RA"]}}, r"knows no 'LA-RA' .*known: RA-LA, "),
        ({"electrode-swap": {"pairs": ["LL-RL"]}}, r"knows no 'LL-RL'"),
        ({"lead-dropout": {"number": [1.5, 2]}}, r"must be a list of a whole number"),
        ({"image": {"rotate": [0, 1]}}, r"augment\.image: unknown option 'rotate' \(did you mean 'rotation'\?\)"),
        ({"image": {"p": 2}}, r"image augmentation: p must be between 0 and 1"),
    ],
)
def test_a_mistake_is_one_line(plain: dict, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        Augmentation.from_plain(plain)
    assert "\n" not in str(caught.value)


def test_pictures_have_a_section_of_their_own() -> None:
    found = Augmentation.from_plain({"image": {"blur": [0, 1]}, "noise": None})
    assert (found.image.blur, found.image.p, len(found.effects)) == ((0, 1), 0.6, 1)
    assert Augmentation.from_plain({"image": None}).image is not None and Augmentation().image is None


def test_names_of_others_lead_to_ours() -> None:
    assert set(ALSO_CALLED.values()) <= set(NAMES) and not set(ALSO_CALLED) & set(NAMES)


@pytest.mark.parametrize("shape", [(12, 0), (11, 50), (12,), (1, 12, 50)])
def test_another_shape_is_refused(shape) -> None:
    for call in (
        lambda: perturb("noise", np.zeros(shape), RATE, seed=0, row_id="a"),
        lambda: augment_signal(np.zeros(shape), RATE, Augmentation(), seed=0, row_id="a"),
    ):
        with pytest.raises(EcglmError, match=r"shape \(12, num_samples\)"):
            call()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_are_refused(segment, bad) -> None:
    broken = segment.copy()
    broken[3, 7] = bad
    with pytest.raises(EcglmError, match="NaN or infinity"):
        perturb("noise", broken, RATE, seed=0, row_id="a")


def test_what_cannot_work_is_told_before_training() -> None:
    with pytest.raises(EcglmError, match="60 Hz cannot be shown at 100"):
        Augmentation.from_plain({"mains": {"p": 0.01}}).check(100, 1000)
    with pytest.raises(EcglmError, match="'muscle': band from 60 Hz cannot be shown at 100"):
        Augmentation.from_plain({"muscle": {"band": [60, 90]}}).check(100, 1000)
    EVERYTHING.check(250, 2500)


# --- an effect of one's own


@pytest.fixture
def own_registry(monkeypatch):
    monkeypatch.setattr(registry, "_things", {kind: dict(things) for kind, things in registry._things.items()})


def test_an_effect_of_ones_own_is_one_function(segment, own_registry) -> None:
    @effect("offset", stage="gain", title="an offset", severity={"by": 2.0})
    def offset(signal, rate, rng, *, by: Annotated[float, Between(0, 5)] = 1.0):
        return signal + by

    np.testing.assert_allclose(perturb("offset", segment, RATE, seed=0, row_id="a"), segment + 2, atol=1e-6)
    np.testing.assert_allclose(shown(segment, "offset", by=0.5), segment + 0.5, atol=1e-6)
    with pytest.raises(ConfigError, match=r"augment\.offset\.by must lie between 0 and 5, found 9"):
        alone("offset", by=9)


def test_the_code_of_the_page_runs_and_recipes_then_know_the_effect() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "augmentation.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL))
    code += (
        "\nAugmentation.from_plain({'offset': {'mv': [1, 2]}})"
        "\nfrom ecglm.evaluation.controls import apply_control"
        "\nprint((apply_control('perturb-offset', segment, 250, seed=0, row_id='a') - segment).mean().round(3))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) == 1.0


def test_the_page_has_every_effect_with_its_options_and_defaults() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "augmentation.md").read_text()
    for name in NAMES:
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` | `"))
        known = inspect.signature(registry.get("augmentations", name).function).parameters.values()
        for option in (p for p in known if p.kind == p.KEYWORD_ONLY):
            assert f"`{option.name}` (" in row
            if isinstance(option.default, float) or (isinstance(option.default, tuple) and len(option.default) == 2):
                value = list(option.default) if isinstance(option.default, tuple) else option.default
                assert f"`{option.name}` ({value})".replace(".0,", ",").replace(".0]", "]") in row
        assert f"| `perturb-{name}` |" in page


def test_an_effect_of_no_stage_or_with_a_severity_that_cannot_be_is_refused(own_registry) -> None:
    with pytest.raises(ConfigError, match="effect 'odd': stage is one of electrodes, time"):
        effect("odd", stage="heart", title="odd")
    with pytest.raises(ConfigError, match=r"perturb-odd: unknown option 'by'"):
        effect("odd", stage="gain", title="odd", severity={"by": 1})(lambda signal, rate, rng: signal)


def test_an_effect_must_keep_the_shape(segment, own_registry) -> None:
    @effect("cut", stage="time", title="cut")
    def cut(signal, rate, rng):
        return signal[:, 5:]

    with pytest.raises(EcglmError, match=r"'cut' turned shape \(12, 2500\) into \(12, 2495\)"):
        perturb("cut", segment, RATE, seed=0, row_id="a")
