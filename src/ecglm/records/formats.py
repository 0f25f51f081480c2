"""One ECG file of any known format → Record."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ecglm.errors import EcglmError, RejectedRecord
from ecglm.records.arrays import RawArray, read_csv, read_npy, read_npz, to_signal
from ecglm.records.hdf5 import SUFFIXES as HDF5_SUFFIXES
from ecglm.records.hdf5 import read_hdf5
from ecglm.records.matlab import read_mat
from ecglm.records.units import MAX_RATE, is_rate, lead_name, lead_names, millivolts
from ecglm.records.wfdb_files import read_wfdb
from ecglm.types import LEADS, Record

ARRAY_READERS = {".npy": read_npy, ".npz": read_npz, ".csv": read_csv, ".mat": read_mat}
#: Suffixes of files that are records of their own. A ``.dat`` is read through its header, a ``.mat`` where it has one.
SUFFIXES = (".hea", *ARRAY_READERS, *HDF5_SUFFIXES)
#: Suffixes of files that a WFDB header may lie beside.
SIGNAL_SUFFIXES = (".dat", ".mat")


def read(
    path: str | os.PathLike[str],
    rate: float | None = None,
    leads: str | Sequence[str] | None = None,
    units: str | None = None,
    dataset: str | None = None,
) -> Record:
    """Read one ECG file: float32 ``(num_leads, num_samples)`` in mV, leads in file order under canonical names.

    path: a WFDB record (``.hea``, its ``.dat``/``.mat``, or the name without suffix), ``.npy``, ``.npz`` (array
    ``signal``; optionally ``rate``, ``leads``, ``units``), ``.csv`` (a row per sample; lead names in the first),
    ``.mat`` (matrix ``val``, or the only one; up to version 7) or ``.h5``/``.hdf5`` (the 2-D dataset that ``dataset``
    names, or the only one; optionally attributes ``rate``, ``leads``, ``units``).
    rate (Hz), leads (``"I,II,V1"``, a list, or ``"standard"``) and units (``mV``, ``uV``, ``V``) are for files that do
    not say; where a file says something else, that is an error.

    Raises EcglmError naming the option that is missing or contradicts the file, RejectedRecord for a file that cannot
    be used, UnsafeInputError for one that could run code or leads outside its folder.
    """
    file = find(path)
    record_id = f"file/{file.stem}"
    if file.suffix.casefold() != ".hea":
        return read_array_file(file, record_id, rate, leads, units, dataset)
    if dataset is not None:
        raise EcglmError(f"{file}: --dataset is for HDF5 files ({', '.join(HDF5_SUFFIXES)}); leave it out")
    record = read_wfdb(file, record_id)
    if rate is not None and rate != record.sampling_rate:
        raise EcglmError(f"{file}: says {record.sampling_rate:g} Hz, --rate says {rate:g}; leave --rate out")
    if leads is not None:
        record = dataclasses.replace(record, leads=_decide_leads(file, record.leads, leads) or record.leads)
    if units is not None and _scale(units, str(file)) != 1.0:
        raise EcglmError(f"{file}: a WFDB header states its units and is read in mV; leave --units out")
    return record


def find(path: str | os.PathLike[str]) -> Path:
    """The file to read for what a user named: the header of a WFDB record, or the file itself. EcglmError if none."""
    file = Path(path)
    suffix = file.suffix.casefold()
    header = file.with_suffix(".hea") if suffix in SIGNAL_SUFFIXES else file.with_name(file.name + ".hea")
    if (suffix in SIGNAL_SUFFIXES or not file.exists()) and header.is_file():
        return header
    if suffix in SUFFIXES and file.is_file():
        return file
    if file.is_dir():
        raise EcglmError(f"{file}: is a folder; name one file in it, or run: ecglm prepare folder --root {file}")
    if not file.exists():
        raise EcglmError(f"{file}: no such file")
    if suffix == ".dat":
        raise EcglmError(
            f"{file}: its header {file.stem}.hea is not beside it; without it nothing is known of the data"
        )
    raise EcglmError(f"{file}: unknown kind of file; known: {', '.join(SUFFIXES)}, and .dat beside a .hea")


def read_array_file(
    file: Path,
    record_id: str,
    rate: float | None = None,
    leads: str | Sequence[str] | None = None,
    units: str | None = None,
    dataset: str | None = None,
) -> Record:
    """``read`` for files of arrays (all but WFDB), with a record id of the caller's."""
    suffix = file.suffix.casefold()
    if dataset is not None and suffix not in HDF5_SUFFIXES:
        raise EcglmError(f"{file}: --dataset is for HDF5 files ({', '.join(HDF5_SUFFIXES)}); leave it out")
    try:
        raw = read_hdf5(file, dataset) if suffix in HDF5_SUFFIXES else ARRAY_READERS[suffix](file)
    except OSError as error:
        raise RejectedRecord("unreadable", f"{file}: {os.strerror(error.errno or 0)}") from error
    names = _decide_leads(file, raw.leads, leads)
    signal = _orient(file, raw, len(names) if names else None)
    if names is None:
        raise EcglmError(
            f"{file}: does not say which leads it holds; give --leads "
            + (f"standard (for {','.join(LEADS)}) or --leads " if len(signal) == len(LEADS) else "")
            + "with their names in order, such as I,II,V1"
        )
    hertz = _decide_rate(file, raw, rate)
    scale = _decide_scale(file, raw, units)
    signal, notes = to_signal(signal, scale)
    metadata: dict[str, Any] = {"notes": notes}
    return Record(record_id, signal, hertz, names, patient_id=record_id, patient_known=False, metadata=metadata)


def _decide_leads(
    file: Path, stated: tuple[str, ...] | None, option: str | Sequence[str] | None
) -> tuple[str, ...] | None:
    """Lead names from the file or the option; a file whose names are no leads is one that does not say."""
    given = lead_names(option, str(file)) if option is not None else None
    if stated is None:
        return given
    known = [lead_name(text) for text in stated]
    names = tuple(name for name in known if name is not None)
    if len(set(names)) != len(names):
        raise RejectedRecord("lead_duplicate", f"{file}: a lead stands twice in {','.join(stated)}")
    if names and len(names) == len(stated):
        if given is not None and given != names:
            raise EcglmError(f"{file}: says leads {','.join(names)}, --leads says otherwise; leave --leads out")
        return names
    if given is not None and len(given) == len(stated):
        return given
    bad = next((text for text, name in zip(stated, known, strict=True) if name is None), "")
    raise RejectedRecord(
        "lead_unknown", f"{file}: '{bad}' is no lead; name the columns {','.join(LEADS)} or give --leads in their order"
    )


def _orient(file: Path, raw: RawArray, num_leads: int | None) -> np.ndarray:
    """The array as ``(leads, samples)``: the axis as long as there are leads is the leads'."""
    values = raw.values
    if values.dtype.kind not in "fiu":
        raise RejectedRecord("not_numeric", f"{file}: dtype {values.dtype}, real numbers are needed")
    if values.size == 0:
        raise RejectedRecord("empty", f"{file}: no samples (shape {values.shape})")
    if values.ndim == 1:
        values = values[None]
    if values.ndim != 2:
        raise RejectedRecord("shape_invalid", f"{file}: shape {values.shape}; (leads, samples) of one ECG is needed")
    wanted = num_leads or len(LEADS)
    axes = [axis for axis in (0, 1) if values.shape[axis] == wanted]
    if raw.lead_axis is not None:
        axes = [axis for axis in axes if axis == raw.lead_axis]
    if len(axes) == 2:
        raise RejectedRecord(
            "shape_invalid", f"{file}: shape {values.shape} does not tell leads from samples; a longer ECG is needed"
        )
    if not axes:
        if num_leads is None:
            return values  # the caller asks for the names of the leads
        raise RejectedRecord("shape_invalid", f"{file}: shape {values.shape} has no axis of {num_leads} leads")
    return values if axes[0] == 0 else values.T


def _decide_rate(file: Path, raw: RawArray, option: float | None) -> float:
    if raw.rate is not None and not is_rate(raw.rate):
        raise RejectedRecord("sampling_rate_invalid", f"{file}: sampling rate {raw.rate}")
    if option is not None and not is_rate(option):
        raise EcglmError(f"{file}: --rate {option:g} is no sampling rate; a number of Hz up to {MAX_RATE:g} is needed")
    if raw.rate is not None and option is not None and raw.rate != option:
        raise EcglmError(f"{file}: says {raw.rate:g} Hz, --rate says {option:g}; leave --rate out")
    if raw.rate is None and option is None:
        raise EcglmError(f"{file}: does not say its sampling rate; give --rate in Hz, such as --rate 500")
    return float(raw.rate if raw.rate is not None else option)  # type: ignore[arg-type]


def _decide_scale(file: Path, raw: RawArray, option: str | None) -> float:
    stated = millivolts(raw.units) if raw.units is not None else None
    if raw.units is not None and stated is None:
        raise RejectedRecord("unit_unknown", f"{file}: unit {raw.units!r}; mV, uV or V is needed")
    given = _scale(option, str(file)) if option is not None else None
    if stated is not None and given is not None and stated != given:
        raise EcglmError(f"{file}: says {raw.units}, --units says {option}; leave --units out")
    scale = stated if stated is not None else given
    if scale is None:
        raise EcglmError(f"{file}: does not say its units; give --units mV, uV or V, such as --units mV")
    return scale


def _scale(units: str, context: str) -> float:
    scale = millivolts(units)
    if scale is None:
        raise EcglmError(f"{context}: --units {units} is unknown; mV, uV or V is needed")
    return scale
