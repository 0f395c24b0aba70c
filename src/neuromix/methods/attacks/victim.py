"""Victim: a classifier as an attack sees it, from the values that may be changed to logits and their gradient.

Shapes: B batch, K classes, T spike time, C channels, H W image.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from neuromix.core.batch import Batch
from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError, ShapeError, UnknownNameError
from neuromix.core.model import Model, call
from neuromix.methods.attacks.codings import CODINGS
from neuromix.methods.attacks.losses import Loss
from neuromix.neurons.swapped import swapped

KEEP = "keep"  # in place of a surrogate: gradients as the model has them
FIELD = "image"  # of a batch, which is attacked


class Range(NamedTuple):
    """The values that an attack works on, and what a model makes of them first.

    Attributes:
        upper: the largest value that there can be, None where there is none; the smallest is 0.
        mean, std: a model is given (x - mean) / std, a number a channel; () where it is given x.
    """

    upper: float | None = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def clipped(self, x: Tensor) -> Tensor:
        """The nearest values that can be."""
        return x.clamp(0, self.upper)

    def normalised(self, x: Tensor) -> Tensor:
        """What the model is given for x, [..., C, H, W]."""
        return (x - self._channels(x, self.mean)) / self._channels(x, self.std) if self.mean else x

    def restored(self, x: Tensor) -> Tensor:
        """The values that `normalised` made x of."""
        if not self.mean:
            return x
        return self.clipped(x * self._channels(x, self.std) + self._channels(x, self.mean))

    def _channels(self, x: Tensor, values: tuple[float, ...]) -> Tensor:
        return x.new_tensor(values)[:, None, None]


IMAGES = Range()


class Sensitivity(NamedTuple):
    """What a model says to x, and which way that goes: loss_B, logits_BK, and the gradient of the loss, as x."""

    loss_B: Tensor
    logits_BK: Tensor
    gradient: Tensor


@dataclass(frozen=True)
class Victim:
    """A model under attack. It is to be in eval mode.

    Attributes:
        surrogate: by which its neurons go backward, or "keep".
        coding: a key of CODINGS.
        range: of the values that are attacked.
        chance: of a coding that draws.

    Raises:
        UnknownNameError: there is no such coding.
        ConfigError: a coding of event frames for images.
    """

    model: Model
    surrogate: Spec | str = "pdsg"
    coding: str = "direct"
    range: Range = IMAGES
    chance: torch.Generator = field(default_factory=torch.Generator)

    def __post_init__(self) -> None:
        if self.coding not in CODINGS:
            raise UnknownNameError("coding", self.coding, CODINGS)
        if self.coding == "binary" and self.range.mean:
            raise ConfigError("coding binary is for event frames; images are shown by direct or poisson")

    def shown(self, x: Tensor) -> Tensor:
        """What the model is given for x [B, C, H, W] or [B, T, C, H, W]."""
        steps: int = getattr(self.model.config, "time_steps", 1)
        return CODINGS[self.coding](self.range.normalised(x), steps, self.chance)

    def logits(self, x: Tensor) -> Tensor:
        """[B, K], averaged over time as the model does.

        Raises:
            ShapeError: the model gives something else.
        """
        return self.said_of(self.shown(x))

    def said_of(self, shown: Tensor) -> Tensor:
        """The logits, [B, K], of what the model is shown; raises as `logits`."""
        output = call(self.model, Batch({FIELD: shown}))
        logits = output if isinstance(output, Tensor) else output[0]
        if not isinstance(logits, Tensor) or logits.dim() != 2:
            raise ShapeError(
                f"attacks need logits [B, K], {self.model.name or type(self.model).__name__} gives others"
            )
        return logits

    def answers(self, x: Tensor) -> Tensor:
        """The class that the model says, [B]."""
        with torch.no_grad():
            return self.logits(x).argmax(1)

    def sensitivity(self, x: Tensor, label_B: Tensor, loss: Loss) -> Sensitivity:
        """The loss of each sample, and its gradient by x.

        Raises:
            ConfigError: no gradient comes back, or one that is not finite; or the model has no neuron to swap.
        """
        x = x.detach().requires_grad_()
        with torch.enable_grad(), self.swapped():
            logits_BK = self.logits(x)
            loss_B = loss(logits_BK, label_B)
            if not loss_B.requires_grad:
                raise ConfigError(
                    f"{self._name}: no gradient leads back to the input; a gradient attack cannot work on it"
                )
            (gradient,) = torch.autograd.grad(loss_B.sum(), x, allow_unused=True)
        gradient = torch.zeros_like(x) if gradient is None else gradient
        if not gradient.isfinite().all():
            raise ConfigError(f"{self._name}: the gradient of the input is not finite")
        return Sensitivity(loss_B.detach(), logits_BK.detach(), gradient)

    def require_gradient(self, gradient: Tensor) -> None:
        """Raises ConfigError if the gradient of a batch is zero everywhere: what follows would be no attack."""
        if not gradient.any():
            raise ConfigError(
                f"{self._name}: the gradient of the input is zero everywhere, so that nothing would be attacked; "
                f"the surrogate was {Spec.of(self.surrogate).name}: take pdsg, or a wider one"
            )

    @property
    def _name(self) -> str:
        return self.model.name or type(self.model).__name__

    def swapped(self) -> AbstractContextManager[None]:
        """The model going backward by the surrogate; raises ConfigError where it has no neuron to swap."""
        return nullcontext() if self.surrogate == KEEP else swapped(self.model, self.surrogate)
