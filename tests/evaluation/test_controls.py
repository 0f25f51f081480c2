"""Controls: what is shown instead of the ECG."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecglm import registry
from ecglm.errors import ConfigError, EcglmError
from ecglm.evaluation.controls import apply_control, is_perturbation, remove_marks, swap_partners
from ecglm.representations.augment import perturb


@pytest.fixture
def segment():
    spread = np.arange(12)[:, None] / 10  # lead I is flat
    return (np.random.default_rng(0).normal(size=(12, 2500)) * spread).astype(np.float32)


PERTURBATIONS = [
    *("perturb-electrode-swap", "perturb-flat", "perturb-lead-dropout", "perturb-mains", "perturb-muscle"),
    *("perturb-noise", "perturb-scale", "perturb-step", "perturb-time-shift", "perturb-wander"),
]


def test_names():
    assert registry.names("controls") == sorted(
        ["blank", "lead_mask", "no-ecg", "no-image", "no-signal", "noise", "shuffle-leads", "swap", *PERTURBATIONS]
    )


@pytest.fixture
def leads():
    """Every lead another constant, none of them zero."""
    return np.repeat(np.arange(1.0, 13.0, dtype=np.float32)[:, None], 50, axis=1)


def test_lead_mask_hides_a_drawn_half_of_the_leads(leads):
    before = leads.copy()
    shown = [apply_control("lead_mask", leads, 250, seed=0, row_id=f"r{n}") for n in range(200)]
    np.testing.assert_array_equal(leads, before)
    for one in shown:
        hidden = ~one.any(axis=1)
        assert hidden.sum() == 6 and one.dtype == np.float32
        np.testing.assert_array_equal(one[~hidden], leads[~hidden])
    share = np.mean([~one.any(axis=1) for one in shown], axis=0)
    assert np.all(np.abs(share - 0.5) < 4 * np.sqrt(0.25 / 200))  # every lead as often as any other
    np.testing.assert_array_equal(shown[3], apply_control("lead_mask", leads, 250, seed=0, row_id="r3"))
    assert any((shown[3] != apply_control("lead_mask", leads, 250, seed=s, row_id="r3")).any() for s in (1, 2))


def test_shuffle_leads_keeps_every_lead_in_another_order(leads):
    orders = [apply_control("shuffle-leads", leads, 250, seed=0, row_id=f"r{n}")[:, 0].tolist() for n in range(200)]
    for order in orders:
        assert sorted(order) == list(range(1, 13)) and order != list(range(1, 13))
    assert len({tuple(order) for order in orders}) > 190
    again = apply_control("shuffle-leads", leads, 250, seed=0, row_id="r7")
    assert again[:, 0].tolist() == orders[7] and (again == again[:, :1]).all()


def test_robustness_conditions_are_no_controls():
    for name in ("lead_mask", "shuffle-leads", "perturb-noise", "perturb-wander", "no-signal", "no-image"):
        assert is_perturbation(name), name
    for name in ("blank", "noise", "swap", "no-ecg"):
        assert not is_perturbation(name), name


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_a_perturbation_shows_the_patients_own_ecg_disturbed(segment, name):
    shown = apply_control(name, segment, 250, seed=0, row_id="a")
    np.testing.assert_array_equal(shown, perturb(name.removeprefix("perturb-"), segment, 250, seed=0, row_id="a"))
    assert shown.dtype == np.float32 and (shown != segment).any()
    assert is_perturbation(name) and not registry.get("controls", name).swaps
    # most of the ECG is still there
    assert np.corrcoef(np.abs(shown).ravel(), np.abs(segment).ravel())[0, 1] > 0.3 or name == "perturb-time-shift"


def test_the_noise_of_ecg_bench_and_the_control_are_two_things(segment):
    """Perturbed: the ECG and a little noise. Control: noise alone."""
    disturbed = apply_control("perturb-noise", segment, 250, seed=0, row_id="a")
    assert (disturbed - segment).std() == pytest.approx(0.05 * segment.std(), rel=0.02)
    assert not is_perturbation("noise")


def test_an_effect_of_another_package_is_a_condition_too():
    code = (
        "from ecglm import registry; from ecglm.representations.augment import effect\n"
        "class Plugin:\n"
        "  def load(self):\n"
        "    effect('upside-down', stage='gain', title='upside down')(lambda signal, rate, rng: -signal)\n"
        "registry.entry_points = lambda group: [Plugin()]\n"
        "from ecglm.evaluation.controls import apply_control; import numpy as np\n"
        "print(apply_control('perturb-upside-down', np.ones((12, 5)), 100, seed=0, row_id='a').sum())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) == -60


def test_blank_is_zero_and_the_segment_is_left_alone(segment):
    before = segment.copy()
    shown = apply_control("blank", segment, 250, seed=0, row_id="a")
    assert shown.shape == segment.shape and shown.dtype == np.float32 and not shown.any()
    np.testing.assert_array_equal(segment, before)


def test_noise_has_each_leads_own_spread_and_nothing_else_of_it(segment):
    shown = apply_control("noise", segment, 250, seed=0, row_id="a")
    assert shown.dtype == np.float32
    np.testing.assert_allclose(shown.std(axis=1), segment.std(axis=1), rtol=0.06)
    assert not shown[0].any()
    for lead in range(1, 12):
        assert abs(np.corrcoef(shown[lead], segment[lead])[0, 1]) < 0.1
        assert abs(shown[lead].mean()) < 0.1 * segment[lead].std()


def test_noise_depends_on_seed_and_row_only(segment):
    first = apply_control("noise", segment, 250, seed=0, row_id="a")
    np.testing.assert_array_equal(first, apply_control("noise", segment, 250, seed=0, row_id="a"))
    assert (first != apply_control("noise", segment, 250, seed=1, row_id="a")).any()
    assert (first != apply_control("noise", segment, 250, seed=0, row_id="b")).any()


def test_noise_is_the_same_in_another_process():
    code = (
        "import numpy as np; from ecglm.evaluation.controls import apply_control as c;"
        "print(repr(float(c('noise', np.ones((1, 4)) * [0, 1, 2, 3], 250, seed=3, row_id='x')[0, 2])))"
    )
    here = float(apply_control("noise", np.ones((1, 4)) * [0, 1, 2, 3], 250, seed=3, row_id="x")[0, 2])
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(there.stdout) == here


def test_swap_gives_the_partners_segment_back(segment):
    shown = apply_control("swap", segment, 250, seed=0, row_id="a")
    np.testing.assert_array_equal(shown, segment)
    assert shown is not segment


def test_no_ecg_has_no_segment_and_unknown_names_are_refused(segment):
    with pytest.raises(EcglmError, match="remove the marks"):
        apply_control("no-ecg", segment, 250, seed=0, row_id="a")
    with pytest.raises(ConfigError, match="did you mean 'blank'"):
        apply_control("blnk", segment, 250, seed=0, row_id="a")


def test_marks_are_removed():
    assert remove_marks("<ecg>\nWhat is the rhythm?") == "What is the rhythm?"
    assert remove_marks("ECG 1: <ecg>\nECG 2: <ecg>\nDo they differ?") == "Do they differ?"
    assert remove_marks("no mark, a colon:\nthen <ecg> text") == "no mark, a colon:\nthen text"


records = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9)), min_size=1, max_size=40, unique_by=lambda x: x[0])


@settings(deadline=None)
@given(records, st.integers(0, 5), st.randoms())
def test_swap_is_a_derangement_of_patients(drawn, seed, random):
    pairs = [(f"r{r}", f"p{p}") for r, p in drawn]
    patient_of = dict(pairs)
    if len(set(patient_of.values())) < 2:
        with pytest.raises(EcglmError, match="two patients"):
            swap_partners(pairs, seed)
        return
    partners = swap_partners(pairs, seed)
    assert set(partners) == set(patient_of)
    assert all(patient_of[partner] != patient_of[record] for record, partner in partners.items())
    # one partner per patient, no patient used twice
    matched = {(patient_of[record], patient_of[partner]) for record, partner in partners.items()}
    assert len({a for a, _ in matched}) == len({b for _, b in matched}) == len(matched)
    # neither order nor repetition of the records matters
    assert swap_partners(random.sample(pairs, len(pairs)) + pairs[:1], seed) == partners


def test_swap_shows_two_ecgs_for_two_and_depends_on_the_seed():
    pairs = [(f"r{p}-{k}", f"p{p}") for p in range(20) for k in range(3)]
    partners = swap_partners(pairs, 0)
    assert all(len({partners[f"r{p}-{k}"] for k in range(3)}) == 3 for p in range(20))
    assert partners != swap_partners(pairs, 1)


def test_a_record_of_two_patients_is_refused():
    with pytest.raises(EcglmError, match="two patients"):
        swap_partners([("r", "a"), ("r", "b"), ("s", "c")], 0)
