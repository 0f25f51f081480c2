from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from ecglm.errors import RejectedRecord, UnsafeInputError
from ecglm.records import inflate
from ecglm.records.inflate import open_member


@pytest.fixture(scope="module")
def content():
    """9 MB of which half can be packed."""
    return np.random.default_rng(0).integers(0, 16, 9_000_001, dtype=np.uint8).tobytes()


def pack(tmp_path, content, method=zipfile.ZIP_DEFLATED, name="part.hdf5", level=1):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", method, compresslevel=level) as archive:
        archive.writestr("before.txt", "something else")
        archive.writestr(name, content)
    return tmp_path / "x.zip"


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_every_stretch_is_what_was_packed(tmp_path, content, method, monkeypatch):
    monkeypatch.setattr(inflate, "_MARK_EVERY", 3)
    monkeypatch.setattr(inflate, "_CACHED_BLOCKS", 2)
    with open_member(pack(tmp_path, content, method), "part.hdf5") as stream:
        truth = io.BytesIO(content)
        assert stream.seek(0, io.SEEK_END) == len(content)
        rng = np.random.default_rng(1)
        starts = [
            0,
            8_999_990,
            0,
            1 << 20,
            (1 << 20) - 1,
            *rng.integers(0, len(content), 40).tolist(),
            9_000_001,
            1 << 40,
        ]
        for start in starts:
            size = int(rng.choice([1, 7, 5000, 3_000_000]))
            assert stream.seek(start) == start
            truth.seek(start)
            expected = truth.read(size)
            assert stream.read(size) == expected
            assert stream.tell() == start + len(expected)


def test_going_back_costs_little_and_memory_stays_flat(tmp_path, content, monkeypatch):
    monkeypatch.setattr(inflate, "_MARK_EVERY", 2)
    unpacked = []
    once = inflate.Inflater._next
    monkeypatch.setattr(inflate.Inflater, "_next", lambda *a: unpacked.append(once(*a)) or unpacked[-1])
    monkeypatch.setattr(inflate, "_CACHED_BLOCKS", 3)
    with open_member(pack(tmp_path, content), "part.hdf5") as stream:
        stream.seek(len(content) - 1)
        stream.read(1)
        assert b"".join(unpacked) == content  # once
        del unpacked[:]
        stream.seek(5 << 20)
        stream.read(10)
        assert b"".join(unpacked) == content[4 << 20 : 6 << 20]  # from the mark before it, not from the start
        assert len(stream._blocks) <= 3


def test_damage(tmp_path, content):
    path = pack(tmp_path, content)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = bytes(4000)
    (tmp_path / "bad.zip").write_bytes(data)
    with open_member(tmp_path / "bad.zip", "part.hdf5") as stream:
        assert stream.read(100) == content[:100]
        with pytest.raises(OSError, match="packed data"):
            stream.read()
    (tmp_path / "cut.zip").write_bytes(data[: len(data) // 2])
    for name in ("cut.zip", "absent.zip"):
        with pytest.raises(RejectedRecord, match="file_corrupt"):
            open_member(tmp_path / name, "part.hdf5")
    with pytest.raises(RejectedRecord, match=r"signal_missing: .*holds no other\.hdf5"):
        open_member(path, "other.hdf5")


def test_a_bomb_and_another_packing_are_told(tmp_path):
    with pytest.raises(UnsafeInputError, match=r"grows from \d+ to 40000000 bytes; refused"):
        open_member(pack(tmp_path, bytes(40_000_000), level=9), "part.hdf5")
    with zipfile.ZipFile(tmp_path / "y.zip", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("part.hdf5", b"abc")
    with pytest.raises(RejectedRecord, match="format_unsupported"):
        open_member(tmp_path / "y.zip", "part.hdf5")
