"""Generation: the same answers alone as in company, and the same as the library gives from ids."""

from __future__ import annotations

import pytest
import torch

from ecglm.models.checkpoint import Bundle, ModelConfig, create, from_pretrained
from ecglm.models.generate import generate
from ecglm.prompts.data import EcgSource
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
