"""The baseline: weights from a seed alone, which nothing moves and a checkpoint keeps."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from ecglm.errors import ConfigError
from ecglm.models.checkpoint import ModelConfig, TinyConfig, create, from_pretrained, save_pretrained
from ecglm.models.encoders.base import build_encoder
from ecglm.representations.signal import SignalRepresentation

TINY = {"width": 4}


def made(seed: int = 0, of: str = "merl", options: dict | None = None):
    return build_encoder(
        "random",
        input_shape=(12, 500),
        options={"of": of, "options": TINY if options is None else options, "seed": seed},
    )


def test_the_seed_alone_decides_the_weights() -> None:
    before = torch.get_rng_state()
    first = made().state_dict()
    assert torch.equal(before, torch.get_rng_state())  # and draws nothing from the run's generator
    torch.manual_seed(77)
    assert all(torch.equal(first[k], v) for k, v in made().state_dict().items())
    other = made(seed=1).state_dict()
    assert any(not torch.equal(first[k], v) for k, v in other.items())


def test_it_is_the_encoder_it_names_as_that_begins() -> None:
    torch.manual_seed(5)
    plain = build_encoder("merl", input_shape=(12, 500), options=TINY).eval()
    random, x = made(seed=5), torch.randn(2, 12, 500)
    with torch.no_grad():
        assert torch.equal(random(x), plain(x))
    assert (random.dim, random.num_tokens) == (plain.dim, plain.num_tokens)


def test_neither_weights_nor_statistics_move_in_training() -> None:
    random = made().train()
    before = {k: v.clone() for k, v in random.state_dict().items()}
    assert not any(p.requires_grad for p in random.parameters())
    assert not any(m.training for m in random.modules())
    random(5 + torch.randn(4, 12, 500))  # batch norm would follow this
    assert all(torch.equal(before[k], v) for k, v in random.state_dict().items())


def test_a_checkpoint_keeps_its_weights(tmp_path) -> None:
    config = ModelConfig(
        tiny=TinyConfig(hidden=32, num_layers=1, num_heads=2),
        encoder="random",
        encoder_options={"of": "merl", "options": TINY},
    )
    first = create(config, SignalRepresentation(num_samples=500, num_tokens=8), {"rate": 100}, ["What is it?"], seed=3)
    save_pretrained(first, tmp_path / "checkpoint")
    saved = load_file(tmp_path / "checkpoint" / "ecg.safetensors")
    assert {k for k in saved if k.startswith("encoder.")} == {f"encoder.{k}" for k in first.elm.encoder.state_dict()}
    second, x = from_pretrained(tmp_path / "checkpoint"), torch.randn(2, 12, 500)
    with torch.no_grad():
        assert torch.equal(first.elm.encoder(x), second.elm.encoder(x))
    with pytest.raises(ConfigError, match="never learns"):
        first.elm.set_trainable(["encoder", "connector"])


@pytest.mark.parametrize("of", ["vit", "random", "base", "signal2vec"])
def test_only_encoders_of_signals_with_weights_can_be_named(of: str) -> None:
    with pytest.raises(ConfigError, match=f"st_mem.*found '{of}'"):
        made(of=of, options={})
    with pytest.raises(ConfigError, match="did you mean 'st_mem'"):
        made(of="st_men", options={})
