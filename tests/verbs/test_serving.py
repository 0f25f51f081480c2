"""The verbs chat and serve as programs: pipes, a terminal, signals (src/ecglm/verbs/serving.py)."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest

from cli_tools import ecglm
from ecglm.errors import ConfigError, EcglmError
from ecglm.store.reader import SegmentStore
from ecglm.verbs import serving

ENV = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


@pytest.fixture(scope="module")
def file(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("ecgs") / "my.npy"
    np.save(found, np.asarray(SegmentStore(world.store)[0]))
    return found


def chat_args(run: Path, file: Path) -> list[str]:
    given = ["--rate", "50", "--leads", "standard", "--units", "mV"]
    return [sys.executable, "-m", "ecglm", "chat", "--model", str(run / "best"), "--ecg", str(file), *given]


def test_chat_reads_a_pipe(signal_run: Path, file: Path) -> None:
    ran = subprocess.run(
        chat_args(signal_run, file),
        input="What is the rhythm?\n/ecg /no/such.csv\n/help\n",
        capture_output=True,
        text=True,
        env=ENV,
        timeout=120,
    )
    assert ran.returncode == 0 and ran.stderr == ""
    asked = ecglm("ask", "--model", signal_run / "best", *chat_args(signal_run, file)[6:], "What is the rhythm?").out
    assert asked.strip() in ran.stdout.splitlines() and "error: /no/such.csv: no such file" in ran.stdout
    assert ran.stdout.count("For research use only") == 1 and "> " not in ran.stdout


def test_chat_at_a_terminal_survives_ctrl_c(signal_run: Path, file: Path) -> None:
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*chat_args(signal_run, file), "--temperature", "2", "--max-new-tokens", "20000"],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=ENV,
        start_new_session=True,
    )
    os.close(follower)
    seen = ""

    def more(seconds: float) -> str:
        """Everything seen, with what comes within some seconds."""
        nonlocal seen
        if select.select([leader], [], [], seconds)[0]:
            try:
                seen += os.read(leader, 4096).decode(errors="replace")
            except OSError:
                raise AssertionError(f"the chat ended: {seen}") from None
        return seen

    def until(wanted: str, seconds: float = 90.0) -> None:
        end = time.monotonic() + seconds
        while wanted not in seen:
            assert time.monotonic() < end, (wanted, seen)
            more(0.2)

    try:
        until("> ")
        for _ in range(100):  # one that comes just before the terminal waits for keys is told at the next
            process.send_signal(signal.SIGINT)
            if "(/quit ends the talk)" in more(0.5):
                break
        until("(/quit ends the talk)", 0.0)
        seen = ""
        os.write(leader, b"/measure\n")
        until("Cornell")
        until("\n> ")
        seen = ""
        os.write(leader, b"/quit\n")
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        os.close(leader)


@contextmanager
def served(*args: str) -> Iterator[tuple[subprocess.Popen[str], str, list[str]]]:
    """A server process, its address and what it said until then."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ecglm", "serve", "--port", "0", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**ENV, "OUR_KEY": "sk-test-key"},
    )
    said: list[str] = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line.strip())
            if found := re.match(r"serving on (http://\S+)/v1 ", line):
                break
        else:
            raise AssertionError(said)
        yield process, found[1], said
    finally:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]


def answer(url: str, model: str, most: int, **options: Any) -> httpx.Response:
    until = time.monotonic() + 30
    body = {"model": model, "messages": [{"role": "user", "content": "Hello?"}], "max_tokens": most}
    while True:
        try:
            return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60, trust_env=False, **options)
        except httpx.ConnectError:
            assert time.monotonic() < until
            time.sleep(0.05)


def test_serve_two_models_with_a_key_and_end_in_order(signal_run: Path, symbols_run: Path) -> None:
    models = ["--model", str(signal_run / "best"), "--model", f"byte={symbols_run / 'best'}"]
    with served(*models, "--api-key-env", "OUR_KEY") as (process, url, said):
        key = {"authorization": "Bearer sk-test-key"}
        assert answer(url, "byte", 4).status_code == 401
        assert answer(url, "byte", 4, headers=key).status_code == 200
        found = httpx.get(f"{url}/v1/models", headers=key, trust_env=False).json()["data"]
        assert [m["id"] for m in found] == [signal_run.name, "byte"] and url.startswith("http://127.0.0.1:")
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=60)
        assert process.returncode == 0 and rest.strip() == "ended"
        assert "sk-test-key" not in "".join(said) + rest and not any("warning" in line for line in said)


@pytest.mark.slow
def test_serve_warns_where_other_machines_can_reach_it_and_ends_by_ctrl_c(signal_run: Path) -> None:
    with served("--model", str(signal_run / "best"), "--host", "0.0.0.0") as (process, url, said):
        port = url.rpartition(":")[2]
        assert answer(f"http://127.0.0.1:{port}", signal_run.name, 2).status_code == 200
        assert said[0].startswith("warning: other machines can reach 0.0.0.0; anybody who can may ask; --api-key-env")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_before_the_server_listens_to_them_ends_it(signal_run: Path, number: int) -> None:
    from ecglm.demo import server_run
    from ecglm.demo.engine import Engine
    from ecglm.models.assistant import load

    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if line.startswith("serving on"):
            signal.raise_signal(number)

    before, place = signal.getsignal(number), server_run.bind("127.0.0.1", 0)
    engine = Engine(load(signal_run / "best"))
    server_run.serve([server_run.Served("x", engine)], server_run.ServerOptions(), place, "127.0.0.1", say=say)
    assert said[-1] == "ended" and not engine.is_open and signal.getsignal(number) is before


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["serve", "--model", "x", "--api-key-env", "NO_SUCH_VARIABLE"], "--api-key-env: NO_SUCH_VARIABLE is not set"),
        (["serve", "--model", "a/best", "--model", "a/best"], "two models are called a; give names"),
        (["serve", "--model", "/no/such/model", "--port", "0"], "/no/such/model"),
        (["serve", "--model", "x", "--port", "99999"], "--port must be from 0 to 65535"),
        (["serve", "--model", "x", "--max-new-tokens", "0"], "max_new_tokens must be 1 or more"),
        (["chat", "--model", "x", "--max-new-tokens", "0"], "max_new_tokens must be 1 or more"),
        (["chat", "--model", "x", "--temperature", "-1"], "temperature must be above 0"),
        (["chat", "--model", "/no/such/model"], "/no/such/model"),
    ],
)
def test_mistakes_are_told_in_one_line(args: list[str], told: str) -> None:
    assert told in ecglm(*args).error


def test_a_bad_file_on_the_command_line_is_a_mistake(signal_run: Path) -> None:
    assert "no such file" in ecglm("chat", "--model", signal_run / "best", "--ecg", "/no/such.hea").error


def test_a_missing_extra_is_one_line_with_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.startswith(("ecglm.demo.server", "uvicorn"))]:
        monkeypatch.delitem(sys.modules, name)
    import ecglm.demo

    monkeypatch.delattr(ecglm.demo, "server_run", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ConfigError, match=r"ecglm serve needs uvicorn\S*: pip install 'ecglm\[serve\]'"):
        serving.serve(("x",))


def test_names_of_models() -> None:
    found = serving._sources(("runs/a/best", "b=runs/b/best", "owner/name", "c/"))
    assert found == {"a": "runs/a/best", "b": "runs/b/best", "name": "owner/name", "c": "c/"}
    with pytest.raises(EcglmError, match="no model"):
        serving._sources(())


@pytest.mark.parametrize(
    ("learned", "given", "told"), [(0, 0, ""), (1, 1, ""), (0, 1, "without retrieved"), (1, 0, "with retrieved")]
)
def test_a_model_asked_otherwise_than_it_was_trained_is_told(
    learned: bool, given: bool, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = SimpleNamespace(rag=object() if learned else None)
    serving._warn_of_rag("mine", SimpleNamespace(bundle=bundle), bool(given))
    said = capsys.readouterr().out
    assert f"warning: mine was trained {told}" in said if told else said == ""
