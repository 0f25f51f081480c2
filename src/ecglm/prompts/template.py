"""A tokenizer's own chat template: told apart into turns by rendering probe talks, and held against a chat format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from ecglm.errors import ConfigError
from ecglm.prompts.spelling import encode_pieces, spelling
from ecglm.prompts.turns import ChatFormat
from ecglm.types import Turn

#: Some templates write today's date. Ours is always this one, the date that Llama 3 falls back to: the same prompt in
#: training and a year later.
_DATE = "{%- macro strftime_now(format) -%}26 Jul 2024{%- endmacro -%}"
_SYSTEM, _USER, _ANSWER = "zqsystemz", ("zquser1z", "zquser2z", "zquser3z"), ("zqanswer1z", "zqanswer2z", "zqanswer3z")


class _CannotRender(Exception):
    """The template refuses this talk, or cannot read it."""


def render(tokenizer: Any, turns: Sequence[Turn], *, generate: bool = False) -> str:
    """A talk as the tokenizer's template writes it, without a chain of thought and with a fixed date."""
    messages = [{"role": t.role, "content": t.text} for t in turns]
    template = tokenizer.get_chat_template()
    if "strftime_now" in template:
        template = _DATE + template
    try:
        text: str = tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=generate, enable_thinking=False
        )
    except (TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise _CannotRender(str(error)) from error
    return text


def _asked(tokenizer: Any, turns: Sequence[Turn]) -> str:
    """A talk that waits for its answer. Where the template knows no such thing: what it writes before an answer."""
    text = render(tokenizer, turns, generate=True)
    if text != render(tokenizer, turns):
        return text
    before, found, _ = render(tokenizer, [*turns, Turn("assistant", _ANSWER[2])]).partition(_ANSWER[2])
    if not found:
        raise _CannotRender("it leaves an answer out")
    return before.rstrip(" ")


def has_template(tokenizer: Any) -> bool:
    """Whether the tokenizer comes with one chat template (or several, one of them the default)."""
    found = tokenizer.chat_template
    return "default" in found if isinstance(found, dict) else bool(found)


def from_template(tokenizer: Any, name: str = "template") -> ChatFormat:
    """The chat format that the tokenizer's template writes.

    Raises ConfigError for a template that cannot be cut into turns: texts changed or left out, answers that no token of
    their own closes, or a prompt that is not how an answer begins.
    """
    try:
        return _from_template(tokenizer, name)
    except _CannotRender as error:
        raise ConfigError(
            f"the tokenizer's chat template cannot be cut into turns ({error}); give model.chat_format: plain, or the "
            "name of a format (ecglm ls chat_formats)"
        ) from error


def _from_template(tokenizer: Any, name: str) -> ChatFormat:
    talk = [Turn(role, text) for pair in zip(_USER, _ANSWER, strict=True) for role, text in _pair(*pair)]
    opening, *middle, rest = _gaps(tokenizer, talk)
    headers, nexts = middle[::2], middle[1::2]
    asked = _gaps(tokenizer, talk[:1], generate=True)
    later = _gaps(tokenizer, talk[:3], generate=True)
    if headers[0] != headers[1] or nexts[0] != nexts[1] or asked[0] != opening or later[:-1] != [opening, *middle[:2]]:
        raise _CannotRender("it writes the same turn in several ways")
    prompt = asked[-1]
    if later[-1] != prompt:
        raise _CannotRender("its prompt to answer is not always the same")
    lead = _lead(prompt, headers[-1])
    short = _gaps(tokenizer, talk[:2])
    if short != [opening, headers[-1], rest]:
        raise _CannotRender("it writes a short talk otherwise than a long one")
    if not headers[0].endswith(lead):
        raise _CannotRender("its earlier answers begin otherwise than its last one")
    system = _system(tokenizer, talk, opening, [*middle, rest], prompt)
    close, end = _end(tokenizer, nexts[0], rest)
    closed = len(close) + len(end)
    return ChatFormat(
        name=name,
        opening=opening,
        system=system,
        header=headers[0].removesuffix(lead) if lead else headers[0],
        last_header=prompt,
        lead=lead,
        close=close,
        end=end,
        between=nexts[0][closed:],
        tail=rest[closed:],
        strip=frozenset(_stripped(tokenizer)),
    )


def _pair(question: str, answer: str) -> list[tuple[str, str]]:
    return [("user", question), ("assistant", answer)]


def _gaps(tokenizer: Any, turns: Sequence[Turn], *, generate: bool = False) -> list[str]:
    """What the template writes before, between and after the texts of the turns."""
    text = _asked(tokenizer, turns) if generate else render(tokenizer, turns)
    gaps = []
    for turn in turns:
        before, found, text = text.partition(turn.text)
        if not found or turn.text in text:
            raise _CannotRender(f"it does not write each {turn.role} text once, in order")
        gaps.append(before)
    return [*gaps, text]


def _lead(prompt: str, header: str) -> str:
    """What an answer begins with that the prompt leaves to the model: blanks, or nothing."""
    if not header.startswith(prompt) or header[len(prompt) :].strip():
        raise _CannotRender("its prompt to answer is not how an answer begins")
    return header[len(prompt) :]


def _end(tokenizer: Any, between: str, rest: str) -> tuple[str, str]:
    """``(close, end)``: the blanks and the one token that close every answer."""
    found = spelling(tokenizer).pattern.search(between)
    if found is None or between[: found.start()].strip() or not rest.startswith(between[: found.end()]):
        raise _CannotRender("no token of its own closes an answer")
    return between[: found.start()], found.group()


def _system(tokenizer: Any, talk: Sequence[Turn], first: str, after: list[str], prompt: str) -> tuple[str, str] | None:
    """What stands around a system text; None where the template refuses it, drops it, or moves it about."""
    system = Turn("system", _SYSTEM)
    try:
        opening, closing, *others = _gaps(tokenizer, [system, *talk])
        asked = _gaps(tokenizer, [system, talk[0]], generate=True)
        later = _gaps(tokenizer, [system, *talk[:3]], generate=True)
    except _CannotRender:
        return None
    same = others == after and asked == [opening, closing, prompt] and later[:2] == [opening, closing]
    merged = (opening, closing) == (first, "\n\n")  # into the user's turn, as we do it where there is no system turn
    return (opening, closing) if same and not merged else None


def _stripped(tokenizer: Any) -> list[str]:
    """Roles whose texts lose the blanks around them."""
    texts = {"user": _USER[0], "assistant": _ANSWER[0]}
    shown = render(tokenizer, [Turn(role, f"  {text}  ") for role, text in texts.items()])
    found = [role for role, text in texts.items() if f"  {text}  " not in shown]
    try:
        shown = render(tokenizer, [Turn("system", f"  {_SYSTEM}  "), Turn("user", _USER[0])], generate=True)
    except _CannotRender:
        return found
    return [*found, "system"] if _SYSTEM in shown and f"  {_SYSTEM}  " not in shown else found


#: A short talk and one of two questions, each with and without a system text.
_TALK = (
    Turn("user", "What is the rhythm?\nAnswer in one word."),
    Turn("assistant", "Sinus rhythm, 72 bpm"),
    Turn("user", "(And) the axis?"),
    Turn("assistant", "normal"),
)
_CASES = {
    f"{told}{asked}, {'answered' if answered else 'to answer'}": (system, num_turns - (not answered))
    for told, system in (("", False), ("system text, ", True))
    for asked, num_turns in (("one question", 2), ("two questions", 4))
    for answered in (False, True)
}


def check_template(tokenizer: Any, chat: ChatFormat) -> list[str]:
    """Where the sequences of ``chat`` differ from the tokenizer's own: one line per kind of talk, none when they agree.

    The tokenizer's own is its chat template; where it has none, or ``chat`` is not a published format, the same text
    spelled as a whole.
    """
    differences = []
    for case, (system, num_turns) in _CASES.items():
        turns = ([Turn("system", "Be brief.")] if system else []) + list(_TALK[:num_turns])
        generate = num_turns % 2 == 1
        pieces = chat.pieces(turns, generate=generate)
        ours = [i for ids in encode_pieces(spelling(tokenizer), pieces, apart=chat.apart) for i in ids]
        text = "".join(p.text for p in pieces)
        if chat.published and has_template(tokenizer):
            try:
                shown = chat.turns(turns)
                text = _asked(tokenizer, shown) if generate else render(tokenizer, shown)
            except _CannotRender as error:
                differences.append(f"{case}: the template refuses this talk ({error})")
                continue
        first = tokenizer.bos_token if chat.apart and text.startswith(tokenizer.bos_token or "\0") else ""
        theirs = [tokenizer.bos_token_id] if first else []
        theirs += tokenizer.encode(text[len(first) :], add_special_tokens=False, split_special_tokens=False)
        if ours != theirs:
            differences.append(f"{case}: {_first_difference(tokenizer, theirs, ours, chat.name)}")
    return differences


def _first_difference(tokenizer: Any, theirs: Sequence[int], ours: Sequence[int], name: str) -> str:
    at = next((i for i, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), min(len(theirs), len(ours)))
    told = [
        f"{tokenizer.convert_ids_to_tokens(ids[at])!r} ({ids[at]})" if at < len(ids) else "nothing"
        for ids in (theirs, ours)
    ]
    return f"token {at} is {told[0]} for the tokenizer and {told[1]} in {name}"


def refuse_mismatch(tokenizer: Any, chat: ChatFormat) -> None:
    """ConfigError naming the first difference from the template of the tokenizer, where ``chat`` has to follow one."""
    if not chat.published or not has_template(tokenizer):
        return
    if found := check_template(tokenizer, chat):
        raise ConfigError(
            f"chat format '{chat.name}' is not how this tokenizer writes a talk: {found[0]}; "
            "give model.chat_format: auto, or plain"
        )


def to_template(chat: ChatFormat, system: str = "") -> str:
    """A chat template (jinja) that writes what ``chat`` does. system: shown where a talk brings no system text."""

    def text(value: str) -> str:
        return "{{- " + json.dumps(value, ensure_ascii=False) + " -}}" if value else ""

    def shown(role: str, content: str) -> str:
        return "{{- " + (f"({content}) | trim" if role in chat.strip else content) + " -}}"

    if chat.system is None:
        first = text(chat.opening) + f"{{%- if system -%}}{shown('system', 'system')}{text(chr(10) * 2)}{{%- endif -%}}"
    else:
        opened = text(chat.system[0]) + shown("system", "system") + text(chat.system[1])
        first = f"{{%- if system -%}}{opened}{{%- else -%}}{text(chat.opening)}{{%- endif -%}}"
    first += shown("user", "m['content']")
    answer = text(chat.lead) + shown("assistant", "m['content']") + text(chat.close + chat.end)
    return "".join(
        [
            "{%- if messages[0]['role'] == 'system' -%}",
            "{%- set system = messages[0]['content'] -%}{%- set talk = messages[1:] -%}",
            "{%- else -%}",
            f"{{%- set system = {json.dumps(system, ensure_ascii=False)} -%}}{{%- set talk = messages -%}}",
            "{%- endif -%}",
            "{%- for m in talk -%}{%- if m['role'] == 'user' -%}",
            f"{{%- if loop.first -%}}{first}{{%- else -%}}",
            text(chat.between) + shown("user", "m['content']"),
            "{%- endif -%}{%- elif loop.last -%}",
            text(chat.last_header) + answer + text(chat.tail),
            "{%- else -%}",
            text(chat.header) + answer,
            "{%- endif -%}{%- endfor -%}",
            f"{{%- if add_generation_prompt -%}}{text(chat.last_header)}{{%- endif -%}}",
        ]
    )
