"""MERL's ResNet: the released names and shapes, and its map and embeddings by the formulas, from those names alone."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch.nn import functional as F

from ecglm.errors import ConfigError
from ecglm.models.encoders.base import build_encoder
from ecglm.models.encoders.merl import MerlResNet
from ecglm.models.merl import Merl, released_shape, split_released

#: Number of names, and sha256 of the sorted lines "name [shape]", of the released checkpoints.
RELEASED = {
    18: (138, "caee42f161b3c7e2039c8e0134ba09123ec5b4cf22a6c425544cf5c6e2373a9a"),
    50: (336, "3e37b22910d8127c1b9907b1fc0baae0a3c7accf5b43832653b497ce76bea38e"),
    101: (642, "0d79a997dbda5efbc45a49945c6ecef0264581419cccbcee4ab0523a5a03e34f"),
}


def towers(depth: int, num_samples: int, width: int = 64) -> Merl:
    torch.manual_seed(0)
    encoder = build_encoder("merl", input_shape=(12, num_samples), options={"depth": depth, "width": width})
    return Merl(encoder, None).eval()


def as_released(model: Merl, dim: int) -> dict[str, torch.Tensor]:
    """The state dict with the classifier that the released ones have and nothing uses."""
    unused = {"ecg_encoder.linear.weight": torch.zeros(10, dim), "ecg_encoder.linear.bias": torch.zeros(10)}
    return {**model.state_dict(), **unused}


@pytest.mark.parametrize("depth", RELEASED)
def test_names_and_shapes_are_those_of_the_released_weights(depth: int) -> None:
    with torch.device("meta"):
        state = as_released(
            Merl(MerlResNet(num_leads=12, num_samples=5000, depth=depth), None), 512 if depth == 18 else 2048
        )
    lines = sorted(f"{name} {list(tensor.shape)}" for name, tensor in state.items())
    assert (len(lines), hashlib.sha256("\n".join(lines).encode()).hexdigest()) == RELEASED[depth]


@pytest.mark.parametrize(
    "depth, dim, num_samples, num_tokens",
    [
        (18, 512, 500, 32),
        (18, 512, 1250, 79),
        (18, 512, 2500, 157),
        (18, 512, 999, 63),
        (34, 512, 5000, 313),
        (50, 2048, 5000, 313),
        (101, 2048, 1250, 79),
    ],
)
def test_tokens_are_those_of_the_spec(depth: int, dim: int, num_samples: int, num_tokens: int) -> None:
    with torch.device("meta"):
        made = MerlResNet(num_leads=12, num_samples=num_samples, depth=depth)
        assert made(torch.empty(2, 12, num_samples)).shape == (2, num_tokens, dim)
    assert (made.num_tokens, made.dim) == (num_tokens, dim)


def norm(state: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    """Batch norm with running statistics, by its formula."""
    mean, var, weight, bias = (state[f"{name}.{k}"][:, None] for k in ("running_mean", "running_var", "weight", "bias"))
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def reference_map(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The ResNet's map ``(batch, dim, tokens)`` from the released names alone."""
    x = F.relu(norm(state, "ecg_encoder.bn1", F.conv1d(x, state["ecg_encoder.conv1.weight"], stride=2, padding=3)))
    for stage in range(1, 5):
        block = 0
        while f"ecg_encoder.layer{stage}.{block}.conv1.weight" in state:
            at = f"ecg_encoder.layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            convs = [k for k in ("conv1", "conv2", "conv3") if f"{at}.{k}.weight" in state]
            strided = "conv2" if len(convs) == 3 else "conv1"  # a bottleneck strides in its middle
            y = x
            for number, conv in enumerate(convs):
                weight = state[f"{at}.{conv}.weight"]
                y = F.conv1d(y, weight, stride=stride if conv == strided else 1, padding=weight.shape[2] // 2)
                y = norm(state, f"{at}.bn{number + 1}", y)
                y = F.relu(y) if conv != convs[-1] else y
            if f"{at}.shortcut.0.weight" in state:
                x = norm(state, f"{at}.shortcut.1", F.conv1d(x, state[f"{at}.shortcut.0.weight"], stride=stride))
            x = F.relu(y + x)
            block += 1
    return x


def reference_heads(state: dict[str, torch.Tensor], found: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Cross-modal embedding and the two uni-modal ones, dropout off."""
    tokens = torch.einsum("oc,bct->bto", state["downconv.weight"][:, :, 0], found) + state["downconv.bias"]
    place = state["att_pool_head.positional_embedding"]
    first = (state["att_pool_head.cls_token"] + place[:, :1]).repeat(len(tokens), 1, 1)
    x = torch.cat([first, tokens], dim=1) + place
    width, heads = x.shape[2], 4
    q, k, v = state["att_pool_head.mhsa.in_proj_weight"].split(width)
    qb, kb, vb = state["att_pool_head.mhsa.in_proj_bias"].split(width)
    query, keys, values = (
        (y @ w.T + b).unflatten(2, (heads, width // heads)) for y, w, b in ((x[:, :1], q, qb), (x, k, kb), (x, v, vb))
    )
    weights = torch.einsum("bihd,bjhd->bhij", query, keys) / (width // heads) ** 0.5
    mixed = torch.einsum("bhij,bjhd->bihd", weights.softmax(-1), values).flatten(2)[:, 0]
    out = mixed @ state["att_pool_head.mhsa.out_proj.weight"].T + state["att_pool_head.mhsa.out_proj.bias"]
    cross = out @ state["att_pool_head.c_proj.weight"].T + state["att_pool_head.c_proj.bias"]
    mean = tokens.mean(1)
    return cross, mean @ state["linear1.weight"].T, mean @ state["linear2.weight"].T


@pytest.mark.parametrize("depth, num_samples, width", [(18, 1250, 64), (34, 500, 16), (50, 1000, 16), (101, 500, 8)])
def test_map_and_embeddings_are_the_formulas(depth: int, num_samples: int, width: int) -> None:
    model = towers(depth, num_samples, width)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in model.state_dict().items():  # statistics and shifts far from 0 and 1
            if name.endswith(("running_mean", "bias")):
                value.copy_(0.2 * torch.randn(value.shape, generator=generator))
            elif name.endswith("running_var"):
                value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    x = torch.randn(3, 12, num_samples, generator=generator)
    state = {k: v.double() for k, v in model.state_dict().items()}
    found = reference_map(state, x.double())
    cross, first, second = reference_heads(state, found)
    with torch.no_grad():
        tokens = model.ecg_encoder(x)
        assert (tokens.double() - found.transpose(1, 2)).abs().max() <= 1e-5 * found.abs().max()
        ours = model.att_pool_head(model.ecg_tokens(x))
        assert (ours.double() - cross).abs().max() <= 1e-5 * cross.abs().max()
        mean = model.ecg_tokens(x).mean(1)
        for linear, wanted in ((model.linear1, first), (model.linear2, second)):
            assert (linear(mean).double() - wanted).abs().max() <= 1e-5 * wanted.abs().max()
        unit = cross / cross.norm(dim=1, keepdim=True)
        torch.testing.assert_close(model.embed_ecg(x).double(), unit, rtol=0, atol=1e-5)


def test_a_released_checkpoint_is_split_into_encoder_and_heads() -> None:
    model = towers(18, 5000, width=8)
    released = {f"module.{k}": v for k, v in as_released(model, 64).items()}
    released["module.lm_model.embeddings.word_embeddings.weight"] = torch.zeros(3, 3)
    encoder, heads = split_released(released)
    assert released_shape(encoder, heads) == (18, 313)
    other = MerlResNet(num_leads=12, num_samples=5000, width=8).eval()
    other.load_state_dict(encoder)  # strict: nothing missing, nothing left over
    assert heads.keys() == model.extra().keys()
    x = torch.randn(1, 12, 5000)
    with torch.no_grad():
        assert torch.equal(other(x), model.ecg_encoder(x))
    with pytest.raises(ValueError, match="not the weights of a MERL ResNet"):
        released_shape({"conv1.weight": torch.zeros(1)}, heads)


def test_weights_read_an_ecg_of_another_length() -> None:
    weights = towers(18, 500, width=8).ecg_encoder.state_dict()
    longer = MerlResNet(num_leads=12, num_samples=2500, width=8)
    longer.load_state_dict(longer.fit_weights(weights))
    assert longer.eval()(torch.zeros(1, 12, 2500)).shape == (1, 157, 64)


@pytest.mark.parametrize("options, told", [({"depth": 20}, "18, 34, 50, 101"), ({"width": 0}, "width"), ({}, "16")])
def test_bad_options_are_told(options: dict, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_encoder("merl", input_shape=(12, 15 if not options else 500), options=options)
