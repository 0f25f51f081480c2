"""Verbs: released weights → encoder folders."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from ecglm.verbs.common import say, tell


def import_(
    kind: Positional[Literal["st-mem", "mtae", "mlae", "merl"]],
    source: Positional[str],
    out: Path,
    file: str | None = None,
    overwrite: bool = False,
) -> None:
    """Turn released weights into an encoder folder that a recipe names in model.encoder_from.

    Args:
        kind: whose weights they are.
        source: a file (.pt, .pth, .bin, .safetensors), a folder with one, or a hub id.
        out: the encoder folder to make.
        file: which file of the folder or of the hub's, where there are several.
        overwrite: replace an encoder folder made from another file.
    """
    from ecglm.models.imports import import_encoder, summary

    folder, facts = import_encoder(kind, source, out, file=file, overwrite=overwrite)
    tell(summary(folder, facts))
    say(f"encoder: {folder}")
