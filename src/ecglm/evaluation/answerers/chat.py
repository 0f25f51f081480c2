"""Models behind an OpenAI-compatible endpoint as answerers: the pictures travel inside the request."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from PIL import Image

from ecglm.errors import EcglmError, RejectedRecord
from ecglm.evaluation.answerers.base import PictureRef, Reply, Request
from ecglm.evaluation.answerers.pictures import shown_picture
from ecglm.evaluation.chats import ChatReply, Messages, Outcome
from ecglm.evaluation.controls import REAL, remove_marks
from ecglm.evaluation.endpoint import Endpoint

#: What endpoints take as it is; the file's first bytes → its type.
_SENT_AS_THEY_ARE = ((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"))
MAX_BYTES = 15_000_000
#: Why an endpoint gives no text although it was asked rightly.
_WITHHELD = "content_filter"


@dataclass(frozen=True)
class ChatAnswerer:
    """detail: how closely the model looks at a picture, as endpoints name it; PULSE asked for ``low``."""

    endpoint: Endpoint
    max_new_tokens: int = 2000
    detail: Literal["low", "high", "auto"] = "low"
    name: str = field(default="")

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.endpoint.model)

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """Several requests at a time. EcglmError where the endpoint answers nobody (wrong key, no credit)."""
        replies: dict[int, Reply] = {}
        talks: dict[int, Messages] = {}
        for number, request in enumerate(requests):
            try:
                talks[number] = messages(request, self.detail)
            except RejectedRecord as error:
                replies[number] = Reply(None, str(error))
        asked = list(talks)

        def keep(position: int, outcome: Outcome) -> None:
            replies[asked[position]] = _reply(outcome)

        try:
            self.endpoint.chat_many(list(talks.values()), max_tokens=self.max_new_tokens, on_done=keep)
        except EcglmError as error:
            if not any(n in replies and replies[n].error is None for n in asked):
                raise
            for number in asked:  # what was answered before is paid for: it is kept, the next batch raises
                replies.setdefault(number, Reply(None, f"endpoint_stopped: {error}"))
        return [replies[number] for number in range(len(requests))]


def messages(request: Request, detail: str) -> list[dict[str, Any]]:
    """The talk as an endpoint reads it: in the turn that shows pictures the text comes first, then the pictures."""
    told: list[dict[str, Any]] = []
    waiting = list(request.pictures)
    for turn in request.turns:
        text = remove_marks(turn.text) if turn.role == "user" else turn.text
        if turn.role == "user" and waiting:
            parts: list[dict[str, Any]] = [{"type": "text", "text": text}]
            for ref in waiting:
                parts.append({"type": "image_url", "image_url": {"url": data_url(ref), "detail": detail}})
            told.append({"role": turn.role, "content": parts})
            waiting = []
        else:
            told.append({"role": turn.role, "content": text})
    return told


def data_url(ref: PictureRef) -> str:
    """A picture inside a URL: a PNG or JPEG file's own bytes, anything else as a PNG of the same pixels."""
    picture = shown_picture(ref)  # the bytes are sent only where they are a whole picture
    data, kind = b"", ""
    if ref.control == REAL:
        data = ref.path.read_bytes()
        kind = next((k for start, k in _SENT_AS_THEY_ARE if data.startswith(start)), "")
    if not kind:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "PNG")
        data, kind = buffer.getvalue(), "image/png"
    if len(data) > MAX_BYTES:
        raise RejectedRecord("image_too_large", f"{ref.path.name}: {len(data)} bytes, at most {MAX_BYTES} are sent")
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _reply(outcome: Outcome) -> Reply:
    if not isinstance(outcome, ChatReply):
        return Reply(None, f"endpoint_failed: {outcome}")
    if not outcome.text and outcome.finish_reason == _WITHHELD:
        return Reply(None, "content_filter: the endpoint withheld its answer", usage=outcome.usage)
    return Reply(outcome.text.strip(), truncated=outcome.truncated, usage=outcome.usage)
