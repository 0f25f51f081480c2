"""Where the shards of ``prepare`` are written: this process, local worker processes, or tasks of a Ray cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecglm.errors import ConfigError, EcglmError, nearest
from ecglm.store.pool import WORKER_ENVIRONMENT, run_pool
from ecglm.store.progress import RecordProgress
from ecglm.store.writer import Source, part_finished, write_shard

if TYPE_CHECKING:
    from ecglm.signals.pipeline import Pipeline

#: Writes the shard of every chunk (shard number → record ids) into a store's folder, with so many workers.
Engine = Callable[["Source", "Pipeline", Path, dict[int, list[str]], int, RecordProgress], None]


def run_engine(name: str) -> Engine:
    """The engine ``local`` or ``ray``. ConfigError for another name; EcglmError where Ray is asked for and absent."""
    if name not in _ENGINES:
        raise ConfigError(f"engine '{name}' is unknown{nearest(name, _ENGINES)}; engines: {', '.join(_ENGINES)}")
    if name == "ray":
        _import_ray()
    return _ENGINES[name]


def run_local(
    source: Source, pipeline: Pipeline, out: Path, chunks: dict[int, list[str]], workers: int, bar: RecordProgress
) -> None:
    """In this process for one worker or one shard, else in worker processes."""
    if workers > 1 and len(chunks) > 1:
        run_pool(source, pipeline, out, chunks, min(workers, len(chunks)), bar)
        return

    def tick(rejected: bool) -> None:
        bar.update(bar.done + 1, bar.rejected + rejected)

    for number, keys in chunks.items():
        write_shard(out, number, source, pipeline, keys, tick)


def run_ray(
    source: Source, pipeline: Pipeline, out: Path, chunks: dict[int, list[str]], workers: int, bar: RecordProgress
) -> None:
    """Every shard as a Ray task of one CPU: in the Ray that runs in this process, else in the cluster that RAY_ADDRESS
    names, else in a Ray of ``workers`` CPUs started here and shut down at the end.

    On a cluster, ``out`` and the recordings must lie where every node finds them under the same path. Raises what a
    task raises, and EcglmError when a task or the cluster dies; finished shards are kept.
    """
    if not chunks:
        return
    ray = _import_ray()
    out = out.absolute()
    owned = not ray.is_initialized()
    if owned:
        _start_ray(ray, min(workers, len(chunks)))
    try:
        task = ray.remote(num_cpus=1, max_retries=0, runtime_env={"env_vars": WORKER_ENVIRONMENT})(_write)
        shared = ray.put((source, pipeline, out))
        pending = [task.remote(shared, number, keys) for number, keys in chunks.items()]
        try:
            while pending:
                finished, pending = ray.wait(pending, num_returns=1, timeout=0.5)
                for done, rejected in ray.get(finished):
                    bar.update(bar.done + done, bar.rejected + rejected)
        finally:
            for left in pending:
                ray.cancel(left, force=True)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, EcglmError):
            raise cause from error
        if isinstance(error, ray.exceptions.RayTaskError) and not isinstance(cause, ray.exceptions.RayError):
            raise  # a defect in a source or pipeline, with its traceback
        what = str(cause or error).strip().splitlines() or [type(error).__name__]
        raise EcglmError(
            f"{out}: a Ray task or the cluster died ({what[0]}); finished shards are kept, run the same command again"
        ) from error
    finally:
        if owned:
            ray.shutdown()
    missing = [number for number in chunks if not part_finished(out, number)]
    if missing:
        raise EcglmError(
            f"{out}: {len(missing)} shards that Ray tasks wrote are not to be seen here; "
            "--out must lie on a disk that all nodes share"
        )


def _write(shared: tuple[Source, Pipeline, Path], number: int, keys: Sequence[str]) -> tuple[int, int]:
    """A Ray task: one shard; how many records it read and how many of them were rejected."""
    source, pipeline, out = shared
    counts = [0, 0]

    def tick(rejected: bool) -> None:
        counts[0] += 1
        counts[1] += rejected

    write_shard(out, number, source, pipeline, keys, tick)
    return counts[0], counts[1]


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when Ray starts: nothing is reported anywhere
    try:
        import ray
    except ImportError as error:
        raise EcglmError("engine 'ray' needs Ray, which is not installed; pip install \"ecglm[ray]\"") from error
    return ray


def _start_ray(ray: Any, workers: int) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if not os.environ.get("RAY_ADDRESS"):
        options |= {"address": "local", "num_cpus": workers, "include_dashboard": False}
    print("starting Ray …", file=sys.stderr, flush=True)
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        what = str(error).strip().splitlines() or [type(error).__name__]
        where = os.environ.get("RAY_ADDRESS", "here")
        raise EcglmError(f"Ray could not be started or reached ({where}): {what[0]}; is RAY_ADDRESS right?") from error


_ENGINES: dict[str, Engine] = {"local": run_local, "ray": run_ray}
