"""Verbs: an index of training ECGs, and what is in it like an ECG of yours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from ecglm.errors import EcglmError
from ecglm.verbs.common import FewStores, Stores, say, tell
from ecglm.verbs.progress import stages

_Files = Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE [FILE …]")]


def index_build(
    stores: FewStores,
    *,
    out: Path,
    data: _Files = (),
    by: Literal["features", "embedding", "both"] = "features",
    encoder: str | None = None,
    segments: Literal["first", "all"] = "first",
    min_quality: Literal["any", "usable", "good"] = "usable",
    search: Literal["auto", "exact", "approximate"] = "auto",
    limit: int | None = None,
    workers: int = 1,
    overwrite: bool = False,
) -> None:
    """Index the training ECGs of segment stores, so that those like a given one can be found.

    Args:
        stores: segment stores, prepared alike.
        out: the index folder to make.
        data: conversations files whose training rows say which records are training ones; without any, the stores' own
            split or official fold.
        by: what ECGs are compared by: ECG-Bench's 288 features, the vector of an encoder, or both.
        encoder: an encoder folder (ecglm pretrain, ecglm import) or a checkpoint (best/ of a run), which is copied into
            the index.
        segments: the first of each record, which is what models are shown, or all; a record is found once either way.
        min_quality: usable leaves out flat leads, missing samples and impossible amplitudes; good also saturated,
            mislabelled and noisy leads; any leaves out nothing.
        search: exact, or approximate by faiss (extra rag); auto: exact below 100,000 ECGs.
        limit: the first N training segments only.
        workers: processes; the result does not depend on their number.
        overwrite: replace an index made otherwise.
    """
    from ecglm.retrieval.index import build_index

    if not stores:
        raise EcglmError("no store; name one or more segment stores")
    with stages() as bar:
        index = build_index(
            stores,
            out,
            data=data,
            by=by,
            encoder=encoder,
            segments=segments,
            min_quality=min_quality,
            approximate={"auto": None, "exact": False, "approximate": True}[search],
            limit=limit,
            workers=workers,
            overwrite=overwrite,
            say=say,
            progress=lambda stage, done, total: bar(stage, done, total, "ECGs"),
        )
    tell(index.lines())


def index_search(
    index: Positional[Path],
    *,
    ecg: Path,
    k: int = 3,
    out: Path | None = None,
    store: Stores = (),
    exclude: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ID [ID …]")] = (),
    rate: float | None = None,
    leads: str | None = None,
    units: Literal["mV", "uV", "V"] | None = None,
    dataset: str | None = None,
    overwrite: bool = False,
) -> None:
    """Print the training ECGs most like a recording, and draw them. For research only.

    Args:
        index: an index folder (ecglm index build).
        ecg: recording (WFDB, .mat, .npy, .npz, .csv, .h5); its first segment is searched for.
        k: how many neighbours.
        out: folder for the pictures of the recording and its neighbours, and neighbours.json; without it
            neighbours/ and the name of the recording, here.
        store: the stores that the index was built of, where they lie elsewhere now.
        exclude: ids of records or patients that must not be found, such as the recording's own.
        rate: samples per second, for files that do not say.
        leads: names of the rows, I,II,III,…, or "standard", for files that do not say.
        units: of the samples, for files that do not say.
        dataset: which one to read of an HDF5 file that holds several.
        overwrite: replace pictures of another search.
    """
    from ecglm.records.formats import read
    from ecglm.retrieval.index import Exclude, Index
    from ecglm.retrieval.show import lines, save_pictures

    if k < 1:
        raise EcglmError(f"k must be 1 or more, found {k}")
    opened = Index.load(index)
    query = opened.segments(read(ecg, rate=rate, leads=leads, units=units, dataset=dataset))[:1]
    for name in exclude:
        if name not in opened.records | opened.patients:
            say(f"--exclude {name}: no record or patient of the index, whose ids look like {min(opened.records)}")
    own = Exclude(frozenset(exclude), opened.patients_shown(query, opened.rate).union(exclude))
    neighbours = opened.search(query, opened.rate, k=k, exclude=[own])[0]
    say(f"{ecg.name} in {opened.told()}")
    tell(lines(neighbours))
    if neighbours and len(neighbours) < k:
        say(f"{len(neighbours)} of {k}: no other ECG may be shown for this one")
    folder = Path("neighbours") / ecg.stem if out is None else out
    pictures, missing = save_pictures(opened, query[0], ecg.stem, neighbours, folder, stores=store, overwrite=overwrite)
    if missing:
        say(f"without a picture, their store is not found (name it with --store DIR): {', '.join(missing)}")
    names = [picture.name for picture in pictures]
    if len(names) > 6:
        names[2:-1] = ["…"]
    say(f"pictures: {folder} ({', '.join(names)})")
