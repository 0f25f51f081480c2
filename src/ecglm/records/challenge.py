"""Databases as the PhysioNet/CinC Challenges 2020 and 2021 lay them out: WFDB headers with age, sex and SNOMED codes.

A header's comments hold ``#Age: 74``, ``#Sex: Male``, ``#Dx: 59118001,426783006`` and ``#Rx``, ``#Hx``, ``#Sx``. The
files lie in one folder or in numbered ones (``g1/``, ``01/010/``); a record is found by the stem of its header.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from ecglm.errors import EcglmError, nearest
from ecglm.files import fingerprint
from ecglm.records import snomed
from ecglm.records.tables import number
from ecglm.records.tree import Tree, open_tree
from ecglm.records.wfdb_files import read_with_header
from ecglm.types import Record

_SEX = {"m": "male", "male": "male", "f": "female", "female": "female"}
_NOTHING = ("", "unknown", "nan", "none", "n/a")
_CODE = re.compile(r"\d{5,18}")


@dataclass(frozen=True, kw_only=True)
class ChallengeSource:
    """What the databases share. root: a folder, or the official ``.zip`` or ``.tar``.

    on_checksum: what a record is whose data and header disagree: noted, or rejected.

    Labels are ``dx:<acronym>`` of each code of ``#Dx`` (once, in order); ``metadata`` has the codes under ``snomed``,
    their ``names``, ``age`` in years (None where it is no number), ``sex``, and ``rx``, ``hx``, ``sx`` as written.
    These databases have no patients: each record is its own, with ``patient_known`` false.
    """

    root: Path
    on_checksum: Literal["warn", "reject"] = "warn"
    name: ClassVar[str] = ""
    #: Stem of a header → the prefix of its record id.
    stems: ClassVar[tuple[tuple[re.Pattern[str], str], ...]] = ()
    home: ClassVar[str] = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root))
        if self.on_checksum not in ("warn", "reject"):
            raise EcglmError(f"on_checksum '{self.on_checksum}' is unknown; 'warn' or 'reject' is needed")

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker gets the options, and lists the files once however many tasks it is sent.
        return _shared, (type(self), self.root, self.on_checksum)

    def version(self) -> str:
        """``"unknown"``: the files do not say."""
        return "unknown"

    def fingerprint(self) -> dict[str, Any]:
        """What is read: options, which records are there and the size of their headers; the same in any place."""
        return {
            "source": self.name,
            "reader": 1,
            "version": self.version(),
            "on_checksum": self.on_checksum,
            "records": fingerprint({key: self.tree.size(name) for key, name in self.listing.files.items()}),
        }

    def keys(self) -> list[str]:
        """Record ids, sorted. EcglmError where there are none, or two of one name."""
        if not self.listing.files:
            raise EcglmError(f"{self.root}: holds no record of {self.name}; --root must be {self.home}")
        return list(self.listing.files)

    def accounting(self) -> dict[str, list[str]]:
        """``no_header``: data without a ``.hea``; ``other_database``: headers that are no record of this source."""
        return {"no_header": list(self.listing.no_header), "other_database": list(self.listing.others)}

    def read(self, key: str) -> Record:
        """The record ``key`` with labels, age and sex; EcglmError for one that is not there, else as `read_wfdb`."""
        record, header = read_with_header(self._file(key), key, on_checksum=self.on_checksum, tree=self.tree)
        return self._described(record, parse_comments(header.comments))

    def _file(self, key: str) -> str:
        name = self.listing.files.get(key)
        if name is None:
            raise EcglmError(f"{self.root}: no record {key}{nearest(key, list(self.listing.files)[:10_000])}")
        return name

    def _described(self, record: Record, facts: dict[str, Any]) -> Record:
        """The record with what its header's comments say."""
        codes = facts["snomed"]
        notes = [*record.metadata["notes"], *facts.pop("notes")]
        metadata = {**record.metadata, **facts, "names": snomed.names(codes, self.own_names), "notes": notes}
        return dataclasses.replace(record, labels=snomed.labels(codes), metadata=metadata)

    @functools.cached_property
    def own_names(self) -> dict[str, str]:
        """Code → name, for a database with a table of its own."""
        return {}

    @functools.cached_property
    def tree(self) -> Tree:
        return open_tree(self.root)

    @functools.cached_property
    def listing(self) -> Listing:
        return list_records(self.tree, self.stems)


@functools.lru_cache(maxsize=8)
def _shared(kind: type[ChallengeSource], root: Path, on_checksum: Any) -> ChallengeSource:
    return kind(root=root, on_checksum=on_checksum)


@dataclass(frozen=True)
class Listing:
    """files: record id → name in the tree, sorted by id. no_header: data files alone. others: headers not of us."""

    files: dict[str, str]
    no_header: tuple[str, ...]
    others: tuple[str, ...]


def list_records(
    tree: Tree, stems: tuple[tuple[re.Pattern[str], str], ...], suffix: str = ".hea", data: tuple[str, ...] = (".mat",)
) -> Listing:
    """Find the records whose stem is one of ``stems``, in whatever folder they lie.

    Raises EcglmError naming both files where one id stands twice.
    """
    files: dict[str, str] = {}
    others, orphans = [], []
    headers = {name[: -len(suffix)] for name in tree.names() if name.endswith(suffix)}
    for name in tree.names():
        stem = name.rpartition("/")[2].rpartition(".")[0]
        prefix = next((p for pattern, p in stems if pattern.fullmatch(stem)), None)
        if name.endswith(suffix):
            if prefix is None:
                others.append(name)
                continue
            key = f"{prefix}/{stem}"
            if key in files:
                raise EcglmError(f"{tree.root}: {files[key]} and {name} are two records {key}; keep one of them")
            files[key] = name
        elif prefix is not None and name.endswith(data):
            folder = name[: -len(stem) - 4]
            if f"{folder}{stem}" not in headers and f"{folder}{stem[1:]}" not in headers:  # S23074.hea has JS23074.mat
                orphans.append(name)
    return Listing(dict(sorted(files.items())), tuple(orphans), tuple(others))


def parse_comments(comments: tuple[str, ...]) -> dict[str, Any]:
    """``age sex snomed rx hx sx`` of a header's comments, and ``notes`` of what could not be understood.

    Codes stand once, in order; blanks, empty cells and a comma at the end are passed over.
    """
    said: dict[str, list[str]] = {}
    for comment in comments:
        field, colon, value = comment.partition(":")
        if colon:
            said.setdefault(field.strip().casefold(), []).append(value.strip())
    notes = []
    cells = [cell.strip() for text in said.get("dx", ()) for cell in text.split(",")]
    codes = dict.fromkeys(cell for cell in cells if _CODE.fullmatch(cell))
    if any(cell.casefold() not in _NOTHING and cell not in codes for cell in cells):
        notes.append("dx_not_understood")
    facts: dict[str, Any] = {"age": None, "sex": None, "snomed": list(codes)}
    age = " ".join(said.get("age", ()))
    if age.casefold() not in _NOTHING:
        try:
            facts["age"] = number(age)
        except ValueError:
            notes.append("age_not_understood")
        if facts["age"] is not None and not 0 <= facts["age"] <= 150:
            facts["age"] = None
            notes.append("age_not_understood")
    facts["sex"] = _SEX.get(" ".join(said.get("sex", ())).casefold())
    for field in ("rx", "hx", "sx"):
        text = "; ".join(t for t in said.get(field, ()) if t.casefold() not in _NOTHING)
        facts[field] = text or None
    facts["notes"] = notes
    return facts
