"""Files of answers: cut off at any byte, they are taken up and end with the same bytes."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecglm.errors import StaleOutputError
from ecglm.evaluation.answerers.base import Reply
from ecglm.evaluation.ecgbench.answer_rows import AnswerFile, error_of
from ecglm.evaluation.ecgbench.gold import GoldItem
from ecglm.evaluation.ecgbench.subsets import SUBSETS
from ecglm.files import append_jsonl
from ecglm.types import Turn

ITEMS = tuple(
    GoldItem(f"id-{n}-0", "x.png", (Turn("user", f"<ecg>\nQ{n}"), Turn("assistant", "A")), ("A",), (), f"p{n}")
    for n in range(6)
)


def make(folder, subset="ptb-test", **settings):
    path = folder / "m" / subset / "step-final.jsonl"
    return AnswerFile(path, SUBSETS[subset], "real", "m", ITEMS, {"max_new_tokens": 5, **settings})


def answer(file, items, error=None):
    append_jsonl(file.path, [file.row(i, [Reply(None if error else f"said {i.id} \u2028é", error)], {}) for i in items])


def test_p14_cut_off_at_any_byte(tmp_path):
    whole = make(tmp_path / "whole")
    answer(whole, whole.start(print))
    assert whole.finish() == (6, 0)
    data = whole.path.read_bytes()
    file = make(tmp_path / "cut")
    for at in range(0, len(data), 7):
        file.path.parent.mkdir(parents=True, exist_ok=True)
        file.path.write_bytes(data[:at])
        left = file.start(print)
        assert len(left) == 6 - data[:at].count(b"\n")
        answer(file, left)
        assert file.finish() == (6, 0) and file.path.read_bytes() == data


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(6)), failed=st.sets(st.integers(0, 5)), twice=st.sets(st.integers(0, 5)))
def test_rows_in_any_order_failed_and_doubled_end_as_one_file(tmp_path, order, failed, twice):
    whole, file = make(tmp_path / "whole"), make(tmp_path / "mixed")
    for made in (whole, file):
        made.path.unlink(missing_ok=True)
    answer(whole, whole.start(print))
    for n in order:
        answer(file, [ITEMS[n]], "image_missing: x" if n in failed else None)
        if n in twice - failed:
            answer(file, [ITEMS[n]])
    left = file.start(lambda _: None)
    assert [i.id for i in left] == [ITEMS[n].id for n in sorted(failed)]
    answer(file, left)
    assert file.finish() == (6, 0) and file.path.read_bytes() == whole.path.read_bytes()


def test_failures_are_counted_and_hold_an_empty_text(tmp_path):
    file = make(tmp_path)
    answer(file, file.start(print)[:4])
    answer(file, file.start(print), "endpoint_failed: timeout")
    assert file.finish() == (6, 2)
    last = json.loads(file.path.read_text().splitlines()[-1])
    assert last["text"] == "" and error_of(last) == "endpoint_failed: timeout"
    assert [i.id for i in file.start(print)] == ["id-4-0", "id-5-0"]


def test_the_setting_that_differs_is_named(tmp_path):
    file = make(tmp_path)
    answer(file, file.start(print))
    with pytest.raises(StaleOutputError, match=r"line 1: answered with other settings \(max_new_tokens, seed\)"):
        make(tmp_path, max_new_tokens=6, seed=1).start(print)
    file.settings_file.unlink()
    with pytest.raises(StaleOutputError, match="line 1: answered with other settings; use the same"):
        make(tmp_path, max_new_tokens=6).start(print)


def test_failures_under_other_settings_are_simply_asked_again(tmp_path):
    file = make(tmp_path, base_url="http://wrong")
    answer(file, file.start(print), "endpoint_failed: connection_lost")
    mended = make(tmp_path, base_url="http://right")
    assert mended.start(print) == list(ITEMS)
    assert json.loads(mended.settings_file.read_text())["base_url"] == "http://right"


def test_a_grown_benchmark_goes_on_and_a_changed_question_does_not(tmp_path):
    file = make(tmp_path)
    answer(file, file.start(print))
    more = GoldItem("new", "x.png", ITEMS[0].turns, ("A",), (), "p")
    grown = AnswerFile(file.path, file.subset, "real", "m", (more, *ITEMS), file.settings)
    assert grown.start(print) == [more]
    other = AnswerFile(file.path, file.subset, "real", "m", tuple(ITEMS[::-1]), file.settings)
    assert other.start(print) == []
    changed = tuple(GoldItem(i.id, "x.png", more.turns, ("A",), (), "p") for i in ITEMS)
    with pytest.raises(StaleOutputError, match="line 2: question_id 'id-1-0' was another question"):
        AnswerFile(file.path, file.subset, "real", "m", changed, file.settings).start(print)


def test_tokens_of_all_rounds_are_summed_and_an_arena_that_failed_has_empty_answers(tmp_path):
    turns = tuple(
        Turn(r, t) for r, t in (("user", "<ecg>\nQ1"), ("assistant", "G1"), ("user", "Q2"), ("assistant", "G2"))
    )
    one = GoldItem("a", "x.png", turns, ("G2",), (), "p")
    file = AnswerFile(tmp_path / "x.jsonl", SUBSETS["arena"], "real", "m", (one,), {})
    row = file.row(one, [Reply("A1", usage={"n": 2}), Reply("A2", truncated=True, usage={"n": 3})], {"k": "v"})
    assert row["metadata"]["usage"] == {"n": 5} and row["metadata"]["truncated"] and row["metadata"]["k"] == "v"
    assert row["golden_convs"] == [{"question": "Q1", "answer": "G1"}, {"question": "Q2", "answer": "G2"}]
    assert row["predict_convs"] == [{"question": "Q1", "answer": "A1"}, {"question": "Q2", "answer": "A2"}]
    broken = file.row(one, [Reply("A1"), Reply(None, "timeout: x")], {})
    assert [c["answer"] for c in broken["predict_convs"]] == ["A1", ""] and error_of(broken) == "timeout: x"
