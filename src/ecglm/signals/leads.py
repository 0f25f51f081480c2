"""Leads by name: any order a header gives → the canonical twelve."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ecglm.errors import RejectedRecord, nearest
from ecglm.types import LEADS

_ROW = {name.casefold(): row for row, name in enumerate(LEADS)}
_PLACE = tuple(range(len(LEADS)))


def canonical_leads(signal: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Rows in the order I II III aVR aVL aVF V1–V6, found by header name (case and outer blanks do not matter).

    signal: ``(num_leads, num_samples)``. Returns ``(12, num_samples)``; the input itself when it is in order already.
    Nothing is derived from other leads. Raises RejectedRecord ``leads_mismatch`` (names and rows differ in number),
    ``lead_duplicate``, ``lead_unknown``, ``lead_missing``.
    """
    if signal.ndim != 2 or len(names) != signal.shape[0]:
        raise RejectedRecord("leads_mismatch", f"{len(names)} lead names for a signal of shape {signal.shape}")
    if tuple(names) == LEADS:
        return signal
    found: dict[int, int] = {}
    for place, name in enumerate(names):
        row = _ROW.get(name.strip().casefold())
        if row is None:
            raise RejectedRecord("lead_unknown", f"lead '{name}' is none of {', '.join(LEADS)}{nearest(name, LEADS)}")
        if row in found:
            raise RejectedRecord("lead_duplicate", f"lead {LEADS[row]} stands twice (rows {found[row]} and {place})")
        found[row] = place
    missing = [lead for row, lead in enumerate(LEADS) if row not in found]
    if missing:
        raise RejectedRecord("lead_missing", f"{len(found)} of 12 leads; missing: {', '.join(missing)}")
    order = tuple(found[row] for row in _PLACE)
    return signal if order == _PLACE else signal[list(order)]


def plain(signal: np.ndarray) -> np.ndarray:
    """float32, C order and writeable: the one type the compiled loops are made for; most often the input itself."""
    flags = signal.flags
    if signal.dtype == np.float32 and flags.c_contiguous and flags.writeable and flags.aligned:
        return signal
    return np.require(signal, np.float32, ["C", "W"])
