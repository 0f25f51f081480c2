"""Files that somebody dropped → one ECG. Everything of them is hostile until it has been looked at."""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ecglm.demo.contents import Limits, check_content, check_unpacked
from ecglm.demo.shown import DISPLAY, Shown
from ecglm.demo.texts import safe_name
from ecglm.errors import EcglmError, RejectedRecord, UnsafeInputError
from ecglm.records.arrays import RawArray
from ecglm.records.formats import ARRAY_READERS, HDF5_SUFFIXES, read, read_array_file
from ecglm.records.hdf5 import read_hdf5
from ecglm.records.picture_files import SUFFIXES as PICTURE_SUFFIXES
from ecglm.records.picture_files import read_picture
from ecglm.records.units import lead_name, lead_names
from ecglm.records.wfdb_header import read_header
from ecglm.types import Record

__all__ = ["SUFFIXES", "Limits", "NeedsFacts", "discard", "each_ecg", "read_upload"]

DEFAULT_LIMITS = Limits()
#: What may be dropped.
SUFFIXES = (".hea", ".dat", *ARRAY_READERS, *HDF5_SUFFIXES, *PICTURE_SUFFIXES)
#: Facts that a file may be silent about → what the page calls them.
FACTS = {"rate": "the sampling rate in Hz", "leads": "the leads in their order", "units": "the units (mV, uV or V)"}
_OPTION = re.compile(r"--(rate|leads|units|dataset)\b")


class NeedsFacts(EcglmError):
    """A file is silent about what is needed to read it. facts: names of ``FACTS``; num_leads: rows it seems to have."""

    def __init__(self, name: str, facts: Sequence[str], num_leads: int | None = None) -> None:
        told = " and ".join(
            [", ".join(FACTS[f] for f in facts[:-1]), FACTS[facts[-1]]] if facts[1:] else [FACTS[facts[0]]]
        )
        other = ", or drop its header (.hea) with it" if name.casefold().endswith(".mat") else ""
        super().__init__(f"{name} does not say {told}; fill in {', '.join(facts)}{other}")
        self.facts = tuple(facts)
        self.num_leads = num_leads


def read_upload(
    paths: Sequence[str | os.PathLike[str]],
    *,
    folder: str | os.PathLike[str],
    rate: float | None = None,
    leads: str | Sequence[str] | None = None,
    units: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
    pipeline: Mapping[str, Any] | None = None,
    pictures: bool = False,
) -> Shown:
    """The ECG in the files that were dropped together: a WFDB record (header and data, in any order), one ``.mat``,
    ``.npy``, ``.npz``, ``.csv``, ``.h5``, or one picture.

    folder: uploads lie in it, or anywhere below; nothing else is read. rate (Hz), leads and units: for files that do
    not say. pipeline: the model's (``bundle.pipeline``), which cuts the segments; 10 s at 250 Hz without. pictures:
    whether the model reads them. All is kept in memory; what is copied meanwhile is removed again.

    Raises NeedsFacts where a fact is missing, UnsafeInputError for what is refused unread (outside the folder, a link,
    too large, of another kind than its name says), RejectedRecord for what cannot be used, EcglmError else: one line
    that names the file as it was dropped, and no folder.
    """
    root = Path(folder)
    files = [_checked(Path(path), root, limits) for path in paths]
    if not files:
        raise EcglmError("no file was dropped; give an ECG file")
    if len(files) > limits.max_files:
        raise UnsafeInputError(f"{len(files)} files at once, at most {limits.max_files}; drop one ECG at a time")
    chosen = _one_ecg(files)
    place = Path(tempfile.mkdtemp(prefix="read-", dir=root))  # copies in a folder of its own get their names here
    try:
        return _read(chosen, place, rate, leads, units, limits, pipeline or DISPLAY, pictures)
    except OSError as error:
        raise EcglmError(f"{safe_name(chosen[0].name)}: cannot be read ({os.strerror(error.errno or 0)})") from error
    except (RejectedRecord, UnsafeInputError, EcglmError) as error:
        if isinstance(error, NeedsFacts):
            raise
        raise _plain(error, place) from None
    finally:
        shutil.rmtree(place, ignore_errors=True)


def discard(paths: Sequence[str | os.PathLike[str]], *, folder: str | os.PathLike[str]) -> None:
    """Remove uploads once they have been read; what is not a plain file below ``folder`` stays."""
    for path in paths:
        try:
            _inside(Path(path), Path(folder))[0].unlink(missing_ok=True)
        except EcglmError:
            continue  # not ours to remove


def _inside(path: Path, root: Path) -> tuple[Path, int]:
    """A path and its size if it is a plain file below ``root`` that no link leads to; UnsafeInputError else."""
    gone = UnsafeInputError(f"{safe_name(path.name)}: not among the uploads; drop the file again")
    try:
        home, named = root.resolve(), Path(os.path.abspath(path))
        bases = [base for base in (home, Path(os.path.abspath(root))) if named.is_relative_to(base)]
        if not bases:
            raise gone
        place = home / named.relative_to(bases[0])
        found = os.lstat(place)
        if place.resolve() != place or not stat.S_ISREG(found.st_mode):
            raise gone
    except (OSError, ValueError, RuntimeError) as error:
        raise gone from error
    return place, found.st_size


def _checked(path: Path, root: Path, limits: Limits) -> Path:
    """``path`` if it is a plain file below ``root`` of a size and name that are read."""
    name = safe_name(path.name)
    place, size = _inside(path, root)
    if path.suffix.casefold() not in SUFFIXES:
        raise UnsafeInputError(f"{name}: this kind of file is not read; known: {', '.join(SUFFIXES)}")
    most = limits.max_text_bytes if path.suffix.casefold() in (".csv", ".hea") else limits.max_bytes
    if size > most:
        raise UnsafeInputError(f"{name}: {size:,} bytes, at most {most:,} are read")
    if size == 0:
        raise RejectedRecord("empty", f"{name}: the file is empty")
    return place


def each_ecg(paths: Sequence[Path]) -> list[list[Path]]:
    """The files of one drop, ECG by ECG, in the order they came: a header with its data (by their names, where there
    are several headers), any other file by itself.
    """
    headers = [p for p in paths if p.suffix.casefold() == ".hea"]
    found = [[header] for header in headers]
    for path in paths:
        if path.suffix.casefold() == ".hea":
            continue
        kind = path.suffix.casefold()
        named = [group for group in found if group[0] in headers and _letters(group[0].stem) == _letters(path.stem)]
        if kind == ".dat" and len(headers) == 1:  # whatever it is called: the header says
            named = found[:1]
        if kind == ".mat" and len(paths) == 2 and len(headers) == 1:
            named = found[:1]
        if named and kind in (".dat", ".mat"):
            named[0].append(path)
        else:
            found.append([path])
    order = {path: number for number, path in enumerate(paths)}
    return sorted(found, key=lambda group: min(order[path] for path in group))


def _one_ecg(files: Sequence[Path]) -> list[Path]:
    """The files of the one ECG, what is to be read first; EcglmError for a WFDB part alone or for several ECGs."""
    headers = [f for f in files if f.suffix.casefold() == ".hea"]
    data = [f for f in files if f.suffix.casefold() == ".dat" or (headers and f.suffix.casefold() == ".mat")]
    rest = [f for f in files if f not in headers and f not in data]
    if len(headers) > 1 or len(rest) > 1 or ((headers or data) and rest):
        raise EcglmError("these files are more than one ECG; drop the files of one ECG at a time")
    if rest:
        return rest
    if not headers:
        names = " and ".join(safe_name(f.name) for f in data)
        raise EcglmError(f"{names}: the header {safe_name(data[0].stem)}.hea is missing; drop both files together")
    return [headers[0], *data]


def _read(
    files: list[Path],
    place: Path,
    rate: float | None,
    leads: str | Sequence[str] | None,
    units: str | None,
    limits: Limits,
    pipeline: Mapping[str, Any],
    pictures: bool,
) -> Shown:
    name = safe_name(files[0].name)
    own = Path(tempfile.mkdtemp(dir=place))
    copies = [_copy(file, own / f"{number}{file.suffix.casefold()}", limits) for number, file in enumerate(files)]
    first = copies[0]
    check_content(first, name)
    if first.suffix in PICTURE_SUFFIXES:
        if not pictures:
            raise EcglmError(f"{name}: this model reads recordings, not pictures; give the ECG as a signal file")
        return Shown(name, picture=read_picture(first, max_pixels=limits.max_pixels, name=name))
    if first.suffix == ".hea":
        record = _read_wfdb(files, copies, place, limits)
    else:
        file = first.rename(place / name)
        check_unpacked(file, name, limits)
        record = _read_array(file, name, rate, leads, units)
    _check_length(name, record.signal.size, limits)
    bare = Record("upload", record.signal, record.sampling_rate, record.leads, patient_known=False)
    shown = Shown(name, record=bare, pipeline=dict(pipeline))
    try:
        _ = shown.segments  # what cannot be used is told now
    except RejectedRecord as error:
        raise RejectedRecord(error.reason, f"{name}: {error.detail.removeprefix(f'{name}: ')}") from error
    return shown


def _copy(file: Path, target: Path, limits: Limits) -> Path:
    """A private copy: what is checked is what is read, whatever becomes of the upload meanwhile."""
    try:
        handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise UnsafeInputError(f"{safe_name(file.name)}: not among the uploads; drop the file again") from error
    with open(handle, "rb") as source, open(target, "xb") as copy:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise UnsafeInputError(f"{safe_name(file.name)}: is no plain file")
        left = limits.max_bytes
        while block := source.read(min(1 << 20, left + 1)):
            left -= len(block)
            if left < 0:
                raise UnsafeInputError(f"{safe_name(file.name)}: more than {limits.max_bytes:,} bytes")
            copy.write(block)
    return target


def _check_length(name: str, num_values: int, limits: Limits) -> None:
    if num_values > limits.max_values:
        raise UnsafeInputError(f"{name}: {num_values:,} samples of all leads, at most {limits.max_values:,} are read")


def _read_wfdb(files: list[Path], copies: list[Path], place: Path, limits: Limits) -> Record:
    """A WFDB record, its data under the names that the header gives them."""
    name = safe_name(files[0].name)
    header = copies[0].rename(place / name)
    found = read_header(header)
    _check_length(name, found.num_samples * len(found.signals), limits)
    wanted = list(dict.fromkeys(s.file for s in found.signals))
    if {f.casefold() for f in wanted} & {name.casefold()}:
        raise UnsafeInputError(f"{name}: names itself as its data; refused")
    dropped = {_letters(file.name): copy for file, copy in zip(files[1:], copies[1:], strict=True)}
    for file in wanted:
        copy = dropped.pop(_letters(file), None)
        if copy is None:
            raise EcglmError(f"{name}: its data file {safe_name(file)} is missing; drop both files together")
        check_content(copy, safe_name(file))
        copy.rename(place / file)
    if dropped:
        raise EcglmError(f"{name}: its data are in {', '.join(map(safe_name, wanted))}; drop the files of one ECG")
    return read(header)


def _letters(name: str) -> str:
    """What survives of a name where a browser or a page takes out unusual characters."""
    return re.sub(r"[^\w.-]", "", name).casefold()


def _read_array(
    file: Path, name: str, rate: float | None, leads: str | Sequence[str] | None, units: str | None
) -> Record:
    if leads is not None:
        lead_names(leads, name)  # a mistake of the user's is told before the file is opened
    try:
        return read_array_file(file, "upload", rate, leads, units)
    except UnsafeInputError:
        raise
    except EcglmError as error:
        missing, rows = _missing(file, rate, leads, units)
        if not missing or (isinstance(error, RejectedRecord) and error.reason != "lead_unknown"):
            raise
        raise NeedsFacts(name, missing, rows) from error


def _missing(
    file: Path, rate: float | None, leads: str | Sequence[str] | None, units: str | None
) -> tuple[list[str], int | None]:
    """The facts that neither file nor user states, and how many leads the array seems to have."""
    try:
        suffix = file.suffix.casefold()
        raw: RawArray = read_hdf5(file) if suffix in HDF5_SUFFIXES else ARRAY_READERS[suffix](file)
    except EcglmError:
        return [], None
    named = raw.leads is not None and all(lead_name(text) for text in raw.leads)
    stated = {"rate": raw.rate is not None, "leads": named, "units": raw.units is not None}
    given = {"rate": rate is not None, "leads": leads is not None, "units": units is not None}
    axis = raw.lead_axis if raw.lead_axis is not None else 0 if raw.values.ndim < 2 else None
    rows = min(raw.values.shape) if axis is None else raw.values.shape[axis] if raw.values.ndim > 1 else 1
    return [fact for fact in FACTS if not stated[fact] and not given[fact]], int(rows)


def _plain(error: EcglmError, place: Path) -> EcglmError:
    """The same error in a person's words: without the server's folders and the command line's options."""

    def words(text: str) -> str:
        for folder in (str(place), str(place.resolve())):
            text = text.replace(f"{folder}/", "").replace(folder, "the upload")
        return " ".join(_OPTION.sub(r"\1", text).split())

    if isinstance(error, RejectedRecord):
        return RejectedRecord(error.reason, words(error.detail))
    return type(error)(words(str(error)))
