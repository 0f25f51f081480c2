"""Steps whose loss or gradient is no number, or that have no answer to learn from: left out and counted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from ecglm.errors import EcglmError
from ecglm.training.logs import SKIPPED, StepLog

NOT_FINITE = ("loss_not_finite", "gradient_not_finite")
NO_ANSWER = "no_answer_tokens"


def why_skipped(loss: float, grad_norm: float | None, labels: int | None) -> str | None:
    """The reason to leave a step out, or None. labels: answer tokens of the step; None where the loss has no labels."""
    if labels == 0:
        return NO_ANSWER
    if not math.isfinite(loss):
        return NOT_FINITE[0]
    if grad_norm is not None and not math.isfinite(grad_norm):
        return NOT_FINITE[1]
    return None


def drop_gradients(model: nn.Module) -> None:
    """Make the optimiser's next step do nothing: it passes over weights without a gradient, momentum and decay too."""
    for weight in model.parameters():
        weight.grad = None


class SkipPolicy:
    """Writes each skipped step down with the ids of its rows; stops the run after more than ``most`` in a row that
    were no numbers. Steps without an answer neither count nor interrupt the row.
    """

    def __init__(self, log: StepLog, most: int) -> None:
        self.log, self.most, self.in_a_row = log, most, 0

    def begin(self, step: int) -> None:
        """Take up the count where a run goes on after ``step``."""
        passed = {r["step"]: r["reason"] for r in self.log.skipped()}
        self.in_a_row = 0
        while (reason := passed.get(step)) is not None:
            self.in_a_row += reason in NOT_FINITE
            step -= 1

    def step(self, step: int, reason: str | None, ids: Sequence[str]) -> None:
        """Count one step. Raises EcglmError, naming the rows, when it is one too many."""
        if reason is None:
            self.in_a_row = 0
            return
        row: dict[str, Any] = {"step": step, "reason": reason, "ids": list(ids)}
        self.log.add(SKIPPED, row)
        self.in_a_row += reason in NOT_FINITE
        if self.in_a_row > self.most:
            self.log.flush()
            told = ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
            raise EcglmError(
                f"step {step}: {reason} for the {self.in_a_row}. time in a row (train.max_bad_steps {self.most}), "
                f"rows {told} (all in {self.log.out / SKIPPED}); lower train.lr or train.clip, then train again with "
                "--overwrite"
            )
