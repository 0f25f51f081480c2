"""WFDB records (``.hea`` with ``.dat`` or MATLAB-4 ``.mat``) → Record, with a fast path for plain 16-bit files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ecglm.errors import RejectedRecord
from ecglm.files import inside
from ecglm.records.units import implausible
from ecglm.records.wfdb_header import FORMATS, Header, read_header
from ecglm.types import Record


def read_wfdb(
    path: str | os.PathLike[str], record_id: str, *, on_checksum: Literal["warn", "reject"] = "warn"
) -> Record:
    """Read the record of a header file: float32 ``(leads, samples)`` in mV, leads in file order, NaN where missing.

    The twelve leads get their canonical spelling; other names stay as written. ``metadata["notes"]`` holds codes of
    what was odd (``checksum_mismatch``, ``amplitude_implausible``, ``gain_overridden`` …), ``metadata["recorded"]``
    the date and time as written. Raises RejectedRecord (reasons of ``read_header``; ``signal_missing``,
    ``signal_truncated``, ``signal_size_mismatch``; ``checksum_mismatch`` when ``on_checksum`` is ``"reject"``) and
    UnsafeInputError.
    """
    header = read_header(path)
    first = header.signals[0]
    plain = first.format == 16 and all(
        s.file == first.file and s.format == 16 and s.offset == first.offset for s in header.signals
    )
    counts = _read_plain(header) if plain else _read_general(header)
    notes = list(header.notes)
    wrong = _checksum_failures(header, counts)
    if wrong:
        if on_checksum == "reject":
            raise RejectedRecord("checksum_mismatch", f"{header.path}: data and header disagree in {', '.join(wrong)}")
        notes.append("checksum_mismatch")
    signal, peak_to_peak = _to_millivolts(header, counts)
    if implausible(peak_to_peak):
        notes.append("amplitude_implausible")
    metadata: dict[str, Any] = {"notes": notes}
    if header.start:
        metadata["recorded"] = header.start
    return Record(
        record_id=record_id,
        signal=signal,
        sampling_rate=header.rate,
        leads=tuple(s.lead for s in header.signals),
        patient_id=record_id,
        patient_known=False,
        metadata=metadata,
    )


def _signal_file(header: Header, name: str) -> str:
    """The path of a signal file beside the header; UnsafeInputError where a link leads out of the folder."""
    file = os.path.join(header.path.parent, name)
    if os.path.islink(file):
        inside(header.path.parent, Path(file), str(header.path))
    if not os.path.isfile(file):
        raise RejectedRecord("signal_missing", f"{header.path}: names {name}, which is not there")
    return file


def _check_size(file: str, size: int, needed: int, slack: int = 0) -> None:
    if size < needed:
        raise RejectedRecord("signal_truncated", f"{file}: {size} bytes, the header promises {needed}")
    if size > needed + slack:
        raise RejectedRecord("signal_size_mismatch", f"{file}: {size} bytes, the header promises only {needed}")


def _read_plain(header: Header) -> np.ndarray:
    """Counts int16 ``(leads, samples)`` of a single file of interleaved little-endian 16-bit samples."""
    first, num_signals = header.signals[0], len(header.signals)
    file = _signal_file(header, first.file)
    try:
        with open(file, "rb", buffering=0) as handle:
            _check_size(file, os.fstat(handle.fileno()).st_size, first.offset + 2 * num_signals * header.num_samples)
            data = handle.readall()
    except OSError as error:
        raise RejectedRecord("unreadable", f"{file}: {os.strerror(error.errno or 0)}") from error
    if first.offset and data.startswith(b"MATLAB"):
        raise RejectedRecord("format_unsupported", f"{file}: MATLAB version 5 or later, the header says version 4")
    counts = np.frombuffer(data, "<i2", num_signals * header.num_samples, first.offset)
    return np.ascontiguousarray(counts.reshape(header.num_samples, num_signals).T)


def _read_general(header: Header) -> np.ndarray:
    """Counts int64 ``(leads, samples)`` through the `wfdb` package: other formats, several files."""
    import wfdb  # slow to import and rarely needed

    for name in {s.file for s in header.signals}:
        group = [s for s in header.signals if s.file == name]
        bits = sum(FORMATS[s.format][0] for s in group) * header.num_samples
        file = _signal_file(header, name)
        _check_size(file, os.stat(file).st_size, group[0].offset + -(-bits // 8), slack=3)  # padded to a whole word
    base = header.path.absolute().with_suffix("")
    try:
        found = wfdb.rdrecord(str(base), physical=False, return_res=64)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OSError) as error:
        raise RejectedRecord("format_unsupported", f"{header.path}: {error}") from error
    counts = np.ascontiguousarray(found.d_signal.T)
    if counts.shape != (len(header.signals), header.num_samples):
        raise RejectedRecord("signal_size_mismatch", f"{header.path}: samples read have the shape {counts.shape}")
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
        if (s.checksum is not None and (total - s.checksum) & 0xFFFF) or (s.init is not None and start != s.init)
    ]


def _to_millivolts(header: Header, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 ``(leads, samples)`` in mV and the peak-to-peak of every lead in mV (NaN where it has no sample)."""
    signals = header.signals
    scales = [(s.gain / s.scale, s.baseline) for s in signals]
    divisor = np.array([d for d, _ in scales])[:, None]
    baseline = np.array([b for _, b in scales])[:, None]
    low, high = counts.min(axis=1), counts.max(axis=1)
    # 24 bits of a float32 hold such differences exactly, and one division rounds as the exact quotient would.
    if max(-int(low.min()), int(high.max()), abs(int(baseline.min())), abs(int(baseline.max()))) < 1 << 22:
        signal = counts.astype(np.float32)
        if baseline.any():
            signal -= baseline.astype(np.float32)
        signal /= np.float32(scales[0][0]) if len(set(scales)) == 1 else divisor.astype(np.float32)
    else:
        signal = ((counts - baseline) / divisor).astype(np.float32)
    missing = np.array([FORMATS[s.format][1] for s in signals])
    if (low <= missing).any():
        gap = counts == missing[:, None]
        signal[gap] = np.nan
        top, bottom = np.where(gap, -np.inf, signal).max(axis=1), np.where(gap, np.inf, signal).min(axis=1)
        return signal, np.where(gap.all(axis=1), np.nan, top - bottom)
    return signal, (high.astype(np.int64) - low) / divisor[:, 0]
