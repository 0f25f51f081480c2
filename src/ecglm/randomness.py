"""Random numbers: one generator for a seed and some names, the same in every process and on every machine."""

from __future__ import annotations

import hashlib

import numpy as np


def generator_for(seed: int, *names: str) -> np.random.Generator:
    """A generator of its own for a seed and some names: the same in every process and on every machine."""
    digest = hashlib.sha256("\0".join([str(seed), *names]).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))
