"""Masked encoders as encoders: equal to plain functions over the released names, unmasked, and of any length."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ecglm.errors import ConfigError
from ecglm.models.encoder_files import load_weights
from ecglm.models.encoders.base import build_encoder
from ecglm.models.encoders.masked import kept, patch_size_of, positions, refit_positions, sin_cos
from masked_reference import features, pooled, random_state, released_shapes

KINDS = {"st-mem": "st_mem", "mtae": "mtae", "mlae": "mlae"}
#: size → width, depth
SIZES = {"tiny": (128, 4), "small": (384, 12), "base": (768, 12)}


def made(kind: str, num_samples: int = 480, size: str = "tiny", seed: int = 0, **options):
    """An encoder with random weights under the released names, and those weights."""
    width, depth = SIZES[size]
    encoder = build_encoder(KINDS[kind], input_shape=(12, num_samples), options={"size": size, **options})
    num = 12 if kind == "mlae" else encoder.num_patches
    state = random_state(
        released_shapes(kind, width=width, depth=depth, patch=encoder.patch_dim, num=num, decoder=None), seed
    )
    encoder.load_state_dict(state)  # strict: every released name, and no other
    samples = num_samples // num if kind == "mtae" else encoder.patch_dim
    return encoder.eval(), state, samples


@pytest.mark.parametrize("kind", KINDS)
def test_features_and_pooled_are_those_of_plain_functions(kind):
    encoder, state, patch = made(kind)
    x = torch.randn(2, 12, 480)
    with torch.no_grad():
        for row, tokens, mean in zip(x, encoder(x), encoder.pooled(x), strict=True):
            torch.testing.assert_close(tokens, features(kind, state, row, patch), atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(mean, pooled(kind, state, row, patch), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", ["small", "base"])
def test_the_paper_s_sizes_at_the_paper_s_length(kind, size):
    encoder, state, patch = made(kind, 2250, size)
    assert (encoder.num_tokens, encoder.dim) == ({"st-mem": 360, "mtae": 30, "mlae": 12}[kind], SIZES[size][0])
    x = torch.randn(12, 2250)
    with torch.no_grad():
        torch.testing.assert_close(encoder(x[None])[0], features(kind, state, x, patch), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [False, True])
def test_d08_two_calls_give_equal_features_and_nothing_is_masked(kind, training):
    encoder, _, _ = made(kind)
    encoder.train(training)  # the fault of the originals: random masking also at inference
    x = torch.randn(1, 12, 480)
    before = torch.get_rng_state()
    with torch.no_grad():
        first, second = encoder(x), encoder(x)
        assert torch.equal(first, second)
        assert torch.equal(torch.get_rng_state(), before), "something was drawn"
        places = list(itertools.product(range(7, 480, 30), (0, 7)))  # every stretch of every lead is read
        moved = x.repeat(len(places), 1, 1)
        for row, (at, lead) in zip(moved, places, strict=True):
            row[lead, at] += 1
        changed = (encoder(moved) - first).abs().amax(dim=(1, 2))
    assert changed.min() > 1e-3, places[int(changed.argmin())]
    assert first.shape == (1, encoder.num_tokens, encoder.dim) == (1, encoder.num_tokens, 128)  # not the decoder's


@pytest.mark.parametrize("kind", KINDS)
def test_an_ecg_s_features_do_not_depend_on_its_batch(kind):
    encoder, _, _ = made(kind)
    x = torch.randn(3, 12, 480)
    with torch.no_grad():
        torch.testing.assert_close(encoder(x), torch.cat([encoder(r[None]) for r in x]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("num_samples", "patch"), [(500, 20), (1250, 50), (2500, 100), (5000, 200), (2250, 75), (1000, 40), (16, 1)]
)
def test_the_patch_rule_on_lengths_of_the_paper_and_others(num_samples, patch):
    assert patch_size_of(num_samples) == patch


@given(st.integers(1, 6000))
@settings(max_examples=80, deadline=None)
def test_the_patch_rule_takes_the_count_closest_to_32(num_samples):
    counts = [n for n in range(16, 65) if num_samples % n == 0]
    if not counts:
        with pytest.raises(TypeError, match=r"cut into 16 to 64 equal patches; give patch_size"):
            patch_size_of(num_samples)
        return
    found = num_samples // patch_size_of(num_samples)
    assert found in counts and abs(found - 32) == min(abs(n - 32) for n in counts)


@given(st.sampled_from(sorted(KINDS)), st.integers(16, 40), st.integers(2, 12), st.sampled_from([1, 3, 12]))
@settings(max_examples=8, deadline=None)
def test_any_length_with_a_patch_gives_as_many_tokens_as_announced(kind, num_patches, patch, num_leads):
    if kind == "mlae":
        num_leads = max(num_leads, 2)
    encoder = build_encoder(KINDS[kind], input_shape=(num_leads, num_patches * patch), options={"size": "tiny"})
    with torch.no_grad():
        tokens = encoder.eval()(torch.randn(2, num_leads, num_patches * patch))
    assert tokens.shape == (2, encoder.num_tokens, encoder.dim)
    assert torch.isfinite(tokens).all()


def test_sin_cos_is_its_closed_form():
    table = sin_cos(7, 8).double()
    for position, i in itertools.product(range(7), range(4)):
        angle = torch.tensor(position / 10000 ** (2 * i / 8), dtype=torch.float64)
        assert table[position, i] == pytest.approx(float(angle.sin()), abs=1e-6)
        assert table[position, 4 + i] == pytest.approx(float(angle.cos()), abs=1e-6)
    framed = positions(7, 8, 1, 1)
    assert framed.shape == (1, 9, 8) and not framed[0, 0].any() and not framed[0, -1].any()
    assert torch.equal(framed[0, 1:-1], sin_cos(7, 8))


@pytest.mark.parametrize("kind", ["st-mem", "mtae"])
def test_fixed_positions_fit_another_length_and_others_do_not(kind):
    short, _, _ = made(kind, 480, patch_size=20)
    long = build_encoder(KINDS[kind], input_shape=(12, 600), options={"size": "tiny", "patch_size": 20})
    weights = dict(short.state_dict())
    with pytest.raises(RuntimeError):
        long.load_state_dict(long.fit_weights(weights))  # random positions: which ones would the new patches have?
    marks = 2 if kind == "st-mem" else 1
    weights["pos_embedding"] = positions(24, 128, 1, marks - 1)
    load_weights(long, weights, "file")
    assert torch.equal(long.pos_embedding, positions(30, 128, 1, marks - 1))
    assert torch.equal(long.norm.weight, short.norm.weight)
    counted = sin_cos(24 + marks, 128)[None]  # the marks counted like patches
    assert torch.equal(refit_positions(counted, long.pos_embedding, 1, marks - 1), sin_cos(30 + marks, 128)[None])


def test_positions_are_no_parameters():
    for name in KINDS.values():
        encoder = build_encoder(name, input_shape=(12, 480), options={"size": "tiny"})
        assert "pos_embedding" in encoder.state_dict()
        assert all("pos" not in n for n, _ in encoder.named_parameters())


def test_how_new_weights_begin():
    torch.manual_seed(0)
    encoder = build_encoder("st_mem", input_shape=(12, 480), options={"size": "small"})
    linear = encoder.block3.ff.fn.net[0]
    bound = (6 / (384 + 1536)) ** 0.5  # Xavier, uniform
    assert float(linear.weight.detach().abs().max()) <= bound
    assert float(linear.weight.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.01)
    assert not linear.bias.any()
    learned = torch.stack([encoder.sep_embedding, *encoder.lead_embeddings]).detach()
    assert float(learned.std()) == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize(
    ("shown", "num", "ratio"), [(7, 30, 0.75), (3, 12, 0.75), (6, 25, 0.75), (15, 30, 0.5), (1, 4, 0.75)]
)
def test_how_many_are_kept(shown, num, ratio):
    assert kept(num, ratio) == shown


@pytest.mark.parametrize(
    ("name", "shape", "options", "told"),
    [
        ("st_mem", (12, 480), {"size": "huge"}, "no size 'huge'; known: tiny, small, base"),
        ("st_mem", (12, 480), {"patch_size": 50}, "480 samples are no multiple of patch_size 50.* 450 or 500 samples"),
        ("mtae", (12, 20), {"patch_size": 50}, "prepare segments of 50 samples"),
        ("mtae", (12, 480), {"patch_size": 0}, "patch_size must be 1 or more"),
        ("mtae", (12, 997), {}, "997 samples cannot be cut into 16 to 64 equal patches"),
        ("mlae", (12, 480), {"patch_size": 20}, "patch_size"),
    ],
)
def test_bad_options_are_told_in_one_line(name, shape, options, told):
    with pytest.raises(ConfigError, match=rf"encoder '{name}': .*{told}") as error:
        build_encoder(name, input_shape=shape, options=options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("ratio", [0.0, 1.0, 0.99, -1.0, float("nan")])
def test_a_mask_that_hides_nothing_or_all_is_refused(ratio):
    encoder = build_encoder("mtae", input_shape=(12, 480), options={"size": "tiny"})
    with pytest.raises(TypeError, match="mask_ratio"):
        encoder.masked_model(mask_ratio=ratio)
