"""A language model on this machine behind the same calls as an endpoint: safetensors only, no code of its folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ecglm import files
from ecglm.errors import ConfigError
from ecglm.evaluation.chats import ChatError, ChatReply, Llm, Messages, OnDone, Outcome


@dataclass(frozen=True)
class LocalLlm(Llm):
    """A causal language model with a chat template, by folder or hub id; it is loaded when it is first asked.

    batch_size: chats at a time; the answers do not depend on it beyond rounding. Raises ConfigError where the model
    cannot be loaded or has no chat template.
    """

    name: str
    device: str = "cpu"
    dtype: str = "float32"
    batch_size: int = 8

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError("local model: --concurrency (the batch size) must be 1 or more")

    def facts(self) -> dict[str, Any]:
        """What names this model in outputs: of a folder its name and what its files hold, not where it lies."""
        return dict(self._facts)

    @cached_property
    def _facts(self) -> dict[str, Any]:
        folder = Path(self.name)
        if not folder.is_dir():
            return {"provider": "local", "model": self.name, "dtype": self.dtype}
        held = sorted(p for p in folder.iterdir() if p.suffix in (".json", ".safetensors", ".jinja", ".model"))
        digest = files.fingerprint({p.name: files.file_sha256(p) for p in held})
        return {"provider": "local", "model": folder.resolve().name, "sha256": digest, "dtype": self.dtype}

    def chat_many(
        self,
        talks: Sequence[Messages],
        *,
        max_tokens: int,
        temperature: float | None = 0.0,
        seed: int | None = None,
        json: bool = False,
        on_done: OnDone | None = None,
    ) -> list[Outcome]:
        """One outcome per chat, in their order; greedy. json changes nothing: a local model is asked in words alone.

        Raises ConfigError for a temperature: answers that are drawn differ from run to run.
        """
        if temperature:
            raise ConfigError("a local model answers greedily; temperature must be 0")
        results: list[Outcome] = [None] * len(talks)
        prompts = self._prompts(talks)
        order = sorted(range(len(talks)), key=lambda i: len(prompts[i]))
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            for i, outcome in zip(rows, self._answers([prompts[i] for i in rows], max_tokens), strict=True):
                results[i] = outcome
                if on_done is not None and on_done(i, outcome):
                    return results
        return results

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from ecglm.models.llm import load_llm

        model, tokenizer = load_llm(self.name, dtype=self.dtype)
        if not tokenizer.chat_template:
            raise ConfigError(f"language model '{self.name}' has no chat template; a chat model is needed")
        return model.to(self.device).eval(), tokenizer

    def _prompts(self, talks: Sequence[Messages]) -> list[list[int]]:
        _, tokenizer = self._loaded
        control = sorted(tokenizer.added_tokens_encoder, key=len, reverse=True)
        rows = []
        for talk in talks:
            turns = [{**message, "content": _plain(str(message["content"]), control)} for message in talk]
            text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            rows.append(tokenizer(text, add_special_tokens=False)["input_ids"])
        return rows

    def _answers(self, rows: Sequence[list[int]], max_tokens: int) -> Iterator[ChatReply | ChatError]:
        """Greedy continuations of a batch, padded on the left; a prompt that leaves no room is an error of its own."""
        import torch

        model, tokenizer = self._loaded
        room = getattr(model.config, "max_position_embeddings", None)
        fits = [room is None or len(row) + max_tokens <= room for row in rows]
        asked = [row for row, fit in zip(rows, fits, strict=True) if fit]
        ends = _ends(model, tokenizer)
        answers: list[list[int]] = []
        if asked:
            width = max(map(len, asked))
            pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0]
            ids = torch.tensor([[pad] * (width - len(row)) + row for row in asked], device=self.device)
            mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in asked], device=self.device)
            with torch.inference_mode():
                made = model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    max_new_tokens=max_tokens,
                    do_sample=False,
                    num_beams=1,
                    temperature=None,
                    top_p=None,
                    top_k=None,
                    eos_token_id=ends,
                    pad_token_id=pad,
                )
            answers = made[:, width:].tolist()
        following = iter(answers)
        for row, fit in zip(rows, fits, strict=True):
            if not fit:
                yield ChatError("refused_request", f"{len(row)} + {max_tokens} tokens do not fit into {room}")
                continue
            made_ids = next(following)
            stop = next((n for n, token in enumerate(made_ids) if token in ends), None)
            kept = made_ids if stop is None else made_ids[:stop]
            usage = {"prompt_tokens": len(row), "completion_tokens": len(kept) + (stop is not None)}
            text = tokenizer.decode(kept, skip_special_tokens=True)
            yield ChatReply(text, "length" if stop is None else "stop", usage)


def _plain(text: str, control: Sequence[str]) -> str:
    """A text in which no control token can be read: a blank behind the first letter of each."""
    for token in control:
        if len(token) > 1:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def _ends(model: Any, tokenizer: Any) -> list[int]:
    """Every token that ends an answer: the model's own list, and the tokenizer's."""
    said = getattr(model.generation_config, "eos_token_id", None)
    listed = [said] if isinstance(said, int) else list(said or [])
    return [*dict.fromkeys([*listed, *([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])])] or [-1]
