"""Encoder-free stems and the patch transformer: closed forms, and the whole ELM as one linear layer before its LLM."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ecglm.errors import ConfigError
from ecglm.models.connector import Connector
from ecglm.models.encoders.base import build_encoder
from ecglm.models.encoders.conv import ConvStem, factors
from ecglm.models.encoders.linear import Patches, Whole
from ecglm.models.encoders.patch import PatchTransformer


def ecgs(number: int = 2, num_samples: int = 500) -> torch.Tensor:
    return torch.randn(number, 12, num_samples, generator=torch.Generator().manual_seed(0))


def test_patches_over_time_hold_every_lead_of_their_stretch() -> None:
    x = ecgs()
    tokens = Patches(num_leads=12, num_samples=500)(x)
    for token in range(25):
        for lead in range(12):
            part = tokens[:, token, lead * 20 : (lead + 1) * 20]
            assert torch.equal(part, x[:, lead, token * 20 : (token + 1) * 20])


def test_patches_of_leads_stand_lead_after_lead() -> None:
    made = Patches(num_leads=12, num_samples=500, patch_size=50, by="lead")
    x = ecgs()
    assert (made.num_tokens, made.dim) == (120, 50)
    assert torch.equal(made(x), x.reshape(2, 120, 50))


def test_the_base_is_the_whole_ecg_as_one_token() -> None:
    made = Whole(num_leads=12, num_samples=500)
    assert torch.equal(made(ecgs()), ecgs().reshape(2, 1, 6000))
    assert list(made.parameters()) == list(made.buffers()) == []


@pytest.mark.parametrize("name, options", [("base", {}), ("linear", {}), ("linear", {"by": "lead"})])
def test_with_a_linear_connector_it_is_one_matrix_product(name: str, options: dict) -> None:
    torch.manual_seed(0)
    stem = build_encoder(name, input_shape=(12, 500), options=options)
    connector = Connector("linear", dim=stem.dim, hidden=16, num_tokens=stem.num_tokens)
    weight, bias = connector.project.weight.detach().numpy(), connector.project.bias.detach().numpy()
    x = ecgs().numpy()
    cut = {  # numpy's own way to cut
        "base": lambda: x.reshape(2, 1, -1),
        "linear": lambda: np.stack([x[:, :, t : t + 20].reshape(2, -1) for t in range(0, 500, 20)], axis=1),
        "lead": lambda: np.concatenate([np.stack(np.split(x[:, k], 25, axis=1), axis=1) for k in range(12)], axis=1),
    }[options.get("by", name)]()
    with torch.no_grad():
        np.testing.assert_allclose(connector(stem(ecgs())).numpy(), cut @ weight.T + bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("number, expected", [(1, []), (2, [2]), (50, [5, 5, 2]), (75, [5, 5, 3]), (97, [97])])
def test_strides_are_the_prime_factors(number: int, expected: list[int]) -> None:
    assert factors(number) == expected


@pytest.mark.parametrize("num_samples, patch_size", [(500, None), (1250, 25), (999, 27), (640, 1), (970, 97)])
def test_the_stem_of_convolutions_reduces_time_by_the_patch(num_samples: int, patch_size: int | None) -> None:
    made = ConvStem(num_leads=12, num_samples=num_samples, dim=8, patch_size=patch_size)
    with torch.no_grad():
        tokens = made(ecgs(num_samples=num_samples))
    assert tokens.shape == (2, num_samples // made.patch_size, 8) and made.num_tokens == tokens.shape[1]


def test_a_token_of_the_stem_sees_its_own_stretch_and_neighbours_only() -> None:
    torch.manual_seed(0)
    made = ConvStem(num_leads=12, num_samples=500, dim=8).eval()
    x = ecgs(1)
    moved = x.clone()
    moved[:, :, 240:260] += 1.0  # token 12 of 25
    with torch.no_grad():
        changed = (made(moved) - made(x)).abs().amax(dim=(0, 2)) > 0
    assert changed[12] and not changed[:10].any() and not changed[15:].any()


def test_patches_of_the_transformer_know_where_they_stand_and_each_other() -> None:
    torch.manual_seed(0)
    made = PatchTransformer(num_leads=12, num_samples=500, size="tiny").eval()
    x = ecgs(1)
    with torch.no_grad():
        first = made(x)
        turned = made(x.unflatten(2, (25, 20)).flip(2).flatten(2)).flip(1)
        assert (first - turned).abs().max() > 1e-3
        moved = x.clone()
        moved[:, :, -1] += 1.0
        assert ((made(moved) - first).abs().amax(dim=2) > 0).all()
        assert (made(2 * x) - first).abs().max() > 1e-2  # voltage is kept: twice the ECG is another ECG


@pytest.mark.parametrize(
    "size, patch_size, weights",
    [("small", 50, 21.5e6), ("base", 50, 85.5e6)],  # 12 blocks of 12 d² and the patches' 12 x 50 x d
)
def test_sizes_are_those_of_the_papers(size: str, patch_size: int, weights: float) -> None:
    with torch.device("meta"):
        made = PatchTransformer(num_leads=12, num_samples=5000, size=size, patch_size=patch_size)
    assert made.num_tokens == 100 and made.dim == {"small": 384, "base": 768}[size]
    assert abs(sum(p.numel() for p in made.parameters()) / weights - 1) < 0.01


def test_the_transformers_weights_read_an_ecg_of_another_length() -> None:
    torch.manual_seed(0)
    short = PatchTransformer(num_leads=12, num_samples=500, size="tiny", patch_size=20)
    long = PatchTransformer(num_leads=12, num_samples=1000, size="tiny", patch_size=20).eval()
    long.load_state_dict(long.fit_weights(short.state_dict()))
    assert torch.equal(long.embed.weight, short.embed.weight)
    assert torch.equal(long.pos_embedding[:, :25], short.pos_embedding) and long.pos_embedding.shape[1] == 50


@pytest.mark.parametrize(
    "name, options, told",
    [
        ("linear", {"by": "sample"}, "no way to cut 'sample'"),
        ("linear", {"patch_size": 33}, "no multiple of patch_size 33"),
        ("conv", {"dim": 0}, "dim"),
        ("conv", {"patch_size": 0}, "patch_size"),
        ("patch", {"size": "huge"}, "no size 'huge'"),
        ("base", {"patch_size": 5}, "patch_size"),
    ],
)
def test_bad_options_are_told(name: str, options: dict, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_encoder(name, input_shape=(12, 500), options=options)
