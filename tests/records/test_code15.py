"""CODE-15% as it is shipped (layout, dummy row, padding), rebuilt here, and the ten real exams; code15_exams.py too."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile

import h5py
import numpy as np
import pytest

from ecglm import registry
from ecglm.errors import EcglmError, RejectedRecord, UnsafeInputError
from ecglm.records.code15 import Code15
from ecglm.records.code15_exams import LABELS, read_exams
from ecglm.signals.pipeline import get_pipeline, preprocess
from ecglm.store.prepare import prepare
from ecglm.store.reader import SegmentStore
from ecglm.types import LEADS

COLUMNS = "exam_id,age,is_male,nn_predicted_age,1dAVb,RBBB,LBBB,SB,ST,AF,patient_id,death,timey,normal_ecg,trace_file"


def tracing(seed, start=581, stop=3515):
    """float32 (4096, 12): noise of a plausible size inside zero padding."""
    values = np.zeros((4096, 12), np.float32)
    values[start:stop] = np.random.default_rng(seed).normal(0, 0.3, (stop - start, 12))
    return values


def part(root, number, exams, **changes):
    """``exams_part{number}.hdf5`` of (exam id, tracing) pairs."""
    root.mkdir(exist_ok=True)
    datasets = {"exam_id": np.array([e for e, _ in exams]), "tracings": np.array([t for _, t in exams], np.float32)}
    with h5py.File(root / f"exams_part{number}.hdf5", "w") as file:
        for name, values in {**datasets, **changes}.items():
            if values is not None:
                file[name] = values


def row(exam, number, *, age="46", male="True", flags="FFFFFF", patient=None, death="", timey="", normal="False"):
    words = [{"T": "True", "F": "False"}.get(flag, flag) for flag in flags]
    cells = [exam, age, male, "40.1", *words, exam // 2 if patient is None else patient, death, timey, normal]
    return ",".join(map(str, [*cells, f"exams_part{number}.hdf5"]))


def table(root, rows, columns=COLUMNS):
    (root / "exams.csv").write_text("\n".join([columns, *rows]) + "\n")


@pytest.fixture
def root(tmp_path):
    """Three parts in which rows stand in another order than in the table; part 10 ends with the dummy row."""
    root = tmp_path / "code15"
    part(root, 2, [(70, tracing(70)), (5, tracing(5, 0, 4096))])
    part(root, 10, [(9, tracing(9)), (8, tracing(8, 0, 0)), (0, tracing(0, 0, 0))])
    rows = [row(9, 10, flags="FTFFFT", male="False", normal="True", death="True", timey="1.5"), row(5, 2), row(8, 10)]
    table(root, [*rows, row(70, 2, age="", patient="")])
    return root


def test_is_registered():
    assert registry.get("records", "code15") is Code15


def test_keys_follow_the_parts_and_their_rows(root):
    source = Code15(root=root)
    assert source.keys() == ["code15/70", "code15/5", "code15/9", "code15/8"]
    assert source.accounting() == {
        "not_on_disk": [],
        "no_metadata": [],
        "dummy_row": ["exams_part10.hdf5 row 2"],
        "other_trace_file": [],
    }


def test_a_record(root):
    record = Code15(root=root).read("code15/9")
    np.testing.assert_array_equal(record.signal, tracing(9).T)
    assert (record.signal.dtype, record.signal.flags.c_contiguous) == (np.float32, True)
    assert (record.record_id, record.sampling_rate, record.leads) == ("code15/9", 400.0, LEADS)
    assert (record.patient_id, record.patient_known) == ("code15/4", True)
    assert record.labels == ("code15:RBBB", "code15:AF")
    assert (record.report, record.report_en, record.fold, record.split) == ("", "", None, "")
    assert record.metadata == {
        "age": 46,
        "sex": "female",
        "normal_ecg": True,
        "death": True,
        "follow_up_years": 1.5,
        "unit_confidence": "nominal",
        "notes": [],
    }
    other = Code15(root=root).read("code15/70")
    assert (other.patient_id, other.patient_known, other.labels) == ("code15/70", False, ())
    assert (other.metadata["age"], other.metadata["sex"], other.metadata["death"]) == (None, "male", None)
    np.testing.assert_array_equal(Code15(root=root).read("code15/5").signal, tracing(5, 0, 4096).T)


def test_d30_dummy_row_and_padding_leave_no_trace_in_the_store(root, tmp_path):
    """No flat segment, no invented report: the dummy row is dropped, padding is trimmed, all zeros are a reject."""
    summary = prepare(
        Code15(root=root), get_pipeline("default", seg_len=1250), tmp_path / "store", max_reject=1.0, progress=False
    )
    assert (summary.num_keys, summary.reasons) == (4, {"empty": 1})
    assert summary.accounting["dummy_row"] == 1
    store = SegmentStore(tmp_path / "store")
    assert sorted(store.index["record_id"].to_pylist()) == ["code15/5", "code15/5", "code15/70", "code15/9"]
    assert set(store.index["report"].to_pylist()) == {""}
    for number in range(len(store)):
        assert (store[number].std(axis=1) > 0.01).all()
        edges = np.abs(store[number][:, [0, 1, 2, -3, -2, -1]])
        assert edges.max() > 0  # no padding at either end
    starts = dict(zip(store.index["segment_id"].to_pylist(), store.index["start_s"].to_pylist(), strict=True))
    assert starts["code15/9#0"] == pytest.approx(581 / 400)
    assert starts["code15/5#1"] == pytest.approx(5.0)


def test_d30_padding_of_2934_samples_ends_as_one_segment_of_5_s(root):
    segments = get_pipeline("default", seg_len=1250).run(Code15(root=root).read("code15/9"))
    assert segments.quality["duration_s"] == 2934 / 400
    assert segments.signal.shape == (1, 12, 1250)
    with pytest.raises(RejectedRecord, match="too_short"):
        get_pipeline("default", seg_len=2500).run(Code15(root=root).read("code15/9"))


def test_an_all_zero_exam_is_empty(root):
    with pytest.raises(RejectedRecord, match=r"empty: .*exams_part10\.hdf5, row 1: every sample is zero"):
        Code15(root=root).read("code15/8")


def test_samples_that_are_no_numbers_are_missing(root):
    values = tracing(9, 0, 4096)
    values[100, 3], values[200, 4] = np.nan, -np.inf
    part(root, 10, [(9, values), (8, np.full((4096, 12), np.nan))])
    record = Code15(root=root).read("code15/9")
    assert np.argwhere(np.isnan(record.signal)).tolist() == [[3, 100], [4, 200]]
    assert record.metadata["notes"] == ["infinite_samples"]
    with pytest.raises(RejectedRecord, match=r"nan|flat"):
        preprocess(Code15(root=root).read("code15/8"))


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("inside", ["", "data/"])
def test_zips_are_read_in_place_and_give_the_same(root, tmp_path, keep, inside):
    plain = Code15(root=root)
    records, facts = [plain.read(key) for key in plain.keys() if key != "code15/8"], plain.fingerprint()
    packed = tmp_path / "packed"
    shutil.copytree(root, packed)
    for number in (2, 10):
        file = packed / f"exams_part{number}.hdf5"
        with zipfile.ZipFile(file.with_suffix(".zip"), "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(file, inside + file.name)
        if not (keep and number == 2):
            file.unlink()
    before = sorted(packed.iterdir())
    source = Code15(root=packed)
    assert source.keys() == plain.keys()
    assert source.accounting() == plain.accounting()
    assert source.fingerprint() == facts
    for record in records:
        np.testing.assert_array_equal(source.read(record.record_id).signal, record.signal)
    assert sorted(packed.iterdir()) == before


def test_rows_without_a_file_and_files_without_a_row(root):
    part(root, 3, [(41, tracing(1)), (70, tracing(2))])
    with open(root / "exams.csv", "a") as file:
        file.write(
            row(42, 2) + "\n" + row(43, 17) + "\n" + row(44, 3).replace("exams_part3.hdf5", "../evil.hdf5") + "\n"
        )
    source = Code15(root=root)
    assert source.keys() == ["code15/70", "code15/5", "code15/9", "code15/8"]
    assert source.accounting() == {
        "not_on_disk": ["code15/42", "code15/43", "code15/44"],
        "no_metadata": ["code15/41"],
        "dummy_row": ["exams_part10.hdf5 row 2"],
        "other_trace_file": ["code15/70 in exams_part3.hdf5"],
    }
    np.testing.assert_array_equal(source.read("code15/70").signal, tracing(70).T)  # from part 2, as the table says
    with pytest.raises(EcglmError, match=r"code15/43 should lie in exams_part17\.hdf5, which is not there"):
        source.read("code15/43")


@pytest.mark.parametrize("key", ["code15/1", "code15/09", "ptb-xl/00001", "code15/", "code15/-9", "code15/" + "9" * 40])
def test_unknown_keys(root, key):
    with pytest.raises(EcglmError, match=r"exams\.csv: no row for .*keys look like code15/438277"):
        Code15(root=root).read(key)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"exam_id": np.array([9])}, r"'exam_id' has shape \(1,\) and 'tracings' \(2, 4096, 12\)"),
        ({"tracings": np.zeros((2, 12, 4096), np.float32)}, r"'tracings' \(2, 12, 4096\); \(n,\) and \(n, 4096, 12\)"),
        ({"tracings": np.zeros((2, 4096), np.float32)}, r"'tracings' \(2, 4096\)"),
        ({"tracings": np.ones((2, 4096, 12), np.int16)}, r"'tracings' int16"),
        ({"exam_id": np.array([9.0, 8.0])}, r"'exam_id' is float64"),
        ({"exam_id": np.array([9, 9])}, "exam_id 9 stands twice"),
        ({"exam_id": None}, "has no dataset 'exam_id'; it has: tracings"),
        ({"tracings": None}, "has no dataset 'tracings'"),
    ],
)
def test_a_part_that_is_something_else(root, changes, message):
    part(root, 10, [(9, tracing(9)), (8, tracing(8))], **changes)
    with pytest.raises(EcglmError, match=rf"exams_part10\.hdf5: .*{message}"):
        Code15(root=root).keys()


def test_a_damaged_part_is_told_at_once(root):
    file = root / "exams_part10.hdf5"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(
        EcglmError, match=r"exams_part10\.hdf5: 5000 bytes, fewer .*; download it again, or move it away"
    ):
        Code15(root=root).keys()
    file.rename(root / "exams_part10.zip")
    with pytest.raises(EcglmError, match=r"exams_part10\.zip: not a readable zip archive .*download it again"):
        Code15(root=root).keys()
    with zipfile.ZipFile(root / "exams_part10.zip", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    with pytest.raises(EcglmError, match=r"exams_part10\.zip: should hold one exams_part10\.hdf5, holds 0"):
        Code15(root=root).keys()


def test_external_links_are_refused(root, tmp_path):
    shutil.move(root / "exams_part10.hdf5", tmp_path / "elsewhere.h5")
    with h5py.File(root / "exams_part10.hdf5", "w") as file:
        file["exam_id"] = np.array([9, 8, 0])
        file["tracings"] = h5py.ExternalLink(str(tmp_path / "elsewhere.h5"), "/tracings")
    with pytest.raises(UnsafeInputError, match="'tracings' leads to another file"):
        Code15(root=root).keys()
    (root / "exams_part10.hdf5").unlink()
    (root / "exams_part10.hdf5").symlink_to(tmp_path / "elsewhere.h5")
    with pytest.raises(UnsafeInputError, match="leads outside its folder"):
        Code15(root=root).keys()


def test_damage_in_one_exam_rejects_that_exam(root):
    with h5py.File(root / "exams_part10.hdf5", "w") as file:
        file["exam_id"] = np.array([9, 8])
        values = np.array([tracing(9), tracing(8)])
        data = file.create_dataset("tracings", data=values, chunks=(1, 4096, 12), compression="gzip")
        info = data.id.get_chunk_info(1)
    content = bytearray((root / "exams_part10.hdf5").read_bytes())
    content[info.byte_offset + 1000 : info.byte_offset + 2000] = bytes(1000)
    (root / "exams_part10.hdf5").write_bytes(content)
    source = Code15(root=root)
    np.testing.assert_array_equal(source.read("code15/9").signal, tracing(9).T)
    with pytest.raises(RejectedRecord, match=r"file_corrupt: .*exams_part10\.hdf5"):
        source.read("code15/8")


def test_no_parts_no_table_no_folder(root, tmp_path):
    with pytest.raises(EcglmError, match=r"nowhere: no such folder; --root must hold exams\.csv and"):
        Code15(root=tmp_path / "nowhere").keys()
    (root / "exams.csv").unlink()
    with pytest.raises(EcglmError, match=r"exams\.csv: no such file; --root must hold"):
        Code15(root=root).keys()
    table(root, [row(77, 2)])
    with pytest.raises(EcglmError, match=r"none of the exams on disk has a row in exams\.csv"):
        Code15(root=root).keys()
    for file in root.glob("*.hdf5"):
        file.unlink()
    with pytest.raises(EcglmError, match=r"holds no exams_part\*\.hdf5"):
        Code15(root=root).keys()


def test_a_worker_gets_the_folder_only(root):
    source = Code15(root=root)
    source.keys()
    data = pickle.dumps(source)
    assert len(data) < 500
    copy = pickle.loads(data)
    assert copy == source
    assert copy is pickle.loads(data)
    np.testing.assert_array_equal(copy.read("code15/9").signal, source.read("code15/9").signal)


@pytest.mark.slow
def test_the_same_bytes_for_any_number_of_workers(root, tmp_path):
    part(root, 2, [(n, tracing(n)) for n in (70, 5, *range(100, 150))])
    with open(root / "exams.csv", "a") as file:
        file.writelines(row(n, 2) + "\n" for n in range(100, 150))
    pipeline = get_pipeline("default", seg_len=1250)
    for workers in (1, 2):
        out = tmp_path / f"store{workers}"
        prepare(Code15(root=root), pipeline, out, workers=workers, max_reject=1.0, progress=False)
    one, two = (json.loads((tmp_path / f"store{n}/manifest.json").read_text()) for n in (1, 2))
    assert one == two
    assert one["counts"]["records"] == 53


def test_the_fingerprint_is_about_content_and_not_about_place(root, tmp_path):
    first = Code15(root=root).fingerprint()
    json.dumps(first)
    shutil.copytree(root, tmp_path / "copy")
    assert Code15(root=tmp_path / "copy").fingerprint() == first
    part(tmp_path / "copy", 2, [(5, tracing(5)), (70, tracing(70))])
    assert Code15(root=tmp_path / "copy").fingerprint() != first


# exams.csv


def exams(root, *rows, columns=COLUMNS):
    root.mkdir(exist_ok=True)
    table(root, rows, columns)
    return read_exams(root / "exams.csv", "the mend")


def test_the_table_in_any_order_of_columns_and_with_quotes(tmp_path):
    (tmp_path / "exams.csv").write_bytes(
        b'\xef\xbb\xbf"trace_file", patient_id ,AF,ST,SB,LBBB,RBBB,1dAVb,is_male,age,exam_id,note\r\n'
        b'"exams_part1.hdf5", 7.0,true,0,1.0,False,False,False,True,45.5,12.0,"a, b\nc"\r\n'
        b"exams_part0.hdf5,8,0,0,0,0,0,0,,,3,\r\n"
    )
    found = read_exams(tmp_path / "exams.csv", "")
    assert found.exam_id.tolist() == [3, 12]
    assert found.patient.tolist() == [8, 7]
    assert [found.part(at) for at in (0, 1)] == ["exams_part0.hdf5", "exams_part1.hdf5"]
    assert found.labels.tolist() == [0, 1 << LABELS.index("AF") | 1 << LABELS.index("SB")]
    assert found.facts(1) == {"age": 45.5, "sex": "male", "normal_ecg": None, "death": None, "follow_up_years": None}
    assert found.facts(0)["age"] is None
    assert (found.find(12), found.find(4), found.find(99)) == (1, None, None)
    assert found.bad == {}


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"age": "old"}, "age 'old' is not a number"),
        ({"age": "nan"}, "age 'nan' is not a number"),
        ({"male": "yes"}, "is_male 'yes' is not True or False"),
        ({"flags": "FF?FFF"}, r"LBBB '\?' is not True or False"),
        ({"patient": "x"}, "patient_id 'x' is not a whole number"),
        ({"patient": "1.5"}, "patient_id '1.5' is not a whole number"),
        ({"patient": "-3"}, "patient_id '-3' is not a whole number"),
    ],
)
def test_a_bad_cell_rejects_that_exam_only(root, bad, message):
    table(root, [row(9, 10, **bad), row(5, 2)])
    source = Code15(root=root)
    assert source.keys() == ["code15/5", "code15/9"]
    assert source.read("code15/5").labels == ()
    with pytest.raises(RejectedRecord, match=rf"metadata_invalid: .*exams\.csv, exam_id 9: {message}"):
        source.read("code15/9")


@pytest.mark.parametrize(
    "rows, columns, message",
    [
        ([row(9, 1), row(9, 2)], COLUMNS, r"exams\.csv: exam_id 9 stands twice; keep one row"),
        ([row(9, 1).replace("9,", "x,", 1)], COLUMNS, r"row 1: exam_id 'x' is no whole number"),
        ([row(9, 1).replace("9,", ",", 1)], COLUMNS, r"row 1: exam_id '' is no whole number"),
        ([row(9, 1).replace("9,", "9.5,", 1)], COLUMNS, r"exam_id '9\.5' is no whole number"),
        ([row(9, 1), "1,2,3"], COLUMNS, r"exams\.csv: .*Expected 15 columns, got 3"),
        ([row(9, 1)], COLUMNS.replace("RBBB", "RBB"), r"column 'RBBB' is missing \(did you mean 'RBB'\?\); the mend"),
        ([row(9, 1)], COLUMNS.replace("LBBB", "RBBB"), r"column 'RBBB' stands twice"),
        ([], COLUMNS, r"exams\.csv: has no rows; the mend"),
        ([row(9, 1) + "\0"], COLUMNS, r"exams\.csv: holds binary data"),
    ],
)
def test_a_damaged_table(tmp_path, rows, columns, message):
    with pytest.raises(EcglmError, match=message):
        exams(tmp_path, *rows, columns=columns)


def test_any_damage_to_the_table_is_read_or_told(root):
    whole, rng = (root / "exams.csv").read_bytes(), np.random.default_rng(0)
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 5)):
            data[rng.integers(0, len(data))] = rng.integers(0, 256)
        (root / "exams.csv").write_bytes(data)
        try:
            source = Code15(root=root)
            for key in source.keys():
                assert source.read(key).signal.shape == (12, 4096)
        except EcglmError as error:
            assert "exams" in str(error)


def test_a_table_as_long_as_the_real_one_is_read_fast_and_kept_small(tmp_path):
    lines = [row(i * 7919 % 4000037 + 1, i // 20000) for i in range(0, 345_779)]
    found = exams(tmp_path, *lines)
    assert len(found) == 345_779
    arrays = [value for value in vars(found).values() if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in arrays) < 40 * 345_779
    at, known = found.find_all(np.array([1, 7920, 5]))
    assert known.tolist() == [True, True, 5 in found.exam_id]
    assert found.part(int(at[1])) == "exams_part0.hdf5"


# the real exams


@pytest.mark.realdata
def test_real_exams(shared):
    source = Code15(root=shared / "code15")
    keys = source.keys()
    assert keys == [
        f"code15/{exam}"
        for exam in (795649, 2657522, 1238362, 2754228, 438277, 358121, 2969044, 270272, 1594286, 975093)
    ]
    assert not any(source.accounting().values())
    expected = {795649: "ST", 2657522: "SB", 1238362: "SB", 2754228: "1dAVb", 438277: "1dAVb", 358121: "RBBB"}
    expected |= {2969044: "ST", 270272: "RBBB", 1594286: "RBBB", 975093: "1dAVb"}
    long = {2969044, 270272, 1594286, 975093}
    pipeline = get_pipeline("default", seg_len=1250)
    for key in keys:
        exam = int(key.split("/")[1])
        record = source.read(key)
        assert record.labels == (f"code15:{expected[exam]}",)
        assert record.patient_known
        assert record.metadata["unit_confidence"] == "nominal"
        alive = np.flatnonzero(record.signal.any(axis=0))
        assert (alive[0], alive[-1]) == ((0, 4095) if exam in long else (581, 3514))
        segments = pipeline.run(record)
        assert segments.quality["duration_s"] == (4096 if exam in long else 2934) / 400
        assert len(segments.signal) == (2 if exam in long else 1)
        one, two, three, avr = segments.signal[0, :4]
        assert np.median(np.abs(two - one - three)) < 0.05
        assert np.median(np.abs(avr + (one + two) / 2)) < 0.05


@pytest.mark.realdata
def test_the_golden_exam_is_read_as_the_original_was(shared):
    signal = Code15(root=shared / "code15").read("code15/438277").signal
    with np.load(shared / "golden" / "code15_438277.npz", allow_pickle=False) as golden:
        np.testing.assert_array_equal(signal.T, golden["input"])
