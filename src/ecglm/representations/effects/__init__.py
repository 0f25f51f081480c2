"""Effects that turn a clean ECG picture into a scan or a photograph; importing this fills the table ``EFFECTS``."""

from ecglm.representations.effects import geometry, ink, light, paper, sensor
from ecglm.representations.effects.base import EFFECTS, STAGES, Choice, Effect, Number, effect

__all__ = ["EFFECTS", "STAGES", "Choice", "Effect", "Number", "effect", "geometry", "ink", "light", "paper", "sensor"]
