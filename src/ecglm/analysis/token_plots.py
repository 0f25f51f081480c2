"""Pictures of token distributions: Zipf plot, lengths, tokens per ECG and per lead."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ecglm.analysis.results import save_figure
from ecglm.analysis.tokens import TokenStats, zipf_exponent

_INK, _ACCENT, _SOFT = "#1f3a5f", "#c1121f", "#7a9cc6"


def write_pictures(stats: TokenStats, folder: Path) -> None:
    """Write ``zipf.png``, ``lengths.png``, ``per_ecg.png`` and ``per_lead.png`` to ``folder``."""
    save_figure(draw_zipf(stats), folder / "zipf.png")
    save_figure(draw_lengths(stats), folder / "lengths.png")
    save_figure(draw_per_ecg(stats), folder / "per_ecg.png")
    save_figure(draw_per_lead(stats), folder / "per_lead.png")


def draw_zipf(stats: TokenStats) -> Figure:
    """Frequency over rank of the ids that occur, both axes logarithmic, with the fitted law."""
    counts = stats.counts.sum(axis=0)
    ordered = np.sort(counts[counts > 0])[::-1]
    ranks, exponent = np.arange(1, len(ordered) + 1), zipf_exponent(counts)
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    axes.loglog(ranks, ordered, ".", color=_INK, markersize=4, label=f"{len(ordered)} ids that occur")
    if exponent is not None:
        law = ranks**-exponent
        axes.loglog(ranks, ordered.sum() * law / law.sum(), color=_ACCENT, label=f"rank$^{{-{exponent:.2f}}}$")
    axes.set(xlabel="rank of the token", ylabel="occurrences", title=_title(stats))
    axes.grid(True, which="major", alpha=0.3)
    axes.legend(frameon=False)
    return figure


def draw_lengths(stats: TokenStats) -> Figure:
    """How long tokens are: those of the vocabulary, and those that the ECGs are made of."""
    tokenizer, counts = stats.source.tokenizer, stats.counts.sum(axis=0)
    lengths, kept = tokenizer.expansions.lengths, tokenizer.reachable
    edges = np.unique(np.round(np.geomspace(1, lengths[kept].max() + 1, 31)).astype(int))
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    for values, weights, colour, label in (
        (lengths[kept], np.ones(len(kept)), _SOFT, "ids of the vocabulary"),
        (lengths, counts, _ACCENT, "tokens of the ECGs"),
    ):
        share = np.histogram(values, edges, weights=weights)[0] / weights.sum()
        axes.stairs(share, edges, color=colour, fill=colour == _SOFT, alpha=0.9, linewidth=1.8, label=label)
    axes.set(xscale="log", xlabel=f"length in samples ({1000 / stats.source.rate:g} ms each)", ylabel="share")
    axes.set_title(_title(stats))
    ticks = [t for t in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if t <= edges[-1]]
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.minorticks_off()
    axes.legend(frameon=False)
    return figure


def draw_per_ecg(stats: TokenStats) -> Figure:
    """Histogram of the tokens that one segment takes."""
    total = stats.per_ecg.sum(axis=1)
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    axes.hist(total, bins=min(40, max(5, len(total) // 5)), color=_SOFT, edgecolor="white", linewidth=0.5)
    p95 = np.percentile(total, 95)
    axes.axvline(total.mean(), color=_INK, label=f"mean {total.mean():.0f}")
    axes.axvline(p95, color=_ACCENT, linestyle="--", label=f"95 % take at most {p95:.0f}")
    axes.set(xlabel="tokens per ECG", ylabel="ECGs", title=_title(stats), xlim=(0, None))
    axes.legend(frameon=False)
    return figure


def draw_per_lead(stats: TokenStats) -> Figure:
    """Tokens of each lead (mean, and the range of 90 % of the ECGs), and the share of the vocabulary it uses."""
    leads, places = stats.source.leads, np.arange(len(stats.source.leads))
    mean, (low, high) = stats.per_ecg.mean(axis=0), np.percentile(stats.per_ecg, (5, 95), axis=0)
    used = (stats.counts[:, stats.source.tokenizer.reachable] > 0).mean(axis=1)
    figure = Figure(figsize=(6.4, 5.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    upper.bar(places, mean, color=_SOFT)
    upper.vlines(places, low, high, color=_INK, linewidth=1.5)
    upper.set(ylabel="tokens per ECG", title=_title(stats))
    lower.bar(places, 100 * used, color=_SOFT)
    lower.set(ylabel="% of the ids used", ylim=(0, 100))
    lower.set_xticks(places, leads)
    return figure


def _title(stats: TokenStats) -> str:
    source, num = stats.source, len(stats.per_ecg)
    seconds = source.num_samples / source.rate
    return f"{num} ECGs of {seconds:g} s, {len(source.leads)} leads, {len(source.tokenizer.merges)} merges"
