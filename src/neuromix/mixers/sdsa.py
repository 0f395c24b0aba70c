"""Spike-driven self-attention: attention on binary queries, keys and values, by masks and additions alone.

Shapes: T spike time, B batch, C channels, H W feature map, h heads, N tokens (H*W), K channels of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from einops import rearrange
from torch import Tensor, nn

from neuromix.core.config import Config, Spec
from neuromix.core.errors import ConfigError
from neuromix.core.observe import Tap
from neuromix.core.registry import register_mixer
from neuromix.core.time import fold
from neuromix.layers.binary_steps import binary_neuron, mean_of_steps
from neuromix.layers.conv import RepConvBN
from neuromix.mixers.mixer import SpatialMixer
from neuromix.neurons.integer import IntegerNeuron
from neuromix.neurons.neuron import make_neuron

Form: TypeAlias = Literal[1, 2, 3, 4]
Order: TypeAlias = Literal["kv", "qk"]


class SpikeAttention(nn.Module):
    """The attention itself, on spikes q, k, v [T, B, h, N, K]; x is the Hadamard product, SUM runs over tokens.

    form 1: q x neuron(SUM(k x v))
    form 2: neuron(SUM(q)) x v; k is not used
    form 3: neuron(q (k^T v) * scale)
    form 4: neuron(q (k^T v)) with a learnable threshold, which starts at v_threshold / scale

    Form 3 needs N*K*K additions a head instead of N*N*K, and its scale is the same as a larger threshold.

    Args:
        v_threshold: of the neuron; None leaves it as `neuron` says.
        order: which product of forms 3 and 4 comes first, q (k^T v) or (q k^T) v. The numbers are the same; the
            second is less work where there are fewer tokens than channels of a head.
    """

    def __init__(
        self, form: Form, scale: float, v_threshold: float | None, neuron: Spec, order: Order = "kv"
    ) -> None:
        super().__init__()
        self.form = form
        self.scale = scale
        self.order = order
        if v_threshold is not None:
            neuron = neuron.with_options(v_threshold=v_threshold)
            if form == 4:
                neuron = neuron.with_options(v_threshold=v_threshold / scale, learnable=["v_threshold"])
        self.neuron = make_neuron(neuron)

    def forward(self, q_TBhNK: Tensor, k_TBhNK: Tensor | None, v_TBhNK: Tensor) -> Tensor:
        if self.form == 2:
            gate: Tensor = self.neuron(q_TBhNK.sum(-2, keepdim=True))
            return gate * v_TBhNK
        assert k_TBhNK is not None
        if self.form == 1:
            gate = self.neuron((k_TBhNK * v_TBhNK).sum(-2, keepdim=True))
            return gate * q_TBhNK
        current = self.products(q_TBhNK, k_TBhNK, v_TBhNK)
        spikes: Tensor = self.neuron(current * self.scale if self.form == 3 else current)
        return spikes

    def products(self, q_TBhNK: Tensor, k_TBhNK: Tensor, v_TBhNK: Tensor) -> Tensor:
        """q k^T v, in the order that was asked for."""
        if self.order == "kv":
            return q_TBhNK @ (k_TBhNK.transpose(-2, -1) @ v_TBhNK)
        return (q_TBhNK @ k_TBhNK.transpose(-2, -1)) @ v_TBhNK

    def in_binary_steps(self, levels: int) -> nn.Module:
        """The form of forms 3 and 4 for the edit "binary_steps"."""
        if self.form in (1, 2):
            raise ConfigError(
                f"binary_steps: attention of form {self.form} opens gates, which integers do not"
            )
        assert isinstance(self.neuron, IntegerNeuron)
        return BinaryStepAttention(self.scale, self.neuron)


class BinaryStepAttention(nn.Module):
    """neuron(q (k^T v) * scale), where each of q, k and v comes as D binary steps a time step, [T*D, B, h, N, K].

    Keys add up the mean values, queries the mean of what keys gave: in every product one side is spikes.
    """

    def __init__(self, scale: float, neuron: IntegerNeuron) -> None:
        super().__init__()
        self.scale, self.levels = scale, neuron.levels
        self.neuron = binary_neuron(neuron)

    def forward(self, q_TBhNK: Tensor, k_TBhNK: Tensor, v_TBhNK: Tensor) -> Tensor:
        values = self._held(v_TBhNK)
        kv_TBhKK = self._held(k_TBhNK.transpose(-2, -1) @ values)
        spikes: Tensor = self.neuron(q_TBhNK @ kv_TBhKK * self.scale)
        return spikes

    def _held(self, x_TD: Tensor) -> Tensor:
        """The mean over the sub-steps, in each of them."""
        return mean_of_steps(x_TD, self.levels).repeat_interleave(self.levels, 0)


@dataclass(frozen=True)
class SDSAConfig(Config):
    """Config of SDSA."""

    form: Form = 3  # see SpikeAttention
    heads: int = 8
    scale: float = 0.125  # fixed, whatever the width of a head
    neuron: Spec = Spec("lif")
    attention_threshold: float = 0.5  # of the neuron inside the attention, which else is like the others
    attention_neuron: Spec | None = None  # another one there, threshold and all
    order: Order = "kv"  # see SpikeAttention

    def validate(self) -> None:
        self.require_positive("heads", "scale", "attention_threshold")
        self.require(
            self.form != 4 or self.attention_neuron is None,
            "form 4 learns the threshold of a neuron like the others; attention_neuron must be null",
        )


@register_mixer("sdsa")
class SDSA(SpatialMixer):
    """Spike-driven self-attention over the tokens of x_TBCHW, which is spikes.

    q, k, v = neuron(RepConv-BN(x)); y = RepConv-BN(attention(q, k, v)). Channels are split head-major.
    """

    Config = SDSAConfig
    takes_time = True

    def __init__(self, config: SDSAConfig, dim: int, size: tuple[int, int] | None = None) -> None:
        super().__init__(config, dim, size)
        if dim % config.heads:
            raise ConfigError(f"SDSA: heads must divide the width, got {config.heads} heads for width {dim}")
        projections = ("q", "v") if config.form == 2 else ("q", "k", "v")
        self.projections = nn.ModuleDict({name: self.projection(name) for name in projections})
        self.neurons = nn.ModuleDict({name: make_neuron(config.neuron) for name in projections})
        roles = {"q": "query", "k": "key", "v": "value"}
        self.taps = nn.ModuleDict({name: Tap(roles[name]) for name in projections})
        own = config.attention_neuron
        threshold = config.attention_threshold if own is None else None
        self.attention = SpikeAttention(
            config.form, config.scale, threshold, own or config.neuron, config.order
        )
        self.out = self.projection("out")

    def projection(self, name: str) -> nn.Module:
        """The linear map, with its batch-norm, that gives "q", "k", "v" or "out"."""
        return RepConvBN(self.dim)

    def forward(self, x_TBCHW: Tensor) -> Tensor:
        height, width = x_TBCHW.shape[-2:]
        heads = {name: self._heads(name, x_TBCHW) for name in self.projections}
        y_TBhNK = self.attention(heads["q"], heads.get("k"), heads["v"])
        y_TBCHW = rearrange(y_TBhNK, "T B h (H W) K -> T B (h K) H W", H=height, W=width)
        return fold(self.out, y_TBCHW)

    def _heads(self, name: str, x_TBCHW: Tensor) -> Tensor:
        spikes = self.neurons[name](fold(self.projections[name], x_TBCHW))
        split = rearrange(spikes, "T B (h K) H W -> T B h (H W) K", h=self.config.heads)
        tapped: Tensor = self.taps[name](split)
        return tapped
