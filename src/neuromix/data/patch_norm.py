"""Patch normalisation: every pixel relative to its neighbourhood, so that changed light says little.

Shapes: H W image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from neuromix.core.errors import ShapeError

_GREY = (0.299, 0.587, 0.114)  # of red, green, blue


def patch_normalised(image_HW: Tensor, window: int = 7) -> Tensor:
    """(x - mean) / std over the pixels of the window around each pixel that lie in the image, clipped to [-1, 1].

    The deviation is that of the population; a flat neighbourhood gives 0. Computed in float64.

    Args:
        window: side, odd.

    Raises:
        ShapeError: the window is even, or the image has not two axes.
    """
    if window < 1 or window % 2 == 0 or image_HW.dim() != 2:
        raise ShapeError(
            f"patch normalisation takes an image [H, W] and an odd window, got {list(image_HW.shape)} and {window}"
        )
    x = image_HW.double()
    padded = F.pad(x, (window // 2,) * 4, value=torch.nan)
    patches_HWK = padded.unfold(0, window, 1).unfold(1, window, 1).flatten(2)
    mean = patches_HWK.nanmean(-1)
    deviation = (patches_HWK - mean[..., None]).square().nanmean(-1).sqrt()
    return ((x - mean) / deviation).nan_to_num(nan=0.0).clamp(-1, 1)


def as_bytes(normalised: Tensor) -> Tensor:
    """Values in [-1, 1] as whole numbers 0 ... 255: floor(255 (1 + x) / 2), uint8."""
    return (255 * (1 + normalised) / 2).to(torch.uint8)


def grey(image_CHW: Tensor) -> Tensor:
    """A grey image [H, W] of one that is grey [1, H, W] or RGB [3, H, W]: 0.299 R + 0.587 G + 0.114 B."""
    if len(image_CHW) == 1:
        return image_CHW[0]
    return torch.einsum("chw,c->hw", image_CHW, image_CHW.new_tensor(_GREY))


def resized(image_CHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, without smoothing before, each pixel at its centre: as cv2 does."""
    return F.interpolate(image_CHW[None], size, mode="bilinear", align_corners=False)[0]
