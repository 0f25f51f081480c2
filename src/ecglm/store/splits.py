"""Splits by patient: official folds where they exist, a seeded hash of the patient id elsewhere; k-fold partitions."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ecglm.errors import ConfigError, EcglmError
from ecglm.store.reader import SegmentStore
from ecglm.types import SPLITS, Record

#: What a record may be given as: a Record, or a row with patient_id, fold, split (and record_id, patient_known).
Row = Record | Mapping[str, Any]
#: Where a patient's records disagree the patient goes to the later of these: never into train what is tested on.
_CAUTION = {"train": 0, "val": 1, "test": 2}


class Splits(dict[str, str]):
    """Patient id → ``train``, ``val`` or ``test``.

    conflicts: patients whose records have different official splits (test wins, then val). official: how many patients
    have an official split. num_unknown: how many stand for a record whose source names no patient. plan: how the
    splits were made, JSON-able, for manifests.
    """

    def __init__(
        self,
        splits: Mapping[str, str],
        conflicts: Sequence[str],
        official: int,
        num_unknown: int,
        plan: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(splits)
        self.conflicts = tuple(conflicts)
        self.official = official
        self.num_unknown = num_unknown
        self.plan = dict(plan or {})

    @property
    def counts(self) -> dict[str, int]:
        """Patients per split."""
        counted = Counter(self.values())
        return {split: counted[split] for split in SPLITS}

    def lines(self) -> list[str]:
        """The split for people, with what must be said in every report."""
        counts = ", ".join(f"{split} {count}" for split, count in self.counts.items())
        if "fold" in self.plan:
            made = f"fold {self.plan['fold']} of {self.plan['k']}, seed {self.plan['seed']}"
        else:
            made = f"{self.official} by official split, {len(self) - self.official} by hash"
        lines = [f"patients: {counts} ({made})"]
        if self.num_unknown:
            lines.append(f"{self.num_unknown} records have no patient id: each counts as a patient of its own")
        if self.conflicts:
            some = ", ".join(self.conflicts[:3])
            lines.append(
                f"{len(self.conflicts)} patients have records in two official splits (test wins, then val): {some}"
            )
        return lines


def fold_split(fold: int) -> str:
    """PTB-XL's official use of its ten folds: 1–8 train, 9 validation, 10 test. EcglmError for another fold."""
    if not 1 <= fold <= 10:
        raise EcglmError(f"fold {fold}: official folds run from 1 to 10; use official=False or give splits")
    return "train" if fold <= 8 else "val" if fold == 9 else "test"


def hash_split(patient_id: str, seed: int, fractions: Sequence[float]) -> str:
    """The split of a patient by sha256 of ``"{seed}:{patient_id}"``: the same whichever other patients there are."""
    digest = hashlib.sha256(f"{seed}:{patient_id}".encode()).digest()
    draw = int.from_bytes(digest[:8], "big") / 2**64
    train, val, _ = fractions
    return "train" if draw < train else "val" if draw < train + val else "test"


def assign_splits(
    store: SegmentStore | Iterable[SegmentStore | Row],
    *,
    seed: int = 0,
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15),
    official: bool = True,
) -> Splits:
    """A split for every patient of a store, of several stores, or of a list of records or index rows.

    A record's own ``split`` comes first, then its official fold (1–8, 9, 10), then the hash of the patient id; with
    ``official=False`` the hash alone. All records of a patient go together.

    Raises ConfigError for fractions that are no three shares of 1 and EcglmError for an unknown split or fold.
    """
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
        raise ConfigError(f"fractions must be three numbers (train, val, test) that add up to 1, found {fractions}")
    found: dict[str, set[str]] = {}
    unknown: set[str] = set()
    for patient, known, fold, split in _rows(store):
        if split and split not in SPLITS:
            raise EcglmError(f"patient {patient}: unknown split '{split}'; splits are {', '.join(SPLITS)}")
        splits = found.setdefault(patient, set())
        if official and (split or fold is not None):
            splits.add(split or fold_split(int(fold)))  # type: ignore[arg-type]
        if not known:
            unknown.add(patient)
    chosen = {
        patient: max(splits, key=_CAUTION.__getitem__) if splits else hash_split(patient, seed, fractions)
        for patient, splits in found.items()
    }
    conflicts = [patient for patient, splits in found.items() if len(splits) > 1]
    plan = {"by": "official" if official else "hash", "seed": seed, "fractions": list(fractions)}
    return Splits(chosen, conflicts, sum(map(bool, found.values())), len(unknown), plan)


def _rows(store: SegmentStore | Iterable[SegmentStore | Row]) -> Iterable[tuple[str, bool, int | None, str]]:
    """(patient id, patient known, fold, split) of every row."""
    if isinstance(store, SegmentStore):
        columns = ("patient_id", "patient_known", "fold", "split")
        yield from zip(*(store.index.column(name).to_pylist() for name in columns), strict=True)
        return
    for row in store:
        if isinstance(row, SegmentStore):
            yield from _rows(row)
        elif isinstance(row, Record):
            known = bool(row.patient_known and row.patient_id)
            yield row.patient_id or row.record_id, known, row.fold, row.split
        else:
            patient = str(row.get("patient_id") or row["record_id"])
            yield patient, bool(row.get("patient_known", True)), row.get("fold"), row.get("split") or ""


def patient_folds(patient_ids: Iterable[str], k: int, seed: int = 0) -> dict[str, int]:
    """Patient id → fold 0 … k-1, a true partition: every patient is in exactly one test fold.

    ``patient_ids`` holds one entry per record (or segment); folds are balanced by these counts, the largest patients
    placed first, ties broken by a seeded hash. Raises ConfigError when k is below 2 or above the number of patients.
    """
    counts = Counter(patient_ids)
    if not 2 <= k <= len(counts):
        raise ConfigError(f"k must lie between 2 and the number of patients ({len(counts)}), found {k}")

    def draw(name: str) -> bytes:
        return hashlib.sha256(f"{seed}:{name}".encode()).digest()

    load = [0] * k
    order = [draw(f"fold {fold}") for fold in range(k)]
    folds: dict[str, int] = {}
    for patient in sorted(counts, key=lambda patient: (-counts[patient], draw(patient))):
        fold = min(range(k), key=lambda fold: (load[fold], order[fold]))
        folds[patient] = fold
        load[fold] += counts[patient]
    return folds


def fold_splits(store: SegmentStore | Iterable[SegmentStore | Row], k: int, fold: int, *, seed: int = 0) -> Splits:
    """Run ``fold`` (0 … k-1) of a k-fold cross-validation: that fold is test, the next one validation, the rest train.

    Official splits play no part: over the k runs every patient is in exactly one test fold, with all its records.
    Give every store of the experiment at once, and the same ones for every fold: the partition depends on all patients.
    Raises ConfigError for k below 3 (nothing would be left to train on) or above the number of patients, and for a fold
    outside 0 … k-1.
    """
    if k < 3 or not 0 <= fold < k:
        raise ConfigError(f"fold {fold} of {k}: k must be 3 or more and the fold lie between 0 and k - 1")
    patients: list[str] = []
    unknown: set[str] = set()
    for patient, known, _, _ in _rows(store):
        patients.append(patient)
        if not known:
            unknown.add(patient)
    role = {fold: "test", (fold + 1) % k: "val"}
    chosen = {patient: role.get(at, "train") for patient, at in patient_folds(patients, k, seed).items()}
    return Splits(chosen, (), 0, len(unknown), {"by": "folds", "k": k, "fold": fold, "seed": seed})


def parse_fold(text: str) -> tuple[int, int]:
    """``"i/k"`` as (fold, k): the fold counts from 0. ConfigError for anything else."""
    fold, _, k = text.partition("/")
    if not (fold.isascii() and fold.isdigit() and k.isascii() and k.isdigit()):
        raise ConfigError(f"--fold must be FOLD/K, such as 0/5, found '{text}'")
    return int(fold), int(k)
