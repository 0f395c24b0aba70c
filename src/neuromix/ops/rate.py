"""Mean rates of a spike sequence, and the gradient that sees a neuron only through them (Meng et al., CVPR 2022).

Over many steps a soft-reset neuron turns a mean input into a mean output as a clipped line does. Differentiation on
spike representation (DSR) goes forward by spikes and backward by that line, once for all steps.

Shapes: T spike time, then any neuron axes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from neuromix.ops._layout import require_steps


class RateResponse(NamedTuple):
    """The line that a neuron follows in the mean: slope * x_bar, clipped at x_bar = 0 and limit * v_threshold.

    `threshold_gain` is what the gradient of the clipped part is multiplied by on its way to the threshold. The slope
    counts between the ends only, or at them too where `closed`.
    """

    decay: float  # of the weights with which steps enter a mean, in (0, 1]
    slope: float
    limit: float
    threshold_gain: float = 1.0
    closed: bool = False


def weighted_rate(x_T: Tensor, decay: float = 1.0) -> Tensor:
    """R(x) = sum_t w_t x_t / sum_t w_t with w_t = decay^(T-t), t = 1..T: [T, ...] to [...].

    Raises:
        ShapeError: no step.
    """
    require_steps(x_T)
    if decay == 1 or len(x_T) == 1:
        return x_T.mean(0)
    weights_T = decay ** torch.arange(len(x_T) - 1, -1, -1, dtype=x_T.dtype, device=x_T.device)
    mean: Tensor = torch.tensordot(weights_T / weights_T.sum(), x_T, 1)
    return mean


def with_rate_gradient(x_T: Tensor, v_threshold: Tensor, y_T: Tensor, response: RateResponse) -> Tensor:
    """y_T with the gradient of the mean response.

    With x_bar = R(x), and g_bar = R(grad y): grad x_t = slope * g_bar where 0 < x_bar < limit * v_threshold, for every
    step t alike, and grad v_threshold = threshold_gain * T * sum of g_bar where x_bar > limit * v_threshold.

    Args:
        x_T: input of the neuron, [T, ...].
        v_threshold: broadcasts over a step.
        y_T: its output, of the shape of x_T; no gradient goes through it.
    """
    spikes_T: Tensor = _RateGradient.apply(x_T, v_threshold, y_T, response)  # type: ignore[no-untyped-call]
    return spikes_T


class _RateGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_T: Tensor, v_threshold: Tensor, y_T: Tensor, response: RateResponse) -> Tensor:
        ctx.save_for_backward(weighted_rate(x_T, response.decay), v_threshold)
        ctx.response = response
        return y_T.view_as(y_T)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (grad_T,) = grads
        x_bar, v_threshold = ctx.saved_tensors
        r: RateResponse = ctx.response
        g_bar, limit = weighted_rate(grad_T, r.decay), r.limit * v_threshold
        inside = (x_bar >= 0) & (x_bar <= limit) if r.closed else (x_bar > 0) & (x_bar < limit)
        grad_x = torch.where(inside, r.slope * g_bar, 0).expand_as(grad_T)
        clipped = torch.where(x_bar > limit, r.threshold_gain * len(grad_T) * g_bar, 0)
        return grad_x, clipped.sum_to_size(v_threshold.shape), None, None
