"""Answers drawn from the model that learns, as the sequences it then learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ecglm.models.stream import Group, Sampling, answer_text, never, new_row
from ecglm.prompts.collate import collate
from ecglm.prompts.examples import IGNORE, Prompter, share_prefix
from ecglm.training.logprobs import token_logprobs
from ecglm.types import Example


@dataclass(frozen=True)
class Drawn:
    """One answer. tokens: without the end. cut: the length limit ended it, so no end token was drawn."""

    tokens: tuple[int, ...]
    cut: bool
    text: str

    @property
    def num_learned(self) -> int:
        """Tokens that were drawn, the end among them."""
        return len(self.tokens) + (not self.cut)


@torch.inference_mode()
def draw_answers(
    elm: Any,
    prompter: Prompter,
    prompts: Sequence[Example],
    num_samples: int,
    *,
    max_new_tokens: int,
    sampling: Sampling | None,
) -> list[list[Drawn]]:
    """``num_samples`` answers to each prompt (built with ``generate=True``); greedy ones without ``sampling``.

    What is drawn is a function of the weights, the seed, the prompt's id and the number of the answer: the same alone
    as in company, and after a resume. EcglmError where the model gives no numbers.
    """
    elm.eval()
    named = [replace(p, id=f"{p.id}/{k}") for p in prompts for k in range(num_samples)]
    rows = [new_row(elm, example, max_new_tokens, sampling) for example in named]
    group = Group.read(elm, prompter, rows)
    while group.going:
        for row in group.advance():
            if row.error is not None:
                raise row.error
    found = [Drawn(tuple(r.tokens), not r.ended, answer_text(prompter.tokenizer, r.tokens)) for r in rows]
    return [found[i : i + num_samples] for i in range(0, len(found), num_samples)]


def sequence(prompt: Example, drawn: Drawn, end_id: int) -> Example:
    """A prompt and an answer to it, of which every token that was drawn is learned."""
    answer = [*drawn.tokens, *(() if drawn.cut else (end_id,))]
    return replace(
        prompt,
        input_ids=np.concatenate([prompt.input_ids, np.asarray(answer, np.int64)]),
        labels=np.concatenate([np.full(len(prompt.input_ids), IGNORE, np.int64), np.asarray(answer, np.int64)]),
    )


def answer_batch(
    prompts: Sequence[Example], drawn: Sequence[Sequence[Drawn]], prompter: Prompter, *, shared: bool
) -> dict[str, Any]:
    """A batch for ``answer_logprobs`` with the answers to each prompt side by side.

    shared: all answers to a prompt behind that prompt in one sequence, whose ECG is then read once.
    """
    sequences = [[sequence(p, d, prompter.end_id) for d in of] for p, of in zip(prompts, drawn, strict=True)]
    if shared:
        rows = [share_prefix(p.id, of, prompter.ecg_ids) for p, of in zip(prompts, sequences, strict=True)]
    else:
        rows = [one for of in sequences for one in of]
    batch = collate(rows, pad_id=prompter.tokenizer.pad_token_id)
    batch["answers"] = batch.pop("labels")
    return batch


def answer_logprobs(elm: Any, batch: dict[str, Any], prompter: Prompter, temperature: float) -> torch.Tensor:
    """Log-probability of every token of the answers, in their order, at the temperature they are drawn at and among
    the tokens that can be drawn: float32 ``(num_tokens,)``.
    """

    def drawn_from(**inputs: Any) -> torch.Tensor:
        logits = elm(**inputs).float()
        forbidden = torch.tensor(never(prompter, logits.shape[-1]), dtype=torch.int64, device=logits.device)
        return logits.index_fill(-1, forbidden, -torch.inf) / temperature

    return token_logprobs(drawn_from, {k: v.to(elm.device) for k, v in batch.items()})
