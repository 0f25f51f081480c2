"""Preference pairs as a dataset: two sequences a pair, alike up to the answer, and batches of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ecglm.conversations.messages import check_turns
from ecglm.errors import EcglmError, RejectedRecord
from ecglm.models.assistant import mark_ecgs
from ecglm.prompts.collate import collate
from ecglm.prompts.data import EcgSource
from ecglm.prompts.examples import IGNORE, Prompter, share_prefix
from ecglm.training.logprobs import last_answer
from ecglm.training.objectives.base import counting
from ecglm.training.preferences import Pair
from ecglm.types import EcgInput, Example, Turn


@dataclass(frozen=True)
class Reference:
    """What the model held of a pair's answer tokens before it learned. tokens: float32 ``(num_tokens,)``, their
    log-probabilities, those of chosen first. ids, logp: ``(num_tokens, k)``, the k tokens it held likeliest instead.
    """

    tokens: np.ndarray
    ids: np.ndarray
    logp: np.ndarray


@dataclass(frozen=True)
class PairExample:
    """A pair as the model reads it: chosen, then rejected, or both behind one prompt in a single sequence. labels: of
    the answers alone. owners: of each sequence, int64 ``(length,)``, 0 where a label is of chosen, 1 of rejected.
    """

    id: str
    sequences: tuple[Example, ...]
    owners: tuple[np.ndarray, ...]
    reference: Reference | None = None

    @property
    def input_ids(self) -> np.ndarray:
        """All tokens, which the log counts."""
        return np.concatenate([s.input_ids for s in self.sequences])

    @property
    def ecg(self) -> Any:
        return self.sequences[0].ecg

    @property
    def image(self) -> Any:
        return self.sequences[0].image

    @property
    def num_tokens(self) -> int:
        """Answer tokens of both."""
        return sum(int((s.labels != IGNORE).sum()) for s in self.sequences)


def pair_example(
    name: str, chosen: Example, rejected: Example, *, shared: bool = False, ecg_ids: Sequence[int] = ()
) -> PairExample:
    """A pair of examples that are alike up to the answer. shared: make them one sequence. ecg_ids: the ECG's tokens."""
    if not shared:
        both = (chosen, rejected)
        return PairExample(name, both, tuple(np.full(len(s.input_ids), i, np.int64) for i, s in enumerate(both)))
    joined = share_prefix(name, (chosen, rejected), ecg_ids)
    assert joined.branches is not None
    return PairExample(name, (joined,), (np.maximum(joined.branches - 1, 0),))


class PairDataset(Dataset[PairExample]):
    """Pairs whose ECGs are shown as they are: the reference was computed on these and no others.

    ecgs: of each pair, the ids by which ``source`` gives them. shared: both answers in one sequence. refused: ``{"id",
    "reason", "detail"}`` of pairs that cannot be shown: ``sequence_too_long``, ``ecg_mark_count``, ``turn_order`` and
    others of ``check_turns``.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        ecgs: Sequence[Sequence[str]],
        source: EcgSource,
        prompter: Prompter,
        *,
        shared: bool = False,
    ) -> None:
        self.source, self.prompter, self.shared = source, prompter, shared
        self.items: list[tuple[Pair, tuple[str, ...]]] = []
        self.rows: list[str] = []
        self.lengths: list[int] = []
        self.refused: list[dict[str, str]] = []
        self.truncated: Counter[str] = Counter()
        self.reference: list[Reference] | None = None
        for pair, names in zip(pairs, ecgs, strict=True):
            try:
                example = self._build(pair, [source.outline(name) for name in names])
            except RejectedRecord as error:
                self.refused.append({"id": pair.id, "reason": error.reason, "detail": error.detail})
                continue
            self.items.append((pair, tuple(names)))
            self.rows.append(pair.id)
            self.lengths.append(max(len(s.input_ids) for s in example.sequences))
            self.truncated.update(example.sequences[0].truncated)

    def _build(self, pair: Pair, shown: Sequence[EcgInput]) -> PairExample:
        try:
            turns = mark_ecgs(pair.turns, len(shown))
        except EcglmError as error:
            raise RejectedRecord("ecg_mark_count", f"{pair.id}: {error}") from error
        found = []
        for text in (pair.chosen, pair.rejected):
            spoken = (*turns, Turn("assistant", text))
            check_turns(spoken, len(shown))
            example = self.prompter.build(pair.id, spoken, shown)
            found.append(replace(example, labels=last_answer(example.labels)))
        chosen, rejected = found
        if chosen.truncated != rejected.truncated:
            detail = f"{pair.id}: the longer answer leaves less room for the talk before it than the shorter one"
            raise RejectedRecord("sequence_too_long", detail)
        return pair_example(pair.id, chosen, rejected, shared=self.shared, ecg_ids=self.prompter.ecg_ids)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int | tuple[int, int]) -> PairExample:
        number = index[0] if isinstance(index, tuple) else index
        pair, names = self.items[number]
        example = self._build(pair, [self.source.encode(name) for name in names])
        return example if self.reference is None else replace(example, reference=self.reference[number])

    def counts(self) -> Mapping[str, int]:
        """``{"used", "rejected:reason" …}``: adds up to the pairs given."""
        reasons = Counter(f"rejected:{r['reason']}" for r in self.refused)
        return {"used": len(self), **dict(sorted(reasons.items()))}


def collate_pairs(rows: Sequence[PairExample], *, pad_id: int) -> dict[str, Any]:
    """A batch of pairs: what ``collate`` makes of their sequences, with the labels under ``answers`` and under
    ``owners`` the number of each token's answer (2 i is chosen of pair i, 2 i + 1 rejected). ``reference``,
    ``likeliest`` and ``likeliest_logp``: of every answer token, row after row (``Reference``), where it is known.
    ``labels`` counts pairs (``objectives.base.counting``).
    """
    batch = collate([s for row in rows for s in row.sequences], pad_id=pad_id)
    owner = np.zeros(tuple(batch["input_ids"].shape), np.int64)
    numbers = [2 * i + number for i, row in enumerate(rows) for number in row.owners]
    for at, number in enumerate(numbers):
        owner[at, : len(number)] = number
    batch["answers"] = batch.pop("labels")
    batch["owners"] = torch.from_numpy(owner)
    batch["labels"] = counting(rows)  # type: ignore[arg-type]
    known = [row.reference for row in rows if row.reference is not None]
    if known:
        for name, part in (("reference", "tokens"), ("likeliest", "ids"), ("likeliest_logp", "logp")):
            batch[name] = torch.from_numpy(np.concatenate([getattr(r, part) for r in known]))
    return batch
