"""NIR's neurons in discrete time: one equation, and its coefficients in both notations.

NIR states `tau dv/dt = (v_leak - v) + r I`. Euler's forward rule with a time step dt makes of it

    h = decay*v + gain*x + offset,    decay = 1 - dt/tau,  gain = dt/tau * r,  offset = dt/tau * v_leak

and of the integrator `dv/dt = r I` the same with decay = 1, gain = dt * r, offset = 0. A synapse
`tau_syn dI/dt = -I + w_in S` steps before its membrane: e = synapse*e + x with synapse = 1 - dt/tau_syn, whose factor
dt/tau_syn * w_in is part of the gain. A neuron fires where h is *above* its threshold, and is set to v_reset. The
node Threshold is a neuron that forgets: decay = 0.

Arrays are float64, and have the shape of the node's value or one that is broadcast to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]

DT = 1e-4  # seconds: the time step that other tools take where a graph does not say

# The parameters of each neuron of NIR.
NEURONS: Mapping[str, tuple[str, ...]] = {
    "I": ("r",),
    "IF": ("r", "v_threshold", "v_reset"),
    "LI": ("tau", "r", "v_leak"),
    "LIF": ("tau", "r", "v_leak", "v_threshold", "v_reset"),
    "CubaLI": ("tau_syn", "tau_mem", "r", "v_leak", "w_in"),
    "CubaLIF": ("tau_syn", "tau_mem", "r", "v_leak", "w_in", "v_threshold", "v_reset"),
    "Threshold": ("threshold",),
}


class Coefficients(NamedTuple):
    """A neuron in discrete time.

    Attributes:
        threshold: above which it fires; None for an integrator, whose output is h.
        v_reset: after a spike.
        synapse: the decay of its current, None without one.
    """

    decay: Array
    gain: Array
    offset: Array
    threshold: Array | None = None
    v_reset: Array | None = None
    synapse: Array | None = None


def to_node(c: Coefficients, dt: float) -> Any:
    """The node of NIR with these coefficients, whose arrays all have the shape of its value.

    A decay is below 1 everywhere, or 1 everywhere: then there is neither offset nor synapse.
    """
    import nir

    firing = {} if c.threshold is None else {"v_threshold": c.threshold, "v_reset": c.v_reset}
    if (c.decay == 1).all():
        return (nir.IF if firing else nir.I)(r=c.gain / dt, **firing)
    leak = 1 - c.decay
    membrane = {"r": c.gain / leak, "v_leak": c.offset / leak}
    if c.synapse is None:
        return (nir.LIF if firing else nir.LI)(tau=dt / leak, **membrane, **firing)
    current = {"tau_syn": dt / (1 - c.synapse), "w_in": 1 / (1 - c.synapse)}
    return nir.CubaLIF(tau_mem=dt / leak, **membrane, **current, **firing)


def from_parameters(p: Mapping[str, Array], dt: float) -> Coefficients:
    """The coefficients of a neuron with these parameters of NEURONS; not finite where a time constant is 0."""
    zero, one = np.zeros(()), np.ones(())
    if "threshold" in p:
        return Coefficients(zero, one, zero, p["threshold"], zero)
    firing = {"threshold": p.get("v_threshold"), "v_reset": p.get("v_reset")}
    tau = p.get("tau", p.get("tau_mem"))
    if tau is None:
        return Coefficients(one, dt * p["r"], zero, **firing)
    with np.errstate(divide="ignore", invalid="ignore"):
        leak = dt / tau
        gain, synapse = leak * p["r"], None
        if "tau_syn" in p:
            current = dt / p["tau_syn"]
            gain, synapse = gain * (current * p["w_in"]), 1 - current
        return Coefficients(1 - leak, gain, leak * p["v_leak"], synapse=synapse, **firing)


def below_level(level: int, gain: float, levels: int) -> float:
    """The largest float32 x for which floor(clamp(gain x, 0, levels) + 1/2) is less than `level`, in float32."""
    down, up = np.float32(-np.inf), np.float32(np.inf)

    def is_below(x: np.float32) -> bool:
        z = np.clip(x * np.float32(gain), np.float32(0), np.float32(levels))
        return bool(np.floor(z + np.float32(0.5)) < level)

    x = np.float32((level - 0.5) / gain)
    while is_below(x):
        x = np.nextafter(x, up)
    while not is_below(x):
        x = np.nextafter(x, down)
    return float(x)
