"""What each vision encoder really sees of an ECG, as one picture and in numbers: docs/img/processors.png.

    python benchmarks/processors.py --out docs/img/processors.png

A synthetic ECG of 5 s at 250 Hz. Columns: encoders and their picture sizes. Rows: ways to make the picture.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ecglm.records.synthetic import Synthetic
from ecglm.representations.image import ImageRepresentation
from ecglm.representations.paper import paper_geometry
from ecglm.representations.pictures import PictureRepresentation
from ecglm.representations.stacked import StackedRepresentation, kept_by_crop
from ecglm.signals.pipeline import get_pipeline

RATE, SAMPLES = 250, 1250
#: Column → side of the square that the published model reads.
ENCODERS = {"CLIP B/32, 224": 224, "CLIP L/14, 336": 336, "ViT B/16, 224": 224, "SigLIP B/16, 384": 384}
#: Row → how the picture is made for a side.
WAYS = {
    "stacked, crop\n(as CLIP's own\nprocessor does)": lambda side: StackedRepresentation(
        image_size=(side, side), mode="crop"
    ),
    "stacked, resize": lambda side: StackedRepresentation(image_size=(side, side), mode="resize"),
    "stacked, tile": lambda side: StackedRepresentation(image_size=(side, side), mode="tile"),
    "image, crop\n(as CLIP's own\nprocessor does)": lambda side: ImageRepresentation(
        image_size=(side, side), fit="crop"
    ),
    "image, pad": lambda side: ImageRepresentation(image_size=(side, side), fit="pad"),
}
LEFT, TOP, GAP = 110, 26, 8


def segment() -> np.ndarray:
    """The ECG that is shown: float32 ``(12, 1250)`` in mV, sinus rhythm."""
    source = Synthetic(num_patients=1, seed=4, rhythms=("sinus_rhythm",))
    return get_pipeline("default", rate=RATE, seg_len=SAMPLES).run(source.read(source.keys()[0])).signal[0]


def seen(show: PictureRepresentation, ecg: np.ndarray) -> np.ndarray:
    """The very bytes the encoder gets, uint8 ``(side, side, 3)``."""
    tensor = show(ecg, RATE).tensor
    assert tensor is not None
    return tensor.transpose(1, 2, 0)


def sheet(ecg: np.ndarray) -> Image.Image:
    """All of them side by side, every pixel as large as it is."""
    width = LEFT + sum(side + GAP for side in ENCODERS.values())
    row = max(ENCODERS.values()) + GAP
    page = Image.new("RGB", (width, TOP + row * len(WAYS)), (255, 255, 255))
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for number, (way, make) in enumerate(WAYS.items()):
        y = TOP + number * row
        draw.multiline_text((4, y + 4), way, fill=(0, 0, 0), font=font)
        x = LEFT
        for name, side in ENCODERS.items():
            if not number:
                draw.text((x, 6), name, fill=(0, 0, 0), font=font)
            page.paste(Image.fromarray(seen(make(side), ecg)), (x, y))
            draw.rectangle((x - 1, y - 1, x + side, y + side), outline=(150, 150, 150))
            x += side + GAP
    return page


def changed_samples(show: PictureRepresentation, ecg: np.ndarray, step: int = 3) -> float:
    """Share of samples (every ``step``-th) at which a change by a quarter of the range changes the picture."""
    x, before = ecg.copy(), seen(show, ecg)
    quarter = (x.max() - x.min()) / 4
    middle = (x.max() + x.min()) / 2
    found = []
    for at in range(0, SAMPLES, step):
        other = x.copy()
        other[:, at] += np.where(x[:, at] < middle, quarter, -quarter)
        found.append(bool((seen(show, other) != before).any()))
    return float(np.mean(found))


def contrast(side: int, line_width: float | None) -> float:
    """How much darker than paper a flat rhythm strip is at the encoder's size: median over columns, 0 to 1."""
    flat = np.zeros((12, 2500), np.float32)
    show = ImageRepresentation(image_size=(side, side), grid=False, line_width=line_width)
    page, picture = paper_geometry(2500, RATE), show.picture(flat, RATE).min(axis=2)
    scale = side / page.width
    middle = (side - round(page.height * scale)) // 2 + page.panels[-1].y * scale
    band = picture[round(middle) - 3 : round(middle) + 4, round(0.2 * side) : round(0.9 * side)]
    return float(np.median(1 - band.min(axis=0) / 255.0))


def milliseconds(show: PictureRepresentation, ecg: np.ndarray) -> float:
    """Processor time of one ECG, the best of 20."""
    spent = []
    for _ in range(20):
        start = time.process_time()
        show(ecg, RATE)
        spent.append(time.process_time() - start)
    return 1000 * min(spent)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/img/processors.png"))
    parser.add_argument("--step", type=int, default=3, help="try every so many samples")
    options = parser.parse_args()
    ecg = segment()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    sheet(ecg).quantize(256, dither=Image.Dither.NONE).save(options.out, optimize=True)
    print(f"{options.out}: {options.out.stat().st_size / 1000:.0f} kB")
    results: dict[str, dict[str, float]] = {}
    print("\nshare of samples that reach the encoder (12 x 1250)")
    for way, make in WAYS.items():
        if way.startswith("image"):  # a page of 3x4 + 1 leads shows a quarter of each lead, however it is fitted
            continue
        shares = {str(side): changed_samples(make(side), ecg, options.step) for side in sorted(set(ENCODERS.values()))}
        name = way.partition("\n")[0]
        results[name] = shares
        print(f"{name:18}" + "".join(f"{side:>6}: {share:6.1%}" for side, share in shares.items()))
    print(
        f"crop keeps {kept_by_crop(SAMPLES, (224, 224))} of {SAMPLES} samples, and the edges' share of their neighbours"
    )
    print("\ncontrast of a 10 s trace on the page, 0 to 1: 0.35 mm pen, our pen")
    for side in sorted(set(ENCODERS.values())):
        thin, ours = contrast(side, 0.35), contrast(side, None)
        results[f"contrast {side}"] = {"thin": thin, "ours": ours}
        print(f"{side:>5}: {thin:.2f}  {ours:.2f}")
    print("\nprocessor time of one ECG of 5 s, ms, the best of 20")
    for way, make in WAYS.items():
        spent = {str(side): milliseconds(make(side), ecg) for side in sorted(set(ENCODERS.values()))}
        name = way.partition("\n")[0]
        results[f"ms {name}"] = spent
        print(f"{name:18}" + "".join(f"{side:>6}: {ms:6.1f}" for side, ms in spent.items()))
    print(json.dumps({"benchmark": "processors", **results}))
    whole = [share for name in ("stacked, resize", "stacked, tile") for share in results[name].values()]
    dark = [results[f"contrast {side}"]["ours"] for side in ENCODERS.values()]
    return 0 if min(whole) == 1 and min(dark) >= 0.5 else 1


if __name__ == "__main__":
    raise SystemExit(main())
