"""The compiled db6 transform is PyWavelets'."""

from __future__ import annotations

import numpy as np
import pytest
import pywt

from ecglm.signals.wavelet import compose, decompose, shrink


@pytest.mark.filterwarnings("ignore:Level value")
@pytest.mark.parametrize("num_samples", [28, 1001, 2571, 4096, 5000])
def test_same_coefficients_and_same_signal(num_samples):
    x = np.random.default_rng(0).normal(size=(num_samples, 16))
    parts, reference = decompose(x, 4), pywt.wavedec(x, "db6", mode="symmetric", level=4, axis=0)
    assert [p.shape for p in parts] == [r.shape for r in reference]
    for part, expected in zip(parts, reference, strict=True):
        assert np.abs(part - expected).max() < 1e-12
    back = compose(parts)
    assert back.shape[0] == num_samples + num_samples % 2
    assert np.abs(back - pywt.waverec(reference, "db6", axis=0)).max() < 1e-12
    assert np.abs(back[:num_samples] - x).max() < 1e-11


def test_shrink_is_the_soft_threshold():
    x = np.random.default_rng(0).normal(size=(400, 16))
    threshold = np.linspace(0, 2, 16)
    got = x.copy()
    shrink(got, threshold, 1e-10)
    for lane in range(16):
        assert np.allclose(got[:, lane], pywt.threshold(x[:, lane], threshold[lane], "soft"), atol=1e-14)
    odd = np.array([[1e-10, -1e-10, 2e-10, np.nan, np.inf, -np.inf, -3.0] + [0.0] * 9])
    shrink(odd, np.zeros(16), 1e-10)
    assert odd[0, :7].tolist() == [0, 0, 2e-10, 0, 0, 0, -3.0]
