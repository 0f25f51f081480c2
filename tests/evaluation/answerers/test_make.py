"""Which kind of model a name stands for, and how it is called in files."""

from __future__ import annotations

import pickle
import shutil

import pytest

from ecglm.errors import ConfigError, EcglmError
from ecglm.evaluation.answerers.make import find_model, kind_of, model_name, reads_pictures, step_of
from ecglm.evaluation.endpoint import Endpoint
from ecglm.files import write_manifest
from small_bench import make_elm, make_vlm


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("models")
    make_elm(home / "llava-next-7b")  # an ELM of ours, whatever its name says
    make_vlm(home / "pulse", "llava_next")
    return home


def test_p16_the_kind_is_told_by_the_files(home, signal_run):
    assert kind_of(home / "llava-next-7b") == "elm" and kind_of(home / "pulse") == "vlm"
    assert reads_pictures(find_model(str(home / "llava-next-7b"))) and reads_pictures(find_model(str(home / "pulse")))
    signal = find_model(str(signal_run / "best"))
    assert signal.kind == "elm" and not reads_pictures(signal)


def test_facts_follow_the_weights_and_the_length_not_the_place(home, tmp_path):
    one = find_model(str(home / "pulse"), max_new_tokens=5)
    assert find_model(str(make_vlm(tmp_path / "x", "llava_next")), max_new_tokens=5).facts == one.facts
    assert find_model(str(make_vlm(tmp_path / "y", "llava_next", seed=1)), max_new_tokens=5).facts != one.facts
    assert find_model(str(home / "pulse"), max_new_tokens=6).facts != one.facts
    shutil.copytree(home / "llava-next-7b", tmp_path / "copy")
    elm = find_model(str(home / "llava-next-7b"))
    assert find_model(str(tmp_path / "copy")).facts == elm.facts
    assert find_model(str(make_elm(tmp_path / "z" / "m", seed=1))).facts != elm.facts


def test_names(home, tmp_path, monkeypatch):
    assert model_name(str(home / "pulse"), find_model(str(home / "pulse"))) == "pulse"
    monkeypatch.chdir(home / "pulse")
    assert model_name(".", find_model(".")) == "pulse"
    best = find_model(str(make_elm(tmp_path / "run7" / "best")))
    assert model_name(best.source, best) == "run7_best" and step_of(best) == "final"
    step = find_model(str(make_vlm(tmp_path / "run8" / "checkpoint-300", "llava_next")))
    assert model_name(step.source, step) == "run8" and step_of(step) == "300"
    random = find_model("baseline:random")
    assert model_name("baseline:random", random) == "baseline-random"


def test_an_endpoint_is_told_by_its_address_and_holds_no_key(monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    endpoint = Endpoint("http://127.0.0.1:9/v1", "org/gpt", key_env="MY_KEY")
    spec = find_model("org/gpt", endpoint=endpoint, detail="high")
    assert spec.kind == "endpoint" and spec.max_new_tokens == 2000 and spec.facts["detail"] == "high"
    assert model_name("org/gpt", spec) == "gpt" and model_name("llama3:8b", spec) == "llama3-8b"
    assert b"sk-very-secret" not in pickle.dumps(spec)
    assert spec.open("cpu").name == "org/gpt"


def test_what_is_no_model_is_one_line(tmp_path, home):
    with pytest.raises(EcglmError, match="no such folder"):
        find_model(str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="not to be had from the hub"):
        find_model("nobody/no-such-model")
    write_manifest(tmp_path / "manifest.json", "segment-store", {}, {}, {})
    with pytest.raises(EcglmError, match="is a 'segment-store', a checkpoint is needed here"):
        find_model(str(tmp_path))
    with pytest.raises(EcglmError, match="no baseline 'best'"):
        find_model("baseline:best")
    with pytest.raises(EcglmError, match="--store is for models that ecglm trained or imported"):
        find_model(str(home / "pulse"), stores=("s",))
