"""Verbs: official files from their homes."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from ecglm.errors import ConfigError
from ecglm.verbs.common import say, tell


def download_(
    dataset: Positional[str | None] = None,
    to: Path | None = None,
    only: tuple[str, ...] = (),
    limit: int | None = None,
    dev: bool = False,
    workers: int = 4,
    base_url: str | None = None,
) -> None:
    """Fetch a dataset's official files; what is there already is not fetched again.

    Args:
        dataset: name of the dataset; without one all are listed.
        to: the folder to fill.
        only: names of files, * stands for anything (records500/*); tables and licences come along.
        limit: the first N files only.
        dev: the first 10 files only, unless --limit says otherwise.
        workers: files at a time.
        base_url: scheme and host of a mirror with the official paths.
    """
    from ecglm.downloads.catalogue import DATASETS
    from ecglm.downloads.catalogue import dataset as entry
    from ecglm.downloads.download import download

    if dataset is None:
        for found in DATASETS.values():
            say(f"{found.name}: {found.title}; {found.size}; {found.licence}; {found.home}")
        return
    if to is None and entry(dataset).place is not None:
        raise ConfigError(f"say where the files of '{dataset}' shall lie with --to DIR")
    limit = 10 if dev and limit is None else limit
    tell(download(dataset, to or ".", only=only, limit=limit, workers=workers, base_url=base_url).lines())
