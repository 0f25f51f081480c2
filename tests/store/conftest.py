"""Makes ``store_fakes`` importable: by these tests, by their worker processes, by the subprocesses they kill."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def fake_store(tmp_path):
    """A finished store of 40 records, two segments each, three shards."""
    from store_fakes import FakePipeline, FakeSource

    from ecglm.store.prepare import prepare
    from ecglm.store.reader import SegmentStore

    prepare(FakeSource(num=40), FakePipeline(), tmp_path / "store", progress=False)
    return SegmentStore(tmp_path / "store")
