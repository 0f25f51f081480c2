"""Roles, marks and text of spec datasets §8, rules 1 to 3 and 5, and robustness §5."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecglm.conversations.messages import clean_text, item_messages, join_value, make_turns
from ecglm.errors import RejectedRecord
from ecglm.types import Turn

QUESTION, ANSWER = ("human", "What is it?"), ("gpt", "Sinus rhythm.")


def reason(call, *args, **kwargs) -> str:
    with pytest.raises(RejectedRecord) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize("user", ["human", "user", "Human"])
@pytest.mark.parametrize("assistant", ["gpt", "assistant", "model"])
def test_every_spelling_of_a_role_is_read(user, assistant):
    turns = make_turns([("system", "Be brief."), (user, "q"), (assistant, "a")], 0)
    assert turns == (Turn("system", "Be brief."), Turn("user", "q"), Turn("assistant", "a"))


@pytest.mark.parametrize(
    "roles",
    [
        ["gpt", "human"],
        ["gpt", "human", "gpt"],
        ["human"],
        ["human", "human", "gpt"],
        ["human", "gpt", "human"],
        ["human", "gpt", "gpt"],
        ["system"],
        ["system", "gpt"],
        ["human", "system", "gpt"],
        ["system", "system", "human", "gpt"],
    ],
)
def test_turns_start_with_user_and_alternate(roles):
    assert reason(make_turns, [(role, "text") for role in roles], 0) == "turn_order"


def test_unknown_role_is_named():
    with pytest.raises(RejectedRecord, match=r"turn 1 is by 'doctor'"):
        make_turns([QUESTION, ("doctor", "x")], 0)


@pytest.mark.parametrize(
    ("written", "ours"),
    [
        ("What is it?", "<ecg>\nWhat is it?"),
        ("<image>\nWhat is it?", "<ecg>\nWhat is it?"),
        ("<IMAGE>What is it?", "<ecg>\nWhat is it?"),
        ("<ecg> \nWhat is it?", "<ecg>\nWhat is it?"),
        ("  <Ecg>\r\nWhat is it?", "<ecg>\nWhat is it?"),
        ("What is it?\n<image>", "What is it?\n<ecg>"),
        ("In <image> what is it?", "In <ecg> what is it?"),
        ("<ecg>", "<ecg>"),
        ("<ecg >What is it?", "<ecg>\n<ecg >What is it?"),  # no mark: the characters stay as they are
    ],
)
def test_marks_become_ours(written, ours):
    assert make_turns([("human", written), ANSWER], 1)[0].text == ours


def test_several_ecgs_have_a_mark_each_in_order():
    assert make_turns([("human", "Same?"), ANSWER], 2)[0].text == "ECG 1: <ecg>\nECG 2: <ecg>\nSame?"
    written = [("human", "<image>\n<image>\nSame?"), ANSWER]
    assert make_turns(written, 2)[0].text == "<ecg>\n<ecg>\nSame?"
    later = [("human", "<image>\nThis?"), ANSWER, ("human", "and <image>"), ANSWER]
    assert [t.text for t in make_turns(later, 2)][::2] == ["<ecg>\nThis?", "and <ecg>"]


def test_text_without_ecg_gets_no_mark():
    assert make_turns([QUESTION, ANSWER], 0)[0].text == "What is it?"


@pytest.mark.parametrize(("marks", "num_ecgs"), [(1, 0), (1, 2), (2, 1), (3, 2)])
def test_mark_count_must_equal_the_ecgs(marks, num_ecgs):
    assert reason(make_turns, [("human", "<ecg>" * marks + "q"), ANSWER], num_ecgs) == "mark_count"


@pytest.mark.parametrize("pairs", [[QUESTION, ("gpt", "see <Image>")], [("system", "<ecg>"), QUESTION, ANSWER]])
def test_p20_mark_outside_a_user_turn_is_refused(pairs):
    assert reason(make_turns, pairs, 1) == "mark_outside_user_turn"


@pytest.mark.parametrize("blank", ["", "  \n\t", []])
def test_empty_turns_are_refused(blank):
    assert reason(make_turns, [QUESTION, ("gpt", blank)], 0) == "empty_turn"
    for num_ecgs in (0, 1):  # the mark that is put there does not make it a question
        assert reason(make_turns, [("human", blank), ANSWER], num_ecgs) == "empty_turn"


def test_p18_lists_are_joined_by_rule():
    assert join_value(list("A long QT?")) == "A long QT?"
    assert join_value(["yes", "no"], ", ") == "yes, no"
    assert reason(join_value, ["yes", "no"]) == "bad_value"


@pytest.mark.parametrize("value", [None, 3, 2.5, True, {"a": "b"}, ["a", None], ["a", 1], [["a"]]])
def test_values_that_are_no_text_are_refused(value):
    assert reason(make_turns, [QUESTION, ("gpt", value)], 0) == "bad_value"


@pytest.mark.parametrize("bad", ["a\0b", "a\ud800b", "\udfff"])
def test_nul_and_surrogates_are_refused(bad):
    assert reason(make_turns, [QUESTION, ("gpt", bad)], 0) == "bad_characters"


def test_control_strings_of_llms_stay_text():
    text = "<|eot_id|> <|im_start|> </s> <signal> signal_300 ASSISTANT:"
    assert make_turns([("user", text), ("assistant", text)], 0) == (Turn("user", text), Turn("assistant", text))


@given(st.text())
def test_clean_text_is_nfc_and_clean_already_the_second_time(text):
    if "\0" in text:
        assert reason(clean_text, text) == "bad_characters"
        return
    once = clean_text(text)
    assert once == unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n")).strip()
    assert clean_text(once) == once


def test_right_to_left_text_is_kept():
    assert clean_text("u\u0308ber \u202eabc\u202c") == "\u00fcber \u202eabc\u202c"


def test_prefixes_are_stripped_only_when_asked():
    pairs = [("user", "User: <image>\nhow fast?"), ("model", "assistant: fast")]
    assert make_turns(pairs, 1)[1].text == "assistant: fast"
    stripped = make_turns(pairs, 1, strip_prefixes=("user:", "assistant:"))
    assert [turn.text for turn in stripped] == ["<ecg>\nhow fast?", "fast"]


@pytest.mark.parametrize(
    ("written", "ours"),
    [
        ("This image, Images, IMAGE and IMAGES.", "This signal, Signals, SIGNAL and SIGNALS."),
        ("imaging, imaged, image_path, reimage, imagery", "imaging, imaged, image_path, reimage, imagery"),
        ("image-only (image)", "signal-only (signal)"),
        ("<image>\nThe image?", "<ecg>\nThe signal?"),
    ],
)
def test_d12_image_becomes_signal_as_a_word_in_user_turns_alone(written, ours):
    pairs = [("system", "An image."), ("human", written), ("gpt", written.replace("<image>\n", ""))]
    marks = written.count("<image>")
    turns = make_turns(pairs, marks, say_signal=True)
    assert [t.text for t in turns] == ["An image.", ours, written.replace("<image>\n", "")]
    assert make_turns(pairs, marks)[1].text == written.replace("<image>", "<ecg>")


def test_every_spelling_of_an_item_is_read():
    expected = [("human", "q"), ("gpt", "a")]
    said = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    assert item_messages({"conversations": said}) == expected
    assert item_messages({"conversation": said}) == expected
    assert item_messages({"messages": [{"role": "human", "content": "q"}, {"role": "gpt", "content": "a"}]}) == expected
    pairs = [{"question": "q", "answer": "a"}, {"question": "r", "answer": "b"}]
    assert item_messages({"conversations": pairs}) == [
        ("user", "q"),
        ("assistant", "a"),
        ("user", "r"),
        ("assistant", "b"),
    ]


@pytest.mark.parametrize("item", [{}, {"conversations": []}, {"conversations": "text"}, {"conversation": None}])
def test_an_item_without_turns_is_refused(item):
    assert reason(item_messages, item) == "no_turns"


@pytest.mark.parametrize("turn", ["text", None, {"from": "human"}, {"value": "x"}, {"from": 1, "value": "x"}])
def test_a_turn_without_role_or_text_is_refused(turn):
    assert reason(item_messages, {"conversations": [turn]}) == "bad_turn"
