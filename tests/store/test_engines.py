"""Engines: the same bytes from Ray tasks as from this process; what is wrong is said in one line."""

from __future__ import annotations

import sys

import pytest
from store_fakes import FakePipeline, FakeSource, tree

from ecglm.errors import ConfigError, EcglmError
from ecglm.records.synthetic import Synthetic
from ecglm.signals.pipeline import get_pipeline
from ecglm.store import engines
from ecglm.store.pool import WORKER_ENVIRONMENT
from ecglm.store.prepare import prepare


def test_an_unknown_engine_is_named_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match=r"engine 'rey' is unknown \(did you mean 'ray'\?\); engines: local, ray"):
        prepare(FakeSource(), FakePipeline(), tmp_path / "x", engine="rey", progress=False)
    assert not (tmp_path / "x").exists()


def test_without_ray_the_mend_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EcglmError, match=r'pip install "ecglm\[ray\]"') as caught:
        prepare(FakeSource(), FakePipeline(), tmp_path / "x", engine="ray", progress=False)
    assert "\n" not in str(caught.value) and not (tmp_path / "x").exists()


def test_one_worker_or_one_shard_needs_no_other_process(tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "run_pool", lambda *a: pytest.fail("a pool was started"))
    prepare(FakeSource(num=40), FakePipeline(), tmp_path / "a", workers=1, progress=False)
    prepare(FakeSource(num=10), FakePipeline(), tmp_path / "b", workers=4, progress=False)


class Strange(Synthetic):
    """Gives a record under a false name: a mistake that a task must hand to the user."""

    def read(self, key):
        import dataclasses

        return dataclasses.replace(super().read(key), record_id="synthetic/other")


@pytest.mark.slow  # a Ray needs ten seconds or so to start
def test_ray_writes_the_same_bytes_and_hands_errors_over(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # tasks cannot import this file
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    pipeline = get_pipeline("default", rate=250, seg_len=1250)
    source = Synthetic(num_patients=30, records_per_patient=(1, 2), seed=3)
    prepare(source, pipeline, tmp_path / "local", progress=False)
    try:
        summary = prepare(source, pipeline, tmp_path / "ray", engine="ray", workers=2, progress=False)
        assert not ray.is_initialized()  # what it started it stops
        assert tree(tmp_path / "ray") == tree(tmp_path / "local")
        assert summary.records_per_s and not summary.reused
        assert prepare(source, pipeline, tmp_path / "ray", engine="ray", workers=2, progress=False).reused

        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
        strange = Strange(num_patients=30, records_per_patient=(1, 1), seed=3)
        with pytest.raises(EcglmError, match="gave the record 'synthetic/other'"):
            prepare(strange, pipeline, tmp_path / "strange", engine="ray", progress=False)
        assert ray.is_initialized()  # a Ray of the caller's stays
        assert not (tmp_path / "strange" / "manifest.json").exists()
        task = ray.remote(num_cpus=1, runtime_env={"env_vars": WORKER_ENVIRONMENT})(_threads)
        assert ray.get(task.remote()) == {"1"}
    finally:
        ray.shutdown()
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def _threads() -> set[str | None]:
    """How many threads the numeric libraries of a task are told to use."""
    import os

    return {os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
