"""Corpus ecg-instruct-45k: ECG-Chat's dialogues."""

from __future__ import annotations

import pytest
from official_files import STUDIES, IndexOnly, splits, study_item, turns, write_json

from ecglm import registry
from ecglm.conversations.ecg_instruct_45k import map_ecg_instruct_45k
from ecglm.conversations.outcomes import collect
from ecglm.errors import EcglmError


def mapped(path):
    return collect(map_ecg_instruct_45k(IndexOnly(), root=path, splits=splits()))


def test_all_turns_are_kept_and_the_ecg_is_shown_once(tmp_path):
    said = turns("What is the rate?", "60 bpm.", "And the rhythm?", "Sinus rhythm.", "Thanks, the axis?", "Normal.")
    path = tmp_path / "llava" / "playground" / "data" / "ecg_instruct_45k.json"
    write_json(path, [study_item(conversations=said)])
    [c] = mapped(tmp_path).conversations
    assert [t.role for t in c.turns] == ["user", "assistant"] * 3
    assert [t.text for t in c.turns] == ["<ecg>\nWhat is the rate?", *(m["value"] for m in said[1:])]
    assert (c.task, c.corpus, c.ecgs) == ("ecg-instruct", "ecg-instruct-45k", (f"mimic-iv-ecg/{STUDIES[0]}",))


def test_the_schema_is_checked_on_the_first_item(tmp_path):
    with pytest.raises(EcglmError, match=r"a.json\[0\]: no item of corpus 'ecg-instruct-45k'"):
        mapped(write_json(tmp_path / "a.json", [{"id": 1}, study_item()]))


def test_registered():
    assert registry.get("conversations", "ecg-instruct-45k") is map_ecg_instruct_45k
