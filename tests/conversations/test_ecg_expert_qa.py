"""Corpus ecg-expert-qa: the key tables of its files, words alone, English alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from official_files import write_json

from ecglm import registry
from ecglm.conversations.ecg_expert_qa import map_ecg_expert_qa, short_name
from ecglm.conversations.outcomes import collect
from ecglm.errors import ConfigError, EcglmError

FILES = {
    "Cardiology Knowledge (Basic Knowledge Q&A).json": [{"Q": "What is the sinus node?", "A": "A pacemaker."}],
    "ECG Knowledge (Basic Q&A).json": [{"Q": "What is a P wave?", "A": "Atrial depolarisation."}],
    "Complex diagnosis (analysis of difficult diseases).json": [
        {"Disease": "Brugada Syndrome", "Q": "What does V1 show?", "A": "A coved ST segment."}
    ],
    "Patient prognosis (prognostic analysis).json": [
        {"medical_advice": "Take it daily.", "Q": "For how long?", "A": "For life."}
    ],
    "Patient's right to know.json": [{"Question": "May I see it?", "Answer": "Yes."}],
    "Medical inquiry (multi-turn).json": [
        {
            "conversations": [
                {"from": "human", "value": "It hurts."},
                {"from": "gpt", "value": "Where?"},
                {"from": "human", "value": "Here."},
                {"from": "gpt", "value": "I see."},
            ]
        }
    ],
}


def mapped(root, **options):
    return collect(map_ecg_expert_qa([], root=root, **options))


@pytest.fixture
def root(tmp_path):
    for name, items in FILES.items():
        write_json(tmp_path / name, items)
    return tmp_path


def test_every_form_of_keys(root):
    result = mapped(root)
    assert result.counts == {"in": 6, "mapped": 6}
    found = {c.metadata["file"]: c for c in result.conversations}
    assert {name: [t.text for t in c.turns] for name, c in found.items()} == {
        "cardiology-knowledge": ["What is the sinus node?", "A pacemaker."],
        "ecg-knowledge": ["What is a P wave?", "Atrial depolarisation."],
        "complex-diagnosis": ["What does V1 show?", "A coved ST segment."],
        "patient-prognosis": ["Take it daily.\n\nFor how long?", "For life."],
        "patients-right-to-know": ["May I see it?", "Yes."],
        "medical-inquiry": ["It hurts.", "Where?", "Here.", "I see."],
    }
    for name, c in found.items():
        assert c.ecgs == c.patients == () and c.task == "ecg-expert-qa"
        assert c.id == f"ecg-expert-qa/{c.split}/{name}/0"


def test_the_disease_gives_the_answer_away_and_is_metadata_alone(root):
    [c] = mapped(root, files="Complex").conversations
    assert c.metadata["disease"] == "Brugada Syndrome"
    assert not any("Brugada" in turn.text for turn in c.turns)


def test_files_can_be_chosen_or_given(root):
    chosen = mapped(root, files=("ECG Know", "Patient"))
    assert [c.metadata["file"] for c in chosen.conversations] == [
        "ecg-knowledge",
        "patient-prognosis",
        "patients-right-to-know",
    ]
    alone = mapped(root / "ECG Knowledge (Basic Q&A).json")
    assert alone.conversations == [c for c in chosen.conversations if c.metadata["file"] == "ecg-knowledge"]
    with pytest.raises(EcglmError, match="no file begins with 'Pateint'; there are"):
        mapped(root, files=["Pateint"])
    with pytest.raises(EcglmError, match="no such file or folder"):
        mapped(root / "none")
    (root / "empty").mkdir()
    with pytest.raises(EcglmError, match="no JSON file here"):
        mapped(root / "empty")


def test_unknown_keys_fail_clearly(root):
    write_json(root / "Long text diagnosis.json", [{"text": "x", "label": "y"}])
    with pytest.raises(EcglmError, match=r"Long text diagnosis.json, item 0: keys text, label are none") as error:
        mapped(root)
    assert "A, Disease, Q" in str(error.value) and "\n" not in str(error.value)


def test_broken_items_are_rejected(tmp_path):
    items = [{"Q": "q", "A": "a"}, {"Q": "q", "A": ""}, {"Q": None, "A": "a"}, {"Q": "q?", "A": "<ecg>"}, "text"]
    result = mapped(write_json(tmp_path / "a.json", items))
    assert result.counts == {"in": 5, "mapped": 1, "malformed_item": 3, "mark_outside_user_turn": 1}


def test_chinese_items_are_set_aside(tmp_path):
    items = [
        {"Q": "What is a P wave?", "A": "\u5fc3\u623f"},
        {"Q": "q", "A": "a"},
        {"conversations": [{"from": "human", "value": "\u4f60\u597d"}, {"from": "gpt", "value": "a"}]},
    ]
    result = mapped(write_json(tmp_path / "a.json", items))
    assert result.counts == {"in": 3, "mapped": 1, "not_english": 2}
    assert [row["item"] for row in result.set_aside] == ["a.json[0]", "a.json[2]"]


def test_splits_are_a_hash_of_seed_and_question(tmp_path):
    items = [{"Q": f"Question number {n}?", "A": "a"} for n in range(2000)]
    path = write_json(tmp_path / "a.json", [*items, {"Q": "question NUMBER 5", "A": "b"}])
    result = mapped(path)
    counts = Counter(c.split for c in result.conversations)
    assert abs(counts["train"] / 2001 - 0.7) < 0.04 and abs(counts["val"] / 2001 - 0.15) < 0.03
    assert result.conversations[5].split == result.conversations[-1].split
    assert {c.split for c in mapped(path, fractions=(0, 0, 1)).conversations} == {"test"}
    assert [c.split for c in mapped(path, seed=1).conversations] != [c.split for c in result.conversations]
    with pytest.raises(ConfigError, match="fractions must be three numbers that add up to 1"):
        mapped(path, fractions=(0.5, 0.6, 0.1))


@pytest.mark.parametrize(
    ("name", "short"),
    [("Patient's right to know.json", "patients-right-to-know"), ("(x).json", "(x)"), ("A_b.json", "a-b")],
)
def test_short_names(name, short):
    assert short_name(Path(name)) == short


def test_registered():
    assert registry.get("conversations", "ecg-expert-qa") is map_ecg_expert_qa
