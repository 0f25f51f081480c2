"""What every registered encoder promises, each at its smallest: a new one is tested here or this file fails."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ecglm import registry
from ecglm.errors import ConfigError
from ecglm.models.encoders.base import build_encoder, reads

SIGNAL = (12, 500)
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
PICTURE = {"config": {**TOWER, "image_size": 64, "patch_size": 16}}
TINY = {"size": "tiny"}
#: Encoder → shape of what it reads, options at its smallest, tokens and width by the papers' arithmetic.
CASES: dict[str, tuple[tuple[int, ...], dict[str, Any], int, int]] = {
    "resnet1d": (SIGNAL, {"widths": [8, 16], "kernel": 3}, 63, 16),  # 500 / 2 / 2 / 2
    "merl": (SIGNAL, {"width": 4}, 32, 32),  # 500 / 16, 8 x 4
    "st_mem": (SIGNAL, TINY, 12 * 25, 128),  # 25 patches of 20 samples per lead
    "mtae": (SIGNAL, TINY, 25, 128),
    "mlae": (SIGNAL, TINY, 12, 128),
    "patch": (SIGNAL, TINY, 25, 128),
    "linear": (SIGNAL, {}, 25, 240),  # 20 samples of 12 leads
    "base": (SIGNAL, {}, 1, 6000),
    "conv": (SIGNAL, {"dim": 16}, 25, 16),
    "random": (SIGNAL, {"of": "merl", "options": {"width": 4}}, 32, 32),
    "vit": ((3, 64, 64), PICTURE, 16, 32),
    "clip": ((3, 64, 64), PICTURE, 16, 32),
    "siglip": ((3, 64, 64), PICTURE, 16, 32),
    "siglip2": ((3, 64, 64), {"config": {**TOWER, "num_patches": 16, "patch_size": 16}}, 16, 32),
}
#: Those that read neither a signal nor a picture have their own file.
OTHERS = {"signal2vec"}
SIGNALS = sorted(name for name, case in CASES.items() if len(case[0]) == 2)


def built(name: str, seed: int = 0) -> Any:
    shape, options, _, _ = CASES[name]
    torch.manual_seed(seed)
    return build_encoder(name, input_shape=shape, options=options).eval()


def shown(name: str, number: int = 3) -> torch.Tensor:
    shape = CASES[name][0]
    generator = torch.Generator().manual_seed(1)
    if len(shape) == 3:
        return torch.randint(0, 256, (number, *shape), dtype=torch.uint8, generator=generator)
    return 0.3 * torch.randn(number, *shape, generator=generator)


def learns(encoder: torch.nn.Module) -> bool:
    return not getattr(encoder, "frozen", False)


def test_every_encoder_of_the_package_stands_here() -> None:
    ours = {n for n in registry.names("encoders") if registry.get("encoders", n).__module__.startswith("ecglm.")}
    assert ours == CASES.keys() | OTHERS
    assert {n for n in ours if reads(n) not in ("signal", "image")} == OTHERS


@pytest.mark.parametrize("name", CASES)
def test_tokens_and_width_are_known_before_a_batch_and_then_true(name: str) -> None:
    encoder = built(name)
    _, _, num_tokens, dim = CASES[name]
    assert (encoder.num_tokens, encoder.dim) == (num_tokens, dim)
    with torch.no_grad():
        tokens = encoder(shown(name))
    assert tokens.shape == (3, num_tokens, dim) and tokens.dtype == torch.float32
    assert tokens.isfinite().all()


@pytest.mark.parametrize("name", CASES)
def test_d08_features_are_the_same_twice_and_do_not_know_the_others_of_the_batch(name: str) -> None:
    encoder, x = built(name), shown(name)
    with torch.no_grad():
        together = encoder(x)
        torch.manual_seed(99)  # nothing is drawn at extraction
        assert torch.equal(together, encoder(x))
        other = x.clone()
        other[1:] = shown(name, 5)[3:]
        torch.testing.assert_close(encoder(other)[:1], together[:1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(encoder(x[:1]), together[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_every_weight_learns_or_none_does(name: str) -> None:
    encoder = built(name).train()
    weights = dict(encoder.named_parameters())
    if not learns(encoder):
        assert not any(w.requires_grad for w in weights.values())
        return
    tokens = encoder(shown(name))
    (tokens * torch.randn(tokens.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    if name == "clip":  # the norm behind its last layer: features come from the layer before
        weights = {n: w for n, w in weights.items() if "post_layernorm" not in n}
    assert [n for n, w in weights.items() if w.grad is None or not w.grad.isfinite().all()] == []
    still = [n for n, w in weights.items() if not w.grad.any()]
    assert [n for n in still if not n.endswith("k_proj.bias")] == []  # a key's bias cancels in the softmax


@pytest.mark.parametrize("name", CASES)
def test_weights_come_back_from_safetensors(name: str, tmp_path) -> None:
    first, second = built(name, seed=0), built(name, seed=1)
    with torch.no_grad():
        for value in first.state_dict().values():  # far from how it begins, statistics and buffers too
            if value.is_floating_point() and value.dim() and value.abs().sum() > 0:
                value.mul_(1 + 0.1 * torch.rand_like(value))
    state = {k: v.contiguous() for k, v in first.state_dict().items()}
    if state:  # an encoder without weights has nothing to keep
        save_file(state, tmp_path / "encoder.safetensors")
        second.load_state_dict(load_file(tmp_path / "encoder.safetensors"))
    with torch.no_grad():
        assert torch.equal(first(shown(name)), second(shown(name)))


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("lead, at", [(0, 0), (5, 249), (11, 499)])
def test_d09_an_impulse_anywhere_changes_the_features(name: str, lead: int, at: int) -> None:
    encoder, x = built(name), shown(name, 1)
    moved = x.clone()
    moved[0, lead, at] += 1.0
    with torch.no_grad():
        assert (encoder(moved) - encoder(x)).abs().max() > 1e-4


@pytest.mark.parametrize("name", CASES)
def test_what_it_cannot_read_is_told_in_one_line(name: str) -> None:
    shape, options, _, _ = CASES[name]
    wrong: list[tuple[tuple[int, ...], dict[str, Any]]] = [(shape, {**options, "no_such_option": 1})]
    if len(shape) == 2:
        wrong += [((3, 64, 64), options)]
        wrong += [] if name in ("base", "mlae") else [((12, 7), options)]  # those read any length
    else:
        wrong += [((3, 48, 64), options)]
    for bad_shape, bad_options in wrong:
        with pytest.raises(ConfigError) as error:
            build_encoder(name, input_shape=bad_shape, options=bad_options)
        told = str(error.value)
        assert "\n" not in told and (f"'{name}'" in told or f"'{options.get('of')}'" in told)
