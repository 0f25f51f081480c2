"""Answers from a batch of prompts: greedy, left-padded, the same alone as in company."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ecglm.models.elm import Elm
from ecglm.prompts.collate import collate
from ecglm.prompts.examples import Prompter
from ecglm.types import Example


@torch.inference_mode()
def generate(
    elm: Elm, prompter: Prompter, examples: Sequence[Example], *, max_new_tokens: int = 128
) -> list[dict[str, Any]]:
    """One ``{"text", "truncated", "num_tokens"}`` per example (built with ``generate=True``), in order.

    Greedy decoding; stops at the chat format's end token. ``truncated`` says that the length limit cut the answer.
    """
    elm.eval()
    tokenizer = prompter.tokenizer
    batch = collate(examples, pad_id=tokenizer.pad_token_id, left=True)
    embeds = elm.embed(batch["input_ids"].to(elm.device), batch.get("ecg"), batch.get("image"))
    if elm.bidirectional:
        rows = _greedy(elm, prompter, batch, embeds, max_new_tokens)
        return [_answer(row, prompter, max_new_tokens) for row in rows]
    out = elm.llm.generate(
        inputs_embeds=embeds,
        attention_mask=batch["attention_mask"].to(elm.device),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        temperature=None,
        top_p=None,
        top_k=None,
        repetition_penalty=1.0,
        eos_token_id=prompter.end_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return [_answer(row, prompter, max_new_tokens) for row in out.tolist()]


def _answer(row: list[int], prompter: Prompter, max_new_tokens: int) -> dict[str, Any]:
    stop = row.index(prompter.end_id) if prompter.end_id in row else len(row)
    text = prompter.tokenizer.decode(row[:stop], skip_special_tokens=True).strip()
    return {"text": text, "truncated": stop == max_new_tokens, "num_tokens": stop}


def _greedy(
    elm: Elm, prompter: Prompter, batch: dict[str, Any], embeds: torch.Tensor, max_new_tokens: int
) -> list[list[int]]:
    """As the library generates, where the prompt is read with a mask of our own, which the library does not take."""
    mask = batch["attention_mask"].to(elm.device)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    whole = elm.attention(batch["input_ids"].to(elm.device), mask)
    assert whole is not None
    out = elm.llm(
        inputs_embeds=embeds,
        attention_mask=whole.to(embeds.dtype),
        position_ids=positions,
        use_cache=True,
        logits_to_keep=1,
    )
    rows: list[torch.Tensor] = []
    done = torch.zeros(len(mask), dtype=torch.bool, device=elm.device)
    position = positions[:, -1:]
    while True:
        chosen = out.logits[:, -1].argmax(dim=-1).masked_fill(done, prompter.end_id)
        rows.append(chosen)
        done |= chosen == prompter.end_id
        if bool(done.all()) or len(rows) == max_new_tokens:
            return torch.stack(rows, dim=1).tolist()  # type: ignore[no-any-return]
        position = position + 1
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        out = elm.llm(
            input_ids=chosen[:, None],
            attention_mask=mask,
            position_ids=position,
            past_key_values=out.past_key_values,
            use_cache=True,
        )
