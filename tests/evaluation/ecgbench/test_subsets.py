"""The facts of the nine subsets, against the published table."""

from __future__ import annotations

import pytest

from ecglm.errors import ConfigError, EcglmError
from ecglm.evaluation.ecgbench.subsets import (
    NORMALITY,
    SUBSETS,
    TASK_ORDER,
    control_of,
    predictions_file,
    subset_named,
    subsets_named,
)

PUBLISHED = {
    "ptb-test": (2082, "multi-label"),
    "ptb-test-report": (500, "report"),
    "code15-test": (1400, "multi-label"),
    "ecgqa-test": (1317, "set"),
    "cpsc-test": (2061, "multi-label"),
    "csn-test-no-cot": (1611, "choice"),
    "g12-test-no-cot": (2026, "choice"),
    "mmmu-ecg": (200, "choice"),
    "arena": (50, "arena"),
}


def test_nine_subsets_with_their_sizes_and_kinds():
    assert {name: (s.rows, s.kind) for name, s in SUBSETS.items()} == PUBLISHED


def test_the_order_of_the_original_scorer_and_its_tags():
    tags = ["mmmu-ecg", "ptb-test", "cpsc-test", "csn-test", "g12-test", "ecgqa-test", "code15-test"]
    assert [SUBSETS[task].tag for task in TASK_ORDER] == tags


def test_label_spaces_and_letters():
    assert " ".join(SUBSETS["ptb-test"].labels) == "NORM MI STTC CD HYP"
    assert " ".join(SUBSETS["cpsc-test"].labels) == "NORM AF I-AVB LBBB RBBB PAC PVC STD STE"
    assert " ".join(SUBSETS["code15-test"].labels) == "1dAVb RBBB LBBB SB ST AF"
    assert list(NORMALITY) == ["NORM", "ABNORMAL"]
    assert [SUBSETS[n].letters for n in ("mmmu-ecg", "csn-test-no-cot", "g12-test-no-cot")] == [
        "ABCD",
        *["ABCDEFGH"] * 2,
    ]


@pytest.mark.parametrize(
    ("subset", "image", "record"),
    [
        ("ptb-test", "ptb-xl/00007_hr-0.png", "ptb-xl/00007"),
        ("ecgqa-test", "x/12345_hr-3.jpg", "ptb-xl/12345"),
        ("code15-test", "code15/1234567-0.png", "code15/1234567"),
        ("cpsc-test", "A0001-0.png", "cpsc2018/A0001"),
        ("cpsc-test", "Q0001-0.png", "cpsc2018-extra/Q0001"),
        ("csn-test-no-cot", "a/JS12345-0.png", "csn/JS12345"),
        ("g12-test-no-cot", "E00001-0.png", "georgia/E00001"),
        ("mmmu-ecg", "E00001-0.png", None),
        ("arena", "00001_hr-0.png", None),
        ("ptb-test", "holiday.png", None),
    ],
)
def test_the_recording_is_the_pictures_name_before_the_hyphen(subset, image, record):
    assert SUBSETS[subset].record(image) == record


def test_an_unknown_subset_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'ptb-test'"):
        subset_named("ptb-tset")
    with pytest.raises(EcglmError, match="twice"):
        subsets_named(["arena", "arena"])
    assert [s.name for s in subsets_named(["arena", "mmmu-ecg"])] == ["mmmu-ecg", "arena"]


def test_controls_lie_beside_their_model(tmp_path):
    real, blank = predictions_file(tmp_path, "m", "arena"), predictions_file(tmp_path, "m", "arena", "blank", "7")
    assert real == tmp_path / "m" / "arena" / "step-final.jsonl"
    assert blank == tmp_path / "m@blank" / "arena" / "step-7.jsonl"
    assert (control_of(real), control_of(blank)) == ("real", "blank")
