"""WFDB records (``.hea`` with ``.dat`` or MATLAB-4 ``.mat``) → Record, with a fast path for plain 16-bit files."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ecglm.errors import RejectedRecord
from ecglm.records.tree import FolderTree, TooLargeError, Tree
from ecglm.records.units import PLAUSIBLE_MV, implausible
from ecglm.records.wfdb_header import FORMATS, Header, read_header
from ecglm.types import Record


def read_wfdb(
    path: str | os.PathLike[str],
    record_id: str,
    *,
    on_checksum: Literal["warn", "reject"] = "warn",
    tree: Tree | None = None,
) -> Record:
    """Read the record of a header file: float32 ``(leads, samples)`` in mV, leads in file order, NaN where missing.

    path: the header's path, or its name in ``tree`` (a folder or an archive) if one is given. The twelve leads get
    their canonical spelling; other names stay as written. ``metadata["notes"]`` holds codes of what was odd
    (``checksum_mismatch``, ``amplitude_implausible``, ``gain_overridden`` …), ``metadata["recorded"]`` the date and
    time as written. Raises RejectedRecord (reasons of ``read_header``; ``signal_missing``, ``signal_truncated``,
    ``signal_size_mismatch``; ``checksum_mismatch`` when ``on_checksum`` is ``"reject"``) and UnsafeInputError.
    """
    return read_with_header(path, record_id, on_checksum=on_checksum, tree=tree)[0]


def read_with_header(
    path: str | os.PathLike[str],
    record_id: str,
    *,
    on_checksum: Literal["warn", "reject"] = "warn",
    tree: Tree | None = None,
) -> tuple[Record, Header]:
    """``read_wfdb``, and the header, whose comments hold what a database says about the record."""
    name = os.fspath(path)
    header = read_header(name, tree=tree)
    folder, _, name = name.rpartition("/")
    if tree is None:
        # Without a dataset around it a header's own folder is the place that its data must not leave.
        tree, folder = FolderTree(Path(folder or ("/" if os.fspath(path).startswith("/") else "."))), ""
    first = header.signals[0]
    file, offset = first.file, first.offset
    plain = all(s.format == 16 and s.file == file and s.offset == offset for s in header.signals)
    prefix = f"{folder}/" if folder else ""
    counts = _read_plain(header, tree, prefix) if plain else _read_general(header, tree, prefix)
    notes = list(header.notes)
    wrong = _checksum_failures(header, counts)
    if wrong:
        if on_checksum == "reject":
            raise RejectedRecord("checksum_mismatch", f"{header.place}: data and header disagree in {', '.join(wrong)}")
        notes.append("checksum_mismatch")
    signal, peak_to_peak = _to_millivolts(header, counts)
    if _implausible(peak_to_peak):
        notes.append("amplitude_implausible")
    metadata: dict[str, Any] = {"notes": notes}
    if header.start:
        metadata["recorded"] = header.start
    record = Record(
        record_id=record_id,
        signal=signal,
        sampling_rate=header.rate,
        leads=tuple([s.lead for s in header.signals]),
        patient_id=record_id,
        patient_known=False,
        metadata=metadata,
    )
    return record, header


def _signal_bytes(header: Header, tree: Tree, name: str, needed: int, slack: int = 0) -> bytes:
    """A signal file beside the header, which must have ``needed`` bytes, or up to ``slack`` more."""
    try:
        data = tree.read(name, needed + slack)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise RejectedRecord("signal_missing", f"{header.place}: names {name}, which is not there") from error
    except TooLargeError as error:
        raise RejectedRecord(
            "signal_size_mismatch", f"{tree.root}/{name}: {error.size} bytes, the header promises only {needed}"
        ) from error
    except OSError as error:
        raise RejectedRecord("unreadable", f"{tree.root}/{name}: {os.strerror(error.errno or 0)}") from error
    if len(data) < needed:
        raise RejectedRecord("signal_truncated", f"{tree.root}/{name}: {len(data)} bytes, the header promises {needed}")
    return data


def _read_plain(header: Header, tree: Tree, prefix: str) -> np.ndarray:
    """Counts int16 ``(leads, samples)`` of a single file of interleaved little-endian 16-bit samples."""
    first, num_signals, num_samples = header.signals[0], len(header.signals), header.num_samples
    data = _signal_bytes(header, tree, prefix + first.file, first.offset + 2 * num_signals * num_samples)
    if first.offset and data.startswith(b"MATLAB"):
        detail = f"{header.place}: {first.file} is MATLAB version 5 or later, the header says version 4"
        raise RejectedRecord("format_unsupported", detail)
    counts = np.frombuffer(data, "<i2", num_signals * num_samples, first.offset)
    return np.ascontiguousarray(counts.reshape(num_samples, num_signals).T)


def _read_general(header: Header, tree: Tree, prefix: str) -> np.ndarray:
    """Counts int64 ``(leads, samples)`` through the `wfdb` package: other formats, several files.

    It reads from disk alone, and is given a copy of files that have been checked.
    """
    import wfdb  # slow to import and rarely needed

    with tempfile.TemporaryDirectory(prefix="ecglm-wfdb-") as place:
        for name in {s.file for s in header.signals}:
            group = [s for s in header.signals if s.file == name]
            bits = sum(FORMATS[s.format][0] for s in group) * header.num_samples
            needed = group[0].offset + -(-bits // 8)
            data = _signal_bytes(header, tree, prefix + name, needed, slack=3)  # padded to a whole word
            Path(place, name).write_bytes(data)
        stem = "record"
        lines = [f"{stem} {len(header.signals)} {header.rate!r} {header.num_samples}"]
        for s in header.signals:
            skip = f"+{s.offset}" if s.offset else ""
            lines.append(f"{s.file} {s.format}{skip} {s.gain!r}({s.baseline})/mV 0 0 {s.init} {s.checksum} 0 {s.lead}")
        Path(place, f"{stem}.hea").write_text("\n".join(lines) + "\n", encoding="utf-8")
        try:
            found = wfdb.rdrecord(os.path.join(place, stem), physical=False, return_res=64)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OSError) as error:
            detail = str(error).replace(place, str(tree.root))
            raise RejectedRecord("format_unsupported", f"{header.place}: {detail}") from error
    counts = np.ascontiguousarray(found.d_signal.T)
    if counts.shape != (len(header.signals), header.num_samples):
        raise RejectedRecord("signal_size_mismatch", f"{header.place}: samples read have the shape {counts.shape}")
    return counts


def _checksum_failures(header: Header, counts: np.ndarray) -> list[str]:
    """Leads whose 16-bit checksum or initial value differs from the header's."""
    # A sum that wraps in 16 bits is the checksum; it is the fastest sum as well.
    narrow = np.int16 if counts.dtype == np.int16 else np.int64
    sums = np.add.reduce(counts, axis=1, dtype=narrow).tolist()
    starts = counts[:, 0].tolist()
    return [
        s.lead
        for s, total, start in zip(header.signals, sums, starts, strict=True)
        if (total - s.checksum) & 0xFFFF or start != s.init
    ]


def _to_millivolts(header: Header, counts: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """float32 ``(leads, samples)`` in mV and the peak-to-peak of every lead in mV (NaN where it has no sample)."""
    signals = header.signals
    divisors = [s.gain / s.scale for s in signals]
    baselines = [s.baseline for s in signals]
    lows, highs = counts.min(axis=1).tolist(), counts.max(axis=1).tolist()
    # 24 bits of a float32 hold such differences exactly, and one division rounds as the exact quotient would.
    if max(-min(lows), max(highs), -min(baselines), max(baselines)) < 1 << 22:
        signal = counts.astype(np.float32)
        if any(baselines):
            signal -= np.array(baselines, dtype=np.float32)[:, None]
        one_gain = divisors.count(divisors[0]) == len(divisors)
        signal /= np.float32(divisors[0]) if one_gain else np.array(divisors, dtype=np.float32)[:, None]
    else:
        signal = ((counts - np.array(baselines)[:, None]) / np.array(divisors)[:, None]).astype(np.float32)
    missing = [FORMATS[s.format][1] for s in signals]
    if any(low <= code for low, code in zip(lows, missing, strict=True)):
        gap = counts == np.array(missing)[:, None]
        signal[gap] = np.nan
        top, bottom = np.where(gap, -np.inf, signal).max(axis=1), np.where(gap, np.inf, signal).min(axis=1)
        return signal, np.where(gap.all(axis=1), np.nan, top - bottom).tolist()
    return signal, [(high - low) / divisor for high, low, divisor in zip(highs, lows, divisors, strict=True)]


def _implausible(peak_to_peak: list[float]) -> bool:
    """``units.implausible``, asked only where the middle values leave a doubt."""
    if any(value != value for value in peak_to_peak):  # NaN has no place in an order
        return implausible(np.array(peak_to_peak))
    middle = sorted(peak_to_peak)[(len(peak_to_peak) - 1) // 2 : len(peak_to_peak) // 2 + 1]
    low, high = PLAUSIBLE_MV
    return not (low <= middle[0] and middle[-1] <= high) and implausible(np.array(peak_to_peak))
