"""Injured files of every corpus: each item is mapped, counted by its reason, or the file is told in one line."""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from mutator import mutate

from ecglm import registry
from ecglm.conversations.make import reads_files, takes_splits
from ecglm.conversations.messages import check_turns
from ecglm.conversations.outcomes import collect
from ecglm.errors import EcglmError

sys.path.insert(0, str(Path(__file__).parents[1] / "conversations"))
from official_files import IndexOnly, splits, write_corpora

CORPORA = [name for name in registry.names("conversations") if reads_files(name)]
TEXTS = (".json", ".jsonl", ".csv", ".tsv")
EACH = 40


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    return write_corpora(tmp_path_factory.mktemp("corpora"))


@pytest.fixture
def not_for_ever():
    def stop(*_):
        raise AssertionError("a mapper hangs")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)


@pytest.mark.usefixtures("not_for_ever")
@pytest.mark.parametrize("corpus", CORPORA)
def test_injured_corpora_reconcile_or_are_told(corpus, roots, tmp_path):
    root = Path(roots[corpus])
    copy = tmp_path / root.name
    if root.is_dir():
        shutil.copytree(root, copy)
    else:
        shutil.copy(root, copy)
    files = [copy] if copy.is_file() else sorted(p for p in copy.rglob("*") if p.is_file())
    mapper, options = registry.get("conversations", corpus), {"root": copy}
    if takes_splits(corpus):
        options["splits"] = splits()
    told = 0
    for seed in range(EACH):
        rng = np.random.default_rng(seed)
        victim = files[int(rng.integers(len(files)))]
        whole = victim.read_bytes()
        victim.write_bytes(mutate(whole, rng, text=victim.suffix in TEXTS))
        try:
            result = collect(mapper(IndexOnly(), **options))
        except EcglmError as error:
            told += 1
            assert "\n" not in str(error) and len(str(error)) < 2000, (seed, str(error)[:300])
        else:
            counts = dict(result.counts)
            assert counts.pop("in") == sum(counts.values()) and counts["mapped"] == len(result.conversations), seed
            for conversation in result.conversations:
                check_turns(conversation.turns, len(conversation.ecgs))
        finally:
            victim.write_bytes(whole)
    assert 0 < told < EACH, "some injuries stop the reading, and some do not"
