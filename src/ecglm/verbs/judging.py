"""Verbs: judges of answers, and how far they agree with people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from ecglm.errors import ConfigError, EcglmError
from ecglm.verbs.common import say, tell
from ecglm.verbs.judge_model import JudgeModel

if TYPE_CHECKING:
    from ecglm.evaluation.judge.items import Item
    from ecglm.evaluation.judge.rubric import Rubric


_DEFAULT = JudgeModel()
Judge = Annotated[JudgeModel, tyro.conf.OmitArgPrefixes]
Aggregate = Literal["strict", "pulse", "gem_v1", "gem_v2"]


def judge_(
    predictions: Positional[Path],
    rubric: str,
    judge: Judge = _DEFAULT,
    controls: tuple[str, ...] = (),
    against: Path | None = None,
    aggregate: Aggregate = "strict",
    out: Path | None = None,
    limit: int | None = None,
    num_resamples: int = 2000,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Let a language model grade answers against references.

    Args:
        predictions: predictions.jsonl, its folder, or any JSONL file with id, reference and prediction.
        rubric: what is asked: a name (ecglm ls rubrics) or a FILE.yaml.
        judge: who judges, and how.
        controls: judge the answers under these controls too, for the gap.
        against: another model's predictions on the same items: ask which answer is better, in both orders.
        aggregate: also the means as PULSE or GEM take them.
        out: folder of the judgements; judge/RUBRIC-JUDGE beside predictions.jsonl, judge/FILE-RUBRIC-JUDGE beside FILE.
        limit: the first N items only.
        num_resamples: bootstrap resamples of the patients.
        seed: of the bootstrap.
        overwrite: replace judgements of another rubric or judge.
    """
    from ecglm.evaluation.judge.items import REAL, read_items
    from ecglm.evaluation.judge.rubric import rubric_named

    asked, home = rubric_named(rubric), predictions if predictions.is_dir() else predictions.parent
    items = read_items(predictions, asked, controls=(REAL, *controls))
    runner = _Runner(judge, asked, aggregate, num_resamples, seed, overwrite, home / "judge-cache")
    own = predictions.is_dir() or predictions.stem.startswith("predictions")
    name = runner.name if own else f"{_slug(predictions.stem)}-{runner.name}"
    if against is None:
        runner.score(_first(items, limit), out or home / "judge" / name, _inputs(predictions))
        return
    if controls:
        raise ConfigError("--controls and --against: one at a time")
    rivals = read_items(against, asked)
    rival = against.stem if against.is_file() and against.stem != "predictions" else against.resolve().name
    rival = against.resolve().parent.name if rival == "predictions.jsonl" else rival
    place = out or home / "judge" / f"{name}-against-{_slug(rival)}"
    runner.prefer(_first(items, limit), rivals, place, _inputs(predictions, against))


def ecgbench_judge(
    roots: Positional[tuple[Path, ...]],
    data: Path,
    rubric: str,
    judge: Judge = _DEFAULT,
    aggregate: Aggregate = "strict",
    out: Path | None = None,
    limit: int | None = None,
    num_resamples: int = 2000,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Let a language model grade ECGBench's reports or conversations.

    Args:
        roots: folders of MODEL/SUBSET/step-final.jsonl, or such files.
        data: prepared folder with the gold answers.
        rubric: report or arena, or a FILE.yaml with one of their layouts.
        judge: who judges, and how.
        aggregate: also the mean as PULSE takes it.
        out: folder of the judgements, MODEL below it; judge/ beside each file of predictions.
        limit: the first N items only.
        num_resamples: bootstrap resamples of the patients.
        seed: of the bootstrap.
        overwrite: replace judgements of another rubric or judge.
    """
    from ecglm.evaluation.judge.items import ecgbench_files, ecgbench_items, subset_for
    from ecglm.evaluation.judge.rubric import rubric_named

    asked = rubric_named(rubric)
    subset = subset_for(asked)
    found = [(root, file) for root in roots for file in ecgbench_files(root, subset)]
    work = [(root, file, _first(ecgbench_items(file, data, subset), limit)) for root, file in found]
    runner, places = None, set()
    for root, file, items in work:
        home = root if root.is_dir() else root.parent
        cache = home / "judge-cache"
        if runner is None:
            runner = _Runner(judge, asked, aggregate, num_resamples, seed, overwrite, cache)
        runner.cache = judge.cache or cache
        model = file.parent.parent.name
        name = f"{_slug(file.stem)}-{runner.name}"
        place = out / _slug(model) / name if out is not None else file.parent / "judge" / name
        if place in places:
            raise EcglmError(f"{place}: two files of predictions would be judged into it; judge one at a time")
        places.add(place)
        say(f"{model}, {subset}, {file.name}:")
        runner.score(items, place, {**_inputs(file), "model": model, "subset": subset})


def judge_compare(
    runs: Positional[tuple[Path, ...]], out: Path | None = None, num_resamples: int = 2000, seed: int = 0
) -> None:
    """Judged models side by side; refused where rubric, rubric version, judge or items differ.

    Args:
        runs: folders of judgements of the same items; differences are to the first.
        out: the table as a file, .json or .csv.
        num_resamples: bootstrap resamples of the patients.
        seed: of the bootstrap.
    """
    from ecglm.evaluation.judge.compare import compare_runs
    from ecglm.evaluation.judge.tell import compare_lines, write_table

    _check_table(out)
    _check_draws(num_resamples, seed)
    found = compare_runs(runs, num_resamples=num_resamples, seed=seed)
    tell(compare_lines(found))
    if out is not None:
        write_table(out, found)
        say(f"table: {out}")


def agree(
    graders: Positional[tuple[Path, ...]], out: Path | None = None, num_resamples: int = 2000, seed: int = 0
) -> None:
    """How far people and judges agree on the same answers.

    Args:
        graders: folders of judgements, or CSV or JSONL files with id, criterion and score; one per grader.
        out: the table as a file, .json or .csv.
        num_resamples: bootstrap resamples of the items.
        seed: of the bootstrap.
    """
    from ecglm.evaluation.judge.grades import agreements, read_grades
    from ecglm.evaluation.judge.tell import agreement_lines, write_table

    _check_table(out)
    _check_draws(num_resamples, seed)
    found = agreements([read_grades(path) for path in graders], num_resamples=num_resamples, seed=seed)
    tell(agreement_lines(found))
    if out is not None:
        write_table(out, found)
        say(f"table: {out}")


def _check_draws(num_resamples: int, seed: int) -> None:
    if num_resamples < 0 or seed < 0:
        raise EcglmError("--num-resamples and --seed: whole numbers, 0 or more")


def _check_table(out: Path | None) -> None:
    if out is not None and out.suffix.lower() not in (".json", ".csv"):
        raise EcglmError(f"--out {out}: a .json or .csv file is made")


class _Runner:
    """One judge, one rubric, any number of files; what may be spent is for all of them together."""

    def __init__(
        self,
        judge: JudgeModel,
        rubric: Rubric,
        aggregate: str,
        num_resamples: int,
        seed: int,
        overwrite: bool,
        cache: Path,
    ) -> None:
        from ecglm.evaluation.judge.aggregate import check_aggregate
        from ecglm.evaluation.judge.ask import Paid

        check_aggregate(aggregate, rubric)
        _check_draws(num_resamples, seed)
        self.rubric, self.aggregate, self.dry_run = rubric, aggregate, judge.dry_run
        self.asking, self.model, self.paid = judge.asking(), judge.make(rubric), Paid()
        self.cache = judge.cache or cache
        self.options: dict[str, Any] = {
            "num_resamples": num_resamples,
            "seed": seed,
            "overwrite": overwrite,
            "say": say,
        }
        self.name = f"{rubric.name}-{_slug(self.model.facts()['model'])}"

    def score(self, items: list[Item], out: Path, inputs: dict[str, Any]) -> None:
        from ecglm.evaluation.judge.run import judge_items, plan_judging
        from ecglm.evaluation.judge.tell import scores_lines

        if self.dry_run:
            tell(plan_judging(items, self.rubric, self.model, out, self.cache, self.asking).lines(self.asking))
            return
        run = judge_items(
            items,
            self.rubric,
            self.model,
            out,
            cache=self.cache,
            asking=self.asking,
            aggregate=self.aggregate,
            inputs=inputs,
            paid=self.paid,
            **self.options,
        )
        tell(scores_lines(run.summary))
        self._spent()
        say(f"judgements: {run.path}")

    def prefer(self, items: list[Item], rivals: list[Item], out: Path, inputs: dict[str, Any]) -> None:
        from ecglm.evaluation.judge.pairwise import plan_preferring, prefer
        from ecglm.evaluation.judge.tell import preference_lines

        if self.aggregate != "strict":
            raise ConfigError(f"--aggregate {self.aggregate} is for scores; leave it out with --against")
        if self.dry_run:
            plan = plan_preferring(items, rivals, self.rubric, self.model, out, self.cache, self.asking)
            tell(plan.lines(self.asking))
            return
        run = prefer(
            items,
            rivals,
            self.rubric,
            self.model,
            out,
            cache=self.cache,
            asking=self.asking,
            inputs=inputs,
            paid=self.paid,
            **self.options,
        )
        tell(preference_lines(run.summary))
        self._spent()
        say(f"verdicts: {run.path}")

    def _spent(self) -> None:
        tokens = {name: self.paid.usage.get(name, 0) for name in ("prompt_tokens", "completion_tokens")}
        cost = f", cost {self.asking.cost(self.paid.usage):.4f}" if self.asking.price is not None else ""
        say(
            f"asked by this command: {self.paid.calls} calls, {tokens['prompt_tokens']:,} prompt and "
            f"{tokens['completion_tokens']:,} completion tokens{cost}"
        )


def _first(items: list[Item], limit: int | None) -> list[Item]:
    if limit is not None and limit < 1:
        raise EcglmError(f"--limit {limit}: at least 1 is needed")
    if limit is None:
        return items
    keys = list(dict.fromkeys((item.id, item.turn, item.seed) for item in items))[:limit]
    return [item for item in items if (item.id, item.turn, item.seed) in set(keys)]


def _slug(name: str) -> str:
    import re

    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")[-60:] or "judge"


def _inputs(*paths: Path) -> dict[str, Any]:
    from ecglm.evaluation.judge.items import prediction_paths
    from ecglm.files import file_sha256

    found = [file for path in paths for file in prediction_paths(path)]
    return {"predictions": [{"name": file.name, "sha256": file_sha256(file)} for file in found]}
