"""Where the items come from, and which file is whose."""

from __future__ import annotations

import pytest
from bench_data import rows, write_gold, write_parquet

from ecglm.errors import EcglmError
from ecglm.evaluation.ecgbench.pictures import drawn_name
from ecglm.evaluation.ecgbench.sources import files_fingerprint, files_of, find_subsets, read_items, source_folder
from ecglm.evaluation.ecgbench.subsets import SUBSETS


def test_files_of_a_subset_in_the_layouts_that_exist(tmp_path):
    hub = write_parquet(tmp_path / "hub", "ptb-test", rows(1)["ptb-test"])
    data = write_parquet(tmp_path / "in" / "data", "ptb-test", rows(1)["ptb-test"])
    alone = write_gold(tmp_path / "json", "ptb-test", rows(1)["ptb-test"]) / "ptb-test.json"
    subset = SUBSETS["ptb-test"]
    assert files_of(tmp_path / "hub", subset) == [hub] and files_of(tmp_path / "in", subset) == [data]
    assert files_of(tmp_path / "json", subset) == files_of(alone, subset) == [alone]
    assert files_of(tmp_path / "hub", SUBSETS["ptb-test-report"]) == []
    with pytest.raises(EcglmError, match="for arena"):
        find_subsets(tmp_path / "hub", [subset, SUBSETS["arena"]], named=True)
    assert list(find_subsets(tmp_path / "hub", [subset, SUBSETS["arena"]], named=False)) == ["ptb-test"]


def test_pictures_stand_beside_their_items_and_may_be_left_out(tmp_path):
    items = rows(3)["arena"]
    path = write_parquet(tmp_path, "arena", items, [{"bytes": bytes([n]), "path": f"{n}.jpg"} for n in range(3)])
    told = list(read_items([path, path], with_pictures=True))
    assert [position for position, _, _ in told] == list(range(6))
    assert [cell["bytes"] for _, _, cell in told[:3]] == [b"\0", b"\1", b"\2"]
    assert [item for _, item, _ in told[:3]] == items
    assert all(cell is None for _, _, cell in read_items([path], with_pictures=False))
    assert files_fingerprint([path]) != files_fingerprint([path, path])


def test_a_source_is_a_path_or_a_name_on_the_hub(tmp_path):
    assert source_folder(str(tmp_path), []) == tmp_path
    for name in ("./nowhere", "nowhere", "a/b/c"):
        with pytest.raises(EcglmError, match="no such folder, nor a dataset of the hub"):
            source_folder(name, [])


def test_drawings_are_called_png_unless_the_name_says_a_format():
    assert drawn_name("a/b.jpg") == "a/b.jpg" and drawn_name("a/b.PNG") == "a/b.PNG"
    assert drawn_name("a/b.tiff") == "a/b.tiff.png"
