"""Mamba: a state-space mixer whose input decides what is kept (Gu & Dao, "Mamba", 2023).

Each channel d has a state of N numbers. Step width, input and output weights depend on the token:

    h_t[d,n] = exp(delta_t[d] A[d,n]) h_{t-1}[d,n] + delta_t[d] B_t[n] x_t[d]
    y_t[d]   = sum_n C_t[n] h_t[d,n] + D[d] x_t[d]

between a short causal convolution and a gate. B enters by an Euler step, as in the released code; the paper prints the
exact zero-order hold.

Shapes: B batch, L tokens, D model width, C inner channels (expand * D), N state size, W width of the convolution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuromix.core import registry
from neuromix.core.config import Config
from neuromix.layers.short_conv import ShortConv
from neuromix.layers.time_step import initial_step_bias, wide
from neuromix.mixers.sequence import FormConfig, SequenceMixer, Tokens, require_tokens
from neuromix.ops.selective_scan import FORMS, selective_scan, selective_scan_step


@dataclass(frozen=True)
class MambaConfig(FormConfig):
    """Config of Mamba."""

    expand: float = 2.0  # inner channels are int(expand * dim)
    d_state: int = 16
    d_conv: int = 4
    dt_rank: int | None = None  # width that step widths are computed through; None: ceil(dim / 16)
    dt_min: float = 0.001  # step widths start log-uniformly between dt_min and dt_max
    dt_max: float = 0.1
    dt_init: Literal["random", "constant"] = "random"
    dt_scale: float = 1.0
    dt_init_floor: float = 1e-4
    conv_bias: bool = True
    bias: bool = False  # of the projections in and out
    selective: bool = True  # False: delta, B and C are learnt constants
    form: str = "auto"
    chunk_size: int = 64

    def validate(self) -> None:
        self.require_positive(
            "expand", "d_state", "d_conv", "dt_min", "dt_scale", "dt_init_floor", "chunk_size"
        )
        self.require(
            self.dt_rank is None or self.dt_rank > 0, f"dt_rank must be positive, got {self.dt_rank}"
        )
        self.require(
            self.dt_min <= self.dt_max, f"dt_min must not exceed dt_max, got {self.dt_min} and {self.dt_max}"
        )


class MambaState(NamedTuple):
    """The last W inputs of the convolution, oldest first, and the state of the scan (float32 or wider)."""

    conv_BCW: Tensor
    ssm_BCN: Tensor


@registry.register("sequence-mixer", "mamba", tiny={"d_state": 4, "dt_rank": 2})
class Mamba(SequenceMixer):
    """x_BLD -> y_BLD; padding is zeroed before and after the convolution and leaves the state as it is."""

    Config: ClassVar[type[Config]] = MambaConfig
    forms: ClassVar[tuple[str, ...]] = FORMS

    def __init__(self, config: MambaConfig, dim: int) -> None:
        super().__init__(config, dim)
        channels = int(config.expand * dim)
        config.require(channels > 0, f"expand {config.expand} leaves no channel of {dim}")
        self.channels = channels
        self.dt_rank = config.dt_rank or math.ceil(dim / 16)
        self.in_proj = nn.Linear(dim, 2 * channels, bias=config.bias)
        self.conv = ShortConv(channels, config.d_conv, bias=config.conv_bias, activation="silu")
        if config.selective:
            self.x_proj = nn.Linear(channels, self.dt_rank + 2 * config.d_state, bias=False)
            self.dt_proj = nn.Linear(self.dt_rank, channels)
        else:
            self.dt_bias = nn.Parameter(torch.empty(channels))
            self.B = nn.Parameter(torch.ones(config.d_state))
            self.C = nn.Parameter(torch.randn(config.d_state))
        self.A_log = nn.Parameter(torch.empty(channels, config.d_state))
        self.D = nn.Parameter(torch.ones(channels))
        self.out_proj = nn.Linear(channels, dim, bias=config.bias)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """A[d,n] = -(n+1); step widths between dt_min and dt_max; no bias of the projections."""
        config = self.config
        self.A_log.copy_(torch.arange(1, config.d_state + 1).log().expand_as(self.A_log))
        step_bias = self.dt_proj.bias if config.selective else self.dt_bias
        step_bias.copy_(initial_step_bias(self.channels, config.dt_min, config.dt_max, config.dt_init_floor))
        if config.selective:
            bound = config.dt_scale * self.dt_rank**-0.5
            low = -bound if config.dt_init == "random" else bound
            self.dt_proj.weight.uniform_(low, bound)
        for projection in (self.in_proj, self.out_proj):
            if projection.bias is not None:
                projection.bias.zero_()

    def initial_state(self, like: Tensor) -> MambaState:
        """Zeros."""
        ssm_BCN = wide(like.new_zeros(len(like), self.channels, self.config.d_state))
        return MambaState(self.conv.initial_state(like), ssm_BCN)

    def forward(
        self,
        x_BLD: Tensor,
        state: MambaState | None = None,
        *,
        tokens: Tokens | None = None,
        return_state: bool = False,
    ) -> Any:
        self.require_width(x_BLD)
        tokens = require_tokens(tokens, x_BLD)
        conv_BCW, ssm_BCN = state if state is not None else (None, None)
        x_BLC, z_BLC = self.in_proj(x_BLD).chunk(2, -1)
        x_BLC, conv_BCW = self.conv(x_BLC, conv_BCW, **tokens._asdict())
        delta_BLC, B, C = self._select(x_BLC)
        y_BLC, ssm_BCN = selective_scan(
            x_BLC,
            delta_BLC,
            self._A_CN(),
            B,
            C,
            ssm_BCN,
            **tokens._asdict(),
            form=self.form,
            chunk_size=self.chunk_size,
        )
        y_BLD = self._read_out(y_BLC, x_BLC, z_BLC)
        return (y_BLD, MambaState(conv_BCW, ssm_BCN)) if return_state else y_BLD

    def step(self, x_BD: Tensor, state: MambaState) -> tuple[Tensor, MambaState]:
        x_BC, z_BC = self.in_proj(x_BD).chunk(2, -1)
        x_BC, conv_BCW = self.conv.step(x_BC, state.conv_BCW)
        delta_BC, B, C = self._select(x_BC)
        y_BC, ssm_BCN = selective_scan_step(x_BC, delta_BC, self._A_CN(), B, C, state.ssm_BCN)
        return self._read_out(y_BC, x_BC, z_BC), MambaState(conv_BCW, ssm_BCN)

    def _select(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """delta [..., C], and B and C [..., N], of each token."""
        if not self.config.selective:
            B, C = (constant.expand(*x.shape[:-1], -1) for constant in (self.B, self.C))
            return F.softplus(wide(self.dt_bias)).expand(x.shape), B, C
        size = self.config.d_state
        low, B, C = self.x_proj(x).split([self.dt_rank, size, size], -1)
        # The bias is added in float32, whatever the matrix product was computed in.
        delta = F.softplus(wide(F.linear(low, self.dt_proj.weight)) + wide(self.dt_proj.bias))
        return delta, B, C

    def _A_CN(self) -> Tensor:
        return -torch.exp(wide(self.A_log))

    def _read_out(self, y: Tensor, x: Tensor, z: Tensor) -> Tensor:
        y = wide(y) + wide(self.D) * x
        projected: Tensor = self.out_proj((y * F.silu(z)).to(z.dtype))
        return projected
