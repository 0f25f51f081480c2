"""Whom conversations are about, as hashes: what a checkpoint remembers of its training, and evaluation asks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ecglm.store.audit_table import digest
from ecglm.types import Conversation


def people(conversations: Iterable[Conversation]) -> np.ndarray:
    """Sorted 64-bit hashes of all patients and ECGs of the conversations, uint64.

    An ECG counts as well as its patient: another corpus may name the patient otherwise. Two of a million names share a
    hash with a chance of 3e-8. They are no secret: whoever has a list of ids can look each up.
    """
    names = {name for c in conversations for name in (*c.patients, *c.ecgs) if name}
    return np.array(sorted(digest(name) for name in names), np.uint64)


def seen(conversations: Sequence[Conversation], trained_on: np.ndarray) -> list[Conversation]:
    """Those of the conversations that are about a patient or an ECG among the hashes ``trained_on``."""
    known = set(trained_on.tolist())
    return [c for c in conversations if any(digest(name) in known for name in (*c.patients, *c.ecgs) if name)]
