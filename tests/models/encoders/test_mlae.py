"""MLAE: a token is a whole lead, and the weights belong to one length."""

from __future__ import annotations

import pytest
import torch

from ecglm.errors import EcglmError
from ecglm.models.encoder_files import load_weights
from ecglm.models.encoders.mlae import Mlae


def test_a_token_per_lead():
    encoder = Mlae(num_leads=12, num_samples=333, size="tiny").eval()
    with torch.no_grad():
        assert encoder(torch.randn(2, 12, 333)).shape == (2, 12, 128)
    assert encoder.patches(torch.zeros(2, 12, 333)).shape == (2, 1, 12, 333)


def test_weights_of_another_length_are_refused_by_name():
    short, long = (Mlae(num_leads=12, num_samples=n, size="tiny") for n in (250, 500))
    with pytest.raises(EcglmError, match=r"3 of another shape \(to_patch_embedding\.1\.weight 250 instead of 500"):
        load_weights(long, short.state_dict(), "file")
