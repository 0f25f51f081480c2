"""Released encoders: mapped by their own key names, equal to plain functions, and told apart from anything else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ecglm.cli import main
from ecglm.errors import EcglmError, StaleOutputError, UnsafeInputError
from ecglm.models.encoder_files import load_encoder, load_weights, read_encoder
from ecglm.models.encoders.base import build_encoder
from ecglm.models.encoders.masked import positions
from ecglm.models.imports import FORMATS, import_encoder, summary
from ecglm.models.merl import Merl
from ecglm.representations.base import build_representation
from ecglm.types import LEADS
from masked_reference import features, masked_loss, pooled, random_state, released_shapes

PATCH, NUM = 10, 16
#: kind → values per patch and patches, of a small model with the released names
SMALL = {"st-mem": (PATCH, NUM), "mtae": (12 * PATCH, NUM), "mlae": (PATCH * NUM, 12)}


def state_of(kind: str, *, whole: bool = True, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights of a small model as released: with fixed positions, as theirs."""
    patch, num = SMALL[kind]
    decoder = (64, 2) if whole else None
    state = random_state(released_shapes(kind, width=128, depth=4, patch=patch, num=num, decoder=decoder), seed)
    after = 1 if kind == "st-mem" else 0
    state["encoder.pos_embedding" if whole else "pos_embedding"] = positions(num, 128, 1, after)
    if whole:
        state["decoder_pos_embed"] = positions(num, 64, 1, after)
    return state


def saved(path: Path, value) -> Path:
    torch.save(value, path)
    return path


def own(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")} or state


def refusal(kind: str, state, tmp_path: Path, error: type[EcglmError] = EcglmError) -> str:
    with pytest.raises(error) as told:
        import_encoder(kind, saved(tmp_path / "bad.pth", state), tmp_path / "bad")
    assert "\n" not in str(told.value) and not (tmp_path / "bad").exists()
    return str(told.value)


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("whole", [True, False])
def test_features_of_an_import_are_those_of_plain_functions(tmp_path, kind, whole):
    state = state_of(kind, whole=whole)
    out, facts = import_encoder(kind, saved(tmp_path / "w.pth", {"model": state, "epoch": 7}), tmp_path / "e")
    encoder, x = load_encoder(out), torch.randn(2, 12, PATCH * NUM)
    samples = PATCH * NUM if kind == "mlae" else PATCH
    with torch.no_grad():
        for row, tokens, mean in zip(x, encoder(x), encoder.pooled(x), strict=True):
            torch.testing.assert_close(tokens, features(kind, own(state), row, samples), atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(mean, pooled(kind, own(state), row, samples), atol=1e-5, rtol=1e-5)
    found = read_encoder(out)
    assert found.input_shape == (12, PATCH * NUM)
    assert found.options == {"size": "tiny"} | ({} if kind == "mlae" else {"patch_size": PATCH})
    assert facts["ignored"] == {"beside the weights": 1}
    assert {p.suffix for p in out.iterdir()} == {".json", ".safetensors"}  # nothing pickled is kept


@pytest.mark.parametrize("kind", SMALL)
def test_the_decoder_comes_along_and_pretraining_can_go_on(tmp_path, kind):
    state = state_of(kind)
    out, _ = import_encoder(kind, saved(tmp_path / "w.pth", state), tmp_path / "e")
    found = read_encoder(out)
    model = load_encoder(out).masked_model()
    load_weights(model, {**{f"encoder.{k}": v for k, v in found.weights().items()}, **found.extra()}, "folder")
    noise = torch.rand(model.noise_shape(1))
    shown = [group.argsort()[: len(group) // 4].tolist() for group in noise[0]]
    x = torch.randn(1, 12, PATCH * NUM)
    with torch.no_grad():
        loss, _ = masked_loss(kind, state, x[0], PATCH * NUM if kind == "mlae" else PATCH, shown)
        torch.testing.assert_close(model(x, noise).loss, loss, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "patch", "num", "width"),
    [("st-mem", 75, 30, 768), ("st-mem", 75, 30, 384), ("mtae", 900, 30, 768), ("mlae", 2250, 12, 768)],
)
def test_the_released_sizes(tmp_path, kind, patch, num, width):
    state = random_state(released_shapes(kind, width=width, depth=12, patch=patch, num=num, decoder=(256, 4)))
    out, _ = import_encoder(kind, saved(tmp_path / "w.pth", {"model": state}), tmp_path / "e")
    x, encoder = torch.randn(12, 2250), load_encoder(out)
    with torch.no_grad():
        expected = features(kind, own(state), x, 2250 if kind == "mlae" else 75)
        torch.testing.assert_close(encoder(x[None])[0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("form", ["half", "module", "safetensors", "folder"])
def test_other_wrappings_give_the_same_encoder(tmp_path, form):
    state = state_of("mtae", whole=False)
    plain, _ = import_encoder("mtae", saved(tmp_path / "w.pth", state), tmp_path / "plain")
    source = tmp_path / "s" / "weights.pt"
    source.parent.mkdir()
    if form == "half":
        saved(source, {k: v.half() for k, v in state.items()})
    elif form == "module":
        saved(source, {"state_dict": {f"module.{k}": v for k, v in state.items()}})
    elif form == "safetensors":
        source = source.with_suffix(".safetensors")
        save_file(state, source)
    else:
        source = saved(source, state).parent
    other, _ = import_encoder("mtae", source, tmp_path / "other")
    tolerance = 2e-3 if form == "half" else 0
    for name, value in read_encoder(plain).weights().items():
        found = read_encoder(other).weights()[name]
        assert found.dtype == value.dtype
        torch.testing.assert_close(found, value, atol=tolerance, rtol=0)


@pytest.mark.parametrize("kind", ["st-mem", "mtae"])
def test_another_length_by_fixed_positions(tmp_path, kind):
    out, _ = import_encoder(kind, saved(tmp_path / "w.pth", state_of(kind)), tmp_path / "e")
    with torch.no_grad():
        encoder = load_encoder(out, (12, 20 * PATCH))
        assert encoder(torch.randn(1, 12, 20 * PATCH)).shape == (1, encoder.num_tokens, 128)
    with pytest.raises(EcglmError, match=r"prepare segments of 200 or 210 samples \(--seg-len\)"):
        load_encoder(out, (12, 205))


def test_mlae_is_for_one_length(tmp_path):
    out, _ = import_encoder("mlae", saved(tmp_path / "w.pth", state_of("mlae")), tmp_path / "e")
    with pytest.raises(EcglmError, match=r"for input of 12 x 160, not 12 x 200: prepare a store with segments of that"):
        load_encoder(out, (12, 200))


def test_learned_positions_stay_as_they_came_and_hold_for_their_length_alone(tmp_path):
    state = state_of("st-mem", whole=False)
    state["pos_embedding"] = torch.randn(1, NUM + 2, 128)
    out, _ = import_encoder("st-mem", saved(tmp_path / "w.pth", state), tmp_path / "e")
    assert torch.equal(load_encoder(out).pos_embedding, state["pos_embedding"])
    with pytest.raises(EcglmError, match="pos_embedding 1x18x128 instead of 1x22x128"):
        load_encoder(out, (12, 20 * PATCH))


# --- what does not fit


def test_missing_unexpected_and_misshapen_names_stand_in_one_line(tmp_path):
    state = state_of("st-mem", whole=False)
    del state["block2.ff.fn.net.0.bias"], state["sep_embedding"]
    state |= {"teacher.x": torch.zeros(1), "norm.weight": torch.zeros(64)}
    told = refusal("st-mem", state, tmp_path)
    assert "bad.pth: not the weights of a released st_mem: 2 missing (block2.ff.fn.net.0.bias, sep_embedding); " in told
    assert "1 unexpected (teacher.x); 1 of another shape (norm.weight 64 instead of 128)" in told


def test_half_a_decoder_is_refused(tmp_path):
    state = state_of("mtae")
    del state["decoder_head.bias"]
    assert "1 missing (decoder_head.bias)" in refusal("mtae", state, tmp_path)


def test_a_classifier_on_top_goes_beside_the_encoder(tmp_path):
    state = state_of("mtae", whole=False) | {"head.weight": torch.ones(5, 128), "head.bias": torch.ones(5)}
    out, _ = import_encoder("mtae", saved(tmp_path / "w.pth", state), tmp_path / "e")
    assert read_encoder(out).extra().keys() == {"head.weight", "head.bias"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s.update({"norm.bias": torch.full((128,), float("nan"))}), "norm.bias holds NaN or infinity"),
        (lambda s: s.pop("pos_embedding"), "no pos_embedding"),
        (lambda s: s.update({"pos_embedding": torch.zeros(1, 18, 100)}), "of width 100; known: tiny 128, small 384"),
        (lambda s: s.pop("lead_embeddings.11"), "weights for 11 leads; a released st_mem has 12"),
    ],
)
def test_weights_that_cannot_be_right(tmp_path, change, told):
    state = state_of("st-mem", whole=False)
    change(state)
    assert told in refusal("st-mem", state, tmp_path)


def test_a_shared_tensor_that_differs_is_refused(tmp_path):
    state = state_of("mlae")
    state["to_patch_embedding.2.bias"] = state["to_patch_embedding.2.bias"] + 1
    assert "to_patch_embedding.2.bias and encoder.to_patch_embedding.2.bias differ" in refusal("mlae", state, tmp_path)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("other", ["st-mem", "mtae", "mlae", "merl"])
def test_no_kind_passes_for_another(tmp_path, kind, other):
    if kind != other:
        state = merl_state() if other == "merl" else state_of(other)
        assert f"a released {kind.replace('-', '_')}" in refusal(kind, state, tmp_path)


def test_d25_a_malicious_checkpoint_is_refused(tmp_path):
    class Runs:
        def __reduce__(self):
            return (tmp_path / "ran").touch, ()

    told = refusal("st-mem", {"model": state_of("st-mem"), "args": Runs()}, tmp_path, UnsafeInputError)
    assert "refused" in told and not (tmp_path / "ran").exists()


# --- MERL


def merl_state(depth: int = 18, num_samples: int = 500) -> dict[str, torch.Tensor]:
    """Weights as released: heads, an unused classifier, a text model."""
    torch.manual_seed(1)
    encoder = build_encoder("merl", input_shape=(12, num_samples), options={"depth": depth})
    state = {k: v.clone() for k, v in Merl(encoder, None).state_dict().items()}
    for name in state:
        if name.endswith("running_mean"):
            state[name] = torch.randn_like(state[name]) * 0.1
    state |= {"ecg_encoder.linear.weight": torch.zeros(10, encoder.dim), "ecg_encoder.linear.bias": torch.zeros(10)}
    return state | {f"lm_model.encoder.layer.{i}.weight": torch.zeros(2) for i in range(4)}


def test_merl_s_heads_lie_beside_and_its_text_model_is_counted(tmp_path):
    state = merl_state()
    out, facts = import_encoder("merl", saved(tmp_path / "w.pth", state), tmp_path / "e")
    found = read_encoder(out)
    assert (found.name, found.options, found.input_shape) == ("merl", {"depth": 18}, (12, 500))
    assert facts["ignored"] == {"lm_model.*": 4, "ecg_encoder.linear.*": 2}
    assert found.weights().keys() == {k[12:] for k in state if k.startswith("ecg_encoder.") and ".linear." not in k}
    assert {"downconv.weight", "att_pool_head.cls_token", "linear1.weight", "proj_t.2.bias"} <= found.extra().keys()
    for name, tensor in {**{f"ecg_encoder.{k}": v for k, v in found.weights().items()}, **found.extra()}.items():
        assert torch.equal(tensor, state[name]), name
    with torch.no_grad():  # a convolution: any length
        assert load_encoder(out, (12, 1250))(torch.randn(1, 12, 1250)).shape == (1, 79, 512)


def test_merl_without_its_heads_or_of_another_depth(tmp_path):
    state = merl_state()
    told = refusal("merl", {k: v for k, v in state.items() if k != "linear2.weight"}, tmp_path)
    assert "1 missing (linear2.weight)" in told
    told = refusal("merl", {k: v for k, v in state.items() if not k.startswith("ecg_encoder.layer3.1.")}, tmp_path)
    assert "not the weights of a released merl" in told


# --- the folder, the facts, the verb


def test_what_the_input_must_be_is_recorded(tmp_path):
    out, facts = import_encoder("st-mem", saved(tmp_path / "w.pth", state_of("st-mem")), tmp_path / "e")
    expects = facts["expects"]
    assert (expects["rate"], expects["num_samples"], expects["normalise"]) == (250, 160, "record_zscore")
    assert expects["band_hz"] == [0.67, 40.0] and expects["leads"] == list(LEADS)
    shown = build_representation(read_encoder(out).representation, out)
    assert (shown.input_shape, shown.rate, shown.normalise) == ((12, 160), 250, "record_zscore")
    lines = summary(out, facts)
    assert any("250 Hz, band 0.67 to 40.0 Hz, normalised by record_zscore" in line for line in lines)
    assert any("--rate 250 --seg-len 160 --set preset=monitor" in line for line in lines)


def test_merl_learned_with_avf_before_avl(tmp_path):
    out, facts = import_encoder("merl", saved(tmp_path / "w.pth", merl_state()), tmp_path / "e")
    leads = facts["expects"]["leads"]
    assert leads[3:6] == ["aVR", "aVF", "aVL"] and sorted(leads) == sorted(LEADS)
    assert read_encoder(out).representation["leads"] == leads
    assert any("leads: [I, II, III, aVR, aVF, aVL, V1" in line for line in summary(out, facts))


def test_the_same_file_again_is_kept_and_another_is_not_laid_over_it(tmp_path):
    file, out = saved(tmp_path / "w.pth", state_of("mtae")), tmp_path / "e"
    import_encoder("mtae", file, out)
    before = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in out.iterdir()}
    import_encoder("mtae", file, out)
    assert {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in out.iterdir()} == before
    other = saved(tmp_path / "v.pth", state_of("mtae", seed=5))
    with pytest.raises(StaleOutputError, match="holds another encoder; use --overwrite"):
        import_encoder("mtae", other, out)
    import_encoder("mtae", other, out, overwrite=True)
    assert read_encoder(out).facts["imported_from"]["file"] == "v.pth"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(StaleOutputError, match="is no encoder folder; choose another --out"):
        import_encoder("mtae", other, tmp_path / "mine", overwrite=True)


def test_the_same_import_gives_the_same_bytes(tmp_path):
    file = saved(tmp_path / "w.pth", state_of("st-mem"))
    one, two = (import_encoder("st-mem", file, tmp_path / name)[0] for name in ("a", "b"))
    assert {p.name: p.read_bytes() for p in one.iterdir()} == {p.name: p.read_bytes() for p in two.iterdir()}


def test_the_verb(tmp_path, capsys):
    file = saved(tmp_path / "w.pth", merl_state())
    assert main(["import", "merl", str(file), "--out", str(tmp_path / "e")]) == 0
    said = capsys.readouterr().out
    assert "merl, depth 18: reads 12 leads x 500 samples" in said and "left out: 4 tensors lm_model.*" in said
    assert f"encoder: {tmp_path / 'e'}" in said
    assert main(["import", "mtae", str(file), "--out", str(tmp_path / "f")]) == 2
    assert "not the weights of a released mtae" in capsys.readouterr().err
    with pytest.raises(EcglmError, match=r"no released format 'st_mem' \(did you mean 'st-mem'\?\)"):
        import_encoder("st_mem", file, tmp_path / "g")
