"""The ECG as paper for an encoder: fitted without losing the trace, photographed in training alone."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ecglm.errors import ConfigError, EcglmError
from ecglm.records.synthetic import Synthetic
from ecglm.representations.base import BuildContext, build_representation
from ecglm.representations.image import LEAST_PIXELS, ImageOptions, ImageRepresentation
from ecglm.representations.paper import paper_geometry
from ecglm.representations.pictures import fit, scales
from ecglm.representations.render import render
from ecglm.signals.pipeline import get_pipeline

SIZES = [224, 336, 384]


def context(**changes) -> BuildContext:
    values = {"rate": 250, "seg_len": 2500, "seed": 0, "records": (), "segment": lambda name: np.zeros((12, 2500))}
    return BuildContext(**{**values, "image_size": (224, 224), "image_tokens": 49, **changes})


@pytest.fixture(scope="module")
def segment() -> np.ndarray:
    source = Synthetic(num_patients=1, seed=4, rhythms=("sinus_rhythm",))
    return get_pipeline("default", rate=250, seg_len=2500).run(source.read(source.keys()[0])).signal[0]


@pytest.mark.parametrize("side", SIZES)
def test_the_trace_is_still_black_at_the_encoders_size(segment: np.ndarray, side: int) -> None:
    """In nearly every column that a trace crosses, its darkest pixel is darker than half way from paper to ink."""
    show = ImageRepresentation(image_size=(side, side), grid=False)
    picture = show.picture(segment, 250).min(axis=2).astype(int)
    page = paper_geometry(2500, 250)
    scale = side / page.width
    top = (side - round(page.height * scale)) // 2
    rows = sorted({panel.y for panel in page.panels})
    for y in rows:
        middle, reach = top + y * scale, 10 * page.px_per_mm * scale
        band = picture[round(middle - reach) : round(middle + reach) + 1]
        first, last = 14 * page.px_per_mm * scale, 250 * page.px_per_mm * scale
        darkest = band[:, round(first) : round(last)].min(axis=0)
        assert np.mean(darkest < 128) > 0.95 and np.median(darkest) < 100


def test_without_a_wider_pen_the_trace_would_fade(segment: np.ndarray) -> None:
    rhythm_strip = slice(140, 185)

    def darkness(width: float | None) -> float:
        show = ImageRepresentation(grid=False, line_width=width)
        return float(np.median(show.picture(segment, 250)[rhythm_strip, 30:200].min(axis=(0, 2))))

    assert darkness(0.35) > darkness(None) + 40


@pytest.mark.parametrize("side", SIZES)
@pytest.mark.parametrize("how", ["pad", "squash", "crop"])
def test_the_pen_is_a_pixel_wide_after_fitting(side: int, how: str) -> None:
    show, page = ImageRepresentation(image_size=(side, side), fit=how), paper_geometry(2500, 250)
    width = show._line_width(2500, 250) * page.px_per_mm * min(scales((850, 1100), (side, side), how))
    assert width >= LEAST_PIXELS - 1e-9
    assert ImageRepresentation(image_size=(4000, 4000))._line_width(2500, 250) == 0.35


def test_pad_keeps_aspect_and_everything(segment: np.ndarray) -> None:
    picture = ImageRepresentation().picture(segment, 250)
    assert picture.shape == (224, 224, 3) and picture.dtype == np.uint8
    height = round(850 * 224 / 1100)
    top = (224 - height) // 2
    assert (picture[:top] == 255).all() and (picture[top + height :] == 255).all()
    assert (picture[top + 1] != 255).any(axis=-1).all() and (picture[top + height - 2] != 255).any(axis=-1).all()


@pytest.mark.parametrize("wanted", [(10, 10), (40, 20), (7, 31), (60, 60)])
@pytest.mark.parametrize("how", ["pad", "squash", "crop"])
def test_fit_gives_the_size_asked_for_and_keeps_white_white(wanted: tuple[int, int], how: str) -> None:
    assert (fit(np.full((30, 40, 3), 255, np.uint8), wanted, how) == 255).all()
    assert fit(np.zeros((30, 40, 3), np.uint8), wanted, how).shape == (*wanted, 3)


def test_fit_means_over_areas_and_crop_loses_the_ends() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 80, 3), dtype=np.uint8)
    means = picture.reshape(20, 2, 40, 2, 3).mean(axis=(1, 3))
    assert np.abs(fit(picture, (40, 40), "pad")[10:30] - means).max() <= 0.51
    assert np.abs(fit(picture, (20, 20), "crop") - means[:, 10:30]).max() <= 0.51
    squashed = picture.reshape(20, 2, 20, 4, 3).mean(axis=(1, 3))
    assert np.abs(fit(picture, (20, 20), "squash") - squashed).max() <= 0.51
    assert np.array_equal(fit(picture, (40, 80), "pad"), picture)
    with pytest.raises(EcglmError, match="did you mean 'squash'"):
        fit(picture, (10, 10), "squach")


def test_a_page_of_the_encoders_own_size_is_the_renderers(segment: np.ndarray) -> None:
    show = ImageRepresentation(image_size=(850, 1100), layout="6x2", color="mono", header="AB", line_width=0.5)
    page = render(segment, 250, size=(1100, 850), layout="6x2", color="mono", header="AB", line_width=0.5)
    assert np.array_equal(show(segment, 250).tensor, page.transpose(2, 0, 1))


def test_blank_is_blank_paper_and_missing_is_not(segment: np.ndarray) -> None:
    show = ImageRepresentation()
    blank, missing = show(segment * 0, 250).tensor, show(segment * np.nan, 250).tensor
    assert not np.array_equal(blank, missing) and not np.array_equal(blank, show(segment, 250).tensor)
    assert np.array_equal(blank, show(segment * 0, 250).tensor)


def test_training_alone_photographs_and_each_row_its_own_way(segment: np.ndarray) -> None:
    show = ImageRepresentation(synthesis="pulse")
    clean = ImageRepresentation()(segment, 250).tensor
    assert np.array_equal(show(segment, 250).tensor, clean)

    def shown(row: str, seed: int = 0) -> np.ndarray:
        return show.in_training(segment, 250, seed=seed, row_id=row).tensor

    assert np.array_equal(shown("a/0"), shown("a/0"))
    assert len({shown(row, seed).tobytes() for row in ("a/0", "a/1", "b/0") for seed in (0, 1)}) == 6
    assert shown("a/0").shape == clean.shape and shown("a/0").dtype == np.uint8
    plain = ImageRepresentation().in_training(segment, 250, seed=0, row_id="a/0").tensor
    assert np.array_equal(plain, clean)


@pytest.mark.parametrize("options", [{}, {"size": (600, 400), "fit": "squash", "synthesis": "hard", "num_tokens": 6}])
def test_config_goes_through_json_and_rebuilds(options: dict) -> None:
    show = ImageRepresentation.from_recipe(ImageOptions(**options), context())
    config = json.loads(json.dumps(show.config()))
    assert build_representation(config) == show
    with pytest.raises(ConfigError, match="did you mean 'layout'"):
        build_representation({**config, "layot": "6x2"})


OWN = """\
paper: {layout: 6x2, fit: yes}   # fit: yes is a truth value to YAML
rotation: {p: 1, degrees: [-3, 3]}
creases:
  spacing_mm: [40, 100]
jpeg:
"""


def test_a_synthesis_of_ones_own_stays_with_the_model(segment: np.ndarray, tmp_path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(OWN)
    options = ImageOptions(synthesis=str(file))
    assert options.files() == {"synthesis": str(file)} and ImageOptions(synthesis="pulse").files() == {}
    show = ImageRepresentation.from_recipe(options, context())
    plan = {
        "paper": {"layout": "6x2", "fit": "yes"},
        "rotation": {"p": 1, "degrees": [-3, 3]},
        "creases": {"spacing_mm": [40, 100]},
        "jpeg": {},
    }
    assert show.synthesis == plan
    file.unlink()
    again = build_representation(json.loads(json.dumps(show.config())))
    assert again == show

    def shown(of: ImageRepresentation) -> np.ndarray:
        return of.in_training(segment, 250, seed=0, row_id="a").tensor

    assert np.array_equal(shown(again), shown(show))
    assert np.array_equal(shown(show), shown(ImageRepresentation(synthesis=plan)))
    assert not np.array_equal(shown(show), shown(ImageRepresentation(synthesis="clean")))


@pytest.mark.parametrize(
    ("old", "new", "line", "told"),
    [
        ("rotation", "rotatoin", 2, "unknown key 'rotatoin' (did you mean 'rotation'?)"),
        ("degrees", "degree", 2, "unknown key 'rotation.degree' (did you mean 'degrees'?)"),
        ("[40, 100]", "wide", 4, "effect 'creases': spacing_mm must be"),
        ("layout: 6x2", "layout: 6x3", 1, "effect 'paper': layout must be"),
        ("p: 1", "p: 2", 2, "p must be a number from 0 to 1"),
        ("jpeg:", "jpeg: 5", 5, "'jpeg' must be a mapping of options or empty"),
        ("jpeg:", "rotation: {}", 5, "stands twice"),
        ("jpeg:", "jpeg: {quality: !!python/name:os.system x}", 5, "plain YAML only"),
    ],
)
def test_a_mistake_in_a_synthesis_file_is_told_with_its_line(
    tmp_path, old: str, new: str, line: int, told: str
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(OWN.replace(old, new))
    with pytest.raises(ConfigError) as error:
        ImageRepresentation.from_recipe(ImageOptions(synthesis=str(file)), context())
    assert str(error.value).startswith(f"{file}, line {line}: ") and told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"synthesis": "mine/absent.yaml"}, "mine/absent.yaml: no such recipe"),
        ({"synthesis": "mine"}, "known: clean, pulse, hard, or a .yaml file of your own"),
        ({"num_tokens": 11}, r"image\.num_tokens: 11 tokens make no grid over the encoder's 7 x 7 patches"),
        ({"layout": "4x3"}, "4x3"),
        ({"color": "red"}, "red"),
        ({"size": (20, 20)}, "size|small"),
        ({"synthesis": "puls"}, "did you mean 'pulse'"),
        ({"line_width": -1.0}, "line_width"),
        ({"num_tokens": 50}, "gives 49 tokens"),
    ],
)
def test_options_that_cannot_be_drawn_are_told_before_training(options: dict, message: str) -> None:
    with pytest.raises(EcglmError, match=message):
        ImageRepresentation.from_recipe(ImageOptions(**options), context())
