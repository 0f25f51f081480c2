"""The pen that draws ECG paper: strokes of any width at exact sub-pixel places, and the ruled grid."""

from __future__ import annotations

import math

import numpy as np

from ecglm.signals.compiled import compiled


@compiled
def stroke(cover: np.ndarray, x: np.ndarray, y: np.ndarray, width: float, top: int, bottom: int) -> None:
    """Draw the polyline ``x, y`` (pixels, x rising; NaN lifts the pen) into ``cover``, uint8 ``(height, width)``.

    A pixel's cover, 0 to 255, is what a round pen of ``width`` pixels leaves of it: 255 up to half a pixel inside the
    edge, 0 half a pixel outside. Where strokes meet the larger counts, so nothing grows darker by being drawn twice.
    Only the pixel rows ``top`` to ``bottom`` (exclusive) are drawn on. A pixel's centre has whole coordinates.
    """
    columns = cover.shape[1]
    reach = 0.5 * width + 0.5
    core, edge = max(0.0, reach - 1.0) ** 2, reach * reach
    far = 4.0 * (columns + cover.shape[0])  # beyond it nothing is seen
    last = len(x) - 1
    down = False  # whether a stroke has come to point i, whose round end lies there already
    for i in range(len(x)):
        if math.isnan(x[i]) or math.isnan(y[i]):
            down = False
            continue
        j = i + 1 if i < last else i
        if math.isnan(x[j]) or math.isnan(y[j]):
            j = i
        if i == j and down:
            continue
        x0, x1 = min(max(x[i], -far), far), min(max(x[j], -far), far)
        y0, y1 = min(max(y[i], -far), far), min(max(y[j], -far), far)
        dx, dy = x1 - x0, y1 - y0
        square = dx * dx + dy * dy
        inverse = 1.0 / square if square > 0.0 else 0.0
        upright = 1.0 / dy if abs(dy) > 1e-9 else 0.0
        lean = dy / dx if dx > 1e-9 else 0.0
        first = max(top, math.ceil(min(y0, y1) - reach))
        for row in range(first, min(bottom - 1, math.floor(max(y0, y1) + reach)) + 1):
            py = row - y0
            rise = py * dy
            line = cover[row]
            start, stop = 0.0, 1.0  # the part of the stroke within reach of this row of pixels
            if upright != 0.0:
                a, b = (py - reach) * upright, (py + reach) * upright
                start, stop = max(0.0, min(a, b)), min(1.0, max(a, b))
            left, right = x0 + start * dx - reach, x0 + stop * dx + reach
            if down and dx > 1e-9:  # nothing before the line through point i
                left = max(left, x0 - py * lean)
            for column in range(max(0, math.ceil(left)), min(columns - 1, math.floor(right)) + 1):
                px = column - x0
                along = min(max((px * dx + rise) * inverse, 0.0), 1.0)
                ex, ey = px - along * dx, py - along * dy
                distance = ex * ex + ey * ey
                if distance < edge:
                    value = 255
                    if distance > core:
                        value = int((reach - math.sqrt(distance)) * 255.0 + 0.5)
                    if value > line[column]:
                        line[column] = value
        down = i != j


@compiled
def blend(image: np.ndarray, words: np.ndarray, cover: np.ndarray, ink: np.ndarray) -> None:
    """Lay ``ink`` (3,) over the pixels of ``image`` (pixels, 3) as far as ``cover`` (pixels,) says, in place.

    words: the same memory as ``cover``, eight pixels to one uint64: most of them are empty and passed over at once.
    """
    for word in range(len(words)):
        if words[word] != 0:
            for pixel in range(8 * word, min(8 * word + 8, len(image))):
                share = np.int32(cover[pixel])
                if share != 0:
                    for channel in range(3):
                        below = np.int32(image[pixel, channel])
                        image[pixel, channel] = (below * (255 - share) + np.int32(ink[channel]) * share + 127) // 255


@compiled
def rule(
    image: np.ndarray,
    colours: np.ndarray,
    minor_x: np.ndarray,
    minor_y: np.ndarray,
    major_x: np.ndarray,
    major_y: np.ndarray,
) -> None:
    """Rule ``image`` (height, width, 3) in place: thin lines, then thick ones, each ``…_x`` and ``…_y`` saying how far
    the lines cover each column and row (0 to 1). colours: float64 (3, 3): paper, thin lines, thick lines."""
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            minor = max(minor_x[column], minor_y[row])
            major = max(major_x[column], major_y[row])
            for channel in range(3):
                value = colours[0, channel] + (colours[1, channel] - colours[0, channel]) * minor
                value += (colours[2, channel] - value) * major
                image[row, column, channel] = int(value + 0.5)


def line_cover(length: int, phase: float, step: float, width: float) -> np.ndarray:
    """How far lines of ``width`` pixels at ``phase + k · step`` cover each of ``length`` pixels: float64, 0 to 1."""
    edges = np.arange(length + 1) - 0.5 - (phase - width / 2)
    whole = np.floor(edges / step)
    below = whole * width + np.minimum(edges - whole * step, width)  # covered length up to each pixel's edge
    return np.clip(np.diff(below), 0.0, 1.0)


def blank_cover(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An empty cover, uint8 ``(height, width)``, and the memory it lies in, which is whole in words of eight bytes."""
    memory = np.zeros(-(-height * width // 8) * 8, np.uint8)
    return memory[: height * width].reshape(height, width), memory


def ink_over(image: np.ndarray, memory: np.ndarray, ink: tuple[int, int, int]) -> None:
    """Lay ``ink`` over ``image`` (height, width, 3), in place, where the cover in ``memory`` says."""
    blend(image.reshape(-1, 3), memory.view(np.uint64), memory, np.asarray(ink, np.uint8))
