"""Routing heads: attention inside clusters of content (Routing Transformer, Roy et al., TACL 2021).

Centres that follow the tokens (`layers.kmeans`) say which tokens belong together. There are two ways to form the
clusters:

- as published: each cluster takes the w tokens that score highest with its centre, over the whole row. A token may be
  in several clusters, its output is then their mean, or in none, and its output is 0. Later tokens have a say in which
  earlier ones are taken, so that in this way the past depends on the future even where no value does.
- strict: a token belongs to the cluster of its largest score, and attends to itself and to the last w members before
  it. This is causal, and what it has to remember is w members of each cluster.

Shapes: B batch, L tokens, H heads, K width of a head, C clusters, W tokens of a cluster, M memory slots.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuromix.core.config import Config
from neuromix.core.observe import Tap
from neuromix.layers.kmeans import Centroids, CountingCentroids, Routed, SphericalCentroids
from neuromix.mixers.block_attention import PairAttention, in_blocks, with_neighbours
from neuromix.mixers.sequence import Tokens
from neuromix.mixers.token_places import token_places

Normalise: TypeAlias = Literal["l2", "layernorm"]


@dataclass(frozen=True)
class RoutingHeadsConfig(Config):
    """Config of RoutingHeads."""

    clusters: int = 8  # C
    window: int = 64  # W
    causal: bool = True
    strict: bool = True  # false: the published clusters, which cannot be stepped
    shared_qk: bool = True  # keys are the queries
    # l2: keys, where shared, have length 1, a token is its own key only where it has no other, logits / sqrt(K).
    # layernorm: queries and keys have mean 0 and variance 1, logits are plain products.
    normalise: Normalise = "l2"
    memory_slots: int = 0  # M, of each cluster; all its tokens see them
    relative: int = (
        0  # distance, in members of a cluster, up to which learned relative positions tell; 0: none
    )
    decay: float = 0.999  # of the centres, in [0, 1)
    commitment: float = 1e-4  # weight of the distance between tokens and centres
    dropout: float = 0.0  # of the attention weights, in [0, 1)

    def validate(self) -> None:
        self.require_positive("clusters", "window")
        self.require_within(0, 1, "decay", "dropout")
        self.require(
            min(self.commitment, self.memory_slots, self.relative) >= 0, "weights and numbers are 0 or more"
        )
        self.require(self.causal or not self.strict, "strict routing is causal")
        self.require(
            not self.strict or (self.shared_qk and not self.memory_slots),
            "strict routing shares queries and keys, and has no memory slots, as a token always sees itself",
        )

    @property
    def slots(self) -> int:
        """M; a causal query that is not its own key may see none, so that it needs a slot."""
        return max(self.memory_slots, int(self.causal and not self.shared_qk))

    @property
    def scatter_eps(self) -> float:
        """What is added to the number of clusters of a token, by which its outputs are divided."""
        return 1e-2 if self.normalise == "layernorm" else 1e-5


class RoutingState(NamedTuple):
    """The last W members of each cluster, the newest one last, zeros where there were fewer.

    Attributes:
        k_BHCWK, v_BHCWK: keys and values.
        member_BHCW: bool, which are there.
    """

    k_BHCWK: Tensor
    v_BHCWK: Tensor
    member_BHCW: Tensor


class RoutingHeads(nn.Module):
    """Attention inside clusters, for heads [B, L, H, K]; see the module for its two ways.

    The tap "aux_loss" carries commitment * mean of the squared distance between tokens and centres, the tap "clusters"
    the cluster of the largest score [B, H, L].
    """

    Config: ClassVar[type[Config]] = RoutingHeadsConfig
    memory_keys: Tensor
    memory_values: Tensor

    def __init__(self, config: RoutingHeadsConfig, heads: int, width: int) -> None:
        super().__init__()
        self.config = config
        layernorm = config.normalise == "layernorm"
        make = CountingCentroids if layernorm else SphericalCentroids
        self.centroids: Centroids = make(
            heads, config.clusters, width, decay=config.decay, commitment=config.commitment
        )
        self.attend = PairAttention(
            width,
            scale=1.0 if layernorm else width**-0.5,
            relative=config.relative,
            causal=config.causal,
            dropout=config.dropout,
        )
        slots = (heads, config.clusters, config.slots, width)
        if config.slots:
            self.memory_keys, self.memory_values = (
                nn.Parameter(torch.randn(slots)),
                nn.Parameter(torch.randn(slots)),
            )
        else:
            self.register_buffer("memory_keys", torch.zeros(slots))
            self.register_buffer("memory_values", torch.zeros(slots))
        self.aux_loss, self.clusters = Tap("aux_loss"), Tap("clusters")

    @property
    def avoids_itself(self) -> bool:
        """Whether a token looks at itself only where it sees nothing else."""
        return self.config.shared_qk and self.config.normalise == "l2"

    def initial_state(self, like_BHK: Tensor) -> RoutingState:
        """The state before the first token, of the strict way."""
        batch, heads, width = like_BHK.shape
        none = like_BHK.new_zeros(batch, heads, self.config.clusters, self.config.window, width)
        return RoutingState(none, none, none[..., 0].bool())

    def forward(
        self,
        q_BLHK: Tensor,
        k_BLHK: Tensor | None,
        v_BLHK: Tensor,
        mask_BL: Tensor | None = None,
        key_mask_BL: Tensor | None = None,
    ) -> Tensor:
        """The published way: [B, L, H, K].

        Args:
            k_BLHK: None where shared with the queries; else it, and `v_BLHK`, may be of another length.
            mask_BL, key_mask_BL: bool, the real tokens; of keys as of queries by default.
        """
        key_mask_BL = mask_BL if key_mask_BL is None and v_BLHK.shape[1] == q_BLHK.shape[1] else key_mask_BL
        q_BHLK, v_BHLK = q_BLHK.transpose(1, 2), v_BLHK.transpose(1, 2)
        q_BHLK, k_BHLK, q_scores, k_scores = self._routed(q_BHLK, k_BLHK, mask_BL, key_mask_BL)
        q_at, k_at = self.members(q_scores, mask_BL), self.members(k_scores, key_mask_BL)
        hidden = _padded(q_at, mask_BL)[..., :, None] | _padded(k_at, key_mask_BL)[..., None, :]
        distance = q_at[..., :, None] - k_at[..., None, :]
        if self.config.causal:
            hidden = hidden | (distance < 0)
        rank_WW = _ranks(q_at.shape[-1], k_at.shape[-1], q_at.device)
        y_BHCWK = self.attend(
            _pick(q_BHLK, q_at),
            torch.cat([self._slots(self.memory_keys, q_BHLK), _pick(k_BHLK, k_at)], -2),
            torch.cat([self._slots(self.memory_values, q_BHLK), _pick(v_BHLK, k_at)], -2),
            self._beside_slots(hidden),
            own_ZIJ=self._beside_slots(distance == 0) if self.avoids_itself else None,
            distance_ZIJ=F.pad(rank_WW, (self.config.slots, 0)),
        )
        return self._scattered(y_BHCWK, q_at, q_BHLK).transpose(1, 2)

    def members(self, scores_BHLC: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        """The published clusters: positions of the W highest scores of each, in order of time: int64 [B, H, C, W].

        Padding is taken last with layer norm, and like tokens with l2.
        """
        if mask_BL is not None and self.config.normalise == "layernorm":
            scores_BHLC = scores_BHLC.masked_fill(~mask_BL[:, None, :, None], float("-inf"))
        size = min(self.config.window, scores_BHLC.shape[2])
        return scores_BHLC.topk(size, dim=2).indices.sort(2).values.mT

    def go_on(
        self, q_BLHK: Tensor, v_BLHK: Tensor, state: RoutingState | None, count_B: Tensor, tokens: Tokens
    ) -> tuple[Tensor, RoutingState]:
        """The strict way: output and state after tokens, 1 or more, that follow a state.

        Members of a cluster are brought next to one another by a stable sort; then attention is a band of W places,
        whose memory is linear in L.

        Args:
            state: None before the first token.
            count_B: int64, the tokens so far.
        """
        q_BHLK, k_BHLK, scores_BHLC, _ = self._routed(q_BLHK.transpose(1, 2), None, tokens.mask_BL, None)
        v_BHLK, cluster_BHL = v_BLHK.transpose(1, 2), scores_BHLC.argmax(-1)
        places, clusters = token_places(count_B, q_BLHK.shape[1], tokens), self.config.clusters
        last_B1 = places.sequence_BL[:, None, -1:]
        nowhere = clusters * (q_BLHK.shape[1] + 1)
        group_BHL = places.sequence_BL[:, None] * clusters + cluster_BHL
        group_BHL = group_BHL.where(places.real_BL[:, None], nowhere)
        past = 0
        if state is not None:
            past = clusters * self.config.window
            own_CW = torch.arange(clusters, device=q_BLHK.device)[:, None].where(state.member_BHCW, nowhere)
            group_BHL = torch.cat([own_CW.flatten(2), group_BHL], 2)
            k_BHLK = torch.cat([state.k_BHCWK.flatten(2, 3), k_BHLK], 2)
            v_BHLK = torch.cat([state.v_BHCWK.flatten(2, 3), v_BHLK], 2)
            q_BHLK = F.pad(q_BHLK, (0, 0, past, 0))
        order_BHS = group_BHL.argsort(dim=-1, stable=True)
        group_BHS = group_BHL.gather(-1, order_BHS)
        q_BHSK, k_BHSK, v_BHSK = (_at(x, order_BHS) for x in (q_BHLK, k_BHLK, v_BHLK))
        y_BHSK = self._band(q_BHSK, k_BHSK, v_BHSK, group_BHS)
        y_BHLK = _at(y_BHSK, order_BHS.argsort(-1))[:, :, past:]
        after = self._newest(k_BHSK, v_BHSK, group_BHS, last_B1 * clusters)
        return y_BHLK.transpose(1, 2), after

    def _band(self, q_BHSK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, group_BHS: Tensor) -> Tensor:
        """Attention of each place to itself and the W before it that are of its group."""
        size, length = min(self.config.window, q_BHSK.shape[2]), q_BHSK.shape[2]
        place_NW = in_blocks(torch.arange(length, device=q_BHSK.device), 0, size, fill=-1)
        key_NJ = with_neighbours(place_NW, 0, 1, fill=-1)
        distance_NWJ = place_NW[:, :, None] - key_NJ[:, None]
        group_BHNW = in_blocks(group_BHS, 2, size, fill=-1)
        same = group_BHNW[..., None] == with_neighbours(group_BHNW, 2, 1, fill=-1)[..., None, :]
        far = (distance_NWJ < 0) | (distance_NWJ > self.config.window) | (key_NJ < 0)[:, None]
        q_BHNWK = in_blocks(q_BHSK, 2, size)
        k_BHNJK, v_BHNJK = (with_neighbours(in_blocks(x, 2, size), 2, 1) for x in (k_BHSK, v_BHSK))
        y_BHNWK: Tensor = self.attend(
            q_BHNWK, k_BHNJK, v_BHNJK, far | ~same,
            own_ZIJ=distance_NWJ == 0 if self.avoids_itself else None,
            distance_ZIJ=distance_NWJ,
        )  # fmt: skip
        return y_BHNWK.flatten(2, 3)[:, :, :length]

    def _newest(self, k_BHSK: Tensor, v_BHSK: Tensor, group_BHS: Tensor, first_B11: Tensor) -> RoutingState:
        """The last W places of each of the C groups from `first` on."""
        batch, heads = k_BHSK.shape[:2]
        groups_BHC = first_B11 + torch.arange(self.config.clusters, device=k_BHSK.device).expand(
            batch, heads, -1
        )
        group_BHS = group_BHS.contiguous()
        begin_BHC1 = torch.searchsorted(group_BHS, groups_BHC.contiguous())[..., None]
        end_BHC1 = torch.searchsorted(group_BHS, groups_BHC.contiguous(), right=True)[..., None]
        index_BHCW = end_BHC1 + torch.arange(-self.config.window, 0, device=k_BHSK.device)
        member_BHCW = index_BHCW >= begin_BHC1
        index_BHCW = index_BHCW.clamp(min=0)
        k, v = (_pick(x, index_BHCW) * member_BHCW[..., None] for x in (k_BHSK, v_BHSK))
        return RoutingState(k, v, member_BHCW)

    def _routed(
        self, q_BHLK: Tensor, k_BLHK: Tensor | None, mask_BL: Tensor | None, key_mask_BL: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries and keys as they are multiplied, and their scores."""
        layernorm = self.config.normalise == "layernorm"
        if k_BLHK is None:
            routed: Routed = self.centroids(q_BHLK, mask_BL)
            self.clusters(routed.nearest_BHL)
            self.aux_loss(_mean(routed.error_BHL, mask_BL if layernorm else None))
            tokens = routed.tokens_BHLK
            return (tokens if layernorm else q_BHLK), tokens, routed.scores_BHLC, routed.scores_BHLC
        k_BHLK, parts = k_BLHK.transpose(1, 2), [q_BHLK.shape[2], k_BLHK.shape[1]]
        routed = self.centroids(torch.cat([q_BHLK, k_BHLK], 2), _both(mask_BL, key_mask_BL, q_BHLK, k_BHLK))
        self.clusters(routed.nearest_BHL[:, :, : parts[0]])
        q_error, k_error = torch.split(routed.error_BHL, parts, 2)
        if layernorm:
            self.aux_loss(_mean(q_error, mask_BL) + _mean(k_error, key_mask_BL))
            q_BHLK, k_BHLK = torch.split(routed.tokens_BHLK, parts, 2)
        else:
            self.aux_loss(_mean(routed.error_BHL))
        q_scores, k_scores = torch.split(routed.scores_BHLC, parts, 2)
        return q_BHLK, k_BHLK, q_scores, k_scores

    def _scattered(self, y_BHCWK: Tensor, at_BHCW: Tensor, like_BHLK: Tensor) -> Tensor:
        """The outputs of a token over its clusters: their sum / (their number + eps)."""
        at_BHN, y_BHNK = at_BHCW.flatten(2), y_BHCWK.flatten(2, 3)
        total_BHLK = torch.zeros_like(like_BHLK, dtype=y_BHNK.dtype)
        total_BHLK = total_BHLK.scatter_add(2, at_BHN[..., None].expand_as(y_BHNK), y_BHNK)
        number_BHL = total_BHLK.new_zeros(total_BHLK.shape[:3])
        number_BHL = number_BHL.scatter_add(2, at_BHN, number_BHL.new_ones(()).expand_as(at_BHN))
        return total_BHLK / (number_BHL[..., None] + self.config.scatter_eps)

    def _slots(self, memory_HCMK: Tensor, like: Tensor) -> Tensor:
        return memory_HCMK.to(like.dtype).expand(len(like), -1, -1, -1, -1)

    def _beside_slots(self, pairs: Tensor) -> Tensor:
        """Pairs of queries with slots and keys, where those with slots are False."""
        return F.pad(pairs, (self.config.slots, 0))


def _mean(error_BHL: Tensor, mask_BL: Tensor | None = None) -> Tensor:
    """The mean over the real tokens; 0 where there is none."""
    if mask_BL is None:
        return error_BHL.sum() / max(1, error_BHL.numel())
    real = (error_BHL * mask_BL[:, None]).sum() / error_BHL.shape[1]
    return real / mask_BL.sum().clamp(min=1)


def _both(mask: Tensor | None, key_mask: Tensor | None, q_BHLK: Tensor, k_BHLK: Tensor) -> Tensor | None:
    if mask is None and key_mask is None:
        return None
    pairs = ((mask, q_BHLK), (key_mask, k_BHLK))
    return torch.cat(
        [x.new_ones(x.shape[::2][:2], dtype=torch.bool) if m is None else m for m, x in pairs], 1
    )


def _ranks(queries: int, keys: int, device: torch.device) -> Tensor:
    return torch.arange(queries, device=device)[:, None] - torch.arange(keys, device=device)


def _padded(at_BHCW: Tensor, mask_BL: Tensor | None) -> Tensor:
    """Which members are padding, bool [B, H, C, W]."""
    if mask_BL is None:
        return torch.zeros_like(at_BHCW, dtype=torch.bool)
    return ~mask_BL[:, None, :].expand(-1, at_BHCW.shape[1], -1).gather(2, at_BHCW.flatten(2)).view_as(
        at_BHCW
    )


def _at(x_BHSK: Tensor, index_BHN: Tensor) -> Tensor:
    return x_BHSK.gather(2, index_BHN[..., None].expand(-1, -1, -1, x_BHSK.shape[-1]))


def _pick(x_BHSK: Tensor, index_BHCW: Tensor) -> Tensor:
    return torch.unflatten(_at(x_BHSK, index_BHCW.flatten(2)), 2, index_BHCW.shape[2:])
