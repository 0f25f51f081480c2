"""``ecglm demo`` as a user starts it: help, a dry start, and every mistake in one line."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from ecglm.cli import VERBS, main
from ecglm.verbs.demo import names_of

gradio = pytest.importorskip("gradio")


@pytest.mark.parametrize("verb", VERBS)
def test_d14_every_command_shows_its_help(verb):
    said = io.StringIO()
    recipe = ["recipes/synthetic-signal.yaml"] if verb in ("train", "validate") else []
    root = Path(__file__).resolve().parents[2]
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit) as ended:
        main([*verb.split(), *[str(root / r) for r in recipe], "--help"])
    assert ended.value.code in (0, None) and f"ecglm {verb}" in said.getvalue()


def command(*args):
    return [sys.executable, "-m", "ecglm", "demo", *map(str, args)]


def test_d14_the_demo_starts_prints_its_address_answers_and_ends(signal_run, symbols_run, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TMPDIR": str(tmp_path)}
    for name in ("GRADIO_SHARE", "GRADIO_ANALYTICS_ENABLED"):  # somebody's own settings change nothing
        environment[name] = "True"
    preferences = tmp_path / "p.jsonl"
    args = ("--model", signal_run / "best", "--model", symbols_run / "best", "--port", 0, "--preferences", preferences)
    run = subprocess.Popen(command(*args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        lines = [run.stdout.readline(), run.stdout.readline()]
        assert lines[0] == "for research only; not a medical device\n"
        assert lines[1].startswith("open http://127.0.0.1:")
        address = lines[1].split()[1]
        with urllib.request.urlopen(address, timeout=60) as page:
            text = page.read().decode()
        assert "signal" in text and "symbols" in text and "For research only" in text
        run.send_signal(signal.SIGTERM)
        said, errors = run.communicate(timeout=60)
    finally:
        run.kill()
        run.communicate()
    assert run.returncode == 0 and "Traceback" not in errors and "forgotten" in said
    assert preferences.exists() and not list(tmp_path.glob("ecglm-demo-*"))  # nothing of a visit is left


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--model", "a", "--model", "b", "--model", "c"], "one model"),
        (["--model", "{here}/none", "--port", "0"], "no such"),
        (["--model", "x", "--port", "70000"], "65535"),
        (["--model", "x", "--host", "192.0.2.1", "--port", "0"], "not an address of this machine"),
        (["--model", "x", "--max-new-tokens", "0"], "1 or more"),
        (["--model", "x", "--max-upload-mb", "0"], "1 or more"),
        (["--model", "x", "--port", "{taken}"], "in use"),
        (["--model", "x", "--port", "0", "--store", "{here}"], "{here}"),
        (["--model", "x", "--port", "0", "--rag", "{here}"], "{here}"),
        (["--model", "x", "--port", "0", "--preferences", "{here}"], "is a folder"),
        (["--model", "x", "--port", "0", "--preferences", "/dev/null/p.jsonl"], "p.jsonl: cannot be written"),
        (["--model", "x", "--port", "0", "--preferences", "/proc/none/p.jsonl"], "with --preferences"),
    ],
)
def test_mistakes_are_one_line(args, words, tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        filled = {"here": tmp_path, "taken": taken.getsockname()[1]}
        assert main(["demo", *[a.format(**filled) for a in args]]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and words.format(**filled) in said.err


def test_models_are_named_by_what_tells_them_apart(tmp_path, monkeypatch):
    def checkpoint(name, fingerprint):
        (tmp_path / name).mkdir(parents=True)
        manifest = {"kind": "checkpoint", "manifest_version": 1, "fingerprint": fingerprint}
        (tmp_path / name / "manifest.json").write_text(json.dumps(manifest))
        return tmp_path / name

    models = (checkpoint("runs/a/best", "1"), checkpoint("other/a/best", "2"))
    assert [(n.name, n.fingerprint) for n in names_of(models)] == [("a", "1"), ("a 2", "2")]
    monkeypatch.setattr("ecglm.models.checkpoint._download", lambda source: checkpoint(f"hub/{source}", "3"))
    assert [(n.name, n.fingerprint) for n in names_of((Path("owner/name"),))] == [("name", "3")]
