"""Lines for people: the plan, and how far it is."""

from __future__ import annotations

from types import SimpleNamespace

from ecglm.training import progress
from ecglm.training.options import TrainConfig
from ecglm.training.progress import Progress, plan_line


def test_the_plan_says_where_how_long_and_to_which_peak() -> None:
    alone, four = (SimpleNamespace(device="cpu", world_size=n) for n in (1, 4))
    config = TrainConfig(max_steps=100, batch_size=4, accumulation=2, lr=2e-4, warmup_share=0.1)
    assert (
        plan_line(config, 100, None, alone) == "cpu: 100 steps of 8 rows, adamw, cosine to a peak of 0.0002 at step 10"
    )
    noam = TrainConfig(max_steps=1000, schedule="noam_compat", optimizer="adam", bf16=True)
    told = plan_line(noam, 1000, 2048, four)
    assert told.startswith("cpu x 4 processes, bf16: 1000 steps of 16 rows, ")
    assert told.endswith(
        "adam, noam_compat to a peak of 0.000988 at step 500 (noam_compat, width 2048: train.lr is not used)"
    )


def test_lines_come_every_so_many_steps_not_too_often_and_at_the_end(monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    said: list[str] = []
    lines = Progress(said.append, log_every=2)
    lines.begin(0)
    for step in range(1, 8):
        now[0] += 2.0
        lines.val = 1.25 if step > 3 else lines.val
        row = {"step": step, "loss": float(step)} if step != 6 else {"step": step}  # a step that was left out
        lines.step(row, {"useful": 100}, 7)
    assert said == [
        "step 2/7  loss 1.5000  50 tokens/s  4 s, 10 s left",
        "step 4/7  loss 3.5000  val 1.2500  50 tokens/s  8 s, 6 s left",
        "step 6/7  loss 5.0000  val 1.2500  50 tokens/s  12 s, 2 s left",
        "step 7/7  loss 7.0000  val 1.2500  50 tokens/s  14 s, 0 s left",
    ]
    said.clear()
    lines.begin(0)
    for step in range(1, 5):  # at once
        lines.step({"step": step, "loss": 1.0}, {"useful": 0}, 100)
    assert said == []
