from __future__ import annotations

import hashlib
import io
import os
import pickle
import random
import shutil
import stat
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecglm.errors import EcglmError, RejectedRecord, UnsafeInputError
from ecglm.records.archives import TarTree, ZipTree
from ecglm.records.tree import FolderTree, TooLargeError, check_name, open_tree, tree_sha256
from ecglm.records.wfdb_files import read_wfdb
from ecglm.records.zip_directory import utf8_name

FILES = {
    "table.csv": b"a,b\n1,2\n",
    "g1/A0001.hea": b"header",
    "g1/A0001.mat": bytes(range(256)) * 400,
    "g2/deep/x.dat": np.random.default_rng(0).bytes(70_000),
    "g2/empty": b"",
}


def as_folder(place: Path, files=FILES) -> Path:
    for name, data in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    (place / ".hidden").write_bytes(b"no")
    return place


def as_zip(place: Path, files=FILES, *, top="data-1.0/", method=zipfile.ZIP_DEFLATED, name="data.zip") -> Path:
    place.mkdir(exist_ok=True)
    with zipfile.ZipFile(place / name, "w", method) as archive:
        if top:
            archive.mkdir(top)
        for member, data in {**files, ".hidden": b"no"}.items():
            archive.writestr(f"{top}{member}", data)
    return place / name


def as_tar(place: Path, files=FILES, *, top="./data-1.0/") -> Path:
    place.mkdir(exist_ok=True)
    with tarfile.open(place / "data.tar", "w") as archive:
        for member, data in files.items():
            info = tarfile.TarInfo(top + member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return place / "data.tar"


MAKERS = {
    "folder": as_folder,
    "zip": as_zip,
    "stored": lambda place: as_zip(place, method=zipfile.ZIP_STORED),
    "flat zip": lambda place: as_zip(place, top=""),
    "tar": as_tar,
}


@pytest.fixture(params=MAKERS)
def tree(request, tmp_path):
    (tmp_path / "in").mkdir()
    return open_tree(MAKERS[request.param](tmp_path / "in"))


def test_all_kinds_show_the_same_files(tree):
    assert tree.names() == sorted(FILES)
    for name, data in FILES.items():
        assert tree.has(name)
        assert tree.size(name) == len(data)
        assert tree.read(name, len(data)) == data
        with tree.open(name) as handle:
            assert handle.read() == data
    assert not tree.has("g1") and not tree.has("none") and not tree.has("zzz")


def test_a_missing_file_and_one_that_is_too_large(tree):
    for call in (lambda: tree.read("none", 9), lambda: tree.size("none"), lambda: tree.open("none")):
        with pytest.raises(FileNotFoundError):
            call()
    with pytest.raises(TooLargeError) as error:
        tree.read("g1/A0001.hea", 5)
    assert error.value.size == 6


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "g1/../../x", "~/x", "g1//x", "g1/", "C:x", "a\\b", "a\0"])
def test_names_that_lead_outside_are_refused(tree, name):
    for call in (tree.has, tree.size, tree.open, lambda n: tree.read(n, 9), lambda n: check_name(n, "x")):
        with pytest.raises(UnsafeInputError):
            call(name)


def test_a_tree_can_be_pickled_and_is_opened_anew(tree):
    again = pickle.loads(pickle.dumps(tree))
    assert again.names() == tree.names()
    assert again.read("table.csv", 99) == FILES["table.csv"]


def test_the_checksum_of_a_file_does_not_depend_on_where_it_lies(tmp_path):
    trees = [open_tree(make(_mkdir(tmp_path / str(i)))) for i, make in enumerate(MAKERS.values())]
    assert {tree_sha256(t, "g2/deep/x.dat") for t in trees} == {hashlib.sha256(FILES["g2/deep/x.dat"]).hexdigest()}


def _mkdir(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    return path


def test_a_folder_with_one_archive_alone_is_the_archive(tmp_path):
    as_zip(tmp_path / "in")
    (tmp_path / "in" / ".part").write_bytes(b"")
    assert isinstance(open_tree(tmp_path / "in"), ZipTree)
    (tmp_path / "in" / "exams.csv").write_bytes(b"")
    assert open_tree(tmp_path / "in").names() == ["data.zip", "exams.csv"]


def test_what_cannot_be_read_in_place_says_how_to_go_on(tmp_path):
    packed = tmp_path / "records.tar.gz"
    packed.write_bytes(b"\x1f\x8b")
    for path, word in ((packed, "gunzip"), (tmp_path / "none", "--root"), (tmp_path / "x.pdf", "--root")):
        if path.suffix == ".pdf":
            path.write_bytes(b"")
        with pytest.raises(EcglmError) as error:
            open_tree(path)
        assert word in str(error.value) and "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------------ folders


def test_links_of_a_folder(tmp_path):
    root = as_folder(_mkdir(tmp_path / "in"))
    (root / "same.csv").symlink_to("table.csv")
    (root / "again").symlink_to("g1")
    tree = open_tree(root)
    assert tree.names() == sorted([*FILES, "same.csv"])  # a linked folder is found at its own place
    assert tree.read("same.csv", 99) == FILES["table.csv"]
    assert tree.read("again/A0001.hea", 99) == b"header"
    (tmp_path / "secret").write_bytes(b"secret")
    (root / "out.csv").symlink_to(tmp_path / "secret")
    (root / "away").symlink_to(tmp_path)
    for name in ("out.csv", "away/secret"):
        for call in (lambda n: tree.read(n, 99), tree.open, tree.size):
            with pytest.raises(UnsafeInputError):
                call(name)
    with pytest.raises(UnsafeInputError):
        open_tree(root).names()


def test_a_pipe_and_a_name_that_is_no_text(tmp_path):
    root = as_folder(_mkdir(tmp_path / "in"))
    os.mkfifo(root / "pipe.hea")
    with pytest.raises(OSError):
        open_tree(root).read("pipe.hea", 99)  # and does not hang
    (root / "pipe.hea").unlink()
    (root / os.fsdecode(b"caf\xe9.hea")).write_bytes(b"")
    with pytest.raises(EcglmError, match="UTF-8"):
        open_tree(root).names()


def test_an_unreadable_folder_is_checked_once_per_folder(tmp_path, monkeypatch):
    root = as_folder(_mkdir(tmp_path / "in"))
    tree = FolderTree(root)
    asked = []
    monkeypatch.setattr(os.path, "islink", lambda path, real=os.path.islink: asked.append(path) or real(path))
    for _ in range(3):
        tree.read("g2/deep/x.dat", 99_999)
    assert sum(str(path).endswith("deep") for path in asked) == 1


# ----------------------------------------------------------------------------------------------- archives


@pytest.mark.parametrize("name", ["../x.hea", "/x.hea", "a/../../x", "C:/x", "~/x", "a//b"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_hostile_member_names(tmp_path, name, kind):
    make = as_zip if kind == "zip" else as_tar
    with pytest.raises(UnsafeInputError) as error:
        open_tree(make(tmp_path, {"good": b"1", name: b"2"}, top=""))
    assert "\n" not in str(error.value)


def test_a_backslash_in_a_zip(tmp_path):
    path = as_zip(tmp_path, {"axb": b"1", "good": b"2"}, top="")
    path.write_bytes(path.read_bytes().replace(b"axb", b"a\\b"))
    with pytest.raises(UnsafeInputError):
        open_tree(path)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_in_a_zip(tmp_path, kind):
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = (kind | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(UnsafeInputError):
        open_tree(tmp_path / "data.zip")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar(tmp_path, kind):
    with tarfile.open(tmp_path / "data.tar", "w") as archive:
        info = tarfile.TarInfo("link")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(UnsafeInputError):
        open_tree(tmp_path / "data.tar")


@pytest.mark.parametrize("make", [as_zip, as_tar])
def test_members_that_differ_in_case_alone(tmp_path, make):
    with pytest.raises(UnsafeInputError, match="one file"):
        open_tree(make(tmp_path, {"g1/a.hea": b"1", "G1/A.hea": b"2"}))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_one_name_twice(tmp_path):
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("x", "1")
        archive.writestr("x", "2")
    with pytest.raises(UnsafeInputError):
        open_tree(tmp_path / "data.zip")


def test_a_bomb_is_refused_before_it_grows(tmp_path):
    path = as_zip(tmp_path, {"bomb": bytes(64 << 20), "good": b"1"})
    tree = open_tree(path)
    assert tree.read("good", 9) == b"1"
    for call in (lambda: tree.read("bomb", 1 << 40), lambda: tree.open("bomb")):
        with pytest.raises(UnsafeInputError, match="grow"):
            call()


def test_too_many_members(tmp_path, monkeypatch):
    monkeypatch.setattr("ecglm.records.archives.MAX_FILES", 3)
    with pytest.raises(UnsafeInputError, match="more than 3"):
        open_tree(as_zip(tmp_path))


def test_encrypted_split_and_oddly_packed_archives(tmp_path):
    path = as_zip(tmp_path, {"x": b"1"}, top="")
    plain = path.read_bytes()
    directory = plain.rfind(b"PK\1\2")
    path.write_bytes(plain[: directory + 8] + b"\1" + plain[directory + 9 :])
    with pytest.raises(EcglmError, match="encrypted"):
        open_tree(path)
    end = plain.rfind(b"PK\5\6")
    path.write_bytes(plain[: end + 4] + b"\1" + plain[end + 5 :])
    with pytest.raises(EcglmError, match="part of several"):
        open_tree(path)
    tree = open_tree(as_zip(tmp_path, {"x": b"1" * 99}, top="", method=zipfile.ZIP_BZIP2))
    with pytest.raises(EcglmError, match="unpack it"):
        tree.read("x", 99)


def test_a_member_changed_or_cut_is_rejected(tmp_path):
    path = as_zip(tmp_path, method=zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[data.find(b"header")] ^= 1
    path.write_bytes(data)
    with pytest.raises(RejectedRecord) as error:
        open_tree(path).read("g1/A0001.hea", 99)
    assert error.value.reason == "unreadable"
    tar = as_tar(tmp_path)
    tar.write_bytes(tar.read_bytes()[:30_000])
    with pytest.raises(EcglmError, match="fetch the archive again"):
        open_tree(tar)


def test_a_damaged_header_inside_a_tar_is_not_taken_for_its_end(tmp_path):
    path = as_tar(tmp_path)
    data = bytearray(path.read_bytes())
    at = data.find(b"./data-1.0/g2/deep")
    data[at + 148] ^= 0xFF  # its checksum
    path.write_bytes(data)
    with pytest.raises(EcglmError, match="damaged"):
        open_tree(path)


def test_the_64_bit_directory(tmp_path):
    """As an archive of more than 65,535 members ends."""
    path = as_zip(tmp_path)
    data = path.read_bytes()
    end = data.rfind(b"PK\5\6")
    count, size, start = struct.unpack_from("<H2L", data, end + 10)
    wide = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, start)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, end, 1)
    narrow = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(data[:end] + wide + locator + narrow)
    with zipfile.ZipFile(path) as archive:
        assert archive.read("data-1.0/table.csv") == FILES["table.csv"]  # the library agrees that this is good
    assert open_tree(path).names() == sorted(FILES)
    path.write_bytes(data[:end] + b"XX" + wide[2:] + locator + narrow)
    with pytest.raises(EcglmError, match="64-bit"):
        open_tree(path)


def test_wide_offsets_are_read_where_the_format_puts_them(tmp_path):
    """An entry whose sizes and offset are all in the extra field, as beyond 4 GB."""
    path = as_zip(tmp_path, {"x": b"12345"}, top="", method=zipfile.ZIP_STORED)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", b"12345")
    data = path.read_bytes()
    start, end = data.rfind(b"PK\1\2"), data.rfind(b"PK\5\6")
    entry = bytearray(data[start:end])
    extra = struct.pack("<2H3Q", 1, 24, 5, 5, 0)
    struct.pack_into("<2L", entry, 20, 0xFFFFFFFF, 0xFFFFFFFF)
    struct.pack_into("<H", entry, 30, len(extra))
    struct.pack_into("<L", entry, 42, 0xFFFFFFFF)
    tail = bytearray(data[end:])
    struct.pack_into("<2L", tail, 12, len(entry) + len(extra), start)
    path.write_bytes(data[:start] + entry + extra + tail)
    with zipfile.ZipFile(path) as archive:
        assert archive.read("x") == b"12345"  # the library agrees that this is a good archive
    assert open_tree(path).read("x", 9) == b"12345"


def test_old_code_page_names():
    assert utf8_name(b"caf\x82", 0).decode() == "café"
    assert utf8_name("café".encode(), 0x800).decode() == "café"


@pytest.mark.parametrize("make", [as_zip, as_tar])
def test_damage_anywhere_is_an_error_or_a_reject(tmp_path, make):
    """Never a traceback, a hang or wrong bytes under a right name (a tar has no checksums of its data)."""
    path = make(tmp_path)
    good = path.read_bytes()
    rng = random.Random(0)
    for round_ in range(250):
        data = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if round_ % 5 == 0:
            del data[rng.randrange(len(data)) :]
        path.write_bytes(data)
        try:
            tree = (ZipTree if make is as_zip else TarTree)(path)
            for name in tree.names():
                content = tree.read(name, 1 << 20)
                assert make is as_tar or content in FILES.values()
        except EcglmError as error:
            assert "\n" not in str(error)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(moves=st.lists(st.tuples(st.integers(0, 1_300_000), st.integers(0, 70_000)), max_size=8))
def test_a_packed_member_can_be_read_from_anywhere(tmp_path, monkeypatch, moves):
    monkeypatch.setattr("ecglm.records.archives._CHECKPOINT", 300_000)
    rng = np.random.default_rng(1)
    data = rng.integers(0, 9, 1_200_000, dtype=np.uint8).tobytes()
    path = tmp_path / "data.zip"
    if not path.exists():
        as_zip(tmp_path, {"big": data})
    with open_tree(path).open("big") as handle:
        for at, size in moves:
            assert handle.seek(at) == at
            assert handle.read(size) == data[at : at + size]
        assert handle.seek(-10, os.SEEK_END) == len(data) - 10
        assert handle.read() == data[-10:]


# -------------------------------------------------------------------------------------- records in trees


def test_wfdb_records_read_alike_from_folder_zip_and_tar(tmp_path, write_record, counts):
    data = counts()
    write_record(tmp_path / "db" / "g1", data)
    write_record(tmp_path / "db" / "g2", data, fmt="16x1+24", name="other", data="other.mat", gain="200(5)/mV")
    shutil.move(tmp_path / "db/g2/other.dat", tmp_path / "db/g2/other.mat")
    content = (tmp_path / "db/g2/other.mat").read_bytes()
    (tmp_path / "db/g2/other.mat").write_bytes(bytes(24) + content)
    files = {p.relative_to(tmp_path / "db").as_posix(): p.read_bytes() for p in (tmp_path / "db").rglob("*.*")}
    expected = [read_wfdb(tmp_path / "db" / name, "x") for name in ("g1/rec.hea", "g2/other.hea")]
    for tree in (FolderTree(tmp_path / "db"), *(open_tree(make(tmp_path, files)) for make in (as_zip, as_tar))):
        for name, record in zip(("g1/rec.hea", "g2/other.hea"), expected, strict=True):
            found = read_wfdb(name, "x", tree=tree)
            np.testing.assert_array_equal(found.signal, record.signal)
            assert (found.leads, found.metadata) == (record.leads, record.metadata)
        with pytest.raises(RejectedRecord, match="header_missing"):
            read_wfdb("g1/none.hea", "x", tree=tree)
    np.testing.assert_allclose(expected[1].signal, (data.T - 5.0) / 200, rtol=1e-6)


def test_general_formats_read_from_an_archive(tmp_path):
    import wfdb

    rng = np.random.default_rng(3)
    (tmp_path / "db").mkdir()
    signal = rng.integers(-2000, 2000, (501, 2))
    wfdb.wrsamp(
        "rec", fs=360, units=["mV"] * 2, sig_name=["I", "II"], d_signal=signal, fmt=["212"] * 2,
        adc_gain=[200.0] * 2, baseline=[0] * 2, write_dir=str(tmp_path / "db"),
    )  # fmt: skip
    files = {p.name: p.read_bytes() for p in (tmp_path / "db").iterdir()}
    record = read_wfdb("rec.hea", "x", tree=open_tree(as_zip(tmp_path, files)), on_checksum="reject")
    np.testing.assert_array_equal(record.signal, (signal.T / 200).astype(np.float32))


def test_data_missing_larger_or_cut_in_a_tree(tmp_path, write_record):
    header = write_record(tmp_path / "db")
    text, data = header.read_bytes(), header.with_suffix(".dat").read_bytes()
    for content, reason in (
        (None, "signal_missing"),
        (data + b"xx", "signal_size_mismatch"),
        (data[:-2], "signal_truncated"),
    ):
        files = {"a/rec.hea": text, "b": b"", **({} if content is None else {"a/rec.dat": content})}
        for make in (as_zip, as_tar):
            with pytest.raises(RejectedRecord) as error:
                read_wfdb("a/rec.hea", "x", tree=open_tree(make(tmp_path, files)))
            assert error.value.reason == reason
