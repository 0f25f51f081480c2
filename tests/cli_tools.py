"""The command line in process: what it returned and printed; and the tiny recipe the tests train with."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

from ecglm import cli

#: A model so small that it trains and answers in a second; what it answers means nothing.
TINY_MODEL = """\
model:
  tiny: {hidden: 32, num_layers: 1, num_heads: 2, vocab_size: 400}
  encoder_options: {widths: [16, 32], stem_stride: 4}
train:
  max_steps: 6
  warmup_steps: 2
  batch_size: 8
  lr: 1e-3
  log_every: 1
  eval_every: 3
"""


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line a user is shown for a mistake."""
        lines = [line for line in self.err.splitlines() if not line.startswith("prepare ")]  # progress
        assert self.status == 2, (self.status, self.out, self.err)
        assert len(lines) == 1 and lines[0].startswith("ecglm: error: "), self.err
        return lines[0]


def ecglm(*args: object) -> Ran:
    """Run ``ecglm ARGS`` here."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status: object = cli.main([str(a) for a in args])
        except SystemExit as leave:
            status = leave.code
    assert isinstance(status, int), status
    return Ran(status, out.getvalue(), err.getvalue())


def done(*args: object) -> str:
    """Run a command that must succeed; what it printed."""
    ran = ecglm(*args)
    assert ran.status == 0, (args, ran.out, ran.err)
    return ran.out


def write_recipe(path: Path, questions: Path, *stores: Path, tasks: str = "rhythm") -> Path:
    names = ", ".join(map(str, stores))
    path.write_text(
        f"name: tiny\ndata:\n  files: [{questions}]\n  stores: [{names}]\n  tasks: [{tasks}]\n"
        f"signal: {{num_tokens: 8}}\n{TINY_MODEL}"
    )
    return path
