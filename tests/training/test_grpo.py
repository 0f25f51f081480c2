"""GRPO on a tiny model (grpo.py, grpo_policy.py): the reward rises, a killed run goes on, splits are kept apart."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kill_tools
from ecglm import config as strict
from ecglm.errors import ConfigError, EcglmError
from ecglm.evaluation.rewards.mixture import Mixture
from ecglm.evaluation.rewards.rows import Rewarder
from ecglm.files import read_json, read_jsonl
from ecglm.models.checkpoint import from_pretrained
from ecglm.models.generate import Sampling
from ecglm.prompts.data import EcgSource
from ecglm.store.reader import SegmentStore
from ecglm.training.align import load_to_align
from ecglm.training.grpo import align_grpo, read_questions
from ecglm.training.grpo_data import QuestionDataset
from ecglm.training.grpo_policy import Policy
from ecglm.training.grpo_rollout import draw_answers
from grpo_world import REWARDS, both_ways, reasoning_run, recipe
from tiny_world import tree


def quiet(text: str) -> None:
    """No progress lines."""


@pytest.fixture(scope="module")
def reasoned(world: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return reasoning_run(world, tmp_path_factory.mktemp("reasoned"))


def score(world: Any, rewards: dict[str, float] = REWARDS) -> Rewarder:
    return Rewarder(Mixture(rewards), [world.store])


@pytest.mark.slow  # test_a_step_along_the_gradient_makes_the_better_answers_likelier says it of one step
def test_the_reward_rises_on_questions_about_other_patients(world: Any, reasoned: Any, tmp_path: Path) -> None:
    model, data = reasoned
    given = recipe(world, model, data, max_steps=36, eval_every=36, lr=4e-3, schedule="constant", num_samples=8)
    done = align_grpo(given, tmp_path / "run", score(world), say=quiet)
    held_out = [c for c in world.conversations("val") if c.task == "axis"]

    def reward(checkpoint: Path) -> dict[str, float]:
        bundle = from_pretrained(checkpoint)
        asked = QuestionDataset(
            held_out, EcgSource([SegmentStore(world.store)], bundle.representation), bundle.prompter
        )
        prompts = [asked[i] for i in range(len(asked))]
        sampling = Sampling(1.0, 1.0, 99)
        drawn = draw_answers(bundle.elm, bundle.prompter, prompts, 12, max_new_tokens=32, sampling=sampling)
        talks = [c for c in asked.items for _ in range(12)]
        _, parts = score(world)(talks, [d.text for of in drawn for d in of], 12)
        return {name: float(values.mean()) for name, values in parts.items()}

    before, after = reward(model), reward(done.best)
    assert after["think_format"] > before["think_format"] + 0.3
    assert after["correct"] >= before["correct"]
    log = [r for r in read_jsonl(tmp_path / "run" / "metrics.jsonl") if "reward" in r]
    assert np.mean([r["reward"] for r in log[-8:]]) > np.mean([r["reward"] for r in log[:8]]) + 0.3
    assert all(0 <= r["no_signal"] <= 1 and r.get("clipped", 0) == 0 for r in log)  # one inner step: the ratio is one


@pytest.mark.parametrize(("inner", "beta", "stop"), [(2, 0.05, 3), pytest.param(1, 0.0, 4, marks=pytest.mark.slow)])
def test_a_run_that_ends_in_the_middle_goes_on_to_the_same_bytes(
    world: Any, signal_run: Path, tmp_path: Path, inner: int, beta: float, stop: int
) -> None:
    small = {"max_steps": 5, "eval_every": 2, "save_every": 1, "num_samples": 3, "max_new_tokens": 10}
    given = recipe(world, signal_run / "best", world.data, beta=beta, inner_steps=inner, **small)
    calls = 0

    def dies(talks: Any, texts: list[str], num_samples: int) -> Any:
        nonlocal calls
        calls += len(texts) > 1
        if calls == stop:  # the draw of the last step
            raise KeyboardInterrupt
        return by_length(talks, texts, num_samples)

    with pytest.raises(KeyboardInterrupt):
        align_grpo(given, tmp_path / "cut", dies, say=quiet)
    assert list((tmp_path / "cut" / "states").iterdir())
    for name in ("cut", "whole"):
        assert not align_grpo(given, tmp_path / name, by_length, say=quiet).reused
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")
    assert align_grpo(given, tmp_path / "whole", by_length, say=quiet).reused


@pytest.mark.slow
@pytest.mark.parametrize(("inner", "beta"), [(2, 0.05), (1, 0.0)])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    world: Any, reasoned: Any, tmp_path: Path, inner: int, beta: float
) -> None:
    """States come after odd steps too: in the middle of the inner steps of one draw."""
    model, data = reasoned
    given = recipe(world, model, data, beta=beta, inner_steps=inner, max_steps=7, eval_every=3, save_every=1)
    file = tmp_path / "grpo.yaml"
    file.write_text(strict.dumps(given))
    process = kill_tools.start("align", file, "--out", tmp_path / "killed")
    kill_tools.kill_when(process, lambda: (tmp_path / "killed" / "states" / "checkpoint-3" / "state.json").exists())
    assert not (tmp_path / "killed" / "manifest.json").exists()
    kill_tools.finish(kill_tools.start("align", file, "--out", tmp_path / "killed"))
    align_grpo(given, tmp_path / "whole", score(world), rewards=score(world).facts(), say=quiet)
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")
    again = align_grpo(given, tmp_path / "whole", score(world), rewards=score(world).facts(), say=quiet)
    assert again.reused


def policy(world: Any, given: Any, rewards: Any = None) -> Policy:
    bundle = load_to_align(given)
    questions, _ = read_questions(given, [SegmentStore(world.store)])
    ecgs = EcgSource([SegmentStore(world.store)], bundle.representation)
    datasets = [QuestionDataset(questions[s], ecgs, bundle.prompter) for s in ("train", "val")]
    made = Policy(bundle, given, *datasets, rewards or score(world))
    made.keep_reference()
    return made


def gradient(made: Policy, prompts: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    loss = made.loss(made.bundle.elm, {"prompts": prompts})
    weights = [p for p in made.bundle.elm.parameters() if p.requires_grad]
    if not loss.requires_grad:
        return loss, torch.zeros(1)
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    return loss.detach(), torch.cat([g.reshape(-1) for g in found if g is not None])


def constant(value: float) -> Any:
    return lambda talks, texts, num_samples: (np.full(len(texts), value), {"fixed": np.full(len(texts), value)})


def by_length(talks: Any, texts: list[str], num_samples: int) -> Any:
    found = np.array([float(len(t)) for t in texts])
    return found, {"length": found}


def test_answers_that_are_all_as_good_teach_nothing_and_are_counted(world: Any, signal_run: Path) -> None:
    made = policy(world, recipe(world, signal_run / "best", world.data), constant(1.0))
    loss, found = gradient(made, [made.train[0, 0], made.train[1, 0]])
    assert loss == 0 and not found.any()
    told = made.take()
    assert told["no_signal"] == 1.0 and told["reward"] == told["reward_fixed"] == 1.0 and "no_reward" not in told
    assert "without_fixed" not in told


def test_questions_without_reward_teach_nothing_and_are_counted(world: Any, signal_run: Path) -> None:
    made = policy(world, recipe(world, signal_run / "best", world.data, beta=0.1), constant(np.nan))
    _, found = gradient(made, [made.train[0, 0]])
    assert not found.any()
    told = made.take()
    assert told["no_reward"] == 1 and "reward" not in told and "no_signal" not in told
    assert told["without_fixed"] == 1.0


@pytest.mark.parametrize("run", ["signal_run", "symbols_run"])
def test_a_step_along_the_gradient_makes_the_better_answers_likelier(world: Any, run: str, request: Any) -> None:
    model = request.getfixturevalue(run) / "best"
    made = policy(world, recipe(world, model, world.data, temperature=1.5, max_new_tokens=12), by_length)
    prompts = [made.train[i, 0] for i in range(3)]
    _, found = gradient(made, prompts)
    assert found.abs().max() > 0
    weights = [p for p in made.bundle.elm.parameters() if p.requires_grad]
    before = objective(made, prompts)
    made.bundle.elm.zero_grad()
    made.loss(made.bundle.elm, {"prompts": prompts}).backward()
    with torch.no_grad():
        for weight in weights:
            if weight.grad is not None:
                weight -= 1e-3 * weight.grad / found.norm()
    assert objective(made, prompts) > before


def objective(made: Policy, prompts: list[Any]) -> float:
    """Sum over the answers of advantage x log-probability."""
    from ecglm.training.grpo_rollout import answer_batch, answer_logprobs

    groups = [made.groups[p.id] for p in prompts]
    batch = answer_batch(prompts, [g.drawn for g in groups], made.bundle.prompter, shared=False)
    with torch.no_grad():
        tokens = answer_logprobs(made.bundle.elm, batch, made.bundle.prompter, made.options.temperature)
    sizes = [d.num_learned for g in groups for d in g.drawn]
    return float((tokens.numpy() * np.repeat(np.concatenate([g.advantages for g in groups]), sizes)).sum())


@pytest.mark.parametrize("beta", [0.0, 0.2])
def test_one_shared_prompt_or_a_sequence_each_is_the_same_step(world: Any, signal_run: Path, beta: float) -> None:
    given = recipe(world, signal_run / "best", world.data, beta=beta, temperature=1.3)
    found = []
    for share in (True, False):
        made = policy(world, replace(given, train=replace(given.train, share_ecg=share)), by_length)
        found.append(gradient(made, [made.train[i, 0] for i in range(2)]))
    assert float(found[0][0]) == pytest.approx(float(found[1][0]), abs=1e-4)
    assert torch.allclose(found[0][1], found[1][1], atol=2e-4, rtol=1e-3)


def test_the_reference_stays_when_the_model_moves(world: Any, signal_run: Path) -> None:
    made = policy(world, recipe(world, signal_run / "best", world.data, beta=0.5), by_length)
    frozen = copy.deepcopy(made.bundle.elm.state_dict())
    prompts = [made.train[0, 0]]
    gradient(made, prompts)
    assert made.take()["kl"] == pytest.approx(0.0, abs=1e-6)  # nothing has moved yet
    with torch.no_grad():
        for weight in made.bundle.elm.llm.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    gradient(made, prompts)
    assert made.take()["kl"] > 1e-3
    assert all(torch.equal(frozen[k], v) for k, v in made._copy.state_dict().items())


def test_old_probabilities_are_those_of_the_draw_whatever_was_learned_since(world: Any, signal_run: Path) -> None:
    made = policy(world, recipe(world, signal_run / "best", world.data, inner_steps=2), by_length)
    prompts = [made.train[0, 0]]
    gradient(made, prompts)
    old = made.groups[prompts[0].id].old.copy()
    with torch.no_grad():
        for weight in made.bundle.elm.llm.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    gradient(made, prompts)
    assert np.array_equal(made.groups[prompts[0].id].old, old)
    assert made.take()["clipped"] > 0


def test_states_keep_the_answers_of_running_inner_steps(world: Any, signal_run: Path, tmp_path: Path) -> None:
    given = recipe(world, signal_run / "best", world.data, inner_steps=2, beta=0.1)
    one, other = (policy(world, given, by_length) for _ in range(2))
    prompts = [one.train[0, 0], one.train[1, 0]]
    one.loss(one.bundle.elm, {"prompts": prompts})
    one.save(tmp_path)
    other.load(tmp_path)
    for name, group in one.groups.items():
        same = other.groups[name]
        assert same.drawn == group.drawn and same.rewarded == group.rewarded
        assert np.array_equal(same.old, group.old) and np.array_equal(same.reference, group.reference)
        assert np.array_equal(same.advantages, group.advantages)


def test_adapters_alone_need_no_copy_and_switch_off_for_the_reference(world: Any, signal_run: Path) -> None:
    from ecglm.models.config import LoraConfig

    given = recipe(world, signal_run / "best", world.data, beta=0.5, parts=("llm",))
    made = policy(world, replace(given, lora=LoraConfig(rank=2, alpha=4)), by_length)
    assert made._copy is None
    prompts = [made.train[0, 0]]
    gradient(made, prompts)
    assert made.take()["kl"] == pytest.approx(0.0, abs=1e-6)
    learned = {n for n, p in made.bundle.elm.named_parameters() if p.requires_grad}
    assert learned and all(".lora_" in n for n in learned)
    with torch.no_grad():
        for name, weight in made.bundle.elm.named_parameters():
            if name in learned:
                weight += 0.3
    made.groups[prompts[0].id].reference = None
    before = gradient(made, prompts)
    assert made.take()["kl"] > 1e-4
    assert before[1].abs().max() > 0
    assert {n for n, p in made.bundle.elm.named_parameters() if p.requires_grad} == learned


def test_d10_questions_of_held_out_patients_are_refused_and_counted(world: Any, signal_run: Path, tmp_path: Path):
    rows = world.conversations()
    test = next(c for c in rows if c.split == "test")
    leaked = replace(test, id="leak", split="train")
    data = world.write(tmp_path / "leak.parquet", [*rows, leaked])
    given = recipe(world, signal_run / "best", data)
    questions, refused = read_questions(given, [SegmentStore(world.store)])
    assert [r["id"] for r in refused] == ["leak"] and refused[0]["reason"] == "split_test"
    assert {c.split for c in questions["train"]} == {"train"} and {c.split for c in questions["val"]} == {"val"}
    assert "leak" not in {c.id for c in questions["train"]}


def test_the_checkpoint_remembers_whom_it_was_asked_about(world: Any, reasoned: Any, tmp_path: Path) -> None:
    model, data = reasoned
    done = align_grpo(recipe(world, model, data, max_steps=2, eval_every=2), tmp_path / "run", score(world), say=quiet)
    before, after = (set(from_pretrained(p).trained_on.tolist()) for p in (model, done.best))
    assert before <= after
    manifest = read_json(tmp_path / "run" / "manifest.json")
    assert manifest["counts"]["train"]["used"] > 0 and manifest["counts"]["refused"] == {}
    assert done.val_loss == pytest.approx(-done.told["val_reward"])
    assert (tmp_path / "run" / "reward.png").exists() and not (tmp_path / "run" / "states").exists()


def test_rewards_that_no_question_can_have_are_told_first(world: Any, signal_run: Path, tmp_path: Path) -> None:
    given = recipe(world, signal_run / "best", both_ways(world, tmp_path / "b.parquet"), rewards={"near_number": 1.0})
    with pytest.raises(EcglmError, match=r"none of the .* questions of split 'train' can be rewarded"):
        align_grpo(given, tmp_path / "run", score(world, {"near_number": 1.0}), say=quiet)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"rewards": {}}, "grpo.rewards names no reward"),
        ({"gradient_checkpointing": True}, "gradient_checkpointing is not for method grpo"),
        ({"num_samples": 1}, "num_samples must be 2 or more"),
        ({"inner_steps": 0}, "inner_steps must be 1 or more"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(world: Any, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        recipe(world, Path("m"), Path("d"), **changes)


def test_several_processes_are_refused(
    world: Any, signal_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="one process"):
        align_grpo(recipe(world, signal_run / "best", world.data), tmp_path / "run", score(world), say=quiet)
