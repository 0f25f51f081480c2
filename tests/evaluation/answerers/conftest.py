"""Small models and a small benchmark, made once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="package")
def bench_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from small_bench import make_store

    return make_store(tmp_path_factory.mktemp("bench") / "store")


@pytest.fixture(scope="package")
def bench(bench_store: Path) -> Path:
    from small_bench import make_bench

    return make_bench(bench_store.parent / "data", bench_store)
