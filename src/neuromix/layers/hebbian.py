"""Lateral weights that find the principal subspace of the inputs of a layer by a local rule (HLOP).

Beside a layer stand lateral weights H, whose rows come to span the directions in which its inputs vary most, by a
Hebbian rule of Oja's kind (Xiao et al., ICLR 2024): no sample is stored, and no matrix is decomposed.

Shapes: N samples, m rows of H, n inputs.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuromix.core.errors import ShapeError


class HebbianSubspace(nn.Module):
    """Lateral weights H [m, n], which learn to span the principal subspace of the inputs that they are shown.

    Rows come in blocks, one after the other. The last block learns; those before it are fixed.

    Args:
        features: n.
        spiking: (scale s, steps): responses are rounded to what so many spikes of height s/steps can say, and
            clipped at s; None: real numbers.
    """

    weight: Tensor
    momentum: Tensor

    def __init__(self, features: int, spiking: tuple[float, int] | None = None) -> None:
        super().__init__()
        self.register_buffer("weight", torch.empty(0, features))
        self.register_buffer("momentum", torch.empty(0, features))
        self.blocks: tuple[int, ...] = ()  # rows of each
        self.spiking = spiking

    @property
    def fixed(self) -> int:
        """Rows that do not learn: those of all blocks but the last."""
        return sum(self.blocks[:-1])

    def add(self, rows: int, generator: torch.Generator | None = None) -> None:
        """Adds a block of rows, which is the one that learns from now on; up to n new rows are orthonormal."""
        new = torch.empty(rows, self.weight.shape[1])
        if rows:
            nn.init.orthogonal_(new, generator=generator)
        self.weight = torch.cat([self.weight, new.to(self.weight)])
        self.momentum = torch.cat([self.momentum, torch.zeros_like(new).to(self.momentum)])
        self.blocks = (*self.blocks, rows)

    def merge(self) -> None:
        """Makes one block of all."""
        self.blocks = (sum(self.blocks),)

    def rows(self, blocks: Iterable[int] | None = None) -> Tensor:
        """The rows of these blocks, counted from 0; None: all."""
        if blocks is None:
            return self.weight
        parts = torch.split(self.weight, list(self.blocks))
        return torch.cat([parts[block] for block in blocks])

    def respond(self, x_Nn: Tensor, rows_mn: Tensor | None = None) -> Tensor:
        """y = x H^T, [N, m], over these rows, by default all."""
        y_Nm = F.linear(x_Nn, self.weight if rows_mn is None else rows_mn)
        if self.spiking is None:
            return y_Nm
        scale, steps = self.spiking
        return (y_Nm.clamp(-scale, scale) / scale * steps).round() / steps * scale

    def project(self, x_Nn: Tensor, rows_mn: Tensor | None = None) -> Tensor:
        """y H, the part of x in the subspace: [N, n] to [N, n]."""
        rows_mn = self.weight if rows_mn is None else rows_mn
        return self.respond(x_Nn, rows_mn) @ rows_mn

    @torch.no_grad()
    def learn(self, x_Nn: Tensor, lr: float, *, iterations: int = 5, decay: float = 0.9) -> None:
        """Lets the last block learn from samples: Oja's rule for a subspace, with momentum.

        `iterations` times: G = clamp(y^T (x - y H) / N, -10, 10), D = decay*D + (1 - decay)*G, H += lr*D. Fixed rows
        take part in y, so that the last block learns what they leave over.

        Raises:
            ShapeError: samples of another width.
        """
        if x_Nn.dim() != 2 or x_Nn.shape[1] != self.weight.shape[1]:
            raise ShapeError(f"expected samples [N, {self.weight.shape[1]}], got {list(x_Nn.shape)}")
        if not self.blocks or self.blocks[-1] == 0:
            return
        x_Nn, free = x_Nn.to(self.weight), slice(self.fixed, None)
        for _ in range(iterations):
            y_Nm = self.respond(x_Nn)
            gradient = (y_Nm[:, free].T @ (x_Nn - y_Nm @ self.weight) / len(x_Nn)).clamp(-10, 10)
            self.momentum[free] = decay * self.momentum[free] + (1 - decay) * gradient
            self.weight[free] += lr * self.momentum[free]

    def extra_repr(self) -> str:
        return f"blocks={self.blocks}, features={self.weight.shape[1]}"
