"""Product quantiser: vectors as a few small codes, one for each of the parts that they are cut into.

Shapes: M parts, E codewords of a part, P width of a part; Z any leading axes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from neuromix.core.errors import ShapeError


class ProductQuantiser(nn.Module):
    """The nearest codeword in L1 of each part of z [..., M * P]; `weight` [M, E, P] starts standard normal."""

    def __init__(
        self, parts: int, codewords: int, width: int, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(parts, codewords, width, generator=generator))

    def distances(self, z: Tensor) -> Tensor:
        """L1 distances [M, Z, E]."""
        parts, _, width = self.weight.shape
        if z.shape[-1] != parts * width:
            raise ShapeError(f"the quantiser takes vectors of {parts} x {width} numbers, got {z.shape[-1]}")
        z_MZP = torch.unflatten(z, -1, (parts, width)).movedim(-2, 0).flatten(1, -2)
        wide = torch.promote_types(z.dtype, torch.float32)
        distance_MZE: Tensor = torch.cdist(z_MZP.to(wide), self.weight.to(wide), p=1.0)
        return distance_MZE

    @torch.no_grad()
    def encode(self, z: Tensor) -> Tensor:
        """Codes, int64 [..., M]."""
        return self.distances(z).argmin(-1).movedim(0, -1).reshape(*z.shape[:-1], len(self.weight))

    def decode(self, codes: Tensor) -> Tensor:
        """The codewords of codes [..., M] in a row: [..., M * P]."""
        return self.weight[torch.arange(len(self.weight), device=codes.device), codes].flatten(-2)

    def loss(self, z: Tensor) -> Tensor:
        """MSE(soft, hard) + MSE(z, hard), where soft mixes the codewords by weights 1 / distance.

        Gradients reach z and the codewords through all of it. Nothing but z is kept for backward.
        """
        loss: Tensor = checkpoint(self._loss, z, use_reentrant=False)
        return loss

    def _loss(self, z: Tensor) -> Tensor:
        distance_MZE = self.distances(z).clamp(min=1e-5)
        soft_MZE = (-distance_MZE.log()).softmax(-1)
        soft = (soft_MZE @ self.weight.to(soft_MZE.dtype)).movedim(0, -2).flatten(-2).view_as(z)
        codes = distance_MZE.argmin(-1).movedim(0, -1)
        hard = self.decode(codes).to(soft.dtype).view_as(z)
        return F.mse_loss(soft, hard) + F.mse_loss(z.to(soft.dtype), hard)
