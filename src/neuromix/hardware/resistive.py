"""Resistive memory: arrays of cells whose conductances are the weights, and where a product is a current.

A weight is the difference of two cells, w = const * (G_plus - G_minus). Cells that nobody has programmed differ by
chance; that is where the random weights of a liquid state machine come from. Every read of a cell is a little off, and
some cells are stuck. The spread of the differences is the measured one of Lin et al. (2025). The mean of one cell is
not published; it is set so that cells stay positive to four deviations. Voltage and time of a read are assumed as well.

Shapes: H outputs, N inputs of an array.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuromix.core import registry
from neuromix.core.config import Config
from neuromix.core.errors import ConfigError
from neuromix.core.model import Model
from neuromix.core.observe import Noise
from neuromix.measure.figures import Profile

SPREAD = 6.61329  # deviation of conductance differences, microsiemens
CELL_SPREAD = SPREAD / math.sqrt(2)  # of one cell, as the two of a pair are independent


class Pairs(NamedTuple):
    """The conductances of an array, [H, N] each, in microsiemens, and the weight that a difference of 1 stands for."""

    plus: Tensor
    minus: Tensor
    const: float

    def weight(self) -> Tensor:
        """const * (G_plus - G_minus), [H, N]."""
        return self.const * (self.plus - self.minus)


@dataclass(frozen=True)
class Resistive(Config):
    """A chip of resistive memory; conductances in microsiemens.

    Weights that no training changes lie on the chip, or with `layers` those of the linear layers named. The others stay
    in digital logic.
    """

    layers: tuple[
        str, ...
    ] = ()  # globs over paths of linear layers that are on the chip; (): the frozen ones
    mean: float = 20.0  # of a cell, > 0
    highest: float = 40.0  # conductance of a cell that is stuck on, > 0; one that is stuck off has 0
    programming: float = 0.0  # deviation of a cell from what was written, as a share of it, >= 0
    read_noise: float = 0.0  # deviation of one read from the next, as a share of the conductance, >= 0
    stuck_off: float = 0.0  # share of cells, in [0, 1)
    stuck_on: float = 0.0  # likewise
    chip: int = 0  # seed of all that differs from one chip to the next
    volts: float = 0.2  # of a read, > 0
    nanoseconds: float = 50.0  # that it lasts, > 0

    def validate(self) -> None:
        self.require_positive("mean", "highest", "volts", "nanoseconds")
        self.require_within(0, 1, "stuck_off", "stuck_on")
        self.require(self.stuck_off + self.stuck_on < 1, "stuck_off and stuck_on leave no cell that works")
        for name in ("programming", "read_noise", "chip"):
            self.require(getattr(self, name) >= 0, f"{name} must be 0 or more, got {getattr(self, name)}")

    def pairs(self, weight_HN: Tensor, generator: torch.Generator) -> Pairs:
        """Cells that carry these weights, in float64, before anything goes wrong with them.

        Weights of the spread of the measured differences become two independent normal cells: sum and difference of
        such are independent as well, so the sum is drawn, and is raised where a cell would be below 0.
        """
        weight_HN = weight_HN.detach().double().cpu()
        const = (float(weight_HN.std(correction=0)) or SPREAD) / SPREAD
        difference_HN = weight_HN / const
        sum_HN = 2 * self.mean + SPREAD * _normal(weight_HN, generator)
        sum_HN = torch.maximum(sum_HN, difference_HN.abs())
        return Pairs((sum_HN + difference_HN) / 2, (sum_HN - difference_HN) / 2, const)

    def written(self, pairs: Pairs, generator: torch.Generator) -> Pairs:
        """The cells as they are on a real chip: written inexactly, and some of them stuck."""
        plus_HN, minus_HN = (self._cells(cells_HN, generator) for cells_HN in (pairs.plus, pairs.minus))
        return pairs._replace(plus=plus_HN, minus=minus_HN)

    def _cells(self, cells_HN: Tensor, generator: torch.Generator) -> Tensor:
        cells_HN = (cells_HN * (1 + self.programming * _normal(cells_HN, generator))).clamp_min(0)
        fate_HN = torch.rand(cells_HN.shape, generator=generator, dtype=cells_HN.dtype)
        cells_HN = cells_HN.masked_fill(fate_HN < self.stuck_off, 0.0)
        return cells_HN.masked_fill(fate_HN >= 1 - self.stuck_on, self.highest)

    def perturb(self, model: Model, generator: torch.Generator | None = None) -> Model:
        """A copy of a model whose layers on the chip are read from its cells.

        Args:
            generator: of the chip; None: that of `chip`. What is drawn at each read comes from the copy's Noise.

        Raises:
            ConfigError: no layer of the model is on the chip.
        """
        generator = torch.Generator().manual_seed(self.chip) if generator is None else generator
        device = copy.deepcopy(model)
        found = {path: layer for path, layer in device.named_modules() if self._holds(path, layer)}
        if not found:
            wanted = f"layer matches {', '.join(self.layers)}" if self.layers else "linear layer is frozen"
            raise ConfigError(f"no {wanted} in {model.name or type(model).__name__}: nothing is on the chip")
        for path, layer in found.items():
            assert isinstance(layer, nn.Linear)
            pairs = self.written(self.pairs(layer.weight, generator), generator)
            parent, _, name = path.rpartition(".")
            setattr(device.get_submodule(parent), name, ResistiveLinear(pairs, layer, self.read_noise))
        return device

    def _holds(self, path: str, layer: nn.Module) -> bool:
        if not isinstance(layer, nn.Linear):
            return False
        frozen = not any(p.requires_grad for p in layer.parameters())
        return any(fnmatchcase(path, glob) for glob in self.layers) if self.layers else frozen

    def cost(self, profile: Profile) -> Mapping[str, float]:
        """What a sample costs on the arrays; without converters and wires.

        Args:
            profile: of a model that `perturb` gave, without read noise, which is no work of the chip's.

        Returns:
            `cell_reads`: two for each weight that a spike (or a value that is not 0) reaches; `array_nanojoules`: each
            takes volts^2 * mean * nanoseconds.

        Raises:
            ConfigError: no layer of the profile is on the chip.
        """
        arrays = [layer for layer in profile.layers if layer.type == ResistiveLinear.__name__]
        if not arrays:
            raise ConfigError("no layer of this profile is on the chip; profile what perturb gives")
        reads = 2.0 * sum(layer.effective_acs + layer.effective_macs for layer in arrays)
        femtojoules = self.volts**2 * self.mean * self.nanoseconds  # of a read: V^2 uS ns
        return {"cell_reads": reads, "array_nanojoules": 1e-6 * reads * femtojoules}


registry.register("device", "resistive", config=Resistive, build=lambda config: config)(Resistive)


class ResistiveLinear(nn.Module):
    """y = const * sum_n (G_plus - G_minus)[h, n] x[n] + bias, where every read of a cell is off by its own noise.

    With independent relative deviations of each cell, at each step and for each sample, y is normal around its mean
    with variance (const * read_noise)^2 * sum_n (G_plus^2 + G_minus^2)[h, n] x[n]^2; so it is drawn as one number.
    """

    weight: Tensor
    power: Tensor
    bias: Tensor | None

    def __init__(self, pairs: Pairs, layer: nn.Linear, read_noise: float) -> None:
        super().__init__()
        self.read_noise = read_noise
        self.noise = Noise()
        power = pairs.const**2 * (pairs.plus.square() + pairs.minus.square())
        self.register_buffer("weight", pairs.weight().to(layer.weight))
        self.register_buffer("power", power.to(layer.weight))
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight, self.bias)
        if self.read_noise == 0:
            return y
        deviation = self.read_noise * F.linear(x.square(), self.power).sqrt()
        return y + deviation * self.noise.normal(tuple(y.shape), y)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}, read_noise={self.read_noise}"


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype)
