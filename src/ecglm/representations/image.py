"""The ECG as a picture of ECG paper for an image encoder, clean or, in training, as if scanned or photographed."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import numpy as np

from ecglm.errors import EcglmError, nearest
from ecglm.registry import register
from ecglm.representations.base import BuildContext, RecipeOptions
from ecglm.representations.paper import Geometry, paper_geometry, signal_to_pixel
from ecglm.representations.pictures import (
    FITS,
    PictureRepresentation,
    check_picture,
    encoder_fit,
    fit,
    fitted_point,
    scales,
)
from ecglm.representations.render import render
from ecglm.representations.synthesis import synthesise
from ecglm.representations.synthesis_recipes import RECIPES, is_recipe_file, plan_of, read_recipe
from ecglm.types import LEADS, EcgInput

#: Width of the trace in mm on paper, and in the encoder's pixels at least: thinner lines fade into the grid.
LINE_MM, LEAST_PIXELS = 0.35, 1.0
#: The widest pen of a synthesis recipe.
_WIDEST_MM = 1.0


@dataclass(frozen=True, kw_only=True)
class PageOptions(RecipeOptions):
    """What a page of ECG paper looks like: the options that all representations drawing one share."""

    layout: str = "3x4+1"
    size: tuple[int, int] | None = None
    dpi: float | None = None
    color: str = "pink"
    grid: bool = True
    header: str = ""
    line_width: float | None = None
    synthesis: str | None = None

    def files(self) -> dict[str, str]:
        """The recipe of the synthesis, where it is a file."""
        return {"synthesis": self.synthesis} if self.synthesis and is_recipe_file(self.synthesis) else {}


@dataclass(frozen=True, kw_only=True)
class ImageOptions(PageOptions):
    """Show the ECG as paper to an image encoder. layout, size (width, height), dpi, color, grid, header: as in
    ``ecglm render``. fit: ``pad`` (whole, white margins), ``squash`` (whole, stretched) or ``crop`` (the ends are
    lost) to the encoder's size. line_width: of the trace in mm; None is 0.35, or more where it would be thinner than a
    pixel of the encoder. synthesis: ``clean``, ``pulse``, ``hard`` or a .yaml file with a recipe of your own: training
    shows photographed paper, another in every epoch; validation and use show it clean. num_tokens: ECG tokens; None
    takes all the encoder gives, fewer are means over the encoder's patches on a grid.
    """

    fit: Literal["pad", "squash", "crop"] = "pad"
    num_tokens: int | None = None


@dataclass(frozen=True, kw_only=True)
class PageRepresentation(PictureRepresentation):
    """A page of ECG paper; how it comes to the encoder is the subclass's. The options are those of ``PageOptions``, but
    a recipe of one's own is here the recipe itself, not its file. What the page looks like does not depend on the
    encoder, except the width of the trace.
    """

    layout: str = "3x4+1"
    size: tuple[int, int] | None = None
    dpi: float | None = None
    color: str = "pink"
    grid: bool = True
    header: str = ""
    line_width: float | None = None
    synthesis: str | dict[str, Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.synthesis is not None:
            plan_of(self.synthesis)

    @classmethod
    def _drawn(cls, options: Any, context: BuildContext, **encoder: Any) -> Any:
        """Made of a recipe's options and what the encoder decides. Draws one empty page, so that an option that cannot
        be drawn is told before anything is trained.
        """
        drawn = {f.name: getattr(options, f.name) for f in fields(options) if f.name != "num_tokens"}
        if options.synthesis is not None:
            drawn["synthesis"] = read_recipe(options.synthesis)
        made = cls(**drawn, **encoder)
        blank = np.zeros((12, context.seg_len), np.float32)
        made(blank, context.rate)
        if made.synthesis is not None:
            made.in_training(blank, context.rate, seed=context.seed, row_id="")
        return made

    @abstractmethod
    def of_picture(self, picture: np.ndarray) -> EcgInput:
        """What the model reads of a picture uint8 ``(height, width, 3)`` RGB: a page drawn here, a scan, a photograph.
        EcglmError for another array.
        """

    @abstractmethod
    def _scale(self, size: tuple[int, int]) -> float:
        """By how much, at least, a page of ``size`` (height, width) is scaled on its way to the encoder."""

    def __call__(self, segment: np.ndarray, rate: int) -> EcgInput:
        """segment: ``(12, num_samples)`` in mV at ``rate`` Hz, canonical leads. EcglmError where it cannot be drawn."""
        return self.of_picture(self.page(segment, rate))

    def in_training(self, segment: np.ndarray, rate: int, *, seed: int, row_id: str) -> EcgInput:
        """As if photographed, by the synthesis recipe; the same seed and row give the same picture."""
        return self.of_picture(self.training_page(segment, rate, seed=seed, row_id=row_id))

    def page(self, segment: np.ndarray, rate: int) -> np.ndarray:
        """The whole page, uint8 ``(height, width, 3)``; missing samples leave gaps. EcglmError for a shape that cannot
        be drawn.
        """
        return render(
            segment,
            rate,
            layout=self.layout,
            size=self.size,
            dpi=self.dpi,
            color=self.color,
            grid=self.grid,
            header=self.header,
            line_width=self._line_width(np.shape(segment)[-1], rate),
        )

    def training_page(self, segment: np.ndarray, rate: int, *, seed: int, row_id: str) -> np.ndarray:
        """The page as training shows it, uint8 ``(height, width, 3)``."""
        if self.synthesis is None:
            return self.page(segment, rate)
        geometry = self._geometry(np.shape(segment)[-1], rate)
        return synthesise(
            segment,
            rate,
            recipe=self._recipe(self.synthesis, np.shape(segment)[-1], rate),
            seed=seed,
            row_id=row_id,
            size=(geometry.width, geometry.height),
            header=self.header,
        )

    def _geometry(self, num_samples: int, rate: int) -> Geometry:
        return paper_geometry(num_samples, rate, layout=self.layout, size=self.size, dpi=self.dpi, header=self.header)

    def _recipe(self, recipe: str | dict[str, Any], num_samples: int, rate: int) -> dict[str, Any]:
        """The recipe, printed with a pen that is still seen at the encoder's size."""
        recipe = RECIPES[recipe] if isinstance(recipe, str) else recipe
        least = min(_WIDEST_MM, self._line_width(num_samples, rate))
        if least <= LINE_MM:
            return dict(recipe)
        paper = {**(recipe.get("paper") or {}), "line_mm": [least, min(_WIDEST_MM, 1.25 * least)]}
        return {**recipe, "paper": paper}

    def _line_width(self, num_samples: int, rate: int) -> float:
        """In mm on the page, so that the fitted trace is at least ``LEAST_PIXELS`` wide."""
        if self.line_width is not None:
            return self.line_width
        page = self._geometry(num_samples, rate)
        scale = self._scale((page.height, page.width))
        return min(5.0, max(LINE_MM, LEAST_PIXELS / (page.px_per_mm * scale)))


@register("representations", "image")
@dataclass(frozen=True, kw_only=True)
class ImageRepresentation(PageRepresentation):
    """A page of ECG paper, drawn larger and fitted to the encoder by the mean over each pixel's area."""

    name: ClassVar[str] = "image"
    Options: ClassVar[type[RecipeOptions]] = ImageOptions

    fit: str = "pad"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fit not in FITS:
            raise EcglmError(f"fit: no '{self.fit}'{nearest(self.fit, FITS)}; known: {', '.join(FITS)}")

    @classmethod
    def from_recipe(cls, options: ImageOptions, context: BuildContext) -> ImageRepresentation:
        """Draws one empty page first (``_drawn``)."""
        made: ImageRepresentation = cls._drawn(options, context, **encoder_fit("image", options.num_tokens, context))
        return made

    def picture(self, segment: np.ndarray, rate: int) -> np.ndarray:
        """The page as the encoder reads it, uint8 ``(*image_size, 3)``."""
        return fit(self.page(segment, rate), self.image_size, self.fit)

    def of_picture(self, picture: np.ndarray) -> EcgInput:
        """Any picture, fitted to the encoder as the pages are."""
        return self._input(fit(check_picture(picture), self.image_size, self.fit))

    def _scale(self, size: tuple[int, int]) -> float:
        return min(scales(size, self.image_size, self.fit))

    def points(self, segment: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """On the trace; a lead that is drawn twice, as a rhythm strip too, stands in both places."""
        geometry = self._geometry(np.shape(segment)[-1], rate)
        found = []
        for panel in geometry.panels:
            lead, samples = LEADS.index(panel.lead), np.arange(panel.start, panel.stop)
            values = np.asarray(segment, np.float64)[lead, samples]
            drawn = np.isfinite(values)
            samples, values = samples[drawn], values[drawn]
            at = signal_to_pixel(geometry, panel, samples, values)  # type: ignore[arg-type]
            found.append((np.full(len(samples), lead), samples, *map(np.asarray, at)))
        leads, numbers, x, y = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return leads, numbers, *fitted_point(x, y, (geometry.height, geometry.width), self.image_size, self.fit)
