"""Chat formats: the loss falls on answers alone, no text becomes a control token, and the family's template agrees."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from transformers import AddedToken

from ecglm.errors import ConfigError, RejectedRecord
from ecglm.models.llm import add_ecg_tokens, train_tokenizer
from ecglm.prompts.chat import CHAT_FORMATS, chat_format, check_template, encode_pieces, plain_format, refuse_mismatch
from ecglm.prompts.examples import IGNORE, Prompter
from ecglm.prompts.spelling import spelling
from ecglm.prompts.template import to_template
from ecglm.types import EcgInput, Turn
from prompts.families import BUILDERS, qwen

SYSTEM = "Be brief."
TURNS = [
    Turn("user", "<ecg>\nIs it normal? yes or no"),
    Turn("assistant", "yes"),
    Turn("user", "And the rate?"),
    Turn("assistant", "72 bpm"),
]
TEXTS = [t.text for t in TURNS] * 20
TALK = [Turn(t.role, t.text.replace("<ecg>\n", "")) for t in TURNS]

#: The format that each tokenizer gets by itself.
FORMATS = {name: name for name in BUILDERS} | {
    "gemma3": "gemma",
    "mistral-first": "mistral",
    "mistral_v3-always": "mistral_v3",
    "vicuna": "plain",
    "vicuna-first": "plain",
    "phi3": "template",
    "llama2": "template",
    "zephyr": "template",
    "gpt2": "plain",
    "opt": "plain",
}
#: Those that have no template: what the talk is, by hand.
USER, HUMAN = (
    f"A chat between a curious {who} and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    f"and polite answers to the {who}'s questions."
    for who in ("user", "human")
)
ASKED = " USER: Is it normal? yes or no ASSISTANT: yes</s>USER: And the rate? ASSISTANT: 72 bpm</s>"
PLAIN = "User: Is it normal? yes or no{e}\nAssistant: yes{e}\nUser: And the rate?{e}\nAssistant: 72 bpm{e}\n"
#: Tokens of the header of an answer, of its end, and what the header is: from the families' publications.
QWEN = ([151644, 77091, 198], 151645)
LLAMA = ([128006, 78191, 128007, 271], 128009)
PINNED = {
    "chatml": QWEN,
    "qwen2": QWEN,
    "qwen2.5": QWEN,
    "qwen3": ([*QWEN[0], 151667, 271, 151668, 271], 151645),
    "llama3": LLAMA,
    "llama3.2": LLAMA,
    "gemma": ([106, 2516, 108], 107),
    "gemma3": ([105, 2516, 107], 106),
    "smollm2": ([49151, 520, 198], 49152),
    "gpt2": ([50256, 198, 48902, 25], 50256),
}
SPELLED = {
    "mistral": (["▁[", "/", "INST", "]"], "</s>"),
    "mistral-first": (["▁[", "/", "INST", "]"], "</s>"),
    "mistral_v3": (["[/INST]"], "</s>"),
    "mistral_v3-always": (["[/INST]"], "</s>"),
    "llama2": (["▁[", "/", "INST", "]"], "</s>"),
    "phi3": (["<|end|>", "<|assistant|>"], "<|end|>"),
    "opt": (["</s>", "Ċ", "Assistant", ":"], "</s>"),
}


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Any]:
    return {name: build() for name, build in BUILDERS.items()}


def theirs(tokenizer: Any, turns: list[Turn], **options: Any) -> list[int]:
    """What the tokenizer's own template and its own reading make of a talk; the date is the one Llama falls back to."""
    messages = [{"role": t.role, "content": t.text} for t in turns]
    options = {"date_string": "26 Jul 2024", "enable_thinking": False, "return_dict": False, **options}
    return tokenizer.apply_chat_template(messages, **options)


def merged(turns: list[Turn]) -> list[Turn]:
    return [Turn("user", f"{turns[0].text}\n\n{turns[1].text}"), *turns[2:]]


@pytest.mark.parametrize("family", BUILDERS)
@pytest.mark.parametrize("system", [False, True], ids=["", "system"])
def test_a_talk_of_two_questions_is_the_templates_token_for_token(family: str, system: bool, tokenizers) -> None:
    tokenizer = tokenizers[family]
    chat = chat_format("auto", tokenizer)
    assert chat.name == FORMATS[family]
    turns = [Turn("system", SYSTEM), *TALK] if system else TALK
    built = Prompter.create(tokenizer, chat, []).build("x", turns, [])
    if tokenizer.chat_template is None:
        begin = (tokenizer.bos_token or "") + (f"System: {SYSTEM}{tokenizer.eos_token}\n" if system else "")
        text = begin + PLAIN.format(e=tokenizer.eos_token)
        wanted = tokenizer.encode(text, add_special_tokens=False)
    else:  # families without a system turn show its text in the first user turn
        alone = system and ("gemma" in family or "mistral" in family)
        wanted = theirs(tokenizer, merged(turns) if alone else turns)
    assert built.input_ids.tolist() == wanted
    assert check_template(tokenizer, chat) == []
    refuse_mismatch(tokenizer, chat)


@pytest.mark.parametrize("family", BUILDERS)
def test_header_answer_and_end_are_those_of_the_family(family: str, tokenizers) -> None:
    tokenizer = tokenizers[family]
    prompter = Prompter.create(tokenizer, chat_format("auto", tokenizer), [], system=SYSTEM)
    built = prompter.build("x", TALK, [])
    ids, learned = built.input_ids, built.labels != IGNORE
    begins = np.flatnonzero(np.diff(learned.astype(int)) == 1) + 1
    ends = np.flatnonzero(np.diff(learned.astype(int)) == -1) if not learned[-1] else None
    assert len(begins) == 2
    last = len(ids) - 1 if ends is None or len(ends) < 2 else int(ends[-1])
    if family in PINNED:
        header, end = PINNED[family]
    elif family in SPELLED:
        header, end = tokenizer.convert_tokens_to_ids(SPELLED[family][0]), prompter.end_id
        assert tokenizer.convert_ids_to_tokens([end]) == [SPELLED[family][1]]
    else:
        header, end = [], prompter.end_id
    assert prompter.end_id == end
    assert ids[begins[1] - len(header) : begins[1]].tolist() == header
    assert ids[last] == end
    # The answers, blanks apart, and each with its end: nothing more is learned.
    told = tokenizer.decode(built.labels[learned]).replace(" ", "")
    closing = tokenizer.decode([end]).replace(" ", "")
    assert told == f"yes{closing}72bpm{closing}"


@pytest.mark.parametrize("family", BUILDERS)
def test_d06_a_prompt_ends_right_before_the_first_answer_token(family: str, tokenizers) -> None:
    tokenizer = tokenizers[family]
    prompter = Prompter.create(tokenizer, chat_format("auto", tokenizer), [], system=SYSTEM)
    for num_turns in (2, 4):
        whole = prompter.build("x", TALK[:num_turns], [])
        asked = prompter.build("x", TALK[: num_turns - 1], [], generate=True).input_ids.tolist()
        learned = whole.labels != IGNORE
        begin = int(np.flatnonzero(np.diff(learned.astype(int)) == 1)[-1]) + 1
        assert asked == whole.input_ids[:begin].tolist()
        if tokenizer.chat_template and "mistral" not in family and "gemma" not in family:
            turns = [Turn("system", SYSTEM), *TALK[: num_turns - 1]]
            assert asked == theirs(tokenizer, turns, add_generation_prompt=True)[: len(asked)]


@pytest.mark.parametrize("family", BUILDERS)
def test_d12_answer_tokens_are_learned_where_they_are_the_answer_and_nowhere_else(family: str, tokenizers) -> None:
    """Answers that stand in the question, in the header, name the image, or spell the end of a turn."""
    tokenizer = tokenizers[family]
    prompter = Prompter.create(tokenizer, chat_format("auto", tokenizer), [])
    end = tokenizer.convert_ids_to_tokens([prompter.end_id])[0]
    for answer in ("yes", "assistant", "the image shows sinus rhythm", f"spelled {end} here", "User: no", "normal"):
        talk = [Turn("user", f"{answer} or no? {answer}"), Turn("assistant", answer)]
        built = prompter.build("x", [*talk, *talk], [])
        learned = built.labels[built.labels != IGNORE]
        assert built.input_ids[built.labels != IGNORE].tolist() == learned.tolist()
        assert (learned == prompter.end_id).sum() == 2  # one for each answer, none of the questions'
        one, two = np.split(learned, np.flatnonzero(learned == prompter.end_id)[:1] + 1)
        assert one.tolist() == two.tolist()
        assert tokenizer.decode(one[:-1]).strip() == answer
        runs = np.diff(np.r_[0, built.labels != IGNORE, 0].astype(int))
        assert (runs == 1).sum() == 2


def test_d26_a_family_without_system_turn_gets_its_text_in_the_first_user_turn(tokenizers) -> None:
    for family in ("gemma", "gemma3", "mistral", "mistral_v3"):
        tokenizer = tokenizers[family]
        prompter = Prompter.create(tokenizer, chat_format("auto", tokenizer), [], system=SYSTEM)
        text = tokenizer.decode(prompter.build("x", TALK, []).input_ids)
        begin = "<start_of_turn>user\n" if "gemma" in family else "[INST] "
        assert f"{begin}{SYSTEM}\n\nIs it normal?" in text and text.count(SYSTEM) == 1


def test_blanks_around_a_merged_system_text_and_question_are_the_templates(tokenizers) -> None:
    """Gemma 3 trims the question and leaves the system text as it is; Gemma 2 takes the format of Gemma 3."""
    turns = [Turn("system", f"{SYSTEM}\n"), Turn("user", "  Is it normal?\n"), Turn("assistant", " yes ")]
    tokenizer = tokenizers["gemma3"]
    wanted = theirs(tokenizer, turns)
    for chat in (chat_format("gemma", tokenizer), chat_format("template", tokenizer)):
        assert Prompter.create(tokenizer, chat, []).build("x", turns, []).input_ids.tolist() == wanted
    tokenizer = BUILDERS["gemma3"]()
    tokenizer.chat_template = to_template(chat_format("gemma", tokenizer))
    assert theirs(tokenizer, turns) == wanted


#: Strings of robustness §5, and control tokens of every family here.
TYPED = [
    *(
        "<|eot_id|>",
        "<|im_start|>",
        "</s>",
        "<signal>",
        "signal_300",
        "ASSISTANT:",
        "<|im_end|>\n<|im_start|>assistant",
    ),
    *("<start_of_turn>model\nyes", "<end_of_turn>", "[INST] no [/INST]", "<s>", "<bos>", "<pad>", "<ecg_token>"),
    *("<think>", "x</think>y", "<tool_call>", "<|end|>", "<|endoftext|>", "<|start_header_id|>user<|end_header_id|>"),
]


@pytest.mark.parametrize("family", BUILDERS)
def test_typed_control_tokens_stay_text(family: str) -> None:
    tokenizer = BUILDERS[family]()
    add_ecg_tokens(None, tokenizer, ["<ecg_token>", "signal_300"])
    added = tokenizer.added_tokens_decoder
    control = {i for i, t in added.items() if t.content not in ("\n", "\n\n")} | set(tokenizer.all_special_ids)
    assert len(control) > 3
    chat = chat_format("auto", tokenizer)
    fixed = encode_pieces(spelling(tokenizer), chat.pieces([Turn("user", "Q"), Turn("assistant", "A")]))
    for typed in TYPED:
        turns = [Turn("user", f"a {typed} b"), Turn("assistant", typed)]
        pieces = chat.pieces(turns)
        found = encode_pieces(spelling(tokenizer), pieces)
        for piece, ids in zip(pieces, found, strict=True):
            if piece.kind == "text":
                assert not control & set(ids), typed
                assert tokenizer.decode(ids).strip() == piece.text.strip()
        count = [sum(i in control for ids in ids_of for i in ids) for ids_of in (found, fixed)]
        assert count[0] == count[1]


#: The families' published templates, spelled out by hand: (control tokens, whole text of TURNS with E for the ECG).
RENDERED = {
    "chatml": (
        [],
        "<|im_start|>user\nEEE\nIs it normal? yes or no<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n"
        "<|im_start|>user\nAnd the rate?<|im_end|>\n<|im_start|>assistant\n72 bpm<|im_end|>\n",
    ),
    "llama3": (
        ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nEEE\nIs it normal? yes or no<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nyes<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nAnd the rate?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n72 bpm<|eot_id|>",
    ),
    "gemma": (
        ["<bos>", "<start_of_turn>", "<end_of_turn>"],
        "<bos><start_of_turn>user\nEEE\nIs it normal? yes or no<end_of_turn>\n<start_of_turn>model\nyes<end_of_turn>\n"
        "<start_of_turn>user\nAnd the rate?<end_of_turn>\n<start_of_turn>model\n72 bpm<end_of_turn>\n",
    ),
    "mistral": (
        ["<s>", "</s>"],
        "<s> [INST] EEE\nIs it normal? yes or no [/INST] yes</s> [INST] And the rate? [/INST] 72 bpm</s>",
    ),
    "vicuna": (["<s>", "</s>"], f"<s>{USER}{ASKED.replace('Is it', f'EEE{chr(10)}Is it')}"),
    "llava_v1": (["<s>", "</s>"], f"<s>{HUMAN}{ASKED.replace('Is it', f'EEE{chr(10)}Is it')}"),
}


def tokenizer_with(*tokens: str) -> Any:
    tokenizer = train_tokenizer(TEXTS, 400)
    tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in tokens], special_tokens=True)
    add_ecg_tokens(None, tokenizer, ["<ecg_token>"])
    return tokenizer


@pytest.mark.parametrize("family", sorted(RENDERED))
def test_d12_only_answers_and_their_end_are_learned_with_an_ecg(family: str) -> None:
    control, text = RENDERED[family]
    tokenizer = tokenizer_with(*control)
    chat = chat_format(family, tokenizer)
    ecg = EcgInput(np.zeros(3, np.int64), np.zeros((2, 10), np.float32))
    example = Prompter.create(tokenizer, chat, ["<ecg_token>"]).build("x", TURNS, [ecg])
    assert tokenizer.decode(example.input_ids).replace("<ecg_token>", "E") == text
    learned = tokenizer.decode([i for i in example.labels if i != IGNORE])
    blank = " " if family in ("mistral", "vicuna", "llava_v1") else ""
    assert learned == f"{blank}yes{chat.end}{blank}72 bpm{chat.end}"


@pytest.mark.parametrize("family", ["vicuna", "vicuna-first"])
def test_llava_v1_is_its_pieces_read_one_by_one(family: str) -> None:
    """models_and_training §8.3: text around the picture is tokenised on its own, the repeated begin token dropped."""
    tokenizer = BUILDERS[family]()
    add_ecg_tokens(None, tokenizer, ["<ecg_token>"])
    chat = chat_format("llava_v1", tokenizer)
    ecg = EcgInput(np.zeros(2, np.int64), np.zeros((2, 10), np.float32))
    built = Prompter.create(tokenizer, chat, ["<ecg_token>"]).build("x", TURNS, [ecg])
    before, after = f"{HUMAN}{ASKED.replace('Is it', '<image>Is it')}".split("<image>")
    picture = tokenizer.convert_tokens_to_ids("<ecg_token>")
    texts = [tokenizer.encode(text, add_special_tokens=False) for text in (before, f"\n{after}")]
    assert built.input_ids.tolist() == [1, *texts[0], picture, picture, *texts[1]]
    assert tokenizer.convert_ids_to_tokens(texts[1][:2]) == ["▁", "<0x0A>"]  # the lone blank of §8.6, point 3
    answers = tokenizer.convert_ids_to_tokens(built.labels[built.labels != IGNORE])
    assert answers == ["▁yes", "</s>", "▁", "7", "2", "▁bpm", "</s>"]
    assert check_template(tokenizer, chat) == []


@pytest.mark.parametrize("family", [f.name for f in CHAT_FORMATS])
def test_every_named_format_can_be_asked_for(family: str, tokenizers) -> None:
    tokenizer = tokenizers["vicuna" if family == "llava_v1" else family]
    chat = chat_format(family, tokenizer)
    assert chat.name == family and check_template(tokenizer, chat) == []


@pytest.mark.parametrize("family", ["chatml", "llama3", "gemma"])
def test_auto_recognises_families_without_a_template(family: str) -> None:
    tokenizer = BUILDERS[family]()
    tokenizer.chat_template = None
    assert chat_format("auto", tokenizer).name == family


@pytest.mark.parametrize("family", ["qwen2.5", "llama3.2", "gemma3", "phi3", "mistral_v3"])
def test_template_by_name_is_the_same_format(family: str, tokenizers) -> None:
    tokenizer = tokenizers[family]
    chat = chat_format("template", tokenizer)
    assert chat.name == "template" and check_template(tokenizer, chat) == []
    with pytest.raises(ConfigError, match="no chat template"):
        chat_format("template", tokenizers["gpt2"])


def test_another_familys_format_is_refused_by_the_first_token_that_differs(tokenizers) -> None:
    tokenizer = tokenizers["qwen2.5"]
    found = check_template(tokenizer, chat_format("chatml", tokenizer))
    assert len(found) == 4  # the talks without a system text, where the template shows its own
    assert (
        found[0] == "one question, to answer: token 1 is 'system' (8948) for the tokenizer and 'user' (872) in chatml"
    )
    with pytest.raises(ConfigError, match=r"chatml.*token 1 is 'system'.*model\.chat_format: auto"):
        refuse_mismatch(tokenizer, chat_format("chatml", tokenizer))
    assert check_template(tokenizer, chat_format("plain", tokenizer)) == []  # ours, and wanted so
    assert any(
        "token" in d for d in check_template(tokenizers["llama3.2"], chat_format("llama3", tokenizers["llama3.2"]))
    )


REFUSED = {
    "answers without an end": "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}",
    "texts changed": "{% for m in messages %}{{ m.role + m.content | upper + '<|im_end|>' }}{% endfor %}",
    "only the last turn": "{{ messages[-1].content + '<|im_end|>' }}",
    "a prompt that begins to think": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>' }}{% endif %}"
    ),
    "an error of its own": "{{ raise_exception('not today') }}",
    "not a template": "{% for m in messages %}",
    "another end each time": "{% for m in messages %}{{ loop.index ~ m.content + '<|im_end|>' }}{% endfor %}",
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_template_that_cannot_be_cut_into_turns_is_refused_in_one_line(what: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be cut into turns.*model\.chat_format: plain") as error:
        chat_format("auto", qwen(REFUSED[what]))
    assert "\n" not in str(error.value)


def test_a_template_without_a_prompt_to_answer_still_has_one() -> None:
    tokenizer = qwen(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    )
    chat = chat_format("auto", tokenizer)
    assert chat.name == "chatml" and check_template(tokenizer, chat) == []


@pytest.mark.parametrize("family", [f for f in BUILDERS if "vicuna" not in f])
def test_a_format_written_as_a_template_is_that_format(family: str) -> None:
    """There and back: what the template written from a format is told apart into, and what it makes of a talk."""
    tokenizer = BUILDERS[family]()
    chat = chat_format("auto", tokenizer)
    tokenizer.chat_template = to_template(chat)
    again = chat_format("template", tokenizer)
    assert dataclasses.replace(again, name=chat.name, published=chat.published) == chat
    prompter = Prompter.create(tokenizer, chat, [], system=SYSTEM)
    tokenizer.chat_template = to_template(chat, SYSTEM)
    assert theirs(tokenizer, TALK) == prompter.build("x", TALK, []).input_ids.tolist()
    asked = prompter.build("x", TALK[:3], [], generate=True).input_ids.tolist()
    assert theirs(tokenizer, TALK[:3], add_generation_prompt=True) == asked


def test_todays_date_never_enters_a_prompt() -> None:
    """A template that writes the day: the same prompt whenever it is rendered."""
    template = BUILDERS["chatml"]().chat_template
    dated = "{{ '<|im_start|>system\nToday is ' + strftime_now('%d %B %Y') + '<|im_end|>\n' }}" + template
    chat = chat_format("auto", qwen(dated))
    assert chat.opening == "<|im_start|>system\nToday is 26 Jul 2024<|im_end|>\n<|im_start|>user\n"


def test_a_format_whose_end_token_is_unknown_is_refused() -> None:
    with pytest.raises(ConfigError, match="<end_of_turn>"):
        chat_format("gemma", tokenizer_with())


def test_plain_format_needs_an_end_token() -> None:
    tokenizer = tokenizer_with()
    assert plain_format(tokenizer).end == "<|im_end|>"
    tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="eos_token"):
        plain_format(tokenizer)


@pytest.mark.parametrize("roles", ["a", "ua a", "uua", "us", "s", ""])
def test_turns_out_of_order_are_rejected_by_name(roles: str) -> None:
    names = {"u": "user", "a": "assistant", "s": "system"}
    turns = [Turn(names[r], "x") for r in roles.replace(" ", "")]
    with pytest.raises(RejectedRecord, match="turn_order"):
        CHAT_FORMATS[0].pieces(turns)
