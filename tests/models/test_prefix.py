"""Reading prompts together: what they share is read once, and every answer stays what it is alone."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from ecglm.models.checkpoint import Bundle, ModelConfig, TinyConfig, create, from_pretrained
from ecglm.models.elm import Elm
from ecglm.models.generate import Memory, generate
from ecglm.models.prefix import _Layer, plan, read_prompts, window_of
from ecglm.prompts.data import EcgSource
from ecglm.representations.anyres import AnyresRepresentation
from ecglm.store.reader import SegmentStore
from ecglm.types import Example, Turn

SYSTEM = "You read electrocardiograms. Answer each question about the recording briefly, and say what it shows. " * 2
QUESTIONS = ("What is the rhythm?", "What is the rate?", "Is it normal, and if not: why?", "?")
PLAIN = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
PLAIN |= {"num_key_value_heads": 1, "initializer_range": 0.4, "max_position_embeddings": 512}


def language_model(family: str, vocab: int) -> Any:
    """A small random one whose answers differ from prompt to prompt."""
    torch.manual_seed(1)
    size, untied = {"vocab_size": vocab, **PLAIN}, {"tie_word_embeddings": False}
    made: dict[str, Any] = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**size)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**size)),
        "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**size, head_dim=16, sliding_window=400, **untied)),
        "gemma2, narrow": lambda: Gemma2ForCausalLM(Gemma2Config(**size, head_dim=16, sliding_window=24, **untied)),
        "mistral, narrow": lambda: MistralForCausalLM(MistralConfig(**size, sliding_window=24)),
        "gpt2": lambda: GPT2LMHeadModel(
            GPT2Config(vocab_size=vocab, n_embd=32, n_layer=2, n_head=2, n_positions=512, initializer_range=0.4)
        ),
    }
    return made[family]().eval()


FAMILIES = ["llama", "qwen2", "gemma2", "gemma2, narrow", "mistral, narrow", "gpt2"]


@pytest.fixture(scope="module")
def trained(signal_run: Path) -> Bundle:
    return from_pretrained(signal_run / "best")


def with_family(trained: Bundle, family: str, bidirectional: bool = False) -> Bundle:
    """The trained model's encoder and prompts around another language model."""
    elm = trained.elm
    llm = language_model(family, len(trained.prompter.tokenizer) + 5)  # spare rows, as published models have
    made = Elm(llm, elm.encoder, elm.connector, elm.placeholder_id, bidirectional=bidirectional)
    return replace(trained, elm=made.eval())


def prompts(bundle: Bundle, world: Any, system: bool = True) -> list[Example]:
    """Three ECGs with several questions each, a pair of ECGs twice, one asked alone, and two without any."""
    ecgs = EcgSource([SegmentStore(world.store)], bundle.representation)
    records = SegmentStore(world.store).records()
    prompter = replace(bundle.prompter, system=SYSTEM if system else "", max_len=480)
    talks: list[tuple[str, list[str]]] = [(f"<ecg>\n{q}", [r]) for r in records[:3] for q in QUESTIONS]
    talks += [(f"<ecg> then <ecg>: {q}", records[3:5]) for q in QUESTIONS[:2]]
    talks += [("First <ecg> and then another <ecg>", [records[3], records[5]]), ("<ecg> and", records[6:7])]
    talks += [("What is a P wave?", []), ("Why?", [])]
    order = np.random.default_rng(0).permutation(len(talks))
    return [
        prompter.build(str(n), [Turn("user", text)], [ecgs.encode(e) for e in shown], generate=True)
        for n, (text, shown) in ((int(i), talks[i]) for i in order)
    ]


def by_the_library(bundle: Bundle, example: Example, length: int) -> str:
    """One prompt alone, by the library's own generation; nothing of ours but the embedding of the ECG."""
    ids = torch.from_numpy(example.input_ids)[None]
    ecg = None if example.ecg is None else torch.from_numpy(example.ecg)
    size, prompter = bundle.elm.llm.config.vocab_size, bundle.prompter
    never = [*prompter.ecg_ids, *range(len(prompter.tokenizer), size), prompter.tokenizer.pad_token_id]
    with torch.no_grad():
        out = bundle.elm.llm.generate(
            inputs_embeds=bundle.elm.embed(ids, ecg),
            attention_mask=torch.ones_like(ids),
            max_new_tokens=length,
            do_sample=False,
            eos_token_id=prompter.end_id,
            pad_token_id=prompter.tokenizer.pad_token_id,
            suppress_tokens=never,
        )[0].tolist()
    stop = out.index(prompter.end_id) if prompter.end_id in out else len(out)
    return prompter.tokenizer.decode(out[:stop], skip_special_tokens=True).strip()


@pytest.mark.parametrize("system", [True, False], ids=["system prompt", "none"])
@pytest.mark.parametrize("family", FAMILIES)
def test_shared_beginnings_change_no_answer(family: str, system: bool, trained: Bundle, world) -> None:
    """In one batch, one by one, with and without sharing: the text the library gives for each alone."""
    bundle = with_family(trained, family)
    examples = prompts(bundle, world, system)
    wanted = [by_the_library(bundle, e, 10) for e in examples]
    assert len(set(wanted)) > 8  # else anything would be equal
    for some in (examples, examples[:5], examples[::-1]):
        for share in (True, False):
            found = generate(bundle.elm, bundle.prompter, some, max_new_tokens=10, share=share)
            assert [a["text"] for a in found] == [wanted[examples.index(e)] for e in some]
    alone = [generate(bundle.elm, bundle.prompter, [e], max_new_tokens=10)[0]["text"] for e in examples]
    assert alone == wanted


@pytest.mark.parametrize("kind", ["signal", "symbols"])
def test_trained_models_answer_alike_with_and_without_sharing(kind: str, world, request) -> None:
    bundle = from_pretrained(request.getfixturevalue(f"{kind}_run") / "best")
    examples = prompts(bundle, world)
    shared, plain = (
        generate(bundle.elm, bundle.prompter, examples, max_new_tokens=12, share=share) for share in (True, False)
    )
    assert shared == plain and len({a["text"] for a in shared}) > 2


def test_tokens_of_one_ecg_that_see_each_other_are_shared_as_well(trained: Bundle, world) -> None:
    bundle = with_family(trained, "llama", bidirectional=True)
    examples = prompts(bundle, world)
    shared = generate(bundle.elm, bundle.prompter, examples, max_new_tokens=10)
    assert shared == [generate(bundle.elm, bundle.prompter, [e], max_new_tokens=10, share=False)[0] for e in examples]
    numbers = {"pad_id": bundle.prompter.tokenizer.pad_token_id, "ecg_ids": bundle.prompter.ecg_ids, "room": 8}
    together, apart = (read_prompts(bundle.elm, examples, share=share, **numbers).logits for share in (True, False))
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)
    causal = read_prompts(with_family(trained, "llama").elm, examples, **numbers).logits
    assert float((causal - together).detach().abs().max()) > 1e-3


def test_an_ecg_is_encoded_once_and_what_is_alike_read_once(trained: Bundle, world, monkeypatch) -> None:
    bundle = with_family(trained, "llama")
    examples = prompts(bundle, world)
    encoded: list[int] = []
    encode = bundle.elm.encoder.forward
    monkeypatch.setattr(bundle.elm.encoder, "forward", lambda x: (encoded.append(len(x)), encode(x))[1])
    numbers = {"pad_id": bundle.prompter.tokenizer.pad_token_id, "ecg_ids": bundle.prompter.ecg_ids, "room": 8}
    whole = read_prompts(bundle.elm, examples, share=False, **numbers)
    plain_ecgs = sum(encoded)
    assert plain_ecgs == sum(0 if e.ecg is None else len(e.ecg) for e in examples)
    encoded.clear()
    shared = read_prompts(bundle.elm, examples, share=True, **numbers)
    assert sum(encoded) == 3 + 2 + 2 + 1  # each single ECG once, the pair once, the other pair, the one asked alone
    torch.testing.assert_close(shared.logits, whole.logits, atol=1e-4, rtol=1e-4)
    assert shared.lengths.tolist() == whole.lengths.tolist() == [len(e.input_ids) for e in examples]
    levels = plan(examples, bundle.prompter.ecg_ids)
    tokens = sum(n.stop - n.start for level in levels for n in level)
    assert len(levels) == 3 and tokens < 0.4 * sum(len(e.input_ids) for e in examples)


def test_levels_cover_every_token_once_on_the_way_to_each_row(trained: Bundle, world) -> None:
    examples = prompts(trained, world)
    levels = plan(examples, trained.prompter.ecg_ids)
    for number, example in enumerate(examples):
        node = next(n for n in levels[-1] if n.row == number)
        stretches = [example.input_ids[node.start : node.stop]]
        for level in levels[-2::-1]:
            start = node.start
            node = level[node.parent]
            assert node.stop == start
            stretches.insert(0, examples[node.row].input_ids[node.start : node.stop])
        assert node.start == 0
        np.testing.assert_array_equal(np.concatenate(stretches), example.input_ids)


def test_prompts_with_nothing_in_common_are_read_as_a_whole(trained: Bundle, world) -> None:
    examples = prompts(trained, world, system=False)
    alone = [e for e in examples if e.ecg is None][:1]
    assert plan(alone, trained.prompter.ecg_ids) == []


@pytest.mark.parametrize("family", ["llama", "gemma2, narrow", "gpt2"])
def test_later_questions_go_on_where_the_earlier_ended(family: str, trained: Bundle, world, monkeypatch) -> None:
    """Three turns with a memory: the same answers as each turn read anew, and the ECG encoded in the first alone."""
    bundle = with_family(trained, family)
    prompter = replace(bundle.prompter, max_len=480)
    ecgs = EcgSource([SegmentStore(world.store)], bundle.representation)
    records = SegmentStore(world.store).records()
    encoded: list[int] = []
    encode = bundle.elm.encoder.forward
    monkeypatch.setattr(bundle.elm.encoder, "forward", lambda x: (encoded.append(len(x)), encode(x))[1])
    found: dict[bool, list[Any]] = {}
    for remember in (True, False):
        memory = Memory() if remember else None
        talks = [[Turn("user", f"<ecg>\n{q}")] for q in QUESTIONS]
        found[remember] = []
        encoded.clear()
        for turn in range(3):
            asked = list(range(len(talks) - turn))  # talks of different length
            shown = [[ecgs.encode(records[i])] for i in asked]
            examples = [prompter.build(str(i), talks[i], s, generate=True) for i, s in zip(asked, shown, strict=True)]
            answers = generate(bundle.elm, prompter, examples, max_new_tokens=8, memory=memory, talks=asked)
            found[remember].append(answers)
            for i, answer in zip(asked, answers, strict=True):
                talks[i] += [Turn("assistant", answer["text"]), Turn("user", "And " + "the axis?" * (i + 1))]
        sums = sum(encoded)
        assert sums == (4 if remember and family != "gemma2, narrow" else 4 + 3 + 2)
    assert found[True] == found[False]


def test_a_later_question_that_shows_another_ecg_is_read_anew(trained: Bundle, world) -> None:
    ecgs = EcgSource([SegmentStore(world.store)], trained.representation)
    records = SegmentStore(world.store).records()
    both = [ecgs.encode(r) for r in records[:2]]
    first = [Turn("user", "<ecg>\nThe rhythm?")]
    later = [*first, Turn("assistant", "sinus rhythm"), Turn("user", "And here: <ecg>")]
    memory = Memory()
    for turns, shown in ((first, both[:1]), (later, both)):
        example = trained.prompter.build("x", turns, shown, generate=True)
        found = generate(trained.elm, trained.prompter, [example], max_new_tokens=8, memory=memory)
        assert found == generate(trained.elm, trained.prompter, [example], max_new_tokens=8, share=False)


def test_what_a_model_can_look_back_on() -> None:
    assert window_of(language_model("llama", 300)) is None
    assert window_of(language_model("gpt2", 300)) is None
    assert window_of(language_model("mistral, narrow", 300)) == 24
    assert window_of(language_model("gemma2", 300)) == 400
    from transformers import BloomConfig, BloomForCausalLM, MambaConfig, MambaForCausalLM

    assert window_of(MambaForCausalLM(MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1))) == -1
    assert window_of(BloomForCausalLM(BloomConfig(vocab_size=50, hidden_size=16, n_layer=1, n_head=2))) == -1


@pytest.mark.parametrize("merge", ["flat", "spatial_unpad"])
def test_pictures_of_several_tiles_and_sizes_share_their_beginnings(merge: str) -> None:
    """Pages of three sizes, three questions each, and a pair: as one by one."""
    shown = AnyresRepresentation(image_size=(28, 28), patches=(2, 2), size=(220, 170), merge=merge)
    config = ModelConfig(
        tiny=TinyConfig(hidden=32, num_layers=2, num_heads=2, vocab_size=300),
        encoder="clip",
        encoder_options={"size": "nano", "config": {"image_size": 28, "patch_size": 14}},
    )
    bundle = create(config, shown, {"rate": 100}, ["What is the rhythm? sinus"], 0)
    drawn = np.random.default_rng(0)
    pages = [
        shown.of_picture(drawn.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for height, width in ((170, 220), (30, 100), (90, 25))
    ]
    talks = [([page], q) for q in QUESTIONS[:3] for page in pages] + [(pages[:2], "Alike?")]
    examples = [
        bundle.prompter.build(str(n), [Turn("user", "<ecg>" * len(ecgs) + q)], ecgs, generate=True)
        for n, (ecgs, q) in enumerate(talks)
    ]
    found = generate(bundle.elm, bundle.prompter, examples, max_new_tokens=8)
    alone = [generate(bundle.elm, bundle.prompter, [e], max_new_tokens=8, share=False)[0] for e in examples]
    assert found == alone and len({a["text"] for a in found}) > 3


def test_keys_and_values_grow_in_their_room_and_copies_keep_theirs() -> None:
    """Against plain concatenation, over several rooms, with rows that leave and two that go on from one beginning."""
    drawn = torch.Generator().manual_seed(0)

    def some(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, 2, columns, 4, generator=drawn)

    layer, wanted = _Layer(), some(3, 5)
    layer.update(wanted, -wanted)
    kept, before = copy.copy(layer), wanted
    for rows in ([0, 1, 2], [2, 0, 0]):
        layer = copy.copy(layer)
        layer.batch_select_indices(torch.tensor(rows))
        wanted = wanted[rows]
        for _ in range(40):
            new = some(3, 1)
            wanted = torch.cat([wanted, new], dim=2)
            keys, values = layer.update(new, -new)
            assert torch.equal(keys, wanted) and torch.equal(values, -wanted)
    branch, new = copy.copy(layer), some(3, 1)
    layer.update(some(3, 1), some(3, 1))
    assert torch.equal(branch.update(new, new)[0], torch.cat([wanted, new], dim=2))
    assert torch.equal(kept.keys, before) and layer.get_seq_length() == 86
