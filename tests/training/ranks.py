"""Run by test_distributed.py and test_fsdp.py under torchrun: trains one recipe after another, and keeps for every
process what it decided, what it read and what it saved.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch

from ecglm import config as strict
from ecglm.errors import EcglmError
from ecglm.prompts import pictures
from ecglm.training import run, stateful
from ecglm.training.recipe import Recipe

DECISIONS: list[dict] = []
READ: list[list[str]] = []


def watch() -> None:
    """Keep each validation's loss here, the loss of all, and what was decided."""
    trainer = stateful.StatefulTrainer
    decide, evaluate, read = trainer._determine_best_metric, trainer.evaluate, trainer.get_batch_samples

    def deciding(self, metrics, trial):
        best = decide(self, metrics, trial)
        own = self.own_validation
        row = {"step": self.state.global_step, "loss": metrics["eval_loss"], "own": own, "best": best}
        DECISIONS.append({**row, "stop": self.control.should_training_stop, "read": list(READ)})
        return best

    def evaluating(self, *args, **kwargs):
        plain = self.accelerator.reduce

        def reducing(total, **options):
            self.own_validation = float(total[0] / total[1]) if float(total[1]) else None
            return plain(total, **options)

        self.accelerator.reduce = reducing
        try:
            return evaluate(self, *args, **kwargs)
        finally:
            self.accelerator.reduce = plain

    def reading(self, *args):
        found = read(self, *args)
        READ.append([i for f in self.facts for i in f["ids"]])
        return found

    stateful.StatefulTrainer._determine_best_metric = deciding
    stateful.StatefulTrainer.evaluate = evaluating
    stateful.StatefulTrainer.get_batch_samples = reading


def fail(how: str) -> None:
    """The second process breaks, or hangs, in its third step."""
    step = stateful.StatefulTrainer.training_step

    def failing(self, *args, **kwargs):
        if os.environ["RANK"] == "1" and self.state.global_step == 2:
            if how == "hang":
                time.sleep(600)
            if how == "die":
                os._exit(7)
            raise EcglmError("the disk of this process is on fire")
        return step(self, *args, **kwargs)

    stateful.StatefulTrainer.training_step = failing


def main() -> None:
    torch.set_num_threads(1)
    pictures._MANY = 1  # the processes share the first look at picture files among them
    watch()
    how, folder = sys.argv[1], Path(sys.argv[2])
    if how in ("raise", "hang", "die"):
        fail(how)
    rank = os.environ.get("RANK", "0")
    for file in sys.argv[3:]:
        recipe = strict.load(file, Recipe)
        out = folder / Path(file).stem
        DECISIONS.clear()
        READ.clear()
        try:
            run.train(recipe, out, say=lambda text: print(f"{rank}: {text}", flush=True))
        except EcglmError as error:
            print(f"{rank}: error: {error}", file=sys.stderr, flush=True)
            os._exit(2)
        (folder / f"{Path(file).stem}-{rank}.json").write_text(json.dumps(DECISIONS))


if __name__ == "__main__":
    main()
