"""Mamba-2: a selective state space with one decay a head, computed by matrix products (Dao & Gu, 2024).

    S_t = exp(dt_t A) S_{t-1} + B_t (dt_t x_t)^T        y_t = S_t^T C_t + D x_t

for each head, with A < 0 a number and dt_t a number a token; consecutive heads share B and C in groups. All three pass
a short causal convolution with x; a gated norm of each group follows. This is the recurrence of all linear attention,
with q = C, k = B, v = dt x.

Shapes: B batch, L tokens, D model width, H heads, P width of a head, G groups, N state size, C channels of the
convolution (H P + 2 G N), W its width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuromix.core import registry
from neuromix.core.config import Config
from neuromix.layers.gated_norm import GatedGroupRMSNorm
from neuromix.layers.short_conv import ShortConv
from neuromix.layers.time_step import initial_step_bias, wide
from neuromix.mixers.sequence import FormConfig, SequenceMixer, Tokens, require_tokens
from neuromix.ops.recurrence import FORMS, recurrence, recurrence_step


@dataclass(frozen=True)
class Mamba2Config(FormConfig):
    """Config of Mamba2."""

    d_state: int = 128
    d_conv: int = 4
    conv_init: float | None = None  # taps start uniformly within +- conv_init; None: as PyTorch's Conv1d
    expand: float = 2.0  # inner channels are int(expand * dim)
    headdim: int = 64
    d_ssm: int | None = None  # inner channels that pass the recurrence, the others are gated only; None: all
    ngroups: int = 1  # groups of heads that share B and C, and of channels that are normalised together
    A_init_range: tuple[float, float] = (1.0, 16.0)  # -A starts uniformly within
    D_has_hdim: bool = False  # D is a number a channel, not a head
    rmsnorm: bool = True  # False: gate only
    norm_before_gate: bool = False
    norm_eps: float = 1e-5
    dt_min: float = 0.001  # step widths start log-uniformly between dt_min and dt_max
    dt_max: float = 0.1
    dt_init_floor: float = 1e-4
    dt_limit: tuple[float, float | None] = (0.0, None)  # step widths are clamped to it; None: no upper limit
    learnable_init_states: bool = False
    bias: bool = False  # of the projections in and out
    conv_bias: bool = True
    chunk_size: int = 256

    def validate(self) -> None:
        super().validate()
        self.require_positive("d_state", "d_conv", "expand", "headdim", "ngroups", "A_init_range", "norm_eps")
        self.require_positive("dt_min", "dt_init_floor")
        for name in ("A_init_range", "dt_limit"):
            low, high = getattr(self, name)
            self.require(high is None or low <= high, f"{name} must not fall, got {getattr(self, name)}")
        self.require(
            self.dt_min <= self.dt_max, f"dt_min must not exceed dt_max, got {self.dt_min} and {self.dt_max}"
        )

    def sizes(self, dim: int) -> tuple[int, int, int]:
        """Inner channels, those of them in the recurrence, and heads, for a model of width `dim`.

        Raises:
            ConfigError: the heads or groups do not come out even.
        """
        inner = int(self.expand * dim)
        d_ssm = inner if self.d_ssm is None else self.d_ssm
        heads = d_ssm // self.headdim
        self.require(0 < d_ssm <= inner, f"d_ssm must be 1 to the {inner} inner channels, got {d_ssm}")
        self.require(
            d_ssm % self.headdim == 0, f"heads of {self.headdim} channels do not divide {d_ssm} channels"
        )
        self.require(heads % self.ngroups == 0, f"{self.ngroups} groups do not divide {heads} heads")
        return inner, d_ssm, heads


class Mamba2State(NamedTuple):
    """The last W inputs of the convolution, oldest first, and the state of the recurrence (float32 or wider)."""

    conv_BCW: Tensor
    ssm_BHNP: Tensor


class _Parts(NamedTuple):
    """What the projection of a token gives: [z0, x0, z, xBC, dt] of the authors, [...] their leading axes."""

    z_gated: Tensor
    x_gated: Tensor
    z: Tensor
    xBC: Tensor
    dt: Tensor


@registry.register("sequence-mixer", "mamba2", tiny={"d_state": 4, "headdim": 4, "ngroups": 2})
class Mamba2(SequenceMixer):
    """x_BLD -> y_BLD; padding is zeroed before and after the convolution and leaves the state as it is."""

    Config: ClassVar[type[Config]] = Mamba2Config
    forms: ClassVar[tuple[str, ...]] = FORMS

    def __init__(self, config: Mamba2Config, dim: int) -> None:
        super().__init__(config, dim)
        inner, d_ssm, self.heads = config.sizes(dim)
        d_bc = config.ngroups * config.d_state
        self.widths = _Parts(inner - d_ssm, inner - d_ssm, d_ssm, d_ssm + 2 * d_bc, self.heads)  # type: ignore[arg-type]
        self.in_proj = nn.Linear(dim, 2 * inner + 2 * d_bc + self.heads, bias=config.bias)
        self.conv = ShortConv(d_ssm + 2 * d_bc, config.d_conv, bias=config.conv_bias, activation="silu")
        self.dt_bias = nn.Parameter(torch.empty(self.heads))
        self.A_log = nn.Parameter(torch.empty(self.heads))
        self.D = nn.Parameter(torch.ones(d_ssm if config.D_has_hdim else self.heads))
        if config.learnable_init_states:
            self.init_states = nn.Parameter(torch.zeros(self.heads, config.d_state, config.headdim))
        if config.rmsnorm:
            self.norm = GatedGroupRMSNorm(
                d_ssm, config.ngroups, norm_before_gate=config.norm_before_gate, eps=config.norm_eps
            )
        self.out_proj = nn.Linear(inner, dim, bias=config.bias)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """A and the step widths within their ranges; no bias of the projections."""
        config = self.config
        self.dt_bias.copy_(initial_step_bias(self.heads, config.dt_min, config.dt_max, config.dt_init_floor))
        self.A_log.copy_(torch.empty(self.heads).uniform_(*config.A_init_range).log())
        if config.conv_init is not None:
            self.conv.conv.weight.uniform_(-config.conv_init, config.conv_init)
        for projection in (self.in_proj, self.out_proj):
            if projection.bias is not None:
                projection.bias.zero_()

    def initial_state(self, like: Tensor) -> Mamba2State:
        """Zeros; of the recurrence the learnt state, where there is one."""
        config = self.config
        if config.learnable_init_states:
            start_HNP = self._learnt_start()
        else:
            start_HNP = wide(like.new_zeros(self.heads, config.d_state, config.headdim))
        return Mamba2State(self.conv.initial_state(like), start_HNP.expand(len(like), -1, -1, -1))

    def forward(
        self,
        x_BLD: Tensor,
        state: Mamba2State | None = None,
        *,
        tokens: Tokens | None = None,
        return_state: bool = False,
    ) -> Any:
        self.require_width(x_BLD)
        tokens = require_tokens(tokens, x_BLD)
        state = state if state is not None else self.initial_state(x_BLD.sum(1))
        parts = self._project(x_BLD)
        xBC, conv_BCW = self.conv(parts.xBC, state.conv_BCW, **tokens._asdict())
        x_BLHP, B_BLGN, C_BLGN, dt_BLH = self._heads(xBC, parts.dt)
        log_decay_BLH = dt_BLH * self._A_H()
        y_BLHP, ssm_BHNP = recurrence(
            C_BLGN,
            B_BLGN,
            x_BLHP * dt_BLH[..., None],
            log_decay_BLH,
            state.ssm_BHNP,
            **tokens._asdict(),
            form=self.form,
            chunk_size=self.chunk_size,
        )
        if self.config.learnable_init_states and tokens.segments_BL is not None and x_BLD.shape[1]:
            kept_BLH = _kept_of_start(log_decay_BLH, tokens.segments_BL, tokens.mask_BL)
            C_BLHN = C_BLGN.repeat_interleave(self.heads // C_BLGN.shape[2], 2)
            start_HNP = self._learnt_start()
            y_BLHP = y_BLHP + kept_BLH[..., None] * torch.einsum("blhn,hnp->blhp", wide(C_BLHN), start_HNP)
            ssm_BHNP = ssm_BHNP + kept_BLH[:, -1, :, None, None] * start_HNP
        y_BLD = self._read_out(y_BLHP, x_BLHP, parts)
        return (y_BLD, Mamba2State(conv_BCW, ssm_BHNP)) if return_state else y_BLD

    def step(self, x_BD: Tensor, state: Mamba2State) -> tuple[Tensor, Mamba2State]:
        parts = self._project(x_BD)
        xBC, conv_BCW = self.conv.step(parts.xBC, state.conv_BCW)
        x_BHP, B_BGN, C_BGN, dt_BH = self._heads(xBC, parts.dt)
        v_BHP = x_BHP * dt_BH[..., None]
        y_BHP, ssm_BHNP = recurrence_step(C_BGN, B_BGN, v_BHP, dt_BH * self._A_H(), state.ssm_BHNP)
        return self._read_out(y_BHP, x_BHP, parts), Mamba2State(conv_BCW, ssm_BHNP)

    def _project(self, x: Tensor) -> _Parts:
        return _Parts(*self.in_proj(x).split(list(self.widths), -1))

    def _heads(self, xBC: Tensor, dt: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x [..., H, P], B and C [..., G, N], and the step widths [..., H], clamped."""
        config = self.config
        size = config.ngroups * config.d_state
        x, B, C = torch.split(xBC, [xBC.shape[-1] - 2 * size, size, size], -1)
        B, C = (torch.unflatten(part, -1, (config.ngroups, -1)) for part in (B, C))
        steps = F.softplus(wide(dt) + wide(self.dt_bias))
        if config.dt_limit != (0.0, None):
            steps = steps.clamp(*config.dt_limit)
        return torch.unflatten(x, -1, (self.heads, -1)), B, C, steps

    def _A_H(self) -> Tensor:
        return -torch.exp(wide(self.A_log))

    def _learnt_start(self) -> Tensor:
        return wide(self.init_states)

    def _read_out(self, y: Tensor, x: Tensor, parts: _Parts) -> Tensor:
        skip = torch.unflatten(self.D, 0, (self.heads, -1))  # [H, P] or [H, 1]
        y = (wide(y) + wide(skip) * x).flatten(-2)
        y = self.norm(y, parts.z) if self.config.rmsnorm else (y * F.silu(parts.z)).to(parts.z.dtype)
        if parts.x_gated.shape[-1]:
            y = torch.cat([F.silu(parts.z_gated) * parts.x_gated, y], -1)
        projected: Tensor = self.out_proj(y)
        return projected


def _kept_of_start(log_decay_BLH: Tensor, segments_BL: Tensor, mask_BL: Tensor | None) -> Tensor:
    """What is left at each token of the state that its segment began with; 0 in the first segment of a row.

    The state carried in, or the initial one, belongs to the first segment; the recurrence starts all others at zero.
    """
    mask_BL = torch.ones_like(segments_BL, dtype=torch.bool) if mask_BL is None else mask_BL
    place_L = torch.arange(segments_BL.shape[1], device=segments_BL.device)
    last_BL = torch.where(mask_BL, place_L, -1).cummax(1).values  # the real token at t or last before it
    before_BL = F.pad(last_BL[:, :-1], (1, 0), value=-1)
    changed_BL = segments_BL != segments_BL.gather(1, before_BL.clamp(min=0))
    begin_BL = torch.where(mask_BL & (before_BL >= 0) & changed_BL, place_L, -1).cummax(1).values
    log_BLH = torch.where(mask_BL[..., None], log_decay_BLH, 0.0)
    sum_BLH = log_BLH.cumsum(1)
    first_BLH = begin_BL.clamp(min=0)[..., None].expand_as(sum_BLH)
    since_BLH = sum_BLH - (sum_BLH - log_BLH).gather(1, first_BLH)
    return torch.where((begin_BL >= 0)[..., None], since_BLH.exp(), 0.0)
