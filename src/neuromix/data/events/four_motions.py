"""FourMotions: clips of an edge that moves in one of four ways, before a simulated event camera.

The edge is the outline of a bar: it goes to the left or to the right, turns clockwise, or grows. What is seen of it at
any one moment says little of the class; only its motion does. Everything else is drawn: size and shape of the bar, how
it is tilted, where it is, how fast it moves, and whether it is brighter or darker than what is behind.

Shapes: K pictures, H W sensor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from neuromix.core.config import Config
from neuromix.core.errors import DataError
from neuromix.data.dataset import sample_generator
from neuromix.data.events.formats.raw import Sensor
from neuromix.data.events.motion import Floats, Path, moved
from neuromix.data.events.simulator import Camera, simulate
from neuromix.data.events.value import Events
from neuromix.data.splits import Rows

NAME = "four-motions"
CLASSES = ("left", "right", "clockwise", "zoom")
CLIPS = 400  # where the name does not say how many
RECORDED = 20242  # seed of the clips that are the same in every run; it never changes
_PICTURE = 64  # side of the drawn bar, in pixels
_DARK, _BRIGHT = 0.1, 0.9


@dataclass(frozen=True)
class FourMotionsConfig(Config):
    """How the bar is shown to the camera."""

    camera: Camera = field(default_factory=Camera)
    duration: int = 100_000  # microseconds
    pictures: int = 32  # K, that are drawn in this time; the light of a pixel changes evenly between two

    def validate(self) -> None:
        self.require(self.pictures > 1, f"pictures must be at least 2, got {self.pictures}")
        self.require(self.duration >= self.pictures, "duration must be a microsecond or more a picture")


class FourMotions:
    """Clips by row; see EventSource.

    Args:
        data: `four-motions` or `four-motions:CLIPS`; a fourth of the clips shows each motion.
        sensor: (height, width).
        simulation: values of FourMotionsConfig that differ.

    Raises:
        DataError: CLIPS is no number, or too small for three parts of four classes.
        ConfigError, UnknownNameError: values that there are not.
    """

    classes = CLASSES

    def __init__(
        self, data: str = NAME, sensor: Sensor | None = None, simulation: Mapping[str, object] | None = None
    ) -> None:
        number = data.partition(":")[2] or str(CLIPS)
        if not number.isdecimal() or int(number) < 3 * len(CLASSES):
            raise DataError(
                f"{data!r} is no data; expected {NAME}:CLIPS with {3 * len(CLASSES)} clips or more"
            )
        self.sensor = sensor or (32, 32)
        self.simulation = FourMotionsConfig.from_dict(simulation or {})
        self.labels: Rows = np.arange(int(number), dtype=np.int64) % len(CLASSES)
        self.parts: Mapping[str, Rows] = {"train": np.arange(int(number), dtype=np.int64)}

    def read(self, row: int, generator: Generator | None = None) -> Events:
        """The clip of a row; with a generator one that nobody has seen yet."""
        generator = sample_generator(RECORDED, 0, row) if generator is None else generator
        chance = np.random.default_rng(int(torch.randint(2**63 - 1, (), generator=generator)))
        how, (height, width) = self.simulation, self.sensor
        moments_K = np.linspace(0, 1, how.pictures)
        bar = Bar.drawn(chance)
        path = bar.path(CLASSES[self.labels[row]], moments_K, min(height, width))
        shape_KHW = moved(bar.picture(), path, height, width)
        light_KHW = bar.background + (bar.light - bar.background) * shape_KHW
        return simulate(light_KHW, (moments_K * how.duration).astype(np.int64), how.camera, chance)

    def where(self, row: int) -> str:
        return f"clip {row} of {NAME}"


class Bar(NamedTuple):
    """A bar and how fast it moves; lengths are shares of the sensor's shorter side."""

    length: float
    breadth: float
    tilt: float  # radians
    x: float  # of its middle, from that of the sensor
    y: float
    speed: float  # 1: over half of the sensor, by a quarter turn, to twice its size
    light: float
    background: float

    @classmethod
    def drawn(cls, chance: np.random.Generator) -> Bar:
        """Any bar."""
        light, background = (_BRIGHT, _DARK) if chance.random() < 0.5 else (_DARK, _BRIGHT)
        return cls(
            length=chance.uniform(0.4, 0.6),
            breadth=chance.uniform(0.15, 0.3),
            tilt=chance.uniform(-math.pi / 6, math.pi / 6),
            x=chance.uniform(-0.1, 0.1),
            y=chance.uniform(-0.1, 0.1),
            speed=chance.uniform(0.8, 1.2),
            light=light,
            background=background,
        )

    def picture(self) -> Tensor:
        """1 in the bar, which stands upright in the middle, and 0 around it: [S, S], float32."""
        half = torch.linspace(-0.5, 0.5, _PICTURE).abs()
        return ((half[:, None] <= self.length / 2) & (half <= self.breadth / 2)).float()

    def path(self, motion: str, s_K: Floats, side: int) -> Path:
        """Where the bar is at moments in [0, 1] of a clip of this motion."""
        way_K, ones_K = self.speed * (s_K - 0.5), np.ones(len(s_K))
        aside = {"left": -0.5, "right": 0.5}.get(motion, 0.0)
        return Path(
            x_K=(self.x + aside * way_K) * side,
            y_K=self.y * side * ones_K,
            angle_K=self.tilt + (math.pi / 2 * way_K if motion == "clockwise" else 0 * way_K),
            zoom_K=2**way_K if motion == "zoom" else ones_K,
        )
