"""The baseline ``text-llm``: a causal language model that reads the question alone, never an ECG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ecglm.errors import EcglmError
from ecglm.evaluation.baseline_models import Asked
from ecglm.evaluation.controls import remove_marks
from ecglm.evaluation.metrics.base import Row
from ecglm.models.llm import load_llm
from ecglm.types import ECG_MARK


class TextLlm:
    """Greedy answers to the questions without their ECG marks; in later turns the model sees its own earlier answers.

    model: folder or hub id of a ``transformers`` causal language model (safetensors). Its own chat template is used
    where it has one, else ``Question: … Answer:`` in plain text, of which the first line of the answer counts.
    """

    def __init__(self, model: str, max_new_tokens: int, batch_size: int) -> None:
        if max_new_tokens < 1 or batch_size < 1:
            raise EcglmError("max_new_tokens and batch_size must be 1 or more")
        self.llm, self.tokenizer = load_llm(model)
        self.llm.eval()
        self.batch, self.max_new_tokens = batch_size, max_new_tokens
        self.plain = not getattr(self.tokenizer, "chat_template", None)
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.said: dict[tuple[str, int, int], str] = {}
        self._known: dict[str, tuple[str, bool]] = {}

    def recall(self, rows: Sequence[Row]) -> None:
        """Take up the answers that an earlier, killed run has given."""
        self.said |= {(str(r["id"]), int(r["seed"]), int(r["turn"])): str(r["prediction"]) for r in rows}

    def __call__(self, asked: Sequence[Asked], rows: Sequence[Row]) -> list[dict[str, Any]]:
        answers: list[dict[str, Any]] = [{} for _ in asked]
        for turn in sorted({one.turn for one in asked}):  # a later turn of the same batch needs the earlier answer
            places = [i for i, one in enumerate(asked) if one.turn == turn]
            prompts = {i: self._prompt(asked[i]) for i in places}
            self._generate([p for p in dict.fromkeys(prompts.values()) if p not in self._known])
            for i in places:
                text, truncated = self._known[prompts[i]]
                one = asked[i]
                self.said[one.conversation.id, one.seed, one.turn] = text
                answers[i] = {"prediction": text, "truncated": truncated}
        return answers

    def _prompt(self, one: Asked) -> str:
        """The conversation up to the question, as the model reads it."""
        talk: list[dict[str, str]] = []
        done = 0
        for turn in one.conversation.turns:
            if turn.role == "assistant":
                if done == one.turn:
                    break
                talk.append({"role": "assistant", "content": self.said[one.conversation.id, one.seed, done]})
                done += 1
            else:
                text = remove_marks(turn.text) if ECG_MARK in turn.text else turn.text
                talk.append({"role": turn.role, "content": text})
        if not self.plain:
            return str(self.tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True))
        names = {"user": "Question: ", "assistant": "Answer: "}
        return "".join(f"{names.get(t['role'], '')}{t['content']}\n" for t in talk) + "Answer:"

    @torch.inference_mode()
    def _generate(self, prompts: Sequence[str]) -> None:
        """Answer prompts, longest first so that the batches are even."""
        ordered = sorted(prompts, key=lambda p: (-len(p), p))
        for start in range(0, len(ordered), self.batch):
            part = ordered[start : start + self.batch]
            read = self.tokenizer(
                part, return_tensors="pt", padding=True, add_special_tokens=self.plain, return_token_type_ids=False
            ).to(self.llm.device)
            given = self.llm.generate(
                **read,
                max_new_tokens=self.max_new_tokens,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=self.tokenizer.pad_token_id,
            )[:, read["input_ids"].shape[1] :]
            ends = {self.tokenizer.eos_token_id, self.tokenizer.pad_token_id}
            for prompt, ids in zip(part, given.tolist(), strict=True):
                text = self.tokenizer.decode(ids, skip_special_tokens=True).strip()
                if self.plain:
                    text = text.split("\n")[0].strip()
                self._known[prompt] = text, not ends & set(ids) and len(ids) == self.max_new_tokens
