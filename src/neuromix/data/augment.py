"""Augmentation in plain tensor code: functions of (image, generator) for one image, mixes for a whole batch.

Images are image_CHW, float, in [0, 1], before normalisation; what comes from outside the image is black.
All chance comes from the generator that is passed, so a sample can be made again. `policy` names the usual
combinations.

Shapes: B batch, C channels, H W image, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from neuromix.core.batch import Batch
from neuromix.core.errors import ConfigError, ShapeError, UnknownNameError

Augment = Callable[[Tensor, Generator], Tensor]  # (image_CHW, generator) -> image_CHW
Mix = Callable[[Batch, Generator, int, float], Batch]  # (batch, generator, classes, alpha) -> batch


@dataclass(frozen=True)
class Compose:
    """Several augmentations, one after another. (A class, because workers may have to pickle it.)"""

    steps: tuple[Augment, ...]

    def __call__(self, image_CHW: Tensor, generator: Generator) -> Tensor:
        for step in self.steps:
            image_CHW = step(image_CHW, generator)
        return image_CHW


def random_crop(image_CHW: Tensor, generator: Generator, padding: int = 4) -> Tensor:
    """A window of the same size from the image with a black border of `padding` pixels."""
    height, width = image_CHW.shape[1:]
    top, left = torch.randint(2 * padding + 1, (2,), generator=generator).tolist()
    return F.pad(image_CHW, (padding,) * 4)[:, top : top + height, left : left + width]


def horizontal_flip(image_CHW: Tensor, generator: Generator, p: float = 0.5) -> Tensor:
    """The mirrored image with probability p."""
    return image_CHW.flip(2) if _uniform(generator) < p else image_CHW


def random_erasing(
    image_CHW: Tensor,
    generator: Generator,
    p: float = 0.25,
    area: tuple[float, float] = (0.02, 0.33),
    ratio: tuple[float, float] = (0.3, 3.3),
) -> Tensor:
    """Fills a random rectangle with noise in [0, 1], with probability p (Zhong et al., AAAI 2020).

    Args:
        image_CHW: float, in [0, 1].
        generator: source of chance.
        p: probability.
        area: range of the rectangle's share of the image.
        ratio: range of its height / width, drawn on a log scale.
    """
    if _uniform(generator) >= p:
        return image_CHW
    pixels = image_CHW[0].numel() * _uniform(generator, *area)
    aspect = math.exp(_uniform(generator, *map(math.log, ratio)))
    rows, columns = _window(image_CHW, math.sqrt(pixels * aspect), math.sqrt(pixels / aspect), generator)
    erased_CHW = image_CHW.clone()
    hole_CHW = erased_CHW[:, rows, columns]
    hole_CHW.copy_(torch.rand(hole_CHW.shape, generator=generator))
    return erased_CHW


def random_affine(
    image_CHW: Tensor,
    generator: Generator,
    degrees: float = 10.0,
    translate: float = 0.1,
    scale: tuple[float, float] = (0.9, 1.1),
) -> Tensor:
    """Rotates, scales and shifts the image by small random amounts, with bilinear sampling.

    Args:
        image_CHW: float.
        generator: source of chance.
        degrees: largest rotation to either side.
        translate: largest shift, as a share of height and of width.
        scale: range of the magnification.
    """
    return warp(
        image_CHW,
        angle=math.radians(_uniform(generator, -degrees, degrees)),
        scale=_uniform(generator, *scale),
        shift=(_uniform(generator, -translate, translate), _uniform(generator, -translate, translate)),
    )


def warp(
    image_CHW: Tensor,
    angle: float = 0.0,
    scale: float = 1.0,
    shift: tuple[float, float] = (0.0, 0.0),
    shear: float = 0.0,
) -> Tensor:
    """The image rotated by `angle` (radians), magnified, sheared along x, and shifted by shares of (H, W)."""
    height, width = image_CHW.shape[1:]
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    # Output pixel -> input pixel, in coordinates from -1 to 1 along each axis; hence the aspect ratio.
    matrix = image_CHW.new_tensor(
        [[cos, (shear - sin) * height / width], [sin * width / height, cos]],
    )
    offset = -2 * matrix @ image_CHW.new_tensor([shift[1], shift[0]])
    theta = torch.cat([matrix, offset[:, None]], dim=1)
    grid = F.affine_grid(theta[None], [1, *image_CHW.shape], align_corners=False)
    return F.grid_sample(image_CHW[None], grid, align_corners=False)[0]


def colour_jitter(
    image_CHW: Tensor, generator: Generator, brightness: float = 0.4, contrast: float = 0.4
) -> Tensor:
    """Scales brightness and contrast by random factors in [1 - x, 1 + x]; stays in [0, 1]."""
    image_CHW = _brightness(image_CHW, _uniform(generator, 1 - brightness, 1 + brightness))
    return _contrast(image_CHW, _uniform(generator, 1 - contrast, 1 + contrast))


def rand_augment(image_CHW: Tensor, generator: Generator, count: int = 2, magnitude: float = 0.5) -> Tensor:
    """`count` random changes, each of strength up to `magnitude` in [0, 1] to either side.

    After RandAugment (Cubuk et al., 2020), with the changes that are few lines on tensors.
    """
    for choice in torch.randint(len(_CHANGES), (count,), generator=generator).tolist():
        image_CHW = _CHANGES[choice](image_CHW, _uniform(generator, -magnitude, magnitude))
    return image_CHW


def mixup(batch: Batch, generator: Generator, classes: int, alpha: float = 0.8) -> Batch:
    """Blends every image and label with those of another sample (Zhang et al., ICLR 2018).

    Args:
        batch: "image" [B, C, H, W], float, and "label": [B], int64, or [B, K], float (already soft).
        generator: source of chance.
        classes: K.
        alpha: the blend is drawn from Beta(alpha, alpha), once a batch; > 0.

    Returns:
        The batch with "image" blended and "label" [B, K], float32, rows summing to 1. Other fields stay.

    Raises:
        ShapeError: a field is missing or a label is outside [0, K).
    """
    image_BCHW, label_BK = batch.tensor("image"), soft_labels(batch.tensor("label"), classes)
    other = torch.randperm(batch.size, generator=generator).to(image_BCHW.device)
    weight = _beta(generator, alpha)
    return batch.replace(
        image=torch.lerp(image_BCHW[other], image_BCHW, weight),
        label=torch.lerp(label_BK[other], label_BK, weight),
    )


def cutmix(batch: Batch, generator: Generator, classes: int, alpha: float = 1.0) -> Batch:
    """Puts a rectangle of another image into every image; labels by area (Yun et al., ICCV 2019).

    Arguments, result and errors as for `mixup`.
    """
    image_BCHW, label_BK = batch.tensor("image").clone(), soft_labels(batch.tensor("label"), classes)
    other = torch.randperm(batch.size, generator=generator).to(image_BCHW.device)
    height, width = image_BCHW.shape[2:]
    side = math.sqrt(1 - _beta(generator, alpha))
    rows, columns = _window(image_BCHW[:1, 0], side * height, side * width, generator)
    image_BCHW[:, :, rows, columns] = image_BCHW[other][:, :, rows, columns]
    weight = 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
    return batch.replace(image=image_BCHW, label=torch.lerp(label_BK[other], label_BK, weight))


def soft_labels(label: Tensor, classes: int) -> Tensor:
    """Labels [B], int64, in [0, classes) as probabilities [B, classes], float32; soft ones stay."""
    if label.ndim == 2 and label.shape[1] == classes and label.is_floating_point():
        return label
    if label.ndim != 1 or label.is_floating_point():
        raise ShapeError(f"labels are [B] or [B, {classes}]; given {label.dtype} {list(label.shape)}")
    if label.numel() and not 0 <= int(label.min()) <= int(label.max()) < classes:
        raise ShapeError(f"labels are in [0, {classes}); given {int(label.min())} to {int(label.max())}")
    return F.one_hot(label.long(), classes).float()


POLICIES: Mapping[str, tuple[Augment, ...]] = {
    "none": (),
    "digits": (random_affine,),  # no flips: they make other digits
    "crop-flip": (random_crop, horizontal_flip),
    "natural": (random_crop, horizontal_flip, rand_augment, random_erasing),
}


def policy(name: str) -> Augment:
    """The augmentation called `name`, one of `POLICIES`.

    Raises:
        UnknownNameError: no such policy.
    """
    if name not in POLICIES:
        raise UnknownNameError("augmentation", name, POLICIES)
    return Compose(POLICIES[name])


def _uniform(generator: Generator, low: float = 0.0, high: float = 1.0) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _beta(generator: Generator, alpha: float) -> float:
    if alpha <= 0:
        raise ConfigError(f"alpha is above 0; given {alpha}")
    # PyTorch's Beta takes no generator.
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    return float(np.random.default_rng(seed).beta(alpha, alpha))


def _window(image_CHW: Tensor, height: float, width: float, generator: Generator) -> tuple[slice, slice]:
    """A random rectangle inside the image: of the asked size, rounded, at most the image's."""

    def span(full: int, wanted: float) -> slice:
        length = min(round(wanted), full)
        start = int(torch.randint(full - length + 1, (), generator=generator))
        return slice(start, start + length)

    return span(image_CHW.shape[1], height), span(image_CHW.shape[2], width)


def _brightness(image_CHW: Tensor, factor: float) -> Tensor:
    return (image_CHW * factor).clamp(0, 1)


def _contrast(image_CHW: Tensor, factor: float) -> Tensor:
    mean = image_CHW.mean()
    return (mean + (image_CHW - mean) * factor).clamp(0, 1)


def _saturation(image_CHW: Tensor, factor: float) -> Tensor:
    grey_1HW = image_CHW.mean(0, keepdim=True)
    return (grey_1HW + (image_CHW - grey_1HW) * factor).clamp(0, 1)


# What rand_augment chooses from: (image_CHW, level in [-1, 1]) -> image_CHW. Level 0 changes nothing.
_CHANGES: tuple[Callable[[Tensor, float], Tensor], ...] = (
    lambda image_CHW, level: warp(image_CHW, angle=level * math.pi / 6),
    lambda image_CHW, level: warp(image_CHW, shear=level * 0.6),
    lambda image_CHW, level: warp(image_CHW, shift=(level * 0.4, 0.0)),
    lambda image_CHW, level: warp(image_CHW, shift=(0.0, level * 0.4)),
    lambda image_CHW, level: _brightness(image_CHW, 1 + 0.9 * level),
    lambda image_CHW, level: _contrast(image_CHW, 1 + 0.9 * level),
    lambda image_CHW, level: _saturation(image_CHW, 1 + 0.9 * level),
    lambda image_CHW, level: torch.where(image_CHW > 1 - abs(level), 1 - image_CHW, image_CHW),  # solarise
)
