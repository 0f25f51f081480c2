"""Measurements: how right they are (synthetic truth), how plausible (real records), how fast; and the 288 features.

The baseline of the 288 features is the manner of the original: lead by lead, with calls of scipy, PyWavelets and numpy,
as the definitions read. It is shown equal to ``ecg_bench_288`` in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pywt
import scipy.signal

from ecglm import registry
from ecglm.errors import RejectedRecord
from ecglm.records.synthetic import Synthetic
from ecglm.signals.delineate import delineate
from ecglm.signals.features import ecg_bench_288
from ecglm.signals.leads import canonical_leads
from ecglm.signals.measured import Measurements, measure
from ecglm.types import Record

BAR_RATIO, BAR_SHARE = 5.0, 0.95
#: Greatest difference from the truth that counts as right: bpm, ms, degrees, mV.
BOUNDS = {"heart_rate": 1.0, "qrs_ms": 15.0, "qt_ms": 15.0, "pr_ms": 15.0, "axis_deg": 10.0, "sokolow_mv": 0.15}
#: What a value of a living adult's resting ECG lies in, sick or not. Wide on purpose: they surround the normal limits
#: of Surawicz et al. 2009 and Rautaharju et al. 2009 (AHA/ACCF/HRS recommendations) and what disease does to them.
PHYSIOLOGIC = {
    "heart_rate": (25.0, 220.0),
    "pr_ms": (80.0, 400.0),
    "qrs_ms": (60.0, 220.0),
    "qt_ms": (220.0, 680.0),
    "qtc_bazett_ms": (320.0, 650.0),
}
#: Name → (source, folder below the data).
SOURCES = {
    "PTB-XL, 500 Hz": ("folder", "ptb-xl/records500"),
    "PTB-XL, 100 Hz": ("folder", "ptb-xl/records100"),
    "CPSC": ("cpsc", "cinc2020_2021/training"),
    "Georgia": ("georgia", "cinc2020_2021"),
    "CSN": ("csn", "csn"),
    "SPH": ("sph", "sph"),
    "CODE-15": ("code15", "code15"),
}


def original(segment: np.ndarray, rate: float) -> np.ndarray:
    """The 288 features lead by lead, as the definitions read."""
    return np.concatenate([_lead(row.astype(np.float64), rate) for row in segment])


def _lead(x: np.ndarray, rate: float) -> np.ndarray:
    values = [x.mean(), x.std(), x.max(), x.min(), np.median(x), np.percentile(x, 25), np.percentile(x, 75)]
    f, p = scipy.signal.welch(x, fs=rate, nperseg=min(1024, len(x)))
    values += [p.sum(), p.max(), f[p.argmax()], (f * p).sum() / p.sum() if p.sum() else 0.0]
    low, high, peaks = x.min(), x.max(), np.array([], int)
    if high > low:
        peaks, _ = scipy.signal.find_peaks(x, height=low + 0.3 * (high - low), distance=max(int(0.2 * rate), 1))
    if len(peaks) < 2:
        values += [0.0] * 5
    else:
        intervals = np.diff(peaks) / rate
        widths = []
        for peak in peaks:
            window = x[max(peak - int(0.1 * rate), 0) : peak + int(0.1 * rate)]
            threshold = 0.1 * (window.max() - window.min()) + window.min()
            widths.append(np.sum(np.abs(window - np.mean(window)) > threshold) / rate)
        values += [60 / np.mean(intervals), np.std(intervals), np.mean(widths), np.ptp(x[peaks[-2] : peaks[-1]])]
        values.append(x[min(peaks[-1] + int(0.08 * rate), len(x) - 1)] - x[peaks[-1]])
    values += [np.mean(np.abs(c)) for c in pywt.wavedec(x, "db4", level=5)]
    steps = np.diff(x)
    return np.array([*values, np.mean(np.abs(steps)), np.sqrt(np.mean(steps**2))])


def fastest(work: Callable[[], Any], repeats: int) -> float:
    """Least processor time of one call in seconds."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def speed(repeats: int) -> dict[str, float]:
    """ms per 12 × 2500 segment of ``measure`` and of the 288 features, batched and as the original does; their largest
    relative difference."""
    source = Synthetic(num_patients=32, rate=250, seed=1, records_per_patient=(1, 1))
    segments = np.stack([source.read(key).signal for key in source.keys()])
    measure(segments[0], 250), ecg_bench_288(segments[:1], 250)
    batched = ecg_bench_288(segments, 250)
    plain = np.stack([original(segment, 250) for segment in segments])
    close = np.isclose(batched, plain, rtol=1e-9, atol=1e-12)
    one = fastest(lambda: [measure(segment, 250) for segment in segments], repeats) / len(segments) * 1000
    fast = fastest(lambda: ecg_bench_288(segments, 250), repeats) / len(segments) * 1000
    slow = fastest(lambda: [original(segment, 250) for segment in segments], repeats) / len(segments) * 1000
    return {
        "measure_ms": one,
        "batched_288_ms": fast,
        "original_288_ms": slow,
        "ratio_288": slow / fast,
        "equal_288": float(close.mean()),
    }


def truth(num_patients: int) -> dict[str, dict[str, float]]:
    """Share within BOUNDS of the synthetic truth, by rate and artefacts, of all ECGs and of each kind."""
    found: dict[str, dict[str, float]] = {}
    for artefacts in (False, True):
        for rate in (500, 250, 100):
            source = Synthetic(num_patients=num_patients, rate=rate, seed=17, artefacts=artefacts)
            right: dict[str, list[bool]] = defaultdict(list)
            for key in source.keys():
                record = source.read(key)
                m, known = measure(record.signal, rate), record.metadata["measurements"]
                kind = next(label for label in record.labels if label.startswith("rhythm:"))[7:]
                for name, bound in BOUNDS.items():
                    if name in known:
                        value = getattr(m, name)
                        good = value is not None and abs(_difference(name, value, known[name])) <= bound
                        right[name].append(good)
                        right[f"{kind} {name}"].append(good)
            label = f"{rate} Hz, {'with artefacts' if artefacts else 'clean'}"
            found[label] = {name: float(np.mean(values)) for name, values in right.items()}
    return found


def _difference(name: str, value: float, known: float) -> float:
    return (value - known + 180) % 360 - 180 if name == "axis_deg" else value - known


def records(data: Path, name: str) -> Iterator[tuple[Record, Measurements]]:
    """The records of a source and the measurements of their first 10 s."""
    kind, folder = SOURCES[name]
    source = registry.get("records", kind)(root=data / folder)
    for key in source.keys():
        try:
            record = source.read(key)
            signal = np.nan_to_num(canonical_leads(record.signal, record.leads))
        except RejectedRecord:
            continue
        yield record, measure(signal[:, : round(10 * record.sampling_rate)], record.sampling_rate)


def plausible(data: Path) -> dict[str, dict[str, float]]:
    """By source: records, share with each value measured, share of those in its physiologic range."""
    found: dict[str, dict[str, float]] = {}
    for name in SOURCES:
        all_of = [m for _, m in records(data, name)]
        row: dict[str, float] = {"records": len(all_of)}
        for field, (low, high) in PHYSIOLOGIC.items():
            values = [v for v in (getattr(m, field) for m in all_of) if v is not None]
            row[f"{field}, measured"] = len(values) / len(all_of)
            row[f"{field}, physiologic"] = float(np.mean([low <= v <= high for v in values]))
            row[f"{field}, median"] = float(np.median(values))
        found[name] = row
    return found


#: Label of PTB-XL's table → what the measurements should say.
CLAIMS: dict[str, tuple[str, Callable[[Measurements], bool | None]]] = {
    "SBRAD": ("rate below 62", lambda m: None if m.heart_rate is None else m.heart_rate < 62),
    "STACH": ("rate above 98", lambda m: None if m.heart_rate is None else m.heart_rate > 98),
    "SR": ("rate 50 to 110", lambda m: None if m.heart_rate is None else 50 <= m.heart_rate <= 110),
    "1AVB": ("PR 195 ms or more", lambda m: None if m.pr_ms is None else m.pr_ms >= 195),
    "CLBBB": ("QRS 115 ms or more", lambda m: None if m.qrs_ms is None else m.qrs_ms >= 115),
    "CRBBB": ("QRS 115 ms or more", lambda m: None if m.qrs_ms is None else m.qrs_ms >= 115),
    "NORM": ("QRS below 115 ms", lambda m: None if m.qrs_ms is None else m.qrs_ms < 115),
    "AFIB": (
        "irregularly irregular",
        lambda m: None if m.regularity is None else m.regularity == "irregularly irregular",
    ),
    "AFIB ": ("no P wave", lambda m: m.pr_ms is None),
    "SR ": ("a P wave", lambda m: m.pr_ms is not None),
    "PVC": ("a V among the beats", lambda m: "V" in m.beats),
}
#: heart_axis of PTB-XL's table → the range of degrees that its readers mean, ± 10.
AXES = {"MID": (20, 100), "LAD": (-100, 0), "ALAD": (-100, -20), "RAD": (80, 190), "ARAD": (110, 190)}


def labels(data: Path) -> dict[str, tuple[int, float]]:
    """Of PTB-XL at 100 Hz: how many records carry a label, and the share that measures as the label says."""
    found: dict[str, list[bool]] = defaultdict(list)
    source = registry.get("records", "ptb-xl")(root=data / "ptb-xl", resolution="100")
    for key in source.keys():
        record = source.read(key)
        m = measure(canonical_leads(record.signal, record.leads), record.sampling_rate)
        codes = {label.partition(":")[2] for label in record.labels}
        for name, (what, rule) in CLAIMS.items():
            if name.strip() in codes and (said := rule(m)) is not None:
                found[f"{name.strip()}: {what}"].append(said)
        axis = str(record.metadata.get("heart_axis", ""))
        if axis in AXES and m.axis_deg is not None:
            low, high = AXES[axis]
            found[f"axis {axis}: {low} to {high}°"].append(low <= m.axis_deg <= high or low <= m.axis_deg + 360 <= high)
    return {name: (len(values), float(np.mean(values))) for name, values in sorted(found.items())}


def between_rates(data: Path) -> dict[str, dict[str, float]]:
    """PTB-XL records at 100 and at 500 Hz: median difference and the share that agrees."""
    low = {r.record_id[-8:-3]: m for r, m in records(data, "PTB-XL, 100 Hz")}
    high = {r.record_id[-8:-3]: m for r, m in records(data, "PTB-XL, 500 Hz")}
    found = {}
    for name, bound in (("heart_rate", 1.0), ("pr_ms", 15.0), ("qrs_ms", 15.0), ("qt_ms", 15.0)):
        pairs = [(getattr(low[k], name), getattr(high[k], name)) for k in sorted(high) if k in low]
        both = np.array([a - b for a, b in pairs if a is not None and b is not None])
        found[name] = {
            "records": len(both),
            "median": float(np.median(both)),
            "within": float((np.abs(both) <= bound).mean()),
            "bound": bound,
        }
    return found


def draw_delineations(path: Path) -> None:
    """Median beats of six synthetic ECGs, all leads over one another, with what was found on them."""
    from matplotlib.figure import Figure

    shown = ("sinus_rhythm", "first_degree_av_block", "atrial_fibrillation", "pvc", "sinus_tachycardia", "paced")
    figure = Figure(figsize=(12, 6.2), layout="constrained")
    for place, rhythm in enumerate(shown):
        source = Synthetic(num_patients=1, rate=500, seed=21 + place, rhythms=(rhythm,), artefacts=False)
        segment = source.read(source.keys()[0]).signal
        found, m = delineate(segment, 500), measure(segment, 500)
        assert not isinstance(found, str)
        axes = figure.add_subplot(2, 3, place + 1)
        time = (np.arange(found.beat.shape[1]) - found.qrs_on) * 2
        axes.plot(time, found.beat.T, color="0.35", linewidth=0.7)
        edges = [("QRS", found.qrs_on, found.qrs_off, "#c0392b")]
        if found.p is not None:
            edges.append(("P", found.p.on, found.p.off, "#2471a3"))
        if found.t_off is not None and found.t_peak is not None:
            edges.append(("T, peak to end", found.t_peak, found.t_off, "#1e8449"))
        for name, low, high, colour in edges:
            for sample in (low, high):
                axes.axvline((sample - found.qrs_on) * 2, color=colour, linewidth=1.1)
            axes.axvspan((low - found.qrs_on) * 2, (high - found.qrs_on) * 2, color=colour, alpha=0.12, label=name)
        told = [f"{what} {v:.0f}" for what, v in (("PR", m.pr_ms), ("QRS", m.qrs_ms), ("QT", m.qt_ms)) if v is not None]
        axes.set_title(f"{rhythm.replace('_', ' ')}: {m.heart_rate:.0f} bpm, {', '.join(told)} ms", fontsize=9)
        axes.set(xlim=(max(float(time[0]), -420), min(float(time[-1]), 620)), xlabel="ms from QRS onset", ylabel="mV")
        axes.legend(fontsize=7, loc="upper right")
    figure.savefig(path, dpi=80, metadata={"Software": None})


def _rounded(value: Any) -> Any:
    """Three decimals are more than these shares and times can bear."""
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    return round(value, 3) if isinstance(value, float) else value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("ECGLM_SHARED_DATA"))
    parser.add_argument("--patients", type=int, default=200, help="synthetic patients")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--picture", type=Path, help="draw docs/img/delineation.png here")
    options = parser.parse_args()
    if options.picture:
        draw_delineations(options.picture)
        return 0
    result: dict[str, Any] = {"truth": truth(options.patients), "speed": speed(options.repeats)}
    show_truth(result["truth"])
    if options.data is not None:
        result["plausible"], result["labels"] = plausible(Path(options.data)), labels(Path(options.data))
        result["between_rates"] = between_rates(Path(options.data))
        show_records(result)
    table("ms per 12 x 2500 segment", list(result["speed"]), {"": list(result["speed"].values())})
    result["truth"] = {name: {f: shares[f] for f in BOUNDS} for name, shares in result["truth"].items()}
    print(json.dumps({"benchmark": "features", **_rounded(result)}))
    clean = [result["truth"][f"{rate} Hz, clean"][field] for rate in (500, 250, 100) for field in BOUNDS]
    good = min(clean) >= BAR_SHARE and result["speed"]["equal_288"] == 1.0
    return 0 if good and result["speed"]["ratio_288"] >= BAR_RATIO else 1


def table(question: str, columns: list[str], rows: dict[str, list[Any]]) -> None:
    """Print one table: a row per name, None as a dash."""
    texts = {name: ["-" if v is None else v if isinstance(v, str) else f"{v:.3f}" for v in row]
             for name, row in rows.items()}  # fmt: skip
    first = max(map(len, [question, *rows]))
    widths = [max(len(c), *(len(row[k]) for row in texts.values())) for k, c in enumerate(columns)]
    for name, row in [(question, columns), *texts.items()]:
        print(name.ljust(first) + "".join("  " + cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    print()


def show_truth(truth_of: dict[str, dict[str, float]]) -> None:
    """Shares within the bounds by rate, then of each rhythm at 250 Hz."""
    fields = list(BOUNDS)
    table("within the bounds of the truth", fields, {name: [row[f] for f in fields] for name, row in truth_of.items()})
    row = truth_of["250 Hz, clean"]
    kinds = sorted({name.split(" ")[0] for name in row if " " in name})
    table("250 Hz, clean, by rhythm", fields, {kind: [row.get(f"{kind} {f}") for f in fields] for kind in kinds})


def show_records(result: dict[str, Any]) -> None:
    """Plausible values, agreement with labels, agreement of two rates."""
    rows = {
        f"{name} ({row['records']})": [
            f"{row[f'{f}, measured']:.2f}/{row[f'{f}, physiologic']:.2f}/{row[f'{f}, median']:.0f}" for f in PHYSIOLOGIC
        ]
        for name, row in result["plausible"].items()
    }
    table("measured / physiologic / median", list(PHYSIOLOGIC), rows)
    claims = {name: [str(count), share] for name, (count, share) in result["labels"].items()}
    table("measures as the label says", ["records", "share"], claims)
    names = ["records", "median", "within", "bound"]
    two = {name: [float(row[n]) for n in names] for name, row in result["between_rates"].items()}
    table("100 Hz less 500 Hz", names, two)


if __name__ == "__main__":
    sys.exit(main())
