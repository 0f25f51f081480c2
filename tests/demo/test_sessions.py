"""Sessions never mix, are bounded, and leave nothing behind."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ecglm.demo.sessions import SessionGone, Sessions, empty
from ecglm.errors import EcglmError


class Visit:
    """What a page might keep."""

    def __init__(self, token: str, folder: Path, num_bytes: int = 0) -> None:
        self.token, self.folder, self.num_bytes, self.forgotten = token, folder, num_bytes, 0

    def forget(self) -> None:
        self.forgotten += 1


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_p23_folders_are_private_and_tokens_cannot_be_guessed(tmp_path):
    sessions: Sessions[Visit] = Sessions(place=tmp_path)
    found = [sessions.open(Visit) for _ in range(20)]
    assert len({s.token for s in found}) == len({s.folder for s in found}) == 20
    assert all(len(s.token) >= 40 and s.token not in str(s.folder) for s in found)
    for folder in (sessions.root, *(s.folder for s in found)):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and folder.stat().st_uid == os.getuid()
    assert all(s.folder.parent == sessions.root and s.kept.folder == s.folder for s in found)
    sessions.close()


def test_a_session_ends_with_its_files(tmp_path):
    sessions: Sessions[Visit] = Sessions(place=tmp_path)
    session, other = sessions.open(Visit), sessions.open(Visit)
    (session.folder / "deep").mkdir()
    (session.folder / "deep" / "x.npy").write_bytes(b"1")
    sessions.end(session.token)
    sessions.end(session.token)
    assert not session.folder.exists() and other.folder.exists() and session.kept.forgotten == 1
    with pytest.raises(SessionGone, match="load the page again"):
        sessions.get(session.token)
    assert sessions.get(other.token) is other and len(sessions) == 1


def test_close_removes_everything_and_nothing_opens_afterwards(tmp_path):
    sessions: Sessions[Visit] = Sessions(place=tmp_path)
    found = [sessions.open(Visit) for _ in range(3)]
    sessions.close(), sessions.close()
    assert not any(tmp_path.iterdir()) and all(s.kept.forgotten == 1 for s in found)
    with pytest.raises(EcglmError, match="closing"):
        sessions.open(Visit)


def test_p23_files_are_gone_when_the_process_ends(tmp_path):
    code = (
        "import sys\nfrom ecglm.demo.sessions import Sessions\n"
        "class V:\n    num_bytes = 0\n    def forget(self): pass\n"
        "s = Sessions(place=sys.argv[1]); o = s.open(lambda t, f: V())\n"
        "(o.folder / 'x').write_text('1')\nassert list(o.folder.parent.parent.iterdir())\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert not any(tmp_path.iterdir())


def test_p23_what_a_killed_process_left_is_removed_by_the_next_and_a_living_ones_stays(tmp_path):
    code = (
        "import sys\nfrom ecglm.demo.sessions import Sessions\n"
        "class V:\n    num_bytes = 0\n    def forget(self): pass\n"
        "s = Sessions(place=sys.argv[1]); o = s.open(lambda t, f: V())\n"
        "(o.folder / 'x').write_text('1'); print(s.root, flush=True); sys.stdin.readline()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    killed, living = (subprocess.Popen(command, **pipes) for _ in range(2))
    left, kept = (Path(p.stdout.readline().strip()) for p in (killed, living))
    killed.kill(), killed.wait()
    (tmp_path / "ecglm-demo-other").mkdir()  # whoever made it, it is not one of ours
    assert left.is_dir() and kept.is_dir()
    sessions: Sessions[Visit] = Sessions(place=tmp_path)
    assert not left.exists() and (kept / "lock").exists() and list(kept.glob("session-*/x"))
    assert (tmp_path / "ecglm-demo-other").is_dir()
    living.communicate("\n", timeout=60)
    assert not kept.exists()
    sessions.close()
    assert [p.name for p in tmp_path.iterdir()] == ["ecglm-demo-other"]


def test_the_session_idle_longest_makes_room(tmp_path):
    sessions: Sessions[Visit] = Sessions(place=tmp_path, max_sessions=3)
    one, two, three = (sessions.open(Visit) for _ in range(3))
    sessions.get(one.token)
    four = sessions.open(Visit)
    assert not two.folder.exists() and two.kept.forgotten == 1 and len(sessions) == 3
    assert all(sessions.get(s.token) is s for s in (one, three, four))
    sessions.close()


def test_idle_sessions_expire(tmp_path):
    clock = Clock()
    sessions: Sessions[Visit] = Sessions(place=tmp_path, idle_s=60, clock=clock)
    one, two = sessions.open(Visit), sessions.open(Visit)
    clock.now = 50
    sessions.get(two.token)
    clock.now = 70
    with pytest.raises(SessionGone):
        sessions.get(one.token)
    assert not one.folder.exists() and sessions.get(two.token) is two
    clock.now = 200
    assert sessions.find(lambda kept: True) is None and len(sessions) == 0
    sessions.close()


def test_memory_is_bounded(tmp_path):
    sessions: Sessions[Visit] = Sessions(place=tmp_path, max_bytes=100)
    found = [sessions.open(lambda t, f: Visit(t, f, 30)) for _ in range(3)]
    nothing = sessions.open(Visit)
    sessions.make_room(found[0].token, 10)
    assert len(sessions) == 4
    sessions.make_room(found[0].token, 40)
    assert found[1].kept.forgotten == 1 and found[2].kept.forgotten == 0 and nothing.kept.forgotten == 0
    with pytest.raises(EcglmError, match="as many ECGs as there is memory for"):
        sessions.make_room(found[0].token, 71)
    assert found[0].kept.forgotten == 0
    sessions.close()


def test_find_gives_the_one_that_is_wanted(tmp_path):
    sessions: Sessions[Visit] = Sessions(place=tmp_path)
    found = [sessions.open(Visit) for _ in range(3)]
    assert sessions.find(lambda kept: kept.token == found[1].token) is found[1]
    assert sessions.find(lambda kept: False) is None
    sessions.close()


def test_empty_follows_no_link(tmp_path):
    (tmp_path / "out").mkdir(), (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "out" / "x").write_text("1"), (tmp_path / "in" / "y").write_text("1")
    os.symlink(tmp_path / "out", tmp_path / "in" / "link")
    os.symlink(tmp_path / "out" / "x", tmp_path / "in" / "deep" / "link")
    empty(tmp_path / "in")
    assert not list((tmp_path / "in").iterdir()) and (tmp_path / "out" / "x").exists()


def test_p23_visitors_of_many_threads_never_meet(tmp_path):
    sessions: Sessions[Visit] = Sessions(place=tmp_path, max_sessions=1000)
    wrong: list[str] = []

    def visit(number: int) -> None:
        for turn in range(20):
            session = sessions.open(Visit)
            (session.folder / "who").write_text(f"{number}.{turn}")
            again = sessions.get(session.token)
            if again is not session or (again.folder / "who").read_text() != f"{number}.{turn}":
                wrong.append(session.token)
            if len(list(again.folder.iterdir())) != 1 or again.kept.token != session.token:
                wrong.append(session.token)
            if turn % 2:
                sessions.end(session.token)

    threads = [threading.Thread(target=visit, args=(n,)) for n in range(8)]
    [t.start() for t in threads], [t.join() for t in threads]
    assert not wrong and len(sessions) == 80 and len(list(sessions.root.glob("session-*"))) == 80
    sessions.close()
