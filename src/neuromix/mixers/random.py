"""A frozen random matrix over places ("MetaFormer Baselines for Vision", eq. 8).

Shapes: B batch, C channels, H W feature map, N = H*W tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from neuromix.core.registry import register_mixer
from neuromix.mixers.fixed_tokens import FixedTokensMixer


@register_mixer("random")
class Random(FixedTokensMixer):
    """y[m] = sum_n W[m, n] x[n], with W drawn once: softmax of uniform numbers along each row.

    W comes from PyTorch's random numbers when the mixer is built. It is never trained, but it is a parameter
    (`requires_grad=False`) as in the paper's code, so that checkpoints and counts of all parameters hold it.
    """

    def __init__(self, config: Any, dim: int, size: tuple[int, int] | None = None) -> None:
        super().__init__(config, dim, size)
        weights_NN = torch.rand(self.tokens, self.tokens).softmax(-1)
        self.random_matrix = nn.Parameter(weights_NN, requires_grad=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCN = self.flatten(x_BCHW) @ self.random_matrix.T
        return y_BCN.reshape(x_BCHW.shape)
