"""Measurements put into rows, kept beside the predictions, and scores that use them."""

from __future__ import annotations

import json

import pytest

from ecglm.errors import EcglmError
from ecglm.evaluation.measured_rows import FILE, num_unmeasured, with_measurements
from ecglm.evaluation.score import score, score_file
from ecglm.representations.features import describe
from ecglm.signals.measured import measure
from ecglm.store.reader import SegmentStore


def rows_about(store, answers, control="real", question_type="text"):
    return [
        {
            "id": f"{record}/report",
            "ecgs": [record],
            "task": "report",
            "turn": 0,
            "reference": "Sinus rhythm.",
            "prediction": answer,
            "control": control,
            "patient_id": f"p{i}",
            "metadata": {"question_type": question_type},
        }
        for i, (record, answer) in enumerate(zip(store.records(), answers, strict=False))
    ]


@pytest.fixture(scope="module")
def store(world):
    return SegmentStore(world.store)


def lines_of(store, num=6):
    return [describe(measure(store[store.segments_of(r)[0]], store.rate)) for r in store.records()[:num]]


def test_rows_get_the_measurements_of_their_own_ecg(store, world, tmp_path):
    rows = rows_about(store, ["x"] * 3) + rows_about(store, ["yes"], question_type="yes-no")
    found = with_measurements(rows, [world.store], tmp_path)
    for row, record in zip(found[:3], store.records(), strict=False):
        truth = measure(store[store.segments_of(record)[0]], store.rate)
        assert row["measured"]["heart_rate"] == pytest.approx(truth.heart_rate, abs=1e-3)
        assert row["measured"]["st_mv"]["V2"] == pytest.approx(truth.st_mv["V2"], abs=1e-3)
    assert "measured" not in found[3] and "measured" not in rows[0]
    kept = (tmp_path / FILE).read_bytes()
    assert with_measurements(rows, [world.store], tmp_path) == found
    assert (tmp_path / FILE).read_bytes() == kept
    stale = {**json.loads(kept), "fingerprint": "of another store"}
    stale["records"][store.records()[0]]["heart_rate"] = 1.0
    (tmp_path / FILE).write_text(json.dumps(stale))
    assert with_measurements(rows, [world.store], tmp_path) == found


def test_true_lines_are_grounded_and_those_of_others_are_not(store, world, tmp_path):
    lines = lines_of(store)
    rows = rows_about(store, lines) + rows_about(store, lines[1:] + lines[:1], control="swap")
    found = score(rows, num_resamples=50, stores=[world.store])
    real, swap = (found["controls"][c]["report"] for c in ("real", "swap"))
    assert real["grounding"]["value"] == 1.0
    assert real["grounding_coverage"]["value"] > 4
    assert swap["grounding"]["value"] < 0.8
    assert found["gaps"]["report"]["grounding"]["value"] == pytest.approx(1.0 - swap["grounding"]["value"], abs=1e-9)
    (tmp_path / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    again = json.loads(score_file(tmp_path, num_resamples=50, stores=[world.store]).read_text())
    assert again["controls"]["real"]["report"]["grounding"] == real["grounding"]
    assert FILE in again["inputs"]


def test_without_a_store_grounding_is_unavailable_and_says_so(store):
    found = score(rows_about(store, lines_of(store)), num_resamples=20)
    assert "--store STORE" in found["unavailable"]["grounding"]
    assert "grounding" not in found["controls"]["real"]["report"]


def test_ecgs_that_the_store_lacks_are_told(store, world, tmp_path):
    rows = rows_about(store, ["Rate 70 bpm"] * 2)
    rows[0]["ecgs"] = ["elsewhere/1"]
    assert num_unmeasured(with_measurements(rows, [world.store])) == 1
    assert any("--store lacks" in w for w in score(rows, num_resamples=20, stores=[world.store])["warnings"])
    with pytest.raises(EcglmError, match="holds none of the 1 ECGs"):
        with_measurements(rows[:1], [world.store])
    (tmp_path / FILE).write_text("[]")
    with pytest.raises(EcglmError, match="is no file of measurements"):
        with_measurements(rows, [world.store], tmp_path)
