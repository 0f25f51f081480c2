"""Questions made from labels: answers against a truth written out by hand, or recounted from a source's table."""

from __future__ import annotations

import ast
import collections
import csv

import pytest

from ecglm import registry
from ecglm.conversations import label_questions as words
from ecglm.conversations.from_labels import TASKS, VERSION, map_labels
from ecglm.conversations.table import collect, read_conversations, write_conversations
from ecglm.errors import ConfigError, EcglmError
from ecglm.files import canonical_json

SYNTHETIC = {
    "record_id": "synthetic/s0-p00000-1",
    "patient_id": "synthetic/s0-p00000",
    "split": "train",
    "report": "Atrial fibrillation. Ventricular rate 93 bpm.",
    "report_en": "Atrial fibrillation. Ventricular rate 93 bpm.",
    "report_origin": "original",
    "labels": [
        "rhythm:atrial_fibrillation",
        "axis:left",
        "conduction:rbbb",
        "st:elevation_inferior",
        "hypertrophy:lvh",
        "twave:inversion_lateral",
        "qt:long",
        "superclass:HYP",
        "superclass:CD",
    ],
    "metadata": {"measurements": {"heart_rate": 92.5, "qrs_ms": 130}},
}
PTB_XL = {
    "record_id": "ptb-xl/00007",
    "patient_id": "ptb-xl/1",
    "report": " sinusrhythmus normales ekg\n",
    "report_en": "sinus rhythm normal ecg",
    "report_origin": "phrases",
    "labels": ["scp:IRBBB", "scp:LVH", "scp:LAO/LAE", "scp:SR", "superclass:HYP", "superclass:CD", "rhythm:SR"],
    "metadata": {"heart_axis": "ALAD"},
}


def mapped(*args, **kwargs):
    return collect(map_labels(*args, **kwargs))


def by_task(result) -> dict:
    assert len({c.task for c in result.conversations}) == len(result.conversations)
    return {c.task: c for c in result.conversations}


def answers(result) -> dict[str, str]:
    return {task: c.turns[-1].text for task, c in by_task(result).items()}


def counts_add_up(result) -> None:
    assert result.counts["in"] == sum(n for name, n in result.counts.items() if name != "in")
    assert result.counts["mapped"] == len(result.conversations)


def test_every_task_of_a_synthetic_record(listed_store):
    result = mapped(listed_store([SYNTHETIC], segments=3))
    counts_add_up(result)
    assert answers(result) == {
        "superclass": "conduction disturbance, hypertrophy",
        "normal": "no",
        "rhythm": "atrial fibrillation",
        "conduction": "right bundle branch block",
        "axis": "left axis deviation",
        "rate": "92 bpm",
        "st": "inferior ST elevation",
        "hypertrophy": "left ventricular hypertrophy",
        "twave": "lateral T wave inversion",
        "qt": "prolonged QT interval",
        "report": "Atrial fibrillation. Ventricular rate 93 bpm.",
    }
    for conversation in result.conversations:
        question = conversation.turns[0]
        assert conversation.id == f"labels/train/synthetic/s0-p00000-1/{conversation.task}"
        assert conversation.patients == ("synthetic/s0-p00000",)
        assert question.text == f"<ecg>\n{words.PHRASINGS[conversation.task][conversation.metadata['phrasing']]}"
        assert conversation.metadata["version"] == VERSION


def test_question_types_choices_and_labels(listed_store):
    metadata = {task: c.metadata for task, c in by_task(mapped(listed_store([SYNTHETIC]))).items()}
    assert metadata["normal"]["question_type"] == "yes-no"
    assert metadata["normal"]["choices"] == ["yes", "no"]
    assert metadata["superclass"]["question_type"] == "multi-label"
    assert metadata["superclass"]["labels"] == ["CD", "HYP"]
    assert metadata["superclass"]["answers"] == ["conduction disturbance", "hypertrophy"]
    assert metadata["superclass"]["choices"] == [*words.SUPERCLASSES.values(), words.NO_SUPERCLASS]
    assert metadata["rhythm"]["question_type"] == "choice"
    assert metadata["rhythm"]["labels"] == ["atrial_fibrillation"]
    assert metadata["rate"] == {
        "question_type": "number",
        "choices": [],
        "labels": [],
        "phrasing": metadata["rate"]["phrasing"],
        "version": VERSION,
    }
    assert metadata["report"]["question_type"] == "text"


def test_choices_are_all_the_answers_of_the_source_in_canonical_order(listed_store):
    names = ["paced", "sinus_rhythm", "strange_new_rhythm", "pac"]
    rows = [{"record_id": f"synthetic/{n}", "labels": [f"rhythm:{name}"]} for n, name in enumerate(names)]
    rows.append({"record_id": "mine/1", "labels": ["rhythm:AFIB"]})
    result = mapped(listed_store(rows), tasks=["rhythm"])
    expected = ["sinus rhythm", "premature atrial complexes", "paced rhythm", "strange new rhythm"]
    assert [c.metadata["choices"] for c in result.conversations] == [expected] * 4 + [["atrial fibrillation"]]


def test_scp_statements_mean_none_where_they_are_absent(listed_store):
    assert answers(mapped(listed_store([PTB_XL]))) == {
        "superclass": "conduction disturbance, hypertrophy",
        "normal": "no",
        "rhythm": "sinus rhythm",
        "conduction": "incomplete right bundle branch block",
        "axis": "left axis deviation",
        "hypertrophy": "left ventricular hypertrophy, left atrial enlargement",
        "report": "sinus rhythm normal ecg",
    }
    bare = {"record_id": "ptb-xl/00008", "labels": ["scp:SR", "rhythm:SR", "rhythm:BIGU"]}
    assert answers(mapped(listed_store([bare]))) == {
        "superclass": "none of the diagnostic classes",
        "normal": "no",
        "rhythm": "sinus rhythm, bigeminy",
        "conduction": "normal ventricular conduction",
        "hypertrophy": "no hypertrophy",
    }
    result = mapped(listed_store([bare]))
    assert result.counts["no_report"] == 1
    assert result.counts["axis.not_labelled"] == 1
    assert result.counts["rate.not_measured"] == 1
    assert result.counts["st.not_labelled"] == 1
    counts_add_up(result)


def test_findings_of_the_other_datasets(listed_store):
    rows = [
        {"record_id": "cpsc2018/A0001", "labels": ["cpsc:AF", "cpsc:RBBB", "dx:AF", "dx:RBBB"]},
        {"record_id": "cpsc2018-extra/Q0001", "labels": ["dx:PVC", "dx:123456"]},
        {"record_id": "code15/1", "labels": ["code15:1dAVb"]},
        {"record_id": "code15/2", "labels": []},
        {"record_id": "sph/A00001", "labels": ["aha:1", "aha:86"]},
        {"record_id": "csn/JS00001", "labels": []},
    ]
    result = mapped(listed_store(rows), tasks=["findings"])
    assert {c.ecgs[0]: c.turns[1].text for c in result.conversations} == {
        "cpsc2018/A0001": "atrial fibrillation, right bundle branch block",
        "cpsc2018-extra/Q0001": "premature ventricular contractions, 123456",
        "code15/1": "first degree AV block",
        "code15/2": "none of the six abnormalities",
        "sph/A00001": "Normal ECG, AV block varying conduction",
    }
    assert result.counts == {"in": 6, "mapped": 5, "findings.not_labelled": 1}
    choices = {c.ecgs[0]: c.metadata["choices"] for c in result.conversations}
    assert len(choices["cpsc2018/A0001"]) == 9 and len(choices["code15/1"]) == len(choices["code15/2"]) == 7
    assert choices["cpsc2018-extra/Q0001"] == ["premature ventricular contractions", "123456"]
    assert all(c.metadata["question_type"] == "multi-label" for c in result.conversations)


def test_norm_beside_another_class_is_still_yes(listed_store):
    both = {"record_id": "ptb-xl/1", "labels": ["scp:NORM", "scp:IRBBB", "superclass:CD", "superclass:NORM"]}
    found = answers(mapped(listed_store([both]), tasks=["normal", "superclass"]))
    assert found == {"normal": "yes", "superclass": "normal ECG, conduction disturbance"}


def test_a_record_without_labels_is_asked_nothing(listed_store):
    result = mapped(listed_store([{"record_id": "ptb-xl/00003"}]))
    assert result.conversations == [] and result.rejected == []
    assert result.counts["in"] == len(TASKS) and result.counts["rhythm.not_labelled"] == 1
    counts_add_up(result)


def test_synthetic_record_without_superclass_has_none(listed_store):
    row = {"record_id": "synthetic/1", "labels": ["rhythm:atrial_fibrillation", "axis:normal"]}
    found = answers(mapped(listed_store([row]), tasks=["normal", "superclass"]))
    assert found == {"normal": "no", "superclass": words.NO_SUPERCLASS}
    mine = {"record_id": "mine/1", "labels": ["rhythm:AFIB"]}
    assert mapped(listed_store([mine]), tasks=["normal", "superclass"]).conversations == []


def test_paced_conduction_is_not_asked(listed_store):
    row = {"record_id": "ptb-xl/1", "labels": ["scp:PACE", "rhythm:PACE"]}
    result = mapped(listed_store([row]), tasks=["conduction"])
    assert result.counts == {"in": 1, "mapped": 0, "conduction.paced": 1}
    named = {"record_id": "ptb-xl/1", "labels": ["scp:PACE", "scp:CLBBB", "rhythm:PACE"]}
    assert answers(mapped(listed_store([named]), tasks=["conduction"])) == {"conduction": "left bundle branch block"}


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("MID", "normal axis"),
        ("LAD", "left axis deviation"),
        ("ALAD", "left axis deviation"),
        ("RAD", "right axis deviation"),
        ("ARAD", "right axis deviation"),
        ("AXL", None),
        ("AXR", None),
        ("SAG", None),
        ("", None),
        (None, None),
    ],
)
def test_heart_axis_codes(listed_store, code, answer):
    row = {"record_id": "ptb-xl/1", "labels": ["scp:NORM"], "metadata": {"heart_axis": code}}
    result = mapped(listed_store([row]), tasks=["axis"])
    assert [c.turns[1].text for c in result.conversations] == ([answer] if answer else [])
    if answer is None:
        assert result.counts["axis.no_side_named" if code else "axis.not_labelled"] == 1
    else:
        assert result.conversations[0].metadata["choices"] == list(words.AXES.values())[:3]


@pytest.mark.parametrize(
    ("rate", "answer"),
    [(72, "72 bpm"), (71.5, "72 bpm"), (72.5, "72 bpm"), (72.51, "73 bpm"), (40.49, "40 bpm")]
    + [(bad, None) for bad in (None, 0, -3.0, float("nan"), "80")],
)
def test_rate_is_a_whole_number(listed_store, rate, answer):
    row = {"record_id": "x/1", "metadata": {"measurements": {"heart_rate": rate}}}
    found = [c.turns[1].text for c in mapped(listed_store([row]), tasks=["rate"]).conversations]
    assert found == ([answer] if answer else [])


@pytest.mark.parametrize(("report", "reason"), [("see <ecg>", "mark_outside_user_turn"), ("a\0b", "bad_characters")])
def test_an_unusable_report_is_rejected(listed_store, report, reason):
    result = mapped(listed_store([{"record_id": "x/1", "report_en": report}]), tasks=["report"])
    assert [(row["item"], row["reason"]) for row in result.rejected] == [("x/1/report", reason)]
    assert result.counts == {"in": 1, "mapped": 0, reason: 1}


@pytest.mark.parametrize("report", ["", "  \n", None])
def test_d31_empty_report_is_counted_and_the_record_stays(listed_store, report):
    row = {**PTB_XL, "report": report, "report_en": "", "report_origin": ""}
    for language in ("en", "original"):
        result = mapped(listed_store([row]), tasks=["normal", "report"], language=language)
        assert result.counts == {"in": 2, "mapped": 1, "no_report": 1}
        assert result.rejected == []
        assert result.set_aside == [{"item": "ptb-xl/00007/report", "reason": "no_report", "detail": ""}]


def test_reports_are_english_unless_asked_for_as_they_are(listed_store):
    german = {"record_id": "ptb-xl/2", "report": "linkstyp"}
    store = listed_store([PTB_XL, german])
    english = mapped(store, tasks=["report"])
    assert english.counts == {"in": 2, "mapped": 1, "report_not_english": 1}
    assert [row["item"] for row in english.set_aside] == ["ptb-xl/2/report"]
    [c] = english.conversations
    assert c.turns[1].text == "sinus rhythm normal ecg" and c.metadata["report_origin"] == "phrases"
    original = mapped(store, tasks=["report"], language="original")
    assert [c.turns[1].text for c in original.conversations] == ["sinusrhythmus normales ekg", "linkstyp"]


def test_phrasings_are_many_different_and_without_marks():
    assert set(words.PHRASINGS) == set(TASKS)
    for phrasings in words.PHRASINGS.values():
        assert len(set(phrasings)) == len(phrasings) >= 5
        assert all("<" not in p and len(p) <= 120 and p == p.strip() for p in phrasings)


def test_readable_answers_can_be_told_apart():
    for table in words.ANSWERS.values():
        assert all("," not in text and ";" not in text and text == text.strip() for text in table.values())
    assert len(set(words.SCP_RHYTHMS.values())) == len(words.SCP_RHYTHMS)
    assert len(set(words.SCP_CONDUCTION.values())) == len(words.SCP_CONDUCTION)


def test_phrasing_is_a_function_of_seed_record_and_task(listed_store):
    rows = [{"record_id": f"x/{n}", "labels": ["rhythm:SR"]} for n in range(600)]
    every = mapped(listed_store(rows), tasks=["rhythm"])
    count = collections.Counter(c.metadata["phrasing"] for c in every.conversations)
    assert set(count) == set(range(6)) and min(count.values()) > 60  # 100 expected, 4 sd below
    alone = mapped(listed_store(rows[::-1][:50]), tasks=["normal", "rhythm"])
    same = {c.id: c for c in every.conversations}
    assert all(same[c.id] == c for c in alone.conversations)
    other = mapped(listed_store(rows), tasks=["rhythm"], seed=1)
    differing = sum(a.turns != b.turns for a, b in zip(every.conversations, other.conversations, strict=True))
    assert differing > 400  # 5/6 of 600 expected


def test_wordings_can_be_held_out(listed_store):
    store = listed_store([{"record_id": f"x/{n}", "labels": ["rhythm:SR"]} for n in range(100)])

    def used(**options):
        found = mapped(store, tasks=["rhythm"], **options).conversations
        return {c.metadata["phrasing"] for c in found}

    assert used(phrasings=(0, 1, 2, 3)) == {0, 1, 2, 3}
    assert used(phrasings=[5]) == {5}
    assert used(phrasings="one") == {0}


def test_splits_are_the_patients(listed_store):
    store = listed_store([SYNTHETIC, PTB_XL])
    splits = {"synthetic/s0-p00000": "test", "ptb-xl/1": "val"}
    result = mapped(store, tasks=["normal"], splits=splits)
    assert [(c.split, c.id.split("/")[1]) for c in result.conversations] == [("test", "test"), ("val", "val")]
    assert [c.split for c in mapped(store, tasks=["normal"]).conversations] == ["train", ""]
    with pytest.raises(EcglmError, match="patient ptb-xl/1 of ptb-xl/00007 has no split"):
        mapped(store, splits={"synthetic/s0-p00000": "test"})


def test_a_record_in_two_stores_is_taken_once(listed_store):
    two = [listed_store([PTB_XL]), listed_store([{**PTB_XL, "report_en": "other"}, SYNTHETIC])]
    result = mapped(two, tasks=["report"])
    assert [c.ecgs[0] for c in result.conversations] == ["ptb-xl/00007", "synthetic/s0-p00000-1"]
    assert result.conversations[0].turns[1].text == "sinus rhythm normal ecg"
    assert len(mapped(two, tasks=["report"], limit=1).conversations) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ["rythm"]}, r"no task 'rythm' \(did you mean 'rhythm'\?\)"),
        ({"tasks": []}, "tasks is empty"),
        ({"language": "english"}, "no language 'english'"),
        ({"phrasings": "many"}, "phrasings 'many'"),
        ({"phrasings": [6]}, "task 'superclass' has 0 to 5"),
        ({"phrasings": []}, "has 0 to 5"),
    ],
)
def test_wrong_options_are_told(listed_store, options, message):
    with pytest.raises(ConfigError, match=message) as error:
        mapped(listed_store([SYNTHETIC]), **options)
    assert "\n" not in str(error.value)


def test_registered():
    assert registry.get("conversations", "labels") is map_labels


def test_written_and_read_again(listed_store, tmp_path):
    result = mapped(listed_store([SYNTHETIC, PTB_XL]), splits={"synthetic/s0-p00000": "test", "ptb-xl/1": "val"})
    write_conversations(tmp_path / "c.parquet", result, {"version": VERSION}, {})
    assert read_conversations(tmp_path / "c.parquet") == result.conversations


def test_synthetic_source_truth(listed_store):
    """The generator's own records: every task asked, and the answers say what its English report says."""
    from ecglm.records.synthetic import Synthetic

    source = Synthetic(num_patients=60, rate=100, records_per_patient=(1, 1))
    records = list(map(source.read, source.keys()))
    rows = [
        {
            "record_id": r.record_id,
            "patient_id": r.patient_id,
            "report": r.report,
            "report_en": r.report,
            "labels": list(r.labels),
            "metadata": dict(r.metadata),
        }
        for r in records
    ]
    result = mapped(listed_store(rows))
    counts_add_up(result)
    assert result.rejected == []
    reports = {r.record_id: r.report.lower() for r in records}
    spoken = {
        "left bundle branch block": "left bundle branch block",
        "right bundle branch block": "right bundle branch block",
        "left ventricular hypertrophy": "left ventricular hypertrophy",
        "prolonged QT interval": "prolonged qt",
        "left axis deviation": "left axis deviation",
        "right axis deviation": "right axis deviation",
        "atrial fibrillation": "atrial fibrillation",
        "sinus bradycardia": "sinus bradycardia",
        "sinus tachycardia": "sinus tachycardia",
        "premature ventricular complexes": "premature ventricular",
        "premature atrial complexes": "premature atrial",
    }
    asked = collections.Counter()
    for c in result.conversations:
        asked[c.task] += 1
        report, answer = reports[c.ecgs[0]], c.turns[1].text
        if answer in spoken:
            assert spoken[answer] in report
        elif c.task == "rate":
            assert f"ventricular rate {answer}" in report
        elif c.task == "normal":
            assert (answer == "yes") == ("normal ecg." in report)
        elif c.task == "st" and answer != "no ST change":
            place, _, kind = answer.split()
            assert f"st {kind} in the {place} leads" in report
        if c.task in ("rhythm", "conduction", "axis", "st", "hypertrophy", "twave", "qt"):
            assert c.metadata["question_type"] == "choice" and answer in c.metadata["choices"]
    assert set(asked) == set(TASKS) - {"findings"}  # those are asked of other datasets
    assert asked["rhythm"] == asked["axis"] == asked["rate"] == asked["superclass"] == asked["report"] == 60


@pytest.mark.realdata
def test_ptb_xl_table_recounted(listed_store, ptb_xl):
    """Answers of the 782 described records against counts taken from the two csv files here."""
    with open(ptb_xl / "scp_statements.csv", newline="") as handle:
        statements = {row[""]: row for row in csv.DictReader(handle)}
    with open(ptb_xl / "ptbxl_database.csv", newline="") as handle:
        table = list(csv.DictReader(handle))
    rows, truth = [], collections.Counter()
    for line in table:
        codes = list(ast.literal_eval(line["scp_codes"]))
        classes = {statements[c]["diagnostic_class"] for c in codes if statements[c]["diagnostic"] == "1.0"}
        rhythms = [c for c in codes if statements[c]["rhythm"] == "1.0"]
        labels = [f"scp:{c}" for c in codes] + [f"superclass:{c}" for c in classes] + [f"rhythm:{c}" for c in rhythms]
        truth["normal", "NORM" in classes] += 1
        truth["none"] += not classes
        truth["no rhythm"] += not rhythms
        truth["AFIB"] += "AFIB" in rhythms
        truth["LAFB"] += "LAFB" in codes
        truth["blank report"] += not line["report"].strip()
        truth["axis"] += line["heart_axis"] in ("MID", "LAD", "ALAD", "RAD", "ARAD")
        rows.append(
            {
                "record_id": f"ptb-xl/{int(line['ecg_id']):05d}",
                "patient_id": f"ptb-xl/{int(float(line['patient_id']))}",
                "report": line["report"],
                "labels": labels,
                "metadata": {"heart_axis": line["heart_axis"]},
            }
        )
    result = mapped(listed_store(rows))
    counts_add_up(result)
    found = collections.Counter((c.task, part) for c in result.conversations for part in c.turns[1].text.split(", "))
    assert found["normal", "yes"] == truth["normal", True] == 358
    assert found["normal", "no"] == truth["normal", False] == 424
    assert found["superclass", words.NO_SUPERCLASS] == truth["none"] == 12
    assert result.counts["rhythm.not_labelled"] == truth["no rhythm"] == 44
    assert found["rhythm", "atrial fibrillation"] == truth["AFIB"]
    assert found["conduction", "left anterior fascicular block"] == truth["LAFB"]
    assert sum(n for (task, _), n in found.items() if task == "axis") == truth["axis"] == 126
    assert result.counts["no_report"] == truth["blank report"] == 1
    assert all(canonical_json(dict(c.metadata)) for c in result.conversations)
