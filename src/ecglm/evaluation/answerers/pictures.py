"""The picture of a request as an array: the file's, or what a control shows in its place."""

from __future__ import annotations

import numpy as np

from ecglm.errors import EcglmError
from ecglm.evaluation.answerers.base import PictureRef
from ecglm.evaluation.controls import REAL
from ecglm.randomness import generator_for
from ecglm.records.picture_files import read_picture

#: Empty paper is drawn as if the picture's longer side were so many mm.
_PAPER_MM = 280
_PAPER, _FINE, _BOLD = (255, 247, 245), (250, 218, 214), (238, 170, 165)
#: What a picture can be shown as.
PICTURE_CONTROLS = (REAL, "blank", "noise")


def shown_picture(ref: PictureRef) -> np.ndarray:
    """uint8 ``(height, width, 3)``. Raises RejectedRecord (``image_missing`` …) for a file that cannot be read."""
    picture = read_picture(ref.path)
    if ref.control == REAL:
        return picture
    if ref.control == "blank":
        return blank_paper(*picture.shape[:2])
    if ref.control == "noise":
        return noise_picture(picture, generator_for(ref.seed, "noise", ref.row))
    raise EcglmError(f"control '{ref.control}' is not for pictures; known: {', '.join(PICTURE_CONTROLS)}, swap, no-ecg")


def blank_paper(height: int, width: int) -> np.ndarray:
    """ECG paper with nothing on it, uint8 ``(height, width, 3)``: a line every mm, a bold one every 5 mm."""
    page = np.full((height, width, 3), _PAPER, np.uint8)
    scale = max(height, width) / _PAPER_MM
    for every, color in ((1, _FINE), (5, _BOLD)):
        if scale * every < 2:
            continue  # lines that would touch make a grey sheet
        for axis, length in ((0, height), (1, width)):
            at = np.arange(0, length, scale * every).astype(int)
            at = at[at < length]
            page[(slice(None),) * axis + (at,)] = color
    return page


def noise_picture(picture: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Gaussian pixels with the mean and the standard deviation of each colour of ``picture``, cut off at 0 and 255."""
    mean, spread = (getattr(picture, f)(axis=(0, 1), dtype=np.float64) for f in ("mean", "std"))
    drawn = generator.standard_normal(picture.shape, dtype=np.float32) * spread + mean
    return np.clip(np.rint(drawn), 0, 255).astype(np.uint8)
