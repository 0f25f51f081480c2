"""Corpus ecgbench: nine subsets with the quirks of each, from JSON and from the official Parquet files."""

from __future__ import annotations

import pytest
from official_files import EXAMS, IndexOnly, bench_item, write_bench_parquet, write_json

from ecglm import registry
from ecglm.conversations.ecgbench import SUBSETS, map_ecgbench
from ecglm.conversations.outcomes import collect
from ecglm.errors import ConfigError, EcglmError

MCQ = "<image>\nWhich diagnosis?\nA. AF\nB. SR"
#: Subset → (image path, record, question, answer), as the subset writes them.
ITEMS = {
    "ptb-test": ("ptb-xl/test/00002_hr-0.png", "ptb-xl/00002", "<image>\nWhich classes?", "NORM, CD"),
    "ptb-test-report": ("ptb-xl/00007_hr-0.png", "ptb-xl/00007", "<image>\nWrite a report.", "Sinus rhythm."),
    "code15-test": (f"code15/{EXAMS[0]}-0.png", f"code15/{EXAMS[0]}", "<image>\nWhich?", "RBBB"),
    "ecgqa-test": ("ecgqa/00003_hr-0.png", "ptb-xl/00003", list("Is it normal?"), ["yes"]),
    "cpsc-test": ("cpsc/A0001-0.png", "cpsc2018/A0001", "<image>\nWhich?", "AF, RBBB"),
    "csn-test-no-cot": ("csn/JS00001-0.png", "csn/JS00001", MCQ, "B. SR"),
    "g12-test-no-cot": ("g12/E00001-0.png", "georgia/E00001", MCQ, "A. AF"),
    "mmmu-ecg": ("mmmu/17-0.png", None, MCQ, "B"),
    "arena": ("arena/3.png", None, "<image>\nWhat is it?", "An infarction."),
}


def mapped(root, **options):
    return collect(map_ecgbench(IndexOnly(), root=root, **options))


def write_all(root, as_parquet: bool = False):
    for name, (image, _, question, answer) in ITEMS.items():
        item = bench_item(0, image, question, answer)
        if name == "arena":
            item["conversations"] = [{"question": "What?", "answer": "This."}, {"question": "Sure?", "answer": "Yes."}]
        if as_parquet:
            write_bench_parquet(root / name / "test-00000-of-00001.parquet", [item])
        else:
            write_json(root / f"{name}.json", [item])
    return root


def test_all_nine_subsets_are_known():
    assert set(SUBSETS) == set(ITEMS) and len(SUBSETS) == 9


@pytest.mark.parametrize("as_parquet", [False, True])
def test_every_subset_finds_its_record(tmp_path, as_parquet):
    result = mapped(write_all(tmp_path, as_parquet))
    assert result.counts == {"in": 9, "mapped": 7, "no_signal_record": 2}
    assert result.rejected == []
    by_subset = {c.metadata["subset"]: c for c in result.conversations}
    assert set(by_subset) == {name for name, item in ITEMS.items() if item[1]}
    for name, c in by_subset.items():
        image, record, question, _ = ITEMS[name]
        assert c.ecgs == (record,) and c.split == "test" and c.metadata["image"] == image
        assert c.task == ("report" if name == "ptb-test-report" else name)
        assert c.id == f"ecgbench/test/{name}/b0"
        assert c.turns[0].text == "<ecg>\n" + "".join(question).removeprefix("<image>\n")
    assert by_subset["ptb-test"].metadata["label_set"] == ["NORM", "MI", "STTC", "CD", "HYP"]
    assert by_subset["ptb-test"].metadata["question_type"] == "multi-label"
    assert len(by_subset["cpsc-test"].metadata["label_set"]) == 9
    assert by_subset["csn-test-no-cot"].metadata["question_type"] == "choice"
    assert {row["item"] for row in result.set_aside} == {"mmmu-ecg[0]", "arena[0]"}


def test_json_and_parquet_give_the_same_conversations(tmp_path):
    one, other = mapped(write_all(tmp_path / "j")), mapped(write_all(tmp_path / "p", as_parquet=True))
    assert one.conversations == other.conversations and one.counts == other.counts


@pytest.mark.parametrize(
    ("question", "answer", "asked", "answers", "text"),
    [
        (list("Is it?"), list("yes"), "Is it?", ["yes"], "yes"),
        (["Is ", "it?"], ["yes"], "Is it?", ["yes"], "yes"),
        ("Which?", ["lead I", "lead V1"], "Which?", ["lead I", "lead V1"], "lead I, lead V1"),
        (list("Which?"), [" qt interval ", "rr interval"], "Which?", ["qt interval", "rr interval"], None),
        ("Which?", "none", "Which?", ["none"], "none"),
    ],
)
@pytest.mark.parametrize("as_parquet", [False, True])
def test_p18_ecgqa_values_are_lists(tmp_path, question, answer, asked, answers, text, as_parquet):
    if as_parquet:  # a column has one type
        question, answer = ([v] if isinstance(v, str) else v for v in (question, answer))
    item = bench_item(0, "00003_hr-0.png", question, answer)
    if as_parquet:
        write_bench_parquet(tmp_path / "ecgqa-test" / "test.parquet", [item])
    else:
        write_json(tmp_path / "ecgqa-test.json", [item])
    [c] = mapped(tmp_path).conversations
    assert c.turns[0].text == f"<ecg>\n{asked}"
    assert c.metadata["answers"] == answers and c.turns[1].text == (text or ", ".join(answers))


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        (["Is it?"], [], "empty_turn"),
        (["Is it?"], ["yes", ""], "empty_turn"),
        (["Is it?"], ["yes", None], "bad_value"),
        (["Is it?"], [["yes"]], "bad_value"),
        (["Is it?"], 3, "bad_value"),
        ([], ["yes"], "empty_turn"),
    ],
)
def test_broken_lists_are_rejected(tmp_path, question, answer, reason):
    rows = [bench_item(0, "00003_hr-0.png", "q", "a"), bench_item(1, "00003_hr-0.png", question, answer)]
    write_json(tmp_path / "ecgqa-test.json", rows)
    assert mapped(tmp_path).counts == {"in": 2, "mapped": 1, reason: 1}


def test_the_report_file_of_pulses_code(tmp_path):
    """Key `conversation`, roles user and assistant, `image` for `image_path`, ids that all end in -0."""
    items = [
        {
            "id": f"ptb-report-{n:05d}_hr-0",
            "image": f"{n:05d}_hr-0.png",
            "conversation": [
                {"from": "user", "value": "<image>\nReport?"},
                {"from": "assistant", "value": f"Report {n}."},
            ],
        }
        for n in (1, 2, 3)
    ]
    write_json(tmp_path / "ptb-test-report.json", items)
    result = mapped(tmp_path)
    assert [c.source_id for c in result.conversations] == [
        f"ptb-test-report/ptb-report-{n:05d}_hr-0" for n in (1, 2, 3)
    ]
    assert [c.turns[1].text for c in result.conversations] == ["Report 1.", "Report 2.", "Report 3."]
    assert {c.task for c in result.conversations} == {"report"}


def test_mmmu_without_id_goes_by_its_number(tmp_path):
    item = bench_item(0, "00001_hr-0.png", "q", "a")
    del item["id"]
    write_json(tmp_path / "ptb-test.json", [{**item, "No": 17}, item])
    assert [c.source_id for c in mapped(tmp_path).conversations] == ["ptb-test/17", "ptb-test/#1"]


@pytest.mark.parametrize(
    ("subset", "image"),
    [
        ("ptb-test", "A0001-0.png"),
        ("code15-test", "x-0.png"),
        ("cpsc-test", "B0001-0.png"),
        ("cpsc-test", "A001-0.png"),
        ("csn-test-no-cot", "E00001-0.png"),
        ("g12-test-no-cot", "JS00001-0.png"),
        ("g12-test-no-cot", "../E00001"),
    ],
)
def test_an_image_of_another_dataset_is_rejected(tmp_path, subset, image):
    good = ITEMS[subset][0]
    write_json(tmp_path / f"{subset}.json", [bench_item(0, good, "q", "a"), bench_item(1, image, "q", "a")])
    counts = mapped(tmp_path).counts
    assert counts in ({"in": 2, "mapped": 1, "unknown_ecg_key": 1}, {"in": 2, "mapped": 2})
    assert (counts["mapped"] == 2) == (image == "../E00001")  # the folder plays no part


def test_the_extra_records_of_cpsc(tmp_path):
    write_json(tmp_path / "cpsc-test.json", [bench_item(0, "cpsc/Q0001-0.png", "q", "a")])
    assert mapped(tmp_path).conversations[0].ecgs == ("cpsc2018-extra/Q0001",)


def test_subsets_can_be_chosen(tmp_path):
    write_all(tmp_path)
    chosen = mapped(tmp_path, subsets=("ptb-test", "cpsc-test"))
    assert [c.metadata["subset"] for c in chosen.conversations] == ["ptb-test", "cpsc-test"]
    assert mapped(tmp_path, subsets="ptb-test").counts["in"] == 1
    assert mapped(tmp_path / "ptb-test.json").counts == {"in": 1, "mapped": 1}
    (tmp_path / "ptb-test.json").rename(tmp_path / "renamed.json")
    assert mapped(tmp_path / "renamed.json", subsets=["ptb-test"]).counts == {"in": 1, "mapped": 1}
    with pytest.raises(EcglmError, match="its name is no subset's"):
        mapped(tmp_path / "renamed.json")
    with pytest.raises(EcglmError, match=r"no <subset>.json and no folder .* here for ptb-test"):
        mapped(tmp_path, subsets=("ptb-test", "cpsc-test"))
    with pytest.raises(ConfigError, match=r"no subset 'ptb-tests' \(did you mean 'ptb-test'\?\)"):
        mapped(tmp_path, subsets=("ptb-tests",))
    with pytest.raises(EcglmError, match=r"no <subset>\.json"):
        mapped(tmp_path / "none")


def test_limit_is_per_subset_and_duplicates_within_one(tmp_path):
    for name in ("ptb-test", "ptb-test-report"):
        write_json(tmp_path / f"{name}.json", [bench_item(n, f"{n:05d}_hr-0.png", "q", "a") for n in (1, 2, 3)])
    assert mapped(tmp_path, limit=2).counts == {"in": 4, "mapped": 4}
    write_json(tmp_path / "ptb-test.json", [bench_item(1, "00001_hr-0.png", "q", "a")] * 2)
    with pytest.raises(EcglmError, match="id 'ptb-test/b1' stands twice"):
        mapped(tmp_path)


def test_several_parquet_files_are_one_subset(tmp_path):
    for part in (0, 1):
        rows = [bench_item(10 * part + n, f"{n:05d}_hr-0.png", "q", "a") for n in (1, 2)]
        write_bench_parquet(tmp_path / "ptb-test" / f"test-0000{part}-of-00002.parquet", rows)
    result = mapped(tmp_path)
    assert [c.source_id for c in result.conversations] == [f"ptb-test/b{n}" for n in (1, 2, 11, 12)]


def test_registered():
    assert registry.get("conversations", "ecgbench") is map_ecgbench
