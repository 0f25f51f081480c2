"""Language models: the corpus tokenizer, loading, and new tokens."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from ecglm.errors import ConfigError
from ecglm.models.elm import Elm
from ecglm.models.llm import PAD, add_ecg_tokens, load_llm, tiny_llm, train_tokenizer, use_attention
from ecglm.prompts.chat import chat_format

CORPUS = [f"The heart rate is {n} bpm." for n in range(40, 180)] + ["sinus rhythm", "atrial fibrillation, Achsenlage"]
TOKENIZER = train_tokenizer(CORPUS, 400)
NEW = ["signal_97", "signal_98", "<lead_I>"]


def test_the_tokenizer_does_not_depend_on_the_order_of_the_texts() -> None:
    other = train_tokenizer(CORPUS[::-1], 400)
    assert other.backend_tokenizer.to_str() == TOKENIZER.backend_tokenizer.to_str()
    assert train_tokenizer(CORPUS[:50], 400).backend_tokenizer.to_str() != TOKENIZER.backend_tokenizer.to_str()


@given(st.text(st.characters(exclude_categories=["Cs"])))
@settings(max_examples=300, deadline=None)
def test_any_text_comes_back(text: str) -> None:
    ids = TOKENIZER.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert TOKENIZER.decode(ids) == text


@pytest.mark.parametrize("text", ["<|im_end|>", "a , b . c !", "  two  spaces ", "Gruß 心電図 ❤️ \t\r\n", "²½٣"])
def test_awkward_texts_come_back(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text, add_special_tokens=False, split_special_tokens=True)) == text


def test_digits_are_single_tokens() -> None:
    assert [t for t in TOKENIZER.tokenize("rate 123") if t.strip("Ġ")[-1:].isdigit()] == ["1", "2", "3"]
    multi = [t for t in TOKENIZER.get_vocab() if sum(c.isdigit() for c in t) > 0 and len(t) > 1]
    assert multi == []


def test_merges_learn_the_corpus() -> None:
    assert len(TOKENIZER.encode("The heart rate is", add_special_tokens=False)) < 8
    assert 259 < len(TOKENIZER) <= 400  # 256 bytes, three control tokens, merges


def test_tiny_is_a_function_of_its_seed_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, same, other = (tiny_llm(TOKENIZER, hidden=16, num_layers=1, num_heads=2, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    weights = [m.get_input_embeddings().weight for m in (one, same, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert weights[0].shape == (len(TOKENIZER), 16)


@pytest.mark.parametrize("family", ["gpt2", "opt", "qwen2"])
def test_a_folder_loads_with_exactly_its_weights(family: str, llm_folders: dict[str, Path]) -> None:
    model, tokenizer = load_llm(str(llm_folders[family]))
    stored = load_file(llm_folders[family] / "model.safetensors")
    state = model.state_dict()
    loaded = {k: next(v for n, v in state.items() if n.endswith(k)) for k in stored}
    assert all(torch.equal(loaded[k], stored[k]) for k in stored)
    assert model.dtype == torch.float32
    assert chat_format("auto", tokenizer).name == ("chatml" if family == "qwen2" else "plain")


def test_how_a_tokenizer_was_loaded_is_not_saved_with_it(llm_folders, tmp_path: Path, monkeypatch) -> None:
    for name, kept in (("online", False), ("offline", True)):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", kept)
        load_llm(str(llm_folders["qwen2"]))[1].save_pretrained(tmp_path / name)
    config = "tokenizer_config.json"
    text = (tmp_path / "online" / config).read_text()
    assert text == (tmp_path / "offline" / config).read_text() and "local" not in text


@pytest.mark.parametrize("family", ["gpt2", "opt", "qwen2"])
def test_new_rows_are_near_the_mean_and_old_ones_stay(family: str, llm_folders: dict[str, Path]) -> None:
    model, tokenizer = load_llm(str(llm_folders[family]))
    tables = {"in": model.get_input_embeddings().weight, "out": model.get_output_embeddings().weight}
    old = {k: v.detach().clone() for k, v in tables.items()}
    num_old, had_pad = old["in"].shape[0], tokenizer.pad_token is not None
    assert had_pad is (family == "qwen2")
    add_ecg_tokens(model, tokenizer, NEW, seed=7)
    num_new = len(NEW) + (not had_pad)
    assert len(tokenizer) == num_old + num_new == model.config.vocab_size
    assert tokenizer.pad_token == ("<|endoftext|>" if had_pad else PAD)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id  # an answer's end must not look like padding
    for name, table in (("in", model.get_input_embeddings().weight), ("out", model.get_output_embeddings().weight)):
        assert table.shape == (num_old + num_new, old[name].shape[1])
        assert torch.equal(table[:num_old], old[name])
        # ten percent of the old spread around the old mean: no new row further away than five of its own sigmas
        assert (table[num_old:] - old[name].mean(0)).abs().max() < 5 * 0.1 * old[name].std()
        assert len(torch.unique(table[num_old:], dim=0)) == num_new
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert tied is (family != "qwen2")
    for token in NEW:  # one id each, and never from typed text
        assert tokenizer.convert_tokens_to_ids(token) >= num_old
        assert tokenizer.convert_tokens_to_ids(token) not in tokenizer.encode(token, split_special_tokens=True)
    again, its = load_llm(str(llm_folders[family]))
    add_ecg_tokens(again, its, NEW, seed=7)
    assert torch.equal(again.get_input_embeddings().weight, model.get_input_embeddings().weight)
    rows = model.get_input_embeddings().weight.detach().clone()
    add_ecg_tokens(model, tokenizer, NEW, seed=8)  # known already: nothing happens
    assert torch.equal(rows, model.get_input_embeddings().weight)


@pytest.mark.parametrize("family", ["gpt2", "opt", "qwen2"])
def test_random_rows_have_the_spread_the_maker_drew_with(family: str, llm_folders: dict[str, Path]) -> None:
    """All three folders were made with a spread of 0.3; 200 rows of 16 or more values show it to 5 %."""
    model, tokenizer = load_llm(str(llm_folders[family]))
    with torch.no_grad():  # the rows in use are elsewhere, so that their mean would show
        model.get_input_embeddings().weight.add_(5.0)
    known = len(tokenizer)
    tokens = [f"signal_{i}" for i in range(200)]
    add_ecg_tokens(model, tokenizer, tokens, seed=3, init="random")
    for table in {model.get_input_embeddings().weight, model.get_output_embeddings().weight}:
        new = table.detach()[known:]
        assert float(new.std()) == pytest.approx(0.3, rel=0.05) and abs(float(new.mean())) < 0.02
    rows = model.get_input_embeddings().weight[known:].detach().clone()
    again, its = load_llm(str(llm_folders[family]))
    add_ecg_tokens(again, its, tokens, seed=3, init="random")
    assert torch.equal(again.get_input_embeddings().weight[known:], rows)
    with pytest.raises(ConfigError, match="did you mean 'mean'"):
        add_ecg_tokens(again, its, ["signal_900"], init="men")


@pytest.mark.parametrize("num_tokens", [3, 40])
def test_spare_rows_of_a_larger_table_are_used_first(num_tokens: int, llm_folders: dict[str, Path]) -> None:
    """Published models have tables larger than their vocabulary; new tokens take the rows behind it."""
    model, tokenizer = load_llm(str(llm_folders["qwen2"]))
    known = len(tokenizer)
    model.resize_token_embeddings(known + 10, mean_resizing=False)
    tables = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    with torch.no_grad():
        for table in tables:
            table[known:] = 100.0
    old = [t.detach().clone() for t in tables]
    tokens = [f"signal_{i}" for i in range(num_tokens)]
    add_ecg_tokens(model, tokenizer, tokens, seed=1)
    assert tokenizer.convert_tokens_to_ids(tokens) == list(range(known, known + num_tokens))
    size = known + max(10, num_tokens)  # never smaller
    assert model.config.vocab_size == size
    for before, layer in zip(old, (model.get_input_embeddings(), model.get_output_embeddings()), strict=True):
        now = layer.weight
        assert len(now) == size and torch.equal(now[:known], before[:known])
        used = before[:known]  # what lay in the spare rows is no model for the new ones
        assert (now[known : known + num_tokens] - used.mean(0)).abs().max() < 5 * 0.1 * used.std()
        assert bool((now[known + num_tokens :] == 100.0).all())


def _lines(error: pytest.ExceptionInfo[ConfigError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_what_cannot_be_loaded_is_told_in_one_line(tmp_path: Path, llm_folders: dict[str, Path]) -> None:
    with pytest.raises(ConfigError) as error:
        load_llm(str(tmp_path / "absent"))
    assert "absent' cannot be loaded" in _lines(error)

    def broken(name: str) -> Path:
        return Path(shutil.copytree(llm_folders["gpt2"], tmp_path / name))

    (broken("no-weights") / "model.safetensors").unlink()
    torn = broken("torn") / "model.safetensors"
    torn.write_bytes(torn.read_bytes()[:1000])
    (broken("no-config") / "config.json").write_text("{")
    for name in ("no-weights", "torn", "no-config"):
        with pytest.raises(ConfigError) as error:
            load_llm(str(tmp_path / name))
        assert f"{name}' cannot be loaded" in _lines(error)


def test_missing_or_misshapen_weights_are_never_filled_with_noise(tmp_path: Path, llm_folders) -> None:
    for name, change in {
        "missing": lambda w, k: w.pop(k),
        "misshapen": lambda w, k: w.update({k: w[k][:3].contiguous()}),
    }.items():
        folder = Path(shutil.copytree(llm_folders["gpt2"], tmp_path / name))
        weights = load_file(folder / "model.safetensors")
        change(weights, next(k for k in weights if "h.1.ln_1.weight" in k))
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ConfigError, match=name if name == "missing" else "cannot be loaded") as error:
            load_llm(str(folder))
        _lines(error)


def test_weights_that_could_run_code_are_not_read(tmp_path: Path, llm_folders: dict[str, Path]) -> None:
    folder = Path(shutil.copytree(llm_folders["gpt2"], tmp_path / "pickled"))
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04never read")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_llm(str(folder))


SMALL = {"vocab_size": 120, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}
ROTARY = SMALL | {"hidden_size": 32, "intermediate_size": 48, "num_key_value_heads": 2, "initializer_range": 0.3}
GEMMA = ROTARY | {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 4}
#: Every family by its class, in small; windows shorter than the texts where a family has them.
MADE = {
    "Llama": ROTARY,
    "Qwen2": ROTARY,
    "Qwen3": ROTARY | {"head_dim": 8},
    "Gemma2": GEMMA,
    "Gemma3Text": GEMMA | {"layer_types": ["sliding_attention", "full_attention"]},
    "GPT2": {"vocab_size": 120, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.3},
    "OPT": SMALL | {"hidden_size": 32, "ffn_dim": 48, "word_embed_proj_dim": 16, "init_std": 0.3},
    "Mistral": ROTARY | {"head_dim": 8, "sliding_window": 4},
    "Phi3": ROTARY | {"pad_token_id": 0, "sliding_window": 4},
}
HEADS = {"Gemma3Text": "Gemma3ForCausalLM", "GPT2": "GPT2LMHeadModel"}


def small(family: str):
    """A model of a family with random weights, in evaluation mode; it never ends an answer by itself."""
    config = getattr(transformers, f"{family}Config")(**MADE[family], bos_token_id=None, eos_token_id=None)
    torch.manual_seed(0)
    return getattr(transformers, HEADS.get(family, f"{family}ForCausalLM"))(config).eval()


@pytest.mark.parametrize("family", MADE)
def test_embedded_ids_are_read_as_the_llm_reads_ids(family: str) -> None:
    """A family that scales its embeddings (Gemma, by the square root of the width) does so once."""
    llm = small(family)
    elm = Elm(llm).eval()
    ids = torch.randint(1, 120, (3, 20), generator=torch.Generator().manual_seed(0))
    ones = torch.ones_like(ids)
    with torch.no_grad():
        wanted = llm(input_ids=ids).logits
        found = elm(ids, ones, torch.arange(20).expand(3, 20))
    assert wanted.std() > 0.1
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    table = llm.get_input_embeddings().weight
    scale = 32**0.5 if family.startswith("Gemma") else 1.0
    torch.testing.assert_close(elm.embed(ids), table[ids] * scale, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", ["Llama", "Gemma2", "Gemma3Text", "GPT2"])
def test_an_ecgs_vectors_are_read_as_they_are(family: str) -> None:
    """What the connector gives stands in the placeholder's place unscaled, also where the text's rows are scaled."""

    class Encoder(torch.nn.Module):
        dim, num_tokens = 32, 2

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    elm = Elm(small(family), Encoder(), torch.nn.Identity(), 7).eval()
    ids = torch.tensor([[3, 7, 7, 5], [7, 7, 9, 9]])
    vectors = torch.randn(2, 2, 32, generator=torch.Generator().manual_seed(1))
    embedded = elm.embed(ids, vectors)
    assert torch.equal(embedded[0, 1:3], vectors[0]) and torch.equal(embedded[1, :2], vectors[1])


@pytest.mark.parametrize("family", MADE)
def test_greedy_answers_are_the_same_from_ids_alone_and_in_a_batch(family: str) -> None:
    llm = small(family)
    elm = Elm(llm).eval()
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    generator = torch.Generator().manual_seed(2)
    prompts = [torch.randint(1, 120, (1, n), generator=generator) for n in (3, 7, 12)]
    wanted = [llm.generate(p, attention_mask=torch.ones_like(p), **options)[0, p.shape[1] :] for p in prompts]
    assert len({tuple(w.tolist()) for w in wanted}) == 3
    width = 12
    ids = torch.cat([torch.nn.functional.pad(p, (width - p.shape[1], 0)) for p in prompts])
    mask = torch.cat([torch.nn.functional.pad(torch.ones_like(p), (width - p.shape[1], 0)) for p in prompts])
    with torch.no_grad():
        together = llm.generate(inputs_embeds=elm.embed(ids), attention_mask=mask, **options)
        alone = [
            llm.generate(inputs_embeds=elm.embed(p), attention_mask=torch.ones_like(p), **options)[0] for p in prompts
        ]
    assert [t.tolist() for t in together] == [w.tolist() for w in wanted] == [a.tolist() for a in alone]


@pytest.mark.parametrize("family", ["Llama", "Gemma3Text", "GPT2"])
def test_attention_can_be_chosen_and_changes_nothing_but_speed(family: str) -> None:
    llm = small(family)
    ids = torch.randint(1, 120, (2, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = {}
        for name in ("eager", "sdpa"):
            use_attention(llm, name)
            assert llm.config._attn_implementation == name
            found[name] = llm(input_ids=ids).logits
    torch.testing.assert_close(found["eager"], found["sdpa"], rtol=1e-4, atol=1e-4)
    with pytest.raises(ConfigError, match=r"model\.attention: .* cannot be used.*use auto"):
        use_attention(llm, "flash_attention_2")


def test_weights_can_be_held_in_half_precision(llm_folders: dict[str, Path]) -> None:
    half, _ = load_llm(str(llm_folders["qwen2"]), dtype="bfloat16")
    full, _ = load_llm(str(llm_folders["qwen2"]))
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    for name, weight in full.named_parameters():
        assert torch.equal(half.get_parameter(name), weight.bfloat16()), name


def test_a_padding_token_made_here_is_never_learned(llm_folders: dict[str, Path]) -> None:
    """GPT-2 has none: ours is a token of its own, so that padding and the end of an answer stay apart."""
    from ecglm.prompts.collate import collate
    from ecglm.prompts.examples import IGNORE, Prompter
    from ecglm.types import Turn

    model, tokenizer = load_llm(str(llm_folders["gpt2"]))
    add_ecg_tokens(model, tokenizer, NEW, seed=1)
    prompter = Prompter.create(tokenizer, chat_format("auto", tokenizer), NEW)
    talks = [[Turn("user", "Rate?"), Turn("assistant", a)] for a in ("no", "sinus rhythm, 72 bpm, and so on")]
    batch = collate([prompter.build(str(n), t, []) for n, t in enumerate(talks)], pad_id=tokenizer.pad_token_id)
    padding = batch["attention_mask"] == 0
    assert padding.any() and (batch["input_ids"][padding] == tokenizer.pad_token_id).all()
    assert (batch["labels"][padding] == IGNORE).all()
    assert not (batch["labels"] == tokenizer.pad_token_id).any()
    assert (batch["labels"] == tokenizer.eos_token_id).sum() == 2  # each answer's end is


@pytest.mark.parametrize("family", ["gpt2", "qwen2"])
def test_an_elm_in_half_precision_learns_answers_and_comes_back(family: str, world, llm_folders, tmp_path) -> None:
    """The LLM in bfloat16; encoder and connector beside it in single precision."""
    from ecglm.models.checkpoint import ModelConfig, create, from_pretrained, save_pretrained
    from ecglm.models.generate import generate
    from ecglm.prompts.collate import collate
    from ecglm.prompts.data import EcgSource
    from ecglm.representations.signal import SignalRepresentation
    from ecglm.store.reader import SegmentStore
    from ecglm.training.objectives.sft import sft

    config = ModelConfig(
        llm=str(llm_folders[family]), dtype="bfloat16", encoder_options={"widths": [16], "stem_stride": 4}, max_len=200
    )
    bundle = create(config, SignalRepresentation(num_tokens=4, num_samples=250), {"rate": 50}, [], seed=0)
    ecgs = EcgSource([SegmentStore(world.store)], bundle.representation)
    rows = world.conversations()[:3]
    shown = [[ecgs.encode(e) for e in r.ecgs] for r in rows]
    examples = [bundle.prompter.build(r.id, r.turns, e) for r, e in zip(rows, shown, strict=True)]
    bundle.elm.set_trainable(["encoder", "connector", "llm"])
    sft(bundle.elm, collate(examples, pad_id=bundle.prompter.tokenizer.pad_token_id)).backward()
    kinds = {name.partition(".")[0]: p.dtype for name, p in bundle.elm.named_parameters()}
    assert kinds == {"llm": torch.bfloat16, "encoder": torch.float32, "connector": torch.float32}
    assert all(bool(p.grad.isfinite().all()) for p in bundle.elm.connector.parameters())
    asked = [bundle.prompter.build(r.id, r.turns[:1], e, generate=True) for r, e in zip(rows, shown, strict=True)]
    wanted = generate(bundle.elm, bundle.prompter, asked, max_new_tokens=5)
    save_pretrained(bundle, tmp_path / "checkpoint")
    again = from_pretrained(tmp_path / "checkpoint")
    assert again.elm.llm.dtype == torch.bfloat16
    assert generate(again.elm, again.prompter, asked, max_new_tokens=5) == wanted
