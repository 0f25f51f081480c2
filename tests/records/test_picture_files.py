"""Picture files: what Pillow gives of a sound one, one line for every other, nothing unpacked that is too large."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from ecglm.errors import RejectedRecord
from ecglm.records.picture_files import SUFFIXES, is_picture, read_picture


def page(width: int = 31, height: int = 17) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def saved(image: Image.Image, form: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_files_come_back(form: str, tmp_path: Path) -> None:
    data = saved(Image.fromarray(page()), form, **({"lossless": True} if form == "WEBP" else {}))
    file = tmp_path / "no suffix"
    file.write_bytes(data)
    for source in (file, str(file), data):
        found = read_picture(source)
        assert found.dtype == np.uint8 and np.array_equal(found, page())


@pytest.mark.parametrize(
    ("mode", "form"),
    [*((m, f) for m in ("L", "P", "RGBA", "LA", "1", "I;16") for f in ("PNG", "TIFF")), ("CMYK", "TIFF")],
)
def test_every_mode_becomes_rgb_as_the_original_has_it(mode: str, form: str) -> None:
    image = Image.fromarray(page().astype(np.uint16)[..., 0] * 257) if mode == "I;16" else None
    image = image or Image.fromarray(page()).convert(mode)
    data = saved(image, form)
    assert np.array_equal(read_picture(data), np.array(Image.open(io.BytesIO(data)).convert("RGB")))


def test_jpeg_and_the_first_of_several_frames() -> None:
    data = saved(Image.fromarray(page()), "JPEG")
    assert np.array_equal(read_picture(data), np.array(Image.open(io.BytesIO(data)).convert("RGB")))
    frames = [Image.new("RGB", (5, 4), color) for color in ("red", "blue")]
    moving = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (read_picture(moving) == [255, 0, 0]).all()


def test_an_exif_orientation_is_not_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    data = saved(Image.fromarray(page()), "JPEG", exif=exif)
    assert ImageOps.exif_transpose(Image.open(io.BytesIO(data))).size == (17, 31)
    assert read_picture(data).shape == (17, 31, 3)


def reason(source, **options) -> tuple[str, str]:
    with pytest.raises(RejectedRecord) as caught:
        read_picture(source, **options)
    assert "\n" not in str(caught.value)
    return caught.value.reason, caught.value.detail


def test_missing_files(tmp_path: Path) -> None:
    assert reason(tmp_path / "no.png")[0] == reason(tmp_path)[0] == reason("a\0b.png")[0] == "image_missing"
    assert "no.png" in reason(tmp_path / "no.png")[1]


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_files_cut_short_or_damaged(form: str, tmp_path: Path) -> None:
    data = saved(Image.fromarray(page(200, 150)), form)
    file = tmp_path / "cut.img"
    for cut in (0, 3, 20, len(data) // 2):
        file.write_bytes(data[:cut])
        found, told = reason(file)
        assert found == "image_corrupt" and "cut.img" in told
    rng = np.random.default_rng(1)
    for _ in range(40):  # any damage is either told or read as a picture
        broken = bytearray(data)
        for at in rng.integers(0, len(data), 8):
            broken[at] = rng.integers(0, 256)
        try:
            assert read_picture(bytes(broken)).ndim == 3
        except RejectedRecord as error:
            assert error.reason in ("image_corrupt", "image_too_large")


@pytest.mark.parametrize(
    "text", [b"I,II,III\n0.1,0.2,0.3\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.4"]
)
def test_other_kinds_of_files_are_no_picture(text: bytes) -> None:
    assert reason(text, name="x.png") == ("image_corrupt", "x.png: no picture (png, jpeg, webp, bmp, gif, tiff)")


def bomb(width: int, height: int) -> bytes:
    """A PNG of few bytes that says it has so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(60_000, 60_000), (9000, 9000), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_before_it_is_unpacked(size: tuple[int, int]) -> None:
    import tracemalloc

    tracemalloc.start()
    found, told = reason(bomb(*size), name="bomb.png")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == "image_too_large" and "bomb.png" in told and peak < 5_000_000


def test_the_limit_can_be_set() -> None:
    data = saved(Image.fromarray(page(40, 30)), "PNG")
    assert read_picture(data, max_pixels=1200).shape == (30, 40, 3)
    assert reason(data, max_pixels=1199) == (
        "image_too_large",
        "the picture: 40 x 30 pixels, at most 1,199 are read; make it smaller",
    )


def test_what_is_a_picture(tmp_path: Path) -> None:
    signal = tmp_path / "ecg.csv"
    signal.write_text("I,II\n1,2\n")
    assert not is_picture(signal) and not is_picture(tmp_path / "absent.npy")
    assert all(is_picture(tmp_path / f"absent{suffix.upper()}") for suffix in SUFFIXES)
    for form in ("PNG", "JPEG", "WEBP", "GIF", "TIFF"):
        (tmp_path / "named.dat").write_bytes(saved(Image.fromarray(page()), form))
        assert is_picture(tmp_path / "named.dat")
