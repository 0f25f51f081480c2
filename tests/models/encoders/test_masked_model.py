"""Masked models: the loss of plain functions over the released names, and a loss that falls."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ecglm.models.encoder_files import load_weights
from ecglm.models.encoders.base import build_encoder
from ecglm.models.encoders.masked import positions
from ecglm.models.encoders.masked_model import MaskedModel
from masked_reference import masked_loss, random_state, released_shapes

KINDS = {"st-mem": "st_mem", "mtae": "mtae", "mlae": "mlae"}


def made(kind: str, num_samples: int = 240, patch_size: int = 15, seed: int = 0, **options):
    """A tiny masked model with random weights under the released names, those weights, and samples per patch."""
    own = {} if kind == "mlae" else {"patch_size": patch_size}
    encoder = build_encoder(KINDS[kind], input_shape=(12, num_samples), options={"size": "tiny", **own})
    model = encoder.masked_model(**options)
    num = 12 if kind == "mlae" else num_samples // patch_size
    shapes = released_shapes(kind, width=128, depth=4, patch=encoder.patch_dim, num=num, decoder=(64, 2))
    state = random_state(shapes, seed)
    model.load_state_dict({k: v for k, v in state.items() if not k.startswith("to_patch_embedding.")})
    return model, state, num_samples if kind == "mlae" else patch_size


def drawn(kind: str, model: MaskedModel, seed: int = 1):
    """Noise of one ECG, and which patches it shows, group by group."""
    noise = torch.rand(model.noise_shape(1), generator=torch.Generator().manual_seed(seed))
    groups, num = noise.shape[1:]
    shown = [sorted(range(num), key=lambda i, g=g: float(noise[0, g, i]))[: num // 4] for g in range(groups)]
    return noise, shown


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm_target", [False, True])
def test_loss_and_prediction_are_those_of_plain_functions(kind, norm_target):
    model, state, patch = made(kind, norm_target=norm_target)
    noise, shown = drawn(kind, model)
    x = 2 * torch.randn(1, 12, 240) + 0.5
    with torch.no_grad():
        found = model(x, noise)
        loss, predictions = masked_loss(kind, state, x[0], patch, shown, norm_target)
    torch.testing.assert_close(found.loss, loss, atol=1e-5, rtol=1e-5)
    wanted = torch.stack(predictions) if kind == "st-mem" else predictions[0]
    torch.testing.assert_close(found.prediction[0], wanted, atol=1e-5, rtol=1e-5)
    hidden = [[i not in s for i in range(found.mask.shape[-1])] for s in shown]
    assert found.mask[0].tolist() == (hidden if kind == "st-mem" else hidden[0])
    assert found.prediction.shape == found.target.shape == (*found.mask.shape, patch * (12 if kind == "mtae" else 1))
    if norm_target:
        flat = found.target.flatten(0, -2)
        torch.testing.assert_close(flat.mean(-1), torch.zeros(len(flat)), atol=1e-5, rtol=0)
        torch.testing.assert_close(flat.std(-1), torch.ones(len(flat)), atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_paper_s_base_model(kind):
    own = {} if kind == "mlae" else {"patch_size": 75}
    model = build_encoder(KINDS[kind], input_shape=(12, 2250), options={"size": "base", **own}).masked_model()
    num, patch = {"st-mem": (30, 75), "mtae": (30, 900), "mlae": (12, 2250)}[kind]
    state = random_state(released_shapes(kind, width=768, depth=12, patch=patch, num=num, decoder=(256, 4)))
    model.load_state_dict({k: v for k, v in state.items() if not k.startswith("to_patch_embedding.")})
    noise, shown = drawn(kind, model)
    assert {len(s) for s in shown} == {3 if kind == "mlae" else 7}
    x = torch.randn(1, 12, 2250)
    with torch.no_grad():
        loss, _ = masked_loss(kind, state, x[0], 2250 if kind == "mlae" else 75, shown)
        torch.testing.assert_close(model(x, noise).loss, loss, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_the_mean_of_its_ecgs_and_noise_alone_decides(kind):
    model, _, _ = made(kind)
    x, noise = torch.randn(3, 12, 240), torch.rand(model.noise_shape(3))
    with torch.no_grad():
        together = model(x, noise)
        alone = [model(r[None], n[None]) for r, n in zip(x, noise, strict=True)]
        torch.manual_seed(99)
        assert torch.equal(model(x, noise).prediction, together.prediction)
        assert torch.equal(model(x, torch.rand(noise.shape) * 0 + noise).mask, together.mask)
        assert not torch.equal(model(x).mask, model(x).mask)
    torch.testing.assert_close(together.loss, torch.stack([a.loss for a in alone]).mean(), atol=1e-5, rtol=1e-5)
    shown = (~together.mask).sum(-1)
    assert (shown == (3 if kind == "mlae" else 4)).all()


def test_st_mem_masks_each_lead_by_itself():
    model, _, _ = made("st-mem")
    mask = model(torch.randn(1, 12, 240)).mask[0]
    assert len({tuple(row.tolist()) for row in mask}) > 6


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_samples_cannot_be_seen_and_shown_ones_do_not_count(kind):
    model, _, patch = made(kind)
    noise, shown = drawn(kind, model)
    x = torch.randn(1, 12, 240)
    hidden, seen = x.clone(), x.clone()
    lead = 4
    group = lead if kind == "st-mem" else 0
    first_hidden = next(i for i in range(noise.shape[2]) if i not in shown[group])
    at, row = (0, first_hidden) if kind == "mlae" else (first_hidden * patch, lead)
    hidden[0, row, at + 3] += 10
    at, row = (0, shown[0][0]) if kind == "mlae" else (shown[group][0] * patch, lead)
    seen[0, row, at + 3] += 10
    with torch.no_grad():
        base, other, third = model(x, noise), model(hidden, noise), model(seen, noise)
    assert torch.equal(other.prediction, base.prediction) and not torch.equal(other.loss, base.loss)
    assert not torch.equal(third.prediction, base.prediction)
    assert torch.equal(third.target[third.mask], base.target[base.mask])


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_learns_and_positions_do_not(kind):
    torch.manual_seed(0)
    own = {} if kind == "mlae" else {"patch_size": 15}
    model = build_encoder(KINDS[kind], input_shape=(12, 240), options={"size": "tiny", **own}).masked_model()
    fixed = {k: v.clone() for k, v in model.named_buffers()}
    assert set(fixed) == {"decoder_pos_embed", "encoder.pos_embedding"}
    model(torch.randn(2, 12, 240)).loss.backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert not without
    assert all(torch.equal(v, fixed[k]) for k, v in model.named_buffers())


def test_positions_of_another_length_are_made_anew_in_both_halves():
    short, _, _ = made("st-mem", 240)
    long, _, _ = made("st-mem", 300)
    weights = dict(short.state_dict())
    weights["encoder.pos_embedding"] = positions(16, 128, 1, 1)
    weights["decoder_pos_embed"] = positions(16, 64, 1, 1)
    load_weights(long, weights, "file")
    assert torch.equal(long.decoder_pos_embed, positions(20, 64, 1, 1))
    assert torch.equal(long.encoder.pos_embedding, positions(20, 128, 1, 1))


def test_a_constant_patch_is_no_infinity():
    model, _, _ = made("st-mem", norm_target=True)
    assert torch.isfinite(model(torch.zeros(1, 12, 240)).loss)


def ecgs(num: int) -> torch.Tensor:
    """Standardised synthetic ECGs ``(num, 12, 500)`` at 50 Hz, one patient each."""
    from ecglm.records.synthetic import Synthetic
    from ecglm.representations.normalise import normalise
    from ecglm.signals.pipeline import get_pipeline

    source = Synthetic(num_patients=num, seed=1, artefacts=False, records_per_patient=(1, 1))
    pipeline = get_pipeline("default", rate=50, seg_len=500)
    rows = [normalise(pipeline.run(source.read(k)).signal[0], "record_zscore") for k in source.keys()]
    return torch.from_numpy(np.stack(rows))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "num_samples", "options", "leads", "steps"),
    [
        ("st_mem", 160, {"patch_size": 10}, (0, 1, 6, 8, 10), 1100),
        ("mtae", 160, {"patch_size": 5}, range(12), 1600),
        ("mlae", 100, {}, range(12), 800),
    ],
)
def test_the_loss_falls_below_that_of_the_best_constant_on_patients_not_seen(kind, num_samples, options, leads, steps):
    x = ecgs(432)[:, list(leads)]
    train, held = x[:-32], x[-32:, :, :num_samples]
    torch.manual_seed(0)
    encoder = build_encoder(kind, input_shape=held.shape[1:], options={"size": "tiny", **options})
    model, rng = encoder.masked_model(), np.random.default_rng(0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.01)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 1e-3 * min(1, (step + 1) / 30)
        start = int(rng.integers(x.shape[2] - num_samples + 1))
        batch = train[rng.integers(len(train), size=16)][:, :, start : start + num_samples]
        noise = torch.from_numpy(rng.random(model.noise_shape(16), np.float32))
        optimiser.zero_grad()
        model(batch, noise).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    with torch.no_grad():
        found = model(held, torch.from_numpy(rng.random(model.noise_shape(32), np.float32)))
    hidden = found.target[found.mask]
    constant = hidden.var(dim=0, unbiased=False).mean()  # the mean of the very patches to be told
    assert found.loss < 0.93 * constant
