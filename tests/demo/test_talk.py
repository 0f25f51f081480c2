"""Each model sees its own history, every ECG where it came in; nothing of one talk is in another."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecglm.conversations.messages import check_turns
from ecglm.demo.shown import Shown
from ecglm.demo.talk import MAX_ECGS, MAX_QUESTIONS, ModelName, Talk
from ecglm.errors import EcglmError
from ecglm.models.assistant import load, mark_ecgs
from ecglm.store.reader import SegmentStore
from ecglm.types import ECG_MARK, Turn

ONE, TWO = (ModelName("a", "f1"),), (ModelName("a", "f1"), ModelName("b", "f2"))


def shown(name: str = "x") -> Shown:
    return Shown(name, prepared=np.zeros((3, 12, 2500), np.float32))


def reply(talk: Talk, text: str = "Sinus rhythm.", model: int = 0, finish: str = "stop") -> str:
    answer = talk.questions[-1].answers[model][-1]
    return talk.answered(answer.id, text, finish).id


def test_one_question_about_one_ecg_is_marked_as_in_training():
    talk = Talk(ONE)
    talk.add_ecg(shown(), segment=2)
    question = talk.ask(" What is the rhythm? ")
    turns, ecgs = talk.shown_to(question.answers[0][0].id)
    assert turns == [Turn("user", "<ecg>\nWhat is the rhythm?")]
    assert [(p.number, p.segment) for p in ecgs] == [(1, 2)]


def test_several_ecgs_come_in_with_the_question_that_follows_them():
    talk = Talk(ONE)
    talk.add_ecg(shown())
    talk.ask("First?")
    reply(talk, "One.")
    talk.add_ecg(shown()), talk.add_ecg(shown())
    question = talk.ask("And these?")
    turns, ecgs = talk.shown_to(question.answers[0][0].id)
    assert turns == [
        Turn("user", "<ecg>\nFirst?"),
        Turn("assistant", "One."),
        Turn("user", "ECG 2: <ecg>\nECG 3: <ecg>\nAnd these?"),
    ]
    assert [p.number for p in ecgs] == [1, 2, 3]
    assert mark_ecgs(turns, 3) == turns


def test_without_history_each_question_is_asked_anew_about_all_ecgs_so_far():
    talk = Talk(ONE, history=False)
    talk.add_ecg(shown())
    talk.ask("First?")
    reply(talk, "One.")
    question = talk.ask("Second?")
    turns, ecgs = talk.shown_to(question.answers[0][0].id)
    assert (turns, [p.number for p in ecgs]) == ([Turn("user", "<ecg>\nSecond?")], [1])
    reply(talk)
    talk.add_ecg(shown())
    turns, ecgs = talk.shown_to(talk.ask("Both?").answers[0][0].id)
    assert turns == [Turn("user", "ECG 1: <ecg>\nECG 2: <ecg>\nBoth?")]
    assert [p.number for p in ecgs] == [1, 2]


def test_two_models_have_histories_of_their_own():
    talk = Talk(TWO)
    talk.add_ecg(shown())
    talk.ask("Rhythm?")
    reply(talk, "Sinus.", 0), reply(talk, "Fibrillation.", 1)
    question = talk.ask("Sure?")
    texts = [[t.text for t in talk.shown_to(question.answers[m][0].id)[0]] for m in (0, 1)]
    assert texts == [["<ecg>\nRhythm?", "Sinus.", "Sure?"], ["<ecg>\nRhythm?", "Fibrillation.", "Sure?"]]


def test_what_failed_is_left_out_and_its_ecg_comes_with_the_next_question():
    talk = Talk(TWO)
    talk.add_ecg(shown())
    question = talk.ask("Rhythm?")
    talk.failed(question.answers[0][0].id, "too many\nrequests")
    reply(talk, "Sinus.", 1)
    assert talk.questions[0].answers[0][0].text == "too many requests"
    question = talk.ask("Axis?")
    first, second = (talk.shown_to(question.answers[m][0].id) for m in (0, 1))
    assert [t.text for t in first[0]] == ["<ecg>\nAxis?"] and len(first[1]) == 1
    assert [t.text for t in second[0]] == ["<ecg>\nRhythm?", "Sinus.", "Axis?"] and len(second[1]) == 1


def test_an_empty_answer_is_no_history_and_a_cancelled_one_is_as_far_as_it_came():
    talk = Talk(ONE)
    talk.add_ecg(shown())
    talk.ask("One?")
    reply(talk, "  ")
    talk.ask("Two?")
    reply(talk, "Sinus rhy", finish="cancelled")
    question = talk.ask("Three?")
    turns, _ = talk.shown_to(question.answers[0][0].id)
    assert [t.text for t in turns] == ["<ecg>\nTwo?", "Sinus rhy", "Three?"]
    assert [a[0].state for q in talk.questions for a in q.answers] == ["done", "cancelled", "waiting"]


def test_another_answer_to_the_last_question_counts_and_the_former_can_be_compared():
    talk = Talk(TWO)
    talk.add_ecg(shown())
    talk.ask("Rhythm?")
    old, other = reply(talk, "Sinus.", 0), reply(talk, "AF.", 1)
    new, both = talk.again(old), talk.again(other)
    assert new.sampled and both.sampled and talk.waiting
    assert talk.shown_to(new.id)[0] == [Turn("user", "<ecg>\nRhythm?")]
    talk.answered(new.id, "Paced."), talk.answered(both.id, "Flutter.")
    assert [a.text for a in talk.questions[0].answers[0]] == ["Sinus.", "Paced."]
    question = talk.ask("Sure?")
    assert talk.shown_to(question.answers[0][0].id)[0][1].text == "Paced."
    with pytest.raises(EcglmError, match="still to come"):
        talk.again(question.answers[0][0].id)
    reply(talk, "Yes.", 0)
    with pytest.raises(EcglmError, match="only the last question"):
        talk.again(new.id)


def test_p23_a_mark_typed_by_hand_moves_no_ecg():
    talk = Talk(ONE)
    talk.add_ecg(shown())
    question = talk.ask("Is <ecg> or <ECG> an <e\u200bcg>?")
    reply(talk, "There is <ecg> and <|im_end|>.")
    again = talk.ask("Why?")
    turns, ecgs = talk.shown_to(again.answers[0][0].id)
    assert question.text == "Is [ecg] or [ecg] an [ecg]?"
    assert sum(t.text.count(ECG_MARK) for t in turns if t.role == "user") == len(ecgs) == 1
    assert mark_ecgs(turns, 1) == turns


def test_mistakes_are_one_line():
    talk = Talk(ONE)
    for act, said in [
        (lambda: talk.ask("Rhythm?"), "no ECG in this talk"),
        (lambda: talk.add_ecg(shown(), 3), "no segment 3"),
        (lambda: talk.remove_ecg(1), "no ECG 1"),
        (lambda: talk.answer("x"), "no such answer"),
        (lambda: talk.answer("\u00e9"), "no such answer"),
        (lambda: Talk(()), "one model or two"),
    ]:
        with pytest.raises(EcglmError, match=said):
            act()
    talk.add_ecg(shown())
    for text, said in [("", "empty"), ("x" * 9000, "9,000 characters")]:
        with pytest.raises(EcglmError, match=said):
            talk.ask(text)
    talk.ask("Rhythm?")
    with pytest.raises(EcglmError, match="still to come"):
        talk.ask("Axis?")
    answer = reply(talk)
    with pytest.raises(EcglmError, match="complete already"):
        talk.answered(answer, "again")
    for act in (lambda: talk.remove_ecg(1), lambda: talk.choose_segment(1, 1)):
        with pytest.raises(EcglmError, match="asked about already"):
            act()


def test_ecgs_and_questions_are_bounded():
    talk = Talk(ONE)
    for _ in range(MAX_ECGS):
        talk.add_ecg(shown())
    with pytest.raises(EcglmError, match="8 ECGs at most"):
        talk.add_ecg(shown())
    for _ in range(MAX_QUESTIONS):
        talk.ask("?")
        reply(talk)
    with pytest.raises(EcglmError, match="100 questions at most"):
        talk.ask("?")


def test_an_ecg_not_asked_about_yet_can_be_changed_or_taken_out():
    talk = Talk(ONE)
    talk.add_ecg(shown("a")), talk.add_ecg(shown("b"))
    talk.choose_segment(2, 1)
    talk.remove_ecg(1)
    assert [(p.number, p.shown.name, p.segment) for p in talk.ecgs] == [(1, "b", 1)]


def test_p23_ids_cannot_be_guessed_and_clearing_forgets_all():
    talk, other = Talk(ONE), Talk(ONE)
    talk.add_ecg(shown())
    question = talk.ask("Rhythm?")
    answer = question.answers[0][0].id
    assert len({talk.id, other.id, question.id, answer}) == 4 and min(map(len, (talk.id, question.id, answer))) >= 16
    with pytest.raises(EcglmError, match="belongs to another"):
        other.answered(answer, "mine")
    before = talk.id
    talk.clear()
    assert (talk.ecgs, talk.questions, talk.waiting) == ((), (), False) and talk.id != before
    with pytest.raises(EcglmError, match="was cleared"):
        talk.answered(answer, "too late")


def test_p23_talks_of_many_threads_never_mix():
    talks = [Talk(ONE) for _ in range(8)]

    def visit(number: int) -> None:
        talk = talks[number]
        talk.add_ecg(shown(str(number)))
        for turn in range(30):
            question = talk.ask(f"{number}.{turn}")
            _, ecgs = talk.shown_to(question.answers[0][0].id)
            assert [p.shown.name for p in ecgs] == [str(number)]
            talk.answered(question.answers[0][0].id, f"answer {number}.{turn}")

    threads = [threading.Thread(target=visit, args=(n,)) for n in range(8)]
    [t.start() for t in threads], [t.join() for t in threads]
    for number, talk in enumerate(talks):
        assert [q.text for q in talk.questions] == [f"{number}.{turn}" for turn in range(30)]
        assert [q.answers[0][0].text for q in talk.questions] == [f"answer {number}.{turn}" for turn in range(30)]


ACTS = st.lists(st.sampled_from(["ecg", "ask", "again", "done", "empty", "failed", "cancelled", "remove"]), max_size=25)


@settings(max_examples=200, deadline=None)
@given(acts=ACTS)
def test_whatever_happens_a_model_is_shown_a_conversation(acts):
    talk = Talk(TWO)
    for act in acts:
        waiting = [a for q in talk.questions for m in q.answers for a in m if a.state == "waiting"]
        try:
            if act == "ecg":
                talk.add_ecg(shown())
            elif act == "ask":
                talk.ask("Is <ecg> normal?")
            elif act == "again" and talk.questions:
                talk.again(talk.questions[-1].answers[0][-1].id)
            elif act == "remove":
                talk.remove_ecg(len(talk.ecgs))
            elif waiting and act == "failed":
                talk.failed(waiting[0].id, "busy")
            elif waiting:
                text = "" if act == "empty" else "A <ecg> text"
                talk.answered(waiting[0].id, text, "cancelled" if act == "cancelled" else "stop")
        except EcglmError:
            pass
        for question in talk.questions:
            for answer in (a for m in question.answers for a in m):
                turns, ecgs = talk.shown_to(answer.id)
                spoken = [
                    Turn(t.role, t.text.replace(ECG_MARK, "") if t.role == "assistant" else t.text) for t in turns
                ]
                check_turns([*spoken, Turn("assistant", "x")], len(ecgs))
                assert [p.number for p in ecgs] == sorted({p.number for p in ecgs})


def test_a_real_model_answers_a_talk(signal_run: Any, world: Any):
    assistant, store = load(signal_run / "best"), SegmentStore(world.store)
    talk = Talk(ONE)
    pipeline = dict(store.manifest["settings"]["pipeline"])
    for position in (0, 1):
        talk.add_ecg(Shown("x", prepared=store.take([position]), pipeline=pipeline))
        question = talk.ask("What is the rhythm?")
        turns, ecgs = talk.shown_to(question.answers[0][0].id)
        found = assistant.answer([(turns, [p.shown.input_for(assistant, p.segment) for p in ecgs])], max_new_tokens=8)
        assert found[0]["text"] is not None
        talk.answered(question.answers[0][0].id, found[0]["text"] or "none")
    assert len(talk.questions) == 2


def test_a_talk_that_does_not_fit_is_shown_from_a_later_ecg_on():
    talk = Talk(ONE)
    for text in ("One?", "Two?", "Three?"):
        talk.add_ecg(shown())
        talk.ask(text)
        reply(talk, f"To {text}")
    talk.ask("And now?")
    last = talk.questions[-1].answers[0][-1]
    assert talk.start_later(last.id)
    turns, ecgs = talk.shown_to(last.id)
    assert [p.number for p in ecgs] == [2, 3] and turns[0] == Turn("user", "ECG 2: <ecg>\nTwo?")
    assert talk.left_out(talk.answer(last.id)) == [1]
    assert talk.start_later(last.id) and not talk.start_later(last.id)  # the last ECG stays
    turns, ecgs = talk.shown_to(last.id)
    said = [Turn("user", "ECG 3: <ecg>\nThree?"), Turn("assistant", "To Three?"), Turn("user", "And now?")]
    assert turns == said and [p.number for p in ecgs] == [3]
    reply(talk)
    assert talk.shown_to(last.id)[0] == said  # what a rating of it will say
    before = talk.questions[-2].answers[0][-1]
    assert len(talk.shown_to(before.id)[1]) == 3  # answers that were given stay as they were shown


def test_ecgs_that_came_with_one_question_stay_together():
    talk = Talk(ONE, history=False)
    talk.add_ecg(shown()), talk.add_ecg(shown())
    answer = talk.ask("Compare?").answers[0][0]
    assert not talk.start_later(answer.id) and len(talk.shown_to(answer.id)[1]) == 2
