from __future__ import annotations

import numpy as np
import pytest
import scipy.io

from ecglm.errors import EcglmError, RejectedRecord
from ecglm.records.formats import SUFFIXES, read
from ecglm.types import LEADS


@pytest.fixture
def ecg():
    """mV, float32 (12, 300): sines of about 1 mV peak to peak, another one in every lead."""
    phase = np.arange(300) / 50 + np.arange(12)[:, None]
    return (0.5 * np.sin(phase) + 0.01 * np.arange(12)[:, None]).astype(np.float32)


def save(tmp_path, values, name="x.npy"):
    np.save(tmp_path / name, values)
    return tmp_path / name


def test_npy_both_ways_round(tmp_path, ecg):
    for values in (ecg, ecg.T):
        record = read(save(tmp_path, values), rate=500, leads="standard", units="mV")
        np.testing.assert_array_equal(record.signal, ecg)
        assert record.signal.dtype == np.float32
        assert record.signal.flags.c_contiguous
        assert record.leads == LEADS
        assert record.sampling_rate == 500.0
        assert (record.record_id, record.patient_id, record.patient_known) == ("file/x", "file/x", False)
        assert record.metadata["notes"] == []


@pytest.mark.parametrize(
    "unit, factor, dtype, rtol",
    [
        ("mV", 1.0, np.float64, 1e-6),
        ("uV", 1e3, np.float32, 1e-6),
        ("uV", 1e3, np.float16, 1e-3),
        ("V", 1e-3, np.float64, 1e-6),
        ("V", 1e-3, ">f4", 1e-6),
    ],
)
def test_units(tmp_path, ecg, unit, factor, dtype, rtol):
    record = read(save(tmp_path, (ecg.astype(np.float64) * factor).astype(dtype)), 500, "standard", unit)
    np.testing.assert_allclose(record.signal, ecg, rtol=rtol, atol=1e-4 if dtype == np.float16 else 1e-7)
    assert record.metadata["notes"] == []


def test_integers_in_microvolt(tmp_path, ecg):
    counts = np.round(ecg * 1000).astype(np.int16)
    record = read(save(tmp_path, counts), 500, "standard", "uV")
    np.testing.assert_allclose(record.signal, counts / 1000, rtol=1e-6)


@pytest.mark.parametrize("unit", ["uV", "V"])
def test_wrong_units_are_noted(tmp_path, ecg, unit):
    assert read(save(tmp_path, ecg), 500, "standard", unit).metadata["notes"] == ["amplitude_implausible"]


def test_missing_samples_stay_missing(tmp_path, ecg):
    ecg[3] = np.nan
    ecg[4, 7] = np.nan
    record = read(save(tmp_path, ecg), 500, "standard", "mV")
    np.testing.assert_array_equal(record.signal, ecg)
    assert record.metadata["notes"] == []


@pytest.mark.parametrize(
    "options, message",
    [
        ({"leads": "standard", "units": "mV"}, "does not say its sampling rate; give --rate"),
        ({"rate": 500, "units": "mV"}, "does not say which leads it holds; give --leads standard .* or --leads "),
        ({"rate": 500, "leads": "standard"}, "does not say its units; give --units mV, uV or V"),
        ({"rate": 500, "leads": "standard", "units": "mmHg"}, "--units mmHg is unknown"),
        ({"rate": 0, "leads": "standard", "units": "mV"}, "--rate 0 is no sampling rate"),
        ({"rate": float("nan"), "leads": "standard", "units": "mV"}, "--rate nan is no sampling rate"),
        ({"rate": 500, "leads": "I,II", "units": "mV"}, r"shape \(12, 300\) has no axis of 2 leads"),
        ({"rate": 500, "leads": "I,II,VX", "units": "mV"}, "'VX' is no lead"),
    ],
)
def test_what_a_file_does_not_say_must_be_given(tmp_path, ecg, options, message):
    with pytest.raises(EcglmError, match=message) as error:
        read(save(tmp_path, ecg), **options)
    assert "x.npy" in str(error.value)
    assert "\n" not in str(error.value)


def test_other_numbers_of_leads_ask_for_names_only(tmp_path, ecg):
    with pytest.raises(EcglmError, match="give --leads with their names"):
        read(save(tmp_path, ecg[:3]), 500, units="mV")
    record = read(save(tmp_path, ecg[:3]), 500, "II,V1,aVR", "mV")
    assert record.leads == ("II", "V1", "aVR")
    np.testing.assert_array_equal(record.signal, ecg[:3])
    assert read(save(tmp_path, ecg[0]), 500, "II", "mV").signal.shape == (1, 300)


@pytest.mark.parametrize("shape", [(12, 12), (4, 12, 300), (12, 2, 300)])
def test_shapes_that_do_not_tell(tmp_path, shape):
    with pytest.raises(RejectedRecord) as error:
        read(save(tmp_path, np.ones(shape)), 500, "standard", "mV")
    assert error.value.reason == "shape_invalid"


@pytest.mark.parametrize("shape", [(12, 0), (0, 12), (0,), (0, 0)])
def test_no_samples(tmp_path, shape):
    with pytest.raises(RejectedRecord) as error:
        read(save(tmp_path, np.ones(shape)), 500, "standard", "mV")
    assert error.value.reason == "empty"


def test_npz_that_says_everything(tmp_path, ecg):
    np.savez(tmp_path / "x.npz", signal=ecg.T * 1000, rate=250.0, leads=[n.upper() for n in LEADS], units="uV")
    record = read(tmp_path / "x.npz")
    np.testing.assert_allclose(record.signal, ecg, rtol=1e-6)
    assert (record.sampling_rate, record.leads) == (250.0, LEADS)
    assert read(tmp_path / "x.npz", 250, "standard", "uV").leads == LEADS  # repeating it is no contradiction


@pytest.mark.parametrize(
    "options, message",
    [
        ({"rate": 500}, "says 250 Hz, --rate says 500"),
        ({"units": "mV"}, "says uV, --units says mV"),
        ({"leads": ",".join(reversed(LEADS))}, "says leads I,II,.*leave --leads out"),
    ],
)
def test_a_contradiction_is_an_error(tmp_path, ecg, options, message):
    np.savez(tmp_path / "x.npz", signal=ecg, rate=250.0, leads=LEADS, units="uV")
    with pytest.raises(EcglmError, match=message):
        read(tmp_path / "x.npz", **options)


@pytest.mark.parametrize(
    "facts, reason",
    [
        ({"units": "mmHg"}, "unit_unknown"),
        ({"rate": -1.0}, "sampling_rate_invalid"),
        ({"leads": ["I"] * 12}, "lead_duplicate"),
        ({"leads": [f"ch{i}" for i in range(12)]}, "lead_unknown"),
    ],
)
def test_npz_that_says_nonsense(tmp_path, ecg, facts, reason):
    np.savez(tmp_path / "x.npz", **{"signal": ecg, "rate": 250.0, "leads": LEADS, "units": "mV", **facts})
    with pytest.raises(RejectedRecord) as error:
        read(tmp_path / "x.npz")
    assert error.value.reason == reason


def write_csv(path, names, values, delimiter=","):
    lines = [delimiter.join(names)] if names else []
    lines += [delimiter.join(repr(float(v)) for v in row) for row in values]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_csv_with_names_in_any_order(tmp_path, ecg):
    order = [11, 3, 0, 1, 2, 4, 5, 6, 7, 8, 9, 10]
    names = ["Time", *(LEADS[i].lower() for i in order)]
    values = np.column_stack([np.arange(300) / 500, ecg[order].T])
    record = read(write_csv(tmp_path / "x.csv", names, values, ";"), rate=500, units="mV")
    assert record.leads == tuple(LEADS[i] for i in order)
    np.testing.assert_array_equal(record.signal, ecg[order])


def test_csv_of_twelve_rows_with_names_has_leads_in_columns(tmp_path, ecg):
    record = read(write_csv(tmp_path / "x.csv", LEADS, ecg[:, :12].T), rate=500, units="mV")
    np.testing.assert_array_equal(record.signal, ecg[:, :12])


def test_csv_without_names(tmp_path, ecg):
    path = write_csv(tmp_path / "x.csv", [], ecg.T)
    with pytest.raises(EcglmError, match="give --leads standard"):
        read(path, rate=500, units="mV")
    np.testing.assert_array_equal(read(path, 500, "standard", "mV").signal, ecg)


def test_csv_with_other_names_can_be_told_the_leads(tmp_path, ecg):
    path = write_csv(tmp_path / "x.csv", [f"ch{i}" for i in range(12)], ecg.T)
    with pytest.raises(RejectedRecord, match=r"lead_unknown: .*'ch0' is no lead.*give --leads"):
        read(path, rate=500, units="mV")
    assert read(path, 500, "standard", "mV").leads == LEADS


def test_csv_of_eleven_leads_is_read_as_it_is(tmp_path, ecg):
    record = read(write_csv(tmp_path / "x.csv", LEADS[:11], ecg[:11].T), rate=500, units="mV")
    assert record.leads == LEADS[:11]


def test_csv_without_rows(tmp_path):
    for text in ("", "I,II\n"):
        (tmp_path / "x.csv").write_text(text)
        with pytest.raises(RejectedRecord) as error:
            read(tmp_path / "x.csv", 500, None, "mV")
        assert error.value.reason == "empty"


@pytest.mark.parametrize("named", ["rec.hea", "rec.dat", "rec"])
def test_wfdb_by_any_of_its_names(tmp_path, write_record, counts, named):
    write_record(tmp_path, counts())
    record = read(tmp_path / named)
    np.testing.assert_array_equal(record.signal, (counts().T / 1000).astype(np.float32))
    assert record.record_id == "file/rec"


def test_names_with_dots_spaces_and_letters(tmp_path, write_record, ecg):
    write_record(tmp_path / "mäßige ecg", name="a.b")
    assert read(str(tmp_path / "mäßige ecg" / "a.b")).record_id == "file/a.b"
    assert read(save(tmp_path, ecg, "π x.y.npy"), 500, "standard", "mV").record_id == "file/π x.y"


def test_options_that_contradict_a_header(tmp_path, write_record):
    header = write_record(tmp_path)
    assert read(header, 500, "standard", "mV").leads == LEADS
    for options in ({"rate": 100}, {"units": "uV"}, {"leads": ",".join(reversed(LEADS))}):
        with pytest.raises(EcglmError, match="leave --"):
            read(header, **options)


def test_renamed_leads_of_a_header_can_be_told(tmp_path, write_record):
    header = write_record(tmp_path, leads=[f"ECG{i}" for i in range(12)])
    assert read(header).leads[0] == "ECG0"
    assert read(header, leads="standard").leads == LEADS


def test_what_is_not_there_or_not_known(tmp_path, ecg):
    with pytest.raises(EcglmError, match=r"no such file"):
        read(tmp_path / "none.hea")
    with pytest.raises(EcglmError, match="is a folder"):
        read(tmp_path)
    (tmp_path / "lonely.dat").write_bytes(bytes(24))
    with pytest.raises(EcglmError, match=r"its header lonely.hea is not beside it"):
        read(tmp_path / "lonely.dat")
    (tmp_path / "x.xml").write_text("<x/>")
    with pytest.raises(EcglmError, match=r"unknown kind of file; known: .hea, .npy"):
        read(tmp_path / "x.xml")


def test_another_record_of_the_same_name_is_not_taken_for_a_missing_array(tmp_path, write_record):
    write_record(tmp_path, name="x")
    with pytest.raises(EcglmError, match=r"x.csv: no such file"):
        read(tmp_path / "x.csv")


@pytest.mark.realdata
def test_the_same_ecg_in_every_format(shared, tmp_path):
    record = read(shared / "ptb-xl/records500/00000/00001_hr")
    for path in (save(tmp_path, record.signal), write_csv(tmp_path / "x.csv", record.leads, record.signal.T)):
        again = read(path, 500, "standard", "mV")
        np.testing.assert_array_equal(again.signal, record.signal)
        assert again.metadata["notes"] == []


def test_a_mat_file_is_read_through_its_header_where_it_has_one(tmp_path, write_record, counts):
    header = write_record(tmp_path, name="rec", data="rec.mat", fmt="16+24")
    scipy.io.savemat(tmp_path / "rec.mat", {"val": counts().T.copy()}, format="4")
    record = read(tmp_path / "rec.mat")
    assert record.sampling_rate == 500.0
    np.testing.assert_array_equal(record.signal, (counts().T / 1000).astype(np.float32))
    header.unlink()
    with pytest.raises(EcglmError, match=r"rec\.mat: does not say which leads it holds; give --leads standard"):
        read(tmp_path / "rec.mat")
    alone = read(tmp_path / "rec.mat", rate=500, leads="standard", units="uV")
    np.testing.assert_allclose(alone.signal, record.signal, rtol=1e-6)


def test_every_suffix_has_a_reader(tmp_path):
    assert {*SUFFIXES} - {".hea"} == {".npy", ".npz", ".csv", ".mat", ".h5", ".hdf5"}
    for suffix in SUFFIXES:
        (tmp_path / f"x{suffix}").write_bytes(b"")
        with pytest.raises(RejectedRecord):
            read(tmp_path / f"x{suffix}", 500, "standard", "mV")


def test_the_dataset_option_is_for_hdf5(tmp_path, ecg, write_record):
    with pytest.raises(EcglmError, match=r"x\.npy: --dataset is for HDF5 files"):
        read(save(tmp_path, ecg), 500, "standard", "mV", dataset="ecg")
    with pytest.raises(EcglmError, match=r"rec\.hea: --dataset is for HDF5 files"):
        read(write_record(tmp_path), dataset="ecg")
