"""Verbs: conversations as Hugging Face datasets."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from ecglm.verbs.common import say


def hub_export(data: Positional[Path], out: Path, allow: tuple[str, ...] = (), overwrite: bool = False) -> None:
    """Write a conversations file as a dataset folder: Parquet per split and a dataset card.

    Args:
        data: a conversations file.
        out: the folder to make; datasets.load_dataset reads it.
        allow: corpora that may be passed on although no licence says so.
        overwrite: replace a folder made of another file.
    """
    from ecglm.conversations.hub import export_dataset

    say(f"dataset: {export_dataset(data, out, allow=allow, overwrite=overwrite)}")


def hub_push(
    data: Positional[Path],
    repo: Positional[str],
    public: bool = False,
    allow: tuple[str, ...] = (),
    revision: str | None = None,
) -> None:
    """Upload a conversations file to the hub as a dataset; the token is HF_TOKEN of the environment.

    Args:
        data: a conversations file.
        repo: name of the dataset, OWNER/NAME.
        public: let everybody see it.
        allow: corpora that may be passed on although no licence says so.
        revision: branch to write to.
    """
    from ecglm.conversations.hub import push_dataset

    say(f"dataset: {push_dataset(data, repo, private=not public, allow=allow, revision=revision)}")


def hub_pull(source: Positional[str], out: Path, revision: str | None = None, overwrite: bool = False) -> None:
    """Fetch a dataset of conversations from the hub, or read a folder of one.

    Args:
        source: name of the dataset, OWNER/NAME, or its folder.
        out: the Parquet file to make.
        revision: branch, tag or commit.
        overwrite: replace a file made of another dataset.
    """
    from ecglm.conversations.hub import pull_dataset

    manifest = pull_dataset(source, out, revision=revision, overwrite=overwrite)
    say(f"{manifest['num_conversations']} conversations: {out}")
