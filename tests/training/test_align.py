"""``align``: what a model learns from pairs, on every kind of input; killed, it goes on to the same last bit."""

from __future__ import annotations

import math
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ecglm import config as strict
from ecglm.errors import ConfigError, EcglmError, StaleOutputError
from ecglm.files import read_jsonl, read_manifest
from ecglm.models.assistant import load
from ecglm.models.checkpoint import from_pretrained
from ecglm.models.config import LoraConfig
from ecglm.models.export import export
from ecglm.prompts.data import EcgSource
from ecglm.prompts.people import people
from ecglm.store.reader import SegmentStore
from ecglm.training.align import align
from ecglm.training.align_check import align_plan
from ecglm.training.align_recipe import AlignRecipe
from ecglm.training.align_trainer import REFERENCE, AlignTrainer
from ecglm.training.run import train
from ecglm.training.stateful import STATES
from ecglm.types import Turn
from kill_tools import finish, kill_when, start
from preference_world import of_conversation, recipe, row, write
from tiny_world import tree

LORA = LoraConfig(rank=4, dropout=0.0, train_new_embeddings="none")


def quiet(text: str) -> None:
    """No progress lines."""


@pytest.fixture(scope="module")
def pairs(world, tmp_path_factory) -> Path:
    """A pair about every question, those of the test patients too, and a lone thumb."""
    rows = [of_conversation(c) for c in world.conversations()]
    return write(tmp_path_factory.mktemp("pairs") / "p.jsonl", [*rows, row("t", thumb=1, answer="yes")])


@pytest.fixture(scope="module")
def signal(world, signal_run, pairs, tmp_path_factory) -> Path:
    """An alignment of the signal model by adapters."""
    asked = recipe(world, signal_run / "best", pairs, lora=LORA, train={"parts": ("llm",), "max_steps": 12, "lr": 5e-3})
    return align(asked, tmp_path_factory.mktemp("align") / "run", say=quiet).path


def test_the_preferred_answer_becomes_the_likelier_one(signal: Path) -> None:
    rows = read_jsonl(signal / "metrics.jsonl")
    steps, vals = ([r for r in rows if key in r] for key in ("loss", "eval_loss"))
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert abs(steps[0]["margin"]) < 1e-4 and steps[0]["kl"] < 1e-4
    assert vals[-1]["eval_margin"] > vals[0]["eval_margin"] and vals[-1]["eval_accuracy"] == 1.0
    assert vals[-1]["eval_loss"] < 0.6 and vals[-1]["eval_kl"] > 0
    assert steps[0]["useful"] <= 1
    best = read_manifest(signal / "best", "checkpoint")
    assert best["val_loss"] == pytest.approx(min(v["eval_loss"] for v in vals)) and best["val_accuracy"] == 1.0
    assert (signal / "loss.png").exists() and not (signal / STATES).exists()


def test_what_is_preferred_is_said_more_often_and_the_rest_stays_right(world, tmp_path: Path) -> None:
    """A model that is sure in every third answer learns to be sure in all; what it says of the ECG does not change."""
    sure = ", for sure"
    rows = world.conversations()
    mixed = [
        replace(c, turns=(c.turns[0], Turn("assistant", c.turns[1].text + sure * (number % 3 == 0))))
        for number, c in enumerate(rows)
    ]
    data = world.write(tmp_path / "mixed.parquet", mixed)
    plain = world.recipe(max_steps=80, eval_every=40)
    before = train(replace(plain, data=replace(plain.data, files=(str(data),))), tmp_path / "before", say=quiet).best
    asked = [c for c in rows if c.split == "train"]
    ranked = write(tmp_path / "p.jsonl", [of_conversation(c, "", chosen=c.turns[1].text + sure) for c in asked])
    options = {"parts": ("llm",), "max_steps": 20, "eval_every": 5, "lr": 1e-3, "batch_size": 8}
    after = align(recipe(world, before, ranked, train=options), tmp_path / "after", say=quiet).best

    def said(model: Path) -> tuple[float, float]:
        assistant = load(model)
        ecgs = EcgSource([SegmentStore(world.store)], assistant.bundle.representation)
        talks = [(c.turns[:1], [ecgs.encode(e) for e in c.ecgs]) for c in asked]
        texts = [a["text"] for a in assistant.answer(talks, max_new_tokens=24)]
        right = [t.removesuffix(sure) == c.turns[1].text for t, c in zip(texts, asked, strict=True)]
        return float(np.mean([t.endswith(sure) for t in texts])), float(np.mean(right))

    (sure_before, right_before), (sure_after, right_after) = said(before), said(after)
    assert sure_after >= 0.8 and sure_after >= sure_before + 0.3, (sure_before, sure_after)
    assert right_after >= right_before - 0.1, (right_before, right_after)


@pytest.mark.slow
def test_reports_learn_to_state_the_rate_and_held_out_rhythms_are_read_as_before(tmp_path: Path) -> None:
    """The benchmark at half its size."""
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "align.py"
    run = [sys.executable, str(script), "--patients", "450", "--steps", "450"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]


def test_d10_counts_say_what_was_left_out_and_whom_it_learned_from(signal: Path, signal_run: Path, world) -> None:
    manifest = read_manifest(signal, "alignment-run")
    counts, splits = manifest["counts"], world.conversations()
    assert counts["rows"] == {
        "rows": len(splits) + 1,
        "paired": sum(c.split == "train" for c in splits),
        "rejected:no_pair": 1,
        "rejected:split_test": sum(c.split == "test" for c in splits),
        "rejected:split_val": sum(c.split == "val" for c in splits),
    }
    assert counts["train"]["used"] + counts["val"]["used"] == counts["rows"]["paired"]
    assert len(read_jsonl(signal / "rejects.jsonl")) == sum(v for k, v in counts["rows"].items() if "rejected" in k)
    known = set(from_pretrained(signal / "best").trained_on.tolist())
    assert known == set(from_pretrained(signal_run / "best").trained_on.tolist())  # the same training patients
    assert not known & set(people(world.conversations("test")).tolist())


def test_nobody_of_the_validation_pairs_is_among_the_training_pairs(world, signal_run, pairs) -> None:
    plan = align_plan(recipe(world, signal_run / "best", pairs))
    of = [set(plan.splits.people(p)) for p in plan.pairs]
    train, val = (set().union(*(o for o, v in zip(of, plan.val, strict=True) if v is side)) for side in (False, True))
    assert train and val and not train & val


def test_adapters_alone_have_moved(signal: Path, signal_run: Path) -> None:
    before, after = (load_file(folder / "best" / "ecg.safetensors") for folder in (signal_run, signal))
    assert all(torch.equal(before[name], after[name]) for name in before)
    one, two = (from_pretrained(folder / "best").elm.llm.state_dict() for folder in (signal_run, signal))
    moved = {name for name in one if not torch.equal(one[name], two[name])}
    assert moved and all("proj" in name for name in moved)
    assert not (signal / "best" / "adapter.safetensors").exists()


def test_done_is_reused_and_other_settings_are_refused(world, signal: Path, signal_run: Path, pairs) -> None:
    asked = recipe(world, signal_run / "best", pairs, lora=LORA, train={"parts": ("llm",), "max_steps": 12, "lr": 5e-3})
    before = tree(signal)
    assert align(asked, signal, say=quiet).reused and tree(signal) == before
    with pytest.raises(StaleOutputError):
        align(replace(asked, beta=0.2), signal, say=quiet)


@pytest.mark.parametrize("method", ["dpo", "ipo"])
def test_symbols_and_whole_weights(world, symbols_run: Path, pairs, tmp_path: Path, method: str) -> None:
    asked = recipe(world, symbols_run / "best", pairs, method=method, train={"parts": ("llm",), "max_steps": 6})
    result = align(asked, tmp_path / "run", say=quiet)
    assert result.told["val_margin"] > 0 and result.told["val_accuracy"] > 0.5
    assert load(result.best).bundle.representation.name == "symbols"
    export(result.best, tmp_path / "exported")
    assert (tmp_path / "exported" / "config.json").exists()


def test_tiles(world, tmp_path: Path, pairs) -> None:
    """A PULSE-like model: pages in tiles, a frozen tower, connector and LLM learn."""
    from ecglm.models.pulse_import import import_pulse
    from llava_world import write_llava
    from tiny_world import RATE, SEG_LEN

    write_llava(tmp_path / "original", merge="flat")
    import_pulse(tmp_path / "original", tmp_path / "start", rate=RATE, seg_len=SEG_LEN)
    rows = [of_conversation(c) for c in world.conversations("train")[:8]]
    file = write(tmp_path / "p.jsonl", rows)
    asked = recipe(world, tmp_path / "start", file, train={"parts": ("connector", "llm"), "max_steps": 3})
    result = align(asked, tmp_path / "run", say=quiet)
    assert result.told["val_margin"] > 0
    assert load(result.best).bundle.representation.name == "anyres"


def test_one_sequence_a_pair_or_two_is_the_same_training(world, signal_run, pairs, tmp_path: Path) -> None:
    """And so is a batch of four, or two and two accumulated, with workers, or with activations computed twice."""
    base = recipe(world, signal_run / "best", pairs, train={"max_steps": 3, "eval_every": 3})
    changes: dict[str, dict[str, Any]] = {
        "shared": {},
        "apart": {"share_ecg": False, "batch_size": 2, "accumulation": 2},
        "workers": {"num_workers": 2, "gradient_checkpointing": True},
    }
    found = {}
    for name, changed in changes.items():
        out = align(replace(base, train=replace(base.train, **changed)), tmp_path / name, say=quiet)
        found[name] = [r["loss"] for r in read_jsonl(out.path / "metrics.jsonl") if "loss" in r], out.val_loss
    for name in changes:
        np.testing.assert_allclose(found[name][0], found["shared"][0], atol=2e-4, err_msg=name)
        assert found[name][1] == pytest.approx(found["shared"][1], abs=2e-4), name


def test_bf16_runs(world, signal_run, pairs, tmp_path: Path) -> None:
    asked = recipe(
        world, signal_run / "best", pairs, lora=LORA, train={"max_steps": 2, "bf16": True, "parts": ("llm",)}
    )
    rows = read_jsonl(align(asked, tmp_path / "run", say=quiet).path / "metrics.jsonl")
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=2e-2)


def test_the_reference_is_asked_once_and_read_back(world, signal_run, pairs, tmp_path: Path, monkeypatch) -> None:
    """A run stopped after its reference was written reads it again, bit for bit, and does not ask."""
    asked = recipe(world, signal_run / "best", pairs, train={"max_steps": 2})
    begin = AlignTrainer.train

    def stop(self, *args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(AlignTrainer, "train", stop)
    with pytest.raises(KeyboardInterrupt):
        align(asked, tmp_path / "run", say=quiet)
    file = tmp_path / "run" / STATES / REFERENCE
    before = file.read_bytes()
    monkeypatch.setattr(AlignTrainer, "train", begin)
    monkeypatch.setattr(AlignTrainer, "_ask", lambda self, data: pytest.fail("asked again"))
    seen = []
    plain = AlignTrainer.remember
    monkeypatch.setattr(AlignTrainer, "remember", lambda self: seen.append(file.read_bytes()) or plain(self))
    align(asked, tmp_path / "run", say=quiet)
    assert seen == [before]


def stopped_and_run_again(asked: AlignRecipe, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of files that differ between a run that broke in its sixth step and went on, and one that did not."""
    step = AlignTrainer.training_step

    def breaks(self, *args, **kwargs):
        if self.state.global_step == 5:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(AlignTrainer, "training_step", breaks)
        with pytest.raises(KeyboardInterrupt):
            align(asked, folder / "broken", say=quiet)
    said: list[str] = []
    align(asked, folder / "broken", say=said.append)
    assert "goes on from checkpoint-4" in said
    align(asked, folder / "whole", say=quiet)
    broken, whole = tree(folder / "broken"), tree(folder / "whole")
    assert broken.keys() == whole.keys()
    return [name for name in broken if broken[name] != whole[name]]


@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "whole"])
def test_a_broken_run_goes_on_to_the_same_bytes(world, signal_run, pairs, tmp_path: Path, lora, monkeypatch) -> None:
    torch.set_num_threads(1)
    train = {"max_steps": 8, "eval_every": 4, "save_every": 2, "parts": ("llm",)}
    asked = recipe(world, signal_run / "best", pairs, lora=lora, train=train)
    assert stopped_and_run_again(asked, tmp_path, monkeypatch) == []


@pytest.mark.slow
@pytest.mark.parametrize("lora", [True, False])
def test_killed_and_run_again_equals_uninterrupted(world, signal_run, pairs, tmp_path: Path, lora: bool) -> None:
    torch.set_num_threads(1)
    asked = recipe(
        world,
        signal_run / "best",
        pairs,
        lora=LORA if lora else None,
        train={"max_steps": 40, "eval_every": 4, "save_every": 2, "parts": ("llm",)},
    )
    file = tmp_path / "r.yaml"
    file.write_text(strict.dumps(asked))
    out = tmp_path / "killed"
    process = start("align", file, "--out", out)
    kill_when(process, lambda: (out / STATES / "checkpoint-6" / "state.json").exists())
    assert not (out / "manifest.json").exists()
    finish(start("align", file, "--out", out))
    finish(start("align", file, "--out", tmp_path / "whole"))
    killed, whole = tree(out), tree(tmp_path / "whole")
    assert killed.keys() == whole.keys()
    assert [name for name in killed if killed[name] != whole[name]] == []


@pytest.mark.slow
def test_two_processes_align_as_one(world, signal_run, pairs, tmp_path: Path) -> None:
    """An epoch whose last step has fewer pairs than two processes could share is among the steps."""
    train = {"max_steps": 9, "eval_every": 3, "batch_size": 2, "accumulation": 2, "parts": ("llm",)}
    asked = recipe(world, signal_run / "best", pairs, lora=LORA, train=train)
    file = tmp_path / "r.yaml"
    file.write_text(strict.dumps(asked))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [*run, "-m", "ecglm", "align", str(file), "--out", str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    align(asked, tmp_path / "one", say=quiet)
    one, two = (read_jsonl(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    assert [r.keys() for r in one] == [r.keys() for r in two]
    for ours, theirs in zip(one, two, strict=True):
        for name in ours.keys() - {"tokens", "useful"}:  # padding is another in smaller batches
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3, abs=2e-4), (ours["step"], name)


def test_what_cannot_be_aligned_is_told(world, signal_run, pairs, tmp_path: Path) -> None:
    asked = recipe(world, signal_run / "best", pairs)
    with pytest.raises(ConfigError, match="is no checkpoint folder; name best/ of a run"):
        align(replace(asked, model=str(tmp_path)), tmp_path / "run", say=quiet)
    alone = write(tmp_path / "alone.jsonl", [row("t", thumb=1, answer="yes")])
    with pytest.raises(EcglmError, match=r"no pair to learn from \(rows 1, paired 0, rejected:no_pair 1\)"):
        align(recipe(world, signal_run / "best", alone), tmp_path / "run", say=quiet)
    one = [of_conversation(c) for c in world.conversations("train") if c.ecgs == world.conversations("train")[0].ecgs]
    with pytest.raises(EcglmError, match="hang together by patient"):
        align(recipe(world, signal_run / "best", write(tmp_path / "1.jsonl", one)), tmp_path / "run", say=quiet)
    with pytest.raises(ConfigError, match="this model has no image_encoder"):
        bad = replace(asked, train=replace(asked.train, parts=("image_encoder",)))
        align(bad, tmp_path / "run", say=quiet)
    with pytest.raises(ConfigError, match="where: ecg"):
        align(replace(asked, lora=LoraConfig(where="ecg")), tmp_path / "run", say=quiet)
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
