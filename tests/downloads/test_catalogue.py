from __future__ import annotations

import re

import pytest

from ecglm.downloads.catalogue import DATASETS, dataset
from ecglm.errors import ConfigError


@pytest.mark.parametrize("name", DATASETS)
def test_every_entry_says_what_a_user_must_know(name):
    entry = dataset(name)
    assert entry.name == name
    assert entry.home.startswith("https://")
    assert entry.licence and entry.size and entry.used_by and len(entry.title) > 10
    assert (entry.place is None) == bool(entry.steps)


def test_all_that_the_specification_names_is_there():
    sources = {"ptb-xl", "mimic-iv-ecg", "code15", "cpsc", "georgia", "ptb", "csn", "sph"}
    corpora = {"ecg-qa", "pretrain-mimic", "ecg-instruct-45k", "ecg-instruct-pulse", "ecgbench", "ecg-grounding"}
    assert set(DATASETS) == sources | corpora | {"ecg-expert-qa", "ecg-reasoning", "mimic-iv"}


def test_homes_and_versions():
    assert {n: (d.place.project, d.place.version) for n, d in DATASETS.items() if hasattr(d.place, "project")} == {
        "ptb-xl": ("ptb-xl", "1.0.3"),
        "mimic-iv-ecg": ("mimic-iv-ecg", "1.0"),
        "cpsc": ("challenge-2020", "1.0.2"),
        "georgia": ("challenge-2020", "1.0.2"),
        "ptb": ("challenge-2020", "1.0.2"),
        "csn": ("ecg-arrhythmia", "1.0.0"),
    }
    assert DATASETS["code15"].place.record == 4916206
    assert DATASETS["sph"].place.collection == 5779802
    assert all(
        re.fullmatch(r"[0-9a-f]{12,40}", d.place.revision) for d in DATASETS.values() if hasattr(d.place, "revision")
    )


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ConfigError, match=r"no dataset 'ptbxl' \(did you mean 'ptb-xl'\?\); known: ptb-xl, "):
        dataset("ptbxl")
