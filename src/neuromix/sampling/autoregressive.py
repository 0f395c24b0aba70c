"""Autoregressive generation: one token after another, each from the state that the ones before it have left.

A prompt is read once, in one piece, and each new token is one step of the model; nothing is computed twice.

Shapes: B prompts, L tokens of the longest prompt, N new tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from neuromix.core.errors import ConfigError, ShapeError
from neuromix.core.model import Model
from neuromix.core.stream import stream


class Generated(NamedTuple):
    """New tokens.

    Attributes:
        ids_BN: int64; after the end of a row, its last token again and again.
        log_probabilities_BN: natural logarithm of the probability that the model gave each token, at temperature 1 and
            out of all tokens; 0 after the end of a row.
        lengths_B: int64, how many tokens each row has: N, or as many as led up to a stop token, itself counted.
    """

    ids_BN: Tensor
    log_probabilities_BN: Tensor
    lengths_B: Tensor


def generate(
    model: Model,
    prompt_ids_BL: Tensor,
    *,
    mask_BL: Tensor | None = None,
    max_tokens: int = 256,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    stop: Collection[int] = (),
    on_token: Callable[[Tensor], None] | None = None,
) -> Generated:
    """Goes on from prompts, in step form.

    A row gets what it would get alone: with temperature 0 always, else where each row has a generator of its own.

    Args:
        model: a language model: token ids [B, L] to logits [B, L, V] of the token after each.
        prompt_ids_BL: int64, at least one token each; shorter ones are padded on the left, see `left_padded`.
        mask_BL: bool, False at padding; None: there is none.
        max_tokens: N, 1 or more.
        temperature: the logits are divided by it; 0 takes the likeliest token.
        top_k: choose among so many of the likeliest tokens only.
        top_p: choose among the fewest tokens whose probability is together at least that.
        generator: of all chance, on the CPU, one or one a row; None: PyTorch's global one.
        stop: tokens after which a row has ended.
        on_token: is given the new tokens [B] after each step.

    Raises:
        ShapeError: a prompt that is empty, not padded on the left, or does not fit the model.
        ConfigError: an argument out of its range, or a model that cannot be stepped along tokens.
    """
    _require_range(max_tokens, temperature, top_k, top_p)
    mask_BL = _require_prompt(model, prompt_ids_BL, mask_BL, max_tokens)
    net = stream(model)
    if net.axis != 1:
        raise ConfigError(f"{type(model).__name__} steps along spike time, not along tokens")
    others = {} if mask_BL is None else {"mask": mask_BL}
    rows = len(prompt_ids_BL)
    ended_B = torch.zeros(rows, dtype=torch.bool, device=prompt_ids_BL.device)
    lengths_B = torch.zeros(rows, dtype=torch.int64, device=prompt_ids_BL.device)
    ends = torch.tensor(sorted(stop), dtype=torch.int64, device=prompt_ids_BL.device)
    ids: list[Tensor] = []
    log_probabilities: list[Tensor] = []
    with _evaluating(model):
        logits_BLV, state = net.prefill(prompt_ids_BL, None, **others)
        logits_BV = logits_BLV[:, -1]
        while True:
            logits_BV = logits_BV[:, : getattr(model.config, "vocab_size", None)].float()
            ids_B = choose(logits_BV, _uniform(generator, rows), temperature, top_k, top_p)
            told_B = logits_BV.log_softmax(-1).gather(1, ids_B[:, None])[:, 0]
            ids.append(torch.where(ended_B, ids[-1], ids_B) if ids else ids_B)
            log_probabilities.append(told_B.masked_fill(ended_B, 0.0))
            lengths_B += ~ended_B
            ended_B = ended_B | torch.isin(ids[-1], ends)
            if on_token is not None:
                on_token(ids[-1])
            if len(ids) == max_tokens or bool(ended_B.all()):
                return Generated(torch.stack(ids, 1), torch.stack(log_probabilities, 1), lengths_B)
            logits_BV, state = net.step(ids[-1], state)


def choose(
    logits_BV: Tensor,
    u_B: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Tensor:
    """A token a row [B], by the inverse of the distribution function at u_B in [0, 1).

    Of the probabilities softmax(logits / temperature) the `top_k` largest are kept, and of these, before they are
    scaled, the fewest that make at least `top_p` together; of equal ones the smaller token comes first.
    """
    if temperature == 0:
        return logits_BV.argmax(-1)
    logits_BV, order_BV = logits_BV.sort(dim=-1, descending=True, stable=True)
    kept_BV = torch.softmax(logits_BV.double() / temperature, -1)
    if top_p is not None:
        before_BV = kept_BV.cumsum(-1) - kept_BV
        kept_BV = kept_BV * (before_BV < top_p)
    if top_k is not None:
        kept_BV = kept_BV[:, :top_k]
    sums_BV = kept_BV.cumsum(-1)
    places_B1 = torch.searchsorted(sums_BV, u_B.to(sums_BV)[:, None] * sums_BV[:, -1:], right=True)
    last_B1 = (kept_BV > 0).sum(-1, keepdim=True) - 1  # rounding does not lead beyond what is kept
    return order_BV.gather(1, places_B1.minimum(last_B1))[:, 0]


def left_padded(
    prompts: Sequence[Sequence[int]], device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Prompts of unlike lengths as ids [B, L], zeros before the shorter ones, and mask [B, L], False there.

    Example:
        >>> left_padded([[5, 6, 7], [8]])[0]
        tensor([[5, 6, 7],
                [0, 0, 8]])
    """
    if not prompts or not all(prompts):
        raise ShapeError("there must be a prompt, and every prompt must have a token")
    longest = max(map(len, prompts))
    ids_BL = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    lengths_B1 = torch.tensor([[len(prompt)] for prompt in prompts], device=device)
    return ids_BL, torch.arange(longest, device=device) >= longest - lengths_B1


def _uniform(generator: torch.Generator | Sequence[torch.Generator] | None, rows: int) -> Tensor:
    if isinstance(generator, Sequence):
        if len(generator) != rows:
            raise ConfigError(f"{rows} prompts need a generator each, or one for all; got {len(generator)}")
        return torch.stack([torch.rand((), generator=each, dtype=torch.float64) for each in generator])
    return torch.rand(rows, generator=generator, dtype=torch.float64)


def _require_range(max_tokens: int, temperature: float, top_k: int | None, top_p: float | None) -> None:
    if max_tokens < 1:
        raise ConfigError(f"max_tokens is 1 or more, got {max_tokens}")
    if not 0 <= temperature < float("inf"):
        raise ConfigError(f"temperature is 0 or more, got {temperature}")
    if top_k is not None and top_k < 1:
        raise ConfigError(f"top_k is 1 or more, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ConfigError(f"top_p is above 0 and at most 1, got {top_p}")


def _require_prompt(model: Model, ids_BL: Tensor, mask_BL: Tensor | None, max_tokens: int) -> Tensor | None:
    """The mask, None where it says nothing; and all that prompts must obey."""
    if ids_BL.dim() != 2 or ids_BL.dtype != torch.int64 or not ids_BL.numel():
        raise ShapeError(
            f"a prompt is int64 [B, L] with at least one token, got {ids_BL.dtype} {list(ids_BL.shape)}"
        )
    size = getattr(model.config, "vocab_size", None)
    if size is not None and not 0 <= int(ids_BL.min()) <= int(ids_BL.max()) < size:
        raise ShapeError(f"prompt ids are in [0, {size}), got {int(ids_BL.min())} to {int(ids_BL.max())}")
    longest = getattr(model.config, "max_length", None)
    if longest is not None and ids_BL.shape[1] + max_tokens - 1 > longest:
        fits = longest - ids_BL.shape[1] + 1
        hint = f"at most {fits} new tokens go with it" if fits > 0 else "give a shorter one"
        raise ShapeError(
            f"a prompt of {ids_BL.shape[1]} tokens and {max_tokens} new ones: "
            f"{model.name or type(model).__name__} holds {longest} tokens; {hint}"
        )
    if mask_BL is None:
        return None
    if mask_BL.shape != ids_BL.shape or mask_BL.dtype != torch.bool:
        raise ShapeError(f"a mask is bool {list(ids_BL.shape)}, got {mask_BL.dtype} {list(mask_BL.shape)}")
    if not bool(mask_BL[:, -1].all()) or bool((mask_BL[:, :-1] & ~mask_BL[:, 1:]).any()):
        raise ShapeError(
            "prompts are padded on the left: every row of the mask is False, then True to its end"
        )
    if bool(mask_BL.all()):
        return None
    if not any(field.name == "mask" for field in model.inputs):
        raise ShapeError(f"{type(model).__name__} takes no mask: give it prompts of one length")
    return mask_BL


@contextmanager
def _evaluating(model: Model) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)
