"""``ecglm import pulse``, ``ask`` about pictures and recordings, and ``export --format llava``, as users call them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ecglm.cli import main
from ecglm.models.assistant import load
from ecglm.records.picture_files import read_picture
from llava_world import write_llava

QUESTION = "What is the rhythm?"


@pytest.fixture(scope="module")
def pulse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pulse")
    write_llava(folder / "in")
    assert main(["import", "pulse", str(folder / "in"), "--out", str(folder / "out")]) == 0
    return folder / "out"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A page as a PNG and a recording as .npy: noise, which a random model answers otherwise than a blank page."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (170, 220, 3), dtype=np.uint8)).save(tmp_path / "ecg.png")
    np.save(tmp_path / "ecg.npy", rng.normal(0, 0.3, (12, 5000)).astype(np.float32))
    return {name: tmp_path / f"ecg.{name}" for name in ("png", "npy")}


def ask(pulse: Path, *more: str, question: str = QUESTION) -> int:
    return main(["ask", question, "--model", str(pulse), "--max-new-tokens", "4", *more])


def test_a_picture_and_a_recording_are_answered(pulse: Path, files: dict[str, Path], capsys) -> None:
    assert ask(pulse, "--ecg", str(files["png"])) == 0
    assistant = load(pulse)
    assert capsys.readouterr().out.strip() == assistant.ask(read_picture(files["png"]), QUESTION, max_new_tokens=4)
    told = ["--rate", "500", "--leads", "standard", "--units", "mV"]
    assert ask(pulse, "--ecg", str(files["npy"]), *told) == 0
    assert capsys.readouterr().err == ""
    both = [item for name in ("png", "npy") for item in ("--ecg", str(files[name]))]
    assert ask(pulse, *both, *told, question="Which is normal?") == 0


def test_a_recording_is_shown_as_the_page_that_training_draws(pulse: Path, files: dict[str, Path]) -> None:
    from ecglm.records.formats import read

    assistant = load(pulse)
    record = read(files["npy"], rate=500, leads="standard", units="mV")
    page = assistant.bundle.representation.page(assistant.segment(record), 500)
    assert page.shape == (1700, 2200, 3)
    assert np.array_equal(assistant.encode(record).tensor, assistant.encode_picture(page).tensor)


@pytest.mark.parametrize("name", ["absent.png", "broken.jpg"])
def test_pictures_that_cannot_be_read_are_one_line(pulse: Path, tmp_path: Path, name: str, capsys) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff and no more")
    assert ask(pulse, "--ecg", str(tmp_path / name)) == 2
    told = capsys.readouterr().err
    assert name in told and told.count("\n") == 1 and "image_" in told


def test_a_model_of_signals_refuses_a_picture(signal_run: Path, files: dict[str, Path], capsys) -> None:
    assert ask(signal_run / "best", "--ecg", str(files["png"])) == 2
    told = capsys.readouterr().err
    assert "this model reads recordings (signal), not pictures" in told and told.count("\n") == 1
    assert not load(signal_run / "best").reads_pictures


def test_import_says_what_it_made_and_keeps_it(pulse: Path, capsys) -> None:
    source = str(pulse.parent / "in")
    assert main(["import", "pulse", source, "--out", str(pulse)]) == 0
    out = capsys.readouterr().out
    assert "merged flat" in out and "left out: 2 tensors inv_freq" in out and f"checkpoint: {pulse}" in out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["pulse", "IN", "--file", "x.bin"], "--file names one file"),
        (["merl", "IN", "--vision", "clip"], "--vision and --dtype are for pulse"),
        (["pulse", "IN", "--chat-format", "llama3"], "which the tokenizer does not have"),
        (["pulse", "IN", "--chat-format", "lava"], "lava"),
    ],
)
def test_options_that_do_not_go_together(pulse: Path, tmp_path: Path, args: list[str], said: str, capsys) -> None:
    given = [str(pulse.parent / "in") if a == "IN" else a for a in args]
    assert main(["import", *given, "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1


def test_another_chat_format(pulse: Path, tmp_path: Path) -> None:
    made = [str(pulse.parent / "in"), "--out", str(tmp_path / "out"), "--chat-format", "vicuna"]
    assert main(["import", "pulse", *made]) == 0
    assert load(tmp_path / "out").bundle.prompter.chat.name == "vicuna"


def test_export_and_import_again(pulse: Path, tmp_path: Path, files: dict[str, Path], capsys) -> None:
    assert main(["export", "--model", str(pulse), "--out", str(tmp_path / "llava"), "--format", "llava"]) == 0
    assert main(["import", "pulse", str(tmp_path / "llava"), "--out", str(tmp_path / "again")]) == 0
    capsys.readouterr()
    for model in (pulse, tmp_path / "again"):
        assert ask(model, "--ecg", str(files["png"])) == 0
    answers = capsys.readouterr().out.splitlines()
    assert len(answers) == 2 and answers[0] == answers[1]
    assert main(["export", "--model", str(pulse), "--out", str(tmp_path / "plain")]) == 2
    assert "through an encoder" in capsys.readouterr().err
