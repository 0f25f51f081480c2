"""Retrieval: build, load and search beside the original manner; the approximate index; neighbours of the same rhythm.

The original manner (ECG-Bench): a vector is the 288 features, measured lead by lead, with all samples of the signal
behind them; faiss' IVF-flat with min(100, max(1, n // 30)) lists, 10 of them opened; at every load a loop takes the
vectors out one by one to build an index of the features and one of the signals again; a query is a raw signal.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import faiss
import numpy as np
import torch

from ecglm.conversations.make import map_corpus
from ecglm.models.encoder_files import save_encoder
from ecglm.models.encoders.base import build_encoder
from ecglm.records.synthetic import Synthetic
from ecglm.representations.signal import SignalRepresentation
from ecglm.retrieval.approximate import Approximate
from ecglm.retrieval.index import Exclude, Index, build_index
from ecglm.retrieval.nearest import exact_search
from ecglm.signals.pipeline import get_pipeline
from ecglm.store.prepare import prepare
from ecglm.store.reader import SegmentStore
from ecglm.store.splits import assign_splits
from ecglm.types import Record
from features import original as original_features

BAR_RATIO, BAR_RECALL, BAR_MS, BAR_SAME = 20.0, 0.95, 5.0, 2.0
RATE, SEG_LEN, PROBES = 250, 1250, 10


@dataclass(frozen=True)
class Many:
    """``num`` records of 5 s at 250 Hz: synthetic ECGs, each many times with another gain, start and noise."""

    num: int
    base: int = 200
    name: ClassVar[str] = "many"

    def __post_init__(self) -> None:
        source = Synthetic(num_patients=self.base, rate=RATE, seed=11, records_per_patient=(1, 1), artefacts=False)
        object.__setattr__(self, "records", [source.read(key) for key in source.keys()])

    def version(self) -> str:
        return "1"

    def fingerprint(self) -> dict[str, Any]:
        return {"num": self.num, "base": self.base}

    def keys(self) -> list[str]:
        return [f"many/{i:06d}" for i in range(self.num)]

    def accounting(self) -> dict[str, list[str]]:
        return {}

    def read(self, key: str) -> Record:
        number = int(key.partition("/")[2])
        rng = np.random.default_rng(number)
        record: Record = self.records[number % self.base]  # type: ignore[attr-defined]
        start = int(rng.integers(0, record.signal.shape[1] - SEG_LEN))
        signal = record.signal[:, start : start + SEG_LEN] * rng.uniform(0.8, 1.25, (12, 1))
        signal = (signal + rng.normal(0, 0.01, signal.shape)).astype(np.float32)
        return replace(record, record_id=key, patient_id=key, signal=signal, split="train")


def original_manner(
    store: SegmentStore, features: np.ndarray, folder: Path, sample: int, asked: int
) -> dict[str, float]:
    """Seconds of the original's build, load and one query; the feature loop and the queries timed on samples of it.

    features: float32 ``(n, 288)``, what the loop would give of all (benchmarks/features.py shows them equal).
    """
    num = len(store)
    segments = store[:]
    start = time.perf_counter()
    for segment in segments[:sample]:
        original_features(segment, store.rate)
    loop = (time.perf_counter() - start) * num / sample
    start = time.perf_counter()
    both = np.concatenate([features, segments.reshape(num, -1)], axis=1)
    lists = min(100, max(1, num // 30))
    whole = _ivf(both, lists)
    faiss.write_index(whole, str(folder / "original.faiss"))
    build = time.perf_counter() - start + loop
    del both, whole
    start = time.perf_counter()
    read = faiss.read_index(str(folder / "original.faiss"))
    read.make_direct_map()
    parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for i in range(read.ntotal):
        vector = read.reconstruct(i)
        parts[0].append(vector[:288])
        parts[1].append(vector[288:])
    del read
    _ivf(np.array(parts[0]), lists)
    signals = _ivf(np.array(parts[1]), lists)
    load = time.perf_counter() - start
    del parts
    start = time.perf_counter()
    for segment in segments[:asked]:
        signals.search(segment.reshape(1, -1), 10)
    query = (time.perf_counter() - start) / asked
    return {"features_s": loop, "build_s": build, "load_s": load, "query_ms": query * 1000}


def _ivf(vectors: np.ndarray, lists: int) -> Any:
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(vectors.shape[1]), vectors.shape[1], lists)
    index.train(vectors)
    index.add(vectors)
    index.nprobe = PROBES
    return index


def ours(store: SegmentStore, folder: Path, workers: int, asked: int) -> dict[str, float]:
    """The same of ours: every ECG of the store asked for, as training does; and ECGs that the index has not seen."""
    start = time.perf_counter()
    build_index([store.path], folder / "index", min_quality="any", workers=workers, say=lambda line: None)
    build = time.perf_counter() - start
    start = time.perf_counter()
    index = Index.load(folder / "index")
    load = time.perf_counter() - start
    names = store.index.column("record_id").to_pylist()
    start = time.perf_counter()
    for first in range(0, len(store), 256):
        part = names[first : first + 256]
        own = [Exclude(frozenset({name}), frozenset({name})) for name in part]
        index.search(store[first : first + len(part)], store.rate, k=10, exclude=own)
    member = (time.perf_counter() - start) / len(store)
    fresh = (store[:asked] * np.float32(1.01)).astype(np.float32)  # no member's samples
    start = time.perf_counter()
    for segment in fresh:
        index.search(segment[None], store.rate, k=10)
    stranger = (time.perf_counter() - start) / len(fresh)
    return {"build_s": build, "load_s": load, "query_ms": member * 1000, "new_query_ms": stranger * 1000}


def manners(num: int, sample: int, workers: int) -> dict[str, Any]:
    """Both sides on one store: build, load once, ask for each ECG once."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(Many(num), get_pipeline("default", rate=RATE, seg_len=SEG_LEN), folder / "store", progress=False)
        store = SegmentStore(folder / "store")
        asked = min(sample, len(store), 200)
        us = ours(store, folder, workers, asked)
        index = Index.load(folder / "index")
        features = index.space.raw(index.vectors, 288).astype(np.float32)
        del index
        them = original_manner(store, features, folder, min(sample, len(store)), asked)
    sides = {"original": them, "ours": us}
    totals = {k: v["build_s"] + v["load_s"] + num * v["query_ms"] / 1000 for k, v in sides.items()}
    return {"ecgs": num, **sides, "total_s": totals, "ratio": totals["original"] / totals["ours"]}


def approximate(num: int, dim: int = 256, asked: int = 500) -> dict[str, Any]:
    """recall@10 and ms per query, one at a time, of ``num`` vectors around num / 100 centres; exact search too."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((max(1, num // 100), dim), dtype=np.float32)

    def draw(count: int) -> np.ndarray:
        around = 0.5 * rng.standard_normal((count, dim), dtype=np.float32)
        return (centres[rng.integers(0, len(centres), count)] + around) / np.float32(np.sqrt(dim))

    vectors = np.concatenate([draw(min(50_000, num - i)) for i in range(0, num, 50_000)])
    queries = draw(asked)
    start = time.perf_counter()
    made, facts = Approximate.build(vectors)
    build = time.perf_counter() - start
    nobody = [np.empty(0, np.int64)] * asked
    start = time.perf_counter()
    truth = exact_search(vectors, queries[:200], 10, nobody[:200])
    exact = (time.perf_counter() - start) / 200
    start = time.perf_counter()
    found = [made.search(query[None], 10, nobody[:1])[0] for query in queries]
    one = (time.perf_counter() - start) / asked
    hit = [len(set(t.tolist()) & set(f.tolist())) / 10 for (_, t), (_, f) in zip(truth, found, strict=False)]
    told = {"vectors": num, "dim": dim, "build_s": build, "query_ms": one * 1000, "exact_ms": exact * 1000}
    return {**told, "recall_at_10": float(np.mean(hit)), **{k: facts[k] for k in ("num_lists", "num_probes")}}


def rhythms(num_patients: int, steps: int) -> dict[str, Any]:
    """Share of held-out ECGs whose nearest training ECG has their rhythm: by features, by an encoder that learned the
    rhythms of the training ECGs here, by both; and by chance.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pipeline = get_pipeline("default", rate=100, seg_len=1000)
        prepare(Synthetic(num_patients=num_patients, seed=2), pipeline, folder / "store", progress=False)
        store = SegmentStore(folder / "store")
        map_corpus(
            "labels",
            [store],
            folder / "questions.parquet",
            tasks=["rhythm"],
            seed=0,
            splits=dict(assign_splits(store, seed=0)),
        )
        first = build_index([store.path], folder / "features", data=folder / "questions.parquet", say=lambda line: None)
        rhythm = [next(x for x in row if x.startswith("rhythm:")) for row in store.index.column("labels").to_pylist()]
        patients = store.index.column("patient_id").to_pylist()
        rows = {p: i for i, p in enumerate(store.index.column("segment_id").to_pylist())}
        train = [rows[s] for s in first.table.column("segment_id").to_pylist()]
        test = [i for i, p in enumerate(patients) if p not in first.patients]
        _teach(store, train, rhythm, folder / "encoder", steps)
        found = {}
        for by in ("features", "embedding", "both"):
            options: dict[str, Any] = {} if by == "features" else {"by": by, "encoder": folder / "encoder"}
            index = build_index(
                [store.path], folder / by, data=folder / "questions.parquet", say=lambda line: None, **options
            )
            hits = index.search(store.take(test), store.rate, k=1)
            found[by] = float(np.mean([rhythm[i] in hit[0].labels for i, hit in zip(test, hits, strict=True)]))
        shares = {r: sum(rhythm[i] == r for i in train) / len(train) for r in set(rhythm)}
        chance = float(np.mean([shares[rhythm[i]] for i in test]))
    return {"train": len(train), "held_out": len(test), **found, "chance": chance}


def _teach(store: SegmentStore, train: list[int], rhythm: list[str], out: Path, steps: int) -> None:
    """A small encoder that tells the training ECGs' rhythms apart, as an encoder folder."""
    names = sorted({rhythm[i] for i in train})
    torch.manual_seed(0)
    options = {"widths": [32, 64], "stem_stride": 2}
    encoder: Any = build_encoder("resnet1d", input_shape=(12, store.seg_len), options=options)
    head = torch.nn.Linear(encoder.dim, len(names))
    optimiser = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=2e-3)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        chosen = rng.choice(train, 32)
        target = torch.tensor([names.index(rhythm[i]) for i in chosen])
        loss = torch.nn.functional.cross_entropy(
            head(encoder(torch.from_numpy(store.take(chosen))).mean(dim=1)), target
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    shown = SignalRepresentation(num_samples=store.seg_len).config()
    shape = (12, store.seg_len)
    made = store.manifest["settings"]["pipeline"]
    save_encoder(
        out, encoder.eval(), name="resnet1d", options=options, input_shape=shape, pipeline=made, representation=shown
    )


def say(*words: str, end: str = "\n") -> None:
    """Print at once."""
    print(*words, end=end, flush=True)


def main() -> int:
    """Print the tables and the JSON line; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ecgs", type=int, default=20_000)
    parser.add_argument("--sample", type=int, default=2000, help="ECGs that the original feature loop is timed on")
    parser.add_argument("--whole", action="store_true", help="time the original feature loop on all of them")
    parser.add_argument("--vectors", type=int, nargs="+", default=[200_000, 1_000_000])
    parser.add_argument("--patients", type=int, default=500, help="of the ECGs that rhythms are retrieved among")
    parser.add_argument("--steps", type=int, default=200, help="that their encoder learns for")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="small: no bar is held against it")
    options = parser.parse_args()
    if options.quick:
        options.ecgs, options.sample, options.vectors = 200, 20, [5000]
        options.patients, options.steps, options.workers = 40, 10, 1
    both = manners(options.ecgs, options.ecgs if options.whole else options.sample, options.workers)
    say(f"{options.ecgs} ECGs of 5 s at 250 Hz {'original':>17}{'ours':>10}{'ratio':>8}")
    for key, name in (("build_s", "build, s"), ("load_s", "load, s"), ("query_ms", "one query of ten hits, ms")):
        a, b = both["original"][key], both["ours"][key]
        say(f"{name:38}{a:10.3f}{b:10.3f}{a / b:8.1f}")
    say(f"{'build, load, ask for each once, s':38}", end="")
    say(f"{both['total_s']['original']:10.1f}{both['total_s']['ours']:10.1f}{both['ratio']:8.1f}")
    say(f"an ECG that the index does not hold, ours: {both['ours']['new_query_ms']:.2f} ms")
    searches = [approximate(num) for num in options.vectors]
    for s in searches:
        say(f"{s['vectors']} vectors: recall@10 {s['recall_at_10']:.4f}, {s['query_ms']:.2f} ms each", end=" ")
        say(f"(exact {s['exact_ms']:.1f}), {s['num_probes']} of {s['num_lists']} lists, built in {s['build_s']:.0f} s")
    same = rhythms(options.patients, options.steps)
    say("nearest ECG of the same rhythm:", ", ".join(f"{k} {same[k]:.3f}" for k in ("features", "embedding", "both")))
    say(f"by chance {same['chance']:.3f}; {same['held_out']} held-out ECGs, {same['train']} indexed")
    result = {"feature_loop_on": both["ecgs"] if options.whole else min(options.sample, both["ecgs"]), **both}
    say(json.dumps({"benchmark": "retrieval", **result, "approximate": searches, "rhythms": same}))
    good = both["ratio"] >= BAR_RATIO and all(
        s["recall_at_10"] >= BAR_RECALL and s["query_ms"] < BAR_MS for s in searches
    )
    return 0 if options.quick or (good and same["embedding"] >= BAR_SAME * same["chance"]) else 1


if __name__ == "__main__":
    sys.exit(main())
