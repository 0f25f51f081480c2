"""The ECG's samples as a grey picture for an image encoder: the stacked signal of ECG-Bench (arXiv 2412.14373)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar, Literal

import cv2
import numpy as np
from PIL import Image

from ecglm.errors import EcglmError, nearest
from ecglm.registry import register
from ecglm.representations.base import BuildContext, RecipeOptions, select_leads
from ecglm.representations.normalise import normalise, pair_problem, percentile_range, read_amplitudes
from ecglm.representations.pictures import PictureRepresentation, encoder_fit
from ecglm.types import LEADS

MODES = ("resize", "tile", "crop")
NORMALISE = ("instance", "percentile")


@dataclass(frozen=True, kw_only=True)
class StackedOptions(RecipeOptions):
    """Show the ECG's samples as grey values to an image encoder. mode: ``resize`` squashes each lead to the encoder's
    width, ``tile`` cuts it into rows, ``crop`` is the original's way, which drops nearly all of it. normalise: black
    and white are the segment's own least and greatest value (``instance``), or those of the file ``percentiles``
    (``ecglm store percentiles``). num_tokens: ECG tokens; None takes all the encoder gives.
    """

    mode: Literal["resize", "tile", "crop"] = "resize"
    normalise: Literal["instance", "percentile"] = "instance"
    percentiles: str | None = None
    num_tokens: int | None = None

    def __post_init__(self) -> None:
        if problem := pair_problem(self.normalise, self.percentiles, "stacked.normalise", "stacked.percentiles"):
            raise ValueError(problem)

    def files(self) -> dict[str, str]:
        """The percentiles, where they are named."""
        return {"percentiles": self.percentiles} if self.percentiles else {}


@register("representations", "stacked")
@dataclass(frozen=True, kw_only=True)
class StackedRepresentation(PictureRepresentation):
    """Twelve bands of grey, one lead each, in three equal channels. percentiles: p1 and p99 in mV, for that mode."""

    name: ClassVar[str] = "stacked"
    Options: ClassVar[type[RecipeOptions]] = StackedOptions

    mode: str = "resize"
    normalise: str = "instance"
    percentiles: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, known in (("mode", MODES), ("normalise", NORMALISE)):
            value = getattr(self, field)
            if value not in known:
                raise EcglmError(f"{field}: no '{value}'{nearest(value, known)}; known: {', '.join(known)}")
        if self.normalise == "percentile":
            percentile_range(self._percentiles())

    def _percentiles(self) -> dict[str, float] | None:
        return None if self.percentiles is None else {"p1": self.percentiles[0], "p99": self.percentiles[1]}

    @classmethod
    def from_recipe(cls, options: StackedOptions, context: BuildContext) -> StackedRepresentation:
        """Warns of ``crop``, with what is left of the signal. EcglmError for percentiles of another split."""
        amplitudes, _ = read_amplitudes(options.normalise, options.percentiles)
        made = cls(
            **encoder_fit("stacked", options.num_tokens, context),
            mode=options.mode,
            normalise=options.normalise,
            percentiles=None if amplitudes is None else (amplitudes["p1"], amplitudes["p99"]),
        )
        if options.mode == "crop":
            kept = kept_by_crop(context.seg_len, made.image_size)
            time = f"{1000 * kept / context.rate:.0f} ms of {context.seg_len / context.rate:.1f} s"
            warnings.warn(
                f"stacked.mode 'crop' shows the model about {kept} of {context.seg_len} samples ({time}); resize and "
                "tile show all of them",
                stacklevel=2,
            )
        return made

    def picture(self, segment: np.ndarray, rate: int) -> np.ndarray:
        """uint8 ``(height, width, 3)``; EcglmError for another shape, NaN or infinity."""
        z = normalise(select_leads(segment, LEADS), self.normalise, self._percentiles())
        return np.repeat(stack(z, self.image_size, self.mode)[..., None], 3, axis=2)

    def points(self, segment: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """In every row of pixels of the sample's band."""
        num_samples = np.shape(segment)[-1]
        x, row, num_rows = _places(num_samples, self.image_size, self.mode)
        height, width = self.image_size
        if self.mode == "crop":
            scale = num_rows / len(LEADS)
            rows = np.floor((np.arange(height) + (num_rows - height) // 2 + 0.5) / scale)
        else:
            rows = np.arange(height) * num_rows // height
        per_lead = 1 if self.mode == "crop" else num_rows // len(LEADS)
        # every pixel row shows one row of samples: one piece of one lead
        lead, piece = rows // per_lead, rows % per_lead
        at = (row[None] == piece[:, None]) & (x >= -0.5)[None] & (x < width - 0.5)[None]
        y, sample = np.nonzero(at)
        return lead[y].astype(int), sample, x[sample], y.astype(np.float64)


def _places(num_samples: int, size: tuple[int, int], mode: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Pixel x and row within its lead of each sample, as ``stack`` lays them, and the rows of all leads together."""
    height, width = size
    number = np.arange(num_samples)
    if mode == "crop":
        scale = max(height / len(LEADS), width / num_samples)
        left = (round(num_samples * scale) - width) // 2
        return (number + 0.5) * scale - 0.5 - left, np.zeros(num_samples, int), round(len(LEADS) * scale)
    if mode == "resize":
        return (number + 0.5) * width / num_samples - 0.5, np.zeros(num_samples, int), len(LEADS)
    length = min(num_samples, width * (height // len(LEADS)))
    at = (number + 0.5) * length / num_samples - 0.5
    row = np.floor((at + 0.5) / width).astype(int)
    return at - row * width, row, len(LEADS) * -(-length // width)


def stack(z: np.ndarray, size: tuple[int, int], mode: str = "resize") -> np.ndarray:
    """Leads ``(num_leads, num_samples)`` in [0, 1] as grey values uint8 ``size`` = (height, width), lead by lead.

    resize: each lead becomes ``width`` values, the mean over the samples that fall on a pixel (bicubic where there are
    fewer samples than pixels), and a band of ``height / num_leads`` pixels. tile: each lead is cut into
    ``ceil(num_samples / width)`` rows of ``width`` samples, one sample a pixel, the last row filled up with black; rows
    follow one another lead by lead and are repeated to the encoder's height. A lead of more than
    ``width * (height // num_leads)`` samples is first resized to that many. crop: see ``_crop``.
    """
    num_leads, height, width = len(z), *size
    if mode == "crop":
        return _crop((z * 255).astype(np.uint8), size)
    if mode == "resize":
        rows = _to_length(z, width)
    else:
        most = width * (height // num_leads)
        pieces = z if z.shape[1] <= most else _to_length(z, most)
        per_lead = -(-pieces.shape[1] // width)
        rows = np.zeros((num_leads, per_lead * width), np.float32)
        rows[:, : pieces.shape[1]] = pieces
        rows = rows.reshape(num_leads * per_lead, width)
    grey = np.rint(255 * rows).astype(np.uint8)
    return grey[np.arange(height) * len(rows) // height]


def kept_by_crop(num_samples: int, size: tuple[int, int]) -> int:
    """How many samples of a lead, more or less, are left in the middle when the leads fill the height."""
    scale = max(size[0] / len(LEADS), size[1] / num_samples)
    return min(num_samples, round(size[1] / scale))


def _to_length(z: np.ndarray, length: int) -> np.ndarray:
    """``(num_leads, length)``: area means, or bicubic where the leads become longer."""
    if z.shape[1] == length:
        return z
    method = cv2.INTER_AREA if z.shape[1] > length else cv2.INTER_CUBIC
    out = [cv2.resize(lead[None], (length, 1), interpolation=method)[0] for lead in np.asarray(z, np.float32)]
    return np.clip(np.stack(out), 0.0, 1.0)


def _crop(grey: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The shorter side scaled to the encoder's, bicubic, and the middle cut out: what a processor made for photographs
    does with 12 rows of samples. Of 1250 samples it leaves 12.
    """
    height, width = size
    scale = max(height / grey.shape[0], width / grey.shape[1])
    new = (round(grey.shape[1] * scale), round(grey.shape[0] * scale))
    large = np.asarray(Image.fromarray(grey).resize(new, Image.Resampling.BICUBIC))
    top, left = (large.shape[0] - height) // 2, (large.shape[1] - width) // 2
    return large[top : top + height, left : left + width]
