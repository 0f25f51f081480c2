"""Corpora ecg-grounding, ecg-grounding-pulse and ecg-grounding-test: GEM's three files."""

from __future__ import annotations

import pytest
from official_files import EXAMS, PTB_XL, STUDIES, IndexOnly, grounding_item, patient_of, splits, write_json

from ecglm import registry
from ecglm.conversations import ecg_grounding
from ecglm.conversations.ecg_grounding import FILES, record_of
from ecglm.conversations.outcomes import collect
from ecglm.errors import EcglmError, RejectedRecord

KEYS = {
    f"mimic-iv/files/p1000/p10000032/s{STUDIES[0]}/{STUDIES[0]}": f"mimic-iv-ecg/{STUDIES[0]}",
    f"ecg_ptbxl_benchmarking/data/ptbxl/records500/00000/{PTB_XL[4]:05d}_hr": "ptb-xl/00005",
    f"code15/records/exams_part3/{EXAMS[2]}": f"code15/{EXAMS[2]}",
}


def mapped(corpus, root, **options):
    if corpus != "ecg-grounding-test":
        options["splits"] = splits()
    return collect(registry.get("conversations", corpus)(IndexOnly(), root=root, **options))


@pytest.mark.parametrize(("key", "record"), KEYS.items())
def test_the_three_forms_of_keys(key, record):
    assert record_of(key) == record


@pytest.mark.parametrize(
    "key", ["", "40689238", "mimic-iv", "mimic-iv/files/x", "code15/exams_part3/1a", "ptbxl/00001_hr", "ecg_ptbxl/1_hr"]
)
def test_other_keys_are_rejected(key):
    with pytest.raises(RejectedRecord) as error:
        record_of(key)
    assert error.value.reason == "unknown_ecg_key"


@pytest.mark.parametrize("corpus", ["ecg-grounding", "ecg-grounding-pulse", "ecg-grounding-test"])
@pytest.mark.parametrize("below", ["", "ecg_jsons"])
def test_each_corpus_reads_its_own_file(tmp_path, corpus, below):
    for name in FILES.values():
        items = [grounding_item(n, key, id=f"{name}-{n}") for n, key in enumerate(KEYS)]
        write_json(tmp_path / below / name, items)
    result = mapped(corpus, tmp_path)
    assert result.counts == {"in": 3, "mapped": 3}
    assert [c.source_id for c in result.conversations] == [f"{FILES[corpus]}-{n}" for n in range(3)]
    assert [c.ecgs[0] for c in result.conversations] == list(KEYS.values())
    for c in result.conversations:
        assert c.task == "ecg-grounding" and c.corpus == corpus
        expected = "test" if corpus == "ecg-grounding-test" else splits()[patient_of(c.ecgs[0])]
        assert c.split == expected
        assert c.metadata["report"] == "Sinus rhythm" and c.metadata["machine_measurements"] == {"rr_interval": 800}
        assert c.turns[0].text == "<ecg>\nInterpret the ECG."


def test_measurements_and_report_may_be_absent(tmp_path):
    item = {k: v for k, v in grounding_item(0, next(iter(KEYS))).items() if k not in ("machine_measurements", "report")}
    path = write_json(tmp_path / "a.json", [item, {**item, "id": "x", "report": None}])
    result = mapped("ecg-grounding", path)
    assert result.counts["mapped"] == 2
    assert all(set(c.metadata) == {"image", "version"} for c in result.conversations)


def test_absent_ecgs_unknown_keys_and_missing_fields(tmp_path):
    key = next(iter(KEYS))
    items = [
        grounding_item(0, key),
        grounding_item(1, "mimic-iv/files/p1/p2/s3/49999999"),
        grounding_item(2, "chapman/JS00001"),
        {"id": "g3", "image": "x.png", "conversations": []},
    ]
    result = mapped("ecg-grounding-test", write_json(tmp_path / "a.json", items))
    assert result.counts == {"in": 4, "mapped": 1, "ecg_not_in_store": 1, "unknown_ecg_key": 1, "malformed_item": 1}


def test_the_wrong_folder_names_the_file_that_is_needed(tmp_path):
    with pytest.raises(EcglmError, match=r"no ecg-grounding-test\.json or ecg_jsons/ecg-grounding-test\.json here"):
        mapped("ecg-grounding-test", tmp_path)


def test_registered():
    assert registry.get("conversations", "ecg-grounding-pulse") is ecg_grounding.map_ecg_grounding_pulse
