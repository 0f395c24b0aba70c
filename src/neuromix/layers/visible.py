"""Hidden patches: which they are, what is to be rebuilt of them, and how a net runs as if they were not there.

Masked pre-training shows a net a few patches of an image. Its 3x3 convolutions reach over the border of a patch, and
the zeros of hidden patches would enter the statistics of its batch-norms. `visible_only` prevents both, from outside.

Shapes: B batch, N = T*B samples, C channels, H W image or feature map, h w grid of L = h*w patches, K visible ones, P
numbers of a patch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from neuromix.core.errors import ConfigError


@contextmanager
def visible_only(module: nn.Module, visible_Bhw: Tensor) -> Iterator[None]:
    """Within the context each batch-norm of `module` sees the visible places alone, and gives zero elsewhere.

    Args:
        visible_Bhw: bool, which patches are visible; a map of more places than patches takes the nearest one's.
            Where T time steps are folded into the batch, they share the mask.
    """
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    handles = [handle for norm in norms for handle in _hide(norm, visible_Bhw)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hide(norm: nn.Module, visible_Bhw: Tensor) -> tuple[Any, Any]:
    """Hooks that hand a norm the visible places as samples [n, C, 1, 1], and put its output back onto the map."""
    places_NHW: list[Tensor] = []

    def gather(_: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        (x_NCHW,) = args
        grown_BHW = grown(visible_Bhw, x_NCHW.shape[-2])
        places_NHW.append(grown_BHW.repeat(len(x_NCHW) // len(grown_BHW), 1, 1))
        return (x_NCHW.movedim(1, -1)[places_NHW[-1]][..., None, None],)

    def scatter(_: nn.Module, __: Any, y_nC11: Tensor) -> Tensor:
        places = places_NHW.pop()
        y_NHWC = y_nC11.new_zeros(*places.shape, y_nC11.shape[1])
        y_NHWC = y_NHWC.index_put(places.nonzero(as_tuple=True), y_nC11[..., 0, 0])
        return y_NHWC.movedim(-1, 1)

    return norm.register_forward_pre_hook(gather), norm.register_forward_hook(scatter)


def grown(visible_Bhw: Tensor, height: int) -> Tensor:
    """The mask of a map of `height` rows, each patch a square of its places."""
    factor = height // visible_Bhw.shape[1]
    return visible_Bhw.repeat_interleave(factor, 1).repeat_interleave(factor, 2)


def grid_mask(kept_BK: Tensor, height: int, width: int) -> Tensor:
    """The patches with these row-major numbers, as a mask [B, height, width]."""
    mask_BL = torch.zeros(len(kept_BK), height * width, dtype=torch.bool, device=kept_BK.device)
    return mask_BL.scatter(1, kept_BK, True).view(-1, height, width)


def choose_visible(
    batch_size: int, patches: int, mask: float, generator: torch.Generator | None = None
) -> Tensor:
    """Numbers of the visible patches of each image, ascending: int64 [B, K], K = floor(patches * (1 - mask)).

    Each image has a set of its own, and each set is as likely as any other.

    Raises:
        ConfigError: none would be visible.
    """
    count = int(patches * (1 - mask))
    if count < 1:
        raise ConfigError(f"mask {mask} leaves none of {patches} patches visible; take a smaller one")
    order_BL = torch.rand(batch_size, patches, generator=generator).argsort(1)
    return order_BL[:, :count].sort(1).values


def patch_targets(image_BCHW: Tensor, side: int) -> Tensor:
    """What is to be rebuilt: the pixels of each patch [B, L, P], less their mean, over their deviation.

    The order in a patch is row, column, channel; the deviation is sqrt(unbiased variance + 1e-6).
    """
    patches_BLP = rearrange(image_BCHW, "B C (h r) (w c) -> B (h w) (r c C)", r=side, c=side)
    var, mean = torch.var_mean(patches_BLP, dim=-1, keepdim=True)
    return (patches_BLP - mean) / (var + 1e-6).sqrt()


def hidden_error(patches_BLP: Tensor, target_BLP: Tensor, kept_BK: Tensor) -> Tensor:
    """Mean squared error of the hidden patches: a number for the batch."""
    error_BL = (patches_BLP - target_BLP).square().mean(-1)
    hidden_BL = ~grid_mask(kept_BK, 1, error_BL.shape[1])[:, 0]
    return (error_BL * hidden_BL).sum() / hidden_BL.sum()
