"""Cards: which test ECGs are drawn, and what stands under them."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from ecglm.evaluation.cards import make_cards, png_uri
from ecglm.evaluation.tables import Run


def picture(record_id):
    return np.full((40, 60, 3), 255, dtype=np.uint8)


def test_cards_are_drawn_by_lot_whatever_the_models_said(make_run):
    drawn = []
    for skill in (0.0, 0.9):
        rows = make_run(skill=skill)
        drawn.append([(c.question, c.reference) for c in make_cards([Run("a", {}, {}, rows)], picture)])
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 12
    assert drawn[0][0][0] == "What is the rhythm?"


def test_tasks_take_turns_and_patients_differ(make_row):
    rows = [
        make_row("a", "a", id=f"{task}-{n}", task=task, patient_id=f"p{n}", ecgs=[f"e{n}"])
        for task, number in (("rhythm", 50), ("axis", 50), ("st", 2))
        for n in range(number)
    ]
    seen = []
    cards = make_cards([Run("a", {}, {}, rows)], lambda ecg: seen.append(ecg) or b"png", num_cards=12)
    assert sorted(c.task for c in cards) == ["axis"] * 5 + ["rhythm"] * 5 + ["st"] * 2
    assert len(set(seen)) == 12


def test_fewer_patients_than_cards(make_row):
    rows = [make_row("a", "a", id=f"r{n}", patient_id=f"p{n % 3}") for n in range(9)]
    assert len(make_cards([Run("a", {}, {}, rows)], picture, num_cards=5)) == 5
    assert len(make_cards([Run("a", {}, {}, rows)], picture, num_cards=50)) == 9


def test_answers_of_every_run_and_only_shared_questions(make_row):
    first = [make_row("AF", "AF", id="r1"), make_row("AF", "sinus", id="r2")]
    second = [make_row("AF", None, id="r1", error="too long")]
    (card,) = make_cards([Run("a", {}, {}, first), Run("b", {}, {}, second)], picture)
    assert [(a.run, a.text, a.correct) for a in card.answers] == [("a", "AF", True), ("b", "(failed: too long)", False)]
    (text,) = make_cards([Run("a", {}, {}, [make_row("a report", "", "text")])], picture)
    assert [(a.text, a.correct) for a in text.answers] == [("(no answer)", None)]


def test_pictures_keep_their_colours():
    image = np.full((50, 80, 3), (255, 252, 250), dtype=np.uint8)
    image[10:20] = (20, 20, 20)
    image[30] = (240, 170, 168)
    uri = png_uri(image)
    assert uri == png_uri(image)
    back = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB"))
    assert back.shape == image.shape
    assert np.abs(back.astype(int) - image).max() <= 8
    assert png_uri(b"\x89PNG").endswith(base64.b64encode(b"\x89PNG").decode())


def test_a_question_drawn_with_several_seeds_is_one_card(make_row):
    rows = [make_row("a", "a", id=f"r{n}", patient_id=f"p{n}", seed=s) for n in range(3) for s in (4, 5)]
    once = [make_row("a", "b", id=f"r{n}", patient_id=f"p{n}", seed=9) for n in range(3)]
    cards = make_cards([Run("a", {}, {}, rows), Run("b", {}, {}, once)], picture)
    assert len(cards) == 3 and all(len(card.answers) == 2 for card in cards)
