"""The lines that tell a person how far a training is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ecglm.training.options import TrainConfig
from ecglm.training.schedules import peak


def plan_line(config: TrainConfig, num_steps: int, width: int | None, args: Any) -> str:
    """One line on how the training will go: where, how long, by which optimiser, to which peak. args: the Trainer's."""
    rows = config.batch_size * config.accumulation  # processes share them
    warmup = config.warmup(num_steps)
    note = f" (noam_compat, width {width}: train.lr is not used)" if config.schedule == "noam_compat" else ""
    processes = f" x {args.world_size} processes" if args.world_size > 1 else ""
    return (
        f"{args.device}{processes}{', bf16' if config.bf16 else ''}: {num_steps} steps of {rows} rows, "
        f"{config.optimizer}, {config.schedule} to a peak of {peak(config, num_steps, width):.3g} at step "
        f"{warmup}{note}"
    )


class Progress:
    """Says every ``log_every`` steps, but at most every three seconds, the mean loss since the last line."""

    PAUSE = 3.0

    def __init__(self, say: Callable[[str], None], log_every: int) -> None:
        self.say, self.log_every = say, log_every
        self.val = float("nan")
        self.losses: list[float] = []
        self.useful = self.first_step = 0
        self.started = self.last_said = time.monotonic()

    def begin(self, step: int) -> None:
        """Training begins, or goes on, after ``step``."""
        self.started = self.last_said = time.monotonic()
        self.first_step, self.useful = step, 0

    def step(self, row: dict[str, Any], counts: dict[str, int], num_steps: int) -> None:
        """Take in one step, the row of its metrics, and say something when it is time."""
        if "loss" in row:
            self.losses.append(row["loss"])
        self.useful += counts["useful"]
        done, now = row["step"], time.monotonic()
        if done < num_steps and (done % self.log_every or now - self.last_said < self.PAUSE):
            return
        self.last_said, spent = now, now - self.started
        left = spent / max(done - self.first_step, 1) * (num_steps - done)
        loss = f"  loss {sum(self.losses) / len(self.losses):.4f}" if self.losses else ""
        val = "" if self.val != self.val else f"  val {self.val:.4f}"
        speed = f"  {self.useful / max(spent, 1e-9):,.0f} tokens/s" if self.useful else ""
        self.say(f"step {done}/{num_steps}{loss}{val}{speed}  {spent:.0f} s, {left:.0f} s left")
        self.losses.clear()
