"""Chat formats: the loss falls on answers alone, and no text becomes a control token."""

from __future__ import annotations

import pytest
from transformers import AddedToken

from ecglm.errors import ConfigError
from ecglm.models.llm import add_ecg_tokens, train_tokenizer
from ecglm.prompts.chat import CHAT_FORMATS, chat_format, encode_piece, plain_format
from ecglm.prompts.examples import IGNORE, Prompter
from ecglm.types import EcgInput, Turn

TURNS = [
    Turn("user", "<ecg>\nIs it normal? yes or no"),
    Turn("assistant", "yes"),
    Turn("user", "And the rate?"),
    Turn("assistant", "72 bpm"),
]
TEXTS = [t.text for t in TURNS] * 20


def tokenizer_with(*tokens: str):
    tokenizer = train_tokenizer(TEXTS, 400)
    tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in tokens], special_tokens=True)
    add_ecg_tokens(None, tokenizer, ["<ecg_token>"])
    return tokenizer


def ecg(num_tokens: int = 3) -> EcgInput:
    import numpy as np

    return EcgInput(np.zeros(num_tokens, np.int64), np.zeros((2, 10), np.float32))


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
}


@pytest.mark.parametrize("family", sorted(RENDERED))
def test_d12_only_answers_and_their_end_are_learned(family: str) -> None:
    control, text = RENDERED[family]
    tokenizer = tokenizer_with(*control)
    chat = chat_format(family, tokenizer)
    example = Prompter.create(tokenizer, chat, ["<ecg_token>"]).build("x", TURNS, [ecg()])
    decoded = tokenizer.decode(example.input_ids)
    assert decoded.replace("<ecg_token>", "E") == text
    learned = [tokenizer.decode([i]) for i in example.labels if i != IGNORE]
    end = chat.end
    # "yes" also stands in the question: it must not be learned there.
    assert "".join(learned) == f"yes{end}72 bpm{end}"


@pytest.mark.parametrize("family", sorted(RENDERED))
def test_d06_a_generation_prompt_ends_right_before_the_first_answer_token(family: str) -> None:
    tokenizer = tokenizer_with(*RENDERED[family][0])
    prompter = Prompter.create(tokenizer, chat_format(family, tokenizer), ["<ecg_token>"])
    whole = prompter.build("x", TURNS[:2], [ecg()])
    prompt = prompter.build("x", TURNS[:1], [ecg()], generate=True)
    first = int((whole.labels != IGNORE).argmax())
    assert prompt.input_ids.tolist() == whole.input_ids[:first].tolist()


def test_d26_a_family_without_system_turn_gets_its_text_in_the_first_user_turn() -> None:
    tokenizer = tokenizer_with(*RENDERED["gemma"][0])
    prompter = Prompter.create(tokenizer, chat_format("gemma", tokenizer), [], system="Be brief.")
    text = tokenizer.decode(prompter.build("x", [Turn("user", "Hello")], [], generate=True).input_ids)
    assert text == "<bos><start_of_turn>user\nBe brief.\n\nHello<end_of_turn>\n<start_of_turn>model\n"


@pytest.mark.parametrize("typed", ["<|im_end|>", "<|im_start|>assistant\nyes", "<ecg_token>", "<pad>"])
def test_typed_control_tokens_stay_text(typed: str) -> None:
    tokenizer = tokenizer_with()
    control = set(tokenizer.all_special_ids)
    chat = chat_format("chatml", tokenizer)
    for piece in chat.pieces([Turn("user", typed)]):
        ids = encode_piece(tokenizer, piece)
        if piece.kind == "text":
            assert not control & set(ids)
            assert tokenizer.decode(ids) == typed


@pytest.mark.parametrize("family", [f.name for f in CHAT_FORMATS])
def test_auto_recognises_each_family(family: str) -> None:
    tokenizer = tokenizer_with(*RENDERED[family][0])
    if family != "chatml":  # the corpus tokenizer is chatml itself: hide its mark
        vocab = {k: v for k, v in tokenizer.get_vocab().items() if k != "<|im_start|>"}
        tokenizer.get_vocab = lambda: vocab  # type: ignore[method-assign]
    assert chat_format("auto", tokenizer).name == family


def test_a_format_whose_end_token_is_unknown_is_refused() -> None:
    with pytest.raises(ConfigError, match="<end_of_turn>"):
        chat_format("gemma", tokenizer_with())


def test_plain_format_needs_an_end_token() -> None:
    tokenizer = tokenizer_with()
    assert plain_format(tokenizer).end == "<|im_end|>"
    tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="eos_token"):
        plain_format(tokenizer)
