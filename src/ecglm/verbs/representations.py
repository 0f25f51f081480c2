"""Verbs: segments → what a model reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from ecglm.errors import EcglmError
from ecglm.verbs.common import say, segment_of


def render_(
    store: Annotated[Positional[Path | None], tyro.conf.arg(metavar="STORE")] = None,
    segments: Annotated[Positional[tuple[int, ...]], tyro.conf.arg(metavar="SEGMENT")] = (),
    *,
    out: Path,
    layout: Literal["3x4+1", "3x4+3", "3x4", "6x2", "2x6", "12x1", "all"] = "3x4+1",
    size: str | None = None,
    dpi: float | None = None,
    header: str = "",
    color: Literal["pink", "blue", "green", "mono"] = "pink",
    grid: bool = True,
    speed: float = 25.0,
    gain: float = 10.0,
    pulse: Literal["left", "right", "none"] = "left",
    rhythm: str | None = None,
    simultaneous: bool = False,
    line_width: float = 0.35,
    synthesis: str | None = None,
    seed: int = 0,
    ecg: Path | None = None,
    rate: float | None = None,
    leads: str | None = None,
    units: Literal["mV", "uV", "V"] | None = None,
) -> None:
    """Draw segments as ECG paper.

    Args:
        store: a segment store; or give --ecg.
        segments: position of the segment in the store; several make a contact sheet.
        out: the .png or .jpg file to make.
        layout: rows x columns of leads + rhythm strips; all: a contact sheet of every layout, in few colours.
        size: pixels, as 1100x850; without it 1100x850, or with --dpi what the layout needs.
        dpi: pixels per inch of paper, so that the picture has a true size.
        header: text above the traces; auto: the record's own facts and report.
        color: of the paper.
        grid: 1 mm and 5 mm lines.
        speed: mm/s: 12.5, 25 or 50.
        gain: mm/mV: 2.5, 5, 10 or 20.
        pulse: where the calibration pulse stands.
        rhythm: leads of the rhythm strips, as II or II,V1,V5.
        simultaneous: every column begins at the segment's start.
        line_width: of the trace, in mm.
        synthesis: a scan or photograph instead: clean, pulse, hard or a .yaml recipe; it draws layout and paper.
        seed: of the synthesis.
        ecg: a recording (WFDB, .mat, .npy, .npz, .csv, .h5) instead of a store, as it is.
        rate: samples per second, for a recording that does not say.
        leads: names of the rows, or "standard", for a recording that does not say.
        units: of the samples, for a recording that does not say.
    """
    from ecglm.representations.paper import paper_geometry
    from ecglm.representations.render import render, save_picture
    from ecglm.representations.sheets import contact_sheet, layout_sheet

    if (ecg is None) == (store is None) or (store is not None and not segments):
        raise EcglmError("render: give a store and the position of a segment, or --ecg FILE")
    if ecg is None and (rate is not None or leads is not None or units is not None):
        raise EcglmError("--rate, --leads and --units are for --ecg FILE; a store says them itself")
    options: dict[str, Any] = {"size": _pixels(size), "dpi": dpi, "color": color, "grid": grid}
    options |= {"speed": speed, "gain": gain, "pulse": pulse, "simultaneous": simultaneous, "line_width": line_width}
    options["rhythm"] = tuple(rhythm.split(",")) if rhythm else ()
    if layout != "all":
        options["layout"] = layout
    recipe = None if synthesis is None else _synthesis_recipe(synthesis, layout, options)
    sources = _recording(ecg, rate, leads, units) if ecg is not None else _stored(store, segments)
    pictures, names, true_dpi = [], [], None
    for signal, hertz, name, own_header in sources:
        shown = {**options, "header": own_header if header == "auto" else header}
        if recipe is not None:
            pictures.append(_synthesised(signal, hertz, name, recipe, seed, shown))
        elif layout == "all":
            pictures.append(layout_sheet(signal, hertz, **{k: v for k, v in shown.items() if k != "size" or v}))
        else:
            pictures.append(render(signal, hertz, **shown))
            said = ("layout", "size", "dpi", "speed", "gain", "pulse", "rhythm", "simultaneous", "header")
            true_dpi = paper_geometry(signal.shape[1], hertz, **{k: shown[k] for k in said}).dpi
        names.append(name)
    if len(pictures) > 1:
        save_picture(out, contact_sheet(pictures, names))
    else:
        save_picture(out, pictures[0], true_dpi, 64 if layout == "all" else None)
    say(f"picture: {out}")


def _synthesis_recipe(synthesis: str, layout: str, options: dict[str, Any]) -> Any:
    """The recipe by name or of a file; EcglmError beside options of the paper, which a synthesis draws itself."""
    from ecglm.representations.synthesis_recipes import read_recipe

    plain = {"dpi": None, "color": "pink", "grid": True, "speed": 25.0, "gain": 10.0, "pulse": "left", "rhythm": ()}
    plain |= {"simultaneous": False, "line_width": 0.35}
    given = ["layout"] if layout != "3x4+1" else []
    given += [name.replace("_", "-") for name, value in plain.items() if options[name] != value]
    if given:
        raise EcglmError(f"--synthesis draws the paper at random; leave out --{' --'.join(given)}")
    return read_recipe(synthesis)


def _pixels(size: str | None) -> tuple[int, int] | None:
    """``1100x850`` as numbers."""
    if size is None:
        return None
    width, _, height = size.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise EcglmError(f"--size {size}: width x height in pixels is needed, as 1100x850")
    return int(width), int(height)


def _stored(store: Any, segments: tuple[int, ...]) -> list[tuple[Any, float, str, str]]:
    """Signal, rate, name and header text of segments of a store."""
    from ecglm.representations.sheets import header_text
    from ecglm.store.reader import SegmentStore

    found: list[tuple[Any, float, str, str]] = []
    opened = SegmentStore(store)
    for position in segments:
        signal, hertz = segment_of(store, position)
        row = opened.row(position)
        patient = row["patient_id"] if row["patient_known"] else ""
        report = row["report_en"] or row["report"]
        text = header_text(row["record_id"], row["metadata"], report, patient_id=patient, start_s=row["start_s"])
        found.append((signal, hertz, row["segment_id"], text))
    return found


def _recording(file: Path, rate: float | None, leads: str | None, units: Any) -> list[tuple[Any, float, str, str]]:
    """Signal, rate, name and header text of one recording; leads it lacks are missing samples."""
    import numpy as np

    from ecglm.records.formats import read
    from ecglm.representations.sheets import header_text
    from ecglm.types import LEADS

    record = read(file, rate=rate, leads=leads, units=units)
    rows = {name.strip().upper(): row for name, row in zip(record.leads, record.signal, strict=True)}
    if not any(lead.upper() in rows for lead in LEADS):
        raise EcglmError(f"{file}: none of its leads ({', '.join(record.leads)}) is one of {', '.join(LEADS)}")
    empty = np.full(record.signal.shape[1], np.nan, np.float32)
    signal = np.stack([rows.get(lead.upper(), empty) for lead in LEADS])
    text = header_text(record.record_id, record.metadata, record.report_en or record.report)
    return [(signal, record.sampling_rate, record.record_id, text)]


def _synthesised(signal: Any, rate: float, name: str, recipe: Any, seed: int, shown: dict[str, Any]) -> Any:
    """A scan or photograph; the recipe decides about layout and paper."""
    from ecglm.representations.paper import DEFAULT_SIZE
    from ecglm.representations.synthesis import synthesise

    size = shown["size"] or DEFAULT_SIZE
    return synthesise(signal, rate, recipe=recipe, seed=seed, row_id=name, size=size, header=shown["header"])
