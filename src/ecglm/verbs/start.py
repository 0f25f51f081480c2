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
        say(f"{each}: {', '.join(registry.names(each))}")
