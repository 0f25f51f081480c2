"""MTAE: a token is all leads of one stretch of time."""

from __future__ import annotations

import torch

from ecglm.models.encoders.mtae import Mtae


def test_a_patch_holds_all_leads_of_its_first_sample_first():
    encoder = Mtae(num_leads=3, num_samples=32, size="tiny", patch_size=2)
    x = torch.arange(96.0).reshape(1, 3, 32)  # lead l, sample t: 32 l + t
    assert encoder.patches(x).shape == (1, 1, 16, 6)
    assert encoder.patches(x)[0, 0, 5].tolist() == [10.0, 42.0, 74.0, 11.0, 43.0, 75.0]


def test_without_positions_later_and_earlier_are_alike():
    torch.manual_seed(0)
    encoder = Mtae(num_leads=12, num_samples=160, size="tiny", patch_size=10).eval()
    x = torch.randn(1, 12, 160)
    turned = x.unflatten(2, (16, 10)).flip(2).flatten(2)
    with torch.no_grad():
        assert not torch.allclose(encoder(turned), encoder(x).flip(1), atol=1e-3)
        encoder.pos_embedding.zero_()
        torch.testing.assert_close(encoder(turned), encoder(x).flip(1), atol=1e-5, rtol=1e-5)
