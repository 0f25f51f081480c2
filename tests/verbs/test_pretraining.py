"""The verbs pretrain, probe and validate on a pretraining recipe, as they are typed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ecglm import config
from ecglm.cli import main
from ecglm.models.encoder_files import read_encoder
from pretrain_world import make_pretrain_world


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("verbs")
    small = make_pretrain_world(folder)
    (folder / "merl.yaml").write_text(config.dumps(small.recipe("merl")))
    return folder


def test_pretrain_then_the_probe_of_its_recipe(here, capsys):
    command = ["pretrain", str(here / "merl.yaml"), "--out", str(here / "run"), "--train.max-steps", "2"]
    asked = ["--probe.groups", "rhythm", "--probe.shares", "1.0", "--probe.num-resamples", "20"]
    assert main([*command, *asked]) == 0
    said = capsys.readouterr().out
    assert "ecg_to_text@1 by chance" in said and "| rhythm | 100 % |" in said and "Zero-shot" in said
    assert f"encoder: {here / 'run' / 'best'}" in said
    assert (here / "run" / "probe" / "probe.json").is_file()
    assert read_encoder(here / "run" / "best").facts["objective"] == "merl"
    assert main([*command, *asked]) == 0
    assert "was complete already" in capsys.readouterr().out


def test_probe_with_prompts_of_ones_own(here, capsys):
    if not (here / "run").exists():
        main(["pretrain", str(here / "merl.yaml"), "--out", str(here / "run"), "--train.max-steps", "2"])
    (here / "mine.yaml").write_text("prompts: {rhythm: {paced: a pacemaker rhythm}}\n")
    command = ["probe", "--encoder", str(here / "run" / "best"), "--store", str(here / "store"), "--out"]
    options = ["--groups", "rhythm", "--shares", "0.5", "--prompts", str(here / "mine.yaml"), "--num-resamples", "10"]
    assert main([*command, str(here / "judged"), *options]) == 0
    assert "| rhythm | 50 % |" in capsys.readouterr().out
    assert "a pacemaker rhythm" in (here / "judged" / "probe.json").read_text()
    (here / "wrong.yaml").write_text("prompts: {rhythm: {pacd: x}}\n")
    options[5] = str(here / "wrong.yaml")
    assert main([*command, str(here / "other"), *options]) == 2
    assert "no class 'pacd'" in capsys.readouterr().err


def test_dev_is_six_steps_on_a_few_segments(here, capsys):
    assert main(["pretrain", str(here / "merl.yaml"), "--out", str(here / "dev"), "--dev", "--limit", "16"]) == 0
    assert "step 6/6" in capsys.readouterr().out


def test_validate_knows_a_pretraining_recipe(here, capsys):
    assert main(["validate", str(here / "merl.yaml")]) == 0
    said = capsys.readouterr().out
    assert "encoder resnet1d reads 12 x 200 of each ECG" in said and "0 without a report" in said
    assert said.rstrip().endswith("4 steps: valid")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["pretrain"], "the recipe comes first"),
        (["pretrain", "absent.yaml"], "absent.yaml: no such recipe"),
    ],
)
def test_mistakes_are_one_line(args, message, capsys):
    assert main(args) == 2
    assert message in capsys.readouterr().err


def test_a_value_that_cannot_be(here, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["pretrain", str(here / "merl.yaml"), "--merl.temperature", "-1"])
    assert ended.value.code == 2
    assert "merl.temperature must be above 0" in " ".join("".join(capsys.readouterr()).split())
    assert main(["validate", str(here / "merl.yaml"), "--masked.mask-ratio", "0.5"]) == 2
    assert "one objective is needed" in capsys.readouterr().err


def test_help_lists_the_fields(here, capsys):
    with pytest.raises(SystemExit):
        main(["pretrain", str(here / "merl.yaml"), "--help"])
    said = capsys.readouterr().out
    assert "--merl.temperature" in said and "--encoder.name" in said and "--train.lr" in said
