"""AHA/ACC/HRS statement codes (Mason et al. 2007, Circulation 115:1325) → names, as far as SPH uses such codes."""

from __future__ import annotations

import re

#: Primary statements.
STATEMENTS: dict[int, str] = {
    1: "Normal ECG",
    2: "Otherwise normal ECG",
    3: "Abnormal ECG",
    20: "Sinus rhythm",
    21: "Sinus tachycardia",
    22: "Sinus bradycardia",
    23: "Sinus arrhythmia",
    30: "Atrial premature complex(es)",
    31: "Atrial premature complexes, nonconducted",
    36: "Junctional premature complex(es)",
    37: "Junctional escape complex(es)",
    50: "Atrial fibrillation",
    51: "Atrial flutter",
    54: "Junctional tachycardia",
    60: "Ventricular premature complex(es)",
    80: "Short PR interval",
    81: "AV conduction ratio N:D",
    82: "Prolonged PR interval",
    83: "Second-degree AV block, Mobitz type I (Wenckebach)",
    84: "Second-degree AV block, Mobitz type II",
    85: "2:1 AV block",
    86: "AV block, varying conduction",
    87: "AV block, advanced (high-grade)",
    88: "AV block, complete (third-degree)",
    101: "Left anterior fascicular block",
    102: "Left posterior fascicular block",
    104: "Left bundle-branch block",
    105: "Incomplete right bundle-branch block",
    106: "Right bundle-branch block",
    108: "Ventricular preexcitation",
    120: "Right-axis deviation",
    121: "Left-axis deviation",
    125: "Low voltage",
    140: "Left atrial enlargement",
    142: "Left ventricular hypertrophy",
    143: "Right ventricular hypertrophy",
    145: "ST deviation",
    146: "ST deviation with T-wave change",
    147: "T-wave abnormality",
    148: "Prolonged QT interval",
    152: "TU fusion",
    153: "ST-T change due to ventricular hypertrophy",
    155: "Early repolarization",
    160: "Anterior MI",
    161: "Inferior MI",
    165: "Anteroseptal MI",
    166: "Extensive anterior MI",
}

#: Modifiers, which stand behind a statement (``145+362``).
MODIFIERS: dict[int, str] = {
    308: "occasional",
    310: "frequent",
    330: "acute",
    331: "recent",
    332: "old",
    340: "couplets",
    341: "in a bigeminal pattern",
    342: "in a trigeminal pattern",
    346: "with a rapid ventricular response",
    347: "with a slow ventricular response",
    349: "with aberrancy",
    350: "polymorphic",
    362: "depression",
    363: "elevation",
    367: "inversion",
}

_CODE = re.compile(r"\d{1,3}(?:\+\d{1,3}){0,4}", re.ASCII)


def parse_codes(text: str) -> list[tuple[int, tuple[int, ...]]]:
    """``"22;145+362"`` → statements with their modifiers, each once, in order. ValueError for anything else.

    A code from 200 to 499 is a modifier, all others are statements; each part has exactly one statement.
    """
    result = []
    for part in text.split(";"):
        part = part.strip()
        if not _CODE.fullmatch(part):
            raise ValueError(f"'{part[:40]}' is no AHA code")
        codes = [int(code) for code in part.split("+")]
        statements = [code for code in codes if not 200 <= code < 500]
        if len(statements) != 1:
            raise ValueError(f"'{part}' has {len(statements)} statements; one is needed")
        found = statements[0], tuple(code for code in codes if code != statements[0])
        if found not in result:
            result.append(found)
    return result


def code_name(statement: int, modifiers: tuple[int, ...] = ()) -> str:
    """``ST deviation, depression`` for 145+362; an unknown code is its own name."""
    names = [STATEMENTS.get(statement, str(statement)), *(MODIFIERS.get(m, str(m)) for m in modifiers)]
    return ", ".join(names)
