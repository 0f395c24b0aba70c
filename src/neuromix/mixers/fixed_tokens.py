"""FixedTokensMixer: the base of mixers whose weights fix the number of tokens.

Shapes: B batch, C channels, H W feature map, N = H*W tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from neuromix.core.config import Config
from neuromix.core.errors import ConfigError, ShapeError
from neuromix.mixers.mixer import SpatialMixer


@dataclass(frozen=True)
class FixedTokensConfig(Config):
    """Config of a mixer over N tokens."""

    tokens: int | None = None  # N; None: those of the map that it is built for

    def validate(self) -> None:
        self.require(self.tokens is None or self.tokens > 0, f"tokens must be positive, got {self.tokens}")


class FixedTokensMixer(SpatialMixer):
    """Works on x_BCN, places in raster order; knows N from the size of its map or from the option `tokens`."""

    Config: ClassVar[type[Config]] = FixedTokensConfig
    needs_size = True

    def __init__(self, config: Any, dim: int, size: tuple[int, int] | None = None) -> None:
        # Only their number matters: without a map, the tokens are taken as one row.
        row = None if config.tokens is None else (1, config.tokens)
        super().__init__(config, dim, row if size is None else size)
        assert self.size is not None
        self.tokens = self.size[0] * self.size[1]
        if config.tokens not in (None, self.tokens):
            raise ConfigError(
                f"{type(self).__name__} was given {config.tokens} tokens, but its map of {self.size} has {self.tokens}"
            )

    def flatten(self, x_BCHW: Tensor) -> Tensor:
        """x_BCN.

        Raises:
            ShapeError: the map has another number of places.
        """
        x_BCN = x_BCHW.flatten(2)
        if x_BCN.shape[-1] != self.tokens:
            got = tuple(x_BCHW.shape[-2:])
            raise ShapeError(f"{type(self).__name__} was built for {self.tokens} tokens, got a map of {got}")
        return x_BCN

    def extra_repr(self) -> str:
        return f"tokens={self.tokens}"
