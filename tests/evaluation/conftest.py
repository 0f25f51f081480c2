"""Rows of predictions for the tests of this room."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

RHYTHMS = ["sinus rhythm", "atrial fibrillation", "paced rhythm", "sinus tachycardia"]


def _row(reference: str, prediction: str | None, question_type: str = "choice", **fields: Any) -> dict[str, Any]:
    metadata = {"question_type": question_type, "choices": fields.pop("choices", []), **fields.pop("metadata", {})}
    return {
        "id": "r0",
        "ecgs": ["synthetic/1"],
        "task": "rhythm",
        "turn": 0,
        "prompt": "<ecg>\nWhat is the rhythm?",
        "reference": reference,
        "prediction": prediction,
        "control": "real",
        "seed": 0,
        "patient_id": "synthetic/p1",
        "metadata": metadata,
        **fields,
    }


@pytest.fixture
def make_row() -> Callable[..., dict[str, Any]]:
    """``make_row(reference, prediction, question_type, **fields)`` → a row of predictions.jsonl."""
    return _row


@pytest.fixture
def make_run() -> Callable[..., list[dict[str, Any]]]:
    """``make_run(num_patients, skill, controls, seed)``: rows of a model that knows the rhythm with probability skill.

    Two ECGs a patient; under every control it answers "sinus rhythm".
    """

    def make(
        num_patients: int = 40,
        skill: float = 0.9,
        controls: tuple[str, ...] = ("real", "blank", "noise", "swap"),
        seed: int = 0,
    ) -> list[dict[str, Any]]:
        generator = np.random.default_rng(seed)
        rows = []
        for number in range(num_patients):
            for ecg in range(2):
                truth = RHYTHMS[generator.choice(4, p=[0.4, 0.2, 0.2, 0.2])]
                knows = generator.random() < skill
                rows += [
                    _row(
                        truth,
                        truth if control == "real" and knows else RHYTHMS[0],
                        id=f"synthetic/{number}-{ecg}/rhythm",
                        ecgs=[f"synthetic/{number}-{ecg}"],
                        control=control,
                        patient_id=f"synthetic/p{number}",
                        choices=RHYTHMS,
                    )
                    for control in controls
                ]
        return rows

    return make
