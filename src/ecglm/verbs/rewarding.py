"""``ecglm align`` with ``method: grpo``: the recipe's rewards and its training brought together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecglm.verbs.common import say

if TYPE_CHECKING:
    from ecglm.evaluation.rewards.rows import Rewarder
    from ecglm.training.align import AlignResult


def rewarder(recipe: Any) -> Rewarder:
    """The rewards of a recipe on the ECGs of its stores; ConfigError for a reward nobody knows, or a bad weight."""
    from ecglm.evaluation.rewards.mixture import Mixture
    from ecglm.evaluation.rewards.rows import Rewarder

    return Rewarder(Mixture(recipe.grpo.rewards), recipe.data.stores)


def align_by_rewards(recipe: Any, out: Path, *, overwrite: bool, limit: int | None) -> AlignResult:
    """Train a recipe of ``method: grpo``."""
    score = rewarder(recipe)
    from ecglm.training.grpo import align_grpo

    return align_grpo(recipe, out, score, rewards=score.facts(), overwrite=overwrite, limit=limit, say=say)


def validate_rewards(recipe: Any) -> None:
    """Read what a recipe of ``method: grpo`` names but weights, and say what would be asked."""
    from collections import Counter

    from ecglm.errors import EcglmError
    from ecglm.store.reader import SegmentStore
    from ecglm.training.align_check import check_pipeline, model_pipeline
    from ecglm.training.grpo import read_questions

    score = rewarder(recipe)
    stores = [SegmentStore(path) for path in recipe.data.stores]
    check_pipeline(model_pipeline(recipe.model), stores)
    questions, refused = read_questions(recipe, stores)
    for reason, number in sorted(Counter(r["reason"] for r in refused).items()):
        say(f"  refused:{reason}: {number}")
    for split, found in questions.items():
        if not found:
            raise EcglmError(f"{', '.join(recipe.data.files)}: no question of split '{split}' for the tasks asked for")
        say(f"{split}: {len(found)} questions")
    told = ", ".join(f"{weight:g} {name}" for name, weight in score.mixture.weights.items())
    say(f"{recipe.name}: grpo, rewards {told}, {recipe.train.length}: valid")
