"""PULSE's training at toy size: what is learned, that it learns, goes on where it was killed, and moves both ways."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ecglm import config as strict
from ecglm.conversations.make import map_corpus
from ecglm.conversations.table import read_conversations
from ecglm.files import read_jsonl, read_manifest
from ecglm.models.assistant import load
from ecglm.models.checkpoint import from_pretrained
from ecglm.models.pulse_export import export_llava
from ecglm.models.pulse_import import import_pulse
from ecglm.prompts.collate import collate
from ecglm.prompts.data import EcgSource, ElmDataset
from ecglm.prompts.examples import IGNORE
from ecglm.store.reader import SegmentStore
from ecglm.store.splits import assign_splits
from ecglm.training import run as training
from ecglm.training.deepspeed import zero_stage
from ecglm.training.distributed import shares
from ecglm.training.objectives.sft import answer_loss
from ecglm.training.recipe import DataConfig, Recipe
from ecglm.types import ECG_MARK, Conversation, Turn
from llava_world import write_llava
from tiny_world import RATE, SEG_LEN, tree

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
PULSE = RECIPES / "pulse"
ANSWERS = ("sinus rhythm", "atrial fibrillation")
SIZES = ((60, 80), (40, 120), (90, 30))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint imported from LLaVA-1.6's format, which has learned nothing."""
    folder = tmp_path_factory.mktemp("llava")
    write_llava(folder / "original", merge="flat")
    import_pulse(folder / "original", folder / "start", rate=RATE, seg_len=SEG_LEN)
    return folder / "start"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ECGInstruct in small: photographs without a recording, of three sizes, dark ones with the second answer."""
    folder = tmp_path_factory.mktemp("instruct")
    items = []
    for number in range(40):
        name, dark = f"gen_images/page{number}-0.png", number % 2
        noise = np.random.default_rng(number).integers(0, 40, (*SIZES[number % 3], 3), dtype=np.uint8)
        (folder / "gen_images").mkdir(exist_ok=True)
        Image.fromarray(noise if dark else 255 - noise).save(folder / name)
        said = [("human", "<image>\nWhat is the rhythm?"), ("gpt", ANSWERS[dark])]
        said += [("human", "Is it sinus rhythm?"), ("gpt", ("Yes", "No")[dark])] if number % 5 == 0 else []
        talk = [{"from": role, "value": value} for role, value in said]
        items.append({"id": f"i{number}", "image": name, "conversations": talk, "metadata": {"subtask": "rhythm"}})
    (folder / "gen_images" / "page3-0.png").write_bytes(b"\x89PNG\r\n\x1a\n cut short")
    (folder / "gen_images" / "page4-0.png").unlink()
    (folder / "ECGInstruct.json").write_text(json.dumps(items))
    return folder


@pytest.fixture(scope="module")
def recipe(start: Path, pictures: Path, world: Any) -> Recipe:
    """The toy recipe, from the imported checkpoint: photographs, and ECGs that are drawn from the store."""
    store = SegmentStore(world.store)
    file = pictures / "data.parquet"
    options = {"root": pictures / "ECGInstruct.json", "splits": dict(assign_splits(store)), "images": True}
    map_corpus("ecg-instruct-pulse", [store], file, **options)
    toy = strict.load(PULSE / "toy.yaml", Recipe)
    data = DataConfig(files=(str(file), str(world.data)), stores=(str(world.store),), images=(str(pictures),))
    model = replace(toy.model, llm="tiny", tiny=type(toy.model.tiny)(), encoder_options={}, start_from=str(start))
    train = replace(toy.train, save_every=3, max_steps=12, warmup_share=0.1)
    return replace(toy, data=data, model=model, train=train)


@pytest.fixture(scope="module")
def run(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training.train(recipe, tmp_path_factory.mktemp("run") / "run", say=lambda text: None).path


@pytest.fixture(scope="module")
def bundle(start: Path):
    return from_pretrained(start)


@pytest.fixture(scope="module")
def spell(start: Path):
    """The slow tokenizer's own ids of a text."""
    from sentencepiece import SentencePieceProcessor

    return SentencePieceProcessor(model_file=str(start.parent / "original" / "tokenizer.model")).encode


def picture(bundle: Any, size: tuple[int, int]) -> Any:
    return bundle.representation.of_picture(np.random.default_rng(sum(size)).integers(0, 256, (*size, 3), np.uint8))


def talk(*texts: str) -> list[Turn]:
    return [Turn(("user", "assistant")[i % 2], text) for i, text in enumerate(texts)]


# --- what is learned


def test_answers_and_their_end_are_learned_and_nothing_else(bundle, spell) -> None:
    shown = picture(bundle, (60, 80))
    turns = talk("<ecg>\nWhat is the rhythm?", "sinus rhythm", "Is it sinus rhythm?", "Yes")
    example = bundle.prompter.build("a", turns, [shown])
    ids, labels = example.input_ids.tolist(), example.labels.tolist()
    answers = [[*spell("sinus rhythm"), 2], [*spell("Yes"), 2]]
    assert [label for label in labels if label != IGNORE] == [i for answer in answers for i in answer]
    assert all(label in (IGNORE, i) for label, i in zip(labels, ids, strict=True))
    first = labels.index(answers[0][0])
    assert labels[first : first + len(answers[0])] == answers[0] and labels[first + len(answers[0])] == IGNORE
    assert ids[:first][-len(spell("ASSISTANT:")) :] == spell("ASSISTANT:") and ids[0] == 1
    at = [i for i, token in enumerate(ids) if token == bundle.prompter.ecg_ids[0]]
    assert len(at) == len(shown.token_ids) == 4 * 5 and at == list(range(at[0], at[0] + 20)), "a grid of 2 x 2, and all"
    opening = (
        "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the human's questions. USER:"
    )
    assert ids[1 : 1 + len(spell(opening))] == spell(opening)
    assert ids[-len(answers[1]) :] == answers[1], "nothing behind the last end"


@pytest.mark.parametrize("answer", ["<image> marks a picture", "USER: sinus rhythm ASSISTANT: Yes", "rate</s> of 72"])
def test_p20_marks_and_role_tags_in_an_answer_are_text_and_are_learned(bundle, answer: str) -> None:
    turns = talk("<ecg>\nUSER: what does ASSISTANT: mean?</s>", answer, "And the axis?", "normal axis")
    example = bundle.prompter.build("a", turns, [picture(bundle, (40, 120))])
    learned = [int(i) for i in example.labels if i != IGNORE]
    ends = [n for n, i in enumerate(learned) if i == 2]
    decode = bundle.prompter.tokenizer.decode
    assert [decode(learned[: ends[0]]).strip(), decode(learned[ends[0] + 1 : ends[1]]).strip()] == [
        answer,
        "normal axis",
    ]
    assert len(ends) == 2 and ends[1] == len(learned) - 1, "an end that somebody wrote ends nothing"
    assert (example.input_ids == 2).sum() == 2 and (example.input_ids == 1).sum() == 1
    assert (example.input_ids == bundle.prompter.ecg_ids[0]).sum() == 4 * (1 + 3)


def test_p20_text_and_pictures_of_several_sizes_stand_in_one_batch(bundle) -> None:
    build = bundle.prompter.build
    examples = [
        build("text", talk("Is it sinus rhythm?", "No"), []),
        build("wide", talk("<ecg>\nWhat is the rhythm?", "sinus rhythm"), [picture(bundle, (30, 100))]),
        build("two", talk("<ecg> <ecg> the same?", "Yes"), [picture(bundle, (60, 80)), picture(bundle, (90, 30))]),
    ]
    batch = collate(examples, pad_id=0)
    tiles = [len(e.ecg) for e in examples if e.ecg is not None]
    assert batch["ecg"].shape == (sum(tiles), 3, 28, 28) and len(batch["tiles"]) == 3
    with torch.no_grad():
        together, count = answer_loss(bundle.elm, batch)
        apart = [answer_loss(bundle.elm, collate([e], pad_id=0)) for e in examples]
    assert count == sum(n for _, n in apart)
    torch.testing.assert_close(together, torch.stack([loss for loss, _ in apart]).sum(), rtol=1e-4, atol=1e-4)
    assert "ecg" not in collate(examples[:1], pad_id=0)


def test_p21_an_answer_is_never_cut_history_goes_first_and_what_is_too_long_is_counted(bundle, world) -> None:
    store = SegmentStore(world.store)
    record = store.records()[0]
    long = "sinus rhythm with a rate of 72 bpm and a normal axis " * 20
    texts = {
        "short": ("<ecg>\nWhat is the rhythm?", "sinus rhythm"),
        "history": ("<ecg>\nWhat is it?", long[:600], "And the axis?", "normal axis"),
        "answer": ("<ecg>\nWhat is the rhythm?", long),
        "last": ("<ecg>\nWhat is it?", "sinus rhythm", "And?", long),
    }
    rows = [Conversation(n, "own", "t", "train", (record,), ("p",), tuple(talk(*said))) for n, said in texts.items()]
    prompter = replace(bundle.prompter, max_len=260)
    data = ElmDataset(rows, EcgSource([store], bundle.representation), prompter)
    assert data.counts() == {"used": 2, "rejected:sequence_too_long": 2}
    assert [(r["id"], r["reason"]) for r in data.rejected] == [(n, "sequence_too_long") for n in ("answer", "last")]
    assert data.truncated == {"dropped_oldest_turns": 1}
    whole = [int(i) for i in data[1].labels if i != IGNORE]
    assert bundle.prompter.tokenizer.decode(whole[:-1]).strip() == "normal axis" and whole[-1] == 2
    shown = bundle.representation.page_tokens(store.seg_len, store.rate)[0]
    assert int((data[1].input_ids == prompter.ecg_ids[0]).sum()) == shown, "the ECG outlives its question"


# --- the recipes


def test_p24_the_recipe_states_what_was_published_and_where_paper_and_script_differ() -> None:
    text = (PULSE / "paper.yaml").read_text()
    recipe = strict.loads(text, Recipe)
    train, items = recipe.train, 1_156_110
    assert "3 % of the steps, the paper says 5 %" in text and "--train.warmup-share 0.05" in text
    steps = train.max_epochs * -(-items // (train.batch_size * train.accumulation))
    assert (train.batch_size * train.accumulation, train.max_epochs, steps) == (128, 3, 27_099)
    assert (train.warmup(steps), replace(train, warmup_share=0.05).warmup(steps)) == (813, 1355)
    assert (train.lr, train.schedule, train.optimizer, train.weight_decay) == (2e-5, "cosine", "adamw", 0.0)
    assert (train.beta1, train.beta2, train.eps, train.clip) == (0.9, 0.999, 1e-8, 1.0)
    assert train.bf16 and train.gradient_checkpointing and recipe.model.max_len == 4096
    assert train.parts == ("connector", "llm") and train.save_every == round(0.05 * steps)
    assert [shares(train.batch_size, train.accumulation, world) for world in (8, 32)] == [(2, 8), (2, 2)]
    assert (recipe.representation, recipe.anyres.merge, recipe.anyres.synthesis) == ("anyres", "flat", "pulse")
    assert train.sharding == "fsdp"
    assert zero_stage(RECIPES / "deepspeed" / "zero2.json") == 2 and "recipes/deepspeed/zero2.json" in text
    toy = strict.load(PULSE / "toy.yaml", Recipe)
    same = ("parts", "schedule", "optimizer", "weight_decay", "beta1", "beta2", "eps", "clip", "share_ecg")
    assert all(getattr(toy.train, name) == getattr(train, name) for name in same)


def test_the_toy_from_nothing_learns(world: Any, tmp_path: Path) -> None:
    toy = strict.load(PULSE / "toy.yaml", Recipe)
    toy = replace(toy, data=DataConfig(files=(str(world.data),), stores=(str(world.store),)))
    run = training.train(toy, tmp_path / "run", say=lambda text: None)
    losses = [row["loss"] for row in read_jsonl(run.path / "metrics.jsonl") if "loss" in row]
    assert np.mean(losses[-2:]) < 0.75 * losses[0]


# --- the training


def test_the_loss_falls_and_every_row_is_used_or_counted(run: Path) -> None:
    losses = [row["loss"] for row in read_jsonl(run / "metrics.jsonl") if "loss" in row]
    assert len(losses) == 12 and np.mean(losses[-3:]) < 0.6 * np.mean(losses[:2])
    counts = read_manifest(run, "training-run")["counts"]
    rejected = {r["id"].rsplit("/", 1)[1]: r["reason"] for r in read_jsonl(run / "rejects.jsonl")}
    assert rejected.items() <= {"i3": "image_corrupt", "i4": "image_missing"}.items()
    assert counts["train"]["used"] > 30 and counts["val"]["used"] > 4


def test_only_llm_and_projector_have_moved(run: Path, start: Path) -> None:
    before, after = (load_file(p / "ecg.safetensors") for p in (start, run / "best"))
    assert before.keys() == after.keys()
    for name, values in before.items():
        assert torch.equal(values, after[name]) == name.startswith("encoder."), name
    before, after = (dict(from_pretrained(p).elm.llm.named_parameters()) for p in (start, run / "best"))
    assert before.keys() == after.keys() and all(
        not torch.equal(before[n], after[n]) for n in before if "norm" not in n
    )
    assert read_manifest(run, "training-run")["learning"]["frozen"] == ["encoder"]


def test_killed_twice_it_ends_with_the_same_bytes(recipe: Recipe, run: Path, tmp_path: Path, monkeypatch) -> None:
    save = training.ElmTrainer._save_checkpoint

    def stop(self, model, trial):
        save(self, model, trial)
        raise KeyboardInterrupt

    for _ in range(2):
        monkeypatch.setattr(training.ElmTrainer, "_save_checkpoint", stop)
        with pytest.raises(KeyboardInterrupt):
            training.train(recipe, tmp_path / "run", say=lambda text: None)
        monkeypatch.undo()
    said: list[str] = []
    training.train(replace(recipe, train=replace(recipe.train, num_workers=1)), tmp_path / "run", say=said.append)
    assert "goes on from checkpoint-6" in said
    ours, theirs = tree(tmp_path / "run"), tree(run)
    assert ours.keys() == theirs.keys()
    assert [n for n in ours if ours[n] != theirs[n]] == ["recipe.yaml"], "which says how many workers there were"


def test_the_rest_of_the_pictures_is_of_other_patients(recipe: Recipe) -> None:
    rows = read_conversations(recipe.data.files[0])
    of = {split: {p for c in rows if c.split == split for p in c.patients} for split in ("train", "val", "test")}
    assert all(of.values()) and not of["train"] & (of["val"] | of["test"])


def test_exported_and_imported_again_it_is_the_same_model(run: Path, pictures: Path, tmp_path: Path) -> None:
    export_llava(run / "best", tmp_path / "exported")
    import_pulse(tmp_path / "exported", tmp_path / "again", rate=RATE, seg_len=SEG_LEN)
    ours, theirs = load(run / "best"), load(tmp_path / "again")
    before, after = ours.bundle.elm.state_dict(), theirs.bundle.elm.state_dict()
    assert before.keys() == after.keys()
    assert [n for n in before if not torch.equal(before[n], after[n])] == []
    turns = [Turn("user", f"{ECG_MARK}\nWhat is the rhythm?")]
    files = sorted((pictures / "gen_images").glob("page1*.png"))
    told = []
    for assistant in (ours, theirs):
        shown = [assistant.encode_picture(np.asarray(Image.open(file))) for file in files]
        told.append([a["text"] for a in assistant.answer([(turns, [s]) for s in shown], max_new_tokens=6)])
    assert told[0] == told[1] and len(told[0]) > 3
