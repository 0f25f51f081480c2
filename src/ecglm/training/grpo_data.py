"""The questions GRPO asks: training conversations up to their last answer, with the ECGs they show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch.utils.data import Dataset, Sampler

from ecglm.errors import RejectedRecord
from ecglm.prompts.data import EcgSource, EpochSampler
from ecglm.prompts.examples import Prompter
from ecglm.types import ECG_MARK, Conversation, Example


class QuestionDataset(Dataset[Example]):
    """``data[i]`` and ``data[i, epoch]``: the prompt of conversation i, whose last answer the model is to give; earlier
    answers of a talk stand in it as they are. ECGs are shown as they are. The id of a prompt names the epoch, so that
    other answers are drawn in each.

    rejected: ``{"id", "reason", "detail"}`` of every conversation that cannot be asked: ``no_answer`` (there is nothing
    to compare an answer with) and those of ``Prompter.build``.
    """

    def __init__(self, conversations: Sequence[Conversation], ecgs: EcgSource, prompter: Prompter) -> None:
        self.ecgs, self.prompter = ecgs, prompter
        self.items: list[Conversation] = []
        self.lengths: list[int] = []
        self.rejected: list[dict[str, str]] = []
        self.truncated: Counter[str] = Counter()
        for conversation in conversations:
            try:
                if not any(t.role == "assistant" for t in conversation.turns):
                    raise RejectedRecord("no_answer", f"{conversation.id}: no assistant turn to compare with")
                example = self._build(conversation, ecgs.outline)
            except RejectedRecord as error:
                self.rejected.append({"id": conversation.id, "reason": error.reason, "detail": error.detail})
                continue
            self.items.append(conversation)
            self.lengths.append(len(example.input_ids))
            self.truncated.update(example.truncated)

    def _build(self, conversation: Conversation, show: Any) -> Example:
        last = max(i for i, t in enumerate(conversation.turns) if t.role == "assistant")
        turns = conversation.turns[:last]
        marks = sum(t.text.count(ECG_MARK) for t in turns if t.role != "assistant")
        shown = [show(ecg) for ecg in self.ecgs.shown(conversation)[:marks]]
        return self.prompter.build(conversation.id, turns, shown, generate=True)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int | tuple[int, int]) -> Example:
        number, epoch = index if isinstance(index, tuple) else (index, None)
        example = self._build(self.items[number], self.ecgs.encode)
        return replace(example, id=f"{number}/{'val' if epoch is None else epoch}")

    def conversation(self, prompt: Example) -> Conversation:
        """What a prompt was made of."""
        return self.items[int(prompt.id.partition("/")[0])]

    def counts(self) -> dict[str, int]:
        """``{"used", "rejected:reason" …}``: adds up to the conversations given."""
        reasons = Counter(f"rejected:{r['reason']}" for r in self.rejected)
        return {"used": len(self), **dict(sorted(reasons.items()))}


class InnerSampler(Sampler[tuple[int, int]]):
    """An ``EpochSampler`` whose steps of ``step_rows`` questions come ``inner_steps`` times each, one after another.

    With several inner steps the questions that fill no whole step are left to another epoch: the order is another then.
    """

    def __init__(self, inner: EpochSampler, step_rows: int, inner_steps: int) -> None:
        self.inner, self.step_rows, self.inner_steps = inner, step_rows, inner_steps

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self.inner.set_epoch(epoch)

    def _whole(self) -> int:
        total = len(self.inner)
        return total - total % self.step_rows if self.inner_steps > 1 and total >= self.step_rows else total

    def __len__(self) -> int:
        return self._whole() * self.inner_steps

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = list(self.inner)[: self._whole()]
        for start in range(0, len(order), self.step_rows):
            for _ in range(self.inner_steps):
                yield from order[start : start + self.step_rows]


def collate_prompts(rows: Sequence[Example]) -> dict[str, Any]:
    """A batch of prompts as they are: what is learned from is drawn later, from the model as it then is."""
    return {"prompts": list(rows)}
