"""SequenceMixer: the base of all token mixers over sequences, and what they are told of the tokens.

Shapes: B batch, L tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from neuromix.core import registry
from neuromix.core.config import Config, Spec
from neuromix.core.errors import ConfigError, ShapeError
from neuromix.core.state import State, Stateful


class Tokens(NamedTuple):
    """What a mixer is told of the tokens of a batch.

    Attributes:
        mask_BL: bool, which tokens are real; the others leave every state as it is, and their output means nothing.
        segments_BL: int64, the sequence that a token belongs to, where several stand in one row: where the id changes,
            the state starts anew. A state that is carried in belongs to the first of them.
    """

    mask_BL: Tensor | None = None
    segments_BL: Tensor | None = None


NO_TOKENS = Tokens()


@dataclass(frozen=True)
class FormConfig(Config):
    """The fields of a mixer whose op has several forms; all of them give the same numbers."""

    form: str = "auto"  # of the op; auto: the fastest one on the device, whatever the length
    chunk_size: int = 64  # tokens that the chunked form takes at once

    def validate(self) -> None:
        self.require_positive("chunk_size")


class SequenceMixer(Stateful):
    """Maps x_BLD to the same shape, and owns the state of all that is in it.

    Built as `Mixer(config, dim)`, and registered under the kind "sequence-mixer".

    Attributes:
        forms: the values of `form` that it knows; `form` and `chunk_size` may be set after it is built.
        causal: a token sees none that come later; only then can it be stepped.
        constant_state: the state takes the same memory however many tokens went into it.
    """

    Config: ClassVar[type[Config]] = Config
    time_axis: ClassVar[int] = 1
    forms: ClassVar[tuple[str, ...]] = ("auto",)
    causal: ClassVar[bool] = True
    constant_state: ClassVar[bool] = True

    def __init__(self, config: Any, dim: int) -> None:
        super().__init__()
        self.config, self.dim = config, dim
        self.form: str = getattr(config, "form", "auto")
        self.chunk_size: int = getattr(config, "chunk_size", 64)
        if self.form not in self.forms:
            raise ConfigError(
                f"{type(self).__name__} has no form {self.form!r}; known: {', '.join(self.forms)}"
            )

    def initial_state(self, like: Tensor) -> State:
        """The state before the first token, for `like` [B, D]."""
        raise NotImplementedError

    def forward(
        self, x_BLD: Tensor, state: Any = None, *, tokens: Tokens | None = None, return_state: bool = False
    ) -> Any:
        """y_BLD, or (y_BLD, state after the last token) if `return_state`."""
        raise NotImplementedError

    def require_width(self, x_BLD: Tensor) -> None:
        """Raises ShapeError unless x is floating point [B, L, dim]."""
        if x_BLD.dim() != 3 or x_BLD.shape[-1] != self.dim or not x_BLD.is_floating_point():
            raise ShapeError(
                f"{type(self).__name__} expects floating point [B, L, {self.dim}], got "
                f"{x_BLD.dtype} {list(x_BLD.shape)}"
            )


def make_sequence_mixer(spec: Spec | str, dim: int) -> SequenceMixer:
    """The sequence mixer that a spec names, for tokens of width `dim`.

    Raises:
        UnknownNameError, ConfigError: no such mixer, or options that do not fit.
    """
    mixer: SequenceMixer = registry.build("sequence-mixer", spec, dim)
    return mixer


def require_tokens(tokens: Tokens | None, x: Tensor) -> Tokens:
    """The tokens, checked against x [B, L, ...].

    Raises:
        ShapeError: a mask or segment ids of another shape or dtype.
    """
    if tokens is None:
        return NO_TOKENS
    for name, given, dtype in (
        ("mask", tokens.mask_BL, torch.bool),
        ("segments", tokens.segments_BL, torch.int64),
    ):
        if given is not None and (given.shape != x.shape[:2] or given.dtype != dtype):
            raise ShapeError(
                f"expected a {name} of {dtype} {list(x.shape[:2])}, got {given.dtype} {list(given.shape)}"
            )
    return tokens


def with_past(segments_BL: Tensor | None, past: int) -> Tensor | None:
    """The segment ids with those of `past` tokens of a carried state before them, which are of the first segment."""
    if segments_BL is None:
        return None
    return torch.cat([segments_BL[:, :1].expand(-1, past), segments_BL], 1)


def of_last_segment(ids_BS: Tensor, mask_BS: Tensor) -> Tensor:
    """Of the real tokens those of the same segment as the last real one: bool [B, S]."""
    place_S = torch.arange(1, mask_BS.shape[1] + 1, device=mask_BS.device)
    last_B1 = (mask_BS * place_S).argmax(1, keepdim=True)
    return mask_BS & (ids_BS == ids_BS.gather(1, last_B1))
