"""LoRA: what it adds by its formula, what learns and what stands still to the bit, and plain checkpoints from it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import AutoModelForCausalLM, GemmaConfig, GemmaForCausalLM, LlamaConfig, LlamaForCausalLM

from ecglm.errors import ConfigError, EcglmError
from ecglm.models.adapters import (
    LoraConfig,
    NewInputRows,
    NewOutputRows,
    adapter_weights,
    add_lora,
    freeze_base,
    is_adapted,
    load_adapter,
    lora_targets,
    plain_llm,
    save_adapter,
)
from ecglm.models.elm import Elm
from ecglm.models.llm import add_ecg_tokens, load_llm

FAMILIES = ("gpt2", "opt", "qwen2")
SYMBOLS = ["signal_97", "signal_98", "<lead_I>"]
#: The projections that models_and_training §6 names: q, k, v, o, gate, up, down; GPT-2 has its own names.
LLAMA_LIKE = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
LAYERS = {
    "gpt2": {"c_attn", "c_proj", "c_fc"},
    "opt": {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"},
    "qwen2": LLAMA_LIKE,
    "llama": LLAMA_LIKE,
    "gemma": LLAMA_LIKE,
}


@pytest.fixture
def llm(request, llm_folders: dict[str, Path]) -> tuple[Any, list[int]]:
    """A small pretrained model with three symbol tokens, and their ids."""
    model, tokenizer = load_llm(str(llm_folders[request.param]))
    add_ecg_tokens(model, tokenizer, SYMBOLS, seed=1)
    return model.eval(), tokenizer.convert_tokens_to_ids(SYMBOLS)


def batch(model: Any, new_ids: list[int]) -> torch.Tensor:
    """Token ids ``(3, 12)``, symbols among them."""
    ids = torch.randint(0, model.config.vocab_size, (3, 12), generator=torch.Generator().manual_seed(0))
    ids[:, 2:8] = torch.tensor(new_ids * 2)
    return ids


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model(ids).logits


def learn(model: Any, ids: torch.Tensor, steps: int = 3) -> dict[str, torch.Tensor]:
    """Some steps on the batch itself; the gradients of the last one by name."""
    model.train()
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=5e-3, weight_decay=0.1)  # decay would move what must stand still
    for _ in range(steps):
        optimizer.zero_grad()
        functional.cross_entropy(model(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()
    return {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


def small(family: str) -> Any:
    kind, config = {"llama": (LlamaForCausalLM, LlamaConfig), "gemma": (GemmaForCausalLM, GemmaConfig)}[family]
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    return kind(config(vocab_size=60, num_key_value_heads=1, head_dim=16, **sizes))


@pytest.mark.parametrize("family", LAYERS)
def test_the_layers_adapted_are_those_of_the_family(family: str, llm_folders) -> None:
    model = load_llm(str(llm_folders[family]))[0] if family in FAMILIES else small(family)
    found = lora_targets(model)
    assert {name.rpartition(".")[2] for name in found} == LAYERS[family]
    per_layer = {"gpt2": 4, "opt": 6}.get(family, 7)  # GPT-2: c_proj stands in attention and in the MLP
    assert len(found) == 2 * per_layer
    chosen = sorted(LAYERS[family])[:1]
    assert {n.rpartition(".")[2] for n in lora_targets(model, chosen)} == set(chosen)


def test_a_target_that_is_not_there_is_told_with_what_is(llm_folders) -> None:
    model, _ = load_llm(str(llm_folders["qwen2"]))
    with pytest.raises(ConfigError, match=r"targets: no layer 'q_prj' \(did you mean 'q_proj'\?\).*up_proj"):
        add_lora(model, LoraConfig(targets=("v_proj", "q_prj")), [], seed=0)
    assert not is_adapted(model)
    for name in ("lm_head", "embed_tokens"):  # never an embedding or the output
        with pytest.raises(ConfigError, match=name):
            lora_targets(model, [name])


@pytest.mark.parametrize(
    "wrong, told", [({"rank": 0}, "rank"), ({"alpha": 0.0}, "alpha"), ({"dropout": 1.0}, "dropout")]
)
def test_options_that_make_no_sense(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=rf"model\.lora\.{told}"):
        LoraConfig(**wrong)


@pytest.mark.parametrize("llm", FAMILIES, indirect=True)
def test_at_first_it_changes_nothing_and_leaves_the_global_generator_alone(llm) -> None:
    model, new = llm
    ids = batch(model, new)
    before = logits(model, ids)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    add_lora(model, LoraConfig(train_new_embeddings="input_output"), new, seed=0)
    assert torch.equal(torch.rand(3), expected)
    torch.testing.assert_close(logits(model, ids), before, rtol=0, atol=1e-6)


def test_the_adapter_is_its_formula(llm_folders) -> None:
    """W x + alpha / rank · B A x, with A and B made up here (arXiv 2106.09685, eq. 3)."""
    model, _ = load_llm(str(llm_folders["qwen2"]))
    layer = "model.layers.0.mlp.up_proj"
    base = model.get_submodule(layer).weight.detach().clone()
    add_lora(model, LoraConfig(rank=2, alpha=6.0, targets=("up_proj",)), [], seed=0)
    adapted = dict(adapter_weights(model))
    a, b = (adapted[f"{layer}.lora_{m}.default.weight"] for m in "AB")
    assert a.shape == (2, 32) and b.shape == (64, 2) and bool((b == 0).all()) and not bool((a == 0).any())
    with torch.no_grad():
        a.copy_(torch.arange(64.0).reshape(2, 32) / 100)
        b.copy_(torch.arange(128.0).reshape(64, 2) / 50 - 1)
    x = torch.linspace(-1, 1, 32)[None]
    expected = x @ base.T + 3.0 * (x @ a.T) @ b.T
    model.eval()
    torch.testing.assert_close(model.get_submodule(layer)(x), expected, rtol=1e-5, atol=1e-5)
    merged = plain_llm(model).get_submodule(layer).weight
    torch.testing.assert_close(merged, base + 3.0 * b @ a, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_dora_is_its_formula(family: str, llm_folders) -> None:
    """m · (W + ΔW) / ‖W + ΔW‖ for each output (arXiv 2402.09353, eq. 5); GPT-2 keeps its weights transposed."""
    model, _ = load_llm(str(llm_folders[family]))
    layer = {"qwen2": "model.layers.0.mlp.up_proj", "gpt2": "transformer.h.0.mlp.c_fc"}[family]
    base = model.get_submodule(layer).weight.detach().clone()
    base = base if family == "qwen2" else base.T
    bias = getattr(model.get_submodule(layer), "bias", None)
    add_lora(model, LoraConfig(rank=2, alpha=6.0, targets=(layer.rpartition(".")[2],), dora=True), [], seed=0)
    adapted = dict(adapter_weights(model))
    a, b, m = (adapted[f"{layer}.lora_{n}.default.weight"] for n in ("A", "B", "magnitude_vector"))
    torch.testing.assert_close(m.flatten(), base.norm(dim=1))  # so that it begins as the layer itself
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in (a, b):
            weight.copy_(torch.randn(weight.shape, generator=generator))
        m.mul_(torch.linspace(0.5, 2, m.numel()).reshape(m.shape))
    whole = base + 3.0 * b.detach() @ a.detach()
    wanted = m.detach().reshape(-1, 1) * whole / whole.norm(dim=1, keepdim=True)
    x = torch.randn(3, base.shape[1], generator=generator)
    model.eval()
    found = model.get_submodule(layer)(x)
    torch.testing.assert_close(found, x @ wanted.T + (0 if bias is None else bias), rtol=1e-4, atol=1e-4)
    merged = plain_llm(model).get_submodule(layer).weight
    torch.testing.assert_close(merged if family == "qwen2" else merged.T, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("llm", FAMILIES, indirect=True)
def test_dora_begins_as_the_llm_learns_and_merges(llm, tmp_path: Path) -> None:
    model, new = llm
    ids = batch(model, new)
    before = logits(model, ids)
    add_lora(model, LoraConfig(rank=2, dropout=0.0, dora=True), new, seed=0)
    torch.testing.assert_close(logits(model, ids), before, rtol=0, atol=1e-4)
    start = {n: w.detach().clone() for n, w in adapter_weights(model)}
    assert any("magnitude" in n for n in start)
    learn(model, ids)
    assert all(not torch.equal(w, start[n]) for n, w in adapter_weights(model))
    wanted = logits(model, ids)
    plain_llm(model).save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, use_safetensors=True)
    torch.testing.assert_close(logits(loaded, ids), wanted, rtol=0, atol=1e-4)


def test_rank_stabilised_scales_by_the_root_of_the_rank(llm_folders) -> None:
    """alpha / √rank (arXiv 2312.03732)."""
    model, _ = load_llm(str(llm_folders["qwen2"]))
    add_lora(model, LoraConfig(rank=4, alpha=6.0, rank_stabilised=True, targets=("up_proj",)), [], seed=0)
    layer = "model.layers.0.mlp.up_proj"
    base = model.get_submodule(layer).base_layer.weight
    a, b = (dict(adapter_weights(model))[f"{layer}.lora_{m}.default.weight"] for m in "AB")
    with torch.no_grad():
        b.copy_(torch.linspace(-1, 1, b.numel()).reshape(b.shape))
    torch.testing.assert_close(plain_llm(model).get_submodule(layer).weight, base + 3.0 * b @ a)


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_of_half_precision_weights_learn_in_single(family: str, dora: bool, llm_folders, tmp_path) -> None:
    model, tokenizer = load_llm(str(llm_folders[family]), dtype="bfloat16")
    add_ecg_tokens(model, tokenizer, SYMBOLS, seed=1)
    new = tokenizer.convert_tokens_to_ids(SYMBOLS)
    add_lora(model, LoraConfig(rank=2, dora=dora, train_new_embeddings="input_output"), new, seed=0)
    assert {w.dtype for _, w in adapter_weights(model)} == {torch.float32}
    gradients = learn(model, batch(model, new))
    assert all(g is not None and bool(g.isfinite().all()) for g in gradients.values())
    ids = batch(model, new)
    plain_llm(model).save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto", use_safetensors=True)
    assert {p.dtype for p in plain.parameters()} == {torch.bfloat16}
    wanted = logits(model, ids).float()
    assert (logits(plain, ids).float() - wanted).abs().mean() < 0.05 * wanted.std()


def test_dora_and_adapters_of_the_ecgs_places_alone_do_not_go_together() -> None:
    with pytest.raises(ValueError, match=r"model\.lora\.dora.*drop one"):
        LoraConfig(dora=True, where="ecg")


@pytest.mark.parametrize("llm", ["gpt2", "opt"], indirect=True)
def test_full_training_keeps_a_tied_table_one(llm, tmp_path: Path) -> None:
    model, new = llm
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    learn(model, batch(model, new))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    wanted = logits(model, batch(model, new))
    plain_llm(model).save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, use_safetensors=True)
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    torch.testing.assert_close(logits(loaded, batch(model, new)), wanted, rtol=0, atol=1e-5)


def test_a_seed_decides_the_adapter(llm_folders) -> None:
    found = []
    for seed in (1, 1, 2):
        model, _ = load_llm(str(llm_folders["gpt2"]))
        add_lora(model, LoraConfig(rank=2), [], seed=seed)
        found.append(next(w for n, w in adapter_weights(model) if "lora_A" in n))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


@pytest.mark.parametrize("scale", [None, 3.0])
def test_new_rows_are_the_table_with_these_rows_replaced(scale: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    table, rows, ids = torch.randn(9, 4, generator=generator), torch.randn(3, 4, generator=generator), [2, 7, 3]
    whole = table.clone()
    whole[ids] = rows
    embedding = torch.nn.Embedding.from_pretrained(table)
    if scale is not None:  # as Gemma 3's embedding layer

        class Scaled(torch.nn.Embedding):
            embed_scale = torch.tensor(scale)

            def forward(self, input: torch.Tensor) -> torch.Tensor:
                return super().forward(input) * self.embed_scale

        embedding = Scaled(9, 4, _weight=table)
    asked = torch.tensor([[2, 2, 0, 7], [8, 3, 1, 5]])
    layer = NewInputRows(embedding, torch.tensor(ids), torch.nn.Parameter(rows))
    assert torch.equal(layer(asked), whole[asked] * (scale or 1.0))
    assert torch.equal(layer.weight, whole)
    head = torch.nn.Linear(4, 9)
    with torch.no_grad():
        head.weight.copy_(table)
    hidden = torch.randn(2, 5, 4, generator=generator)
    out = NewOutputRows(head, torch.tensor(ids), torch.nn.Parameter(rows))
    torch.testing.assert_close(out(hidden), hidden @ whole.T + head.bias, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("train", ["none", "input", "input_output"])
@pytest.mark.parametrize("llm", FAMILIES, indirect=True)
def test_only_adapters_and_the_chosen_new_rows_learn(llm, train: str) -> None:
    model, new = llm
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    before = {k: v.clone() for k, v in model.state_dict().items()}
    old_logits = logits(model, batch(model, new))
    add_lora(model, LoraConfig(rank=2, dropout=0.0, train_new_embeddings=train), new, seed=0)
    start = {n: w.detach().clone() for n, w in adapter_weights(model)}
    gradients = learn(model, batch(model, new))
    assert gradients.keys() == start.keys()
    for name, weight in adapter_weights(model):
        assert gradients[name].abs().max() > 0 and not torch.equal(weight, start[name]), name
    rows = [n for n in start if n.endswith(".rows")]
    assert len(rows) == {"none": 0, "input": 1, "input_output": 1 if tied else 2}[train]
    # Underneath nothing has moved, to the bit.
    for name, weight in model.state_dict().items():
        if name not in start and not name.endswith(".rows") and ".lora_" not in name:
            assert torch.equal(weight, before[name.replace(".base_layer", "")]), name
    # What a user gets: the old rows to the bit, new ones where they should, other layers' weights by the adapters.
    plain = plain_llm(model)
    tables = {
        "input": (plain.get_input_embeddings().weight, _of(before, plain, plain.get_input_embeddings())),
        "output": (plain.get_output_embeddings().weight, _of(before, plain, plain.get_output_embeddings())),
    }
    moving = {"none": set(), "input": {"input"}, "input_output": {"input", "output"}}[train]
    if tied and moving:
        moving = {"input", "output"}
    for which, (now, then) in tables.items():
        old = [i for i in range(len(then)) if i not in new]
        assert torch.equal(now[old], then[old]), which
        assert bool((now[new] != then[new]).any(dim=1).all()) is (which in moving), which
    assert not torch.equal(logits(model, batch(model, new)), old_logits)


def _of(state: dict[str, torch.Tensor], model: Any, layer: torch.nn.Module) -> torch.Tensor:
    name = next(n for n, m in model.named_modules() if m is layer)
    return state[f"{name}.weight"]


@pytest.mark.parametrize("train", ["none", "input", "input_output"])
@pytest.mark.parametrize("llm", FAMILIES, indirect=True)
def test_merged_it_is_a_plain_model_of_equal_logits(llm, train: str, tmp_path: Path) -> None:
    model, new = llm
    family, tied = type(model), model.config.tie_word_embeddings
    names = set(model.state_dict())
    add_lora(model, LoraConfig(rank=4, train_new_embeddings=train), new, seed=0)
    ids = batch(model, new)
    learn(model, ids)
    wanted, weights = logits(model, ids), {k: v.clone() for k, v in model.state_dict().items()}
    plain_llm(model).save_pretrained(tmp_path)
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".safetensors"}
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, use_safetensors=True)
    assert type(loaded) is family and set(loaded.state_dict()) == names and loaded.config.tie_word_embeddings is tied
    torch.testing.assert_close(logits(loaded, ids), wanted, rtol=0, atol=1e-5)
    # saving took nothing from the one that goes on learning
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert torch.equal(logits(model, ids), wanted)
    assert plain_llm(loaded) is loaded


@pytest.mark.parametrize("llm", ["gpt2"], indirect=True)
def test_generation_goes_through_the_new_rows(llm) -> None:
    """Greedy text from the adapted model and from its plain copy, symbols in the prompt."""
    model, new = llm
    add_lora(model, LoraConfig(rank=4, train_new_embeddings="input_output"), new, seed=0)
    ids = batch(model, new)
    learn(model, ids, steps=10)
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    ours = model.eval().generate(ids, **options)
    theirs = AutoModelForCausalLM.from_config(model.config)
    theirs.load_state_dict(plain_llm(model).state_dict())
    assert torch.equal(ours, theirs.eval().generate(ids, **options))


@pytest.mark.parametrize("llm", ["gpt2", "qwen2"], indirect=True)
def test_the_adapter_alone_goes_to_disk_and_back(llm, llm_folders, tmp_path: Path) -> None:
    model, new = llm
    config = LoraConfig(rank=2, train_new_embeddings="input_output")
    add_lora(model, config, new, seed=0)
    ids = batch(model, new)
    learn(model, ids)
    save_adapter(model, tmp_path)
    stored = load_file(tmp_path / "adapter.safetensors")
    assert stored.keys() == {n for n, _ in adapter_weights(model)}
    assert sum(v.numel() for v in stored.values()) < 0.5 * sum(p.numel() for p in model.parameters())

    def fresh() -> Any:
        family = "gpt2" if type(model).__name__.startswith("GPT2") else "qwen2"
        other, tokenizer = load_llm(str(llm_folders[family]))
        add_ecg_tokens(other, tokenizer, SYMBOLS, seed=1)
        return other

    again = fresh()
    add_lora(again, config, new, seed=9)  # another start, to be replaced
    load_adapter(again, tmp_path)
    assert torch.equal(logits(again, ids), logits(model, ids))
    other = fresh()
    with torch.no_grad():
        next(p for n, p in other.named_parameters() if ".1." in n).mul_(1.5)
    add_lora(other, config, new, seed=0)
    with pytest.raises(EcglmError, match="LLM has changed"):
        load_adapter(other, tmp_path)


def test_an_elm_lets_the_adapter_learn_and_nothing_below(llm_folders) -> None:
    model, tokenizer = load_llm(str(llm_folders["gpt2"]))
    add_ecg_tokens(model, tokenizer, ["<ecg_token>"], seed=1)
    add_lora(model, LoraConfig(rank=2), [], seed=0)  # a placeholder's row is never read
    elm = Elm(model)
    learning = elm.set_trainable(["llm"])
    # GPT-2, width 32: c_attn 32→96, c_proj 32→32, c_fc 32→128, c_proj 128→32, rank 2, two layers
    assert learning.counts == {"llm": 2 * 2 * (128 + 64 + 160 + 160), "embeddings": 0}
    assert (learning.train, learning.frozen, learning.lora) == ((), ("embeddings",), ("llm",))
    with pytest.raises(ConfigError, match=r"train\.parts leaves llm out"):
        elm.set_trainable([])
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    freeze_base(model)
    assert all((".lora_" in n) is p.requires_grad for n, p in model.named_parameters())
    rank = 2
    bound = math.sqrt(3) * math.sqrt(2 / 6) / math.sqrt(32)  # Kaiming uniform with a = √5, of A's 32 inputs
    a = dict(adapter_weights(model))["transformer.h.0.attn.c_attn.lora_A.default.weight"]
    assert a.shape == (rank, 32) and float(a.detach().abs().max()) <= bound


def test_a_damaged_adapter_file_is_no_adapter(llm_folders, tmp_path: Path) -> None:
    model, _ = load_llm(str(llm_folders["gpt2"]))
    add_lora(model, LoraConfig(rank=2), [], seed=0)
    save_adapter(model, tmp_path)
    stored = load_file(tmp_path / "adapter.safetensors")
    stored.pop(next(iter(stored)))
    save_file(stored, tmp_path / "adapter.safetensors")
    with pytest.raises(EcglmError, match="not the weights of this adapter"):
        load_adapter(model, tmp_path)
