"""A folder of results: made once, with a summary in JSON and a manifest; pictures written whole."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ecglm import files

SUMMARY = "summary.json"


def result_folder(
    out: str | os.PathLike[str],
    kind: str,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    make: Callable[[Path], Mapping[str, Any]],
    overwrite: bool = False,
) -> dict[str, Any]:
    """The summary of the results in ``out``: ``make(out)`` writes its files there and returns it.

    Results that were finished with the same settings and inputs are read, not made again; an unfinished folder is made
    anew. Raises StaleOutputError for the results of other settings or inputs, unless ``overwrite``.
    """
    folder = Path(out)
    with files.folder_lock(folder):
        state = files.output_state(folder, kind, files.plan_fingerprint(kind, settings, inputs), overwrite)
        if state == "finished":
            found: dict[str, Any] = files.read_json(folder / SUMMARY)
            return found
        for entry in folder.iterdir() if state == "unfinished" else ():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != "plan.json":
                entry.unlink()
        summary = dict(make(folder))
        files.write_json(folder / SUMMARY, summary)
        made = sorted(p.name for p in folder.iterdir() if p.name != "plan.json" and p.is_file())
        outputs = {name: files.file_sha256(folder / name) for name in made}
        files.write_manifest(folder / files.MANIFEST, kind, settings, inputs, outputs)
    return summary


def save_figure(figure: Figure, path: str | os.PathLike[str], dpi: int = 110) -> None:
    """Write a figure as PNG, atomically; the same figure gives the same bytes."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    files.write_bytes(path, buffer.getvalue())
