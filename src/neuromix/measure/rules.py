"""CountingRule: the points where papers count differently, each a field; and what a rule charges for a product."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from neuromix.core import registry
from neuromix.core.config import Config
from neuromix.measure.operations import Counts
from neuromix.measure.sites import Operand, Site


@dataclass(frozen=True)
class CountingRule(Config):
    """How products become multiply-accumulates (mac) and accumulates (ac).

    A product whose activations are spikes costs accumulates, any other one costs all its multiply-accumulates.
    Not charged, as in every paper: norms (folded), scales (folded into thresholds), neurons, residual sums, biases,
    pooling and element-wise masks.

    | field          | "exact"  | "paper"    | others   |
    |----------------|----------|------------|----------|
    | additions      | counted  | rate       |          |
    | attention      | pairs    | rates      |          |
    | static_stem    | once     | every_step |          |
    | linear_chain   | mac      | spike      |          |
    | structure      | as_built | as_built   | fused    |
    | integer_spikes | value    | value      | nonzero  |
    | bits           | 32       | 32         | 16, null |
    """

    # Spikes times weights. counted: the additions that happen, borders included (of a convolution: spikes, each
    # times the outputs that it reaches). rate: MACs * share of non-zero elements, as if borders reached as many.
    additions: Literal["counted", "rate"] = "counted"
    # Activations times activations. pairs: non-zero entries that meet (of k^T v: sum over the tokens n of
    # nnz(k_n) * nnz(v_n)). rates: MACs * sum of the rates of those operands that are spikes.
    attention: Literal["pairs", "rates"] = "pairs"
    # What sees nothing but a static image (`core.time.Repeat`). once: as it runs. every_step: times the time steps.
    static_stem: Literal["once", "every_step"] = "once"
    # A layer that another linear layer feeds, with no neuron between: the 1x1 behind a depthwise convolution, the
    # parts of a RepConv. mac: its input is real. spike: MACs * rate of the spikes that entered the chain.
    linear_chain: Literal["mac", "spike"] = "mac"
    # fused: the net after its exact fusion (edit "fuse": a RepConv becomes one 3x3 convolution).
    structure: Literal["as_built", "fused"] = "as_built"
    # A spike of value n. value: n additions (as n binary sub-steps). nonzero: one.
    integer_spikes: Literal["value", "nonzero"] = "value"
    # Word length that operations are charged at, > 0; None: that of the operands.
    bits: int | None = 32

    def validate(self) -> None:
        self.require(self.bits is None or self.bits > 0, f"bits must be positive, got {self.bits}")


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "exact": {},
    "paper": {
        "additions": "rate",
        "attention": "rates",
        "static_stem": "every_step",
        "linear_chain": "spike",
    },
}
registry.register(
    "counting rule", "counting", config=CountingRule, build=lambda rule: rule, variants=PRESETS
)(CountingRule)


def counting_rule(counting: str | CountingRule, model: str = "") -> CountingRule:
    """The rule that a name means.

    Args:
        counting: "exact", "paper", or a rule, which is returned.
        model: a registered model whose entry may say, under `published[model]["counting"]`, where its paper
            differs from the preset "paper".

    Raises:
        UnknownNameError: no preset of that name.
    """
    if isinstance(counting, CountingRule):
        return counting
    _, rule = registry.find("counting rule", counting)
    assert isinstance(rule, CountingRule)
    if counting == "paper" and model in registry.names("model"):
        entry, _ = registry.find("model", model)
        rule = rule.replace(**entry.published.get(model, {}).get("counting", {}))
    return rule


class Charge(NamedTuple):
    """What a rule charges for the products of one site, all samples together.

    Attributes:
        kind: mac, or ac where spikes enter.
        number: of these operations.
        events: spikes that cause them; 0 for mac.
        values: numbers in those of its activations that are not sent as spikes.
        outputs: numbers that come out.
    """

    kind: Literal["mac", "ac"]
    bits: int
    number: float
    events: float
    values: float
    outputs: float

    @property
    def counts(self) -> Counts:
        """(kind, bits) -> number."""
        return {(self.kind, self.bits): self.number}


def charge(site: Site, rule: CountingRule) -> Charge:
    """What a rule charges for the products of one site."""
    times = site.copies if rule.static_stem == "every_step" else 1
    kind: Literal["mac", "ac"] = "ac"
    senders = [operand for operand in site.operands if operand.sends_spikes]
    if senders:
        number, senders = _additions(site, senders, rule)
        others = [operand for operand in site.operands if operand not in senders]
    elif rule.linear_chain == "spike" and site.chain is not None:
        number, senders, others = _at_rate(site.chain, rule), [site.chain], []
    else:
        kind, number, others = "mac", float(site.macs), site.operands
    return Charge(
        kind=kind,
        bits=rule.bits if rule.bits is not None else site.bits,
        number=times * number,
        events=times * sum(sender.nonzero for sender in senders),
        values=times * sum(operand.elements for operand in others),
        outputs=times * site.outputs,
    )


def _additions(site: Site, senders: list[Operand], rule: CountingRule) -> tuple[float, list[Operand]]:
    """Additions, and the operands whose spikes cause them."""
    of_activations = len(site.operands) == 2
    if (rule.attention == "rates") if of_activations else (rule.additions == "rate"):
        return sum(_at_rate(operand, rule) for operand in senders), senders
    # The operand with the smaller values sends: a binary query selects among the integer sums of k^T v.
    sender = min(senders, key=lambda operand: operand.level)
    by_value = rule.integer_spikes == "value"
    return float(sender.additions_by_value if by_value else sender.additions), [sender]


def _at_rate(operand: Operand, rule: CountingRule) -> float:
    return operand.mean_macs if rule.integer_spikes == "value" else operand.rate_macs
