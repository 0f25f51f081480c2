"""Rubrics: those that are packaged, and files of a user, which are checked line by line."""

from __future__ import annotations

import pytest

from ecglm import registry
from ecglm.errors import ConfigError
from ecglm.evaluation.judge.rubric import read_rubric, rubric_named

GOOD = """
name: clarity
version: 2
about: how clear an answer is
instruction: Grade the answer.
criteria:
  - name: Clarity
    text: 10 = clear; 0 = not.
  - name: Brevity
    scale: [1, 5]
    text: 5 = short.
"""


def test_the_packaged_rubrics_have_the_published_criteria():
    assert set(registry.names("rubrics")) >= {"report", "arena", "grounding"}
    assert [c.name for c in rubric_named("report").criteria] == ["Diagnosis", "Waveform", "Rhythm"]
    assert [c.name for c in rubric_named("arena").criteria] == ["Accuracy", "Completeness", "Instruction Adherence"]
    assert {c.scale for name in ("report", "arena") for c in rubric_named(name).criteria} == {(0.0, 10.0)}
    grounding = {c.name: c for c in rubric_named("grounding").criteria}
    assert list(grounding) == [
        "DiagnosisAccuracy",
        "AnalysisCompleteness",
        "AnalysisRelevance",
        "LeadAssessmentCoverage",
        "LeadAssessmentAccuracy",
        "GroundedECGUnderstanding",
        "EvidenceBasedReasoning",
        "RealisticDiagnosticProcess",
    ]
    assert [c.scale[1] for c in grounding.values()] == [2, 1, 2, 1, 2, 100, 100, 100]
    assert "ecgfeaturegrounding" in grounding["GroundedECGUnderstanding"].keys
    assert not rubric_named("grounding").has_overall and rubric_named("report").has_overall


@pytest.mark.parametrize("name", ["report", "arena", "grounding"])
def test_every_packaged_rubric_states_its_version_and_its_scales_end(name):
    rubric = rubric_named(name)
    assert rubric.version >= 1 and rubric.name == name
    for criterion in rubric.criteria:
        assert f"{criterion.scale[1]:g} =" in criterion.text and "0 =" in criterion.text


def test_a_file_of_a_user(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(GOOD)
    rubric = rubric_named(str(file))
    assert (rubric.name, rubric.version, rubric.layout) == ("clarity", 2, "answer")
    assert rubric.criteria[1].scale == (1.0, 5.0)
    assert rubric == read_rubric(file)
    file.write_text(GOOD.replace("5 = short", "5 = very short"))
    assert rubric.sha256 != read_rubric(file).sha256


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("version: 2", "version: two", "'version' must be a whole number"),
        ("version: 2", "version: 0", "version counts from 1"),
        ("name: clarity", "name: My Rubric", "lower-case"),
        ("    scale: [1, 5]", "    scale: [5, 1]", "scale must be"),
        ("    scale: [1, 5]", "    scales: [1, 5]", "unknown key"),
        ("name: Brevity", "name: CLARITY", "share the name"),
        ("name: Brevity", "name: Overall", "not 'overall'"),
        ("name: Brevity", 'name: "a\\nb"', "printable"),
        ("instruction: Grade the answer.", "instruction: ' '", "needs an instruction"),
        ("about: how", "about: how\nabout: how", "stands twice"),
        ("    text: 5 = short.", "    text: 5 = short.\n    entries: many", "begins at 0"),
        ("    text: 5 = short.", "    text: 5 = short.\n    total: 3", "total is for many"),
        ("criteria:", "layout: poem\ncriteria:", "'layout' must be one of"),
        ("    text: 5 = short.\n", "", "'criteria[1].text'|text"),
        ("instruction: Grade", "instruction: !!python/object:os.system Grade", "refused"),
    ],
)
def test_a_mistake_in_a_file_is_one_line(tmp_path, old, new, words):
    file = tmp_path / "mine.yaml"
    file.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(ConfigError) as error:
        read_rubric(file)
    assert any(word in str(error.value) for word in words.split("|"))
    assert "mine.yaml" in str(error.value) and "\n" not in str(error.value)


def test_a_rubric_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"did you mean 'report'\?"):
        rubric_named("reports")
    with pytest.raises(ConfigError, match="no such"):
        rubric_named(str(tmp_path / "absent.yaml"))
