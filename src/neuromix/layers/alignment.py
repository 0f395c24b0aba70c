"""How alike two networks see the same samples: centred kernel alignment (Kornblith et al., ICML 2019).

Shapes: B batch, D and E features of one sample and the other's; any leading axes, such as time steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neuromix.core.errors import ShapeError

_LEAST = 1e-7  # where features do not vary at all, so that their alignment is 0


def linear_cka(x_BD: Tensor, y_BE: Tensor) -> Tensor:
    """Linear CKA of two sets of features of the same samples, in [0, 1]: 1 for the same up to rotation and scale.

    With the Gram matrices K = X X^T and L = Y Y^T, centred over rows and columns,
    CKA = <K, L> / (||K|| ||L|| + 1e-7) in the Frobenius product: the biased estimate of HSIC. It needs memory for
    B x B numbers, however many features there are.

    Args:
        x_BD, y_BE: [..., B, D] and [..., B, E], floating point.

    Returns:
        [...], one number for each of the leading axes.

    Raises:
        ShapeError: they are not of the same samples.
    """
    if x_BD.shape[:-1] != y_BE.shape[:-1] or x_BD.dim() < 2:
        raise ShapeError(
            f"CKA compares features [..., B, D] of the same samples; given {list(x_BD.shape)} "
            f"and {list(y_BE.shape)}"
        )
    k_BB, l_BB = centred_gram(x_BD).flatten(-2), centred_gram(y_BE).flatten(-2)
    norms = torch.linalg.vector_norm(k_BB, dim=-1) * torch.linalg.vector_norm(l_BB, dim=-1)
    cka: Tensor = (k_BB * l_BB).sum(-1) / (norms + _LEAST)
    return cka


def centred_gram(x_BD: Tensor) -> Tensor:
    """H X X^T H with H = I - 1/B, [..., B, B]: inner products of the features about their mean."""
    gram_BB = x_BD @ x_BD.mT
    rows = gram_BB.mean(-1, keepdim=True)
    return gram_BB - rows - rows.mT + rows.mean(-2, keepdim=True)
