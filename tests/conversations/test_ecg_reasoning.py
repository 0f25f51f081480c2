"""Corpus ecg-reasoning: dialogues in the stored order, and the real PTB-XL part."""

from __future__ import annotations

import copy
import json

import pytest
from official_files import STUDIES, IndexOnly, reasoning_item, write_json, write_jsonl

from ecglm import registry
from ecglm.conversations.ecg_reasoning import map_ecg_reasoning
from ecglm.conversations.outcomes import collect
from ecglm.conversations.table import read_conversations, write_conversations
from ecglm.errors import EcglmError


def mapped(root, records=None, **options):
    return collect(map_ecg_reasoning(IndexOnly() if records is None else IndexOnly(records), root=root, **options))


def test_one_item_is_one_dialogue_in_the_stored_order(tmp_path):
    [c] = mapped(write_jsonl(tmp_path / "ptbxl.jsonl", [reasoning_item(7)])).conversations
    assert (c.id, c.task, c.split) == ("ecg-reasoning/test/ptbxl/7", "ecg-reasoning", "test")
    assert c.ecgs == ("ptb-xl/00001",)
    assert [(t.role, t.text) for t in c.turns] == [
        ("user", "<ecg>\nDoes this ECG suggest LVH?\nOptions:\n- Yes\n- No"),
        ("assistant", "Yes"),
        ("user", "Which criterion?\nOptions:\n- Sokolow\n- Delta wave"),
        ("assistant", "Sokolow"),
        ("user", "Is it met?\nOptions:\n- Yes\n- No"),
        ("assistant", "Yes"),
        ("user", "Where?\nOptions:\n- [1.00s - 1.20s]\n- [2.00s - 2.20s]"),
        ("assistant", "[2.00s - 2.20s]"),
        ("user", "So, LVH?\nOptions:\n- Yes\n- No\n- Further findings"),
        ("assistant", "Yes"),
    ]
    about = dict(c.metadata)
    asked = about.pop("turns")
    assert [t["question_type"] for t in asked] == [
        "initial_diagnostic_question",
        "criterion_selection",
        "finding_identification",
        "wave_grounding",
        "diagnostic_decision",
    ]
    assert [t["answer_idx"] for t in asked] == [[0], [0], [0], [1], [0]]
    assert asked[1]["options"] == ["Sokolow", "Delta wave"]
    assert about == {
        "data_source": "ptbxl",
        "target_dx": "lvh",
        "dx_label": True,
        "path_idx": 0,
        "question_type": "multi-turn-choice",
        "version": 1,
    }


def test_no_grounding_several_steps_and_several_answers(tmp_path):
    item = reasoning_item()
    step = item["data"]["reasoning"][0]
    second = copy.deepcopy(step)
    step["ecg_grounding"] = []
    leads = {"question": "Which leads?", "options": ["V2", "V3", "V4"], "answer": ["V2", "V4"], "answer_idx": [0, 2]}
    second["ecg_grounding"] = [{**leads, "question_type": "lead_grounding"}]
    item["data"]["reasoning"].append(second)
    [c] = mapped(write_jsonl(tmp_path / "a.jsonl", [item])).conversations
    assert len(c.turns) == 2 * (1 + 3 + 4) and c.turns[13].text == "V2, V4"
    assert c.metadata["turns"][6]["answer_idx"] == [0, 2]


def test_the_mimic_part_and_the_official_tree(tmp_path):
    for number, study in ((2755, STUDIES[0]), (2756, STUDIES[1])):
        item = reasoning_item(0, str(study), "mimic_iv_ecg")
        del item["metadata"]["id"]
        write_json(tmp_path / "data" / "mimic_iv_ecg" / "anterior_ischemia" / f"{number}.json", item, indent=4)
    result = mapped(tmp_path)
    assert [c.source_id for c in result.conversations] == ["mimic_iv_ecg/2755", "mimic_iv_ecg/2756"]
    assert [c.ecgs[0] for c in result.conversations] == [f"mimic-iv-ecg/{s}" for s in STUDIES[:2]]
    lines = [reasoning_item(1, str(STUDIES[0]), "mimic_iv_ecg")]
    write_jsonl(tmp_path / "data" / "mimic_iv_ecg.jsonl", lines)
    write_jsonl(tmp_path / "data" / "ptbxl.jsonl", [reasoning_item(1)])
    both = mapped(tmp_path)
    assert [c.source_id for c in both.conversations] == ["mimic_iv_ecg/1", "ptbxl/1"]


def without(*path):
    item = reasoning_item(1)
    place = item
    for name in path[:-1]:
        place = place[name]
    del place[path[-1]]
    return item


def changed(value, *path):
    item = reasoning_item(1)
    place = item
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return item


FIRST = ("data", "initial_diagnostic_question")
STEP = ("data", "reasoning", 0)


@pytest.mark.parametrize(
    ("broken", "reason", "words"),
    [
        ({}, "malformed_item", "field metadata must be an object"),
        (without("data"), "malformed_item", "field data"),
        (without("metadata", "ecg_id"), "malformed_item", "field ecg_id must be text"),
        (changed(17, "metadata", "ecg_id"), "malformed_item", "field ecg_id must be text"),
        (changed("chapman", "metadata", "data_source"), "malformed_item", "field data_source must be one of"),
        (changed("A0001", "metadata", "ecg_id"), "unknown_ecg_key", "PTB-XL"),
        (without(*FIRST), "malformed_item", "initial_diagnostic_question"),
        (without(*FIRST, "answer"), "malformed_item", "field answer"),
        (changed("Maybe", *FIRST, "answer"), "malformed_item", "field answer must be among the options"),
        (changed([], *FIRST, "options"), "malformed_item", "field options must be a list of texts"),
        (changed(["Yes", 1], *FIRST, "options"), "malformed_item", "field options"),
        (changed(1, *STEP, "diagnostic_decision", "answer_idx"), "malformed_item", "field answer_idx is 1"),
        (without(*STEP, "finding_identification"), "malformed_item", "finding_identification"),
        (without(*STEP, "ecg_grounding"), "malformed_item", "ecg_grounding must be a list"),
        (changed([None], *STEP, "ecg_grounding"), "malformed_item", "ecg_grounding"),
        (changed("x", "data", "reasoning"), "malformed_item", "field reasoning must be a list"),
        (changed(["x"], "data", "reasoning"), "malformed_item", "a step of reasoning"),
        (changed("Is <ecg> like <image>?", *FIRST, "question"), "mark_count", "2 ECG marks for 1 ECGs"),
    ],
)
def test_a_broken_item_is_rejected(tmp_path, broken, reason, words):
    rows = [reasoning_item(0), broken, reasoning_item(2)]
    result = mapped(write_jsonl(tmp_path / "a.jsonl", rows))
    assert result.counts == {"in": 3, "mapped": 2, reason: 1}
    assert result.rejected[0]["item"] == "a.jsonl[1]" and words in result.rejected[0]["detail"]


def test_what_is_no_benchmark_is_told(tmp_path):
    with pytest.raises(EcglmError, match="no such file or folder"):
        mapped(tmp_path / "none")
    with pytest.raises(EcglmError, match=r"no .jsonl file and no <diagnosis>/<number>.json here"):
        mapped(tmp_path)
    torn = json.dumps(reasoning_item(0)) + "\n" + json.dumps(reasoning_item(1))[:300]
    (tmp_path / "a.jsonl").write_text(torn)
    with pytest.raises(EcglmError, match=r"a\.jsonl, line 2: the file is cut off here"):
        mapped(tmp_path)
    write_jsonl(tmp_path / "a.jsonl", [reasoning_item(0)] * 2)
    with pytest.raises(EcglmError, match="id 'ptbxl/0' stands twice"):
        mapped(tmp_path)


def test_registered():
    assert registry.get("conversations", "ecg-reasoning") is map_ecg_reasoning


@pytest.mark.realdata
def test_the_real_ptb_xl_part(tmp_path, shared, ptb_xl):
    root = shared / "ecg-reasoning-benchmark"
    rows = [json.loads(line) for line in (root / "ptbxl.jsonl").read_text().splitlines()]
    for resolution, answerable in (("100", 134), ("500", 21)):
        headers = sorted((ptb_xl / f"records{resolution}").rglob("*.hea"))
        records = tuple(f"ptb-xl/{h.stem.split('_')[0]}" for h in headers)
        result = mapped(root, records)
        absent = 3084 - answerable
        assert result.counts == {"in": 3084, "mapped": answerable, "ecg_not_in_store": absent}
    everything = tuple(f"ptb-xl/{n:05d}" for n in range(1, 21838))
    whole = mapped(root, everything)
    assert whole.counts == {"in": 3084, "mapped": 3084}
    assert len({c.metadata["target_dx"] for c in whole.conversations}) == 17
    for row, c in zip(rows, whole.conversations, strict=True):
        leaves = [row["data"]["initial_diagnostic_question"]]
        for step in row["data"]["reasoning"]:
            leaves += [step["criterion_selection"], step["finding_identification"], *step["ecg_grounding"]]
            leaves.append(step["diagnostic_decision"])
        gold = [a if isinstance(a := leaf["answer"], str) else ", ".join(a) for leaf in leaves]
        assert [t.text for t in c.turns if t.role == "assistant"] == gold
    write_conversations(tmp_path / "r.parquet", whole.conversations[:200], {}, {})
    assert read_conversations(tmp_path / "r.parquet") == whole.conversations[:200]
