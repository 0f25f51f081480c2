"""Verbs: the way in, and what there is."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from ecglm import registry
from ecglm.verbs.common import say


def quickstart(
    data: Path | None = None,
    out: Path | None = None,
    seed: int = 0,
    limit: int | None = None,
    dev: bool = False,
    overwrite: bool = False,
) -> None:
    """Train small ELMs, one per representation, and compare them.

    Args:
        data: PTB-XL folder; without it synthetic ECGs are made.
        out: where everything goes; runs/quickstart, or runs/quickstart-ptb-xl with --data.
        seed: of everything random.
        limit: at most so many patients (synthetic) or records.
        dev: a run of seconds that tries the machinery; its numbers mean nothing.
        overwrite: replace an output made with other settings.
    """
    from ecglm.quickstart import quickstart as run

    run(out or "", data=data, seed=seed, limit=limit, dev=dev, overwrite=overwrite, say=say)


def ls(kind: Positional[str | None] = None) -> None:
    """List what can be named: sources, corpora, encoders …

    Args:
        kind: one kind, or all.
    """
    kinds = [kind] if kind else list(registry.HOMES)
    for each in kinds:
        if each not in registry.HOMES:
            registry.get(each, "")
        if kind == "metrics":
            _list_metrics()
        else:
            say(f"{each}: {', '.join(registry.names(each))}")


def _list_metrics() -> None:
    """A line for every metric: range, direction, what it is."""
    known = {name: registry.get("metrics", name) for name in registry.names("metrics")}
    width = max(map(len, known))
    for name, metric in known.items():
        low, high = (f"{end:g}" for end in metric.span)
        unit = f" {metric.unit}" if metric.unit else ""
        better = "higher" if metric.higher_is_better else "lower"
        span = f"{low} to {high}{unit}"
        about = metric.about[:1].upper() + metric.about[1:].rstrip(".")
        say(f"{name:{width}}  {span:20}  {better:6}  {about}")
