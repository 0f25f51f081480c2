"""Linear classifiers: the minimum is one, features are standardised by training rows, the penalty is chosen."""

from __future__ import annotations

import numpy as np
import pytest

from ecglm.evaluation.linear import PENALTIES, adam_scores, fit_logistic, logistic_scores, standardise


def made(seed: int, rows: int = 120, dim: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, dim))
    truth = np.random.default_rng(99).normal(size=(dim, 2))
    return x, x @ truth + rng.normal(size=(rows, 2)) > 0


@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_gradient_is_zero_where_it_ends(penalty):
    x, y = made(0)
    w = fit_logistic(x, y, penalty)
    residual = 1 / (1 + np.exp(-(x @ w[:-1] + w[-1]))) - y
    assert x.T @ residual / len(x) + penalty * w[:-1] == pytest.approx(np.zeros((6, 2)), abs=2e-5)
    assert residual.mean(axis=0) == pytest.approx([0, 0], abs=2e-5)  # a free bias: predicted share is the true share


def test_without_features_the_bias_is_the_log_odds():
    y = np.array([[True]] * 3 + [[False]] * 9)
    assert fit_logistic(np.zeros((12, 1)), y, 0.1)[-1, 0] == pytest.approx(np.log(3 / 9), abs=1e-4)


def test_large_values_do_not_overflow():
    x = np.array([[1e4], [-1e4], [2e4], [-2e4]])
    with np.errstate(over="raise"):
        w = fit_logistic(x, x > 0, 1e-4)
    assert np.isfinite(w).all() and w[0, 0] > 0


def test_standardised_by_training_rows_and_a_constant_feature_is_nothing():
    train = np.array([[1.0, 5.0], [3.0, 5.0]], np.float32)
    a, b = standardise(train, np.array([[5.0, 9.0]], np.float32))
    assert a.tolist() == [[-1, 0], [1, 0]]
    assert b.tolist() == [[3, 0]]


def test_the_penalty_is_chosen_on_validation_rows():
    x, y = made(1, rows=30, dim=6)
    noise = np.random.default_rng(5).normal(size=(30, 200))  # many useless features want a strong penalty
    held_x, held_y = made(2, rows=200)
    held = np.concatenate([held_x, np.random.default_rng(6).normal(size=(200, 200))], axis=1)
    scores, penalty = logistic_scores((np.concatenate([x, noise], 1), y), (held, held_y), held)
    assert scores.shape == (200, 2) and penalty >= 1e-2
    none = (np.zeros((0, 6)), np.zeros((0, 2), bool))
    assert logistic_scores((x, y), none, x)[1] == PENALTIES[2]  # nothing to choose by: the middle one


def test_adam_learns_and_is_seeded():
    x, y = made(3, rows=200)
    test_x, test_y = made(4)
    first = adam_scores((x, y), test_x, seed=0)
    assert ((first > 0) == test_y).mean() > 0.75
    assert (first == adam_scores((x, y), test_x, seed=0)).all()
    assert (first != adam_scores((x, y), test_x, seed=1)).any()
