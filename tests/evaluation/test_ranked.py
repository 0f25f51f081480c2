"""Ranked answers as preference pairs (ranked.py, ranked_choice.py): by rewards, by a judge, cut off and resumed."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kill_tools
from ecglm.conversations.messages import clean_text
from ecglm.errors import EcglmError, RejectedRecord, StaleOutputError
from ecglm.evaluation.endpoint import Endpoint
from ecglm.evaluation.judge.ask import Asking
from ecglm.evaluation.judge.rubric import rubric_named
from ecglm.evaluation.ranked import check_training, rank_answers
from ecglm.evaluation.ranked_choice import Asked, Choice, Judge, by_rewards, by_verdicts, duels
from ecglm.evaluation.rewards.mixture import Mixture
from ecglm.evaluation.rewards.rows import Rewarder
from ecglm.files import read_json, read_jsonl
from ecglm.prompts.people import people
from ecglm.store.reader import SegmentStore
from ecglm.training.pairs import sha256_of
from ecglm.training.preferences import read_pairs
from evaluation.llm_server import LlmServer, Reply, Status

WINS = ("ours", "theirs", "tie")


def asked(*texts: str, cut: tuple[int, ...] = ()) -> Asked:
    return Asked("q", 0, "What?", "right", "p", texts, tuple(i in cut for i in range(len(texts))))


# --- from scores to a pair


@pytest.mark.parametrize(
    ("rewards", "cut", "expected"),
    [
        ((1.0, 0.0, 0.5), (), (0, 1, "")),
        ((0.5, 1.0, 0.5), (), (1, 0, "")),  # the first of those that are alike
        ((1.0, 0.0, 0.5), (0,), (2, 1, "")),  # a cut answer is never the better one
        ((1.0, 0.0, 0.5), (1,), (0, 1, "")),  # but may be the worse one
        ((1.0, 1.0, 1.0), (), (-1, -1, "all_equal")),
        ((1.0, 0.0), (0, 1), (-1, -1, "all_cut")),
        ((math.nan, math.nan), (), (-1, -1, "no_reward")),
        ((1.0,), (), (-1, -1, "all_equal")),
        ((), (), (-1, -1, "no_answer")),
    ],
)
def test_the_better_and_the_worse_by_rewards(rewards: Any, cut: Any, expected: tuple[int, int, str]) -> None:
    found = by_rewards(asked(*"abc"[: len(rewards)], cut=cut), rewards)
    assert (found.chosen, found.rejected, found.reason) == expected


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=6), st.sets(st.integers(0, 5)))
def test_the_chosen_answer_is_whole_and_strictly_better(rewards: list[float], cut: set[int]) -> None:
    question = asked(*"abcdef"[: len(rewards)], cut=tuple(cut))
    found = by_rewards(question, rewards)
    if not found.reason:
        assert rewards[found.chosen] > rewards[found.rejected] and not question.cut[found.chosen]
        assert rewards[found.rejected] == min(rewards)


def test_the_better_and_the_worse_by_a_judge() -> None:
    three = asked("a", "b", "c")
    assert duels(three) == [(0, 1), (0, 2), (1, 2)]
    assert by_verdicts(three, {(0, 1): "theirs", (0, 2): "ours", (1, 2): "ours"}) == Choice(1, 2, "", (1.0, 2.0, 0.0))
    assert by_verdicts(three, {(0, 1): "theirs", (0, 2): "theirs", (1, 2): "theirs"}).chosen == 2
    circle = {(0, 1): "ours", (1, 2): "ours", (0, 2): "theirs"}
    assert by_verdicts(three, circle).reason == "tie"
    assert by_verdicts(three, dict.fromkeys(duels(three), "tie")).reason == "tie"
    assert by_verdicts(three, {**circle, (0, 1): "failed"}).reason == "judge_failed"
    assert by_verdicts(asked("a"), {}).reason == "all_equal"
    only = {(0, 1): "ours"}
    assert by_verdicts(asked("a", "b"), only).chosen == 0
    assert by_verdicts(asked("a", "b", cut=(0,)), only).reason == "tie"  # the other has not won


@given(st.permutations(range(4)))
def test_a_judge_with_one_order_in_mind_gives_its_ends(order: list[int]) -> None:
    question = asked(*"abcd")
    verdicts = {(a, b): "ours" if order.index(a) < order.index(b) else "theirs" for a, b in duels(question)}
    found = by_verdicts(question, verdicts)
    assert (found.chosen, found.rejected) == (order[0], order[-1])


@given(st.lists(st.sampled_from(WINS), min_size=6, max_size=6))
def test_a_pair_by_a_judge_was_won_by_its_better_answer(given: list[str]) -> None:
    question = asked(*"abcd")
    verdicts = dict(zip(duels(question), given, strict=True))
    found = by_verdicts(question, verdicts)
    if not found.reason:
        a, b = found.chosen, found.rejected
        assert verdicts.get((a, b)) == "ours" or verdicts.get((b, a)) == "theirs"
        assert found.scores[a] > found.scores[b]


# --- the whole way


def quiet(text: str) -> None:
    """No progress lines."""


def rules(world: Any, **weights: float) -> Rewarder:
    return Rewarder(Mixture(weights or {"brief": 1.0, "own_length": 1.0}), [world.store])


@pytest.fixture
def own_length() -> Any:
    """A reward of the answer's length: it differs wherever answers differ in length."""
    from ecglm import registry

    registry._things["rewards"]["own_length"] = lambda prompts, completions, rows: [float(len(c)) for c in completions]
    yield
    del registry._things["rewards"]["own_length"]


def run(world: Any, model: Path, out: Path, ranking: Any, **options: Any) -> Any:
    usual = {"samples": 3, "temperature": 1.5, "max_new_tokens": 24, "batch_size": 6, "devices": ("cpu",)}
    given = {**usual, **options}
    return rank_answers(model, given.pop("data", world.data), [world.store], out, ranking, say=quiet, **given)


def said(text: str) -> str:
    """An answer as conversations keep it; empty where they would not."""
    try:
        return clean_text(text)
    except RejectedRecord:
        return ""


def files_of(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (out, Path(f"{out}.manifest.json"))}


def test_pairs_are_what_the_rewards_say_and_what_align_reads(
    world: Any, signal_run: Path, tmp_path: Path, own_length: None
) -> None:
    out = tmp_path / "pairs.jsonl"
    result = run(world, signal_run / "best", out, rules(world))
    rows = read_jsonl(out)
    samples = read_jsonl(tmp_path / "pairs.jsonl.samples" / "predictions.jsonl")
    known = {c.id: c for c in world.conversations("train")}
    assert result.num_pairs == len(rows) > 5
    assert result.num_pairs + sum(result.left_out.values()) == len(known)
    store = SegmentStore(world.store)
    for row in rows:
        talk = known[row["id"].rpartition("/")[0]]
        drawn = [(said(s["prediction"]), s["truncated"]) for s in samples if s["id"] == talk.id]
        texts, whole = {t for t, _ in drawn if t}, {t for t, cut in drawn if t and not cut}
        assert len(row["chosen"]) == max(map(len, whole)) and row["chosen"] in whole
        assert len(row["rejected"]) == min(map(len, texts)) and row["rejected"] in texts
        assert row["turns"] == [{"role": "user", "text": talk.turns[0].text}]
        assert (row["version"], row["source"], row["split"]) == (1, "ranked", "train")
        assert row["people"] == [str(p) for p in people([talk])]
        (ecg,) = row["ecgs"]
        assert ecg["record"] == talk.ecgs[0] and ecg["store"] == store.fingerprint and ecg["rate"] == store.rate
        assert ecg["sha256"] == sha256_of(store.microvolts(store.segments_of(talk.ecgs[0])[:1])[0])
    found = read_pairs([out])
    assert [(p.chosen, p.rejected) for p in found.pairs] == [(r["chosen"], r["rejected"]) for r in rows]


def test_questions_without_a_difference_are_counted(world: Any, signal_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "pairs.jsonl"
    result = run(world, signal_run / "best", out, rules(world, brief=1.0))  # short answers all cost nothing
    number = len(world.conversations("train"))
    assert (result.num_pairs, sum(result.left_out.values())) == (0, number)
    assert set(result.left_out) <= {"all_equal", "all_cut"}
    counts = read_json(Path(f"{out}.manifest.json"))["counts"]
    assert counts["answers"] == 3 * number and counts["questions"] == number and out.read_bytes() == b""
    none = run(world, signal_run / "best", tmp_path / "none.jsonl", rules(world, near_number=1.0))
    assert none.num_pairs == 0 and "no_reward" in none.left_out
    lacking = read_json(tmp_path / "none.jsonl.manifest.json")["counts"]["not_computed"]
    assert lacking["near_number"] >= none.left_out["no_reward"] and counts["not_computed"] == {}


def test_the_same_again_is_reused_and_other_rewards_need_no_new_answers(
    world: Any, signal_run: Path, tmp_path: Path, own_length: None
) -> None:
    out = tmp_path / "pairs.jsonl"
    assert not run(world, signal_run / "best", out, rules(world)).reused
    before, drawn = files_of(out), (tmp_path / "pairs.jsonl.samples" / "predictions.jsonl").stat().st_mtime_ns
    assert run(world, signal_run / "best", out, rules(world)).reused
    with pytest.raises(StaleOutputError, match="made with other settings"):
        run(world, signal_run / "best", out, rules(world, correct=1.0))
    run(world, signal_run / "best", out, rules(world, correct=1.0), overwrite=True)
    assert files_of(out) != before
    assert (tmp_path / "pairs.jsonl.samples" / "predictions.jsonl").stat().st_mtime_ns == drawn
    run(world, signal_run / "best", out, rules(world), overwrite=True)
    assert files_of(out) == before
    out.write_bytes(out.read_bytes()[:-9])  # damaged: made again
    assert not run(world, signal_run / "best", out, rules(world)).reused
    assert files_of(out) == before
    Path(f"{out}.manifest.json").unlink()  # killed between the pairs and their manifest
    run(world, signal_run / "best", out, rules(world))
    assert files_of(out) == before


def test_d10_other_splits_and_held_out_people_are_refused(world: Any, signal_run: Path, tmp_path: Path) -> None:
    for split in ("val", "test", "", "Train"):
        with pytest.raises(EcglmError, match="pairs are for training"):
            run(world, signal_run / "best", tmp_path / "p.jsonl", rules(world, correct=1.0), split=split)
    rows = world.conversations()
    test = next(c for c in rows if c.split == "test")
    data = world.write(tmp_path / "leak.parquet", [*rows, replace(test, id="leak", split="train")])
    with pytest.raises(EcglmError, match=r"training question leak is about .*, which is in split test"):
        run(world, signal_run / "best", tmp_path / "p.jsonl", rules(world, correct=1.0), data=data)
    assert not list(tmp_path.glob("p.jsonl*"))


def test_d10_a_split_that_a_store_knows_counts_too(world: Any) -> None:
    class Store(SegmentStore):
        @property
        def index(self) -> Any:
            import pyarrow as pa

            table = super().index
            at = table.column_names.index("split")
            return table.set_column(at, "split", pa.array(["test"] * len(table)))

    with pytest.raises(EcglmError, match="which is in split test of"):
        check_training(world.conversations("train"), [Store(world.store)], "data")
    check_training(world.conversations(), [SegmentStore(world.store)], "data")


@pytest.mark.parametrize(
    ("options", "told"),
    [({"samples": 1}, "2 or more are needed"), ({"data": "none.parquet"}, "no such file"), ({}, "a JSONL file")],
)
def test_mistakes_are_told(world: Any, signal_run: Path, tmp_path: Path, options: Any, told: str) -> None:
    out = tmp_path / ("p.jsonl" if options else "p.csv")
    with pytest.raises(EcglmError, match=told):
        run(world, signal_run / "best", out, rules(world, correct=1.0), **options)


# --- a judge behind a server


def answers_in(body: dict[str, Any]) -> tuple[str, str]:
    """The two answers in a judge's prompt."""
    text = body["messages"][-1]["content"]
    parts = [
        text.split(f"[The Start of {n}]\n")[1].split("\n [The End of")[0].strip() for n in ("Report A", "Report B")
    ]
    return parts[0], parts[1]


def longer_wins(body: dict[str, Any], turn: int) -> Any:
    a, b = answers_in(body)
    return json.dumps({"Winner": "A" if (len(a), a) > (len(b), b) else "B", "Explanation": "x"})


def judge(server: LlmServer, out: Path, **options: Any) -> Judge:
    model = Endpoint(server.url, "judge", key_env=None, backoff=0.01, max_retries=2, concurrency=4)
    return Judge(model, rubric_named("report"), Asking(**options), Path(f"{out}.judge"), Path(f"{out}.judge-cache"))


def test_a_judge_ranks_and_is_never_paid_twice(world: Any, signal_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "pairs.jsonl"
    with LlmServer(longer_wins) as server:
        result = run(world, signal_run / "best", out, judge(server, out))
        paid, bytes_ = server.paid, files_of(out)
        assert result.num_pairs > 5
        for row in read_jsonl(out):
            key = [(len(row[n]), row[n]) for n in ("chosen", "rejected")]
            assert key[0] > key[1]
        assert len(set(server.prompts)) == paid  # each prompt once
        assert run(world, signal_run / "best", out, judge(server, out)).reused
        Path(f"{out}.manifest.json").unlink()
        run(world, signal_run / "best", out, judge(server, out))
        assert server.paid == paid and files_of(out) == bytes_


def test_a_judge_who_always_likes_the_first_place_gives_no_pair(world: Any, signal_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "pairs.jsonl"
    with LlmServer('{"Winner": "A", "Explanation": ""}') as server:
        result = run(world, signal_run / "best", out, judge(server, out), limit=3)
    assert result.num_pairs == 0 and result.left_out["tie"] > 0


def test_a_judge_who_misbehaves_costs_the_questions_it_fails_on_alone(
    world: Any, signal_run: Path, tmp_path: Path
) -> None:
    """429 and nonsense at first are asked again; what stays nonsense is counted, and gone on with the next time."""
    out, fails = tmp_path / "pairs.jsonl", True

    def script(body: dict[str, Any], turn: int) -> Any:
        if turn == 0 and len(body["messages"][-1]["content"]) % 3 == 0:
            return Status(429)
        if "report" in fails_on and fails and fails_on["report"] in body["messages"][-1]["content"]:
            return Reply("no JSON at all")
        return longer_wins(body, turn)

    fails_on: dict[str, str] = {}
    with LlmServer(longer_wins) as server:  # to know one answer
        run(world, signal_run / "best", out, judge(server, out), limit=3)
        first = read_jsonl(out)[0]
    fails_on["report"] = first["chosen"]
    bad = tmp_path / "bad.jsonl"
    with LlmServer(script) as server:
        result = run(world, signal_run / "best", bad, judge(server, bad, attempts=2), limit=3)
        assert result.left_out["judge_failed"] >= 1
        assert first["id"] not in {r["id"] for r in read_jsonl(bad)}
        fails, paid = False, server.paid
        again = run(world, signal_run / "best", bad, judge(server, bad, attempts=2), limit=3, overwrite=True)
    assert "judge_failed" not in again.left_out or again.reused
    assert server.paid >= paid


def test_a_run_cut_off_by_its_judge_goes_on_where_it_was(world: Any, signal_run: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / "pairs.jsonl", tmp_path / "whole.jsonl"
    count = itertools.count()

    def breaks(body: dict[str, Any], turn: int) -> Any:
        return Status(401) if next(count) == 9 else longer_wins(body, turn)

    with LlmServer(breaks) as server:
        with pytest.raises(EcglmError, match="401"):
            run(world, signal_run / "best", out, judge(server, out), limit=4)
        paid = server.paid
        assert paid > 0 and not Path(f"{out}.manifest.json").exists()
        run(world, signal_run / "best", out, judge(server, out), limit=4)
        total = server.paid
        run(world, signal_run / "best", whole, judge(server, whole), limit=4)
        assert total == server.paid - total  # nothing twice: both cost the same in all
    assert out.read_bytes() == whole.read_bytes()


def test_a_dry_run_asks_nobody(world: Any, signal_run: Path, tmp_path: Path) -> None:
    out, said = tmp_path / "pairs.jsonl", []
    with LlmServer(longer_wins) as server:
        ranking = judge(server, out, price=(1.0, 2.0))
        options = {"samples": 3, "temperature": 1.5, "max_new_tokens": 10, "limit": 2, "dry_run": True}
        given = (signal_run / "best", world.data, [world.store], out, ranking)
        assert rank_answers(*given, devices=("cpu",), say=said.append, **options) is None
        assert not server.requests
    assert any("prompts to ask" in line for line in said) and any(line.startswith("cost: about") for line in said)
    assert not out.exists()


@pytest.mark.slow
def test_a_killed_command_goes_on_and_ends_with_the_same_bytes(world: Any, signal_run: Path, tmp_path: Path) -> None:
    def command(out: Path, url: str) -> list[object]:
        own = ("--model", signal_run / "best", "--data", world.data, "--store", world.store, "--out", out)
        drawn = ("--samples", "3", "--temperature", "1.5", "--max-new-tokens", "10", "--batch-size", "3")
        by = ("--rank", "judge", "--judge.model", "judge", "--judge.base-url", url, "--judge.key-env", "none")
        return ["pairs", *own, *drawn, *by, "--judge.concurrency", "1"]

    killed, whole = tmp_path / "killed.jsonl", tmp_path / "whole.jsonl"
    with LlmServer(longer_wins) as server:
        answers = tmp_path / "killed.jsonl.samples" / "answers.jsonl"
        process = kill_tools.start(*command(killed, server.url))
        kill_tools.kill_when(process, lambda: answers.exists() and answers.stat().st_size > 100)
        process = kill_tools.start(*command(killed, server.url))
        kill_tools.kill_when(process, lambda: server.paid >= 5)
        kill_tools.finish(kill_tools.start(*command(killed, server.url)))
        asked_first = server.paid
        kill_tools.finish(kill_tools.start(*command(whole, server.url)))
        assert asked_first - (server.paid - asked_first) <= 1  # at most the answer that was on its way
    assert killed.read_bytes() == whole.read_bytes()
