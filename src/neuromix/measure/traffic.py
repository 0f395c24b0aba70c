"""Data movement: how often numbers are read and written, by two views that enclose what hardware does.

Without reuse, every operand of every operation is an access to memory (as in E. Lemaire et al., An Analytical
Estimation of Spiking Neural Networks Energy Efficiency, ICONIP 2022): a layer of multiply-accumulates keeps its
partial sums in registers and writes each once; a layer that spikes drive adds to a sum in memory at each event, and
its neurons read and write their state at each step. With ideal reuse, each weight is moved once per inference, and
each input, output and state once per time step.
"""

from __future__ import annotations

from neuromix.measure.activations import Sent
from neuromix.measure.operations import Counts
from neuromix.measure.rules import Charge, CountingRule
from neuromix.measure.sites import Site


def site_traffic(site: Site, charge: Charge, samples: int) -> Counts:
    """What the products of one site move, all samples together.

    Args:
        charge: what the rule charges for them.
        samples: inferences; each loads the weights.
    """
    number, activations = charge.number, len(site.operands)
    moved = {
        "weight_read": (2 - activations) * number,
        "weight_load": samples * site.weights,
        "input_load": charge.events + charge.values,
        "output_store": charge.outputs,
    }
    if charge.kind == "mac":
        moved |= {
            "input_read": activations * number,
            "register_read": number,
            "register_write": number,
            "output_write": charge.outputs,
        }
    else:  # a spike is read once; what it meets, and the sum, at each addition
        moved |= {
            "input_read": charge.events + (activations - 1) * number,
            "sum_read": number,
            "sum_write": number,
        }
    return {(kind, charge.bits): amount for kind, amount in moved.items() if amount}


def neuron_traffic(sent: Sent, rule: CountingRule) -> Counts:
    """What spiking neurons move: their state at every step - it leaks, and is compared - and the spikes they send."""
    bits = rule.bits if rule.bits is not None else sent.bits
    moved = {
        "state_read": sent.states,
        "state_write": sent.states,
        "output_write": sent.nonzero,
        "state_load": sent.states,
        "state_store": sent.states,
        "output_store": sent.nonzero,
    }
    return {(kind, bits): amount for kind, amount in moved.items() if amount}
