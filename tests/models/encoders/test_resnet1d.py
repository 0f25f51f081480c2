"""The encoder: shapes by closed form, and one ECG's features do not know its batch-mates."""

from __future__ import annotations

import math

import pytest
import torch

from ecglm.errors import ConfigError
from ecglm.models.encoders.base import build_encoder
from ecglm.models.encoders.resnet1d import ResNet1d


def encoder(num_leads: int = 12, num_samples: int = 1000, **options) -> ResNet1d:
    torch.manual_seed(0)
    return build_encoder("resnet1d", input_shape=(num_leads, num_samples), options=options)


@pytest.mark.parametrize("num_samples", [500, 1000, 1250, 999, 2500])
@pytest.mark.parametrize("widths, stem_stride", [((32, 64, 128, 128), 2), ((16, 24), 4), ((8,), 1)])
def test_number_of_tokens_is_samples_over_reduction(
    num_samples: int, widths: tuple[int, ...], stem_stride: int
) -> None:
    made = encoder(num_samples=num_samples, widths=widths, stem_stride=stem_stride)
    tokens = made(torch.randn(2, 12, num_samples))
    reduction = stem_stride * 2 ** len(widths)
    assert tokens.shape == (2, math.ceil(num_samples / reduction), widths[-1])
    assert made.dim == widths[-1]


def test_features_do_not_depend_on_the_batch_and_two_calls_are_equal() -> None:
    made, x = encoder().train(), torch.randn(3, 12, 1000)
    made.dropout.p = 0.0  # training mode must be independent of the batch too: no batch statistics
    together = made(x)
    torch.testing.assert_close(together, torch.cat([made(row[None]) for row in x]), rtol=1e-5, atol=1e-5)
    other = x.clone()
    other[1:] *= 100
    torch.testing.assert_close(made(other)[0], together[0], rtol=1e-5, atol=1e-5)
    made = encoder().eval()  # D8: nothing random at inference, with dropout configured
    assert torch.equal(made(x), made(x))


@pytest.mark.parametrize("at", [0, 313, 500, 640, 999])
def test_d09_an_impulse_anywhere_changes_the_features(at: int) -> None:
    made, x = encoder().eval(), torch.zeros(1, 12, 1000)
    moved = x.clone()
    moved[0, 5, at] = 1.0
    assert (made(moved) - made(x)).abs().max() > 1e-3


def test_bad_options_are_told_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"resnet1d.*layers"):
        encoder(layers=3)
    with pytest.raises(ConfigError, match="too few"):
        encoder(num_samples=16)
    with pytest.raises(ConfigError, match=r"resnet1d.*did you mean|did you mean.*resnet1d"):
        build_encoder("resnet1", input_shape=(12, 500), options={})
