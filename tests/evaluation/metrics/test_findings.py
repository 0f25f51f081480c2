"""Statements found in reports: literal sentences, negation and doubt, the lexicon itself, and PTB-XL's reports."""

from __future__ import annotations

import csv
import time

import pytest

from ecglm.errors import EcglmError
from ecglm.evaluation.metrics import findings as room
from ecglm.evaluation.metrics.findings import SUPERCLASSES, findings, stated, statements
from ecglm.records.ptb_xl import PtbXl

#: Sentence → what it states, "?" for doubt, "-" for what it denies.
SENTENCES = [
    ("Normal ECG.", "NORM"),
    ("Otherwise normal ECG.", "NORM"),
    ("The ECG is within normal limits.", "NORM"),
    ("No definite pathology.", "NORM"),
    ("Abnormal ECG.", ""),
    ("This is not a normal ECG.", "-NORM"),
    ("Sinus rhythm. Normal electrocardiogram.", "SR NORM"),
    ("Normal sinus rhythm", "SR"),
    ("sinus bradycardia with sinus arrhythmia", "SBRAD SARRH"),
    ("Sinus tachycardia at 120 bpm", "STACH"),
    ("Atrial fibrillation with rapid ventricular response.", "AFIB"),
    ("AF with slow ventricular response", "AFIB"),
    ("Atrial flutter with 2:1 AV block", "AFLT 2AVB"),
    ("Atrial fibrillation/flutter", "AFIB AFLT"),
    ("No P waves, atrial fibrillation.", "AFIB"),
    ("Absence of P waves indicates atrial fibrillation.", "AFIB"),
    ("Sinus rhythm, not atrial fibrillation.", "SR -AFIB"),
    ("No evidence of atrial fibrillation or flutter.", "-AFIB"),
    ("First-degree A-V block (PR 230 ms).", "1AVB"),
    ("1st degree AV block", "1AVB"),
    ("Second degree AV block, Mobitz type I", "2AVB"),
    ("Complete heart block", "3AVB"),
    ("AV block of unknown degree", "AVB"),
    ("No AV block.", "-AVB"),
    ("Complete right bundle branch block.", "CRBBB"),
    ("Right bundle-branch block", "CRBBB"),
    ("Incomplete right bundle branch block", "IRBBB"),
    ("LBBB", "CLBBB"),
    ("incomplete LBBB", "ILBBB"),
    ("RBBB and left anterior hemiblock", "CRBBB LAFB"),
    ("Left posterior fascicular block", "LPFB"),
    ("Non-specific intraventricular conduction delay", "IVCD"),
    ("Wolff-Parkinson-White pattern", "WPW"),
    ("Left ventricular hypertrophy by voltage (Sokolow-Lyon 4.1 mV).", "LVH"),
    ("LVH has been ruled out, sinus rhythm.", "-LVH SR"),
    ("LVH cannot be ruled out.", "?LVH"),
    ("LVH absent.", "-LVH"),
    ("Absent LVH.", "-LVH"),
    ("Neither LVH nor RVH.", "-LVH -RVH"),
    ("No LVH, RVH or left atrial enlargement.", "-LVH -RVH -LAO/LAE"),
    ("No LVH, right bundle branch block.", "-LVH CRBBB"),
    ("No LVH but right bundle branch block.", "-LVH CRBBB"),
    ("Possible left atrial enlargement.", "?LAO/LAE"),
    ("Left atrial enlargement is not seen.", "-LAO/LAE"),
    ("Old inferior myocardial infarction.", "IMI"),
    ("Q waves in II, III, aVF consistent with old inferior    myocardial infarction", "QWAVE ?IMI"),
    ("Anterolateral infarct possible", "?ALMI"),
    ("Abnormal QRS(T)    septal infarct cannot be excluded", "?ABQRS ?ASMI"),  # doubt reaches back to the last comma
    ("Cannot rule out anterior infarct.", "?AMI"),
    ("Rule out lateral infarction.", "?LMI"),
    ("No sign of infarction.", "-MI"),
    ("Without signs of ischaemia or infarction", "-ISC_ -MI"),
    ("Acute anterior STEMI", "AMI"),
    ("old anterior and inferior infarcts", "AMI IMI"),
    ("Infarction is unlikely.", "-MI"),
    ("deep Q waves indicate septal hypertrophy rather than old infarction", "QWAVE SEHYP -MI"),
    ("ST-T depression, as in    anterolateral ischaemia or left ventricular strain", "STD_ ?ISCAL"),
    ("No ST elevation but ST depression in V4-V6", "-STE_ STD_"),
    ("Sinus rhythm without ST elevation, left bundle branch block.", "SR -STE_ CLBBB"),
    ("Non-specific ST-T wave changes", "NST_"),
    ("Non-specific T wave changes", "NT_"),
    ("T waves are inverted in V4-V6", "INVT"),
    ("No T wave inversion.", "-INVT"),
    ("Prolonged QT interval.", "LNGQT"),
    ("The QTc is prolonged.", "LNGQT"),
    ("QT interval is not prolonged", ""),
    ("Digitalis effect", "DIG"),
    ("Suggest exclude hypokalaemia", "?EL"),
    ("premature ventricular contraction(s), bigeminy", "PVC BIGU"),
    ("Frequent PVCs and PACs.", "PVC PAC"),
    ("Low limb lead voltage", "LVOLT"),
    ("Ventricular paced rhythm", "PACE"),
    ("Prolonged PR interval", "LPR"),
    ("No significant change: atrial fibrillation persists", "AFIB"),
    ("Rhythm was previously atrial flutter.", "-AFLT"),
    ("LVH. No LVH.", "LVH"),  # the strongest mention counts
    ("Everything else is unremarkable", ""),
    ("Atrial fibrillation has replaced sinus rhythm", "AFIB -SR"),
    ("Sinus rhythm is replaced by atrial fibrillation", "-SR AFIB"),
    ("Prior ECG showed LBBB, now sinus rhythm", "-CLBBB SR"),
    ("Inconsistent with infarction.", "-MI"),
    ("It is unlikely that this is an infarct.", "-MI"),
    ("Unlikely inferior infarct.", "-IMI"),
    ("LVH? Sinus rhythm.", "?LVH SR"),
    ("? inferior infarct", "?IMI"),
    ("LVH: No", "-LVH"),
    ("PR interval is within normal limits.", ""),
    ("Heart rate and intervals are within normal limits.", ""),
    ("QRS within normal limits, LVH", "LVH"),
    ("No significant abnormalities were detected.", "NORM"),
    ("LVH criteria not met", "-LVH"),
    ("Could represent LVH", "?LVH"),
    ("AFL with 2:1 AV block", "AFLT 2AVB"),
    ("LVH: no, RBBB: yes", "-LVH CRBBB"),
    ("Sinus rhythm - no LVH", "SR -LVH"),
    ("LVH - negative", "-LVH"),
    ("Non-ST-elevation myocardial infarction", "MI"),
    ("ST elevation myocardial infarction of the inferior wall", "IMI"),
    ("STE in V2, STD and TWI in III", "STE_ STD_ INVT"),
    ("T waves are deeply inverted", "INVT"),
    ("prolonged p-r interval", "LPR"),
    ("The QTc interval is mildly prolonged", "LNGQT"),
    ("1° AV block, 2nd degree AVB, CHB", "1AVB 2AVB 3AVB"),
    ("First degree AVB", "1AVB"),
    ("Afib/flutter", "AFIB AFLT"),
    ("Biatrial enlargement, biventricular hypertrophy", "LAO/LAE RAO/RAE LVH RVH"),
    ("Inferior-posterior infarct", "IPMI"),
    ("Nonspecific ST and T wave abnormality", "NDT"),
    ("Nonspecific ST and T wave changes", "NST_"),
    ("", ""),
    ("心电图正常", ""),
]


@pytest.mark.parametrize(("sentence", "expected"), SENTENCES)
def test_what_a_sentence_states(sentence, expected):
    marks = {"?": "uncertain", "-": "absent"}
    wanted = {}
    for word in expected.split():
        wanted[word.lstrip("?-")] = marks.get(word[0], "present")
    assert findings(sentence) == wanted
    assert stated(sentence) == {name for name, status in wanted.items() if status != "absent"}


def test_a_report_is_read_sentence_by_sentence():
    text = "Atrial fibrillation; rate 72.5 bpm. No ischemia\nLVH! Possible RVH"
    assert findings(text) == {"AFIB": "present", "ISC_": "absent", "LVH": "present", "RVH": "uncertain"}
    assert findings(text.upper()) == findings(text)


@pytest.mark.parametrize("part", ["no ", "no lvh or ", "no lvh, ", "lvh absent, ", "possible ", "but no ", "?", "a - "])
def test_an_endless_answer_is_read_in_linear_time(part):
    start = time.process_time()
    findings((part * 100_000)[:100_000])
    assert time.process_time() - start < 5  # quadratic time takes minutes


def test_patterns_stand_for_every_phrase():
    macros = {"mi": "[wall|] infarct(s)"}
    expected = {("inferior", "wall", "infarct"), ("inferior", "infarct"), ("inferior", "wall", "infarcts")}
    assert set(room.expand("inferior <mi>", macros)) == expected | {("inferior", "infarcts")}
    with pytest.raises(EcglmError, match="no macro <none>"):
        list(room.expand("a <none>", macros))
    with pytest.raises(EcglmError, match="alternatives within alternatives"):
        list(room.expand("a [<mi>|b]", macros))


def test_every_term_is_found_as_what_it_stands_for():
    """However terms overlap: each phrase of the lexicon, alone, states its own statement."""
    lexicon = room._lexicon()
    for name, entry in lexicon["statements"].items():
        for pattern in entry["terms"]:
            for phrase in room.expand(pattern, lexicon["macros"]):
                assert name in findings(" ".join(phrase)), (name, phrase)


def test_the_lexicon_keeps_to_the_diagnostic_classes():
    assert set(statements().values()) == {*SUPERCLASSES, ""}


@pytest.mark.realdata
def test_the_lexicon_keeps_to_the_statements_of_ptb_xl(ptb_xl):
    with (ptb_xl / "scp_statements.csv").open(encoding="utf-8", newline="") as file:
        official = {row[""]: row["diagnostic_class"] for row in csv.DictReader(file)}
    ours = {name: kind for name, kind in statements().items() if name not in ("MI", "AVB")}
    assert ours == {name: official[name] for name in ours}
    assert set(official) == set(ours)


@pytest.mark.realdata
def test_reports_of_ptb_xl_against_their_statements(ptb_xl):
    """English reports (original, or by the lossless dictionary) against the SCP statements cardiologists gave.

    They do not say the same: statements were set by others than the reports' authors. Measured: statements 1665 found
    rightly, 445 not given, 485 not found; classes 687, 104, 281.
    """
    source = PtbXl(root=ptb_xl, resolution="100")
    classes = statements()
    codes, supers = [0, 0, 0], [0, 0, 0]
    for key in source.keys():
        record = source.read(key)
        if not record.report_en:
            continue
        found = stated(record.report_en)
        for prefix, counts, answer in (
            ("scp:", codes, found),
            ("superclass:", supers, frozenset(classes[name] for name in found) - {""}),
        ):
            truth = {label.removeprefix(prefix) for label in record.labels if label.startswith(prefix)}
            for i, part in enumerate((answer & truth, answer - truth, truth - answer)):
                counts[i] += len(part)
    for name, (hit, extra, missed) in (("statements", codes), ("classes", supers)):
        print(f"{name}: {hit} found, {extra} not given, {missed} not found")
    assert codes[0] / (codes[0] + codes[1]) > 0.76 and codes[0] / (codes[0] + codes[2]) > 0.74
    assert supers[0] / (supers[0] + supers[1]) > 0.83 and supers[0] / (supers[0] + supers[2]) > 0.67
