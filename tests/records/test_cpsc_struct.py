from __future__ import annotations

import numpy as np
import pytest
import scipy.io

from ecglm.errors import EcglmError, RejectedRecord
from ecglm.records.cpsc_struct import CLASSES, read_cpsc_struct, read_reference
from ecglm.records.tree import open_tree
from ecglm.types import LEADS


def ecg(num_samples=300):
    return np.random.default_rng(0).normal(0, 0.3, (12, num_samples))


def save(folder, **fields):
    scipy.io.savemat(folder / "A0001.mat", {"ECG": {"sex": "Male", "age": 74, "data": ecg(), **fields}})
    return open_tree(folder)


def test_a_record(tmp_path):
    (tmp_path / "x.txt").write_text("")
    record = read_cpsc_struct(save(tmp_path), "A0001.mat", "cpsc2018/A0001")
    np.testing.assert_array_equal(record.signal, ecg().astype(np.float32))
    assert (record.signal.dtype, record.sampling_rate, record.leads) == (np.float32, 500.0, LEADS)
    assert (record.record_id, record.patient_id, record.patient_known) == ("cpsc2018/A0001", "cpsc2018/A0001", False)
    assert record.metadata == {"notes": [], "age": 74, "sex": "male"}


@pytest.mark.parametrize(
    "fields, age, sex",
    [
        ({"age": np.nan, "sex": "Female"}, None, "female"),
        ({"age": 61.5, "sex": "?"}, 61.5, None),
        ({"age": "old", "sex": 1}, None, None),
        ({"age": [1, 2], "sex": ""}, None, None),
        ({"age": -1.0, "sex": "F"}, None, "female"),
    ],
)
def test_odd_facts_are_unknown(tmp_path, fields, age, sex):
    metadata = read_cpsc_struct(save(tmp_path, **fields), "A0001.mat", "x").metadata
    assert (metadata["age"], metadata["sex"]) == (age, sex)


def test_missing_samples_and_wrong_units(tmp_path):
    data = ecg()
    data[2, 5], data[3, 7] = np.nan, np.inf
    record = read_cpsc_struct(save(tmp_path, data=data), "A0001.mat", "x")
    assert np.argwhere(np.isnan(record.signal)).tolist() == [[2, 5], [3, 7]]
    assert record.metadata["notes"] == ["infinite_samples"]
    assert read_cpsc_struct(save(tmp_path, data=ecg() * 1000), "A0001.mat", "x").metadata["notes"] == [
        "amplitude_implausible"
    ]


@pytest.mark.parametrize(
    "data, reason", [(np.ones((300, 12)), "shape_invalid"), (np.zeros((12, 0)), "empty"), ("text", "signal_missing")]
)
def test_rejects(tmp_path, data, reason):
    with pytest.raises(RejectedRecord, match=r"A0001\.mat") as error:
        read_cpsc_struct(save(tmp_path, data=data), "A0001.mat", "x")
    assert error.value.reason == reason


def test_files_that_are_something_else(tmp_path):
    tree = save(tmp_path)
    scipy.io.savemat(tmp_path / "B.mat", {"val": ecg()})
    (tmp_path / "C.mat").write_bytes(b"")
    for name, reason in (("B.mat", "signal_missing"), ("C.mat", "empty"), ("D.mat", "signal_missing")):
        with pytest.raises(RejectedRecord, match=name) as error:
            read_cpsc_struct(tree, name, "x")
        assert error.value.reason == reason


def table(folder, text, name="REFERENCE.csv"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return open_tree(folder)


OFFICIAL = "Recording,First_label,Second_label,Third_label\n"


def test_the_official_table(tmp_path):
    (tmp_path / "other.txt").write_text("")
    tree = table(tmp_path, b"\xef\xbb\xbf" + f"{OFFICIAL}A0001,5,,\r\nA0043,5,2,\nA0003,2,9,8\nA0004,1,1,\n".encode())
    assert read_reference(tree) == {"A0001": (5,), "A0043": (5, 2), "A0003": (2, 9, 8), "A0004": (1,)}
    assert CLASSES[5 - 1] == "RBBB"


def test_leftover_row_numbers_and_a_second_table(tmp_path):
    text = ",Unnamed: 0,Recording,First_label,Second_label,Third_label,reports\n0,0,A0001,5,2.0,,a\n1,1,A0002,1.0,,,b\n"
    tree = table(tmp_path, text, "TrainingSet_REFERENCE_x.csv")
    table(tmp_path, f"{OFFICIAL}A0001,5,2,\n", "ValidationSet_REFERENCE.csv")
    assert read_reference(open_tree(tmp_path)) == {"A0001": (5, 2), "A0002": (1,)}
    table(tmp_path, f"{OFFICIAL}A0001,4,,\n", "ValidationSet_REFERENCE.csv")
    with pytest.raises(EcglmError, match=r"ValidationSet_REFERENCE\.csv, line 2: A0001 has other labels"):
        read_reference(open_tree(tmp_path))
    del tree


def test_no_table(tmp_path):
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "b.txt").write_text("")
    assert read_reference(open_tree(tmp_path)) == {}


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "Recording,First\nA0001,5\n",
            r"REFERENCE\.csv: one column 'First_label' is needed \(did you mean 'First'\?\)",
        ),
        (f"{OFFICIAL}A0001,10,,\n", "line 2, A0001: label 10 is no number from 1 to 9"),
        (f"{OFFICIAL}A0001,AF,,\n", "line 2, A0001: label 'AF' is no number"),
        (f"{OFFICIAL}A0001,5\n", "line 2: 2 cells, 4 columns"),
        (f"{OFFICIAL}A0001,5,,\nA0001,4,,\n", "line 3: A0001 stands twice"),
        (f'{OFFICIAL}"A0001,5,,\n', "REFERENCE.csv, line 2"),
    ],
)
def test_damaged_tables(tmp_path, text, message):
    (tmp_path / "b.txt").write_text("")
    with pytest.raises(EcglmError, match=message):
        read_reference(table(tmp_path, text))


@pytest.mark.realdata
def test_real_records_and_labels(shared):
    tree = open_tree(shared / "cpsc2018")
    reference = read_reference(tree)
    assert len(reference) == 6877
    lengths = []
    for number in range(1980, 1990):
        record = read_cpsc_struct(tree, f"A{number}.mat", f"cpsc2018/A{number}")
        truth = scipy.io.loadmat(shared / "cpsc2018" / f"A{number}.mat")["ECG"][0, 0]
        np.testing.assert_array_equal(record.signal, truth["data"].astype(np.float32))
        assert record.metadata["age"] == int(truth["age"][0, 0])
        one, two, three = record.signal[:3]
        assert np.median(np.abs(two - one - three)) < 0.003
        lengths.append(record.signal.shape[1])
        assert reference[f"A{number}"]
    assert (min(lengths), max(lengths)) == (5000, 27157)
