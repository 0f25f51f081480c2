"""Verbs: a look into a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from ecglm.errors import EcglmError
from ecglm.verbs.common import say, segment_of
from ecglm.verbs.progress import counted

if TYPE_CHECKING:
    from ecglm.models.checkpoint import Bundle


def attention(
    question: Positional[str],
    model: Path,
    out: Path,
    store: Path | None = None,
    segment: int | None = None,
    ecg: Path | None = None,
    rate: float | None = None,
    leads: str | None = None,
    units: Literal["mV", "uV", "V"] | None = None,
    dataset: str | None = None,
    max_new_tokens: int = 128,
    overwrite: bool = False,
) -> None:
    """Draw where a model looks while it answers a question about one ECG. For research only.

    Args:
        question: what to ask.
        model: checkpoint folder.
        out: folder for the pictures and the data.
        store: a segment store that holds the ECG; or name a recording with --ecg.
        segment: position of the segment in the store.
        ecg: a recording (WFDB, .mat, .npy, .npz, .csv, .h5); its first segment is shown.
        rate: samples per second, for files that do not say.
        leads: names of the rows, I,II,III,…, or "standard", for files that do not say.
        units: of the samples, for files that do not say.
        dataset: which one to read of an HDF5 file that holds several.
        max_new_tokens: longest answer.
        overwrite: replace pictures made with other settings.
    """
    import hashlib

    from ecglm.analysis.attention import attention_map
    from ecglm.analysis.attention_plot import save_attention
    from ecglm.analysis.results import result_folder
    from ecglm.files import fingerprint, read_manifest
    from ecglm.models.assistant import Assistant
    from ecglm.models.checkpoint import from_pretrained
    from ecglm.records.formats import read

    if (store is None) == (ecg is None):
        raise EcglmError("name the ECG: --store DIR --segment N, or --ecg FILE")
    if (store is None) != (segment is None):
        raise EcglmError("--store and --segment go together: the store, and which of its segments")
    if max_new_tokens < 1:
        raise EcglmError(f"max_new_tokens must be 1 or more, found {max_new_tokens}")
    checkpoint = read_manifest(model, "checkpoint")
    bundle = from_pretrained(model)
    if store is not None and segment is not None:
        signal, hertz = segment_of(store, segment)
        _check_pipeline(bundle, store)
    else:
        assert ecg is not None
        record = read(ecg, rate=rate, leads=leads, units=units, dataset=dataset)
        signal, hertz = Assistant(bundle).segment(record), bundle.pipeline["rate"]

    def make(folder: Path) -> dict[str, Any]:
        found = attention_map(bundle, signal, hertz, question, max_new_tokens=max_new_tokens)
        with counted("attention", len(found.rows), "pictures") as progress:
            facts = save_attention(found, folder, progress)
        return {key: facts[key] for key in ("question", "answer", "rows")}

    inputs = {
        "model": fingerprint(checkpoint["outputs"]),
        "segment": hashlib.sha256(repr(signal.shape).encode() + signal.tobytes()).hexdigest(),
    }
    settings = {"question": question, "max_new_tokens": max_new_tokens, "rate": hertz}
    summary = result_folder(out, "attention", settings, inputs, make, overwrite)
    say(f"answer: {summary['answer']}")
    for row in summary["rows"]:
        if row["picture"] in ("question.png", "answer.png"):
            most = sorted(row["per_lead"].items(), key=lambda item: -item[1])[:3]
            named = f" (most: {', '.join(f'{lead} {share:.1%}' for lead, share in most)})" if most else ""
            say(f"{row['looks']} → ECG {row['ecg']:.1%}{named}, text {row['text']:.1%}")
    say(f"pictures: {out}")


def _check_pipeline(bundle: Bundle, store: Path) -> None:
    from ecglm.store.reader import SegmentStore

    if SegmentStore(store).manifest["settings"]["pipeline"] != bundle.pipeline:
        raise EcglmError(f"{store}: prepared otherwise than the model's data; prepare it alike, or use --ecg FILE")
