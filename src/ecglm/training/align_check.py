"""What an alignment would learn from, told before its model is loaded: ``ecglm validate`` and its start ask it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecglm.errors import ConfigError, EcglmError, RejectedRecord
from ecglm.files import read_json, read_manifest
from ecglm.store.reader import SegmentStore
from ecglm.training.align_recipe import AlignRecipe
from ecglm.training.pairs import Ecgs, Splits, split_pairs
from ecglm.training.preferences import Pair, PreferenceRow, Preferences, read_pairs

CHECKPOINT, CONFIG = "checkpoint", "config.json"


@dataclass
class Aligned:
    """The pairs of a recipe. ecg_ids: of each, the ids by which its ECGs are found. val: of each, whether it is kept
    back to validate.
    """

    stores: list[SegmentStore]
    splits: Splits
    ecgs: Ecgs
    preferences: Preferences
    ecg_ids: list[tuple[str, ...]]
    val: list[bool]

    @property
    def pairs(self) -> list[Pair]:
        return self.preferences.pairs

    def lines(self) -> list[str]:
        """For people: rows, pairs by source, what was refused and why."""
        counts = self.preferences.counts()
        sources = Counter(p.source for p in self.pairs)
        told = ", ".join(f"{name} {number}" for name, number in sorted(sources.items()))
        lines = [f"preferences: {counts['rows']} rows, {len(self.pairs)} pairs ({told})"]
        lines += [f"  {name}: {n}" for name, n in counts.items() if name.startswith("rejected")]
        return lines


def align_plan(recipe: AlignRecipe) -> Aligned:
    """Read the pairs of a recipe, find their ECGs, and keep some back to validate.

    Raises ConfigError for a model that is no checkpoint, or stores prepared otherwise than its data; EcglmError where
    no pair is left.
    """
    pipeline = model_pipeline(recipe.model)
    stores = [SegmentStore(path) for path in recipe.data.stores]
    check_pipeline(pipeline, stores)
    splits = Splits(stores, recipe.data.files)
    ecgs = Ecgs(stores, pipeline["rate"], pipeline["seg_len"])

    held: dict[str, str] = {}

    def usable(row: PreferenceRow) -> None:
        splits.check(row)
        for ecg in row.ecgs:
            if split := held.get(ecgs.find(ecg, row.where)):
                detail = f"{row.where}: {ecg.file or ecg.record} has the signal of an ECG of the {split} split"
                raise RejectedRecord(f"split_{split}", detail)

    found = read_pairs(recipe.data.pairs, usable)
    held |= splits.copies(ecgs.kept)  # all at once, when it is known which ECGs lie beside the rows
    if held:
        found = read_pairs(recipe.data.pairs, usable)
    if not found.pairs:
        told = ", ".join(f"{k} {v}" for k, v in found.counts().items())
        raise EcglmError(f"{', '.join(recipe.data.pairs)}: no pair to learn from ({told})")
    ids = [tuple(ecgs.find(ecg, pair.id) for ecg in pair.ecgs) for pair in found.pairs]
    people = [splits.people(pair) for pair in found.pairs]
    val = split_pairs(found.pairs, people, recipe.data.val_share, recipe.train.seed)
    return Aligned(stores, splits, ecgs, found, ids, val)


def model_pipeline(model: str) -> dict[str, Any]:
    """The signal pipeline of a checkpoint folder; ConfigError where there is none."""
    folder = Path(model)
    try:
        read_manifest(folder, CHECKPOINT)
        return dict(read_json(folder / CONFIG)["pipeline"])
    except (EcglmError, OSError, KeyError) as error:
        raise ConfigError(f"model: {model} is no checkpoint folder; name best/ of a run ({error})") from error


def check_pipeline(pipeline: dict[str, Any], stores: Sequence[SegmentStore]) -> None:
    """ConfigError where a store's segments were made otherwise than those the model learned from."""
    for store in stores:
        made = store.manifest["settings"]["pipeline"]
        differs = sorted(k for k in made.keys() | pipeline.keys() if made.get(k) != pipeline.get(k))
        if differs:
            told = ", ".join(f"{k} {made.get(k)} (model: {pipeline.get(k)})" for k in differs)
            raise ConfigError(f"{store.path}: prepared otherwise than the model's data: {told}; prepare it alike")
