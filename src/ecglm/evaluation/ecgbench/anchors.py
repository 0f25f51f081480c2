"""Published figures of ECGBench to hold one's own against: quoted, not recomputed."""

from __future__ import annotations

#: Where they are quoted from, and how they were counted.
SOURCE = (
    "Quoted from arXiv 2410.19008, tables 3 to 6, x 100. They were counted by the original scorer: hold them against "
    "the column pulse, not against strict. Reports and arena were judged by GPT-4o."
)
#: Subset → the figures that stand in a cell, in order.
COLUMNS: dict[str, str] = {
    "ptb-test": "AUC / F1 / HL",
    "ptb-test-report": "report",
    "code15-test": "AUC / F1 / HL",
    "ecgqa-test": "accuracy",
    "cpsc-test": "AUC / F1 / HL",
    "csn-test-no-cot": "accuracy",
    "g12-test-no-cot": "accuracy",
    "mmmu-ecg": "accuracy",
    "arena": "arena",
}
_ROWS = """
Random | 50.3/33.2/50.1 | 0 | 48.8/15.0/32.1 | 16.2 | 51.2/15.1/28.8 | 11.6 | 12.1 | 24.2 | 0
GPT-4o | 55.6/28.3/26.2 | 50.2 | 59.9/24.9/15.7 | 35.2 | 50.9/10.6/18.2 | 57.5 | 49.2 | 43.5 | 33.5
Gemini 1.5 Pro | 50.7/15.3/27.9 | 35.9 | 56.7/20.0/15.9 | 33.2 | 50.1/7.4/20.5 | 50.5 | 36.0 | 40.0 | 31.2
Claude 3.5 Sonnet | 54.0/27.5/29.6 | 43.7 | 58.3/20.3/17.8 | 34.2 | 52.8/11.5/18.9 | 51.5 | 51.4 | 42.0 | 37.1
LLaVA-1.6-Vicuna-7B | 50.0/15.8/29.4 | 16.5 | 50.1/1.0/13.6 | 13.3 | 50.5/19.7/66.0 | 23.7 | 23.3 | 28.0 | 16.0
Qwen2-VL-7B | 51.3/22.4/30.8 | 43.0 | 60.7/24.8/20.5 | 20.4 | 49.4/17.5/46.3 | 25.5 | 32.9 | 31.5 | 8.5
PULSE-7B | 82.4/74.8/11.0 | 61.3 | 90.7/85.4/5.0 | 73.8 | 76.9/57.6/8.6 | 85.2 | 78.2 | 58.0 | 38.9
"""


def _table() -> dict[str, dict[str, tuple[float, ...]]]:
    found = {}
    for line in _ROWS.strip().splitlines():
        name, *cells = (cell.strip() for cell in line.split("|"))
        figures = (tuple(float(number) for number in cell.split("/")) for cell in cells)
        found[name] = dict(zip(COLUMNS, figures, strict=True))
    return found


#: Model → subset → its published figures, x 100.
PUBLISHED: dict[str, dict[str, tuple[float, ...]]] = _table()
