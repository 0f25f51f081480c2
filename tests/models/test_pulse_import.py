"""Imported LLaVA-1.6 checkpoints answer as the original's code would: logits of independent models of the library."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    CLIPVisionModel,
    LlamaForCausalLM,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
)

from ecglm.errors import ConfigError, EcglmError, RejectedRecord, StaleOutputError, UnsafeInputError
from ecglm.models import pulse_import
from ecglm.models.assistant import Assistant, load
from ecglm.models.checkpoint import from_pretrained, save_pretrained
from ecglm.models.connector import TileConnector
from ecglm.models.encoders.vision import ClipTower
from ecglm.models.llava import CLIP_336, read_llava, tower_options
from ecglm.models.pulse_import import import_pulse, summary
from ecglm.prompts.collate import collate
from ecglm.types import ECG_MARK, Turn
from llava_world import (
    HIDDEN,
    PINPOINTS,
    TILE,
    Original,
    build,
    config_of,
    grid_by_hand,
    state_of,
    tiles_by_hand,
    write_llava,
    write_weights,
)

QUESTION = "What is the rhythm?"
SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
SIZES = [(220, 170), (100, 30), (25, 90), (28, 28), (61, 47)]


def page(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Original, Assistant]]:
    """Merge type → the original's models and the imported model."""
    folder = tmp_path_factory.mktemp("pulse")
    made = {}
    for merge in ("flat", "spatial", "spatial_unpad"):
        original = write_llava(folder / merge, merge=merge)
        made[merge] = (original, load(import_pulse(folder / merge, folder / f"{merge}-out")[0]))
    return made


def example(assistant: Assistant, pictures: list[np.ndarray], question: str = QUESTION) -> Any:
    shown = [assistant.encode_picture(p) for p in pictures]
    turns = [Turn("user", f"{ECG_MARK * len(pictures)}\n{question}" if pictures else question)]
    return assistant.bundle.prompter.build("x", turns, shown, generate=True)


@torch.no_grad()
def logits(assistant: Assistant, examples: list[Any], left: bool = False) -> list[torch.Tensor]:
    """Of each example, without its padding."""
    batch = collate(examples, pad_id=0, left=left)
    found = assistant.bundle.elm(
        batch["input_ids"],
        batch["attention_mask"],
        (batch["attention_mask"].cumsum(1) - 1).clamp(min=0),
        ecg=batch.get("ecg"),
        tiles=batch.get("tiles"),
    )
    return [row[mask.bool()] for row, mask in zip(found, batch["attention_mask"], strict=True)]


@torch.no_grad()
def by_hand(original: Original, merge: str, picture: np.ndarray, text: str) -> torch.Tensor:
    """The original's steps with the library's CLIP and Llama, its projector and a splice; text holds ``<image>``."""
    tiles = torch.from_numpy(tiles_by_hand(picture, PINPOINTS, TILE))
    tokens = original.vision(tiles, output_hidden_states=True).hidden_states[-2][:, 1:]
    vectors = original.projector(tokens)
    if merge == "flat":
        seen = vectors.flatten(0, 1)
    else:  # the view, permute and flatten of llava_arch.py, for tiles of 2 x 2 patches
        wide, high = grid_of(len(vectors) - 1, picture)
        seen = vectors[1:].view(high, wide, 2, 2, -1).permute(0, 2, 1, 3, 4).flatten(0, 3)
        seen = torch.cat([vectors[0], seen])
    spell = sentencepiece.SentencePieceProcessor(model_file=str(original.folder / "tokenizer.model"))
    before, after = text.split("<image>")
    table = original.llm.get_input_embeddings()
    parts = [table(torch.tensor([1, *spell.encode(before)])), seen, table(torch.tensor(spell.encode(after)))]
    return original.llm(inputs_embeds=torch.cat(parts)[None]).logits[0]


def grid_of(num_tiles: int, picture: np.ndarray) -> tuple[int, int]:
    wide, high = grid_by_hand(picture.shape[1], picture.shape[0], PINPOINTS)
    assert num_tiles == wide * high // TILE**2
    return wide // TILE, high // TILE


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("merge", ["flat", "spatial"])
def test_p17_logits_are_those_of_a_splice_by_hand(worlds: Any, merge: str, size: tuple[int, int]) -> None:
    original, assistant = worlds[merge]
    wanted = by_hand(original, merge, page(*size), f"{SYSTEM} USER: <image>\n{QUESTION} ASSISTANT:")
    found = logits(assistant, [example(assistant, [page(*size)])])[0]
    assert found.shape == wanted.shape and torch.allclose(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def library(worlds: Any) -> LlavaNextForConditionalGeneration:
    """The library's LLaVA-Next, which is spatial_unpad, with the same weights; its pinpoints are (height, width)."""
    original, _ = worlds["spatial_unpad"]
    text = original.llm.config.to_dict() | {"vocab_size": 401}
    config = LlavaNextConfig(
        vision_config=original.vision.config.to_dict() | {"model_type": "clip_vision_model"},
        text_config=text,
        image_token_index=400,
        vision_feature_layer=-2,
        image_grid_pinpoints=[[h, w] for w, h in PINPOINTS],
    )
    model = LlavaNextForConditionalGeneration(config).eval()
    state = {}
    for name, value in model.state_dict().items():
        state[name] = value
    own = {k.removeprefix("vision_model."): v for k, v in original.vision.state_dict().items()}
    for name in state:
        inner = name.removeprefix("model.")
        if inner.startswith("vision_tower."):
            state[name] = own[inner.removeprefix("vision_tower.").removeprefix("vision_model.")]
        elif inner.startswith("multi_modal_projector.linear_"):
            _, number, kind = inner.replace("linear_", "").split(".")
            state[name] = original.projector.state_dict()[f"{2 * (int(number) - 1)}.{kind}"]
        elif inner == "image_newline":
            state[name] = original.newline
        else:
            key = name if name == "lm_head.weight" else f"model.{inner.removeprefix('language_model.')}"
            value = original.llm.state_dict()[key]
            state[name] = torch.cat([value, value[:1]]) if value.shape[0] == 400 else value
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("size", SIZES)
def test_p17_logits_are_those_of_the_librarys_llava_next(worlds: Any, library: Any, size: tuple[int, int]) -> None:
    _, assistant = worlds["spatial_unpad"]
    one = example(assistant, [page(*size)])
    processor = LlavaNextImageProcessorPil(
        size={"shortest_edge": TILE},
        crop_size={"height": TILE, "width": TILE},
        image_grid_pinpoints=[[h, w] for w, h in PINPOINTS],
    )
    pixels = processor(Image.fromarray(page(*size)), return_tensors="pt")
    ids = torch.from_numpy(one.input_ids)[None]
    assert assistant.bundle.prompter.ecg_ids == (400,)
    with torch.no_grad():
        wanted = library(input_ids=ids, attention_mask=torch.ones_like(ids), **pixels).logits[0, :, :400]
    found = logits(assistant, [one])[0]
    assert torch.allclose(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("merge", ["flat", "spatial", "spatial_unpad"])
def test_p22_logits_do_not_depend_on_batch_or_padding(worlds: Any, merge: str) -> None:
    """Pictures of several sizes in one batch, two of them in one prompt, and a prompt without any."""
    _, assistant = worlds[merge]
    many = [example(assistant, [page(*size)], QUESTION * (i + 1)) for i, size in enumerate(SIZES)]
    many += [example(assistant, [page(*SIZES[0]), page(*SIZES[1])]), example(assistant, [])]
    alone = [logits(assistant, [one])[0] for one in many]
    for left in (False, True):
        for found, wanted in zip(logits(assistant, many, left), alone, strict=True):
            assert torch.allclose(found, wanted, atol=1e-5, rtol=1e-5)


def test_p22_two_pictures_stand_in_their_order(worlds: Any) -> None:
    _, assistant = worlds["flat"]
    pictures = [page(*SIZES[0], seed=1), page(*SIZES[1], seed=2)]
    both, turned = (example(assistant, order) for order in (pictures, pictures[::-1]))
    embedded = [
        assistant.bundle.elm.embed(
            torch.from_numpy(e.input_ids)[None], torch.from_numpy(e.ecg), tiles=torch.from_numpy(e.tiles)
        )[0][torch.from_numpy(e.input_ids) == 400]
        for e in (both, turned)
    ]
    cut = 4 * 5
    assert torch.allclose(torch.cat([embedded[1][-cut:], embedded[1][:-cut]]), embedded[0], atol=1e-6)


def test_p22_answers_are_greedy_whatever_the_original_says(worlds: Any, tmp_path: Path) -> None:
    original, assistant = worlds["flat"]
    told = json.loads((original.folder / "generation_config.json").read_text())
    assert told["do_sample"] and told["temperature"] == 0.9
    ours = assistant.bundle.elm.llm.generation_config
    assert not ours.do_sample and ours.temperature in (None, 1.0) and ours.top_p in (None, 1.0)
    answers = [assistant.ask(page(220, 170), QUESTION, max_new_tokens=8) for _ in range(2)]
    assert answers[0] == answers[1]


@torch.no_grad()
def test_the_answer_is_the_originals_greedy_one(worlds: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    original, assistant = worlds["flat"]
    picture, answer = page(61, 47), list[int]()
    seen: list[torch.Tensor] = []
    with original.llm.register_forward_pre_hook(lambda m, a, k: seen.append(k["inputs_embeds"]), with_kwargs=True):
        found = by_hand(original, "flat", picture, f"{SYSTEM} USER: <image>\n{QUESTION} ASSISTANT:")
    while len(answer) < 6:
        answer.append(int(found[-1].argmax()))
        behind = original.llm.get_input_embeddings()(torch.tensor(answer))[None]
        found = original.llm(inputs_embeds=torch.cat([seen[0], behind], dim=1)).logits[0]
    assert 2 not in answer and len(set(answer)) > 3
    assert decoded(assistant, picture, 6, monkeypatch) == answer


def decoded(assistant: Assistant, picture: np.ndarray, most: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ids of an answer."""
    ids: list[list[int]] = []
    tokenizer = assistant.bundle.prompter.tokenizer
    plain = tokenizer.decode
    monkeypatch.setattr(tokenizer, "decode", lambda found, **more: ids.append(list(found)) or plain(found, **more))
    assistant.ask(picture, QUESTION, max_new_tokens=most)
    return ids[-1]


@pytest.fixture(scope="module")
def spelled(tmp_path_factory: pytest.TempPathFactory) -> dict[bool | None, tuple[Any, Assistant]]:
    """What the tokenizer's settings say of ``legacy`` → sentencepiece's own and the imported model, saved once more."""
    made = {}
    for legacy in (False, True, None):
        folder = tmp_path_factory.mktemp("spelled")
        write_llava(folder / "in", legacy=legacy)
        bundle = from_pretrained(import_pulse(folder / "in", folder / "out")[0])
        again = load(save_pretrained(bundle, folder / "saved"))
        made[legacy] = sentencepiece.SentencePieceProcessor(model_file=str(folder / "in" / "tokenizer.model")), again
    return made


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.text(st.sampled_from("abcXYZ 0123 é中.,:\n?"), min_size=1, max_size=30), min_size=1, max_size=5),
    st.booleans(),
    st.sampled_from([False, True, None]),
)
def test_ids_are_those_of_the_slow_tokenizer_piece_by_piece(
    spelled: Any, texts: list[str], shown: bool, legacy: bool | None
) -> None:
    """§8.3 spelled by sentencepiece alone: text around the picture apart, the repeated begin token dropped. Behind </s>
    a tokenizer that is legacy (or does not say) puts a blank, another does not.
    """
    spell, assistant = spelled[legacy]
    texts = [" ".join(t.split(" ")).strip() or "x" for t in texts][: len(texts) - 1 + len(texts) % 2]
    turns = [Turn(("user", "assistant")[i % 2], t) for i, t in enumerate(texts)]
    pictures = [assistant.encode_picture(page(28, 28))] if shown else []
    if shown:
        turns[0] = Turn("user", f"{ECG_MARK}\n{turns[0].text}")
    built = assistant.bundle.prompter.build("x", turns, pictures, generate=True)
    text = f"{SYSTEM} USER: {turns[0].text}"
    for turn in turns[1:]:
        text += f" ASSISTANT: {turn.text}</s>" if turn.role == "assistant" else f"USER: {turn.text}"
    ids = [1]
    for number, part in enumerate(f"{text} ASSISTANT:".split(ECG_MARK)):
        ids += [400] * len(pictures[0].token_ids) if number else []
        for place, piece in enumerate(part.split("</s>")):
            ids += [2] if place else []
            ids += without_blank(spell, piece) if place and legacy is False else spell.encode(piece)
    assert built.input_ids.tolist() == ids


def without_blank(spell: Any, text: str) -> list[int]:
    """Behind a token that joins with nothing, which is then cut off: as the slow tokenizer that is not legacy."""
    unknown = spell.encode("<unk>")
    found = spell.encode("<unk>" + text)
    assert found[: len(unknown)] == unknown
    return list(found[len(unknown) :])


def test_bin_and_safetensors_and_any_shards_give_the_same_bytes(tmp_path: Path) -> None:
    made = []
    for number, (form, shards) in enumerate([("safetensors", 1), ("safetensors", 3), ("bin", 2), ("bin", 1)]):
        write_llava(tmp_path / f"in{number}", form=form, num_shards=shards)
        out, _ = import_pulse(tmp_path / f"in{number}", tmp_path / f"out{number}")
        files = {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}
        files.pop("manifest.json")  # which says what it was made from
        made.append(files)
    assert made[0] == made[1] == made[2] == made[3] and "llm/model.safetensors" in made[0]
    assert not any(str(tmp_path).encode() in data for data in made[0].values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_keep_their_type(tmp_path: Path, dtype: torch.dtype) -> None:
    original = write_llava(tmp_path / "in", dtype=dtype)
    out, _ = import_pulse(tmp_path / "in", tmp_path / "out")
    found = load_file(out / "llm" / "model.safetensors")
    assert {t.dtype for t in found.values()} == {dtype}
    assert all(torch.equal(found[k], v) for k, v in original.llm.state_dict().items())
    bundle = from_pretrained(out)
    used = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
    assert {p.dtype for p in bundle.elm.llm.parameters()} == {used}
    exact = build(original.folder)  # anew: what is computed, such as rotary angles, must not be rounded
    for name in ("llm", "vision", "projector"):
        getattr(exact, name).load_state_dict(getattr(original, name).state_dict())
    picture, text = page(61, 47), f"{SYSTEM} USER: <image>\n{QUESTION} ASSISTANT:"
    if used == torch.float32:
        wanted = by_hand(exact, "flat", picture, text)
        assert torch.allclose(logits(Assistant(bundle), [example(Assistant(bundle), [picture])])[0], wanted, atol=1e-5)
    again, _ = import_pulse(tmp_path / "in", tmp_path / "half", dtype="bfloat16")
    assert from_pretrained(again).elm.llm.dtype == torch.bfloat16


def test_vision_weights_come_from_the_clip_checkpoint_where_they_are_absent(tmp_path: Path, worlds: Any) -> None:
    original = write_llava(tmp_path / "in", vision=False)
    assert not any("vision" in n for n in load_file(tmp_path / "in" / "model-00001-of-00002.safetensors"))
    out, facts = import_pulse(tmp_path / "in", tmp_path / "out")
    assert facts["vision_inside"] is False
    wanted = by_hand(original, "flat", page(61, 47), f"{SYSTEM} USER: <image>\n{QUESTION} ASSISTANT:")
    found = logits(load(out), [example(load(out), [page(61, 47)])])[0]
    assert torch.allclose(found, wanted, atol=1e-5)
    elsewhere = tmp_path / "clip elsewhere"
    shutil.move(tmp_path / "in" / "clip", elsewhere)
    with pytest.raises((ConfigError, EcglmError), match="clip"):
        import_pulse(tmp_path / "in", tmp_path / "out2")
    again, _ = import_pulse(tmp_path / "in", tmp_path / "out2", vision=str(elsewhere))
    assert (again / "ecg.safetensors").read_bytes() == (out / "ecg.safetensors").read_bytes()


def test_p16_what_it_is_says_the_config_and_not_the_folders_name(tmp_path: Path) -> None:
    write_llava(tmp_path / "model-7b", merge="spatial_unpad")
    _, facts = import_pulse(tmp_path / "model-7b", tmp_path / "a")
    assert facts["merge"] == {"type": "spatial_unpad", "told": True}
    write_llava(tmp_path / "llava-v1.6-spatial_unpad")
    _, facts = import_pulse(tmp_path / "llava-v1.6-spatial_unpad", tmp_path / "b")
    assert facts["merge"] == {"type": "flat", "told": False}
    write_llava(tmp_path / "llava-llama", model_type="llama")
    with pytest.raises(ConfigError, match="model_type 'llama', not llava or llava_llama"):
        import_pulse(tmp_path / "llava-llama", tmp_path / "c")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "llava_next"}, "conversion for transformers"),
        ({"mm_patch_merge_type": "spatial_maxpool2x2"}, "mm_patch_merge_type"),
        ({"mm_projector_type": "mlp3x_gelu"}, "mm_projector_type 'mlp3x_gelu' .did you mean 'mlp2x_gelu'"),
        ({"image_aspect_ratio": "pad"}, "image_aspect_ratio is 'pad'"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end"),
        ({"mm_vision_select_feature": "cls_patch"}, "mm_vision_select_feature"),
        ({"image_grid_pinpoints": "(1x1),(2x2)"}, "image_grid_pinpoints"),
        ({"image_grid_pinpoints": [[30, 56]]}, "no multiple"),
        ({"image_grid_pinpoints": [28, 56]}, "must be a list of .width, height., found .28, 56."),
        ({"image_grid_pinpoints": "[(28, 56)"}, "must be a list of .width, height."),
        ({"image_grid_pinpoints": "(1x1),...,(99x99)"}, "fewer than 64 tiles"),
        ({"hidden_size": -4}, "hidden_size is -4"),
        ({"image_grid_pinpoints": [[float("inf"), 28]]}, "config.json"),
        ({"mm_vision_tower": None}, "--vision"),
        ({"mm_vision_tower": "/nowhere/clip"}, "no folder /nowhere/clip"),
        ({"mm_vision_select_layer": -9}, "layer -9"),
        ({"hidden_size": "wide"}, "config.json"),
        ({"vocab_size": 300}, "400 tokens and the model 300 rows|of another shape"),
    ],
)
def test_configurations_that_cannot_be_imported(tmp_path: Path, changes: dict, said: str) -> None:
    write_llava(tmp_path / "in", **changes)
    with pytest.raises(EcglmError, match=said) as caught:
        import_pulse(tmp_path / "in", tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("told", "grids"),
    [
        ("[[28, 56], [84, 28]]", ((1, 2), (3, 1))),
        ("[(28, 56), (84, 28),]", ((1, 2), (3, 1))),
        ("((28, 56),)", ((1, 2),)),
        ("(1x1),...,(2x3)", ((1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3))),
        ([[28, 28]], ((1, 1),)),
        ("", ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))),
    ],
)
def test_grids_may_be_written_as_a_text(tmp_path: Path, told: Any, grids: tuple[tuple[int, int], ...]) -> None:
    write_llava(tmp_path / "in", image_grid_pinpoints=told)
    assert read_llava(tmp_path / "in").grids((TILE, TILE)) == grids


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b"xx", lambda b: b[:3000]])
def test_a_damaged_tokenizer_is_told(tmp_path: Path, damage: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """The library makes a tokenizer of three tokens of some of these, and says nothing."""
    write_llava(tmp_path / "in")
    file = tmp_path / "in" / "tokenizer.model"
    file.write_bytes(damage(file.read_bytes()))
    capfd.readouterr()
    with pytest.raises(ConfigError, match=r"its tokenizer .*; fetch it again|damaged, fetch it again") as caught:
        import_pulse(tmp_path / "in", tmp_path / "out")
    assert "\n" not in str(caught.value) and "SentencePiece" not in capfd.readouterr().err


def test_a_clip_that_was_released_as_bin_is_read_too(tmp_path: Path) -> None:
    """As OpenAI's: one pytorch_model.bin with the text tower beside the other; what could run code is refused."""
    write_llava(tmp_path / "in", vision=False)
    out, _ = import_pulse(tmp_path / "in", tmp_path / "out")
    clip = tmp_path / "in" / "clip"
    plain = load_file(clip / "model.safetensors")
    (clip / "model.safetensors").unlink()
    state = {f"vision_model.{k.removeprefix('vision_model.')}": v for k, v in plain.items()}
    beside = {"text_model.final_layer_norm.bias": torch.ones(3), "logit_scale": torch.tensor(3.0)}
    torch.save(state | beside, clip / "pytorch_model.bin")
    again, _ = import_pulse(tmp_path / "in", tmp_path / "again")
    assert (again / "ecg.safetensors").read_bytes() == (out / "ecg.safetensors").read_bytes()
    state.pop("vision_model.embeddings.class_embedding")
    torch.save(state, clip / "pytorch_model.bin")
    with pytest.raises(EcglmError, match=r"1 missing \(embeddings.class_embedding\)"):
        import_pulse(tmp_path / "in", tmp_path / "third")
    torch.save({"a": Path("x")}, clip / "pytorch_model.bin")
    with pytest.raises(UnsafeInputError, match="run code"):
        import_pulse(tmp_path / "in", tmp_path / "third")


def rewritten(folder: Path, change: Any, form: str = "safetensors") -> Path:
    """A checkpoint whose tensors were changed, in one file."""
    write_llava(folder, num_shards=1)
    state = state_of(build(folder))
    change(state)
    (folder / "model.safetensors").unlink()
    write_weights(folder, state, form, 1)
    return folder


def _gone(state: dict) -> None:
    del state["model.layers.1.mlp.up_proj.weight"], state["model.mm_projector.2.bias"]


def _extra(state: dict) -> None:
    state["model.layers.7.mlp.up_proj.weight"] = torch.zeros(2, 2)


def _shape(state: dict) -> None:
    state["model.mm_projector.0.weight"] = torch.zeros(HIDDEN, 3)


def _nan(state: dict) -> None:
    state["model.norm.weight"][3] = torch.nan


def _whole_numbers(state: dict) -> None:
    state["model.layers.0.mlp.up_proj.weight"] = torch.zeros(64, HIDDEN, dtype=torch.int8)


def _tower(state: dict) -> None:
    del state["model.vision_tower.vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_gone, "2 missing .model.layers.1.mlp.up_proj.weight, model.mm_projector.2.bias"),
        (_extra, "1 unexpected .model.layers.7.mlp.up_proj.weight"),
        (_shape, "1 of another shape .model.mm_projector.0.weight 32x3 instead of 32x16"),
        (_nan, "model.norm.weight: holds NaN or infinity"),
        (_whole_numbers, "model.layers.0.mlp.up_proj.weight: holds torch.int8"),
        (_tower, "1 missing .model.vision_tower.vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight"),
    ],
)
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_tensors_that_do_not_fit_are_listed(tmp_path: Path, change: Any, said: str, form: str) -> None:
    with pytest.raises(EcglmError, match=said) as caught:
        import_pulse(rewritten(tmp_path / "in", change, form), tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out" / "manifest.json").exists()


def test_a_missing_newline_vector_is_told(tmp_path: Path) -> None:
    write_llava(tmp_path / "in", merge="spatial_unpad", newline=False)
    with pytest.raises(EcglmError, match=r"1 missing .model\.image_newline"):
        import_pulse(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_a_missing_or_damaged_shard_is_one_line(tmp_path: Path, form: str) -> None:
    write_llava(tmp_path / "in", form=form, num_shards=3)
    shard = sorted((tmp_path / "in").glob("*-00002-of-*"))[0]
    whole = shard.read_bytes()
    shard.unlink()
    with pytest.raises(EcglmError, match=f"1 of 3 weight files are missing: {shard.name}"):
        import_pulse(tmp_path / "in", tmp_path / "out")
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(EcglmError, match=shard.name):
        import_pulse(tmp_path / "in", tmp_path / "out")
    index = next((tmp_path / "in").glob("*.index.json"))
    index.write_text(json.dumps({"weight_map": {"model.norm.weight": "../../elsewhere.safetensors"}}))
    with pytest.raises(UnsafeInputError, match="elsewhere"):
        import_pulse(tmp_path / "in", tmp_path / "out")


def test_a_pickle_that_could_run_code_is_refused(tmp_path: Path) -> None:
    write_llava(tmp_path / "in", form="bin", num_shards=1)
    torch.save({"a": Path("x")}, tmp_path / "in" / "pytorch_model.bin")
    with pytest.raises(UnsafeInputError, match=r"pytorch_model\.bin"):
        import_pulse(tmp_path / "in", tmp_path / "out")


def test_folders_that_hold_something_else(tmp_path: Path) -> None:
    write_llava(tmp_path / "in")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(StaleOutputError, match="choose another --out"):
        import_pulse(tmp_path / "in", tmp_path / "mine")
    out, facts = import_pulse(tmp_path / "in", tmp_path / "out")
    before = (out / "manifest.json").stat().st_mtime_ns
    assert import_pulse(tmp_path / "in", out)[1] == facts and (out / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(StaleOutputError, match="--overwrite"):
        import_pulse(tmp_path / "in", out, rate=250)
    assert import_pulse(tmp_path / "in", out, rate=250, seg_len=2500, overwrite=True)[1] != facts
    with pytest.raises(EcglmError, match="no such folder"):
        import_pulse(tmp_path / "nowhere", tmp_path / "x")
    with pytest.raises(EcglmError, match="nobody/nothing: no such folder, and not to be had from the hub"):
        import_pulse("nobody/nothing", tmp_path / "x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"config\.json"):
        import_pulse(tmp_path / "empty", tmp_path / "x")


def test_rows_that_no_token_has_are_never_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = write_llava(tmp_path / "in", rows=410)
    assistant = load(import_pulse(tmp_path / "in", tmp_path / "out")[0])
    with torch.no_grad():  # every spare row, the placeholder's among them, would win
        assistant.bundle.elm.llm.lm_head.weight[400:] = 100 * torch.ones(10, 1) * torch.tensor([1.0, -1] * 5)[:, None]
    found = logits(assistant, [example(assistant, [page(28, 28)])])[0]
    assert original.llm.config.vocab_size == found.shape[1] == 410
    ids = decoded(assistant, page(28, 28), 5, monkeypatch)
    assert ids and max(ids) < 400


def test_an_imported_model_is_saved_and_loaded_like_any_other(worlds: Any, tmp_path: Path) -> None:
    for merge in ("flat", "spatial_unpad"):
        _, assistant = worlds[merge]
        again = load(save_pretrained(assistant.bundle, tmp_path / merge))
        one = example(assistant, [page(100, 30)])
        assert torch.equal(logits(again, [one])[0], logits(assistant, [one])[0])
        assert again.bundle.representation == assistant.bundle.representation


def test_talks_of_several_turns(worlds: Any) -> None:
    """Every turn sees the turns before it; answers together are those given one by one."""
    _, assistant = worlds["flat"]
    shown = [assistant.encode_picture(page(*size, seed=i)) for i, size in enumerate(SIZES[:3])]
    history = [Turn("user", QUESTION), Turn("assistant", "sinus rhythm"), Turn("user", "Yes?")]
    talks = [(history, shown[:1]), ([Turn("user", QUESTION)], shown[1:2]), ([Turn("user", "No?")], [])]
    talks.append(([Turn("user", QUESTION * 400)], shown[2:3]))
    together = assistant.answer(talks, max_new_tokens=5)
    alone = [assistant.answer([t], max_new_tokens=5, ids=[str(i)])[0] for i, t in enumerate(talks)]
    assert together == alone and assistant.answer(talks, max_new_tokens=5, batch_size=1) == together
    assert together[3]["text"] is None and "sequence_too_long" in together[3]["error"]
    asked = assistant.ask(page(*SIZES[0]), "Yes?", history=history[:2], max_new_tokens=5)
    assert asked == together[0]["text"]
    assert "marks" in assistant.answer([([Turn("user", f"{ECG_MARK}{ECG_MARK} which?")], shown[:1])])[0]["error"]


@pytest.mark.realdata
def test_the_published_names_and_shapes_are_those_that_are_wanted(shared: Path, tmp_path: Path) -> None:
    """All 686 of PULSE-7B, by the specification's list; no value is made."""
    keys = json.loads((shared.parent / "spec" / "checkpoint_keys" / "pulse_7b.json").read_text())
    config = config_of(build(tmp_path), None, mm_vision_tower=CLIP_336, image_grid_pinpoints=[[336, 672], [672, 672]])
    sizes = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
    config |= {**sizes, "num_key_value_heads": 32, "vocab_size": 32000}
    (tmp_path / "config.json").write_text(json.dumps(config))
    llava = read_llava(tmp_path)
    with torch.device("meta"):
        tower, llm = ClipTower(**tower_options(CLIP_336, -2)), LlamaForCausalLM(llava.llm)
        connector = TileConnector("mlp2x_gelu", dim=1024, hidden=4096, patches=(24, 24), merge="flat")
        tensors = {name: torch.empty(shape) for name, shape in keys.items()}
    names, ignored = pulse_import._matched(tensors, llm, tower, connector, "PULSE-7B")
    assert len(keys) == 686 and ignored == {"of the vision tower behind the layer that is read": 16}
    assert len(names) == 670 and llava.grids(tower.image_size) == ((1, 2), (2, 2))
    with pytest.raises(EcglmError, match="2 missing"):
        del tensors["model.norm.weight"], tensors["model.mm_projector.0.bias"]
        pulse_import._matched(tensors, llm, tower, connector, "PULSE-7B")


def test_a_hub_id_is_fetched_without_what_is_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """safetensors where the repository has them; nothing of it where the hub is out of reach but the cache."""
    write_llava(tmp_path / "repo")
    asked: list[list[str]] = []

    def fetched(name: str, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(tmp_path / "repo")

    monkeypatch.setattr(pulse_import, "snapshot_download", fetched)
    names = ["config.json", "model-00001-of-00002.safetensors", "pytorch_model.bin"]
    monkeypatch.setattr(pulse_import.HfApi, "list_repo_files", lambda self, name: names)
    import_pulse("owner/name", tmp_path / "a")

    def nobody(self: Any, name: str) -> list[str]:
        raise OSError("out of reach")

    monkeypatch.setattr(pulse_import.HfApi, "list_repo_files", nobody)
    import_pulse("owner/name", tmp_path / "b")
    assert asked[0] == ["*.json", "tokenizer.model", "*.safetensors"] and asked[1][-2:] == ["*.safetensors", "*.bin"]


def test_the_summary_says_what_was_imported(tmp_path: Path) -> None:
    write_llava(tmp_path / "in")
    lines = summary(*import_pulse(tmp_path / "in", tmp_path / "out"))
    told = "\n".join(lines)
    for part in ("flat", "as config.json says no other", "5 tiles and 20 tokens", "--rate 500 --seg-len 5000"):
        assert part in told
    assert "1 tensors image_newline" in told and "2 tensors inv_freq" in told


def test_unusable_recordings_are_told(worlds: Any) -> None:
    from ecglm.types import LEADS, Record

    _, assistant = worlds["flat"]
    short = Record("x/1", np.zeros((12, 50), np.float32), 500.0, LEADS)
    with pytest.raises(RejectedRecord):
        assistant.ask(short, QUESTION)
    beat = np.sin(np.linspace(0, 60, 5000))[None].repeat(12, 0).astype(np.float32)
    answer = assistant.ask(Record("x/2", beat, 500.0, LEADS), QUESTION, max_new_tokens=3)
    assert isinstance(answer, str) and assistant.reads_pictures


def test_clip_towers_output_is_the_layer_before_the_last(worlds: Any) -> None:
    original, assistant = worlds["flat"]
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, TILE, TILE), dtype=np.uint8)
    vision: CLIPVisionModel = original.vision
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    normal = (torch.from_numpy(pixels) / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.no_grad():
        wanted = vision(normal, output_hidden_states=True).hidden_states[-2][:, 1:]
        found = assistant.bundle.elm.encoder(torch.from_numpy(pixels))
    assert torch.allclose(found, wanted, atol=1e-5)
