"""WFDB headers (``.hea``): a strict parser that believes nothing before the data have been looked at."""

from __future__ import annotations

import functools
import math
import os
import re
from typing import NamedTuple

from ecglm.errors import RejectedRecord, UnsafeInputError
from ecglm.files import bare_file_name
from ecglm.records.tree import TooLargeError, Tree, read_file
from ecglm.records.units import is_rate, lead_name, millivolts

#: A header of twelve leads has about 1 kB; far larger ones are refused before they are read.
MAX_HEADER_BYTES = 1 << 20
MAX_SIGNALS = 256
#: Samples of all leads together (2 GB as float32); a header that declares more is refused before allocation.
MAX_VALUES = 500_000_000

_FORMAT = re.compile(r"(\d+)(?:x(\d+))?(?::(\d+))?(?:\+(\d+))?")
_GAIN = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?:\(([-+]?\d+)\))?(?:/(\S+))?")
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f]")

#: format → (bits per sample, the value that means "missing"). Plain 16 has the fast path, the rest goes through `wfdb`.
FORMATS: dict[int, tuple[int, int]] = {
    16: (16, -(1 << 15)),
    24: (24, -(1 << 23)),
    32: (32, -(1 << 31)),
    61: (16, -(1 << 15)),
    80: (8, -(1 << 7)),
    160: (16, -(1 << 15)),
    212: (12, -(1 << 11)),
}

#: Headers known to carry a wrong gain: (record name as the header writes it, gain in the header, true gain).
WRONG_GAINS: tuple[tuple[re.Pattern[str], float, float], ...] = (
    # Georgia, early release: counts equal those of the later files with 1000/mV.
    (re.compile(r"E\d{5}\.mat"), 4880.0, 1000.0),
    # PTB-XL, challenge edition: sample-identical to PTB-XL's own files with 1000/mV.
    (re.compile(r"HR00599|HR20715"), 200.0, 1000.0),
)


class SignalLine(NamedTuple):
    """One lead as a header describes it.

    gain: counts per unit, of which one is ``scale`` mV.
    """

    file: str
    format: int
    offset: int
    gain: float
    baseline: int
    scale: float
    init: int
    checksum: int
    lead: str


class Header(NamedTuple):
    """A parsed ``.hea`` file. place: where it lies, for messages. rate: Hz. start: date and time as written.

    notes: stable codes of accepted oddities.
    """

    place: str
    name: str
    rate: float
    num_samples: int
    start: str
    signals: tuple[SignalLine, ...]
    comments: tuple[str, ...]
    notes: tuple[str, ...]


def read_header(path: str | os.PathLike[str], *, tree: Tree | None = None) -> Header:
    """Parse the WFDB header ``path`` (a name in ``tree``, if one is given) as ``parse_header`` does.

    Raises RejectedRecord also for ``header_missing`` and ``unreadable``.
    """
    name = os.fspath(path)
    place = name if tree is None else f"{tree.root}/{name}"
    try:
        data = read_file(name, MAX_HEADER_BYTES) if tree is None else tree.read(name, MAX_HEADER_BYTES)
    except FileNotFoundError as error:
        raise RejectedRecord("header_missing", f"{place}: no such file") from error
    except TooLargeError as error:
        raise RejectedRecord(
            "header_corrupt", f"{place}: larger than {MAX_HEADER_BYTES} bytes, no ECG header"
        ) from error
    except OSError as error:
        raise RejectedRecord("unreadable", f"{place}: {os.strerror(error.errno or 0)}") from error
    return parse_header(data, place)


def parse_header(data: bytes, place: str) -> Header:
    """Parse a WFDB header strictly; dates and comments are kept as text and never fail.

    Raises RejectedRecord (``header_corrupt sampling_rate_invalid gain_missing unit_unknown lead_unknown
    format_unsupported``) and UnsafeInputError for a signal file outside the header's folder.
    """
    if _CONTROL.search(data):
        raise RejectedRecord("header_corrupt", f"{place}: holds binary data, a text header is needed")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")  # only comments hold such letters
    lines: list[str] = []
    comments: list[str] = []
    for line in text.split("\n"):
        line = line.strip()
        if line.startswith("#"):
            comments.append(line[1:].strip())
        elif line:
            lines.append(line)
    if not lines:
        raise RejectedRecord("header_corrupt", f"{place}: empty header")
    name, num_signals, rate, num_samples, start = _record_line(place, lines[0])
    if len(lines) - 1 != num_signals:
        raise RejectedRecord(
            "header_corrupt", f"{place}: {num_signals} signals declared, {len(lines) - 1} signal lines present"
        )
    signals = tuple([_signal_line(place, line, number) for number, line in enumerate(lines[1:], 1)])
    stem = os.path.basename(place).rpartition(".")[0]
    notes = []
    if name != stem:
        notes.append("header_name_has_extension" if name.startswith(stem + ".") else "header_name_differs")
    if any(file.rpartition(".")[0] != stem for file in {s.file for s in signals}):
        notes.append("data_file_name_differs")
    for pattern, wrong, true in WRONG_GAINS:
        if pattern.fullmatch(name) and all(s.gain == wrong for s in signals):
            signals = tuple([s._replace(gain=true) for s in signals])
            notes.append("gain_overridden")
    return Header(place, name, rate, num_samples, start, signals, tuple(comments), tuple(notes))


def _record_line(place: str, line: str) -> tuple[str, int, float, int, str]:
    """``name nsig fs nsamp [date and time]``."""
    fields = line.split(None, 4)
    name = fields[0]
    if "/" in name:
        raise RejectedRecord("format_unsupported", f"{place}: a record of several segments; give one segment's header")
    try:
        num_signals = int(fields[1])
        rate_text = fields[2].split("/", 1)[0]
        num_samples = int(fields[3])
    except (IndexError, ValueError) as error:
        raise RejectedRecord(
            "header_corrupt", f"{place}, line 1: 'name signals rate samples' is needed, found {line[:80]!r}"
        ) from error
    try:
        rate = float(rate_text)
    except ValueError:
        rate = math.nan
    if not is_rate(rate):
        raise RejectedRecord("sampling_rate_invalid", f"{place}, line 1: sampling rate {rate_text[:40]!r}")
    if not 0 < num_signals <= MAX_SIGNALS or num_samples <= 0 or num_signals * num_samples > MAX_VALUES:
        raise RejectedRecord(
            "header_corrupt", f"{place}, line 1: declares {num_signals} signals of {num_samples} samples"
        )
    return name, num_signals, rate, num_samples, fields[4] if len(fields) > 4 else ""


def _signal_line(place: str, line: str, number: int) -> SignalLine:
    """``file fmt gain adcres adczero initval checksum blocksize description``; ``number`` counts signals from 1."""
    fields = line.split(None, 8)
    try:
        _check_file_name(fields[0])
        code, offset = _format(fields[1])
        gain, baseline, scale = _gain(fields[2])
        numbers = [int(f) for f in fields[4:7]]
    except UnsafeInputError as error:
        raise UnsafeInputError(f"{place}, signal {number}: {error}") from error
    except RejectedRecord as error:
        raise RejectedRecord(error.reason, f"{place}, signal {number}: {error.detail}") from error
    except (IndexError, ValueError) as error:
        reason = "gain_missing" if len(fields) == 2 else "header_corrupt"
        raise RejectedRecord(reason, f"{place}, signal {number}: cannot be read: {line[:80]!r}") from error
    if len(fields) < 9:
        raise RejectedRecord("lead_unknown", f"{place}, signal {number}: no description, so its lead is not known")
    zero, init, checksum = numbers
    if baseline is None:
        baseline = zero  # the standard's default
    if abs(baseline) > 1 << 31:
        raise RejectedRecord("header_corrupt", f"{place}, signal {number}: baseline {baseline}")
    return SignalLine(fields[0], code, offset, gain, baseline, scale, init, checksum, lead_name(fields[8]) or fields[8])


# The lines of a header repeat each other: each spelling is understood once.
@functools.lru_cache(maxsize=256)
def _check_file_name(name: str) -> None:
    bare_file_name(name, "signal file")


@functools.lru_cache(maxsize=256)
def _format(text: str) -> tuple[int, int]:
    """``16``, ``16+24``, ``16x1+24`` → (format, bytes to skip)."""
    found = _FORMAT.fullmatch(text)
    if not found:
        raise RejectedRecord("header_corrupt", f"storage format {text[:40]!r}")
    code, per_frame, skew, offset = (int(g) if g else 0 for g in found.groups())
    if code not in FORMATS or per_frame > 1 or skew:
        raise RejectedRecord("format_unsupported", f"storage format {text[:40]} is not read")
    return code, offset


@functools.lru_cache(maxsize=256)
def _gain(text: str) -> tuple[float, int | None, float]:
    """``G``, ``G(B)``, ``G/unit``, ``G(B)/unit`` → (G, B, mV per unit). No unit means mV, by the standard."""
    found = _GAIN.fullmatch(text)
    gain = float(found[1]) if found else math.nan
    if not found or not 1e-12 < gain < 1e12:  # outside, float32 holds neither the gain nor the quotient
        raise RejectedRecord("gain_missing", f"gain {text[:40]!r}; a number above 0 is needed")
    scale = millivolts(found[3] or "mV")
    if scale is None:
        raise RejectedRecord("unit_unknown", f"unit {found[3][:40]!r}; mV, uV or V is needed")
    baseline = int(found[2]) if found[2] else None
    return gain, baseline, scale
