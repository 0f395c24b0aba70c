"""DCLS-Delays: a feed-forward spiking net that learns a delay for every synapse (Hammouamri et al., ICLR 2024).

Each layer delays what it is sent, by a different time for each pair of neurons, so that spikes which come one after
the other meet. With neurons that keep next to nothing (tau near 1 step), all memory of the net is in its delays. The
output goes on for `max_delay // 2` steps a layer after the input has ended.

Shapes: T time, B batch, N channels of the input, C neurons, K classes. Default values: the paper's net for SHD.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Generator, Tensor, nn

from neuromix.core.batch import Batch
from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError, ShapeError
from neuromix.core.layout import Layout, Rule, rename, reshape
from neuromix.core.model import Field, Model, ModelConfig
from neuromix.core.reference import load_reference, reference
from neuromix.core.registry import Paper, register_model
from neuromix.core.time import fold
from neuromix.layers.conv import bn_affine
from neuromix.layers.delay import Bump, Delay, DelayedSum
from neuromix.layers.sequence_dropout import SequenceDropout
from neuromix.neurons.neuron import make_neuron

PAPER = Paper(
    "Learning Delays in Spiking Neural Networks using Dilated Convolutions with Learnable Spacings",
    2024,
    "ICLR",
    "https://arxiv.org/abs/2306.17670",
)
NEURON = Spec("lif", {"tau": 1.005, "decay_input": False, "surrogate": ["atan", {"alpha": 5.0}]})
Readout: TypeAlias = Literal["softmax-sum", "mean", "max"]


@dataclass(frozen=True)
class DCLSConfig(ModelConfig):
    """Config of DCLS."""

    in_channels: int = 140  # N
    hidden: tuple[int, ...] = (256, 256)  # neurons of each hidden layer
    num_classes: int = 20
    max_delay: int = (
        25  # steps of a kernel, odd: delays are 0 to max_delay - 1; 1: none, which is a linear layer
    )
    synapses: int = 1  # of each pair of neurons
    bump: Bump = "gauss"  # the form of a synapse in training: gauss, max, v1 or v0
    width: float | None = (
        None  # of a synapse at the start, to be narrowed by the method "dcls"; null: max_delay // 2
    )
    learn_delays: bool = True  # false: delays stay as they are drawn, in whole steps
    round_delays: bool = True  # in evaluation a delay is a whole number of steps; false: as in training
    tail: int | None = None  # steps that a layer goes on after the end of its input; null: max_delay // 2
    neuron: Spec = NEURON
    dropout: float = 0.4  # one mask a sequence
    bias: bool = False
    # What the membranes of the last layer become over time: the sum of their softmax, their mean, their largest.
    readout: Readout = "softmax-sum"

    def validate(self) -> None:
        self.require_positive("in_channels", "hidden", "num_classes", "max_delay", "synapses")
        self.require(len(self.hidden) > 0, "hidden needs one layer or more")
        self.require(self.max_delay % 2 == 1, f"max_delay must be odd, got {self.max_delay}")
        self.require(self.width is None or self.width >= 0, f"width must be 0 or more, got {self.width}")
        self.require(self.tail is None or self.tail >= 0, f"tail must be 0 or more, got {self.tail}")
        self.require_within(0, 1, "dropout")

    def delay(self, inputs: int, outputs: int) -> Delay:
        """One layer of synapses."""
        return Delay(
            inputs,
            outputs,
            self.max_delay,
            synapses=self.synapses,
            bump=self.bump,
            width=self.width,
            learns=self.learn_delays,
            rounds=self.round_delays,
            bias=self.bias,
            tail=self.tail,
        )


class DelayBlock(nn.Module):
    """Delays -> batch-norm over T and B together -> neuron -> dropout: [T, B, C] to [T + tail, B, C]."""

    def __init__(self, inputs: int, outputs: int, config: DCLSConfig) -> None:
        super().__init__()
        self.delay: DelayedSum = config.delay(inputs, outputs)
        self.norm: nn.Module = nn.BatchNorm1d(outputs)
        self.neuron = make_neuron(config.neuron)
        self.dropout = SequenceDropout(config.dropout)

    def forward(self, x_TBC: Tensor) -> Tensor:
        spikes_TBC: Tensor = self.dropout(self.neuron(fold(self.norm, self.delay(x_TBC))))
        return spikes_TBC

    def fused(self) -> DelayBlock:
        """The same block with its norm in the weights of the delays, in eval mode."""
        block = copy.deepcopy(self)
        if isinstance(self.norm, nn.BatchNorm1d):
            block.delay, block.norm = block.delay.scaled(*bn_affine(self.norm)), nn.Identity()
        return block


class DelayReadout(nn.Module):
    """Delays -> membranes that never fire, one a class: [T, B, C] to [T + tail, B, K]."""

    def __init__(self, inputs: int, config: DCLSConfig) -> None:
        super().__init__()
        self.delay = config.delay(inputs, config.num_classes)
        leaks = {name: value for name, value in config.neuron.options.items() if name in _LEAK}
        self.membrane = make_neuron(Spec("leaky_integrator", leaks))

    def forward(self, x_TBC: Tensor) -> Tensor:
        v_TBK: Tensor = self.membrane(self.delay(x_TBC))
        return v_TBK


_LEAK = ("tau", "decay", "decay_input")


def _published(parameters: int, **accuracy: float) -> dict[str, Any]:
    return {"parameters": parameters, "scope": "trainable", **accuracy}


_SSC = {
    "num_classes": 35,
    "max_delay": 31,
    "hidden": (512, 512),
    "neuron": NEURON.with_options(tau=1.5),
    "dropout": 0.25,
}


@register_model(
    "dcls",
    paper=PAPER,
    tasks=("audio-classification",),
    family="spiking",
    provenance="authors' code",
    methods=("dcls",),
    variants={
        "dcls_shd": {},
        "dcls_ssc_2l_1k": _SSC,
        "dcls_ssc_2l_2k": {**_SSC, "synapses": 2},
        "dcls_ssc_3l_1k": {**_SSC, "hidden": (512, 512, 512)},
        "dcls_ssc_3l_2k": {**_SSC, "hidden": (512, 512, 512), "synapses": 2},
        # Ours, for a few thousand recordings.
        "dcls_nano": {"in_channels": 70, "hidden": (64, 64), "num_classes": 10, "dropout": 0.25},
        # Ours, for the made-up task of lags.
        "dcls_lags": {"in_channels": 2, "hidden": (16,), "num_classes": 8, "max_delay": 15, "dropout": 0.0},
    },
    tiny={
        "in_channels": 6,
        "hidden": (8, 8),
        "num_classes": 3,
        "max_delay": 5,
        "synapses": 2,
        "dropout": 0.1,
    },
    published={
        "dcls_shd": _published(214_016, shd=95.07),
        "dcls_ssc_2l_1k": _published(705_536, ssc=79.77, gsc=94.91),
        "dcls_ssc_2l_2k": _published(1_409_024, ssc=80.16, gsc=95.00),
        "dcls_ssc_3l_1k": _published(1_230_848, ssc=80.29, gsc=95.29),
        "dcls_ssc_3l_2k": _published(2_458_624, ssc=80.69, gsc=95.35),
    },
)
class DCLS(Model):
    """Spiking net with learnt delays: audio [T, B, N], counts or energies a step, to scores [B, K].

    In eval mode delays are whole steps, as they are on a chip; what is stored does not change.
    """

    Config: ClassVar[type[ModelConfig]] = DCLSConfig
    inputs = (Field("audio", "BN"),)
    stream_axis = 0

    def __init__(self, config: DCLSConfig) -> None:
        super().__init__(config)
        sizes = (config.in_channels, *config.hidden)
        self.blocks = nn.Sequential(*(DelayBlock(*pair, config) for pair in itertools.pairwise(sizes)))
        self.head = DelayReadout(sizes[-1], config)

    @classmethod
    def task_values(cls, config: DCLSConfig) -> Mapping[str, Any]:
        return {"label_smoothing": 0.0}

    def encode(self, *inputs: Tensor) -> Tensor:
        (x_TBN,) = inputs
        channels = self.config.in_channels
        if x_TBN.dim() != 3 or x_TBN.shape[2] != channels or not x_TBN.is_floating_point() or not len(x_TBN):
            raise ShapeError(
                f"expected a floating-point tensor [T, B, {channels}] with T 1 or more, "
                f"got {x_TBN.dtype} {list(x_TBN.shape)}"
            )
        return x_TBN

    def forward_steps(self, x: Tensor) -> Tensor:
        """The membranes of the last layer: [T, B, N] to [T + (hidden layers + 1) * tail, B, K]."""
        v_TBK: Tensor = self.head(self.blocks(x))
        return v_TBK

    def readout(self, y: Tensor) -> Tensor:
        """Scores [B, K] from the membranes of all steps; their softmax is what the loss takes the logarithm of."""
        how: Readout = self.config.readout
        if how == "max":
            return y.amax(0)
        return y.mean(0) if how == "mean" else y.softmax(2).sum(0)

    def parameter_rules(self) -> dict[str, dict[str, float]]:
        """Positions, which are counted in steps, move twenty times as fast as weights at their fastest."""
        return {"*.position": {"lr_scale": 20.0, "weight_decay": 0.0}}

    def example(self, batch_size: int, generator: Generator | None = None) -> Batch:
        shape = (batch_size, 10, self.config.in_channels)
        return Batch({"audio": torch.randint(0, 3, shape, generator=generator).float()})

    @classmethod
    def layouts(cls, config: DCLSConfig) -> Mapping[str, Layout]:
        rules: list[Rule] = []
        for layer in range(len(config.hidden)):
            rules += _delay_rules(f"model.{4 * layer}", f"blocks.{layer}.delay")
            rules.append(rename(f"model.{4 * layer + 1}.*", f"blocks.{layer}.norm.*"))
        return {"authors": Layout(*rules, *_delay_rules(f"model.{4 * len(config.hidden)}", "head.delay"))}


def _delay_rules(theirs: str, ours: str) -> list[Rule]:
    return [
        reshape(f"{theirs}.P", f"{ours}.position", _first, _as_first),
        reshape(f"{theirs}.SIG", f"{ours}.width", _first, _as_first),
        rename(f"{theirs}.*", f"{ours}.*"),
    ]


def _first(x: Tensor) -> Tensor:
    return x[0]


def _as_first(x: Tensor) -> Tensor:
    return x[None]


@reference("dcls-delays")
def read_authors(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    """Constructor values of the authors' net; its sizes the weights tell."""
    if config.get("stateful_synapse", False):
        raise ConfigError(
            "a synapse filter after the spikes is not part of this model: stateful_synapse must be off"
        )
    layers = sorted(int(m[1]) for name in state if (m := re.fullmatch(r"model\.(\d+)\.P", name)))
    if not layers:
        raise ConfigError("the weights have no model.0.P: not a net of the DCLS-Delays authors")
    weights = [state[f"model.{layer}.weight"] for layer in layers]
    max_delay = int(config.get("max_delay", 25))
    alpha = float(str(config.get("surrogate", "5")).split()[-1])
    neuron = NEURON.with_options(
        tau=float(config.get("tau", config.get("init_tau", 1.005))),
        v_threshold=float(config.get("v_threshold", 1.0)),
        v_reset=config.get("v_reset", 0.0),
        decay_input=bool(config.get("decay_input", False)),
        detach_reset=bool(config.get("detach_reset", True)),
        surrogate=["atan", {"alpha": alpha}],
    )
    values = DCLSConfig(
        in_channels=weights[0].shape[1],
        hidden=tuple(len(weight) for weight in weights[:-1]),
        num_classes=len(weights[-1]),
        max_delay=max_delay + (max_delay % 2 == 0),
        synapses=weights[0].shape[2],
        tail=None if "right_padding" not in config else int(config["right_padding"]),
        width=float(config.get("sigma_parameter", max_delay // 2)),
        bump=config.get("DCLSversion", "gauss"),
        neuron=neuron,
        dropout=float(config.get("dropout", 0.4)),
        bias=f"model.{layers[0]}.bias" in state,
    )
    return load_reference("dcls", values, state)
