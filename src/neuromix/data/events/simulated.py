"""SimulatedEvents: any image data set before a simulated event camera.

| name | images | sensor | motion |
| --- | --- | --- | --- |
| `digits-dvs` | the digits of scikit-learn | 16x16 | three jumps, as in N-MNIST |
| `cifar10-dvs-sim:FOLDER` | CIFAR-10, Parquet files | 48x48 | round a circle |
| `images-dvs:FOLDER` | whatever `open_images` opens | 48x48 | three jumps |

Rows and parts are those of the images, so that an image and its recording can be paired by their row. Colour images
become grey, as an event camera sees them.

Shapes: K pictures, H W sensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Generator

from neuromix.core.config import Config
from neuromix.core.errors import DataError
from neuromix.data.dataset import sample_generator
from neuromix.data.events.formats.raw import Sensor
from neuromix.data.events.motion import MOTIONS, moved
from neuromix.data.events.simulator import Camera, simulate
from neuromix.data.events.value import Events
from neuromix.data.images import open_images
from neuromix.data.splits import Rows

RECORDED = 20241  # seed of the recordings that are the same in every run; it never changes


@dataclass(frozen=True)
class Simulation(Config):
    """How images are shown to the camera."""

    camera: Camera = field(default_factory=Camera)
    motion: Literal["saccades", "drift", "circle", "rotation", "zoom"] = "saccades"
    amplitude: float = 0.125  # of the motion, as a share of the sensor's shorter side
    share: float = 0.75  # side of the image as a share of the sensor's
    duration: int = 300_000  # microseconds
    pictures: int = 32  # K, that are drawn in this time; the light of a pixel changes evenly between two

    def validate(self) -> None:
        self.require_positive("amplitude", "share", "duration")
        self.require(self.pictures > 1, f"pictures must be at least 2, got {self.pictures}")
        self.require(self.duration >= self.pictures, "duration must be a microsecond or more a picture")


class _Preset(NamedTuple):
    images: str | None  # None: the user names a folder
    sensor: Sensor
    simulation: Mapping[str, Any]


PRESETS: Mapping[str, _Preset] = {
    "digits-dvs": _Preset("digits", (16, 16), {}),
    "cifar10-dvs-sim": _Preset(None, (48, 48), {"motion": "circle", "amplitude": 0.06, "share": 1.15}),
    "images-dvs": _Preset(None, (48, 48), {"amplitude": 0.06, "share": 1.15}),
}


class SimulatedEvents:
    """Images before a simulated camera; see EventSource.

    Args:
        data: `NAME` or `NAME:FOLDER`, NAME out of `PRESETS`.
        sensor: (height, width); None for that of the name.
        simulation: values of Simulation that differ from those of the name.

    Raises:
        DataError: a folder is missing, not wanted, or holds no images.
        ConfigError, UnknownNameError: values that there are not.
    """

    def __init__(
        self, data: str, sensor: Sensor | None = None, simulation: Mapping[str, Any] | None = None
    ) -> None:
        name, _, folder = data.partition(":")
        preset = PRESETS[name]
        if (preset.images is None) != bool(folder):
            wanted = f"{name}:FOLDER, the folder of the images" if preset.images is None else f"{name} alone"
            raise DataError(f"{data!r} is no data; expected {wanted}")
        self.sensor = sensor or preset.sensor
        self.simulation = Simulation.from_dict(preset.simulation).replace(**(simulation or {}))
        # Photographs are brought to the size at which the sensor sees them; digits are small, and stay as they are.
        height, width = (max(1, round(self.simulation.share * side)) for side in self.sensor)
        self.size = None if preset.images else (height, width)
        images = open_images(preset.images or folder, size=self.size)
        self.images = images.source
        self.labels: Rows = self.images.labels
        self.classes = self.images.classes
        self.parts: Mapping[str, Rows] = images.splits

    def read(self, row: int, generator: Generator | None = None) -> Events:
        """The recording of a row; with a generator one that nobody has seen yet."""
        generator = sample_generator(RECORDED, 0, row) if generator is None else generator
        chance = np.random.default_rng(int(torch.randint(2**63 - 1, (), generator=generator)))
        how, (height, width) = self.simulation, self.sensor
        moments_K = np.linspace(0, 1, how.pictures)
        path = MOTIONS[how.motion](moments_K, how.amplitude * min(height, width), chance)
        light_KHW = moved(self.images.read(row, 1, self.size)[0], path, height, width, how.share)
        return simulate(light_KHW, (moments_K * how.duration).astype(np.int64), how.camera, chance)

    def where(self, row: int) -> str:
        return f"simulated from {self.images.where(row)}"
