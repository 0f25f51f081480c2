"""Train and evaluate ECG-language models, with numbers that can be trusted.

The public names below are imported when they are first used, so that ``import ecglm`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

#: Public name → where it lives.
_HOMES: dict[str, tuple[str, str]] = {
    "read": ("ecglm.records.formats", "read"),
    "preprocess": ("ecglm.signals.pipeline", "preprocess"),
    "EcgByte": ("ecglm.representations.ecg_byte", "EcgByte"),
    "render": ("ecglm.representations.render", "render"),
    "SegmentStore": ("ecglm.store.reader", "SegmentStore"),
    "load": ("ecglm.models.assistant", "load"),
    "score": ("ecglm.evaluation.score", "score"),
    "Record": ("ecglm.types", "Record"),
    "Segments": ("ecglm.types", "Segments"),
    "Conversation": ("ecglm.types", "Conversation"),
    "Turn": ("ecglm.types", "Turn"),
    "EcglmError": ("ecglm.errors", "EcglmError"),
    "LEADS": ("ecglm.types", "LEADS"),
}

__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:
    from ecglm.errors import EcglmError
    from ecglm.evaluation.score import score
    from ecglm.models.assistant import load
    from ecglm.records.formats import read
    from ecglm.representations.ecg_byte import EcgByte
    from ecglm.representations.render import render
    from ecglm.signals.pipeline import preprocess
    from ecglm.store.reader import SegmentStore
    from ecglm.types import LEADS, Conversation, Record, Segments, Turn


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ecglm' has no attribute '{name}'")
    module, attribute = _HOMES[name]
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
