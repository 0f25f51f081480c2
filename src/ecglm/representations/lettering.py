"""Text on pictures: one font, sizes in pixels of a capital's height, lines wrapped to a width."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

#: Height of a capital of DejaVu Sans, in units of the font's size.
_CAPITAL = 0.729
_CUT = " …"


@lru_cache(maxsize=64)
def _font(capital: float) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and has the letters of all European languages."""
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    # the plain engine draws the same with and without libraqm
    return ImageFont.truetype(str(path), capital / _CAPITAL, layout_engine=ImageFont.Layout.BASIC)


class _Advances(dict[str, float]):
    """Letter → how far it moves the pen, at one size; asked of the font once."""

    def __init__(self, capital: float) -> None:
        super().__init__()
        self._capital = capital

    def __missing__(self, letter: str) -> float:
        self[letter] = _font(self._capital).getlength(letter)
        return self[letter]


_advances = lru_cache(maxsize=64)(_Advances)


def text_width(text: str, capital: float) -> float:
    """Width in pixels of one line whose capitals are ``capital`` pixels high, letters set without kerning."""
    advances = _advances(round(float(capital), 2))
    return sum([advances[letter] for letter in text])


def clean_lines(text: str) -> list[str]:
    """The lines of a text without control characters; empty lines at its end are left out."""
    lines = ["".join(c if c.isprintable() else " " for c in line).rstrip() for line in text.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def wrap(text: str, capital: float, width: float, most: int | None = None) -> list[str]:
    """The lines of ``text``, none wider than ``width``: broken between words, inside a word only if it is too long.

    most: stop as soon as there are more lines than that.
    """
    found: list[str] = []
    space = text_width(" ", capital)
    for line in clean_lines(text):
        current, used = "", 0.0
        for word in line.split(" "):
            wide = text_width(word, capital)
            if current and used + space + wide > width:
                found.append(current)
                current, used = "", 0.0
            while wide > width and len(word) > 1 and (most is None or len(found) <= most):
                fits, taken = 1, text_width(word[0], capital)
                while fits < len(word) and taken + text_width(word[fits], capital) <= width:
                    taken += text_width(word[fits], capital)
                    fits += 1
                found.append(word[:fits])
                word, wide = word[fits:], wide - taken
            current, used = (f"{current} {word}", used + space + wide) if current else (word, wide)
            if most is not None and len(found) > most:
                return found
        found.append(current)
    return found


def cut(lines: list[str], count: int, capital: float, width: float) -> list[str]:
    """The first ``count`` lines, the last of them ending in … where more followed."""
    if len(lines) <= count:
        return lines
    last = lines[count - 1]
    while last and text_width(last + _CUT, capital) > width:
        last = last[:-1]
    return [*lines[: count - 1], last.rstrip() + _CUT]


def write(
    image: np.ndarray, text: str, at: tuple[float, float], capital: float, ink: tuple[int, int, int], anchor: str = "l"
) -> None:
    """Write one line onto ``image`` (height, width, 3) uint8, in place; what lies outside is left out.

    at: pixel (x, y) of the base line's beginning, or of its middle with ``anchor="m"``. capital: height of a capital
    in pixels.
    """
    font = _font(round(float(capital), 2))
    left, top, right, bottom = font.getbbox(text, anchor=f"{anchor}s")
    x, y = round(at[0]) + int(np.floor(left)), round(at[1]) + int(np.floor(top))
    wide, high = int(np.ceil(right - left)) + 2, int(np.ceil(bottom - top)) + 2
    if wide > 32 * image.shape[1] or not text.strip():  # nothing to see, or far too long to be meant
        return
    mask = Image.new("L", (wide, high))
    ImageDraw.Draw(mask).text((round(at[0]) - x, round(at[1]) - y), text, 255, font=font, anchor=f"{anchor}s")
    x0, y0 = max(0, x), max(0, y)
    x1, y1 = min(image.shape[1], x + wide), min(image.shape[0], y + high)
    if x0 >= x1 or y0 >= y1:
        return
    share = np.asarray(mask, np.int32)[y0 - y : y1 - y, x0 - x : x1 - x, None]
    below = image[y0:y1, x0:x1].astype(np.int32)
    image[y0:y1, x0:x1] = (below * (255 - share) + np.asarray(ink, np.int32) * share + 127) // 255
