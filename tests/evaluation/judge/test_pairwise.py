"""Which of two answers is better: both orders, a judge who prefers a place, verdicts that need no judge."""

from __future__ import annotations

import json

import pytest

from ecglm.errors import EcglmError
from ecglm.evaluation.endpoint import Endpoint
from ecglm.evaluation.judge.ask import Asking
from ecglm.evaluation.judge.dummy import DummyJudge
from ecglm.evaluation.judge.items import Item
from ecglm.evaluation.judge.pairwise import plan_preferring, prefer
from ecglm.evaluation.judge.prompts import Exchange
from ecglm.evaluation.judge.rubric import rubric_named
from evaluation.llm_server import LlmServer, Status

REPORT = rubric_named("report")


def item(n, text, **fields):
    state = "answered" if text else "empty"
    return Item(f"i{n}", (Exchange("", "sinus rhythm", text),), f"p{n}", state=state, **fields)


def say_winner(winner):
    return json.dumps({"Winner": winner, "Explanation": "x"})


def run(items, rivals, server, folder, **options):
    model = Endpoint(server.url, "judge", key_env=None, backoff=0.01, max_retries=1)
    return prefer(
        items,
        rivals,
        REPORT,
        model,
        folder / "out",
        cache=folder / "c",
        num_resamples=50,
        say=lambda _: None,
        **options,
    )


def fair(body, turn):
    """A judge who always finds the text that says good."""
    prompt = body["messages"][0]["content"]
    first, second = (prompt.split(f"[The Start of Report {x}]")[1].split("[The End")[0] for x in "AB")
    good = ["good" in first, "good" in second]
    return say_winner("tie" if good[0] == good[1] else "A" if good[0] else "B")


def test_wins_ties_and_losses_in_both_orders(tmp_path):
    ours = [item(0, "good"), item(1, "bad"), item(2, "bad"), item(3, "good one")]
    theirs = [item(0, "bad"), item(1, "good"), item(2, "worse"), item(3, "poor")]
    with LlmServer(fair) as server:
        found = run(ours, theirs, server, tmp_path).summary
        assert server.paid == 6  # items 0 and 1 mirror each other: the same two prompts
        again = run(ours, theirs, server, tmp_path).summary
        assert server.paid == 6 and again == found
    assert (found["wins"], found["ties"], found["losses"], found["n_inconsistent"]) == (2, 1, 1, 0)
    assert found["win_rate"]["value"] == pytest.approx((1 + 0 + 0.5 + 1) / 4)
    assert found["first_place"]["value"] == 0.5 and found["first_place"]["n"] == 4
    kept = sorted((tmp_path / "out" / "items").iterdir())
    assert [json.loads(p.read_bytes())["verdict"] for p in kept] == ["ours", "theirs", "tie", "ours"]


def test_a_judge_who_takes_the_first_is_seen_and_decides_nothing(tmp_path):
    ours, theirs = [item(n, f"a{n}") for n in range(5)], [item(n, f"b{n}") for n in range(5)]
    with LlmServer(say_winner("A")) as server:
        found = run(ours, theirs, server, tmp_path).summary
    assert found["first_place"]["value"] == 1.0 and found["n_inconsistent"] == 5
    assert found["win_rate"]["value"] == 0.5 and found["ties"] == 5


def test_what_needs_no_judge_is_not_asked(tmp_path):
    ours = [item(0, "same"), item(1, "mine"), item(2, ""), item(3, "")]
    theirs = [item(0, "same "), item(1, ""), item(2, "yours"), item(3, "")]
    with LlmServer() as server:
        found = run(ours, theirs, server, tmp_path).summary
        assert server.paid == 0
    assert (found["wins"], found["ties"], found["losses"], found["n_unasked"]) == (1, 2, 1, 4)
    assert found["first_place"]["value"] is None


def test_a_failure_is_counted_and_the_other_order_is_not_paid_again(tmp_path):
    broken = {"on": True}

    def script(body, turn):
        prompt = body["messages"][0]["content"]
        if broken["on"] and prompt.rstrip().endswith("bad\n [The End of Report B]"):
            return Status(500)
        return fair(body, turn)

    ours, theirs = [item(0, "good")], [item(0, "bad")]
    with LlmServer(script) as server:
        found = run(ours, theirs, server, tmp_path).summary
        assert found["n_failed"] == 1 and found["failed"] == [{"id": "i0", "reason": "server_error"}]
        assert found["win_rate"]["value"] is None
        paid, broken["on"] = server.paid, False
        assert run(ours, theirs, server, tmp_path).summary["wins"] == 1
        assert server.paid == paid + 1


def test_verdicts_survive_without_the_cache(tmp_path):
    import shutil

    ours, theirs = [item(0, "good")], [item(0, "bad")]
    with LlmServer(fair) as server:
        run(ours, theirs, server, tmp_path)
        shutil.rmtree(tmp_path / "c")
        run(ours, theirs, server, tmp_path)
        assert server.paid == 2


def test_counting_before_paying(tmp_path):
    ours, theirs = [item(0, "good"), item(1, "x")], [item(0, "bad"), item(1, "x")]
    plan = plan_preferring(
        ours, theirs, REPORT, DummyJudge(REPORT), tmp_path / "o", tmp_path / "c", Asking(max_tokens=10)
    )
    assert (plan.num_items, plan.num_calls, plan.num_unsent, plan.most_completion_tokens) == (2, 2, 1, 20)


def test_models_that_did_not_answer_the_same(tmp_path):
    other = Item("i0", (Exchange("", "another reference", "b"),))
    with LlmServer() as server:
        with pytest.raises(EcglmError, match="not among them"):
            run([item(0, "a")], [item(1, "a")], server, tmp_path)
        with pytest.raises(EcglmError, match="another question or reference"):
            run([item(0, "a")], [other], server, tmp_path)


def test_the_dummy_prefers_more_words_of_the_reference(tmp_path):
    ours, theirs = [item(0, "sinus rhythm"), item(1, "x")], [item(0, "sinus"), item(1, "sinus")]
    found = prefer(
        ours, theirs, REPORT, DummyJudge(REPORT), tmp_path / "o", cache=tmp_path / "c", num_resamples=9, say=print
    )
    assert (found.summary["wins"], found.summary["losses"]) == (1, 1)
    assert any("mean nothing" in text for text in found.summary["warnings"])


def test_a_judge_who_fails_at_all_leaves_no_summary(tmp_path):
    with LlmServer("no verdict") as server, pytest.raises(EcglmError, match="none of 2 items could be judged"):
        run([item(1, "good"), item(2, "good")], [item(1, "bad"), item(2, "")], server, tmp_path)
    assert not (tmp_path / "out" / "judge.json").exists()
