"""The quantiser against the plain formula in numpy, bin for bin, and against the bound that half a bin gives."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ecglm.representations.quantise import dequantise, quantise, quantise_rows


def formula(x, low, high):
    """``min(floor(26 z), 25)`` in float64, operation by operation as it is written down."""
    z = np.clip((x.astype(np.float64) - low) / (high - low + 1e-6), 0.0, 1.0)
    return (97 + np.minimum(np.floor(26 * z), 25)).astype(np.uint8)


def bounds(x):
    return float(x.min()), float(x.max())


@settings(deadline=None, max_examples=200)
@given(arrays(st.sampled_from([np.float32, np.float64]), (2, 30), elements=st.floats(-40, 40, width=32)))
def test_every_symbol_is_that_of_the_formula(x):
    np.testing.assert_array_equal(quantise(x, *bounds(x)), formula(x, *bounds(x)))
    np.testing.assert_array_equal(quantise(x, -1.5, 2.5), formula(x, -1.5, 2.5))


def test_not_a_bin_off_on_the_edges_of_bins():
    # values computed to lie on, just below and just above each edge, in ranges whose width is no round number
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        for _ in range(200):
            low, width = rng.normal(0, 2), 10 ** rng.uniform(-5, 1.5)
            edges = (low + np.arange(27) / 26 * (width + 1e-6)).astype(dtype)
            x = np.concatenate([edges, np.nextafter(edges, dtype(-99)), np.nextafter(edges, dtype(99))])[None]
            np.testing.assert_array_equal(quantise(x, low, low + width), formula(x, low, low + width))


def test_whole_numbers_and_other_types_are_as_in_float64():
    x = np.arange(-500, 500, dtype=np.int16).reshape(4, 250)
    np.testing.assert_array_equal(quantise(x, -500.0, 499.0), formula(x, -500.0, 499.0))
    half = (x / 256).astype(np.float16)
    np.testing.assert_array_equal(quantise(half, -2.0, 2.0), formula(half, -2.0, 2.0))


def test_rows_have_bounds_of_their_own_and_need_not_lie_together():
    x = np.random.default_rng(1).normal(size=(7, 60)).astype(np.float32)
    for rows in (x, x[::2], x[:, ::3], np.asfortranarray(x)):
        low, high = rows.min(axis=1), rows.max(axis=1)
        expected = np.stack([formula(row, float(a), float(b)) for row, a, b in zip(rows, low, high, strict=True)])
        np.testing.assert_array_equal(quantise_rows(rows, low, high), expected)


def test_a_constant_is_the_first_symbol():
    for level in (0.0, -2.5, 31.0):
        x = np.full((3, 9), level, np.float32)
        assert (quantise(x, level, level) == ord("a")).all()
        np.testing.assert_allclose(dequantise(quantise(x, level, level), level, level), level, atol=1e-6)


@settings(deadline=None, max_examples=200)
@given(arrays(np.float32, (2, 30), elements=st.floats(-32, 32, width=32)))
def test_bin_centres_are_within_half_a_bin(x):
    low, high = bounds(x)
    back = dequantise(quantise(x, low, high), low, high).astype(np.float64)
    assert np.abs(back - x).max() <= (high - low) / 52 + 2e-6  # 2e-6: float32 of up to 32 mV


def test_compat_decodes_to_25ths_as_the_original_does_and_is_worse_at_the_ends():
    symbols = np.arange(97, 123, dtype=np.uint8)
    np.testing.assert_allclose(dequantise(symbols, -1.0, 4.0, compat=True), -1 + np.arange(26) / 25 * 5, atol=1e-5)
    np.testing.assert_allclose(dequantise(symbols, -1.0, 4.0), -1 + (np.arange(26) + 0.5) / 26 * 5, atol=1e-5)
    x = np.linspace(0, 2.6, 100_001)[None]
    worst = [np.abs(dequantise(quantise(x, 0.0, 2.6), 0.0, 2.6, compat=c) - x).max() for c in (False, True)]
    assert math.isclose(worst[0], 0.05, rel_tol=1e-3)
    assert math.isclose(worst[1], 0.1, rel_tol=1e-3)


@pytest.mark.realdata
def test_real_ecgs_follow_the_formula(ptb_xl):
    for file in sorted((ptb_xl / "records500" / "00000").glob("*.dat"))[:100]:
        x = (np.fromfile(file, "<i2").reshape(-1, 12).T / 1000).astype(np.float32)
        np.testing.assert_array_equal(quantise(x, *bounds(x)), formula(x, *bounds(x)))
