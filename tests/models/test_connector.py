"""Connectors: pooled tokens are means over time, projections are what their names say."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ecglm.errors import ConfigError
from ecglm.models.connector import Connector
from ecglm.representations.pictures import Pooling


def test_pooling_is_the_mean_over_equal_stretches_of_time() -> None:
    made = Connector("linear", dim=4, hidden=6, num_tokens=3)
    tokens = torch.randn(2, 12, 4)
    means = tokens.reshape(2, 3, 4, 4).mean(dim=2)
    weight, bias = made.project.weight, made.project.bias
    torch.testing.assert_close(made(tokens), means @ weight.T + bias)


def test_as_many_tokens_as_wanted_pass_unpooled() -> None:
    made = Connector("mlp2x_gelu", dim=4, hidden=6, num_tokens=5)
    tokens = torch.randn(2, 5, 4)
    first, second = made.project[0], made.project[2]
    hidden = tokens @ first.weight.T + first.bias
    gelu = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    torch.testing.assert_close(made(tokens), gelu @ second.weight.T + second.bias)
    assert made(tokens).shape == (2, 5, 6)


def test_a_pictures_patches_are_pooled_on_their_grid() -> None:
    """Means of 2 x 2 blocks of 4 x 6 patches, row by row; a class token stays in front."""
    pooling = Pooling((4, 6), (2, 3), 1)
    made = Connector("linear", dim=4, hidden=6, num_tokens=7, pooling=pooling)
    tokens = torch.randn(2, 25, 4)
    blocks = tokens[:, 1:].reshape(2, 2, 2, 3, 2, 4).mean(dim=(2, 4)).reshape(2, 6, 4)
    weight, bias = made.project.weight, made.project.bias
    torch.testing.assert_close(made(tokens), torch.cat([tokens[:, :1], blocks], dim=1) @ weight.T + bias)


def test_more_tokens_than_the_encoder_gives_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"gives 5 tokens, the representation wants 6"):
        Connector("linear", dim=4, hidden=6, num_tokens=6)(torch.randn(1, 5, 4))


def test_tokens_that_stand_lead_after_lead_are_pooled_over_the_leads_of_a_time() -> None:
    """ST-MEM's tokens: time must not be mixed with leads (three leads, eight stretches here)."""
    tokens = torch.arange(24.0).reshape(1, 24, 1)
    over_time = Connector("linear", dim=1, hidden=1, num_tokens=4, pooling=Pooling.of_leads((3, 8), 4))
    nn.init.ones_(over_time.project.weight), nn.init.zeros_(over_time.project.bias)
    leads = tokens.reshape(3, 8)
    assert over_time(tokens).flatten().tolist() == leads.mean(0).reshape(4, 2).mean(1).tolist()
    by_lead = Connector("linear", dim=1, hidden=1, num_tokens=6, pooling=Pooling.of_leads((3, 4), 6))
    nn.init.ones_(by_lead.project.weight), nn.init.zeros_(by_lead.project.bias)
    assert by_lead(tokens[:, :12]).flatten().tolist() == tokens[0, :12, 0].reshape(6, 2).mean(1).tolist()
    assert Pooling.of_leads((3, 8), 24) is None
    with pytest.raises(ConfigError, match="at most 8, or for a multiple of 3"):
        Pooling.of_leads((3, 8), 10)


def test_pool_linear_pools_in_order_a_picture_too() -> None:
    """ECG-Bench's of 2026: no grid, also where there is one."""
    made = Connector("pool_linear", dim=4, hidden=6, num_tokens=6, pooling=Pooling((4, 6), (2, 3)))
    tokens = torch.randn(2, 24, 4)
    means = tokens.reshape(2, 6, 4, 4).mean(dim=2)
    torch.testing.assert_close(made(tokens), means @ made.project.weight.T + made.project.bias)


@pytest.mark.parametrize("given", [1, 5, 40])
def test_a_resampler_makes_its_tokens_of_any_number(given: int) -> None:
    torch.manual_seed(0)
    made = Connector("resampler", dim=4, hidden=16, num_tokens=7)
    tokens = torch.randn(2, given, 4)
    found = made(tokens)
    assert found.shape == (2, 7, 16)
    torch.testing.assert_close(made(tokens[1:]), found[1:])  # an ECG does not depend on its batch
    assert (found[:, 0] - found[:, 1]).abs().max() > 1e-3  # each query asks its own


def test_a_resampler_is_attention_over_all_tokens_and_knows_their_place() -> None:
    """Against the formula: softmax(q k / √d) v per head, keys with sines of their place, residual and feed-forward."""
    torch.manual_seed(0)
    made = Connector("resampler", dim=4, hidden=8, num_tokens=3).project.double()
    tokens = torch.randn(1, 5, 4, dtype=torch.float64)
    values = made.enter(tokens)[0]
    place, rate = torch.arange(5.0)[:, None], 10_000.0 ** (-torch.arange(0, 8, 2) / 8)
    sines = torch.stack([(place * rate).sin(), (place * rate).cos()], dim=-1).reshape(5, 8)
    q, k, v = (
        x @ w.T + b
        for x, w, b in zip(
            (made.norm(made.queries), values + sines, values),
            made.attention.in_proj_weight.chunk(3),
            made.attention.in_proj_bias.chunk(3),
            strict=True,
        )
    )
    heads = [(q[:, h : h + 1] @ k[:, h : h + 1].T).softmax(dim=1) @ v[:, h : h + 1] for h in range(8)]  # width 1 each
    seen = made.queries + torch.cat(heads, dim=1) @ made.attention.out_proj.weight.T + made.attention.out_proj.bias
    wanted = made.leave(seen + made.feed(seen))
    torch.testing.assert_close(made(tokens)[0], wanted, rtol=1e-5, atol=1e-6)
    turned = made(tokens.flip(1))
    assert (turned - made(tokens)).abs().max() > 1e-4


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'mlp2x_gel' \(did you mean 'mlp2x_gelu'\?\)"):
        Connector("mlp2x_gel", dim=4, hidden=6, num_tokens=6)
