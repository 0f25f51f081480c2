"""Attention maps: models whose attention is known in closed form, the library's own weights, places that add up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from matplotlib.image import AxesImage
from transformers import GPT2Config, GPT2LMHeadModel, MambaConfig, MambaForCausalLM, OPTConfig, OPTForCausalLM

from ecglm.analysis.attention import (
    AttentionMap,
    Position,
    attention_map,
    attention_rows,
    layout,
    on_patches,
    patches_to_samples,
)
from ecglm.analysis.attention_plot import draw_attention, save_attention
from ecglm.analysis.results import save_figure
from ecglm.cli import main
from ecglm.errors import EcglmError
from ecglm.models.checkpoint import Bundle, ModelConfig, create, from_pretrained
from ecglm.models.connector import Connector
from ecglm.models.elm import Elm
from ecglm.prompts.collate import collate
from ecglm.representations.image import ImageRepresentation
from ecglm.representations.pictures import Pooling
from ecglm.store.reader import SegmentStore
from ecglm.types import LEADS, EcgInput, Example, Turn

QUESTION = "What is the rhythm?"


def bundle_of(run: Path, uniform: bool) -> Bundle:
    """A trained model; uniform: its queries are zero, so that every token looks at all before it alike."""
    bundle = from_pretrained(run / "best")
    if uniform:
        with torch.no_grad():
            for layer in bundle.elm.llm.model.layers:
                layer.self_attn.q_proj.weight.zero_()
    return bundle


@pytest.fixture(scope="module")
def segment(world) -> np.ndarray:
    return SegmentStore(world.store)[0]


def example_of(bundle: Bundle, segment: np.ndarray, found: AttentionMap) -> Example:
    turns = [Turn("user", found.question), Turn("assistant", found.answer)]
    return bundle.prompter.build("x", turns, [bundle.representation(segment, 50)])


@pytest.mark.parametrize("kind", ["symbols", "signal"])
def test_uniform_attention_in_closed_form(kind: str, request, segment: np.ndarray) -> None:
    """Row t of a causal softmax over equal scores is 1 / (t + 1) up to t, and nothing after."""
    bundle = bundle_of(request.getfixturevalue(f"{kind}_run"), uniform=True)
    found = attention_map(bundle, segment, 50, QUESTION, answer="sinus rhythm")
    ids = example_of(bundle, segment, found).input_ids
    length, ecg_ids = len(ids), set(bundle.prompter.ecg_ids)
    assert len(found.positions) == length
    at = {k: [i for i, p in enumerate(found.positions) if p.kind == k] for k in ("question", "answer", "ecg")}
    assert at["ecg"] == [i for i, token in enumerate(ids.tolist()) if token in ecg_ids]
    rows = [at["question"], at["answer"], *([i] for i in at["answer"])]
    assert found.rows[:2] == ("question", "answer") and len(found.rows) == len(rows)
    for number, queries in enumerate(rows):
        expected = np.mean([np.where(np.arange(length) <= t, 1 / (t + 1), 0.0) for t in queries], axis=0)
        np.testing.assert_allclose(found.weights[number], expected, atol=1e-6)
        # ECG tokens all stand before the question's words, so each has the same weight
        weight = np.mean([1 / (t + 1) for t in queries if t >= at["ecg"][-1]])
        weight *= sum(t >= at["ecg"][-1] for t in queries) / len(queries)
        total = found.totals()[number]
        assert total["ecg"] == pytest.approx(weight * len(at["ecg"]), abs=1e-6)
        assert total["ecg"] + total["text"] == pytest.approx(1, abs=1e-6)
        if kind == "signal":  # four placeholders, each a quarter of the time in all leads
            np.testing.assert_allclose(found.ecg[number], weight * 4 / (12 * 250), atol=1e-8)
            assert total["samples"] == pytest.approx(total["ecg"], abs=1e-6) and found.seen.all()
        else:
            np.testing.assert_allclose(found.ecg[number], symbols_map(bundle, ids, weight), atol=1e-8)
            num_named = 2
            assert total["ecg"] - total["samples"] == pytest.approx(num_named * weight, abs=1e-6)


def symbols_map(bundle: Bundle, ids: np.ndarray, weight: float) -> np.ndarray:
    """Expected map of equal weights: from the tokens' texts, at 25 Hz under a segment at 50 Hz."""
    out = np.zeros((12, 250))
    lead, at = None, 0
    for token in ids.tolist():
        text = bundle.prompter.tokenizer.convert_ids_to_tokens(token)
        if text.startswith("<lead_"):
            lead, at = LEADS.index(text[6:-1]), 0
        elif text.startswith("signal_"):
            size = len(bundle.representation.tokenizer.decode_symbols([int(text[7:])]))
            out[lead, 2 * at : 2 * (at + size)] = weight / (2 * size)
            at += size
    return out


@pytest.mark.parametrize("kind", ["symbols", "signal"])
def test_the_weights_are_the_librarys_and_do_not_depend_on_company(kind: str, request, segment: np.ndarray) -> None:
    """Against the attentions that the model gives for a padded batch of two, mean over layers and heads."""
    bundle = bundle_of(request.getfixturevalue(f"{kind}_run"), uniform=False)
    found = attention_map(bundle, segment, 50, QUESTION)
    example = example_of(bundle, segment, found)
    longer = [Turn("user", "<ecg>\nIs the axis of this ECG normal?"), Turn("assistant", found.answer)]
    other = bundle.prompter.build("y", longer, [bundle.representation(segment[::-1].copy(), 50)])
    batch = collate([other, example], pad_id=bundle.prompter.tokenizer.pad_token_id)
    llm = bundle.elm.llm
    llm.set_attn_implementation("eager")
    with torch.no_grad():
        embeds = bundle.elm.embed(batch["input_ids"], batch.get("ecg"))
        theirs = llm(inputs_embeds=embeds, attention_mask=batch["attention_mask"], output_attentions=True).attentions
    size = len(example.input_ids)
    mean = torch.stack(theirs)[:, 1, :, :size, :size].mean(dim=(0, 1)).numpy()
    kinds = np.array([p.kind for p in found.positions])
    answer = np.flatnonzero(kinds == "answer")
    np.testing.assert_allclose(found.weights[0], mean[kinds == "question"].mean(0), atol=1e-6)
    np.testing.assert_allclose(found.weights[1], mean[answer].mean(0), atol=1e-6)
    np.testing.assert_allclose(found.weights[2:], mean[answer], atol=1e-6)
    np.testing.assert_allclose(found.weights.sum(axis=1), 1, atol=1e-6)
    on_ecg = found.weights[:, kinds == "ecg"].sum(axis=1)
    assert (found.ecg.sum(axis=(1, 2)) <= on_ecg + 1e-9).all() and (on_ecg <= 1).all()
    spread = found.weights[:, kinds == "ecg"]
    np.testing.assert_allclose(found.ecg, bundle.representation.spread(spread, segment, 50), atol=1e-9)
    assert not np.allclose(spread[1], spread[1].mean(), rtol=0.05)  # a trained model has a preference


def test_the_model_is_left_as_it_was(signal_run, segment: np.ndarray) -> None:
    bundle = bundle_of(signal_run, uniform=False)
    before = bundle.elm.llm.config._attn_implementation
    attention_map(bundle, segment, 50, QUESTION, answer="x")
    assert bundle.elm.llm.config._attn_implementation == before != "eager"
    assert not any(m._forward_hooks for m in bundle.elm.llm.modules())


def other_families() -> dict[str, Any]:
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "num_attention_heads": 2, "num_hidden_layers": 3}
    gpt2 = GPT2Config(vocab_size=40, n_embd=16, n_layer=3, n_head=2, n_positions=64, initializer_range=0.5)
    opt = OPTConfig(hidden_size=16, ffn_dim=32, word_embed_proj_dim=8, init_std=0.5, **sizes)
    return {"gpt2": GPT2LMHeadModel(gpt2), "opt": OPTForCausalLM(opt)}


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_other_families_show_theirs_too(family: str) -> None:
    llm = other_families()[family].eval()
    ids = np.arange(3, 23)
    found = attention_rows(Elm(llm), Example("x", ids, ids), np.eye(20))
    llm.set_attn_implementation("eager")
    with torch.no_grad():
        theirs = llm(torch.from_numpy(ids)[None], output_attentions=True).attentions
    np.testing.assert_allclose(found, torch.stack(theirs)[:, 0].mean(dim=(0, 1)).numpy(), atol=1e-6)
    assert np.abs(found[10, :10] - found[10, :10].mean()).max() > 0.01


def test_a_model_without_attention_is_refused() -> None:
    llm = MambaForCausalLM(MambaConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, state_size=4))
    ids = np.arange(5)
    with pytest.raises(EcglmError, match="shows the attention of 0 of its 1 layers"):
        attention_rows(Elm(llm), Example("x", ids, ids), np.eye(5))


def test_each_token_is_what_it_is(symbols_run, segment: np.ndarray) -> None:
    bundle = bundle_of(symbols_run, uniform=False)
    prompter, shown = bundle.prompter, bundle.representation(segment, 50)
    shown = EcgInput(shown.token_ids, None, text=" rate 72 bpm.")
    turns = [Turn("system", "Be brief."), Turn("user", f"<ecg>\n{QUESTION}"), Turn("assistant", "sinus rhythm")]
    example = prompter.build("x", turns, [shown])
    found = layout(prompter, turns, shown, example)
    text = {k: "".join(p.text for p in found if p.kind == k) for k in {p.kind for p in found}}
    assert text["system"] == "Be brief." and text["question"] == f"\n{QUESTION}"
    assert text["answer"] == "sinus rhythm" and text["words"] == " rate 72 bpm."
    assert text["control"].count("<|im_start|>") == 3
    assert sum(p.kind == "ecg" for p in found) == len(shown.token_ids)
    with pytest.raises(EcglmError, match="longer than the model takes"):
        layout(prompter, turns[1:], shown, example)


@pytest.mark.parametrize("question, told", [(" ", "question is empty"), ("<ecg> and <ecg>?", "shows 2 ECGs")])
def test_questions_that_cannot_be_asked(question: str, told: str, signal_run, segment: np.ndarray) -> None:
    with pytest.raises(EcglmError, match=told):
        attention_map(bundle_of(signal_run, False), segment, 50, question)


@pytest.mark.parametrize(
    "patches, grid, extra", [((4, 4), (2, 2), 0), ((14, 14), (5, 5), 1), ((3, 7), (2, 5), 0), ((2, 3), (2, 3), 1)]
)
def test_a_placeholder_stands_for_the_patches_its_vector_is_the_mean_of(patches, grid, extra) -> None:
    """Against the derivative of the connector's own pooling: how much of each patch is in each vector."""
    pooling = Pooling(patches, grid, extra)
    number = extra + grid[0] * grid[1]
    connector = Connector("linear", dim=1, hidden=1, num_tokens=number, pooling=pooling)
    connector.project = torch.nn.Identity()
    weights = np.random.default_rng(0).random((3, number))
    found = on_patches(weights, pooling)
    for row, expected in zip(weights, found, strict=True):
        tokens = torch.zeros(1, extra + patches[0] * patches[1], 1, requires_grad=True)
        (connector(tokens)[0, :, 0] @ torch.from_numpy(row).float()).backward()
        np.testing.assert_allclose(expected.ravel(), tokens.grad[0, extra:, 0], atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=(1, 2)), weights[:, extra:].sum(axis=1))  # a class token is no place


def test_a_patch_is_shared_by_the_samples_drawn_in_it() -> None:
    patches = np.array([[[0.4, 0.2], [0.3, 0.1]]])
    lead, sample = np.array([0, 0, 1, 1, 1]), np.array([0, 1, 0, 1, 2])
    x, y = np.array([0.0, 3.4, 12.0, 2.0, 30.0]), np.array([2.0, 7.4, 3.0, 9.0, 9.0])
    found = patches_to_samples(patches, (lead, sample, x, y), (16, 16), (2, 3))
    # two samples in the first patch; one right of it; one below; the last is off the picture, one patch stands empty
    np.testing.assert_allclose(found, [[[0.2, 0.2, 0.0], [0.2, 0.3, 0.0]]])


def test_a_picture_model_looks_at_leads(world, segment: np.ndarray) -> None:
    """Uniform attention of one placeholder per patch: samples share what lies on their patches."""
    representation = ImageRepresentation(layout="12x1", image_size=(64, 64), num_tokens=16)
    tower = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    options = {"config": {**tower, "image_size": 64, "patch_size": 16}}
    config = ModelConfig(tiny=world.recipe().model.tiny, encoder="vit", encoder_options=options)
    bundle = create(config, representation, {"rate": 50}, [QUESTION, "sinus rhythm"], seed=0)
    with torch.no_grad():
        for layer in bundle.elm.llm.model.layers:
            layer.self_attn.q_proj.weight.zero_()
    found = attention_map(bundle, segment, 50, QUESTION, answer="sinus rhythm")
    total = found.totals()[1]
    assert found.patches.shape[1:] == (4, 4)
    np.testing.assert_allclose(found.patches[1], total["ecg"] / 16, atol=1e-7)
    assert total["samples"] == pytest.approx(found.ecg[1].sum()) and 0 < total["samples"] <= total["ecg"]
    _, _, x, y = representation.points(segment, 50)
    drawn = {(int((b + 0.5) // 16), int((a + 0.5) // 16)) for a, b in zip(x, y, strict=True)}
    assert total["samples"] == pytest.approx(len(drawn) * total["ecg"] / 16, abs=1e-6)
    assert found.seen.all() and draw_attention(found, 1)


def test_a_pooled_picture_model_looks_at_quarters(world, segment: np.ndarray) -> None:
    """Four placeholders for 16 patches: each is a quarter of the page, and none runs across an end of a row."""
    representation = ImageRepresentation(layout="12x1", image_size=(64, 64), num_tokens=4)
    tower = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    options = {"config": {**tower, "image_size": 64, "patch_size": 16}}
    config = ModelConfig(tiny=world.recipe().model.tiny, encoder="vit", encoder_options=options)
    bundle = create(config, representation, {"rate": 50}, [QUESTION, "sinus rhythm"], seed=0)
    found = attention_map(bundle, segment, 50, QUESTION, answer="sinus rhythm")
    on_ecg = found.weights[1][[p.kind == "ecg" for p in found.positions]]
    assert len(on_ecg) == 4 and found.patches[1].shape == (4, 4)
    np.testing.assert_allclose(found.patches[1], np.kron(on_ecg.reshape(2, 2), np.full((2, 2), 0.25)), atol=1e-12)


@pytest.fixture(scope="module")
def made(symbols_run, segment: np.ndarray) -> AttentionMap:
    return attention_map(bundle_of(symbols_run, uniform=False), segment, 50, QUESTION, answer="no")


def test_the_data_lies_beside_the_pictures(made: AttentionMap, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    drawn: list[int] = []
    save_attention(made, tmp_path / "a", drawn.append)
    with np.load(tmp_path / "a" / "attention.npz", allow_pickle=False) as stored:
        assert set(stored) == {"weights", "ecg", "segment", "seen"}
        np.testing.assert_array_equal(stored["ecg"], made.ecg)
        np.testing.assert_array_equal(stored["weights"], made.weights)
    facts = json.loads((tmp_path / "a" / "attention.json").read_text())
    assert [p["kind"] for p in facts["positions"]] == [p.kind for p in made.positions]
    assert [r["looks"] for r in facts["rows"]] == list(made.rows)
    for row, ecg in zip(facts["rows"], made.ecg, strict=True):
        assert row["ecg"] + row["text"] == pytest.approx(1, abs=1e-5)
        assert row["per_lead"]["V1"] == pytest.approx(ecg[LEADS.index("V1")].sum(), abs=1e-5)
        picture = cv2.imread(str(tmp_path / "a" / row["picture"]))
        assert picture is not None and picture.shape[1] > 1000
    names = {r["picture"] for r in facts["rows"]}
    assert {"question.png", "answer.png", "token-00.png"} <= names and drawn == list(range(1, len(names) + 1))
    save_attention(made, tmp_path / "b")
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name


def test_one_colour_scale_for_all_leads(made: AttentionMap) -> None:
    figure = draw_attention(made, 1)
    images = [i for ax in figure.axes for i in ax.images if isinstance(i, AxesImage)]
    assert len(images) == 2  # the leads that were shown
    assert len({(i.norm.vmin, i.norm.vmax) for i in images}) == 1
    for image, lead in zip(images, ("I", "V1"), strict=True):
        row = made.ecg[1, LEADS.index(lead)]
        np.testing.assert_allclose(image.get_array()[0], 100 * 50 * row, rtol=1e-6)  # % per second
    title = figure.get_suptitle()
    total = made.totals()[1]
    names = total["ecg"] - total["samples"]
    assert f"ECG {total['ecg']:.1%} (of it {names:.1%} on the names of leads), text {total['text']:.1%}" in title


def test_awkward_tokens_can_be_drawn(made: AttentionMap, tmp_path: Path) -> None:
    positions = tuple(Position("$x_{\n", p.kind) if p.kind == "control" else p for p in made.positions)
    odd = AttentionMap(**{**vars(made), "positions": positions, "question": "<ecg> $\\frac$?", "ecg": None})
    figure = draw_attention(odd, 0)
    save_figure(figure, tmp_path / "odd.png")
    assert (tmp_path / "odd.png").stat().st_size > 10_000


def test_the_verb(world, symbols_run, tmp_path: Path, capsys) -> None:
    base = ["attention", QUESTION, "--model", str(symbols_run / "best"), "--out", str(tmp_path / "out")]
    assert main([*base, "--store", str(world.store), "--segment", "0", "--max-new-tokens", "1"]) == 0
    said = capsys.readouterr().out
    assert "answer → ECG" in said and "text" in said and "most: " in said
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}
    assert {"attention.npz", "attention.json", "question.png", "manifest.json"} <= before.keys()
    assert main([*base, "--store", str(world.store), "--segment", "0", "--max-new-tokens", "1"]) == 0  # reused
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()} == before
    assert main([*base, "--store", str(world.store), "--segment", "1"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    for wrong, told in (
        ([], "--store DIR --segment N, or --ecg FILE"),
        (["--store", str(world.store)], "go together"),
        (["--store", str(world.store), "--segment", "999"], "no segment 999"),
        (["--ecg", str(tmp_path / "absent.csv")], "absent.csv"),
    ):
        assert main([*base, *wrong]) == 2
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1


def test_the_verb_reads_a_recording(world, signal_run, tmp_path: Path, capsys) -> None:
    from ecglm.records.synthetic import Synthetic

    source = Synthetic(num_patients=12, seed=3)
    store = SegmentStore(world.store)
    record = source.read(store.records()[0])
    np.save(tmp_path / "x.npy", record.signal)
    given = ["--rate", str(record.sampling_rate), "--leads", ",".join(record.leads), "--units", "mV"]
    base = ["attention", QUESTION, "--model", str(signal_run / "best"), "--max-new-tokens", "1"]
    assert main([*base, "--ecg", str(tmp_path / "x.npy"), *given, "--out", str(tmp_path / "file")]) == 0
    number = str(store.segments_of(store.records()[0])[0])
    assert main([*base, "--store", str(world.store), "--segment", number, "--out", str(tmp_path / "store")]) == 0
    capsys.readouterr()
    a, b = ((tmp_path / n / "attention.npz").read_bytes() for n in ("file", "store"))
    assert a == b  # the same ECG by either way
