"""Rows for people say what the truth of synthetic ECGs is, and why something is not measured."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from ecglm.demo.measures import NOT_MEASURED, REASONS, Mark, Row, marks_of, rows_of
from ecglm.records.synthetic import Synthetic
from ecglm.types import LEADS


def by_name(rows: list[Row]) -> dict[str, Row]:
    return {row.name: row for row in rows}


@pytest.fixture(scope="module")
def sinus():
    source = Synthetic(num_patients=6, seed=5, rhythms=("sinus_rhythm",), artefacts=False, records_per_patient=(1, 1))
    return [source.read(key) for key in source.keys()]


def test_rate_and_intervals_are_those_that_were_drawn(sinus):
    for record in sinus:
        rows, truth = by_name(rows_of(record.signal, record.sampling_rate)), record.metadata["measurements"]
        assert abs(float(rows["Heart rate"].value) - truth["heart_rate"]) <= 2 and rows["Heart rate"].unit == "bpm"
        assert abs(float(rows["PR"].value) - truth["pr_ms"]) <= 25
        assert abs(float(rows["QRS"].value) - truth["qrs_ms"]) <= 20
        rr_s = float(rows["RR mean"].value) / 1000
        assert float(rows["QTc (Bazett)"].value) == pytest.approx(float(rows["QT"].value) / rr_s**0.5, abs=2)
        assert float(rows["QTc (Fridericia)"].value) == pytest.approx(float(rows["QT"].value) / rr_s ** (1 / 3), abs=2)


def test_the_order_is_the_readers(sinus):
    names = [row.name for row in rows_of(sinus[0].signal, 500)]
    assert names[:3] == ["Heart rate", "Rhythm", "Beats"]
    assert [n for n in names if n.startswith("ST ")] == [f"ST {lead}" for lead in LEADS]
    wanted = ["PR", "QRS", "QT", "QTc (Bazett)", "QTc (Fridericia)", "QRS axis", "P axis", "T axis"]
    assert [n for n in names if n in wanted] == wanted


def test_every_row_is_text_and_what_is_not_measured_says_why():
    noise = np.random.default_rng(0).normal(size=(12, 5000)) * 0.02
    source = Synthetic(num_patients=2, seed=1, rhythms=("atrial_fibrillation",), records_per_patient=(1, 1))
    for signal in (noise, np.zeros((12, 5000)), source.read(source.keys()[0]).signal, noise[:, :300]):
        rows = rows_of(signal, 500)
        assert rows and all(isinstance(v, str) for r in rows for v in (r.name, r.value, r.unit, r.note))
        assert all(row.note and not row.unit for row in rows if row.value == NOT_MEASURED)
        assert not any("nan" in row.value or "None" in row.value or "-0.00" in row.value for row in rows)
    assert by_name(rows_of(noise, 500))["PR"].note in REASONS.values()
    fibrillation = by_name(rows_of(source.read(source.keys()[0]).signal, 500))
    assert fibrillation["PR"] == Row("PR", NOT_MEASURED, "", fibrillation["PR"].note)


def test_what_cannot_be_measured_at_all_is_one_row():
    assert [r.value for r in rows_of(np.full((12, 5000), np.nan), 500)] == [NOT_MEASURED]
    assert [r.value for r in rows_of(np.zeros((12, 100)), 500)] == [NOT_MEASURED]
    assert marks_of(np.full((12, 5000), np.nan), 500) == () == marks_of(np.zeros((12, 5000)), 500)


def test_marks_are_where_the_beats_were_drawn(sinus):
    for record in sinus[:3]:
        marks = marks_of(record.signal, record.sampling_rate)
        found = [m for m in marks if m.kind == "QRS"]
        truth = np.array(record.metadata["qrs_onsets_s"])
        assert len(found) >= len(truth) - 2
        assert max(np.abs(truth - m.start_s).min() for m in found) < 0.025
        p_truth = np.array(record.metadata["p_onsets_s"])
        assert max(np.abs(p_truth - m.start_s).min() for m in marks if m.kind == "P") < 0.04
        of_beat: dict[int, list[Mark]] = {}
        for mark in marks:
            assert 0 <= mark.start_s < mark.stop_s <= 10
            of_beat.setdefault(mark.beat, []).append(mark)
        order = {"P": 0, "QRS": 1, "T": 2}
        for of_one in of_beat.values():
            assert [order[m.kind] for m in of_one] == sorted(order[m.kind] for m in of_one)
            for before, after in pairwise(of_one):
                assert before.stop_s <= after.start_s + 1e-9


def test_marks_stay_inside_wherever_a_segment_begins():
    """A window is moved over ventricular beats, so that some begin before it or end behind it."""
    source = Synthetic(num_patients=4, seed=6, rhythms=("pvc",), artefacts=False, records_per_patient=(1, 1))
    signal, kinds = source.read("synthetic/s6-p00003-1").signal, set()
    for start in (0, 450, 810, 855, 900):  # the fourth cuts a ventricular beat 10 ms behind its onset
        for mark in marks_of(signal[:, start : start + 2000], 500):
            assert 0 <= mark.start_s <= mark.stop_s <= 4
            kinds.add(mark.kind)
    assert kinds == {"P", "QRS", "T", "beat"}
