"""Whatever can be wrong with the input, a user is told in one line, or finds it by its reason in the reject log."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cli_tools import done, ecglm, write_recipe
from ecglm.records.synthetic import Synthetic
from ecglm.store.reader import SegmentStore
from ecglm.types import LEADS
from tiny_world import tree

NUM = 20  # one bad record in twenty is just within --max-reject
COLUMNS = (
    "ecg_id,patient_id,age,sex,device,recording_date,report,scp_codes,heart_axis,"
    "validated_by_human,strat_fold,filename_lr,filename_hr"
)
STATEMENTS = ",diagnostic,form,rhythm,diagnostic_class,diagnostic_subclass\nNORM,1.0,,,NORM,NORM\nSR,,,1.0,,\n"
PREPARE = ("--rate", 100, "--seg-len", 1000)


def write_record(root: Path, number: int, signal: np.ndarray, leads=LEADS, gain="1000.0(0)/mV") -> Path:
    """A record as PTB-XL writes it, by the format's definition: interleaved int16, checksums, initial values."""
    name = f"{number:05d}_lr"
    folder = root / "records100" / "00000"
    folder.mkdir(parents=True, exist_ok=True)
    counts = np.round(signal * 1000).astype("<i2")
    (folder / f"{name}.dat").write_bytes(counts.T.tobytes())
    lines = [f"{name} {len(leads)} 100 {counts.shape[1]}"]
    for lead, row in zip(leads, counts, strict=True):
        checksum = int(row.astype(np.int64).sum()) & 0xFFFF
        checksum -= 0x10000 * (checksum > 0x7FFF)
        lines.append(f"{name}.dat 16 {gain} 16 0 {row[0] if row.size else 0} {checksum} 0 {lead}")
    (folder / f"{name}.hea").write_text("\n".join(lines) + "\n")
    return folder / f"{name}.hea"


@pytest.fixture(scope="session")
def good_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("ptb") / "ptb-xl"
    source = Synthetic(num_patients=NUM, seed=2, rate=100, records_per_patient=(1, 1))
    rows = [COLUMNS]
    for number, key in enumerate(source.keys(), 1):
        write_record(root, number, source.read(key).signal)
        name = f"records100/00000/{number:05d}_lr"
        rows.append(
            f"{number},{number}.0,60,0,,,text,\"{{'NORM': 100.0, 'SR': 0.0}}\",,True,{1 + number % 10},{name},{name}"
        )
    (root / "ptbxl_database.csv").write_text("\n".join(rows) + "\n")
    (root / "scp_statements.csv").write_text(STATEMENTS)
    return root


@pytest.fixture(scope="session")
def good_store(good_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("good") / "store"
    done("prepare", "ptb-xl", "--root", good_folder, "--out", out, *PREPARE)
    return out


@pytest.fixture
def root(good_folder, tmp_path):
    return Path(shutil.copytree(good_folder, tmp_path / "ptb-xl"))


def signal_of(number: int) -> np.ndarray:
    source = Synthetic(num_patients=NUM, seed=2, rate=100, records_per_patient=(1, 1))
    return source.read(source.keys()[number - 1]).signal


def header(root: Path, number: int = 7) -> Path:
    return root / "records100" / "00000" / f"{number:05d}_lr.hea"


def change_header(root: Path, old: str, new: str, count: int = 0) -> None:
    text = header(root).read_text()
    assert old in text
    header(root).write_text(text.replace(old, new, count or -1))


def change_table(root: Path, old: str, new: str) -> None:
    text = (root / "ptbxl_database.csv").read_text()
    assert old in text
    (root / "ptbxl_database.csv").write_text(text.replace(old, new, 1))


# --- mistakes that end the command


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda r: (r / "ptbxl_database.csv").unlink(), ["ptbxl_database.csv: no such file", "--root must be"]),
        (lambda r: (r / "scp_statements.csv").unlink(), ["scp_statements.csv: no such file", "--root must be"]),
        (lambda r: change_table(r, "strat_fold", "fold"), ["ptbxl_database.csv: column 'strat_fold' is missing"]),
        (lambda r: change_table(r, ",scp_codes", ",scp_code"), ["'scp_codes' is missing (did you mean 'scp_code'?)"]),
        (lambda r: change_table(r, "\n2,2.0,", "\n1,2.0,"), ["ptbxl_database.csv, line 3", "stands twice"]),
        (lambda r: change_table(r, "\n2,2.0,", "\nzwei,2.0,"), ["ecg_id 'zwei' is no whole number"]),
        (lambda r: change_table(r, "records100/00000/00003_lr,", "../../etc/passwd,"), ["refuses '../../etc/passwd'"]),
        (lambda r: change_table(r, "records100/00000/00003_lr,", "/etc/passwd,"), ["refuses '/etc/passwd'"]),
        (lambda r: (r / "ptbxl_database.csv").write_bytes(b"\x00\x01PK"), ["ptbxl_database.csv", "binary"]),
        (lambda r: (r / "ptbxl_database.csv").write_text(COLUMNS + "\n"), ["ptbxl_database.csv: has no rows"]),
        (lambda r: (r / "ptbxl_database.csv").write_text(""), ["column 'ecg_id' is missing"]),
        (lambda r: shutil.rmtree(r / "records100"), ["no record of ptbxl_database.csv lies in"]),
        (shutil.rmtree, ["no such file"]),
    ],
    ids=lambda value: value[0][:40] if isinstance(value, list) else "",
)  # fmt: skip
def test_a_folder_that_is_no_ptb_xl(root, tmp_path, spoil, words):
    spoil(root)
    error = ecglm("prepare", "ptb-xl", "--root", root, "--out", tmp_path / "store", *PREPARE).error
    for part in words:
        assert part in error
    assert not (tmp_path / "store" / "manifest.json").exists()


def test_an_empty_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    for source in ("folder", "ptb-xl"):
        error = ecglm("prepare", source, "--root", tmp_path / "empty", "--out", tmp_path / "store").error
        assert str(tmp_path / "empty") in error and "--root" in error


# --- records that are rejected, each with its reason; the others are kept


def with_nan(root):
    signal = signal_of(7).copy()
    signal[3] = -32.768  # the format's own mark of a missing sample
    write_record(root, 7, signal)


def with_link(root):
    outside = root.parent / "outside.dat"
    dat = header(root).with_suffix(".dat")
    shutil.move(dat, outside)
    dat.symlink_to(outside)


CODES_OF_7 = "{'NORM': 100.0, 'SR': 0.0}\",,True,8"
BAD_RECORDS = {
    "no .dat": (lambda r: header(r).with_suffix(".dat").unlink(), "signal_missing"),
    "another .dat named": (lambda r: change_header(r, "00007_lr.dat", "other.dat"), "signal_missing"),
    "short .dat": (lambda r: os.truncate(header(r).with_suffix(".dat"), 24_000 - 24), "signal_truncated"),
    "odd .dat": (lambda r: os.truncate(header(r).with_suffix(".dat"), 23_999), "signal_truncated"),
    "empty .dat": (lambda r: os.truncate(header(r).with_suffix(".dat"), 0), "signal_truncated"),
    "over-long .dat": (lambda r: header(r).with_suffix(".dat").open("ab").write(b"\0" * 24), "signal_size_mismatch"),
    "a lead without a number": (with_nan, "nan"),
    "eleven leads": (lambda r: write_record(r, 7, signal_of(7)[:11], LEADS[:11]), "lead_missing"),
    "a lead of another name": (lambda r: change_header(r, " V6\n", " V7\n"), "lead_unknown"),
    "a lead twice": (lambda r: change_header(r, " V6\n", " V5\n"), "lead_duplicate"),
    "an unknown unit": (lambda r: change_header(r, "/mV", "/furlong"), "unit_unknown"),
    "a gain of zero": (lambda r: change_header(r, "1000.0(0)/mV", "0(0)/mV"), "gain_missing"),
    "../ in the header": (lambda r: change_header(r, "00007_lr.dat", "../00000/00007_lr.dat"), "unsafe_file_name"),
    "an absolute path in the header": (lambda r: change_header(r, "00007_lr.dat", "/etc/passwd"), "unsafe_file_name"),
    "a drive letter in the header": (lambda r: change_header(r, "00007_lr.dat", "C:x.dat"), "unsafe_file_name"),
    "a link out of the folder": (with_link, "unsafe_file_name"),
    "zero samples": (lambda r: write_record(r, 7, np.zeros((12, 0))), "header_corrupt"),
    "shorter than a segment": (lambda r: write_record(r, 7, signal_of(7)[:, :999]), "too_short"),
    "all flat": (lambda r: write_record(r, 7, np.zeros((12, 1000))), "flat"),
    "more signals than lines": (lambda r: change_header(r, "_lr 12 100", "_lr 13 100"), "header_corrupt"),
    "a huge declared length": (lambda r: change_header(r, " 1000\n", " 1000000000\n", 1), "header_corrupt"),
    "no sampling rate": (lambda r: change_header(r, "_lr 12 100", "_lr 12 0"), "sampling_rate_invalid"),
    "a binary header": (lambda r: header(r).write_bytes(bytes(range(256))), "header_corrupt"),
    "an empty header": (lambda r: header(r).write_text(""), "header_corrupt"),
    "codes that are a program": (lambda r: change_table(r, CODES_OF_7, "__import__('os').system('true')\",,True,8"),
                                 "scp_codes_invalid"),
    "a fold of eleven": (lambda r: change_table(r, "True,8,records100/00000/00007", "True,11,records100/00000/00007"),
                         "metadata_invalid"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_RECORDS)
def test_a_bad_record_is_rejected_by_its_reason_and_the_others_are_kept(root, good_store, tmp_path, name):
    spoil, reason = BAD_RECORDS[name]
    spoil(root)
    out = tmp_path / "store"
    said = done("prepare", "ptb-xl", "--root", root, "--out", out, *PREPARE)
    assert f"{NUM - 1} of {NUM} records kept" in said and f"rejected records: 1 (5.0%): {reason} 1" in said
    (row,) = [json.loads(line) for line in (out / "rejects.jsonl").read_text().splitlines()]
    assert row["record_id"] == "ptb-xl/00007" and row["reason"] == reason and len(row["detail"]) > 5
    store, good = SegmentStore(out), SegmentStore(good_store)
    kept = [key for key in good.records() if key != "ptb-xl/00007"]
    assert store.records() == kept
    for key in (kept[0], kept[-1]):
        np.testing.assert_array_equal(store[store.segments_of(key)[0]], good[good.segments_of(key)[0]])


def test_two_bad_records_are_too_many(root, tmp_path):
    for number in (3, 7):
        header(root, number).with_suffix(".dat").unlink()
    given = ("prepare", "ptb-xl", "--root", root, "--out", tmp_path / "store", *PREPARE)
    for _ in range(2):  # the second time from the finished store
        error = ecglm(*given).error
        assert "rejects.jsonl: 2 of 20 records rejected (10.0%" in error and "signal_missing 2" in error
    assert f"{NUM - 2} of {NUM} records kept" in done(*given, "--max-reject", 0.1)


# --- what is unusual but right


def test_permuted_and_respelled_leads_are_put_right_by_name(root, good_store, tmp_path):
    """Lead order and spelling of a file must not matter: every byte of the store is the same."""
    order = np.random.default_rng(0).permutation(12)
    for number in range(1, NUM + 1, 2):
        names = [LEADS[i].upper() if number % 4 == 1 else LEADS[i].lower() for i in order]
        write_record(root, number, signal_of(number)[order], names)
    done("prepare", "ptb-xl", "--root", root, "--out", tmp_path / "store", *PREPARE)
    assert tree(tmp_path / "store") == tree(good_store)


def test_units_of_the_header_are_understood(root, good_store, tmp_path):
    for number, gain in ((1, "1.0(0)/uV"), (2, "1000000(0)/V"), (3, "1000.0/mV"), (4, "1000.0")):
        write_record(root, number, signal_of(number), gain=gain)
    done("prepare", "ptb-xl", "--root", root, "--out", tmp_path / "store", *PREPARE)
    assert tree(tmp_path / "store") == tree(good_store)


def test_wrong_units_are_flagged(root, tmp_path):
    """Millivolts called microvolts: a thousandth of an ECG, kept with a flag."""
    write_record(root, 7, signal_of(7), gain="1000.0(0)/uV")
    done("prepare", "ptb-xl", "--root", root, "--out", tmp_path / "store", *PREPARE)
    index = SegmentStore(tmp_path / "store").index.to_pylist()
    flagged = {row["record_id"] for row in index if "amplitude_implausible" in row["flags"] + [row["metadata"]] or
               "amplitude_implausible" in row["metadata"]}  # fmt: skip
    assert flagged == {"ptb-xl/00007"}


# --- arrays


class Payload:
    def __reduce__(self):
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("form", ["npy", "npz"])
def test_an_array_of_objects_is_refused_and_runs_nothing(tmp_path, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    array = np.array([Payload()], dtype=object)
    if form == "npy":
        np.save("in/bad.npy", array, allow_pickle=True)
    else:
        np.savez("in/bad.npz", signal=array)
    np.save("in/good.npy", np.random.default_rng(0).normal(0, 0.2, (12, 1000)))
    facts = ("--set", "rate=100", "--set", "leads=standard", "--set", "units=mV")
    done("prepare", "folder", "--root", "in", "--out", "store", *facts, *PREPARE, "--max-reject", 0.5)
    (row,) = [json.loads(line) for line in Path("store/rejects.jsonl").read_text().splitlines()]
    assert row["record_id"] == "folder/bad" and row["reason"] in ("unsafe_file_name", "unsafe_input")
    assert "pickle" in row["detail"] or "object" in row["detail"]
    assert not Path("pwned").exists() and SegmentStore("store").records() == ["folder/good"]


# --- stores, checkpoints, disks


@pytest.fixture(scope="module")
def trained(good_store, tmp_path_factory):
    torch.set_num_threads(1)
    home = tmp_path_factory.mktemp("trained")
    done("map", "labels", "--store", good_store, "--out", home / "q.parquet", "--tasks", "normal")
    write_recipe(home / "r.yaml", home / "q.parquet", good_store, tasks="normal")
    done("train", home / "r.yaml", "--out", home / "run", "--train.max-steps", 3)
    return home


def test_a_store_made_with_another_pipeline_version(good_store, trained, tmp_path):
    old = Path(shutil.copytree(good_store, tmp_path / "old"))
    manifest = json.loads((old / "manifest.json").read_text())
    manifest["settings"]["pipeline"]["version"] = 0
    (old / "manifest.json").write_text(json.dumps(manifest))
    given = ("--data", trained / "q.parquet", "--store", old, "--out", tmp_path / "p")
    for command in (("store", "info", old), ("predict", "--model", trained / "run" / "best", *given)):
        error = ecglm(*command).error
        assert str(old) in error and "version" in error and "prepare" in error


CHECKPOINT = ("manifest.json", "config.json", "ecg.safetensors", "llm/config.json", "llm/model.safetensors",
              "llm/tokenizer.json", "llm/tokenizer_config.json")  # fmt: skip


@pytest.mark.parametrize("name", CHECKPOINT)
@pytest.mark.parametrize("how", ["missing", "flipped", "cut"])
def test_a_checkpoint_with_a_missing_or_damaged_file(trained, tmp_path, name, how):
    copy = Path(shutil.copytree(trained / "run" / "best", tmp_path / "best"))
    np.save(tmp_path / "a.npy", signal_of(1))
    ask = ("ask", "normal?", "--model", copy, "--ecg", tmp_path / "a.npy")
    ask += ("--rate", 100, "--leads", "standard", "--units", "mV")
    done(*ask, "--max-new-tokens", 2)
    data = bytearray((copy / name).read_bytes())
    if how == "missing":
        (copy / name).unlink()
    elif how == "cut":
        (copy / name).write_bytes(data[: len(data) // 2])
    elif name != "manifest.json":
        data[len(data) // 2] ^= 1
        (copy / name).write_bytes(data)
    else:
        return  # nothing vouches for the manifest's own bits
    error = ecglm(*ask).error
    assert str(copy) in error and Path(name).name in error


def limited(size: int, *args: object) -> subprocess.CompletedProcess:
    """Run a verb that may write no file larger than ``size`` bytes: the kernel refuses, as on a full disk."""
    code = f"import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}));"
    code += " runpy.run_module('ecglm', run_name='__main__', alter_sys=True)"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def leftovers(folder: Path) -> list[str]:
    return [name for name in tree(folder) if re.search(r"(^|/)\.(tmp|old)-", name)]


def test_a_full_disk_while_preparing(good_folder, good_store, tmp_path):
    given = ("prepare", "ptb-xl", "--root", good_folder, "--out", tmp_path / "store", *PREPARE)
    ran = limited(100_000, *given)
    assert ran.returncode == 2, ran.stderr
    (line,) = [x for x in ran.stderr.splitlines() if not x.startswith("prepare ")]
    assert line.startswith("ecglm: error: ") and "00000.i16: cannot be written" in line
    assert not leftovers(tmp_path) and not (tmp_path / "store" / "manifest.json").exists()
    done(*given)
    assert tree(tmp_path / "store") == tree(good_store)


def test_a_full_disk_while_training(trained, tmp_path):
    given = ("train", trained / "r.yaml", "--out", tmp_path / "run", "--train.max-steps", 3)
    ran = limited(40_000, *given)
    assert ran.returncode == 2 and "Traceback" not in ran.stderr, ran.stderr[-2000:]
    (line,) = ran.stderr.splitlines()
    assert line.startswith("ecglm: error: ") and str(tmp_path / "run") in line
    assert not leftovers(tmp_path) and not (tmp_path / "run" / "manifest.json").exists()
    done(*given)
    whole, mended = tree(trained / "run"), tree(tmp_path / "run")
    assert whole == mended


def test_a_full_disk_while_predicting(trained, good_store, tmp_path):
    given = ("predict", "--model", trained / "run" / "best", "--data", trained / "q.parquet", "--store", good_store,
             "--split", "train", "--allow-seen", "--batch-size", 4, "--max-new-tokens", 2)  # fmt: skip
    ran = limited(4_000, *given, "--out", tmp_path / "p")
    assert ran.returncode == 2 and "Traceback" not in ran.stderr, ran.stderr[-2000:]
    (line,) = ran.stderr.splitlines()
    assert line.startswith("ecglm: error: ") and "answers.jsonl: cannot be written" in line
    done(*given, "--out", tmp_path / "p")
    done(*given, "--out", tmp_path / "undisturbed")
    assert tree(tmp_path / "p") == tree(tmp_path / "undisturbed")


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    """Root may write anywhere, so the system's refusal is put in place of the folder's rights."""
    import errno

    from ecglm import files

    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(files.tempfile, "mkstemp", refuse)
    error = ecglm("prepare", "synthetic", "--out", tmp_path / "store", "--set", "num_patients=2").error
    assert str(tmp_path / "store") in error and "cannot be written (Permission denied)" in error
