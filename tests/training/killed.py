"""Run by test_resume.py: forks a training per kill point and lets each be killed with SIGKILL at that point."""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path

import torch

from ecglm import config as strict
from ecglm.errors import EcglmError
from ecglm.models import checkpoint
from ecglm.training import resume, run, stateful, trainer
from ecglm.training.recipe import Recipe


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(where: object, name: str, at: int, step: int | None = None) -> None:
    """Replace a function by one that dies at its call number ``at`` (from 1), or in training step ``step``."""
    original, calls = getattr(where, name), []

    def wrapped(*args, **kwargs):
        calls.append(1)
        if (step is None and len(calls) == at) or (step is not None and args[0].state.global_step == step):
            die()
        return original(*args, **kwargs)

    setattr(where, name, wrapped)


def arm(point: str) -> None:
    what, number = point.split("-")
    if what == "step":  # in the middle of an epoch, step number+1 begun, nothing of it on disk
        before(trainer.ElmTrainer, "training_step", 0, step=int(number))
    elif what == "optimizer":  # a state half written: weights are there, the rest is not
        before(stateful, "save_optimizer", int(number))
    elif what == "state":  # everything of a state is there but its manifest
        original = resume.write_manifest
        calls = []

        def state_manifest(*args, **kwargs):
            calls.append(1)
            return die() if len(calls) == int(number) else original(*args, **kwargs)

        resume.write_manifest = state_manifest
    elif what == "best":  # while a better checkpoint is written: its temporary folder stays behind
        save, calls = checkpoint.save_file, []

        def torn(*args, **kwargs):
            calls.append(1)
            # best and state take turns: odd calls are best's
            return die() if len(calls) == 2 * int(number) - 1 else save(*args, **kwargs)

        checkpoint.save_file = torn
    elif what == "full":  # the disk is full from the state number ``number`` on
        save, calls = stateful.StatefulTrainer._save_checkpoint, []

        def limited(*args, **kwargs):
            calls.append(1)
            if len(calls) == int(number):
                resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))
            return save(*args, **kwargs)

        stateful.StatefulTrainer._save_checkpoint = limited
    elif what == "end":  # after the last step, before the run's manifest
        before(run, "loss_curve", int(number))


def main() -> None:
    torch.set_num_threads(1)
    recipe, folder = strict.load(sys.argv[1], Recipe), Path(sys.argv[2])
    for point in sys.argv[3:]:
        child = os.fork()
        if child == 0:
            arm(point)
            try:
                run.train(recipe, folder / point, say=lambda text: None)
            except EcglmError as error:
                (folder / f"{point}.txt").write_text(str(error))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(point, os.WTERMSIG(status) if os.WIFSIGNALED(status) else "ended", flush=True)


if __name__ == "__main__":
    main()
