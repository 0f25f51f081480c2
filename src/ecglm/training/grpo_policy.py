"""The model that GRPO teaches: draws answers, has them rewarded, and gives the loss of what it drew."""

from __future__ import annotations

import contextlib
import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ecglm.files import read_json, write_json
from ecglm.models.checkpoint import Bundle
from ecglm.models.prefix import window_of
from ecglm.models.stream import Sampling
from ecglm.training.align_recipe import AlignRecipe
from ecglm.training.grpo_data import QuestionDataset
from ecglm.training.grpo_loss import advantages, grpo_loss, token_weights
from ecglm.training.grpo_rollout import Drawn, answer_batch, answer_logprobs, draw_answers
from ecglm.types import Conversation, Example

#: ``(conversations, completions, num_samples)`` → ``(total, parts)``: the reward of each completion and its parts by
#: name, ``(n,)`` each, NaN where none can be computed. num_samples in a row answer the same question.
Score = Callable[[Sequence[Conversation], Sequence[str], int], tuple[np.ndarray, dict[str, np.ndarray]]]
ROLLOUTS = "rollouts.json"


@dataclass
class Group:
    """The answers to one question. old, reference: log-probabilities of their tokens, one answer after another; None
    until they are known.
    """

    drawn: list[Drawn]
    advantages: np.ndarray
    rewarded: bool
    old: np.ndarray | None = None
    reference: np.ndarray | None = None

    @property
    def learns(self) -> bool:
        return bool(self.advantages.any())


class Policy:
    """``loss`` and ``measure`` for ``StatefulTrainer``. Dropout and the statistics of batches are off: the answers are
    drawn without them. Call ``keep_reference`` once, before anything is learned.
    """

    def __init__(
        self, bundle: Bundle, recipe: AlignRecipe, train: QuestionDataset, val: QuestionDataset, score: Score
    ) -> None:
        assert recipe.grpo is not None
        self.bundle, self.options, self.beta, self.score = bundle, recipe.grpo, recipe.beta, score
        self.train, self.val = train, val
        self.sampling = Sampling(recipe.grpo.temperature, 1.0, recipe.train.seed)
        self.shared = recipe.train.share_ecg and window_of(bundle.elm.llm) is None
        self.step_rows = recipe.train.batch_size * recipe.train.accumulation
        self.groups: dict[str, Group] = {}
        self.sums: Any = Counter()  # of whole numbers and of floats
        self._copy: Any = None
        self._only_adapters = False

    def keep_reference(self) -> None:
        """Keep the model as it is now: by its adapters where nothing else learns, else as a frozen copy."""
        if not self.beta:
            return
        learns = [name for name, p in self.bundle.elm.named_parameters() if p.requires_grad]
        self._only_adapters = bool(learns) and all(".lora_" in name for name in learns)
        if not self._only_adapters:
            self._copy = copy.deepcopy(self.bundle.elm).requires_grad_(False).eval()

    def loss(self, model: Any, batch: dict[str, Any], num_items: Any = None) -> torch.Tensor:
        """Loss of a batch of prompts, the mean over all answers drawn to them (``grpo_loss``)."""
        self.bundle.elm.eval()
        prompts: list[Example] = batch["prompts"]
        self._draw([p for p in prompts if p.id not in self.groups])
        asked = [(p, self.groups[p.id]) for p in prompts]
        learned = [(p, g) for p, g in asked if g.learns or (self.beta and g.rewarded)]
        if not learned:
            return torch.zeros((), device=self.bundle.elm.device)
        inputs = answer_batch(
            [p for p, _ in learned], [g.drawn for _, g in learned], self.bundle.prompter, shared=self.shared
        )
        groups = [g for _, g in learned]
        if self.beta and any(g.reference is None for g in groups):
            with torch.no_grad(), self._as_reference() as reference:
                self._share(groups, self._logprobs(reference, inputs), "reference")
        tokens = self._logprobs(model, inputs)
        if any(g.old is None for g in groups):
            self._share(groups, tokens.detach(), "old")
        lengths = np.array([d.num_learned for g in groups for d in g.drawn])
        weights = token_weights(lengths, self.options.length, self.options.max_new_tokens)
        weights /= len(prompts) * self.options.num_samples
        loss, facts = grpo_loss(
            tokens,
            self._of_tokens([g.old for g in groups]),
            self._of_tokens([np.repeat(np.concatenate([g.advantages for g in groups]), lengths)]),
            self._of_tokens([np.repeat(weights, lengths)]),
            clip=self.options.clip,
            beta=self.beta,
            reference=self._of_tokens([g.reference for g in groups]) if self.beta else None,
        )
        self.sums.update({name: float(found.double().sum()) for name, found in facts.items()} | {"tokens": len(tokens)})
        return loss

    def _logprobs(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        return answer_logprobs(model, inputs, self.bundle.prompter, self.options.temperature)

    def _of_tokens(self, found: Sequence[Any]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate(found).astype(np.float32)).to(self.bundle.elm.device)

    def _share(self, groups: Sequence[Group], tokens: torch.Tensor, name: str) -> None:
        """Give each group what is known of its tokens; what it knew before stays."""
        sizes = [sum(d.num_learned for d in g.drawn) for g in groups]
        for group, part in zip(groups, np.split(tokens.float().cpu().numpy(), np.cumsum(sizes)[:-1]), strict=True):
            if getattr(group, name) is None:
                setattr(group, name, part)

    @contextlib.contextmanager
    def _as_reference(self) -> Iterator[Any]:
        if not self._only_adapters:
            yield self._copy
            return
        from peft.tuners.tuners_utils import BaseTunerLayer

        layers = [m for m in self.bundle.elm.modules() if isinstance(m, BaseTunerLayer)]
        for layer in layers:
            layer.enable_adapters(False)
        try:
            yield self.bundle.elm
        finally:
            for layer in layers:
                layer.enable_adapters(True)

    def _draw(self, prompts: Sequence[Example]) -> None:
        """Draw and reward the answers to new prompts; those that several steps ago were learned from go."""
        if not prompts:
            return
        number = self.options.num_samples
        most, elm, prompter = self.options.max_new_tokens, self.bundle.elm, self.bundle.prompter
        drawn = draw_answers(elm, prompter, prompts, number, max_new_tokens=most, sampling=self.sampling)
        total, parts = self._rewards(self.train, prompts, drawn)
        found, has_signal = advantages(total.reshape(-1, number), divide_by_std=self.options.divide_by_std)
        rewarded = ~np.isnan(total.reshape(-1, number)[:, 0])
        for i, prompt in enumerate(prompts):
            self.groups[prompt.id] = Group(drawn[i], found[i], bool(rewarded[i]))
        while len(self.groups) > self.step_rows:
            self.groups.pop(next(iter(self.groups)))
        self._count(drawn, total, parts)
        self.sums.update({"groups": int(rewarded.sum()), "no_signal": int((rewarded & ~has_signal).sum())})
        self.sums["no_reward"] += int((~rewarded).sum())

    def _rewards(
        self, data: QuestionDataset, prompts: Sequence[Example], drawn: Sequence[Sequence[Drawn]]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        asked = [data.conversation(p) for p, of in zip(prompts, drawn, strict=True) for _ in of]
        return self.score(asked, [d.text for of in drawn for d in of], len(drawn[0]))

    def _count(
        self, drawn: Sequence[Sequence[Drawn]], total: np.ndarray, parts: dict[str, np.ndarray], of: str = ""
    ) -> None:
        flat = [d for one in drawn for d in one]
        self.sums.update({f"{of}answers": len(flat), f"{of}length": sum(d.num_learned for d in flat)})
        self.sums[f"{of}cut"] += sum(d.cut for d in flat)
        for name, values in {"reward": total, **{f"reward_{n}": v for n, v in parts.items()}}.items():
            self.sums[f"{of}{name}"] += float(np.nansum(values))
            self.sums[f"{of}{name}_n"] += int((~np.isnan(values)).sum())

    def measure(self, model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, int]:
        """``(minus the summed reward, number of answers that have one)`` of greedy answers to validation prompts."""
        most, prompts = self.options.max_new_tokens, batch["prompts"]
        elm, prompter = self.bundle.elm, self.bundle.prompter
        drawn = draw_answers(elm, prompter, prompts, 1, max_new_tokens=most, sampling=None)
        total, parts = self._rewards(self.val, prompts, drawn)
        self._count(drawn, total, parts, "val_")
        return torch.tensor(-float(np.nansum(total)), dtype=torch.float64), int((~np.isnan(total)).sum())

    def take(self, of: str = "") -> dict[str, float]:
        """What the log says of all since the last time, of training or (``of="val_"``) of validation.

        ``reward``, ``reward_NAME``: means over the answers that have one. ``answer_tokens``: mean length. ``cut``:
        share of answers that the length limit ended. Of training also ``no_signal``: share of groups whose rewards are
        all the same; ``no_reward``: groups without any reward; ``without_NAME``: share of answers that this reward
        could not be computed for, where there are any; ``clipped``: share of tokens; ``kl``: mean over tokens.
        """
        s = self.sums
        names = [n for n in s if n.startswith(f"{of}reward") and not n.endswith("_n") and s[f"{n}_n"]]
        found = {n: s[n] / s[f"{n}_n"] for n in sorted(names)}
        if answers := s[f"{of}answers"]:
            found |= {f"{of}answer_tokens": s[f"{of}length"] / answers, f"{of}cut": s[f"{of}cut"] / answers}
            parts = [n[: -len("_n")] for n in s if n.startswith(f"{of}reward_") and n.endswith("_n")]
            lacking = {n: 1 - s[f"{n}_n"] / answers for n in sorted(parts) if n != f"{of}reward"}
            found |= {n.replace("reward_", "without_", 1): share for n, share in lacking.items() if share > 0}
        if not of and s["groups"]:
            found["no_signal"] = s["no_signal"] / s["groups"]
        if not of and s["no_reward"]:
            found["no_reward"] = float(s["no_reward"])
        if not of and s["tokens"]:
            found |= {n: s[n] / s["tokens"] for n in ("clipped", "kl") if n in s}
        for name in [n for n in s if n.startswith("val_") == bool(of)]:
            del s[name]
        return {name: value for name, value in found.items() if math.isfinite(value)}

    # States: with several inner steps the answers of the running one belong to them

    def save(self, folder: Path) -> None:
        """Write the answers that further inner steps learn from."""
        if self.options.inner_steps > 1:
            write_json(folder / ROLLOUTS, {name: _plain(group) for name, group in self.groups.items()})

    def load(self, folder: Path) -> None:
        """Read back what ``save`` wrote."""
        if self.options.inner_steps > 1:
            self.groups = {name: _group(found) for name, found in read_json(folder / ROLLOUTS).items()}


def _plain(group: Group) -> dict[str, Any]:
    known = {n: None if (v := getattr(group, n)) is None else v.tolist() for n in ("advantages", "old", "reference")}
    return {**known, "rewarded": group.rewarded, "drawn": [[list(d.tokens), d.cut, d.text] for d in group.drawn]}


def _group(found: dict[str, Any]) -> Group:
    old, reference = (None if found[n] is None else np.array(found[n], np.float32) for n in ("old", "reference"))
    drawn = [Drawn(tuple(tokens), cut, text) for tokens, cut, text in found["drawn"]]
    return Group(drawn, np.array(found["advantages"], np.float64), found["rewarded"], old, reference)
