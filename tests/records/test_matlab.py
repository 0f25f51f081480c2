from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import scipy.io

from ecglm.errors import EcglmError, RejectedRecord, UnsafeInputError
from ecglm.records.formats import read
from ecglm.records.matlab import parse_mat, read_mat
from ecglm.types import LEADS


def counts(num_samples=300, seed=0):
    return np.random.default_rng(seed).integers(-900, 900, (12, num_samples)).astype(np.int16)


def save(tmp_path, variables, **options):
    path = tmp_path / "x.mat"
    scipy.io.savemat(path, variables, **options)
    return path


V4, V5, V5Z = {"format": "4"}, {}, {"do_compression": True}


@pytest.mark.parametrize("options", [V4, V5, V5Z])
@pytest.mark.parametrize("dtype", ["i2", "u1", "i4", "f4", "f8"])
def test_matrices_as_scipy_reads_them(tmp_path, options, dtype):
    path = save(tmp_path, {"val": counts().astype(dtype)}, **options)
    found = read_mat(path)
    truth = scipy.io.loadmat(path)["val"]
    np.testing.assert_array_equal(found.values, truth)
    assert found.values.dtype.newbyteorder("=") == truth.dtype
    assert (found.leads, found.rate, found.units) == (None, None, None)


@pytest.mark.parametrize("dtype", ["i1", "u2", "u4", "i8", "u8"])
def test_further_types_of_version_5(tmp_path, dtype):
    path = save(tmp_path, {"val": counts().astype(dtype)})
    np.testing.assert_array_equal(read_mat(path).values, scipy.io.loadmat(path)["val"])


@pytest.mark.parametrize("code, dtype", [(1000, ">f8"), (1010, ">f4"), (1020, ">i4"), (1030, ">i2"), (1040, ">u2")])
def test_version_4_of_another_machine(tmp_path, code, dtype):
    values = np.abs(counts()).astype(dtype)
    (tmp_path / "x.mat").write_bytes(struct.pack(">5i", code, 12, 300, 0, 4) + b"val\0" + values.tobytes(order="F"))
    np.testing.assert_array_equal(read_mat(tmp_path / "x.mat").values, values)


def test_the_challenges_header_of_24_bytes(tmp_path):
    values = counts()
    data = struct.pack("<5i", 30, 12, 300, 0, 4) + b"val\0" + values.tobytes(order="F")
    assert len(data) == 24 + values.nbytes
    (tmp_path / "x.mat").write_bytes(data)
    np.testing.assert_array_equal(read_mat(tmp_path / "x.mat").values, values)


def test_version_5_of_another_machine(tmp_path):
    values = counts().astype(">f8")

    def element(kind, data):
        return struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)

    parts = (element(6, struct.pack(">II", 6, 0)), element(5, struct.pack(">ii", 12, 300)), element(1, b"val"))
    body = b"".join(parts) + element(9, values.tobytes(order="F"))
    head = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack(">H", 0x0100) + b"MI"
    (tmp_path / "x.mat").write_bytes(head + element(14, body))
    np.testing.assert_array_equal(read_mat(tmp_path / "x.mat").values, values)


def test_a_file_says_nothing_of_rate_units_and_leads(tmp_path):
    path = save(tmp_path, {"val": counts()}, **V4)
    record = read(path, rate=500, leads="standard", units="uV")
    np.testing.assert_allclose(record.signal, counts() / 1000, rtol=1e-6)
    assert (record.record_id, record.leads, record.sampling_rate) == ("file/x", LEADS, 500.0)
    for options in ({"rate": 500, "leads": "standard"}, {"leads": "standard", "units": "uV"}):
        with pytest.raises(EcglmError, match=r"x\.mat: does not say its .*give --"):
            read(path, **options)
    np.testing.assert_array_equal(
        read(save(tmp_path, {"val": counts().T}), rate=500, leads="standard", units="uV").signal, record.signal
    )


def test_which_matrix_is_meant(tmp_path):
    facts = {"fs": 500.0, "name": "someone", "cells": np.array([1, "a"], dtype=object)}
    assert read_mat(save(tmp_path, {"feats": counts(), **facts})).values.shape == (12, 300)
    assert read_mat(save(tmp_path, {"other": np.ones((3, 3)), "val": counts(), **facts})).values.shape == (12, 300)
    with pytest.raises(RejectedRecord, match=r"signal_missing: .*one called 'val' is needed, found \['a', 'b'\]"):
        read_mat(save(tmp_path, {"a": counts(), "b": counts()}))
    with pytest.raises(RejectedRecord, match="signal_missing"):
        read_mat(save(tmp_path, {"val": counts() + 1j}))


@pytest.mark.parametrize("options", [V5, V5Z])
def test_the_struct_of_cpsc2018_says_everything(tmp_path, options):
    data = counts().astype(float) / 1000
    record = read(save(tmp_path, {"ECG": {"sex": "Male", "age": 74, "data": data}}, **options))
    np.testing.assert_array_equal(record.signal, data.astype(np.float32))
    assert (record.sampling_rate, record.leads) == (500.0, LEADS)
    for fields, reason in (
        ({"sex": "Male"}, "signal_missing"),
        ({"data": np.ones((11, 300))}, "shape_invalid"),
        ({"data": np.zeros((12, 0))}, "empty"),
    ):
        with pytest.raises(RejectedRecord) as error:
            read(save(tmp_path, {"ECG": fields}))
        assert error.value.reason == reason


@pytest.mark.parametrize("kind", [3, 16, 17])
@pytest.mark.parametrize("packed", [False, True])
def test_objects_and_function_handles_are_refused(tmp_path, kind, packed):
    data = bytearray(save(tmp_path, {"val": counts()}).read_bytes())
    assert data[144] == 10  # the class of the variable: int16
    data[144] = kind
    if packed:
        body = zlib.compress(bytes(data[128:]))
        data[128:] = struct.pack("<II", 15, len(body)) + body
    with pytest.raises(UnsafeInputError, match=r"more than data"):
        parse_mat(bytes(data), "x.mat")


def test_bombs_are_refused_before_they_grow(tmp_path):
    path = save(tmp_path, {"val": np.zeros((12, 3_000_000), np.int8)}, **V5Z)
    with pytest.raises(UnsafeInputError, match=r"grows from \d+ to \d+ bytes; refused"):
        read_mat(path)
    body = zlib.compress(struct.pack("<II", 14, (1 << 31) + 5) + bytes(64))
    with pytest.raises(UnsafeInputError, match="grows from"):
        parse_mat(path.read_bytes()[:128] + struct.pack("<II", 15, len(body)) + body, "x.mat")


@pytest.mark.parametrize(
    "shape, reason", [((12, 1 << 30), "signal_truncated"), ((12, 301), "signal_truncated"), ((-12, -5), "file_corrupt")]
)
def test_version_4_sizes_are_checked_before_allocation(tmp_path, shape, reason):
    data = struct.pack("<5i", 30, *shape, 0, 4) + b"val\0" + counts().tobytes(order="F")
    with pytest.raises(RejectedRecord) as error:
        parse_mat(data, "x.mat")
    assert error.value.reason == reason


def test_version_5_sizes_are_checked_before_allocation(tmp_path):
    data = bytearray(save(tmp_path, {"val": counts()}).read_bytes())
    assert data[160:168] == struct.pack("<ii", 12, 300)  # the dimensions
    for shape in ((12, 301), (12, 1 << 30), (-12, 300), (1 << 30, 1 << 30)):
        data[160:168] = struct.pack("<ii", *shape)
        with pytest.raises(RejectedRecord, match="file_corrupt"):
            parse_mat(bytes(data), "x.mat")


@pytest.mark.parametrize(
    "data, reason, words",
    [
        (b"", "empty", "zero bytes"),
        (b"MATLAB 7.3 MAT-file, Platform".ljust(512) + b"\x89HDF\r\n\x1a\n", "format_unsupported", "-v7"),
        (b"\x89HDF\r\n\x1a\n" + bytes(600), "format_unsupported", "-v7"),
        (b"just some text, long enough to be a header " * 9, "file_corrupt", "not a MATLAB file"),
        (b"short", "file_corrupt", "x.mat"),
        (b"MATLAB 5.0".ljust(124) + b"\x00\x03IM", "format_unsupported", "unknown version"),
    ],
)
def test_other_content(tmp_path, data, reason, words):
    (tmp_path / "x.mat").write_bytes(data)
    with pytest.raises(RejectedRecord, match=words) as error:
        read_mat(tmp_path / "x.mat")
    assert error.value.reason == reason


@pytest.mark.parametrize("options", [V4, V5, V5Z])
def test_any_damage_is_read_or_told(tmp_path, options):
    variables = {"val": counts(40)} if options is V4 else {"ECG": {"sex": "Male", "age": 7, "data": counts(40) / 1e3}}
    whole = save(tmp_path, variables, **options).read_bytes()
    rng = np.random.default_rng(5)
    read_anyway = 0
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 5)):
            data[rng.integers(0, min(len(data), 400))] = rng.integers(0, 256)
        if rng.random() < 0.3:
            del data[rng.integers(0, len(data)) :]
        try:
            read_anyway += bool(parse_mat(bytes(data), "x.mat"))
        except EcglmError as error:
            assert "x.mat" in str(error)
    assert read_anyway < 300


@pytest.mark.realdata
def test_real_files_as_scipy_reads_them(shared):
    files = [*sorted((shared / "cinc2020_2021").rglob("*.mat")), *sorted((shared / "csn").rglob("*.mat"))]
    assert len(files) == 111 + 60
    for file in files[::6]:
        np.testing.assert_array_equal(read_mat(file).values, scipy.io.loadmat(file)["val"])
    for file in sorted((shared / "code15" / "ecg-fm_org").glob("*.mat")):
        np.testing.assert_array_equal(read_mat(file).values, scipy.io.loadmat(file)["feats"])
