"""Language models: the corpus tokenizer, loading, and new tokens."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from ecglm.errors import ConfigError
from ecglm.models.llm import PAD, add_ecg_tokens, load_llm, tiny_llm, train_tokenizer
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
