from __future__ import annotations

import json
import shutil

import h5py
import numpy as np
import pytest
import scipy.io

from ecglm import registry
from ecglm.errors import EcglmError, RejectedRecord, UnsafeInputError
from ecglm.records.folder import Folder
from ecglm.types import LEADS


def ecg(seed=0, num_samples=300):
    return np.random.default_rng(seed).normal(0, 0.3, size=(12, num_samples)).astype(np.float32)


@pytest.fixture
def own(tmp_path, write_record):
    """A user's folder: a WFDB record, an array and a table in a subfolder, and things that are no ECG."""
    root = tmp_path / "own"
    write_record(root, name="b")
    np.save(root / "a.npy", ecg(1))
    (root / "sub folder").mkdir()
    rows = [",".join(LEADS), *(",".join(map(repr, map(float, r))) for r in ecg(2).T)]
    (root / "sub folder" / "c.CSV").write_text("\n".join(rows))
    (root / "notes.txt").write_text("no ECG")
    (root / ".hidden").mkdir()
    (root / ".hidden" / "x.npy").write_bytes(b"")
    (root / "._a.npy").write_bytes(b"")
    return root


def read_all(source):
    keys = source.keys()
    return [source.read(key) for key in keys]


OPTIONS = {"rate": 500.0, "leads": "standard", "units": "mV"}


def test_is_registered():
    assert registry.get("records", "folder") is Folder


def test_everything_readable_is_found(own, counts):
    source = Folder(root=own, **OPTIONS)
    assert source.keys() == ["folder/a", "folder/b", "folder/sub folder/c"]
    assert source.accounting() == {"not_on_disk": [], "no_header": []}
    a, b, c = read_all(source)
    np.testing.assert_array_equal(a.signal, ecg(1))
    np.testing.assert_array_equal(b.signal, (counts().T / 1000).astype(np.float32))
    np.testing.assert_array_equal(c.signal, ecg(2))
    for record, key in zip((a, b, c), source.keys(), strict=True):
        assert (record.record_id, record.patient_id, record.patient_known) == (key, key, False)
        assert (record.fold, record.split, record.report, record.labels) == (None, "", "", ())
        assert record.leads == LEADS


def test_options_are_for_files_that_do_not_say(own):
    source = Folder(root=own, rate=100.0, leads="standard", units="mV")
    assert [r.sampling_rate for r in read_all(source)] == [100.0, 500.0, 100.0]
    with pytest.raises(EcglmError, match=r"a.npy: does not say its sampling rate; give --set rate=… in Hz"):
        Folder(root=own, leads="standard", units="mV").read("folder/a")


def metadata(own, text):
    (own / "metadata.csv").write_text(text, encoding="utf-8")
    return Folder(root=own, **OPTIONS)


def test_metadata(own):
    source = metadata(
        own,
        "file,patient_id,report,labels,split,fold,age,sex,rate\n"
        'a.npy,p 1,"Sinus, normal",rhythm:SR; normal;rhythm:SR,val,9,56.0,F,250\n'
        "sub folder/c,p 1,,,,,,,\n"
        "gone.npy,p 2,,,,,,,\n",
    )
    assert source.keys() == ["folder/a", "folder/b", "folder/sub folder/c"]  # the table is no ECG
    assert source.accounting() == {"not_on_disk": ["folder/gone"], "no_header": []}
    a, b, c = read_all(source)
    assert (a.patient_id, a.patient_known, a.report) == ("folder/p 1", True, "Sinus, normal")
    assert (a.labels, a.split, a.fold, a.sampling_rate) == (("rhythm:SR", "label:normal"), "val", 9, 250.0)
    assert a.metadata == {"notes": [], "age": 56, "sex": "female", "report_language": "en"}
    assert (b.patient_id, b.patient_known) == ("folder/b", False)
    assert (c.patient_id, c.labels, c.split, c.fold, c.sampling_rate) == ("folder/p 1", (), "", None, 500.0)


def test_metadata_says_leads_and_units_of_a_file(own):
    np.save(own / "a.npy", ecg(1)[:2] * 1000)
    record = metadata(own, 'record_id,leads,units\nfolder/a,"V1,aVF",uV\n').read("folder/a")
    assert record.leads == ("V1", "aVF")
    np.testing.assert_allclose(record.signal, ecg(1)[:2], rtol=1e-6)


@pytest.mark.parametrize(
    "text, message",
    [
        ("patient_id\np\n", "column 'file' is missing"),
        ("file,patient\na,p\n", r"unknown column 'patient' \(did you mean 'patient_id'\?\)"),
        ("file,fold\na,first\n", "file 'a': fold 'first' is no number"),
        ("file,age\na,old\n", "file 'a': age 'old' is no number"),
        ("file,split\na,dev\n", "file 'a': split 'dev' is unknown; train, val, test"),
        ("file,labels\na,rhythm:\n", "label 'rhythm:' is neither"),
        ("file\na\na.npy\n", "file 'a.npy' stands twice"),
        ("file,age\na\n", "line 2: 1 cells, 2 columns"),
    ],
)
def test_mistakes_in_metadata_are_told_before_anything_is_read(own, text, message):
    with pytest.raises(EcglmError, match=message) as error:
        metadata(own, text).keys()
    assert "metadata.csv" in str(error.value)
    assert "\n" not in str(error.value)


def test_two_records_of_one_name_are_an_error(own):
    (own / "a.csv").write_text("I\n1\n")
    with pytest.raises(EcglmError, match=r"a\.(npy|csv) and a\.(npy|csv): two records of one name"):
        Folder(root=own).keys()


def test_empty_and_missing_folders(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(EcglmError, match=r"holds no ECG files .*--root"):
        Folder(root=tmp_path / "empty").keys()
    with pytest.raises(EcglmError, match="no such folder; --root"):
        Folder(root=tmp_path / "none").keys()


def test_data_without_a_header_is_counted(own):
    (own / "lonely.dat").write_bytes(bytes(24))
    source = Folder(root=own, **OPTIONS)
    assert source.accounting()["no_header"] == ["folder/lonely"]
    assert source.keys() == ["folder/a", "folder/b", "folder/sub folder/c"]


def test_bad_files_have_their_reasons_and_the_others_are_read(own, write_record):
    (own / "b.dat").unlink()
    np.save(own / "zero.npy", np.zeros((12, 0)))
    (own / "text.csv").write_text("I,II\n1,one\n")
    (own / "table.csv").write_text("name,value\n1,1\n")
    (own / "head.hea").write_text("head 12 500 5000\n")
    source = Folder(root=own, **OPTIONS)
    reasons = {}
    keys = source.keys()
    for key in keys:
        try:
            source.read(key)
        except RejectedRecord as error:
            reasons[key] = error.reason
    assert reasons == {
        "folder/b": "signal_missing",
        "folder/zero": "empty",
        "folder/text": "not_numeric",
        "folder/table": "lead_unknown",
        "folder/head": "header_corrupt",
    }


def test_links_out_of_the_folder_are_refused(own, tmp_path):
    np.save(tmp_path / "outside.npy", ecg())
    (own / "link.npy").symlink_to(tmp_path / "outside.npy")
    with pytest.raises(UnsafeInputError, match=r"link.npy leads outside"):
        Folder(root=own).keys()
    (own / "link.npy").unlink()
    (own / "link.npy").symlink_to(own / "a.npy")
    assert Folder(root=own).keys()[2] == "folder/link"


def test_an_unknown_key(own):
    with pytest.raises(EcglmError, match=r"no record folder/aa \(did you mean 'folder/a'\?\)"):
        Folder(root=own).read("folder/aa")


def test_a_name_that_is_no_text(own):
    try:
        with open(bytes(own) + b"/\xff\xfe.npy", "wb"):
            pass
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(EcglmError, match="not UTF-8; rename"):
        Folder(root=own).keys()


def test_the_fingerprint_is_about_content_and_not_about_place(own, tmp_path):
    first = Folder(root=own, **OPTIONS).fingerprint()
    json.dumps(first)
    shutil.copytree(own, tmp_path / "copy")
    copy = Folder(root=tmp_path / "copy", **OPTIONS)
    assert copy.fingerprint() == first
    assert Folder(root=own, **{**OPTIONS, "rate": 250.0}).fingerprint() != first
    (tmp_path / "copy/metadata.csv").write_text("file\na\n")
    assert Folder(root=tmp_path / "copy", **OPTIONS).fingerprint() != first
    (tmp_path / "copy/metadata.csv").unlink()
    np.save(tmp_path / "copy/a.npy", ecg(1, 301))
    assert Folder(root=tmp_path / "copy", **OPTIONS).fingerprint() != first


def test_a_worker_gets_the_options_only(own):
    source = Folder(root=own, **OPTIONS)
    source.keys()
    function, arguments = source.__reduce__()
    assert function(*arguments) == source
    assert function(*arguments) is function(*arguments)
    np.testing.assert_array_equal(function(*arguments).read("folder/a").signal, source.read("folder/a").signal)


@pytest.mark.realdata
def test_real_csn_folder(shared):
    source = Folder(root=shared / "csn" / "WFDBRecords")
    assert len(source.keys()) == 53
    record = source.read(source.keys()[0])
    assert record.signal.shape == (12, 5000)
    assert record.sampling_rate == 500


def test_hdf5_and_matlab_files_are_records_of_their_own(own):
    (own / "more").mkdir()
    with h5py.File(own / "more" / "d.h5", "w") as file:
        file["ecg"], file["other"] = ecg(4), ecg(5)
    scipy.io.savemat(own / "more" / "e.mat", {"val": ecg(6)})
    source = Folder(root=own, dataset="ecg", **OPTIONS)
    assert source.keys()[2:4] == ["folder/more/d", "folder/more/e"]
    np.testing.assert_array_equal(source.read("folder/more/d").signal, ecg(4))
    np.testing.assert_array_equal(source.read("folder/more/e").signal, ecg(6))
    assert source.read("folder/a").signal.shape == (12, 300)  # no HDF5 file: the option is not for it
    with pytest.raises(EcglmError, match=r"d\.h5: has several 2-D datasets, name one with --set dataset=…: ecg"):
        Folder(root=own, **OPTIONS).read("folder/more/d")
    assert source.fingerprint() != Folder(root=own, **OPTIONS).fingerprint()


def test_a_mat_file_among_headers_is_data_without_its_header(own):
    scipy.io.savemat(own / "lost.mat", {"val": ecg()}, format="4")
    source = Folder(root=own, **OPTIONS)
    assert "folder/lost" not in source.keys()
    assert source.accounting()["no_header"] == ["folder/lost"]


def test_a_mat_file_and_an_array_of_one_name(own):
    scipy.io.savemat(own / "sub folder" / "c.mat", {"val": ecg()})
    with pytest.raises(EcglmError, match=r"c\.mat: two records of one name"):
        Folder(root=own).keys()


def test_the_mend_is_what_prepare_understands(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((12, 100), np.float32))
    for options, mend in (
        ({}, "give --set leads=standard (for"),
        ({"leads": "standard"}, "such as --set rate=500"),
        ({"leads": "standard", "rate": 500.0}, "such as --set units=mV"),
    ):
        with pytest.raises(EcglmError) as caught:
            Folder(root=tmp_path, **options).read("folder/a")
        assert mend in str(caught.value) and " --rate" not in str(caught.value)


def test_reports_are_english_unless_said_otherwise(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((12, 100), np.float32))
    (tmp_path / "metadata.csv").write_text("file,report\na.npy,Sinusrhythmus\n")
    options = {"rate": 500.0, "leads": "standard", "units": "mV"}
    english = Folder(root=tmp_path, **options).read("folder/a")
    german = Folder(root=tmp_path, report_language="de", **options).read("folder/a")
    assert (english.report_en, english.report_origin) == ("Sinusrhythmus", "original")
    assert (german.report, german.report_en, german.report_origin) == ("Sinusrhythmus", "", "")
    assert german.metadata["report_language"] == "de"
