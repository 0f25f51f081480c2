"""Verb: a model's own answers to training questions, ranked, as preference pairs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from ecglm.errors import ConfigError
from ecglm.verbs.common import Stores, say
from ecglm.verbs.judge_model import JudgeModel

if TYPE_CHECKING:
    from ecglm.evaluation.ranked_choice import Judge
    from ecglm.evaluation.rewards.rows import Rewarder


@dataclass(frozen=True)
class PairsJudge(JudgeModel):
    """Who judges, and how, with --rank judge.

    Args:
        max_cost: stop before more would be spent by this command; needs a price.
        cache: folder of paid replies, shared by any number of runs; FILE.judge-cache beside the pairs.
    """


_DEFAULT = PairsJudge()


def pairs(
    model: str,
    data: Path,
    store: Stores,
    out: Path,
    split: str = "train",
    tasks: tuple[str, ...] = (),
    samples: int = 4,
    temperature: float = 1.0,
    max_new_tokens: int = 128,
    batch_size: int = 128,
    seed: int = 0,
    rank: Literal["rules", "judge"] = "rules",
    rewards: tuple[str, ...] = (),
    rubric: str = "report",
    judge: Annotated[PairsJudge, tyro.conf.FlagCreatePairsOff] = _DEFAULT,
    devices: tuple[str, ...] = ("auto",),
    limit: int | None = None,
    dev: bool = False,
    overwrite: bool = False,
) -> None:
    """Draw several answers to every training question, rank them, and write preference pairs for ecglm align.

    Args:
        model: checkpoint folder or hub id.
        data: conversations file.
        store: the stores that hold its ECGs.
        out: the JSONL file to make, a pair per question; the answers stay in FILE.samples beside it.
        split: train; any other is refused.
        tasks: all, or these.
        samples: answers to each question.
        temperature: they are drawn at.
        max_new_tokens: longest answer.
        batch_size: answers at a time; they do not depend on it.
        seed: of the drawing.
        rank: by rewards with ground truth, or by a judge who compares each answer with each, in both orders.
        rewards: NAME or NAME:WEIGHT of ecglm ls rewards; correct and f1 unless given.
        rubric: what the judge compares by: a name (ecglm ls rubrics) or a FILE.yaml.
        judge: who judges, and how, with --rank judge.
        devices: auto (every GPU, else the CPU), or names (cpu, cuda:0 cuda:1); one process each.
        limit: questions about at most so many ECGs.
        dev: questions about at most 4 ECGs, unless --limit says otherwise.
        overwrite: replace pairs made otherwise.
    """
    if rank == "judge" and rewards:
        raise ConfigError("--rewards are for --rank rules; leave them out, or drop --rank judge")
    if rank == "rules" and judge != _DEFAULT:
        raise ConfigError("--judge.… are for --rank judge; leave them out, or give --rank judge")
    ranking: Judge | Rewarder = _judge(judge, rubric, out) if rank == "judge" else _rules(rewards, store)
    from ecglm.evaluation.ranked import rank_answers

    result = rank_answers(
        model,
        data,
        store,
        out,
        ranking,
        split=split,
        tasks=tasks,
        samples=samples,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        seed=seed,
        limit=4 if dev and limit is None else limit,
        devices=devices,
        overwrite=overwrite,
        dry_run=judge.dry_run,
        say=say,
    )
    if result is None:
        return
    left = ", ".join(f"{reason} {number}" for reason, number in result.left_out.items())
    say(f"{result.num_pairs} pairs{f'; questions without: {left}' if left else ''}: {result.path}")


def _rules(rewards: tuple[str, ...], store: tuple[Path, ...]) -> Rewarder:
    from ecglm.evaluation.rewards.mixture import Mixture
    from ecglm.evaluation.rewards.rows import Rewarder

    return Rewarder(Mixture.of(rewards or ("correct", "f1")), store)


def _judge(judge: JudgeModel, rubric: str, out: Path) -> Judge:
    from ecglm.evaluation.judge.rubric import rubric_named
    from ecglm.evaluation.ranked_choice import Judge

    if judge.provider != "dummy" and judge.model is None:
        raise ConfigError("--judge.model: say which model judges (or --judge.provider dummy for a trial)")
    if judge.provider == "endpoint" and judge.base_url is None:
        raise ConfigError("--judge.base-url: say where the judge is asked, as https://api.openai.com/v1")
    asked = rubric_named(rubric)
    if asked.layout == "turns":
        raise ConfigError(f"--rubric {rubric} is for whole conversations; choose one for single answers, as report")
    cache = judge.cache or Path(f"{out}.judge-cache")
    return Judge(judge.make(asked), asked, judge.asking(), Path(f"{out}.judge"), cache)
