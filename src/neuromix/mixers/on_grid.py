"""on_grid: a sequence mixer on feature maps, which it reads in one or several scan orders.

Shapes: B batch, C channels, H W feature map, L = H * W tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from neuromix.core import registry
from neuromix.core.config import Config, Spec
from neuromix.mixers.mixer import SpatialMixer
from neuromix.mixers.sequence import make_sequence_mixer


@dataclass(frozen=True)
class OnGridConfig(Config):
    """Config of OnGrid."""

    mixer: Spec = Spec("attention")  # a registered sequence mixer
    # Each a way to read the map, with weights of its own: rows or columns, as they are read or as a snake that turns
    # at the border, forwards or backwards.
    orders: tuple[str, ...] = ("rows",)

    def validate(self) -> None:
        unknown = [order for order in self.orders if order not in ORDERS]
        self.require(
            not unknown and len(self.orders) > 0,
            f"orders are some of {', '.join(ORDERS)}; got {', '.join(unknown) or 'none'}",
        )


class Order:
    """A way to read a map: a permutation of its places, with its exact inverse."""

    def __init__(self, *, columns: bool = False, snake: bool = False, backwards: bool = False) -> None:
        self.columns, self.snake, self.backwards = columns, snake, backwards

    def places(self, height: int, width: int, device: torch.device | None = None) -> Tensor:
        """Which place of the map, counted by rows, comes n-th: int64 [H * W]."""
        places_HW = torch.arange(height * width, device=device).view(height, width)
        lines = places_HW.T if self.columns else places_HW
        if self.snake:
            lines = lines.clone()
            lines[1::2] = lines[1::2].flip(1)
        read_L = lines.reshape(-1)
        return read_L.flip(0) if self.backwards else read_L

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The map as a sequence x_BLC."""
        height, width = x_BCHW.shape[-2:]
        x_BCL = x_BCHW.flatten(2)
        return x_BCL[:, :, self.places(height, width, x_BCHW.device)].mT

    def inverse(self, x_BLC: Tensor, height: int, width: int) -> Tensor:
        """The sequence as a map again, x_BCHW."""
        back_L = self.places(height, width, x_BLC.device).argsort()
        return x_BLC[:, back_L].mT.reshape(len(x_BLC), x_BLC.shape[2], height, width)


ORDERS = {
    f"{'snake-' if snake else ''}{'columns' if columns else 'rows'}{'-backwards' if backwards else ''}": Order(
        columns=columns, snake=snake, backwards=backwards
    )
    for snake in (False, True)
    for columns in (False, True)
    for backwards in (False, True)
}


@registry.register_mixer("on_grid")
class OnGrid(SpatialMixer):
    """The sum over the orders of inverse(mixer(order(x))).

    With an order and its backward twin a causal mixer sees the whole map from every place.
    """

    Config: ClassVar[type[Config]] = OnGridConfig

    def __init__(self, config: OnGridConfig, dim: int, size: tuple[int, int] | None = None) -> None:
        super().__init__(config, dim, size)
        self.mixers = nn.ModuleList(make_sequence_mixer(config.mixer, dim) for _ in config.orders)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        sides = x_BCHW.shape[-2:]
        y_BCHW = torch.zeros_like(x_BCHW)
        for order, mixer in zip(self.config.orders, self.mixers, strict=True):
            y_BCHW = y_BCHW + ORDERS[order].inverse(mixer(ORDERS[order].forward(x_BCHW)), *sides)
        return y_BCHW
