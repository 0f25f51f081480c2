"""Which of two answers is better: asked in both orders, so that a judge who likes the first place is seen."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ecglm import files
from ecglm.errors import EcglmError
from ecglm.evaluation.judge.ask import Asking, Llm, Paid, ask_each, too_little
from ecglm.evaluation.judge.items import Item
from ecglm.evaluation.judge.judgements import ITEMS, SUMMARY, Cache, Judged, as_facts, as_judged, ask_key, bind
from ecglm.evaluation.judge.prompts import preference_prompt
from ecglm.evaluation.judge.reply import BadReply, parse_winner
from ecglm.evaluation.judge.rubric import Rubric
from ecglm.evaluation.judge.run import JudgeRun, Plan, Progress, check_any, plan_of, usage_of
from ecglm.evaluation.statistics import FEW_PATIENTS, patient_bootstrap

FORMAT = "ecglm-preference"
VERSION = 1
OURS, THEIRS, TIE, FAILED = "ours", "theirs", "tie", "failed"


@dataclass(frozen=True)
class _Pair:
    """One item under both models. settled: the verdict where nothing has to be asked; keys: of both orders' prompts."""

    ours: Item
    theirs: Item
    settled: str | None
    prompts: tuple[str, str] = ("", "")
    keys: tuple[str, str] = ("", "")


def pairs_of(items: Sequence[Item], rivals: Sequence[Item], rubric: Rubric, judge: Mapping[str, Any]) -> list[_Pair]:
    """Items with the rival's answer to the same; EcglmError where one has none, or another reference."""
    other = {(r.id, r.turn, r.seed): r for r in rivals}
    found = []
    for item in items:
        rival = other.get((item.id, item.turn, item.seed))
        if rival is None:
            raise EcglmError(f"--against: id '{item.id}' is not among them; both models must answer the same items")
        same = [(t.question, t.reference) for t in item.turns] == [(t.question, t.reference) for t in rival.turns]
        if not same:
            raise EcglmError(f"--against: id '{item.id}' has another question or reference there; not the same data")
        settled = _settled(item, rival)
        if settled is not None:
            found.append(_Pair(item, rival, settled))
            continue
        prompts = (
            preference_prompt(rubric, item.turns, rival.turns),
            preference_prompt(rubric, rival.turns, item.turns),
        )
        found.append(_Pair(item, rival, None, prompts, (ask_key(judge, prompts[0]), ask_key(judge, prompts[1]))))
    return found


def _settled(ours: Item, theirs: Item) -> str | None:
    """The verdict that needs no judge: an answer beats none, and the same answer is a tie."""
    there = ours.state == "answered", theirs.state == "answered"
    if there != (True, True):
        return TIE if there == (False, False) else OURS if there[0] else THEIRS
    same = [t.prediction.strip() for t in ours.turns] == [t.prediction.strip() for t in theirs.turns]
    return TIE if same else None


def plan_preferring(
    items: Sequence[Item], rivals: Sequence[Item], rubric: Rubric, model: Llm, out: Path, cache: Path, asking: Asking
) -> Plan:
    """Count what is to be asked, and ask nothing."""
    judge = {**model.facts(), **asking.facts()}
    pairs = pairs_of(items, rivals, rubric, judge)
    known = _known(pairs, out, Cache(cache))
    prompts = {key: prompt for p in pairs for key, prompt in zip(p.keys, p.prompts, strict=True) if key}
    return plan_of(
        len(pairs),
        0,
        sum(p.settled is None and all(key in known for key in p.keys) for p in pairs),
        sum(p.settled is not None for p in pairs),
        {key: prompt for key, prompt in prompts.items() if key not in known},
        asking,
    )


def prefer(
    items: Sequence[Item],
    rivals: Sequence[Item],
    rubric: Rubric,
    model: Llm,
    out: str | Path,
    *,
    cache: str | Path,
    asking: Asking | None = None,
    inputs: Mapping[str, Any] | None = None,
    paid: Paid | None = None,
    num_resamples: int = 2000,
    seed: int = 0,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> JudgeRun:
    """Compare two models' answers item by item; files and resuming as ``judge_items``.

    An item is won where both orders say so; where they differ it is a tie, counted as ``n_inconsistent``. ``win_rate``
    is 1 for a win and 0.5 for a tie, over the items with two verdicts; ``first_place`` the share of decided replies
    that chose the answer shown first (0.5: no bias). 95 % intervals over patients.
    """
    out, kept, asking, paid = Path(out), Cache(Path(cache)), asking or Asking(), paid or Paid()
    judge = {**model.facts(), **asking.facts()}
    with files.folder_lock(out):
        bind(out, {**rubric.facts(), "asks": "preference"}, judge, inputs, overwrite)
        pairs = pairs_of(items, rivals, rubric, judge)
        known = _known(pairs, out, kept)
        prompts = {
            key: prompt
            for pair in pairs
            for key, prompt in zip(pair.keys, pair.prompts, strict=True)
            if key and key not in known
        }
        by_key: dict[str, list[_Pair]] = {}
        for pair in pairs:
            for key in dict.fromkeys(pair.keys):
                by_key.setdefault(key, []).append(pair)
        say(f"{len(pairs)} pairs, each in both orders: {len(prompts)} prompts to ask")
        progress = Progress(len(prompts), say)
        if prompts:
            kept.check()

        def finish(key: str, judged: Judged) -> None:
            if judged.state == "judged":
                kept.put(key, judged)
            known[key] = judged
            for pair in by_key[key]:
                if all(k in known for k in pair.keys):
                    _write(out, pair, known)
            progress()

        left = ask_each(model, prompts, parse_winner, finish, asking, paid)
        if left:
            raise too_little(asking, left, progress.number)
        check_any([*known.values()])
        for pair in pairs:
            if not any(key in prompts for key in pair.keys):
                _write(out, pair, known)
        summary = {
            **_summary(pairs, known, num_resamples, seed),
            "rubric": rubric.facts(),
            "judge": judge,
            "inputs": dict(inputs or {}),
            "usage": usage_of(known, asking),
            "items": [pair.ours.file_name for pair in pairs],
        }
        if judge.get("provider") == "dummy":
            summary["warnings"].append("dummy judge (word overlap): these verdicts mean nothing")
        files.write_json(out / SUMMARY, summary)
    return JudgeRun(out / SUMMARY, summary, paid)


def _known(pairs: Sequence[_Pair], out: Path, cache: Cache) -> dict[str, Judged]:
    """Valid replies by prompt key, from earlier files of the items and from the cache."""
    found: dict[str, Judged] = {}
    for pair in pairs:
        if pair.settled is not None:
            continue
        earlier = _earlier(out / ITEMS / pair.ours.file_name)
        for key in pair.keys:
            judged = earlier.get(key) or cache.get(key)
            if judged is not None and judged.state == "judged" and _winner(judged) is not None:
                found[key] = judged
    return found


def _earlier(path: Path) -> dict[str, Judged]:
    try:
        asked = json.loads(path.read_bytes())["asked"]
        found = {key: as_judged(facts) for key, facts in asked.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {key: judged for key, judged in found.items() if judged is not None}


def _winner(judged: Judged) -> str | None:
    try:
        return parse_winner(judged.reply or "") if judged.state == "judged" else None
    except BadReply:
        return None


def _verdicts(pair: _Pair, known: Mapping[str, Judged]) -> tuple[str, list[str | None]]:
    """(the item's verdict, what each order's reply chose by place: A, B, tie or None for a failure)."""
    if pair.settled is not None:
        return pair.settled, []
    places = [_winner(known[key]) for key in pair.keys]
    if None in places:
        return FAILED, places
    sides = [
        {"A": (OURS, THEIRS)[order], "B": (THEIRS, OURS)[order], "tie": TIE}[str(place)]
        for order, place in enumerate(places)
    ]
    return (sides[0] if sides[0] == sides[1] else TIE), places


def _write(out: Path, pair: _Pair, known: Mapping[str, Judged]) -> None:
    verdict, places = _verdicts(pair, known)
    item = pair.ours
    asked = {key: as_facts(known[key]) for key in pair.keys if key}
    files.write_json(
        out / ITEMS / item.file_name,
        {
            "format": FORMAT,
            "version": VERSION,
            "id": item.id,
            "turn": item.turn,
            "seed": item.seed,
            "patient_id": item.patient_id,
            "verdict": verdict,
            "places": places,
            "orders": list(pair.keys) if pair.settled is None else [],
            "asked": asked,
        },
    )


def _summary(pairs: Sequence[_Pair], known: Mapping[str, Judged], num_resamples: int, seed: int) -> dict[str, Any]:
    found = [(pair, *_verdicts(pair, known)) for pair in pairs]
    verdicts = [verdict for _, verdict, _ in found]
    decided = [(pair, verdict, places) for pair, verdict, places in found if verdict != FAILED]
    asked = [(pair, places) for pair, _, places in decided if places]
    worth = {OURS: 1.0, TIE: 0.5, THEIRS: 0.0}
    inconsistent = sum(verdict == TIE and set(places) != {"tie"} for _, verdict, places in decided if places)

    def mean(rows: Sequence[tuple[_Pair, float, float]]) -> dict[str, Any]:
        if not rows:
            return {"value": None, "low": None, "high": None, "n": 0}
        patients = [p.ours.patient_id or f"row:{p.ours.key}" for p, _, _ in rows]
        statistics = np.array([row[1:] for row in rows])
        return patient_bootstrap(patients, statistics, _ratio, num_resamples=num_resamples, seed=seed).as_dict()

    patients = {p.ours.patient_id for p in pairs if p.ours.patient_id}
    warnings = []
    if any(p.ours.patient_id is None for p in pairs):
        warnings.append("items name no patient: each counts as a patient of its own")
    elif len(patients) < FEW_PATIENTS:
        warnings.append(f"only {len(patients)} patients: the intervals are rough")
    return {
        "format": FORMAT,
        "version": VERSION,
        "n": len(pairs),
        "n_failed": verdicts.count(FAILED),
        "n_unasked": sum(pair.settled is not None for pair in pairs),
        "n_inconsistent": inconsistent,
        "wins": verdicts.count(OURS),
        "ties": verdicts.count(TIE),
        "losses": verdicts.count(THEIRS),
        "win_rate": mean([(pair, worth[verdict], 1.0) for pair, verdict, _ in decided]),
        "first_place": mean([(p, float(places.count("A")), float(2 - places.count("tie"))) for p, places in asked]),
        "failed": [
            {"id": pair.ours.id, "reason": next((known[k].reason for k in pair.keys if known[k].reason), None)}
            for pair, verdict, _ in found
            if verdict == FAILED
        ],
        "settings": {"num_resamples": num_resamples, "seed": seed, "interval": "95 % percentile bootstrap of patients"},
        "warnings": warnings,
    }


def _ratio(sums: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[..., 0] / sums[..., 1]
