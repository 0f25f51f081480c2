"""ECG paper: what was drawn is read back from the pixels, with the geometry worked out by hand."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from scipy.signal import find_peaks

from ecglm.errors import EcglmError
from ecglm.records.formats import read
from ecglm.records.synthetic import Synthetic
from ecglm.representations.paper import LAYOUTS, Geometry, paper_geometry, signal_to_pixel
from ecglm.representations.render import COLORS, _kept_paper, blank_paper, png_bytes, render, save_picture, save_png
from ecglm.types import LEADS

RATE = 250
SIZE = (1600, 1200)


def silence(seconds: float = 10.0, rate: int = RATE) -> np.ndarray:
    return np.full((12, int(seconds * rate)), np.nan, np.float32)


def ink(image: np.ndarray) -> np.ndarray:
    """How dark each pixel is in green, where the pink grid shows: 0 (white) to 1 (black), (H, W)."""
    return 1 - image[..., 1].astype(np.float32) / 255


def traces(segment: np.ndarray, geometry: Geometry, rate: int = RATE, **options: object) -> np.ndarray:
    """The ink of traces (and of "no signal") alone: the picture less the empty paper."""
    drawn = ink(render(segment, rate, grid=False, **options))  # type: ignore[arg-type]
    return drawn - ink(blank_paper(geometry, "pink", False, 0.35))


def runs(flags: np.ndarray) -> np.ndarray:
    """The middles of the stretches of True."""
    at = np.flatnonzero(flags)
    return np.array([g.mean() for g in np.split(at, np.flatnonzero(np.diff(at) > 1) + 1)])


def test_shape_type_and_determinism() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 0.3, (2, 12, 2500)).astype(np.float32)
    first, other, again = (render(x, RATE, size=(1000, 800)) for x in (a, b, a))
    assert first.shape == (800, 1000, 3) and first.dtype == np.uint8
    assert first.tobytes() == again.tobytes() and first.tobytes() != other.tobytes()
    assert first.flags.writeable and render(a, RATE).shape == (850, 1100, 3)
    assert render(a.astype(np.float64), RATE).tobytes() == render(a, RATE).tobytes()
    for same in (np.asfortranarray(a), a.astype(">f4"), a.astype(np.longdouble)):
        assert render(same, RATE).tobytes() == render(a, RATE).tobytes()


@pytest.mark.parametrize("size", [(1600, 1200), (1000, 800), (1237, 911)])
def test_a_second_is_25_mm_and_a_millivolt_10_mm(size: tuple[int, int]) -> None:
    """A square wave of 1 mV and 1 s, measured in squares of the grid that is drawn beneath it."""
    segment = silence()
    segment[LEADS.index("II")] = np.arange(2500) // RATE % 2
    geometry = paper_geometry(2500, RATE, size=size)
    drawn = traces(segment, geometry, size=size)
    bottom = drawn[round(geometry.panels[-1].y - 14 * geometry.px_per_mm) :]  # the rhythm strip
    levels = runs(bottom.sum(axis=1) > 0.3 * bottom.sum(axis=1).max())
    edges = runs(bottom.sum(axis=0) > 0.5 * bottom.sum(axis=0).max())
    lines = ink(render(silence(), RATE, size=size))[-3:].mean(axis=0)  # below every trace and text
    at = runs(lines > 0.35 * lines.max() + 0.65 * np.median(lines))
    five_mm = np.polyfit(np.arange(len(at)), at, 1)[0]
    assert len(edges) == 9 and len(levels) == 2
    assert np.polyfit(np.arange(9), edges, 1)[0] / five_mm == pytest.approx(5, abs=0.02)  # 25 mm
    assert np.diff(levels)[0] / five_mm == pytest.approx(2, abs=0.06)  # 10 mm
    assert five_mm == pytest.approx(5 * geometry.px_per_mm, rel=0.002)


def read_peaks(layout: str, rate: int, options: dict) -> None:
    """Every lead's peaks are read back from the pixels: ±1 pixel in time and ±0.05 mV."""
    rng = np.random.default_rng(3)
    geometry = paper_geometry(10 * rate, rate, layout=layout, **options)
    mm = geometry.px_per_mm
    for panel in geometry.panels:
        segment = silence(rate=rate)
        signal = segment[LEADS.index(panel.lead)]
        signal[:] = 0
        half = max(1, round(0.04 * rate))
        peaks = panel.start + (np.array([0.15, 0.25, 0.85]) * (panel.stop - panel.start)).astype(int)
        heights = rng.uniform(0.4, 1.4, 3) * (1, -1, 1)
        for peak, height in zip(peaks, heights, strict=True):
            signal[peak - half : peak + half + 1] = height * (1 - np.abs(np.arange(-half, half + 1)) / half)
        drawn = traces(segment, geometry, rate, layout=layout, **options)
        for peak, height in zip(peaks, heights, strict=True):
            # by hand: 25 mm/s and 10 mm/mV at this scale
            x = panel.x + (peak - panel.start) / rate * 25 * mm
            y = panel.y - height * 10 * mm
            assert signal_to_pixel(geometry, panel, peak, height) == pytest.approx((x, y))
            reach = int(0.04 * 25 * mm) + 2
            patch = drawn[:, round(x) - reach : round(x) + reach + 1]
            rows = np.flatnonzero(patch.max(axis=1) > 0.35)
            lane = rows[np.abs(rows - panel.y) < 15 * mm]
            tip = lane.min() if height > 0 else lane.max()
            pen = max(0.5, 0.175 * mm)  # the tip lies half a pen's width beyond the value
            found = (panel.y - tip - np.sign(height) * pen) / (10 * mm)
            assert found == pytest.approx(height, abs=0.05), (layout, panel.lead)
            inside = round(y + np.sign(height) * 3)
            centre = np.average(np.arange(patch.shape[1]), weights=np.clip(patch[inside], 0, None)) + round(x) - reach
            assert abs(centre - x) <= 1, (layout, panel.lead)


@pytest.mark.parametrize("size", [(1000, 800), (1237, 911)])
@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_peaks_are_read_back_for_every_layout(layout: str, size: tuple[int, int]) -> None:
    read_peaks(layout, RATE, {"size": size})


@pytest.mark.parametrize("dpi, rate", [(100, 100), (100, 500), (200, 250), (300, 100), (300, 500)])
def test_peaks_are_read_back_at_every_dpi_and_rate(dpi: int, rate: int) -> None:
    read_peaks("2x6" if dpi == 300 else "3x4", rate, {"dpi": dpi})


@pytest.mark.parametrize("rate", [100, 250, 500])
def test_a_whole_trace_is_read_back(rate: int) -> None:
    """An ECG's rhythm strip, column by column: the middle of the ink is the signal, to a twentieth of a millivolt."""
    record = Synthetic(num_patients=1, rate=max(rate, 100), artefacts=False, rhythms=("sinus_rhythm",))
    lead = 0.5 * record.read(record.keys()[0]).signal[1]
    segment = silence(rate=rate)
    segment[1] = lead
    geometry = paper_geometry(10 * rate, rate, dpi=200)
    panel, mm = geometry.panels[-1], geometry.px_per_mm
    lane = slice(round(panel.y - 16 * mm), round(panel.y + 11 * mm))
    columns = np.arange(int(panel.x) + 2, int(panel.x + 250 * mm) - 2)
    drawn = np.clip(traces(segment, geometry, rate, dpi=200)[lane, columns], 0, None)
    found = (panel.y - lane.start - (drawn * np.arange(len(drawn))[:, None]).sum(axis=0) / drawn.sum(axis=0)) / (
        10 * mm
    )
    value = np.interp((columns - panel.x) / (25 * mm) * rate, np.arange(10 * rate), lead)
    slope = np.abs(np.gradient(value))
    steep = slope > np.quantile(slope, 0.85)  # there, and a pen's width beside it, a column of ink spans many values
    calm = ~(np.convolve(steep, np.ones(9), "same") > 0)
    assert np.abs(found - value)[calm].max() < 0.05
    assert np.abs(found - value)[calm].mean() < 0.005


@pytest.mark.realdata
@pytest.mark.parametrize("dpi", [100, 200])
def test_r_peaks_of_real_recordings_are_read_back(ptb_xl: Path, dpi: int) -> None:
    checked = 0
    for file in sorted((ptb_xl / "records500" / "00000").glob("*.hea"))[:6]:
        record = read(file)
        lead = record.signal[1] - np.median(record.signal[1])
        segment = silence(rate=500)
        segment[1] = lead
        geometry = paper_geometry(5000, 500, dpi=dpi)
        panel, mm = geometry.panels[-1], geometry.px_per_mm
        lane = slice(round(panel.y - 19 * mm), round(panel.y))
        drawn = traces(segment, geometry, 500, dpi=dpi)[lane]
        peaks, _ = find_peaks(lead, height=max(0.35, 0.6 * lead.max()), distance=200)
        for peak in peaks[(peaks > 50) & (peaks < 4950) & (lead[peaks] < 1.8)]:
            x, y = panel.x + peak / 500 * 25 * mm, panel.y - lead[peak] * 10 * mm
            column = drawn[:, round(x) - 1 : round(x) + 2].max(axis=1)
            tip = lane.start + np.flatnonzero(column > 0.35).min() + max(0.5, 0.175 * mm)
            assert abs(tip - y) / (10 * mm) < 0.05, (file.name, peak)
            row = drawn[round(y) - lane.start, round(x) - 6 : round(x) + 7]  # across the tip
            centre = np.average(np.arange(-6, 7), weights=np.clip(row, 0, None) + 1e-9) + round(x)
            assert abs(centre - x) <= 1 or np.ptp(lead[peak - 4 : peak + 5]) < 0.1, (file.name, peak)
            checked += 1
    assert checked > 40


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_every_lead_is_named(layout: str) -> None:
    """The name at a panel's place matches the drawn text of that lead better than that of any other."""
    geometry = paper_geometry(2500, RATE, layout=layout, size=SIZE)
    empty = ink(blank_paper(geometry, "pink", False, 0.35))
    capital = 3.0 * geometry.px_per_mm
    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    font = ImageFont.truetype(str(file), capital / 0.729)
    stamps = {}
    for lead in LEADS:
        stamp = Image.new("L", (round(4.2 * capital), round(1.6 * capital)))
        ImageDraw.Draw(stamp).text((4, round(1.3 * capital)), lead, 255, font=font, anchor="ls")
        stamps[lead] = np.asarray(stamp, np.float32) / 255
    for panel in geometry.panels:
        x, y = round(panel.name_x) - 7, round(panel.name_y - 1.3 * capital) - 3
        around = empty[max(0, y) : y + round(1.6 * capital) + 6, max(0, x) : x + round(4.2 * capital) + 6]
        if layout == "12x1":  # the pulse's foot begins right of the name
            around = around.copy()
            around[:, int(panel.x - 11.5 * geometry.px_per_mm) - max(0, x) :] = 0
        scores = {lead: float(cv2.matchTemplate(around, s, cv2.TM_CCOEFF_NORMED).max()) for lead, s in stamps.items()}
        assert max(scores, key=scores.__getitem__) == panel.lead and scores[panel.lead] > 0.8, (panel.lead, scores)


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_every_lead_is_drawn_over_its_whole_time(layout: str) -> None:
    geometry = paper_geometry(2500, RATE, layout=layout, size=SIZE)
    drawn = traces(np.zeros((12, 2500), np.float32), geometry, layout=layout, size=SIZE)
    for panel in geometry.panels:
        x0, _ = signal_to_pixel(geometry, panel, panel.start, 0)
        x1, _ = signal_to_pixel(geometry, panel, panel.stop - 1, 0)
        lane = drawn[round(panel.y) - 1 : round(panel.y) + 2].max(axis=0)
        assert lane[round(x0) + 1 : round(x1)].min() > 0.3


def test_a_flat_lead_is_a_line_and_a_missing_one_says_so() -> None:
    geometry = paper_geometry(2500, RATE, size=SIZE)
    flat = np.zeros((12, 2500), np.float32)
    gone = flat.copy()
    gone[LEADS.index("V2")] = np.nan
    panel = next(p for p in geometry.panels if p.lead == "V2")
    x0, x1 = (signal_to_pixel(geometry, panel, s, 0)[0] for s in (panel.start, panel.stop))
    line = slice(round(panel.y) - 2, round(panel.y) + 3), slice(round(x0) + 3, round(x1) - 3)
    assert traces(flat, geometry, size=SIZE)[line].max(axis=0).min() > 0.3
    words = traces(gone, geometry, size=SIZE)[line].max(axis=0)
    written = np.flatnonzero(words > 0.3)
    assert len(written) and np.ptp(written) < 0.35 * len(words)  # "no signal" in the middle, and no line
    assert abs((written.min() + written.max()) / 2 - len(words) / 2) < 0.05 * len(words)
    nothing = render(silence(), RATE, size=SIZE)
    assert nothing.shape == (1200, 1600, 3) and not np.array_equal(nothing, render(flat, RATE, size=SIZE))


def test_a_gap_is_a_gap() -> None:
    geometry = paper_geometry(2500, RATE, size=SIZE)
    gap = np.zeros((12, 2500), np.float32)
    gap[LEADS.index("II"), 1000:1500] = (np.nan, np.inf) * 250
    strip = geometry.panels[-1]
    x0, x1 = (signal_to_pixel(geometry, strip, s, 0)[0] for s in (1005, 1495))
    lane = traces(gap, geometry, size=SIZE)[round(strip.y) - 2 : round(strip.y) + 3].max(axis=0)
    assert lane[round(x0) : round(x1)].max() < 0.02
    assert lane[round(strip.x) + 2 : round(x0) - 5].min() > 0.3 and lane[round(x1) + 5 : round(x1) + 400].min() > 0.3


@pytest.mark.parametrize("speed, gain", [(25, 10), (50, 10), (25, 20), (25, 5), (12.5, 10)])
@pytest.mark.parametrize("pulse", ["left", "right"])
def test_the_pulse_is_one_millivolt_and_a_fifth_of_a_second_on_thick_lines(
    speed: float, gain: float, pulse: str
) -> None:
    options = {"speed": speed, "gain": gain, "pulse": pulse, "dpi": 254.0}  # 10 pixels per mm
    geometry = paper_geometry(2500, RATE, **options)
    bare = ink(blank_paper(geometry, "pink", False, 0.35))
    x, y = geometry.pulses[0]
    patch = bare[round(y - gain * 10) - 20 : round(y) + 20, round(x) - 15 : round(x + 2 * speed) + 15]
    rows, columns = runs(patch[:, 18:-18].max(axis=1) > 0.5), runs(patch[10:-25].mean(axis=0) > 0.5)
    top = patch[:, patch.shape[1] // 2]
    assert np.argmax(top > 0.5) + 1.25 == pytest.approx(20, abs=1.5)  # its height, less half a pen
    assert len(columns) == 2 and np.diff(columns)[0] == pytest.approx(2 * speed, abs=1)
    assert rows[0] < 25
    grid = ink(render(silence(), RATE, **options))[-4:].mean(axis=0)
    thick = runs(grid > 0.9 * grid.max())
    assert np.abs(thick - x).min() <= 1 and (speed == 12.5 or np.abs(thick - x - 2 * speed).min() <= 1)
    none = blank_paper(paper_geometry(2500, RATE, **{**options, "pulse": "none"}), "pink", False, 0.35)
    assert ink(none)[:, : round(geometry.margin)].max() == 0


def test_a_tall_lead_runs_into_its_neighbours_row() -> None:
    options = {"layout": "12x1", "size": (1000, 800)}
    geometry = paper_geometry(2500, RATE, **options)
    segment = silence()
    segment[LEADS.index("V4")] = 0
    segment[LEADS.index("V4"), 1500] = 4.0  # 40 mm, more than two rows
    panel = next(p for p in geometry.panels if p.lead == "V4")
    x, y = signal_to_pixel(geometry, panel, 1500, 4.0)
    drawn = traces(segment, geometry, **options)[:, round(x) - 1 : round(x) + 2].max(axis=1)
    assert drawn[round(y) : round(panel.y)].min() > 0.5 and drawn[: round(y) - 3].max() < 0.05


@pytest.mark.parametrize("words", [1, 25, 200])
@pytest.mark.parametrize("layout, size", [("3x4+1", (1000, 800)), ("12x1", (703, 905)), ("2x6", (1301, 420))])
def test_a_header_never_meets_a_trace_or_the_edge(words: int, layout: str, size: tuple[int, int]) -> None:
    header = "Patient 00123, female\n" + "Sinus rhythm. " * words
    geometry = paper_geometry(2500, RATE, layout=layout, size=size, header=header)
    segment = np.zeros((12, 2500), np.float32)
    segment[:, ::40] = 9.0  # reaches over everything there is
    written = ink(render(silence(), RATE, layout=layout, size=size, header=header, grid=False))
    both = ink(render(segment, RATE, layout=layout, size=size, header=header, grid=False))
    assert np.array_equal(written[: geometry.top], both[: geometry.top])  # traces end below the header
    text = written[: geometry.top] > 0.05
    rows, columns = np.flatnonzero(text.any(axis=1)), np.flatnonzero(text.any(axis=0))
    assert rows.min() > 0 and rows.max() < geometry.top - 1
    assert columns.min() > 0 and columns.max() <= size[0] - 2 * geometry.px_per_mm
    footer = size[1] - 5 * geometry.px_per_mm
    assert np.array_equal(written[int(footer) :], both[int(footer) :])


def test_speed_and_gain_are_printed() -> None:
    geometry = [paper_geometry(2500, RATE, speed=s, gain=g, size=SIZE) for s, g in [(25, 10), (50, 10), (25, 5)]]
    feet = [ink(blank_paper(g, "pink", False, 0.35))[-int(4 * g.px_per_mm) :] for g in geometry]
    assert all(foot.max() > 0.7 for foot in feet)
    wide = [np.flatnonzero(foot.max(axis=0) > 0.3).max() / g.px_per_mm for foot, g in zip(feet, geometry, strict=True)]
    assert 30 < wide[0] < 50 and wide[2] < wide[0]


def test_colours_grid_and_line_width() -> None:
    segment = np.zeros((12, 2500), np.float32)
    grey = render(segment, RATE, color="mono").astype(int)
    paper = grey[:5]
    assert (paper[..., 0] == paper[..., 1]).all() and (paper[..., 1] == paper[..., 2]).all()
    hue = {name: render(silence(), RATE, color=name)[:5].reshape(-1, 3).mean(axis=0).argmax() for name in COLORS}
    assert (hue["pink"], hue["green"], hue["blue"]) == (0, 1, 2)
    assert np.median(render(segment, RATE, grid=False)) == 255
    thin, thick = (ink(render(segment, RATE, grid=False, line_width=w)).sum() for w in (0.35, 0.8))
    assert thick > 1.5 * thin


def test_small_pictures_keep_the_thick_grid_only() -> None:
    image = ink(render(silence(), RATE, size=(300, 240), pulse="none"))[-3:].mean(axis=0)
    assert np.abs(np.fft.rfft(image - image.mean())).argmax() == round(256 / 5)  # lines on 256 mm


def test_wild_values_do_no_harm() -> None:
    segment = np.zeros((12, 2500), np.float32)
    segment[0, 100], segment[1, 50], segment[2, 60] = 1e30, np.inf, -np.inf
    assert render(segment, RATE).shape == (850, 1100, 3)
    assert render(np.full((12, 2), 1e300), 1).shape == (850, 1100, 3)


@pytest.mark.parametrize(
    "segment, options, word",
    [
        (np.zeros((11, 2500)), {}, r"\(12, samples\)"),
        (np.zeros((2500, 12)), {}, r"\(12, samples\)"),
        (np.zeros(2500), {}, r"\(12, samples\)"),
        (np.zeros((12, 0)), {}, r"\(12, samples\)"),
        (np.zeros((12, 1)), {}, "2 samples or more"),
        (np.full((12, 10), "a"), {}, r"\(12, samples\)"),
        (np.zeros((12, 2500)), {"layout": "3x4+2"}, "3x4"),
        (np.zeros((12, 2500)), {"size": (100, 80)}, "too small"),
        (np.zeros((12, 2500)), {"size": (50_000, 50_000)}, "smaller size"),
        (np.zeros((12, 2500)), {"dpi": 0}, "dpi"),
        (np.zeros((12, 2500)), {"color": "pnk"}, "did you mean 'pink'"),
        (np.zeros((12, 2500)), {"color": True}, "known: pink"),
        (np.zeros((12, 2500)), {"line_width": 0}, "line_width"),
        (np.zeros((12, 2500)), {"line_width": float("nan")}, "line_width"),
        (np.zeros((12, 2500)), {"rate": 0}, "rate"),
        (np.zeros((12, 2500)), {"rate": float("nan")}, "rate"),
        (np.zeros((12, 2500)), {"rate": 0.5}, "rate"),
    ],
)
def test_bad_input_is_one_clear_line(segment: np.ndarray, options: dict, word: str) -> None:
    with pytest.raises(EcglmError, match=word) as error:
        render(segment, **options)
    assert "\n" not in str(error.value)


def test_files_are_lossless_and_know_their_dpi(tmp_path: Path) -> None:
    image = render(np.zeros((12, 1250), np.float32), RATE, dpi=150)
    save_picture(tmp_path / "ecg.png", image, dpi=150)
    with Image.open(tmp_path / "ecg.png") as read:
        assert np.array_equal(np.asarray(read.convert("RGB")), image)
        assert read.info["dpi"] == pytest.approx((150, 150), abs=0.02)
    save_png(tmp_path / "same.dat", image)
    assert (tmp_path / "same.dat").read_bytes() == png_bytes(image)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png_bytes(image)))), image)
    few = png_bytes(image, colors=32)
    with Image.open(io.BytesIO(few)) as read:
        assert len(few) < 0.5 * len(png_bytes(image)) and len(read.convert("RGB").getcolors()) <= 32
    save_picture(tmp_path / "ecg.JPG", image, dpi=150)
    with Image.open(tmp_path / "ecg.JPG") as read:
        assert read.format == "JPEG" and read.info["dpi"] == (150, 150)
        assert np.abs(np.asarray(read).astype(int) - image).mean() < 4
    for bad in (np.zeros((4, 4)), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8)):
        with pytest.raises(EcglmError, match="picture"):
            save_png(tmp_path / "bad.png", bad)
    with pytest.raises(EcglmError, match=r"ends in \.png or \.jpg"):
        save_picture(tmp_path / "ecg.gif", image)


def digest(seed: int) -> str:
    """A picture's bytes; at the top of the file, for spawned processes."""
    segment = np.random.default_rng(seed).normal(0, 0.3, (12, 2500)).astype(np.float32)
    layout = list(LAYOUTS)[seed % len(LAYOUTS)]
    image = render(segment, RATE, layout=layout, size=(640, 500), header=f"number {seed}")
    return hashlib.sha256(image.tobytes()).hexdigest()


def test_threads_and_processes_draw_the_same_and_nothing_global_changes() -> None:
    threads, state = cv2.getNumThreads(), np.random.get_state()[1].tolist()
    expected = [digest(seed) for seed in range(12)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(digest, range(12))) == expected
    for method in ("fork", "spawn"):
        if method in multiprocessing.get_all_start_methods():
            with multiprocessing.get_context(method).Pool(1) as pool:
                assert pool.map(digest, range(6)) == expected[:6]
    assert cv2.getNumThreads() == threads
    assert np.random.get_state()[1].tolist() == state


def test_kept_papers_are_read_only_few_and_not_the_largest() -> None:
    geometry = paper_geometry(2500, RATE, size=(640, 500), header="one")
    paper = blank_paper(geometry, "pink", True, 0.35)
    assert not paper.flags.writeable
    assert blank_paper(paper_geometry(2500, RATE, size=(640, 500), header="two"), "pink", True, 0.35) is paper
    before = _kept_paper.cache_info().currsize
    render(silence(), RATE, size=(2600, 1900))
    assert _kept_paper.cache_info().currsize == before and _kept_paper.cache_info().maxsize <= 8


def test_a_hundred_and_seventy_pictures_a_second() -> None:
    record = Synthetic(num_patients=1, rate=RATE)
    segment = record.read(record.keys()[0]).signal
    render(segment, RATE, size=(1000, 800))

    def once() -> float:
        start = time.thread_time()
        for _ in range(10):
            render(segment, RATE, size=(1000, 800))
        return (time.thread_time() - start) / 10

    assert min(once() for _ in range(5)) < 0.006
