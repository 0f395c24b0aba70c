"""L2MU: a Legendre memory unit of spiking neurons alone, for sensor windows (Fra et al., ICANN 2024).

Four populations of leaky neurons send each other nothing but spikes, step by step: u, which is what enters the memory;
m, the memory, whose currents are those of the Legendre system; h, the hidden state; and the output. Real samples may go
in as they are, as currents, so there is no coding into spikes before the net. The class is that whose output neuron
fires most.

Shapes: L steps of a window (T, time first), B batch, N channels of the sensor, U memories, D order of each, H hidden
neurons, K classes. Default values: the published net for all 27 Braille letters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Generator, Tensor, nn

from neuromix.core.batch import Batch
from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError, ShapeError
from neuromix.core.layout import Layout, Rule, drop, rename
from neuromix.core.model import Field, Model, ModelConfig
from neuromix.core.reference import load_reference, reference
from neuromix.core.registry import Paper, register_model
from neuromix.core.state import Stateful
from neuromix.layers.look_ahead import StepNorm
from neuromix.neurons.neuron import make_neuron
from neuromix.ops.legendre import legendre_system

PAPER = Paper(
    "Natively neuromorphic LMU architecture for encoding-free SNN-based HAR on commercial edge devices",
    2024,
    "ICANN",
    "https://arxiv.org/abs/2407.04076",
)
# As snnTorch's Leaky: fires above the threshold, subtracts it a step later, learns decay and threshold.
NEURON = Spec(
    "lif",
    {
        "v_reset": None,
        "decay_input": False,
        "compare": ">",
        "reset": "next",
        "surrogate": ["atan", {"alpha": 2.0}],
        "decay_form": "clamped",
        "learnable": ["decay", "v_threshold"],
    },
)
POPULATIONS = ("u", "h", "m", "output")


@dataclass(frozen=True)
class L2MUConfig(ModelConfig):
    """Config of L2MU."""

    in_channels: int = 12  # N
    hidden: int = 160  # H
    memories: int = 250  # U
    order: int = 4  # D
    theta: float = 7.0  # steps that a memory holds
    num_classes: int = 27
    neuron: Spec = NEURON
    # Of the populations u, h, m and output, in this order.
    decay: tuple[float, ...] = (0.65, 0.15, 0.35, 0.15)
    threshold: tuple[float, ...] = (0.1, 0.75, 0.4, 0.1)
    synapse_decay: tuple[float, ...] | None = None  # of neurons with a synaptic current, "cuba_lif"
    transpose_A: bool = True  # multiply the memory by the transpose of its matrix, as the authors' code does
    encoder: int | None = (
        None  # neurons that make spikes of the samples first; null: samples go in as they are
    )

    def validate(self) -> None:
        self.require_positive("in_channels", "hidden", "memories", "order", "theta", "num_classes")
        self.require(
            self.encoder is None or self.encoder > 0, f"encoder must be positive, got {self.encoder}"
        )
        for name in ("decay", "threshold", "synapse_decay"):
            values = getattr(self, name)
            self.require(values is None or len(values) == 4, f"{name} needs 4 values, got {values}")

    def spikes(self, population: str) -> Any:
        """The neurons of one population."""
        i = POPULATIONS.index(population)
        options: dict[str, Any] = {"decay": self.decay[i], "v_threshold": self.threshold[i]}
        if self.synapse_decay is not None:
            options["synapse_decay"] = self.synapse_decay[i]
        return make_neuron(self.neuron.with_options(**options))


class L2MUState(NamedTuple):
    """Spikes of the last step, of h [B, H] and m [B, U*D], and what the neurons of each population keep.

    Where neurons have a synaptic current beside their membrane potential, both stand in one tensor, [B, 2, ...].
    """

    h: Tensor
    m: Tensor
    keeps_u: Tensor
    keeps_h: Tensor
    keeps_m: Tensor
    keeps_output: Tensor


class L2MUCell(Stateful):
    """One step, with s the spikes of a population:

    s_u = LIF(E_x x + E_h s_h + E_m s_m); s_m = LIF(A s_m + B s_u) for each memory; s_h = LIF(W_x x + W_h s_h + W_m s_m)
    with the new s_m; output = LIF(W_o s_h + b).

    Attributes:
        A, B: fixed, [D, D] and [D, 1]; A is applied as it stands, which by default is transposed.
    """

    def __init__(self, config: L2MUConfig, inputs: int) -> None:
        super().__init__()
        hidden, memory = config.hidden, config.memories * config.order
        self.memories, self.order = config.memories, config.order
        self.e_x = nn.Linear(inputs, config.memories, bias=False)
        self.e_h = nn.Linear(hidden, config.memories, bias=False)
        self.e_m = nn.Linear(memory, config.memories, bias=False)
        self.w_x = nn.Linear(inputs, hidden, bias=False)
        self.w_h = nn.Linear(hidden, hidden, bias=False)
        self.w_m = nn.Linear(memory, hidden, bias=False)
        self.output = nn.Linear(hidden, config.num_classes)
        self.A = nn.Linear(config.order, config.order, bias=False).requires_grad_(False)
        self.B = nn.Linear(1, config.order, bias=False).requires_grad_(False)
        self.spikes_u, self.spikes_h, self.spikes_m, self.spikes_output = map(config.spikes, POPULATIONS)
        self._start(config)

    @torch.no_grad()
    def _start(self, config: L2MUConfig) -> None:
        for layer in (self.e_x, self.e_h):
            bound = (3 / layer.in_features) ** 0.5
            nn.init.uniform_(layer.weight, -bound, bound)
        nn.init.zeros_(self.e_m.weight)
        for layer in (self.w_x, self.w_h, self.w_m):
            nn.init.xavier_normal_(layer.weight)
        system = legendre_system(config.order, config.theta)
        if not self.A.weight.is_meta:
            self.A.weight.copy_(system.A_NN.T if config.transpose_A else system.A_NN)
            self.B.weight.copy_(system.B_N[:, None])

    def initial_state(self, like: Tensor) -> L2MUState:
        h_BH = like.new_zeros(len(like), self.w_h.out_features)
        m_BM = like.new_zeros(len(like), self.w_m.in_features)
        shapes = {
            "u": like.new_zeros(len(like), self.memories),
            "h": h_BH,
            "m": m_BM.view(-1, self.memories, self.order),
            "output": like.new_zeros(len(like), self.output.out_features),
        }
        kept = [_packed(getattr(self, f"spikes_{name}").initial_state(each)) for name, each in shapes.items()]
        return L2MUState(h_BH, m_BM, *kept)

    def forward(self, x_TBN: Tensor, state: L2MUState | None = None, *, return_state: bool = False) -> Any:
        """Samples [T, B, N] to output spikes [T, B, K]."""
        if state is None:
            state = self.initial_state(x_TBN[0])
        kept_output, steps = state.keeps_output, []
        for into_u_BU, into_h_BH in zip(self.e_x(x_TBN), self.w_x(x_TBN), strict=True):
            state = self._step(into_u_BU, into_h_BH, state)
            steps.append(state.h)
        # Nothing goes back from the output, so its neurons run over all steps at once.
        current_TBK, before = self.output(torch.stack(steps)), _unpacked(self.spikes_output, kept_output)
        y_TBK, after = self.spikes_output(current_TBK, before, return_state=True)
        return (y_TBK, state._replace(keeps_output=_packed(after))) if return_state else y_TBK

    def _step(self, into_u_BU: Tensor, into_h_BH: Tensor, state: L2MUState) -> L2MUState:
        """The state after one step, but for the output."""
        u_BU, keeps_u = _fire(self.spikes_u, into_u_BU + self.e_h(state.h) + self.e_m(state.m), state.keeps_u)
        m_BUD = state.m.reshape(-1, self.memories, self.order)
        m_BUD, keeps_m = _fire(self.spikes_m, self.A(m_BUD) + self.B(u_BU[..., None]), state.keeps_m)
        m_BM = m_BUD.flatten(1)
        h_BH, keeps_h = _fire(self.spikes_h, into_h_BH + self.w_h(state.h) + self.w_m(m_BM), state.keeps_h)
        return L2MUState(h_BH, m_BM, keeps_u, keeps_h, keeps_m, state.keeps_output)


def _fire(neurons: Any, current: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    spikes, state = neurons.step(current, _unpacked(neurons, kept))
    return spikes, _packed(state)


def _packed(state: tuple[Tensor, ...]) -> Tensor:
    return torch.stack(list(state), 1) if len(state) > 1 else state[0]


def _unpacked(neurons: Any, kept: Tensor) -> Any:
    return neurons.State(*(kept.unbind(1) if len(neurons.State._fields) > 1 else (kept,)))


class SpikeEncoder(nn.Module):
    """Samples as spikes that are learnt: linear, batch-norm, neurons, [T, B, N] to [T, B, E]."""

    def __init__(self, config: L2MUConfig, neurons: int) -> None:
        super().__init__()
        self.linear = nn.Linear(config.in_channels, neurons)
        self.norm = StepNorm(neurons)
        self.spikes = config.spikes("u")

    def forward(self, x_TBN: Tensor) -> Tensor:
        y_TBE: Tensor = self.spikes(self.norm(self.linear(x_TBN)))
        return y_TBE


# Ours, for windows of a worn sensor.
_NANO = {
    "in_channels": 6,
    "hidden": 64,
    "memories": 20,
    "theta": 10.0,
    "num_classes": 4,
    "decay": (0.65, 0.5, 0.5, 0.9),
    "threshold": (0.3, 0.4, 0.3, 0.3),
}


@register_model(
    "l2mu",
    paper=PAPER,
    tasks=("series-classification",),
    family="spiking",
    provenance="authors' code",
    variants={
        "l2mu_braille_27": {},
        "l2mu_braille_7": {
            "hidden": 120,
            "memories": 70,
            "order": 7,
            "theta": 10.0,
            "num_classes": 7,
            "decay": (0.8, 0.45, 0.2, 0.6),
            "threshold": (0.2, 0.65, 0.4, 0.15),
        },
        "l2mu_nano": _NANO,
    },
    tiny={**_NANO, "hidden": 12, "memories": 5, "order": 3, "in_channels": 3, "num_classes": 3},
    published={
        "l2mu_braille_27": {
            "parameters": 484_875,
            "scope": "trainable",  # of 484,895; the paper says 4.9e5
            "braille": 85.55,
        },
        "l2mu_braille_7": {
            "parameters": 119_035,
            "scope": "trainable",
            "parameters_m": 0.119,
            "braille": 97.14,
        },
    },
)
class L2MU(Model):
    """Series [B, L, N], samples of a sensor, to numbers of output spikes [B, K]."""

    Config: ClassVar[type[ModelConfig]] = L2MUConfig
    inputs = (Field("series", "BLN"),)
    stream_axis = 0

    def __init__(self, config: L2MUConfig) -> None:
        super().__init__(config)
        self.encoder = nn.Identity() if config.encoder is None else SpikeEncoder(config, config.encoder)
        self.cell = L2MUCell(config, config.encoder or config.in_channels)

    def encode(self, *inputs: Tensor) -> Tensor:
        (x_BLN,) = inputs
        channels = self.config.in_channels
        fits = x_BLN.dim() == 3 and x_BLN.shape[2] == channels and x_BLN.is_floating_point()
        if not fits or not x_BLN.shape[1]:
            raise ShapeError(
                f"expected a floating-point tensor [B, L, {channels}] with L 1 or more, "
                f"got {x_BLN.dtype} {list(x_BLN.shape)}"
            )
        return x_BLN.transpose(0, 1)

    def forward_steps(self, x: Tensor) -> Tensor:
        """Output spikes of each step: [T, B, N] to [T, B, K]."""
        y_TBK: Tensor = self.cell(self.encoder(x))
        return y_TBK

    def readout(self, y: Tensor) -> Tensor:
        """Spikes of each output neuron. Of equal numbers the class with the lower label wins, as argmax has it."""
        return y.sum(0)

    @classmethod
    def task_values(cls, config: L2MUConfig) -> Mapping[str, Any]:
        return {"label_smoothing": 0.0}

    def example(self, batch_size: int, generator: Generator | None = None) -> Batch:
        shape = (batch_size, 8, self.config.in_channels)
        return Batch({"series": torch.randn(shape, generator=generator)})

    @classmethod
    def layouts(cls, config: L2MUConfig) -> Mapping[str, Layout]:
        cell = _rules("l2mu_cell")
        return {"authors": Layout(*cell), "authors, Lightning": Layout(*_prefixed(cell, "model."))}


def _rules(theirs: str) -> list[Rule]:
    rules = [
        rename(f"{theirs}.{name}.weight", f"cell.{name.lower() if len(name) > 1 else name}.weight")
        for name in ("e_x", "e_h", "e_m", "W_x", "W_h", "W_m", "A", "B")
    ]
    rules.append(rename(f"{theirs}.output_transformation.*", "cell.output.*"))
    for name in POPULATIONS:
        spikes = f"{theirs}.spk_{name}"
        rules += [
            rename(f"{spikes}.threshold", f"cell.spikes_{name}.v_threshold"),
            rename(f"{spikes}.beta", f"cell.spikes_{name}.decay"),
            rename(f"{spikes}.alpha", f"cell.spikes_{name}.synapse_decay"),
            drop(f"{spikes}.graded_spikes_factor"),
            drop(f"{spikes}.reset_mechanism_val"),
        ]
    # An encoder of samples is ours.
    return [*rules, rename("encoder.*", "encoder.*")]


def _prefixed(rules: list[Rule], prefix: str) -> list[Rule]:
    return [rule._replace(theirs=prefix + rule.theirs) for rule in rules]


@reference("l2mu")
def read_authors(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    """Constructor values of the authors' cell; its sizes the weights tell."""
    sizes = {name.removeprefix("model."): tensor.shape for name, tensor in state.items()}
    needed = {name: f"l2mu_cell.{name}.weight" for name in ("e_x", "e_h", "A", "output_transformation")}
    missing = [name for name in needed.values() if name not in sizes]
    if missing:
        raise ConfigError(f"the weights have no {', '.join(missing)}: not a net of the L2MU authors")
    kind = str(config.get("neuron", "Leaky"))
    if kind not in ("Leaky", "Synaptic"):
        raise ConfigError(f"neuron is Leaky or Synaptic; given {kind!r}")
    memories, channels = sizes[needed["e_x"]]
    classes, hidden = sizes[needed["output_transformation"]]
    values = L2MUConfig().to_dict() | {
        "in_channels": channels,
        "hidden": hidden,
        "memories": memories,
        "order": sizes[needed["A"]][0],
        "theta": float(config.get("theta", 1)),
        "num_classes": classes,
        "decay": _of_populations("beta", config, state),
        "threshold": _of_populations("threshold", config, state),
    }
    if kind == "Synaptic":
        values["synapse_decay"] = _of_populations("alpha", config, state)
        learnable = ["decay", "v_threshold", "synapse_decay"]
        values["neuron"] = Spec("cuba_lif", {**NEURON.options, "learnable": learnable})
    return load_reference("l2mu", L2MUConfig.from_dict(values), state)


def _of_populations(name: str, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> tuple[float, ...]:
    """A number of each population as its constructor had it, else as its weight is, in the range of a fresh net."""
    stored = {n.removeprefix("model."): float(t) for n, t in state.items() if n.endswith(f".{name}")}
    found = {p: stored.get(f"l2mu_cell.spk_{p}.{name}") for p in POPULATIONS}
    values = [config.get(f"{name}_spk_{p}", found[p]) for p in POPULATIONS]
    lost = [p for p, value in zip(POPULATIONS, values, strict=True) if value is None]
    if lost:
        raise ConfigError(f"neither the config nor the weights say {name} of {', '.join(lost)}")
    return tuple(
        min(max(float(v), 1e-6), 1.0 if name != "threshold" else float("inf"))
        for v in values
        if v is not None
    )
