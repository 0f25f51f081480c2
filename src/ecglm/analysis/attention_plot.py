"""Attention maps on disk: the weights under each lead's trace with one colour scale, bars for words, and the data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure

from ecglm.analysis.attention import AttentionMap
from ecglm.analysis.results import save_figure
from ecglm.files import atomic_path, write_json
from ecglm.types import LEADS

MAX_BARS = 36
_COLOURS = {
    "question": "#2b6cb0",
    "answer": "#c05621",
    "system": "#6b46c1",
    "words": "#2f855a",
    "control": "#a0aec0",
}
#: Ends in a red on which a black trace is still seen.
_REDS = ["#ffffff", "#fff3bf", "#fdbb63", "#f46d43", "#d7301f"]
_MAP = LinearSegmentedColormap.from_list("attention", _REDS).with_extremes(bad="#e2e8f0")


def save_attention(found: AttentionMap, folder: Path, progress: Callable[[int], None] | None = None) -> dict[str, Any]:
    """Write ``attention.npz`` (arrays, no objects), ``attention.json`` (what they are), ``question.png``,
    ``answer.png`` and ``token-NN.png`` for each token of the answer; returns what the JSON holds. progress: called with
    the number of pictures drawn.
    """
    arrays = {"weights": found.weights, "segment": found.segment, "seen": found.seen}
    arrays |= {name: a for name in ("ecg", "patches") if (a := getattr(found, name)) is not None}
    with atomic_path(folder / "attention.npz") as temporary, open(temporary, "wb") as handle:
        np.savez(handle, allow_pickle=False, **arrays)
    facts = {
        "question": found.question,
        "answer": found.answer,
        "rate": found.rate,
        "leads": list(LEADS),
        "positions": [{"text": p.text, "kind": p.kind} for p in found.positions],
        "rows": [
            {"looks": name, "picture": picture, **{k: round(v, 6) for k, v in total.items()}, "per_lead": leads}
            for name, picture, total, leads in zip(
                found.rows, pictures(found), found.totals(), _per_lead(found), strict=True
            )
        ],
    }
    write_json(folder / "attention.json", facts)
    for number, picture in enumerate(pictures(found)):
        save_figure(draw_attention(found, number), folder / picture)
        if progress is not None:
            progress(number + 1)
    return facts


def _per_lead(found: AttentionMap) -> list[dict[str, float]]:
    """Per row: lead → attention on its samples; empty where weights cannot be laid on samples."""
    if found.ecg is None:
        return [{} for _ in found.rows]
    return [{lead: round(float(w), 6) for lead, w in zip(LEADS, row.sum(axis=1), strict=True)} for row in found.ecg]


def pictures(found: AttentionMap) -> list[str]:
    """The file of each row's picture: a token is numbered, as its text may not be a file's name."""
    whole = [name for name in found.rows[:2] if name in ("question", "answer")]
    width = max(2, len(str(len(found.rows))))
    return [f"{name}.png" for name in whole] + [f"token-{n:0{width}d}.png" for n in range(len(found.rows) - len(whole))]


def draw_attention(found: AttentionMap, row: int) -> Figure:
    """One row of the map as a figure: the leads on the left, the text tokens on the right."""
    total = found.totals()[row]
    shown = [i for i in range(len(LEADS)) if found.seen[i].any()] or list(range(len(LEADS)))
    high = max(6.5, 1.4 + 0.72 * len(shown))
    figure = Figure(figsize=(15, high))
    who = found.rows[row] if row < 2 else f"answer token {row - 1}, {_spelled(found.rows[row])}"
    figure.suptitle(
        f"{_short(found.question)}   →   {_short(found.answer)}\n"
        f"Attention of the {who}: ECG {total['ecg']:.1%}{_beside(found, total)}, text {total['text']:.1%}",
        fontsize=11,
        y=1 - 0.12 / high,
    )
    bottom, top = 0.5 / high, 1 - 0.85 / high
    drawn: Any
    ax = figure.add_axes((0.045, bottom, 0.665, top - bottom))
    if found.ecg is None and found.patches is not None:
        drawn = ax.imshow(100 * found.patches[row], cmap=_MAP, vmin=0, interpolation="nearest")
        ax.set(title="the encoder's patches", xticks=[], yticks=[])
        label = "% of the attention, per patch"
    else:
        drawn = _leads(ax, found, None if found.ecg is None else found.ecg[row], shown)
        label = "% of the attention, per second of a lead"
    if drawn is not None:
        extend = "neither" if found.ecg is None else "max"
        bar = figure.colorbar(drawn, cax=figure.add_axes((0.72, bottom, 0.01, top - bottom)), extend=extend)
        bar.set_label(label, fontsize=9)
        bar.ax.tick_params(labelsize=8)
    _bars(figure.add_axes((0.865, bottom, 0.125, top - bottom)), found, row)
    return figure


def _leads(ax: Axes, found: AttentionMap, weights: np.ndarray | None, shown: list[int]) -> ScalarMappable | None:
    """Each shown lead's trace on its colours: attention per second of a lead, one scale for all of them."""
    seconds = found.segment.shape[1] / found.rate
    time = (np.arange(found.segment.shape[1]) + 0.5) / found.rate
    step = 1.12 * max(float(np.nanmax(found.segment[i]) - np.nanmin(found.segment[i])) for i in shown) or 1.0
    norm, density = Normalize(0, 1), None
    notes = [f"not shown to the model: {' '.join(hidden)}"] if (hidden := _others(shown)) else []
    if weights is None:
        notes.append("what the tokens stand for cannot be laid on the samples")
    else:
        density = 100 * weights * found.rate
        visible = density[found.seen]
        # a token of a single sample would set the scale alone; what lies beyond has the darkest colour
        norm = Normalize(0, max(float(np.percentile(visible, 99)), float(visible.mean())) or 1.0)
        if not all(found.seen[i].all() for i in shown):
            notes.append("grey: not shown to the model")
    for number, lead in enumerate(shown):
        trace, base = found.segment[lead], -number * step
        if density is not None:
            band = np.ma.masked_array(density[lead], ~found.seen[lead])[None]
            extent = (0.0, seconds, base - 0.485 * step, base + 0.485 * step)
            ax.imshow(band, aspect="auto", extent=extent, cmap=_MAP, norm=norm, interpolation="nearest")
        middle = float(np.nanmax(trace) + np.nanmin(trace)) / 2
        ax.plot(time, trace - middle + base, color="#1a202c", linewidth=0.8)
    share = {i: "" if weights is None else f"\n{weights[i].sum():.1%}" for i in shown}
    ax.set_yticks([-n * step for n in range(len(shown))], [f"{LEADS[i]}{share[i]}" for i in shown], fontsize=9)
    ax.set(xlim=(0, seconds), ylim=(-(len(shown) - 0.5) * step, 0.5 * step))
    ax.set_xlabel("time (s)", fontsize=9)
    ax.tick_params(axis="x", labelsize=8)
    ax.tick_params(axis="y", length=0)
    ax.set_title("; ".join(notes), fontsize=8, loc="left")
    for side in ("top", "left", "right"):
        ax.spines[side].set_visible(False)
    return None if density is None else ScalarMappable(norm, _MAP)


def _beside(found: AttentionMap, total: dict[str, float]) -> str:
    """What of the ECG's part falls on no sample, in words."""
    if found.ecg is None or total["ecg"] - total["samples"] < 5e-4:
        return ""
    what = "the names of leads" if found.patches is None else "paper without a trace"
    return f" (of it {total['ecg'] - total['samples']:.1%} on {what})"


def _others(shown: list[int]) -> list[str]:
    return [LEADS[i] for i in range(len(LEADS)) if i not in shown]


def _bars(ax: Axes, found: AttentionMap, row: int) -> None:
    """The largest text tokens, in reading order."""
    weights = found.weights[row]
    text = [i for i, p in enumerate(found.positions) if p.kind != "ecg"]
    text = [i for i in text if weights[i] > 0]  # what comes later is not seen
    chosen = sorted(sorted(text, key=lambda i: -weights[i])[:MAX_BARS])
    bars = [(_spelled(found.positions[i].text), float(weights[i]), found.positions[i].kind) for i in chosen]
    at = np.arange(len(bars))
    ax.barh(at, [100 * b[1] for b in bars], color=[_COLOURS[b[2]] for b in bars], height=0.7)
    ax.set_yticks(at, [b[0] for b in bars], fontsize=8, fontfamily="monospace")
    ax.invert_yaxis()
    ax.set_xlabel("% of the attention", fontsize=9)
    ax.tick_params(axis="x", labelsize=8)
    rest = float(weights[text].sum() - weights[chosen].sum())
    title = "text tokens" if len(chosen) == len(text) else f"{MAX_BARS} of {len(text)} text tokens (rest {rest:.1%})"
    ax.set_title(title, fontsize=9)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def _spelled(text: str) -> str:
    """A token's text on one line, blanks to be seen; a dollar sign would begin a formula."""
    visible = text.replace("\n", "↵").replace(" ", "·").replace("\t", "⇥").replace("$", r"\$")
    return visible if len(visible) <= 20 else visible[:19] + "…"


def _short(text: str) -> str:
    """A turn in one line of a title."""
    flat = " ".join(text.replace("<ecg>", "").split()).replace("$", r"\$")
    return flat if len(flat) <= 90 else flat[:89] + "…"
