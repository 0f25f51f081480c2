"""files.py: nothing is ever half there, and everything says what it was made of."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ecglm import files
from ecglm.errors import EcglmError, StaleOutputError, TornOutputError, UnsafeInputError

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def child(code: str, *args: object, **options) -> subprocess.Popen:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


# --- fingerprints


def test_canonical_json_and_its_fingerprint_by_hand():
    assert files.canonical_json({"b": [1, 2.5, None], "a": "ä"}) == '{"a":"ä","b":[1,2.5,null]}'
    assert files.fingerprint({"b": 1, "a": 2}) == hashlib.sha256(b'{"a":2,"b":1}').hexdigest()
    assert files.fingerprint("") == hashlib.sha256(b'""').hexdigest()
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError):
            files.fingerprint({"x": bad})


@given(st.dictionaries(st.text(max_size=5), json_values, max_size=6), st.randoms(use_true_random=False))
def test_fingerprints_do_not_see_the_order_of_keys(value, random):
    def shuffled(thing):
        if isinstance(thing, dict):
            items = list(thing.items())
            random.shuffle(items)
            return {k: shuffled(v) for k, v in items}
        return [shuffled(v) for v in thing] if isinstance(thing, list) else thing

    assert files.fingerprint(shuffled(value)) == files.fingerprint(value)


@given(json_values, json_values)
def test_different_values_have_different_fingerprints(one, other):
    assume(json.dumps(one, sort_keys=True) != json.dumps(other, sort_keys=True))
    assert files.fingerprint(one) != files.fingerprint(other)


def test_the_order_of_a_list_counts():
    assert files.fingerprint([1, 2]) != files.fingerprint([2, 1])


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 7])
def test_file_sha256(tmp_path, size):
    data = os.urandom(size)
    (tmp_path / "f").write_bytes(data)
    assert files.file_sha256(tmp_path / "f") == hashlib.sha256(data).hexdigest()


# --- atomic writes


def test_a_file_appears_whole_with_common_rights(tmp_path):
    target = tmp_path / "new folder" / "ä.txt"
    files.write_text(target, "größe\n")
    assert target.read_bytes() == "größe\n".encode()
    assert target.stat().st_mode & 0o777 == 0o644
    files.write_text(target, "2")
    assert target.read_text() == "2" and names(target.parent) == ["ä.txt"]


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_inside_leaves_the_old_content_and_no_temporaries(tmp_path, kind):
    target = tmp_path / "f"
    target.write_text("old")
    with pytest.raises(kind), files.atomic_path(target) as temporary:
        temporary.write_text("half")
        assert target.read_text() == "old"
        raise kind
    assert target.read_text() == "old" and names(tmp_path) == ["f"]


def test_an_error_inside_leaves_the_old_folder_and_no_temporaries(tmp_path):
    target = tmp_path / "d"
    with files.atomic_dir(target) as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep" / "a").write_text("1")
        assert not target.exists()
    assert (target / "deep" / "a").read_text() == "1" and target.stat().st_mode & 0o777 == 0o755
    with pytest.raises(ValueError), files.atomic_dir(target) as temporary:
        (temporary / "b").write_text("2")
        raise ValueError
    assert names(tmp_path) == ["d"] and names(target) == ["deep"]
    with files.atomic_dir(target) as temporary:
        (temporary / "b").write_text("2")
    assert names(tmp_path) == ["d"] and names(target) == ["b"]


@pytest.mark.parametrize("where", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "no space left on the disk"),
        (errno.EDQUOT, "no space left on the disk"),
        (errno.EROFS, "cannot be written"),
        (errno.EACCES, "cannot be written"),
        (errno.EFBIG, "cannot be written"),
    ],
)
def test_disk_full_or_read_only_is_one_line_naming_the_file(tmp_path, monkeypatch, where, code, words):
    target = tmp_path / "f.json"
    target.write_text("old")

    def full(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, where, full)
    with pytest.raises(EcglmError, match=words) as caught:
        files.write_json(target, {"a": 1})
    assert str(target) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(EcglmError, match=words), files.atomic_dir(tmp_path / "d") as temporary:
        (temporary / "x").write_text("1")
    assert names(tmp_path) == ["f.json"] and target.read_text() == "old"


def test_append_on_a_full_disk_names_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(EcglmError, match=r"rows\.jsonl: no space left"):
        files.append_jsonl(tmp_path / "rows.jsonl", [{"a": 1}])


def test_other_errors_of_the_system_are_not_dressed_up(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.EINVAL, "odd")))
    with pytest.raises(OSError, match="odd"):
        files.write_text(tmp_path / "f", "x")


def test_a_real_limit_of_the_system_on_file_size(tmp_path):
    """The kernel itself refuses the write: the old file stays, and nothing else lies there."""
    target = tmp_path / "f"
    target.write_text("old")
    code = """
        import resource, sys
        from ecglm import files
        from ecglm.errors import EcglmError
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            files.write_bytes(sys.argv[1], b"x" * 10_000)
        except EcglmError as error:
            print(error)
    """
    out, err = child(code, target).communicate(timeout=30)
    assert out == f"{target}: cannot be written (File too large); choose another --out\n", err
    assert target.read_text() == "old" and names(tmp_path) == ["f"]


def test_a_file_where_a_folder_is_needed(tmp_path):
    (tmp_path / "f").write_text("mine")
    for write in (files.write_text, lambda p, t: files.append_jsonl(p, [{}])):
        with pytest.raises(EcglmError, match="cannot be written"):
            write(tmp_path / "f" / "x", "1")
    with pytest.raises(EcglmError, match="cannot be written"):
        files.write_text(tmp_path, "1")
    assert (tmp_path / "f").read_text() == "mine" and names(tmp_path) == ["f"]


def test_killed_while_writing(tmp_path):
    """kill -9 in the middle: the old file stays, and the next write of that file sweeps up the leftover."""
    target = tmp_path / "f"
    target.write_text("old")
    code = """
        import sys, time
        from ecglm import files
        with files.atomic_path(sys.argv[1]) as temporary:
            temporary.write_text("half")
            print("writing", flush=True)
            time.sleep(60)
    """
    process = child(code, target)
    assert process.stdout.readline() == "writing\n"
    files.write_text(target, "from another process")  # which must not touch the living one's temporary
    assert len(names(tmp_path)) == 2
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(names(tmp_path)) == 2 and target.read_text() == "from another process"
    files.write_text(target, "new")
    assert names(tmp_path) == ["f"] and target.read_text() == "new"


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text(max_size=6), json_values, max_size=4))
def test_json_comes_back_equal(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "v.json"
    files.write_json(path, value)
    assert files.read_json(path) == value == json.loads(path.read_text())


def test_nan_is_not_written(tmp_path):
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "v.json", {"x": float("nan")})
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"a": 1, "a": 2}', "key 'a' stands twice"),
        (b'{"a": ', "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "nested too deeply|not valid JSON"),
    ],
    ids=["doubled", "torn", "no text", "deep"],
)
def test_json_that_is_none(tmp_path, data, words):
    (tmp_path / "v.json").write_bytes(data)
    with pytest.raises(EcglmError, match=words) as caught:
        files.read_json(tmp_path / "v.json")
    assert "v.json" in str(caught.value)
    with pytest.raises(EcglmError, match="no such file"):
        files.read_json(tmp_path / "gone.json")


def test_a_byte_order_mark_is_read_over(tmp_path):
    (tmp_path / "v.json").write_bytes(b"\xef\xbb\xbf[1]")
    assert files.read_json(tmp_path / "v.json") == [1]


# --- manifests


def test_a_manifest_says_what_made_it(tmp_path):
    made = files.write_manifest(tmp_path / "manifest.json", "cake", {"b": 1}, {"i": "f"}, {"o": "s"}, num=3)
    raw = json.loads((tmp_path / "manifest.json").read_text())
    by_hand = hashlib.sha256(b'{"inputs":{"i":"f"},"kind":"cake","settings":{"b":1}}').hexdigest()
    assert raw == made == files.read_manifest(tmp_path, "cake")
    assert raw["fingerprint"] == by_hand == files.plan_fingerprint("cake", {"b": 1}, {"i": "f"})
    assert (raw["kind"], raw["num"], raw["outputs"]) == ("cake", 3, {"o": "s"})


def test_the_fingerprint_is_of_the_plan_only(tmp_path):
    def made(kind="k", settings=(("a", 1),), inputs=(("i", "x"),), outputs=(("o", "1"),)):
        return files.write_manifest(tmp_path / "m", kind, dict(settings), dict(inputs), dict(outputs))["fingerprint"]

    assert made() == made(outputs=(("o", "2"),))
    others = [made(kind="l"), made(settings=(("a", 2),)), made(inputs=(("i", "y"),)), made()]
    assert len(set(others)) == 4


def test_a_manifest_of_another_kind_version_or_none(tmp_path):
    with pytest.raises(EcglmError, match="no such cake"):
        files.read_manifest(tmp_path / "gone" / "x", "cake")
    with pytest.raises(TornOutputError, match="unfinished or not a cake"):
        files.read_manifest(tmp_path, "cake")
    files.write_manifest(tmp_path / "manifest.json", "bread", {}, {}, {})
    with pytest.raises(EcglmError, match="is a 'bread', a cake is needed here"):
        files.read_manifest(tmp_path, "cake")
    raw = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**raw, "manifest_version": 99}))
    with pytest.raises(StaleOutputError, match="manifest version 99"):
        files.read_manifest(tmp_path, "bread")
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(EcglmError, match="is a 'list'"):
        files.read_manifest(tmp_path, "bread")
    (tmp_path / "manifest.json").write_text('{"kind": "bre')
    with pytest.raises(EcglmError, match="not valid JSON"):
        files.read_manifest(tmp_path, "bread")


# --- the states of an output folder


def test_new_unfinished_finished(tmp_path):
    out, plan = tmp_path / "o", files.plan_fingerprint("cake", {"a": 1}, {})
    assert files.output_state(out, "cake", plan, False) == "new"
    assert files.output_state(out, "cake", plan, False) == "new"  # nothing has been made yet
    (out / "half").write_text("1")
    assert files.output_state(out, "cake", plan, False) == "unfinished"
    files.write_manifest(out / "manifest.json", "cake", {"a": 1}, {}, {})
    assert files.output_state(out, "cake", plan, False) == "finished"
    assert (out / "half").exists()


@pytest.mark.parametrize("finished", [False, True])
def test_another_plan_is_stale_unless_overwritten(tmp_path, finished):
    out, plan = tmp_path / "o", files.plan_fingerprint("cake", {"a": 1}, {})
    files.output_state(out, "cake", plan, False)
    (out / "half").write_text("1")
    if finished:
        files.write_manifest(out / "manifest.json", "cake", {"a": 1}, {}, {})
    other = files.plan_fingerprint("cake", {"a": 2}, {})
    with pytest.raises(StaleOutputError, match="--overwrite"):
        files.output_state(out, "cake", other, False)
    assert (out / "half").read_text() == "1"
    assert files.output_state(out, "cake", other, True) == "new"
    assert names(out) == ["plan.json"]


def test_an_attempt_without_a_result_binds_nobody(tmp_path):
    files.output_state(tmp_path / "o", "cake", "plan a", False)
    assert files.output_state(tmp_path / "o", "cake", "plan b", False) == "new"


@pytest.mark.parametrize("overwrite", [False, True])
def test_somebody_elses_folder_is_left_alone(tmp_path, overwrite):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(EcglmError, match="choose another --out"):
        files.output_state(tmp_path, "cake", "plan", overwrite)
    with pytest.raises(EcglmError, match="is a file"):
        files.output_state(tmp_path / "thesis.tex", "cake", "plan", overwrite)
    assert (tmp_path / "thesis.tex").read_text() == "years of work" and names(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("overwrite", [False, True])
def test_another_kind_of_output_is_never_removed(tmp_path, finished, overwrite):
    files.output_state(tmp_path / "o", "run", "plan", False)
    (tmp_path / "o" / "weights").write_text("hours")
    if finished:
        files.write_manifest(tmp_path / "o" / files.MANIFEST, "run", {}, {}, {})
    with pytest.raises(EcglmError, match=r"holds another output \(run\), not a cake; choose another --out"):
        files.output_state(tmp_path / "o", "cake", "plan", overwrite)
    assert (tmp_path / "o" / "weights").read_text() == "hours"


# --- names and places


@pytest.mark.parametrize("name", ["a.dat", "ä ö.dat", "00001_hr.dat", "-x", "..a", "a..b", ".hidden", "x" * 255, "a~b"])
def test_plain_names_are_fine(name):
    assert files.bare_file_name(name, "here") == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "/etc/passwd",
        "..\\x",
        "C:x",
        "C:\\x",
        "~",
        "~root",
        "a\0b",
        "a/../b",
        "x/",
        "\\\\h",
    ],
)
def test_names_that_lead_elsewhere_are_refused(name):
    with pytest.raises(UnsafeInputError, match="here: refuses"):
        files.bare_file_name(name, "here")


@settings(max_examples=300)
@given(st.text(alphabet=st.sampled_from("ab./\\~:\0 ") | st.characters(codec="utf-8"), max_size=12))
def test_a_name_that_passes_stays_in_its_folder(name):
    try:
        files.bare_file_name(name, "here")
    except UnsafeInputError:
        return
    joined = os.path.normpath(os.path.join("/root/folder", name))
    assert os.path.dirname(joined) == "/root/folder" and os.path.basename(joined) == name
    assert os.path.expanduser(name) == name


def test_inside_follows_links(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "sub").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret").write_text("1")
    (root / "own").write_text("1")
    (root / "link").symlink_to(outside / "secret")
    (root / "sub" / "good").symlink_to(root / "own")
    (root / "dir").symlink_to(outside)
    (tmp_path / "rootling").mkdir()
    for path in (root / "own", root / "sub" / "good", root / "sub" / ".." / "own", root / "not yet"):
        assert files.inside(root, path, "here") == path
    for path in (root / "link", root / "dir" / "secret", root / ".." / "outside", tmp_path / "rootling", Path("/etc")):
        with pytest.raises(UnsafeInputError, match="leads outside its folder"):
            files.inside(root, path, "here")


# --- rows


def test_rows_are_appended_and_read(tmp_path):
    path = tmp_path / "a" / "rows.jsonl"
    files.append_jsonl(path, [{"b": 1, "a": "ä"}])
    files.append_jsonl(path, [{"c": [None]}, {}])
    assert path.read_text() == '{"a": "ä", "b": 1}\n{"c": [null]}\n{}\n'
    assert files.read_jsonl(path) == [{"b": 1, "a": "ä"}, {"c": [None]}, {}]
    with pytest.raises(ValueError):
        files.append_jsonl(path, [{"x": float("nan")}])


@pytest.mark.parametrize("tail", [b'{"a": 3', b"{", b'{"a": "\xc3', b'{"a": 3}'])
def test_a_torn_last_line_only_on_resume(tmp_path, tail):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n\n{"a": 2}\n' + tail)
    assert files.read_jsonl(path, allow_torn=True) == [{"a": 1}, {"a": 2}]
    if tail != b'{"a": 3}':  # whole, though its line end is missing
        with pytest.raises(EcglmError, match=r"rows\.jsonl, line 4: not valid JSON"):
            files.read_jsonl(path)


@pytest.mark.parametrize("allow_torn", [False, True])
@pytest.mark.parametrize("bad", [b"{broken", b"[1]", b"3"])
def test_a_broken_line_in_the_middle_is_never_passed_over(tmp_path, bad, allow_torn):
    (tmp_path / "rows.jsonl").write_bytes(b'{"a": 1}\n' + bad + b'\n{"a": 2}\n')
    with pytest.raises(EcglmError, match="line 2"):
        files.read_jsonl(tmp_path / "rows.jsonl", allow_torn=allow_torn)


# --- locks

HOLD = """
    import sys, time
    from ecglm import files
    with files.exclusive_lock(sys.argv[1]):
        print("held", flush=True)
        sys.stdin.readline()
"""


def test_two_processes_one_lock(tmp_path):
    lock = tmp_path / "sub" / "lock"
    process = child(HOLD, lock, stdin=subprocess.PIPE)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(EcglmError, match="another process is working here"), files.exclusive_lock(lock):
        pytest.fail("two holders")
    process.communicate("go\n")
    assert process.returncode == 0
    with files.exclusive_lock(lock):
        assert lock.exists()
    assert names(lock.parent) == []


def test_a_lock_is_free_when_its_holder_is_killed(tmp_path):
    process = child(HOLD, tmp_path / "lock", stdin=subprocess.PIPE)
    assert process.stdout.readline() == "held\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (tmp_path / "lock").exists()
    with files.exclusive_lock(tmp_path / "lock"):
        pass


def test_a_lock_is_free_after_an_error(tmp_path):
    with pytest.raises(ValueError), files.exclusive_lock(tmp_path / "lock"):
        raise ValueError
    with files.exclusive_lock(tmp_path / "lock"):
        pass


def test_a_folder_is_locked_from_beside_it(tmp_path):
    with files.folder_lock(tmp_path / "o"):
        (tmp_path / "o").mkdir()
        with pytest.raises(EcglmError, match="another process is working on it"), files.folder_lock(tmp_path / "o"):
            pytest.fail("two holders")
        with files.folder_lock(tmp_path / "p"):
            pass
    assert names(tmp_path) == ["o"]


def test_an_attempt_without_any_result_binds_nobody(tmp_path):
    """A mistake found at the first record must not make the mended command an error."""
    out = tmp_path / "store"
    assert files.output_state(out, "x", "plan one", overwrite=False) == "new"
    (out / "shards").mkdir()
    assert files.output_state(out, "x", "plan two", overwrite=False) == "new"
    (out / "shards" / "00000.i16").write_bytes(b"1")
    with pytest.raises(StaleOutputError):
        files.output_state(out, "x", "plan three", overwrite=False)
