"""The dataset: conversations and stores → examples, built on demand, with every unusable one counted at the start."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Sampler

from ecglm.errors import ConfigError, EcglmError, RejectedRecord
from ecglm.prompts.examples import Prompter, share_prefix
from ecglm.prompts.pictures import PictureFiles, is_picture_id, picture_id
from ecglm.prompts.retrieved import Retrieved
from ecglm.representations.augment import Augmentation, augment_signal
from ecglm.representations.image_augment import augment_image
from ecglm.store.reader import SegmentStore
from ecglm.types import Conversation, EcgInput, Example, Neighbour


@dataclass
class EcgSource:
    """Finds the segment of a record in the stores, or the picture file that shows it, and turns it into what the model
    reads. images: folders of picture files (``PictureFiles``); without one, every ECG is drawn from the stores.
    ConfigError where the representation reads no pictures, and there are folders of them.
    """

    stores: Sequence[SegmentStore]
    representation: Any
    images: Sequence[str | Path] = ()
    _where: dict[str, tuple[int, int]] = field(default_factory=dict)
    _last: tuple[str, Any, EcgInput] | None = None
    _outlines: dict[tuple[int, int], EcgInput] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pictures = PictureFiles(self.images)
        if self.images and not self._draws:
            name = getattr(self.representation, "name", "none")
            raise ConfigError(
                f"data.images shows picture files, which representation '{name}' does not read; use image"
            )
        for number, store in enumerate(self.stores):
            for record_id in store.records():
                if record_id in self._where:
                    raise EcglmError(f"record {record_id} is in two of the given stores; give each record once")
                self._where[record_id] = (number, store.segments_of(record_id)[0])

    def __contains__(self, record_id: str) -> bool:
        return record_id in self._where

    def segment(self, record_id: str) -> np.ndarray:
        """The first segment of a record: float32 ``(12, seg_len)`` in millivolts."""
        if is_picture_id(record_id):
            raise RejectedRecord("no_signal_record", f"{record_id} is a picture alone; name its folder (data.images)")
        if record_id not in self._where:
            raise RejectedRecord("ecg_not_in_store", record_id)
        number, index = self._where[record_id]
        return self.stores[number][index]

    def rate(self, record_id: str) -> int:
        """Sampling rate of the record's store in Hz."""
        return self.stores[self._where[record_id][0]].rate

    @property
    def _draws(self) -> bool:
        """Whether the representation shows a page, drawn or from a file, and nothing else."""
        return hasattr(type(self.representation), "of_picture")

    def _is_file(self, ecg: str) -> bool:
        return bool(self.images) and is_picture_id(ecg)

    def shown(self, conversation: Conversation) -> tuple[str, ...]:
        """Ids of what is shown for each ECG of a conversation: records, or its picture file where there are folders."""
        name = picture_id(conversation) if self.images else None
        return conversation.ecgs if name is None else (name,)

    def encode(self, ecg: str) -> EcgInput:
        """A record's first segment, or a picture file, as the representation gives it."""
        last = self._last  # questions about one ECG follow one another, and a page takes milliseconds to draw
        if last is None or last[0] != ecg or last[1] is not self.representation:
            if self._is_file(ecg):
                found = self.representation.of_picture(self.pictures.read(ecg))
            else:
                found = self.representation(self.segment(ecg), self.rate(ecg))
            last = self._last = (ecg, self.representation, found)
        return last[2]

    def outline(self, ecg: str) -> EcgInput:
        """As ``encode``, but of a page only how many tokens it takes: nothing is drawn, a picture file is looked at."""
        if not self._draws:
            return self.encode(ecg)
        if self._is_file(ecg):
            size = self.pictures.size(ecg)
            if size not in self._outlines:
                self._outlines[size] = _tokens_alone(self.representation.of_picture(np.zeros((*size, 3), np.uint8)))
            return self._outlines[size]
        segment, rate = self.segment(ecg), self.rate(ecg)
        key = (-segment.shape[-1], rate)
        if key not in self._outlines:
            self._outlines[key] = _tokens_alone(self.representation(segment, rate))
        return self._outlines[key]

    def fingerprints(self) -> dict[str, str]:
        """Name → fingerprint of each store, for manifests."""
        return {f"store{n or ''}": s.fingerprint for n, s in enumerate(self.stores)}


def _tokens_alone(shown: EcgInput) -> EcgInput:
    return replace(shown, tensor=None, image=None, tiles=None)


class ElmDataset(Dataset):
    """Training examples. With ``share_ecg`` all single-ECG conversations of a record become one sequence.

    ``data[i]`` shows the ECGs as they are, ``data[i, epoch]`` as training shows them in that epoch: changed by
    ``augmentation``, a function of (seed, epoch, row, number of the ECG in the row) alone, whichever worker asks and in
    whatever order. A row is a conversation, or a record with ``share_ecg``. Where a changed ECG would make the sequence
    too long (symbols), the row is shown as it is and says so in ``truncated``.

    neighbours: conversation → the ECGs retrieved for it (``retrieval/neighbours.py``), found beforehand for the ECGs as
    they are: in every epoch the same, however the ECG is varied.

    rejected: ``{"id", "reason", "detail"}`` of every conversation that cannot be used, found before training starts.
    lengths: tokens of each item, for batches of like length. EcglmError for an effect that cannot work on a store.
    """

    def __init__(
        self,
        conversations: Sequence[Conversation],
        ecgs: EcgSource,
        prompter: Prompter,
        *,
        share_ecg: bool = False,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        neighbours: Callable[[Conversation], Sequence[Neighbour]] | None = None,
    ) -> None:
        self.ecgs, self.prompter, self.seed = ecgs, prompter, seed
        self._neighbours = neighbours
        self._told: dict[tuple[str, ...], Retrieved] = {}
        self.retrieved: Counter[str] = Counter()
        self.augmentation = augmentation or Augmentation()
        for store in ecgs.stores:
            self.augmentation.check(store.rate, store.seg_len)
        self.rejected: list[dict[str, str]] = []
        groups: dict[tuple[str, ...], list[Conversation]] = {}
        ecgs.pictures.check(ecg for c in conversations for ecg in ecgs.shown(c) if is_picture_id(ecg))
        for conversation in conversations:
            alone = not share_ecg or len(conversation.ecgs) != 1
            row = ("conversation", conversation.id) if alone else ("ecg", *ecgs.shown(conversation))
            groups.setdefault(row, []).append(conversation)
        self.items: list[list[Conversation]] = []
        self.rows: list[str] = []
        self.lengths: list[int] = []
        self.truncated: Counter[str] = Counter()
        self._shown: dict[str, Mapping[str, float]] = {}
        for row, group in groups.items():
            built = [(c, example) for c in group if (example := self._usable(c)) is not None]
            if built:
                self.items.append([c for c, _ in built])
                self.rows.append("/".join(row))
                example = self._joined([e for _, e in built], group[0])
                self.lengths.append(len(example.input_ids))
                self.truncated.update(example.truncated)

    def _usable(self, conversation: Conversation) -> Example | None:
        try:
            inputs = [self._outline(ecg) for ecg in self.ecgs.shown(conversation)]
            told = self._tell(conversation)
            example = self.prompter.build(conversation.id, conversation.turns, inputs, retrieved=told)
            if not (example.labels >= 0).any():
                raise RejectedRecord("no_answer", f"{conversation.id}: no assistant turn to learn from")
        except RejectedRecord as error:
            self.rejected.append({"id": conversation.id, "reason": error.reason, "detail": error.detail})
            return None
        if self._neighbours is not None:
            found = self._neighbours(conversation)
            self.retrieved.update({"conversations": 1, "neighbours": len(found), "without": int(not told.blocks)})
        return example

    def _tell(self, conversation: Conversation) -> Retrieved:
        """What its prompt says of retrieved ECGs: written once, since it is the same for all questions about an ECG."""
        if self._neighbours is None:
            return Retrieved()
        if conversation.ecgs not in self._told:
            self._told[conversation.ecgs] = self.prompter.tell(self._neighbours(conversation))
        return self._told[conversation.ecgs]

    def _example(self, group: Sequence[Conversation], row: str, epoch: int | None) -> Example:
        shown = self.ecgs.shown(group[0])
        inputs = [self._show(ecg, f"{row}/{number}", epoch) for number, ecg in enumerate(shown)]
        built = [self.prompter.build(c.id, c.turns, inputs, retrieved=self._tell(c)) for c in group]
        return self._joined(built, group[0])

    def _joined(self, examples: Sequence[Example], first: Conversation) -> Example:
        if len(examples) == 1:
            return examples[0]
        return share_prefix(first.ecgs[0], examples, self.prompter.ecg_ids)

    def _outline(self, ecg: str) -> EcgInput:
        found = self.ecgs.outline(ecg)
        if found.shown:
            self._shown[ecg] = found.shown
        return found

    def _show(self, ecg: str, row_id: str, epoch: int | None) -> EcgInput:
        if epoch is None:
            return self.ecgs.encode(ecg)
        representation, varied = self.ecgs.representation, self.augmentation.image
        if varied is not None and getattr(representation, "tiled", False):  # the page, before it is cut
            page = augment_image(self._page(ecg, row_id, epoch), varied, seed=self.seed, row_id=row_id, epoch=epoch)
            tiles: EcgInput = representation.of_picture(page)
            if (words := getattr(representation, "words", None)) is None or is_picture_id(ecg):
                return tiles
            told = words.in_training(*self._segment(ecg, row_id, epoch), seed=self.seed, row_id=f"{row_id}/{epoch}")
            return replace(tiles, text=told.text)
        if is_picture_id(ecg):
            shown = self.ecgs.encode(ecg)
        else:
            segment, rate = self._segment(ecg, row_id, epoch)
            shown = representation.in_training(segment, rate, seed=self.seed, row_id=f"{row_id}/{epoch}")
        field = "tensor" if representation.gives == "image" else "image"
        tensor = getattr(shown, field)
        if varied is None or tensor is None:
            return shown
        picture = np.ascontiguousarray(tensor.transpose(1, 2, 0))
        picture = augment_image(picture, varied, seed=self.seed, row_id=row_id, epoch=epoch)
        changed: dict[str, Any] = {field: np.ascontiguousarray(picture.transpose(2, 0, 1))}
        return replace(shown, **changed)

    def _segment(self, record_id: str, row_id: str, epoch: int) -> tuple[np.ndarray, int]:
        """A record's segment as training shows it, and its rate in Hz."""
        segment, rate = self.ecgs.segment(record_id), self.ecgs.rate(record_id)
        if self.augmentation.effects:
            segment = augment_signal(segment, rate, self.augmentation, seed=self.seed, row_id=row_id, epoch=epoch)
        return segment, rate

    def _page(self, ecg: str, row_id: str, epoch: int) -> np.ndarray:
        """The whole picture that training shows, uint8 ``(height, width, 3)``."""
        if is_picture_id(ecg):
            return self.ecgs.pictures.read(ecg)
        segment, rate = self._segment(ecg, row_id, epoch)
        page: np.ndarray = self.ecgs.representation.training_page(
            segment, rate, seed=self.seed, row_id=f"{row_id}/{epoch}"
        )
        return page

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int | tuple[int, int]) -> Example:
        index, epoch = index if isinstance(index, tuple) else (index, None)
        try:
            return self._example(self.items[index], self.rows[index], epoch)
        except RejectedRecord as error:
            if epoch is None or error.reason != "sequence_too_long":
                raise
            example = self._example(self.items[index], self.rows[index], None)
            return replace(example, truncated=(*example.truncated, "augmentation"))

    def counts(self) -> Mapping[str, int]:
        """``{"used": …, "rejected": …}`` with one entry per reason: adds up to the conversations given."""
        reasons = Counter(f"rejected:{r['reason']}" for r in self.rejected)
        return {"used": sum(len(g) for g in self.items), **dict(sorted(reasons.items()))}

    def cuts(self) -> dict[str, Any]:
        """What the representation's length policy cut: ``ecgs``, how many there are, ``ecgs_cut``, how many of them it
        cut, and ``ecg_shown``, lead → mean share of those that is shown. Empty when it cut none.
        """
        ecgs = {ecg for group in self.items for c in group for ecg in c.ecgs}
        cut = [self._shown[ecg] for ecg in sorted(ecgs & self._shown.keys())]
        if not cut:
            return {}
        shown = {lead: round(float(np.mean([c[lead] for c in cut])), 4) for lead in cut[0]}
        return {"ecgs": len(ecgs), "ecgs_cut": len(cut), "ecg_shown": shown}


class EpochSampler(Sampler[tuple[int, int]]):
    """The order of one epoch, a function of (seed, epoch) alone, so that a resumed run sees the same batches.

    Gives ``(item, epoch)``, what ``ElmDataset`` takes: so the epoch reaches every worker, however long it lives.
    Shuffles, cuts into pools of ``pool`` batches and sorts each pool by length; the pool's batches are shuffled again.
    Fewer batches make smaller pools, at least ``MIN_POOLS`` of them where there are as many batches: in a single pool
    the same items would meet in every epoch.
    """

    MIN_POOLS = 4

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, pool: int = 16) -> None:
        self.lengths = np.asarray(lengths)
        self.batch_size, self.seed = batch_size, seed
        num_batches = -(-len(self.lengths) // batch_size)
        self.pool = max(1, min(pool, num_batches // self.MIN_POOLS))
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.lengths))
        size = self.batch_size * self.pool
        batches: list[np.ndarray] = []
        for start in range(0, len(order), size):
            pool = order[start : start + size]
            pool = pool[np.argsort(self.lengths[pool], kind="stable")]
            batches += [pool[i : i + self.batch_size] for i in range(0, len(pool), self.batch_size)]
        # An incomplete batch goes last: in the middle it would shift the borders of every later one.
        tail = [batches.pop()] if len(batches[-1]) < self.batch_size else []
        for i in rng.permutation(len(batches)):
            yield from ((item, epoch) for item in batches[i].tolist())
        for batch in tail:
            yield from ((item, epoch) for item in batch.tolist())
