from __future__ import annotations

import errno
import hashlib
import threading

import pytest

from ecglm.downloads import fetch as module
from ecglm.downloads.fetch import RemoteFile, fetch, read_url
from ecglm.downloads.web import Session
from ecglm.errors import EcglmError, TornOutputError, UnsafeInputError

DATA = bytes(range(256)) * 3000


def sha(data):
    return ("sha256", hashlib.sha256(data).hexdigest())


@pytest.fixture
def get(host, tmp_path):
    """Fetch ``/a`` of the host to ``out/a``; the target path beside what was ticked."""

    def run(path="/a", session=None, **options):
        ticks = []
        file = RemoteFile("a", host.url + path, options.pop("size", None), options.pop("digest", None))
        target = tmp_path / "out" / "a"
        run.ticks = ticks
        run.result = fetch(file, target, session or Session(5), tick=ticks.append, first_wait=0.01, **options)
        return target

    run.target = tmp_path / "out" / "a"
    run.part = tmp_path / "out" / "a.part"
    return run


def leave_part(get, host, data, etag=None, url=None):
    import json

    get.part.parent.mkdir(exist_ok=True)
    get.part.write_bytes(data)
    facts = {"url": url or host.url + "/a", "validator": etag, "size": None}
    get.part.with_name("a.part.json").write_text(json.dumps(facts))


def test_a_file_comes_whole_and_nothing_else_stays(get, host):
    host.put("/a", DATA)
    target = get(size=len(DATA), digest=sha(DATA))
    assert target.read_bytes() == DATA
    assert get.result == {"size": len(DATA), "sha256": sha(DATA)[1]}
    assert sum(get.ticks) == len(DATA)
    assert [p.name for p in target.parent.iterdir()] == ["a"]


@pytest.mark.parametrize("kind", ["md5", "sha256", "git-sha1"])
def test_kinds_of_checksums(get, host, kind, tmp_path):
    import subprocess

    host.put("/a", b"some text\n")
    if kind == "git-sha1":
        (tmp_path / "f").write_bytes(b"some text\n")
        git = subprocess.run(["git", "hash-object", tmp_path / "f"], capture_output=True, text=True, check=False)
        digest = git.stdout.strip() or "7b57bd29ea8afbdeb9bac8cf7074f4b531492a8c"
    else:
        digest = hashlib.new(kind, b"some text\n").hexdigest()
    assert get(digest=(kind, digest.upper())).read_bytes() == b"some text\n"


def test_an_empty_file(get, host):
    host.put("/a", b"")
    assert get(size=0, digest=sha(b"")).read_bytes() == b""


def test_truncated_then_resumed_by_ranges(get, host):
    host.put("/a", DATA)
    host.plan["/a"] = [{"cut": 100_000}, {"cut": 50_000}]
    assert get(size=len(DATA), digest=sha(DATA)).read_bytes() == DATA
    assert [r for _, r in host.seen] == ["", "bytes=100000-", "bytes=150000-"]
    assert sum(get.ticks) == len(DATA)


def test_a_server_that_ignores_ranges_is_started_over(get, host):
    host.ranges = False
    host.put("/a", DATA)
    host.plan["/a"] = [{"cut": 100_000}]
    assert get(digest=sha(DATA)).read_bytes() == DATA
    assert sum(get.ticks) == len(DATA)


def test_a_server_without_lengths(get, host):
    host.lengths = False
    host.put("/a", DATA)
    assert get().read_bytes() == DATA


def test_a_part_of_an_earlier_run_goes_on_only_while_the_file_is_the_same(get, host):
    host.put("/a", DATA)
    etag = '"' + hashlib.md5(DATA).hexdigest() + '"'
    leave_part(get, host, DATA[:1000], etag)
    assert get().read_bytes() == DATA
    assert host.seen == [("/a", "bytes=1000-")]
    leave_part(get, host, b"x" * 1000, '"older"')
    assert get().read_bytes() == DATA
    assert sum(get.ticks) == len(DATA) - 1000


def test_a_part_without_validator_is_gone_on_with_only_under_a_checksum(get, host):
    host.etags = False
    host.put("/a", DATA)
    leave_part(get, host, DATA[:1000])
    assert get().read_bytes() == DATA
    assert host.seen[-1] == ("/a", "")
    leave_part(get, host, DATA[:1000])
    assert get(digest=sha(DATA)).read_bytes() == DATA
    assert host.seen[-1] == ("/a", "bytes=1000-")


@pytest.mark.parametrize("known", [True, False])
def test_a_part_that_is_whole_already(get, host, known):
    host.put("/a", DATA)
    leave_part(get, host, DATA)
    assert get(size=len(DATA) if known else None, digest=sha(DATA)).read_bytes() == DATA
    assert len(host.seen) == (0 if known else 1)


def test_a_spoiled_part_is_found_by_the_checksum_and_fetched_anew(get, host):
    host.put("/a", DATA)
    leave_part(get, host, b"x" * 1000)
    assert get(size=len(DATA), digest=sha(DATA)).read_bytes() == DATA
    assert sum(get.ticks) == len(DATA) - 1000


def test_a_part_longer_than_the_file(get, host):
    host.put("/a", DATA)
    leave_part(get, host, DATA + b"more")
    assert get(digest=sha(DATA)).read_bytes() == DATA


def test_a_torn_note_beside_a_part_does_no_harm(get, host):
    host.put("/a", DATA)
    leave_part(get, host, DATA[:1000])
    get.part.with_name("a.part.json").write_text('{"ur')
    assert get(digest=sha(DATA)).read_bytes() == DATA


def test_a_wrong_checksum_throws_the_file_away(get, host):
    host.put("/a", DATA)
    with pytest.raises(TornOutputError, match="sha256 checksum is wrong; the file was thrown away") as error:
        get(digest=sha(b"other"))
    assert "\n" not in str(error.value)
    assert list(get.target.parent.iterdir()) == []


def test_a_wrong_length_is_told_before_anything_is_fetched(get, host):
    host.put("/a", DATA)
    with pytest.raises(TornOutputError, match=f"has {len(DATA)} bytes, 5 are expected"):
        get(size=5, digest=sha(DATA))
    assert list(get.target.parent.iterdir()) == []


def test_a_server_that_sends_more_than_expected_is_cut_off(get, host):
    host.lengths = False
    host.put("/a", DATA)
    with pytest.raises(TornOutputError, match="sends more than the 1000 bytes"):
        get(size=1000)
    assert list(get.target.parent.iterdir()) == []


@pytest.mark.parametrize("odd", [[429], [503, 500, 502], [{"cut": 0}], [408, {"cut": 10}, 504]])
def test_passing_troubles_pass(get, host, odd):
    host.put("/a", DATA)
    host.plan["/a"] = list(odd)
    assert get(size=len(DATA), digest=sha(DATA)).read_bytes() == DATA


def test_a_trouble_that_stays_is_told(get, host):
    host.put("/a", DATA)
    host.plan["/a"] = [503] * 100
    with pytest.raises(EcglmError, match=r"the server answers 503 \(tried 6 times\); run the same command again"):
        get()
    assert host.asked("/a") == 6


def test_many_interruptions_with_progress_are_no_reason_to_give_up(get, host):
    host.put("/a", DATA)
    host.plan["/a"] = [{"cut": 50_000}] * 12
    assert get(size=len(DATA), digest=sha(DATA)).read_bytes() == DATA


def test_the_waits_grow(get, host, monkeypatch):
    host.put("/a", DATA)
    host.plan["/a"] = [500] * 4
    stop, waits = threading.Event(), []
    monkeypatch.setattr(stop, "wait", waits.append)
    get(stop=stop)
    assert waits == pytest.approx([0.01, 0.02, 0.04, 0.08])


def test_a_silent_server_is_a_timeout(get, host):
    host.put("/a", DATA)
    host.plan["/a"] = [{"slow": True}]
    session = Session(timeout=0.3)
    assert get(session=session, size=len(DATA), digest=sha(DATA)).read_bytes() == DATA
    assert host.seen[1][1] == f"bytes={len(DATA) // 2}-"


@pytest.mark.parametrize(
    "status, words", [(404, "no such file"), (401, "wants an account"), (403, "does not let"), (418, "418")]
)
def test_lasting_refusals_are_told_at_once(get, host, status, words):
    host.plan["/a"] = [status]
    with pytest.raises(EcglmError, match=words):
        get()
    assert host.asked("/a") == 1


def test_no_server_there(get, monkeypatch):
    monkeypatch.setattr(module, "ATTEMPTS", 2)
    with pytest.raises(EcglmError, match="ConnectionRefusedError"):
        fetch(RemoteFile("a", "http://127.0.0.1:9/a"), get.target, Session(2), first_wait=0.01)


def test_a_full_disk_is_told_and_the_part_kept(get, host, monkeypatch):
    host.put("/a", DATA)
    host.plan["/a"] = [{"cut": 1000}]
    real, full = open, []

    class Full:
        def __init__(self, handle):
            self.handle = handle

        def write(self, data):
            if self.handle.tell() >= 1000 or full:
                full.append(1)
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.handle.write(data)

        def __getattr__(self, name):
            return getattr(self.handle, name)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.handle.close()

    def spoiled(path, mode="r", *rest, **named):
        handle = real(path, mode, *rest, **named)
        return Full(handle) if str(path).endswith(".part") and mode in ("wb", "rb+") else handle

    monkeypatch.setattr(module, "open", spoiled, raising=False)
    with pytest.raises(EcglmError, match="no space left on the disk"):
        get(size=len(DATA), digest=sha(DATA))
    assert not get.target.exists()
    assert get.part.read_bytes() == DATA[:1000]
    monkeypatch.undo()
    assert get(size=len(DATA), digest=sha(DATA)).read_bytes() == DATA


def test_stopping_keeps_the_part(get, host):
    host.put("/a", DATA)
    stop = threading.Event()
    stop.set()
    with pytest.raises(TornOutputError, match="interrupted"):
        get(stop=stop)
    assert 0 < get.part.stat().st_size < len(DATA)
    assert not get.target.exists()


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/a", "gopher://x/", "//[", "data:,x"])
def test_redirects_to_other_schemes_are_refused(get, host, to):
    host.put("/a", DATA)
    host.plan["/a"] = [to]
    with pytest.raises(UnsafeInputError, match="refuses the address"):
        get()
    assert not get.target.exists()


def test_read_url_has_a_bound(host):
    host.put("/list", b"12345")
    assert read_url(host.url + "/list", Session(5), 5) == b"12345"
    with pytest.raises(EcglmError, match="has 5 bytes, at most 4"):
        read_url(host.url + "/list", Session(5), 4)
    host.lengths = False
    with pytest.raises(TornOutputError, match="more than the 4 bytes"):
        read_url(host.url + "/list", Session(5), 4)
