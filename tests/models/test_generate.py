"""Generation: the same answers alone as in company, and the same as the library gives from ids."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM

from ecglm.errors import EcglmError
from ecglm.models.checkpoint import Bundle, ModelConfig, create, from_pretrained
from ecglm.models.elm import Elm
from ecglm.models.generate import Sampling, generate
from ecglm.models.stream import draw
from ecglm.models.stream import never as never_given
from ecglm.prompts.data import EcgSource
from ecglm.randomness import generator_for
from ecglm.representations.signal import SignalRepresentation
from ecglm.store.reader import SegmentStore
from ecglm.types import Example, Turn


def prompts(bundle: Bundle, world) -> list[Example]:
    """Every question of the world, and some of very different length."""
    ecgs = EcgSource([SegmentStore(world.store)], bundle.representation)
    talks = [([c.turns[0]], c.ecgs) for c in world.conversations()]
    records = SegmentStore(world.store).records()
    talks += [
        ([Turn("user", "<ecg>" + " What is the rhythm?" * 5)], records[:1]),
        ([Turn("user", "?")], []),
        ([Turn("user", "<ecg> <ecg>")], records[:2]),
    ]
    return [
        bundle.prompter.build(str(n), turns, [ecgs.encode(e) for e in shown], generate=True)
        for n, (turns, shown) in enumerate(talks)
    ]


@pytest.mark.parametrize("kind", ["signal", "symbols"])
def test_batched_left_padded_equals_one_by_one(kind: str, world, request) -> None:
    bundle = from_pretrained(request.getfixturevalue(f"{kind}_run") / "best")
    examples = prompts(bundle, world)
    assert len({len(e.input_ids) for e in examples}) > 5
    batched = generate(bundle.elm, bundle.prompter, examples, max_new_tokens=12)
    single = [generate(bundle.elm, bundle.prompter, [e], max_new_tokens=12)[0] for e in examples]
    assert batched == single
    assert len({a["text"] for a in batched}) > 2  # else anything would be equal
    assert {a["truncated"] for a in batched} == {True, False}
    assert all(a["num_tokens"] == 12 for a in batched if a["truncated"])


@pytest.mark.parametrize("family", ["gpt2", "opt", "qwen2"])
def test_every_family_answers_a_batch_as_one_by_one(family: str, world, llm_folders) -> None:
    """Learned positions (GPT-2, OPT) and rotary ones (Qwen2) alike, ECG at the front."""
    representation = SignalRepresentation(num_tokens=4, num_samples=250)
    options = {"widths": [16, 16], "stem_stride": 4}
    config = ModelConfig(llm=str(llm_folders[family]), encoder_options=options, max_len=200)
    bundle = create(config, representation, {"rate": 50}, [], seed=0)
    examples = prompts(bundle, world)
    batched = generate(bundle.elm, bundle.prompter, examples, max_new_tokens=8)
    assert batched == [generate(bundle.elm, bundle.prompter, [e], max_new_tokens=8)[0] for e in examples]
    assert len({a["text"] for a in batched}) > 2


@pytest.mark.parametrize("family", ["gpt2", "opt", "qwen2", "tiny"])
def test_from_embeddings_equals_from_ids_without_a_cache(family: str, world, signal_run, llm_folders) -> None:
    """Greedy by hand: the argmax of a full forward pass over ids, one token at a time."""
    if family == "tiny":
        bundle = from_pretrained(signal_run / "best")
    else:
        config = ModelConfig(
            llm=str(llm_folders[family]), encoder_options={"widths": [16], "stem_stride": 4}, max_len=200
        )
        bundle = create(config, SignalRepresentation(num_tokens=4, num_samples=250), {"rate": 50}, [], seed=0)
    for question in ("What is the rhythm?", "72 bpm, and the axis?"):
        example = bundle.prompter.build("x", [Turn("user", question)], [], generate=True)
        ids = torch.from_numpy(example.input_ids)[None]
        wanted: list[int] = []
        with torch.no_grad():
            while len(wanted) < 10:
                token = int(bundle.elm.llm(input_ids=ids).logits[0, -1].argmax())
                if token == bundle.prompter.end_id:
                    break
                wanted.append(token)
                ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
        got = generate(bundle.elm, bundle.prompter, [example], max_new_tokens=10)[0]
        assert got["num_tokens"] == len(wanted)
        assert got["text"] == bundle.prompter.tokenizer.decode(wanted, skip_special_tokens=True).strip()


def test_a_models_own_sampling_settings_are_not_followed(world, signal_run) -> None:
    bundle = from_pretrained(signal_run / "best")
    examples = prompts(bundle, world)[:4]
    greedy = generate(bundle.elm, bundle.prompter, examples, max_new_tokens=8)
    settings = bundle.elm.llm.generation_config
    settings.do_sample, settings.temperature, settings.repetition_penalty, settings.top_k = True, 5.0, 3.0, 50
    assert generate(bundle.elm, bundle.prompter, examples, max_new_tokens=8) == greedy


def tiny_bundle(world, llm_folders, family: str = "qwen2") -> Bundle:
    representation = SignalRepresentation(num_tokens=4, num_samples=250)
    options = {"widths": [16], "stem_stride": 4}
    config = ModelConfig(llm=str(llm_folders[family]), encoder_options=options, max_len=200)
    return create(config, representation, {"rate": 50}, [], seed=0)


def test_drawn_answers_do_not_depend_on_company_but_on_seed_and_id(world, signal_run) -> None:
    bundle = from_pretrained(signal_run / "best")
    examples = prompts(bundle, world)[:12]
    drawn = Sampling(temperature=1.2, top_p=0.9, seed=3)

    def answers(some: list[Example], sampling: Any = drawn, **options: Any) -> list[Any]:
        return generate(bundle.elm, bundle.prompter, some, max_new_tokens=8, sampling=sampling, **options)

    together = answers(examples)
    assert together == [answers([e])[0] for e in examples] == answers(examples[::-1])[::-1]
    assert together == answers(examples, share=False)
    assert together != answers(examples, Sampling(temperature=1.2, top_p=0.9, seed=4))
    renamed = [replace(e, id=f"other {e.id}") for e in examples]
    assert together != answers(renamed)
    mixed = [drawn if i % 2 else None for i in range(len(examples))]
    greedy = answers(examples, None)
    assert answers(examples, mixed) == [
        t if i % 2 else g for i, (t, g) in enumerate(zip(together, greedy, strict=True))
    ]


def test_a_low_temperature_or_a_small_top_p_is_greedy(world, signal_run) -> None:
    bundle = from_pretrained(signal_run / "best")
    examples = prompts(bundle, world)[:6]
    greedy = generate(bundle.elm, bundle.prompter, examples, max_new_tokens=8)
    for sampling in (Sampling(temperature=1e-4), Sampling(top_p=1e-6)):
        assert generate(bundle.elm, bundle.prompter, examples, max_new_tokens=8, sampling=sampling) == greedy


def test_tokens_are_drawn_with_the_probabilities_they_have() -> None:
    """Against the closed form: softmax at the temperature, cut to the nucleus and scaled to one."""
    logits = torch.tensor([2.0, 0.5, -torch.inf, 1.0, 0.0])
    stream = generator_for(0, "test")
    for temperature, top_p, kept in ((1.0, 1.0, [0, 1, 3, 4]), (2.0, 0.7, [0, 3, 1]), (1.0, 0.5, [0])):
        wanted = np.zeros(5)
        chances = np.exp(logits.numpy().astype(float) / temperature)
        wanted[kept] = chances[kept] / chances[kept].sum()
        drawn = draw(
            logits.expand(4000, -1), [Sampling(temperature, top_p)] * 4000, stream.random(4000).tolist()
        ).numpy()
        found = np.bincount(drawn, minlength=5) / 4000
        assert np.abs(found - wanted).max() < 0.03
        assert found[np.setdiff1d(np.arange(5), kept)].sum() == 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"temperature": 0.0}, "temperature must be above 0, found 0; leave it out"),
        ({"temperature": float("nan")}, "temperature must be above 0"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, found 0"),
        ({"top_p": 1.5}, "top_p must be"),
    ],
)
def test_sampling_that_cannot_be_is_told(options: dict[str, float], told: str) -> None:
    with pytest.raises(EcglmError, match=told):
        Sampling(**options)


@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_placeholders_padding_and_spare_rows_are_never_given(family: str, world, llm_folders) -> None:
    """A model that likes nothing better than those: its answers hold other tokens."""
    bundle = tiny_bundle(world, llm_folders, family)
    llm, tokenizer = bundle.elm.llm, bundle.prompter.tokenizer
    llm.resize_token_embeddings(len(tokenizer) + 7, mean_resizing=False)  # spare rows
    size = len(tokenizer) + 7
    never = never_given(bundle.prompter, size)
    wanted = {*bundle.prompter.ecg_ids, *range(len(tokenizer), size)}
    assert wanted <= set(never) <= wanted | {tokenizer.pad_token_id} and bundle.prompter.end_id not in never
    examples = prompts(bundle, world)[:4]
    forward, seen = llm.forward, []

    def liking(*args: Any, **given: Any) -> Any:
        out = forward(*args, **given)
        out.logits[..., never] += 1000.0
        seen.append(out.logits.shape[1])
        return out

    plain = generate(bundle.elm, bundle.prompter, examples, max_new_tokens=6)
    liking.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    llm.forward = liking
    try:
        assert generate(bundle.elm, bundle.prompter, examples, max_new_tokens=6) == plain
        sampled = generate(bundle.elm, bundle.prompter, examples, max_new_tokens=6, sampling=Sampling())
    finally:
        llm.forward = forward
    names = tokenizer.convert_ids_to_tokens(list(bundle.prompter.ecg_ids))
    assert seen and not any(name in a["text"] for a in sampled for name in names)


def test_a_model_with_a_table_of_positions_stops_at_its_end(world, llm_folders) -> None:
    """GPT-2 has 256 positions: what is asked for beyond them is cut, not an error, and told."""
    bundle = tiny_bundle(world, llm_folders, "gpt2")
    long = Turn("user", "What is the rhythm? " * 40)
    prompter = replace(bundle.prompter, max_len=256)
    example = prompter.build("x", [long], [], generate=True)
    size = len(example.input_ids)
    short = prompter.build("y", [Turn("user", "?")], [], generate=True)
    found = generate(bundle.elm, prompter, [example, short], max_new_tokens=400)
    assert found[0]["num_tokens"] <= 256 - size and found[1]["num_tokens"] <= 256 - len(short.input_ids)
    for answer, room in zip(found, (256 - size, 256 - len(short.input_ids)), strict=True):
        assert answer["truncated"] is (answer["num_tokens"] == room)
    full = replace(example, input_ids=np.resize(example.input_ids, 256), labels=np.resize(example.labels, 256))
    nothing = generate(bundle.elm, prompter, [full], max_new_tokens=4)
    assert nothing == [{"text": "", "truncated": True, "num_tokens": 0}]


def test_models_without_keys_and_values_answer_by_the_library(world, signal_run) -> None:
    """Mamba keeps a state of its own; a batch of one length needs no padding there."""
    trained = from_pretrained(signal_run / "best")
    torch.manual_seed(0)
    size = len(trained.prompter.tokenizer)
    llm = MambaForCausalLM(
        MambaConfig(vocab_size=size, hidden_size=32, num_hidden_layers=1, state_size=4, initializer_range=0.5)
    )
    elm = Elm(llm.eval(), trained.elm.encoder, trained.elm.connector, trained.elm.placeholder_id).eval()
    example = prompts(trained, world)[0]
    found = generate(elm, trained.prompter, [example], max_new_tokens=5)
    assert len(found) == 1 and 0 <= found[0]["num_tokens"] <= 5
    with pytest.raises(EcglmError, match="MambaForCausalLM cannot be sampled from"):
        generate(elm, trained.prompter, [example], max_new_tokens=5, sampling=Sampling())


def test_no_examples_no_answers(world, signal_run) -> None:
    bundle = from_pretrained(signal_run / "best")
    assert generate(bundle.elm, bundle.prompter, []) == []


def test_logits_that_are_no_numbers_are_an_error_not_an_answer(world, signal_run) -> None:
    bundle = from_pretrained(signal_run / "best")
    with torch.no_grad():
        next(bundle.elm.encoder.parameters()).fill_(float("nan"))
    examples = prompts(bundle, world)[:3]
    for sampling in (None, Sampling()):
        with pytest.raises(EcglmError, match=r"^0: the model answers with no numbers \(NaN\)"):
            generate(bundle.elm, bundle.prompter, examples, max_new_tokens=4, sampling=sampling)
