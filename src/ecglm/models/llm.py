"""Language models: any causal LM by hub id or path, and ``tiny``, a small one made here with its own tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as hf_logging

from ecglm.errors import ConfigError, nearest

INITS = ("mean", "random")
PAD, TURN_START, TURN_END = "<pad>", "<|im_start|>", "<|im_end|>"


@contextmanager
def no_bars() -> Iterator[None]:
    """Keep the library's progress bars (one per weight file) out of the terminal for the block."""
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()


def train_tokenizer(texts: Iterable[str], vocab_size: int = 1024) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on the corpus; digits stay single so that numbers are spelled, not memorised.

    Every UTF-8 text can be encoded. Its control tokens are those of the ``chatml`` chat format.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, TURN_START, TURN_END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # Sorted and counted once: the merges must not depend on the order in which the conversations came.
    tokenizer.train_from_iterator(sorted(texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=TURN_END, additional_special_tokens=[TURN_START]
    )


def tiny_llm(
    tokenizer: Any, *, hidden: int = 128, num_layers: int = 4, num_heads: int = 4, max_len: int = 2048, seed: int = 0
) -> LlamaForCausalLM:
    """A Llama-architecture model with random weights, small enough to train on a CPU in seconds (arXiv 2302.13971)."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=hidden * 3,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_heads,
        max_position_embeddings=max_len,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        # Keeps activations at unit scale; the usual 0.02 is meant for widths in the thousands and learns late here.
        initializer_range=hidden**-0.5,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def load_llm(name: str, *, dtype: str = "float32") -> tuple[Any, Any]:
    """``(model, tokenizer)`` of any causal LM, by hub id or local folder; safetensors only, no code of the repository.

    Raises ConfigError with the reason when it cannot be loaded (not found, offline, needs its own code, damaged, or
    without the weights that its configuration asks for).
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        with no_bars():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                name,
                dtype=getattr(torch, dtype),
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
        model, info = loaded
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ConfigError(f"language model '{name}' cannot be loaded: {first}") from error
    if missing := sorted(info["missing_keys"]):  # the library would fill them with noise
        raise ConfigError(f"language model '{name}': {len(missing)} weights are missing (first: {missing[0]})")
    for key in ("is_local", "local_files_only"):  # how it was loaded; a checkpoint's bytes must not depend on that
        tokenizer.init_kwargs.pop(key, None)
    return model, tokenizer


def use_attention(llm: Any, name: str) -> None:
    """Let a language model attend by this implementation (``models/access.py`` chooses it); ConfigError else."""
    if llm.config._attn_implementation == name:
        return
    try:
        llm.set_attn_implementation(name)
    except (ValueError, ImportError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ConfigError(f"model.attention: {name} cannot be used ({first}); use auto") from error


def add_ecg_tokens(
    model: Any, tokenizer: Any, added_tokens: Sequence[str], seed: int = 0, *, init: str = "mean"
) -> None:
    """Make the ECG tokens (and a padding token, where the tokenizer has none) known to tokenizer and model.

    They are control tokens: no text a user types turns into one. The rows of tokens that are new get new values, also
    where the model's table had spare rows for them; a table is made larger where it must, never smaller. init:
    ``mean``, the mean of the rows in use plus small noise, or ``random``, as the model's own rows once began; both
    seeded. Tokens that the tokenizer knew keep their rows.
    """
    known = len(tokenizer)
    vocab = tokenizer.get_vocab()
    new = [AddedToken(t, special=True, normalized=False) for t in added_tokens if t not in vocab]
    if new:
        tokenizer.add_tokens(new, special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": PAD})
    if model is None:
        return
    first = min(model.get_input_embeddings().weight.shape[0], known)  # rows in use; spare ones may lie behind them
    if first == len(tokenizer):
        return
    if init not in INITS:
        raise ConfigError(f"model.init_new_embeddings: no '{init}'{nearest(init, INITS)}; one of {', '.join(INITS)}")
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    generator = torch.Generator().manual_seed(seed)
    tables = [model.get_input_embeddings().weight]
    output = model.get_output_embeddings()
    if output is not None and output.weight is not tables[0]:
        tables.append(output.weight)
    with torch.no_grad():
        for table in tables:
            noise = torch.randn(len(tokenizer) - first, table.shape[1], generator=generator).to(table.device)
            if init == "mean":
                old = table[:first].float()
                rows = old.mean(0) + 0.1 * old.std() * noise
            else:
                rows = _initial_std(model) * noise
            table[first : len(tokenizer)] = rows.to(table.dtype)


def _initial_std(model: Any) -> float:
    """The spread with which the model's maker drew its rows, as its configuration says."""
    for name in ("initializer_range", "init_std"):
        if isinstance(found := getattr(model.config, name, None), float):
            return found
    return 0.02
