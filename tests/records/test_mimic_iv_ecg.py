from __future__ import annotations

import json
import pickle
import random
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ecglm import registry
from ecglm.errors import EcglmError, RejectedRecord, UnsafeInputError
from ecglm.records.mimic_iv_ecg import MimicIvEcg, join_report
from ecglm.records.mimic_tables import read_tables
from ecglm.records.tree import open_tree
from ecglm.signals.pipeline import get_pipeline
from ecglm.store.prepare import prepare
from ecglm.types import LEADS
from records.mimic_fixture import (
    MACHINE_COLUMNS,
    MIMIC_LEADS,
    NOTE_COLUMNS,
    RECORD_COLUMNS,
    Study,
    synthetic_counts,
    write_mimic,
)

#: Among them all the codes that mean missing, and an angle that is none.
ODD = (659, 0, -21846, 170.0, "", 518, 32767, -77, 400)
STUDIES = (
    Study(10000032, 40689238, notes=("10000032-EK-4", "10000032-EK-5")),
    Study(10000032, 44458630, lines=("Sinus rhythm.", "", "Possible left atrial abnormality ", "Borderline ECG;")),
    Study(10000117, 45090959, lines=(), measured=(29999,) * 9),
    Study(10000285, 41000001, machine=False),
    Study(10000285, 41000002, on_disk=False),
    Study(10000285, 41000003, row=False),
    Study(10000764, 40000017, lines=('Probable "early" repol, V2-V3',), measured=ODD),
)  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_mimic(tmp_path_factory.mktemp("mimic") / "mimic-iv-ecg", STUDIES)


@pytest.fixture(scope="module")
def source(root) -> MimicIvEcg:
    return registry.get("records", "mimic-iv-ecg")(root=root)


def key(study: int) -> str:
    return f"mimic-iv-ecg/{study}"


@pytest.mark.realdata
def test_the_fixture_has_the_official_columns(shared):
    for name, columns in (
        ("record_list", RECORD_COLUMNS),
        ("machine_measurements", MACHINE_COLUMNS),
        ("waveform_note_links", NOTE_COLUMNS),
    ):
        first = (shared / "mimic-iv-ecg" / f"{name}.csv").read_text().splitlines()[0]
        assert tuple(first.split(",")) == columns


@pytest.mark.realdata
def test_the_official_tables_are_read(shared):
    tables = read_tables(open_tree(shared / "mimic-iv-ecg"))
    assert tables.study.tolist() == [40689238]
    assert tables.subject.tolist() == [10000032]
    row = tables.row(40689238)
    assert tables.report_lines(row) == ["Sinus rhythm", "Possible right atrial abnormality", "Borderline ECG"]
    assert tables.measurements(row) == {
        **{"rr_interval": 659, "p_onset": 40, "p_end": 128, "qrs_onset": 170, "qrs_end": 258, "t_end": 518},
        **{"p_axis": 81, "qrs_axis": 77, "t_axis": 79},
    }
    assert tables.note_ids(40689238) == ["10000032-EK-4"]
    assert tables.row(1) == tables.row(99999999) == -1


def test_keys_and_accounting_add_up(source):
    assert source.keys() == [key(s) for s in (40689238, 44458630, 45090959, 41000001, 40000017)]
    assert source.accounting() == {
        "no_metadata": [key(41000003)],
        "not_on_disk": [key(41000002)],
        "no_report": [key(45090959), key(41000001)],
    }
    assert source.version() == "unknown"


def test_the_record_says_what_tables_and_header_say(source):
    record = source.read(key(40689238))
    assert record.signal.shape == (12, 5000)
    assert record.signal.dtype == np.float32
    assert record.sampling_rate == 500
    assert record.leads == MIMIC_LEADS  # the file's order, by the names of its header
    np.testing.assert_array_equal(record.signal, (synthetic_counts(0).T / 200).astype(np.float32))
    assert record.patient_id == "mimic-iv-ecg/10000032"
    assert record.patient_known
    assert (record.report, record.report_en, record.report_origin) == (
        *["Sinus rhythm. Borderline ECG"] * 2,
        "original",
    )
    assert record.metadata == {
        "notes": [],
        "recorded": "08:44:00 23/07/2180",
        "ecg_time": "2180-07-23 08:44:00",
        "cart_id": "6848296",
        "bandwidth": "0.005-150 Hz",
        "filtering": "60 Hz notch Baseline filter",
        "measurements": dict(
            zip(MACHINE_COLUMNS[-9:], (800, 40, 150, 190, 280, 560, 50, 30, 40), strict=True)
        ),
        "note_ids": ["10000032-EK-4", "10000032-EK-5"],
    }  # fmt: skip
    json.dumps(record.metadata, allow_nan=False)


def test_reports_are_joined_as_asked(source, root):
    second = "Sinus rhythm. Possible left atrial abnormality. Borderline ECG"
    assert source.read(key(44458630)).report == second
    original = MimicIvEcg(root=root, report_separator="original")
    assert original.read(key(44458630)).report == "Sinus rhythm. Possible left atrial abnormality Borderline ECG;"
    assert MimicIvEcg(root=root, report_separator="; ").read(key(40689238)).report == "Sinus rhythm; Borderline ECG"
    assert source.read(key(40000017)).report == 'Probable "early" repol, V2-V3'
    assert source.fingerprint() != original.fingerprint()


@pytest.mark.parametrize(
    "lines, separator, text",
    [
        ([], ". ", ""),
        (["a.", "b"], ". ", "a. b"),
        (["a", ".", "b ,;:. "], ". ", "a. b"),
        (["(a)", "b?"], ". ", "(a). b?"),
        (["a.", "b."], "original", "a. b."),
        (["a.", "b."], "\n", "a\nb"),
    ],
)
def test_join_report(lines, separator, text):
    assert join_report(lines, separator) == text


def test_d31_a_row_with_an_empty_report_survives(source):
    for study in (45090959, 41000001):  # no statements; no row of the machine at all
        record = source.read(key(study))
        assert record.signal.shape == (12, 5000)
        assert (record.report, record.report_en, record.report_origin) == ("", "", "")
        assert record.metadata["notes"] == ["no_report"]
        assert record.metadata["measurements"] == {}
        assert record.patient_id.startswith("mimic-iv-ecg/1000")


def test_codes_that_mean_missing_are_left_out(source):
    measured = source.read(key(40000017)).metadata["measurements"]
    assert measured == {"rr_interval": 659, "qrs_onset": 170, "t_end": 518, "qrs_axis": -77}


def test_d03_limb_leads_come_out_in_one_order_whatever_the_file_has(tmp_path):
    """The same ECG in MIMIC's order, in the standard order and shuffled gives the same segments."""
    counts = synthetic_counts(3)
    root = write_mimic(tmp_path, [Study(10000032, 40689238, counts=counts)])
    pipeline = get_pipeline("default")
    expected = pipeline.run(MimicIvEcg(root=root).read(key(40689238)))
    header, data = (root / f"{STUDIES[0].path}{suffix}" for suffix in (".hea", ".dat"))
    lines = header.read_text().splitlines()
    for order in (list(range(11, -1, -1)), [MIMIC_LEADS.index(lead) for lead in LEADS]):
        header.write_text("\n".join([lines[0], *(lines[1 + i] for i in order), lines[-1], ""]))
        data.write_bytes(np.ascontiguousarray(counts[:, order]).tobytes())
        record = MimicIvEcg(root=root, on_checksum="reject").read(key(40689238))
        assert record.leads == tuple(MIMIC_LEADS[i] for i in order)
        np.testing.assert_array_equal(pipeline.run(record).signal, expected.signal)
    raw = counts.astype(np.float64)
    by_name = dict(zip(MIMIC_LEADS, raw.T, strict=True))
    assert np.abs(by_name["aVL"] - (by_name["I"] - by_name["III"]) / 2).max() <= 1.5  # counts: rounding alone
    assert np.abs(by_name["aVF"] - (by_name["II"] + by_name["III"]) / 2).max() <= 1.5


def test_missing_samples_are_nan_and_never_zero(tmp_path):
    counts = synthetic_counts(1)
    counts[100:150, 2] = -32768
    counts[:, 7] = -32768
    record = MimicIvEcg(root=write_mimic(tmp_path, [Study(10000032, 40689238, counts=counts)])).read(key(40689238))
    assert np.isnan(record.signal[2, 100:150]).all()
    assert np.isnan(record.signal[7]).all()
    assert np.isnan(record.signal).sum() == 50 + 5000
    store = prepare(
        MimicIvEcg(root=tmp_path), get_pipeline("default"), tmp_path / "store", progress=False, max_reject=1
    )
    del store
    rejects = [json.loads(line) for line in (tmp_path / "store" / "rejects.jsonl").read_text().splitlines()]
    assert [r["record_id"] for r in rejects] == [key(40689238)]  # a lead without any sample is no ECG


@pytest.mark.parametrize(
    "comment, reason",
    [
        ("#<subject_id>: 10000032", None),
        ("# subject_id: 10000032", None),
        ("#10000032: ECG", None),
        ("#something else", None),
        ("#<subject_id>: 10000033", "subject_mismatch"),
        ("#10000033: ECG", "subject_mismatch"),
    ],
)
def test_header_and_table_must_name_one_patient(tmp_path, comment, reason):
    source = MimicIvEcg(root=write_mimic(tmp_path, [replace(STUDIES[0], comment=comment)]))
    if reason is None:
        assert source.read(key(40689238)).patient_id == "mimic-iv-ecg/10000032"
    else:
        with pytest.raises(RejectedRecord) as error:
            source.read(key(40689238))
        assert error.value.reason == reason


def test_both_tables_must_name_one_patient(tmp_path):
    root = write_mimic(tmp_path, STUDIES[:1])
    table = root / "machine_measurements.csv"
    table.write_text(table.read_text().replace("10000032,", "10000099,"))
    with pytest.raises(RejectedRecord, match="subject_mismatch"):
        MimicIvEcg(root=root).read(key(40689238))


@pytest.mark.parametrize("date", ["2205-13-45 99:99", "", "2100-01-01 00:00:00"])
def test_odd_dates_are_kept_as_text(tmp_path, date):
    record = MimicIvEcg(root=write_mimic(tmp_path, [replace(STUDIES[0], time=date)])).read(key(40689238))
    assert record.metadata["ecg_time"] == (date or None)
    assert record.metadata["recorded"] == "08:44:00 23/07/2180"


def test_latin1_letters_quotes_and_newlines_in_cells(tmp_path):
    lines = ("Sinus rhythm – é", 'a "quoted", line', "two\nlines")
    for encoding, expected in (("utf-8", "Sinus rhythm – é"), ("utf-8-sig", "Sinus rhythm – é"), ("latin-1", "é")):
        study = replace(STUDIES[0], lines=lines if encoding != "latin-1" else ("é", *lines[1:]))
        source = MimicIvEcg(root=write_mimic(tmp_path / encoding, [study], encoding=encoding))
        assert source.read(key(40689238)).report == f'{expected}. a "quoted", line. two lines'


@pytest.mark.parametrize(
    "table, edit, word",
    [
        ("record_list.csv", None, "--root"),
        ("machine_measurements.csv", None, "--root"),
        ("record_list.csv", ("study_id", "studyid"), "study_id"),
        ("machine_measurements.csv", ("qrs_axis", "qrs"), "qrs_axis"),
        ("machine_measurements.csv", ("report_", "line_"), "report_0"),
        ("record_list.csv", ("44458630,44458630", "40689238,40689238"), "twice"),
        ("machine_measurements.csv", ("44458630", "40689238"), "twice"),
        ("record_list.csv", ("10000032,40689238", "x,40689238"), "subject_id"),
        ("record_list.csv", ("10000032,40689238", ",40689238"), "empty"),
        ("machine_measurements.csv", ("659", "fast"), "fast"),
        ("machine_measurements.csv", ("6848296", "6848296,7"), "columns"),
    ],
)
def test_a_broken_table_is_one_clear_line(tmp_path, table, edit, word):
    root = write_mimic(tmp_path, STUDIES)
    path = root / table
    if edit is None:
        path.unlink()
    else:
        text = path.read_text()
        assert edit[0] in text
        path.write_text(text.replace(*edit))
    with pytest.raises(EcglmError) as error:
        MimicIvEcg(root=root).keys()
    assert word in str(error.value) and table in str(error.value) and "\n" not in str(error.value)


def test_the_links_to_notes_may_be_absent(tmp_path):
    root = write_mimic(tmp_path, STUDIES[:1])
    (root / "waveform_note_links.csv").unlink()
    assert MimicIvEcg(root=root).read(key(40689238)).metadata["note_ids"] == []


def test_a_path_that_leads_outside_is_refused(tmp_path):
    root = write_mimic(tmp_path / "in", STUDIES[:2])
    table = root / "record_list.csv"
    table.write_text(table.read_text().replace(STUDIES[0].path, "../" + STUDIES[0].path))
    with pytest.raises(UnsafeInputError):
        MimicIvEcg(root=root).keys()
    with pytest.raises(UnsafeInputError):
        MimicIvEcg(root=root).read(key(40689238))


def test_unknown_keys_and_options(source, root):
    for bad in ("mimic-iv-ecg/1", "mimic-iv-ecg/x", "40689238", "ptb-xl/00001"):
        with pytest.raises(EcglmError, match="keys look like"):
            source.read(bad)
    with pytest.raises(EcglmError, match="on_checksum"):
        MimicIvEcg(root=root, on_checksum="maybe")
    with pytest.raises(EcglmError, match="files/"):
        MimicIvEcg(root=_tables_only(root)).keys()


def _tables_only(root: Path) -> Path:
    bare = root.parent / "bare"
    bare.mkdir()
    for table in root.glob("*.csv"):
        (bare / table.name).write_bytes(table.read_bytes())
    return bare


def test_the_official_zip_is_the_folder(source, root, tmp_path):
    with zipfile.ZipFile(tmp_path / "mimic-iv-ecg-1.0.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(root.rglob("*.*")):
            archive.write(file, f"mimic-iv-ecg-1.0/{file.relative_to(root)}")
    packed = MimicIvEcg(root=tmp_path / "mimic-iv-ecg-1.0.zip")
    assert packed.keys() == source.keys()
    assert packed.accounting() == source.accounting()
    assert packed.fingerprint() == source.fingerprint()
    for name in source.keys():
        one, other = packed.read(name), source.read(name)
        np.testing.assert_array_equal(one.signal, other.signal)
        assert replace(one, signal=None) == replace(other, signal=None)


def test_a_worker_gets_the_options_and_reads_the_tables_once(source):
    data = pickle.dumps(source)
    assert len(data) < 1000
    first, second = pickle.loads(data), pickle.loads(data)
    assert first is second
    assert first.read(key(40689238)).report == source.read(key(40689238)).report


def test_prepared_with_two_workers_as_with_one(root, source, tmp_path):
    pipeline = get_pipeline("default")
    for workers in (1, 2):
        prepare(source, pipeline, tmp_path / str(workers), workers=workers, progress=False)
    one, two = (pq.read_table(tmp_path / name / "index.parquet") for name in ("1", "2"))
    assert one.equals(two)
    assert sorted(set(one["record_id"].to_pylist())) == sorted(source.keys())
    assert (tmp_path / "1/shards/00000.i16").read_bytes() == (tmp_path / "2/shards/00000.i16").read_bytes()


def test_damaged_tables_are_read_or_told(root, tmp_path):
    """300 mutations of the three tables: keys and records, or one clear line."""
    rng = random.Random(3)
    place = tmp_path / "in"
    shutil.copytree(root, place)
    for _ in range(300):
        name = rng.choice(("record_list.csv", "machine_measurements.csv", "waveform_note_links.csv"))
        data = bytearray((root / name).read_bytes())
        for _ in range(rng.randrange(1, 5)):
            at = rng.randrange(len(data))
            data[at : at + rng.randrange(4)] = rng.choice((b"", b",", b'"', b"\n", b"\0", b"\xff", b"../", b"9"))
        (place / name).write_bytes(data)
        source = MimicIvEcg(root=place)
        try:
            for one in source.keys()[:2]:
                assert source.read(one).signal.shape == (12, 5000)
        except EcglmError as error:
            assert "\n" not in str(error)
        (place / name).write_bytes((root / name).read_bytes())
