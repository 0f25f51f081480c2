"""The nouns every room shares: frozen dataclasses without logic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

#: Canonical lead order of every array behind ``signals/leads.py``.
LEADS: tuple[str, ...] = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")

#: Where an ECG is shown inside the text of a conversation.
ECG_MARK = "<ecg>"

#: The splits a row may belong to; an empty string means "not assigned yet".
SPLITS: tuple[str, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class Record:
    """One recording as its file says.

    signal: float32 ``(num_leads, num_samples)`` in millivolts, rows named by ``leads``; NaN marks missing samples.
    sampling_rate: Hz. record_id: ``"<source>/<native id>"``. patient_id: ``"<source>/<patient>"``, or the record id
    with ``patient_known=False`` where the source has no patients. labels: ``"group:name"``, e.g. ``"superclass:NORM"``.
    report: as the source has it, in its language. report_en: the same in English, empty where it is not translated.
    report_origin: where report_en comes from: ``"original"``, ``"phrases"`` (the built-in dictionary) or
    ``"model:<name>"``; empty without one. metadata: JSON-able facts (age, measurements in ms, reader notes under
    ``"notes"``).
    """

    record_id: str
    signal: np.ndarray
    sampling_rate: float
    leads: tuple[str, ...]
    patient_id: str = ""
    patient_known: bool = True
    fold: int | None = None
    split: str = ""
    report: str = ""
    report_en: str = ""
    report_origin: str = ""
    labels: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Segments:
    """What a pipeline makes of one record.

    signal: float32 ``(num_segments, 12, seg_len)`` in millivolts, canonical leads. start_s: seconds from the start of
    the record, one per segment. rate: Hz. quality: per record, JSON-able, flags under ``"flags"``. lead_quality:
    measure (``signals/quality.py``) → float32 ``(num_segments, 12)``, of the raw samples behind each segment.
    """

    signal: np.ndarray
    start_s: tuple[float, ...]
    rate: int
    quality: Mapping[str, Any] = field(default_factory=dict)
    lead_quality: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation; ``role`` is ``system``, ``user`` or ``assistant``."""

    role: str
    text: str


@dataclass(frozen=True)
class Conversation:
    """An instruction item: turns of text in which ``<ecg>`` stands where an ECG is shown, in the order of ``ecgs``.

    ecgs: record ids. patients: patient ids of those records, same order. metadata: JSON-able extras
    (question_type, template_id, the answer list for set-based scoring …).
    """

    id: str
    corpus: str
    task: str
    split: str
    ecgs: tuple[str, ...]
    patients: tuple[str, ...]
    turns: tuple[Turn, ...]
    source_id: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EcgInput:
    """One ECG as a representation hands it to the prompt.

    token_ids: int64 ``(num_tokens,)``, indices into the representation's ``added_tokens``. tensor: what the encoder
    reads (float32 of a signal, uint8 ``(3, height, width)`` RGB of a picture, shape fixed per representation), or None
    where the tokens are all there is. truncated: what the representation's length policy cut, empty when nothing.
    text: plain words that the prompt shows right after the tokens, read with the ordinary tokenizer, never learned.
    shown: lead → share of its samples that the tokens stand for, where some were cut; empty when nothing was.
    image: the picture that a second encoder reads beside the signal. tiles: where one picture is several tensors,
    ``(num_tiles, 3, height, width)``: int64 ``(4,)``, columns and rows of its grid of tiles behind the first, then its
    width and height in pixels.
    """

    token_ids: np.ndarray
    tensor: np.ndarray | None = None
    truncated: tuple[str, ...] = ()
    text: str = ""
    shown: Mapping[str, float] = field(default_factory=dict)
    image: np.ndarray | None = None
    tiles: np.ndarray | None = None


@dataclass(frozen=True)
class Example:
    """One training or prediction sequence, before collation.

    input_ids, labels: int64 ``(length,)``; labels are -100 wherever no loss is wanted. ecg: the tensors
    of its ECGs, ``(num_ecgs, …)``, for the encoder, or None. branches: int64 ``(length,)`` where several conversations
    share one prefix (0 = the prefix, k = conversation k), or None. truncated: what the length policy had to do. image:
    the pictures of its ECGs for a second encoder, ``(num_ecgs, 3, height, width)`` uint8, or None. tiles: where ``ecg``
    holds the tiles of all its pictures, int64 ``(num_ecgs, 4)``, how each is cut (``EcgInput.tiles``).
    """

    id: str
    input_ids: np.ndarray
    labels: np.ndarray
    ecg: np.ndarray | None = None
    branches: np.ndarray | None = None
    truncated: tuple[str, ...] = ()
    image: np.ndarray | None = None
    tiles: np.ndarray | None = None


@dataclass(frozen=True)
class Neighbour:
    """An ECG of the training split that a search found like the one it was asked for.

    segment_id, record_id, patient_id: its own, for people and for checks; never shown to a model. distance: by the
    index's measure, smaller is nearer. report: of its record, empty where there is none. features: name → value of what
    the index measured of it, in the order of the features; empty where it measured none.
    """

    segment_id: str
    record_id: str
    patient_id: str
    distance: float
    report: str = ""
    labels: tuple[str, ...] = ()
    features: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Prediction:
    """One generated answer: a row of ``predictions.jsonl`` (see docs/design.md, §6)."""

    id: str
    ecgs: tuple[str, ...]
    task: str
    turn: int
    prompt: str
    reference: str
    prediction: str
    control: str
    seed: int
    patient_id: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
