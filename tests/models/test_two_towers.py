"""Two towers: retrieval against a full sort, the embedding space, and towers read back from an encoder folder."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from ecglm.errors import ConfigError
from ecglm.models.encoder_files import save_encoder
from ecglm.models.encoders.base import build_encoder
from ecglm.models.text_towers import text_tower
from ecglm.models.two_towers import TwoTowers, load_towers, retrieval


def made(seed: int = 0, bias: float | None = None) -> TwoTowers:
    torch.manual_seed(seed)
    encoder = build_encoder("resnet1d", input_shape=(2, 64), options={"widths": [8, 8]})
    return TwoTowers(encoder, text_tower("tiny", dim=16, num_heads=2), dim=12, bias=bias).eval()


def test_embeddings_have_length_one_and_forward_gives_the_same():
    towers, ecg = made(bias=-10.0), torch.randn(3, 2, 64)
    texts = ["sinus rhythm", "atrial fibrillation", "paced"]
    with torch.no_grad():
        found = towers(ecg, **towers.text.tokenize(texts))
        assert torch.allclose(found.ecg, towers.embed_ecg(ecg)) and torch.allclose(found.text, towers.embed_text(texts))
    assert found.ecg.norm(dim=1) == pytest.approx(torch.ones(3).numpy(), abs=1e-6)
    assert float(found.scale) == pytest.approx(1 / 0.07, rel=1e-5)
    assert float(found.bias) == -10.0


def test_the_scale_is_held_below_a_hundred():
    towers = made()
    with torch.no_grad():
        towers.logit_scale.fill_(9.0)
        assert float(towers(torch.randn(1, 2, 64), **towers.text.tokenize(["a"])).scale) == 100.0


def by_sorting(ecg: np.ndarray, text: np.ndarray, ids: list[int], k: int) -> tuple[float, float]:
    texts = sorted(set(ids))
    likeness = np.array([[e @ text[ids.index(t)] for t in texts] for e in ecg])
    first = [t in [texts[j] for j in np.argsort(-likeness[i])[:k]] for i, t in enumerate(ids)]
    second = [t in [ids[i] for i in np.argsort(-likeness[:, j])[:k]] for j, t in enumerate(texts)]
    return float(np.mean(first)), float(np.mean(second))


@pytest.mark.parametrize("k", [1, 2, 5])
def test_retrieval_is_what_sorting_finds(k):
    ids = [0, 1, 2, 1, 4, 5, 6, 4, 4, 9]
    generator = torch.Generator().manual_seed(k)
    text = normalize(torch.randn(10, 4, generator=generator), dim=1)[ids].double()  # equal texts, equal embeddings
    ecg = normalize(text + 0.8 * torch.randn(10, 4, generator=generator), dim=1).double()
    found = retrieval(ecg, text, torch.tensor(ids), ks=(k,))
    expected = by_sorting(ecg.numpy(), text.numpy(), ids, k)
    assert (found[f"ecg_to_text@{k}"], found[f"text_to_ecg@{k}"]) == pytest.approx(expected)
    assert found["num_texts"] == 7


def test_chance_by_trying_every_order():
    """Of 4 ECGs with 3 texts: all 24 orders of the ECGs for a text, and all 6 of the texts for an ECG."""
    ids = [0, 0, 1, 2]
    orders = list(itertools.permutations(range(4)))
    hits = [np.mean([any(ids[i] == t for i in order[:2]) for order in orders]) for t in (0, 1, 2)]
    found = retrieval(torch.eye(4), torch.eye(4)[[0, 0, 2, 3]], torch.tensor(ids), ks=(2,))
    assert found["text_to_ecg@2 by chance"] == pytest.approx(np.mean(hits))
    assert found["ecg_to_text@2 by chance"] == pytest.approx(2 / 3)


def test_a_model_that_says_the_same_of_everything_finds_nothing():
    """Ties count against: constant embeddings would else be right every time."""
    constant = normalize(torch.ones(6, 3), dim=1)
    found = retrieval(constant, constant, torch.arange(6))
    assert found["ecg_to_text@1"] == found["text_to_ecg@1"] == found["ecg_to_text@5"] == 0


def test_more_than_there_is_finds_all():
    found = retrieval(torch.eye(3), torch.eye(3), torch.arange(3))
    assert all(found[k] == 1 for k in found if "@" in k and not (k.endswith("chance") and "@1" in k))


def test_towers_come_back_from_their_folder(tmp_path):
    towers = made(seed=3)
    facts = {"towers": "two", "text": towers.text.config(), "dim": 12, "temperature": 0.07, "bias": None}
    save_encoder(
        tmp_path / "e",
        towers.encoder,
        name="resnet1d",
        options={"widths": [8, 8]},
        input_shape=(2, 64),
        extra=towers.extra(),
        facts=facts,
    )
    again, random = load_towers(tmp_path / "e"), load_towers(tmp_path / "e", weights=False, seed=5)
    ecg = torch.randn(2, 2, 64)
    with torch.no_grad():
        assert torch.equal(again.embed_ecg(ecg), towers.embed_ecg(ecg))
        assert torch.equal(again.embed_text(["a b"]), towers.embed_text(["a b"]))
        assert not torch.allclose(random.embed_ecg(ecg), towers.embed_ecg(ecg))


def test_an_encoder_without_texts_has_no_towers(tmp_path):
    save_encoder(tmp_path / "e", made().encoder, name="resnet1d", options={"widths": [8, 8]}, input_shape=(2, 64))
    with pytest.raises(ConfigError, match="pretrained without texts"):
        load_towers(tmp_path / "e")
