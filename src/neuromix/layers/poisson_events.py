"""Poisson spikes as events: what is drawn are the gaps between spikes, so that silence costs nothing.

Shapes: B images, I inputs, E events.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from neuromix.core.errors import ShapeError
from neuromix.ops.diehl_cook import STEP_MS
from neuromix.ops.synapses import Events


def poisson_events(rate_BI: Tensor, steps: int, uniform: Callable[[], Tensor]) -> Events:
    """Spikes of inputs that fire in each step with probability p = rate * dt, whatever they did before.

    The gap to the next spike is then geometric: 1 + floor(ln(1 - u) / ln(1 - p)), u uniform.

    Args:
        rate_BI: in Hz, >= 0.
        steps: of 0.1 ms.
        uniform: gives the next numbers u in [0, 1), [B, I] or [I]; with [I], all images share them, and a spike
            train depends on its own rate alone.

    Returns:
        events in order of time, whose row is the image.

    Raises:
        ShapeError: a rate is negative, not finite, or of more than a spike a step.
    """
    p_BI = rate_BI.double() * (STEP_MS * 1e-3)
    if not bool(((p_BI >= 0) & (p_BI < 1)).all()):
        raise ShapeError("rates must be in [0, 10000) Hz")
    log_miss_BI = torch.log1p(-p_BI)
    at_BI = torch.full_like(p_BI, -1)
    found = []
    while True:
        gap_BI = 1 + (torch.log1p(-uniform().double()) / log_miss_BI).floor()
        at_BI = torch.where(p_BI > 0, at_BI + gap_BI, torch.inf)
        image, source = (at_BI < steps).nonzero(as_tuple=True)
        if len(image) == 0:
            break
        found.append(torch.stack([at_BI[image, source].long(), image, source]))
    step, row, source = torch.cat(found, 1) if found else at_BI.new_zeros(3, 0, dtype=torch.int64)
    order = step.argsort(stable=True)
    return Events(step[order], row[order], source[order])
