"""compare: hand-counted gaps, differences and p; seeds apart; four forms of the table; what is refused."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from ecglm.errors import EcglmError
from ecglm.evaluation.compare import FIELDS, compare
from ecglm.evaluation.compare_load import parse_entrants
from ecglm.evaluation.compare_tables import as_csv, as_html, as_latex, as_text, print_comparison, write_comparison
from ecglm.evaluation.score import score_file


@pytest.fixture
def write(tmp_path):
    """``write(name, rows, **settings)``: a scored folder of predictions."""

    def make(name: str, rows, **settings) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        inputs = {"data": settings.pop("data", "d1")}
        manifest = {"manifest_version": 1, "kind": "predictions", "settings": settings, "inputs": inputs}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        score_file(folder, num_resamples=20)
        return folder

    return make


def answers(make_row, right, controls=None, task="rhythm", patients=None):
    """One yes/no question a patient: right[i] says whether it is answered; controls: condition → the same."""
    rows = []
    for condition, hits in {"real": right, **(controls or {})}.items():
        for i, hit in enumerate(hits):
            patient = f"p{i:03d}" if patients is None else patients[i]
            fields = {"id": f"{task}{i:03d}", "patient_id": patient, "control": condition, "task": task}
            rows.append(make_row("yes", "yes" if hit else "no", "yes-no", choices=["yes", "no"], **fields))
    return rows


def by_model(found, task="rhythm"):
    return {row["model"]: row for row in found.rows if row["task"] == task}


def hits(num, of):
    return [i < num for i in range(of)]


def test_gap_difference_and_p_are_those_counted_by_hand(make_row, write):
    generator = np.random.default_rng(0)
    right = {name: list(generator.random(40) < p) for name, p in (("a", 0.9), ("b", 0.6))}
    blank = list(generator.random(40) < 0.3)
    folders = {n: write(n, answers(make_row, r, {"blank": blank, "swap": hits(4, 40)})) for n, r in right.items()}
    found = compare(parse_entrants([f"{n}={f}" for n, f in folders.items()]), num_resamples=2000)
    rows = by_model(found)
    a, b, c = (np.array(values, dtype=float) for values in (right["a"], right["b"], blank))
    assert rows["a"]["value"] == pytest.approx(a.mean()) and rows["b"]["value"] == pytest.approx(b.mean())
    assert (rows["a"]["gap_control"], rows["a"]["gap"]) == ("blank", pytest.approx((a - c).mean()))
    assert rows["a"]["flag"] == "above its controls"
    assert rows["a"]["difference"] is None and rows["b"]["against"] == "a"
    assert rows["b"]["difference"] == pytest.approx((b - a).mean())
    width = (rows["b"]["difference_high"] - rows["b"]["difference_low"]) / (2 * 1.96)
    assert width == pytest.approx((b - a).std() / np.sqrt(40), rel=0.1)
    exact = stats.permutation_test(
        (b - a,), lambda d, axis: d.mean(axis=axis), permutation_type="samples", n_resamples=50_000, random_state=0
    ).pvalue
    assert rows["b"]["p"] == pytest.approx(exact, abs=0.01) and rows["b"]["p_holm"] == rows["b"]["p"]
    assert rows["b"]["detectable_difference"] == pytest.approx(2.8016 * (b - a).std() / np.sqrt(40), rel=0.08)


def test_holm_goes_over_the_tasks_of_a_model(make_row, write):
    def model(name, wins):
        rows = []
        for task, num in wins.items():
            rows += answers(make_row, hits(num, 12), {"blank": hits(0, 12)}, task=task)
        return write(name, rows)

    a = model("a", {"axis": 0, "rhythm": 0, "st": 0})
    b = model("b", {"axis": 7, "rhythm": 9, "st": 1})
    rows = [r for r in compare(parse_entrants([str(a), str(b)]), num_resamples=50).rows if r["model"] == "b"]
    by_task = {row["task"]: row for row in rows}
    p = {"axis": 2 / 2**7, "rhythm": 2 / 2**9, "st": 1.0}  # all of m patients for b: 2 of the 2^m exchanges
    assert {task: row["p"] for task, row in by_task.items()} == pytest.approx(p)
    holm = {"rhythm": 3 * p["rhythm"], "axis": 2 * p["axis"], "st": 1.0}
    assert {task: row["p_holm"] for task, row in by_task.items()} == pytest.approx(holm)


def test_a_gap_that_includes_zero_is_flagged_in_words_and_by_a_mark(make_row, write):
    same = write("same", answers(make_row, hits(9, 20), {"blank": hits(8, 20)}))
    bare = write("bare", answers(make_row, hits(18, 20)))
    worse = write("worse", answers(make_row, hits(2, 20), {"blank": hits(18, 20)}))
    found = compare(parse_entrants([str(f) for f in (same, bare, worse)]), num_resamples=200)
    flags = {name: row["flag"] for name, row in by_model(found).items()}
    assert flags == {"same": "gap includes zero", "bare": "no controls", "worse": "below a control"}
    text = as_text(found)
    for words in flags.values():
        assert f"{words} !" in text
    assert "does not show that the ECG is read" in text


def test_one_patient_gives_no_interval_and_so_no_verdict(make_row, write):
    folder = write("m", answers(make_row, hits(9, 10), {"blank": hits(1, 10)}, patients=["p"] * 10))
    row = by_model(compare(parse_entrants([str(folder)]), num_resamples=20))["m"]
    assert (row["gap"], row["gap_low"], row["low"], row["flag"]) == (0.8, None, None, "no interval")
    assert row["detectable_gap"] is None  # one patient could show nothing, not everything


def test_perturbations_are_no_controls(make_row, write):
    folder = write("m", answers(make_row, hits(9, 10), {"lead_mask": hits(8, 10), "perturb-noise": hits(8, 10)}))
    assert by_model(compare(parse_entrants([str(folder)]), num_resamples=20))["m"]["flag"] == "no controls"


def test_gaps_to_different_controls_are_noted(make_row, write):
    one = write("one", answers(make_row, hits(9, 20), {"blank": hits(2, 20), "lead_mask": hits(2, 20)}))
    two = write("two", answers(make_row, hits(9, 20), {"blank": hits(2, 20), "swap": hits(3, 20)}))
    notes = compare(parse_entrants([str(one), str(two)]), num_resamples=20).notes
    assert any("cannot be compared with each other (one: blank; two: blank, swap)" in note for note in notes)
    assert not any("different controls" in n for n in compare(parse_entrants([str(one)]), num_resamples=20).notes)


def test_training_and_decoding_seeds_stand_apart_and_are_not_merged(make_row, write):
    folders = [write(f"t{i}", answers(make_row, hits(n, 20), {"blank": hits(5, 20)})) for i, n in enumerate((12, 16))]
    drawn = [
        {**row, "seed": seed}
        for seed, n in enumerate((10, 12, 14))
        for row in answers(make_row, hits(n, 20), {"blank": hits(5, 20)})
    ]
    entrants = parse_entrants([f"trained={folders[0]},{folders[1]}", f"drawn={write('drawn', drawn)}"])
    rows = by_model(compare(entrants, num_resamples=500))
    trained, drawn_row = rows["trained"], rows["drawn"]
    assert (trained["training_seeds"], trained["decoding_seeds"]) == (2, 1)
    assert trained["value"] == trained["training_mean"] == pytest.approx(0.7)
    half = 12.7062 * np.std([0.6, 0.8], ddof=1) / np.sqrt(2)
    assert trained["training_high"] == pytest.approx(0.7 + half, abs=1e-4)
    assert trained["high"] < 1  # the patient interval is another one
    assert (drawn_row["training_seeds"], drawn_row["decoding_seeds"]) == (1, 3)
    assert drawn_row["decoding_sd"] == pytest.approx(0.1) and drawn_row["training_sd"] is None
    assert drawn_row["difference"] == pytest.approx(-0.1)
    notes = compare(entrants, num_resamples=20).notes
    assert "p is approximate between models of different numbers of seeds (trained 2, drawn 3)" in notes
    alike = parse_entrants([str(folder) for folder in folders])
    assert not any("approximate" in note for note in compare(alike, num_resamples=20).notes)
    assert trained["gap"] == pytest.approx(0.7 - 0.25)


def test_folders_of_one_model_that_differ_in_controls_or_decoding_seeds_are_noted(make_row, write):
    rows = answers(make_row, hits(9, 12), {"blank": hits(2, 12), "swap": hits(3, 12)})
    once = write("once", [row for row in rows if row["control"] != "swap"])
    twice = write("twice", [{**row, "seed": seed} for seed in (0, 1) for row in rows])
    found = compare(parse_entrants([f"m={once},{twice}"]), num_resamples=20)
    assert "m: swap left out, since not all of its folders have it" in found.notes
    assert "m: its folders have different numbers of decoding seeds: [1, 2]" in found.notes
    assert found.rows[0]["gap_control"] == "blank" and found.rows[0]["decoding_seeds"] is None
    assert " each" not in as_text(found)


def test_the_same_answers_in_several_folders_change_nothing(make_row, write):
    rows = answers(make_row, hits(13, 20), {"blank": hits(5, 20)})
    folders = [write(n, rows) for n in "abc"]
    once = compare(parse_entrants([f"m={folders[0]}"]), num_resamples=100).rows[0]
    thrice = compare(parse_entrants([f"m={folders[0]},{folders[1]},{folders[2]}"]), num_resamples=100).rows[0]
    for field in ("value", "low", "high", "gap", "gap_low", "gap_high", "questions", "patients"):
        assert thrice[field] == once[field]


def test_against_names_another_model_and_turns_the_sign(make_row, write):
    folders = [write(n, answers(make_row, hits(k, 20), {"blank": hits(1, 20)})) for n, k in (("a", 18), ("b", 9))]
    given = parse_entrants([str(f) for f in folders])
    one, other = (by_model(compare(given, against=name, num_resamples=300)) for name in "ab")
    assert one["b"]["difference"] == -other["a"]["difference"]
    assert one["b"]["p"] == pytest.approx(other["a"]["p"])
    assert (one["b"]["difference_low"], one["b"]["difference_high"]) == pytest.approx(
        (-other["a"]["difference_high"], -other["a"]["difference_low"])
    )
    with pytest.raises(EcglmError, match=r"--against 'c'.*no such model"):
        compare(given, against="c")


def test_a_metric_where_less_is_better_is_turned(make_row, write):
    def rows(error):
        found = []
        for n in range(8):
            fields = {"id": f"r{n}", "patient_id": f"p{n}"}
            found.append(make_row("70 bpm", f"{70 + error}", "number", control="real", **fields))
            found.append(make_row("70 bpm", "90", "number", control="blank", **fields))
        return found

    folders = [write("a", rows(4)), write("b", rows(1))]
    found = by_model(compare(parse_entrants([str(f) for f in folders]), metrics=("rate_mae",), num_resamples=20))
    assert found["b"]["value"] == 1 and found["b"]["difference"] == 3 and found["b"]["gap"] == 19
    told = as_text(compare(parse_entrants([str(folders[0])]), metrics=("rate_mae",), num_resamples=20))
    assert "rate_mae: less is better" in told
    plain = as_text(compare(parse_entrants([str(folders[0])]), num_resamples=20))
    assert "less is better" not in plain


def test_what_is_not_the_same_is_refused_in_one_line(make_row, write):
    rows = answers(make_row, hits(9, 12), {"blank": hits(2, 12)})
    first = write("first", rows, split="test", history="own")

    def refused(name, changed, message, **settings):
        other = write(name, changed, **{"split": "test", "history": "own", **settings})
        with pytest.raises(EcglmError, match=message) as error:
            compare(parse_entrants([str(first), str(other)]))
        assert "\n" not in str(error.value)
        return other

    fewer = refused("fewer", [r for r in rows if r["id"] != "rhythm003"], "1 questions stand in one alone")
    other = [{**r, "reference": "no"} if r["id"] == "rhythm004" else r for r in rows]
    changed = refused("changed", other, "'rhythm004' .turn 0. has another reference")
    refused("split", rows, "different split .val, test.", split="val")
    refused("history", rows, "different history", history="gold")
    newer = refused("newer", rows, "different versions of the data file", data="d2")
    extra = refused("extra", rows + answers(make_row, hits(3, 12), task="axis"), "was not asked task 'axis'")
    mode = write("mode", rows)
    scores = json.loads((mode / "scores.json").read_text())
    (mode / "scores.json").write_text(json.dumps({**scores, "mode": "pulse"}))
    with pytest.raises(EcglmError, match=r"different modes .pulse, strict."):
        compare(parse_entrants([str(first), str(mode)]))

    found = compare(parse_entrants([str(first), str(fewer)]), shared=True, num_resamples=20)
    assert {row["questions"] for row in found.rows} == {11}
    assert len(compare(parse_entrants([str(first), str(newer)]), shared=True, num_resamples=20).rows) == 2
    both = parse_entrants([str(first), str(extra)])
    assert {r["task"] for r in compare(both, shared=True, num_resamples=20).rows} == {"rhythm"}
    assert len(compare(parse_entrants([str(first), str(extra)]), tasks=("rhythm",), num_resamples=20).rows) == 2
    with pytest.raises(EcglmError, match="another reference"):  # never compared, whatever is asked
        compare(parse_entrants([str(first), str(changed)]), shared=True)


def test_other_mistakes(make_row, write, tmp_path):
    folder = write("m", answers(make_row, hits(9, 12)))
    entrants = parse_entrants([str(folder)])
    with pytest.raises(EcglmError, match="no metrics named 'acuracy'"):
        compare(entrants, metrics=("acuracy",))
    with pytest.raises(EcglmError, match=r"--task 'rythm'.*there are rhythm"):
        compare(entrants, tasks=("rythm",))
    with pytest.raises(EcglmError, match="meant for none of the questions"):
        compare(entrants, metrics=("bleu",))
    with pytest.raises(EcglmError, match="no such predictions"):
        compare(parse_entrants([str(tmp_path / "gone")]))
    for number, seed in ((0, 0), (20, -1)):
        with pytest.raises(EcglmError, match="num_resamples must be 1 or more and seed 0 or more"):
            compare(entrants, num_resamples=number, seed=seed)
    for file, key in (("scores.json", "'format' is not 'ecglm-scores'"), ("manifest.json", "must be objects")):
        kept = (folder / file).read_text()
        for content in ("[1]", '{"settings": 3, "inputs": "x"}'):
            (folder / file).write_text(content)
            with pytest.raises(EcglmError, match=key):
                compare(entrants)
        (folder / file).write_text(kept)
    (folder / "predictions.jsonl").write_text((folder / "predictions.jsonl").read_text().replace('"no"', '"nay"'))
    with pytest.raises(EcglmError, match="has changed since it was scored"):
        compare(entrants)
    (folder / "scores.json").unlink()
    with pytest.raises(EcglmError, match="not scored yet"):
        compare(entrants)


def test_names_of_models(tmp_path):
    for name in ("x/one", "y/one", "z=z"):
        (tmp_path / name).mkdir(parents=True)
    a, b, c = (str(tmp_path / name) for name in ("x/one", "y/one", "z=z"))
    assert [e.name for e in parse_entrants([a])] == ["one"]
    assert [e.name for e in parse_entrants([a, b])] == [a, b]  # one name of two folders tells nothing
    assert parse_entrants([c])[0].name == "z=z"
    assert parse_entrants([f"m={a},{b}"])[0].folders == (Path(a), Path(b))
    for given, message in (
        ([], "name the scored folders"),
        ([f"m={a}", f"m={b}"], "two models are called 'm'"),
        ([f"m={a},{a}"], "one folder twice"),
        (["m="], "names no folder"),
    ):
        with pytest.raises(EcglmError, match=message):
            parse_entrants(given)


# --- the forms of the table

ATTACK = '=HYPERLINK("x")&<script>alert(1)</script>_50%_#$~^\\end{tabular}\x1b[31m'


@pytest.fixture
def attacked(make_row, write):
    folder = write("m", answers(make_row, hits(9, 12), {"blank": hits(2, 12)}, task="-rhythm & <b>"))
    other = write("n", answers(make_row, hits(3, 12), {"blank": hits(2, 12)}, task="-rhythm & <b>"))
    return compare(parse_entrants([f"{ATTACK.replace('=', '@')}={folder}", f"n={other}"]), num_resamples=20)


def test_csv_has_every_field_and_no_formula(attacked):
    read = list(csv.reader(io.StringIO(as_csv(attacked))))
    assert tuple(read[0]) == FIELDS and len(read) == 3
    for line in read[1:]:
        assert not any(cell.startswith(("=", "@", "+")) for cell in line)
        for cell in line:
            if cell.startswith("-"):
                float(cell)  # a negative number is a number
    assert read[1][2].startswith("'@HYPERLINK") and read[1][0].startswith("'-rhythm")
    assert float(read[1][FIELDS.index("value")]) == 0.75


def test_latex_is_escaped_and_has_booktabs(attacked):
    text = as_latex(attacked)
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    for rule in ("\\toprule", "\\midrule", "\\bottomrule"):
        assert rule in body
    assert body.count("\\end{tabular}") == 1 and "\\textbackslash{}end\\{tabular\\}" in body
    assert not re.search(r"(?<!\\)[#%_]", body) and "\x1b" not in text
    columns = re.search(r"\\begin\{tabular\}\{([lr]+)\}", body).group(1)
    for line in body.splitlines():
        if line.endswith(" \\\\"):
            assert len(re.findall(r"(?<!\\)&", line)) == len(columns) - 1


def test_no_cell_that_opens_a_latex_row_is_read_as_an_option_of_the_break(make_row, write):
    rows = [r for t in ("*a|b", "[1cm] b") for r in answers(make_row, hits(9, 12), {"blank": hits(2, 12)}, task=t)]
    text = as_latex(compare(parse_entrants([str(write("m", rows))]), num_resamples=20))
    assert "\n{}*a\\textbar{}b &" in text and "\n{}[1cm] b &" in text


def test_html_is_escaped_and_runs_nothing(attacked):
    class Reader(HTMLParser):
        def __init__(self):
            super().__init__()
            self.tags, self.text = [], ""

        def handle_starttag(self, tag, attrs):
            self.tags.append((tag, dict(attrs)))

        def handle_data(self, data):
            self.text += data

    page, reader = as_html(attacked), Reader()
    reader.feed(page)
    assert not {"script", "b", "link", "img", "a"} & {tag for tag, _ in reader.tags}
    assert not any(name.startswith("on") or name in ("src", "href") for _, attrs in reader.tags for name in attrs)
    assert "alert(1)" in reader.text and "default-src 'none'" in page


def test_the_ending_says_the_form(attacked, tmp_path):
    for ending, sign in ((".txt", "gap to best"), (".csv", "gap_low"), (".tex", "\\toprule"), (".html", "<!DOCTYPE")):
        assert sign in write_comparison(attacked, tmp_path / f"t{ending}").read_text()
        again = write_comparison(attacked, tmp_path / f"u{ending}").read_bytes()
        assert again == (tmp_path / f"t{ending}").read_bytes()
    with pytest.raises(EcglmError, match=r"use .txt, .csv, .tex, .html"):
        write_comparison(attacked, tmp_path / "t.xlsx")


def test_the_gap_stands_before_the_score_and_a_terminal_is_not_told_what_to_do(attacked):
    out = io.StringIO()
    print_comparison(attacked, Console(file=out))
    assert "\x1b" not in out.getvalue() and "\x1b" not in as_text(attacked)
    head = next(line for line in out.getvalue().splitlines() if "gap to best control" in line)
    assert head.index("gap to best control") < head.index("score") < head.index("Holm p")


def test_a_narrow_terminal_gets_two_tables_and_loses_nothing(make_row, write):
    folders = [write(n, answers(make_row, hits(k, 20), {"blank": hits(1, 20)})) for n, k in (("a", 18), ("b", 9))]
    found = compare(parse_entrants([str(f) for f in folders]), num_resamples=50)
    out = io.StringIO()
    print_comparison(found, Console(file=out, width=110, force_terminal=True, color_system=None))
    text = out.getvalue()
    assert all(len(line) <= 110 for line in text.splitlines())
    assert "0.900 [" in text and "-0.450 [" in text and text.count("task") >= 2
