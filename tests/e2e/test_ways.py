"""Every training way reads the ECG: the commands at the head of recipes/ways/*.yaml, run by `make test-all`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ecglm import config
from ecglm.training.pretrain_recipe import PretrainRecipe
from ecglm.training.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]
WAYS = ("scratch", "llava", "finetune", "end-to-end", "ecg-byte", "encoder-free", "dual")


@pytest.fixture(scope="module")
def ways() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ways", ROOT / "benchmarks" / "ways.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["ways"] = module  # where its dataclasses look for themselves
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all ways run: store, questions and the general encoder are made once."""
    return tmp_path_factory.mktemp("ways")


def test_every_way_has_a_recipe_and_none_is_left_out(ways: ModuleType) -> None:
    assert ways.WAYS == WAYS
    recipes = {p.stem for p in ways.RECIPES.glob("*.yaml") if not p.stem.startswith("pretrain-")}
    assert recipes == set(WAYS)


@pytest.mark.parametrize("way", WAYS)
def test_a_head_makes_all_that_its_recipe_reads(ways: ModuleType, way: str) -> None:
    """From nothing to a score: every file that a command names was made by one before it."""
    commands = ways.commands(ways.RECIPES / f"{way}.yaml")
    assert [c[0] for c in commands] == ["ecglm"] * len(commands)
    made: set[str] = set()
    for words in commands:
        text = " ".join(words)
        if words[1] in ("train", "pretrain"):
            recipe = config.load(ROOT / words[2], Recipe if words[1] == "train" else PretrainRecipe)
            wanted = {*recipe.data.stores, *recipe.data.files}
            wanted |= {recipe.stacked.percentiles} if recipe.stacked and recipe.stacked.percentiles else set()
            start = recipe.model.encoder_from if words[1] == "train" else recipe.encoder.start_from
            assert wanted | ({start} if start else set()) <= made, text
        out = words[words.index("--out") + 1] if "--out" in words else ""
        made |= {out, f"{out}/best"}
    assert [c[1] for c in commands][-3:] == ["train", "predict", "score"]
    assert "blank" in commands[-2]
    recipe = config.load(ways.RECIPES / f"{way}.yaml", Recipe)
    frozen = way in ("scratch", "llava", "finetune")
    assert ("encoder" not in (recipe.train.parts or ("encoder",))) == frozen


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_way_reads_the_rhythm(ways: ModuleType, folder: Path, way: str) -> None:
    """At least 0.9 of six rhythms on patients nobody has seen, and with a blank ECG no more than a guess."""
    found = ways.run_way(way, folder)
    print("\n".join(ways.table([found])))
    assert found.num_ecgs >= 200
    assert found.blank <= found.majority + 0.05
    if way != "llava":  # whose encoder never learned about ECGs: reported, whatever it is
        assert found.accuracy >= 0.9
    assert found.steps > 0 and (found.pretraining_steps > 0) == (way in ("scratch", "llava", "finetune"))
