"""The dataset: conversations and stores → examples, built on demand, with every unusable one counted at the start."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Sampler

from ecglm.errors import EcglmError, RejectedRecord
from ecglm.prompts.examples import Prompter, share_prefix
from ecglm.store.reader import SegmentStore
from ecglm.types import Conversation, EcgInput, Example


@dataclass
class EcgSource:
    """Finds the segment of a record in the stores and turns it into what the model reads."""

    stores: Sequence[SegmentStore]
    representation: Any
    _where: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for number, store in enumerate(self.stores):
            for record_id in store.records():
                if record_id in self._where:
                    raise EcglmError(f"record {record_id} is in two of the given stores; give each record once")
                self._where[record_id] = (number, store.segments_of(record_id)[0])

    def __contains__(self, record_id: str) -> bool:
        return record_id in self._where

    def segment(self, record_id: str) -> np.ndarray:
        """The first segment of a record: float32 ``(12, seg_len)`` in millivolts."""
        if record_id not in self._where:
            raise RejectedRecord("ecg_not_in_store", record_id)
        number, index = self._where[record_id]
        return self.stores[number][index]

    def rate(self, record_id: str) -> int:
        """Sampling rate of the record's store in Hz."""
        return self.stores[self._where[record_id][0]].rate

    def encode(self, record_id: str) -> EcgInput:
        """The record's first segment as the representation gives it."""
        return self.representation(self.segment(record_id), self.rate(record_id))

    def fingerprints(self) -> dict[str, str]:
        """Name → fingerprint of each store, for manifests."""
        return {f"store{n or ''}": s.fingerprint for n, s in enumerate(self.stores)}


class ElmDataset(Dataset):
    """Training examples. With ``share_ecg`` all single-ECG conversations of a record become one sequence.

    rejected: ``{"id", "reason", "detail"}`` of every conversation that cannot be used, found before training starts.
    lengths: tokens of each item, for batches of like length.
    """

    def __init__(
        self,
        conversations: Sequence[Conversation],
        ecgs: EcgSource,
        prompter: Prompter,
        *,
        share_ecg: bool = False,
    ) -> None:
        self.ecgs, self.prompter = ecgs, prompter
        self.rejected: list[dict[str, str]] = []
        groups: dict[Any, list[Conversation]] = {}
        for conversation in conversations:
            alone = not share_ecg or len(conversation.ecgs) != 1
            groups.setdefault(conversation.id if alone else conversation.ecgs, []).append(conversation)
        self.items: list[list[Conversation]] = []
        self.lengths: list[int] = []
        self.truncated: Counter[str] = Counter()
        for group in groups.values():
            usable = [c for c in group if self._usable(c)]
            if usable:
                self.items.append(usable)
                example = self[len(self.items) - 1]
                self.lengths.append(len(example.input_ids))
                self.truncated.update(example.truncated)

    def _usable(self, conversation: Conversation) -> bool:
        try:
            example = self._example(conversation)
            if not (example.labels >= 0).any():
                raise RejectedRecord("no_answer", f"{conversation.id}: no assistant turn to learn from")
        except RejectedRecord as error:
            self.rejected.append({"id": conversation.id, "reason": error.reason, "detail": error.detail})
            return False
        return True

    def _example(self, conversation: Conversation) -> Example:
        inputs = [self.ecgs.encode(e) for e in conversation.ecgs]
        return self.prompter.build(conversation.id, conversation.turns, inputs)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Example:
        group = self.items[index]
        if len(group) == 1:
            return self._example(group[0])
        inputs = [self.ecgs.encode(group[0].ecgs[0])]
        examples = [self.prompter.build(c.id, c.turns, inputs) for c in group]
        return share_prefix(group[0].ecgs[0], examples, self.prompter.ecg_ids)

    def counts(self) -> Mapping[str, int]:
        """``{"used": …, "rejected": …}`` with one entry per reason: adds up to the conversations given."""
        reasons = Counter(f"rejected:{r['reason']}" for r in self.rejected)
        return {"used": sum(len(g) for g in self.items), **dict(sorted(reasons.items()))}


class EpochSampler(Sampler[int]):
    """The order of one epoch, a function of (seed, epoch) alone, so that a resumed run sees the same batches.

    Shuffles, cuts into pools of ``pool`` items and sorts each pool by length; the pool's batches are shuffled again.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, pool: int = 16) -> None:
        self.lengths = np.asarray(lengths)
        self.batch_size, self.seed, self.pool = batch_size, seed, pool
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
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
            yield from batches[i].tolist()
        for batch in tail:
            yield from batch.tolist()
