"""The SNOMED sources: csn, cpsc, georgia, ptb, and what they share."""

from __future__ import annotations

import io
import json
import pickle
import random
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecglm import registry
from ecglm.errors import EcglmError, RejectedRecord
from ecglm.records import snomed
from ecglm.records.challenge import parse_comments
from ecglm.records.cpsc import CLASSES, Cpsc
from ecglm.records.csn import Csn
from ecglm.records.georgia import Georgia
from ecglm.records.ptb import Ptb
from ecglm.signals.pipeline import get_pipeline
from ecglm.store.prepare import prepare

DX = ("# Age: 74", "#Sex: Male", "#Dx: 59118001,426783006", "#Rx: Unknown", "#Hx: Infarct", "#Sx: Unknown")


@pytest.fixture
def write_challenge(write_record, counts):
    """Write ``stem.hea`` and ``stem.mat`` (MATLAB 4: a header of 24 bytes, then the samples) as the challenge does."""

    def write(folder: Path, stem: str, *, tail=DX, data_stem="", seed=0, **options) -> Path:
        data_stem = data_stem or stem
        values = counts(seed=seed)
        header = write_record(folder, values, name=stem, fmt="16+24", data=f"{data_stem}.mat", tail=tail, **options)
        content = header.with_suffix(".dat").read_bytes()
        header.with_suffix(".dat").unlink()
        (folder / f"{data_stem}.mat").write_bytes(np.array([0, 12, 400, 0, 4], "<i4").tobytes() + b"val\0" + content)
        return header

    return write


# -------------------------------------------------------------------------------------------- vocabulary


def test_the_vocabulary_is_the_challenge_of_2021_and_four_of_csn():
    assert (len(snomed.SCORED), len(snomed.UNSCORED), len(snomed.SNOMED)) == (30, 103, 137)
    acronyms = [acronym for acronym, _ in [*snomed.SCORED.values(), *snomed.UNSCORED.values()]]
    assert len(set(acronyms)) == 133
    assert all(code.isdecimal() and name == name.strip() and " " not in a for code, (a, name) in snomed.SNOMED.items())


@pytest.mark.parametrize(
    "code, acronym, name",
    [
        ("164889003", "AF", "atrial fibrillation"),
        ("164890007", "AFL", "atrial flutter"),
        ("426783006", "NSR", "sinus rhythm"),
        ("270492004", "IAVB", "first degree AV block"),
        ("164909002", "LBBB", "left bundle branch block"),
        ("59118001", "RBBB", "right bundle branch block"),
        ("284470004", "PAC", "premature atrial contraction"),
        ("427172004", "PVC", "premature ventricular contractions"),
        ("429622005", "STD", "ST depression"),
        ("164931005", "STE", "ST elevation"),
        ("74390002", "WPW", "Wolff-Parkinson-White pattern"),
        ("67741000119109", "LAE", "left atrial enlargement"),
    ],
)
def test_well_known_codes(code, acronym, name):
    assert snomed.SNOMED[code] == (acronym, name)


@pytest.mark.realdata
def test_the_scored_codes_of_2020_are_known(shared):
    first = (shared / "cinc2020_2021/evaluation/weights_2020.csv").read_text().splitlines()[0]
    codes = first.split(",")[1:]
    assert len(codes) == 27
    assert set(codes) <= snomed.SCORED.keys()


@pytest.mark.realdata
def test_every_code_of_csn_s_own_table_is_known(shared):
    data = (shared / "csn/ConditionNames_SNOMED-CT.csv").read_bytes()
    names = snomed.read_condition_names(data, "x")
    assert names.keys() <= snomed.SNOMED.keys()
    assert names["270492004"] == "1 degree atrioventricular block"  # the first row, behind the byte-order mark
    assert names["164889003"] == "Atrial Fibrillation"


@pytest.mark.parametrize("data", [b"a,b,c\nx,y\n", b"a,b,c\nx,y,z\n", b'a,b,c\n"x,y,1\n'])
def test_a_broken_table_of_names(data):
    with pytest.raises(EcglmError, match="line") as error:
        snomed.read_condition_names(data, "table.csv")
    assert "table.csv" in str(error.value)


def test_codes_nobody_knows_are_kept_as_numbers():
    codes = ["6180003", "164889003", "164889003"]
    assert snomed.labels(codes) == ("dx:6180003", "dx:AF")
    assert snomed.names(codes, {"164889003": "Fibrillation"}) == ["6180003", "Fibrillation", "Fibrillation"]


# ---------------------------------------------------------------------------------------------- comments


@pytest.mark.parametrize(
    "comments, expected",
    [
        ((), {}),
        (("Age: NaN", "Sex: Female"), {"sex": "female"}),
        (("Age: nan", "Sex: Unknown"), {}),
        (("Age: 74", "Sex: M"), {"age": 74, "sex": "male"}),
        (("Age: 74.5",), {"age": 74.5}),
        (("Age: old",), {"notes": ["age_not_understood"]}),
        (("Age: -1",), {"notes": ["age_not_understood"]}),
        (("Age: inf",), {"notes": ["age_not_understood"]}),
        (("Dx: 1,2",), {"notes": ["dx_not_understood"]}),
        (("Dx: 251146004,284470004,284470004",), {"snomed": ["251146004", "284470004"]}),
        (("Dx: 426783006,", "dx: 59118001,, 164889003 "), {"snomed": ["426783006", "59118001", "164889003"]}),
        (("Dx: Unknown",), {}),
        (("Rx: Aspirin", "Hx: ", "Sx: None"), {"rx": "Aspirin"}),
        (("Hx: a: b",), {"hx": "a: b"}),
        (("a comment without any field",), {}),
    ],
)
def test_comments(comments, expected):
    nothing = {"age": None, "sex": None, "snomed": [], "rx": None, "hx": None, "sx": None, "notes": []}
    assert parse_comments(comments) == {**nothing, **expected}


@given(st.lists(st.text(max_size=30), max_size=6).map(tuple))
def test_no_comment_ever_fails(comments):
    facts = parse_comments(tuple(f"{field}: {c}" for field in ("Age", "Sex", "Dx", "Hx") for c in comments))
    assert all(code.isdecimal() for code in facts["snomed"])
    assert facts["age"] is None or 0 <= facts["age"] <= 150


# ------------------------------------------------------------------------------------------- the sources


def test_a_record_with_everything(tmp_path, write_challenge, counts):
    write_challenge(tmp_path / "training/georgia/g1", "E00001")
    source = Georgia(root=tmp_path)
    record = source.read("georgia/E00001")
    np.testing.assert_array_equal(record.signal, (counts().T / 1000).astype(np.float32))
    assert record.labels == ("dx:RBBB", "dx:NSR")
    assert (record.patient_id, record.patient_known) == ("georgia/E00001", False)
    assert record.metadata == {
        "notes": [],
        **{"age": 74, "sex": "male", "rx": None, "hx": "Infarct", "sx": None},
        "snomed": ["59118001", "426783006"],
        "names": ["right bundle branch block", "sinus rhythm"],
    }
    assert record.report == record.report_en == record.report_origin == ""


@pytest.mark.parametrize("name, kind", [("csn", Csn), ("cpsc", Cpsc), ("georgia", Georgia), ("ptb", Ptb)])
def test_each_source_takes_its_own_of_a_whole_training_folder(tmp_path, write_challenge, name, kind):
    stems = {
        "csn": ("JS00001", "S23074"),
        "cpsc": ("A0001", "Q0001"),
        "georgia": ("E00001",),
        "ptb": ("S0001",),
        "ptb-xl": ("HR00001",),
    }
    for database, names in stems.items():
        for stem in names:
            write_challenge(tmp_path / "training" / database / "g1", stem)
    source = registry.get("records", name)(root=tmp_path)
    assert type(source) is kind
    assert sorted(key.rpartition("/")[2] for key in source.keys()) == sorted(stems[name])
    others = sum(len(names) for database, names in stems.items() if database != name)
    assert {k: len(v) for k, v in source.accounting().items()} == {"no_header": 0, "other_database": others}
    assert all(source.read(key).record_id == key for key in source.keys())


def test_flat_and_numbered_folders_zip_and_tar_are_one_dataset(tmp_path, write_challenge):
    for i in range(4):
        write_challenge(tmp_path / "numbered" / f"g{i % 2}", f"E{i:05d}", seed=i)
        write_challenge(tmp_path / "flat", f"E{i:05d}", seed=i)
    files = {p.relative_to(tmp_path / "numbered").as_posix(): p for p in (tmp_path / "numbered").rglob("*.*")}
    with zipfile.ZipFile(tmp_path / "georgia.zip", "w") as archive, tarfile.open(tmp_path / "georgia.tar", "w") as tar:
        for name, path in files.items():
            archive.write(path, f"WFDB/{name}")
            info = tarfile.TarInfo(f"WFDB/{name}")
            info.size = path.stat().st_size
            tar.addfile(info, io.BytesIO(path.read_bytes()))
    sources = [Georgia(root=tmp_path / name) for name in ("numbered", "flat", "georgia.zip", "georgia.tar")]
    assert len({str(source.fingerprint()) for source in sources}) == 1
    for key in sources[0].keys():
        signals = [source.read(key).signal for source in sources]
        assert all(np.array_equal(signals[0], other) for other in signals[1:])


def test_one_id_in_two_folders_names_both_files(tmp_path, write_challenge):
    write_challenge(tmp_path / "g1", "A0001")
    write_challenge(tmp_path / "g2", "A0001")
    with pytest.raises(EcglmError) as error:
        Cpsc(root=tmp_path).keys()
    assert "g1/A0001.hea" in str(error.value) and "g2/A0001.hea" in str(error.value)


def test_a_root_without_records_says_what_is_needed(tmp_path):
    (tmp_path / "x.csv").write_text("")
    for kind in (Csn, Cpsc, Georgia, Ptb):
        with pytest.raises(EcglmError, match="--root must be") as error:
            kind(root=tmp_path).keys()
        assert "\n" not in str(error.value)
    with pytest.raises(EcglmError, match="no such folder"):
        Csn(root=tmp_path / "none").keys()
    with pytest.raises(EcglmError, match="on_checksum"):
        Csn(root=tmp_path, on_checksum="maybe")


def test_data_without_a_header_and_unknown_keys(tmp_path, write_challenge):
    write_challenge(tmp_path, "E00001")
    write_challenge(tmp_path, "E00002").unlink()
    source = Georgia(root=tmp_path)
    assert source.accounting() == {"no_header": ["E00002.mat"], "other_database": []}
    with pytest.raises(EcglmError, match="did you mean 'georgia/E00001'"):
        source.read("georgia/E00003")


def test_a_worker_gets_the_options_alone(tmp_path, write_challenge):
    write_challenge(tmp_path, "S0001")
    source = Ptb(root=tmp_path, on_checksum="reject")
    data = pickle.dumps(source)
    assert pickle.loads(data) is pickle.loads(data)
    assert pickle.loads(data) == source


def test_merged_lines_as_in_js01052_and_js23074(tmp_path, write_challenge):
    header = write_challenge(tmp_path / "WFDBRecords/01/019", "JS01052")
    lines = header.read_text().split("\n")
    header.write_text("\n".join([f"{lines[0]} {lines[1]}", *lines[2:]]))
    source = Csn(root=tmp_path)
    assert source.keys() == ["csn/JS01052"]
    with pytest.raises(RejectedRecord) as error:
        source.read("csn/JS01052")
    assert error.value.reason == "header_corrupt"


def test_the_challenge_edition_s_header_without_its_letter(tmp_path, write_challenge):
    write_challenge(tmp_path / "training/ningbo/g14", "S23074", data_stem="JS23074")
    source = Csn(root=tmp_path)
    assert source.accounting()["no_header"] == []
    record = source.read("csn/S23074")
    assert record.metadata["notes"] == ["data_file_name_differs"]
    assert source.version() == "unknown"


def test_names_with_an_extension_and_their_wrong_gain(tmp_path, write_challenge, counts):
    record_line = "E00015.mat 12 500 400 05-May-2020 14:50:55"
    write_challenge(tmp_path, "E00015", record_line=record_line, gain="4880/mV")
    record = Georgia(root=tmp_path).read("georgia/E00015")
    np.testing.assert_array_equal(record.signal, (counts().T / 1000).astype(np.float32))
    assert record.metadata["notes"] == ["header_name_has_extension", "gain_overridden"]
    assert record.metadata["recorded"] == "05-May-2020 14:50:55"


@pytest.mark.parametrize(
    "gain, divisor, baseline",
    [("200(12)/mV", 200, 12), ("1000/mv", 1000, 0), ("1(0)/uV", 1000, 0), ("4.88(-3)/uV", 4880, -3)],
)
def test_other_gains_baselines_and_units(tmp_path, write_challenge, counts, gain, divisor, baseline):
    write_challenge(tmp_path, "S0001", gain=gain)
    expected = (counts().T.astype(np.float64) - baseline) / divisor
    np.testing.assert_allclose(Ptb(root=tmp_path).read("ptb/S0001").signal, expected, rtol=1e-6)


def test_csn_says_names_as_its_own_table_where_there_is_one(tmp_path, write_challenge):
    write_challenge(tmp_path / "WFDBRecords/01/010", "JS00001", tail=("#Dx: 164890007,6180003",))
    assert Csn(root=tmp_path).read("csn/JS00001").metadata["names"] == ["atrial flutter", "6180003"]
    (tmp_path / "ConditionNames_SNOMED-CT.csv").write_bytes(
        "\ufeffAcronym,Full,Code\nAF,Atrial Flutter,164890007\n".encode()
    )
    source = Csn(root=tmp_path)
    record = source.read("csn/JS00001")
    assert record.metadata["names"] == ["Atrial Flutter", "6180003"]
    assert record.labels == ("dx:AFL", "dx:6180003")  # one vocabulary, whatever the table's acronyms
    assert source.version() == "1.0.0"


def test_the_nine_classes():
    assert CLASSES == ("NORM", "AF", "I-AVB", "LBBB", "RBBB", "PAC", "PVC", "STD", "STE")
    first_six = ["426783006", "164889003", "270492004", "164909002", "59118001", "284470004"]
    assert list(snomed.CPSC_CLASSES) == [*first_six, "164884008", "429622005", "164931005"]


def test_d03_a_permuted_header_gives_the_same_segments(tmp_path, write_challenge):
    header = write_challenge(tmp_path, "A0001", rate="40")  # 400 samples: ten seconds
    pipeline = get_pipeline("default", rate=40, seg_len=100)
    expected = pipeline.run(Cpsc(root=tmp_path).read("cpsc2018/A0001")).signal
    data = header.with_suffix(".mat").read_bytes()
    counts = np.frombuffer(data, "<i2", offset=24).reshape(-1, 12)
    lines = header.read_text().split("\n")
    order = np.random.default_rng(4).permutation(12)
    header.write_text("\n".join([lines[0], *(lines[1 + i] for i in order), *lines[13:]]))
    header.with_suffix(".mat").write_bytes(data[:24] + np.ascontiguousarray(counts[:, order]).tobytes())
    record = Cpsc(root=tmp_path, on_checksum="reject").read("cpsc2018/A0001")
    np.testing.assert_array_equal(pipeline.run(record).signal, expected)


def test_d28_eight_bad_files_give_eight_reasons(tmp_path, write_challenge):
    """Beside two good ones; every one is in the reject log, and too many of them are an error."""
    folder = tmp_path / "in"
    for i in range(2):
        write_challenge(folder, f"E0000{i}", rate="40")
    cut = write_challenge(folder, "E00002", rate="40").with_suffix(".mat")
    cut.write_bytes(cut.read_bytes()[:-2])
    write_challenge(folder, "E00003", rate="40").with_suffix(".mat").unlink()
    longer = write_challenge(folder, "E00004", rate="40").with_suffix(".mat")
    longer.write_bytes(longer.read_bytes() + b"xx")
    write_challenge(folder, "E00005", rate="40", record_line="E00005 13 40 400")
    write_challenge(folder, "E00006", rate="40", gain="0/mV")
    write_challenge(folder, "E00007", rate="40", gain="1000/mmHg")
    write_challenge(folder, "E00008", rate="0")
    write_challenge(folder, "E00009", rate="4000")
    source, pipeline = Georgia(root=folder), get_pipeline("default", rate=40, seg_len=100)
    prepare(source, pipeline, tmp_path / "store", progress=False, max_reject=1.0)
    rejects = [json.loads(line) for line in (tmp_path / "store" / "rejects.jsonl").read_text().splitlines()]
    assert {r["record_id"].rpartition("/")[2]: r["reason"] for r in rejects} == {
        "E00002": "signal_truncated",
        "E00003": "signal_missing",
        "E00004": "signal_size_mismatch",
        "E00005": "header_corrupt",
        "E00006": "gain_missing",
        "E00007": "unit_unknown",
        "E00008": "sampling_rate_invalid",
        "E00009": "too_short",
    }
    kept = pq.read_table(tmp_path / "store" / "index.parquet")["record_id"].to_pylist()
    assert set(kept) == {"georgia/E00000", "georgia/E00001"}
    with pytest.raises(EcglmError, match="--max-reject"):
        prepare(source, pipeline, tmp_path / "strict", progress=False)


def test_damaged_headers_and_data_are_read_or_told(tmp_path, write_challenge):
    """600 mutations: a record of twelve leads, or a reason; and segments of the right shape, or a reason."""
    header = write_challenge(tmp_path, "E00001", rate="40")
    data = header.with_suffix(".mat")
    good = header.read_bytes(), data.read_bytes()
    pipeline = get_pipeline("default", rate=40, seg_len=100)
    rng = random.Random(7)
    read = 0
    for round_ in range(600):
        text, content = bytearray(good[0]), bytearray(good[1])
        for _ in range(rng.randrange(1, 5)):
            victim = content if round_ % 4 == 0 else text
            at = rng.randrange(len(victim))
            victim[at : at + rng.randrange(3)] = rng.choice(
                (b"", b"9", b"-", b" ", b"\n", b"\0", b"\xff", b"1e9", b"/")
            )
        header.write_bytes(text)
        data.write_bytes(content)
        try:
            record = Georgia(root=tmp_path).read("georgia/E00001")
            assert record.signal.ndim == 2 and len(record.leads) == len(record.signal)
            segments = pipeline.run(record)
            assert segments.signal.shape[1:] == (12, 100)
            read += 1
        except EcglmError as error:
            assert "\n" not in str(error)
    assert 60 < read < 540


# --------------------------------------------------------------------------------------------- real data


def read_all(source) -> list:
    return [source.read(key) for key in source.keys()]


@pytest.mark.realdata
@pytest.mark.parametrize(
    "name, root, count, accounting",
    [
        ("csn", "csn", 60, {"no_header": 0, "other_database": 0}),
        ("cpsc", "cinc2020_2021/training", 43, {"no_header": 0, "other_database": 60}),
        ("georgia", "cinc2020_2021/training", 20, {"no_header": 0, "other_database": 83}),
        ("georgia", "cinc2020_2021/georgia_2020_header_quirk", 8, {"no_header": 0, "other_database": 0}),
        ("ptb", "cinc2020_2021/training/ptb", 1, {"no_header": 0, "other_database": 0}),
        ("cpsc", "cpsc2018", 10, {"no_labels": 0, "not_on_disk": 6867, "other_database": 0}),
    ],
)
def test_real_records_are_prepared(shared, tmp_path, name, root, count, accounting):
    source = registry.get("records", name)(root=shared / root)
    assert len(source.keys()) == count
    assert {k: len(v) for k, v in source.accounting().items()} == accounting
    done = prepare(source, get_pipeline("default"), tmp_path / "store", progress=False)
    del done
    assert (tmp_path / "store" / "rejects.jsonl").read_text() == ""
    index = pq.read_table(tmp_path / "store" / "index.parquet")
    assert set(index["record_id"].to_pylist()) == set(source.keys())
    assert set(index["patient_known"].to_pylist()) == {False}


@pytest.mark.realdata
def test_real_csn_from_a_zip_like_the_official_one(shared, tmp_path):
    folder = shared / "csn"
    with zipfile.ZipFile(tmp_path / "csn.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in sorted(p for p in folder.rglob("*.*") if p.is_file()):
            archive.write(path, f"a-large-scale-database-1.0.0/{path.relative_to(folder)}")
    packed, plain = Csn(root=tmp_path / "csn.zip"), Csn(root=folder)
    assert packed.fingerprint() == plain.fingerprint()
    for key in plain.keys()[::7]:
        one, other = packed.read(key), plain.read(key)
        np.testing.assert_array_equal(one.signal, other.signal)
        assert (one.labels, one.metadata) == (other.labels, other.metadata)


@pytest.mark.realdata
def test_real_csn(shared):
    records = {r.record_id: r for r in read_all(Csn(root=shared / "csn", on_checksum="reject"))}
    assert all(r.signal.shape == (12, 5000) and r.sampling_rate == 500 for r in records.values())
    first = records["csn/JS00001"]
    assert first.labels == ("dx:AF", "dx:RBBB", "dx:TAb")
    assert (first.metadata["age"], first.metadata["sex"]) == (85, "male")
    assert first.metadata["names"] == ["Atrial Fibrillation", "right bundle branch block", "T wave Change"]
    flat = {
        name: [lead for lead, row in zip(r.leads, r.signal, strict=True) if np.ptp(row) == 0]
        for name, r in records.items()
    }
    assert {name: leads for name, leads in flat.items() if leads} == {
        "csn/JS11438": ["V1", "V2", "V3", "V4", "V5", "V6"],
        "csn/JS20004": ["V2", "V4", "V6"],
        "csn/JS20008": ["V2", "V4", "V6"],
    }


@pytest.mark.realdata
def test_real_flat_leads_are_kept_and_flagged(shared, tmp_path):
    prepare(Csn(root=shared / "csn"), get_pipeline("default"), tmp_path / "store", progress=False)
    rows = pq.read_table(tmp_path / "store" / "index.parquet", columns=["record_id", "flags"]).to_pylist()
    flagged = {r["record_id"] for r in rows if any("flat" in flag for flag in r["flags"])}
    assert {"csn/JS11438", "csn/JS20004", "csn/JS20008"} <= flagged


@pytest.mark.realdata
def test_real_cpsc(shared):
    records = {r.record_id: r for r in read_all(Cpsc(root=shared / "cinc2020_2021", on_checksum="reject"))}
    assert Counter(name.partition("/")[0] for name in records) == {"cpsc2018": 14, "cpsc2018-extra": 29}
    lengths = {r.signal.shape[1] for name, r in records.items() if name.startswith("cpsc2018/")}
    assert (min(lengths), max(lengths)) == (5000, 12500)
    assert max(r.signal.shape[1] for r in records.values()) == 28934
    assert records["cpsc2018/A0001"].labels == ("cpsc:RBBB", "dx:RBBB")
    assert records["cpsc2018/A1041"].labels == ("cpsc:AF", "cpsc:LBBB", "dx:AF", "dx:LBBB")


@pytest.mark.realdata
def test_both_forms_of_cpsc_have_the_same_classes(shared):
    """The headers of the 14 records against the label table of the original release."""
    from ecglm.records.cpsc_struct import read_reference
    from ecglm.records.tree import open_tree

    table = read_reference(open_tree(shared / "cpsc2018"))
    for record in read_all(Cpsc(root=shared / "cinc2020_2021/training/cpsc_2018")):
        classes = {CLASSES[number - 1] for number in table[record.record_id.rpartition("/")[2]]}
        assert {label for label in record.labels if label.startswith("cpsc:")} == {f"cpsc:{c}" for c in classes}


@pytest.mark.realdata
def test_real_original_structs(shared):
    source = Cpsc(root=shared / "cpsc2018")
    assert source.version() == "original"
    records = read_all(source)
    assert [r.record_id for r in records] == [f"cpsc2018/A{n}" for n in range(1980, 1990)]
    assert all(r.sampling_rate == 500 and r.signal.shape[0] == 12 for r in records)
    assert (min(r.signal.shape[1] for r in records), max(r.signal.shape[1] for r in records)) == (5000, 27157)
    assert records[0].labels == ("cpsc:PAC", "dx:PAC")
    assert (records[0].metadata["age"], records[0].metadata["sex"]) == (52, "male")


@pytest.mark.realdata
def test_real_georgia_and_ptb(shared):
    records = {r.record_id: r for r in read_all(Georgia(root=shared / "cinc2020_2021", on_checksum="reject"))}
    assert len(records) == 28
    assert all(r.signal.shape == (12, 5000) for r in records.values())
    assert [n for n, r in records.items() if r.metadata["age"] is None][:3] == [f"georgia/E0000{i}" for i in (1, 2, 3)]
    wrong = sorted(n for n, r in records.items() if "gain_overridden" in r.metadata["notes"])
    assert wrong == ["georgia/E00015", "georgia/E00018", "georgia/E00793"]
    assert not any("amplitude_implausible" in r.metadata["notes"] for r in records.values())
    assert records["georgia/E00015"].labels == ("dx:LQRSV", "dx:PAC")  # the code that stands twice, once
    (ptb,) = read_all(Ptb(root=shared / "cinc2020_2021"))
    assert (ptb.record_id, ptb.sampling_rate, ptb.signal.shape) == ("ptb/S0002", 1000, (12, 115_200))
