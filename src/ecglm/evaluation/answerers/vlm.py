"""Any image-text model of ``transformers`` as an answerer: safetensors only, no code of its own, no torchvision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from PIL import Image
from safetensors import SafetensorError
from transformers import CONFIG_MAPPING, AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

from ecglm.errors import ConfigError, EcglmError, RejectedRecord
from ecglm.evaluation.answerers.base import Reply, Request
from ecglm.evaluation.answerers.pictures import shown_picture
from ecglm.files import read_json
from ecglm.models.llm import no_bars
from ecglm.types import ECG_MARK, Turn

DTYPES = ("auto", "float32", "bfloat16", "float16")
#: Never run; without a word the library would ask on the terminal.
_OWN_CODE = {"trust_remote_code": False}
#: What a processor raises of a picture it cannot take (a strip 1 pixel high, say), or its template of a talk.
_REFUSALS = (ValueError, IndexError, TypeError, ZeroDivisionError, OverflowError, TemplateError)


@dataclass(frozen=True)
class VlmAnswerer:
    """A model with its processor, whose chat template writes the talk."""

    name: str
    model: Any
    processor: Any
    max_new_tokens: int

    @classmethod
    def load(
        cls, folder: str | Path, *, max_new_tokens: int = 1024, device: str = "cpu", dtype: str = "auto"
    ) -> VlmAnswerer:
        """From a folder. ConfigError, with the reason, where it cannot be loaded: weights missing or of another form
        than safetensors, code of its own, no chat template."""
        folder = Path(folder)
        check_folder(folder)
        processor = load_processor(folder)
        model = _load_model(folder, dtype).to(device)
        return cls(folder.name, model.eval(), processor, max_new_tokens)

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """Greedy answers, the whole of the requests in one batch."""
        talks: dict[int, list[dict[str, Any]]] = {}
        replies: dict[int, Reply] = {}
        for number, request in enumerate(requests):
            try:
                pictures = [Image.fromarray(shown_picture(ref)) for ref in request.pictures]
                talks[number] = talk_of(self._spelled(request.turns), pictures)
            except RejectedRecord as error:
                replies[number] = Reply(None, str(error))
        if talks:
            try:
                found = self._generate(self._inputs(list(talks.values())))
            except _Refused:  # one of them, and the others shall have their answers
                found = [self._alone(talk) for talk in talks.values()]
            replies |= dict(zip(talks, found, strict=True))
        return [replies[number] for number in range(len(requests))]

    def _spelled(self, turns: Sequence[Turn]) -> list[Turn]:
        """The turns with the model's control tokens, should somebody have written one, as words: ``< |im_end|>``."""
        known = [getattr(self.processor, name, None) for name in ("image_token", "video_token")]
        known += self.processor.tokenizer.all_special_tokens
        marks = {mark for mark in known if isinstance(mark, str) and len(mark) > 1}
        spelled = []
        for turn in turns:
            text = turn.text
            for mark in sorted(marks, key=len, reverse=True):
                text = text.replace(mark, f"{mark[0]} {mark[1:]}")
            spelled.append(replace(turn, text=text))
        return spelled

    def _alone(self, talk: list[dict[str, Any]]) -> Reply:
        try:
            return self._generate(self._inputs([talk]))[0]
        except _Refused as error:
            return Reply(None, f"processor_refused: the model's processor cannot take it ({error})")

    def _inputs(self, talks: list[list[dict[str, Any]]]) -> Any:
        try:
            return self.processor.apply_chat_template(
                talks,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs={"padding": True},
            )
        except _REFUSALS as error:
            raise _Refused(next(iter(str(error).strip().splitlines()), type(error).__name__)) from error

    @torch.inference_mode()
    def _generate(self, inputs: Any) -> list[Reply]:
        inputs = inputs.to(self.model.device, dtype=self.model.dtype)
        start, tokenizer = inputs["input_ids"].shape[1], self.processor.tokenizer
        out = self.model.generate(
            **inputs,
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            repetition_penalty=1.0,
            pad_token_id=tokenizer.pad_token_id,
        )
        ends = self._ends()
        replies = []
        for row, mask in zip(out[:, start:].tolist(), inputs["attention_mask"], strict=True):
            stop = next((n for n, token in enumerate(row) if token in ends), len(row))
            text = tokenizer.decode(row[:stop], skip_special_tokens=True).strip()
            usage = {"prompt_tokens": int(mask.sum()), "completion_tokens": stop}
            replies.append(Reply(text, truncated=stop == self.max_new_tokens, usage=usage))
        return replies

    def _ends(self) -> set[int]:
        found = self.model.generation_config.eos_token_id
        found = self.processor.tokenizer.eos_token_id if found is None else found
        return set(found) if isinstance(found, list) else {found}


class _Refused(Exception):
    """The processor cannot take one of the requests."""


def talk_of(turns: Sequence[Turn], pictures: Sequence[Any]) -> list[dict[str, Any]]:
    """The talk as chat templates read it: parts of text and pictures, in the order of the text and its marks."""
    remaining = iter(pictures)
    talk = []
    for turn in turns:
        parts: list[dict[str, Any]] = []
        for number, text in enumerate(turn.text.split(ECG_MARK) if turn.role == "user" else [turn.text]):
            if number:
                parts.append({"type": "image", "image": next(remaining)})
            if text.strip():
                parts.append({"type": "text", "text": text.strip("\n")})
        talk.append({"role": turn.role, "content": parts})
    return talk


def check_folder(folder: Path) -> None:
    """ConfigError for a folder that is no image-text model, or one that can only be used by running its own code."""
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder}: no config.json; a checkpoint of ecglm or a folder of transformers is needed")
    kind = read_json(folder / "config.json").get("model_type")
    if kind in ("llava_llama", "llava_mistral"):
        raise ConfigError(f"{folder}: an original LLaVA checkpoint (PULSE); bring it in with ecglm import pulse")
    if kind not in CONFIG_MAPPING:
        raise ConfigError(f"{folder}: model type '{kind}' is unknown to transformers; code of a model is never run")


def load_processor(folder: Path) -> Any:
    """Tokenizer and picture processor, with the PIL back end, padded on the left; those that also take videos, which
    needs torchvision, come without that part."""
    kind = read_json(folder / "config.json").get("model_type")
    try:
        import transformers

        found: Any = getattr(transformers, PROCESSOR_MAPPING_NAMES.get(kind, ""), None)
        if found is not None and "video_processor" in found.get_attributes():
            parts = [part for part in found.get_attributes() if part != "video_processor"]
            found = type(found.__name__, (found,), {"get_attributes": classmethod(lambda cls: parts)})
        processor = (found or AutoProcessor).from_pretrained(folder, backend="pil", **_OWN_CODE)
    except (OSError, ValueError, ImportError, AttributeError, TypeError, KeyError) as error:
        raise ConfigError(f"{folder}: its processor cannot be loaded: {_why(error)}") from error
    if getattr(processor, "tokenizer", None) is None or getattr(processor, "image_processor", None) is None:
        raise ConfigError(f"{folder}: its processor does not take pictures and text")
    if not (processor.chat_template or processor.tokenizer.chat_template):
        raise ConfigError(f"{folder}: its processor has no chat template, so nobody knows how a question is written")
    processor.tokenizer.padding_side = "left"
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    return processor


def _load_model(folder: Path, dtype: str) -> Any:
    if dtype not in DTYPES:
        raise EcglmError(f"--dtype: no '{dtype}'; {', '.join(DTYPES)}")
    try:
        with no_bars():
            loaded: Any = AutoModelForImageTextToText.from_pretrained(
                folder,
                dtype=dtype if dtype == "auto" else getattr(torch, dtype),
                use_safetensors=True,
                output_loading_info=True,
                **_OWN_CODE,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ConfigError(f"{folder}: the model cannot be loaded: {_why(error)}") from error
    model, info = loaded
    if missing := sorted(info["missing_keys"]):  # the library would fill them with noise
        raise ConfigError(f"{folder}: {len(missing)} weights are missing (first: {missing[0]})")
    return model


def _why(error: Exception) -> str:
    """The library's reason in one line."""
    if "custom code" in str(error):
        return "it asks for code of its own, which is never run"
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
