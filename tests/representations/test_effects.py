"""Image effects: what each does to a picture, measured against its physics; options and the table."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy import constants

from ecglm.errors import ConfigError
from ecglm.representations.effects import EFFECTS, STAGES, Choice, Number, effect
from ecglm.representations.effects.strokes import ALPHABET, draw_strokes, smooth, word_strokes
from ecglm.representations.render import render

SCALE = 4.0  # pixels per mm
NEUTRAL = {
    "handwriting": {"words": 0},
    "pen_strokes": {"count": 0},
    "tint": {"strength": 0},
    "grain": {"depth": 0},
    "creases": {"depth": 0},
    "wrinkles": {"depth": 0},
    "crop": {"mm": 0},
    "margins": {"mm": 0},
    "rotation": {"degrees": 0},
    "perspective": {"tilt": 0},
    "exposure": {"stops": 0},
    "uneven_light": {"stops": 0},
    "shadow": {"stops": 0},
    "vignette": {"stops": 0},
    "white_balance": {"kelvin": 6500},
    "defocus": {"sigma_mm": 0},
    "motion_blur": {"length_mm": 0},
    "noise": {"sd": 0},
    "salt_pepper": {"share": 0},
    "resolution": {"dots_per_mm": 40},
    "grid_removal": {"strength": 0},
}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def flat(value: int = 200, height: int = 400, width: int = 600) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


@pytest.fixture(scope="module")
def paper() -> np.ndarray:
    time = np.arange(2500) / 250
    segment = np.tile(0.3 * np.sin(2 * np.pi * 1.2 * time), (12, 1)).astype(np.float32)
    segment[:, 100::250] = 1.2
    return render(segment, 250, size=(1100, 850))


def run(name: str, image: np.ndarray, seed: int = 0, scale: float = SCALE, **options: object) -> np.ndarray:
    return EFFECTS[name](image, rng(seed), px_per_mm=scale, **options)


# --- every effect


def test_there_is_an_effect_for_everything_a_sheet_goes_through() -> None:
    assert {e.stage for e in EFFECTS.values()} == set(STAGES)
    assert set(EFFECTS) - {"machine_text", "jpeg"} == set(NEUTRAL)


@pytest.mark.parametrize("name", list(EFFECTS))
def test_same_generator_same_picture_and_the_input_stays(name: str, paper: np.ndarray) -> None:
    before = paper.copy()
    first, again, other = (run(name, paper, seed) for seed in (1, 1, 2))
    assert first.shape == paper.shape and first.dtype == np.uint8 and first.flags.c_contiguous
    assert np.array_equal(paper, before) and not np.shares_memory(first, paper)
    assert np.array_equal(first, again) and not np.array_equal(first, paper)
    drawn = {
        "tint",
        "exposure",
        "vignette",
        "white_balance",
        "defocus",
        "resolution",
        "grid_removal",
        "jpeg",
        "rotation",
    }
    assert np.array_equal(first, other) == (name in drawn)  # those have nothing to draw


@pytest.mark.parametrize("name", list(NEUTRAL))
def test_without_strength_nothing_happens(name: str, paper: np.ndarray) -> None:
    assert np.abs(run(name, paper, **NEUTRAL[name]).astype(int) - paper).max() <= 1


@pytest.mark.parametrize("name", list(EFFECTS))
@pytest.mark.parametrize("shape", [(37, 53), (2, 2), (300, 40)])
def test_any_size(name: str, shape: tuple[int, int]) -> None:
    image = rng().integers(0, 256, (*shape, 3), dtype=np.uint8)
    for scale in (0.8, 12.0):
        assert run(name, image, scale=scale).shape == image.shape


@pytest.mark.parametrize("name", list(EFFECTS))
def test_every_allowed_option_can_be_drawn(name: str) -> None:
    """Both ends of every option, every word, and much between."""
    image = rng().integers(0, 256, (85, 110, 3), dtype=np.uint8)
    options = EFFECTS[name].options
    ends = {k: list(o.words) if isinstance(o, Choice) else [o.low, o.high] for k, o in options.items()}
    for option, values in ends.items():
        for value in values:
            assert run(name, image, **{option: value}).shape == image.shape
    draw = rng(1)
    for seed in range(10):
        picked = {k: o.draw(draw, list(ends[k])) for k, o in options.items()}
        for scale in (0.5, 8.0):
            assert run(name, image, seed, scale, **picked).dtype == np.uint8


# --- light and colour, in numbers


def test_exposure_is_a_factor_on_light() -> None:
    """One stop is half the light; a pixel value is light to the power 1 / 2.2."""
    light = (run("exposure", flat(200), stops=-1.0)[0, 0, 0] / 200) ** 2.2
    assert light == pytest.approx(0.5, abs=0.01)
    assert (run("exposure", flat(200), stops=2.0) == 255).all()


@pytest.mark.parametrize("shape", ["gradient", "spot"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_uneven_light_spans_its_stops(shape: str, seed: int) -> None:
    lit = run("uneven_light", flat(240), seed, stops=1.5, shape=shape)[..., 0].astype(float)
    assert lit.max() == pytest.approx(240, abs=1.5)
    assert 2.2 * np.log2(lit.max() / lit.min()) == pytest.approx(1.5, abs=0.05)
    assert np.abs(np.diff(lit, axis=0)).max() <= 3 and np.abs(np.diff(lit, axis=1)).max() <= 3  # no steps


def test_vignette_is_darkest_in_the_corners() -> None:
    lit = run("vignette", flat(240), stops=1.0)[..., 1].astype(float)
    assert lit[200, 300] == 240 and lit[0, 0] == lit.min()
    assert 2.2 * np.log2(lit[200, 300] / lit[0, 0]) == pytest.approx(1.0, abs=0.03)
    assert np.allclose(lit, lit[::-1, ::-1], atol=1)


@pytest.mark.parametrize("shape", ["edge", "telephone"])
def test_a_shadow_has_a_side_in_light_and_its_depth(shape: str) -> None:
    for seed in range(6):
        lit = run("shadow", flat(220), seed, stops=1.0, softness_mm=2.0, shape=shape)[..., 0].astype(float)
        assert (lit > 218).mean() > 0.3, "most of the sheet stays in the light"
        assert 2.2 * np.log2(220 / lit.min()) == pytest.approx(1.0, abs=0.06)
        steps = max(np.abs(np.diff(lit, axis=0)).max(), np.abs(np.diff(lit, axis=1)).max())
        # an edge blurred by sigma is steepest at depth / (sigma sqrt(2 pi)); two borders may meet in a corner
        assert steps <= 2 * (220 - lit.min()) / (2.0 * SCALE * np.sqrt(2 * np.pi)) + 2


@pytest.mark.parametrize("kelvin", [3000, 5000, 9000])
def test_white_balance_follows_plancks_law(kelvin: float) -> None:
    def light(wavelength: float, temperature: float) -> float:
        x = constants.h * constants.c / (wavelength * constants.k * temperature)
        return 1 / (np.exp(x) - 1)

    seen = np.array([light(w, kelvin) / light(w, 6500) for w in (600e-9, 540e-9, 450e-9)])
    wanted = 250 * (seen / seen.max()) ** (1 / 2.2)
    assert run("white_balance", flat(250), kelvin=kelvin)[0, 0] == pytest.approx(wanted, abs=1)


def test_tint_filters_white() -> None:
    once, twice = (run("tint", flat(255), colour="yellow", strength=s)[0, 0] / 255.0 for s in (0.5, 1.0))
    assert twice == pytest.approx(once**2, abs=0.01) and twice[0] > twice[1] > twice[2]


# --- paper


@pytest.mark.parametrize("angle", [0.0, 90.0])
def test_creases_lie_at_their_angle_and_distance(angle: float) -> None:
    image = flat(200, 800, 1200)  # 200 by 300 mm
    folded = run("creases", image, 3, spacing_mm=50, width_mm=2.0, depth=0.8, angle=angle)[..., 0].astype(float)
    across = folded.mean(axis=0 if angle == 90 else 1)
    along = folded.mean(axis=1 if angle == 90 else 0)
    assert np.ptp(across) > 4 * np.ptp(along)
    dark = np.flatnonzero((across < np.roll(across, 1)) & (across <= np.roll(across, -1)) & (across < 192))
    folds = [g.mean() for g in np.split(dark, np.flatnonzero(np.diff(dark) > 40) + 1)]
    assert len(folds) >= 3
    assert np.diff(folds) / SCALE == pytest.approx(50, abs=11)  # each is moved by up to a tenth
    deeper = run("creases", image, 3, spacing_mm=50, width_mm=2.0, depth=1.6, angle=angle)[..., 0].astype(float)
    assert deeper.std() > 1.6 * folded.std()


def test_two_directions_of_creases_cross() -> None:
    folded = run("creases", flat(200, 800, 800), 1, spacing_mm=60, depth=0.8, angle=90, directions=2)[..., 0]
    assert np.ptp(folded.mean(axis=0)) > 5 and np.ptp(folded.mean(axis=1)) > 5


def test_wrinkles_are_as_large_and_as_deep_as_asked() -> None:
    image = flat(190, 900, 900)

    def width(field: np.ndarray) -> float:
        """Where the autocorrelation along the rows has fallen to a half, in pixels."""
        f = np.fft.rfft(field - field.mean(), axis=1)
        c = np.fft.irfft(np.abs(f) ** 2, axis=1).mean(axis=0)
        return float(np.argmax(c < 0.5 * c[0]))

    small, large = (
        np.mean([width(run("wrinkles", image, s, spacing_mm=mm)[..., 0].astype(float)) for s in range(4)])
        for mm in (10, 30)
    )
    assert large / small == pytest.approx(3, rel=0.35)
    shallow, deep = (run("wrinkles", image, 0, depth=d)[..., 0].std() for d in (0.2, 0.4))
    assert deep / shallow == pytest.approx(2, rel=0.15)


def test_grain_has_its_depth_and_repeats_nowhere_near() -> None:
    image = flat(200, 600, 600)
    grey = run("grain", image, depth=0.1)[..., 0].astype(float)
    assert np.log2(grey / 200).std() * 2.2 == pytest.approx(0.1, rel=0.15)
    assert abs(np.corrcoef(grey[:, :300].ravel(), grey[:, 300:].ravel())[0, 1]) < 0.1


# --- geometry, against points moved by hand


def moved(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    out = np.column_stack([points, np.ones(len(points))]) @ matrix.T
    return out[:, :2] / out[:, 2:]


def matrix_of(name: str, seed: int = 0, **options: object) -> np.ndarray:
    return EFFECTS[name].matrix(flat(), rng(seed), px_per_mm=SCALE, **options)


POINTS = np.array([[0, 0], [599, 0], [599, 399], [0, 399], [299.5, 199.5], [100, 300.0]])
CENTRE = np.array([299.5, 199.5])


def test_rotation_turns_about_the_centre_counter_clockwise() -> None:
    as_complex = (POINTS - CENTRE) @ [1, -1j]  # y upwards
    turned = as_complex * np.exp(1j * np.deg2rad(10))
    wanted = np.column_stack([turned.real, -turned.imag]) + CENTRE
    assert moved(matrix_of("rotation", degrees=10.0), POINTS) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_perspective_is_what_a_pinhole_sees(seed: int) -> None:
    """The sheet turned in space by Rodrigues' formula, and projected."""
    tilt, distance = np.deg2rad(20), 500.0 * SCALE
    angle = rng(seed).uniform(0, 2 * np.pi)
    axis = np.array([np.cos(angle), np.sin(angle), 0])
    turn = cv2.Rodrigues(axis * tilt)[0]
    space = np.column_stack([POINTS - CENTRE, np.zeros(len(POINTS))]) @ turn.T
    wanted = distance * space[:, :2] / (distance + space[:, 2:]) + CENTRE
    found = moved(matrix_of("perspective", seed, tilt=20.0, distance_mm=500.0), POINTS)
    assert found == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_margins_and_crop(seed: int) -> None:
    corners = moved(matrix_of("margins", seed, mm=10.0), POINTS[:4])
    gaps = np.array([corners[0], [599, 399] - corners[2]]) / SCALE
    assert gaps[:, 0].sum() == pytest.approx(20, abs=0.1)  # the longer side has 10 mm, give or take, at both ends
    assert (gaps[:, 0] >= 4.9).all() and (gaps[:, 0] <= 15.1).all()
    corners = moved(matrix_of("crop", seed, mm=10.0), POINTS[:4])
    zoom = (corners[1, 0] - corners[0, 0]) / 599
    assert 1 < zoom < 1 / (1 - 2 * 40 / 400)
    assert (corners[0] < 1).all() and (corners[2] > [598, 398]).all()  # the picture is filled


def test_a_dot_lies_where_the_matrix_says() -> None:
    image = flat(255)
    cv2.circle(image, (420, 130), 3, (0, 0, 0), -1)
    for name, options in {"rotation": {"degrees": -7.0}, "perspective": {"tilt": 25.0}, "crop": {"mm": 9.0}}.items():
        dark = 255.0 - run(name, image, 5, **options)[..., 0]
        matrix = matrix_of(name, 5, **options)
        wanted = moved(matrix, np.array([[420.0, 130.0]]))[0]
        y, x = np.nonzero(dark)
        assert np.average([x, y], axis=1, weights=dark[y, x]) == pytest.approx(wanted, abs=0.3), name


def test_what_is_no_geometry_moves_nothing() -> None:
    assert np.array_equal(EFFECTS["noise"].matrix(flat(), rng(), px_per_mm=SCALE), np.eye(3))


# --- lens, sensor, file


def spread(image: np.ndarray) -> np.ndarray:
    """Covariance (x, y) of the light around its middle."""
    light = image[..., 0].astype(float)
    y, x = np.nonzero(light)
    return np.cov(np.stack([x, y]), fweights=np.round(light[y, x]).astype(int))


def spot() -> np.ndarray:
    image = flat(0, 121, 121)
    cv2.circle(image, (60, 60), 12, (255, 255, 255), -1, cv2.LINE_AA)
    return image


def test_defocus_spreads_by_its_sigma() -> None:
    grown = spread(run("defocus", spot(), sigma_mm=0.6)) - spread(spot())
    assert np.diag(grown) == pytest.approx(2 * [(0.6 * SCALE) ** 2], rel=0.08)


def test_motion_blur_spreads_along_one_line() -> None:
    """A box of length L has the variance L² / 12 along it and none across."""
    grown = spread(run("motion_blur", spot(), 3, length_mm=4.0)) - spread(spot())
    across, along = np.linalg.eigvalsh(grown)
    assert along == pytest.approx((4.0 * SCALE) ** 2 / 12, rel=0.1) and abs(across) < 0.6


def test_noise_has_its_standard_deviation_in_every_colour() -> None:
    noisy = run("noise", flat(128), sd=9.0).astype(float)
    assert noisy.mean(axis=(0, 1)) == pytest.approx(3 * [128], abs=0.15)
    assert noisy.std(axis=(0, 1)) == pytest.approx(3 * [9], rel=0.02)
    colours = np.corrcoef(noisy.reshape(-1, 3).T)
    assert np.abs(colours - np.eye(3)).max() < 0.02
    assert abs(np.corrcoef(noisy[:, 1:, 0].ravel(), noisy[:, :-1, 0].ravel())[0, 1]) < 0.02


def test_salt_and_pepper_have_their_share() -> None:
    image = run("salt_pepper", flat(128, 1000, 1000), share=0.02)[..., 0]
    assert (image == 0).mean() == pytest.approx(0.01, rel=0.1) and (image == 255).mean() == pytest.approx(0.01, rel=0.1)


def test_resolution_keeps_nothing_finer_than_its_dots() -> None:
    stripes = flat(0)
    stripes[:, ::2] = 255  # two pixels a period: 2 lines a mm
    seen = run("resolution", stripes, dots_per_mm=1.0)[50:-50, 50:-50]
    assert np.ptp(seen) < 10 and seen.mean() == pytest.approx(127.5, abs=3)
    assert np.array_equal(run("resolution", stripes, dots_per_mm=8.0), stripes)


def test_jpeg_is_that_of_another_library(paper: np.ndarray) -> None:
    out = io.BytesIO()
    Image.fromarray(paper).save(out, "JPEG", quality=30, subsampling="4:2:0")
    other = np.asarray(Image.open(io.BytesIO(out.getvalue()))).astype(float)
    ours = run("jpeg", paper, quality=30).astype(float)
    assert np.abs(ours - other).mean() < 0.5
    losses = [np.abs(run("jpeg", paper, quality=q).astype(float) - paper).mean() for q in (95, 60, 20, 5)]
    assert losses == sorted(losses)


def test_grid_removal_leaves_ink_and_no_grid(paper: np.ndarray) -> None:
    bare = run("grid_removal", paper)
    ink = paper.max(axis=-1) < 60
    assert (bare[ink] < 60).all()
    grid = (paper[..., 0] > 225) & (paper[..., 1] < 220)
    assert grid.mean() > 0.05 and (bare[grid] > 240).mean() > 0.97
    assert np.array_equal(bare[..., 0], bare[..., 2])


# --- ink


@pytest.mark.parametrize("name", ["handwriting", "pen_strokes", "machine_text"])
def test_ink_only_darkens_and_little_of_the_sheet(name: str, paper: np.ndarray) -> None:
    for seed in range(5):
        drawn = run(name, paper, seed).astype(int)
        assert (drawn <= paper).all()
        assert 0 < (drawn < paper).any(axis=-1).mean() < 0.03


def test_words_stand_near_the_places_given() -> None:
    image = flat(255, 800, 1200)
    found = []
    for seed in range(30):
        drawn = run("handwriting", image, seed, words=1, height_mm=2.0, places=[(100, 700)])
        y, x = np.nonzero(drawn[..., 0] < 250)
        found.append(np.hypot(x.mean() - 100, y.mean() - 700) / SCALE < 60)
    assert np.mean(found) > 0.6


def test_handwriting_avoids_what_is_drawn() -> None:
    """Half of the sheet is full of traces: most words stand in the other half."""
    image = flat(255, 800, 800)
    image[:, 400::6] = 0
    image[:, 401::6] = 0
    left = 0
    for seed in range(30):
        drawn = run("handwriting", image, seed, words=1, ink="red")
        left += (drawn[:, :400] < 250).any(axis=-1).sum() > (drawn[:, 400:] < image[:, 400:]).any(axis=-1).sum()
    assert left >= 26


def test_the_pens_width_is_in_millimetres() -> None:
    """A level underline: the ink summed across it is its width."""
    for width in (0.6, 1.5, 3.0, 5.25):
        image = flat(255, 60, 200)
        draw_strokes(image, [np.array([[20.0, 30.3], [180.0, 30.3]])], "black", width, 1.0)
        depth = (255 - image[:, 60:140, 0].astype(float)).sum(axis=0).mean() / (255 - 38)
        assert depth == pytest.approx(width, abs=0.1)


def test_letters_are_of_one_alphabet() -> None:
    for letter, text in ALPHABET.items():
        points = [p for stroke in text.split(",") for p in stroke.split()]
        assert len(letter) == 1 and all(len(p) == 2 and p.isdigit() for p in points)
    strokes = word_strokes("page 12", rng())
    assert len(strokes) == 7  # a p has two, the space none
    starts = [s[:, 0].mean() for s in strokes]
    assert starts == sorted(starts)
    assert np.allclose(smooth(np.array([[0.0, 0.0], [1.0, 2.0], [3.0, 1.0]]))[[0, 6, 12]], [[0, 0], [1, 2], [3, 1]])


# --- options and the table


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("rotation", {"degrees": 90}, ["rotation", "degrees", "-45", "45", "90"]),
        ("rotation", {"degree": 3}, ["rotation", "degree", "did you mean 'degrees'"]),
        ("rotation", {"degrees": float("nan")}, ["rotation", "degrees", "nan"]),
        ("rotation", {"degrees": "3"}, ["rotation", "degrees", "a number"]),
        ("rotation", {"degrees": True}, ["rotation", "degrees", "True"]),
        ("jpeg", {"quality": 50.5}, ["jpeg", "quality", "whole number"]),
        ("tint", {"colour": "yelow"}, ["tint", "colour", "yellow"]),
        ("shadow", {"places": []}, ["shadow", "places"]),
    ],
)
def test_a_wrong_option_is_one_line_with_effect_and_option(name: str, options: dict, words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        run(name, flat(), **options)
    assert "\n" not in str(error.value) and all(word in str(error.value) for word in words)


@pytest.mark.parametrize("image", [np.zeros((4, 4)), np.zeros((4, 4, 3)), np.zeros((1, 9, 3), np.uint8), "x", None])
def test_what_is_no_picture_is_refused(image: object) -> None:
    with pytest.raises(ConfigError, match=r"noise.*picture"):
        run("noise", image)  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [0, -4, float("nan"), float("inf")])
def test_a_scale_that_is_none_is_refused(scale: float) -> None:
    with pytest.raises(ConfigError, match=r"jpeg.*px_per_mm"):
        run("jpeg", flat(), scale=scale)


def test_a_new_effect_is_one_function() -> None:
    @effect("test-invert", "file", amount=Number(0, 1), way=Choice(("all", "red")))
    def invert(image, rng, *, px_per_mm, amount=1.0, way="all"):
        """A negative."""
        out = image.copy()
        out[..., : 1 if way == "red" else 3] = 255 - out[..., : 1 if way == "red" else 3]
        return out

    try:
        assert (run("test-invert", flat(200), way="red")[0, 0] == [55, 200, 200]).all()
        effect("test-invert", "file", amount=Number(0, 1), way=Choice(("all", "red")))(invert)  # the same again
        with pytest.raises(ConfigError, match="twice"):
            effect("test-invert", "file")(lambda image, rng, *, px_per_mm: image)
    finally:
        del EFFECTS["test-invert"]


def test_a_declaration_that_does_not_fit_its_function_is_refused() -> None:
    def plain(image, rng, *, px_per_mm, strength=2.0):
        return image

    for stage, options, word in [
        ("lens", {"strength": Number(0, 3)}, "no stage 'lens'"),
        ("file", {}, "strength"),
        ("file", {"strenght": Number(0, 3)}, "strenght"),
        ("file", {"strength": Number(0, 1)}, "default of strength"),
    ]:
        with pytest.raises(ConfigError, match=word):
            effect("test-plain", stage, **options)(plain)
    with pytest.raises(ConfigError, match="px_per_mm"):
        effect("test-plain", "file")(lambda image, rng: image)
    assert "test-plain" not in EFFECTS
