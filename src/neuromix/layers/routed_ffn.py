"""Routed feed-forward network: each token runs only some blocks of the hidden units (SPT, Gui et al., 2023).

Hidden units are cut into blocks in their order. A router scores the blocks of a token by p = sigmoid(W x + b), and the
token runs the best half. With coefficients, block i of a token is weighted by c = 2 p, which is near 1 at first:

    h = act(c (W1 x + b1) + correction),             plain
    h = act(c G x + correction) * (c U x + correction),    gated
    y = sum over the blocks of c W2 h + correction,    + b2

where the corrections are those of LoRA, if the layers have any, and c enters both layers.

Shapes: Z tokens, D width, F hidden units of a block, A blocks that a token runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuromix.core.config import Config
from neuromix.core.edits import register_edit, replace_modules
from neuromix.core.errors import ConfigError
from neuromix.core.model import Model
from neuromix.core.observe import Tap
from neuromix.layers.ffn import FeedForward, GatedFeedForward
from neuromix.layers.lora import LoRALinear


@dataclass(frozen=True)
class RoutedConfig(Config):
    """Config of the edit "routed_ffn"."""

    blocks: int = 4  # that the hidden units are cut into
    active: int | None = None  # blocks that a token runs; None: half of them, at least 1
    coefficients: bool = True  # weight blocks by 2 p; false: a block runs as it is
    seed: int = 0  # of the routers

    def validate(self) -> None:
        self.require_positive("blocks")
        self.require(
            self.active is None or 1 <= self.active <= self.blocks,
            f"active must be in 1..{self.blocks}, got {self.active}",
        )

    @property
    def run(self) -> int:
        """A."""
        return self.active or max(1, self.blocks // 2)


class RoutedFeedForward(nn.Module):
    """A feed-forward network, plain or gated, of which each token runs some blocks; see the module.

    Its layers are those of the network that it is made from, by the same names. The tap "router" carries p.
    """

    def __init__(self, ffn: FeedForward | GatedFeedForward, config: RoutedConfig) -> None:
        super().__init__()
        self.config = config
        self.gated = isinstance(ffn, GatedFeedForward)
        if isinstance(ffn, GatedFeedForward):
            self.gate, self.up = ffn.gate, ffn.up
        else:
            self.expand = ffn.expand
        self.activation, self.dropout, self.contract = ffn.activation, ffn.dropout, ffn.contract
        if self.contract.in_features % config.blocks:
            raise ConfigError(
                f"{config.blocks} blocks do not divide {self.contract.in_features} hidden units"
            )
        self.router = nn.Linear(self.contract.out_features, config.blocks)
        self.probabilities = Tap("router")

    def forward(self, x: Tensor) -> Tensor:
        x_ZD = x.flatten(0, -2)
        p_ZN: Tensor = self.probabilities(self.router(x_ZD).sigmoid())
        runs_ZN = torch.zeros_like(p_ZN, dtype=torch.bool).scatter(1, self.chosen(p_ZN), True)
        size = self.contract.in_features // self.config.blocks
        y_ZD = torch.zeros_like(x_ZD)
        if self.contract.bias is not None:
            y_ZD = y_ZD + self.contract.bias
        for block in range(self.config.blocks):
            part = slice(block * size, (block + 1) * size)
            (tokens,) = runs_ZN[:, block].nonzero(as_tuple=True)
            c_Z1 = 2 * p_ZN[tokens, block, None] if self.config.coefficients else None
            h_ZF = self.dropout(self._hidden(x_ZD[tokens], part, c_Z1))
            y_ZD = y_ZD.index_add(0, tokens, _columns(self.contract, part, h_ZF, c_Z1).to(y_ZD.dtype))
        return y_ZD.view_as(x)

    def chosen(self, p_ZN: Tensor) -> Tensor:
        """The blocks that each token runs, in order: int64 [..., A]."""
        return p_ZN.topk(self.config.run, -1).indices.sort(-1).values

    def _hidden(self, x_ZD: Tensor, part: slice, c_Z1: Tensor | None) -> Tensor:
        if self.gated:
            gate_ZF: Tensor = self.activation(_rows(self.gate, part, x_ZD, c_Z1))
            return gate_ZF * _rows(self.up, part, x_ZD, c_Z1)
        h_ZF: Tensor = self.activation(_rows(self.expand, part, x_ZD, c_Z1))
        return h_ZF


@register_edit("routed_ffn", RoutedConfig)
def routed_ffn(model: Model, config: RoutedConfig) -> Model:
    """Routes every feed-forward network ("mlp" and "glu") of the model; weights stay, routers are new.

    Raises:
        ConfigError: there is none, or the blocks do not divide its hidden units.
    """
    generator, made = torch.Generator().manual_seed(config.seed), []

    def replace(module: nn.Module) -> nn.Module | None:
        if type(module) not in (FeedForward, GatedFeedForward):
            return None
        routed = RoutedFeedForward(module, config)  # type: ignore[arg-type]
        bound = routed.router.in_features**-0.5
        for parameter in routed.router.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
        routed.router.to(routed.contract.weight)
        made.append(routed)
        return routed.train(module.training)

    replace_modules(model, replace)
    if not made:
        raise ConfigError("routed_ffn: the model has no feed-forward network of the kinds mlp and glu")
    return model


def _rows(layer: nn.Linear, part: slice, x_ZD: Tensor, c_Z1: Tensor | None) -> Tensor:
    """Some outputs of a layer, the frozen part times c."""
    y = F.linear(x_ZD, layer.weight[part], None if layer.bias is None else layer.bias[part])
    y = y if c_Z1 is None else c_Z1 * y
    return y + x_ZD @ layer.left @ layer.right[part].mT if isinstance(layer, LoRALinear) else y


def _columns(layer: nn.Linear, part: slice, h_ZF: Tensor, c_Z1: Tensor | None) -> Tensor:
    """What some inputs add to the outputs of a layer, the frozen part times c, without the bias."""
    y = F.linear(h_ZF, layer.weight[:, part])
    y = y if c_Z1 is None else c_Z1 * y
    return y + h_ZF @ layer.left[part] @ layer.right.mT if isinstance(layer, LoRALinear) else y
