"""A representation with the words of another behind it: built, shown, saved, and asked what its parts are asked."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from ecglm.analysis.attention import attention_map
from ecglm.errors import ConfigError
from ecglm.files import read_manifest
from ecglm.models.checkpoint import ModelConfig, from_pretrained
from ecglm.prompts.data import EcgSource, ElmDataset
from ecglm.representations.base import WithWords, build_representation
from ecglm.representations.features import FeaturesOptions, FeaturesRepresentation
from ecglm.representations.image import ImageRepresentation
from ecglm.representations.signal import SignalRepresentation
from ecglm.representations.symbols import SymbolsRepresentation, train_symbols
from ecglm.store.reader import SegmentStore
from ecglm.training.run import train

WORDS = FeaturesRepresentation(items=("rate", "pr"))


@pytest.fixture(scope="module")
def segment(world) -> np.ndarray:
    return SegmentStore(world.store)[0]


def symbols(segment: np.ndarray, **options) -> SymbolsRepresentation:
    return train_symbols([segment], 50, leads=("I", "V1"), target_rate=25, num_merges=20, **options)


def mains(segment: np.ndarray) -> dict:
    return {
        "signal": SignalRepresentation(num_tokens=4, num_samples=segment.shape[1]),
        "symbols": symbols(segment, max_ecg_tokens=30),
        "image": ImageRepresentation(image_size=(64, 64), num_tokens=4, synthesis="clean"),
    }


@pytest.mark.parametrize("kind", ["signal", "symbols", "image"])
def test_it_is_its_main_part_and_a_line(kind: str, segment: np.ndarray, tmp_path: Path) -> None:
    main = mains(segment)[kind]
    both = WithWords(main, WORDS)
    (tmp_path / "c").mkdir()
    files = both.save(tmp_path / "c")
    assert sorted(files) == sorted(p.name for p in (tmp_path / "c").iterdir())
    again = build_representation(json.loads(json.dumps(both.config())), tmp_path / "c")
    for show in (both, again, copy.deepcopy(both), pickle.loads(pickle.dumps(both))):
        for name in ("gives", "added_tokens", "placeholder", "num_tokens", "input_shape", "leads", "rate"):
            assert getattr(show, name) == getattr(main, name), name
        trained = show.in_training(segment, 50, seed=1, row_id="a/0")
        alone = main.in_training(segment, 50, seed=1, row_id="a/0")
        for ours, theirs in ((show(segment, 50), main(segment, 50)), (trained, alone)):
            np.testing.assert_array_equal(ours.token_ids, theirs.token_ids)
            np.testing.assert_array_equal(ours.tensor, theirs.tensor)
            assert (ours.truncated, ours.shown) == (theirs.truncated, theirs.shown)
            assert ours.text == WORDS(segment, 50).text and ours.text.startswith("Heart rate ")
        weights = np.random.default_rng(0).random((2, len(main(segment, 50).token_ids)))
        np.testing.assert_array_equal(show.spread(weights, segment, 50), main.spread(weights, segment, 50))
        assert hasattr(show, "points") == (kind == "image")
        if kind == "image":
            np.testing.assert_array_equal(show.points(segment, 50), main.points(segment, 50))


def test_what_cannot_stand_together(segment: np.ndarray) -> None:
    main = mains(segment)["signal"]
    for pair in ((main, main), (WORDS, WORDS), (WORDS, main), (WithWords(main, WORDS), WORDS)):
        with pytest.raises(ConfigError, match="cannot stand beside"):
            WithWords(*pair)
    good = WithWords(main, WORDS).config()
    for wrong in ({**good, "more": 1}, {**good, "words": "features"}, {"name": "with_words"}):
        with pytest.raises(ConfigError, match="main and words are needed, and nothing else"):
            build_representation(wrong)
    with pytest.raises(AttributeError, match="colour"):
        _ = WithWords(main, WORDS).colour


@pytest.mark.parametrize("with_symbols", [False, True], ids=["signal", "symbols"])
def test_a_recipe_with_both_trains_shows_tokens_then_line_and_loads(world, tmp_path: Path, with_symbols: bool) -> None:
    recipe = world.recipe(symbols=with_symbols, max_steps=2, eval_every=2, augment={"noise": {"p": 1}})
    model: ModelConfig = dataclasses.replace(recipe.model, max_len=600)
    recipe = dataclasses.replace(recipe, features=FeaturesOptions(items=("rate", "qrs")), model=model)
    run = train(recipe, tmp_path / "run", say=lambda text: None)
    assert train(recipe, tmp_path / "run", say=lambda text: None).reused
    settings = read_manifest(run.path, "training-run")["settings"]
    assert settings["features"]["items"] == ["rate", "qrs"] and recipe.representation in settings
    bundle, other = from_pretrained(run.best), from_pretrained(run.best)
    store = SegmentStore(world.store)
    source = EcgSource([store], bundle.representation)
    conversation = next(c for c in world.conversations("train") if len(c.ecgs) == 1)
    shown = source.encode(conversation.ecgs[0])
    example = bundle.prompter.build("x", conversation.turns, [shown])
    ids = [bundle.prompter.ecg_ids[t] for t in shown.token_ids]
    line = bundle.prompter.tokenizer.encode(shown.text, add_special_tokens=False)
    assert shown.text.startswith("Heart rate ") and "QRS" in shown.text
    whole = " ".join(map(str, example.input_ids))
    assert " ".join(map(str, [*ids, *line])) in whole, "the line follows the tokens"
    theirs = other.prompter.build(
        "x", conversation.turns, [other.representation(source.segment(conversation.ecgs[0]), 50)]
    )
    np.testing.assert_array_equal(example.input_ids, theirs.input_ids)
    blank = bundle.representation(np.zeros((12, 250), np.float32), 50)
    assert blank.text == "Heart rate not measurable. QRS not measurable." and len(blank.token_ids)
    data = ElmDataset([conversation], source, bundle.prompter, share_ecg=False)
    np.testing.assert_array_equal(data[0].input_ids, example.input_ids)
    found = attention_map(bundle, store[0], 50, "What is the rhythm?", answer="sinus rhythm")
    total = found.totals()[1]
    assert total["words"] > 0 and total["ecg"] > 0 and found.ecg is not None and found.seen.any()
