"""Every encoder × every way × five families of language models: one step, the right weights, and it comes back.

A cover of all pairs runs always; the rest of the table is slow. Pairs that cannot be stand in ``impossible``.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ecglm import registry
from ecglm.models.checkpoint import Bundle, create, from_pretrained, save_pretrained
from ecglm.models.config import ModelConfig
from ecglm.models.elm import usual_parts
from ecglm.models.encoder_files import load_encoder, save_encoder
from ecglm.models.encoders.base import build_encoder, reads
from ecglm.models.llm import train_tokenizer
from ecglm.prompts.collate import collate
from ecglm.representations.ecg_byte import EcgByte
from ecglm.representations.image import ImageRepresentation
from ecglm.representations.signal import SignalRepresentation
from ecglm.representations.symbols import SymbolsRepresentation
from ecglm.training.objectives.sft import sft
from ecglm.types import EcgInput, Turn
from tiny_world import ENCODER

SAMPLES = 250
PIPELINE = {"rate": 50}
VIT = {"size": "nano", "config": {"image_size": 64, "patch_size": 16}}
OPTIONS: dict[str, dict[str, Any]] = {
    "resnet1d": ENCODER,
    "merl": {"depth": 18, "width": 4},
    "random": {"options": ENCODER},
    "signal2vec": {"dim": 8},
    **{name: {"size": "tiny"} for name in ("st_mem", "mtae", "mlae", "patch")},
    "vit": VIT,
    "clip": VIT,
    "siglip": VIT,
    "siglip2": {"size": "nano", "config": {"num_patches": 16, "patch_size": 16}},
}
ENCODERS = registry.names("encoders")
#: as it is: an encoder without a stage of its own, which nothing is learned for or in.
WAYS = ("scratch", "llava", "finetune", "end-to-end", "as it is")
LLMS = ("llama", "qwen", "gemma", "gpt2", "opt")


def impossible(encoder: str, way: str) -> str:
    """Why a pair cannot be; empty where it can."""
    if getattr(registry.get("encoders", encoder), "frozen", False):
        return "" if way == "as it is" else "it never learns, so it has neither a first stage nor a gradient"
    if way == "as it is":
        return "its random weights would stand still: that is the encoder 'random'"
    if way == "llava" and reads(encoder) != "image":
        return "no general encoder of signals is published; one of ECGs is frozen as in scratch"
    return ""


TRIPLES = [t for t in itertools.product(ENCODERS, WAYS, LLMS) if not impossible(t[0], t[1])]


def pairwise(triples: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """A small choice of triples in which every pair of the table stands: greedily, the one with most new pairs."""
    left = {p for t in triples for p in itertools.combinations(enumerate(t), 2)}
    chosen = []
    while left:
        best = max(triples, key=lambda t: len(left & set(itertools.combinations(enumerate(t), 2))))
        chosen.append(best)
        left -= set(itertools.combinations(enumerate(best), 2))
    return chosen


COVER = pairwise(TRIPLES)
REST = [t for t in TRIPLES if t not in COVER]


def test_the_cover_holds_every_pair_and_the_table_every_encoder() -> None:
    pairs = [{p for t in ts for p in itertools.combinations(enumerate(t), 2)} for ts in (COVER, TRIPLES)]
    assert pairs[0] == pairs[1] and len(COVER) < len(TRIPLES) / 2
    assert {t[0] for t in TRIPLES} == set(ENCODERS)
    assert {t[1] for t in TRIPLES} == set(WAYS) and {t[2] for t in TRIPLES} == set(LLMS)
    told = {(e, w): impossible(e, w) for e in ENCODERS for w in WAYS if impossible(e, w)}
    assert len(told) + len({t[:2] for t in TRIPLES}) == len(ENCODERS) * len(WAYS)


@pytest.fixture(scope="session")
def llms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Family → folder with a tiny random model, as its maker would publish it."""
    import transformers

    tokenizer = train_tokenizer(["What is the rhythm?", "sinus rhythm", "Is it normal?", "no"] * 3, 300)
    vocab = len(tokenizer)
    usual = {"vocab_size": vocab, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    usual |= {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 256, "pad_token_id": 0}
    opt = {k: v for k, v in usual.items() if k not in ("intermediate_size", "num_key_value_heads")}
    gpt2 = {"vocab_size": vocab, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256}
    made = {
        "llama": ("Llama", {**usual, "tie_word_embeddings": True}),
        "qwen": ("Qwen2", {**usual, "tie_word_embeddings": False}),
        "gemma": ("Gemma2", {**usual, "head_dim": 16}),
        "gpt2": ("GPT2", gpt2),
        "opt": ("OPT", {**opt, "ffn_dim": 48, "word_embed_proj_dim": 16}),
    }
    folders = {}
    torch.manual_seed(0)
    for name, (family, values) in made.items():
        head = "LMHeadModel" if family == "GPT2" else "ForCausalLM"
        model = getattr(transformers, f"{family}{head}")(getattr(transformers, f"{family}Config")(**values))
        folders[name] = tmp_path_factory.mktemp("llms") / name
        model.save_pretrained(folders[name])
        tokenizer.save_pretrained(folders[name])
    return folders


@pytest.fixture(scope="session")
def general(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Image encoder → folder in which its library keeps a published one."""
    folders = {}
    for name in ENCODERS:
        if reads(name) == "image":
            torch.manual_seed(1)
            tower = build_encoder(name, input_shape=(3, 64, 64), options={**OPTIONS[name], "layer": -1})
            folders[name] = tmp_path_factory.mktemp("general") / name
            tower.model.save_pretrained(folders[name])
    return folders


def representation_for(encoder: str) -> Any:
    if reads(encoder) == "image":
        return ImageRepresentation(image_size=(64, 64), num_tokens=4)
    if reads(encoder) == "symbols":
        segments = np.random.default_rng(0).normal(size=(4, 1, 100)).cumsum(axis=2)
        return SymbolsRepresentation(EcgByte.train(segments, num_merges=20), leads=("I",))
    return SignalRepresentation(num_tokens=1 if encoder == "base" else 4, num_samples=SAMPLES)


def shape_of(encoder: str) -> tuple[int, ...]:
    return (3, 64, 64) if reads(encoder) == "image" else (12, SAMPLES)


def folder_of(encoder: str, folder: Path, options: dict[str, Any]) -> Path:
    """A first stage's result: weights that no seed of the run would make."""
    torch.manual_seed(7)
    made = build_encoder(encoder, input_shape=shape_of(encoder), options=options)
    return save_encoder(folder, made, name=encoder, options=options, input_shape=shape_of(encoder))


def continued(encoder: str, start: Path, folder: Path) -> Path:
    """One more step of some first stage on an encoder of a folder."""
    made = load_encoder(start)
    for weight in made.parameters():
        weight.data.add_(0.01 * torch.randn_like(weight, dtype=torch.float32).to(weight.dtype))
    return save_encoder(folder, made, name=encoder, options=OPTIONS.get(encoder, {}), input_shape=shape_of(encoder))


def settings(encoder: str, way: str, general: dict[str, Path], tmp_path: Path) -> dict[str, Any]:
    """The model section's fields that make a way."""
    options = OPTIONS.get(encoder, {})
    if way in ("as it is", "end-to-end"):
        return {"encoder": encoder, "encoder_options": options}
    if way == "llava":
        return {"encoder": encoder, "encoder_options": {"weights": str(general[encoder]), "layer": -1}}
    if way == "finetune" and encoder in general:
        options = {"weights": str(general[encoder]), "layer": -1}
    first = folder_of(encoder, tmp_path / "first", options)
    return {"encoder_from": str(continued(encoder, first, tmp_path / "more") if way == "finetune" else first)}


def examples_for(bundle: Bundle, encoder: str) -> list[Any]:
    rng = np.random.default_rng(4)
    found = []
    for question, answer in (("What is the rhythm?", "sinus rhythm"), ("Is it normal?", "no")):
        if reads(encoder) == "symbols":
            ecg = EcgInput(rng.integers(0, len(bundle.representation.added_tokens), 20))
        else:
            shape = shape_of(encoder)
            picture = reads(encoder) == "image"
            tensor = rng.integers(0, 255, shape).astype(np.uint8) if picture else rng.normal(size=shape)
            ids = np.zeros(bundle.representation.num_tokens, np.int64)
            ecg = EcgInput(ids, tensor if picture else tensor.astype(np.float32))
        turns = [Turn("user", f"<ecg>\n{question}"), Turn("assistant", answer)]
        found.append(bundle.prompter.build(question, turns, [ecg]))
    return found


def check(encoder: str, way: str, llm: str, llms: dict[str, Path], general: dict[str, Path], tmp_path: Path) -> None:
    torch.set_num_threads(1)
    model = ModelConfig(llm=str(llms[llm]), max_len=128, **settings(encoder, way, general, tmp_path))
    segments = np.random.default_rng(2)
    bundle = create(
        model,
        representation_for(encoder),
        PIPELINE,
        [],
        3,
        lambda number: (segments.integers(0, 10, 30) for _ in range(number)),
    )
    elm = bundle.elm
    wanted = ["connector", "llm"] if way != "end-to-end" else ["encoder", "connector", "llm"]
    assert way != "end-to-end" or wanted == [p for p in usual_parts(elm) if p != "embeddings"]
    learning = elm.set_trainable(wanted)
    assert learning.frozen == (() if way == "end-to-end" else ("encoder",))
    elm.train()
    before = {k: v.clone() for k, v in elm.state_dict().items()}
    optimizer = torch.optim.AdamW([w for w in elm.parameters() if w.requires_grad], lr=1e-2, weight_decay=0)
    batch = collate(examples_for(bundle, encoder), pad_id=bundle.prompter.tokenizer.pad_token_id)
    sft(elm, batch).backward()
    optimizer.step()
    changed = {k for k, v in elm.state_dict().items() if not torch.equal(v, before[k])}
    moved = {k for k, w in elm.named_parameters(remove_duplicate=False) if w.grad is not None and w.grad.any()}
    learned = {k for k, w in elm.named_parameters(remove_duplicate=False) if w.requires_grad}
    buffers = before.keys() - {k for k, _ in elm.named_parameters(remove_duplicate=False)}
    assert changed - buffers == moved <= learned
    if way == "end-to-end":  # D7: the encoder moves, but for the norm behind the layer that is read
        still = {k for k in learned - moved if k.startswith("encoder.")}
        assert len(still) <= 2, still
        assert all("norm" in k for k in still), still
    else:
        assert not any(k.startswith("encoder.") for k in changed)
    for part in ("connector", "llm"):
        assert {k for k in learned if k.startswith(f"{part}.")} == {k for k in moved if k.startswith(f"{part}.")}, part
    elm.eval()
    again = from_pretrained(save_pretrained(bundle, tmp_path / "checkpoint"))
    given = {k: batch[k] for k in ("input_ids", "attention_mask", "position_ids", "ecg") if k in batch}
    with torch.no_grad():
        assert torch.equal(elm(**given), again.elm(**given))


@pytest.mark.parametrize(("encoder", "way", "llm"), COVER, ids=map("-".join, COVER))
def test_d07_pairs(encoder: str, way: str, llm: str, llms, general, tmp_path: Path) -> None:
    check(encoder, way, llm, llms, general, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("encoder", "way", "llm"), REST, ids=map("-".join, REST))
def test_d07_all(encoder: str, way: str, llm: str, llms, general, tmp_path: Path) -> None:
    check(encoder, way, llm, llms, general, tmp_path)
