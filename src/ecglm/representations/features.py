"""The ECG as a line of measurements in the prompt, as a machine prints above it: no encoder and no token."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from ecglm.config import from_dict
from ecglm.errors import EcglmError, nearest
from ecglm.registry import register
from ecglm.representations.base import RecipeOptions, Representation
from ecglm.signals.measured import Measurements, measure
from ecglm.types import LEADS, EcgInput

#: Least ST elevation and depression that the line names, mV, 60 ms behind the end of the QRS complex.
ST_ELEVATION, ST_ELEVATION_V2_V3, ST_DEPRESSION = 0.10, 0.20, 0.05
UNMEASURED = "not measurable"
#: Lines that a representation remembers; a few dozen MB.
MOST_LINES = 100_000


@dataclass(frozen=True, kw_only=True)
class FeaturesOptions(RecipeOptions):
    """Show the ECG as a line of measurements instead of a signal; no encoder. items: what the line tells, in this
    order. qtc: by whose formula. unmeasured: what becomes of an item that cannot be measured: it is said, or left out.
    decimals: of millivolts.
    """

    items: tuple[str, ...] = ("rate", "rhythm", "pr", "qrs", "qt", "axis", "st")
    qtc: Literal["bazett", "fridericia"] = "bazett"
    unmeasured: Literal["say", "omit"] = "say"
    decimals: int = 2


def _rate(m: Measurements, options: FeaturesOptions) -> tuple[str, str | None]:
    return "Heart rate", _number(m.heart_rate, " bpm")


def _rhythm(m: Measurements, options: FeaturesOptions) -> tuple[str, str | None]:
    if m.regularity is None:
        return "Rhythm", None
    early = [
        f"{m.beats.count(code)} {what}" for code, what in (("A", "atrial"), ("V", "ventricular")) if code in m.beats
    ]
    extra = f", premature or ectopic beats: {' and '.join(early)}" if early else ""
    return "Rhythm", f"{m.regularity}{extra}"


def _rr(m: Measurements, options: FeaturesOptions) -> tuple[str, str | None]:
    numbers = [_number(v) for v in (m.rr_mean_ms, m.rr_sd_ms, m.rmssd_ms, m.rr_min_ms, m.rr_max_ms)]
    if m.rr_mean_ms is None:
        return "RR", None
    mean, sd, rmssd, low, high = (n or UNMEASURED for n in numbers)
    return "RR", f"{mean} ms (SD {sd}, RMSSD {rmssd}, {low} to {high})"


def _p(m: Measurements, options: FeaturesOptions) -> tuple[str, str | None]:
    return "P", _number(m.p_ms, " ms")


def _pr(m: Measurements, options: FeaturesOptions) -> tuple[str, str | None]:
    return "PR", _number(m.pr_ms, " ms")


def _qrs(m: Measurements, options: FeaturesOptions) -> tuple[str, str | None]:
    return "QRS", _number(m.qrs_ms, " ms")


def _qt(m: Measurements, options: FeaturesOptions) -> tuple[str, str | None]:
    qtc = m.qtc_bazett_ms if options.qtc == "bazett" else m.qtc_fridericia_ms
    if m.qt_ms is None or qtc is None:
        return "QT/QTc", None
    return "QT/QTc", f"{_number(m.qt_ms)}/{_number(qtc)} ms"


def _axis(m: Measurements, options: FeaturesOptions) -> tuple[str, str | None]:
    return "Axis", _number(m.axis_deg, "°")


def _st(m: Measurements, options: FeaturesOptions) -> tuple[str, str | None]:
    known = {lead: v for lead, v in m.st_mv.items() if v is not None}
    if not known:
        return "ST", None
    up = {k: v for k, v in known.items() if v >= (ST_ELEVATION_V2_V3 if k in ("V2", "V3") else ST_ELEVATION)}
    down = {k: v for k, v in known.items() if v <= -ST_DEPRESSION}
    return "ST", f"elevation {_leads(up, options)}, depression {_leads(down, options)}"


def _voltage(m: Measurements, options: FeaturesOptions) -> tuple[str, str | None]:
    if m.sokolow_mv is None or m.cornell_mv is None:
        return "Sokolow-Lyon and Cornell voltage", None
    both = [f"{v:.{options.decimals}f} mV" for v in (m.sokolow_mv, m.cornell_mv)]
    return "Sokolow-Lyon and Cornell voltage", " and ".join(both)


def _t(m: Measurements, options: FeaturesOptions) -> tuple[str, str | None]:
    known = {lead: v for lead, v in m.t_mv.items() if v is not None and lead not in ("aVR", "III", "aVL", "V1")}
    return "T inversion", _leads({k: v for k, v in known.items() if v <= -0.1}, options) if known else None


def _shapes(m: Measurements, options: FeaturesOptions) -> tuple[str, str | None]:
    told = [f"{lead} {m.shapes[lead]}" for lead in LEADS if m.shapes.get(lead)]
    return "QRS shapes", ", ".join(told) or None


#: Item → its name and its value in words, None where it cannot be measured.
ITEMS: dict[str, Callable[[Measurements, FeaturesOptions], tuple[str, str | None]]] = {
    "rate": _rate,
    "rhythm": _rhythm,
    "rr": _rr,
    "p": _p,
    "pr": _pr,
    "qrs": _qrs,
    "qt": _qt,
    "axis": _axis,
    "st": _st,
    "t": _t,
    "voltage": _voltage,
    "shapes": _shapes,
}


def describe(measurements: Measurements, options: FeaturesOptions | None = None) -> str:
    """The measurements as one line, e.g. ``"Heart rate 72 bpm. Rhythm regular. PR 160 ms. QRS 92 ms. …"``."""
    options = options or FeaturesOptions()
    told = []
    for item in options.items:
        name, value = ITEMS[item](measurements, options)
        if value is not None or options.unmeasured == "say":
            told.append(f"{name} {value if value is not None else UNMEASURED}.")
    return " ".join(told) or "Nothing measurable."


@register("representations", "features")
class FeaturesRepresentation(Representation):
    """One line of measurements (``signals.measured``) per ECG; the options are those of ``FeaturesOptions``.

    The language model gets no token of its own and no encoder: what it knows of the ECG is what the line says. An ECG
    that cannot be measured, a blank one for instance, gives a line that says so.
    """

    name: ClassVar[str] = "features"
    gives: ClassVar[str | None] = None
    Options: ClassVar[type[RecipeOptions]] = FeaturesOptions
    added_tokens = ()
    placeholder = None
    num_tokens = 0

    def __init__(
        self,
        *,
        items: Sequence[str] = FeaturesOptions.items,
        qtc: Literal["bazett", "fridericia"] = "bazett",
        unmeasured: Literal["say", "omit"] = "say",
        decimals: int = 2,
    ) -> None:
        for item in items:
            if item not in ITEMS:
                raise EcglmError(f"items: no item '{item}'{nearest(item, ITEMS)}; known: {', '.join(ITEMS)}")
        if not items or len(set(items)) != len(items):
            raise EcglmError("items: at least one is needed, and none twice")
        if not 0 <= decimals <= 4:
            raise EcglmError(f"decimals: must be 0 to 4, not {decimals}")
        self.options = FeaturesOptions(items=tuple(items), qtc=qtc, unmeasured=unmeasured, decimals=decimals)
        self._lines: dict[Any, str] = {}

    @property
    def input_shape(self) -> None:
        """No tensor."""
        return None

    def __call__(self, segment: np.ndarray, rate: int) -> EcgInput:
        """segment: ``(12, num_samples)`` in mV at ``rate`` Hz, canonical leads. EcglmError for another shape or NaN."""
        values = np.ascontiguousarray(segment)
        shown = (hashlib.blake2b(values.tobytes(), digest_size=16).digest(), values.shape, values.dtype.str, rate)
        if shown not in self._lines:  # training shows the same ECG with every question and in every epoch
            if len(self._lines) >= MOST_LINES:
                self._lines.clear()
            self._lines[shown] = describe(measure(values, rate), self.options)
        return EcgInput(np.zeros(0, np.int64), None, text=self._lines[shown])

    def config(self) -> dict[str, Any]:
        """Every option, and the name."""
        return {"name": self.name, **asdict(self.options), "items": list(self.options.items)}

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], folder: str | os.PathLike[str] | None = None
    ) -> FeaturesRepresentation:
        """Rebuild from ``config()``; ConfigError for an unknown key or a wrong type."""
        options = {key: value for key, value in config.items() if key != "name"}
        return cls(**asdict(from_dict(FeaturesOptions, options, "representation 'features'")))


def _number(value: float | None, unit: str = "") -> str | None:
    return None if value is None else f"{value:.0f}".replace("-0", "0", 1 if round(value) == 0 else 0) + unit


def _leads(values: Mapping[str, float], options: FeaturesOptions) -> str:
    return ", ".join(f"{lead} {value:+.{options.decimals}f} mV" for lead, value in values.items()) or "none"
