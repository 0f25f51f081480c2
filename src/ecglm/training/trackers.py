"""Trackers (TensorBoard, trackio, Weights & Biases) by name; a tracker that fails never stops a training."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

from ecglm.errors import hub_errors
from ecglm.training.logs import TRACKED, check_tracker

#: What a network, a disk or a login that is not there raises; and each package's own base class of errors.
_DOWN = (OSError, RuntimeError, ValueError, TypeError, AttributeError, KeyError, ImportError)
_OWN = {"wandb": ("wandb.errors", "Error")}


def trackers(names: Sequence[str], out: Path, say: Callable[[str], None]) -> list[TrainerCallback]:
    """A callback for each name. ConfigError for one whose package is not installed."""
    return [Tracker(name, _callback(name, out), say) for name in names]


def _callback(name: str, out: Path) -> Any:
    check_tracker(name)
    if name == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter

        return TensorBoardCallback(SummaryWriter(log_dir=str(out / TRACKED)))
    return WandbCallback() if name == "wandb" else TrackioCallback()


class Tracker(TrainerCallback):
    """Passes a run's events on to a library's callback until that fails; then says so once and goes on without it."""

    EVENTS = ("on_init_end", "on_train_begin", "on_log", "on_train_end")

    def __init__(self, name: str, callback: Any, say: Callable[[str], None]) -> None:
        self.name, self.callback, self.say = name, callback, say
        self.errors: tuple[type[BaseException], ...] = (*_DOWN, *hub_errors())  # trackio speaks with the hub
        if (own := _OWN.get(name)) and importlib.util.find_spec(own[0].partition(".")[0]) is not None:
            self.errors = (*self.errors, getattr(importlib.import_module(own[0]), own[1]))

    def on_init_end(self, *args: Any, **kwargs: Any) -> None:
        self._pass_on("on_init_end", args, kwargs)

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self._pass_on("on_train_begin", args, kwargs)

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        self._pass_on("on_log", args, kwargs)

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self._pass_on("on_train_end", args, kwargs)

    def _pass_on(self, event: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.callback is None:
            return
        try:
            getattr(self.callback, event)(*args, **kwargs)
        except self.errors as error:
            told = next(iter(str(error).strip().splitlines()), type(error).__name__)
            self.say(f"tracker {self.name} fails and is left out from here ({told}); metrics.jsonl goes on")
            self.callback = None
