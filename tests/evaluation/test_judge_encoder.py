"""An encoder folder is judged: both tables, beside random weights, once; what does not fit together is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ecglm.errors import ConfigError, EcglmError, StaleOutputError
from ecglm.evaluation.judge_encoder import judge_encoder, untrained
from ecglm.files import read_manifest
from ecglm.models.encoder_files import read_encoder, save_encoder
from ecglm.models.encoders.base import build_encoder
from ecglm.records.synthetic import Synthetic
from ecglm.signals.pipeline import get_pipeline
from ecglm.store.prepare import prepare
from ecglm.training.pretrain import pretrain
from pretrain_world import RATE, SEG_LEN, PretrainWorld, make_pretrain_world
from tiny_world import tree

OPTIONS = {"groups": ["rhythm"], "shares": (1.0,), "num_resamples": 20, "say": lambda text: None}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> PretrainWorld:
    torch.set_num_threads(1)
    return make_pretrain_world(tmp_path_factory.mktemp("judge"))


@pytest.fixture(scope="module")
def merl(small: PretrainWorld) -> Path:
    return pretrain(small.recipe("merl"), small.folder / "merl", say=lambda text: None).best


def test_both_tables_beside_random_weights(small, merl, tmp_path):
    judged = judge_encoder(merl, [small.store], tmp_path / "out", **OPTIONS)
    assert {"probe.json", "probe.md", "manifest.json"} <= {p.name for p in judged.path.iterdir()}
    scores = json.loads((judged.path / "probe.json").read_text())
    assert scores == judged.scores
    (row,), (asked,) = scores["probe"], scores["zero_shot"]
    for found in (row, asked):
        assert set(found["systems"]) == {"encoder", "random"}
        assert found["systems"]["encoder"]["difference"] is not None
    assert asked["prompts"]["atrial_fibrillation"] == "atrial fibrillation"
    assert scores["encoder"] == {
        "name": "resnet1d",
        "options": {"widths": [8, 8], "stem_stride": 4},
        "objective": "merl",
    }
    assert any(line.startswith("Zero-shot from class prompts") for line in judged.lines)
    assert set(scores["retrieval"]) == {"encoder", "random"}
    assert scores["retrieval"]["encoder"]["num_ecgs"] == scores["records"]["test"]
    again = judge_encoder(merl, [small.store], tmp_path / "out", **OPTIONS)
    assert again.reused and again.lines == judged.lines
    elsewhere = judge_encoder(merl, [small.store], tmp_path / "elsewhere", **OPTIONS)
    assert {k: v for k, v in tree(elsewhere.path).items() if k != "plan.json"} == {
        k: v for k, v in tree(judged.path).items() if k != "plan.json"
    }
    with pytest.raises(StaleOutputError, match="--overwrite"):
        judge_encoder(merl, [small.store], tmp_path / "out", **{**OPTIONS, "seed": 1})
    assert read_manifest(judged.path, "encoder-probe")["settings"]["groups"] == ["rhythm"]


def test_an_encoder_without_texts_has_the_probe_alone(small, tmp_path):
    """And one that says nothing of its input is shown millivolts."""
    encoder = build_encoder("resnet1d", input_shape=(12, SEG_LEN), options={"widths": [8, 8]})
    folder = save_encoder(
        tmp_path / "e", encoder, name="resnet1d", options={"widths": [8, 8]}, input_shape=(12, SEG_LEN)
    )
    judged = judge_encoder(folder, [small.store], tmp_path / "out", **OPTIONS)
    assert judged.scores["zero_shot"] == [] and len(judged.scores["probe"]) == 1


def test_prompts_that_nothing_would_read_are_refused(small, merl, tmp_path):
    with pytest.raises(EcglmError, match="zero-shot classification is switched off; leave them out"):
        judge_encoder(merl, [small.store], tmp_path, **OPTIONS, zero_shot=False, prompts={"rhythm": {}})
    plain = build_encoder("resnet1d", input_shape=(12, SEG_LEN), options={})
    bare = save_encoder(tmp_path / "plain", plain, name="resnet1d", options={}, input_shape=(12, SEG_LEN))
    with pytest.raises(EcglmError, match="pretrained without texts; leave them out"):
        judge_encoder(bare, [small.store], tmp_path / "out", **OPTIONS, prompts={"rhythm": {}})


def test_random_weights_are_of_the_same_architecture_and_seeded(merl):
    file = read_encoder(merl)
    first, again, other = (untrained(file, seed) for seed in (0, 0, 1))
    assert first.state_dict().keys() == file.weights().keys()
    key = "stem.0.weight"
    assert torch.equal(first.state_dict()[key], again.state_dict()[key])
    assert not torch.equal(first.state_dict()[key], other.state_dict()[key])


def test_test_patients_it_was_pretrained_on_and_other_rates_are_refused(small, merl, tmp_path):
    with pytest.raises(EcglmError, match="this encoder was trained on"):
        judge_encoder(merl, [small.store], tmp_path / "a", **{**OPTIONS, "split_seed": 3})
    pipeline = get_pipeline("default", rate=2 * RATE, seg_len=SEG_LEN)
    prepare(Synthetic(num_patients=20, seed=9), pipeline, tmp_path / "other", progress=False)
    with pytest.raises(ConfigError, match="learned at 50 Hz, but this run shows 100 Hz"):
        judge_encoder(merl, [tmp_path / "other"], tmp_path / "b", **OPTIONS)
    with pytest.raises(EcglmError, match="--store"):
        judge_encoder(merl, [], tmp_path / "c", **OPTIONS)
