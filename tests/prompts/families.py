"""Tokenizers of the LLM families in small: their own control tokens with the published ids, and published templates.

Only what decides a chat is rebuilt: how text is cut before merges, where blanks go, the control tokens and their ids,
the ids of the words in a header, and the part of the chat template that plain talks reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AddedToken, LlamaTokenizer, PreTrainedTokenizerFast

WORDS = (
    "What",
    " is",
    " the",
    " rhythm",
    " Sinus",
    "Sinus",
    " normal",
    "normal",
    " bpm",
    " Be",
    "Be",
    " brief",
    " yes",
    "yes",
)
#: How Llama 3 and Qwen cut text before their merges; digits in threes, or one by one.
_CUT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _vocabulary(letters: Sequence[str], words: dict[str, int], taken: dict[str, int]) -> tuple[dict, list]:
    """Letters in order, then words merged from left to right: ``(token → id, merges)``, no id used twice."""
    vocab = {letter: i for i, letter in enumerate(letters)} | taken
    used = set(vocab.values()) | set(words.values())
    merges: list[tuple[str, str]] = []
    free = (i for i in range(len(letters), 10**6) if i not in used)
    for word in sorted(words, key=lambda w: (w[0] not in "Ġ▁", len(w), w)):  # blanks stick to words first
        start = word[0]
        for letter in word[1:]:
            longer = start + letter
            if longer not in vocab:
                vocab[longer] = words[longer] if longer in words else next(free)
            if (start, letter) not in merges:
                merges.append((start, letter))
            start = longer
    return vocab, merges


def _free_ids(words: Sequence[str], base: int) -> dict[str, int]:
    return {word: base + i for i, word in enumerate(words)}


def _special(tokenizer: Any, tokens: Sequence[str], plain: Sequence[str] = (), rstrip: bool = False) -> Any:
    tokenizer.add_tokens([AddedToken(t, special=True, normalized=False, rstrip=rstrip) for t in tokens], True)
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in plain])
    return tokenizer


def byte_level(
    special: dict[str, int],
    words: dict[str, int],
    template: str | None,
    *,
    plain: dict[str, int] | None = None,
    digits: str = "",
    gpt2: bool = False,
    **roles: str,
) -> Any:
    """Byte-level BPE, whose bytes have the ids that GPT-2 gave them."""
    codes = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    letters = [chr(c) for c in codes] + [chr(256 + n) for n in range(256 - len(codes))]
    other = [c for c in range(256) if c not in codes]
    of_byte = {c: chr(c) for c in codes} | {c: chr(256 + n) for n, c in enumerate(other)}
    spelled = {"".join(of_byte[b] for b in w.encode()): i for w, i in (_free_ids(WORDS, 5000) | words).items()}
    vocab, merges = _vocabulary(letters, spelled, special | (plain or {}))
    raw = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    split = pre_tokenizers.Split(Regex(_CUT.format(digits=digits)), "isolated")
    raw.pre_tokenizer = (
        pre_tokenizers.ByteLevel(add_prefix_space=False)
        if gpt2
        else pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    )
    raw.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=raw, chat_template=template, **roles)
    return _special(made, list(special), list(plain or {}))


def _sentencepiece_vocabulary(words: Sequence[str], first: Sequence[str], taken: dict[str, int]) -> tuple[dict, list]:
    letters = [*first, *(f"<0x{i:02X}>" for i in range(256))]
    letters += [c for c in "▁" + "".join(map(chr, range(33, 127))) + "é" if c not in letters]
    marked = [w.replace(" ", "▁") for w in dict.fromkeys([*WORDS, *(f" {w}" for w in WORDS if w[0] != " "), *words])]
    return _vocabulary(letters, _free_ids(marked, len(letters)), taken)


def llama_like(
    template: str | None, *, legacy: bool, special: Sequence[str] = (), words: Sequence[str] = (), rstrip: bool = False
) -> Any:
    """Llama's first tokenizer: a blank before a text (legacy: after every control token too), bytes for the rest."""
    vocab, merges = _sentencepiece_vocabulary(
        [" USER", " ASS", "IST", "ANT", " [", "INST", *words], ["<unk>", "<s>", "</s>"], {}
    )
    made = LlamaTokenizer(vocab=vocab, merges=merges, legacy=legacy, chat_template=template)
    return _special(made, special, rstrip=rstrip)


_CHATML = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def _chatml_default(text: str) -> str:
    """ChatML that shows a system text of its own when nobody gives one."""
    return (
        "{%- if messages[0].role != 'system' %}{{- '<|im_start|>system\\n"
        + text
        + "<|im_end|>\\n' }}{%- endif %}"
        + _CHATML
    )


_QWEN3 = r"""
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(last_query_index=messages|length - 1, searching=true) %}
{%- for message in messages[::-1] %}
    {%- if ns.searching and message.role == 'user' %}
        {%- set ns.searching = false %}
        {%- set ns.last_query_index = (messages|length - 1) - loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- elif message.role == 'assistant' %}
        {%- set content = message.content %}
        {%- set reasoning_content = '' %}
        {%- if '</think>' in content %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or reasoning_content) %}
            {{- '<|im_start|>assistant\n<think>\n' + reasoning_content + '\n</think>\n\n' + content.lstrip('\n') }}
        {%- else %}
            {{- '<|im_start|>assistant\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}"""

_LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)

_LLAMA32 = r"""
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{{- "Cutting Knowledge Date: December 2023\n" }}
{{- "Today Date: " + date_string + "\n\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}"""

_GEMMA2 = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)

_GEMMA3 = r"""
{{- bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first_user_prefix = messages[0]['content'] + '

' -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '
' + (first_user_prefix if loop.first else "") }}
    {{- message['content'] | trim }}
    {{- '<end_of_turn>
' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<start_of_turn>model
' -}}
{%- endif -%}"""

_MISTRAL1 = r"""
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.first and system_message is defined %}
            {{- " [INST] " + system_message + "\n\n" + message["content"] + " [/INST]" }}
        {%- else %}
            {{- " [INST] " + message["content"] + " [/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"] + eos_token}}
    {%- endif %}
{%- endfor %}"""

_MISTRAL3 = r"""
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\n\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- endif %}
{%- endfor %}"""

_PHI3 = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)

_LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)

_ZEPHYR = (
    "{% for message in messages %}\n{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token }}"
    "\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)

_QWEN = {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645}
_QWEN_WORDS = {"assistant": 77091, "user": 872, "system": 8948, "\n\n": 271}
_LLAMA = {"<|begin_of_text|>": 128000, "<|end_of_text|>": 128001, "<|start_header_id|>": 128006}
_LLAMA |= {"<|end_header_id|>": 128007, "<|eot_id|>": 128009}
_LLAMA_WORDS = {"assistant": 78191, "user": 882, "system": 9125, "\n\n": 271}


def qwen(template: str, plain: dict[str, int] | None = None) -> Any:
    return byte_level(_QWEN, _QWEN_WORDS, template, plain=plain, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def llama3(template: str) -> Any:
    roles = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
    return byte_level(_LLAMA, _LLAMA_WORDS, template, digits="{1,3}", **roles)


def gemma(template: str, marks: tuple[int, int] = (106, 107), newline: int = 108) -> Any:
    """Gemma: no blank before a text, line breaks are tokens of their own."""
    first = ["<pad>", "<eos>", "<bos>", "<unk>"]
    taken = {"<start_of_turn>": marks[0], "<end_of_turn>": marks[1], "\n": newline, "\n\n": newline + 1}
    letters = [*first, *(f"<0x{i:02X}>" for i in range(256))]
    letters += ["▁", *map(chr, range(33, 127))]
    words = {w.replace(" ", "▁"): i for w, i in (_free_ids(WORDS, 5000) | {"model": 2516, "user": 1645}).items()}
    vocab, merges = _vocabulary([], words, {})
    used = set(taken.values()) | set(words.values()) | set(vocab.values())
    free = iter(i for i in range(4, 10**6) if i not in used)
    vocab |= {w: i for i, w in enumerate(first)}
    for letter in letters[4:]:
        vocab[letter] = next(free)
    moved = {t: next(free) for t, i in vocab.items() if i < 4 and t not in first}
    vocab |= moved | taken
    raw = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    raw.normalizer = normalizers.Replace(" ", "▁")
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    roles = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    made = PreTrainedTokenizerFast(tokenizer_object=raw, chat_template=template, **roles)
    return _special(made, ["<start_of_turn>", "<end_of_turn>"], ["\n", "\n\n"])


def gpt2() -> Any:
    end = "<|endoftext|>"
    return byte_level({end: 50256}, {"User": 12982, "Assistant": 48902}, None, gpt2=True, bos_token=end, eos_token=end)


def opt() -> Any:
    roles = {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "</s>"}
    special = {"<s>": 50265, "<pad>": 50266, "</s>": 50267}
    return byte_level(special, {"User": 44518, "Assistant": 46184}, None, gpt2=True, **roles)


_SMOLLM = {"<|endoftext|>": 49150, "<|im_start|>": 49151, "<|im_end|>": 49152}

#: family → its tokenizer.
BUILDERS = {
    "chatml": lambda: qwen(_CHATML),
    "qwen2": lambda: qwen(_chatml_default("You are a helpful assistant.")),
    "qwen2.5": lambda: qwen(_chatml_default("You are Qwen, created by Alibaba Cloud. You are a helpful assistant.")),
    "qwen3": lambda: qwen(_QWEN3, {"<think>": 151667, "</think>": 151668, "<tool_call>": 151657}),
    "smollm2": lambda: byte_level(
        _SMOLLM,
        {"assistant": 520, "\n\n": 521},
        _chatml_default("You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
    ),
    "llama3": lambda: llama3(_LLAMA3),
    "llama3.2": lambda: llama3(_LLAMA32),
    "gemma": lambda: gemma(_GEMMA2),
    "gemma3": lambda: gemma(_GEMMA3, (105, 106), 107),
    "mistral": lambda: llama_like(_MISTRAL1, legacy=True),
    "mistral-first": lambda: llama_like(_MISTRAL1, legacy=False),
    "mistral_v3": lambda: llama_like(_MISTRAL3, legacy=False, special=["[INST]", "[/INST]"]),
    "mistral_v3-always": lambda: llama_like(_MISTRAL3, legacy=True, special=["[INST]", "[/INST]"]),
    "vicuna": lambda: llama_like(None, legacy=True),
    "vicuna-first": lambda: llama_like(None, legacy=False),
    "phi3": lambda: llama_like(
        _PHI3, legacy=False, special=["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"], rstrip=True
    ),
    "llama2": lambda: llama_like(_LLAMA2, legacy=True),
    "zephyr": lambda: llama_like(_ZEPHYR, legacy=True),
    "gpt2": gpt2,
    "opt": opt,
}
