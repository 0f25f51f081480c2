"""Bundles of the tiny trained models, and LLM folders of three families as their makers would publish them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

TEXTS = ["What is the rhythm?", "Is it normal?", "sinus rhythm", "no", "72 bpm", "User: Assistant: System:"] * 5


@pytest.fixture(scope="session")
def llm_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """family → folder with safetensors and a tokenizer: random tiny weights.

    GPT-2 and OPT: one token for begin, end and unknown, no padding, no chat template, learned positions; OPT embeds
    into another width than its layers have. Qwen2: ChatML template, untied output.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        OPTConfig,
        OPTForCausalLM,
        PreTrainedTokenizerFast,
        Qwen2Config,
        Qwen2ForCausalLM,
    )

    def tokenizer(special: list[str], **roles: str) -> PreTrainedTokenizerFast:
        raw = Tokenizer(models.BPE())
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        raw.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        raw.train_from_iterator(
            TEXTS,
            trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
        )
        return PreTrainedTokenizerFast(tokenizer_object=raw, **roles)

    end = "<|endoftext|>"
    plain = tokenizer([end], bos_token=end, eos_token=end, unk_token=end)
    chat = tokenizer([end, "<|im_start|>", "<|im_end|>"], eos_token="<|im_end|>", pad_token=end)
    torch.manual_seed(0)
    size = {"vocab_size": len(plain), "initializer_range": 0.3}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 2}
    made = {
        "gpt2": (GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=256, **size)), plain),
        "opt": (
            OPTForCausalLM(
                OPTConfig(
                    hidden_size=32,
                    ffn_dim=64,
                    word_embed_proj_dim=16,
                    max_position_embeddings=256,
                    init_std=0.3,
                    bos_token_id=0,
                    eos_token_id=0,
                    pad_token_id=None,
                    vocab_size=len(plain),
                    **heads,
                )
            ),
            plain,
        ),
        "qwen2": (
            Qwen2ForCausalLM(
                Qwen2Config(
                    hidden_size=32,
                    intermediate_size=64,
                    num_key_value_heads=1,
                    tie_word_embeddings=False,
                    **{**size, "vocab_size": len(chat)},
                    **heads,
                )
            ),
            chat,
        ),
    }
    folders = {}
    for name, (model, its) in made.items():
        folders[name] = tmp_path_factory.mktemp("llm") / name
        model.save_pretrained(folders[name])
        its.save_pretrained(folders[name])
    return folders
