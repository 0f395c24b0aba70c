"""Observation points and chance inside a model: both are leaves, worked from outside.

A Tap marks a tensor that someone may want to see (a query map, an auxiliary loss). A Noise is the only source of
random numbers inside a model, so that a driver can seed or replay them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from neuromix.core.errors import NeuromixError


class Tap(nn.Module):
    """Identity that marks its input under a role: `self.query = Tap("query")`.

    The training loop adds to the loss what passes through taps of the role "aux_loss": scalars, with their weights.
    """

    def __init__(self, role: str) -> None:
        super().__init__()
        self.role = role
        # Not hooks: a compiled model would not see those that come after it has been compiled.
        self._stores: list[list[Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        for store in self._stores:
            store.append(x)
        return x

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_stores": []}  # nobody looks at a copy yet

    def extra_repr(self) -> str:
        return self.role


@contextmanager
def record(model: nn.Module, role: str) -> Iterator[dict[str, list[Tensor]]]:
    """Collects what passes through the taps of a role while the context is open.

    Yields:
        path of the tap -> its tensors, in order of the calls.
    """
    taps = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, Tap) and module.role == role
    }
    seen: dict[str, list[Tensor]] = {path: [] for path in taps}
    for path, tap in taps.items():
        tap._stores.append(seen[path])
    try:
        yield seen
    finally:
        for path, tap in taps.items():
            tap._stores[:] = [store for store in tap._stores if store is not seen[path]]


class Noise(nn.Module):
    """The random numbers of one place in a model.

    By default they come from PyTorch's global generator; `draws` makes them come from a generator of one's own,
    or replays recorded values.
    """

    def __init__(self) -> None:
        super().__init__()
        self.generator: torch.Generator | None = None
        self.replay: Iterator[Tensor] | None = None

    def uniform(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Uniform on [0, 1), of a shape, with dtype and device of `like`."""
        return self._drawn(torch.rand, shape, like)

    def normal(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Normal with mean 0 and deviation 1, otherwise as `uniform`."""
        return self._drawn(torch.randn, shape, like)

    def _drawn(self, draw: Callable[..., Tensor], shape: tuple[int, ...], like: Tensor) -> Tensor:
        if self.replay is not None:
            return self._next(shape).to(like)
        device = self.generator.device if self.generator is not None else like.device
        return draw(shape, generator=self.generator, dtype=like.dtype, device=device).to(like.device)

    def _next(self, shape: tuple[int, ...]) -> Tensor:
        assert self.replay is not None
        value = next(self.replay, None)
        if value is None or tuple(value.shape) != shape:
            got = "nothing more" if value is None else f"shape {tuple(value.shape)}"
            raise NeuromixError(f"replayed noise does not fit: {got} where shape {shape} is drawn")
        return value


@contextmanager
def draws(model: nn.Module, source: torch.Generator | Mapping[str, list[Tensor]]) -> Iterator[None]:
    """Within the context, all noise of the model comes from `source`.

    Args:
        source: a generator, or recorded values by path of the Noise module.
    """
    noises = {path: module for path, module in model.named_modules() if isinstance(module, Noise)}
    try:
        for path, noise in noises.items():
            if isinstance(source, torch.Generator):
                noise.generator = source
            elif path in source:
                noise.replay = iter(source[path])
        yield
    finally:
        for noise in noises.values():
            noise.generator, noise.replay = None, None
