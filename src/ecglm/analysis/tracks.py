"""The encoding track: which stretch of each lead a token stands for, as a picture and as rows."""

from __future__ import annotations

import colorsys
import csv
import io
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ecglm import files
from ecglm.errors import EcglmError
from ecglm.representations.ecg_byte import EcgByte, EcgTokens

_PREFERRED = 20  # colours that an id may have by itself
_FOOT, _ROOM = 0.16, 0.30  # of a panel's height: the strip of tokens below the trace, and the names above


@dataclass(frozen=True)
class TrackPart:
    """A token on one lead: samples ``[start, end)``.

    token: its place in the sequence; a token that crosses leads has a part on each. text: the symbols of the part.
    """

    token: int
    id: int
    lead: str
    start: int
    end: int
    text: str


def track(tokenizer: EcgByte, tokens: EcgTokens, leads: Sequence[str]) -> list[TrackPart]:
    """The parts of an encoded segment, lead by lead, in order; they tile every lead."""
    num_leads, num_samples = tokens.shape
    if len(leads) != num_leads:
        raise EcglmError(f"tokens of {num_leads} leads, {len(leads)} names of leads")
    parts = []
    for place, (token, (start, end)) in enumerate(zip(tokens.ids.tolist(), tokens.spans.tolist(), strict=True)):
        text, begin = tokenizer.expansions.texts[token].decode("latin-1"), start
        while start < end:
            lead = start // num_samples
            stop = min(end, (lead + 1) * num_samples)
            first, last = start - lead * num_samples, stop - lead * num_samples
            parts.append(TrackPart(place, token, leads[lead], first, last, text[start - begin : stop - begin]))
            start = stop
    return parts


def track_colours(ids: np.ndarray) -> dict[int, int]:
    """Number of the colour of each id of a sequence: two that stand side by side differ.

    Frequent ids come first and get the colour ``id % 20`` where no neighbour has it, so that most tokens look the same
    in all pictures; else the lowest that is free.
    """
    sequence = ids.tolist()
    beside: dict[int, set[int]] = {token: set() for token in sequence}
    for left, right in pairwise(sequence):
        if left != right:
            beside[left].add(right)
            beside[right].add(left)
    colours: dict[int, int] = {}
    for token, _ in sorted(Counter(sequence).items(), key=lambda item: (-item[1], item[0])):
        taken = {colours[other] for other in beside[token] if other in colours}
        free = (n for n in (token % _PREFERRED, *range(len(taken) + 1)) if n not in taken)
        colours[token] = next(free)
    return colours


def palette(number: int) -> tuple[float, float, float]:
    """RGB of a colour's number: hues a golden section apart in three depths, none too light to be read on white."""
    red, green, blue = colorsys.hls_to_rgb((0.58 + number * 0.6180339887) % 1.0, (0.42, 0.54, 0.32)[number % 3], 0.8)
    light = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    depth = min(1.0, (0.38, 0.48, 0.24)[number % 3] / light)
    return red * depth, green * depth, blue * depth


def draw_track(segment: np.ndarray, parts: Sequence[TrackPart], leads: Sequence[str], rate: int) -> Figure:
    """A panel per lead: the trace in the colours of its tokens, a strip that shows where each begins and ends.

    segment: ``(num_leads, num_samples)`` in mV at ``rate`` Hz. The id stands above a token that is long enough for it.
    """
    num_leads, num_samples = segment.shape
    colours = track_colours(np.array([p.id for p in _in_order(parts)]))
    figure = Figure(figsize=(16, 0.6 + 1.25 * num_leads), layout="constrained")
    panels = figure.subplots(num_leads, 1, sharex=True, squeeze=False)[:, 0]
    seconds = np.arange(num_samples + 1) / rate
    for panel, lead, values in zip(panels, leads, segment, strict=True):
        here = [p for p in parts if p.lead == lead]
        low, high = float(values.min()), float(values.max())
        height = max(high - low, 0.1)
        foot, top = low - 2 * _FOOT * height, high + _ROOM * height
        shades = [palette(colours[p.id]) for p in here]
        joined = np.append(values, values[-1])  # a token's line reaches to where the next begins
        lines = [np.column_stack([seconds[p.start : p.end + 1], joined[p.start : p.end + 1]]) for p in here]
        strip = [_box(seconds[p.start], seconds[p.end], foot, foot + _FOOT * height) for p in here]
        veil = [_box(seconds[p.start], seconds[p.end], foot, top) for p in here]
        panel.add_collection(PolyCollection(veil, facecolors=shades, alpha=0.10, linewidths=0))
        panel.add_collection(PolyCollection(strip, facecolors=shades, edgecolors="white", linewidths=0.6))
        panel.add_collection(LineCollection(lines, colors=shades, linewidths=1.3))
        least = 0.0065 * num_samples  # per character of an id, at this size of the letters
        for p, shade in zip(here, shades, strict=True):
            if p.end - p.start >= least * len(str(p.id)):
                middle = (seconds[p.start] + seconds[p.end]) / 2
                panel.text(middle, top, str(p.id), color=shade, fontsize=6.5, ha="center", va="top")
        panel.set(xlim=(0, seconds[-1]), ylim=(foot - 0.03 * height, top))
        panel.set_ylabel(f"{lead}\n{len(here)} tokens", rotation=0, ha="right", va="center", fontsize=9)
        panel.yaxis.set_major_locator(MaxNLocator(3))
        panel.tick_params(labelsize=7)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    panels[-1].set_xlabel("seconds", fontsize=9)
    num_tokens = 1 + max(p.token for p in parts)
    figure.suptitle(
        f"{num_tokens} tokens ({len(colours)} different) for {num_leads} leads of {num_samples / rate:g} s, in mV; "
        "a colour is a token, the number its id",
        fontsize=11,
    )
    return figure


def _in_order(parts: Sequence[TrackPart]) -> list[TrackPart]:
    """One part of each token, in the order of the sequence."""
    return list({p.token: p for p in parts}.values())


def _box(left: float, right: float, low: float, high: float) -> list[tuple[float, float]]:
    return [(left, low), (right, low), (right, high), (left, high)]


def write_track(path: str | os.PathLike[str], parts: Sequence[TrackPart]) -> None:
    """Write the parts as ``.csv`` or ``.json``, atomically; EcglmError for another ending."""
    rows = [asdict(part) for part in parts]
    if Path(path).suffix == ".json":
        files.write_text(path, json.dumps(rows, ensure_ascii=False, indent=1) + "\n")
    elif Path(path).suffix == ".csv":
        table = io.StringIO()
        writer = csv.DictWriter(table, list(TrackPart.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        files.write_text(path, table.getvalue())
    else:
        raise EcglmError(f"{path}: tokens are written as .csv or .json; name such a file")
