"""What spikes through synapses with a delay each cost: an addition for every synapse that a spike reaches.

Shapes: E spikes, S inputs with their synapses, N neurons, X places in the current over time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import neuromix.ops.synapses  # noqa: F401 (defines the op)
from neuromix.measure.operands import sent
from neuromix.measure.products import Product, counts


@dataclass(frozen=True)
class SpreadSpikes(Product):
    """current[at[e, n]] += spikes[e] * weight[synapse[e], n]: E*N multiply-adds, of which none is saved."""

    spikes_E: Tensor
    weight_SN: Tensor

    @property
    def macs(self) -> int:  # type: ignore[override]
        return len(self.spikes_E) * self.weight_SN.shape[1]

    @property
    def dense(self) -> int:  # type: ignore[override]
        return self.macs

    @property
    def outputs(self) -> int:  # type: ignore[override]
        return self.macs

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        return (self.spikes_E, self.weight_SN)

    @property
    def operands(self) -> tuple[Tensor, ...]:
        return (self.spikes_E,)

    def additions(self, sender: int, by_value: bool, pairs: bool) -> int:
        """Each spike reaches N neurons."""
        return int(sent(self.spikes_E[:, None], (0, 1), by_value)) * self.weight_SN.shape[1]

    def effective(self) -> int:
        return self.additions(0, by_value=False, pairs=False)


@counts(torch.ops.neuromix.spread_spikes)
def _spread_spikes(_current_X: Tensor, spikes_E: Tensor, weight_SN: Tensor, *_: Tensor) -> list[Product]:
    return [SpreadSpikes(spikes_E, weight_SN)]
