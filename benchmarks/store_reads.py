"""Random reads of 12×1250 segments: our store, one pickled ``.npy`` per segment (ECG-Bench's form), ``datasets``.

The same segments in all three forms, the same random order, float32 ``(12, 1250)`` in mV handed over by each, in turn
within one run; the best of the repeats. Warm: every file was read once before. Cold: the kernel was asked to drop the
files from its cache (told apart in the table, no bar). Then a DataLoader with two workers over the store.

Segments: PTB-XL at 500 Hz (ECGLM_SHARED_DATA, default ``../shared/data`` beside the repository), each record repeated
with other noise until there are enough; without it the synthetic source. PTB-XL: Wagner et al., PhysioNet, CC BY 4.0.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy is imported
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import argparse  # noqa: E402
import dataclasses  # noqa: E402
import functools  # noqa: E402
import gc  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import datasets  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

from ecglm.records.ptb_xl import PtbXl  # noqa: E402
from ecglm.records.synthetic import Synthetic  # noqa: E402
from ecglm.signals.pipeline import get_pipeline  # noqa: E402
from ecglm.store.prepare import prepare  # noqa: E402
from ecglm.store.reader import SegmentStore  # noqa: E402
from ecglm.types import Record  # noqa: E402

SEG_LEN, BATCH, WORKERS = 1250, 128, 2
#: Segment number → float32 ``(12, 1250)``, mV.
Read = Callable[[int], np.ndarray]
BAR_NPY, BAR_ARROW, BAR_LOADER = 3.0, 10.0, 10_000.0


class Repeated:
    """The records of a source again and again, each copy with noise of its own (5 µV): ``num`` in all."""

    def __init__(self, source: Any, num: int) -> None:
        self.source, self.num, self.name = source, num, source.name
        self._keys = source.keys()

    def version(self) -> str:
        return str(self.source.version())

    def fingerprint(self) -> dict[str, Any]:
        return {"of": self.source.fingerprint(), "num": self.num}

    def accounting(self) -> dict[str, list[str]]:
        return {}

    def keys(self) -> list[str]:
        return [f"{self._keys[i % len(self._keys)]}-{i // len(self._keys)}" for i in range(self.num)]

    def read(self, key: str) -> Record:
        original, _, copy = key.rpartition("-")
        record = self.source.read(original)
        rng = np.random.default_rng([int(copy), len(original), *original.encode()])
        noise = rng.normal(0, 0.005, record.signal.shape).astype(np.float32)
        return dataclasses.replace(record, record_id=key, signal=record.signal + noise)


def make_store(folder: Path, num_segments: int) -> SegmentStore:
    """Two segments of 5 s per record."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    data = Path(os.environ.get("ECGLM_SHARED_DATA", beside)) / "ptb-xl"
    source = PtbXl(root=data, resolution="500") if data.is_dir() else Synthetic(num_patients=200)
    pipeline = get_pipeline("default", rate=250, seg_len=SEG_LEN)
    prepare(Repeated(source, num_segments // 2), pipeline, folder, progress=False)
    return SegmentStore(folder)


def write_pickles(store: SegmentStore, folder: Path) -> None:
    """One pickled dictionary per segment, with the fields that ECG-Bench writes."""
    folder.mkdir()
    for i in range(len(store)):
        row = store.row(i)
        fields = {
            "ecg": store[i],
            "report": row["report"],
            "path": row["record_id"],
            "orig_sf": 500,
            "target_sf": store.rate,
            "seg_len": store.seg_len,
        }
        np.save(folder / f"{i:05d}.npy", fields, allow_pickle=True)  # type: ignore[arg-type]


def write_arrow(store: SegmentStore, folder: Path) -> None:
    """A ``datasets`` Array2D of the same float32 signals, memory-mapped from disk."""
    features = datasets.Features({"ecg": datasets.Array2D(shape=(12, store.seg_len), dtype="float32")})

    def rows() -> Any:
        for i in range(len(store)):
            yield {"ecg": store[i]}

    with tempfile.TemporaryDirectory() as cache:
        made = datasets.Dataset.from_generator(rows, features=features, cache_dir=cache)
        made.save_to_disk(str(folder))
        del made


def open_store(folder: Path) -> Read:
    store = SegmentStore(folder)
    return lambda i: store[i]


def open_pickles(folder: Path) -> Read:
    """numpy's own loader of pickles, as the baseline's users call it: this is what it costs."""
    return lambda i: np.load(folder / f"{i:05d}.npy", allow_pickle=True).item()["ecg"]


def open_arrow(folder: Path) -> Read:
    rows = datasets.load_from_disk(str(folder)).with_format("numpy")
    return lambda i: rows[i]["ecg"]


def drop_from_cache(folder: Path) -> None:
    """Ask the kernel to forget the files below ``folder``; it does for those that no process has mapped."""
    gc.collect()
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def read_rate(read: Read, order: Sequence[int]) -> float:
    """Segments per second, one read after the other; every kilobyte is touched, so that none can stay on the disk."""
    total, started = 0.0, time.perf_counter()
    for i in order:
        segment = read(i)
        total += float(segment[:, ::250].sum())
    spent = time.perf_counter() - started
    assert segment.shape == (12, SEG_LEN) and segment.dtype == np.float32 and np.isfinite(total)
    return len(order) / spent


def loader_rate(store: SegmentStore, epochs: int) -> float:
    """Segments per second that a training loop gets: shuffled float32 batches from two worker processes."""
    loader = DataLoader(
        store,  # type: ignore[arg-type]  # a SegmentStore hands over a whole batch at once
        batch_size=BATCH,
        shuffle=True,
        num_workers=WORKERS,
        collate_fn=torch.from_numpy,
        persistent_workers=True,
        generator=torch.Generator().manual_seed(0),
    )
    best = 0.0
    for epoch in range(epochs + 1):
        count, started = 0, time.perf_counter()
        for batch in loader:
            count += len(batch)
            assert batch.dtype == torch.float32 and batch.shape[1:] == (12, SEG_LEN)
        assert count == len(store)
        if epoch:  # the first starts the workers
            best = max(best, count / (time.perf_counter() - started))
    return best


def main() -> int:
    """Print a table, then one JSON line; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--segments", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="400 segments, two repeats")
    options = parser.parse_args()
    if options.quick:
        options.segments, options.repeats = 400, 2
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        places = {"store": folder / "store", "pickled .npy": folder / "npy", "datasets Array2D": folder / "arrow"}
        opens = {"store": open_store, "pickled .npy": open_pickles, "datasets Array2D": open_arrow}
        openers = {name: functools.partial(opens[name], places[name]) for name in places}
        store = make_store(folder / "store", options.segments)
        write_pickles(store, folder / "npy")
        write_arrow(store, folder / "arrow")
        order = np.random.default_rng(0).permutation(len(store)).tolist()
        some = order[:1000]  # the slow forms take their time
        name_of_source = store.manifest["inputs"]["source"]["name"]
        reads = {name: opener() for name, opener in openers.items()}
        for i in order[:50]:  # the same segments, bit for bit
            for name, read in reads.items():
                assert np.array_equal(read(i), store[i]), f"{name}: segment {i} differs"
        for read in reads.values():
            read_rate(read, order)
        warm: dict[str, float] = dict.fromkeys(reads, 0.0)
        for _ in range(options.repeats):
            for name, read in reads.items():
                warm[name] = max(warm[name], read_rate(read, order if name == "store" else some))
        loader = loader_rate(store, options.repeats)
        del store, read, reads  # nothing may have the files mapped now
        cold: dict[str, float] = {}
        for name, opener in openers.items():
            drop_from_cache(places[name])
            cold[name] = read_rate(opener(), some)
    ratio = {name: warm["store"] / value for name, value in warm.items()}
    print(f"{len(order)} segments of 12×{SEG_LEN} ({name_of_source}), random order")
    print(f"{'':20}{'warm /s':>12}{'store is':>12}{'cold /s':>12}{'store is':>12}")
    for name, value in warm.items():
        print(f"{name:20}{value:12.0f}{ratio[name]:11.1f}×{cold[name]:12.0f}{cold['store'] / cold[name]:11.1f}×")
    print(f"DataLoader, {WORKERS} workers, batches of {BATCH}: {loader:.0f} segments/s, warm")
    passed = ratio["pickled .npy"] >= BAR_NPY and ratio["datasets Array2D"] >= BAR_ARROW and loader >= BAR_LOADER
    result = {
        "benchmark": "store_reads",
        "segments": len(order),
        "segments_per_s_warm": {name: round(value) for name, value in warm.items()},
        "segments_per_s_cold": {name: round(value) for name, value in cold.items()},
        "ratio_to_pickled_npy": round(ratio["pickled .npy"], 2),
        "ratio_to_datasets_array2d": round(ratio["datasets Array2D"], 2),
        "loader_segments_per_s": round(loader),
        "bars": [BAR_NPY, BAR_ARROW, BAR_LOADER],
        "passed": passed,
    }
    print(json.dumps(result))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
