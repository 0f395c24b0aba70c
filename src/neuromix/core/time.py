"""fold and Repeat: how modules that know no time meet the spike-time axis. Nobody else merges T and B.

Shapes: T spike time, B batch.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from neuromix.core.errors import ShapeError


def fold(module: Callable[[Tensor], Tensor], x_T: Tensor) -> Tensor:
    """Applies a time-free module to every step at once: [T, B, ...] -> [T, B, ...].

    A batch-norm inside sees the T*B samples as one batch.
    """
    y = module(x_T.flatten(0, 1))
    return y.reshape(*x_T.shape[:2], *y.shape[1:])


class Repeat(nn.Module):
    """Runs a time-free stem on a static input once and repeats its output `times` times.

    Gives the numbers of running the stem on the repeated input, batch-norm statistics included: a module of the
    stem with an attribute `copies` (see `layers.norm.BatchNorm2d`) is told how many equal samples each sample
    stands for. An input that has a full time axis passes through the stem step by step, and inside `stream`,
    where time comes from outside, nothing is repeated.
    """

    def __init__(self, times: int, stem: nn.Module) -> None:
        super().__init__()
        self.times = times
        self.stem = stem

    def forward(self, x_T: Tensor, times: int | None = None) -> Tensor:
        """x_T: [1, B, ...] (static) or [times, B, ...]; gives [times, B, ...].

        Raises:
            ShapeError: the time axis is neither 1 nor `times`.
        """
        steps, times = x_T.shape[0], self.times if times is None else times
        if times != 1 and steps not in (1, times):
            raise ShapeError(f"input has {steps} time steps; expected 1 (a static image) or {times}")
        copies = times if steps == 1 else 1
        for module in self.stem.modules():
            if hasattr(module, "copies"):
                setattr(module, "copies", copies)  # noqa: B010 (nn.Module's stubs take only tensors)
        y_T = fold(self.stem, x_T)
        return y_T if copies == 1 else y_T.expand(times, *y_T.shape[1:])
