"""Contrastive losses: against loops, another library, and one process with the whole batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize
from transformers.models.clip.modeling_clip import image_text_contrastive_loss

from ecglm.training.objectives.contrastive import everyones, info_nce, same_text, shared, sigmoid_loss


def unit(n: int, dim: int, seed: int) -> torch.Tensor:
    return normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_info_nce_is_clips_loss_of_another_library():
    ecg, text = unit(7, 5, 0), unit(7, 5, 1)
    theirs = image_text_contrastive_loss(3.0 * text @ ecg.T)  # the mean of both directions' means
    assert info_nce(ecg, text, 3.0) / (2 * 7) == pytest.approx(float(theirs), abs=1e-6)


def test_merls_temperature_by_hand():
    """Two orthogonal pairs at temperature 0.07: log(1 + exp(-1/0.07)) for each row and direction."""
    eye = torch.eye(2)
    assert float(info_nce(eye, eye, 1 / 0.07)) == pytest.approx(4 * np.log1p(np.exp(-1 / 0.07)), abs=1e-6)


def test_sigmoid_loss_pair_by_pair():
    ecg, text, scale, bias = unit(5, 4, 0).double(), unit(5, 4, 1).double(), 10.0, -10.0
    by_hand = 0.0
    for i in range(5):
        for j in range(5):
            z = 1 if i == j else -1
            by_hand += np.log1p(np.exp(-z * (scale * float(ecg[i] @ text[j]) + bias)))
    assert float(sigmoid_loss(ecg, text, scale, bias)) == pytest.approx(by_hand)


def test_the_same_report_is_no_negative():
    """Rows 0 and 2 share a text: neither stands among the other's negatives, in both directions."""
    ecg, text = unit(3, 4, 0).double(), unit(3, 4, 1).double()
    text[2] = text[0]
    same = same_text(torch.tensor([4, 7, 4]))
    likeness = 5.0 * (ecg @ text.T).numpy()
    by_hand = 0.0
    for i, others in enumerate(([1], [0, 2], [1])):
        for row in (likeness[i], likeness[:, i]):
            by_hand += np.log(np.exp(row[[i, *others]]).sum()) - row[i]
    assert float(info_nce(ecg, text, 5.0, same)) == pytest.approx(by_hand)
    judged = [(i, j) for i in range(3) for j in range(3) if {i, j} != {0, 2}]
    pairs = sum(np.log1p(np.exp(-(1 if i == j else -1) * (likeness[i, j] - 1))) for i, j in judged)
    assert float(sigmoid_loss(ecg, text, 5.0, -1.0, same)) == pytest.approx(pairs)


def test_a_model_cannot_be_punished_for_equal_reports():
    """Perfect embeddings of a batch with the same report twice: left out the loss is nearly nothing, else log 2."""
    eye = torch.eye(2)[[0, 0, 1]]
    assert float(info_nce(eye, eye, 100.0, same_text(torch.tensor([0, 0, 1])))) == pytest.approx(0, abs=1e-6)
    assert float(info_nce(eye, eye, 100.0)) == pytest.approx(4 * np.log(2), abs=1e-5)


def test_alone_nothing_is_gathered_or_shared():
    x = torch.randn(3, 2, requires_grad=True)
    assert everyones(x)[0] is x
    assert shared(x, 1) is x


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> dict:
    """Gradients of two processes (gloo) and of one, for each objective: ``two_ranks.py``."""
    folder = tmp_path_factory.mktemp("ranks")
    script = Path(__file__).with_name("two_ranks.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, str(script), str(folder)], capture_output=True, text=True, env=environment, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "found.json").read_text())


@pytest.mark.parametrize("objective", ["merl", "clip", "siglip"])
@pytest.mark.parametrize("case", ["mean", "counted", "uneven"])
def test_two_ranks_are_one_process_with_the_whole_batch(ranks, objective, case):
    """Loss and every gradient, the learned temperature's and bias's too, to 1e-5; ranks of different size as well."""
    found = ranks[f"{objective}/{case}"]
    assert found["loss"] == pytest.approx(found["whole_loss"], rel=1e-5)
    assert found["largest_gradient"] > 1e-3
    assert found["largest_difference"] < 1e-5
    assert found["num_compared"] > 10
