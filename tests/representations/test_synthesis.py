"""Image synthesis: points where the matrix says, traces that can be read, recipes, seeds; `synthesis_sheet.py` too."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from ecglm.errors import ConfigError, EcglmError
from ecglm.records.synthetic import Synthetic
from ecglm.representations import synthesis_sheet
from ecglm.representations.effects import EFFECTS, STAGES
from ecglm.representations.paper import LAYOUTS, signal_to_pixel
from ecglm.representations.synthesis import Synthesis, synthesise, synthesise_detailed
from ecglm.representations.synthesis_recipes import RECIPES, plan_of
from ecglm.types import LEADS

RATE = 250
GEOMETRY = {
    "crop": {"mm": 4},
    "margins": {"mm": 12},
    "rotation": {"degrees": [-10, 10]},
    "perspective": {"tilt": [5, 25]},
}
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def segments() -> list[np.ndarray]:
    source = Synthetic(
        num_patients=6, rate=RATE, seed=3, records_per_patient=(1, 1), artefacts=False, rhythms=("sinus_rhythm",)
    )
    return [source.read(key).signal for key in source.keys()]


def noise_segment(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, (12, 2500)).astype(np.float32)


# --- size, seeds, order


@pytest.mark.parametrize("recipe", list(RECIPES))
@pytest.mark.parametrize("size", [(1100, 850), (700, 701), (512, 512)])
def test_exactly_the_size_that_was_asked_for(recipe: str, size: tuple[int, int]) -> None:
    image = synthesise(noise_segment(), RATE, recipe=recipe, size=size, row_id="a")
    assert image.shape == (size[1], size[0], 3) and image.dtype == np.uint8 and image.flags.c_contiguous


def test_the_same_in_any_order_and_never_twice() -> None:
    rows = [f"row-{i}" for i in range(6)]

    def draw(names: list[str]) -> dict[str, bytes]:
        return {n: synthesise(noise_segment(), RATE, row_id=n, size=(600, 480)).tobytes() for n in names}

    first = draw(rows)
    assert draw(rows[::-1]) == first and len(set(first.values())) == 6
    assert synthesise(noise_segment(), RATE, row_id="row-0", size=(600, 480), seed=1).tobytes() != first["row-0"]
    assert synthesise(noise_segment(1), RATE, row_id="row-0", size=(600, 480)).tobytes() != first["row-0"]


def test_another_process_draws_the_same_pixels() -> None:
    code = (
        "import hashlib, numpy as np\n"
        "from ecglm.representations.synthesis import synthesise\n"
        "s = np.random.default_rng(0).normal(0, 0.1, (12, 2500)).astype(np.float32)\n"
        "for recipe in ('clean', 'pulse', 'hard'):\n"
        "    print(hashlib.sha256(synthesise(s, 250, recipe=recipe, seed=5, row_id='x').tobytes()).hexdigest())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    here = [
        hashlib.sha256(synthesise(noise_segment(), RATE, recipe=r, seed=5, row_id="x").tobytes()).hexdigest()
        for r in ("clean", "pulse", "hard")
    ]
    assert done.stdout.split() == here


def test_effects_draw_independently_of_each_other() -> None:
    """Taking one effect out changes nothing in the draws of the others."""
    whole = dict(synthesise_detailed(noise_segment(), RATE, recipe="hard", row_id="k", size=(500, 400)).applied)
    assert len(whole) > 4
    for left_out in list(whole)[:3]:
        recipe = {name: options for name, options in RECIPES["hard"].items() if name != left_out}
        part = dict(synthesise_detailed(noise_segment(), RATE, recipe=recipe, row_id="k", size=(500, 400)).applied)
        assert part == {name: options for name, options in whole.items() if name != left_out}


def test_what_was_applied_is_told_in_camera_order_and_can_be_drawn_again() -> None:
    for row in range(5):
        made = synthesise_detailed(noise_segment(), RATE, recipe="hard", row_id=str(row), size=(600, 480))
        stages = [STAGES.index(EFFECTS[name].stage) for name, _ in made.applied]
        assert stages == sorted(stages)
        told = json.loads(json.dumps({"paper": made.paper, "applied": made.applied}))
        for name, options in told["applied"]:
            ranges = RECIPES["hard"][name]
            for option, value in options.items():
                given = ranges[option]
                if isinstance(value, str):
                    assert value in given
                else:
                    assert np.min(given) <= value <= np.max(given)


def test_probabilities_are_kept() -> None:
    recipe = {
        "paper": {"layout": "3x4", "header": 0},
        "exposure": {"p": 0.3, "stops": [-1, 0]},
        "tint": {"p": 0},
        "jpeg": {},
    }
    applied = [
        dict(synthesise_detailed(noise_segment(), RATE, recipe=recipe, row_id=str(i), size=(420, 340)).applied)
        for i in range(120)
    ]
    assert np.mean(["exposure" in a for a in applied]) == pytest.approx(0.3, abs=0.13)
    assert not any("tint" in a for a in applied) and all("jpeg" in a for a in applied)
    stops = [a["exposure"]["stops"] for a in applied if "exposure" in a]
    assert -1 <= min(stops) < -0.7 and -0.3 < max(stops) <= 0


# --- geometry


def tip_of(with_spike: np.ndarray, without: np.ndarray, up: np.ndarray, pen: float) -> np.ndarray:
    """The far end, in direction ``up``, of what is drawn in one picture and not in the other; half a pen below it."""
    more = (without.astype(int) - with_spike).max(axis=-1)
    y, x = np.nonzero(more > 100)
    places = np.stack([x, y], axis=1).astype(float)
    heights = places @ up
    end = places[heights > heights.max() - 2.0].mean(axis=0)
    return end + up * (heights.max() + 0.5 - pen / 2 - end @ up)


@pytest.mark.parametrize("seed", range(8))
def test_a_peak_lands_where_the_matrix_says(seed: int) -> None:
    """±1.5 pixels, with crop, margins, rotation and perspective at once."""
    lead, sample, millivolts = ("V2", "aVF", "I", "V6")[seed % 4], 0, 1.3
    recipe = {
        "paper": {
            "layout": ["3x4+1", "6x2", "12x1"][seed % 3],
            "grid": 0,
            "header": seed % 2,
            "background": "white",
            "ink": "black",
        }
    }
    still, beating = np.zeros((2, 12, 2500), np.float32)
    flat = synthesise_detailed(still, RATE, recipe=recipe | GEOMETRY, seed=seed)
    panel = next(p for p in flat.geometry.panels if p.lead == lead)
    sample = (panel.start + panel.stop) // 2 + 40
    beating[LEADS.index(lead), sample - 5 : sample + 6] = millivolts * (1 - np.abs(np.arange(-5, 6)) / 5)
    spiked = synthesise_detailed(beating, RATE, recipe=recipe | GEOMETRY, seed=seed)
    assert np.array_equal(flat.matrix, spiked.matrix) and not np.allclose(flat.matrix, np.eye(3), atol=0.01)
    at = np.array([signal_to_pixel(flat.geometry, panel, sample, mv) for mv in (0, millivolts)])
    base, peak = flat.to_image(at)
    up = (peak - base) / np.hypot(*(peak - base))
    zoom = np.hypot(*(peak - base)) / np.hypot(*(at[1] - at[0]))
    pen = flat.paper["line_mm"] * flat.geometry.px_per_mm * zoom
    found = tip_of(spiked.image, flat.image, up, pen)
    assert found == pytest.approx(peak, abs=1.5)


def test_the_matrix_is_the_identity_without_geometry() -> None:
    made = synthesise_detailed(noise_segment(), RATE, recipe={"noise": {}, "shadow": {}})
    assert np.array_equal(made.matrix, np.eye(3))
    assert made.to_image(np.array([[3.0, 4.0]])).tolist() == [[3.0, 4.0]]


@pytest.mark.parametrize("recipe", ["clean", "pulse"])
def test_the_drawing_stays_in_the_picture(recipe: str) -> None:
    geometric = {n: o for n, o in RECIPES[recipe].items() if n == "paper" or EFFECTS[n].stage == "geometry"}
    harder = {n: o if n == "paper" else o | {"p": 1} for n, o in geometric.items()}
    for row in range(25):
        made = synthesise_detailed(noise_segment(), RATE, recipe=harder, row_id=str(row), size=(550, 425))
        at = made.to_image(trace_points(made, np.zeros((12, 2500), np.float32)))
        assert (at >= -0.5).all() and (at <= np.array([549.5, 424.5])).all(), made.applied


# --- can it still be read?


def trace_points(made: Synthesis, segment: np.ndarray) -> np.ndarray:
    """Where the samples are drawn on the flat sheet, (n, 2), as far as they lie on it."""
    points = []
    for panel in made.geometry.panels:
        samples = np.arange(panel.start, panel.stop)
        x, y = signal_to_pixel(made.geometry, panel, samples, segment[LEADS.index(panel.lead), samples])
        inside = (y > made.geometry.top + 2) & (y < made.geometry.bottom - 3)
        points.append(np.stack([x, y + 0 * x], axis=1)[inside])
    return np.concatenate(points)


def contrast(made: Synthesis, segment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much darker than its surroundings the darkest of 3 × 3 pixels is: on the trace, and 1.5 mm beside it."""
    grey = cv2.cvtColor(made.image, cv2.COLOR_RGB2GRAY)
    darkest, around = cv2.erode(grey, np.ones((3, 3))).astype(float), cv2.medianBlur(grey, 15).astype(float)
    flat = trace_points(made, segment)
    beside = flat + np.array([0, 1.5 * made.geometry.px_per_mm])
    found = []
    for points in (flat, beside):
        at = np.round(made.to_image(points)).astype(int)
        at = at[((at > 2) & (at < np.array(grey.shape[::-1]) - 3)).all(axis=1)]
        found.append(1 - darkest[at[:, 1], at[:, 0]] / np.maximum(around[at[:, 1], at[:, 0]], 1))
    return found[0], found[1]


@pytest.mark.parametrize(("recipe", "least"), [("clean", 0.5), ("pulse", 0.25), ("hard", 0.15)])
def test_the_trace_survives(recipe: str, least: float, segments: list[np.ndarray]) -> None:
    """In every picture: a clear trace, darker than what lies beside it, hardly a sample of it lost."""
    for row in range(18):
        segment = segments[row % len(segments)]
        made = synthesise_detailed(segment, RATE, recipe=recipe, row_id=f"legible-{row}")
        on, beside = contrast(made, segment)
        assert np.median(on) > least, (row, made.applied)
        assert np.median(on) > 1.5 * np.median(beside), (row, made.paper, made.applied)
        if recipe != "hard":
            assert (on > 0.12).mean() > 0.98, (row, made.paper, made.applied)


@pytest.mark.parametrize("row", range(6))
def test_r_peaks_are_found_in_a_clean_picture(row: int, segments: list[np.ndarray]) -> None:
    """The rhythm strip read back from the pixels as a reader would: every beat where it is, and no other."""
    segment = segments[row]
    recipe = {**RECIPES["clean"], "paper": {**RECIPES["clean"]["paper"], "layout": "3x4+1"}}
    made = synthesise_detailed(segment, RATE, recipe=recipe, row_id=f"read-{row}")
    size = (made.geometry.width, made.geometry.height)
    sheet = cv2.warpPerspective(made.image, made.matrix, size, flags=cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR)
    strip, scale = made.geometry.panels[-1], made.geometry.px_per_mm
    lead = segment[LEADS.index(strip.lead)].astype(float)
    top, bottom = int(strip.y - 14 * scale), int(strip.y + 6 * scale)
    start = round(strip.x + 6 * scale)  # right of the lead's name
    stop = round(signal_to_pixel(made.geometry, strip, len(lead), 0)[0])
    ink = sheet[top:bottom, start:stop].max(axis=-1) < 140  # a coloured grid is bright in one colour
    height = np.where(ink.any(axis=0), (bottom - top) - ink.argmax(axis=0), 0).astype(float)
    half = np.median(height[height > 0]) + 0.5 * (height.max() - np.median(height[height > 0]))
    above = np.flatnonzero(height > half)
    beats = np.split(above, np.flatnonzero(np.diff(above) > 4 * scale) + 1)
    found = np.array([start + g[height[g] == height[g].max()].mean() for g in beats])
    level = np.median(lead) + 0.5 * (lead.max() - np.median(lead))
    over = np.flatnonzero(lead > level)
    peaks = [g[np.argmax(lead[g])] for g in np.split(over, np.flatnonzero(np.diff(over) > 40) + 1)]
    wanted = np.array([signal_to_pixel(made.geometry, strip, int(p), 0)[0] for p in peaks])
    edge = start + 2 * scale
    edge += 8 if (np.abs(wanted - edge) < 4).any() else 0  # a beat at the very edge may be seen or not
    wanted, found = wanted[wanted > edge], found[found > edge]
    assert len(found) == len(wanted) >= 5
    assert found == pytest.approx(wanted, abs=1.5)


# --- paper and header


def test_paper_is_drawn_as_the_recipe_says() -> None:
    zeros = np.zeros((12, 2500), np.float32)
    tall = {
        name
        for i in range(60)
        if (name := synthesise_detailed(zeros, RATE, recipe={}, row_id=str(i), size=(500, 400)).paper["layout"])
    }
    assert tall == set(LAYOUTS)
    bare = synthesise(zeros, RATE, recipe={"paper": {"grid": 0, "header": 0, "density": 1, "ink": "black"}})
    assert np.median(bare) == 255 and bare.min() < 40 and np.array_equal(bare[..., 0] < 128, bare[..., 2] < 128)
    for colour, strongest in (("red", 0), ("green", 1), ("blue", 2)):
        sheet = synthesise(zeros, RATE, recipe={"paper": {"colour": colour, "header": 0}}).reshape(-1, 3).astype(float)
        grid = sheet[(sheet.min(axis=1) > 100) & (sheet.max(axis=1) - sheet.min(axis=1) > 25)]
        assert len(grid) > 10_000 and grid.mean(axis=0).argmax() == strongest
    faint, full = (
        synthesise(zeros, RATE, recipe={"paper": {"density": d, "grid": 0, "line_mm": 0.5}}).min() for d in (0.4, 1.0)
    )
    assert faint > 140 and full < 70


def test_the_grid_lies_where_the_renderer_has_it() -> None:
    """Recoloured: dark where the renderer's own picture is pink, and as often."""
    from ecglm.representations.render import render

    zeros = np.zeros((12, 2500), np.float32)
    ours = synthesise(zeros, RATE, recipe={"paper": {"layout": "3x4", "pulse": "left", "colour": "grey", "header": 0}})
    theirs = render(zeros, RATE, layout="3x4", size=(1100, 850))[..., 1].astype(float)
    plain = theirs > 140  # no ink
    assert np.corrcoef(ours[..., 1][plain], theirs[plain])[0, 1] > 0.99


def test_a_given_header_is_drawn_and_an_invented_one_is_nobody() -> None:
    zeros = np.zeros((12, 2500), np.float32)
    quiet = {"paper": {"header": 0, "grid": 0, "layout": "3x4+1"}}
    given, other, none = (
        synthesise(zeros, RATE, recipe=quiet, header=h) for h in ("Recorder A 17", "Recorder B 28", "")
    )
    assert not np.array_equal(given, other) and (given[:40] < 128).sum() > (none[:40] < 128).sum() + 50
    told = {
        synthesise_detailed(
            zeros, RATE, recipe={"paper": {"header": 1, "layout": "3x4"}}, row_id=str(i), size=(420, 340)
        ).paper["header"]
        for i in range(60)
    }
    assert len(told) > 50
    for line in told:
        marks = re.findall(r"TEST|FAKE|DEMO|SAMPLE|EXAMPLE|SPECIMEN|PLACEHOLDER|NOBODY|MUSTER|DUMMY", line)
        years = [int(y) for y in re.findall(r"\b(\d{4})(?=-\d\d-)|(?<=\.)\d{4}\b", line) if y]
        assert marks and all(2090 <= y < 2100 for y in years), line
        assert not re.search(r"\b(19|20[0-8])\d\d\b", line)


# --- recipes


def test_recipes_are_plain_yaml() -> None:
    for name, recipe in RECIPES.items():
        again = yaml.safe_load(yaml.safe_dump(recipe))  # keys in another order
        assert again == recipe and plan_of(again).steps == plan_of(name).steps
    assert set(RECIPES) == {"clean", "pulse", "hard"}
    asked = {"creases", "wrinkles", "rotation", "perspective", "defocus", "motion_blur", "jpeg", "noise", "tint"}
    asked |= {"uneven_light", "shadow", "handwriting", "pen_strokes", "grid_removal", "machine_text", "crop", "margins"}
    assert asked | {"resolution"} <= set(RECIPES["pulse"]) and set(RECIPES["pulse"]) == set(RECIPES["hard"])


def test_harder_recipes_do_more() -> None:
    expected = {name: sum(step.p for step in plan_of(name).steps) for name in RECIPES}
    assert 0 < expected["clean"] < 0.6 * expected["pulse"] < 0.6 * expected["hard"]
    for name, options in RECIPES["pulse"].items():
        if name != "paper":
            assert options["p"] <= RECIPES["hard"][name]["p"], name


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("puls", ["puls", "did you mean 'pulse'", "clean"]),
        ({"wrinkle": {}}, ["wrinkle", "did you mean 'wrinkles'"]),
        ({"rotation": {"degrees": [5, -5]}}, ["rotation", "degrees", "[least, most]", "[5, -5]"]),
        ({"rotation": {"degrees": [0, 1, 2]}}, ["rotation", "degrees"]),
        ({"rotation": {"degrees": 100}}, ["rotation", "degrees", "45"]),
        ({"rotation": {"angle": 3}}, ["rotation", "angle", "options: degrees"]),
        ({"rotation": {"p": 1.5}}, ["rotation", "p", "1.5"]),
        ({"rotation": 5}, ["rotation", "mapping", "5"]),
        ({"jpeg": {"quality": [10, 55.5]}}, ["jpeg", "quality", "whole"]),
        ({"tint": {"colour": ["yellow", "octarine"]}}, ["tint", "colour", "octarine"]),
        ({"tint": {"colour": []}}, ["tint", "colour"]),
        ({"paper": {"layout": "4x3"}}, ["paper", "layout", "3x4", "4x3"]),
        ({"paper": {"colours": "pink"}}, ["paper", "colours", "did you mean 'colour'"]),
        ({"handwriting": {"places": []}}, ["handwriting", "places"]),
        (["noise"], ["a name or a mapping"]),
        (None, ["a name or a mapping"]),
    ],
)
def test_a_wrong_recipe_is_one_line_with_effect_and_option(recipe: object, words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        synthesise(noise_segment(), RATE, recipe=recipe)  # type: ignore[arg-type]
    assert "\n" not in str(error.value) and all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(
    ("segment", "options"),
    [
        (np.zeros((11, 2500)), {}),
        (np.zeros(2500), {}),
        (np.zeros((12, 0)), {}),
        (np.zeros((12, 1)), {}),
        (np.full((12, 10), "a"), {}),
        (np.zeros((12, 2500)), {"size": (60, 40)}),
        (np.zeros((12, 2500)), {"size": (1100, 0)}),
        (np.zeros((12, 2500)), {"rate": 0}),
        (np.zeros((12, 2500)), {"rate": float("nan")}),
    ],
)
def test_what_cannot_be_drawn_is_one_clear_line(segment: np.ndarray, options: dict) -> None:
    with pytest.raises(EcglmError) as error:
        synthesise(segment, **{"rate": RATE, **options})
    assert "\n" not in str(error.value)


def test_missing_samples_and_wild_values_are_drawn_around() -> None:
    segment = noise_segment()
    segment[3] = np.nan
    segment[5, 100:900] = np.inf
    segment[7, 50] = 1e30
    assert synthesise(segment, RATE, recipe="hard", size=(600, 480)).shape == (480, 600, 3)


def test_only_what_fits_is_drawn_from_any_layout() -> None:
    sizes = [(500, 110), (330, 300)]
    for size in sizes:
        layouts = {
            synthesise_detailed(noise_segment(), RATE, recipe={"paper": {"header": 0}}, row_id=str(i), size=size).paper[
                "layout"
            ]
            for i in range(12)
        }
        assert layouts <= set(LAYOUTS)


# --- the documentation


def test_the_page_names_every_effect_option_and_value() -> None:
    page = (ROOT / "docs" / "images.md").read_text()
    for name, effect in EFFECTS.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        assert f"| {effect.stage} |" in row and all(f"`{option}`" in row for option in effect.options), name
        words = [word for option in effect.options.values() for word in getattr(option, "words", ())]
        assert all(word in row for word in words if name not in ("machine_text", "pen_strokes")), name
    for option in plan_of({}).paper:
        assert f"`{option}`" in page[page.index("`paper` has") :], option
    own = yaml.safe_load(page.split("```yaml")[1].split("```")[0])
    assert [step.effect.name for step in plan_of(own).steps] == ["creases", "rotation", "jpeg"]


def test_every_effect_is_on_the_sheet_and_the_pictures_are_small(segments: list[np.ndarray]) -> None:
    assert set(synthesis_sheet.SHOWN) == set(EFFECTS)
    sheet = synthesis_sheet.effects_sheet(segments[0], RATE, ("light",))
    assert sheet.shape[1] == 6 * (240 + 6) and sheet.dtype == np.uint8
    for mild, strong in synthesis_sheet.SHOWN.values():
        assert mild != strong
    for name in ("effects.jpg", "recipes.jpg"):
        assert 20_000 < (ROOT / "docs" / "img" / name).stat().st_size < 400_000
