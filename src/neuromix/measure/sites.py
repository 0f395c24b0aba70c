"""Site: one product in the code of one module, with what its operands held in all its calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from neuromix.measure.operands import Values


class Activation(NamedTuple):
    """One activation that enters a product, in one call."""

    values: Values
    is_sum: bool  # the outcome of another product that no neuron has read: never taken for spikes
    additions: int = 0  # that happen where it is not zero
    additions_by_value: int = 0  # if a spike of value n makes n of them

    @property
    def sends_spikes(self) -> bool:
        """Whether it holds binary or small integer spikes."""
        return self.values.level is not None and not self.is_sum


@dataclass
class Operand:
    """One activation that enters a product, all calls together.

    Attributes:
        elements, nonzero: numbers of its elements, and of those that are not zero.
        sends_spikes: it held spikes in every call.
        level: the largest spike.
        rate_macs: multiply-adds * share of non-zero elements; mean_macs: multiply-adds * mean value.
        additions, additions_by_value: as of `Activation`.
    """

    elements: int = 0
    nonzero: int = 0
    sends_spikes: bool = True
    level: int = 0
    rate_macs: float = 0.0
    mean_macs: float = 0.0
    additions: int = 0
    additions_by_value: int = 0

    def see(self, activation: Activation, macs: int) -> None:
        """Adds one call, of so many multiply-adds."""
        values = activation.values
        self.elements += values.elements
        self.nonzero += values.nonzero
        self.sends_spikes &= activation.sends_spikes
        self.level = max(self.level, values.level or 0)
        self.rate_macs += macs * values.rate
        self.mean_macs += macs * values.mean
        self.additions += activation.additions
        self.additions_by_value += activation.additions_by_value


@dataclass
class Site:
    """A product at one place of the code.

    Attributes:
        path: of the module that called it.
        copies: time steps that one call stands for (a static stem runs once for all of them).
        macs: multiply-adds by the shapes.
        bits: word length of the activations.
        operands: its activations: one, or two where two activations meet. None of them is a weight.
        chain: the spikes that entered the linear chain which ends here, with these multiply-adds; None where its
            input ends no such chain.
    """

    path: str
    copies: int
    macs: int = 0
    bits: int = 32
    operands: list[Operand] = field(default_factory=list)
    chain: Operand | None = field(default_factory=Operand)

    def see(self, macs: int, bits: int, activations: list[Activation], entered: Values | None) -> None:
        """Adds one call; `entered` are the spikes at the start of the chain, if its input ends one."""
        self.macs += macs
        self.bits = bits
        self.operands += [Operand() for _ in activations[len(self.operands) :]]
        for operand, activation in zip(self.operands, activations, strict=False):
            operand.see(activation, macs)
        if entered is None:
            self.chain = None
        elif self.chain is not None:
            self.chain.see(Activation(entered, is_sum=False), macs)
