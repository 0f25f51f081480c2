"""What is asked of a model under each condition, and what baselines answer."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from ecglm.errors import EcglmError, UnsafeInputError
from ecglm.evaluation.answerers.make import ModelSpec
from ecglm.evaluation.ecgbench.asking import Asking, baseline_texts, shows_records
from ecglm.evaluation.ecgbench.gold import GoldItem, read_gold
from ecglm.evaluation.ecgbench.subsets import SUBSETS
from ecglm.types import Turn

VLM = ModelSpec("vlm", "m", {}, 8)
ELM = ModelSpec("elm", "m", {}, 8, stores=("s",))


class Store:
    def records(self):
        return ["ptb-xl/00001", "ptb-xl/00002", "ptb-xl/00003"]


def item(number, patient="", image="", turns=None, answers=("NORM",), options=()):
    turns = turns or (Turn("user", "<ecg>\nQ"), Turn("assistant", answers[0]))
    record = f"ptb-xl/{number:05d}"
    image = image or f"ptb/{number:05d}_hr-0.png"
    return GoldItem(f"q{number}", image, turns, answers, options, patient or record, False, record)


def asking(spec, subset, items, tmp_path, control="real", stores=(), seed=0):
    return Asking(spec, SUBSETS[subset], items, tmp_path / "images", stores, control, seed)


def test_a_question_and_its_picture(tmp_path):
    one = item(1)
    talk = asking(VLM, "ptb-test", [one], tmp_path, "noise", seed=7).talk(one)
    (ref,) = talk.request.pictures
    assert ref.path == tmp_path / "images" / "ptb" / "00001_hr-0.png"
    assert (ref.control, ref.seed, ref.row) == ("noise", 7, "ptb-test/q1")
    assert talk.request.turns == one.turns[:1] and talk.later == () and talk.request.record is None


def test_the_arena_is_asked_question_by_question_without_its_answers(tmp_path):
    turns = (Turn("user", "<ecg>\nQ1"), Turn("assistant", "gold"), Turn("user", "Q2"), Turn("assistant", "gold 2"))
    one = item(1, turns=turns)
    talk = asking(VLM, "arena", [one], tmp_path).talk(one)
    assert talk.request.turns == turns[:1] and talk.later == (Turn("user", "Q2"),)
    blind = asking(VLM, "arena", [one], tmp_path, "no-ecg").talk(one)
    assert blind.request.turns == (Turn("user", "Q1"),) and blind.request.pictures == ()


def test_swap_shows_a_picture_of_another_patient_never_ones_own(tmp_path):
    items = [item(n, patient=f"p{n // 2}") for n in range(8)]
    found = asking(VLM, "ptb-test", items, tmp_path, "swap", seed=3)
    patient = {i.image: i.patient_id for i in items}
    for one in items:
        (ref,) = found.talk(one).request.pictures
        shown = ref.path.relative_to(tmp_path / "images").as_posix()
        assert patient[shown] != one.patient_id and ref.control == "real"
        assert found.extra(one) == {"shown": shown}
    again = asking(VLM, "ptb-test", items[::-1], tmp_path, "swap", seed=3)
    assert again.partners == found.partners
    with pytest.raises(EcglmError, match="needs ECGs of at least two patients"):
        asking(VLM, "ptb-test", items[:2], tmp_path, "swap")


def test_recordings_of_a_store_for_recordings_and_pictures_for_photographs(tmp_path):
    items = [item(n) for n in (1, 2, 3, 9)]
    assert shows_records(ELM, SUBSETS["ptb-test"]) and not shows_records(ELM, SUBSETS["arena"])
    real = asking(ELM, "ptb-test", items, tmp_path, stores=[Store()])
    assert [real.talk(i).request.record for i in items] == [i.record for i in items]
    swapped = asking(ELM, "ptb-test", items, tmp_path, "swap", stores=[Store()])
    shown = [swapped.talk(i).request.record for i in items]
    assert set(shown[:3]) == set(Store().records()) and all(
        s != i.record for s, i in zip(shown[:3], items, strict=False)
    )
    assert shown[3] == "ptb-xl/00009" and swapped.extra(items[3]) == {}  # in no store: its row will say so
    assert asking(ELM, "arena", items, tmp_path, stores=[Store()]).talk(items[0]).request.pictures


def test_a_picture_outside_the_folder_is_refused(tmp_path):
    for image in ("../secret.png", "/etc/passwd.png", "a/../../x.png"):
        one = item(1, image=image)
        with pytest.raises(UnsafeInputError, match=r"ptb-test, item 'q1'.*leads outside its folder"):
            asking(VLM, "ptb-test", [one], tmp_path).talk(one)


def test_baselines_answer_from_the_items_own_choices(tmp_path):
    talk = [{"from": "human", "value": "Which? A. one B. two C. three"}, {"from": "gpt", "value": "C. three"}]
    items = [{"id": n, "image": f"{n}.png", "conversations": talk} for n in range(300)]
    (tmp_path / "csn-test-no-cot.json").write_text(json.dumps(items))
    gold = {"csn-test-no-cot": read_gold(tmp_path, "csn-test-no-cot")}
    assert set(baseline_texts("majority", gold, 0).values()) == {"C"}
    drawn = Counter(baseline_texts("random", gold, 0).values())
    assert set(drawn) == set("ABC") and min(drawn.values()) > 70  # 100 each, 3.7 standard deviations


def test_code15s_two_halves_have_their_own_random_answers():
    halves = [item(n, answers=("ABNORMAL",)) for n in range(60)] + [item(n, answers=("RBBB",)) for n in range(100, 160)]
    texts = baseline_texts("random", {"code15-test": halves}, 0)
    assert {texts[f"code15-test/q{n}"] for n in range(60)} == {"NORM", "ABNORMAL"}
    named = {label for n in range(100, 160) for label in texts[f"code15-test/q{n}"].split(", ")}
    assert named == {"1dAVb", "RBBB", "LBBB", "SB", "ST", "AF"}


def test_the_most_frequent_set_of_answers():
    items = [item(n, answers=a) for n, a in enumerate([("lead I", "lead II"), ("yes",), ("lead I", "lead II")])]
    assert set(baseline_texts("majority", {"ecgqa-test": items}, 0).values()) == {"lead I, lead II"}
