"""PTB diagnostic ECG database as the PhysioNet/CinC Challenge 2020 has it: 1000 Hz, up to two minutes, SNOMED codes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ecglm.records.challenge import ChallengeSource
from ecglm.registry import register


@register("records", "ptb")
@dataclass(frozen=True, kw_only=True)
class Ptb(ChallengeSource):
    """``S*.{hea,mat}`` in any folders below ``root`` (officially ``training/ptb/g1``)."""

    name = "ptb"
    stems = ((re.compile(r"S\d{4}", re.ASCII), "ptb"),)
    home = "the PTB database of the challenge (https://physionet.org/content/challenge-2020/, training/ptb)"
