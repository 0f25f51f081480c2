"""Masked patches for vision towers: hidden pixels are not read, visible ones are, targets are the pixels of a patch."""

from __future__ import annotations

import pytest
import torch

from ecglm.models.encoders.base import build_encoder
from ecglm.models.masked_vision import MaskedVision

SIDE, PATCH = 32, 8
OPTIONS = {
    "vit": {"image_size": SIDE, "patch_size": PATCH},
    "clip": {"image_size": SIDE, "patch_size": PATCH},
    "siglip": {"image_size": SIDE, "patch_size": PATCH},
    "siglip2": {"num_patches": (SIDE // PATCH) ** 2, "patch_size": PATCH},
}


def tower(name: str):
    torch.manual_seed(0)
    options = {"size": "nano", "config": OPTIONS[name]}
    return build_encoder(name, input_shape=(3, SIDE, SIDE), options=options).eval()


def pictures(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (2, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("name", OPTIONS)
def test_hidden_patches_are_not_read_and_shown_ones_are(name):
    model = MaskedVision(tower(name)).eval()
    x, noise = pictures(), torch.rand(model.noise_shape(2), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = model(x, noise)
        assert before.mask.sum(dim=1).tolist() == [12, 12]  # 75 % of 16
        for shown in (False, True):
            place = int((before.mask[0] != shown).nonzero()[0]) if not shown else int((~before.mask[0]).nonzero()[0])
            row, column = divmod(place, SIDE // PATCH)
            changed = x.clone()
            changed[0, :, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] ^= 255
            after = model(changed, noise)
            same = torch.equal(after.prediction[0], before.prediction[0])
            assert same != shown
            assert torch.equal(after.prediction[1], before.prediction[1])


def test_targets_are_the_normalised_pixels_of_each_patch_row_by_row():
    encoder = tower("vit")
    model, x = MaskedVision(encoder), pictures()
    target = model(x).target
    pixels = (x.float() - 127.5) / 127.5
    for number in range(16):
        row, column = divmod(number, 4)
        cut = pixels[:, :, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
        assert torch.allclose(target[:, number], cut.permute(0, 2, 3, 1).reshape(2, -1), atol=1e-5)
    unit = MaskedVision(encoder, norm_target=True)(x).target
    assert torch.allclose(unit.mean(-1), torch.zeros(2, 16), atol=1e-4)
    assert torch.allclose(unit.var(-1), torch.ones(2, 16), atol=1e-3)


def test_features_are_never_masked():
    """D8: pretraining leaves the encoder as it is outside of its own masked pass."""
    encoder, x = tower("vit"), pictures()
    before = encoder(x)
    model = MaskedVision(encoder)
    model(x)
    assert torch.equal(encoder(x), before)
    with pytest.raises(RuntimeError):
        model(torch.zeros(2, 5, SIDE, SIDE, dtype=torch.uint8))  # an error on the way leaves no mask behind
    assert torch.equal(encoder(x), before)


def test_mask_token_and_tower_learn():
    model = MaskedVision(tower("vit"))
    model(pictures()).loss.backward()
    assert float(model.mask_token.grad.abs().sum()) > 0
    assert all(p.grad is not None for p in model.encoder.parameters() if p.requires_grad)


def test_shares_that_hide_all_or_nothing_are_refused():
    with pytest.raises(TypeError, match="mask_ratio"):
        MaskedVision(tower("vit"), mask_ratio=0.99)
