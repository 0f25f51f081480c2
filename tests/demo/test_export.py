"""The saved talk holds what was said and measured, and nothing of whom it is about; nothing in it runs."""

from __future__ import annotations

import csv
import io
import json
import re

import numpy as np
import pytest

from ecglm.demo.export import NOTICE, as_dict, as_json, as_markdown, measurements_csv
from ecglm.demo.shown import Origin, Shown
from ecglm.demo.talk import ModelName, Talk
from ecglm.records.synthetic import Synthetic

HOSTILE = "<script>alert(1)</script> ![x](http://evil/a.png) [y](javascript:1)\n```\n# heading\n```\n| a | b |"


@pytest.fixture(scope="module")
def ecg() -> Shown:
    source = Synthetic(num_patients=1, seed=4, artefacts=False)
    record = source.read(source.keys()[0])
    origin = Origin("store", "ptb-xl/00009", "f", ("ptb-xl/4711",), "test")
    return Shown("smith 12-May-2020.hea", record=record, origin=origin)


@pytest.fixture
def talk(ecg: Shown) -> Talk:
    talk = Talk((ModelName("signal", "aa11"), ModelName("=cmd|' /c calc'!A1", "bb22")))
    talk.add_ecg(ecg)
    first = talk.ask("What is the rhythm?")
    talk.answered(first.answers[0][0].id, "Sinus rhythm.")
    talk.answered(first.answers[1][0].id, HOSTILE, "length")
    new = talk.again(first.answers[0][0].id)
    talk.answered(new.id, "Paced.")
    talk.add_ecg(Shown("y.png", picture=np.zeros((9, 9, 3), np.uint8)))
    second = talk.ask(HOSTILE)
    talk.failed(second.answers[0][0].id, "too many requests")
    return talk


def test_json_holds_the_talk(talk, ecg):
    found = json.loads(as_json(talk))
    assert found == json.loads(json.dumps(as_dict(talk)))
    assert found["notice"] == NOTICE and "research use only" in NOTICE
    assert [m["fingerprint"] for m in found["models"]] == ["aa11", "bb22"]
    assert [e["sha256"] for e in found["ecgs"]] == [ecg.sha256(), talk.ecgs[1].shown.sha256()]
    rows = [{"name": r.name, "value": r.value, "unit": r.unit, "note": r.note} for r in ecg.measurements()]
    assert found["ecgs"][0]["measurements"] == rows
    first, second = found["questions"]
    assert (first["question"], first["shows"], second["shows"]) == ("What is the rhythm?", [1], [2])
    assert [[a["text"] for a in m] for m in first["answers"]] == [["Sinus rhythm.", "Paced."], [HOSTILE]]
    assert second["question"] == HOSTILE and [m[0]["state"] for m in second["answers"]] == ["failed", "waiting"]


@pytest.mark.parametrize("write", [as_json, as_markdown])
def test_p23_no_name_date_or_id_is_exported(talk, write):
    text = write(talk)
    assert NOTICE in text
    for word in ("smith", "May-2020", "4711", "00009", "ptb-xl", "y.png", "synthetic/"):
        assert word not in text


def test_p23_nothing_in_the_markdown_is_markup(talk):
    """Outside the fenced blocks stands only what the program wrote."""
    outside, fence = [], ""
    for line in as_markdown(talk).split("\n"):
        run = re.match(r"`{3,}", line)
        if fence:
            fence = "" if line == fence else fence
        elif run:
            fence = run.group()
        else:
            outside.append(line)
    text = "\n".join(outside)
    assert not fence and not any(
        word in text for word in ("<", "](", "javascript", "http", "# heading", "cmd", "Sinus")
    )
    assert text.count("## Question") == 2 and "Model A (sampled):" in text and "Model A (failed):" in text
    assert "Model B (cut at the length limit):" in text and "| Heart rate |" in text


def test_p23_measurements_as_a_table_run_in_no_spreadsheet(ecg, monkeypatch):
    rows = list(csv.reader(io.StringIO(measurements_csv(ecg))))
    assert rows[0] == ["measurement", "value", "unit", "note"]
    wanted = {r.name: r for r in ecg.measurements()}
    assert {r[0] for r in rows[1:]} == set(wanted)
    for name, value, unit, _ in rows[1:]:
        assert unit == wanted[name].unit
        try:
            assert float(value) == float(wanted[name].value)
        except ValueError:
            assert value == wanted[name].value
    for row in rows:
        for cell in row:
            assert not cell.startswith(("=", "+", "@")) and (not cell.startswith("-") or float(cell) < 0)


def test_an_empty_talk_is_exported_too():
    talk = Talk((ModelName("signal"),))
    assert as_dict(talk)["questions"] == [] and as_markdown(talk).startswith("# A talk about ECGs")
