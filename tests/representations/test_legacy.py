"""Original ECG-Byte pickles: read exactly, whatever the protocol; and whatever else a pickle may hold, refused."""

import io
import os
import pickle
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecglm.errors import EcglmError, UnsafeInputError
from ecglm.representations import legacy
from ecglm.representations.ecg_byte import EcgByte
from ecglm.representations.legacy import convert_legacy, parse_legacy, recover_pairs


def ecg_like(num=4, num_samples=300, seed=0):
    rng = np.random.default_rng(seed)
    t = np.arange(num_samples)
    x = 0.05 * np.cumsum(rng.normal(size=(num, 12, num_samples)), axis=-1)
    return (x + 1.2 * np.exp(-(((t % 60) - 30) ** 2) / 8)).astype(np.float32)


def original_of(texts):
    """What the original saved, of the expansions of merges: a shuffled vocabulary, and lists of bytes."""
    shown = [*([b] for b in range(256)), *map(list, texts)]
    words = ["".join(chr(b) if b < 128 else f"<{b}>" for b in text) for text in shown]
    order = np.random.default_rng(1).permutation(len(shown)).tolist()
    return {i: words[i] for i in order}, [(list(text), 256 + i) for i, text in enumerate(texts)]


@pytest.fixture(scope="module")
def trained():
    return EcgByte.train(ecg_like(), 150, boundary="none")


@pytest.fixture(scope="module")
def original(trained):
    return original_of(trained.expansions.texts[256:])


@pytest.fixture(scope="module")
def good(original):
    return pickle.dumps(original, protocol=4)


def one_line(error, path=None):
    text = str(error.value)
    assert "\n" not in text and len(text) < 400
    return text


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_gives_the_same_tokenizer(tmp_path, trained, original, protocol):
    path = tmp_path / "t.pkl"
    path.write_bytes(pickle.dumps(original, protocol=protocol))
    made = convert_legacy(path)
    np.testing.assert_array_equal(made.merges, trained.merges)
    assert made.legacy_vocab_order == list(original[0])
    assert (made.boundary, made.encode_mode, made.normalise) == ("none", "greedy", "instance")
    x = ecg_like(1, seed=7)[0]
    np.testing.assert_array_equal(made.encode(x).ids, trained.encode(x).ids)


def test_the_file_it_gives_is_read_again_and_the_same_each_time(tmp_path, good):
    (tmp_path / "t.pkl").write_bytes(good)
    for name in ("a", "b"):
        convert_legacy(tmp_path / "t.pkl", normalise="percentile", percentiles={"p1": -1, "p99": 1}).save(
            tmp_path / name
        )
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    again = EcgByte.load(tmp_path / "a")
    assert (again.normalise, again.percentiles) == ("percentile", {"p1": -1.0, "p99": 1.0})
    with pytest.raises(EcglmError, match="percentiles"):
        convert_legacy(tmp_path / "t.pkl", normalise="percentile")


def test_a_tokenizer_without_merges():
    vocab, texts = parse_legacy(pickle.dumps(original_of([])))
    assert len(vocab) == 256 and texts == []


@settings(deadline=None, max_examples=60)
@given(st.text(alphabet="abc", min_size=2, max_size=120), st.integers(0, 40))
def test_pairs_are_recovered_from_expansions_alone(text, num_merges):
    """Train, keep only what each merge stands for, and find its pair again: the only one training could have made."""
    from ecglm.representations.bpe import train_merges
    from ecglm.representations.bpe_encode import Expansions

    merges = train_merges([np.frombuffer(text.encode(), np.uint8)], num_merges, min_count=1)
    assert recover_pairs(Expansions(merges).texts[256:]) == merges.tolist()


def test_of_several_pairs_that_spell_a_merge_the_trained_one_is_found():
    # ab = 256, abc = (256, c): "a" + "bc" would spell it too once bc = 258 is there
    assert recover_pairs([b"ab", b"abc", b"bc", b"abcbc"]) == [[97, 98], [256, 99], [98, 99], [257, 258]]


@pytest.mark.parametrize("texts", [[b"abc"], [b"ab", b"ab"], [b"ab", b"abxyz"], [b"ab", b"abc", b"ababcx"]])
def test_merges_of_no_byte_pair_encoding_are_an_error(texts):
    with pytest.raises(EcglmError, match="not two"):
        recover_pairs(texts)


FACTS = {
    "ecg_byte_tokenizer_1000_25.pkl": (1256, "kk mm ll pp", 192),
    "tokenizer_5000_300000.pkl": (5256, "mm nn ll oo", 512),
}


@pytest.mark.realdata
@pytest.mark.parametrize("name", FACTS)
def test_d25_the_published_files_have_the_facts_of_the_spec(shared, tmp_path, name):
    vocab_size, first, longest = FACTS[name]
    began = time.process_time()
    made = convert_legacy(shared / "ecg-byte" / name)
    assert time.process_time() - began < 10
    assert (made.vocab_size, len(made.merges)) == (vocab_size, vocab_size - 256)
    assert " ".join(made.decode_symbols([256 + i]) for i in range(4)) == first
    assert made.expansions.lengths.max() == longest
    assert sorted(made.legacy_vocab_order) == list(range(vocab_size)) != made.legacy_vocab_order
    # against a restricted unpickler of the standard library: the file itself, and what ours says of it
    vocab, merges = Bare(io.BytesIO((shared / "ecg-byte" / name).read_bytes())).load()
    assert list(vocab) == made.legacy_vocab_order
    assert [bytes(text) for text, _ in merges] == made.expansions.texts[256:]
    made.save(tmp_path / "t.json")
    assert EcgByte.load(tmp_path / "t.json").to_dict() == made.to_dict()


class Bare(pickle.Unpickler):
    """No class is ever looked up."""

    def find_class(self, module, name):
        raise AssertionError((module, name))


# --- what is refused


class Reduce:
    def __reduce__(self):
        return os.system, ("echo out >&2; touch " + str(MARKER),)


class Built:
    def __init__(self):
        self.x = 1


MARKER = None


@pytest.fixture
def marker(tmp_path):
    global MARKER
    MARKER = tmp_path / "ran"
    yield MARKER
    assert not MARKER.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_d25_nothing_of_a_malicious_pickle_runs(tmp_path, marker, original, protocol):
    for payload in (Reduce(), (original[0], [*original[1], Reduce()]), Built(), print, {1: Built()}):
        path = tmp_path / "t.pkl"
        path.write_bytes(pickle.dumps(payload, protocol=protocol))
        with pytest.raises(UnsafeInputError, match=r"opcode (GLOBAL|STACK_GLOBAL|REDUCE|BUILD)") as error:
            convert_legacy(path)
        assert str(path) in one_line(error)


REFUSED = {
    "none": (b"N.", "NONE"),
    "true": (b"\x80\x02\x88.", "NEWTRUE"),
    "float": (b"G" + struct.pack(">d", 1.5) + b".", "BINFLOAT"),
    "bytes": (b"C\x01a.", "SHORT_BINBYTES"),
    "python 2 string": (b"U\x01a.", "SHORT_BINSTRING"),
    "long": (b"\x8a\x01\x05.", "LONG1"),
    "long of 60 MB": (b"\x8b" + struct.pack("<i", 60 << 20) + bytes(60 << 20) + b".", "LONG4"),
    "set": (b"\x8f.", "EMPTY_SET"),
    "persistent id": (b"Pabc\n.", "PERSID"),
    "binary persistent id": (b"K\x01Q.", "BINPERSID"),
    "extension": (b"\x82\x01.", "EXT1"),
    "extension 4": (b"\x84\x01\x00\x00\x00.", "EXT4"),
    "instance": (b"(ios\nsystem\n.", "INST"),
    "object": (b"(cos\nsystem\no.", "GLOBAL"),
    "new object": (b"\x81.", "NEWOBJ"),
    "next buffer": (b"\x97.", "NEXT_BUFFER"),
    "dup": (b"]2.", "DUP"),
    "pop": (b"]0.", "POP"),
    "empty tuple": (b").", "EMPTY_TUPLE"),
    "triple": (b"]]]\x87.", "TUPLE3"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_other_opcodes_are_refused_by_name_before_anything_is_built(what, monkeypatch):
    data, opcode = REFUSED[what]
    monkeypatch.setattr(legacy, "_Builder", None)
    with pytest.raises(UnsafeInputError, match=f"opcode {opcode} at byte") as error:
        parse_legacy(data, "t.pkl")
    one_line(error)


def laughs(depth=40):
    """Lists of lists, each holding the one before it ten times."""
    return b"]q\x00" + b"".join(b"](" + bytes([104, i]) * 10 + bytes([101, 113, i + 1]) for i in range(depth)) + b"."


DAMAGED = {
    "empty": b"",
    "no pickle": b"{}",
    "a stop": b".",
    "long of negative size": b"\x8b\xff\xff\xff\xff.",
    "long that is not there": b"\x8b\xff\xff\xff\x7f.",
    "string of negative size": b"X\xff\xff\xff\xff.",
    "text that is no UTF-8": b"X\x01\x00\x00\x00\xff.",
    "frame larger than the file": b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"].",
    "frame in a frame": b"\x80\x04\x95" + struct.pack("<Q", 11) + b"\x95" + struct.pack("<Q", 1) + b"].",
    "protocol 6": b"\x80\x06].",
    "protocol twice": b"\x80\x04\x80\x04].",
    "bytes behind the end": b"]..",
    "a list that holds itself": b"]q\x00h\x00a.",
    "lists in lists": b"](]]]e.",
    "ten thousand deep": b"]" * 10_000 + b"a" * 9_999 + b".",
    "ten thousand marks": b"(" * 10_000 + b"l" * 10_000 + b".",
    "billion laughs": laughs(),
    "tuples in tuples": b"K\x01K\x01\x86K\x01\x86.",
    "append to a number": b"K\x01K\x01a.",
    "append to nothing": b"a.",
    "items without a mark": b"]K\x01e.",
    "set on a list": b"]K\x01X\x01\x00\x00\x00as.",
    "odd items": b"}(K\x01u.",
    "key of text": b"}X\x01\x00\x00\x00aX\x01\x00\x00\x00as.",
    "key that is a list": b"}]X\x01\x00\x00\x00as.",
    "value of number": b"}K\x01K\x01s.",
    "value that is the dictionary": b"}q\x00K\x01h\x00s.",
    "a key twice": b"}(K\x01X\x01\x00\x00\x00aK\x01X\x01\x00\x00\x00au.",
    "nothing kept": b"h\x07.",
    "keep nothing": b"q\x00.",
    "keep a mark": b"(q\x00.",
    "bool in a list": b"]I01\na.",
    "number of 10,000 digits": b"I" + b"9" * 10_000 + b"\n.",
    "negative number": b"J\xff\xff\xff\xff.",
    "number too large": b"J\xff\xff\xff\x7f.",
    "numbers and texts": b"](K\x01X\x01\x00\x00\x00ae.",
    "a dictionary alone": b"}.",
    "two results": b"}}.",
    "merges before the vocabulary": b"]}\x86.",
    "one of a pair": b"(}t.",
    "a merge alone": b"](K\x01K\x02eM\x00\x01\x86.",
    "an empty merge": b"]M\x00\x01\x86.",
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damaged_and_hostile_pickles_are_one_line_at_once(what):
    began = time.process_time()
    with pytest.raises(EcglmError) as error:
        parse_legacy(DAMAGED[what], "t.pkl")
    assert one_line(error).startswith("t.pkl: ")
    assert time.process_time() - began < 2


def changed(original, **how):
    vocab, merges = dict(original[0]), [(list(text), new) for text, new in original[1]]
    for name, change in how.items():
        change({"vocab": vocab, "merges": merges}[name])
    return vocab, merges


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"vocab": lambda v: v.pop(300)}, "405 ids for 256 bytes and 150 merges"),
        ({"vocab": lambda v: v.update({9999: v.pop(300)})}, "the text of id 300"),
        ({"vocab": lambda v: v.update({300: v[300] + "a"})}, "the text of id 300"),
        ({"vocab": lambda v: v.update({97: "b"})}, "the text of id 97"),
        ({"vocab": lambda v: v.update({200: chr(200)})}, "the text of id 200"),
        ({"merges": lambda m: m.pop(7)}, "merge 7 makes id 264, 263 is next"),
        ({"merges": lambda m: m.reverse()}, "merge 0 makes id 405"),
        ({"merges": lambda m: m[5][0].append(256)}, "two or more bytes"),
        ({"merges": lambda m: m[5][0].__delitem__(slice(1, None))}, "two or more bytes"),
        ({"merges": lambda m: m[5][0].append(97)}, "the text of id 261"),
    ],
)
def test_what_does_not_fit_together_is_an_error(original, how, message):
    with pytest.raises(EcglmError, match=message) as error:
        parse_legacy(pickle.dumps(changed(original, **how)), "t.pkl")
    one_line(error)


def test_merges_that_share_a_long_list_are_refused_before_they_grow():
    """A list of 100,000 numbers in 60,000 merges: a file of 1 MB that would stand for 6,000,000,000 symbols."""
    long = [97] * 100_000
    data = pickle.dumps(({}, [(long, 256 + i) for i in range(60_000)]))
    assert len(data) < 2 << 20
    with pytest.raises(UnsafeInputError, match="symbols together"):
        parse_legacy(data)


def test_files_that_are_none_or_too_large(tmp_path):
    with pytest.raises(EcglmError, match="no such file"):
        convert_legacy(tmp_path / "gone.pkl")
    with pytest.raises(EcglmError, match="no such file"):
        convert_legacy(tmp_path)
    with open(tmp_path / "large.pkl", "wb") as handle:
        handle.truncate((64 << 20) + 1)
    with pytest.raises(UnsafeInputError, match="64 MiB"):
        convert_legacy(tmp_path / "large.pkl")


def test_truncated_anywhere_is_one_line(good):
    for size in range(0, len(good) - 1, 97):
        with pytest.raises(EcglmError) as error:
            parse_legacy(good[:size], "t.pkl")
        one_line(error)


def test_with_any_byte_flipped_the_result_is_the_same_or_an_error(good, original):
    rng, outcomes = np.random.default_rng(0), {"same": 0, "error": 0}
    for place in rng.permutation(len(good))[:400].tolist():
        data = bytearray(good)
        data[place] ^= 1 << int(rng.integers(8))
        try:
            vocab, texts = parse_legacy(bytes(data), "t.pkl")
            recover_pairs(texts)
        except EcglmError as error:
            assert "\n" not in str(error)
            outcomes["error"] += 1
        else:  # a memo entry that nobody asks for, or the length of a frame: nothing else may change unnoticed
            assert list(vocab.items()) == list(original[0].items())
            assert texts == [bytes(text) for text, _ in original[1]]
            outcomes["same"] += 1
    assert outcomes["error"] > 300


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=60), st.sampled_from([b"", b"\x80\x04", b"]", b"}(", b"](K\x01"]))
def test_any_bytes_are_an_error(data, start):
    with pytest.raises(EcglmError) as error:
        parse_legacy(start + data + b".", "t.pkl")
    one_line(error)


HUNGRY = """
import resource, sys, time
from ecglm.errors import EcglmError
from ecglm.representations.legacy import convert_legacy
before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
try:
    convert_legacy(sys.argv[1])
except EcglmError as error:
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(type(error).__name__, "\\n" in str(error), taken >> 10, time.process_time() - began)
"""


@pytest.mark.slow
@pytest.mark.parametrize("num", [legacy.MAX_OPCODES - 1, 64 << 20], ids=["allowed", "too-many"])
@pytest.mark.parametrize(
    "unit", [b"]", b"K\x61", b"}", b"M\xff\xff", b"(", b"]\x94", b"X\x00\x00\x00\x00", b"(l", b"]a"], ids=repr
)
def test_the_largest_files_take_bounded_time_and_memory(tmp_path, unit, num):
    """Nothing but one opcode or two, as many as are allowed or as 64 MiB hold: within seconds and a gigabyte."""
    path, per_unit = tmp_path / "t.pkl", 2 if unit in (b"]\x94", b"(l", b"]a") else 1
    path.write_bytes(unit * min(num // per_unit, (64 << 20) // len(unit) - 1) + b".")
    done = subprocess.run([sys.executable, "-c", HUNGRY, str(path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    name, two_lines, megabytes, seconds = done.stdout.split()
    assert name in ("UnsafeInputError", "EcglmError") and two_lines == "False"
    assert int(megabytes) < 1000 and float(seconds) < 60
