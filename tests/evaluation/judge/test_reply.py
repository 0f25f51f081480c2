"""Replies of judges: what fits the rubric is a grading, everything else is an error with a stable reason."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecglm.evaluation.judge.reply import BadReply, loose_scores, parse_reply, parse_winner, scores_in
from ecglm.evaluation.judge.rubric import rubric_named

REPORT, ARENA, GROUNDING = (rubric_named(n) for n in ("report", "arena", "grounding"))


def reply(**scores):
    return {name: {"Score": score, "Explanation": "why"} for name, score in scores.items()}


def good(**changes):
    return {**reply(Diagnosis=8, Waveform=5, Rhythm=10), **changes}


def scores(text, rubric=REPORT):
    return {name: [e.score for e in entries] for name, entries in parse_reply(text, rubric).items()}


def test_a_reply_as_it_should_be():
    found = parse_reply(json.dumps(good()), REPORT)
    assert scores(json.dumps(good())) == {"Diagnosis": [8.0], "Waveform": [5.0], "Rhythm": [10.0]}
    assert found["Diagnosis"][0].explanation == "why"


@pytest.mark.parametrize("name", ["Waveform", "waveform", "WAVEFORM", "Form", "form", "Waveforms", "wave form"])
def test_p12_every_alias_of_waveform_is_read(name):
    given = {"Diagnosis": good()["Diagnosis"], name: good()["Waveform"], "Rhythm": good()["Rhythm"]}
    assert scores(json.dumps(given))["Waveform"] == [5.0]


@pytest.mark.parametrize(
    "name", ["Instruction Adherence", "InstructionAdherence", "instruction_adherence", "INSTRUCTION-ADHERENCE"]
)
def test_p12_every_alias_of_instruction_adherence_is_read(name):
    given = {**reply(Accuracy=1, Completeness=2), name: {"rating": 3}}
    assert scores(json.dumps(given), ARENA) == {"Accuracy": [1], "Completeness": [2], "Instruction Adherence": [3]}


@pytest.mark.parametrize("name", ["Score", "score", "SCORE", "rating", "Rating"])
def test_p12_every_alias_of_score_is_read(name):
    assert scores(json.dumps(good(Rhythm={name: 7})))["Rhythm"] == [7.0]


@pytest.mark.parametrize(
    ("name", "criterion"),
    [
        ("ECGFeatureGrounding", "GroundedECGUnderstanding"),
        ("GroundedECGUnderstanding", "GroundedECGUnderstanding"),
        ("ClinicalDiagnosticFidelity", "RealisticDiagnosticProcess"),
        ("Evidence-BasedReasoning", "EvidenceBasedReasoning"),
    ],
)
def test_p12_both_names_of_gems_criteria_are_read(name, criterion):
    given = {c.name: [{"Score": 1}] for c in GROUNDING.criteria if c.name != criterion}
    assert scores(json.dumps({**given, name: [{"Score": 1}]}), GROUNDING)[criterion] == [1.0]


@pytest.mark.parametrize(
    ("value", "number"), [("7", 7.0), (" 7.5 ", 7.5), (7.5, 7.5), (0, 0.0), (10, 10.0), (-0.0, 0.0)]
)
def test_scores_become_numbers(value, number):
    assert scores(json.dumps(good(Rhythm={"Score": value})))["Rhythm"] == [number]


def test_a_code_fence_is_taken_off():
    assert scores("```json\n" + json.dumps(good(), indent=1) + "\n```\n") == scores(json.dumps(good()))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty_reply"),
        ("  \n", "empty_reply"),
        ("I think it is good.", "not_json"),
        ("Here you are: " + json.dumps(good()), "not_json"),
        (json.dumps(good()) + " Hope it helps", "not_json"),
        (json.dumps(good())[:-2], "not_json"),
        (json.dumps([good()]), "not_json"),
        ("null", "not_json"),
        ("[" * 100_000, "not_json"),
        ('{"Diagnosis": ' + "9" * 5000 + "}", "not_json"),
        (json.dumps(good()).replace("8", "NaN"), "not_json"),
        (json.dumps(good()).replace("8", "Infinity"), "not_json"),
        (json.dumps(good()).replace("8", "4+4"), "not_json"),
        (json.dumps(reply(Diagnosis=8, Rhythm=3)), "missing_criterion"),
        ("{}", "missing_criterion"),
        (json.dumps(good(Form={"Score": 1})), "duplicate_key"),
        ('{"Rhythm": {"Score": 1}, "rhythm": {"Score": 2}}', "duplicate_key"),
        (json.dumps(good(Rhythm={"Score": 1, "rating": 2})), "bad_entry"),
        (json.dumps(good(Rhythm=7)), "bad_entry"),
        (json.dumps(good(Rhythm=[])), "bad_entry"),
        (json.dumps(good(Rhythm=[{"Score": 1}, {"Score": 2}])), "bad_entry"),
        (json.dumps(good(Rhythm={"Explanation": "x"})), "bad_entry"),
        (json.dumps(good(Rhythm={"Score": "eight"})), "bad_score"),
        (json.dumps(good(Rhythm={"Score": "8/10"})), "bad_score"),
        (json.dumps(good(Rhythm={"Score": "nan"})), "bad_score"),
        (json.dumps(good(Rhythm={"Score": "1e0"})), "bad_score"),
        (json.dumps(good(Rhythm={"Score": None})), "bad_score"),
        (json.dumps(good(Rhythm={"Score": True})), "bad_score"),
        (json.dumps(good(Rhythm={"Score": [7]})), "bad_score"),
        (json.dumps(good(Rhythm={"Score": 10.5})), "score_out_of_range"),
        (json.dumps(good(Rhythm={"Score": -1})), "score_out_of_range"),
        (json.dumps(good(Rhythm={"Score": "100"})), "score_out_of_range"),
    ],
)
def test_p11_what_is_no_grading_has_a_reason(text, reason):
    with pytest.raises(BadReply) as error:
        parse_reply(text, REPORT)
    assert error.value.reason == reason
    assert "\n" not in str(error.value) and len(str(error.value)) < 120


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_no_text_is_anything_but_a_grading_or_a_bad_reply(text):
    with pytest.raises(BadReply):
        parse_reply(text, REPORT)


@settings(max_examples=40, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_no_value_of_a_criterion_breaks_the_parser(value):
    try:
        found = parse_reply(json.dumps(good(Rhythm=value)), REPORT)
    except BadReply:
        return
    assert 0 <= found["Rhythm"][0].score <= 10


def test_lists_of_entries():
    given = {c.name: [{"Score": 1}] for c in GROUNDING.criteria}
    given["DiagnosisAccuracy"] = [{"Score": 2}, {"Score": "0"}]
    given["AnalysisRelevance"] = []
    found = scores(json.dumps(given), GROUNDING)
    assert found["DiagnosisAccuracy"] == [2, 0] and found["AnalysisRelevance"] == []
    for name, value, reason in (
        ("DiagnosisAccuracy", [], "bad_entry"),
        ("DiagnosisAccuracy", [{"Score": 3}], "score_out_of_range"),
        ("GroundedECGUnderstanding", [{"Score": 50}, {"Score": 60}], "bad_entry"),
        ("AnalysisCompleteness", [{"Score": 1}] * 101, "bad_entry"),
    ):
        with pytest.raises(BadReply) as error:
            parse_reply(json.dumps({**given, name: value}), GROUNDING)
        assert error.value.reason == reason


@pytest.mark.parametrize(
    ("written", "number"),
    [("1+1", 2), ("0.5 + 0.5", 1), ("4/2", 2), ("3-1", 2), ("2*1", 2), ("+2", 2), ("(1+1)", 2), ("-1+2", 1)],
)
def test_sums_are_worked_out_only_where_gems_scorers_are_reproduced(written, number):
    text = json.dumps({"DiagnosisAccuracy": [{"Score": 7777, "Explanation": "x"}]}).replace("7777", written)
    assert loose_scores(text, GROUNDING) == {"DiagnosisAccuracy": [number]}
    with pytest.raises(BadReply, match="not_json"):
        parse_reply(text, GROUNDING)


@pytest.mark.parametrize("written", ["1**9999999", "1/0", "__import__", "1+", "a+1", "1;2", "((((1", "9" * 70 + "**9"])
def test_nothing_but_sums_is_worked_out(written):
    with pytest.raises(BadReply):
        loose_scores(f'{{"DiagnosisAccuracy": [{{"Score": {written}, "Explanation": "x"}}]}}', GROUNDING)


def test_scores_as_they_are_found():
    assert scores_in([{"Score": 1}, {"Score": "2"}, {"Score": "x"}, {"Explanation": "y"}, 3]) == [1.0, 2.0]
    assert scores_in({"rating": 4}) == [4.0] and scores_in("5") == [] and scores_in(None) == []


@pytest.mark.parametrize(("said", "winner"), [("A", "A"), ("b", "B"), (" tie ", "tie"), ("TIE", "tie")])
def test_winners(said, winner):
    assert parse_winner(json.dumps({"Winner": said, "Explanation": "x"})) == winner
    assert parse_winner(json.dumps({"winner": said})) == winner


@pytest.mark.parametrize(
    "text", ["", "A", '{"Winner": "C"}', '{"Winner": 1}', '{"W": "A"}', '{"Winner": "A", "Better": "B"}']
)
def test_no_winner(text):
    with pytest.raises(BadReply):
        parse_winner(text)


@pytest.mark.parametrize(
    "text",
    ["```json\n" + "\n" * 20000 + "{", "```" + "\n " * 20000 + "x\n```", '{"Diagnosis": {"Score":' + " " * 20000],
)
def test_endless_blank_lines_take_no_time(text):
    begun = time.process_time()
    for read in (parse_reply, loose_scores):
        with pytest.raises(BadReply):
            read(text, REPORT)
    assert time.process_time() - begun < 1.0


def test_half_a_character_in_an_explanation_can_be_written():
    found = parse_reply(json.dumps(good()).replace("why", "\\ud83d"), REPORT)
    assert found["Rhythm"][0].explanation == "?"
