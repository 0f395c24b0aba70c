"""Mixer: the base of all token mixers.

Shapes: B batch, C channels, H W feature map.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from neuromix.core import registry
from neuromix.core.config import Config, Spec
from neuromix.core.errors import ConfigError, ShapeError


class SpatialMixer(nn.Module):
    """Maps x_BCHW to the same shape (spiking ones, which set `takes_time`: x_TBCHW).

    Built as `Mixer(config, dim, size)`, where `size` is (H, W) of the map or None where it is not known.

    Attributes:
        needs_size: H and W are fixed when it is built.
        takes_time: it steps along a leading spike-time axis.
    """

    Config: ClassVar[type[Config]] = Config
    needs_size: ClassVar[bool] = False
    takes_time: ClassVar[bool] = False

    def __init__(self, config: Any, dim: int, size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.config: Any = config
        if self.needs_size and size is None:
            raise ConfigError(f"{type(self).__name__} needs a fixed map size (H, W); give the input size")
        self.dim, self.size = dim, size

    def require_size(self, x: Tensor) -> None:
        """Raises ShapeError unless the map has the size that the mixer was built for."""
        if self.size is not None and tuple(x.shape[-2:]) != tuple(self.size):
            got = tuple(x.shape[-2:])
            raise ShapeError(f"{type(self).__name__} was built for maps {tuple(self.size)}, got {got}")


class OneStep(nn.Module):
    """Lets a mixer that takes time stand in a net that has none: one spike step."""

    def __init__(self, mixer: nn.Module) -> None:
        super().__init__()
        self.mixer = mixer

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y: Tensor = self.mixer(x_BCHW.unsqueeze(0)).squeeze(0)
        return y


def make_mixer(spec: Spec | str, dim: int, size: tuple[int, int] | None = None) -> SpatialMixer:
    """The mixer that a spec names, for maps of `dim` channels.

    Raises:
        UnknownNameError, ConfigError: no such mixer, or options or sizes that do not fit.
    """
    mixer: SpatialMixer = registry.build("mixer", spec, dim, size)
    return mixer
