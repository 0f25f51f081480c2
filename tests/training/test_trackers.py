"""Trackers by name: told of every logged step, one line when they are not installed, left out when they fail."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from ecglm.errors import ConfigError
from ecglm.files import read_jsonl
from ecglm.training import stateful, trackers
from ecglm.training.trackers import Tracker
from toy_run import Run


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_a_tracker_that_is_not_installed_is_one_line(tmp_path: Path, monkeypatch, name: str) -> None:
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda found: None)
    with pytest.raises(ConfigError, match=rf"train\.report_to: {name} is not installed; pip install {name}") as error:
        Run(tmp_path, report_to=(name,))
    assert "\n" not in str(error.value)


class Recorder(TrainerCallback):
    """A library's callback, as far as it goes; fails at the event ``fails``."""

    def __init__(self, fails: str = "", error: type[BaseException] = OSError) -> None:
        self.fails, self.error = fails, error
        self.told: list[str] = []
        self.logs: list[dict[str, Any]] = []

    def _event(self, name: str) -> None:
        self.told.append(name)
        if name == self.fails:
            raise self.error("connection refused\nmore")

    def on_init_end(self, *args: Any, **kwargs: Any) -> None:
        self._event("on_init_end")

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self._event("on_train_begin")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self._event("on_log")
        self.logs.append({"at": state.global_step, **logs})

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self._event("on_train_end")


def run_with(tmp_path: Path, monkeypatch, callback: Recorder) -> Run:
    monkeypatch.setattr(stateful, "trackers", lambda names, out, say: [Tracker(name, callback, say) for name in names])
    return Run(tmp_path, report_to=("wandb",), log_every=2)


def test_a_tracker_hears_of_every_logged_step_and_validation(tmp_path: Path, monkeypatch) -> None:
    callback = Recorder()
    run_with(tmp_path, monkeypatch, callback).train()
    assert [(row["at"], "eval_loss" in row) for row in callback.logs] == [
        (2, False),
        (3, True),
        (4, False),
        (6, False),
        (6, True),
    ]
    first = callback.logs[0]
    assert first.keys() >= {"loss", "learning_rate", "grad_norm", "seconds", "memory_bytes"}
    assert first["loss"] == read_jsonl(tmp_path / "metrics.jsonl")[1]["loss"]
    assert callback.told[0] == "on_init_end" or callback.told[0] == "on_train_begin"
    assert callback.told[-1] == "on_train_end"


@pytest.mark.parametrize(
    "event, error",
    [
        ("on_train_begin", OSError),
        ("on_train_end", OSError),
        *(("on_log", e) for e in (OSError, RuntimeError, ValueError, ConnectionError, TimeoutError)),
    ],
)
def test_a_backend_that_is_down_does_not_stop_training(tmp_path: Path, monkeypatch, event: str, error: Any) -> None:
    callback = Recorder(event, error)
    run = run_with(tmp_path, monkeypatch, callback).train()
    told = [line for line in run.said if line.startswith("tracker")]
    assert told == ["tracker wandb fails and is left out from here (connection refused); metrics.jsonl goes on"]
    assert callback.told.count(event) == 1
    assert list(run.metrics("loss")) == [1, 2, 3, 4, 5, 6]


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_gets_the_numbers_of_the_log(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = Run(tmp_path, report_to=("tensorboard",)).train()
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    for tag, key in (("train/loss", "loss"), ("eval/loss", "eval_loss"), ("train/grad_norm", "grad_norm")):
        assert {e.step: e.value for e in found.Scalars(tag)} == pytest.approx(run.metrics(key), rel=1e-5)
