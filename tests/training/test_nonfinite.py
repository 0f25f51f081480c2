"""Steps that cannot count are left out, counted with their rows, and too many of them end the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ecglm.errors import EcglmError
from ecglm.files import read_jsonl
from ecglm.training.logs import StepLog, summary
from ecglm.training.nonfinite import SkipPolicy, drop_gradients, why_skipped

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "loss, norm, labels, reason",
    [
        (1.0, 2.0, 5, None),
        (0.0, 0.0, None, None),
        (1.0, None, 5, None),
        (NAN, NAN, 5, "loss_not_finite"),
        (-INF, 1.0, 5, "loss_not_finite"),
        (1.0, NAN, 5, "gradient_not_finite"),
        (1.0, INF, None, "gradient_not_finite"),
        (0.0, 0.0, 0, "no_answer_tokens"),
    ],
)
def test_reasons(loss: float, norm: float | None, labels: int | None, reason: str | None) -> None:
    assert why_skipped(loss, norm, labels) == reason


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Adam])
def test_without_gradients_an_optimiser_moves_nothing(kind: Any, fused: bool) -> None:
    """Zeros would: momentum and decay go on by themselves."""
    torch.manual_seed(0)
    model = nn.Linear(3, 3)
    optimizer = kind(model.parameters(), lr=0.1, weight_decay=0.1, fused=fused)
    for _ in range(3):
        model(torch.randn(2, 3)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    before = [w.detach().clone() for w in model.parameters()]
    moments = [optimizer.state[w]["exp_avg"].clone() for w in model.parameters()]
    model(torch.full((2, 3), NAN)).sum().backward()
    drop_gradients(model)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(torch.equal(a, optimizer.state[w]["exp_avg"]) for a, w in zip(moments, model.parameters(), strict=True))


def test_only_numbers_that_are_none_end_a_run_and_only_in_a_row(tmp_path: Path) -> None:
    policy = SkipPolicy(StepLog(tmp_path), most=2)
    story = ["loss_not_finite", None, "gradient_not_finite", "no_answer_tokens", "loss_not_finite", None]
    for step, reason in enumerate(story, 1):
        policy.step(step, reason, ["a"])
    policy.step(7, "loss_not_finite", ["b"])
    policy.step(8, "loss_not_finite", ["c"])
    rows = [f"row{i}" for i in range(9)]
    with pytest.raises(EcglmError) as error:
        policy.step(9, "gradient_not_finite", rows)
    assert str(error.value).startswith(
        "step 9: gradient_not_finite for the 3. time in a row (train.max_bad_steps 2), rows row0, row1, row2, row3, "
        "row4 and 4 more (all in "
    )
    assert "\n" not in str(error.value) and "lower train.lr" in str(error.value)
    written = read_jsonl(tmp_path / "skipped.jsonl")
    assert [r["step"] for r in written] == [1, 3, 4, 5, 7, 8, 9] and written[-1]["ids"] == rows
    assert summary(tmp_path) == {
        "steps_skipped:gradient_not_finite": 2,
        "steps_skipped:loss_not_finite": 4,
        "steps_skipped:no_answer_tokens": 1,
    }


@pytest.mark.parametrize("step, in_a_row", [(5, 1), (4, 2), (3, 1), (2, 0), (1, 1)])
def test_a_run_that_goes_on_remembers_how_many_there_were(tmp_path: Path, step: int, in_a_row: int) -> None:
    log = StepLog(tmp_path)
    for at, reason in ((1, "loss_not_finite"), (3, "loss_not_finite"), (4, "gradient_not_finite")):
        log.add("skipped.jsonl", {"step": at, "reason": reason, "ids": []})
    log.flush()
    log.begin(step)
    policy = SkipPolicy(log, most=5)
    policy.begin(step)
    assert policy.in_a_row == (0 if step == 5 else in_a_row)
