"""Answers from a batch of prompts: greedy or drawn, the same alone as in company."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import LogitsProcessor

from ecglm.errors import EcglmError
from ecglm.models.elm import Elm
from ecglm.models.prefix import Read, read_on, read_prompts, shown, window_of
from ecglm.models.stream import LEAVE, Group, Row, Sampling, answer_text, never, new_row
from ecglm.prompts.collate import collate
from ecglm.prompts.examples import Prompter
from ecglm.types import Example

#: Finished rows leave the batch once they are so large a part of it.
_LEAVE = LEAVE


@dataclass
class Memory:
    """What is kept between the questions of talks, so that a later one is read on from where the earlier ended."""

    reads: Read | None = None
    places: dict[int, int] = field(default_factory=dict)


@torch.inference_mode()
def generate(
    elm: Elm,
    prompter: Prompter,
    examples: Sequence[Example],
    *,
    max_new_tokens: int = 128,
    sampling: Sampling | Sequence[Sampling] | None = None,
    share: bool = True,
    memory: Memory | None = None,
    talks: Sequence[int] | None = None,
) -> list[dict[str, Any]]:
    """One ``{"text", "truncated", "num_tokens"}`` per example (built with ``generate=True``), in order.

    Greedy decoding unless ``sampling`` says otherwise, for all rows or each. An answer stops at the chat format's end
    token; ``truncated`` says that the length limit, or the last position a model has, cut it. Tokens of the ECG,
    padding and rows that no token has are never given. share: read what prompts have in common once, and answer equal
    prompts once; the text is the same without. memory: of the talks that the examples belong to, one number each.

    EcglmError for sampling from a model that keeps no keys and values.
    """
    if not examples:
        return []
    elm.eval()
    drawn = [sampling] * len(examples) if sampling is None or isinstance(sampling, Sampling) else list(sampling)
    if window_of(elm.llm) == -1:
        if any(drawn):
            raise EcglmError(f"{type(elm.llm).__name__} cannot be sampled from here; leave --temperature out")
        return _by_the_library(elm, prompter, examples, max_new_tokens)
    numbers = list(range(len(examples)) if talks is None else talks)
    unique, which = _unique(examples, drawn, share and memory is None)
    chosen = [examples[i] for i in unique]
    reads = _read(elm, prompter, chosen, max_new_tokens, share, memory, numbers)
    if memory is not None:
        memory.reads, memory.places = reads, {n: i for i, n in enumerate(numbers)}
    rows = _decode(elm, prompter, reads, chosen, max_new_tokens, [drawn[i] for i in unique])
    answers = [_answer(row.tokens, row.cut, prompter) for row in rows]
    return [dict(answers[i]) for i in which]


def _unique(examples: Sequence[Example], drawn: Sequence[Sampling | None], merge: bool) -> tuple[list[int], list[int]]:
    """``(numbers of examples to answer, for each example which of those answers is its)``."""
    found: dict[Any, int] = {}
    unique: list[int] = []
    which: list[int] = []
    for number, (example, sampling) in enumerate(zip(examples, drawn, strict=True)):
        alone = not merge or sampling is not None
        key: Any = number if alone else (example.input_ids.tobytes(), shown(example, ()))
        if key not in found:
            found[key] = len(unique)
            unique.append(number)
        which.append(found[key])
    return unique, which


def _read(
    elm: Elm,
    prompter: Prompter,
    examples: Sequence[Example],
    max_new_tokens: int,
    share: bool,
    memory: Memory | None,
    talks: Sequence[int],
) -> Read:
    pad_id, ecg_ids = prompter.tokenizer.pad_token_id, prompter.ecg_ids
    known = memory is not None and all(n in memory.places for n in talks)
    if share and known and memory is not None and memory.reads is not None:
        rows = [memory.places[n] for n in talks]
        found = read_on(elm, memory.reads, rows, examples, pad_id=pad_id, ecg_ids=ecg_ids, room=max_new_tokens)
        if found is not None:
            return found
    return read_prompts(elm, examples, pad_id=pad_id, ecg_ids=ecg_ids, room=max_new_tokens, share=share)


def _decode(
    elm: Elm,
    prompter: Prompter,
    reads: Read,
    examples: Sequence[Example],
    max_new_tokens: int,
    drawn: Sequence[Sampling | None],
) -> list[Row]:
    """The rows, each with the tokens of its answer."""
    rows = [new_row(elm, e, max_new_tokens, s) for e, s in zip(examples, drawn, strict=True)]
    group = Group(elm, prompter, reads, rows, leave=_LEAVE)
    while group.going:
        for row in group.advance():
            if row.error is not None:
                raise row.error
    return rows


def _answer(tokens: Sequence[int], cut: bool, prompter: Prompter) -> dict[str, Any]:
    return {"text": answer_text(prompter.tokenizer, tokens), "truncated": cut, "num_tokens": len(tokens)}


class _Never(LogitsProcessor):
    """Keeps the library from giving some tokens."""

    def __init__(self, find: Callable[[int], list[int]]) -> None:
        self.find = find

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        ids = torch.tensor(self.find(scores.shape[-1]), device=scores.device, dtype=torch.long)
        return scores.index_fill(1, ids, -torch.inf)  # type: ignore[return-value]


def _by_the_library(
    elm: Elm, prompter: Prompter, examples: Sequence[Example], max_new_tokens: int
) -> list[dict[str, Any]]:
    """Greedy answers of a model whose memory of what it has read is its own."""
    tokenizer, end_id = prompter.tokenizer, prompter.end_id
    batch = collate(examples, pad_id=tokenizer.pad_token_id, left=True)
    given = {name: batch[name] for name in ("ecg", "image", "tiles") if name in batch}
    out = elm.llm.generate(
        inputs_embeds=elm.embed(batch["input_ids"].to(elm.device), **given),
        attention_mask=batch["attention_mask"].to(elm.device),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        temperature=None,
        top_p=None,
        top_k=None,
        repetition_penalty=1.0,
        eos_token_id=end_id,
        pad_token_id=tokenizer.pad_token_id,
        logits_processor=[_Never(lambda size: never(prompter, size))],
    )
    found = []
    for row in out.tolist():
        stop = row.index(end_id) if end_id in row else len(row)
        found.append(_answer(row[:stop], stop == max_new_tokens, prompter))
    return found
