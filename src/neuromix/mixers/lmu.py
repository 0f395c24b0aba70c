"""The Legendre memory unit without recurrent weights (Chilkuri & Eliasmith, ICML 2021; Liu et al., ICLR 2024).

u[t] = relu(w x[t]) is one number a token; a Legendre memory holds its last theta steps; h[t] = relu(W [m[t]; x[t]]).
Only the memory has a state, and it is linear, so that a whole sequence is one FFT and a step one small product.

Shapes: B batch, L tokens, D width, C channels of a memory, N its order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self, cast

import torch
from torch import Tensor, nn

from neuromix.core import registry
from neuromix.core.config import Config
from neuromix.core.state import Stateful
from neuromix.mixers.sequence import FormConfig, SequenceMixer, Tokens, require_tokens
from neuromix.ops._layout import arithmetic_dtype
from neuromix.ops.legendre import FORMS, Form, LegendreSystem, legendre_memory, legendre_system


class LegendreState(NamedTuple):
    """The memory after the last step, [B, C, N], in no less than float32."""

    m: Tensor


class LegendreMemory(Stateful):
    """The last `theta` steps of each channel as N coefficients: [B, L, C] to [B, L, C*N]; nothing in it is learnt.

    Args:
        order: N.
        theta: length of the window in steps.
        form, chunk_size: of `ops.legendre.legendre_memory`; may be set later.

    Attributes:
        A, B: [N, N] and [N]. Whatever dtype the model is brought to, they are the float64 ones rounded once, and of
            float32 at least; no part of a checkpoint.
    """

    time_axis: ClassVar[int] = 1
    A: Tensor
    B: Tensor

    def __init__(self, order: int, theta: float, form: Form = "auto", chunk_size: int = 64) -> None:
        super().__init__()
        self.order, self.theta, self.form, self.chunk_size = order, theta, form, chunk_size
        for name, matrix in zip("AB", legendre_system(order, theta), strict=True):
            self.register_buffer(
                name, matrix.to(torch.empty(0)), persistent=False
            )  # where models are made now
        self._exact()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._exact()
        return self

    def _exact(self) -> None:
        for name, matrix in zip("AB", legendre_system(self.order, self.theta), strict=True):
            own: Tensor = getattr(self, name)
            if own.is_floating_point() and not own.is_meta:
                setattr(self, name, matrix.to(own.device, arithmetic_dtype(own.dtype), copy=True))

    def initial_state(self, like: Tensor) -> LegendreState:
        return LegendreState(like.new_zeros(*like.shape, self.order, dtype=arithmetic_dtype(like.dtype)))

    def forward(
        self,
        u_BLC: Tensor,
        state: LegendreState | None = None,
        *,
        tokens: Tokens | None = None,
        return_state: bool = False,
    ) -> Any:
        """The memory after each step, or that and the state after the last."""
        mask_BL, segments_BL = require_tokens(tokens, u_BLC)
        m_BLCN, last_BCN = legendre_memory(
            u_BLC,
            self.order,
            self.theta,
            None if state is None else state.m,
            system=LegendreSystem(self.A, self.B) if self.A.dtype == arithmetic_dtype(u_BLC.dtype) else None,
            mask_BL=mask_BL,
            segments_BL=segments_BL,
            form=self.form,
            chunk_size=self.chunk_size,
        )
        m_BLC = m_BLCN.flatten(2)
        return (m_BLC, LegendreState(last_BCN)) if return_state else m_BLC

    def step(self, u_BC: Tensor, state: LegendreState) -> tuple[Tensor, LegendreState]:
        """One step, by the recurrence."""
        form, self.form = self.form, "loop"
        try:
            return cast("tuple[Tensor, LegendreState]", super().step(u_BC, state))
        finally:
            self.form = form

    def extra_repr(self) -> str:
        return f"order={self.order}, theta={self.theta:g}"


@dataclass(frozen=True)
class LMUConfig(FormConfig):
    """Config of LMU."""

    order: int | None = None  # N, coefficients of the memory; null: the width
    theta: float = 128.0  # tokens that the memory holds

    def validate(self) -> None:
        super().validate()
        self.require_positive("theta")
        self.require(self.order is None or self.order > 0, f"order must be positive, got {self.order}")


@registry.register("sequence-mixer", "lmu", tiny={"order": 6, "theta": 8.0})
class LMU(SequenceMixer):
    """h = relu(W [m; x]), m the Legendre memory of u = relu(w x).

    Attributes:
        encode, combine: w and W; memory comes first in [m; x].
    """

    Config: ClassVar[type[Config]] = LMUConfig
    forms: ClassVar[tuple[str, ...]] = FORMS

    def __init__(self, config: LMUConfig, dim: int) -> None:
        super().__init__(config, dim)
        order = config.order or dim
        self.encode = nn.Linear(dim, 1)
        self.memory = LegendreMemory(order, config.theta)
        self.combine = nn.Linear(order + dim, dim)
        self.activation = nn.ReLU()

    def initial_state(self, like: Tensor) -> LegendreState:
        return self.memory.initial_state(like[:, :1])

    def forward(
        self, x_BLD: Tensor, state: Any = None, *, tokens: Tokens | None = None, return_state: bool = False
    ) -> Any:
        self.require_width(x_BLD)
        self.memory.form, self.memory.chunk_size = cast(Form, self.form), self.chunk_size
        u_BL1 = self.activation(self.encode(x_BLD))
        m_BLN, state = self.memory(u_BL1, state, tokens=tokens, return_state=True)
        h_BLD = self.activation(self.combine(torch.cat([m_BLN, x_BLD], 2)))
        return (h_BLD, state) if return_state else h_BLD

    def step(self, x_BD: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One token, by the recurrence."""
        form, self.form = self.form, "loop"
        try:
            return super().step(x_BD, state)
        finally:
            self.form = form
