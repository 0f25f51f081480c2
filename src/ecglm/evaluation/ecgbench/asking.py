"""What a model is asked: turns, and the picture or recording shown under a condition; what baselines answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ecglm import registry
from ecglm.evaluation.answerers.base import PictureRef, Request
from ecglm.evaluation.answerers.fixed import majority_answer, random_choice, random_label_set
from ecglm.evaluation.answerers.make import ModelSpec
from ecglm.evaluation.controls import REAL, remove_marks, swap_partners
from ecglm.evaluation.ecgbench.arena import Talk
from ecglm.evaluation.ecgbench.gold import GoldItem
from ecglm.evaluation.ecgbench.subsets import NORMALITY, SUBSETS, Subset
from ecglm.files import inside
from ecglm.store.reader import SegmentStore


class Asking:
    """How the items of a subset are asked under one control."""

    def __init__(
        self,
        spec: ModelSpec,
        subset: Subset,
        items: Sequence[GoldItem],
        images: Path,
        stores: Sequence[SegmentStore],
        control: str,
        seed: int,
    ) -> None:
        self.subset, self.images, self.control, self.seed = subset, images, control, seed
        self.items_by_id = {item.id: item for item in items}
        self.by_record = shows_records(spec, subset)
        self.partners: dict[str, str] = {}
        if control != REAL and registry.get("controls", control).swaps:
            known = {r for s in stores for r in s.records()}
            shown = {self.key(i): i.patient_id for i in items if not self.by_record or i.record in known}
            self.partners = swap_partners(list(shown.items()), seed)

    def key(self, item: GoldItem) -> str:
        """What is shown: a record of the stores, or a picture."""
        return (item.record or item.image) if self.by_record else item.image

    def extra(self, item: GoldItem) -> Mapping[str, str]:
        """What a row says besides: whose ECG was shown."""
        return {"shown": self.partners[self.key(item)]} if self.key(item) in self.partners else {}

    def talk(self, item: GoldItem) -> Talk:
        """An item as it is asked: all but its last answer, in the arena the questions alone."""
        arena = self.subset.kind == "arena"
        turns = [t for t in item.turns[:-1] if not arena or t.role != "assistant"]
        if self.control == REAL or not registry.get("controls", self.control).removes_ecg:
            picture, record = self._shown(item)
        else:
            picture, record = (), None
            turns = [replace(t, text=remove_marks(t.text)) for t in turns]
        first = 1 + next(n for n, t in enumerate(turns) if t.role == "user") if arena else len(turns)
        request = Request(
            f"{self.subset.name}/{item.id}", tuple(turns[:first]), picture, record, self.control, self.seed
        )
        return Talk(request, tuple(turns[first:]))

    def _shown(self, item: GoldItem) -> tuple[tuple[PictureRef, ...], str | None]:
        key = self.partners.get(self.key(item), self.key(item))
        if self.by_record:
            return (), key
        path = inside(self.images, self.images / key, f"{self.subset.name}, item '{item.id}'")
        control = REAL if self.partners else self.control
        return (PictureRef(path, control, self.seed, f"{self.subset.name}/{item.id}"),), None


def shows_records(spec: ModelSpec, subset: Subset) -> bool:
    """Whether a subset's ECGs come from the stores: where there are some, and the subset has recordings at all."""
    return bool(spec.stores and subset.source)


def baseline_texts(name: str, gold: Mapping[str, Sequence[GoldItem]], seed: int) -> dict[str, str]:
    """Answers of a baseline. ``majority``: the subset's most frequent right answer (the letter, of choices); random:
    one of the item's own choices, or of its labels each by the toss of a coin."""
    texts: dict[str, str] = {}
    for subset, items in ((SUBSETS[n], found) for n, found in gold.items()):
        right = {i.id: i.answers[0][:1] if subset.kind == "choice" else ", ".join(i.answers) for i in items}
        most = majority_answer(list(right.values()))
        for item in items:
            key = f"{subset.name}/{item.id}"
            if name == "majority":
                texts[key] = most
            elif subset.name == "code15-test" and item.answers[0] in NORMALITY:  # one of two, not any of six
                texts[key] = random_choice(list(NORMALITY), seed, key)
            elif subset.kind == "multi-label":
                texts[key] = random_label_set(list(subset.labels), seed, key)
            else:
                options = item.options if subset.kind == "set" else subset.letters[: len(item.options) or None]
                texts[key] = random_choice(list(options), seed, key)
    return texts
