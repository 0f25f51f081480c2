"""The compiled spline is scipy's not-a-knot cubic spline."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.interpolate

from ecglm.signals.spline import interpolate, make_spline


@pytest.mark.parametrize(("num_in", "num_out"), [(30, 20), (31, 100), (5000, 2500), (4096, 2560)])
def test_values(num_in, num_out):
    x = np.random.default_rng(num_in).normal(size=(num_in, 16))
    spline, out = make_spline(num_in, num_out, 7.0), np.empty((12, num_out))
    interpolate(spline.factors, spline.first, spline.weights, x, out)
    old, new = np.linspace(0, 7.0, num_in), np.linspace(0, 7.0, num_out)
    reference = scipy.interpolate.CubicSpline(old, x[:, :12], bc_type="not-a-knot")(new)
    assert np.abs(out.T - reference).max() < 1e-10
