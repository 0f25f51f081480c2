"""CPSC2018 and CPSC2018-extra, in the PhysioNet/CinC Challenge 2020 layout or as the original MATLAB structs."""

from __future__ import annotations

import dataclasses
import functools
import re
from dataclasses import dataclass
from typing import Any

from ecglm.files import fingerprint
from ecglm.records import snomed
from ecglm.records.challenge import ChallengeSource, Listing, list_records
from ecglm.records.cpsc_struct import read_cpsc_struct, read_reference
from ecglm.registry import register
from ecglm.types import Record

_CODE_OF_CLASS = {name: code for code, name in snomed.CPSC_CLASSES.items()}
#: The nine classes by their number in ``REFERENCE.csv``, from 1.
CLASSES = tuple(snomed.CPSC_CLASSES.values())


@register("records", "cpsc")
@dataclass(frozen=True, kw_only=True)
class Cpsc(ChallengeSource):
    """``A*.{hea,mat}`` (CPSC2018) and ``Q*.{hea,mat}`` (extra) in any folders below ``root``, 6 to 144 s at 500 Hz.

    A root without headers is the original release: ``A*.mat`` structs and ``REFERENCE.csv``; its classes are given the
    same labels and codes as the challenge's headers. Besides ``dx:`` a record has ``cpsc:<class>`` for each of the
    nine classes NORM, AF, I-AVB, LBBB, RBBB, PAC, PVC, STD, STE among its codes.
    """

    name = "cpsc"
    stems = (
        (re.compile(r"A\d{4}", re.ASCII), "cpsc2018"),
        (re.compile(r"Q\d{4}", re.ASCII), "cpsc2018-extra"),
    )
    home = "CPSC2018 (https://physionet.org/content/challenge-2020/, training/cpsc_2018, or the original TrainingSet)"

    def version(self) -> str:
        """``"challenge-2020"`` or ``"original"``, by the layout."""
        return "original" if self._structs else "challenge-2020"

    def fingerprint(self) -> dict[str, Any]:
        """As every source, and the labels of the original release."""
        reference = {"reference": fingerprint(self._reference)} if self._structs else {}
        return {**super().fingerprint(), **reference}

    def accounting(self) -> dict[str, list[str]]:
        """As every source; ``no_labels`` and ``not_on_disk`` compare the original release with its table."""
        if not self._structs:
            return super().accounting()
        found = {key.rpartition("/")[2]: key for key in self.listing.files}
        return {
            "no_labels": [key for stem, key in found.items() if stem not in self._reference],
            "not_on_disk": [f"cpsc2018/{stem}" for stem in sorted(self._reference.keys() - found.keys())],
            "other_database": list(self.listing.others),
        }

    def read(self, key: str) -> Record:
        """The record ``key`` with labels, age and sex; reasons of `read_wfdb` or `read_cpsc_struct`."""
        if not self._structs:
            return super().read(key)
        record = read_cpsc_struct(self.tree, self._file(key), key)
        classes = [CLASSES[number - 1] for number in self._reference.get(key.rpartition("/")[2], ())]
        return self._described(record, {"snomed": [_CODE_OF_CLASS[name] for name in classes], "notes": []})

    def _described(self, record: Record, facts: dict[str, Any]) -> Record:
        described = super()._described(record, facts)
        nine = [f"cpsc:{snomed.CPSC_CLASSES[code]}" for code in facts["snomed"] if code in snomed.CPSC_CLASSES]
        return dataclasses.replace(described, labels=(*nine, *described.labels))

    @functools.cached_property
    def _structs(self) -> bool:
        """Whether the root holds the original release."""
        return not list_records(self.tree, self.stems).files

    @functools.cached_property
    def listing(self) -> Listing:
        return list_records(self.tree, self.stems, *((".mat", ()) if self._structs else ()))

    @functools.cached_property
    def _reference(self) -> dict[str, tuple[int, ...]]:
        return read_reference(self.tree)
