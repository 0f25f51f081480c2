"""The table of results."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from ecglm.errors import EcglmError
from ecglm.evaluation.score import score
from ecglm.evaluation.tables import Run, print_results, results_table, robustness_table, say


@pytest.fixture
def runs(make_run):
    good, poor = make_run(skill=0.9), make_run(skill=0.0, controls=("real", "blank"))
    return [
        Run("signal", score(good, num_resamples=100), {"tokens per ECG": "25"}, good),
        Run("ecg-byte [3 leads]", score(poor, num_resamples=100), {}, poor),
    ]


def test_cells(runs):
    header, first, second = results_table(runs)
    assert header == [
        *("representation", "task", "metric", "score [95 %]", "blank", "noise", "another patient", "majority"),
        "gap to best control [95 %]",
    ]
    assert first[:3] == ["signal", "rhythm", "accuracy"]
    real = runs[0].scores["controls"]["real"]["rhythm"]["accuracy"]
    assert first[3] == f"{real['value']:.2f} [{real['low']:.2f}, {real['high']:.2f}]"
    assert first[4] == f"{runs[0].scores['controls']['blank']['rhythm']['accuracy']['value']:.2f}"
    assert first[8].startswith("+")
    assert second[5:7] == ["–", "–"]  # not run
    assert second[8] == "+0.00 [+0.00, +0.00]"


@pytest.fixture
def disturbed(make_run):
    rows = make_run(skill=0.9, controls=("real", "blank", "perturb-mains", "perturb-no-such-effect"))
    return Run("signal", score(rows, num_resamples=100), {}, rows)


def test_perturbations_have_a_table_of_their_own(runs, disturbed):
    assert robustness_table(runs)[1:] == []
    assert results_table([disturbed])[0][4:6] == ["blank", "majority"]  # not among the controls
    header, *body = robustness_table([disturbed])
    assert [row[:4] for row in body] == [
        ["mains hum", "rhythm", "signal", "accuracy"],
        ["no-such-effect", "rhythm", "signal", "accuracy"],  # of a package that is not installed here
    ]
    lost = disturbed.scores["robustness"]["rhythm"]["accuracy"]["perturb-mains"]
    assert body[0][header.index("lost [95 %]")] == f"{lost['value']:+.2f} [{lost['low']:+.2f}, {lost['high']:+.2f}]"
    assert lost["value"] > 0.2


@pytest.mark.parametrize("width", [80, 160])
def test_perturbations_are_printed_apart(runs, disturbed, width):
    out = io.StringIO()
    print_results([disturbed, runs[1]], Console(file=out, width=width, force_terminal=True, color_system=None))
    first, second = out.getvalue().split("Robustness: ")
    assert "mains hum" not in first and "mains" in second and "not that the ECG" in " ".join(second.split())
    assert "…" not in out.getvalue()


def test_say():
    assert say(None) == "–"
    assert say({"value": None, "low": None, "high": None}) == "–"
    assert say({"value": 0.5, "low": None, "high": None}, with_interval=True) == "0.50"
    assert say({"value": -0.001, "low": -0.2, "high": 0.1}, with_interval=True, signed=True) == "+0.00 [-0.20, +0.10]"


def test_d39_two_conditions_two_rows_and_no_two_of_one_name(runs):
    assert len(results_table(runs)) == 3
    with pytest.raises(EcglmError, match="two runs are called 'signal'"):
        results_table([runs[0], runs[0]])
    with pytest.raises(EcglmError, match="no runs"):
        results_table([])


@pytest.mark.parametrize("width", [80, 160])
def test_print_shows_whole_cells_at_any_width(runs, width):
    out = io.StringIO()
    print_results(runs, Console(file=out, width=width, force_terminal=True, color_system=None))
    text = out.getvalue()
    assert "…" not in text
    real = runs[0].scores["controls"]["real"]["rhythm"]["accuracy"]
    for part in (f"{real['value']:.2f}", f"[{real['low']:.2f}, {real['high']:.2f}]", "tokens per ECG 25", "warning"):
        assert part in text
    assert all(len(line) <= width for line in text.splitlines())


def test_in_a_pipe_every_row_is_one_line(runs):
    out = io.StringIO()
    print_results(runs, Console(file=out, width=80))
    (line,) = (line for line in out.getvalue().splitlines() if "ecg-byte [3 leads]" in line)
    assert "+0.00 [+0.00, +0.00]" in line
