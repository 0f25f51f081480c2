"""What a file holds is told by its bytes, and a small file that unpacks to a huge one is refused unread."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from ecglm.demo.contents import Limits, check_content, check_unpacked, kind_of
from ecglm.errors import RejectedRecord, UnsafeInputError

SMALL = Limits(max_unpacked=1 << 20)


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0", "picture"),
        (b"\xff\xd8\xff\xe0", "picture"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "picture"),
        (b"BM\x36\0\0\0\0\0", "picture"),
        (b"BMI,I,II\n1,2,3", "text"),
        (b"\x93NUMPY\x01\0", "npy"),
        (b"PK\x03\x04", "zip"),
        (b"\x89HDF\r\n\x1a\n", "hdf5"),
        (b"MATLAB 5.0 MAT-file", "mat"),
        (b"\x80\x04\x95", "Python pickle"),
        (b"  \n<!DOCTYPE html>", "markup"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>", "markup"),
        (b"<SVG onload=alert(1)>", "markup"),
        (b"I,II\n0.1,0.2", "text"),
        (b"\x01\0\x02\0", "binary"),
        (b"", "text"),
    ],
)
def test_kinds_by_first_bytes(start, kind):
    assert kind_of(start) == kind


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.png", b"<html><img src=x onerror=alert(1)>"),
        ("x.png", b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>"),
        ("x.jpg", b"%PDF-1.7"),
        ("x.npy", b"\x80\x04\x95\x10"),
        ("x.npy", b"PK\x03\x04"),
        ("x.npz", b"\x93NUMPY\x01\0"),
        ("x.csv", b"<script>alert(1)</script>"),
        ("x.csv", b"\x7fELF\0"),
        ("x.hea", b"\0\0\0"),
        ("x.h5", b"not hdf5"),
        ("x.mat", b"\x89PNG\r\n\x1a\n"),
    ],
)
def test_p23_a_file_that_is_not_what_its_name_says_is_refused(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UnsafeInputError, match=r"^shown\.name: holds .* give the file its true name$"):
        check_content(tmp_path / name, "shown.name")


def bomb(path: Path) -> Path:
    zeros = np.zeros((12, 20_000))  # 1.9 MB
    if path.suffix == ".npz":
        np.savez_compressed(path, signal=zeros)
    elif path.suffix == ".mat":
        scipy.io.savemat(path, {"val": zeros}, do_compression=True)
    else:
        with h5py.File(path, "w") as file:
            file.create_dataset("ecg", data=zeros, compression="gzip")
    assert path.stat().st_size < 100_000
    return path


@pytest.mark.parametrize("suffix", [".npz", ".mat", ".h5"])
def test_p23_a_file_that_unpacks_to_too_much_is_refused(tmp_path, suffix):
    file = bomb(tmp_path / f"x{suffix}")
    with pytest.raises(UnsafeInputError):
        check_unpacked(file, "x", SMALL)
    check_unpacked(file, "x", Limits(max_unpacked=2 << 20))


def test_p23_many_small_variables_count_together(tmp_path):
    scipy.io.savemat(tmp_path / "x.mat", {f"v{n}": np.zeros(50_000) for n in range(5)}, do_compression=True)
    with pytest.raises(UnsafeInputError, match="unpacks to 2,000,"):
        check_unpacked(tmp_path / "x.mat", "x", SMALL)


def test_p23_a_zip_of_many_members_or_none_is_refused(tmp_path):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for number in range(65):
            archive.writestr(f"{number}.npy", b"")
    (tmp_path / "x.npz").write_bytes(out.getvalue())
    with pytest.raises(UnsafeInputError, match="65 members"):
        check_unpacked(tmp_path / "x.npz", "x", SMALL)
    (tmp_path / "y.npz").write_bytes(b"PK\x03\x04 and no directory")
    with pytest.raises(RejectedRecord, match="not a readable"):
        check_unpacked(tmp_path / "y.npz", "y", SMALL)
