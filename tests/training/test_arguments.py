"""What the Hugging Face Trainer is told: steps or epochs, the device, nothing that reports or logs by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ecglm.errors import EcglmError
from ecglm.training.arguments import arguments
from ecglm.training.distributed import check_device
from ecglm.training.options import TrainConfig


def test_steps_or_epochs(tmp_path: Path) -> None:
    steps = arguments(TrainConfig(max_steps=70, device="cpu"), tmp_path)
    assert (steps.max_steps, steps.logging_strategy, steps.report_to, steps.device.type) == (70, "no", [], "cpu")
    epochs = arguments(TrainConfig(max_epochs=4, device="cpu"), tmp_path)
    assert (epochs.max_steps, epochs.num_train_epochs) == (-1, 4)


def test_states_come_with_validations_unless_told_otherwise(tmp_path: Path) -> None:
    assert arguments(TrainConfig(eval_every=30, device="cpu"), tmp_path).save_steps == 30
    both = arguments(TrainConfig(eval_every=30, save_every=7, device="cpu"), tmp_path)
    assert (both.eval_steps, both.save_steps) == (30, 7)


def test_a_device_that_is_not_there_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in ("cuda", "cuda:0"):
        with pytest.raises(EcglmError, match=rf"train\.device is {device}, but no CUDA device is to be seen; use --tr"):
            arguments(TrainConfig(device=device), tmp_path)
    assert arguments(TrainConfig(device="auto"), tmp_path).device.type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(EcglmError, match=r"train\.device is cuda:2, but there are only 2 \(cuda:0 to cuda:1\)"):
        check_device("cuda:2")
    check_device("cuda:1")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_chosen_gpu_is_the_one_in_use(tmp_path: Path) -> None:
    last = torch.cuda.device_count() - 1
    made = arguments(TrainConfig(device=f"cuda:{last}"), tmp_path)
    assert made.device == torch.device("cuda", last) and torch.cuda.current_device() == last
    assert arguments(TrainConfig(device="auto"), tmp_path).n_gpu == 1  # several in sight are not used together
