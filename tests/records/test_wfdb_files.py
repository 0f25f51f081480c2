from __future__ import annotations

import numpy as np
import pytest
import scipy.io
import wfdb

from ecglm.errors import RejectedRecord, UnsafeInputError
from ecglm.records.wfdb_files import read_wfdb
from ecglm.records.wfdb_header import read_header


def reason(path, **options) -> str:
    with pytest.raises(RejectedRecord) as error:
        read_wfdb(path, "x", **options)
    assert "\n" not in str(error.value)
    return error.value.reason


def assert_as_wfdb(path) -> None:
    """Equal to the `wfdb` package's physical values, rounded once to float32 (one unit in the last place allowed)."""
    expected = wfdb.rdrecord(str(path.with_suffix("")), physical=True)
    record = read_wfdb(path, "x")
    assert record.signal.dtype == np.float32
    assert record.signal.flags.c_contiguous
    scale = np.array([{"mv": 1.0, "uv": 1e-3, "v": 1e3}[u.lower()] for u in expected.units])
    np.testing.assert_array_max_ulp(record.signal, (expected.p_signal * scale).T.astype(np.float32), maxulp=1)
    assert record.sampling_rate == expected.fs
    assert [lead.lower() for lead in record.leads] == [lead.lower() for lead in expected.sig_name]


@pytest.mark.parametrize(
    "fmt, low, high",
    [
        ("16", -32768, 32768),
        ("80", -128, 128),
        ("212", -2048, 2048),
        ("24", -(1 << 23), 1 << 23),
        ("32", -(1 << 30), 1 << 30),
    ],
)
@pytest.mark.parametrize("unit", ["mV", "uV", "V"])
def test_equal_to_the_wfdb_package(tmp_path, fmt, low, high, unit):
    rng = np.random.default_rng(3)
    leads = ["I", "II", "V1"]
    wfdb.wrsamp(
        "rec",
        fs=360,
        units=[unit] * 3,
        sig_name=leads,
        d_signal=rng.integers(low, high, size=(501, 3)),
        fmt=[fmt] * 3,
        adc_gain=[200.0, 1000.0, 123.456],
        baseline=[0, 1024, -37],
        write_dir=str(tmp_path),
    )
    assert_as_wfdb(tmp_path / "rec.hea")
    assert "checksum_mismatch" not in read_wfdb(tmp_path / "rec.hea", "x").metadata["notes"]


@pytest.mark.parametrize("fmt, dtype, shift", [("61", ">i2", 0), ("160", "<u2", 32768)])
def test_big_endian_and_offset_binary(tmp_path, write_record, counts, fmt, dtype, shift):
    data = counts()
    header = write_record(tmp_path, data, fmt=fmt)
    (tmp_path / "rec.dat").write_bytes((data.astype(np.int64) + shift).astype(dtype).tobytes())
    record = read_wfdb(header, "x", on_checksum="reject")
    np.testing.assert_array_equal(record.signal, (data.T / 1000).astype(np.float32))


def test_several_files_go_through_the_general_reader(tmp_path, write_record, counts):
    data = counts(num_leads=2)
    header = write_record(tmp_path, data, leads=("I", "II"))
    (tmp_path / "rec.dat").write_bytes(np.ascontiguousarray(data[:, 0]).tobytes())
    (tmp_path / "two.dat").write_bytes(np.ascontiguousarray(data[:, 1]).tobytes())
    lines = header.read_text().split("\n")
    header.write_text("\n".join([lines[0], lines[1], lines[2].replace("rec.dat", "two.dat"), ""]))
    record = read_wfdb(header, "x")
    np.testing.assert_array_equal(record.signal, (data.T / 1000).astype(np.float32))
    (tmp_path / "two.dat").write_bytes(b"")
    assert reason(header) == "signal_truncated"
    (tmp_path / "two.dat").unlink()
    assert reason(header) == "signal_missing"


@pytest.mark.parametrize(
    "gain, divisor, baseline",
    [("1000", 1000, 0), ("200.0(0)/mV", 200, 0), ("4.88(100)/uV", 4880, 100), ("1e6(-7)/V", 1000, -7)],
)
def test_gain_baseline_and_unit(tmp_path, write_record, counts, gain, divisor, baseline):
    data = counts()
    record = read_wfdb(write_record(tmp_path, data, gain=gain), "x")
    expected = (data.T.astype(np.float64) - baseline) / divisor
    np.testing.assert_allclose(record.signal, expected, rtol=1e-6)


def test_the_record_says_what_the_file_says(tmp_path, write_record):
    header = write_record(tmp_path, rate="62.5", record_line="rec 12 62.5 400 12:04:00 22/09/2182")
    record = read_wfdb(header, "somewhere/rec")
    assert record.record_id == record.patient_id == "somewhere/rec"
    assert not record.patient_known
    assert record.sampling_rate == 62.5
    assert record.metadata == {"notes": [], "recorded": "12:04:00 22/09/2182"}


def test_leads_keep_the_order_of_the_file_under_canonical_names(tmp_path, write_record, counts):
    data = counts()
    mimic = ("I", "II", "III", "AVR", "avf", "aVL", "v1", "V2", "V3", "V4", "V5", "V6")  # limb leads end with aVF, aVL
    record = read_wfdb(write_record(tmp_path, data, leads=mimic, gain="200.0(0)/mV"), "x")
    assert record.leads == ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")
    np.testing.assert_array_equal(record.signal[4], (data[:, 4] / 200).astype(np.float32))


def test_eleven_fifteen_and_renamed_leads_are_left_to_the_pipeline(tmp_path, write_record, counts):
    leads = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5")
    assert read_wfdb(write_record(tmp_path, leads=leads, name="eleven"), "x").leads == leads
    leads = (*leads, "V6", "vx", "vy", "chest 9")
    assert read_wfdb(write_record(tmp_path, leads=leads, name="fifteen"), "x").leads == leads


def test_missing_samples_are_nan_and_nothing_else_is_touched(tmp_path, write_record, counts):
    data = counts()
    data[10:20, 3] = -32768
    data[:, 5] = -32768
    record = read_wfdb(write_record(tmp_path, data), "x")
    expected = (data.T / 1000).astype(np.float32)
    expected[3, 10:20] = np.nan
    expected[5] = np.nan
    np.testing.assert_array_equal(record.signal, expected)
    assert record.metadata["notes"] == []


def test_checksum_and_initial_value(tmp_path, write_record, edit_header):
    header = write_record(tmp_path)
    edit_header(header, 3, 6, 1)
    assert read_wfdb(header, "x").metadata["notes"] == ["checksum_mismatch"]
    assert reason(header, on_checksum="reject") == "checksum_mismatch"
    header = write_record(tmp_path)
    edit_header(header, 1, 5, 12345)
    assert read_wfdb(header, "x").metadata["notes"] == ["checksum_mismatch"]
    header = write_record(tmp_path)
    data = bytearray((tmp_path / "rec.dat").read_bytes())
    data[1000] ^= 4
    (tmp_path / "rec.dat").write_bytes(data)
    assert read_wfdb(header, "x").metadata["notes"] == ["checksum_mismatch"]


def test_checksums_written_unsigned_agree(tmp_path, write_record, edit_header):
    header = write_record(tmp_path)
    for line in range(1, 13):
        edit_header(header, line, 6, int(header.read_text().split("\n")[line].split()[6]) % 65536)
    assert read_wfdb(header, "x", on_checksum="reject").metadata["notes"] == []


@pytest.mark.parametrize("gain, flagged", [("20/mV", True), ("1000/mV", False), ("1000/uV", True), ("100000/mV", True)])
def test_implausible_amplitudes_are_noted(tmp_path, write_record, gain, flagged):
    notes = read_wfdb(write_record(tmp_path, gain=gain), "x").metadata["notes"]
    assert notes == (["amplitude_implausible"] if flagged else [])


@pytest.mark.parametrize(
    "size, expected",
    [
        (0, "signal_truncated"),
        (24 * 400 - 24, "signal_truncated"),
        (24 * 400 - 1, "signal_truncated"),
        (24 * 400 + 1, "signal_size_mismatch"),
        (24 * 400 + 24, "signal_size_mismatch"),
    ],
)
def test_data_of_another_size(tmp_path, write_record, size, expected):
    header = write_record(tmp_path)
    (tmp_path / "rec.dat").write_bytes(bytes(size))
    assert reason(header) == expected


def test_data_missing_or_a_folder(tmp_path, write_record):
    header = write_record(tmp_path)
    (tmp_path / "rec.dat").unlink()
    assert reason(header) == "signal_missing"
    (tmp_path / "rec.dat").mkdir()
    assert reason(header) == "signal_missing"


def test_links_must_stay_in_the_folder(tmp_path, write_record):
    header = write_record(tmp_path / "in")
    data = tmp_path / "in" / "rec.dat"
    data.rename(tmp_path / "in" / "real.dat")
    data.symlink_to("real.dat")
    assert read_wfdb(header, "x").signal.shape == (12, 400)
    data.unlink()
    (tmp_path / "in" / "real.dat").rename(tmp_path / "outside.dat")
    data.symlink_to(tmp_path / "outside.dat")
    with pytest.raises(UnsafeInputError):
        read_wfdb(header, "x")


def test_matlab_version_4_equals_the_matlab_reading(tmp_path, write_record, counts):
    data = counts()
    header = write_record(tmp_path, data, fmt="16+24", data="rec.mat")
    scipy.io.savemat(tmp_path / "rec.mat", {"val": data.T}, format="4")
    record = read_wfdb(header, "x")
    np.testing.assert_array_equal(record.signal, (data.T / 1000).astype(np.float32))


def test_matlab_version_5_under_a_version_4_header(tmp_path, write_record, counts):
    data = counts()
    header = write_record(tmp_path, data, fmt="16+24", data="rec.mat")
    scipy.io.savemat(tmp_path / "rec.mat", {"val": data.T}, format="5")
    content = (tmp_path / "rec.mat").read_bytes()
    (tmp_path / "rec.mat").write_bytes(content[: 24 + 24 * 400].ljust(24 + 24 * 400, b"\0"))
    assert reason(header) == "format_unsupported"


@pytest.mark.realdata
def test_all_ptb_xl_records_agree_with_their_headers(ptb_xl):
    for rate, count, samples in ((100, 999, 1000), (500, 200, 5000)):
        headers = sorted(ptb_xl.glob(f"records{rate}/*/*.hea"))
        assert len(headers) == count
        for header in headers:
            record = read_wfdb(header, "x", on_checksum="reject")
            assert record.signal.shape == (12, samples)
            assert record.sampling_rate == rate
            assert record.leads == ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
            assert record.metadata["notes"] == []
            assert np.isfinite(record.signal).all()
            assert (np.ptp(record.signal, axis=1) > 0).all()  # no flat lead


@pytest.mark.realdata
@pytest.mark.parametrize(
    "pattern, step",
    [
        ("ptb-xl/records100/*/*.hea", 25),
        ("ptb-xl/records500/*/*.hea", 10),
        ("csn/**/*.hea", 6),
        ("cinc2020_2021/training/*/*.hea", 6),
        ("cinc2020_2021/training/ptb/*.hea", 1),
    ],
)
def test_real_records_equal_to_the_wfdb_package(shared, pattern, step):
    headers = [h for h in sorted(shared.glob(pattern))[::step] if h.stem not in ("HR00599", "HR20715")]
    assert headers
    for header in headers:
        assert_as_wfdb(header)


@pytest.mark.realdata
def test_all_challenge_and_csn_records_agree_with_their_headers(shared):
    headers = sorted([*shared.glob("csn/**/*.hea"), *shared.glob("cinc2020_2021/**/*.hea")])
    assert len(headers) == 60 + 103 + 8
    for header in headers:
        record = read_wfdb(header, "x", on_checksum="reject")
        assert np.isfinite(record.signal).all()


@pytest.mark.realdata
def test_challenge_ptb_xl_is_ptb_xl(shared):
    for number in range(1, 11):
        challenge = read_wfdb(shared / f"cinc2020_2021/training/ptb-xl/HR{number:05d}.hea", "x")
        original = read_wfdb(shared / f"ptb-xl/records500/00000/{number:05d}_hr.hea", "x")
        np.testing.assert_array_equal(challenge.signal, original.signal)


@pytest.mark.realdata
@pytest.mark.parametrize(
    "path",
    [
        "training/ptb-xl/HR00599",
        "training/ptb-xl/HR20715",
        "georgia_2020_header_quirk/E00015",
        "georgia_2020_header_quirk/E00018",
        "georgia_2020_header_quirk/E00793",
    ],
)
def test_known_wrong_gains(shared, path):
    file = shared / "cinc2020_2021" / f"{path}.hea"
    record = read_wfdb(file, "x")
    counts = scipy.io.loadmat(file.with_suffix(".mat"))["val"]
    np.testing.assert_array_equal(record.signal, (counts / 1000.0).astype(np.float32))
    assert "gain_overridden" in record.metadata["notes"]
    assert "amplitude_implausible" not in record.metadata["notes"]


@pytest.mark.realdata
def test_georgia_names_with_extension(shared):
    folder = shared / "cinc2020_2021/georgia_2020_header_quirk"
    headers = sorted(folder.glob("*.hea"))
    assert len(headers) == 8
    for header in headers:
        assert read_header(header).notes[0] == "header_name_has_extension"
