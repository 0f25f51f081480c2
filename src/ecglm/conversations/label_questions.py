"""The words of the questions made from labels: phrasings per task, and the readable answer for every label."""

from __future__ import annotations

from ecglm.records.aha_codes import STATEMENTS
from ecglm.records.snomed import SNOMED

#: Several neutral ways to ask each task's question. Their order is part of the version: append, never reorder.
PHRASINGS: dict[str, tuple[str, ...]] = {
    "superclass": (
        "Which diagnostic classes does this ECG belong to?",
        "What are the diagnostic categories of this ECG?",
        "Name the diagnostic superclasses of this recording.",
        "Into which diagnostic groups does this ECG fall?",
        "List the diagnostic classes found in this tracing.",
        "Classify this ECG: normal, myocardial infarction, ST/T change, conduction disturbance or hypertrophy?",
    ),
    "normal": (
        "Is this ECG normal?",
        "Is this a normal ECG?",
        "Would you call this recording normal?",
        "Does this tracing show a normal ECG?",
        "Normal ECG, yes or no?",
        "Can this ECG be reported as normal?",
    ),
    "rhythm": (
        "What is the rhythm?",
        "What rhythm does this ECG show?",
        "Which rhythm is present in this recording?",
        "Name the heart rhythm.",
        "Identify the rhythm of this tracing.",
        "How would you describe the rhythm?",
    ),
    "conduction": (
        "How is the intraventricular conduction?",
        "Which intraventricular conduction disturbance does this ECG show, if any?",
        "Describe the ventricular conduction in this recording.",
        "Is the intraventricular conduction normal, and if not, what is wrong?",
        "What does the QRS complex tell about ventricular conduction?",
        "Name the intraventricular conduction finding of this tracing.",
    ),
    "axis": (
        "What is the heart axis?",
        "How is the QRS axis?",
        "Describe the electrical axis of this ECG.",
        "Is the heart axis normal or deviated?",
        "Which way does the frontal QRS axis point: normal, left or right?",
        "Name the axis finding of this recording.",
    ),
    "rate": (
        "What is the heart rate?",
        "How fast is the heart beating?",
        "State the heart rate in beats per minute.",
        "What is the ventricular rate of this ECG?",
        "How many beats per minute does this recording show?",
        "Measure the heart rate.",
    ),
    "st": (
        "How is the ST segment?",
        "Which ST segment change does this ECG show, if any?",
        "Describe the ST segment of this recording.",
        "Is the ST segment elevated or depressed, and where?",
        "Name the ST finding of this tracing.",
        "What does the ST segment show?",
    ),
    "hypertrophy": (
        "Which hypertrophy or chamber enlargement does this ECG show, if any?",
        "Are there signs of hypertrophy?",
        "Describe any hypertrophy in this recording.",
        "Which heart chambers appear enlarged?",
        "Name the hypertrophy finding of this tracing.",
        "What does this ECG say about hypertrophy?",
    ),
    "twave": (
        "How are the T waves?",
        "Describe the T waves of this ECG.",
        "Which T wave change does this recording show, if any?",
        "Are the T waves normal?",
        "Name the T wave finding of this tracing.",
        "What do the T waves show?",
    ),
    "qt": (
        "How is the QT interval?",
        "Is the QT interval normal or prolonged?",
        "Describe the QT interval of this ECG.",
        "Does this recording show a prolonged QT interval?",
        "Name the QT finding of this tracing.",
        "Rate the duration of the QT interval.",
    ),
    "report": (
        "Write a report for this ECG.",
        "Report this ECG.",
        "Write the findings of this recording.",
        "Give a written interpretation of this ECG.",
        "What would the report of this tracing say?",
        "Summarise this ECG in a report.",
    ),
    "findings": (
        "Which findings does this ECG show?",
        "What are the diagnoses of this ECG?",
        "List the findings in this recording.",
        "Name everything this tracing shows.",
        "Which diagnostic statements apply to this ECG?",
        "What does this ECG show?",
    ),
}

SUPERCLASSES: dict[str, str] = {
    "NORM": "normal ECG",
    "MI": "myocardial infarction",
    "STTC": "ST/T change",
    "CD": "conduction disturbance",
    "HYP": "hypertrophy",
}
NO_SUPERCLASS = "none of the diagnostic classes"

#: SCP-ECG rhythm statements (``scp_statements.csv`` of PTB-XL, column rhythm) → answers, in canonical order.
SCP_RHYTHMS: dict[str, str] = {
    "SR": "sinus rhythm",
    "SBRAD": "sinus bradycardia",
    "STACH": "sinus tachycardia",
    "SARRH": "sinus arrhythmia",
    "AFIB": "atrial fibrillation",
    "AFLT": "atrial flutter",
    "SVTAC": "supraventricular tachycardia",
    "PSVT": "paroxysmal supraventricular tachycardia",
    "SVARR": "supraventricular arrhythmia",
    "BIGU": "bigeminy",
    "TRIGU": "trigeminy",
    "PACE": "paced rhythm",
}

#: SCP-ECG statements on intraventricular conduction. AV blocks are no matter of ventricular conduction, so they are
#: not here; pre-excitation is, because its QRS is not normal.
SCP_CONDUCTION: dict[str, str] = {
    "CLBBB": "left bundle branch block",
    "ILBBB": "incomplete left bundle branch block",
    "CRBBB": "right bundle branch block",
    "IRBBB": "incomplete right bundle branch block",
    "LAFB": "left anterior fascicular block",
    "LPFB": "left posterior fascicular block",
    "IVCD": "non-specific intraventricular conduction disturbance",
    "WPW": "Wolff-Parkinson-White syndrome",
}
NO_CONDUCTION = "normal ventricular conduction"

#: SCP-ECG diagnostic statements of class HYP.
SCP_HYPERTROPHY: dict[str, str] = {
    "LVH": "left ventricular hypertrophy",
    "RVH": "right ventricular hypertrophy",
    "SEHYP": "septal hypertrophy",
    "LAO/LAE": "left atrial enlargement",
    "RAO/RAE": "right atrial enlargement",
}
NO_HYPERTROPHY = "no hypertrophy"

AXES: dict[str, str] = {
    "normal": "normal axis",
    "left": "left axis deviation",
    "right": "right axis deviation",
    "extreme": "extreme axis deviation",
}
#: ``heart_axis`` of PTB-XL → names of AXES. Its reports call AXL "borderline left", AXR a steep axis ("Steillage")
#: and SAG a sagittal one: none of them is a side, so they are not asked.
PTB_XL_AXES: dict[str, str] = {"MID": "normal", "LAD": "left", "ALAD": "left", "RAD": "right", "ARAD": "right"}

#: The nine classes of CPSC2018.
CPSC_CLASSES: dict[str, str] = {
    "NORM": "normal ECG",
    "AF": "atrial fibrillation",
    "I-AVB": "first degree AV block",
    "LBBB": "left bundle branch block",
    "RBBB": "right bundle branch block",
    "PAC": "premature atrial complexes",
    "PVC": "premature ventricular complexes",
    "STD": "ST depression",
    "STE": "ST elevation",
}
#: The six abnormalities of CODE-15%; each of its exams is judged for all of them.
CODE_15_CLASSES: dict[str, str] = {
    "1dAVb": "first degree AV block",
    "RBBB": "right bundle branch block",
    "LBBB": "left bundle branch block",
    "SB": "sinus bradycardia",
    "ST": "sinus tachycardia",
    "AF": "atrial fibrillation",
}
NO_CODE_15_CLASS = "none of the six abnormalities"

_TERRITORIES = ("anterior", "inferior", "lateral")

#: Label group → label name → the answer it is read as, in canonical order. A name that is not here is read with
#: blanks for underscores.
ANSWERS: dict[str, dict[str, str]] = {
    "superclass": SUPERCLASSES,
    "rhythm": {
        "sinus_rhythm": "sinus rhythm",
        "sinus_bradycardia": "sinus bradycardia",
        "sinus_tachycardia": "sinus tachycardia",
        "atrial_fibrillation": "atrial fibrillation",
        "pvc": "premature ventricular complexes",
        "pac": "premature atrial complexes",
        "first_degree_av_block": "first degree AV block",
        "av_block_2_1": "2:1 AV block",
        "paced": "paced rhythm",
        **SCP_RHYTHMS,
    },
    "conduction": {
        "normal": NO_CONDUCTION,
        "lbbb": "left bundle branch block",
        "rbbb": "right bundle branch block",
        **SCP_CONDUCTION,
    },
    "axis": AXES,
    "hypertrophy": {"none": NO_HYPERTROPHY, "lvh": SCP_HYPERTROPHY["LVH"], **SCP_HYPERTROPHY},
    "st": {
        "none": "no ST change",
        **{f"elevation_{place}": f"{place} ST elevation" for place in _TERRITORIES},
        **{f"depression_{place}": f"{place} ST depression" for place in _TERRITORIES},
    },
    "twave": {
        "normal": "normal T waves",
        **{f"inversion_{place}": f"{place} T wave inversion" for place in _TERRITORIES},
    },
    "qt": {"normal": "normal QT interval", "long": "prolonged QT interval"},
    "cpsc": CPSC_CLASSES,
    "code15": CODE_15_CLASSES,
    "dx": dict(SNOMED.values()),
    # a comma divides the answers of a list
    "aha": {str(code): name.replace(",", "") for code, name in STATEMENTS.items()},
}
