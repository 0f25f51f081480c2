"""Chat formats: how each LLM family writes a conversation, so that prompt and loss mask come from turns, not search."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ecglm import registry
from ecglm.errors import ConfigError
from ecglm.prompts.spelling import encode_pieces as encode_pieces
from ecglm.prompts.template import check_template as check_template
from ecglm.prompts.template import from_template, has_template
from ecglm.prompts.template import refuse_mismatch as refuse_mismatch
from ecglm.prompts.turns import ChatFormat as ChatFormat
from ecglm.prompts.turns import Piece as Piece
from ecglm.prompts.turns import by_role

_CHATML = ("<|im_start|>{role}\n", "<|im_end|>", "\n")
_LLAMA3 = ("<|start_header_id|>{role}<|end_header_id|>\n\n", "<|eot_id|>")
_EVERY_ROLE = ("system", "user", "assistant")
_POLITE = (
    "A chat between a curious {who} and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the {who}'s questions."
)


def _vicuna(name: str, who: str, *, published: bool) -> ChatFormat:
    """Vicuna 1.1 and LLaVA's edition of it (arXiv 2310.03744), which speaks of a human."""
    return ChatFormat(
        name=name,
        opening=f"<s>{_POLITE.format(who=who)} USER: ",
        system=("<s>", " USER: "),
        header=" ASSISTANT:",
        last_header=" ASSISTANT:",
        lead=" ",
        end="</s>",
        between="USER: ",
        published=published,
        apart=True,
    )


def _mistral(name: str, before: str, opens: str, closes: str) -> ChatFormat:
    """Mistral's instructions; a system text goes into the first of them."""
    return ChatFormat(
        name=name,
        opening=f"<s>{before}{opens}",
        system=None,
        header=closes,
        last_header=closes,
        lead=" ",
        end="</s>",
        between=f"{before}{opens}",
    )


CHAT_FORMATS = [
    by_role("chatml", *_CHATML),
    by_role("qwen2", *_CHATML, default="You are a helpful assistant."),
    by_role("qwen2.5", *_CHATML, default="You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
    by_role("qwen3", *_CHATML, last="<think>\n\n</think>\n\n"),
    by_role("smollm2", *_CHATML, default="You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
    by_role("llama3", *_LLAMA3, start="<|begin_of_text|>", strip=_EVERY_ROLE),
    by_role(
        "llama3.2",
        *_LLAMA3,
        start="<|begin_of_text|>",
        strip=_EVERY_ROLE,
        before_system="Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n",
        empty_system=True,
    ),
    by_role(
        "gemma",
        "<start_of_turn>{role}\n",
        "<end_of_turn>",
        "\n",
        start="<bos>",
        roles=("", "user", "model"),
        system=False,
        strip=("user", "assistant"),
    ),
    _mistral("mistral", " ", "[INST] ", " [/INST]"),
    replace(_mistral("mistral_v3", "", "[INST] ", "[/INST]"), strip=frozenset({"assistant"})),
    _vicuna("vicuna", "user", published=True),
    _vicuna("llava_v1", "human", published=False),
]
for _format in CHAT_FORMATS:
    registry.register("chat_formats", _format.name)(_format)

#: For a tokenizer without a template: the control token that tells its family.
_FAMILY = {"<|im_start|>": "chatml", "<|start_header_id|>": "llama3", "<start_of_turn>": "gemma"}


def plain_format(tokenizer: Any) -> ChatFormat:
    """``User:`` / ``Assistant:`` lines closed by the model's own end token, for LLMs without a chat template."""
    if tokenizer.eos_token is None:
        raise ConfigError("the tokenizer has no end token (eos_token), which the plain chat format needs")
    begin, end = tokenizer.bos_token or "", tokenizer.eos_token
    return ChatFormat(
        name="plain",
        opening=f"{begin}User: ",
        system=(f"{begin}System: ", f"{end}\nUser: "),
        header=f"{end}\nAssistant:",
        last_header=f"{end}\nAssistant:",
        lead=" ",
        end=end,
        between="\nUser: ",
        tail="\n",
        published=False,
    )


def chat_format(name: str, tokenizer: Any) -> ChatFormat:
    """The format called ``name``. ``auto``: that of the tokenizer's own template, under the family's name where it is a
    known one; without a template the family whose control tokens it has, else ``plain``. ``template``: that of the
    template, whatever it is.

    Raises ConfigError when the tokenizer would cut the token that ends an answer into pieces, or has a template that
    cannot be told apart into turns.
    """
    vocab = tokenizer.get_vocab()
    if name == "template" and not has_template(tokenizer):
        raise ConfigError("model.chat_format is template, but the tokenizer has no chat template; use auto or plain")
    if name == "template" or (name == "auto" and has_template(tokenizer)):
        found = from_template(tokenizer)
        known = (registry.get("chat_formats", n) for n in registry.names("chat_formats") if name == "auto")
        found = next((f for f in known if replace(f, name=found.name) == found), found)
    elif name == "auto":
        name = next((family for mark, family in _FAMILY.items() if mark in vocab), "plain")
        found = plain_format(tokenizer) if name == "plain" else registry.get("chat_formats", name)
    else:
        found = plain_format(tokenizer) if name == "plain" else registry.get("chat_formats", name)
    if found.end not in vocab:
        raise ConfigError(
            f"chat format '{found.name}' closes turns with {found.end}, which the tokenizer does not have; "
            "use auto or plain"
        )
    return found


def end_token_id(tokenizer: Any, chat: ChatFormat) -> int:
    """The id that closes an assistant's turn: where generation stops."""
    return int(tokenizer.get_vocab()[chat.end])
