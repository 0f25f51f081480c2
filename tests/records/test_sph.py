"""SPH in its official layout, rebuilt here, and the ten real records; AHA codes from aha_codes.py."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import tarfile
import zipfile
from collections import Counter

import h5py
import numpy as np
import pytest

from ecglm import registry
from ecglm.errors import EcglmError, RejectedRecord, UnsafeInputError
from ecglm.records.aha_codes import MODIFIERS, STATEMENTS, code_name, parse_codes
from ecglm.records.sph import Sph
from ecglm.records.tables import read_table
from ecglm.signals.pipeline import preprocess
from ecglm.types import LEADS

COLUMNS = "ECG_ID,AHA_Code,Patient_ID,Age,Sex,N,Date"


def ecg(seed, num_samples=5000):
    return np.random.default_rng(seed).normal(0, 0.3, (12, num_samples)).astype(np.float16)


def save(path, values, key="ecg"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset(key, data=values, compression="gzip")


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "sph"
    save(root / "records" / "A00001.h5", ecg(1))
    save(root / "records" / "A00003.h5", ecg(3, 6500))
    rows = ["A00001,22;145+362;22,S00007,55,M,5000,2020-03-04", "A00002,1,S00002,32,F,6000,2019-09-03"]
    (root / "metadata.csv").write_text("\n".join([COLUMNS, *rows, "A00003,199,,,,6500,"]) + "\n")
    return root


def test_is_registered():
    assert registry.get("records", "sph") is Sph


def test_records(root):
    source = Sph(root=root)
    assert source.keys() == ["sph/A00001", "sph/A00003"]
    assert source.accounting() == {"no_metadata": [], "not_on_disk": ["sph/A00002"]}
    record = source.read("sph/A00001")
    np.testing.assert_array_equal(record.signal, ecg(1).astype(np.float32))
    assert (record.signal.dtype, record.sampling_rate, record.leads) == (np.float32, 500.0, LEADS)
    assert (record.record_id, record.patient_id, record.patient_known) == ("sph/A00001", "sph/S00007", True)
    assert record.labels == ("aha:22", "aha:145")
    assert (record.report, record.fold, record.split) == ("", None, "")
    assert record.metadata == {
        "notes": [],
        "age": 55,
        "sex": "male",
        "recorded": "2020-03-04",
        "aha": ["22", "145+362"],
        "aha_names": ["Sinus bradycardia", "ST deviation, depression"],
    }
    other = source.read("sph/A00003")
    assert other.signal.shape == (12, 6500)
    assert (other.patient_id, other.patient_known, other.labels) == ("sph/A00003", False, ("aha:199",))
    assert (other.metadata["age"], other.metadata["sex"], other.metadata["recorded"]) == (None, None, None)
    assert other.metadata["aha_names"] == ["199"]


@pytest.mark.parametrize("place", ["flat", "renamed", "tar", "zip"])
def test_the_same_in_every_layout(root, tmp_path, place):
    plain = Sph(root=root)
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(root / "metadata.csv", other)
    for file in sorted((root / "records").iterdir()):
        if place == "flat":
            shutil.copy(file, other)
        elif place == "renamed":
            shutil.copy(file, other / file.name.replace("A", "SPH"))
    if place == "tar":
        with tarfile.open(other / "records.tar", "w") as archive:
            archive.add(root / "records", "records")
    elif place == "zip":
        with zipfile.ZipFile(other / "records.zip", "w") as archive:
            for file in sorted((root / "records").iterdir()):
                archive.write(file, f"records/{file.name}")
    source = Sph(root=other)
    assert source.keys() == plain.keys()
    assert source.accounting() == plain.accounting()
    assert source.fingerprint() == plain.fingerprint()
    for key in plain.keys():
        np.testing.assert_array_equal(source.read(key).signal, plain.read(key).signal)


def test_a_file_without_a_row_and_a_record_in_two_files(root):
    save(root / "A00009.h5", ecg(9))
    (root / "records" / "notes.h5").write_bytes(b"")
    assert Sph(root=root).accounting() == {"no_metadata": ["sph/A00009"], "not_on_disk": ["sph/A00002"]}
    save(root / "SPH00003.h5", ecg(9))
    with pytest.raises(EcglmError, match=r"SPH00003\.h5 and records/A00003\.h5 are the same record; keep one"):
        Sph(root=root).keys()


def test_float16_overflow_is_missing_and_noted(root):
    values = ecg(1)
    with np.errstate(over="ignore"):
        values[1, 100] = np.float16(1e6)
    values[2, 7] = np.nan
    save(root / "records" / "A00001.h5", values)
    record = Sph(root=root).read("sph/A00001")
    assert np.argwhere(np.isnan(record.signal)).tolist() == [[1, 100], [2, 7]]
    assert record.metadata["notes"] == ["infinite_samples"]
    assert preprocess(record, seg_len=1250).shape == (2, 12, 1250)  # one sample is a gap short enough to fill


@pytest.mark.parametrize(
    "values, key, reason, words",
    [
        (ecg(1, 4999), "ecg", "signal_size_mismatch", r"4999 samples, metadata\.csv says 5000"),
        (ecg(1).T, "ecg", "shape_invalid", r"\(5000, 12\); floats \(12, samples\) are needed"),
        (ecg(1)[:11], "ecg", "shape_invalid", r"\(11, 5000\)"),
        (ecg(1)[None], "ecg", "shape_invalid", r"\(1, 12, 5000\)"),
        ((ecg(1) * 1000).astype(np.int16), "ecg", "shape_invalid", "int16"),
        (ecg(1), "signal", "signal_missing", r"has no dataset 'ecg'; it has: signal"),
        (np.zeros((12, 0), np.float16), "ecg", "empty", "no samples"),
        (np.ones((12, 5), complex), "ecg", "not_numeric", "complex"),
    ],
)
def test_rejects(root, values, key, reason, words):
    save(root / "records" / "A00001.h5", values, key) if values.size else None
    if not values.size:
        with h5py.File(root / "records" / "A00001.h5", "w") as file:
            file["ecg"] = values
    with pytest.raises(RejectedRecord, match=rf"A00001\.h5: .*{words}") as error:
        Sph(root=root).read("sph/A00001")
    assert error.value.reason == reason


def test_damaged_files(root):
    file = root / "records" / "A00001.h5"
    whole, rng = file.read_bytes(), np.random.default_rng(2)
    for content, reason in ((b"", "empty"), (whole[:3000], "signal_truncated"), (b"no" * 99, "file_corrupt")):
        file.write_bytes(content)
        with pytest.raises(RejectedRecord, match=r"A00001\.h5") as error:
            Sph(root=root).read("sph/A00001")
        assert error.value.reason == reason
    for _ in range(40):
        data = bytearray(whole)
        for _ in range(3):
            data[rng.integers(0, len(data))] ^= 1 << rng.integers(0, 8)
        file.write_bytes(data)
        try:
            assert Sph(root=root).read("sph/A00001").signal.shape == (12, 5000)
        except RejectedRecord as error:
            assert "A00001.h5" in str(error)
    file.unlink()
    with h5py.File(file, "w") as hostile:
        hostile["ecg"] = h5py.ExternalLink("A00003.h5", "/ecg")
    with pytest.raises(UnsafeInputError, match="leads to another file"):
        Sph(root=root).read("sph/A00001")


def test_hostile_archives_are_refused(root):
    shutil.rmtree(root / "records")
    with tarfile.open(root / "records.tar", "w") as archive:
        info = tarfile.TarInfo("../A00001.h5")
        archive.addfile(info, io.BytesIO())
    with pytest.raises(UnsafeInputError):
        Sph(root=root).keys()


@pytest.mark.parametrize(
    "row, words",
    [
        ("A00001,22;x,S1,55,M,5000,", "'x' is no AHA code"),
        ("A00001,,S1,55,M,5000,", "'' is no AHA code"),
        ("A00001,22+23,S1,55,M,5000,", r"'22\+23' has 2 statements; one is needed"),
        ("A00001,362,S1,55,M,5000,", "'362' has 0 statements"),
        ("A00001,22,S1,old,M,5000,", "old"),
        ("A00001,22,S1,55,M,many,", "many"),
    ],
)
def test_a_bad_cell_rejects_that_record_only(root, row, words):
    (root / "metadata.csv").write_text(f"{COLUMNS}\n{row}\nA00003,1,S2,1,F,6500,\n")
    assert Sph(root=root).read("sph/A00003").labels == ("aha:1",)
    with pytest.raises(RejectedRecord, match=rf"metadata_invalid: .*metadata\.csv, ECG_ID A00001: .*{words}"):
        Sph(root=root).read("sph/A00001")


def test_errors_of_the_table_and_the_folder(root, tmp_path):
    with pytest.raises(EcglmError, match=r"metadata\.csv: no row or no file for sph/A00002; keys look like"):
        Sph(root=root).read("sph/A00002")
    with pytest.raises(EcglmError, match=r"nowhere: no such folder; --root must hold"):
        Sph(root=tmp_path / "nowhere").keys()
    for text, message in (
        (f"{COLUMNS}\nA1,1,S1,1,F,10,\n", "ECG_ID 'A1' is not like A00001"),
        (f"{COLUMNS}\nA00001,1,S1,1,F,10,\nA00001,1,S1,1,F,10,\n", "ECG_ID 'A00001' stands twice"),
        (COLUMNS.replace(",N,", ",M,") + "\n", "column 'N' is missing"),
        (f"{COLUMNS}\n", "has no rows"),
    ):
        (root / "metadata.csv").write_text(text)
        with pytest.raises(EcglmError, match=rf"metadata\.csv.*{message}"):
            Sph(root=root).keys()
    (root / "metadata.csv").unlink()
    with pytest.raises(EcglmError, match=r"metadata\.csv: no such file; --root must hold"):
        Sph(root=root).keys()


def test_a_worker_gets_the_folder_only(root):
    source = Sph(root=root)
    source.keys()
    copy = pickle.loads(pickle.dumps(source))
    assert copy == source
    assert copy is pickle.loads(pickle.dumps(source))
    json.dumps(source.fingerprint())


def test_codes():
    assert parse_codes("22;145+362; 22 ;308+60") == [(22, ()), (145, (362,)), (60, (308,))]
    assert code_name(60, (310, 341)) == "Ventricular premature complex(es), frequent, in a bigeminal pattern"
    assert code_name(600, (499,)) == "600, 499"
    assert not STATEMENTS.keys() & MODIFIERS.keys()


@pytest.mark.realdata
def test_real_records(shared):
    source = Sph(root=shared / "sph")
    assert source.keys() == [f"sph/A{number:05d}" for number in range(1, 11)]
    assert len(source.accounting()["not_on_disk"]) == 25_770 - 10
    for key in source.keys():
        record = source.read(key)
        with h5py.File(shared / "sph" / f"SPH{key[-5:]}.h5") as file:
            np.testing.assert_array_equal(record.signal, file["ecg"][()].astype(np.float32))
        assert record.patient_known
        assert record.metadata["notes"] == []
        one, two, three, avr, avl, avf = record.signal[:6]
        for residual in (two - one - three, avr + (one + two) / 2, avl - one + two / 2, avf - two + one / 2):
            assert np.median(np.abs(residual)) < 0.002


@pytest.mark.realdata
def test_every_real_code_has_a_name(shared):
    codes: Counter[int] = Counter()
    modifiers: set[int] = set()
    for row in read_table(shared / "sph" / "metadata.csv", (), "ECG_ID", mend=""):
        for statement, more in parse_codes(row["AHA_Code"]):
            codes[statement] += 1
            modifiers.update(more)
    assert len(codes) == 44
    assert set(codes) <= STATEMENTS.keys()
    assert modifiers == MODIFIERS.keys()
    assert codes.most_common(1)[0][0] == 1
