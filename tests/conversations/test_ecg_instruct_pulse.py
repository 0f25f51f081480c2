"""Corpus ecg-instruct-pulse: the path rules of ECGInstruct, and a million items in little memory."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from official_files import STUDIES, IndexOnly, instruct_item, mimic_image, splits, turns, write_json

from ecglm import registry
from ecglm.conversations import json_stream, seen, table
from ecglm.conversations.ecg_instruct_pulse import map_ecg_instruct_pulse, record_of
from ecglm.conversations.instruction import Aside
from ecglm.conversations.outcomes import collect
from ecglm.conversations.table import write_conversations
from ecglm.errors import RejectedRecord
from ecglm.store.splits import hash_split


@pytest.mark.parametrize(
    ("image", "record"),
    [
        ("mimic/p1127/p11273115/s44111511/44111511-0.png", "mimic-iv-ecg/44111511"),
        ("mimic_v4/p1127/p11273115/s44111511/44111511-3.jpg", "mimic-iv-ecg/44111511"),
        ("./mimic/p1127/p11273115/s44111511/44111511-0.png", "mimic-iv-ecg/44111511"),
        ("ptb-xl/records500/00000/00007_hr-0.png", "ptb-xl/00007"),
        ("ptb-xl/21837_lr-2.png", "ptb-xl/21837"),
        ("ptb-xl/7_hr-0.png", "ptb-xl/00007"),
        ("code15_v4/exams_part0/795649-0.png", "code15/795649"),
        ("cod15_v4/exams_part0/795649-0.png", "code15/795649"),
        ("code15/795649.png", "code15/795649"),
    ],
)
def test_the_record_behind_an_image(image, record):
    assert record_of(image) == record


@pytest.mark.parametrize(
    "image",
    ["csn_part1_layout_papersize/JS00001-0.png", "gen_images/ptb-xl/1-0.png", "mimics/1-0.png", "", "/", "MIMIC"],
)
def test_other_images_have_no_record(image):
    with pytest.raises(Aside) as aside:
        record_of(image)
    assert aside.value.reason == "no_signal_record"


@pytest.mark.parametrize("image", ["mimic/x-0.png", "ptb-xl/hr_00001-0.png", "code15/-0.png", "mimic", "code15/1a.png"])
def test_a_name_in_a_dataset_that_is_no_record_is_rejected(image):
    with pytest.raises(RejectedRecord) as error:
        record_of(image)
    assert error.value.reason == "unknown_ecg_key"


def test_items_keep_subtask_type_and_source_and_image_only_ones_have_their_heading(tmp_path):
    items = [
        instruct_item(0, mimic_image(STUDIES[0])),
        instruct_item(1, "gen_images/1.png"),
        instruct_item(2, mimic_image(44444444)),
        instruct_item(3, "mimic/a/b-0.png"),
    ]
    path = write_json(tmp_path / "ECGInstruct.json", items)
    result = collect(map_ecg_instruct_pulse(IndexOnly(), root=tmp_path, splits=splits()))
    assert result.counts == {
        "in": 4,
        "mapped": 1,
        "no_signal_record": 1,
        "ecg_not_in_store": 1,
        "unknown_ecg_key": 1,
    }
    assert [row["reason"] for row in result.set_aside] == ["no_signal_record", "ecg_not_in_store"]
    [c] = result.conversations
    about = {"subtask": "rhythm", "type": "open-ended", "source": "mimic", "image": mimic_image(STUDIES[0])}
    assert dict(c.metadata) == {**about, "version": 2} and c.task == "ecg-instruct"
    assert c.turns[0].text == "<ecg>\nWhat does this image show?"
    pq.write_table(pa.Table.from_pylist(items), tmp_path / "part-0.parquet")
    as_rows = collect(map_ecg_instruct_pulse(IndexOnly(), root=tmp_path / "part-0.parquet", splits=splits()))
    assert as_rows.conversations == result.conversations and as_rows.counts == result.counts
    assert path.exists()


@pytest.mark.parametrize("said", ["What is it?\n<image>", "<image>\nWhat is it?", "What <image> is it?", "What is it?"])
def test_the_picture_stands_before_its_question_as_in_the_training(tmp_path, said):
    talk = [{"from": "human", "value": said}, {"from": "gpt", "value": "a"}]
    write_json(tmp_path / "x.json", [instruct_item(0, mimic_image(STUDIES[0]), conversations=talk)])
    [c] = collect(map_ecg_instruct_pulse(IndexOnly(), root=tmp_path, splits=splits())).conversations
    assert " ".join(c.turns[0].text.split()) == "<ecg> What is it?" and c.turns[0].text.startswith("<ecg>\n")


def test_items_with_several_turns(tmp_path):
    said = turns("q", "a", "r", "b", mark="<image>\n")
    write_json(tmp_path / "x.json", [instruct_item(0, mimic_image(STUDIES[0]), conversations=said)])
    [c] = collect(map_ecg_instruct_pulse(IndexOnly(), root=tmp_path, splits=splits())).conversations
    assert [t.text for t in c.turns] == ["<ecg>\nq", "a", "r", "b"]


IMAGES = (
    mimic_image(STUDIES[0]),  # in the store
    "mimic/p1127/p11273115/s44444444/44444444-0.png",  # in none, its patient is in the path
    "mimic_v4/44444445-0.png",  # in none, nobody knows whose
    "ptb-xl/records500/00000/00099_hr-0.png",
    "gen_images/layout/page7-0.png",
    "scans/page7-1.jpg",
    "csn_part1_layout_papersize/JS00001-0.png",
    "csn_part2_layout_papersize/JS00001-3.png",
    "csn_part2_layout_papersize/JS99999-3.png",
)


def test_pictures_are_kept_where_they_are_asked_for_and_their_patient_is_known(tmp_path):
    write_json(tmp_path / "ECGInstruct.json", [instruct_item(n, image) for n, image in enumerate(IMAGES)])
    without = collect(map_ecg_instruct_pulse(IndexOnly(), root=tmp_path, splits=splits()))
    assert without.counts == {"in": 9, "mapped": 1, "no_signal_record": 5, "ecg_not_in_store": 3}
    result = collect(map_ecg_instruct_pulse(IndexOnly(), root=tmp_path, splits=splits(), images=True))
    assert result.counts == {"in": 9, "mapped": 7, "ecg_not_in_store": 2}
    [first, *others] = result.conversations
    assert first == without.conversations[0]
    assert {c.source_id: (c.ecgs, c.patients) for c in others} == {
        "i1": (("mimic-iv-ecg/44444444",), ("mimic-iv-ecg/11273115",)),
        "i4": ((f"image/{IMAGES[4]}",), ("image/page7",)),
        "i5": ((f"image/{IMAGES[5]}",), ("image/page7",)),
        "i6": ((f"image/{IMAGES[6]}",), ("csn/JS00001",)),
        "i7": ((f"image/{IMAGES[7]}",), ("csn/JS00001",)),
        "i8": ((f"image/{IMAGES[8]}",), ("csn/JS99999",)),
    }
    assert all(c.metadata["image"] == IMAGES[int(c.source_id[1:])] and c.turns[0].text[:5] == "<ecg>" for c in others)


def test_pictures_of_one_patient_stay_together_and_follow_the_stores_splits(tmp_path):
    pages = [f"gen_images/{folder}/page{n}-{k}.png" for n in range(30) for k, folder in enumerate("ab")]
    pages += [f"csn_part1/JS00001-{k}.png" for k in range(3)]
    pages += [f"mimic/p1000/p1000{n:04d}/s5000{n:04d}/5000{n:04d}-{k}.png" for n in range(30) for k in range(2)]
    write_json(tmp_path / "ECGInstruct.json", [instruct_item(n, image) for n, image in enumerate(pages)])
    of_stores = splits()
    rows = collect(map_ecg_instruct_pulse(IndexOnly(), root=tmp_path, splits=of_stores, images=True)).conversations
    assert len(rows) == len(pages)
    found: dict[str, set[str]] = {}
    for c in rows:
        found.setdefault(c.patients[0], set()).add(c.split)
    assert all(len(names) == 1 for names in found.values()) and len(found) == 61
    assert found["csn/JS00001"] == {of_stores["csn/JS00001"]}, "as the store of that recording has it"
    assert found["mimic-iv-ecg/10000007"] == {hash_split("mimic-iv-ecg/10000007", 0, (0.7, 0.15, 0.15))}
    assert {next(iter(names)) for names in found.values()} == {"train", "val", "test"}


def _big(path: Path, num: int) -> Path:
    with open(path, "w") as handle:
        handle.write("[")
        for number in range(num):
            image = mimic_image(STUDIES[number % 12]) if number % 10 else "gen_images/x.png"
            item = instruct_item(number, image, conversations=turns("word " * 40, "word " * 120, mark="<image>\n"))
            handle.write(("" if number == 0 else ",\n") + json.dumps(item))
        handle.write("]\n")
    return path


def test_memory_does_not_grow_with_the_items(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "ROW_GROUP", 200)
    monkeypatch.setattr(json_stream, "CHUNK", 1 << 16)
    monkeypatch.setattr(seen, "_RECENT", 100)
    peaks = []
    for num in (200, 1_000, 6_000):  # the first pays for what is allocated once
        path = _big(tmp_path / "ECGInstruct.json", num)
        tracemalloc.start()
        outcomes = map_ecg_instruct_pulse(IndexOnly(), root=path, splits=splits())
        manifest = write_conversations(tmp_path / f"{num}.parquet", outcomes, {}, {})
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert manifest["counts"]["in"] == num and manifest["counts"]["no_signal_record"] == num // 10
    assert peaks[2] < 1.25 * peaks[1]


_RUN = """
import resource, sys
from official_files import IndexOnly, splits
from ecglm.conversations.ecg_instruct_pulse import map_ecg_instruct_pulse
from ecglm.conversations.table import write_conversations
path, out = sys.argv[1:]
write_conversations(out, map_ecg_instruct_pulse(IndexOnly(), root=path, splits=splits()), {}, {})
usage = resource.getrusage(resource.RUSAGE_SELF)
print(usage.ru_maxrss, usage.ru_utime + usage.ru_stime)
"""


@pytest.mark.slow
def test_two_hundred_thousand_items_in_flat_memory(tmp_path):
    """Resident memory of the whole process, and at least 5,000 items for each second of processor time."""
    told = []
    for num in (40_000, 200_000):
        path = _big(tmp_path / "ECGInstruct.json", num)
        run = subprocess.run(
            [sys.executable, "-c", _RUN, str(path), str(tmp_path / f"{num}.parquet")],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
        told.append([float(word) for word in run.stdout.split()])
    assert told[1][0] - told[0][0] < 60 * 1024  # kB
    assert 160_000 / (told[1][1] - told[0][1]) > 5_000


def test_registered():
    assert registry.get("conversations", "ecg-instruct-pulse") is map_ecg_instruct_pulse
