"""Motion: how a picture moves before an event camera, and what the camera's pixels see of it.

Nothing that stands still makes events. A real camera looks at a still picture with small jumps, as an eye does
(N-MNIST), or a thing moves past it. A path says where the picture is at each moment; `moved` draws it.

Shapes: K moments, H W sensor. Lengths are in pixels of the sensor, x to the right and y down.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

Floats = npt.NDArray[np.float64]


class Path(NamedTuple):
    """Where a picture is at K moments, against the middle of the sensor."""

    x_K: Floats  # pixels
    y_K: Floats
    angle_K: Floats  # radians, clockwise
    zoom_K: Floats  # 1 for the picture's own size


# (moments in [0, 1], [K]; amplitude; chance) -> path
Motion = Callable[[Floats, float, np.random.Generator], Path]


def saccades(s_K: Floats, amplitude: float, chance: np.random.Generator) -> Path:
    """Three jumps along the sides of a triangle, as the camera of N-MNIST makes them (Orchard et al., 2015).

    The corners lie at the distance `amplitude` from the middle; where the first one is, and which way round it goes,
    is drawn. A jump of relative length u is (1 - cos(pi u)) / 2 done: it starts and ends at rest.
    """
    turn = chance.uniform(0, 2 * math.pi) + chance.choice((-1, 1)) * 2 * math.pi / 3 * np.arange(4)
    corner_x, corner_y = amplitude * np.cos(turn), amplitude * np.sin(turn)
    jump = np.minimum((3 * s_K).astype(np.int64), 2)
    done = (1 - np.cos(math.pi * (3 * s_K - jump))) / 2
    x_K, y_K = ((1 - done) * c[jump] + done * c[jump + 1] for c in (corner_x, corner_y))
    return _still(s_K)._replace(x_K=x_K, y_K=y_K)


def drift(s_K: Floats, amplitude: float, chance: np.random.Generator) -> Path:
    """A straight line through the middle at constant speed, `amplitude` to either side, in a drawn direction."""
    direction, way = chance.uniform(0, 2 * math.pi), amplitude * (2 * s_K - 1)
    return _still(s_K)._replace(x_K=way * math.cos(direction), y_K=way * math.sin(direction))


def circle(s_K: Floats, amplitude: float, chance: np.random.Generator) -> Path:
    """Once round a circle of radius `amplitude` about the middle, from a drawn place, either way round."""
    turn = chance.uniform(0, 2 * math.pi) + chance.choice((-1, 1)) * 2 * math.pi * s_K
    return _still(s_K)._replace(x_K=amplitude * np.cos(turn), y_K=amplitude * np.sin(turn))


def rotation(s_K: Floats, amplitude: float, chance: np.random.Generator) -> Path:
    """A turn on the spot, in a drawn sense, during which a point at 10 pixels goes `amplitude` pixels."""
    return _still(s_K)._replace(angle_K=chance.choice((-1, 1)) * amplitude / 10 * (s_K - 0.5))


def zoom(s_K: Floats, amplitude: float, chance: np.random.Generator) -> Path:
    """Coming or going, as is drawn, during which a point at 10 pixels goes about `amplitude` pixels."""
    return _still(s_K)._replace(zoom_K=np.exp(chance.choice((-1, 1)) * amplitude / 10 * (s_K - 0.5)))


MOTIONS: Mapping[str, Motion] = {
    "saccades": saccades,
    "drift": drift,
    "circle": circle,
    "rotation": rotation,
    "zoom": zoom,
}


def moved(picture_HW: Tensor, path: Path, height: int, width: int, share: float = 1.0) -> Tensor:
    """What the pixels of a sensor see of a picture that moves.

    Args:
        picture_HW: float, any size; around it everything is 0.
        path: of the picture.
        height, width: of the sensor.
        share: how much of the sensor's height and width the picture takes.

    Returns:
        [K, height, width], float32, by bilinear sampling.
    """
    x, y, angle, scale = (torch.from_numpy(np.asarray(each, np.float32)) for each in path)
    scale = scale * share
    # From a pixel of the sensor to a place in the picture, each from -1 to 1 along its axes: shifted back, turned
    # back, magnified back. Hence the aspect ratio, for angles are between pixels.
    cos, sin, aspect = angle.cos() / scale, angle.sin() / scale, height / width
    shift_x, shift_y = 2 * x / width, 2 * y / height
    theta_K23 = torch.stack(
        [
            torch.stack([cos, sin * aspect, -cos * shift_x - sin * aspect * shift_y], 1),
            torch.stack([-sin / aspect, cos, sin / aspect * shift_x - cos * shift_y], 1),
        ],
        1,
    )
    grid = F.affine_grid(theta_K23, [len(x), 1, height, width], align_corners=False)
    pictures_K1HW = picture_HW.float().expand(len(x), 1, *picture_HW.shape)
    return F.grid_sample(pictures_K1HW, grid, align_corners=False)[:, 0]


def _still(s_K: Floats) -> Path:
    zeros, ones = np.zeros(len(s_K)), np.ones(len(s_K))
    return Path(zeros, zeros, zeros, ones)
