"""The ECGs inside a chat request: data URLs → files of a private folder → what a model reads. Nothing is fetched."""

from __future__ import annotations

import base64
import binascii
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ecglm.demo.contents import Limits
from ecglm.demo.shown import Shown
from ecglm.demo.texts import safe_name
from ecglm.demo.uploads import read_upload
from ecglm.errors import EcglmError, RejectedRecord, UnsafeInputError
from ecglm.models.assistant import Assistant
from ecglm.prompts.retrieved import RagOptions
from ecglm.retrieval.neighbours import nearest_to
from ecglm.retrieval.search import Index
from ecglm.types import Neighbour

#: Kind of a data URL → suffix, where no file name says it.
KINDS = {
    "application/x-npy": ".npy",
    "application/x-npz": ".npz",
    "text/csv": ".csv",
    "application/x-matlab-data": ".mat",
    "application/x-hdf5": ".h5",
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
    "image/bmp": ".bmp",
    "image/gif": ".gif",
    "image/tiff": ".tiff",
}
_DATA = re.compile(r"data:([\w.+-]+/[\w.+-]+)?((?:;[\w.+-]+=[\w.+-]+)*);base64,", re.IGNORECASE)
_FACTS = ("rate", "leads", "units")


class BadRequest(EcglmError):
    """A request that is answered with status 400. param: the field; code: a stable word."""

    def __init__(self, message: str, param: str | None = None, code: str = "invalid_value", status: int = 400) -> None:
        super().__init__(message)
        self.param, self.code, self.status = param, code, status


def read_part(part: Mapping[str, Any], assistant: Assistant, param: str, limits: Limits) -> Shown:
    """The ECG of an ``image_url``, ``file`` or ``input_ecg`` part of a message.

    Raises BadRequest, with the reason of the reader as its code, for all that cannot be read.
    """
    kind = part["type"]
    given = part.get(kind)
    if kind == "image_url" and isinstance(given, str):
        given = {"url": given}
    if not isinstance(given, Mapping):
        raise BadRequest(f"a part of type {kind} holds an object '{kind}'", param)
    if kind == "image_url":
        files = _files([{"file_data": given.get("url")}], ("image/",), param)
        facts: dict[str, Any] = {}
    else:
        known = {"filename", "file_data", "files", *_FACTS}
        unknown = sorted(set(given) - known)
        if unknown:
            raise BadRequest(f"{kind} has no field '{unknown[0]}'; it has {', '.join(sorted(known))}", param)
        several = given.get("files")
        if several is None:
            several = [{n: given[n] for n in ("filename", "file_data") if n in given}]
        files, facts = _files(several, (), param), _facts(given, param)
    with tempfile.TemporaryDirectory(prefix="ecglm-serve-") as folder:
        paths = []
        for name, data in files:
            path = Path(folder) / name
            if path in paths:
                raise BadRequest(f"two files are called {name}", param)
            path.write_bytes(data)
            paths.append(path)
        try:
            return read_upload(
                paths,
                folder=folder,
                limits=limits,
                pipeline=assistant.bundle.pipeline,
                pictures=assistant.reads_pictures,
                **facts,
            )
        except RejectedRecord as error:
            raise BadRequest(str(error), param, error.reason) from error
        except UnsafeInputError as error:
            raise BadRequest(str(error), param, "refused") from error
        except EcglmError as error:
            raise BadRequest(str(error), param, "ecg_unreadable") from error


def _files(given: Any, kinds: Sequence[str], param: str) -> list[tuple[str, bytes]]:
    """``(safe name, bytes)`` of each file."""
    if not isinstance(given, list) or not 1 <= len(given) <= 4 or not all(isinstance(f, Mapping) for f in given):
        raise BadRequest("files is a list of 1 to 4 objects with filename and file_data", param)
    found = []
    for file in given:
        kind, data = _decoded(file.get("file_data"), param)
        if kinds and not kind.startswith(tuple(kinds)):
            raise BadRequest(f"an image_url holds a picture, not {kind or 'data of no kind'}; use input_ecg", param)
        name = file.get("filename")
        if name is None:
            if kind not in KINDS:
                raise BadRequest(
                    f"no filename, and {kind or 'no kind'} does not say it; known: {', '.join(KINDS)}", param
                )
            name = f"ecg{KINDS[kind]}"
        if not isinstance(name, str) or not name.strip() or "\0" in name:
            raise BadRequest("filename must be the name of a file", param)
        found.append((safe_name(name), data))
    return found


def _decoded(url: Any, param: str) -> tuple[str, bytes]:
    if not isinstance(url, str):
        raise BadRequest("the ECG must be given as a data URL (data:KIND;base64,…)", param)
    head = _DATA.match(url[:200])
    if head is None:
        if url[:5].lower() == "data:":
            raise BadRequest("a data URL must be base64 (data:KIND;base64,…)", param)
        raise BadRequest("only data: URLs are read; nothing is fetched from an address or a path", param, "url_refused")
    try:
        return (head[1] or "").lower(), base64.b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequest(f"the data URL is no sound base64 ({error})", param) from error


def _facts(given: Mapping[str, Any], param: str) -> dict[str, Any]:
    """rate, leads and units as ``read`` takes them."""
    found = {name: given[name] for name in _FACTS if given.get(name) is not None}
    rate, leads, units = (found.get(name) for name in _FACTS)
    if rate is not None and (isinstance(rate, bool) or not isinstance(rate, int | float)):
        raise BadRequest("rate must be a number of Hz", param)
    listed = isinstance(leads, list) and all(isinstance(name, str) for name in leads)
    if not (leads is None or listed or isinstance(leads, str)):
        raise BadRequest('leads must be "standard", "I,II,V1" or a list of names', param)
    if units is not None and units not in ("mV", "uV", "V"):
        raise BadRequest("units must be mV, uV or V", param)
    return found


def searcher(folder: str | Path, assistant: Assistant) -> Callable[[Sequence[Shown]], tuple[Neighbour, ...]]:
    """What finds the neighbours of the ECGs of a talk in an index, as many as the model was trained with.

    Raises EcglmError for an index that cannot tell what the model's prompt says, and, when called, for a picture.
    """
    index, options = Index.load(folder), assistant.bundle.rag or RagOptions()
    options.check(index.feature_names, index.has_reports)

    def search(shown: Sequence[Shown]) -> tuple[Neighbour, ...]:
        records = [s.record for s in shown if s.record is not None]
        if len(records) != len(shown):
            raise EcglmError("the index searches by the signal, and a picture has none; give the ECG as a signal file")
        return nearest_to(index, records, k=options.k) if records else ()

    return search
