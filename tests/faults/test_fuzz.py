"""Injured files by the hundred: each ends as a record, a reject or one clear line; never a trace, never a hang."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fuzz_records import write_good
from mutator import mutate

from ecglm.errors import EcglmError
from ecglm.records.folder import Folder
from ecglm.signals.pipeline import get_pipeline
from ecglm.store.prepare import prepare
from ecglm.store.reader import SegmentStore
from ecglm.store.verify import verify

HERE = Path(__file__).parent
#: Kind of file → how many injured copies of it are read.
KINDS = {
    **{"hea": 250, "dat": 100, "mat4-header": 100, "mat4": 150, "mat5": 150, "mat5-packed": 100, "h5": 200},
    **{"npy": 120, "npz": 100, "csv": 120},
}


@pytest.mark.parametrize("kind", KINDS)
def test_injured_recordings_end_as_records_or_rejects(kind):
    # In a process of its own: a crash of a C library is a failure here, not the end of the tests.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", str(HERE / "fuzz_records.py"), kind, str(KINDS[kind]), "0"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = json.loads(ran.stdout)
    assert sum(found.values()) == KINDS[kind] and len(found) >= 2, found


def test_a_thousand_and_more_are_read():
    assert sum(KINDS.values()) >= 1000


def test_a_folder_of_injured_files_becomes_a_sound_store(tmp_path):
    root, number = tmp_path / "in", 0
    for kind in ("dat", "mat4-header", "npy", "npz", "csv"):
        for seed in range(12):
            folder = root / f"{kind}-{seed}"
            folder.mkdir(parents=True)
            read, victim, text = write_good(kind, folder)
            if seed:  # one of each stays whole
                victim.write_bytes(mutate(victim.read_bytes(), np.random.default_rng(seed), text=text))
            number += read.exists()
    source = Folder(root=root, rate=100, leads="standard", units="mV")
    with np.errstate(all="ignore"):
        summary = prepare(
            source,
            get_pipeline("default", rate=100, seg_len=500),
            tmp_path / "store",
            max_reject=1.0,
            progress=False,
        )
    assert summary.num_keys == number == summary.num_records + summary.num_rejected
    assert sum(summary.reasons.values()) == summary.num_rejected > 10 and summary.num_records >= 5
    store = SegmentStore(tmp_path / "store")
    verify(store.path)
    everything = store[:]
    assert everything.shape == (len(store), 12, 500) and np.isfinite(everything).all()


@pytest.mark.parametrize("seed", range(40))
def test_an_injured_table_is_told_in_one_line_or_read(tmp_path, seed):
    """A user's ``metadata.csv``: its rows decide names, patients and splits."""
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(0).normal(0, 0.3, (12, 600)).astype(np.float32))
    table = (
        "file,patient_id,report,labels,split,fold,age,sex,rate\na.npy,7,one,x:y;z,train,3,61.0,F,100\nb.npy,8,,,,,,,\n"
    )
    injured = mutate(table.encode(), np.random.default_rng(seed), text=True)
    (tmp_path / "metadata.csv").write_bytes(injured)
    source = Folder(root=tmp_path, rate=100, leads="standard", units="mV")
    try:
        keys = source.keys()
        records = [source.read(key) for key in keys]
    except EcglmError as error:
        assert "\n" not in str(error)
        return
    assert keys == ["folder/a", "folder/b"] and all(r.signal.shape == (12, 600) for r in records)
