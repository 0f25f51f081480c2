"""ECG-Byte on real ECGs: training against the original algorithm, growth, memory, symbolising and encoding.

Every recording at hand (ECGLM_SHARED_DATA, default ``../shared/data`` beside the repository) goes through the pipeline
``default`` to 250 Hz and segments of 12 × 1250; equal segments count once, recordings of 400 Hz and more come first.
Without the data synthetic ECGs stand in, and the output says so. The baseline (``original_bpe.py``) counts all pairs
and rewrites the whole text for each merge, compiled, on all cores; ours runs on one. Both take one text (boundary
``none``) and their merges must be equal. Training is measured in wall time, the rest in processor time of one core.
Data: PTB-XL, CinC 2020/2021, CPSC 2018, CSN, SPH, CODE-15 %; all CC BY 4.0.
"""

from __future__ import annotations

import os

for _name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy is imported; the baseline's threads are numba's own

import argparse  # noqa: E402
import json  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numba  # noqa: E402
import numpy as np  # noqa: E402

from ecglm import registry  # noqa: E402
from ecglm.records.synthetic import Synthetic  # noqa: E402
from ecglm.representations.bpe import train_merges  # noqa: E402
from ecglm.representations.ecg_byte import EcgByte  # noqa: E402
from ecglm.signals.pipeline import get_pipeline  # noqa: E402

SEG_LEN, NUM_SYMBOLS = 1250, 12 * 1250
#: Source and folder below the data, those with the higher sampling rates first.
SOURCES = (
    ("folder", "ptb-xl/records500"),
    ("cpsc", "cinc2020_2021/training"),
    ("georgia", "cinc2020_2021"),
    ("ptb", "cinc2020_2021/training/ptb"),
    ("folder", "cinc2020_2021/training/ptb-xl"),
    ("csn", "csn"),
    ("cpsc", "cpsc2018"),
    ("sph", "sph"),
    ("code15", "code15"),
    ("folder", "ptb-xl/records100"),
)
BAR_TRAINING, BAR_MS, BAR_BYTES, BAR_GROWTH = 20.0, 0.15, 24.0, 6.0


def real_segments(data: Path) -> tuple[np.ndarray, str]:
    """Distinct segments, float32 ``(n, 12, 1250)`` in mV, and a word about them."""
    pipeline = get_pipeline("default", rate=250, seg_len=SEG_LEN)
    found: dict[bytes, np.ndarray] = {}
    num_read = num_slow = 0
    at_500 = {path.stem[:5] for path in (data / "ptb-xl" / "records500").rglob("*.hea")}
    for name, folder in SOURCES:
        source = registry.get("records", name)(root=data / folder)
        before = len(found)
        for key in source.keys():
            if folder.endswith("records100") and key.rpartition("/")[2][:5] in at_500:
                continue  # the same recording at a lower rate
            signal = pipeline.run(source.read(key)).signal
            num_read += len(signal)
            found.update((segment.tobytes(), segment) for segment in signal)
        if folder.endswith("records100"):
            num_slow = len(found) - before
    text = f"{len(found)} distinct real segments of {num_read} ({num_slow}, the last, from 100 Hz)"
    return np.stack(list(found.values())), text


def synthetic_segments(num: int) -> tuple[np.ndarray, str]:
    """Synthetic ECGs in the place of absent real ones."""
    source = Synthetic(num_patients=num // 4, rate=250, seed=0)
    signals = [source.read(key).signal[:, : 2 * SEG_LEN] for key in source.keys()]
    segments = np.concatenate([s.reshape(12, 2, SEG_LEN).swapaxes(0, 1) for s in signals])
    return np.ascontiguousarray(
        segments, np.float32
    ), f"{len(segments)} SYNTHETIC segments, as no real ones are at hand"


def least(work: Callable[[], Any], repeats: int = 5, clock: Callable[[], float] = time.process_time) -> float:
    """Least seconds of some calls."""
    times = []
    for _ in range(repeats):
        start = clock()
        work()
        times.append(clock() - start)
    return min(times)


def text_of(symbols: np.ndarray, millions: float) -> np.ndarray:
    """The first so many segments' symbols as one text, repeated where there are too few."""
    num = -(-round(millions * 1e6) // NUM_SYMBOLS)
    return np.resize(symbols, (num, NUM_SYMBOLS)).reshape(-1)


def training(symbols: np.ndarray, millions: float, num_merges: int) -> dict[str, Any]:
    """Ours against the original algorithm, in turn; AssertionError where merges differ.

    ratio: the smaller of that of wall times and that of processor times (the original's shared by all cores): beside
    other work the one, while threads wait for each other the other flatters ours.
    """
    from original_bpe import train_original

    text = text_of(symbols, millions)
    train_original(text[:200_000], 800)  # compiles
    clocks = (time.perf_counter, time.process_time)
    ours = [least(lambda: train_merges([text], num_merges), 3, clock) for clock in clocks]
    start = [clock() for clock in clocks]
    expected = train_original(text, num_merges)
    original = [clock() - begun for clock, begun in zip(clocks, start, strict=True)]
    after = [least(lambda: train_merges([text], num_merges), 3, clock) for clock in clocks]
    assert train_merges([text], num_merges).tolist() == expected, "merges differ from the original algorithm's"
    wall, processor = ((one + two) / 2 for one, two in zip(ours, after, strict=True))
    cores = numba.get_num_threads()
    ratios = original[0] / wall, original[1] / cores / processor
    print(f"training, {text.size / 1e6:.1f} M symbols, {len(expected)} merges, boundary none, equal merges:")
    print(f"  original algorithm, {cores} cores {original[0]:8.2f} s wall {original[1]:8.2f} s processor")
    print(f"  ours, one core               {wall:8.2f} s wall {processor:8.2f} s processor")
    print(f"  {ratios[0]:.1f} x in wall time, {ratios[1]:.1f} x in processor time shared by all cores")
    return {
        "symbols": text.size,
        "merges": len(expected),
        "original_s": round(original[0], 2),
        "original_processor_s": round(original[1], 2),
        "ours_s": round(wall, 3),
        "ours_processor_s": round(processor, 3),
        "cores": cores,
        "ratio": round(min(ratios), 1),
    }


def growth(symbols: np.ndarray, sizes: list[float], merge_counts: list[int]) -> dict[str, Any]:
    """Processor seconds by symbols (at most merges) and by merges (at the middle size)."""
    by_size = {f"{m:g}M": least(lambda m=m: train_merges([text_of(symbols, m)], merge_counts[-1]), 3) for m in sizes}
    text = text_of(symbols, sizes[-1])
    by_merges = {str(n): least(lambda n=n: train_merges([text], n), 3) for n in merge_counts}
    print(f"growth, {merge_counts[-1]} merges: " + ", ".join(f"{k} {v:.3f} s" for k, v in by_size.items()))
    print(f"growth, {sizes[-1]:g} M symbols: " + ", ".join(f"{k} merges {v:.3f} s" for k, v in by_merges.items()))
    values = list(by_size.values())
    return {
        "by_symbols_s": {k: round(v, 3) for k, v in by_size.items()},
        "by_merges_s": {k: round(v, 3) for k, v in by_merges.items()},
        "for_4x_symbols": round(values[-1] / values[-2] / (sizes[-1] / sizes[-2]) * 4, 2),
    }


def per_segment(segments: np.ndarray, merges: np.ndarray) -> dict[str, Any]:
    """Milliseconds of one core per segment: symbolising, encoding; in batches; and what comes out."""
    z = segments.astype(np.float64)
    low, high = (f(z, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
    formula = (97 + np.minimum(np.floor(26 * np.clip((z - low) / (high - low + 1e-6), 0, 1)), 25)).astype(np.uint8)
    greedy, ranked = (EcgByte(merges, encode_mode=mode) for mode in ("greedy", "ranked"))
    found = np.stack([greedy.symbolise(segment)[0] for segment in segments])
    assert (found == formula).all(), "symbols differ from the formula"
    texts = [s.reshape(-1) for s in found]
    encode = greedy._encoder  # the encoder alone: symbols in, ids out
    batch = greedy.encode_batch(segments)
    assert all(greedy.expansions.decode(t.ids).tobytes() == s.tobytes() for t, s in zip(batch, texts, strict=True))
    ranked.encode(segments[0])
    num = len(segments)
    result = {
        "symbolise_ms": least(lambda: [greedy.symbolise(s) for s in segments]) / num * 1e3,
        "encode_ms": least(lambda: [encode(t) for t in texts]) / num * 1e3,
        "both_one_by_one_ms": least(lambda: [greedy.encode(s) for s in segments]) / num * 1e3,
        "both_batch_ms": least(lambda: greedy.encode_batch(segments)) / num * 1e3,
        "ranked_ms": least(lambda: ranked.encode_batch(segments[:50]), 2) / min(num, 50) * 1e3,
        "decode_ms": least(lambda: [greedy.decode(t) for t in batch]) / num * 1e3,
    }
    tokens = float(np.mean([len(t) for t in batch]))
    print(f"per segment of {NUM_SYMBOLS} symbols, {len(merges)} merges, {num} segments, one core:")
    for name, value in result.items():
        print(f"  {name.removesuffix('_ms').replace('_', ' '):18} {value:7.3f} ms")
    print(f"  {tokens:.0f} tokens a segment, compression {NUM_SYMBOLS / tokens:.1f} x")
    return {**{k: round(v, 4) for k, v in result.items()}, "merges": len(merges), "tokens": round(tokens, 1)}


def memory(symbols: np.ndarray, millions: float, num_merges: int) -> dict[str, float]:
    """Peak bytes per symbol of training, the symbols themselves included, each kind in a process of its own."""
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "text.npy"
        noise = np.random.default_rng(0).integers(97, 123, round(millions * 1e6)).astype(np.uint8)
        for kind, text in (("ECGs", text_of(symbols, millions)), ("noise", noise)):
            np.save(path, text)
            command = [sys.executable, __file__, "--memory-of", str(path), "--merges", str(num_merges)]
            found[kind] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print("peak memory: " + ", ".join(f"{v:.1f} bytes per symbol of {k}" for k, v in found.items()))
    return {k: round(v, 1) for k, v in found.items()}


def resident(field: str) -> int:
    """``VmRSS`` or ``VmHWM`` (the most so far) of this process in bytes; Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def print_memory(path: Path, num_merges: int) -> None:
    """The child of ``memory``."""
    small = np.random.default_rng(0).integers(97, 100, 40_000).astype(np.uint8)
    train_merges([small], num_merges)  # compiles: the compiler's memory is none of training's
    Path("/proc/self/clear_refs").write_text("5")  # the most from here on
    before = resident("VmRSS")
    text = np.load(path, allow_pickle=False)
    train_merges([text], num_merges)
    print((resident("VmHWM") - before) / text.size)


def main() -> int:
    """Measure, print a table and one line of JSON; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("ECGLM_SHARED_DATA"))
    parser.add_argument("--quick", action="store_true", help="a tenth of the symbols, 500 merges: to see it work")
    parser.add_argument("--merges", type=int, default=3000)
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of is not None:
        print_memory(options.memory_of, options.merges)
        return 0
    data = options.data or Path(__file__).resolve().parents[2] / "shared" / "data"
    scale, num_merges = (0.1, 500) if options.quick else (1.0, options.merges)
    segments, about = real_segments(data) if data.is_dir() else synthetic_segments(1200)
    print(f"{about}; load of the machine {os.getloadavg()[0]:.1f}")
    symbols = np.stack([EcgByte([]).symbolise(segment)[0].reshape(-1) for segment in segments])
    train_merges([symbols[0]], 100)  # compiles
    trained = training(symbols, 10 * scale, num_merges)
    grown = growth(symbols, [scale, 4 * scale, 16 * scale], sorted({num_merges // 6, num_merges // 3, num_merges}))
    num_trained = round(1067 * scale)
    merges = train_merges(list(symbols[:num_trained]), num_merges)
    print("-- segments that the tokenizer was trained on, the higher rates")
    known = per_segment(segments[: min(num_trained, 300)], merges)
    print("-- segments it has not seen")
    unseen = per_segment(segments[num_trained:][:300], merges)
    print("-- more merges")
    merges = train_merges(list(symbols[:num_trained]), num_merges * 5 // 3)
    more = per_segment(segments[: min(num_trained, 300)], merges)
    held = memory(symbols, 10 * scale, num_merges)
    slowest = {k: max(known[k], unseen[k], more[k]) for k in ("symbolise_ms", "encode_ms")}
    passed = (
        (trained["ratio"] >= BAR_TRAINING or options.quick)
        and all(value <= BAR_MS for value in slowest.values())
        and max(held.values()) <= BAR_BYTES
        and grown["for_4x_symbols"] <= BAR_GROWTH
    )
    result = {
        "benchmark": "ecg_byte",
        "data": about,
        "training": trained,
        "growth": grown,
        "trained_on": known,
        "unseen": unseen,
        "more_merges": more,
        "bytes_per_symbol": held,
        "bars": {"ratio": BAR_TRAINING, "ms": BAR_MS, "bytes": BAR_BYTES, "growth": BAR_GROWTH},
        "quick": options.quick,
        "passed": passed,
    }
    print(json.dumps(result))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
