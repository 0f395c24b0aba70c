"""Sparse attention by product quantisation (SPT, Gui et al., 2023): a query keeps the keys whose codes match its own.

SPT is fine-tuning by sparsification, not the image network of the same letters. Queries and keys are cut into parts,
and each part is replaced by the number of the nearest of a few codewords. A query keeps the keys, not later than
itself, with the most equal codes, the earlier one of equals.

Shapes: B batch, L tokens, S known tokens, H heads, G heads of keys, K width of a head, N = B * H rows, M parts,
J kept keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from neuromix.core import registry
from neuromix.core.config import Config
from neuromix.core.errors import ConfigError
from neuromix.core.observe import Tap
from neuromix.layers.product_quantiser import ProductQuantiser
from neuromix.layers.rotary import rotary
from neuromix.mixers.causal_attention import AttentionState, CausalAttention, CausalAttentionConfig
from neuromix.mixers.sequence import Tokens
from neuromix.mixers.token_places import token_places
from neuromix.ops.selected_attention import selected_attention

_AT_ONCE = 1 << 22  # matches of a block of queries


@dataclass(frozen=True)
class PQAttentionConfig(CausalAttentionConfig):
    """Config of PQAttention."""

    codewords: int = 16  # of each part
    codeword_dim: int = 8  # numbers of a part; divides the width of a head
    # Keys that a query keeps. None: the length of the row / share, at least 1, so that it is not the same in segments.
    keep: int | None = None
    share: int = 8
    clamp: float | None = 10.0  # limit of the logits
    sparse: bool = True  # false: dense attention, with the codewords trained alongside
    loss_weight: float = 1e-2  # of the quantiser's loss on queries and keys

    def validate(self) -> None:
        super().validate()
        self.require_positive("codewords", "codeword_dim", "share")
        for name in ("keep", "clamp"):
            if getattr(self, name) is not None:
                self.require_positive(name)
        self.require(self.loss_weight >= 0, f"loss_weight must be 0 or more, got {self.loss_weight}")

    def kept(self, length: int) -> int:
        """J in a row of so many keys."""
        return min(length, self.keep if self.keep is not None else max(1, length // self.share))


@registry.register(
    "sequence-mixer",
    "pq_attention",
    tiny={"heads": 2, "kv_heads": 1, "rotary": 4, "codewords": 4, "codeword_dim": 4, "keep": 3},
)
class PQAttention(CausalAttention):
    """Causal attention to the keys whose codes match best; the state and its growth are those of causal attention.

    In training the tap "aux_loss" carries loss_weight times the quantiser's loss on queries and on keys, which are as
    they are multiplied: after rotary positions. With `keep` None the number of keys follows the length of the row, or
    in step form the number of tokens so far; steps then do not equal the whole.
    """

    Config: ClassVar[type[Config]] = PQAttentionConfig

    def __init__(self, config: PQAttentionConfig, dim: int) -> None:
        super().__init__(config, dim)
        if self.head_dim % config.codeword_dim:
            raise ConfigError(
                f"codeword_dim must divide the width of a head, got {config.codeword_dim} and {self.head_dim}"
            )
        self.causal = config.keep is not None or not config.sparse  # type: ignore[misc]
        self.quantiser = ProductQuantiser(
            self.head_dim // config.codeword_dim, config.codewords, config.codeword_dim
        )
        self.aux_loss = Tap("aux_loss")

    def attend(self, qkv_BLE: Tensor, state: AttentionState, tokens: Tokens) -> tuple[Tensor, AttentionState]:
        """As that of causal attention; positions are counted within each sequence, for codes tell them apart."""
        if self.config.rotary and qkv_BLE.shape[1]:
            position_BL = token_places(state.mask_BS.sum(1), qkv_BLE.shape[1], tokens).position_BL
            q_BLHK, k_BLGK, v_BLGK = self._split(qkv_BLE, 0)
            q_BLHK, k_BLGK = (
                rotary(x, position_BL, self.config.rotary, base=self.config.rotary_base)
                for x in (q_BLHK, k_BLGK)
            )
            qkv_BLE = torch.cat([q_BLHK, k_BLGK, v_BLGK], 2).flatten(2)
        return super().attend(qkv_BLE, state, tokens)

    def _split(self, qkv_BLE: Tensor, past: int) -> tuple[Tensor, Tensor, Tensor]:
        """Without turning anything: that is done already."""
        qkv_BLHK = torch.unflatten(qkv_BLE, -1, (-1, self.head_dim))
        q_BLHK, k_BLGK, v_BLGK = torch.split(qkv_BLHK, [self.heads, self.kv_heads, self.kv_heads], 2)
        return q_BLHK, k_BLGK, v_BLGK

    def _attend(self, q_BLHK: Tensor, known: AttentionState, visible_B1LS: Tensor | None) -> Tensor:
        if self.training and self.config.loss_weight and q_BLHK.numel():
            loss = self.quantiser.loss(q_BLHK) + self.quantiser.loss(known.k_BSGK)
            self.aux_loss(self.config.loss_weight * loss)
        if not self.config.sparse:
            return super()._attend(q_BLHK, known, visible_B1LS)
        groups = self.heads // self.kv_heads
        q_NLK, k_NSK, v_NSK = (
            x.transpose(1, 2).flatten(0, 1)
            for x in (q_BLHK, *(y.repeat_interleave(groups, 2) for y in (known.k_BSGK, known.v_BSGK)))
        )
        index_NLJ = self.selected(q_NLK, k_NSK, visible_B1LS)
        o_NLK = selected_attention(
            q_NLK, k_NSK, v_NSK, index_NLJ, scale=self.head_dim**-0.5, clamp=self.config.clamp
        )
        return torch.unflatten(o_NLK, 0, (-1, self.heads)).transpose(1, 2).flatten(2)

    @torch.no_grad()
    def selected(self, q_NLK: Tensor, k_NSK: Tensor, visible_B1LS: Tensor | None = None) -> Tensor:
        """The kept keys of each query, best first, -1 where there are no more: int32 [N, L, J]."""
        codes = self.quantiser.encode(q_NLK), self.quantiser.encode(k_NSK)
        return select_keys(*codes, self.config.kept(k_NSK.shape[1]), visible_B1LS)


@torch.no_grad()
def select_keys(
    q_codes_NLM: Tensor, k_codes_NSM: Tensor, keep: int, visible_B1LS: Tensor | None = None
) -> Tensor:
    """The keys with the most equal codes, earlier ones first among equals: int32 [N, L, keep], -1 where none is left.

    Args:
        visible_B1LS: bool, the keys that a query may see, N a multiple of B; None: the last L of the S keys are those
            of the queries, and each sees those up to its own.
    """
    rows, length, _ = q_codes_NLM.shape
    keys = k_codes_NSM.shape[1]
    place_S = torch.arange(keys, device=q_codes_NLM.device)
    size = max(1, _AT_ONCE // max(1, rows * keys))
    found = []
    for first in range(0, max(1, length), size):
        part = slice(first, first + size)
        # One number orders by matches, then by place.
        order_NLS = code_matches(q_codes_NLM[:, part], k_codes_NSM) * keys + (keys - 1 - place_S)
        if visible_B1LS is None:
            seen = place_S <= place_S[keys - length :][part, None]
        else:
            seen = (
                visible_B1LS[:, :, part].expand(-1, rows // max(1, len(visible_B1LS)), -1, -1).flatten(0, 1)
            )
        best = order_NLS.masked_fill(~seen, -1).topk(keep, -1)
        found.append(best.indices.masked_fill(best.values < 0, -1).int())
    return torch.cat(found, 1)


def code_matches(q_codes_NLM: Tensor, k_codes_NSM: Tensor) -> Tensor:
    """How many of their codes each query and key share: int64 [N, L, S]."""
    matches_NLS = q_codes_NLM.new_zeros(*q_codes_NLM.shape[:2], k_codes_NSM.shape[1])
    for q_NL, k_NS in zip(q_codes_NLM.unbind(-1), k_codes_NSM.unbind(-1), strict=True):
        matches_NLS += q_NL[:, :, None] == k_NS[:, None]
    return matches_NLS
