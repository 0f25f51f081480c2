"""Two processes, started once by torchrun, train what test_distributed.py and test_fsdp.py look at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ecglm import config as strict
from ecglm.training.recipe import DataConfig, Recipe
from two_processes import exact, torchrun


def _on_pictures(rows: list[Any], folder: Path) -> list[Any]:
    """Every third without an ECG, every third about a picture file of its own (one is missing), the others drawn."""
    folder.mkdir(exist_ok=True)
    made = []
    for number, row in enumerate(rows):
        if number % 3 == 0:
            turns = tuple(replace(t, text=t.text.replace("<ecg>", "").strip()) for t in row.turns)
            made.append(replace(row, ecgs=(), patients=(), turns=turns))
            continue
        name = f"page{number}.png"
        if number % 3 == 1:
            noise = np.random.default_rng(number).integers(0, 256, (40 + 9 * number, 90, 3), dtype=np.uint8)
            if number != 4:
                Image.fromarray(noise).save(folder / name)
            row = replace(row, metadata={**row.metadata, "image": name})
        made.append(row)
    return made


@pytest.fixture(scope="session")
def distributed_recipes(world: Any) -> dict[str, Recipe]:
    """Name → what the two processes train."""
    rows = world.conversations()
    plain = [c for c in rows if c.split != "test"]
    train = [c for c in plain if c.split == "train"][:11]  # a step of eight and one of three
    text = [
        replace(
            c, ecgs=(), patients=(), turns=tuple(replace(t, text=t.text.replace("<ecg>", "").strip()) for t in c.turns)
        )
        if number % 2
        else c
        for number, c in enumerate(train)
    ]
    mixed = world.write(world.folder / "mixed.parquet", text + [c for c in plain if c.split == "val"])
    shared = {"share_ecg": False, "batch_size": 4, "accumulation": 2, "max_steps": 5, "eval_every": 5}
    data = DataConfig(files=(str(mixed),), stores=(str(world.store),))
    shown = _on_pictures(train, world.folder / "pages")
    pictures = world.write(world.folder / "pages.parquet", shown + [c for c in plain if c.split == "val"])
    files = DataConfig(files=(str(pictures),), stores=data.stores, images=(str(world.folder / "pages"),))
    pages = strict.load(Path(__file__).resolve().parents[2] / "recipes" / "pulse" / "toy.yaml", Recipe)
    as_published = {"sharding": "fsdp", "gradient_checkpointing": True, "warmup_share": 0.2}
    return {
        "ddp": exact(world.recipe(**shared)),
        "text": replace(exact(world.recipe(**shared)), data=data),
        "stops": exact(world.recipe(**{**shared, "max_steps": 30, "eval_every": 1, "patience": 2, "lr": 0.3})),
        "fsdp": exact(world.recipe(**shared, sharding="fsdp", gradient_checkpointing=True)),
        "fsdp-pages": replace(pages, data=files, train=replace(pages.train, **shared, **as_published)),
        "fsdp-text": replace(exact(world.recipe(**shared, sharding="fsdp")), data=data),
    }


@pytest.fixture(scope="session")
def two_processes(distributed_recipes: dict[str, Recipe], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes trained all of them, each in its own."""
    folder = tmp_path_factory.mktemp("two")
    files = []
    for name, recipe in distributed_recipes.items():
        files.append(folder / f"{name}.yaml")
        files[-1].write_text(strict.dumps(recipe))
    done = torchrun("train", folder, files)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    (folder / "stdout.txt").write_text(done.stdout)
    return folder


@pytest.fixture(scope="session")
def one_process(distributed_recipes: dict[str, Recipe], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same recipes, trained here by one process."""
    from ecglm.training.run import train

    folder = tmp_path_factory.mktemp("one")
    for name, recipe in distributed_recipes.items():
        train(recipe, folder / name, say=lambda text: None)
    return folder
