"""A chat completion request, as other programs send it → what the engine is asked; all else is refused by name."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ecglm.demo.contents import Limits
from ecglm.demo.engine import Engine
from ecglm.demo.server_ecgs import BadRequest, read_part
from ecglm.demo.shown import Shown
from ecglm.demo.texts import plain, without_marks
from ecglm.errors import EcglmError, RejectedRecord, nearest
from ecglm.models.stream import Sampling
from ecglm.types import ECG_MARK, EcgInput, Neighbour, Turn

#: Messages, ECGs and characters of one request.
MAX_MESSAGES, MAX_ECGS, MAX_CHARACTERS = 200, 8, 1 << 17
#: What is read.
READ = (
    *("model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop", "n"),
    *("stream", "stream_options"),
)
#: What is taken and changes nothing.
IGNORED = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls")
#: What is taken only where it asks for nothing: field → the values that do.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "web_search_options": (),
    "verbosity": (),
}
ECG_PARTS = ("image_url", "file", "input_ecg")
Search = Callable[[Sequence[Shown]], tuple[Neighbour, ...]]


@dataclass(frozen=True)
class Served:
    """A model that is served. search: finds neighbours where an index was given. fingerprint: of its checkpoint."""

    name: str
    engine: Engine
    search: Search | None = None
    fingerprint: str | None = None


@dataclass(frozen=True)
class Asked:
    """What one request asks for."""

    served: Served
    turns: list[Turn]
    ecgs: list[EcgInput]
    retrieved: tuple[Neighbour, ...]
    max_new_tokens: int
    sampling: Sampling | None
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool


def read_request(data: bytes, models: Mapping[str, Served], limits: Limits, default: int, most: int) -> Asked:
    """The request in a body. default, most: tokens of an answer. Raises BadRequest naming the field."""
    body = _object(data)
    _check_fields(body)
    served = _served(body, models)
    turns, parts = _turns(body.get("messages"))
    shown = [read_part(part, served.engine.assistant, where, limits) for part, where in parts]
    ecgs = []
    for one, (_, where) in zip(shown, parts, strict=True):
        try:
            ecgs.append(one.input_for(served.engine.assistant))
        except EcglmError as error:
            code = error.reason if isinstance(error, RejectedRecord) else "ecg_unreadable"
            raise BadRequest(str(error), where, code) from error
    try:
        retrieved = served.search(shown) if served.search is not None else ()
    except EcglmError as error:
        raise BadRequest(str(error), "messages", "not_searchable") from error
    stream = _flag(body, "stream")
    options = body.get("stream_options") or {}
    if not isinstance(options, Mapping):
        raise BadRequest("stream_options must be an object", "stream_options")
    return Asked(
        served,
        turns,
        ecgs,
        retrieved,
        _length(body, default, most),
        _sampling(body),
        _stop(body.get("stop")),
        stream,
        stream and _flag(options, "include_usage"),
    )


def _object(data: bytes) -> Mapping[str, Any]:
    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is no JSON")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise ValueError(f"'{twice[:60]}' stands twice in one object")
        return found

    try:
        body = json.loads(data, parse_constant=refuse, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise BadRequest(
            f"the body is not JSON ({type(error).__name__}: {str(error)[:100]})", None, "bad_json"
        ) from error
    if not isinstance(body, Mapping):
        raise BadRequest("the body must be a JSON object", None, "bad_json")
    return body


def _check_fields(body: Mapping[str, Any]) -> None:
    for name, value in body.items():
        if name in READ or name in IGNORED or value is None:
            continue
        if name not in NEUTRAL:
            near = nearest(name, (*READ, *NEUTRAL))
            raise BadRequest(f"no field '{name[:60]}'{near}; see docs/serving.md", name[:60], "unknown_parameter")
        if value not in NEUTRAL[name]:
            raise BadRequest(f"{name} is not supported here; leave it out", name, "unsupported_parameter")
    if body.get("n") not in (None, 1) or isinstance(body.get("n"), bool):
        raise BadRequest("n must be 1; ask again with another seed for another answer", "n", "unsupported_value")


def _served(body: Mapping[str, Any], models: Mapping[str, Served]) -> Served:
    name = body.get("model")
    if not isinstance(name, str):
        raise BadRequest(f"model must name one of {', '.join(models)}", "model")
    if name not in models:
        known = f"; there is {', '.join(models)}"
        raise BadRequest(f"no model '{plain(name)[:60]}' here{known}", "model", "model_not_found", 404)
    return models[name]


def _turns(messages: Any) -> tuple[list[Turn], list[tuple[Mapping[str, Any], str]]]:
    """The turns with a mark for each ECG, and the parts with the ECGs in their order."""
    if not isinstance(messages, list) or not messages:
        raise BadRequest("messages must be a list with at least one message", "messages")
    if len(messages) > MAX_MESSAGES:
        raise BadRequest(f"{len(messages)} messages, at most {MAX_MESSAGES}", "messages")
    turns: list[Turn] = []
    parts: list[tuple[Mapping[str, Any], str]] = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if not isinstance(message, Mapping):
            raise BadRequest("a message must be an object with role and content", where)
        role = "system" if message.get("role") == "developer" else message.get("role")
        if role not in ("system", "user", "assistant"):
            raise BadRequest("role must be system, developer, user or assistant", f"{where}.role")
        if role == "system" and number:
            raise BadRequest("a system message must be the first", f"{where}.role")
        text, shown = _content(message.get("content"), role, f"{where}.content")
        parts += shown
        text = f"{ECG_MARK * len(shown)}\n{text}" if shown else text
        if turns and turns[-1].role == role:
            turns[-1] = Turn(role, f"{turns[-1].text}\n{text}")
        else:
            turns.append(Turn(role, text))
    if turns[-1].role != "user":
        raise BadRequest("the last message must be the user's", "messages")
    if not turns[-1].text.replace(ECG_MARK, "").strip():
        raise BadRequest("the last message says nothing; ask something", "messages")
    if sum(len(t.text) for t in turns) > MAX_CHARACTERS:
        raise BadRequest(f"more than {MAX_CHARACTERS:,} characters of text", "messages", "sequence_too_long")
    if len(parts) > MAX_ECGS:
        raise BadRequest(f"{len(parts)} ECGs, at most {MAX_ECGS}", "messages")
    return turns, parts


def _content(content: Any, role: str, where: str) -> tuple[str, list[tuple[Mapping[str, Any], str]]]:
    """A message's words, in which no mark stands, and its ECGs."""
    if isinstance(content, str):
        return without_marks(plain(content)), []
    if not isinstance(content, list) or not all(isinstance(part, Mapping) for part in content):
        raise BadRequest("content must be a text or a list of parts", where)
    texts: list[str] = []
    shown: list[tuple[Mapping[str, Any], str]] = []
    for number, part in enumerate(content):
        place, kind = f"{where}[{number}]", part.get("type")
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind in ECG_PARTS and role == "user":
            shown.append((part, place))
        elif kind in ECG_PARTS:
            raise BadRequest("an ECG is shown by a user's message", place)
        else:
            raise BadRequest(f"a part must be of type text, {', '.join(ECG_PARTS)}", place)
    return without_marks(plain("\n".join(texts))), shown


def _number(body: Mapping[str, Any], name: str, kind: Any = (int, float)) -> Any:
    value = body.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, kind)):
        raise BadRequest(f"{name} must be a{' whole' if kind is int else ''} number", name)
    return value


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if not (value is None or isinstance(value, bool)):
        raise BadRequest(f"{name} must be true or false", name)
    return bool(value)


def _length(body: Mapping[str, Any], default: int, most: int) -> int:
    given = [(n, v) for n in ("max_completion_tokens", "max_tokens") if (v := _number(body, n, int)) is not None]
    if not given:
        return min(default, most)
    name, value = given[0]
    if value < 1:
        raise BadRequest(f"{name} must be 1 or more", name)
    return min(value, most)


def _sampling(body: Mapping[str, Any]) -> Sampling | None:
    """Greedy where no temperature is asked for, or 0."""
    temperature, top_p, seed = _number(body, "temperature"), _number(body, "top_p"), _number(body, "seed", int)
    if temperature is not None and not 0 <= temperature <= 2:
        raise BadRequest("temperature must be from 0 to 2", "temperature")
    if top_p is not None and not 0 < top_p <= 1:
        raise BadRequest("top_p must be above 0 and at most 1", "top_p")
    if temperature is None:
        temperature = 1 if top_p is not None and top_p < 1 else 0
    if temperature < 1e-4:  # as good as greedy, and no number grows without bound
        return None
    return Sampling(float(temperature), float(1 if top_p is None else top_p), 0 if seed is None else seed)


def _stop(given: Any) -> tuple[str, ...]:
    stops = [given] if isinstance(given, str) else [] if given is None else given
    if not isinstance(stops, list) or len(stops) > 4 or not all(isinstance(s, str) and 0 < len(s) < 200 for s in stops):
        raise BadRequest("stop must be a text or a list of at most 4, none of them empty", "stop")
    return tuple(stops)
