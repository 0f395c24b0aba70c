"""Site: one product in the code of one module, with what its operands held in all its calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from neuromix.measure.operands import Values


class Work(NamedTuple):
    """What one product is by its shapes, and by the zeros in it.

    Attributes:
        macs, dense, outputs: as of `Product`.
        effective: multiply-adds in which neither factor is zero.
        weights: numbers in those of its factors that are weights.
        bits: word length of the activations.
    """

    macs: int
    dense: int
    effective: int
    outputs: int
    weights: int
    bits: int


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


@dataclass(eq=False)
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
        macs, dense, outputs: as of `Work`, all calls together.
        effective_macs, effective_acs: multiply-adds in which neither factor is zero, of the calls with real
            activations, and of those where one takes only the values -1, 0 and 1.
        weights, bits: as of `Work`; the same in every call.
        operands: its activations: one, or two where two activations meet. None of them is a weight.
        chain: the spikes that entered the linear chain which ends here, with these multiply-adds; None where its
            input ends no such chain.
    """

    path: str
    copies: int
    macs: int = 0
    dense: int = 0
    effective_macs: int = 0
    effective_acs: int = 0
    outputs: int = 0
    weights: int = 0
    bits: int = 32
    operands: list[Operand] = field(default_factory=list)
    chain: Operand | None = field(default_factory=Operand)

    def see(self, work: Work, activations: list[Activation], entered: Values | None) -> None:
        """Adds one call; `entered` are the spikes at the start of the chain, if its input ends one."""
        self.macs += work.macs
        self.dense += work.dense
        self.outputs += work.outputs
        if any(activation.values.ternary for activation in activations):
            self.effective_acs += work.effective
        else:
            self.effective_macs += work.effective
        self.weights, self.bits = work.weights, work.bits
        self.operands += [Operand() for _ in activations[len(self.operands) :]]
        for operand, activation in zip(self.operands, activations, strict=False):
            operand.see(activation, work.macs)
        if entered is None:
            self.chain = None
        elif self.chain is not None:
            self.chain.see(Activation(entered, is_sum=False), work.macs)
