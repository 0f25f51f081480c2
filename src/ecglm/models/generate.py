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
    embeds = elm.embed(batch["input_ids"].to(elm.device), batch.get("ecg"))
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
    answers = []
    for row in out.tolist():
        stop = row.index(prompter.end_id) if prompter.end_id in row else len(row)
        text = tokenizer.decode(row[:stop], skip_special_tokens=True).strip()
        answers.append({"text": text, "truncated": stop == max_new_tokens, "num_tokens": stop})
    return answers
