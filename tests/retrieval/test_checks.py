"""A manifest that lacks something, or was changed, is one clear line and never a trace."""

from __future__ import annotations

import json
import shutil

import pytest

from ecglm.errors import ConfigError, TornOutputError
from ecglm.retrieval.checks import check_manifest, check_together
from ecglm.retrieval.index import Index


@pytest.mark.parametrize("lost", ["counts", "dim", "inputs", "left_out", "rejected", "settings", "sizes", "stores"])
@pytest.mark.parametrize("wrong", [None, "x"])
def test_a_manifest_without_a_fact_is_told(tmp_path, people_index, lost, wrong):
    shutil.copytree(people_index.path, tmp_path / "index")
    file = tmp_path / "index" / "manifest.json"
    manifest = json.loads(file.read_text())
    if wrong is None:
        del manifest[lost]
    else:
        manifest[lost] = wrong
    file.write_text(json.dumps(manifest))
    with pytest.raises(
        TornOutputError, match=f"says no {lost}; copy the index again, whole, or build it again"
    ) as told:
        Index.load(tmp_path / "index")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(("name", "value"), [("rate", 500), ("by", "both"), ("pipeline", {}), ("segments", "all")])
def test_changed_settings_are_told(people_index, name, value):
    changed = people_index.manifest | {"settings": people_index.manifest["settings"] | {name: value}}
    with pytest.raises(TornOutputError, match="not those the index was built with"):
        check_manifest(people_index.path, changed)
    check_manifest(people_index.path, people_index.manifest)


def test_another_format_is_told_as_such(people_index):
    changed = people_index.manifest | {"settings": people_index.manifest["settings"] | {"format": 0}}
    with pytest.raises(ConfigError, match="index format 0, this ecglm reads 1"):
        check_manifest(people_index.path, changed)


def test_counts_without_a_number_are_told(people_index):
    arrays = dict.fromkeys(("content", "factor", "mean", "patient", "record", "sketch"), people_index.vectors)
    with pytest.raises(TornOutputError, match="is needed; copy the index again"):
        check_together(
            people_index.path,
            people_index.manifest | {"counts": {}},
            arrays | {"vectors": people_index.vectors},
            people_index.table,
        )
