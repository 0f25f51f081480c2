"""One small index for the tests that only ask it."""

from __future__ import annotations

import pytest

from ecglm.retrieval.index import Index, build_index
from ecglm.store.reader import SegmentStore
from index_world import people, quiet, store_of


@pytest.fixture(scope="session")
def people_store(tmp_path_factory) -> SegmentStore:
    """24 patients, split by patient."""
    return store_of(tmp_path_factory.mktemp("people") / "store", people())


@pytest.fixture(scope="session")
def people_index(people_store, tmp_path_factory) -> Index:
    """Its training ECGs by features."""
    return build_index([people_store.path], tmp_path_factory.mktemp("people") / "index", say=quiet)
