"""Masked reconstruction: what is hidden is not read, the mask follows the seed, and the loss is compared fairly."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ecglm.errors import ConfigError
from ecglm.models.encoders.base import build_encoder
from ecglm.training.objectives.base import Setting, Shown
from ecglm.training.objectives.masked import Masked, MaskedOptions
from ecglm.types import EcgInput


def setting(name: str, shape: tuple[int, ...], **options) -> Setting:
    torch.manual_seed(0)
    return Setting(build_encoder(name, input_shape=shape, options=options), name, options, None, (), 0)


def rows(shape: tuple[int, ...], number: int = 6, seed: int = 0) -> list[Shown]:
    made = np.random.default_rng(seed).normal(size=(number, *shape)).astype(np.float32)
    empty = np.zeros(1, np.int64)
    return [Shown(str(i), EcgInput(empty, x), "", 0, np.random.default_rng([seed, i])) for i, x in enumerate(made)]


@pytest.mark.parametrize(("name", "hidden"), [("st_mem", 0.75 * 4 * 32), ("mtae", 24), ("mlae", 3)])
def test_loss_is_the_mean_over_hidden_patches(name, hidden):
    shape = (4, 160)
    made = Masked(MaskedOptions(), setting(name, shape, size="tiny"))
    batch = made.collate(rows(shape))
    found = made.model(batch["ecg"], batch["noise"])
    assert int(found.mask.sum()) == 6 * hidden
    by_hand = ((found.prediction - found.target) ** 2).mean(-1)[found.mask].mean()
    assert float(made(made.model, batch)) == pytest.approx(float(by_hand))
    assert float(made(made.model, batch, 24)) == pytest.approx(float(by_hand) * 6 / 24)
    total, count = made.measure(made.model, batch)
    assert float(total) / count == pytest.approx(float(by_hand))


def test_the_mask_is_the_ecgs_own_whatever_else_is_in_its_batch():
    made = Masked(MaskedOptions(), setting("mtae", (4, 160), size="tiny"))
    alone = [made.collate([row])["noise"] for row in rows((4, 160))]
    assert torch.equal(torch.cat(alone), made.collate(rows((4, 160)))["noise"])
    assert not torch.equal(alone[0], alone[1])


def test_the_best_constant_is_the_variance_of_what_is_hidden():
    made = Masked(MaskedOptions(), setting("mtae", (4, 160), size="tiny"))
    batches = [made.collate(rows((4, 160), seed=s)) for s in range(3)]
    hidden = []
    for batch in batches:
        found = made.model(batch["ecg"], batch["noise"])
        hidden.append(found.target[found.mask].numpy())
    by_hand = np.concatenate(hidden).astype(np.float64).var(axis=0).mean()
    assert made.judge(iter(batches))["best_constant"] == pytest.approx(by_hand)


def test_what_stands_beside_the_encoder_is_the_decoder():
    made = Masked(MaskedOptions(), setting("mtae", (4, 160), size="tiny"))
    beside = set(made.extra())
    assert {"mask_embedding", "decoder_head.weight"} <= beside
    assert not [name for name in beside if name.startswith("encoder.")]


def test_encoders_without_patches_are_refused():
    with pytest.raises(ConfigError, match="no masked model; objective 'masked' is for st_mem"):
        Masked(MaskedOptions(), setting("resnet1d", (4, 160)))
    with pytest.raises(ConfigError, match=r"objective 'masked': mask_ratio 0\.99"):
        Masked(MaskedOptions(mask_ratio=0.99), setting("mtae", (4, 160), size="tiny"))
    with pytest.raises(ValueError, match=r"masked\.mask_ratio must lie between 0 and 1"):
        MaskedOptions(mask_ratio=1.0)
