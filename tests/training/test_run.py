"""What a training run does and refuses: losses, schedules, rejects, leakage, stopping."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ecglm.errors import ConfigError, EcglmError, StaleOutputError
from ecglm.files import read_jsonl, read_manifest
from ecglm.models.checkpoint import from_pretrained
from ecglm.representations.symbols import SymbolsOptions
from ecglm.store.percentiles import write_percentiles
from ecglm.training import trainer
from ecglm.training.recipe import Recipe
from ecglm.training.run import TrainResult, train
from ecglm.types import Turn


def quiet(text: str) -> None:
    pass


def metrics(folder: Path, key: str) -> dict[int, float]:
    return {r["step"]: r[key] for r in read_jsonl(folder / "metrics.jsonl") if key in r}


def no_dropout(recipe: Recipe) -> Recipe:
    if recipe.symbols is not None:
        return recipe  # no encoder, no dropout
    options = {**recipe.model.encoder_options, "dropout": 0.0}
    return replace(recipe, model=replace(recipe.model, encoder_options=options))


@pytest.mark.parametrize("symbols", [False, True], ids=["signal", "symbols"])
@pytest.mark.parametrize("share, size", [(True, 8), (False, 16)], ids=["shared", "apart"])
def test_accumulated_equals_one_batch(world, tmp_path: Path, symbols: bool, share: bool, size: int) -> None:
    """All training sequences are one step, so the steps hold the same whatever the micro-batch."""
    found = {}
    for batch_size, accumulation in ((size, 1), (size // 2, 2)):
        recipe = world.recipe(
            symbols, batch_size=batch_size, accumulation=accumulation, share_ecg=share, max_steps=4, eval_every=4
        )
        run = train(no_dropout(recipe), tmp_path / f"{accumulation}", say=quiet).path
        found[accumulation] = (metrics(run, "loss"), metrics(run, "eval_loss"))
    assert len(found[1][0]) == 4 and found[1][0][4] < found[1][0][1]
    for ours, theirs in zip(found[1], found[2], strict=True):
        assert theirs == pytest.approx(ours, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("symbols", [False, True], ids=["signal", "symbols"])
def test_a_file_a_section_names_counts_by_what_it_holds(world, tmp_path: Path, symbols: bool) -> None:
    """Percentiles: the file may move once it was read, and the checkpoint needs it no more; another one is refused."""
    name = "symbols" if symbols else "signal"
    facts = {"p1": -0.4, "p99": 0.9, "n_values": 100, "n_records": 3, "dataset": "x", "fs": 50, "seed": 0}
    made = {**facts, "fingerprint": "", "settings": {"split": "train"}, "inputs": {}}
    recipe = world.recipe(symbols, max_steps=2, eval_every=2)

    def run(file: Path) -> TrainResult:
        options = replace(getattr(recipe, name), normalise="percentile", percentiles=str(file))
        return train(replace(recipe, **{name: options}), tmp_path / "run", say=quiet)

    with pytest.raises(ConfigError, match=rf"{name}\.percentiles: .*absent\.json cannot be read"):
        run(tmp_path / "absent.json")
    write_percentiles(tmp_path / "a.json", made)
    assert not run(tmp_path / "a.json").reused
    shutil.move(tmp_path / "a.json", tmp_path / "b.json")
    assert run(tmp_path / "b.json").reused
    shown = from_pretrained(tmp_path / "run" / "best").representation
    if symbols:
        assert shown.tokenizer.percentiles == {"p1": -0.4, "p99": 0.9}
    else:
        assert (shown.normalise, shown.percentiles) == ("percentile", (-0.4, 0.9))
    write_percentiles(tmp_path / "b.json", {**made, "p99": 1.0})
    with pytest.raises(StaleOutputError):
        run(tmp_path / "b.json")


def test_sharing_the_ecg_is_the_same_training(world, tmp_path: Path) -> None:
    """16 questions about 8 ECGs in one step: shared or apart, the same losses step after step."""
    runs = {}
    for share, size in ((True, 8), (False, 16)):
        recipe = no_dropout(world.recipe(batch_size=size, share_ecg=share, max_steps=4, eval_every=2))
        runs[share] = train(recipe, tmp_path / str(share), say=quiet).path
    for key in ("loss", "eval_loss"):
        assert metrics(runs[True], key) == pytest.approx(metrics(runs[False], key), rel=1e-4)


def test_an_untrained_model_knows_nothing_and_a_trained_one_something(world, tmp_path: Path) -> None:
    run = train(world.recipe(max_steps=30, eval_every=10), tmp_path / "run", say=quiet).path
    losses = metrics(run, "loss")
    vocab = from_pretrained(run / "best").elm.llm.config.vocab_size
    assert losses[1] == pytest.approx(math.log(vocab), rel=0.15)  # the loss of a uniform guess
    assert losses[30] < 0.6 * losses[1]
    validation = metrics(run, "eval_loss")
    manifest = read_manifest(run / "best", "checkpoint")
    assert manifest["val_loss"] == min(validation.values()) == validation[manifest["step"]]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "inverse_sqrt"])
def test_d11_the_peak_of_every_schedule_is_lr(world, tmp_path: Path, schedule: str) -> None:
    recipe = world.recipe(schedule=schedule, lr=3e-3, max_steps=8, warmup_steps=2, eval_every=8)
    rates = metrics(train(recipe, tmp_path / "run", say=quiet).path, "learning_rate")
    assert max(rates.values()) == pytest.approx(3e-3, rel=1e-6)
    expected = {
        "cosine": lambda t: 0.5 * (1 + math.cos(math.pi * (t - 2) / 6)),
        "linear": lambda t: 1 - (t - 2) / 6,
    }.get(schedule)
    if expected:
        for step, rate in rates.items():
            t = step - 1  # the rate the step was taken with
            assert rate == pytest.approx(3e-3 * (t / 2 if t < 2 else expected(t)), rel=1e-6)


@pytest.mark.parametrize("parts", [("connector",), ("encoder", "connector"), ("llm",)])
def test_d07_a_runs_frozen_parts_stay_bit_identical(world, tmp_path: Path, parts: tuple[str, ...]) -> None:
    """Three steps and one step of the same recipe: what is frozen is equal in both, what learns is not."""
    saved = []
    for steps in (1, 3):
        recipe = world.recipe(parts=parts, max_steps=steps, warmup_steps=0, eval_every=steps, schedule="constant")
        bundle = from_pretrained(train(recipe, tmp_path / str(steps), say=quiet).path / "best")
        saved.append(bundle.elm)
    for part in ("encoder", "connector", "llm"):
        one, three = (dict(getattr(elm, part).named_parameters()) for elm in saved)
        equal = {name: torch.equal(one[name], three[name]) for name in one}
        assert all(equal.values()) if part not in parts else not any(equal.values()), part


def test_an_unknown_part_is_refused(world, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'encoder'"):
        train(world.recipe(parts=("encodr",)), tmp_path / "run", say=quiet)
    with pytest.raises(ConfigError, match="no encoder"):
        train(world.recipe(symbols=True, parts=("encoder",)), tmp_path / "run", say=quiet)


def test_a_file_that_an_option_names_counts_by_what_it_holds(world, symbols_run: Path, tmp_path: Path) -> None:
    """Moved, the run is the same; another tokenizer under the same name is another run."""
    file = tmp_path / "tokenizer.json"
    shutil.copy(symbols_run / "best" / "ecg_byte.json", file)
    options = SymbolsOptions(leads=("I", "V1"), rate=25, tokenizer=str(file))
    recipe = replace(world.recipe(symbols=True, max_steps=2, eval_every=2), symbols=options)
    assert not train(recipe, tmp_path / "run", say=quiet).reused
    moved = replace(recipe, symbols=replace(options, tokenizer=str(file.rename(tmp_path / "moved.json"))))
    assert train(moved, tmp_path / "run", say=quiet).reused
    values = json.loads((tmp_path / "moved.json").read_text())
    (tmp_path / "moved.json").write_text(json.dumps(values, indent=3))
    with pytest.raises(StaleOutputError):
        train(moved, tmp_path / "run", say=quiet)
    with pytest.raises(StaleOutputError):
        train(replace(moved, symbols=replace(options, tokenizer=None)), tmp_path / "run", say=quiet)


def test_an_unknown_objective_is_refused(world, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no objectives named 'sf'.*did you mean 'sft'"):
        train(world.recipe(objective="sf"), tmp_path / "run", say=quiet)


@pytest.mark.parametrize("one, other", [("train", "val"), ("train", "test"), ("val", "test")])
def test_d01_a_patient_in_two_splits_is_refused(world, tmp_path: Path, one: str, other: str) -> None:
    rows = world.conversations()
    stray = next(c for c in rows if c.split == one)
    rows.append(replace(stray, id="stray", split=other))
    data = world.write(tmp_path / "leak.parquet", rows)
    recipe = world.recipe()
    recipe = replace(recipe, data=replace(recipe.data, files=(str(data),)))
    with pytest.raises(EcglmError, match=rf"1 patients are in {one} and {other} \(first: {stray.patients[0]}\)"):
        train(recipe, tmp_path / "run", say=quiet)


@pytest.mark.parametrize("missing", ["train", "val"])
def test_a_split_without_conversations_is_refused(world, tmp_path: Path, missing: str) -> None:
    rows = [c for c in world.conversations() if c.split != missing]
    data = world.write(tmp_path / "half.parquet", rows)
    recipe = world.recipe()
    recipe = replace(recipe, data=replace(recipe.data, files=(str(data),)))
    with pytest.raises(EcglmError, match=rf"half\.parquet: no conversations in split '{missing}'"):
        train(recipe, tmp_path / "run", say=quiet)


def test_d15_rejects_are_written_counted_and_add_up(world, tmp_path: Path) -> None:
    rows = world.conversations()
    number = {split: sum(c.split == split for c in rows) for split in ("train", "val")}
    first = rows[0]
    assert first.split == "train"
    long = Turn("user", "<ecg>\n" + "word " * 400)
    rows.append(replace(first, id="long", turns=(long, Turn("assistant", "no"))))
    rows.append(replace(first, id="gone", ecgs=("synthetic/nobody",)))
    data = world.write(tmp_path / "rows.parquet", rows)
    recipe = world.recipe()
    recipe = replace(recipe, data=replace(recipe.data, files=(str(data),)))
    said: list[str] = []
    run = train(recipe, tmp_path / "run", say=said.append).path
    rejects = {r["id"]: (r["split"], r["reason"]) for r in read_jsonl(run / "rejects.jsonl")}
    assert rejects == {"long": ("train", "sequence_too_long"), "gone": ("train", "ecg_not_in_store")}
    counts = read_manifest(run, "training-run")["counts"]
    assert counts["train"] == {
        "used": number["train"],
        "sequences": number["train"] // 2,
        "rejected:sequence_too_long": 1,
        "rejected:ecg_not_in_store": 1,
    }
    assert counts["val"]["used"] == number["val"]
    assert any("2 conversations rejected" in line for line in said)


def test_a_window_too_small_for_anything_is_an_error_that_names_the_log(world, tmp_path: Path) -> None:
    recipe = world.recipe()
    recipe = replace(recipe, model=replace(recipe.model, max_len=16))
    with pytest.raises(EcglmError, match=r"no usable conversation in split 'train'.*rejects\.jsonl"):
        train(recipe, tmp_path / "run", say=quiet)
    rows = read_jsonl(tmp_path / "run" / "rejects.jsonl")
    assert {r["reason"] for r in rows} == {"sequence_too_long"}
    assert len(rows) == len(world.conversations("train"))


def fake_validation(monkeypatch, losses: list[float]) -> None:
    """Validation losses from a list, everything else as it is."""
    left = iter(losses)

    def evaluate(self, *args, **kwargs):
        metrics = {"eval_loss": next(left)}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    monkeypatch.setattr(trainer.ElmTrainer, "evaluate", evaluate)


@pytest.mark.parametrize(
    "patience, losses, evaluated, best",
    [
        (2, [5.0, 4.0, 4.5, 4.0, 1.0], 4, 2),  # an equal loss is no progress
        (1, [5.0, 4.0, 3.0, 3.5, 1.0], 4, 3),  # progress each time: goes on
        (3, [5.0, 6.0, 6.0, 4.0, 6.0], 5, 4),  # progress at the last moment counts
        (None, [5.0, 6.0, 6.0, 6.0, 6.0], 5, 1),
    ],
)
def test_patience_counts_validations_without_progress(
    world, tmp_path: Path, monkeypatch, patience, losses, evaluated, best
) -> None:
    fake_validation(monkeypatch, losses)
    recipe = world.recipe(max_steps=10, eval_every=2, patience=patience)
    result = train(recipe, tmp_path / "run", say=quiet)
    assert list(metrics(result.path, "eval_loss").values()) == losses[:evaluated]
    assert (result.best_step, result.val_loss) == (2 * best, min(losses[:evaluated]))
    assert max(metrics(result.path, "loss")) == 2 * evaluated


def test_a_run_killed_after_its_last_validation_does_not_train_on(world, tmp_path: Path, monkeypatch) -> None:
    """Stopped early, state written, killed before the manifest: the same command again must not take one step more."""
    fake_validation(monkeypatch, [5.0, 6.0, 6.0])

    class Killed(BaseException):
        pass

    def killed(folder: Path, what: str) -> None:
        raise Killed

    recipe = world.recipe(max_steps=10, eval_every=2, patience=2)
    with monkeypatch.context() as patch:
        patch.setattr("ecglm.training.run.loss_curve", killed)
        with pytest.raises(Killed):
            train(recipe, tmp_path / "run", say=quiet)
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    result = train(recipe, tmp_path / "run", say=quiet)
    assert (result.path / "metrics.jsonl").read_bytes() == before
    assert result.best_step == 2
    assert not (result.path / "states").exists()


@pytest.mark.parametrize("max_steps, steps", [(6, [2, 4, 6]), (5, [2, 4, 5]), (1, [1])])
def test_the_last_step_is_evaluated_once(world, tmp_path: Path, max_steps: int, steps: list[int]) -> None:
    """Eight sequences in batches of four: steps 2, 4 and 6 also end an epoch."""
    recipe = world.recipe(max_steps=max_steps, warmup_steps=0, eval_every=2, log_every=100)
    run = train(recipe, tmp_path / "run", say=quiet).path
    assert [r["step"] for r in read_jsonl(run / "metrics.jsonl") if "eval_loss" in r] == steps
    assert (run / "loss.png").read_bytes()[:4] == b"\x89PNG"


def break_losses(monkeypatch, bad: float, calls_to_break: set[int]) -> None:
    """The loss of these calls (from 1) times ``bad``."""
    compute, calls = trainer.ElmTrainer.compute_loss, []

    def broken(self, *args, **kwargs):
        calls.append(1)
        return compute(self, *args, **kwargs) * (bad if len(calls) in calls_to_break else 1.0)

    monkeypatch.setattr(trainer.ElmTrainer, "compute_loss", broken)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_losses_that_are_no_numbers_are_left_out_named_and_counted(world, tmp_path: Path, monkeypatch, bad) -> None:
    break_losses(monkeypatch, bad, {2, 4})
    said: list[str] = []
    run = train(world.recipe(max_bad_steps=1), tmp_path / "run", say=said.append).path
    rows = read_jsonl(run / "metrics.jsonl")
    assert [r["step"] for r in rows if "skipped" in r] == [2, 4]
    assert [r["step"] for r in rows if "loss" in r] == [1, 3, 5, 6]
    assert all(math.isfinite(v) for row in rows for v in row.values() if not isinstance(v, str))
    skipped = read_jsonl(run / "skipped.jsonl")
    used = {c.ecgs[0] for c in world.conversations("train")}
    assert [(r["step"], r["reason"]) for r in skipped] == [(2, "loss_not_finite"), (4, "loss_not_finite")]
    assert all(len(r["ids"]) == 4 and set(r["ids"]) <= used for r in skipped)
    assert read_manifest(run, "training-run")["counts"]["training"] == {"steps_skipped:loss_not_finite": 2}
    assert "steps_skipped:loss_not_finite: 2" in said
    for weight in from_pretrained(run / "best").elm.parameters():
        assert bool(torch.isfinite(weight).all())


def test_too_many_losses_that_are_no_numbers_in_a_row_end_the_run(world, tmp_path: Path, monkeypatch) -> None:
    break_losses(monkeypatch, float("nan"), {3, 4, 5})
    with pytest.raises(
        EcglmError, match=r"step 5: loss_not_finite for the 3\. time in a row .*skipped\.jsonl.*lower"
    ) as e:
        train(world.recipe(max_bad_steps=2), tmp_path / "run", say=quiet)
    assert "\n" not in str(e.value) and "synthetic/" in str(e.value)
    assert [r["step"] for r in read_jsonl(tmp_path / "run" / "skipped.jsonl")] == [3, 4, 5]


def test_a_step_with_nothing_to_learn_from_is_left_out_and_counted(world, tmp_path: Path, monkeypatch) -> None:
    """No answer tokens in any batch of the step: the weights must not move, not even by momentum."""
    collate, calls = trainer.collate, []

    def unlabelled(rows, **options):
        batch = collate(rows, **options)
        calls.append(1)
        if len(calls) == 2:
            batch["labels"] = torch.full_like(batch["labels"], -100)
        return batch

    monkeypatch.setattr(trainer, "collate", unlabelled)
    run = train(world.recipe(max_steps=3, eval_every=3), tmp_path / "run", say=quiet).path
    counts = read_manifest(run, "training-run")["counts"]["training"]
    assert counts == {"batches_without_answer": 1, "steps_skipped:no_answer_tokens": 1}
    assert read_jsonl(run / "skipped.jsonl")[0]["step"] == 2


def test_a_validation_loss_that_is_no_number_stops_the_run(world, tmp_path: Path, monkeypatch) -> None:
    answer_loss = trainer.answer_loss
    monkeypatch.setattr(trainer, "answer_loss", lambda *a: (answer_loss(*a)[0] * float("nan"), 1))
    with pytest.raises(EcglmError, match=r"the validation loss is nan at step 2; lower train\.lr"):
        train(world.recipe(), tmp_path / "run", say=quiet)


def test_before_the_first_step_a_run_says_what_learns_and_how(world, tmp_path: Path) -> None:
    said: list[str] = []
    run = train(world.recipe(parts=("connector",), device="cpu"), tmp_path / "run", say=said.append).path
    elm = from_pretrained(run / "best").elm
    own = sum(p.numel() for p in elm.connector.parameters())
    everything = sum(p.numel() for p in elm.parameters())
    first = next(i for i, line in enumerate(said) if line.startswith("step "))
    told = said[:first]
    assert f"learns: connector {own:,} of {own:,}" in told
    assert f"{own:,} of {everything:,} weights learn" in told
    assert any(line.startswith("language model tiny: float32, attention sdpa") for line in told)
    assert "cpu: 6 steps of 4 rows, adamw, cosine to a peak of 0.005 at step 1" in told


def test_questions_without_an_ecg_train_beside_those_with_one_and_are_counted(world, tmp_path: Path) -> None:
    rows = world.conversations()
    first = rows[0]
    for i in range(2):
        asked = (Turn("user", f"What is a QRS complex, in {i} words?"), Turn("assistant", "A wave."))
        rows.append(replace(first, id=f"text{i}", ecgs=(), patients=(), turns=asked))
    data = world.write(tmp_path / "rows.parquet", rows)
    recipe = world.recipe(batch_size=1, max_steps=10, eval_every=10, parts=("encoder", "connector"))
    recipe = replace(recipe, data=replace(recipe.data, files=(str(data),)))
    run = train(recipe, tmp_path / "run", say=quiet).path
    assert read_manifest(run, "training-run")["counts"]["training"] == {"rows_without_ecg": 2}
    alone = [r for r in read_jsonl(run / "metrics.jsonl") if r.get("without_ecg")]
    assert len(alone) == 2 and all(r["grad_norm"] == 0 and r["loss"] > 0 for r in alone)


def test_every_epoch_has_its_own_order_and_uses_everything_once(world, tmp_path: Path, monkeypatch) -> None:
    """Three epochs of eight steps: the batches are those that the sampler gives for (seed, epoch)."""
    seen: list[list[str]] = []
    collate = trainer.collate
    monkeypatch.setattr(
        trainer, "collate", lambda rows, **options: (seen.append([e.id for e in rows]), collate(rows, **options))[1]
    )
    samplers = []
    make = trainer.EpochSampler
    monkeypatch.setattr(trainer, "EpochSampler", lambda *a: samplers.append(make(*a)) or samplers[-1])
    train(world.recipe(batch_size=1, max_steps=24, eval_every=24, seed=4), tmp_path / "run", say=quiet)
    names = list(dict.fromkeys(c.ecgs[0] for c in world.conversations("train")))  # one sequence per ECG, in this order
    wanted = []
    for epoch in range(3):
        sampler = make(samplers[0].lengths.tolist(), 1, 4)
        sampler.set_epoch(epoch)
        order = [names[i] for i, _ in sampler]
        assert sorted(order) == sorted(names)
        wanted += [[name] for name in order]
    assert wanted[:8] != wanted[8:16] != wanted[16:]
    assert [rows for rows in seen if set(rows) <= set(names)] == wanted


def test_batches_larger_than_the_data_work(world, tmp_path: Path) -> None:
    result = train(world.recipe(batch_size=500, max_steps=2), tmp_path / "run", say=quiet)
    assert result.best_step == 2


def test_limit_takes_so_many_training_conversations(world, tmp_path: Path) -> None:
    run = train(world.recipe(max_steps=2), tmp_path / "run", limit=3, say=quiet).path
    counts = read_manifest(run, "training-run")["counts"]
    assert (counts["train"]["used"], counts["val"]["used"]) == (3, 3)


def test_what_a_run_leaves(world, signal_run: Path) -> None:
    names = {p.relative_to(signal_run).parts[0] for p in signal_run.rglob("*")}
    assert names == {"best", "manifest.json", "plan.json", "metrics.jsonl", "speed.jsonl", "loss.png", "recipe.yaml"}
    manifest = json.loads((signal_run / "manifest.json").read_text())
    assert {"recipe.yaml", "speed.jsonl"}.isdisjoint(manifest["outputs"]) and "metrics.jsonl" in manifest["outputs"]
    assert "best/ecg.safetensors" in manifest["outputs"]
    assert str(world.folder) not in (signal_run / "manifest.json").read_text()  # the same bytes wherever it lies
