"""Connectors: pooled tokens are means over time, projections are what their names say."""

from __future__ import annotations

import pytest
import torch

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


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'mlp2x_gel' \(did you mean 'mlp2x_gelu'\?\)"):
        Connector("mlp2x_gel", dim=4, hidden=6, num_tokens=6)
