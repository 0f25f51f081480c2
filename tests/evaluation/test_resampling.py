"""Questions and their sums: equal to resampling rows one by one, whatever is asked for together."""

from __future__ import annotations

import numpy as np
import pytest

from ecglm import registry
from ecglm.evaluation import resampling
from ecglm.evaluation.resampling import Questions, by_seed

EXACT, MACRO = (registry.get("metrics", name) for name in ("exact", "macro_f1"))


@pytest.fixture
def questions(make_row):
    """Thirty questions of ten patients, two systems, one of them with two seeds."""
    generator = np.random.default_rng(0)
    asked, tables = {}, {"one": [{}], "two": [{}, {}]}
    for i in range(30):
        truth = ["a", "b", "c"][generator.integers(3)]
        fields = {"id": f"q{i:02d}", "patient_id": f"p{generator.integers(10)}", "choices": ["a", "b", "c"]}
        asked[f"q{i:02d}", 0] = make_row(truth, "", **fields)
        for seeds in tables.values():
            for table in seeds:
                table[f"q{i:02d}", 0] = make_row(truth, ["a", "b", truth][generator.integers(3)], **fields)
    made = Questions(asked, num_resamples=25, seed=3)
    for name, seeds in tables.items():
        made.add(name, seeds)
    return made


def by_hand(questions, metric, labels, system, mask):
    """Mean over seeds of the metric, on the rows as drawn, patient by patient."""
    found = []
    for weights in [np.ones(questions.num_patients, dtype=int), *questions.weights]:
        values = []
        for rows in questions.answers[system]:
            drawn = [rows[i] for i in np.flatnonzero(mask) for _ in range(weights[questions.patient[i]])]
            values.append(metric(drawn, labels) if drawn else np.nan)
        found.append(np.mean(values))
    return np.array(found)


def test_every_resample_is_that_of_the_rows_drawn_one_by_one(questions):
    everything = np.ones(30, dtype=bool)
    few = np.arange(30) < 4  # of few patients: they are looked at alone
    groups = [("one", everything), ("two", everything), ("two", few)]
    wanted = [(EXACT, (), groups), (MACRO, ("a", "b", "c"), groups)]
    for (metric, labels, _), measured in zip(wanted, questions.measure(wanted), strict=True):
        values, spread = measured.values(metric.value)
        for i, (system, mask) in enumerate(groups):
            expected = by_hand(questions, metric, labels, system, mask)
            np.testing.assert_allclose(values[i], expected[0], atol=1e-12)
            np.testing.assert_allclose(spread[:, i], expected[1:], atol=1e-12)


def test_what_is_computed_together_does_not_matter(questions, monkeypatch):
    mask = np.ones(30, dtype=bool)
    groups = [("one", mask), ("two", mask)]
    together = questions.measure([(EXACT, (), groups), (MACRO, ("a", "b", "c"), groups)])[0]
    monkeypatch.setattr(resampling, "_CELLS", 1)
    fresh = Questions(questions.asked, num_resamples=25, seed=3)
    fresh.answers = questions.answers
    alone = fresh.measure([(EXACT, (), groups)])[0]
    for one, other in zip(together.resampled, alone.resampled, strict=True):
        np.testing.assert_array_equal(one, other)


def test_lacking_answers_are_left_out_or_wrong(questions, make_row):
    table = {q: row for q, row in zip(questions.asked, questions.answers["one"][0], strict=True) if q[0] > "q09"}
    assert questions.add("left out", [table]) == 10
    assert questions.add("wrong", [table], lacking_is_wrong=True) == 10
    assert questions.present("left out").sum() == 20 and questions.present("wrong").all()
    right = sum(EXACT([row]) for row in table.values())
    mask = np.ones(30, dtype=bool)
    wanted = [(EXACT, (), [("left out", questions.present("left out")), ("wrong", mask)])]
    values, _ = questions.measure(wanted)[0].values(EXACT.value)
    assert values == pytest.approx([right / 20, right / 30])
    assert questions.rows_of("wrong", ~questions.present("left out"))[0]["error"] == "missing"


def test_rows_are_parted_by_seed(make_row):
    rows = {("a", 0, 5): make_row("x", "x"), ("a", 0, 2): make_row("x", "y"), ("b", 1, 2): make_row("x", "x")}
    assert {seed: list(table) for seed, table in by_seed(rows).items()} == {2: [("a", 0), ("b", 1)], 5: [("a", 0)]}
