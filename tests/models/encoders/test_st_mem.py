"""ST-MEM: leads are known by their place."""

from __future__ import annotations

import torch

from ecglm.models.encoders.st_mem import StMem


def test_leads_are_told_apart_by_their_embedding_alone():
    torch.manual_seed(0)
    encoder = StMem(num_leads=3, num_samples=160, size="tiny").eval()
    x = torch.randn(1, 3, 160)
    order = [2, 0, 1]
    with torch.no_grad():
        tokens = encoder(x).unflatten(1, (3, -1))
        assert not torch.allclose(encoder(x[:, order]).unflatten(1, (3, -1)), tokens[:, order], atol=1e-3)
        for lead in encoder.lead_embeddings:
            lead.copy_(encoder.lead_embeddings[0])
        tokens = encoder(x).unflatten(1, (3, -1))  # lead after lead
        torch.testing.assert_close(encoder(x[:, order]).unflatten(1, (3, -1)), tokens[:, order], atol=1e-5, rtol=1e-5)


def test_patches_are_stretches_of_one_lead():
    encoder = StMem(num_leads=2, num_samples=32, size="tiny", patch_size=2)
    x = torch.arange(64.0).reshape(1, 2, 32)
    assert encoder.patches(x)[0, 1, 3].tolist() == [38.0, 39.0]
    assert encoder.patches(x).shape == (1, 2, 16, 2)
