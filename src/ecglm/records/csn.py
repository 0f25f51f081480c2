"""Chapman-Shaoxing-Ningbo (Zheng, Guo, Chu; PhysioNet ``ecg-arrhythmia``): 45,152 ECGs of 10 s at 500 Hz."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from ecglm.records import snomed
from ecglm.records.challenge import ChallengeSource
from ecglm.registry import register

CONDITIONS = "ConditionNames_SNOMED-CT.csv"
_MAX_TABLE = 1 << 22


@register("records", "csn")
@dataclass(frozen=True, kw_only=True)
class Csn(ChallengeSource):
    """``WFDBRecords/NN/NNN/JS*.{hea,mat}`` below ``root``, or the challenge edition's flat or ``g1 …`` folders.

    Names of findings are those of ``ConditionNames_SNOMED-CT.csv`` where it is there. Labels are the challenge's
    acronyms, as in every other source: the table's own call fibrillation AFIB and flutter AF. Two official headers
    (JS01052, JS23074) lost a line and are rejected (``header_corrupt``). Flat leads are flat in the files, too.
    """

    name = "csn"
    stems = ((re.compile(r"J?S\d{5}", re.ASCII), "csn"),)  # one header of the challenge edition lost its J
    home = "the Chapman-Shaoxing-Ningbo database (https://physionet.org/content/ecg-arrhythmia/)"

    def version(self) -> str:
        """``"1.0.0"`` for PhysioNet's own layout, else ``"unknown"``."""
        return "1.0.0" if any("WFDBRecords/" in name for name in self.listing.files.values()) else "unknown"

    @functools.cached_property
    def own_names(self) -> dict[str, str]:
        """SNOMED code → the database's own name."""
        table = next((name for name in self.tree.names() if name.rpartition("/")[2] == CONDITIONS), None)
        if table is None:
            return {}
        return snomed.read_condition_names(self.tree.read(table, _MAX_TABLE), f"{self.tree.root}/{table}")
