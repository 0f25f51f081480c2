"""Which preference pairs may be learned from, and where their ECGs are: nobody of a validation or test split (D10)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ecglm.conversations.table import iter_conversations
from ecglm.errors import EcglmError, RejectedRecord, UnsafeInputError
from ecglm.files import canonical_json, inside
from ecglm.randomness import generator_for
from ecglm.records.arrays import read_npy
from ecglm.store.audit_table import digest
from ecglm.store.duplicates import duplicates_across
from ecglm.store.reader import SegmentStore
from ecglm.store.splits import fold_split
from ecglm.training.preferences import Pair, PreferenceEcg, PreferenceRow
from ecglm.types import LEADS

#: Splits nobody of whom may be learned from, the worst first.
HELD_OUT = ("test", "val")


class Splits:
    """Whom the conversations and stores of a recipe count to which split, by hash (``prompts.people``).

    A row is refused when it says so itself, or when its records, their patients, its people or the bytes of its ECG are
    of a validation or test split anywhere. An ECG of a store of which nothing says that it is for training is refused
    too.
    """

    def __init__(self, stores: Sequence[SegmentStore], files: Sequence[str]) -> None:
        self.stores = stores
        self.patient_of: dict[str, str] = {}
        self._of: dict[int, str] = {}
        self._bytes: dict[str, str] | None = None
        for store in stores:
            names = ("record_id", "patient_id", "split", "fold")
            for record, patient, split, fold in zip(*(store.index.column(n).to_pylist() for n in names), strict=True):
                self.patient_of[record] = patient
                self._add(split or ("" if fold is None else fold_split(int(fold))), (record, patient))
        for file in files:
            for conversation in iter_conversations(file):
                self._add(conversation.split, (*conversation.ecgs, *conversation.patients))

    def _add(self, split: str, names: Iterable[str]) -> None:
        for name in filter(None, names):
            key = digest(name)
            if split and self._of.get(key) != "test" and (split in HELD_OUT or key not in self._of):
                self._of[key] = split

    def people(self, row: PreferenceRow | Pair) -> tuple[int, ...]:
        """Hashes of all whom a row is about: those it names, and records and patients of its ECGs."""
        names = [n for e in row.ecgs if e.record for n in (e.record, self.patient_of.get(e.record, "")) if n]
        return tuple(sorted({*row.people, *map(digest, names)}))

    def check(self, row: PreferenceRow) -> None:
        """RejectedRecord ``split_test``, ``split_val`` or ``split_unknown`` for a row that is not for training."""
        found = {row.split, *(self._of.get(p, "") for p in self.people(row))}
        found |= {self._of_bytes(e) for e in row.ecgs if e.sha256 and e.record not in self.patient_of}
        for split in HELD_OUT:
            if split in found:
                raise RejectedRecord(f"split_{split}", f"{row.where}: about somebody of the {split} split")
        for ecg in row.ecgs:
            if ecg.record in self.patient_of and row.split != "train" and digest(ecg.record) not in self._of:
                mend = "name the conversations that say so in data.files"
                raise RejectedRecord(
                    "split_unknown", f"{row.where}: nothing says that {ecg.record} is for training; {mend}"
                )

    def _of_bytes(self, ecg: PreferenceEcg) -> str:
        """The split of the store's segment with these very samples; empty where there is none that is held out."""
        if self._bytes is None:  # read once, where somebody brought an ECG
            self._bytes = {}
            for store in self.stores:
                names = ("record_id", "patient_id")
                known = zip(*(store.index.column(n).to_pylist() for n in names), strict=True)
                for position, (record, patient) in enumerate(known):
                    splits = {self._of.get(digest(n), "") for n in (record, patient) if n}
                    for split in HELD_OUT:
                        if split in splits:
                            self._bytes.setdefault(sha256_of(store.microvolts([position])[0]), split)
                            break
        return self._bytes.get(ecg.sha256, "")

    def copies(self, kept: KeptEcgs) -> dict[str, str]:
        """Id of a kept ECG → ``test`` or ``val``, where its samples are nearly those of an ECG of that split in a store
        (``store.duplicates``): scaled, shifted or with noise, whatever its row says of itself. Reads all that is held
        out.
        """
        held: dict[str, str] = {}
        where: dict[str, Any] = {}
        for store in self.stores:
            for record in store.records():
                found = {self._of.get(digest(n), "") for n in (record, self.patient_of[record]) if n}
                if split := next((s for s in HELD_OUT if s in found), ""):
                    held[record], where[record] = split, store
        if not held or not len(kept):
            return {}
        where |= dict.fromkeys(kept.records(), kept)
        sides = {**dict.fromkeys(held, ("test",)), **dict.fromkeys(kept.records(), ("train",))}
        found_of: dict[str, set[str]] = {}
        for pair in duplicates_across(where, sides):
            ours, theirs = sorted((pair.record, pair.other), key=held.__contains__)
            found_of.setdefault(ours, set()).add(held[theirs])
        return {name: next(s for s in HELD_OUT if s in found) for name, found in found_of.items()}


def sha256_of(microvolts: np.ndarray) -> str:
    """sha256 of int16 microvolts ``(12, seg_len)``, little endian, C order: how a preference row names an ECG."""
    return hashlib.sha256(np.ascontiguousarray(microvolts, dtype="<i2").tobytes()).hexdigest()


class KeptEcgs:
    """ECGs that lie beside a preference file, as a store has them: one segment each, by an id that is their sha256."""

    fingerprint = ""

    def __init__(self, rate: int, seg_len: int) -> None:
        self.rate, self.seg_len = rate, seg_len
        self._at: dict[str, int] = {}
        self._segments: list[np.ndarray] = []

    def add(self, sha256: str, microvolts: np.ndarray) -> str:
        """Keep int16 microvolts ``(12, seg_len)``; returns their id."""
        name = f"kept:{sha256}"
        if name not in self._at:
            self._at[name] = len(self._segments)
            self._segments.append(microvolts)
        return name

    def records(self) -> list[str]:
        return list(self._at)

    def segments_of(self, record_id: str) -> list[int]:
        return [self._at[record_id]]

    def __len__(self) -> int:
        return len(self._segments)

    def __getitem__(self, i: int) -> np.ndarray:
        return np.divide(self._segments[i], 1000, dtype=np.float32)

    def take(self, indices: Sequence[int]) -> np.ndarray:
        """float32 ``(len(indices), 12, seg_len)``, mV."""
        return np.stack([self[i] for i in indices])


class Ecgs:
    """Finds the ECGs of preference rows in stores and among kept files. rate, seg_len: what the model reads."""

    def __init__(self, stores: Sequence[SegmentStore], rate: int, seg_len: int) -> None:
        self.kept = KeptEcgs(rate, seg_len)
        self._where: dict[str, SegmentStore] = {}
        for store in stores:
            self._where |= dict.fromkeys(store.records(), store)

    def find(self, ecg: PreferenceEcg, where: str) -> str:
        """The id by which an ``EcgSource`` of the stores and ``kept`` gives the ECG.

        Raises RejectedRecord: ``ecg_not_kept`` (it was not kept, or its file is gone), ``ecg_not_in_store``,
        ``ecg_differs`` (other samples than those the answers were about), ``ecg_unreadable``, ``ecg_other_pipeline``
        (another length or rate than the model reads); UnsafeInputError for a file outside the preference file's folder,
        or one that holds more than numbers.
        """
        store = self._where.get(ecg.record) if ecg.record else None
        if store is not None:
            if not ecg.sha256:
                return ecg.record
            for number, position in enumerate(store.segments_of(ecg.record)):
                microvolts = store.microvolts([position])[0]
                if sha256_of(microvolts) == ecg.sha256:  # an EcgSource gives the first of a record
                    return self.kept.add(ecg.sha256, microvolts) if number else ecg.record
            if not ecg.file:
                raise RejectedRecord("ecg_differs", f"{where}: {ecg.record} is not as it was in {store.path}")
        if ecg.file:
            return self._read(ecg, where)
        if ecg.record:
            raise RejectedRecord("ecg_not_in_store", f"{where}: no store of the recipe holds {ecg.record}")
        raise RejectedRecord("ecg_not_kept", f"{where}: the ECG was not kept beside the preferences")

    def _read(self, ecg: PreferenceEcg, where: str) -> str:
        assert ecg.file is not None
        if _is_odd(ecg.file):
            raise UnsafeInputError(
                f"{where}: refuses file {ecg.file!r:.80}; it must lie in the preference file's folder"
            )
        path = inside(ecg.folder, ecg.folder / ecg.file, where)
        if not path.is_file():
            raise RejectedRecord("ecg_not_kept", f"{where}: {ecg.file} is not there")
        try:
            found = read_npy(path).values
        except RejectedRecord as error:
            raise RejectedRecord("ecg_unreadable", f"{where}: {error.detail}") from error
        if found.dtype.kind != "i" or found.dtype.itemsize != 2:
            raise RejectedRecord(
                "ecg_unreadable", f"{where}: {ecg.file} holds {found.dtype}, int16 microvolts are needed"
            )
        kept = self.kept
        if found.shape != (len(LEADS), kept.seg_len) or (ecg.rate is not None and ecg.rate != kept.rate):
            shape = " x ".join(map(str, found.shape)) + ("" if ecg.rate is None else f" at {ecg.rate} Hz")
            detail = f"{where}: {ecg.file} is {shape}, the model reads {len(LEADS)} x {kept.seg_len} at {kept.rate} Hz"
            raise RejectedRecord("ecg_other_pipeline", detail)
        sha256 = sha256_of(found)
        if ecg.sha256 and sha256 != ecg.sha256:
            raise RejectedRecord("ecg_differs", f"{where}: {ecg.file} has another sha256 than the row says")
        return kept.add(sha256, np.ascontiguousarray(found, dtype="<i2"))


def _is_odd(name: str) -> bool:
    """Whether a relative path could mean something else on another system, or leaves its folder."""
    parts = name.replace("\\", "/").split("/")
    return not name or any(c in name for c in "\0:\\") or name.startswith(("/", "~")) or ".." in parts


def split_pairs(pairs: Sequence[Pair], people: Sequence[Sequence[int]], share: float, seed: int) -> list[bool]:
    """Of each pair whether it is for validation: about ``share`` of them, drawn by people, so that nobody is on both
    sides. people: of each pair, hashes; pairs that share anybody go together, as do those about the same ECG, and
    without either those with the same turns.

    Raises EcglmError where all pairs hang together.
    """
    root: dict[Any, Any] = {}

    def find(key: Any) -> Any:
        while root.setdefault(key, key) != key:
            root[key] = root[root[key]]
            key = root[key]
        return key

    first: list[Any] = []
    for pair, known in zip(pairs, people, strict=True):
        keys: list[Any] = [*known, *(e.key for e in pair.ecgs)]
        keys = keys or [canonical_json([[t.role, t.text] for t in pair.turns])]
        for key in keys[1:]:
            root[find(key)] = find(keys[0])
        first.append(keys[0])
    groups: dict[Any, list[int]] = {}
    for number, key in enumerate(first):
        groups.setdefault(find(key), []).append(number)
    if len(groups) < 2:
        raise EcglmError(
            f"data.pairs: all {len(pairs)} pairs hang together by patient; pairs about two patients are needed, one to "
            "validate"
        )
    named = sorted(groups.values(), key=lambda group: min(pairs[i].id for i in group))
    room = min(max(round(share * len(pairs)), 1), len(pairs) - 1)
    drawn: list[int] = []
    for at in generator_for(seed, "align", "val").permutation(len(named)).tolist():
        if len(drawn) + len(named[at]) <= room:
            drawn += named[at]
    chosen = set(drawn or sorted(named, key=len)[0])
    return [number in chosen for number in range(len(pairs))]


def counted(refused: Sequence[Mapping[str, str]]) -> dict[str, int]:
    """Reason → number, for people."""
    found: dict[str, int] = {}
    for row in refused:
        found[row["reason"]] = found.get(row["reason"], 0) + 1
    return dict(sorted(found.items()))
