"""Lead names and voltage units as files write them: one spelling of each, and nothing guessed."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from ecglm.errors import EcglmError, nearest
from ecglm.types import LEADS

_SPELLING = {lead.casefold(): lead for lead in LEADS}
_MILLIVOLTS = {"mv": 1.0, "uv": 1e-3, "µv": 1e-3, "μv": 1e-3, "v": 1e3}

#: Peak-to-peak of a surface ECG in mV; a median lead outside it means wrong units or a wrong gain.
PLAUSIBLE_MV = (0.1, 10.0)

#: Hz; outside it a sampling rate is a mistake.
MAX_RATE = 100_000.0


@functools.lru_cache(maxsize=1024)
def lead_name(text: str) -> str | None:
    """The canonical spelling of one of the twelve leads (``avr`` → ``aVR``), or None for any other name."""
    return _SPELLING.get(text.strip().casefold())


def lead_names(leads: str | Sequence[str], context: str) -> tuple[str, ...]:
    """The option ``--leads`` as canonical names: ``"I,II,V1"``, a list of names, or ``"standard"`` for all twelve.

    Raises EcglmError for an unknown name or one that stands twice.
    """
    if isinstance(leads, str):
        if leads.strip().casefold() == "standard":
            return LEADS
        leads = leads.split(",")
    names: list[str] = []
    for text in leads:
        name = lead_name(text)
        if name is None:
            raise EcglmError(
                f"{context}: '{text}' is no lead{nearest(text, LEADS)}; --leads takes names of {','.join(LEADS)}"
            )
        if name in names:
            raise EcglmError(f"{context}: lead {name} stands twice in --leads; name every row once")
        names.append(name)
    if not names:
        raise EcglmError(f"{context}: --leads is empty; give names such as I,II,V1, or standard for all twelve")
    return tuple(names)


def millivolts(unit: str) -> float | None:
    """How many mV one ``unit`` is (``mV``, ``uV``, ``V`` in any case), or None for an unknown unit."""
    return _MILLIVOLTS.get(unit.strip().casefold())


def is_rate(rate: float) -> bool:
    """Whether a number can be a sampling rate in Hz (NaN cannot)."""
    return 0.0 < rate <= MAX_RATE


def implausible(peak_to_peak: np.ndarray) -> bool:
    """Whether the median over leads of the peak-to-peak values (mV, NaN where a lead has no sample) is no ECG's."""
    finite = peak_to_peak[np.isfinite(peak_to_peak)]
    if finite.size == 0:
        return False  # nothing to judge by; the missing samples are reported by the signal quality checks
    ordered = np.sort(finite)
    middle = 0.5 * (ordered[(finite.size - 1) // 2] + ordered[finite.size // 2])
    return not PLAUSIBLE_MV[0] <= middle <= PLAUSIBLE_MV[1]
