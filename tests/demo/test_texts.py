"""Text from people, models and files becomes harmless, and stays what they wrote otherwise."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecglm.demo.texts import (
    MAX_TEXT,
    csv_cell,
    fenced,
    left_out,
    plain,
    question_text,
    safe_name,
    without_marks,
    words_of,
)
from ecglm.errors import EcglmError, RejectedRecord
from ecglm.types import ECG_MARK


def test_plain_keeps_words_and_lines_and_drops_what_hides():
    assert plain("a\r\nb\rc\td") == "a\nb\nc\td"
    assert plain("x\0y\x1b[31mz\ud800") == "xy[31mz"
    assert plain("abc\u202edcba\u200b\ufeff") == "abcdcba"
    assert plain("e\u0301") == "\u00e9"
    assert plain("<b>QT ≥ 500 ms</b> & co") == "<b>QT ≥ 500 ms</b> & co"  # escaping is the page's, at the last moment


@given(st.text())
def test_plain_twice_is_plain_and_can_be_encoded(text):
    once = plain(text)
    once.encode()
    assert plain(once) == once and unicodedata.is_normalized("NFC", once)


@pytest.mark.parametrize(
    "typed", ["<ecg>", "<ECG>", "<<ecg>ecg>", "a<ecg>b<ecg>", "<e\u200bcg>", "<e\0cg>", "<\u202eecg>"]
)
def test_a_mark_typed_by_hand_is_a_word(typed):
    assert ECG_MARK not in question_text(f"Is {typed} normal?").lower()


@given(st.lists(st.sampled_from(["<", "ecg", ">", "e", "cg", "\u200b", "\0", " ", "ECG", "<ecg>"]), max_size=12))
def test_no_text_makes_a_mark(parts):
    try:
        assert ECG_MARK not in question_text("".join(parts)).lower()
    except EcglmError as error:
        assert "empty" in str(error)
    assert ECG_MARK not in without_marks("".join(parts)).lower()


@pytest.mark.parametrize("text", ["", "  \n ", "\u200b", "\0"])
def test_nothing_is_no_question(text):
    with pytest.raises(EcglmError, match="the question is empty"):
        question_text(text)


def test_too_long_a_text_is_refused():
    assert len(question_text("x" * MAX_TEXT)) == MAX_TEXT
    for length in (MAX_TEXT + 1, 10_000_000):
        with pytest.raises(EcglmError, match=f"the correction has {length:,} characters, at most 8,000"):
            question_text("x" * length, "correction")


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("00001_hr.hea", "00001_hr.hea"),
        ("../../etc/passwd", "passwd"),
        ("C:\\temp\\x.npy", "x.npy"),
        ("..hidden", "hidden"),
        ("a\nb\0.npy", "a_b_.npy"),
        ("EKG Müller.mat", "EKG Müller.mat"),
        ("a\u202efdp.exe", "afdp.exe"),
        ("", "file"),
        ("...", "file"),
        ("~", "file"),
    ],
)
def test_names_for_people(name, safe):
    assert safe_name(name) == safe


@given(st.text())
def test_any_name_becomes_a_plain_one_of_one_line(name):
    safe = safe_name(name)
    assert (
        0 < len(safe) <= 80
        and len(safe.encode()) < 256
        and safe.isprintable()
        and "/" not in safe
        and "\\" not in safe
        and safe[0] not in ".~"
    )


def test_a_long_name_keeps_its_suffix():
    assert safe_name("a" * 300 + ".npy") == "a" * 68 + "….npy" and len(safe_name("a" * 300)) == 69
    assert safe_name("\N{ANATOMICAL HEART}" * 75 + ".npy").endswith("….npy")
    assert len(safe_name("\N{ANATOMICAL HEART}" * 300).encode()) < 256


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", '=HYPERLINK("http://x")'])
def test_p23_formulas_in_tables_are_text(cell):
    assert csv_cell(cell) == f"'{cell}"


@pytest.mark.parametrize("cell", ["", "sinus rhythm", "60", "a=b", "'x"])
def test_other_cells_stay(cell):
    assert csv_cell(cell) == cell


@pytest.mark.parametrize("text", ["![x](http://a/b.png)", "```\n</div><script>\n```", "`" * 9, "a\n~~~\n# b"])
def test_p23_a_block_ends_where_it_should(text):
    lines = fenced(text).split("\n")
    fence = lines[0].removesuffix("text")
    assert set(fence) == {"`"} and lines[-1] == fence and "\n".join(lines[1:-1]) == text
    assert not any(line.startswith(fence) for line in lines[1:-1])


def test_errors_are_told_without_codes_and_say_what_to_do():
    assert words_of(EcglmError("give one")) == "give one"
    assert words_of(RejectedRecord("flat_lead", "lead V1 is flat")) == "lead V1 is flat"
    assert words_of(RejectedRecord("flat_lead", "")) == "flat lead"
    said = words_of(RejectedRecord("sequence_too_long", "ask: 1983 tokens, at most 1024 fit (max_len)"))
    assert "clear and show fewer ECGs" in said and "max_len" not in said


def test_what_a_prompt_lost_is_told_in_words():
    assert left_out(()) == ""
    told = left_out(("dropped_neighbour", "dropped_oldest_turns", "dropped_oldest_turns"))
    assert told == "without some similar ECGs and its oldest questions: the talk is longer than this model reads"
    for code in ("dropped_neighbour", "cut_neighbour", "dropped_oldest_turns", "dropped_system", "ecg_tokens"):
        assert left_out((code,))
