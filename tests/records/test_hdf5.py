"""HDF5 files, opened by hdf5_child.py in a process apart; the truth is h5py, which writes every file here."""

from __future__ import annotations

import io
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import zipfile

import h5py
import numpy as np
import pytest

from ecglm.errors import EcglmError, RejectedRecord, UnsafeInputError
from ecglm.records import hdf5
from ecglm.records.formats import read
from ecglm.records.hdf5 import Hdf5Table, read_hdf5, read_hdf5_bytes
from ecglm.types import LEADS


def ecg(num_samples=300, seed=0):
    return np.random.default_rng(seed).normal(0, 0.3, (12, num_samples)).astype(np.float32)


def save(tmp_path, name="x.h5", **datasets):
    path = tmp_path / name
    with h5py.File(path, "w") as file:
        for key, values in datasets.items():
            file[key] = values
    return path


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4", "<i2", ">i4", "u1", "<u8"])
@pytest.mark.parametrize(
    "options",
    [{}, {"compression": "gzip", "shuffle": True, "fletcher32": True}, {"compression": "lzf"}, {"chunks": (5, 70)}],
)
def test_values_as_h5py_has_them(tmp_path, dtype, options):
    values = (ecg() * 100).astype(dtype)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("ecg", data=values, **options)
    found = read_hdf5(tmp_path / "x.h5")
    assert found.values.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found.values, values)
    assert (found.leads, found.rate, found.units) == (None, None, None)
    np.testing.assert_array_equal(read_hdf5_bytes((tmp_path / "x.h5").read_bytes(), "x.h5").values, values)


def test_a_record_by_its_suffixes(tmp_path):
    for name in ("x.h5", "x.hdf5", "x.H5"):
        record = read(save(tmp_path, name, any_name=ecg()), rate=500, leads="standard", units="mV")
        np.testing.assert_array_equal(record.signal, ecg())
        assert record.record_id == "file/x"
    with pytest.raises(EcglmError, match=r"x\.h5: does not say its sampling rate; give --rate"):
        read(tmp_path / "x.h5", leads="standard", units="mV")


@pytest.mark.parametrize("on_file", [False, True])
def test_attributes_are_what_the_file_says(tmp_path, on_file):
    path = save(tmp_path, ecg=ecg() * 1000)
    with h5py.File(path, "a") as file:
        place = file.attrs if on_file else file["ecg"].attrs
        place["rate"], place["units"], place["leads"] = 400, "uV", list(LEADS[::-1])
    record = read(path)
    np.testing.assert_allclose(record.signal, ecg(), rtol=1e-6)
    assert (record.sampling_rate, record.leads) == (400.0, LEADS[::-1])
    with pytest.raises(EcglmError, match="says 400 Hz, --rate says 500"):
        read(path, rate=500)


@pytest.mark.parametrize("name, value", [("rate", "fast"), ("rate", [1.0, 2.0]), ("units", 3), ("leads", [1, 2])])
def test_attributes_that_are_something_else(tmp_path, name, value):
    path = save(tmp_path, ecg=ecg())
    with h5py.File(path, "a") as file:
        file.attrs[name] = value
    with pytest.raises(RejectedRecord, match=f"file_corrupt: .*x.h5: attribute '{name}'"):
        read_hdf5(path)


def test_which_dataset_is_meant(tmp_path):
    path = save(tmp_path, **{"a/deep/ecg": ecg(), "ids": np.arange(5), "text": "words", "cube": np.ones((2, 3, 4))})
    assert read_hdf5(path).values.shape == (12, 300)
    path = save(tmp_path, a=ecg(), b=ecg(200))
    with pytest.raises(
        EcglmError, match=r"x\.h5: has several 2-D datasets, name one with --dataset: a .*, b \(12, 200\)"
    ):
        read_hdf5(path)
    assert read(path, 500, "standard", "mV", dataset="/b").signal.shape == (12, 200)
    assert read_hdf5(save(tmp_path, other=ecg(), signal=ecg(77))).values.shape == (12, 77)
    with pytest.raises(RejectedRecord, match=r"signal_missing: .*has no dataset 'c'; it has: other, signal"):
        read_hdf5(path, "c")
    with pytest.raises(RejectedRecord, match="signal_missing"):
        read_hdf5(path, "signal/below")
    path = save(tmp_path, cube=np.ones((2, 3, 4)), **{"group/line": np.ones(3)})
    with pytest.raises(RejectedRecord, match=r"signal_missing: .*no 2-D dataset .*it has: cube \(2, 3, 4\), group"):
        read_hdf5(path)
    with pytest.raises(EcglmError, match="--dataset is for HDF5 files"):
        np.save(tmp_path / "x.npy", ecg())
        read(tmp_path / "x.npy", 500, "standard", "mV", dataset="a")


@pytest.mark.parametrize(
    "values, reason",
    [
        (np.zeros((12, 0)), "empty"),
        (np.ones((12, 5), complex), "not_numeric"),
        (np.ones((12, 5), bool), "not_numeric"),
        (np.array([["a", "b"]], dtype="S1"), "not_numeric"),
        (np.ones((12, 5), np.longdouble), "not_numeric"),
        (h5py.Empty("f4"), "empty"),
    ],
)
def test_other_content(tmp_path, values, reason):
    with pytest.raises(RejectedRecord, match=r"x\.h5") as error:
        read_hdf5(save(tmp_path, ecg=values), "ecg")
    assert error.value.reason == reason


@pytest.fixture
def outside(tmp_path):
    return save(tmp_path, "outside.h5", secret=ecg())


@pytest.mark.parametrize("named", [None, "ecg"])
def test_external_links_are_refused(tmp_path, outside, named):
    path = save(tmp_path, good=ecg())
    with h5py.File(path, "a") as file:
        file["ecg"] = h5py.ExternalLink(str(outside), "/secret")
    with pytest.raises(UnsafeInputError, match=r"x\.h5: 'ecg' leads to another file; refused"):
        read_hdf5(path, named)
    assert read_hdf5(path, "good").values.shape == (12, 300)


def test_soft_links_are_not_followed(tmp_path, outside):
    path = save(tmp_path, **{"group/good": ecg()})
    with h5py.File(path, "a") as file:
        file["alias"] = h5py.SoftLink("/group/good")
        file["nowhere"] = h5py.SoftLink("/nothing")
        file["away"] = h5py.ExternalLink(str(outside), "/")
        file["through"] = h5py.SoftLink("/away/secret")
    for name in ("alias", "nowhere", "through"):
        with pytest.raises(UnsafeInputError, match=f"'{name}' is a link"):
            read_hdf5(path, name)
    with pytest.raises(UnsafeInputError, match="leads to another file"):
        read_hdf5(path, "away/secret")
    with h5py.File(path, "a") as file:
        del file["away"]
    np.testing.assert_array_equal(read_hdf5(path).values, ecg())


def test_groups_that_contain_themselves(tmp_path):
    path = save(tmp_path, **{"a/b/ecg": ecg()})
    with h5py.File(path, "a") as file:
        file["a/b/up"] = file["a"]
        file["self"] = file["/"]
    np.testing.assert_array_equal(read_hdf5(path).values, ecg())


def test_virtual_datasets_are_refused(tmp_path, outside):
    layout = h5py.VirtualLayout(shape=(12, 300), dtype="f4")
    layout[:] = h5py.VirtualSource(outside, "secret", shape=(12, 300))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_virtual_dataset("ecg", layout)
    with pytest.raises(UnsafeInputError, match="'/ecg' keeps its data in other files; refused"):
        read_hdf5(tmp_path / "x.h5")


def test_external_storage_is_refused(tmp_path):
    (tmp_path / "raw.bin").write_bytes(ecg().tobytes())
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("ecg", (12, 300), "f4", external=[(str(tmp_path / "raw.bin"), 0, 12 * 300 * 4)])
    with pytest.raises(UnsafeInputError, match="keeps its data in other files"):
        read_hdf5(tmp_path / "x.h5")


@pytest.mark.parametrize("shape", [(1 << 31, 12), (12, 100_000_000), (1 << 40, 1 << 20)])
def test_huge_declared_shapes_are_refused(tmp_path, shape):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("ecg", shape, "f4", chunks=(12, 12), compression="gzip")
    with pytest.raises(UnsafeInputError, match=r"'/ecg' declares shape \(.* the file has \d+ bytes; refused"):
        read_hdf5(tmp_path / "x.h5")


def test_what_was_never_written_is_missing(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("all", (12, 1000), "f4")
        data = file.create_dataset("some", (12, 1000), "f4", chunks=(12, 100), compression="gzip")
        data[:, :500] = 1
    for name in ("all", "some"):
        with pytest.raises(RejectedRecord, match=f"signal_truncated: .*'/{name}' declares shape"):
            read_hdf5(tmp_path / "x.h5", name)


def test_unknown_filters_are_told_and_no_plugin_is_loaded(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((12, 100))
        plan.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (1, 2))  # Blosc
        h5py.h5d.create(file.id, b"ecg", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((12, 100)), plan).write(
            h5py.h5s.ALL, h5py.h5s.ALL, ecg(100)
        )
    with pytest.raises(RejectedRecord, match=r"format_unsupported: .*filter \[32001\]; save it again with gzip"):
        read_hdf5(tmp_path / "x.h5")


@pytest.mark.parametrize("content, reason", [(b"", "empty"), (b"hello" * 99, "file_corrupt")])
def test_files_that_are_no_hdf5(tmp_path, content, reason):
    (tmp_path / "x.h5").write_bytes(content)
    with pytest.raises(RejectedRecord, match=r"x\.h5") as error:
        read_hdf5(tmp_path / "x.h5")
    assert error.value.reason == reason
    with pytest.raises(RejectedRecord) as error:
        read_hdf5_bytes(content, "x.h5")
    assert error.value.reason == reason


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_truncated_file(tmp_path, share):
    data = save(tmp_path, ecg=ecg(3000)).read_bytes()
    (tmp_path / "x.h5").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(RejectedRecord, match=r"signal_truncated: .*x\.h5: \d+ bytes, fewer than the file says"):
        read_hdf5(tmp_path / "x.h5")


@pytest.mark.parametrize("options", [{}, {"chunks": (3, 100), "compression": "gzip"}])
def test_any_damage_is_read_or_told(options):
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_dataset("ecg", data=ecg(), **options)
    whole, rng = buffer.getvalue(), np.random.default_rng(3)
    outcomes = []
    for _ in range(120):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 6)):
            data[rng.integers(0, min(len(data), 5000))] = rng.integers(0, 256)
        try:
            outcomes.append(read_hdf5_bytes(bytes(data), "x.h5", "ecg").values.ndim > 0)
        except EcglmError as error:
            assert "x.h5" in str(error)
            assert "\n" not in str(error)
            outcomes.append(False)
    assert not all(outcomes)


def test_a_crash_or_a_hang_of_the_library_rejects_one_file(tmp_path, monkeypatch):
    path = save(tmp_path, ecg=ecg())
    for deed in (signal.SIGKILL, None):
        read_hdf5(path)
        child = hdf5._reader.process.pid
        monkeypatch.setattr(hdf5, "PATIENCE_S", 30.0 if deed else 0.3)
        os.kill(child, signal.SIGSTOP)
        if deed:
            threading.Timer(0.2, os.kill, (child, deed)).start()
        start = time.monotonic()
        with pytest.raises(RejectedRecord, match=r"file_corrupt: .*x\.h5: .*the HDF5 library failed on it"):
            read_hdf5(path)
        assert time.monotonic() - start < 10
        monkeypatch.setattr(hdf5, "PATIENCE_S", 30.0)
        np.testing.assert_array_equal(read_hdf5(path).values, ecg())  # by another process
        assert hdf5._reader.process.pid != child
        assert not os.path.exists(f"/proc/{child}") or not os.path.isdir("/proc")


def test_the_process_ends_with_the_one_that_started_it(tmp_path):
    code = (
        "import os; from pathlib import Path; from ecglm.records import hdf5; "
        f"hdf5.read_hdf5(Path({str(save(tmp_path, ecg=ecg()))!r})); print(hdf5._reader.process.pid, flush=True); "
        "os._exit(1)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    child = int(done.stdout)
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{child}") and time.monotonic() < deadline:
        with open(f"/proc/{child}/stat") as stat:
            if stat.read().rsplit(") ", 1)[1][0] == "Z":
                break
        time.sleep(0.05)
    else:
        assert not os.path.exists(f"/proc/{child}")


def test_a_module_in_the_working_folder_is_not_imported(tmp_path):
    (tmp_path / "h5py.py").write_text("raise SystemExit('hostile')")
    path = save(tmp_path, ecg=ecg())
    code = "import sys; from pathlib import Path; sys.path.remove(''); from ecglm.records.hdf5 import read_hdf5; "
    code += f"print(read_hdf5(Path({str(path)!r})).values.shape)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.stdout.strip() == "(12, 300)", done.stderr


def table(path, member=None):
    return Hdf5Table(path, member, "ids", "rows", (50, 2))


def rows(count):
    return np.random.default_rng(1).normal(size=(count, 50, 2)).astype(np.float32)


@pytest.mark.parametrize("options", [{}, {"chunks": (7, 50, 1), "compression": "gzip"}, {"chunks": (1, 25, 2)}])
@pytest.mark.parametrize("packed", [None, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_table_row_by_row(tmp_path, options, packed):
    path = save(tmp_path, ids=np.arange(20) * 3)
    with h5py.File(path, "a") as file:
        file.create_dataset("rows", data=rows(20), **options)
    found = table(path)
    if packed is not None:
        with zipfile.ZipFile(tmp_path / "x.zip", "w", packed) as archive:
            archive.write(path, "x.h5")
        path.unlink()
        found = table(tmp_path / "x.zip", "x.h5")
    assert found.read_ids().tolist() == list(range(0, 60, 3))
    for row in (0, 1, 19, 7, 6, 0):
        np.testing.assert_array_equal(found.read_row(row), rows(20)[row])
    copy = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(copy.read_row(3), rows(20)[3])
    hdf5._reader.stop()  # another process checks again, and goes on
    np.testing.assert_array_equal(found.read_row(3), rows(20)[3])
    assert list(tmp_path.iterdir()) == [found.path]  # nothing was unpacked onto the disk


@pytest.mark.parametrize(
    "datasets, message",
    [
        ({"ids": np.arange(4), "rows": rows(5)}, r"'ids' has shape \(4,\) and 'rows' \(5, 50, 2\); \(n,\) and"),
        ({"ids": np.arange(5), "rows": rows(5)[:, :, :1]}, r"'rows' \(5, 50, 1\)"),
        ({"ids": np.arange(5), "rows": rows(5).reshape(5, 100)}, r"'rows' \(5, 100\)"),
        ({"ids": np.arange(5)[:, None], "rows": rows(5)}, r"'ids' has shape \(5, 1\)"),
        ({"ids": np.arange(5.0), "rows": rows(5)}, r"'ids' is float64 of shape \(5,\)"),
        ({"ids": np.arange(5), "rows": rows(5).astype(int)}, r"'rows' int64; whole numbers and floating"),
        ({"ids": np.arange(5)}, "has no dataset 'rows'; it has: ids"),
        ({"rows": rows(5)}, "has no dataset 'ids'; it has: rows"),
    ],
)
def test_tables_that_are_none(tmp_path, datasets, message):
    with pytest.raises(EcglmError, match=rf"x\.h5: .*{message}"):
        table(save(tmp_path, **datasets)).read_ids()


def test_a_row_that_is_not_there(tmp_path):
    with pytest.raises(RejectedRecord, match="file_corrupt"):
        table(save(tmp_path, ids=np.arange(5), rows=rows(5))).read_row(5)


def test_a_file_that_was_written_anew_is_read_anew(tmp_path):
    found = table(save(tmp_path, ids=np.arange(5), rows=rows(5)))
    assert found.read_ids().tolist() == [0, 1, 2, 3, 4]
    save(tmp_path, ids=np.arange(5)[::-1], rows=rows(10)[5:])
    assert found.read_ids().tolist() == [4, 3, 2, 1, 0]
    np.testing.assert_array_equal(found.read_row(0), rows(10)[5])
    save(tmp_path, ids=np.ones((2, 3)), rows=np.arange(5))
    np.testing.assert_array_equal(read_hdf5(found.path).values, np.ones((2, 3)))
