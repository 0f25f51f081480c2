"""Which rows of several conversations files go into a mix: one split per patient, no row twice, weights and caps."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ecglm.errors import ConfigError, EcglmError
from ecglm.store.audit_table import digest
from ecglm.store.reader import SegmentStore
from ecglm.store.splits import fold_split
from ecglm.types import ECG_MARK, SPLITS

TRAIN, VAL, TEST = range(3)
#: Why a row is not in the mix, by number; 0 is kept.
REASONS = (
    "",
    "patients_in_two_splits",
    "patient_in_test_elsewhere",
    "patient_in_val_elsewhere",
    "patient_officially_in_test",
    "patient_officially_in_val",
    "duplicate",
)


@dataclass(frozen=True)
class MixInput:
    """A conversations file in a mix. weight: share of its training rows (up to 1), or how often each stands (above).

    cap: at most so many training rows of it in the mix. Validation and test rows are always taken once, and all.
    """

    path: str | Path
    weight: float = 1.0
    cap: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1000:
            raise ConfigError(f"{self.path}: a weight must lie between 0 and 1000, found {self.weight}")
        if self.cap is not None and self.cap < 0:
            raise ConfigError(f"{self.path}: a cap must not be below 0, found {self.cap}")

    @classmethod
    def parse(cls, text: str) -> MixInput:
        """``FILE``, ``FILE:WEIGHT`` or ``FILE:WEIGHT:CAP``; ConfigError when weight or cap is no number."""
        if Path(text).exists() or ":" not in text:
            return cls(text)
        path, *numbers = text.rsplit(":", 2) if text.count(":") > 1 else text.split(":")
        try:
            return cls(path, float(numbers[0]), int(numbers[1]) if numbers[1:] else None)
        except ValueError as error:
            raise ConfigError(f"'{text}': must be FILE, FILE:WEIGHT or FILE:WEIGHT:CAP") from error


@dataclass
class Rows:
    """All rows of all inputs, in order, as columns; no texts. people: hashes of a row's patients and ECGs."""

    input: np.ndarray
    split: np.ndarray
    corpus: np.ndarray
    ids: np.ndarray
    content: np.ndarray
    people: np.ndarray
    starts: np.ndarray
    corpora: list[str]
    num_unknown: int

    def any_of(self, keys: np.ndarray) -> np.ndarray:
        """For every row whether one of its people is among ``keys`` (sorted)."""
        hits = np.r_[0, np.cumsum(_among(self.people, keys))]
        return hits[self.starts[1:]] > hits[self.starts[:-1]]

    def people_of(self, rows: np.ndarray) -> np.ndarray:
        """Sorted hashes of the people of the rows where the mask is True."""
        return np.unique(self.people[np.repeat(rows, np.diff(self.starts))])


def _among(values: np.ndarray, keys: np.ndarray) -> np.ndarray:
    if not len(keys):
        return np.zeros(len(values), bool)
    place = np.minimum(np.searchsorted(keys, values), len(keys) - 1)
    return keys[place] == values


def scan(paths: Sequence[Path], splits: Mapping[str, str] | None) -> tuple[Rows, np.ndarray]:
    """The columns of every input, and a mask of rows whose patients ``splits`` puts into different splits.

    Raises EcglmError for a row without split, and for a patient that ``splits`` does not know.
    """
    inputs, codes, corpora = array("h"), array("b"), array("i")
    ids, contents, people, lengths = array("Q"), array("Q"), array("Q"), array("i")
    known: dict[str, int] = {}
    unknown: set[int] = set()
    torn = array("b")
    columns = ["id", "corpus", "split", "ecgs", "patients", "turns"]
    for number, path in enumerate(paths):
        plan = None if splits is None or _only_test(path) else splits
        for row in _rows(path, columns):
            split, two = _split(row, plan, path)
            both = [digest(name) for name in (*row["patients"], *row["ecgs"]) if name]
            unknown.update(digest(e) for e, p in zip(row["ecgs"], row["patients"], strict=True) if e == p)
            inputs.append(number)
            codes.append(split)
            torn.append(two)
            corpora.append(known.setdefault(row["corpus"], len(known)))
            ids.append(digest(row["id"]))
            contents.append(digest(_content(row)))
            people.extend(both)
            lengths.append(len(both))
    rows = Rows(
        input=np.array(inputs),
        split=np.array(codes),
        corpus=np.array(corpora),
        ids=np.array(ids, np.uint64),
        content=np.array(contents, np.uint64),
        people=np.array(people, np.uint64),
        starts=np.r_[0, np.cumsum(np.array(lengths, np.int64))],
        corpora=list(known),
        num_unknown=len(unknown),
    )
    return rows, np.array(torn, bool)


def _rows(path: Path, columns: Sequence[str]) -> Iterable[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=4096, columns=list(columns)):
            yield from batch.to_pylist()


def _only_test(path: Path) -> bool:
    """Whether a file is a benchmark: all test. It stays so whatever the plan."""
    return all(row["split"] == "test" for row in _rows(path, ["split"]))


def _split(row: Mapping[str, Any], plan: Mapping[str, str] | None, path: Path) -> tuple[int, bool]:
    """(number of the row's split, whether its patients are in different ones); the plan's, where there is one."""
    if plan is None or not row["patients"]:
        if row["split"] not in SPLITS:
            raise EcglmError(
                f"{path}: {row['id']} has no split; map its corpus with splits by patient, or mix by folds"
            )
        return SPLITS.index(row["split"]), False
    for patient in row["patients"]:
        if patient not in plan:
            raise EcglmError(f"{path}: {row['id']}: patient {patient} has no split; give every corpus' store")
    found = {SPLITS.index(plan[patient]) for patient in row["patients"]}
    return max(found), len(found) > 1


def _content(row: Mapping[str, Any]) -> str:
    """The ECGs and the texts, without what is no difference: capitals, blanks, marks, a last full stop."""
    texts = (" ".join(turn["text"].replace(ECG_MARK, " ").lower().split()).rstrip(" .:;!?") for turn in row["turns"])
    return "\0".join((*row["ecgs"], "", *texts))


def official_claims(stores: Sequence[SegmentStore]) -> tuple[np.ndarray, np.ndarray]:
    """Sorted hashes of the patients that the stores' official folds or splits put into (test, val)."""
    claims: dict[str, set[int]] = {"test": set(), "val": set()}
    for store in stores:
        for batch in store.index.select(["patient_id", "fold", "split"]).to_batches(max_chunksize=8192):
            for patient, fold, split in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                if not split and fold is not None and 1 <= fold <= 10:
                    split = fold_split(fold)
                if split in claims:
                    claims[split].add(digest(patient))
    test, val = (np.array(sorted(claims[split]), np.uint64) for split in ("test", "val"))
    return test, val


def choose(rows: Rows, torn: np.ndarray, official: tuple[np.ndarray, np.ndarray], dedupe: bool) -> np.ndarray:
    """The reason (a number of ``REASONS``) of every row.

    A patient, and an ECG, belongs to the test where one test row or a store's official split says so, else to
    validation likewise; rows of the lesser splits about it are dropped. Of rows with the same ECGs and texts the first
    is kept. Test rows are dropped only as doubles within their own corpus: a benchmark must stay whole.
    """
    reason = np.where(torn, 1, 0).astype(np.int8)

    def drop(mask: np.ndarray, number: int) -> None:
        reason[mask & (reason == 0)] = number

    not_test = rows.split != TEST
    drop(not_test & rows.any_of(rows.people_of((rows.split == TEST) & (reason == 0))), 2)
    drop(not_test & rows.any_of(official[0]), 4)
    drop((rows.split == TRAIN) & rows.any_of(rows.people_of((rows.split == VAL) & (reason == 0))), 3)
    drop((rows.split == TRAIN) & rows.any_of(official[1]), 5)
    if dedupe:
        kept = np.flatnonzero(reason == 0)
        where = np.where(rows.split[kept] == TEST, 1 + rows.corpus[kept], 0).astype(np.int64)
        order = np.lexsort((kept, where, rows.content[kept]))
        content, where = rows.content[kept][order], where[order]
        again = np.r_[False, (content[1:] == content[:-1]) & (where[1:] == where[:-1])][: len(order)]
        reason[kept[order[again]]] = 6
    return reason


def draw(rows: Rows, reason: np.ndarray, inputs: Sequence[MixInput], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(row, copy) of everything in the mix, in its order: training rows shuffled, then validation, then test.

    Each input draws from its own random order of training rows, so that a larger weight contains a smaller one.
    """
    chosen, copies = [], []
    for number, given in enumerate(inputs):
        mine = np.flatnonzero((rows.input == number) & (rows.split == TRAIN) & (reason == 0))
        order = np.random.default_rng([seed, number]).permutation(mine)
        target = round(given.weight * len(mine))
        turns = np.arange(target if given.cap is None else min(target, given.cap))
        if len(turns):
            chosen.append(order[turns % len(mine)])
            copies.append(turns // len(mine))
    train = np.concatenate(chosen) if chosen else np.empty(0, np.int64)
    copy = np.concatenate(copies) if copies else np.empty(0, np.int64)
    shuffled = np.random.default_rng([seed, len(inputs)]).permutation(len(train))
    rest = [np.flatnonzero((rows.split == split) & (reason == 0)) for split in (VAL, TEST)]
    copy = np.concatenate([copy[shuffled], *(np.zeros(len(part), np.int64) for part in rest)])
    return np.concatenate([train[shuffled], *rest]), copy
