"""H3: two state spaces with products between, a linear mixer that can look things up (Fu et al., ICLR 2023).

    k <- shift(k) + D_k k        y = diagonal(k v) + D k v        o = out(q y)

where the shift state space lets a key meet the value after it, and the diagonal one keeps their product for a query to
find. With heads of E channels, k v and q y are outer and inner products of heads. There is no activation and no norm.

Shapes: B batch, L tokens, D width, E channels of a head, H heads (D / E), N size of the states; E E an outer product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from neuromix.core import registry
from neuromix.core.config import Config
from neuromix.core.errors import ConfigError
from neuromix.layers.state_space import DiagonalSSM, Discrete, ShiftSSM
from neuromix.layers.time_step import wide
from neuromix.mixers.sequence import NO_TOKENS, FormConfig, SequenceMixer, Tokens, require_tokens
from neuromix.ops.runs import Runs


@dataclass(frozen=True)
class H3Config(FormConfig):
    """Config of H3."""

    d_state: int = 64  # N of the shift state space; the diagonal one has N/2 complex numbers
    head_dim: int = 1  # E
    n_ssm: int | None = None  # A and B of the diagonal state space, shared by the heads; None: one a head
    discretisation: Literal["bilinear", "zoh"] = "bilinear"
    dt_min: float = 0.001  # step widths start log-uniformly between dt_min and dt_max
    dt_max: float = 0.1
    # Channel of number e of head h in the output: e H + h, as the authors' plain code has it, or h E + e as their fast
    # one. The same for heads of one channel.
    output_order: Literal["head_last", "head_first"] = "head_last"
    chunk_size: int = 8192  # tokens of one FFT, the state being passed on to the next

    def validate(self) -> None:
        super().validate()
        self.require_positive("head_dim", "dt_min")
        self.require(self.d_state >= 2, f"d_state must be 2 or more, got {self.d_state}")
        self.require(
            self.dt_min <= self.dt_max, f"dt_min must not exceed dt_max, got {self.dt_min} and {self.dt_max}"
        )

    def heads(self, dim: int) -> int:
        """H for a model of width `dim`.

        Raises:
            ConfigError: heads that do not come out even, or n_ssm that does not divide them.
        """
        if dim % self.head_dim:
            raise ConfigError(f"H3Config: heads of {self.head_dim} channels do not divide a width of {dim}")
        heads = dim // self.head_dim
        if self.n_ssm is not None and (self.n_ssm < 1 or heads % self.n_ssm):
            raise ConfigError(f"H3Config: n_ssm must divide the {heads} heads, got {self.n_ssm}")
        return heads


class H3State(NamedTuple):
    """The states of both state spaces, in float32 or wider.

    Attributes:
        shift_BDN: of the keys, the newest first.
        diagonal_BEEHN2: N/2 complex numbers for each pair of key and value channel of a head, as (real, imaginary).
    """

    shift_BDN: Tensor
    diagonal_BEEHN2: Tensor


@registry.register("sequence-mixer", "h3", tiny={"d_state": 6, "head_dim": 2, "n_ssm": 4})
class H3(SequenceMixer):
    """x_BLD -> y_BLD. A convolution cannot pass over padding, so padded or packed rows go through it taken apart."""

    Config: ClassVar[type[Config]] = H3Config
    forms: ClassVar[tuple[str, ...]] = ("auto", "loop", "direct", "fft", "chunk")

    def __init__(self, config: H3Config, dim: int) -> None:
        super().__init__(config, dim)
        self.heads = config.heads(dim)
        self.q, self.k, self.v = (nn.Linear(dim, dim) for _ in range(3))
        self.shift = ShiftSSM(dim, config.d_state)
        self.shift_D = nn.Parameter(torch.randn(dim))
        self.diagonal = DiagonalSSM(
            self.heads,
            config.d_state // 2,
            copies=config.n_ssm,
            discretisation=config.discretisation,
            dt_min=config.dt_min,
            dt_max=config.dt_max,
        )
        self.D = nn.Parameter(torch.randn(self.heads))
        self.out = nn.Linear(dim, dim)

    def initial_state(self, like: Tensor) -> H3State:
        zeros, e = wide(like), self.config.head_dim
        return H3State(
            zeros.new_zeros(len(like), self.dim, self.config.d_state),
            zeros.new_zeros(len(like), e, e, self.heads, self.config.d_state // 2, 2),
        )

    def forward(
        self,
        x_BLD: Tensor,
        state: H3State | None = None,
        *,
        tokens: Tokens | None = None,
        return_state: bool = False,
    ) -> Any:
        self.require_width(x_BLD)
        tokens = require_tokens(tokens, x_BLD)
        if tokens == NO_TOKENS and x_BLD.shape[1] == 1:  # where a step needs no kernel and no transform
            x_BD = x_BLD[:, 0]
            y_BD, state = self.step(x_BD, self.initial_state(x_BD) if state is None else state)
            return (y_BD.unsqueeze(1), state) if return_state else y_BD.unsqueeze(1)
        if tokens == NO_TOKENS or not x_BLD.numel():
            return self._sequence(x_BLD, state, None, return_state)
        runs = Runs.of(x_BLD.shape[:2], *tokens)
        entering = None if state is None else H3State(*map(runs.enter, state))
        found = self._sequence(runs.split(x_BLD), entering, runs.lengths_R, return_state)
        if not return_state:
            return runs.join(found)
        return runs.join(found[0]), H3State(*map(runs.leave, found[1]))

    def step(self, x_BD: Tensor, state: H3State) -> tuple[Tensor, H3State]:
        q, raw, v = self.q(x_BD), self.k(x_BD), self.v(x_BD)
        shifted, shift = self.shift.step(raw, state.shift_BDN)
        k = shifted + self.shift_D * raw
        kv_BEEH = self._outer(k, v)
        y_BEEH, diagonal = self.diagonal.step(kv_BEEH, torch.view_as_complex(state.diagonal_BEEHN2))
        o_BD = self._inner(q, y_BEEH + self.D * kv_BEEH)
        return self.out(o_BD.to(x_BD.dtype)), H3State(shift, torch.view_as_real(diagonal))

    def _sequence(
        self, x_BLD: Tensor, state: H3State | None, lengths_B: Tensor | None, return_state: bool
    ) -> Any:
        """As `forward`, of rows whose first `lengths` tokens are real (None: all)."""
        length, pieces = x_BLD.shape[1], []
        size = {"loop": 1, "auto": self.chunk_size, "chunk": self.chunk_size}.get(self.form, length)
        system, kernel_HJ = self.diagonal.discrete(), self.diagonal.kernel(min(max(size, 1), length))
        for start in range(0, length, max(size, 1)):
            piece_BLD, last = x_BLD[:, start : start + size], start + size >= length
            left_B = None if lengths_B is None else (lengths_B - start).clamp(0, piece_BLD.shape[1])
            keep = return_state or not last
            y_BLD, state = self._convolve(piece_BLD, state, left_B, system, kernel_HJ, keep)
            pieces.append(y_BLD)
        y_BLD = torch.cat(pieces, 1) if pieces else x_BLD
        if not return_state:
            return y_BLD
        return y_BLD, self.initial_state(x_BLD.sum(1)) if state is None else state

    def _convolve(
        self,
        x_BLD: Tensor,
        state: H3State | None,
        lengths_B: Tensor | None,
        system: Discrete,
        kernel_HJ: Tensor,
        keep: bool,
    ) -> tuple[Tensor, H3State | None]:
        """The outputs, and the states after the real tokens if they are to be kept."""
        direct = self.form in ("direct", "loop")
        shift, diagonal = (None, None) if state is None else state
        diagonal = None if diagonal is None else torch.view_as_complex(diagonal)
        q_BDL, raw_BDL, v_BDL = (project(x_BLD).mT for project in (self.q, self.k, self.v))
        k_BDL = self.shift(raw_BDL, shift, direct=direct) + self.shift_D[:, None] * raw_BDL
        kv_BEEHL = self._outer(k_BDL.mT, v_BDL.mT).movedim(1, -1)
        y_BEEHL = self.diagonal(kv_BEEHL, diagonal, system=system, kernel_DJ=kernel_HJ, direct=direct)
        y_BEEHL = y_BEEHL + self.D[:, None] * kv_BEEHL
        o_BLD = self._inner(q_BDL.mT, y_BEEHL.movedim(-1, 1))
        y_BLD = self.out(o_BLD.to(x_BLD.dtype))
        if not keep:
            return y_BLD, None
        pairs_B = None if lengths_B is None else lengths_B[:, None, None]
        diagonal = self.diagonal.advance(kv_BEEHL, diagonal, pairs_B, system=system)
        return y_BLD, H3State(self.shift.advance(raw_BDL, shift, lengths_B), torch.view_as_real(diagonal))

    def _outer(self, k: Tensor, v: Tensor) -> Tensor:
        """Products of all channels of k [..., D] with all of v, head by head: [..., E of k, E of v, H]."""
        k_EH, v_EH = self._by_channel(k), self._by_channel(v)
        return k_EH.unsqueeze(-2) * v_EH.unsqueeze(-3)

    def _inner(self, q: Tensor, y_EEH: Tensor) -> Tensor:
        """sum over the channels of k of q y: [..., D]."""
        o_EH = (self._by_channel(q).unsqueeze(-2) * y_EEH).sum(-3)
        return (o_EH if self.config.output_order == "head_last" else o_EH.mT).flatten(-2)

    def _by_channel(self, x: Tensor) -> Tensor:
        """[..., D] as [..., E, H]."""
        return x.reshape(*x.shape[:-1], self.heads, self.config.head_dim).mT
