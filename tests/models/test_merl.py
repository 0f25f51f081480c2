"""MERL's two towers: what each vector is made of, what is random, and what an encoder folder keeps of them."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from ecglm.models.encoder_files import load_encoder, read_encoder, save_encoder
from ecglm.models.encoders.base import build_encoder
from ecglm.models.merl import Merl
from ecglm.models.text_towers import text_tower

OPTIONS = {"depth": 18, "width": 4}
TEXTS = ["Sinus rhythm.", "atrial fibrillation, 120 bpm", ""]


def towers(name: str = "merl", seed: int = 0, **options) -> Merl:
    torch.manual_seed(seed)
    encoder = build_encoder(name, input_shape=(12, 500), options=options or OPTIONS)
    return Merl(encoder, text_tower("tiny", dim=16), dim=32)


def ecgs(number: int = 3) -> torch.Tensor:
    return torch.randn(number, 12, 500, generator=torch.Generator().manual_seed(3))


def test_outputs_are_what_their_names_say() -> None:
    model = towers().eval()
    with torch.no_grad():
        out = model(ecgs(), **model.lm_model.tokenize(TEXTS))
        assert {tuple(part.shape) for part in out} == {(3, 32)}
        torch.testing.assert_close(F.normalize(out.ecg, dim=-1), model.embed_ecg(ecgs()))
        torch.testing.assert_close(F.normalize(out.text, dim=-1), model.embed_text(TEXTS))
        mean = model.downconv(model.ecg_encoder(ecgs()).transpose(1, 2)).mean(dim=2)
        torch.testing.assert_close(out.view1, mean @ model.linear1.weight.T)  # no dropout in evaluation mode
        torch.testing.assert_close(out.view2, mean @ model.linear2.weight.T)


def test_the_two_views_differ_by_dropout_of_a_tenth() -> None:
    torch.manual_seed(5)
    model = towers().train()
    with torch.no_grad():
        out = model(ecgs(400), **model.lm_model.tokenize(["a"] * 400))
    for view in (out.view1, out.view2):
        assert abs(float((view == 0).float().mean()) - 0.1) < 0.01
    assert ((out.view1 == 0) != (out.view2 == 0)).any()


def test_every_weight_of_both_towers_gets_a_gradient() -> None:
    model = towers().train()
    out = model(ecgs(), **model.lm_model.tokenize(TEXTS))
    sum((part * torch.randn(part.shape)).sum() for part in out).backward()
    assert [n for n, w in model.named_parameters() if w.grad is None] == []


@pytest.mark.parametrize(
    "name, options", [("patch", {"size": "tiny"}), ("conv", {"dim": 16}), ("resnet1d", {"kernel": 3})]
)
def test_any_encoder_of_signals_can_stand_in_the_tower(name: str, options: dict) -> None:
    model = towers(name, **options).eval()
    with torch.no_grad():
        assert model.embed_ecg(ecgs()).norm(dim=1).allclose(torch.ones(3))
    assert model.att_pool_head.positional_embedding.shape[1] == model.encoder.num_tokens + 1


def test_a_token_knows_where_it_stands() -> None:
    pool, x = towers().att_pool_head, torch.randn(1, 32, 32)
    assert (pool(x) - pool(x.flip(1))).abs().max() > 1e-4


def test_heads_go_into_the_encoder_folder_and_come_back(tmp_path) -> None:
    first = towers().eval()
    save_encoder(
        tmp_path / "e", first.encoder, name="merl", options=OPTIONS, input_shape=(12, 500), extra=first.extra()
    )
    file = read_encoder(tmp_path / "e")
    second = Merl(load_encoder(file), text_tower("tiny", dim=16), dim=32).eval()
    missing, unexpected = second.load_state_dict(file.extra(), strict=False)
    assert not unexpected and all(name.startswith("ecg_encoder.") for name in missing)
    with torch.no_grad():
        assert torch.equal(first.embed_ecg(ecgs()), second.embed_ecg(ecgs()))
        assert torch.equal(first.embed_text(TEXTS), second.embed_text(TEXTS))


def test_a_frozen_text_tower_is_not_kept_and_does_not_move() -> None:
    model = towers()
    model.lm_model.frozen = True
    assert not any(name.startswith("lm_model.") for name in model.extra())
    model.train()
    assert model.training and not model.lm_model.training
    with pytest.raises(ValueError, match="without a text tower"):
        Merl(model.encoder, None).embed_text(["x"])
