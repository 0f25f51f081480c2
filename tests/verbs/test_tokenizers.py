"""The tokenizer verbs as a user meets them: train, encode, verify, stats, convert; and their mistakes in one line."""

import csv
import json
import pickle
import sys
from contextlib import nullcontext

import cv2
import numpy as np
import pytest

from cli_tools import done, ecglm
from ecglm.representations import tokenizer_training
from ecglm.representations.ecg_byte import EcgByte
from ecglm.store.reader import SegmentStore
from ecglm.store.splits import assign_splits
from ecglm.types import LEADS
from ecglm.verbs import progress, tokenizers


@pytest.fixture(scope="module")
def home(tmp_path_factory, world):
    """A tokenizer of all leads, and one of two leads at half the rate."""
    folder = tmp_path_factory.mktemp("tokenizers")
    done("tokenizer", "train", world.store, "--out", folder / "all.json", "--num-merges", 40)
    done("tokenizer", "train", world.store, "--out", folder / "two.json", "--num-merges", 40, *TWO)
    return folder


TWO = ("--leads", "II", "V1", "--rate", 25, "--boundary", "lead", "--encode-mode", "ranked", "--min-count", 3)


def test_train_notes_what_it_was_trained_on(world, home):
    tokenizer = EcgByte.load(home / "two.json")
    assert (tokenizer.boundary, tokenizer.encode_mode, len(tokenizer.merges)) == ("lead", "ranked", 40)
    assert tokenizer.trained_on["leads"] == ["II", "V1"] and tokenizer.trained_on["rate"] == 25
    assert tokenizer.trained_on["seed"] == 0
    store = SegmentStore(world.store)
    splits = assign_splits(store)
    num = sum(splits[p] == "train" for p in store.index.column("patient_id").to_pylist())
    assert EcgByte.load(home / "all.json").trained_on["n_segments"] == num
    assert EcgByte.load(home / "all.json").trained_on["leads"] == list(LEADS)


def test_train_learns_from_training_patients_alone(world, tmp_path):
    """The same merges as of exactly these segments; and the same bytes again."""
    for name in ("a.json", "b.json"):
        done("tokenizer", "train", world.store, "--out", tmp_path / name, "--num-merges", 30, "--split-seed", 3)
    store = SegmentStore(world.store)
    splits = assign_splits(store, seed=3)
    rows = [i for i, p in enumerate(store.index.column("patient_id").to_pylist()) if splits[p] == "train"]
    expected = EcgByte.train(store.take(rows), 30)
    np.testing.assert_array_equal(EcgByte.load(tmp_path / "a.json").merges, expected.merges)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_train_reuses_what_is_there_and_replaces_it_only_when_told(world, home, tmp_path):
    out = tmp_path / "t.json"
    assert "reused" in done("tokenizer", "train", world.store, "--out", home / "all.json", "--num-merges", 40)
    out.write_bytes((home / "all.json").read_bytes())
    options = ("tokenizer", "train", world.store, "--out", out, "--num-merges", 41)
    assert "--overwrite" in ecglm(*options).error
    assert "297 ids" in done(*options, "--overwrite")
    out.write_text("{}")
    assert "no ECG-Byte tokenizer" in ecglm(*options).error


def test_d17_both_normalisations_are_reachable(world, tmp_path):
    amplitudes = tmp_path / "p.json"
    done("store", "percentiles", world.store, "--out", amplitudes, "--num-values", 1000)
    options = ("tokenizer", "train", world.store, "--out", tmp_path / "t.json", "--num-merges", 10)
    done(*options, "--normalise", "percentile", "--percentiles", amplitudes)
    made = EcgByte.load(tmp_path / "t.json")
    found = json.loads(amplitudes.read_text())
    assert made.normalise == "percentile" and made.percentiles == {"p1": found["p1"], "p99": found["p99"]}
    done(*options, "--normalise", "instance", "--overwrite")
    assert EcgByte.load(tmp_path / "t.json").normalise == "instance"
    assert "needs --percentiles" in ecglm(*options, "--normalise", "percentile").error
    assert "for --normalise percentile" in ecglm(*options, "--percentiles", amplitudes).error
    done("store", "percentiles", world.store, "--out", tmp_path / "v.json", "--num-values", 1000, "--split", "val")
    wrong = ecglm(*options, "--normalise", "percentile", "--percentiles", tmp_path / "v.json")
    assert "'val'" in wrong.error and "only train" in wrong.error


def test_train_from_a_sample_and_from_two_stores(world, tmp_path):
    done("store", "sample", world.store, "--out", tmp_path / "s.json", "--n", 5, "--seed", 4)
    done(
        "tokenizer",
        "train",
        world.store,
        "--out",
        tmp_path / "t.json",
        "--sample",
        tmp_path / "s.json",
        "--num-merges",
        9,
    )
    made = EcgByte.load(tmp_path / "t.json")
    assert made.trained_on["n_segments"] == 5 and made.trained_on["seed"] == 4
    done("store", "sample", world.store, "--out", tmp_path / "v.json", "--n", 3, "--split", "val")
    options = ("tokenizer", "train", world.store, "--out", tmp_path / "x.json", "--sample")
    assert "only train" in ecglm(*options, tmp_path / "v.json").error
    other = tmp_path / "other"
    done(
        "prepare",
        "synthetic",
        "--out",
        other,
        "--rate",
        100,
        "--seg-len",
        400,
        "--set",
        "num_patients=3",
        "--set",
        "seed=8",
    )
    both = ("tokenizer", "train", world.store, other, "--num-merges", 9)
    assert "from" in done(*both, "--out", tmp_path / "both.json")
    assert EcgByte.load(tmp_path / "both.json").trained_on["rate"] == 50  # of the first
    assert "50 Hz cannot be reduced to 100 Hz" in ecglm(*both, "--out", tmp_path / "x.json", "--rate", 100).error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--limit", 0), "--limit must be 1"),
        (("--rate", 30), "cannot be reduced to 30 Hz"),
        (("--rate", 0), "cannot be reduced to 0 Hz"),
        (("--leads", "VX"), "no lead 'VX'"),
        (("--min-count", 0), "min_count"),
        (("--num-merges", -1), "num_merges"),
        (("--sample", "gone.json"), "gone.json"),
    ],
)
def test_train_says_what_is_wrong(world, tmp_path, options, message):
    assert message in ecglm("tokenizer", "train", world.store, "--out", tmp_path / "t.json", *options).error
    assert not list(tmp_path.iterdir())


def test_train_says_when_no_pair_is_left(world, tmp_path):
    said = done("tokenizer", "train", world.store, "--out", tmp_path / "t.json", "--min-count", 2000)
    made = EcgByte.load(tmp_path / "t.json")
    assert f"only {len(made.merges)} of 3500 merges" in said and len(made.merges) < 100


def test_an_interrupted_training_leaves_nothing(world, tmp_path, monkeypatch):
    def impatient(stage, done, total, unit):
        if stage == "merges":
            raise KeyboardInterrupt

    monkeypatch.setattr(tokenizers, "stages", lambda: nullcontext(impatient))
    ran = ecglm("tokenizer", "train", world.store, "--out", tmp_path / "t.json")
    assert ran.status == 130 and "interrupted" in ran.err
    assert not list(tmp_path.iterdir())


def test_train_holds_a_batch_of_the_store_at_a_time(world, tmp_path, monkeypatch):
    sizes, take = [], SegmentStore.take
    monkeypatch.setattr(SegmentStore, "take", lambda self, at: sizes.append(len(at)) or take(self, at))
    monkeypatch.setattr(tokenizer_training, "_BATCH", 4)
    done("tokenizer", "train", world.store, "--out", tmp_path / "t.json", "--num-merges", 5)
    assert len(sizes) > 3 and max(sizes) == 4


def test_encode_prints_draws_and_writes(world, home, tmp_path):
    options = ("tokenizer", "encode", home / "two.json", world.store, 3)
    ids, summary = done(*options).splitlines()
    assert summary.startswith(f"{len(ids.split())} tokens for 2 × 125 samples")
    said = done(*options, "--show", tmp_path / "new" / "t.png", "--data", tmp_path / "t.csv")
    assert f"picture: {tmp_path / 'new' / 't.png'}" in said and f"tokens: {tmp_path / 't.csv'}" in said
    with open(tmp_path / "t.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [r["id"] for r in rows] == ids.split() and {r["lead"] for r in rows} == {"II", "V1"}
    assert cv2.imread(str(tmp_path / "new" / "t.png")).std() > 10
    done(*options, "--data", tmp_path / "t.json")
    assert [{k: str(v) for k, v in row.items()} for row in json.loads((tmp_path / "t.json").read_text())] == rows
    assert "3 × 250 samples" in done(*options, "--leads", "I", "V1", "V6", "--rate", 50)
    assert "written as .csv or .json" in ecglm(*options, "--data", tmp_path / "t.txt").error
    assert "it holds 0 to" in ecglm("tokenizer", "encode", home / "two.json", world.store, 999).error
    assert "no such file" in ecglm("tokenizer", "encode", home / "gone.json", world.store, 0).error


def test_a_store_of_another_rate_is_one_clear_line(home, tmp_path):
    store = tmp_path / "slow"
    done("prepare", "synthetic", "--out", store, "--rate", 40, "--seg-len", 200, "--set", "num_patients=2")
    for verb in (("encode", home / "two.json", store, 0), ("verify", home / "two.json", store)):
        assert (
            "40 Hz cannot be reduced to the 25 Hz that the tokenizer was trained on" in ecglm("tokenizer", *verb).error
        )
    assert "× 100 samples" in done("tokenizer", "encode", home / "two.json", store, 0, "--rate", 20)


def test_verify_says_that_everything_came_back(world, home, tmp_path):
    num = len(SegmentStore(world.store))
    said = done("tokenizer", "verify", home / "all.json", world.store)
    assert f"{num} of {num} ECGs came back exactly (12 leads at 50 Hz" in said and "ms to encode" in said
    options = ("tokenizer", "verify", home / "two.json", world.store, "--segments", 5, "--out", tmp_path / "v")
    assert "5 of 5 ECGs came back exactly (2 leads at 25 Hz, 250 symbols each)" in done(*options)
    made = {p.name: p.read_bytes() for p in (tmp_path / "v").iterdir()}
    assert sum(name.endswith(".png") for name in made) == 4 and "segments.parquet" in made
    assert json.loads(made["summary.json"])["symbols_exact"] == 5
    said = done(*options)  # read, not made again
    assert "5 of 5" in said and "ms to encode" not in said
    done(*options, "--overwrite")
    assert {p.name: p.read_bytes() for p in (tmp_path / "v").iterdir()} == made
    assert "--segments must be 1" in ecglm(*options[:4], "--segments", 0).error
    assert "--overwrite" in ecglm(*options[:-2], "--segments", 6, "--out", tmp_path / "v").error


def test_verify_ends_with_1_when_an_ecg_does_not_come_back(world, home, tmp_path, monkeypatch):
    right = EcgByte.decode
    monkeypatch.setattr(EcgByte, "decode", lambda self, tokens: right(self, tokens) + np.float32(0.5))
    options = ("tokenizer", "verify", home / "all.json", world.store, "--segments", 3, "--out", tmp_path / "v")
    for _ in range(2):  # made, and read
        ran = ecglm(*options)
        assert ran.status == 1 and "FAILED: segments 0, " in ran.out


def test_stats_writes_tables_and_pictures(world, home, tmp_path):
    options = ("tokenizer", "stats", home / "two.json", world.store, "--out", tmp_path / "s")
    said = done(*options)
    assert "Zipf exponent" in said and f"results: {tmp_path / 's'}" in said
    names = {p.name for p in (tmp_path / "s").iterdir()}
    assert {"tokens.parquet", "ecgs.parquet", "summary.json", "zipf.png", "lengths.png", "manifest.json"} <= names
    found = json.loads((tmp_path / "s" / "summary.json").read_text())
    assert found["num_segments"] == len(SegmentStore(world.store)) and set(found["per_lead"]) == {"II", "V1"}
    assert done(*options) == said
    assert "in 4 ECGs" in done(*options[:4], "--limit", 4, "--out", tmp_path / "t")
    assert "--limit must be 1" in ecglm(*options[:4], "--limit", 0, "--out", tmp_path / "u").error


def test_convert_reads_an_original_file(home, tmp_path):
    texts = EcgByte.train(walks(), 30, boundary="none").expansions.texts
    shown = [chr(i) if i < 128 else f"<{i}>" for i in range(256)] + [t.decode() for t in texts[256:]]
    vocab = {i: shown[i] for i in reversed(range(len(shown)))}
    file, out = tmp_path / "t.pkl", tmp_path / "t.json"
    file.write_bytes(pickle.dumps((vocab, [(list(t), 256 + i) for i, t in enumerate(texts[256:])]), protocol=4))
    said = done("tokenizer", "convert", file, "--out", out)
    assert "286 ids, 30 merges (first " in said and f"tokenizer: {out}" in said
    assert EcgByte.load(out).legacy_vocab_order == list(reversed(range(286)))
    first = out.read_bytes()
    done("tokenizer", "convert", file, "--out", out)
    assert out.read_bytes() == first
    out.write_bytes((home / "all.json").read_bytes())
    assert "--overwrite" in ecglm("tokenizer", "convert", file, "--out", out).error
    done("tokenizer", "convert", file, "--out", out, "--overwrite")
    assert out.read_bytes() == first
    file.write_bytes(pickle.dumps(print))
    assert "opcode STACK_GLOBAL" in ecglm("tokenizer", "convert", file, "--out", tmp_path / "x.json").error
    assert not (tmp_path / "x.json").exists()
    assert "no such file" in ecglm("tokenizer", "convert", home / "gone.pkl", "--out", tmp_path / "x.json").error


def walks():
    rng = np.random.default_rng(0)
    return np.cumsum(rng.normal(size=(3, 12, 100)), axis=-1).astype(np.float32)


def test_progress_in_a_log_and_on_a_terminal(capsys, monkeypatch):
    with progress.counted("merges", 10, "merges") as done:
        for n in range(11):
            done(n)
    assert capsys.readouterr().err == ""  # quick work says nothing
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    with progress.stages() as tell:
        tell("merges", 0, 10, "merges")
        tell("merges", 5, 10, "merges")
    first, second = capsys.readouterr().err.splitlines()
    assert first == "merges: 0/10 merges" and second.startswith("merges: 5/10 merges, ")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress.stages() as tell:
        tell("symbols", 7, 7, "segments")
        tell("merges", 10, 10, "merges")
    said = capsys.readouterr().err
    assert "7/7" in said and "10/10" in said


@pytest.mark.realdata
def test_a_published_tokenizer_on_real_ecgs(ptb_xl, shared, tmp_path):
    """Every ECG comes back, in 9 to 17 times fewer tokens than symbols, as published of filtered 12 × 1250."""
    options = ("--root", ptb_xl, "--seg-len", 1250, "--set", "resolution=500", "--limit", 60)
    done("prepare", "ptb-xl", "--out", tmp_path / "store", *options)
    done("tokenizer", "convert", shared / "ecg-byte" / "tokenizer_5000_300000.pkl", "--out", tmp_path / "t.json")
    done("tokenizer", "verify", tmp_path / "t.json", tmp_path / "store", "--out", tmp_path / "v")
    found = json.loads((tmp_path / "v" / "summary.json").read_text())
    assert found["symbols_exact"] == found["within_half_a_bin"] == found["num_segments"] == 120
    assert 9 < found["symbols_per_token"] < 17
