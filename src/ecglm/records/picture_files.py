"""Picture files of ECGs (scans, photographs, benchmark images) → RGB arrays, read as data and within bounds."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import NoReturn

import numpy as np
from PIL import Image

from ecglm.errors import RejectedRecord

#: What is read, as Pillow calls it; no other decoder is ever tried.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff")
#: A page of A3 at 400 dpi has 31 million.
MAX_PIXELS = 64_000_000
_STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
#: What Pillow's decoders raise of a damaged file.
_DAMAGED = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    RuntimeError,
    ZeroDivisionError,
    AssertionError,
    struct.error,
    zlib.error,
)


def is_picture(path: str | Path) -> bool:
    """Whether a file is a picture, by its name or by its first bytes."""
    path = Path(path)
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        with path.open("rb") as handle:
            start = handle.read(12)
    except OSError:
        return False
    return start.startswith(_STARTS) or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")


def read_picture(source: str | Path | bytes, *, max_pixels: int = MAX_PIXELS, name: str = "") -> np.ndarray:
    """A picture as uint8 ``(height, width, 3)`` RGB; source: a file, or the bytes of one, then called ``name``.

    Pixels are what Pillow's conversion to RGB gives, as in LLaVA: transparency is dropped, an EXIF orientation is not
    applied, of several frames the first counts. The size is read from the header, so nothing large is unpacked. Raises
    RejectedRecord ``image_missing``, ``image_corrupt`` (damaged, cut short, or none of png, jpeg, webp, bmp, gif, tiff)
    or ``image_too_large`` (more than ``max_pixels``).
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return _decode(io.BytesIO(source), name or "the picture", max_pixels)
    path = Path(source)
    told = name or str(source)
    try:
        if not path.is_file():
            raise RejectedRecord("image_missing", f"{told}: no such file; check the path")
        with path.open("rb") as handle:
            return _decode(handle, told, max_pixels)
    except (OSError, ValueError) as error:  # no permission; a name with a zero byte
        reason = getattr(error, "strerror", None) or str(error)
        raise RejectedRecord("image_missing", f"{told}: cannot be read ({reason})") from error


def _decode(handle: io.IOBase, name: str, max_pixels: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large pictures, which are measured here, and of odd metadata
        try:
            with Image.open(handle, formats=FORMATS) as picture:  # type: ignore[arg-type]
                width, height = picture.size
                if width * height > max_pixels:
                    _too_large(name, f"{width} x {height} pixels", max_pixels)
                return np.array(picture.convert("RGB"))
        except Image.DecompressionBombError:
            _too_large(name, "far too many pixels", max_pixels)
        except Image.UnidentifiedImageError as error:
            raise RejectedRecord("image_corrupt", f"{name}: no picture ({', '.join(FORMATS).lower()})") from error
        except _DAMAGED as error:
            said = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise RejectedRecord("image_corrupt", f"{name}: damaged or cut short ({said}); fetch it again") from error


def _too_large(name: str, size: str, max_pixels: int) -> NoReturn:
    raise RejectedRecord("image_too_large", f"{name}: {size}, at most {max_pixels:,} are read; make it smaller")
