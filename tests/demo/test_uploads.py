"""Dropped files become an ECG, or one line that says what is wrong; what is hostile is not read."""

from __future__ import annotations

import io
import os
import shutil
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ecglm.demo.shown import Shown
from ecglm.demo.uploads import SUFFIXES, Limits, NeedsFacts, discard, each_ecg, read_upload
from ecglm.errors import EcglmError, RejectedRecord, UnsafeInputError
from ecglm.signals.pipeline import get_pipeline
from ecglm.types import LEADS

FACTS = {"rate": 500, "leads": "standard", "units": "mV"}


def ecg(seconds: float = 10, rate: int = 500) -> np.ndarray:
    """Something that every pipeline takes: (12, samples) in mV."""
    time = np.arange(int(seconds * rate)) / rate
    beat = np.exp(-0.5 * ((time % 0.8 - 0.3) / 0.012) ** 2)
    return (np.linspace(0.4, 1.5, 12)[:, None] * beat + 0.02 * np.sin(7 * time)).astype(np.float32)


def npy(values: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, values, allow_pickle=values.dtype.hasobject)
    return out.getvalue()


def wfdb(folder: Path, name: str = "r", data: str | None = None) -> tuple[Path, Path]:
    """A record of 12 leads, 10 s, 500 Hz; ``data``: what the header calls its data file."""
    counts = np.rint(ecg() * 1000).astype("<i2")
    (folder / f"{name}.dat").write_bytes(counts.T.tobytes())
    lines = [f"{name} 12 500 5000 12:33:59 12-May-2020"]
    for lead, row in zip(LEADS, counts, strict=True):
        checksum = int(row.astype(np.int64).sum()) & 0xFFFF
        lines.append(f"{data or name + '.dat'} 16 1000/mV 16 0 {row[0]} {checksum} 0 {lead}")
    (folder / f"{name}.hea").write_text("\n".join([*lines, "# Age: 63", "# patient 4711"]) + "\n")
    return folder / f"{name}.hea", folder / f"{name}.dat"


@pytest.fixture
def put(tmp_path):
    """Write one file into the upload folder."""

    def write(name: str, data: bytes) -> Path:
        place = tmp_path / f"u{len(list(tmp_path.iterdir()))}"
        place.mkdir()
        (place / name).write_bytes(data)
        return place / name

    return write


def refusal(paths: list[Path], folder: Path, **options: object) -> str:
    with pytest.raises(EcglmError) as caught:
        read_upload(paths, folder=folder, **options)  # type: ignore[arg-type]
    text = str(caught.value)
    assert "\n" not in text and str(folder) not in text and "--" not in text
    assert not list(folder.rglob("read-*"))
    return text


# --- what is read


@pytest.mark.parametrize("reverse", [False, True])
def test_a_wfdb_pair_in_any_order_and_from_any_folder_below(tmp_path, reverse):
    header, data = wfdb(tmp_path)
    (tmp_path / "other").mkdir()
    data = Path(shutil.move(data, tmp_path / "other"))
    shown = read_upload([data, header] if reverse else [header, data], folder=tmp_path)
    assert shown.name == "r.hea" and shown.segments.shape == (1, 12, 2500) and shown.record is not None
    np.testing.assert_allclose(shown.record.signal, ecg(), atol=5.1e-4)
    assert shown.record.sampling_rate == 500


def test_p23_nothing_of_a_header_but_the_signal_is_kept(tmp_path):
    record = read_upload(wfdb(tmp_path), folder=tmp_path).record
    assert record is not None and record.record_id == "upload"
    assert not record.metadata and not record.patient_id and not record.report


def test_a_data_file_whose_name_lost_odd_characters_on_the_way_is_found(tmp_path):
    header, data = wfdb(tmp_path, "r", data="r(1).dat")
    data = data.rename(tmp_path / "r1.dat")
    assert read_upload([header, data], folder=tmp_path).segments.shape == (1, 12, 2500)


def test_data_files_named_like_our_own_copies_are_not_mixed_up(tmp_path):
    """Two data files, one of which has the name that a copy might have."""
    header, data = wfdb(tmp_path, "r", data="2.dat")
    lines = header.read_text().split("\n")
    lines[7:13] = [line.replace("2.dat", "1.dat") for line in lines[7:13]]
    header.write_text("\n".join(lines))
    counts = np.frombuffer(data.read_bytes(), "<i2").reshape(-1, 12)
    (tmp_path / "2.dat").write_bytes(counts[:, :6].tobytes())
    (tmp_path / "1.dat").write_bytes(counts[:, 6:].tobytes())
    for order in (["r.hea", "2.dat", "1.dat"], ["1.dat", "2.dat", "r.hea"]):
        record = read_upload([tmp_path / n for n in order], folder=tmp_path).record
        assert record is not None
        np.testing.assert_allclose(record.signal, ecg(), atol=5.1e-4)


def test_p23_a_header_with_an_absurd_name_is_one_line(tmp_path):
    header, data = wfdb(tmp_path, "r", data=f"r{'(' * 400}.dat")
    assert "cannot be read" in refusal([header, data], tmp_path)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".mat", ".h5"])
def test_arrays_that_say_nothing_need_facts_and_are_read_with_them(put, tmp_path, suffix):
    out = io.BytesIO()
    if suffix == ".npy":
        np.save(out, ecg())
    elif suffix == ".npz":
        np.savez(out, ecg())
    elif suffix == ".csv":
        np.savetxt(out, ecg().T, delimiter=",", fmt="%.4f")
    elif suffix == ".mat":
        scipy.io.savemat(out, {"val": ecg()}, format="4")
    else:
        with h5py.File(out, "w") as file:
            file["ecg"] = ecg()
    path = put(f"x{suffix}", out.getvalue())
    with pytest.raises(NeedsFacts) as caught:
        read_upload([path], folder=tmp_path)
    assert caught.value.facts == ("rate", "leads", "units") and caught.value.num_leads == 12
    assert str(caught.value).startswith(f"x{suffix} does not say the sampling rate in Hz, the leads in their order and")
    with pytest.raises(NeedsFacts) as caught:
        read_upload([path], folder=tmp_path, rate=500, leads="standard")
    assert caught.value.facts == ("units",)
    shown = read_upload([path], folder=tmp_path, **FACTS)  # type: ignore[arg-type]
    assert shown.record is not None
    np.testing.assert_allclose(shown.record.signal, ecg(), atol=5.1e-5)
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name]


def test_a_table_with_lead_names_needs_the_rest_alone(put, tmp_path):
    rows = "\n".join(",".join(f"{v:.3f}" for v in row) for row in ecg().T)
    path = put("x.CSV", f"{','.join(LEADS)}\n{rows}\n".encode())
    with pytest.raises(NeedsFacts) as caught:
        read_upload([path], folder=tmp_path, units="mV")
    assert caught.value.facts == ("rate",)
    odd = put("y.csv", f"{','.join(f'c{n}' for n in range(12))}\n{rows}\n".encode())
    with pytest.raises(NeedsFacts) as caught:
        read_upload([odd], folder=tmp_path, units="mV", rate=500)
    assert caught.value.facts == ("leads",)


def test_a_file_that_says_all_needs_nothing_and_may_not_be_contradicted(put, tmp_path):
    out = io.BytesIO()
    np.savez(out, signal=ecg() * 1000, rate=500, units="uV", leads=np.array(LEADS))
    path = put("x.npz", out.getvalue())
    shown = read_upload([path], folder=tmp_path)
    assert shown.record is not None
    np.testing.assert_allclose(shown.record.signal, ecg(), rtol=1e-5, atol=1e-6)
    assert refusal([path], tmp_path, rate=250) == "x.npz: says 500 Hz, rate says 250; leave rate out"


def test_the_models_pipeline_cuts(tmp_path):
    pipeline = get_pipeline("default", rate=100, seg_len=400).config()
    shown = read_upload(wfdb(tmp_path), folder=tmp_path, pipeline=pipeline)
    assert shown.segments.shape == (2, 12, 400) and shown.titles() == ["0 to 4 s", "4 to 8 s"]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"])
def test_pictures_for_models_that_read_them(put, tmp_path, suffix):
    out = io.BytesIO()
    kind = {".jpg": "JPEG", ".tif": "TIFF"}.get(suffix, suffix[1:].upper())
    Image.new("RGB", (300, 200), (250, 240, 230)).save(out, kind)
    path = put(f"scan{suffix}", out.getvalue())
    shown = read_upload([path], folder=tmp_path, pictures=True)
    assert shown.picture is not None and shown.picture.shape == (200, 300, 3) and shown.segments.shape[0] == 0
    assert refusal([path], tmp_path) == (
        f"scan{suffix}: this model reads recordings, not pictures; give the ECG as a signal file"
    )


# --- what is not


def test_one_file_of_a_pair_says_which_is_missing(tmp_path):
    header, data = wfdb(tmp_path)
    assert refusal([header], tmp_path) == "r.hea: its data file r.dat is missing; drop both files together"
    assert refusal([data], tmp_path) == "r.dat: the header r.hea is missing; drop both files together"
    other = Path(shutil.copy(data, tmp_path / "q.dat"))
    assert "r.dat is missing" in refusal([header, other], tmp_path)
    assert refusal([header, data, other], tmp_path) == "r.hea: its data are in r.dat; drop the files of one ECG"


def test_several_ecgs_at_once_are_not_guessed_among(tmp_path, put):
    header, data = wfdb(tmp_path)
    one, two = put("a.npy", npy(ecg())), put("b.npy", npy(ecg()))
    for paths in ([one, two], [header, data, one], [*wfdb(tmp_path, "s"), header, data]):
        assert "more than one ECG" in refusal(paths, tmp_path)
    assert "at most 4" in refusal([one] * 5, tmp_path)
    assert refusal([], tmp_path) == "no file was dropped; give an ECG file"


@pytest.mark.parametrize(
    "name", ["../../secret.dat", "/etc/hosts", "~/x.dat", "C:\\x.dat", "a/b.dat", "r.hea", "R.HEA"]
)
def test_p23_a_header_cannot_name_data_elsewhere(tmp_path, name):
    (tmp_path / "secret.dat").write_bytes(b"0" * 120_000)
    (tmp_path / "in").mkdir()
    header, data = wfdb(tmp_path / "in", data=name)
    with pytest.raises(UnsafeInputError):
        read_upload([header, data], folder=tmp_path / "in")


def test_p23_only_plain_files_inside_the_folder_are_read(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir(), outside.mkdir()
    (outside / "x.npy").write_bytes(npy(ecg()))
    (inside / "d.npy").mkdir()
    os.symlink(outside / "x.npy", inside / "link.npy")
    os.symlink(outside, inside / "links")
    os.mkfifo(inside / "pipe.npy")
    (inside / "own").mkdir()
    (inside / "own" / "x.npy").write_bytes(npy(ecg()))
    os.symlink(inside / "own", inside / "round")
    hostile = [outside / "x.npy", inside / ".." / "out" / "x.npy", inside / "link.npy", inside / "links" / "x.npy"]
    hostile += [
        inside / "pipe.npy",
        inside / "d.npy",
        inside / "gone.npy",
        Path("a\0.npy"),
        inside,
        Path("/etc/passwd"),
    ]
    hostile += [Path("x.npy"), inside / "round" / "x.npy", Path("http://127.0.0.1/x.npy"), Path("file:///etc/x.npy")]
    for path in hostile:
        with pytest.raises(UnsafeInputError, match="not among the uploads"):
            read_upload([path], folder=inside, **FACTS)  # type: ignore[arg-type]
    read_upload([inside / "own" / "x.npy"], folder=inside, **FACTS)  # type: ignore[arg-type]


def test_p23_a_folder_that_is_itself_reached_over_a_link_works(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x.npy").write_bytes(npy(ecg()))
    os.symlink(tmp_path / "real", tmp_path / "tmp")
    for path in (tmp_path / "tmp" / "x.npy", tmp_path / "real" / "x.npy"):
        assert read_upload([path], folder=tmp_path / "tmp", **FACTS).segments.size  # type: ignore[arg-type]


def test_p23_sizes_are_looked_at_before_reading(tmp_path):
    with open(tmp_path / "x.npy", "wb") as file:
        file.truncate(2 << 30)  # 2 GB, none of it on the disk
    assert refusal([tmp_path / "x.npy"], tmp_path) == "x.npy: 2,147,483,648 bytes, at most 67,108,864 are read"
    with open(tmp_path / "x.csv", "wb") as file:
        file.truncate(17 << 20)
    assert "at most 16,777,216" in refusal([tmp_path / "x.csv"], tmp_path)
    (tmp_path / "e.npy").write_bytes(b"")
    assert "the file is empty" in refusal([tmp_path / "e.npy"], tmp_path)


def test_p23_a_recording_that_is_too_long_is_refused_by_its_header(tmp_path):
    header, data = wfdb(tmp_path)
    header.write_text(header.read_text().replace("12 500 5000", "12 500 40000000"))
    assert "at most 32,000,000" in refusal([header, data], tmp_path)
    (tmp_path / "x.npy").write_bytes(npy(ecg()))
    text = refusal([tmp_path / "x.npy"], tmp_path, **FACTS, limits=Limits(max_values=59_999))
    assert text == "x.npy: 60,000 samples of all leads, at most 59,999 are read"


def test_p23_objects_and_pickles_are_refused(put, tmp_path):
    objects = npy(np.array([{"a": 1}, print], dtype=object))
    out = io.BytesIO()
    np.savez(out, signal=np.array([{}], dtype=object))
    for name, data in (("x.npy", objects), ("x.npz", out.getvalue()), ("x.npy", b"\x80\x04K\x01.")):
        with pytest.raises(UnsafeInputError):
            read_upload([put(name, data)], folder=tmp_path, **FACTS)  # type: ignore[arg-type]


def test_p23_an_hdf5_file_cannot_lead_to_another(tmp_path):
    (tmp_path / "in").mkdir()
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["ecg"] = ecg()
    with h5py.File(tmp_path / "in" / "x.h5", "w") as file:
        file["signal"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "ecg")
    with h5py.File(tmp_path / "in" / "y.h5", "w") as file:
        layout = h5py.VirtualLayout((12, 5000), "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "ecg", (12, 5000))
        file.create_virtual_dataset("signal", layout)
    for name in ("x.h5", "y.h5"):
        with pytest.raises(UnsafeInputError, match="refused"):
            read_upload([tmp_path / "in" / name], folder=tmp_path / "in", **FACTS)  # type: ignore[arg-type]
    data = (tmp_path / "secret.h5").read_bytes()
    (tmp_path / "in" / "z.h5").write_bytes(data[: len(data) // 2])
    assert "z.h5" in refusal([tmp_path / "in" / "z.h5"], tmp_path / "in", **FACTS)


@pytest.mark.parametrize("name", ["x.svg", "x.html", "x.exe", "x", "x.npy.py", "x.zip", "x.pkl", "x.pt", "x.dcm"])
def test_p23_other_kinds_of_files_are_refused(put, tmp_path, name):
    with pytest.raises(UnsafeInputError, match="this kind of file is not read"):
        read_upload([put(name, b"x")], folder=tmp_path)


def test_p23_html_or_svg_named_png_is_refused_and_a_large_or_cut_picture_rejected(put, tmp_path):
    for data in (b"<html><script>alert(1)</script>", b"<svg xmlns='http://www.w3.org/2000/svg'/>"):
        assert "a web page or SVG" in refusal([put("x.png", data)], tmp_path, pictures=True)
    out = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(out, "PNG")
    assert len(out.getvalue()) < 100_000
    assert "10000 x 10000 pixels" in refusal([put("x.png", out.getvalue())], tmp_path, pictures=True)
    out = io.BytesIO()
    Image.effect_noise((100, 100), 50).save(out, "PNG")
    assert "damaged or cut short" in refusal([put("x.png", out.getvalue()[:90])], tmp_path, pictures=True)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (ecg() * np.nan, "nan"),
        (ecg() * 0, "flat"),
        (ecg(1), "too_short"),
        (ecg() * 1e5, "amplitude_overflow"),
        (np.zeros((12, 12)), "shape_invalid"),
        (np.zeros((2, 12, 5000)), "shape_invalid"),
        (np.zeros((12, 0)), "empty"),
        (np.zeros((12, 5000), "U3"), "not_numeric"),
    ],
)
def test_recordings_that_cannot_be_used_say_why(put, tmp_path, values, reason):
    path = put("x.npy", npy(values))
    with pytest.raises(RejectedRecord) as caught:
        read_upload([path], folder=tmp_path, **FACTS)  # type: ignore[arg-type]
    assert caught.value.reason == reason and caught.value.detail.count("x.npy") == 1


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"rate": 0}, "rate 0 is no sampling rate"),
        ({"rate": float("nan")}, "rate nan is no sampling rate"),
        ({"units": "parsec"}, "units parsec is unknown"),
        ({"leads": "I,II,Q"}, "'Q' is no lead"),
        ({"leads": "I,I"}, "lead I stands twice"),
        ({"leads": ""}, "'' is no lead"),
        ({"leads": "I,II,V1"}, "has no axis of 3 leads"),
    ],
)
def test_wrong_facts_say_which(put, tmp_path, facts, said):
    assert said in refusal([put("x.npy", npy(ecg()))], tmp_path, **{**FACTS, **facts})


def test_p23_names_are_made_harmless(put, tmp_path):
    path = put("a\u202egnp.<b>\n.npy", npy(ecg()))
    shown = read_upload([path], folder=tmp_path, **FACTS)  # type: ignore[arg-type]
    assert shown.name == "agnp.<b>_.npy"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=400), suffix=st.sampled_from([s for s in SUFFIXES if s not in (".h5", ".hdf5")]))
def test_p23_any_bytes_end_in_an_ecg_or_one_line(tmp_path, data, suffix):
    (tmp_path / f"x{suffix}").write_bytes(data)
    paths = [tmp_path / f"x{suffix}"]
    if suffix == ".dat":
        paths.append(wfdb(tmp_path, "y", "x.dat")[0])
    try:
        read_upload(paths, folder=tmp_path, pictures=True, **FACTS)  # type: ignore[arg-type]
    except EcglmError as error:
        assert "\n" not in str(error) and str(tmp_path) not in str(error)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 127), byte=st.integers(0, 255))
def test_p23_damaged_headers_of_arrays_end_in_one_line(tmp_path, at, byte):
    data = bytearray(npy(ecg()))
    data[at] = byte
    (tmp_path / "x.npy").write_bytes(bytes(data))
    try:
        read_upload([tmp_path / "x.npy"], folder=tmp_path, **FACTS)  # type: ignore[arg-type]
    except EcglmError as error:
        assert "\n" not in str(error)


def test_discard_removes_uploads_and_nothing_else(tmp_path):
    (tmp_path / "in").mkdir()
    mine, other = tmp_path / "in" / "x.npy", tmp_path / "y.npy"
    mine.write_bytes(b""), other.write_bytes(b"1")
    os.symlink(other, tmp_path / "in" / "z.npy")
    discard([mine, other, tmp_path / "in" / "z.npy", tmp_path / "in" / "gone.npy"], folder=tmp_path / "in")
    assert not mine.exists() and other.exists()


def test_uploads_read_at_once_do_not_meet(tmp_path):
    """Two visitors drop files of the same name in the same moment."""
    found: dict[int, Shown] = {}

    def drop(number: int) -> None:
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "x.npy").write_bytes(npy(ecg() * (1 + 0.1 * number)))
        found[number] = read_upload([folder / "x.npy"], folder=tmp_path, **FACTS)  # type: ignore[arg-type]

    threads = [threading.Thread(target=drop, args=(n,)) for n in range(6)]
    [t.start() for t in threads], [t.join() for t in threads]
    for number, shown in found.items():
        assert shown.record is not None
        np.testing.assert_allclose(shown.record.signal, ecg() * (1 + 0.1 * number), rtol=1e-6)


# --- real recordings


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("files", "facts", "num_segments", "rate"),
    [
        (["ptb-xl/records500/00000/00001_hr.dat", "ptb-xl/records500/00000/00001_hr.hea"], {}, 1, 500),
        (["ptb-xl/records100/00000/00009_lr.hea", "ptb-xl/records100/00000/00009_lr.dat"], {}, 1, 100),
        (["cinc2020_2021/training/georgia/E00001.mat", "cinc2020_2021/training/georgia/E00001.hea"], {}, 1, 500),
        (["cinc2020_2021/training/ptb/S0002.hea", "cinc2020_2021/training/ptb/S0002.mat"], {}, 11, 1000),
        (["cpsc2018/A1980.mat"], {}, None, 500),
        (["sph/SPH00001.h5"], FACTS, None, 500),
    ],
)
def test_real_files_of_every_format(shared, tmp_path, files, facts, num_segments, rate):
    paths = [Path(shutil.copy(shared / f, tmp_path)) for f in files]
    if facts:
        with pytest.raises(NeedsFacts):
            read_upload(paths, folder=tmp_path)
    shown = read_upload(paths, folder=tmp_path, **facts)
    assert shown.record is not None and shown.record.sampling_rate == rate
    assert num_segments is None or len(shown.segments) == num_segments
    assert 0.1 < np.ptp(shown.segments[0], axis=1).max() < 10
    assert any(row.name == "Heart rate" for row in shown.measurements())


@pytest.mark.realdata
def test_a_real_pair_from_two_records_says_what_is_missing(shared, tmp_path):
    names = ["00001_lr.hea", "00002_lr.dat"]
    paths = [Path(shutil.copy(shared / "ptb-xl/records100/00000" / n, tmp_path)) for n in names]
    assert refusal(paths, tmp_path) == "00001_lr.hea: its data file 00001_lr.dat is missing; drop both files together"


def test_the_files_of_one_drop_are_parted_by_ecg():
    def parted(*names: str) -> list[list[str]]:
        return [[p.name for p in group] for group in each_ecg([Path(name) for name in names])]

    assert parted("a.dat", "b.hea", "a.hea", "b.dat") == [["a.hea", "a.dat"], ["b.hea", "b.dat"]]
    assert parted("x.dat", "a.hea", "y.dat") == [["a.hea", "x.dat", "y.dat"]]  # one header: it names its data
    assert parted("a.mat", "b.hea") == [["b.hea", "a.mat"]]
    assert parted("a.hea", "a.mat", "c.mat", "d.npy", "e.csv") == [["a.hea", "a.mat"], ["c.mat"], ["d.npy"], ["e.csv"]]
    assert parted("a.hea", "b.hea", "c.dat") == [["a.hea"], ["b.hea"], ["c.dat"]]
    assert parted("a.npy", "b.npy") == [["a.npy"], ["b.npy"]]
