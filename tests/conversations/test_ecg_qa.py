"""ECG-QA on PTB-XL: a small official layout made here, and the real files."""

from __future__ import annotations

import csv
import json
import shutil
import time

import pyarrow as pa
import pytest

from ecglm import registry
from ecglm.conversations.ecg_qa import QUESTION_TYPES, map_ecg_qa, map_ecg_qa_mimic
from ecglm.conversations.table import collect, read_conversations, write_conversations
from ecglm.errors import ConfigError, EcglmError


def item(sample: int, kind: str = "single-verify", ecgs=(1,), answer=("yes",), **changes) -> dict:
    return {
        "template_id": 1,
        "question_id": 10,
        "sample_id": sample,
        "question_type": kind,
        "attribute_type": "scp_code",
        "question": "Does this ECG show atrial fibrillation?",
        "answer": list(answer),
        "ecg_id": list(ecgs),
        "attribute": ["atrial fibrillation"],
        **changes,
    }


def write(root, files: dict[str, list], variant="template"):
    for name, items in files.items():
        path = root / "ecgqa" / "ptbxl" / variant / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(items, indent=4))
    return root


@pytest.fixture
def store(listed_store):
    rows = [{"record_id": f"ptb-xl/{n:05d}", "patient_id": f"ptb-xl/p{n % 3}"} for n in range(1, 6)]
    return listed_store(rows, segments=2)


def mapped(*args, **kwargs):
    return collect(map_ecg_qa(*args, **kwargs))


def counts_add_up(result) -> None:
    assert result.counts["in"] == sum(n for name, n in result.counts.items() if name != "in")


def test_all_seven_question_types(tmp_path, store):
    kinds = {
        "single-verify": 1,
        "single-choose": 1,
        "single-query": 1,
        "comparison_consecutive-verify": 2,
        "comparison_consecutive-query": 2,
        "comparison_irrelevant-verify": 2,
        "comparison_irrelevant-query": 2,
    }
    assert kinds == QUESTION_TYPES
    items = [item(n, kind, (4, 2)[:num]) for n, (kind, num) in enumerate(kinds.items())]
    result = mapped(store, root=write(tmp_path, {"train/0": items}))
    assert result.counts == {"in": 7, "mapped": 7}
    for c, (kind, num) in zip(result.conversations, kinds.items(), strict=True):
        assert c.metadata["question_type"] == kind
        assert c.ecgs == ("ptb-xl/00004", "ptb-xl/00002")[:num]
        assert c.patients == ("ptb-xl/p1", "ptb-xl/p2")[:num]
        mark = "<ecg>\n" if num == 1 else "ECG 1: <ecg>\nECG 2: <ecg>\n"
        assert c.turns[0].text == mark + "Does this ECG show atrial fibrillation?"


def test_an_item_keeps_all_that_scoring_needs(tmp_path, store):
    one = item(7, "single-query", (3,), ("rr interval", "qt interval"), template_id=43, attribute=None)
    c = mapped(store, root=write(tmp_path, {"valid/0": [one]})).conversations[0]
    assert (c.id, c.corpus, c.task, c.split, c.source_id) == (
        "ecg-qa-ptbxl/val/7",
        "ecg-qa-ptbxl",
        "ecg-qa",
        "val",
        "7",
    )
    assert c.turns[1].text == "rr interval, qt interval"
    expected = {"answers": ["rr interval", "qt interval"], "template_id": 43, "question_id": 10, "sample_id": 7}
    expected |= {"question_type": "single-query", "attribute_type": "scp_code", "attribute": None}
    assert {k: v for k, v in c.metadata.items() if k not in ("version", "variant")} == expected
    spaced = mapped(store, root=tmp_path, answer_join=" ").conversations[0]
    assert spaced.turns[1].text == "rr interval qt interval"
    assert spaced.metadata["answers"] == ["rr interval", "qt interval"]


def test_none_is_an_answer(tmp_path, store):
    result = mapped(store, root=write(tmp_path, {"test/0": [item(0, "single-query", answer=["none"])]}))
    assert result.conversations[0].turns[1].text == "none"


def test_official_splits_and_numeric_order_of_files(tmp_path, store):
    files = {"train/10000": [item(10000)], "train/9000": [item(9000)], "test/0": [item(0)], "valid/5": [item(5)]}
    root = write(tmp_path, files)
    result = mapped(store, root=root)
    assert [(c.split, c.source_id) for c in result.conversations] == [
        ("train", "9000"),
        ("train", "10000"),
        ("val", "5"),
        ("test", "0"),
    ]
    chosen = mapped(store, root=root, only=["test", "valid"])
    assert [c.split for c in chosen.conversations] == ["val", "test"]
    assert [c.source_id for c in mapped(store, root=root, limit=1).conversations] == ["9000", "5", "0"]


@pytest.mark.parametrize("below", ["", "ecgqa", "ecgqa/ptbxl"])
def test_root_may_be_any_of_three_folders(tmp_path, store, below):
    root = write(tmp_path, {"train/0": [item(0)]})
    assert len(mapped(store, root=root / below).conversations) == 1


def test_missing_ecgs_are_set_aside_with_both_ids(tmp_path, store):
    kind = "comparison_consecutive-verify"
    items = [item(0, ecgs=(77,)), item(1, kind, (2, 88)), item(2, kind, (99, 88)), item(3, kind, (2, 5))]
    result = mapped(store, root=write(tmp_path, {"train/0": items}))
    assert result.counts == {"in": 4, "mapped": 1, "ecg_not_in_store": 3}
    assert result.rejected == []
    assert [row["item"] for row in result.set_aside] == ["train/0.json[0]", "train/0.json[1]", "train/0.json[2]"]
    assert result.set_aside[1]["detail"] == "needs ptb-xl/00002 and ptb-xl/00088; in no store: ptb-xl/00088"
    assert result.set_aside[2]["detail"].endswith("in no store: ptb-xl/00099 and ptb-xl/00088")


def test_ecgs_may_lie_in_different_stores(tmp_path, listed_store):
    stores = [listed_store([{"record_id": "ptb-xl/00001"}]), listed_store([{"record_id": "ptb-xl/21837"}])]
    items = [item(0, "comparison_irrelevant-query", (21837, 1))]
    result = mapped(stores, root=write(tmp_path, {"train/0": items}))
    assert result.conversations[0].ecgs == ("ptb-xl/21837", "ptb-xl/00001")


@pytest.mark.parametrize(
    ("broken", "reason", "words"),
    [
        (None, "malformed_item", "an object is needed"),
        ({**item(1), "ecg_id": [1, 2]}, "malformed_item", "ecg_id must be 1 id"),
        ({**item(1, "comparison_irrelevant-query")}, "malformed_item", "ecg_id must be 2 id"),
        ({**item(1), "ecg_id": ["1"]}, "malformed_item", "ecg_id"),
        ({**item(1), "ecg_id": 1}, "malformed_item", "ecg_id"),
        ({**item(1), "ecg_id": [-1]}, "malformed_item", "ecg_id"),
        ({**item(1), "sample_id": True}, "malformed_item", "sample_id must be a whole number"),
        ({**item(1), "sample_id": 1.0}, "malformed_item", "sample_id"),
        ({k: v for k, v in item(1).items() if k != "template_id"}, "malformed_item", "template_id"),
        ({**item(1), "question_type": "single"}, "malformed_item", "one of the seven types"),
        ({**item(1), "question_type": ["single-verify"]}, "malformed_item", "one of the seven types"),
        ({**item(1), "question": None}, "malformed_item", "question must be text"),
        ({**item(1), "answer": "yes"}, "malformed_item", "answer must be a list"),
        ({**item(1), "answer": []}, "malformed_item", "answer must be a list"),
        ({**item(1), "answer": [None]}, "malformed_item", "answer must be a list"),
        ({**item(1), "attribute": "AF"}, "malformed_item", "attribute must be null"),
        ({**item(1), "question": " "}, "empty_turn", "empty"),
        ({**item(1), "answer": ["yes", ""]}, "empty_turn", "empty"),
        ({**item(1), "question": "Is <ecg> normal?"}, "mark_count", "2 ECG marks for 1 ECGs"),
        ({**item(1), "answer": ["<ecg>"]}, "mark_outside_user_turn", "turn 1"),
        ({**item(1), "question": "a\0?"}, "bad_characters", "U+0000"),
    ],
)
def test_a_broken_item_is_rejected_by_file_and_index(tmp_path, store, broken, reason, words):
    result = mapped(store, root=write(tmp_path, {"train/0": [item(0), broken, item(2)]}))
    assert result.counts == {"in": 3, "mapped": 2, reason: 1}
    [row] = result.rejected
    assert (row["item"], row["reason"]) == ("train/0.json[1]", reason) and words in row["detail"]


def test_a_sample_id_that_stands_twice_is_an_error(tmp_path, store):
    root = write(tmp_path, {"train/0": [item(0), item(1)], "train/5": [item(1)]})
    with pytest.raises(EcglmError, match=r"sample_id 1 stands twice: train/5.json\[0\] and item 1 of train"):
        mapped(store, root=root)


def test_the_same_sample_id_in_two_splits_is_two_items(tmp_path, store):
    result = mapped(store, root=write(tmp_path, {"train/0": [item(1)], "test/0": [item(1)]}))
    assert len({c.id for c in result.conversations}) == 2


def test_choices_of_the_template(tmp_path, store):
    root = write(tmp_path, {"train/0": [item(0, template_id=3), item(1, template_id=4)]})
    table = root / "ecgqa" / "ptbxl" / "answers_for_each_template.csv"
    table.write_text("\ufefftemplate_id,classes\n3,\"['no', 'not sure', 'yes']\"\n")
    first, second = mapped(store, root=root).conversations
    assert first.metadata["choices"] == ["no", "not sure", "yes"]
    assert "choices" not in second.metadata
    for bad in ("3,__import__('os')", "3,{'a': 1}", "3,\"['a', 1]\"", "x,['a']", "3,['a'", "3"):
        table.write_text(f"template_id,classes\n{bad}\n")
        with pytest.raises(EcglmError, match=r"answers_for_each_template\.csv, line 2") as error:
            mapped(store, root=root)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"variant": "templates"}, ConfigError, r"no variant 'templates' \(did you mean 'template'\?\)"),
        ({"variant": "paraphrased"}, EcglmError, "no folder 'paraphrased'"),
        ({"variant": "both"}, ConfigError, "two wordings of the same samples .* choose one: template or paraphrased"),
        ({"only": ["dev"]}, ConfigError, "no split 'dev'"),
        ({"only": ["valid"]}, EcglmError, "no such folder"),
    ],
)
def test_wrong_options_are_told(tmp_path, store, options, kind, message):
    root = write(tmp_path, {"train/0": [item(0)]})
    with pytest.raises(kind, match=message) as error:
        mapped(store, root=root, **options)
    assert "\n" not in str(error.value)


def test_folders_without_ecg_qa_are_told(tmp_path, store):
    with pytest.raises(EcglmError, match="no ECG-QA here"):
        mapped(store, root=tmp_path / "none")
    (tmp_path / "template").mkdir()
    with pytest.raises(EcglmError, match="none of the folders train, valid, test"):
        mapped(store, root=tmp_path)
    (tmp_path / "template" / "train").mkdir()
    with pytest.raises(EcglmError, match="no question files"):
        mapped(store, root=tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("0", '{"a": 1}', "a list of items is needed, found an object"),
        ("0", '[{"sample_id": 1', "cut off here"),
        ("0", '[{"a": 1, "a": 2}]', "key 'a' stands twice"),
        ("notes", "[]", "named by their first sample id"),
    ],
)
def test_files_that_are_no_item_lists_are_told(tmp_path, store, name, content, message):
    path = tmp_path / "template" / "train" / f"{name}.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(EcglmError, match=message) as error:
        mapped(store, root=tmp_path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_registered():
    assert registry.get("conversations", "ecg-qa-ptbxl") is map_ecg_qa
    assert registry.get("conversations", "ecg-qa-mimic") is map_ecg_qa_mimic


def test_the_mimic_part_goes_by_study(tmp_path, listed_store):
    folder = tmp_path / "ecgqa" / "mimic-iv-ecg"
    write(tmp_path, {"train/0": [item(0)]})
    (folder / "template" / "test").mkdir(parents=True)
    items = [item(5, ecgs=(40000001,)), item(6, "comparison_irrelevant-query", (40000002, 7))]
    (folder / "template" / "test" / "5.json").write_text(json.dumps(items))
    store = listed_store([{"record_id": "mimic-iv-ecg/40000001", "patient_id": "mimic-iv-ecg/10"}])
    for root in (tmp_path, tmp_path / "ecgqa", folder):
        result = collect(map_ecg_qa_mimic(store, root=root))
        assert result.counts == {"in": 2, "mapped": 1, "ecg_not_in_store": 1}
        [c] = result.conversations
        assert (c.id, c.corpus, c.ecgs) == ("ecg-qa-mimic/test/5", "ecg-qa-mimic", ("mimic-iv-ecg/40000001",))
        assert c.patients == ("mimic-iv-ecg/10",)
        assert result.set_aside[0]["detail"].startswith("needs mimic-iv-ecg/40000002 and mimic-iv-ecg/7;")
    with pytest.raises(EcglmError, match="is the other part of ECG-QA, 'mimic-iv-ecg' is needed"):
        collect(map_ecg_qa_mimic(store, root=tmp_path / "ecgqa" / "ptbxl"))
    with pytest.raises(EcglmError, match="is the other part of ECG-QA, 'ptbxl' is needed"):
        mapped(store, root=folder)


@pytest.fixture(scope="module")
def ids_1_to_999(ptb_xl):
    """What a store of the 999 records at 100 Hz has; patients from the table, where they are described."""

    class Store:
        def __init__(self, last: int) -> None:
            with open(ptb_xl / "ptbxl_database.csv", newline="") as handle:
                known = {int(r["ecg_id"]): f"ptb-xl/{float(r['patient_id']):.0f}" for r in csv.DictReader(handle)}
            ids = [n for n in range(1, last + 1) if (ptb_xl / f"records100/00000/{n:05d}_lr.hea").exists()]
            patients = [known.get(n, f"ptb-xl/{n:05d}") for n in ids]
            self.index = pa.table({"record_id": [f"ptb-xl/{n:05d}" for n in ids], "patient_id": patients})

    return Store


#: DATA.md: file → (items, answerable with the records at 100 Hz, with those at 500 Hz).
ANSWERABLE = {
    "train/120000": (10_000, 705, 212),
    "train/260000": (7_539, 454, 42),
    "valid/60000": (4_663, 79, 2),
    "test/80000": (2_146, 81, 3),
}


@pytest.mark.realdata
@pytest.mark.parametrize("variant", ["template", "paraphrased"])
def test_real_files_recounted(tmp_path, shared, ids_1_to_999, variant):
    for name, (items, low, high) in ANSWERABLE.items():
        folder = tmp_path / name.split("/")[1]
        target = folder / "ecgqa/ptbxl" / variant / f"{name}.json"
        target.parent.mkdir(parents=True)
        shutil.copy(shared / "ecg-qa/ecgqa/ptbxl" / variant / f"{name}.json", target)
        for last, answerable in ((999, low), (200, high)):
            result = mapped(ids_1_to_999(last), root=folder, variant=variant)
            assert result.counts == {"in": items, "mapped": answerable, "ecg_not_in_store": items - answerable}


@pytest.mark.realdata
def test_real_corpus_whole(tmp_path, shared, ids_1_to_999):
    store, root = ids_1_to_999(999), shared / "ecg-qa"
    start = time.perf_counter()
    template = mapped(store, root=root)
    assert time.perf_counter() - start < 10
    counts_add_up(template)
    assert template.counts["in"] == 24_348 and template.counts["mapped"] == 705 + 454 + 79 + 81
    paraphrased = mapped(store, root=root, variant="paraphrased")
    for a, b in zip(template.conversations, paraphrased.conversations, strict=True):
        assert (a.id, a.ecgs, a.patients) == (b.id, b.ecgs, b.patients)
        # The two files list the same answers, some in another order.
        assert sorted(a.metadata["answers"]) == sorted(b.metadata["answers"])
        assert set(a.metadata["answers"]) <= set(a.metadata["choices"])
        assert len(a.ecgs) == (2 if a.metadata["question_type"].startswith("comparison") else 1)
    assert any(a.turns[0] != b.turns[0] for a, b in zip(template.conversations, paraphrased.conversations, strict=True))
    official = {}
    for split in ("train", "valid", "test"):
        with open(root / f"ecgqa/ptbxl/{split}_ecgs.tsv") as handle:
            official |= {f"ptb-xl/{int(line.split()[1]):05d}": split.replace("valid", "val") for line in handle}
    assert all(official[ecg] == c.split for c in template.conversations for ecg in c.ecgs)
    write_conversations(tmp_path / "qa.parquet", template, {"variant": "template"}, {})
    assert read_conversations(tmp_path / "qa.parquet") == template.conversations


@pytest.mark.realdata
def test_the_real_mimic_file(shared):
    """4,364 comparisons; text alone is open, so the ECGs are those the file names itself."""
    root = shared / "ecg-qa"
    items = json.loads((root / "ecgqa/mimic-iv-ecg/template/test/270000.json").read_text())
    records = sorted({f"mimic-iv-ecg/{n}" for one in items for n in one["ecg_id"]})

    class Store:
        index = pa.table({"record_id": records, "patient_id": records})

    result = collect(map_ecg_qa_mimic(Store(), root=root))
    assert result.counts == {"in": 4364, "mapped": 4364}
    for one, c in zip(items, result.conversations, strict=True):
        assert c.ecgs == tuple(f"mimic-iv-ecg/{n}" for n in one["ecg_id"]) and len(c.ecgs) == 2
        assert c.metadata["answers"] == one["answer"] and c.split == "test"
        assert set(one["answer"]) <= set(c.metadata["choices"])
    Store.index = Store.index.slice(0, 0)
    assert collect(map_ecg_qa_mimic(Store(), root=root)).counts == {"in": 4364, "mapped": 0, "ecg_not_in_store": 4364}
