"""The trainer below the ECG models: any module and loss, exact resume, skipped steps, logs, epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ecglm.errors import EcglmError
from ecglm.files import read_jsonl
from toy_run import Order, Run, network, reconstruction, rows


class Stop(BaseException):
    """A process that ends at once."""


def stops_at(step: int):
    """The loss, ending the process while step ``step`` is made."""
    run: list[Run] = []

    def loss(model: nn.Module, batch: dict[str, Any], num_items: Any = None) -> torch.Tensor:
        if run and model.training and run[0].trainer.state.global_step == step - 1:
            raise Stop
        return reconstruction(model, batch, num_items)

    return loss, run


def test_a_run_of_any_module_logs_validates_and_keeps_the_best(tmp_path: Path) -> None:
    run = Run(tmp_path).train()
    assert list(run.metrics("loss")) == [1, 2, 3, 4, 5, 6]
    assert list(run.metrics("eval_loss")) == [3, 6]
    assert run.best[-1] == {"step": 6, "val_loss": run.metrics("eval_loss")[6]}
    with torch.no_grad():  # a mean over batches would weigh the odd row of the last batch twice
        x = torch.stack([r.x for r in rows()[:3]])
        expected = (run.model.eval()(x) - x).square().mean().item()
    assert run.metrics("eval_loss")[6] == pytest.approx(expected, rel=1e-6)
    first = read_jsonl(tmp_path / "metrics.jsonl")[0]
    assert first.keys() == {"step", "loss", "learning_rate", "grad_norm", "without_ecg"} and first["without_ecg"] == 2
    assert "seconds" not in (tmp_path / "metrics.jsonl").read_text()
    speed = read_jsonl(tmp_path / "speed.jsonl")
    assert [r["step"] for r in speed] == [1, 2, 3, 4, 5, 6]
    for row in speed:
        assert 0 <= row["data_seconds"] <= row["seconds"] and row["memory_bytes"] > 1 << 20
        assert row["examples_per_second"] == pytest.approx(2 / row["seconds"], rel=0.01)
    assert run.said[0] == "cpu: 6 steps of 2 rows, adamw, cosine to a peak of 0.01 at step 1"
    assert run.said[-1].startswith("step 6/6  loss ") and "  val " in run.said[-1]


WAYS = {
    "plain": {"save_every": 2, "eval_every": 3},  # five steps an epoch
    "accumulated": {
        "accumulation": 2,
        "save_every": 3,
        "eval_every": 4,
        "optimizer": "adam",
    },  # three, one of them short
    "workers": {"accumulation": 3, "schedule": "noam_compat", "warmup_steps": 5, "num_workers": 2, "save_every": 3},
}


@pytest.mark.parametrize("way", WAYS)
def test_d36_a_stopped_run_goes_on_bit_for_bit(tmp_path: Path, way: str) -> None:
    """With dropout; stopped in epoch 2 and, gone on from there, in a later one."""
    changes = {"max_steps": 12, **WAYS[way]}
    whole = Run(tmp_path / "whole", **changes).train()
    for step in (5, 10):
        loss, holder = stops_at(step)
        stopped = Run(tmp_path / "run", loss=loss, **changes)
        holder.append(stopped)
        with pytest.raises(Stop):
            stopped.train()
    again = Run(tmp_path / "run", **changes).train()
    assert again.trainer.args.output_dir == str(tmp_path / "run" / "states")
    for one, other in zip(whole.weights(), again.weights(), strict=True):
        assert torch.equal(one, other)
    state = "states/checkpoint-12"
    for name in ("metrics.jsonl", f"{state}/optimizer.safetensors", f"{state}/rng-0.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    steps = [r["step"] for r in read_jsonl(tmp_path / "run" / "speed.jsonl")]
    assert steps == list(range(1, 13))


@pytest.mark.parametrize("accumulation, per_epoch", [(1, 5), (2, 3), (3, 2), (5, 1), (7, 1)])
def test_epochs_count_steps_and_show_every_row_once_each(tmp_path: Path, accumulation: int, per_epoch: int) -> None:
    """Ten rows in batches of two: an accumulation that does not divide five ends the epoch with a shorter step."""
    run = Run(tmp_path, max_steps=None, max_epochs=3, accumulation=accumulation, eval_every=100, warmup_steps=0).train()
    assert run.trainer.state.global_step == 3 * per_epoch == len(run.metrics("loss"))
    shown = [i for names in run.seen for i in names]
    for epoch in range(3):
        sampler = Order()
        sampler.set_epoch(epoch)
        expected = [f"r{i}" for i in sampler]
        assert shown[10 * epoch : 10 * epoch + 10] == expected
    assert run.metrics("learning_rate")[1] == 0.01


def test_accumulated_batches_are_one_batch(tmp_path: Path) -> None:
    found = {}
    for size, accumulation in ((8, 1), (4, 2), (2, 4)):
        run = Run(
            tmp_path / str(size),
            model=network(0.0),
            batch_size=size,
            accumulation=accumulation,
            max_steps=1,
            warmup_steps=0,
            schedule="constant",
        )
        found[size] = (run.train().weights(), run.metrics("loss"))
    for size in (4, 2):
        for one, other in zip(found[8][0], found[size][0], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
        assert found[size][1] == pytest.approx(found[8][1], rel=1e-5)


def test_a_batch_that_reaches_nothing_that_learns_is_no_error(tmp_path: Path) -> None:
    """Text alone, where only the encoder learns: a loss without a gradient. The weights stay but for their decay."""
    model = network(0.0)
    before = [w.clone() for w in model.parameters()]

    def loss(model: nn.Module, batch: dict[str, Any], num_items: Any = None) -> torch.Tensor:
        return batch["x"].square().mean()

    run = Run(tmp_path, loss=loss, model=model, weight_decay=0.0).train()
    assert set(run.metrics("grad_norm").values()) == {0.0}
    assert all(torch.equal(a, b) for a, b in zip(before, run.weights(), strict=True))


def test_no_memory_is_told_with_the_shape_and_what_to_do(tmp_path: Path) -> None:
    def loss(model: nn.Module, batch: dict[str, Any], num_items: Any = None) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB\nmore")

    with pytest.raises(
        EcglmError, match=r"out of memory at step 1 with a batch of x 2x6; halve train\.batch_size"
    ) as e:
        Run(tmp_path, loss=loss).train()
    assert "\n" not in str(e.value) and "gradient_checkpointing" in str(e.value)

    def other(model: nn.Module, batch: dict[str, Any], num_items: Any = None) -> torch.Tensor:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        Run(tmp_path / "other", loss=other).train()


def test_two_states_are_kept_and_the_last_step_has_one(tmp_path: Path) -> None:
    Run(tmp_path, max_steps=7, save_every=2, eval_every=3).train()
    assert sorted(p.name for p in (tmp_path / "states").iterdir()) == ["checkpoint-6", "checkpoint-7"]


@pytest.mark.parametrize(
    "min_delta, losses, steps",
    [(0.0, [5.0, 4.9, 4.8, 4.7], 8), (0.15, [5.0, 4.9, 4.8, 4.75], 8), (0.3, [5.0, 4.9, 4.8, 1.0], 6)],
)
def test_patience_wants_more_progress_than_min_delta(
    tmp_path: Path, min_delta: float, losses: list[float], steps: int
) -> None:
    """0.15: 4.9 is not enough, 4.8 is 0.2 below 5.0. 0.3: two validations without; the best is kept all the same."""
    left = iter(losses)

    def loss(model: nn.Module, batch: dict[str, Any], num_items: Any = None) -> torch.Tensor:
        return reconstruction(model, batch) if model.training else torch.tensor(told[0])

    told = [0.0]
    run = Run(tmp_path, loss=loss, max_steps=8, eval_every=2, patience=2, min_delta=min_delta)
    evaluate = run.trainer.evaluate

    def next_loss(*args: Any, **options: Any) -> dict[str, float]:
        told[0] = next(left)
        return evaluate(*args, **options)

    run.trainer.evaluate = next_loss
    run.train()
    assert run.trainer.state.global_step == steps
    assert run.best[-1]["val_loss"] == pytest.approx(min(losses[: steps // 2]))


@pytest.mark.parametrize("bf16", [False, True])
def test_bf16_computes_in_bf16_and_validates_alike(tmp_path: Path, bf16: bool) -> None:
    kinds: dict[bool, set[torch.dtype]] = {True: set(), False: set()}
    model = network()
    model[0].register_forward_hook(lambda module, given, found: kinds[module.training].add(found.dtype))
    run = Run(tmp_path, model=model, bf16=bf16).train()
    expected = {torch.bfloat16 if bf16 else torch.float32}
    assert kinds == {True: expected, False: expected}
    assert {w.dtype for w in run.weights()} == {torch.float32}  # masters


def test_gradient_checkpointing_and_compilation_reach_the_model(tmp_path: Path) -> None:
    """Checkpointed, compiled or neither: one training, to rounding."""

    class Layer(nn.Linear):
        checkpointed = True

    found = []
    for changes in ({}, {"gradient_checkpointing": True}, {"torch_compile": True}):
        torch.manual_seed(0)
        model = nn.Sequential(Layer(6, 8), nn.Tanh(), nn.Linear(8, 6))
        runs: list[int] = []
        model[0].register_forward_pre_hook(lambda *_, runs=runs: runs.append(1))
        if "torch_compile" in changes:  # a compiler that changes nothing: what is to be seen is that it was asked
            model.compile = lambda made=model.compile, runs=runs: (runs.append(100), made(backend="eager"))[1]
        run = Run(tmp_path / str(len(found)), model=model, max_steps=2, eval_every=5, **changes).train()
        found.append((run.weights(), runs))
    for weights, _ in found[1:]:
        for one, other in zip(weights, found[0][0], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert 100 in found[2][1] and 100 not in found[0][1]
    assert (
        run.model.state_dict().keys() == nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 6)).state_dict().keys()
    )
