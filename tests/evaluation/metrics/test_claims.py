"""Statements about measurements: how sentences are read, and when measurements agree."""

from __future__ import annotations

import math
import time

import pytest

from ecglm import registry
from ecglm.errors import EcglmError
from ecglm.evaluation.metrics.claims import FIELDS, Claim, claims_in, holds
from ecglm.records.ptb_xl import PtbXl
from ecglm.signals.leads import canonical_leads
from ecglm.signals.measured import measure
from ecglm.types import LEADS

INFERIOR, LATERAL = "II/III/aVF", "I/aVL/V5/V6"

#: Sentence → its statements: quantity=number, name of words, ST up or down @ leads; "!" what it denies.
SENTENCES = [
    ("Heart rate 72 bpm.", "rate=72"),
    ("HR: 88", "rate=88"),
    ("Sinus tachycardia at 110 bpm", "rate=110 rate:high"),
    ("heart rate of approximately 75 beats per minute", "rate=75"),
    ("The rate is 64/min.", "rate=64"),
    ("A rate of 60-100 bpm is normal for adults", ""),
    ("atrial rate 300 bpm, ventricular rate 75 bpm", "atrial=300 rate=75"),
    ("Sinus bradycardia", "rate:low"),
    ("No tachycardia.", "!rate:high"),
    ("Atrial fibrillation with rapid ventricular response", "rate:high"),
    ("Normal heart rate", "rate:normal"),
    ("PR 160 ms, QRS 92 ms, QT/QTc 400/420 ms", "pr=160 qrs=92 qt=400 qtc=420"),
    ("Rate: 75 PR: 160 QRS: 90 QT/QTc: 380/410", "rate=75 pr=160 qrs=90 qt=380 qtc=410"),
    ("PR interval is 0.16 s and the QRS duration is 0.09 seconds", "pr=160 qrs=90"),
    ("PR interval normal, QRS 92 ms", "qrs=92 pr:normal"),
    ("First-degree AV block (PR 230 ms)", "pr=230 pr:high"),
    ("Prolonged PR interval", "pr:high"),
    ("The PR interval is not prolonged", "!pr:high"),
    ("Short PR", "pr:low"),
    ("The QRS complex is wide (150 ms)", "qrs=150 qrs:high"),
    ("Narrow QRS complexes", "qrs:normal"),
    ("QTc 455 ms (Bazett)", "qtc=455"),
    ("QTcF 410 ms", "qtcf=410"),
    ("QTc (Fridericia) 410 ms", "qtcf=410"),
    ("Prolonged QTc", "qt:high"),
    ("QT interval within normal limits", "qt:normal"),
    ("Intervals are normal", "pr:normal qrs:normal qt:normal"),
    ("Axis -35 degrees", "axis=-35"),
    ("QRS axis −30°", "axis=-30"),
    ("Normal axis (45 degrees)", "axis=45 axis:normal"),
    ("Left axis deviation", "axis:left"),
    ("extreme right axis deviation", "axis:extreme"),
    ("Leftward axis", "axis:unchecked"),
    ("ST elevation in V2-V4", "st:up@V2 st:up@V3 st:up@V4"),
    ("ST segments are depressed in I, aVL, V5,6 and T waves inverted in III",
     "st:down@I st:down@aVL st:down@V5 st:down@V6"),
    ("ST elevation in the inferior leads (II, III, aVF)", f"st:up@{INFERIOR} st:up@II st:up@III st:up@aVF"),
    ("inferior and lateral ST depression", f"st:down@{INFERIOR} st:down@{LATERAL}"),
    ("2 mm ST elevation in V2 with reciprocal ST depression in III", "st:up@V2 st:down@III"),
    ("Diffuse ST elevation", "st:up"),
    ("No ST elevation in V1-V3", "!st:up@V1 !st:up@V2 !st:up@V3"),
    ("No ST elevation.", "!st:up"),
    ("ST elevation none, depression none.", "!st:up !st:down"),
    ("ST elevation none, depression V5, V6.", "!st:up st:down@V5 st:down@V6"),
    ("The ST segments are not elevated", "!st:up"),
    ("No ST changes", "st:none"),
    ("Non-specific ST changes", "st:unchecked"),
    ("QRS 92 mm high, PR 3 years", ""),
    ("72 year old patient", ""),
    ("T axis 60 degrees", "other-axis=60"),
    ("Heart rate between 60 and 65 bpm", ""),
    ("axis between -30 and 90 degrees", ""),
    ("Heart rate 72.5 bpm", "rate=72.5"),
    ("72 b/min", "rate=72"),
    ("rate >100 bpm", ""),
    ("Heart rate less than 60 bpm", ""),
    ("PR interval is < 200 ms", ""),
    ("QRS complexes are narrow (<120 ms)", "qrs:normal"),
    ("QTc > 500 ms", ""),
    ("PR interval (normal 120-200 ms): 160 ms", "pr=160"),
    ("PR interval 160 ms (normal 120-200 ms)", "pr=160"),
    ("PR 0,16 s", "pr=160"),
    ("P-R interval 160 ms", "pr=160"),
    ("Rate 75 PR 160 QRSD 90 QT 380 QTc 425", "rate=75 pr=160 qrs=90 qt=380 qtc=425"),
    ("QT/QTc 400 ms/430 ms", "qt=400 qtc=430"),
    ("QTc(F) 410 ms", "qtcf=410"),
    ("QTc 410 ms (Fridericia)", "qtcf=410"),
    ("Corrected QT interval of 430 ms", "qtc=430"),
    ("PR/QRS/QT 160/90/400", "pr=160 qrs=90 qt=400"),
    ("Rate within normal limits", "rate:normal"),
    ("No ST/T changes", "st:none"),
    ("P-R-T axes 45 -30 60", "axis=-30"),
    ("P/QRS/T axis 45/30/60", "axis=30"),
    ("normal cardiac axis", "axis:normal"),
    ("The PR interval is mildly prolonged", "pr:high"),
    ("Normal PR, QRS, and QT intervals", "pr:normal qrs:normal qt:normal"),
    ("PR and QRS intervals within normal limits", "pr:normal qrs:normal"),
    ("STE in inferior leads, STD in V6", f"st:up@{INFERIOR} st:down@V6"),
    ("Leads V2-V4 show slight ST elevation", "st:up@V2 st:up@V3 st:up@V4"),
    ("Inferior leads show ST elevation", f"st:up@{INFERIOR}"),
    ("In leads V2 and V3, there is ST elevation", "st:up@V2 st:up@V3"),
    ("Q waves in V1, V2, there is ST elevation", "st:up"),
    ("Non-ST-elevation MI", ""),
    ("", ""),
    ("正常", ""),
]  # fmt: skip


def written(claim: Claim) -> str:
    text = claim.quantity.replace(" ", "-") + f"={claim.value:g}" if claim.value is not None else claim.said
    return "!" * claim.denied + text + ("@" + "/".join(claim.leads) if claim.leads else "")


@pytest.mark.parametrize(("sentence", "expected"), SENTENCES)
def test_statements_of_a_sentence(sentence, expected):
    assert " ".join(map(written, claims_in(sentence))) == expected


def test_the_same_statement_counts_once():
    assert len(claims_in("Sinus tachycardia. Tachycardia. Rate 110 bpm, that is 110 bpm.")) == 2


@pytest.mark.parametrize(
    "part", ["st elevation in v2 ", "1", "1 - ", "qt ", "p axis ", "v1, ", "between 1 ", "(normal 1", "qtc 410"]
)
def test_an_endless_answer_is_read_in_linear_time(part):
    start = time.process_time()
    claims_in((part * 100_000)[:100_000])
    claims_in(part + " " * 100_000 + "x")
    assert time.process_time() - start < 5  # quadratic time takes minutes


MEASURED = {
    "heart_rate": 72.0, "pr_ms": 160.0, "qrs_ms": 96.0, "qt_ms": 400.0, "qtc_bazett_ms": 438.0,
    "qtc_fridericia_ms": 425.0, "axis_deg": -20.0,
    "st_mv": {**dict.fromkeys(LEADS, 0.0), "V2": 0.2, "V3": 0.15, "III": -0.06, "V6": None},
    "st_j_mv": {**dict.fromkeys(LEADS, 0.0), "V2": 0.18, "V3": 0.14, "III": -0.05, "V6": None},
}  # fmt: skip


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Rate 77 bpm", [True]),
        ("Rate 78 bpm", [False]),
        ("tachycardia", [False]),
        ("normal rate", [True]),
        ("no tachycardia", [True]),
        ("PR 180 ms", [True]),
        ("PR 181 ms", [False]),
        ("normal PR interval", [True]),
        ("first degree AV block", [False]),
        ("no first degree AV block", [True]),
        ("QRS 77 ms", [True]),
        ("wide QRS", [False]),
        ("QT 440 ms", [True]),
        ("QTc 479 ms", [False]),
        ("QTcF 465 ms", [True]),
        ("prolonged QT", [True]),  # 438 lies within 20 ms of the limit of 450
        ("short QT", [False]),
        ("axis -35 degrees", [True]),
        ("axis 340 degrees", [True]),
        ("left axis deviation", [True]),  # -20 lies within 10 degrees of the limit of -30
        ("normal axis", [True]),
        ("right axis deviation", [False]),
        ("leftward axis", [None]),
        ("ST elevation in V2 and V3", [True, True]),
        ("ST elevation in V4", [False]),
        ("ST elevation in V6", [None]),
        ("anterior ST elevation", [True]),
        ("inferior ST depression", [False]),  # one lead of a territory is not enough
        ("ST depression in III", [True]),
        ("ST elevation", [True]),
        ("no ST depression", [True]),
        ("no ST elevation in V4", [True]),
        ("P axis 60 degrees, atrial rate 300 bpm", [None, None]),
    ],
)
def test_when_measurements_agree(sentence, expected):
    found = [holds(claim, MEASURED) for claim in claims_in(sentence)]
    assert sorted(map(str, found)) == sorted(map(str, expected))


def test_what_was_not_measured_cannot_be_checked():
    for claim in claims_in("Rate 72 bpm. PR 160 ms. Wide QRS. ST elevation in V2. No ST changes. Normal axis."):
        assert holds(claim, {"heart_rate": None, "st_mv": {}, "st_j_mv": {}}) is None


def rows_of(answers, measured=MEASURED):
    return [
        {"reference": "x", "prediction": a, "metadata": {"question_type": "text"}, "measured": measured}
        for a in answers
    ]


def value(name, rows):
    return registry.get("metrics", name)(rows)


def test_grounding_by_hand():
    """Right: rate, PR. Wrong: axis, tachycardia. Unchecked: leftward axis. An empty answer counts as one wrong."""
    rows = rows_of(["Rate 72 bpm, PR 160 ms, axis 90 degrees.", "Tachycardia. Leftward axis.", "Normal ECG.", ""])
    assert value("grounding", rows) == 2 / (4 + 1)
    assert value("grounding_coverage", rows) == (3 + 1 + 0 + 0) / 4
    assert value("grounding_unchecked", rows) == 1 / 5


def test_grounding_without_measurements_says_what_is_missing():
    rows = rows_of(["Rate 72 bpm"], measured=None)
    with pytest.raises(EcglmError, match="--store STORE"):
        value("grounding", rows)
    # some measured, some not: what is not is unchecked
    both = rows + rows_of(["Rate 72 bpm"])
    assert value("grounding", both) == 1.0 and value("grounding_unchecked", both) == 0.5
    assert math.isnan(value("grounding", rows_of(["Normal ECG."])))


def test_a_row_changed_in_place_is_read_anew():
    row = rows_of(["Rate 72 bpm"])[0]
    assert value("grounding", [row]) == 1.0
    row["prediction"] = "Rate 100 bpm"
    assert value("grounding", [row]) == 0.0
    row["measured"] = {**MEASURED, "heart_rate": 100.0}
    assert value("grounding", [row]) == 1.0


@pytest.mark.realdata
def test_reports_of_ptb_xl_are_grounded_in_their_own_ecgs(ptb_xl):
    """What cardiologists wrote, checked against our measurements of that ECG, and of another patient's.

    Measured: 582 of 662 statements of 331 reports hold; with the ECG of another patient 258 of 660.
    """
    source = PtbXl(root=ptb_xl, resolution="100")
    texts, found = [], []
    for key in source.keys():
        record = source.read(key)
        if record.report_en and claims_in(record.report_en):
            measured = measure(canonical_leads(record.signal, record.leads), record.sampling_rate)
            texts.append(record.report_en)
            found.append({name: getattr(measured, name) for name in (*FIELDS.values(), "st_mv", "st_j_mv")})
    own = value("grounding", [row for t, m in zip(texts, found, strict=True) for row in rows_of([t], m)])
    others = found[97:] + found[:97]
    swapped = value("grounding", [row for t, m in zip(texts, others, strict=True) for row in rows_of([t], m)])
    print(f"{len(texts)} reports: {own:.3f} of the statements hold, {swapped:.3f} with another ECG")
    assert len(texts) > 300 and own > 0.85 and swapped < 0.45
