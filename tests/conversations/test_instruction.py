"""instruction.py: what all instruction corpora do alike, tried on ECGInstruct's and ECG-Chat's schema."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from official_files import (
    EXAMS,
    PTB_XL,
    STUDIES,
    IndexOnly,
    instruct_item,
    mimic_image,
    splits,
    study_item,
    turns,
    write_json,
    write_jsonl,
)

from ecglm.conversations.ecg_instruct_pulse import map_ecg_instruct_pulse
from ecglm.conversations.instruction import Aside, Item, Rules, map_items, ptb_xl_record, read_files
from ecglm.conversations.outcomes import collect
from ecglm.conversations.table import write_conversations
from ecglm.errors import ConfigError, EcglmError, RejectedRecord


def mapped(tmp_path, items, **options):
    path = write_json(tmp_path / "ECGInstruct.json", items)
    return collect(map_ecg_instruct_pulse(IndexOnly(), root=path, **{"splits": splits(), **options}))


def good(number: int, **changes):
    return {**instruct_item(number, mimic_image(STUDIES[number % len(STUDIES)])), **changes}


def said(*messages, **changes):
    return good(1, conversations=list(messages), **changes)


def human(value):
    return {"from": "human", "value": value}


def gpt(value):
    return {"from": "gpt", "value": value}


#: Every line of robustness §5 about items: (item, reason, words of the detail).
BROKEN = [
    (None, "malformed_item", "an object is needed, found NoneType"),
    ([good(1)], "malformed_item", "an object is needed, found list"),
    ("text", "malformed_item", "found str"),
    ({}, "malformed_item", "field image must be text"),
    ({k: v for k, v in good(1).items() if k != "image"}, "malformed_item", "found only id, conversations, metadata"),
    (good(1, image=["a", "b"]), "malformed_item", "field image"),
    (good(1, id=None), "malformed_item", "field id must be text or a number"),
    (good(1, id=["x"]), "malformed_item", "field id"),
    (good(1, id=" "), "malformed_item", "field id"),
    (good(1, metadata="x"), "malformed_item", "field metadata must be an object"),
    ({k: v for k, v in good(1).items() if k != "conversations"}, "no_turns", "conversations, conversation, messages"),
    (good(1, conversations=[]), "no_turns", ""),
    (good(1, conversations="q"), "no_turns", ""),
    (said("q", "a"), "bad_turn", "turn 0 is a str"),
    (said({"value": "q"}), "bad_turn", "turn 0 has the keys value"),
    (said(human(None), gpt("a")), "bad_value", "found NoneType"),
    (said(human("q"), gpt(3)), "bad_value", "found int"),
    (said(human("q"), gpt({"a": 1})), "bad_value", "found dict"),
    (said(human("q"), gpt(["yes", "no"])), "bad_value", "no rule"),
    (said({"from": "doctor", "value": "q"}, gpt("a")), "unknown_role", "'doctor'"),
    (said(human("q"), human("r"), gpt("a")), "turn_order", "user user assistant"),
    (said(gpt("a"), human("q")), "turn_order", ""),
    (said(human("q")), "turn_order", ""),
    (said(human("q"), gpt("a"), human("r")), "turn_order", ""),
    (said(human("<image> and <ecg>?"), gpt("a")), "mark_count", "2 ECG marks for 1 ECGs"),
    (said(human("q"), gpt("see <Image>")), "mark_outside_user_turn", ""),
    (said(human("<image>\n"), gpt(" \n")), "empty_turn", ""),
    (said(human(""), gpt("a")), "empty_turn", ""),
    (said(human("a\0b"), gpt("a")), "bad_characters", "U+0000"),
    (said(human("q"), gpt("\ud800")), "bad_characters", "U+D800"),
    (good(1, image="mimic/p1/x-0.png"), "unknown_ecg_key", "a number of mimic-iv-ecg is needed, found 'x'"),
]


@pytest.mark.parametrize(("broken", "reason", "words"), BROKEN)
def test_a_broken_item_is_rejected_with_its_place(tmp_path, broken, reason, words):
    result = mapped(tmp_path, [good(0), broken, good(2)])
    assert result.counts == {"in": 3, "mapped": 2, reason: 1}
    [row] = result.rejected
    assert (row["item"], row["reason"]) == ("ECGInstruct.json[1]", reason) and words in row["detail"]
    assert "\n" not in row["detail"]


@pytest.mark.parametrize("depth", [50, 200, 500, 800, 900, 940, 960, 980, 990])
def test_deep_nesting_is_no_crash(tmp_path, depth):
    for field in ("metadata", "conversations", "image"):
        deep = '{"a":' * depth + "1" + "}" * depth
        item = json.dumps({**good(1), field: 0}).replace(f'"{field}": 0', f'"{field}": {deep}')
        path = tmp_path / "x.json"
        path.write_text(f"[{json.dumps(good(0))}, {item}]")
        try:
            outcomes = map_ecg_instruct_pulse(IndexOnly(), root=path, splits=splits())
            manifest = write_conversations(tmp_path / f"{field}.parquet", outcomes, {}, {})
        except EcglmError as error:
            assert "nested too deep" in str(error)
        else:
            assert manifest["counts"]["in"] == 2


def test_accepted_spellings(tmp_path):
    items = [
        said(human(list("What is it?")), gpt(list("AF"))),
        said({"role": "user", "content": "<ECG>\nq"}, {"role": "assistant", "content": "a"}, id=2),
        said({"from": "user", "value": "q"}, {"from": "model", "value": "a" * 1_000_000}, id=3),
        {**{k: v for k, v in good(4).items() if k != "conversations"}, "conversation": turns("q", "a")},
        said({"from": "system", "value": "Be brief."}, human("u\u0308 \u202eq"), gpt("a"), id="5"),
        said({"question": "q", "answer": "a"}, {"question": "r", "answer": "b"}, id=6),
    ]
    result = mapped(tmp_path, items)
    assert result.counts == {"in": 6, "mapped": 6}
    first, second, third, fourth, fifth, sixth = result.conversations
    assert [t.text for t in first.turns] == ["<ecg>\nWhat is it?", "AF"]
    assert second.source_id == "2" and second.turns[0].text == "<ecg>\nq"
    assert len(third.turns[1].text) == 1_000_000 and fourth.turns[1].text == "a"
    assert [t.role for t in fifth.turns] == ["system", "user", "assistant"]
    assert fifth.turns[1].text == "<ecg>\n\u00fc \u202eq" and len(sixth.turns) == 4


def test_duplicate_ids_are_an_error_unless_there_is_a_rule(tmp_path):
    items = [good(0), good(1), good(2, id="i1"), good(3)]
    with pytest.raises(EcglmError, match=r"ECGInstruct.json\[2\]: id 'i1' stands twice, first as item 1; set dupl"):
        mapped(tmp_path, items)
    kept = mapped(tmp_path, items, duplicates="keep")
    assert [c.source_id for c in kept.conversations] == ["i0", "i1", "i1#2", "i3"]
    rejected = mapped(tmp_path, items, duplicates="reject")
    assert rejected.counts == {"in": 4, "mapped": 3, "duplicate_id": 1}
    with pytest.raises(ConfigError, match=r"no rule for duplicates 'rejct' \(did you mean 'reject'\?\)"):
        mapped(tmp_path, items, duplicates="rejct")
    absent = [good(0, image=mimic_image(7)), good(0, image=mimic_image(8))]
    with pytest.raises(EcglmError, match="stands twice"):
        mapped(tmp_path, absent)


def test_an_item_without_id_is_known_by_its_position(tmp_path):
    items = [{k: v for k, v in good(n).items() if k != "id"} for n in range(3)] + [good(7, id=2)]
    assert [c.source_id for c in mapped(tmp_path, items).conversations] == ["#0", "#1", "#2", "2"]


def test_absent_ecgs_are_set_aside_with_their_key(tmp_path):
    result = mapped(tmp_path, [good(0), good(1, image=mimic_image(49999999))])
    assert result.counts == {"in": 2, "mapped": 1, "ecg_not_in_store": 1}
    assert result.rejected == []
    assert result.set_aside[0]["detail"] == "in no store: mimic-iv-ecg/49999999"


def test_splits_are_the_patients_and_must_be_given(tmp_path):
    result = mapped(tmp_path, [good(n) for n in range(12)])
    assert {c.patients[0]: c.split for c in result.conversations}.items() <= splits().items()
    assert len({c.split for c in result.conversations}) == 3
    with pytest.raises(ConfigError, match="has no official split; give splits"):
        mapped(tmp_path, [good(0)], splits=None)
    with pytest.raises(EcglmError, match=r"patient mimic-iv-ecg/p20000000 has no split; make the splits again"):
        mapped(tmp_path, [good(0)], splits={"x": "train"})


@pytest.mark.parametrize("limit", [0, 1, 2, 9])
def test_limit_ends_reading(tmp_path, limit):
    result = mapped(tmp_path, [good(n) for n in range(3)], limit=limit)
    assert result.counts == {"in": min(limit, 3), "mapped": min(limit, 3)}


def test_a_file_of_another_corpus_is_an_error_and_not_a_million_rejects(tmp_path):
    def endless():
        number = 0
        while True:
            yield number, {"Q": "q", "A": "a"}
            number += 1

    rules = Rules(corpus="toy", version=1, split="test")
    with pytest.raises(EcglmError, match=r"x.json\[99\]: no item of corpus 'toy': malformed_item") as error:
        collect(map_items(IndexOnly(), [("x.json", endless())], parse_ecg, rules))
    assert "\n" not in str(error.value)
    one_good = [(0, {"ecgs": []}), *((n, {}) for n in range(1, 300))]
    assert collect(map_items(IndexOnly(), [("x", iter(one_good))], parse_ecg, rules)).counts["in"] == 300


def parse_ecg(item, position):
    if "ecgs" not in item:
        raise RejectedRecord("malformed_item", "field ecgs is missing")
    question = f"Question {position} " + "<ecg>" * len(item["ecgs"])
    return Item([("user", item.get("question", question)), ("assistant", "a")], tuple(item["ecgs"]), "toy")


def test_several_ecgs_of_one_or_two_splits():
    mine = {"mimic-iv-ecg/p20000000": "train", "mimic-iv-ecg/p20000001": "train", "ptb-xl/p0": "test"}
    pairs = [
        [f"mimic-iv-ecg/{STUDIES[0]}", f"mimic-iv-ecg/{STUDIES[1]}"],
        [f"mimic-iv-ecg/{STUDIES[0]}", "ptb-xl/00001"],
        ["ptb-xl/00001", "ptb-xl/00077"],
        ["ptb-xl/00001"] * 2,
    ]
    items = [(n, {"ecgs": ecgs}) for n, ecgs in enumerate(pairs)]
    rules = Rules(corpus="toy", version=1, splits=mine)
    result = collect(map_items(IndexOnly(), [("x", iter(items))], parse_ecg, rules))
    assert result.counts == {"in": 4, "mapped": 2, "ecgs_in_two_splits": 1, "ecg_not_in_store": 1}
    assert [row["reason"] for row in result.set_aside] == ["ecgs_in_two_splits", "ecg_not_in_store"]
    assert "are in test and train" in result.set_aside[0]["detail"]
    assert [(c.ecgs, c.split) for c in result.conversations] == [(tuple(pairs[0]), "train"), (tuple(pairs[3]), "test")]


def test_questions_without_ecg_are_split_by_their_words():
    questions = [f"What is lead number {n}?" for n in range(3000)]
    items = [{"ecgs": [], "question": q} for q in [*questions, *(f" {q.upper()[:-1]} " for q in questions)]]

    def split_of(seed):
        rules = Rules(corpus="toy", version=1, seed=seed, fractions=(0.8, 0.1, 0.1))
        return [
            c.split for c in collect(map_items([], [("x", iter(enumerate(items)))], parse_ecg, rules)).conversations
        ]

    first = split_of(0)
    assert first[:3000] == first[3000:]  # the same words in capitals are the same question
    shares = Counter(first[:3000])
    assert abs(shares["train"] / 3000 - 0.8) < 0.03 and abs(shares["test"] / 3000 - 0.1) < 0.03
    assert split_of(0) == first != split_of(1)


def test_the_word_image_is_rewritten_only_when_asked_and_never_in_answers(tmp_path):
    items = [said(human("<image>\nThis Image, these images: imaging?"), gpt("The image is good."))]
    plain = mapped(tmp_path, items).conversations[0]
    assert plain.turns[0].text == "<ecg>\nThis Image, these images: imaging?"
    said_so = mapped(tmp_path, items, say_signal=True).conversations[0]
    assert [t.text for t in said_so.turns] == [
        "<ecg>\nThis Signal, these signals: imaging?",
        "The image is good.",
    ]


def test_prefixes_are_stripped_only_when_asked(tmp_path):
    items = [said(human("user: <image>\nq"), gpt("assistant: a"))]
    assert mapped(tmp_path, items).conversations[0].turns[1].text == "assistant: a"
    stripped = mapped(tmp_path, items, strip_prefixes=("user:", "assistant:")).conversations[0]
    assert [t.text for t in stripped.turns] == ["<ecg>\nq", "a"]


def test_where_the_files_are_looked_for(tmp_path):
    items = [study_item()]
    with pytest.raises(EcglmError, match="no such file or folder"):
        read_files(tmp_path / "none", ("a.json",), "toy")
    with pytest.raises(EcglmError, match=r"no a\.json or b/c\.json here, and no JSON or Parquet file"):
        read_files(tmp_path, ("a.json", "b/c.json"), "toy")
    write_json(tmp_path / "only.json", items)
    assert [name for name, _ in read_files(tmp_path, ("a.json",), "toy")] == ["only.json"]
    write_jsonl(tmp_path / "other.jsonl", items)
    with pytest.raises(EcglmError, match="2 JSON files; give one of them as --root"):
        read_files(tmp_path, ("a.json",), "toy")
    write_json(tmp_path / "b" / "c.json", items)
    assert [name for name, _ in read_files(tmp_path, ("a.json", "b/c.json"), "toy")] == ["c.json"]
    [(name, found)] = read_files(tmp_path / "other.jsonl", ("a.json",), "toy")
    assert name == "other.jsonl" and [item for _, item in found] == items


@pytest.mark.parametrize("name", ["123456", "", "x", "-1", "1.0", "\u0661"])
def test_names_that_are_no_ptb_xl_record(name):
    with pytest.raises(RejectedRecord, match="unknown_ecg_key"):
        ptb_xl_record(name, name)


def test_a_reason_to_set_aside_is_readable():
    assert str(Aside("no_signal_record", "gen_images/1.png")) == "no_signal_record: gen_images/1.png"


def test_the_three_datasets_of_the_corpus(tmp_path):
    images = [mimic_image(STUDIES[0]), f"ptb-xl/{PTB_XL[2]:05d}_hr-0.png", f"code15_v4/part/{EXAMS[0]}-0.png"]
    result = mapped(tmp_path, [instruct_item(n, image) for n, image in enumerate(images)])
    assert [c.ecgs[0] for c in result.conversations] == [f"mimic-iv-ecg/{STUDIES[0]}", "ptb-xl/00003", "code15/101"]
    assert json.dumps(dict(result.conversations[0].metadata))
