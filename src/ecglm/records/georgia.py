"""Georgia 12-lead ECG database (G12EC; PhysioNet/CinC Challenge 2020): 500 Hz, 5 or 10 s, SNOMED codes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ecglm.records.challenge import ChallengeSource
from ecglm.registry import register


@register("records", "georgia")
@dataclass(frozen=True, kw_only=True)
class Georgia(ChallengeSource):
    """``E*.{hea,mat}`` in any folders below ``root`` (officially ``training/georgia/g1 … g11``).

    The early release writes its record names with ``.mat`` and a wrong gain; both are mended and noted.
    """

    name = "georgia"
    stems = ((re.compile(r"E\d{5}", re.ASCII), "georgia"),)
    home = "the Georgia database (https://physionet.org/content/challenge-2020/, training/georgia)"
