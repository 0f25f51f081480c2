"""Seeds: mean, sd and t-interval against scipy; decoding seeds in scores; patients keep their seeds together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ecglm import registry
from ecglm.evaluation.resampling import Measured
from ecglm.evaluation.score import score
from ecglm.evaluation.seeds import decoding_seeds, over_seeds


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
@settings(max_examples=50, deadline=None)
def test_the_interval_is_scipys(values):
    found = over_seeds(dict(enumerate(values)))
    assert found["mean"] == pytest.approx(np.mean(values), abs=1e-11)
    assert found["sd"] == pytest.approx(np.std(values, ddof=1), abs=1e-11)
    if found["sd"] > 1e-9:
        low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
        assert (found["low"], found["high"]) == pytest.approx((low, high), abs=1e-9)


def test_two_seeds_have_one_degree_of_freedom():
    """t(0.975, 1) = 12.706: two runs of 0.7 and 0.8 say next to nothing."""
    found = over_seeds({0: 0.7, 1: 0.8})
    half = 12.706204736 * np.sqrt(0.005) / np.sqrt(2)
    assert (found["low"], found["high"]) == pytest.approx((0.75 - half, 0.75 + half), abs=1e-8)


def test_one_seed_and_an_undefined_seed():
    assert over_seeds({4: 0.5}) == {"mean": 0.5, "sd": None, "low": None, "high": None, "n": 1, "values": {"4": 0.5}}
    found = over_seeds({0: 0.5, 1: None, 2: 0.7})
    assert (found["mean"], found["low"], found["n"]) == (None, None, 3)


def seeded(make_run, seeds=(0, 1, 2), skills=(0.9, 0.8, 0.7), controls=("real", "blank")):
    rows = []
    for seed, skill in zip(seeds, skills, strict=True):
        truth = make_run(controls=controls, seed=0)  # the same questions
        drawn = np.random.default_rng(seed + 100)
        for row in truth:
            knows = row["control"] == "real" and drawn.random() < skill
            rows.append({**row, "seed": seed, "prediction": row["reference"] if knows else "sinus rhythm"})
    return rows


def test_decoding_seeds_are_scored_apart_and_the_score_is_their_mean(make_run):
    rows = seeded(make_run)
    found = score(rows, num_resamples=200)
    real = found["seeds"]["real"]["rhythm"]["accuracy"]
    by_hand = {
        str(s): np.mean([r["prediction"] == r["reference"] for r in rows if r["seed"] == s and r["control"] == "real"])
        for s in (0, 1, 2)
    }
    assert real["values"] == pytest.approx(by_hand, abs=1e-11)
    expected = over_seeds(by_hand)
    assert (real["low"], real["high"]) == pytest.approx((expected["low"], expected["high"]), abs=1e-9)
    accuracy = found["controls"]["real"]["rhythm"]["accuracy"]
    assert accuracy["value"] == pytest.approx(np.mean(list(by_hand.values())), abs=1e-11)
    assert accuracy["n"] == 80 and found["counts"]["real"]["rhythm"]["n"] == 240
    for seed in (0, 1, 2):  # a metric that is no mean over rows: the mean of the seeds' own values
        alone = score([r for r in rows if r["seed"] == seed], num_resamples=5)
        value = alone["controls"]["real"]["rhythm"]["macro_f1"]["value"]
        assert found["seeds"]["real"]["rhythm"]["macro_f1"]["values"][str(seed)] == pytest.approx(value, abs=1e-11)
    macro = found["controls"]["real"]["rhythm"]["macro_f1"]["value"]
    assert macro == pytest.approx(found["seeds"]["real"]["rhythm"]["macro_f1"]["mean"], abs=1e-11)


def test_one_seed_leaves_no_seeds_behind(make_run):
    assert score(make_run(), num_resamples=10)["seeds"] == {}


def test_a_patients_rows_of_all_seeds_move_together(make_run):
    """The same answers under three seeds say nothing new: the interval is that of one seed."""
    once = make_run(controls=("real", "blank"))
    thrice = [{**row, "seed": seed} for row in once for seed in (0, 1, 2)]
    one, three = (score(rows, num_resamples=300) for rows in (once, thrice))
    for part in ("controls", "gaps", "gap_to", "per_class"):
        assert three[part] == one[part]
    assert three["seeds"]["real"]["rhythm"]["accuracy"]["sd"] == 0.0


def test_a_question_that_one_seed_lacks_is_wrong_there(make_run):
    rows = seeded(make_run)
    gone = next(r for r in rows if r["seed"] == 1 and r["control"] == "real" and r["prediction"] == r["reference"])
    whole, cut = (score(given, num_resamples=10) for given in (rows, [r for r in rows if r is not gone]))
    before, after = (found["seeds"]["real"]["rhythm"]["accuracy"]["values"]["1"] for found in (whole, cut))
    assert before - after == pytest.approx(1 / 80, abs=1e-11)
    assert cut["counts"]["real"]["rhythm"]["n_missing"] == 1
    assert any("1 of 240 rows missing under 'real'" in warning for warning in cut["warnings"])


def test_controls_decoded_once_stand_beside_several_seeds(make_run):
    rows = [r for r in seeded(make_run) if r["control"] == "real" or r["seed"] == 0]
    found = score(rows, num_resamples=50)
    gap = found["gaps"]["rhythm"]["accuracy"]["value"]
    expected = (
        found["seeds"]["real"]["rhythm"]["accuracy"]["mean"] - found["controls"]["blank"]["rhythm"]["accuracy"]["value"]
    )
    assert gap == pytest.approx(expected, abs=1e-11)
    assert set(found["seeds"]) == {"real"}


def test_conditions_of_one_seed_are_left_out_of_the_summary():
    measured = Measured([np.array([[3.0, 4.0]]), np.array([[1.0, 4.0], [2.0, 4.0]])], [])
    found = decoding_seeds(
        {"blank": [0], "real": [7, 8]}, ["blank", "real"], measured, registry.get("metrics", "exact")
    )
    assert set(found) == {"real"} and found["real"]["values"] == {"7": 0.25, "8": 0.5}
