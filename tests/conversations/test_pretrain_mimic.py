"""Corpus pretrain-mimic: ECG-Chat's report pairs, in their official schema."""

from __future__ import annotations

import pytest
from official_files import STUDIES, IndexOnly, patient_of, splits, study_item, turns, write_json, write_jsonl

from ecglm import registry
from ecglm.conversations.outcomes import collect
from ecglm.conversations.pretrain_mimic import map_pretrain_mimic
from ecglm.errors import EcglmError


def mapped(path, **options):
    return collect(map_pretrain_mimic(IndexOnly(), root=path, splits=splits(), **options))


def test_a_pair_is_a_report_question(tmp_path):
    result = mapped(write_json(tmp_path / "pretrain_mimic.json", [study_item()]))
    [c] = result.conversations
    record = f"mimic-iv-ecg/{STUDIES[0]}"
    split = splits()[patient_of(record)]
    assert (c.task, c.ecgs, c.patients, c.split) == ("report", (record,), (patient_of(record),), split)
    assert c.id == f"pretrain-mimic/{split}/item-{STUDIES[0]}" and c.corpus == "pretrain-mimic"
    assert [t.text for t in c.turns] == ["<ecg>\nWrite the report.", f"Sinus rhythm, number {STUDIES[0]}."]


@pytest.mark.parametrize(
    ("said", "question"),
    [
        (turns("q", "a", mark="<ecg>"), "<ecg>\nq"),
        (turns("q", "a", mark="<ecg>\n"), "<ecg>\nq"),
        (turns("q\n<ecg>", "a", mark=""), "q\n<ecg>"),
        (turns("", "a", mark="<ecg>"), "<ecg>"),
    ],
)
def test_the_mark_stands_where_it_stood(tmp_path, said, question):
    result = mapped(write_json(tmp_path / "a.json", [study_item(conversations=said)]))
    assert result.conversations[0].turns[0].text == question


@pytest.mark.parametrize(
    "key",
    [
        f"files/p1000/p10000032/s{STUDIES[0]}/{STUDIES[0]}",
        f"/files/p1000/p10000032/s{STUDIES[0]}/{STUDIES[0]}/",
        str(STUDIES[0]),
    ],
)
def test_the_last_component_is_the_study(tmp_path, key):
    result = mapped(write_json(tmp_path / "a.json", [study_item(ecg=key)]))
    assert result.conversations[0].ecgs == (f"mimic-iv-ecg/{STUDIES[0]}",)


@pytest.mark.parametrize(
    ("first", "words"),
    [
        ({"image": "a.png", "conversations": []}, "malformed_item: field ecg must be text, found only image, conv"),
        (study_item(ecg=f"files/s{STUDIES[0]}"), "unknown_ecg_key"),
        ({"ecg": "files/1", "text": "x"}, "no_turns"),
        ("x", "malformed_item"),
    ],
)
def test_the_schema_is_checked_on_the_first_item(tmp_path, first, words):
    path = write_json(tmp_path / "a.json", [first, study_item()])
    with pytest.raises(EcglmError, match=r"a\.json\[0\]: no item of corpus 'pretrain-mimic'") as error:
        mapped(path)
    assert words in str(error.value) and "\n" not in str(error.value)
    later = mapped(write_json(tmp_path / "a.json", [study_item(), first]))
    assert later.counts["mapped"] == 1 and len(later.rejected) == 1


@pytest.mark.parametrize("place", ["pretrain_mimic.json", "data/pretrain_mimic.json", "some_other_name.json"])
def test_root_may_be_the_file_or_a_folder(tmp_path, place):
    path = write_json(tmp_path / place, [study_item(), study_item(STUDIES[3])])
    assert mapped(tmp_path).counts == mapped(path).counts == {"in": 2, "mapped": 2}
    lines = write_jsonl(tmp_path / "lines" / "x.jsonl", [study_item(), study_item(STUDIES[3])])
    assert mapped(lines).conversations == mapped(path).conversations


def test_registered():
    assert registry.get("conversations", "pretrain-mimic") is map_pretrain_mimic
