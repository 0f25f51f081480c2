from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecglm.errors import EcglmError, RejectedRecord, UnsafeInputError
from ecglm.records.wfdb_files import read_wfdb
from ecglm.records.wfdb_header import read_header

PLAIN = "rec 2 500 4\nrec.dat 16 1000.0(0)/mV 16 0 1 10 0 I\nrec.dat 16 1000.0(0)/mV 16 0 1 10 0 II\n"


def header_of(tmp_path, text, name="rec.hea"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def reason(path) -> str:
    with pytest.raises(RejectedRecord) as error:
        read_header(path)
    assert str(path) in error.value.detail
    assert "\n" not in str(error.value)
    return error.value.reason


def test_reads_every_field(tmp_path):
    text = (
        "rec 3 257.5/1000(0) 7 12-May-2020 12:33:59\n"
        "rec.dat 16+24 200(12)/uV 16 3 -5 -77 0 avr\n"
        "rec.dat 16x1+24 4.88e2/mV 12 1024\n".replace("1024\n", "1024 0 0 0 v6\n")
        + "other.dat 212 1000 16 0 1 10 0 lead X\n#Age: 74\n# Sex: Male\n"
    )
    header = read_header(header_of(tmp_path, text))
    assert (header.name, header.rate, header.num_samples) == ("rec", 257.5, 7)
    assert header.start == "12-May-2020 12:33:59"
    assert header.comments == ("Age: 74", "Sex: Male")
    first, second, third = header.signals
    assert (first.format, first.offset, first.gain, first.baseline, first.scale) == (16, 24, 200.0, 12, 1e-3)
    assert (first.init, first.checksum, first.lead) == (-5, -77, "aVR")
    assert (second.offset, second.gain, second.baseline, second.lead) == (24, 488.0, 1024, "V6")  # baseline: adc zero
    assert (third.format, third.gain, third.scale, third.lead) == (212, 1000.0, 1.0, "lead X")  # no unit: mV
    assert header.notes == ("data_file_name_differs",)


@pytest.mark.parametrize("unit, scale", [("mV", 1.0), ("mv", 1.0), ("MV", 1.0), ("uV", 1e-3), ("µV", 1e-3), ("V", 1e3)])
def test_units(tmp_path, unit, scale):
    header = read_header(header_of(tmp_path, PLAIN.replace("/mV", f"/{unit}")))
    assert [s.scale for s in header.signals] == [scale, scale]


@pytest.mark.parametrize(
    "date",
    ["12-May-2020 12:33:59", "12:04:00 22/09/2182", "2006", "", "yesterday at noon", "99:99:99 45/13/0000"],
)
def test_no_date_ever_fails(tmp_path, date):
    assert read_header(header_of(tmp_path, PLAIN.replace("500 4", f"500 4 {date}"))).start == date


def test_crlf_trailing_blanks_byte_order_mark_and_latin1_comments(tmp_path):
    plain = read_header(header_of(tmp_path, PLAIN))
    text = "\ufeff".encode() + PLAIN.replace("\n", "  \t\r\n").encode() + "\r\n# Müller\r\n".encode("latin-1")
    odd = read_header(header_of(tmp_path, text))
    assert odd.signals == plain.signals
    assert odd.num_samples == plain.num_samples
    assert odd.comments == ("Müller",)


@pytest.mark.parametrize(
    "old, new, expected",
    [
        ("rec 2 500 4", "", "sampling_rate_invalid"),
        ("rec 2 500 4", "rec 2 500", "header_corrupt"),
        ("rec 2 500 4", "rec 2 500 0", "header_corrupt"),
        ("rec 2 500 4", "rec 2 500 -4", "header_corrupt"),
        ("rec 2 500 4", "rec 0 500 4", "header_corrupt"),
        ("rec 2 500 4", "rec 3 500 4", "header_corrupt"),
        ("rec 2 500 4", "rec 1 500 4", "header_corrupt"),
        ("rec 2 500 4", "rec two 500 4", "header_corrupt"),
        ("rec 2 500 4", "rec 1000000 500 4", "header_corrupt"),
        ("rec 2 500 4", "rec 2 500 1000000000", "header_corrupt"),
        ("rec 2 500 4", "rec/2 2 500 4", "format_unsupported"),
        ("rec 2 500 4", "rec 2 0 4", "sampling_rate_invalid"),
        ("rec 2 500 4", "rec 2 -500 4", "sampling_rate_invalid"),
        ("rec 2 500 4", "rec 2 nan 4", "sampling_rate_invalid"),
        ("rec 2 500 4", "rec 2 inf 4", "sampling_rate_invalid"),
        ("rec 2 500 4", "rec 2 fast 4", "sampling_rate_invalid"),
        (" 16 1000.0(0)/mV 16 0 1 10 0 II", " 16", "gain_missing"),
        (" 16 1000.0(0)/mV 16 0 1 10 0 II", "", "header_corrupt"),
        ("1000.0(0)/mV", "0/mV", "gain_missing"),
        ("1000.0(0)/mV", "-1000/mV", "gain_missing"),
        ("1000.0(0)/mV", "nan/mV", "gain_missing"),
        ("1000.0(0)/mV", "1e-300/mV", "gain_missing"),
        ("1000.0(0)/mV", "1e400/mV", "gain_missing"),
        ("1000.0(0)/mV", "/mV", "gain_missing"),
        ("1000.0(0)/mV", "1000(99999999999)/mV", "header_corrupt"),
        ("1000.0(0)/mV", "1000/mmHg", "unit_unknown"),
        ("dat 16 ", "dat sixteen ", "header_corrupt"),
        ("dat 16 ", "dat 508 ", "format_unsupported"),
        ("dat 16 ", "dat 16x4 ", "format_unsupported"),
        ("dat 16 ", "dat 16:5 ", "format_unsupported"),
        ("16 0 1 10 0 II", "16 zero 1 10 0 II", "header_corrupt"),
        ("16 0 1 10 0 II", "16 0 1 10 0", "lead_unknown"),
    ],
)
def test_reasons(tmp_path, old, new, expected):
    assert old in PLAIN
    assert reason(header_of(tmp_path, PLAIN.replace(old, new))) == expected


def test_merged_lines_as_in_js01052(tmp_path):
    assert reason(header_of(tmp_path, PLAIN.replace("500 4\n", "500 4 26-Mar-2021 22:00:32 "))) == "header_corrupt"


def test_binary_missing_and_huge_headers(tmp_path):
    assert reason(header_of(tmp_path, b"\x7fELF\x00\x01\x02")) == "header_corrupt"
    assert reason(header_of(tmp_path, b"")) == "header_corrupt"
    assert reason(tmp_path / "none.hea") == "header_missing"
    (tmp_path / "folder.hea").mkdir()
    assert reason(tmp_path / "folder.hea") == "unreadable"
    huge = tmp_path / "huge.hea"
    with open(huge, "wb") as handle:
        handle.truncate(100 << 20)
    tracemalloc.start()
    try:
        assert reason(huge) == "header_corrupt"
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("samples", [300_000_000, 200_000_000])
def test_huge_declarations_are_rejected_before_allocation(tmp_path, samples):
    path = header_of(tmp_path, PLAIN.replace("500 4", f"500 {samples}"))
    (tmp_path / "rec.dat").write_bytes(bytes(16))
    tracemalloc.start()
    try:
        with pytest.raises(RejectedRecord) as error:
            read_wfdb(path, "x")
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert error.value.reason == ("header_corrupt" if samples > 250_000_000 else "signal_truncated")


@pytest.mark.parametrize(
    "name", ["../rec.dat", "/etc/passwd", "~/rec.dat", "~", "..", "sub/rec.dat", "C:rec.dat", "a\\rec.dat", "s3://x/y"]
)
def test_file_names_outside_the_folder_are_refused(tmp_path, name):
    with pytest.raises(UnsafeInputError, match="signal 1"):
        read_header(header_of(tmp_path, PLAIN.replace("rec.dat", name)))


def test_notes_of_names(tmp_path):
    assert read_header(header_of(tmp_path, PLAIN)).notes == ()
    with_extension = PLAIN.replace("rec 2", "rec.mat 2")
    assert read_header(header_of(tmp_path, with_extension)).notes == ("header_name_has_extension",)
    # As in CSN: S23074.hea names JS23074.mat.
    other = PLAIN.replace("rec 2", "JS23074 2").replace("rec.dat", "JS23074.mat")
    notes = read_header(header_of(tmp_path, other, "S23074.hea")).notes
    assert notes == ("header_name_differs", "data_file_name_differs")


@pytest.mark.parametrize(
    "name, gain, true",
    [
        ("E00015.mat", "4880/mV", 1000.0),
        ("E00018.mat", "4880/mV", 1000.0),
        ("E00793.mat", "4880/mV", 1000.0),
        ("HR00599", "200/mV", 1000.0),
        ("HR20715", "200/mV", 1000.0),
        ("E00015", "4880/mV", 4880.0),
        ("E00015.mat", "1000/mV", 1000.0),
        ("HR00600", "200/mV", 200.0),
        ("HR00599", "1000/mV", 1000.0),
    ],
)
def test_wrong_gains_are_overridden_by_name_and_value(tmp_path, name, gain, true):
    text = PLAIN.replace("rec 2", f"{name} 2").replace("1000.0(0)/mV", gain)
    header = read_header(header_of(tmp_path, text))
    assert {s.gain for s in header.signals} == {true}
    assert ("gain_overridden" in header.notes) == (f"{true:g}/mV" != gain)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_is_read_or_told(tmp_path, data):
    text = bytearray(PLAIN.encode())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
        if not text:
            break
    path = header_of(tmp_path, bytes(text))
    (tmp_path / "rec.dat").write_bytes(bytes(16))
    try:
        record = read_wfdb(path, "x")
    except EcglmError:
        return
    assert record.signal.shape[0] == len(record.leads)
