"""Training with retrieved ECGs: who is told of, that every option counts, that a run resumes with the same bytes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ecglm import config as strict
from ecglm.errors import ConfigError, EcglmError
from ecglm.files import file_sha256, read_json, read_jsonl, read_manifest
from ecglm.models.checkpoint import from_pretrained
from ecglm.prompts.collate import collate
from ecglm.prompts.data import EcgSource, ElmDataset
from ecglm.prompts.packing import PackedRows
from ecglm.prompts.people import seen
from ecglm.prompts.retrieved import RagOptions
from ecglm.representations.augment import Augmentation
from ecglm.retrieval.index import Index, build_index
from ecglm.retrieval.neighbours import read_neighbours
from ecglm.store.reader import SegmentStore
from ecglm.training.check import check_recipe, check_room
from ecglm.training.memory_recipe import batch_of
from ecglm.training.objectives.sft import answer_loss
from ecglm.training.rag import rag_line
from ecglm.training.recipe import RagConfig, Recipe
from ecglm.training.run import train
from kill_tools import finish, kill_when, start
from rag_world import make_index, quiet, rag_recipe
from tiny_world import World, tree
from two_processes import assert_same_training, exact, torchrun


@pytest.fixture(scope="module")
def index(world: World, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return make_index(world, tmp_path_factory.mktemp("index") / "index")


@pytest.fixture(scope="module")
def run(world: World, index: Index, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(rag_recipe(world, index.path, {"k": 2}), tmp_path_factory.mktemp("rag") / "run", say=quiet).path


def dataset(world: World, run: Path, split: str = "train", **options: Any) -> ElmDataset:
    bundle = from_pretrained(run / "best")
    ecgs = EcgSource([SegmentStore(world.store)], bundle.representation)
    found = read_neighbours(run / "neighbours")
    return ElmDataset(world.conversations(split), ecgs, bundle.prompter, neighbours=found.of_conversation, **options)


def text_of(data: ElmDataset, item: Any) -> str:
    return str(data.prompter.tokenizer.decode(data[item].input_ids))


def test_the_checkpoint_keeps_the_options_and_the_manifest_the_index(run: Path, index: Index) -> None:
    bundle = from_pretrained(run / "best")
    assert bundle.rag == RagOptions(k=2, max_tokens=120)
    assert read_json(run / "best" / "config.json")["rag"]["k"] == 2
    manifest = read_manifest(run, "training-run")
    assert manifest["settings"]["rag"] == strict.to_dict(bundle.rag)
    assert manifest["inputs"]["index"] == index.fingerprint
    assert str(index.path) not in (run / "manifest.json").read_text() + (run / "best" / "config.json").read_text()
    counts = manifest["counts"]["train"]
    assert counts["retrieved"]["conversations"] == counts["used"] and counts["retrieved"]["without"] == 0
    assert counts["retrieved"]["neighbours"] == 2 * counts["used"]


def test_a_run_without_it_has_no_word_of_it(world: World, signal_run: Path) -> None:
    assert "rag" not in read_json(signal_run / "best" / "config.json")
    assert "rag" not in read_manifest(signal_run, "training-run")["settings"]
    assert "rag:" not in (signal_run / "recipe.yaml").read_text()
    assert not (signal_run / "neighbours").exists()
    assert from_pretrained(signal_run / "best").rag is None


def test_its_recipe_is_read_back(run: Path, world: World, index: Index) -> None:
    assert strict.load(run / "recipe.yaml", Recipe) == rag_recipe(world, index.path, {"k": 2})


def test_d23_every_prompt_tells_of_other_patients_of_the_training_split(world: World, run: Path) -> None:
    store = SegmentStore(world.store)
    report_of = {r["record_id"]: r["report_en"] or r["report"] for r in store.index.to_pylist()}
    training = {r for c in world.conversations("train") for r in c.ecgs}
    found = read_neighbours(run / "neighbours")
    for split in ("train", "val"):
        data = dataset(world, run, split)
        for number, group in enumerate(data.items):
            (conversation,) = group
            hits = found.of_conversation(conversation)
            assert len(hits) == 2
            assert {h.record_id for h in hits} <= training - set(conversation.ecgs)
            assert not {h.patient_id for h in hits} & set(conversation.patients)
            text = text_of(data, number)
            first = " ".join(report_of[hits[0].record_id].split())
            assert first[:20] in text and text.count("Similar ECG 1") == 1
            assert not any(name in text for c in world.conversations() for name in (*c.ecgs, *c.patients))


@pytest.mark.parametrize("location", ["system", "user"])
def test_questions_that_share_an_ecg_share_its_neighbours_and_lose_the_same(
    world: World, run: Path, location: Any
) -> None:
    """The loss of the joined sequence is that of the questions apart; the text is read once."""
    bundle = from_pretrained(run / "best")
    bundle = bundle.with_rag(dataclasses.replace(bundle.rag, location=location))
    ecgs = EcgSource([SegmentStore(world.store)], bundle.representation)
    found = read_neighbours(run / "neighbours")
    alike: Any = {"neighbours": found.of_conversation}
    talks = [c for c in world.conversations("train") if c.ecgs == world.conversations("train")[0].ecgs]
    apart = ElmDataset(talks, ecgs, bundle.prompter, **alike)
    joined = ElmDataset(talks, ecgs, bundle.prompter, share_ecg=True, **alike)
    assert len(apart) == len(talks) > 1 == len(joined)
    assert text_of(joined, 0).count("Similar ECG 1") == 1
    losses = []
    for data in (apart, joined):
        batch = collate([data[i] for i in range(len(data))], pad_id=bundle.prompter.tokenizer.pad_token_id)
        with torch.no_grad():
            losses.append([float(value) for value in answer_loss(bundle.elm, batch)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)  # the sum, and of how many tokens
    assert apart.lengths == [len(apart[i].input_ids) for i in range(len(apart))]
    assert joined.lengths == [len(joined[0].input_ids)]


def test_augmentation_changes_the_ecg_and_not_its_neighbours(world: World, run: Path) -> None:
    noisy = Augmentation.from_plain({"noise": {"p": 1.0, "sd": 0.2}}, "x")
    data = dataset(world, run, augmentation=noisy)
    first, second, plain = data[0, 1], data[0, 2], data[0]
    assert not np.array_equal(first.ecg, second.ecg) and not np.array_equal(first.ecg, plain.ecg)
    assert first.input_ids.tolist() == second.input_ids.tolist() == plain.input_ids.tolist()


def test_packed_rows_hold_the_longer_sequences(world: World, run: Path) -> None:
    data = dataset(world, run)
    rows = PackedRows(data, [[0, 1], [2]])
    assert [len(e.input_ids) for e in rows[0]] == data.lengths[:2]


#: Option → another value; each must give another training.
CHANGES: dict[str, dict[str, Any]] = {
    "k": {"k": 3},
    "location": {"location": "user"},
    "content": {"content": "both"},
    "max_tokens": {"max_tokens": 60},
    "features": {"content": "features", "features": ("heart_rate",)},
}


def test_every_option_changes_the_training(world: World, index: Index, tmp_path: Path) -> None:
    found = {}
    for name, rag in {"": {}, **CHANGES}.items():
        recipe = rag_recipe(world, index.path, {"k": 2, **rag}, max_steps=2, eval_every=2)
        out = train(recipe, tmp_path / (name or "usual"), say=quiet).path
        found[name] = (
            file_sha256(out / "best" / "manifest.json"),
            [r.get("loss") for r in read_jsonl(out / "metrics.jsonl")],
        )
    assert len({str(f) for f in found.values()}) == len(found)
    assert {f.name for f in dataclasses.fields(RagConfig)} == {"index", *CHANGES}


def test_another_index_makes_another_training(world: World, index: Index, tmp_path: Path) -> None:
    recipe = rag_recipe(world, index.path, max_steps=2, eval_every=2)
    train(recipe, tmp_path / "run", say=quiet)
    other = build_index([world.store], tmp_path / "all", data=world.data, min_quality="any", segments="all", say=quiet)
    with pytest.raises(EcglmError, match="made with other settings or from other inputs"):
        train(rag_recipe(world, other.path, max_steps=2, eval_every=2), tmp_path / "run", say=quiet)
    moved = tmp_path / "moved"
    index_copy = make_index(world, moved)
    assert train(rag_recipe(world, index_copy.path, max_steps=2, eval_every=2), tmp_path / "run", say=quiet).reused


def test_two_workers_and_another_folder_give_the_same_bytes(
    world: World, index: Index, run: Path, tmp_path: Path
) -> None:
    recipe = rag_recipe(world, index.path, {"k": 2}, num_workers=2)
    again = train(recipe, tmp_path / "other" / "place", say=quiet).path
    ours, theirs = tree(run), tree(again)
    assert ours.pop("recipe.yaml") != theirs.pop("recipe.yaml")  # the number of workers stands there
    assert ours == theirs


@pytest.mark.slow
def test_a_kill_behind_the_search_gives_the_same_bytes(world: World, index: Index, run: Path, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(strict.dumps(rag_recipe(world, index.path, {"k": 2})))
    out = tmp_path / "killed"
    command = ("train", file, "--out", out)
    kill_when(start(*command), (out / "neighbours" / "manifest.json").exists)
    finish(start(*command))
    assert tree(out) == tree(run)


def test_the_index_must_not_hold_who_is_tested(world: World, index: Index, tmp_path: Path) -> None:
    moved = [dataclasses.replace(c, split="test") if i % 6 == 0 else c for i, c in enumerate(world.conversations())]
    patients = {p for c in moved if c.split == "test" for p in c.patients}
    data = world.write(
        tmp_path / "data.parquet",
        [dataclasses.replace(c, split="test") if set(c.patients) & patients else c for c in moved],
    )
    recipe = rag_recipe(world, index.path)
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, files=(str(data),)))
    with pytest.raises(EcglmError, match=r"the index holds \d+ patients of split 'test'"):
        train(recipe, tmp_path / "run", say=quiet)
    with pytest.raises(EcglmError, match=r"the index holds \d+ patients of split 'test'"):
        rag_line(recipe, [c for f in recipe.data.files for c in world.conversations("train")] + moved)


def test_the_model_counts_as_trained_on_everybody_it_was_told_of(world: World, index: Index, tmp_path: Path) -> None:
    result = train(rag_recipe(world, index.path, max_steps=2, eval_every=2), tmp_path / "run", limit=2, say=quiet)
    bundle = from_pretrained(result.best)
    told = {h.patient_id for h in read_neighbours(result.path / "neighbours").hits()}
    shown = {p for c in world.conversations("train")[:2] for p in c.patients}
    assert told - shown
    for c in world.conversations("train"):
        assert bool(seen([c], bundle.trained_on)) == bool(set(c.patients) & (told | shown))


def test_what_cannot_be_is_told_before_any_data_is_read(world: World, index: Index, tmp_path: Path) -> None:
    recipe = rag_recipe(world, index.path)
    check_recipe(recipe)

    def changed(**rag: Any) -> Recipe:
        return dataclasses.replace(recipe, rag=dataclasses.replace(recipe.rag, **rag))

    folder = tmp_path / "pictures"
    folder.mkdir()
    images = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, images=(str(folder),)))
    long = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, max_len=100))
    for wrong, told in (
        (changed(index=""), "rag.index names no index; name the folder of one"),
        (changed(index=str(tmp_path / "none")), "none: no such ecg-index"),
        (changed(content="both", features=("hart_rate",)), r"no 'hart_rate' \(did you mean 'heart_rate'\?\)"),
        (long, "an ECG takes 4 tokens and retrieved text up to 120, but model.max_len is 100.*or lower rag.max_tokens"),
        (images, "data.images|picture files"),
    ):
        with pytest.raises(EcglmError, match=told) as error:
            check_recipe(wrong)
        assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match=r"lower rag\.max_tokens"):
        check_room(long, 99, "x")
    with pytest.raises(ConfigError, match=r"lower x"):
        check_room(long, 100, "x")


def test_an_index_of_other_segments_is_refused(world: World, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    index.check_stores([SegmentStore(world.store)])
    other = Index.load(index.path)
    other.manifest["settings"]["pipeline"] |= {"rate": 100, "denoise": True}
    told = r"prepared otherwise than the ECGs of the index .*: denoise False \(index: True\), rate 50 \(index: 100\); "
    with pytest.raises(ConfigError, match=told):
        other.check_stores([SegmentStore(world.store)])
    monkeypatch.setattr("ecglm.training.rag.read_index", lambda recipe, verify=False: other)
    monkeypatch.setattr("ecglm.training.check.read_index", lambda recipe, verify=False: other)
    with pytest.raises(ConfigError, match=told):
        check_recipe(rag_recipe(world, index.path))


def test_the_memory_of_a_batch_counts_the_retrieved_text(world: World, index: Index, run: Path) -> None:
    shown = from_pretrained(run / "best").representation
    talks = world.conversations("train")
    with_rag = batch_of(rag_recipe(world, index.path, share_ecg=False), talks, shown, 4, 2)
    without = batch_of(
        dataclasses.replace(rag_recipe(world, index.path, share_ecg=False), rag=None), talks, shown, 4, 2
    )
    assert with_rag.length == without.length + 120


@pytest.mark.slow
def test_two_processes_search_once_and_train_alike(world: World, index: Index, tmp_path: Path) -> None:
    recipe = exact(rag_recipe(world, index.path, {"k": 2}, device="cpu"))
    alone = train(recipe, tmp_path / "alone", say=quiet).path
    file = tmp_path / "both.yaml"
    file.write_text(strict.dumps(dataclasses.replace(recipe, name="both")))
    done = torchrun("train", tmp_path, [file])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("found once") == 1
    assert_same_training(alone, tmp_path / "both")
    assert tree(alone / "neighbours") == tree(tmp_path / "both" / "neighbours")
