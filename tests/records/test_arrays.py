from __future__ import annotations

import io
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecglm.errors import EcglmError, RejectedRecord, UnsafeInputError
from ecglm.records.arrays import read_csv, read_npy, read_npz, to_signal


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2", "<i2", ">i4", "u1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_as_numpy_reads_it(tmp_path, dtype, order):
    values = np.asarray(np.arange(60).reshape(12, 5), dtype=dtype, order=order)
    np.save(tmp_path / "x.npy", values)
    found = read_npy(tmp_path / "x.npy")
    assert found.values.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found.values, np.load(tmp_path / "x.npy", allow_pickle=False))
    assert (found.leads, found.rate, found.units) == (None, None, None)


def test_object_dtype_is_refused(tmp_path):
    with open(tmp_path / "x.npy", "wb") as handle:
        np.lib.format.write_array_header_1_0(handle, {"descr": "|O", "fortran_order": False, "shape": (12, 5)})
        handle.write(b"\x80\x04cos\nsystem\n")
    with pytest.raises(UnsafeInputError, match="Python objects"):
        read_npy(tmp_path / "x.npy")


@pytest.mark.parametrize("content", [b"\x80\x04\x95(cos\nsystem\n(S'true'\ntR.", b"hello", b"\x93NUMPY\x01\x00"])
def test_other_content_is_refused(tmp_path, content):
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(UnsafeInputError, match="not a plain NumPy array"):
        read_npy(tmp_path / "x.npy")


@pytest.mark.parametrize("shape", [(12, 10**12), (2**40, 2**40), (-12, 5), (-12, -5), (12, 6)])
def test_shapes_larger_than_the_file_are_refused_before_allocation(tmp_path, shape):
    with open(tmp_path / "x.npy", "wb") as handle:
        np.lib.format.write_array_header_1_0(handle, {"descr": "<f4", "fortran_order": False, "shape": shape})
        handle.write(bytes(12 * 5 * 4))
    tracemalloc.start()
    try:
        with pytest.raises(UnsafeInputError, match="declares shape"):
            read_npy(tmp_path / "x.npy")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("values", [np.zeros((12, 5), complex), np.zeros(5, [("a", "f4")]), np.zeros((12, 5), bool)])
def test_other_types_are_no_signal(tmp_path, values):
    np.save(tmp_path / "x.npy", values)
    with pytest.raises(RejectedRecord) as error:
        read_npy(tmp_path / "x.npy")
    assert error.value.reason == "not_numeric"


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_to_a_npy_is_read_or_told(tmp_path, data):
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((3, 4), np.float32))
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, 127))
        content[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    (tmp_path / "x.npy").write_bytes(bytes(content))
    try:
        read_npy(tmp_path / "x.npy")
    except EcglmError as error:
        assert "x.npy" in str(error)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_with_all_facts(tmp_path, save):
    values = np.random.default_rng(0).normal(size=(2, 300))
    save(tmp_path / "x.npz", signal=values, other=np.ones(3), rate=500, leads=["I", "II"], units="uV")
    found = read_npz(tmp_path / "x.npz")
    np.testing.assert_array_equal(found.values, values)
    assert (found.leads, found.rate, found.units) == (("I", "II"), 500.0, "uV")


def test_npz_with_one_array_of_any_name(tmp_path):
    np.savez(tmp_path / "x.npz", ecg=np.ones((12, 7)))
    assert read_npz(tmp_path / "x.npz").values.shape == (12, 7)
    np.savez(tmp_path / "x.npz", ecg=np.ones((12, 7)), other=np.ones(3))
    with pytest.raises(RejectedRecord, match=r"signal_missing: .*one called 'signal'"):
        read_npz(tmp_path / "x.npz")


def test_npz_damage(tmp_path):
    path = tmp_path / "x.npz"
    path.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(RejectedRecord, match="file_corrupt"):
        read_npz(path)
    np.savez_compressed(path, signal=np.random.default_rng(0).normal(size=(12, 500)))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(RejectedRecord, match="file_corrupt"):
        read_npz(path)
    np.savez(path, signal=np.ones((12, 7)), rate=np.array([1, 2]))
    with pytest.raises(RejectedRecord, match="'rate' must hold one value"):
        read_npz(path)


def test_npz_bombs_and_objects_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("signal.npy", "w") as handle:
        shape = (12, 2_000_000)
        np.lib.format.write_array_header_1_0(handle, {"descr": "|i1", "fortran_order": False, "shape": shape})
        for _ in range(24):
            handle.write(bytes(1_000_000))
    with pytest.raises(UnsafeInputError, match="grows from"):
        read_npz(path)
    with zipfile.ZipFile(path, "w") as archive, archive.open("signal.npy", "w") as handle:
        np.lib.format.write_array_header_1_0(handle, {"descr": "|O", "fortran_order": False, "shape": (1,)})
    with pytest.raises(UnsafeInputError, match="Python objects"):
        read_npz(path)


def csv_file(tmp_path, text):
    path = tmp_path / "x.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("time", ["", "time", "T", "s", "ms"])
def test_csv_with_names(tmp_path, delimiter, newline, time):
    names = [*([time] if time else []), "I", '"v1"']
    rows = [[*(["0.002"] if time else []), "0.5", "-1e-1"], [*(["0.004"] if time else []), "", "2"]]
    text = "".join(delimiter.join(row) + newline for row in [names, *rows])
    found = read_csv(csv_file(tmp_path, b"\xef\xbb\xbf" + text.encode()))
    assert found.leads == ("I", "v1")
    assert found.lead_axis == 1
    np.testing.assert_array_equal(found.values, [[0.5, -0.1], [np.nan, 2.0]])


def test_csv_without_names(tmp_path):
    found = read_csv(csv_file(tmp_path, "1,,3\n4,5,6\n\n"))
    assert found.leads is None
    np.testing.assert_array_equal(found.values, [[1, np.nan, 3], [4, 5, 6]])
    assert read_csv(csv_file(tmp_path, "1\n2\n3\n")).values.shape == (3, 1)


@pytest.mark.parametrize(
    "text, message",
    [
        ("I,II\n1,2\n3\n", "file_corrupt: .*line 3: 1 cells, the lines above have 2"),
        ("1,2\n1,2,3\n", "file_corrupt: .*line 2: 3 cells"),
        ("I,II\n1,2\n3,x\n", "not_numeric: .*line 3"),
        ("I,II\n1,\0\n", "file_corrupt: .*binary"),
    ],
)
def test_csv_damage(tmp_path, text, message):
    with pytest.raises(RejectedRecord, match=message):
        read_csv(csv_file(tmp_path, text))


def test_csv_equals_numpy_loadtxt(tmp_path):
    values = np.random.default_rng(1).normal(size=(200, 12))
    np.savetxt(tmp_path / "x.csv", values, delimiter=",")
    np.testing.assert_array_equal(read_csv(tmp_path / "x.csv").values, np.loadtxt(tmp_path / "x.csv", delimiter=","))


def test_to_signal():
    values = np.array([[1.0, np.nan, 3.0], [np.inf, 2.0, -1.0]])
    signal, notes = to_signal(values, 0.5)
    np.testing.assert_array_equal(signal, np.array([[0.5, np.nan, 1.5], [np.nan, 1.0, -0.5]], np.float32))
    assert (signal.dtype, signal.flags.c_contiguous, signal.flags.writeable) == (np.float32, True, True)
    assert notes == ["infinite_samples"]
    assert to_signal(np.array([[0.0, 1e300], [0.0, 1.0]]))[1] == ["infinite_samples"]  # beyond a float32
    assert to_signal(np.array([[0.0, 0.01]]))[1] == ["amplitude_implausible"]
    assert to_signal(np.array([[0, 1200], [0, 900]], np.int16), 1e-3)[1] == []
    assert to_signal(np.full((2, 3), np.nan))[1] == []
    assert to_signal(np.zeros((2, 0)))[0].shape == (2, 0)
    original = np.ones((2, 3), np.float32)
    assert not np.shares_memory(to_signal(original)[0], original)
