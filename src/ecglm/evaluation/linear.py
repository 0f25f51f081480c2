"""Linear classifiers on frozen features: L2 logistic regression to its minimum, or MERL's protocol with Adam."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize
from torch.nn.functional import binary_cross_entropy_with_logits

from ecglm.evaluation.auroc import weighted_auroc

#: Strengths of the L2 penalty that the validation split chooses from, strongest first: of ties the strongest wins.
PENALTIES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)


def standardise(train: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """All of them by the training rows' mean and standard deviation, float64; a constant feature becomes 0."""
    train64 = train.astype(np.float64)
    mean, sd = train64.mean(axis=0), train64.std(axis=0)
    scale = np.where(sd > 1e-8 * max(1.0, float(np.abs(mean).max(initial=0.0))), sd, np.inf)
    return [(x.astype(np.float64) - mean) / scale for x in (train, *others)]


def fit_logistic(x: np.ndarray, y: np.ndarray, penalty: float, start: np.ndarray | None = None) -> np.ndarray:
    """Weights ``(dim + 1, num_classes)``, the bias last, of the least mean binary cross-entropy plus
    ``penalty / 2 · |weights|²`` per class (the bias is free); convex, by L-BFGS over all rows.
    """
    num_rows, dim = x.shape
    target = y.astype(np.float64)
    ones = np.concatenate([x, np.ones((num_rows, 1))], axis=1)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w = flat.reshape(dim + 1, -1)
        logits = ones @ w
        # log(1 + exp(z)) - y z, written so that no large z overflows
        value = np.logaddexp(0.0, logits) - target * logits
        share = 0.5 * (1 + np.tanh(0.5 * logits)) - target
        gradient = ones.T @ share / num_rows
        gradient[:-1] += penalty * w[:-1]
        return float(value.sum() / num_rows + 0.5 * penalty * (w[:-1] ** 2).sum()), gradient.reshape(-1)

    begin = np.zeros((dim + 1, y.shape[1])) if start is None else start
    found = minimize(loss, begin.reshape(-1), jac=True, method="L-BFGS-B", options={"maxiter": 500, "gtol": 1e-6})
    return found.x.reshape(dim + 1, -1)


def logistic_scores(
    train: tuple[np.ndarray, np.ndarray], val: tuple[np.ndarray, np.ndarray], test: np.ndarray
) -> tuple[np.ndarray, float]:
    """Scores of the test rows, and the penalty that had the best mean AUROC on the validation rows.

    train, val: features ``(num_rows, dim)`` and bool targets ``(num_rows, num_classes)``. Where no class can be judged
    on the validation rows the middle penalty is taken.
    """
    x, held, asked = standardise(train[0], val[0], test)
    weights: np.ndarray | None = None
    best: tuple[float, float, np.ndarray] | None = None
    middle = PENALTIES[len(PENALTIES) // 2]
    for penalty in PENALTIES:
        weights = fit_logistic(x, train[1], penalty, weights)
        reached = _mean_auroc(_apply(held, weights), val[1])
        reached = (1.0 if penalty == middle else 0.0) if reached is None else reached
        if best is None or reached > best[0] + 1e-9:
            best = (reached, penalty, weights)
    assert best is not None
    return _apply(asked, best[2]), best[1]


def adam_scores(train: tuple[np.ndarray, np.ndarray], test: np.ndarray, *, seed: int) -> np.ndarray:
    """Scores of the test rows by MERL's protocol (arXiv 2403.06659): one linear layer on the features as they are,
    Adam 1e-3 with weight decay 1e-4, a tenth of it from epoch 40, 100 epochs, batches of 16, binary cross-entropy.
    """
    x, y = torch.from_numpy(train[0]).float(), torch.from_numpy(train[1]).float()
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = torch.nn.Linear(x.shape[1], y.shape[1])
    optimiser = torch.optim.Adam(layer.parameters(), lr=1e-3, weight_decay=1e-4)
    for epoch in range(100):
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 if epoch < 40 else 1e-4
        for batch in torch.randperm(len(x), generator=generator).split(16):
            optimiser.zero_grad()
            binary_cross_entropy_with_logits(layer(x[batch]), y[batch]).backward()
            optimiser.step()
    with torch.inference_mode():
        return layer(torch.from_numpy(test).float()).double().numpy()


def _apply(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return x @ weights[:-1] + weights[-1]


def _mean_auroc(scores: np.ndarray, targets: np.ndarray) -> float | None:
    """Mean over the classes that have positive and negative rows; None without such a class."""
    rows, once = np.arange(len(targets)), np.ones((1, len(targets)), np.uint16)
    found = [
        float(weighted_auroc(scores[:, i], targets[:, i], rows, once)[0])
        for i in range(targets.shape[1])
        if targets[:, i].any() and not targets[:, i].all()
    ]
    return float(np.mean(found)) if found else None
