from __future__ import annotations

import gzip
import hashlib
import io
import stat
import tarfile
import zipfile

import pytest

from ecglm.downloads import archives as module
from ecglm.downloads.archives import unpack, verify_zip
from ecglm.errors import EcglmError, UnsafeInputError

GOOD = {"set/a.csv": b"1,2\n", "set/deep/b.dat": bytes(1000), "set/deep/ä.txt": b""}


def make_zip(path, files, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as made:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = compression
            made.writestr(info, data)
    return path


def make_tar(path, files, mode="w", extra=()):
    with tarfile.open(path, mode) as made:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
        for info in extra:
            made.addfile(info)
    return path


def tar_member(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zip_member(path, name, mode=0, data=b"x"):
    with zipfile.ZipFile(path, "a") as made:
        info = zipfile.ZipInfo("good")
        info.filename = info.orig_filename = name  # as a hostile writer would
        info.external_attr = mode << 16
        made.writestr(info, data)
    return path


def found(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


MAKERS = {
    "a.zip": make_zip,
    "a.tar": make_tar,
    "a.tar.gz": lambda p, f: make_tar(p, f, "w:gz"),
    "a.tgz": lambda p, f: make_tar(p, f, "w:gz"),
    "a.tar.xz": lambda p, f: make_tar(p, f, "w:xz"),
    "a.tar.bz2": lambda p, f: make_tar(p, f, "w:bz2"),
}


@pytest.mark.parametrize("name", MAKERS)
def test_kinds_of_archives(tmp_path, name):
    archive = MAKERS[name](tmp_path / name, GOOD)
    assert unpack(archive, tmp_path / "out") == sorted(GOOD)
    assert found(tmp_path / "out") == GOOD
    assert unpack(archive, tmp_path / "top", strip_top=True) == sorted(n.removeprefix("set/") for n in GOOD)


def test_folders_and_dots_of_a_usual_tar(tmp_path):
    folder = tarfile.TarInfo("./records")
    folder.type = tarfile.DIRTYPE
    archive = make_tar(tmp_path / "a.tar", {"./records/A1.h5": b"x"}, extra=[tar_member(".", tarfile.DIRTYPE), folder])
    assert unpack(archive, tmp_path / "out", strip_top=True) == ["A1.h5"]


def test_what_stands_in_the_folder_stays_or_is_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    (tmp_path / "out" / "a.csv").write_text("old")
    unpack(make_zip(tmp_path / "a.zip", {"a.csv": b"new"}), tmp_path / "out")
    assert found(tmp_path / "out") == {"mine.txt": b"mine", "a.csv": b"new"}


BAD_NAMES = [
    *("../x", "a/../../x", "/etc/x", "//x", "~/x", "a/~root/x", "C:/x", "C:x", "a\\b", "..\\x", "a//b", "a/./b"),
    *("x" * 2000, "a/" + "y" * 300, "new\nline", "\x1b[31m", "a/.."),
]


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_could_do_harm_are_refused(tmp_path, kind, name):
    if kind == "zip":
        archive = zip_member(make_zip(tmp_path / "a.zip", GOOD), name)
    else:
        archive = make_tar(tmp_path / "a.tar", {**GOOD, name: b"x"})
    before = {p.name for p in tmp_path.iterdir()}
    with pytest.raises(UnsafeInputError, match="refuse"):
        unpack(archive, tmp_path / "out")
    assert {p.name for p in tmp_path.iterdir()} == before | {"out"}
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "mode", [stat.S_IFLNK | 0o777, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK], ids=lambda m: oct(m)
)
def test_links_and_devices_in_zips_are_refused(tmp_path, mode):
    archive = zip_member(make_zip(tmp_path / "a.zip", GOOD), "set/link", mode, b"../../etc")
    with pytest.raises(UnsafeInputError, match="is a link or device"):
        unpack(archive, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "members",
    [
        [tar_member("l", tarfile.SYMTYPE, "/etc"), tarfile.TarInfo("l/passwd")],
        [tar_member("l", tarfile.SYMTYPE, "a.csv")],
        [tar_member("h", tarfile.LNKTYPE, "set/a.csv")],
        [tar_member("c", tarfile.CHRTYPE)],
        [tar_member("b", tarfile.BLKTYPE)],
        [tar_member("f", tarfile.FIFOTYPE)],
    ],
    ids=["symlink then file", "symlink", "hard link", "character device", "block device", "pipe"],
)
def test_links_and_devices_in_tars_are_refused(tmp_path, members):
    archive = make_tar(tmp_path / "a.tar", GOOD, extra=members)
    with pytest.raises(UnsafeInputError, match="is a link, device or sparse file"):
        unpack(archive, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "names",
    [
        *(["A.csv", "a.csv"], ["x/b", "X/c"], ["a", "a/b"], ["A", "a/b"], ["same", "same"]),
        ["stra\u00dfe", "STRASSE"],
        ["e\u0301", "\u00e9"],
    ],
)
@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_are_one_file_on_some_disk_are_refused(tmp_path, kind, names):
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
            for name in names:
                made.writestr(name, b"x")
    else:
        members = [tarfile.TarInfo(name) for name in names]
        make_tar(tmp_path / "a.tar", {}, extra=members)
    with pytest.raises(UnsafeInputError, match=r"would be one file|in two ways"):
        unpack(tmp_path / f"a.{kind}", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_too_many_members_are_refused(tmp_path, kind):
    maker = make_zip if kind == "zip" else make_tar
    archive = maker(tmp_path / f"a.{kind}", {f"{n}": b"" for n in range(11)})
    with pytest.raises(UnsafeInputError, match="more than 10 members"):
        unpack(archive, tmp_path / "out", max_files=10)
    assert len(unpack(archive, tmp_path / "out", max_files=11)) == 11


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tar.xz"])
def test_bombs_are_refused_before_they_go_off(tmp_path, name):
    archive = MAKERS[name](tmp_path / name, {f"{n}": bytes(30 << 20) for n in range(2)})
    if name == "a.tar.gz":
        archive.write_bytes(gzip.compress(gzip.decompress(archive.read_bytes()), 9))
    assert archive.stat().st_size * 1000 < 60 << 20
    with pytest.raises(UnsafeInputError, match="more than 1000 times its size"):
        unpack(archive, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_tar_whose_header_promises_a_tera_byte_is_refused(tmp_path):
    info = tarfile.TarInfo("big")
    info.size = 1 << 40
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    with pytest.raises(UnsafeInputError, match="times its size"):
        unpack(tmp_path / "a.tar", tmp_path / "out")


def test_a_tar_with_a_huge_extended_header_is_refused_without_reading_it(tmp_path):
    info = tar_member("pax", tarfile.XHDTYPE)
    info.size = 1 << 33
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    with pytest.raises(UnsafeInputError, match="a header of"):
        unpack(tmp_path / "a.tar", tmp_path / "out")


def test_sparse_members_are_refused(tmp_path):
    info = tar_member("s", tarfile.GNUTYPE_SPARSE)
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    with pytest.raises(EcglmError):
        unpack(tmp_path / "a.tar", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("name", MAKERS)
def test_damaged_archives_leave_nothing(tmp_path, name):
    import numpy as np

    noise = np.random.default_rng(0).bytes(60_000)
    whole = MAKERS[name](tmp_path / name, {"a/1": noise, "a/2": noise[::-1]}).read_bytes()
    for number, data in enumerate([whole[: len(whole) // 2], b"", b"no archive", whole[:3000] + bytes(40_000)]):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(EcglmError) as error:
            unpack(tmp_path / name, tmp_path / f"out{number}")
        assert "\n" not in str(error.value)
        assert found(tmp_path / f"out{number}") == {}


def test_flipped_bits_in_a_zip_are_noticed(tmp_path):
    archive = make_zip(tmp_path / "a.zip", {"a": bytes(range(256)) * 10}, zipfile.ZIP_STORED)
    data = bytearray(archive.read_bytes())
    data[500] ^= 1
    archive.write_bytes(data)
    with pytest.raises(EcglmError, match="damaged or no archive"):
        unpack(archive, tmp_path / "out")


def test_encrypted_and_unknown_archives_are_told(tmp_path):
    archive = make_zip(tmp_path / "a.zip", {"a": b"x"})
    data = bytearray(archive.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(data)
    with pytest.raises(EcglmError, match="is encrypted"):
        unpack(archive, tmp_path / "out")
    with pytest.raises(EcglmError, match="no archive that can be unpacked"):
        unpack(tmp_path / "a.rar", tmp_path / "out")


def test_a_link_in_the_target_folder_leads_nowhere(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "set").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeInputError, match="leads outside"):
        unpack(make_zip(tmp_path / "a.zip", GOOD), tmp_path / "out")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_full_disk(tmp_path, monkeypatch):
    import errno

    def full(*args):
        raise OSError(errno.ENOSPC, "full")

    archive = make_zip(tmp_path / "a.zip", GOOD)
    monkeypatch.setattr(module, "_copy", full)
    with pytest.raises(EcglmError, match="no space left"):
        unpack(archive, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


# --- zips with their own checksums


def sums(files, prefix=""):
    return "".join(f"{hashlib.sha256(d).hexdigest()} {n.removeprefix(prefix)}\n" for n, d in files.items()).encode()


@pytest.mark.parametrize("top", ["", "set/"])
def test_a_zip_is_checked_against_the_checksums_inside_it(tmp_path, top):
    files = {f"{top}a": b"1", f"{top}d/b": b"2"}
    ticks = []
    archive = make_zip(tmp_path / "a.zip", {**files, f"{top}SHA256SUMS.txt": sums(files, top)})
    assert verify_zip(archive, ticks.append) == 3
    assert sum(ticks) > 0
    wrong = {**files, f"{top}a": b"other"}
    with pytest.raises(EcglmError, match="a has a wrong checksum"):
        verify_zip(make_zip(tmp_path / "b.zip", {**wrong, f"{top}SHA256SUMS.txt": sums(files, top)}))
    with pytest.raises(EcglmError, match="d/b is listed in it and missing"):
        verify_zip(make_zip(tmp_path / "c.zip", {f"{top}a": b"1", f"{top}SHA256SUMS.txt": sums(files, top)}))


def test_a_zip_without_checksums_is_read_whole(tmp_path):
    archive = make_zip(tmp_path / "a.zip", GOOD)
    assert verify_zip(archive) == 3
    archive.write_bytes(archive.read_bytes()[:-10])
    with pytest.raises(EcglmError, match="damaged"):
        verify_zip(archive)
    with pytest.raises(UnsafeInputError):
        verify_zip(zip_member(make_zip(tmp_path / "b.zip", GOOD), "../x"))
