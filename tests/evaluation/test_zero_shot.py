"""Zero-shot: the nearest prompt wins, prompts are words, and nothing is scored without being defined."""

from __future__ import annotations

import csv

import numpy as np
import pyarrow as pa
import pytest
import torch

from ecglm.errors import ConfigError
from ecglm.evaluation.labelled import Labelled
from ecglm.evaluation.zero_shot import PROMPTS, prompt_of, report_retrieval, retrieval_lines, table, zero_shot
from ecglm.types import EcgInput

WORDS = {"a": "alpha wave", "b": "beta wave"}


class Towers(torch.nn.Module):
    """A text is a direction, and so is an ECG."""

    def __init__(self, sign: float = 1.0) -> None:
        super().__init__()
        self.sign = torch.nn.Parameter(torch.tensor(sign))

    def embed_ecg(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, 0] * self.sign

    def embed_text(self, texts: list[str]) -> torch.Tensor:
        return torch.tensor([[1.0, 0.0] if t.startswith("alpha") else [0.0, 1.0] for t in texts])


class Ecgs:
    def __init__(self, labelled: Labelled) -> None:
        self.told = {
            r: np.array([["g:a" in own], ["g:b" in own]], np.float32)
            for r, own in zip(labelled.records, labelled.labels, strict=True)
        }

    def encode(self, record: str) -> EcgInput:
        return EcgInput(np.zeros(1, np.int64), self.told[record])


def made() -> Labelled:
    labels = [frozenset({f"g:{'ab'[i % 2]}"}) for i in range(12)]
    labels[11] = frozenset({"h:x"})
    return Labelled(
        tuple(f"r{i}" for i in range(12)),
        tuple(f"p{i}" for i in range(12)),
        tuple(["train"] * 4 + ["test"] * 8),
        tuple(labels),
    )


def run(**options):
    labelled = made()
    given = {"groups": ["g"], "prompts": {"g": WORDS}, "num_resamples": 20, "say": lambda t: None, **options}
    return zero_shot({"encoder": Towers(), "random": Towers(0.0)}, Ecgs(labelled), labelled, **given)  # type: ignore[arg-type]


def test_the_nearest_prompt_wins_on_test_records_of_the_group_alone():
    row = run()[0]
    assert row.num_test == 7  # eight test records, one of them without a label of the group
    assert row.systems["encoder"].macro.value == 1.0
    assert row.systems["random"].macro.value == 0.5
    assert row.systems["encoder"].difference.value == 0.5
    assert row.prompts == WORDS
    lines = table([row])
    assert "2 of 2" in lines[2] and "1.000" in lines[2] and "+0.500" in lines[2]


def test_a_group_without_both_kinds_is_undefined_and_listed():
    row = run(groups=["h"], prompts=None)[0]
    assert row.systems["encoder"].macro.value is None
    assert row.systems["encoder"].undefined == {"x": "no negative row"}
    assert row.as_dict()["systems"]["encoder"]["undefined"] == {"x": "no negative row"}


def test_prompts_of_classes_that_are_not_there_are_refused():
    with pytest.raises(ConfigError, match="no class 'c' in the group 'g'"):
        run(prompts={"g": {"c": "gamma"}})


def test_prompts_of_a_group_that_is_not_there_are_refused():
    with pytest.raises(ConfigError, match="no label group 'i' in these records"):
        run(prompts={"i": WORDS})
    assert run(prompts={"h": {"x": "gamma wave"}})[0].group == "g"  # of a group that is not asked for


def test_what_a_class_is_asked_by():
    assert prompt_of("rhythm", "AFIB") == "atrial fibrillation"
    assert prompt_of("superclass", "CD") == "conduction disturbance"
    assert prompt_of("rhythm", "sinus_bradycardia") == "sinus bradycardia"
    assert prompt_of("subclass", "LAFB/LPFB") == "left anterior or left posterior fascicular block"
    assert prompt_of("quality", "mains_hum") == "mains hum"
    assert prompt_of("g", "a", {"g": {"a": "My Words"}}) == "my words"


def test_reports_of_test_records_are_looked_for():
    """Towers that know every report find it at once; those that know nothing find none, for ties count against."""
    labelled = made()
    ecgs = Ecgs(labelled)
    texts = {r: ("alpha" if "g:a" in own else "beta") for r, own in zip(labelled.records, labelled.labels, strict=True)}
    texts["r11"] = ""
    columns = {"record_id": list(texts), "report_en": list(texts.values())}
    store = type("Store", (), {"index": pa.table(columns)})()
    ecgs.stores = [store]
    found = report_retrieval({"encoder": Towers(), "random": Towers(0.0)}, ecgs, labelled, batch_size=3)  # type: ignore[arg-type]
    assert found["encoder"]["num_ecgs"] == 7 and found["encoder"]["num_texts"] == 2
    assert found["encoder"]["ecg_to_text@1"] == found["encoder"]["text_to_ecg@1"] == 1
    assert found["random"]["ecg_to_text@1"] == 0
    lines = retrieval_lines(found)
    assert lines[0] == "| 7 ECGs, 2 reports | encoder | random | chance |"
    assert "| ecg to text@1 | 1.000 | 0.000 | 0.500 |" in lines


@pytest.mark.realdata
def test_every_class_of_ptb_xl_has_words(ptb_xl):
    """Superclass, subclass, form and rhythm: no code is ever a prompt."""
    with open(ptb_xl / "scp_statements.csv", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    code = next(iter(rows[0]))
    wanted = {("superclass", r["diagnostic_class"]) for r in rows} | {
        ("subclass", r["diagnostic_subclass"]) for r in rows
    }
    wanted |= {("form", r[code]) for r in rows if r["form"]} | {("rhythm", r[code]) for r in rows if r["rhythm"]}
    wanted = {(group, name) for group, name in wanted if name}
    assert [len([n for g, n in wanted if g == group]) for group in ("superclass", "subclass", "form", "rhythm")] == [
        5,
        23,
        19,
        12,
    ]
    assert [pair for pair in sorted(wanted) if prompt_of(*pair) == pair[1].replace("_", " ").strip().lower()] == []
    assert set(PROMPTS["form"]) == {n for g, n in wanted if g == "form"}
