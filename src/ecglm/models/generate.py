"""Answers from a batch of prompts: greedy or drawn, the same alone as in company."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor

from ecglm.errors import EcglmError
from ecglm.models.elm import Elm
from ecglm.models.llm import PAD
from ecglm.models.prefix import Read, read_on, read_prompts, shown, step, window_of
from ecglm.prompts.collate import collate
from ecglm.prompts.examples import Prompter
from ecglm.randomness import generator_for
from ecglm.types import Example

#: Finished rows leave the batch once they are so large a part of it.
_LEAVE = 0.25


@dataclass(frozen=True)
class Sampling:
    """Draw each token instead of taking the likeliest: from the likeliest that together have probability ``top_p``
    (arXiv 1904.09751), at a temperature. A row's draws are a function of (seed, id of its example) alone.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise EcglmError(
                f"temperature must be above 0, found {self.temperature:g}; leave it out for greedy decoding"
            )
        if not 0 < self.top_p <= 1:
            raise EcglmError(f"top_p must be above 0 and at most 1, found {self.top_p:g}")


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
    tokens = _decode(elm, prompter, reads, chosen, max_new_tokens, [drawn[i] for i in unique])
    answers = [_answer(row, prompter) for row in tokens]
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
) -> list[tuple[list[int], bool]]:
    """Tokens of each row's answer, and whether a limit cut it."""
    most = _positions(elm.llm)
    room = [max_new_tokens if most is None else min(max_new_tokens, most - len(e.input_ids)) for e in examples]
    streams = [
        None if s is None else generator_for(s.seed, "decoding", e.id) for s, e in zip(drawn, examples, strict=True)
    ]
    forbidden = torch.tensor(never(prompter, reads.logits.shape[-1]), dtype=torch.int64, device=elm.device)
    found: list[list[int]] = [[] for _ in examples]
    cut = [r < 1 for r in room]
    rows = list(range(len(examples)))  # rows of the batch, as it shrinks
    going = [r for r in rows if not cut[r]]
    end_id = prompter.end_id
    past = reads.select(rows)
    leave = _LEAVE if most is None else 0.0  # beyond its last position a row cannot be read on, not even in vain
    while going:
        if len(going) <= len(rows) * (1 - leave):
            past, rows = past.select([rows.index(r) for r in going]), going
        logits = past.logits.float().index_fill(1, forbidden, -torch.inf)
        alive, going = set(going), []
        for row, lost in zip(rows, logits.amax(dim=-1).isnan().tolist(), strict=True):
            if row in alive and lost:  # any token would be as good, and look like an answer
                raise EcglmError(
                    f"{examples[row].id}: the model answers with no numbers (NaN); its weights are broken, or too "
                    "large for their dtype"
                )
        chosen = _draw(logits, [drawn[r] for r in rows], [streams[r] for r in rows])
        for row, token in zip(rows, chosen.tolist(), strict=True):
            if row not in alive or token == end_id:
                continue
            found[row].append(token)
            cut[row] = len(found[row]) == room[row]
            if not cut[row]:
                going.append(row)
        if going:
            step(elm, past, chosen)
    return list(zip(found, cut, strict=True))


def _draw(
    logits: torch.Tensor, drawn: Sequence[Sampling | None], streams: Sequence[np.random.Generator | None]
) -> torch.Tensor:
    """One token per row of ``(rows, vocabulary)`` logits: the likeliest, or drawn by one number of the row's stream."""
    greedy = logits.argmax(dim=-1)
    if not any(drawn):
        return greedy

    def column(values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64, device=logits.device)[:, None]

    plain = Sampling()
    chances = torch.softmax(logits.double() / column([(s or plain).temperature for s in drawn]), dim=-1)
    likely, order = torch.sort(chances, dim=-1, descending=True, stable=True)
    before = likely.cumsum(dim=-1) - likely
    likely = likely * (before < column([(s or plain).top_p for s in drawn]))  # the token that reaches top_p is in
    reached = likely.cumsum(dim=-1)
    numbers = column([0.0 if stream is None else stream.random() for stream in streams])
    at = torch.searchsorted(reached, numbers * reached[:, -1:], right=True)
    at = at.clamp(max=((likely > 0).sum(dim=-1, keepdim=True) - 1))
    kept = torch.tensor([s is not None for s in drawn], device=logits.device)
    return torch.where(kept, order.gather(1, at)[:, 0], greedy)


def never(prompter: Prompter, size: int) -> list[int]:
    """Tokens no answer may hold: those of the ECG, our own padding, rows of the table that no token has."""
    tokenizer = prompter.tokenizer
    ids = {*prompter.ecg_ids, *range(len(tokenizer), size)}
    if tokenizer.pad_token == PAD:
        ids.add(tokenizer.pad_token_id)
    return sorted(i for i in ids - {prompter.end_id} if i < size)


def _positions(llm: Any) -> int | None:
    """How many positions a model has where it has a table of them; rotary ones have no end."""
    config = llm.config.get_text_config()
    rotary = getattr(config, "rope_parameters", None) or getattr(config, "rope_theta", None)
    return None if rotary else getattr(config, "max_position_embeddings", None)


def _answer(row: tuple[list[int], bool], prompter: Prompter) -> dict[str, Any]:
    tokens, cut = row
    text = prompter.tokenizer.decode(tokens, skip_special_tokens=True).strip()
    return {"text": text, "truncated": cut, "num_tokens": len(tokens)}


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
        found.append(_answer((row[:stop], stop == max_new_tokens), prompter))
    return found
