"""Centres of clusters that follow the tokens they attract: k-means that runs along with training.

A forward pass only gathers what the centres will move by; `after_step`, which the training loop calls after each
optimiser step, moves them. So a batch that is worked off in parts moves them once, and a pass that is run again in
backward (checkpointing) does not count twice.

Shapes: B batch, H heads, L tokens, K width of a head, C clusters.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.module_tracker import ModuleTracker

_LLOYD = 10  # iterations that the first centres are made by
_AUTOGRAD = ModuleTracker()  # knows whether a pass is one that checkpointing runs again in backward


class Routed(NamedTuple):
    """What the centres make of tokens.

    Attributes:
        tokens_BHLK: normalised; gradients reach them.
        scores_BHLC: tokens times centres, without gradient.
        nearest_BHL: the cluster of the largest score.
        error_BHL: commitment * mean over K of (token - its centre)^2; gradients reach the token only.
    """

    tokens_BHLK: Tensor
    scores_BHLC: Tensor
    nearest_BHL: Tensor
    error_BHL: Tensor


class Centroids(nn.Module):
    """Base: a set of centres for each head, `means` [H, C, K], a buffer.

    Args:
        decay: of the moving average that the centres are, in [0, 1).
        commitment: weight of the squared distance between a token and its centre.
    """

    means: Tensor

    def __init__(self, heads: int, clusters: int, width: int, *, decay: float, commitment: float) -> None:
        super().__init__()
        self.decay, self.commitment = decay, commitment
        self.register_buffer("means", self.normalised(torch.randn(heads, clusters, width)))

    def normalised(self, x: Tensor) -> Tensor:
        """Tokens as they are compared with centres."""
        raise NotImplementedError

    def forward(self, x_BHLK: Tensor, mask_BL: Tensor | None = None) -> Routed:
        """Scores tokens; in training it gathers what the centres will move by.

        Args:
            mask_BL: bool, the real tokens.
        """
        tokens_BHLK = self.normalised(x_BHLK)
        with torch.no_grad():
            means_HCK = self.means.to(tokens_BHLK.dtype)
            scores_BHLC = _scores(tokens_BHLK, means_HCK)
            nearest_BHL = scores_BHLC.argmax(-1)
            centre_BHLK = _centre_of(means_HCK, nearest_BHL)
            if self.training and x_BHLK.numel() and not _AUTOGRAD.is_bw:
                self._gather(x_BHLK, tokens_BHLK, nearest_BHL, mask_BL)
        error_BHL = self.commitment * (tokens_BHLK - centre_BHLK).square().mean(-1)
        return Routed(tokens_BHLK, scores_BHLC, nearest_BHL, error_BHL)

    def after_step(self) -> None:
        """Moves the centres by what was gathered since the last time, if anything was."""
        raise NotImplementedError

    def _gather(
        self, x_BHLK: Tensor, tokens_BHLK: Tensor, nearest_BHL: Tensor, mask_BL: Tensor | None
    ) -> None:
        raise NotImplementedError


class SphericalCentroids(Centroids):
    """Centres on the unit sphere: means <- decay * means + (1 - decay) * new, where new is one Lloyd step of a batch.

    Of several batches between two steps the new centres are averaged. Until the first step the centres are random
    directions; the first batch then gives tokens, evenly spaced in it, from which ten Lloyd steps make centres.
    Padding counts as tokens.
    """

    initialised: Tensor
    new_means: Tensor

    def __init__(self, heads: int, clusters: int, width: int, *, decay: float, commitment: float) -> None:
        super().__init__(heads, clusters, width, decay=decay, commitment=commitment)
        self.register_buffer("initialised", torch.tensor(False))
        self.register_buffer("new_means", torch.zeros_like(self.means), persistent=False)
        self._batches = 0

    def normalised(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1)

    @torch.no_grad()
    def calibrate(self, x_BHLK: Tensor) -> None:
        """Makes the centres from a batch."""
        self.means.copy_(self._first(x_BHLK))
        self.initialised.fill_(True)

    @torch.no_grad()
    def after_step(self) -> None:
        if self._batches == 0:
            return
        new_HCK = _over_processes(self.new_means / self._batches, mean=True)
        self.means.lerp_(new_HCK, 1 - self.decay if self.initialised else 1.0)
        self.initialised.fill_(True)
        self.new_means.zero_()
        self._batches = 0

    def _gather(
        self, x_BHLK: Tensor, tokens_BHLK: Tensor, nearest_BHL: Tensor, mask_BL: Tensor | None
    ) -> None:
        known = bool(self.initialised)
        self.new_means += _lloyd(tokens_BHLK, self.means, nearest_BHL) if known else self._first(x_BHLK)
        self._batches += 1

    def _first(self, x_BHLK: Tensor) -> Tensor:
        """Centres [H, C, K] of a batch, made from tokens as they are."""
        x_HNK = x_BHLK.transpose(0, 1).flatten(1, 2).to(self.means.dtype)
        spaced_C = torch.linspace(0, x_HNK.shape[1] - 1, self.means.shape[1], device=x_HNK.device)
        means_HCK = x_HNK[:, spaced_C.round().long()]
        for _ in range(_LLOYD):
            means_HCK = _lloyd(x_HNK[None], means_HCK, (x_HNK @ means_HCK.mT).argmax(-1)[None])
        return means_HCK


class CountingCentroids(Centroids):
    """Centres as mean tokens, by moving averages of how many tokens a cluster has and of their sum.

    Tokens are normalised to mean 0 and variance 1. With n_c the tokens of a batch that are nearest to c, padding left
    out,

        count <- decay * count + (1 - decay) * n_c,    sum <- decay * sum + (1 - decay) * (their sum),
        means <- sum / count',    count' = (count + 1e-5) / (total + C * 1e-5) * total,  total = the sum of count.
    """

    ema_count: Tensor
    ema_means: Tensor
    new_count: Tensor
    new_sum: Tensor

    EPS = 1e-5

    def __init__(self, heads: int, clusters: int, width: int, *, decay: float, commitment: float) -> None:
        super().__init__(heads, clusters, width, decay=decay, commitment=commitment)
        self.register_buffer("ema_count", torch.zeros(heads, clusters))
        self.register_buffer("ema_means", self.means.clone())
        self.register_buffer("new_count", torch.zeros(heads, clusters), persistent=False)
        self.register_buffer("new_sum", torch.zeros_like(self.means), persistent=False)
        self._batches = 0

    def normalised(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], eps=1e-6)

    @torch.no_grad()
    def after_step(self) -> None:
        if self._batches == 0:
            return
        self.ema_count.lerp_(_over_processes(self.new_count), 1 - self.decay)
        self.ema_means.lerp_(_over_processes(self.new_sum), 1 - self.decay)
        total_H1 = self.ema_count.sum(1, keepdim=True)
        smoothed_HC = (self.ema_count + self.EPS) / (total_H1 + self.means.shape[1] * self.EPS) * total_H1
        self.means.copy_(self.ema_means / smoothed_HC[..., None])
        self.new_count.zero_()
        self.new_sum.zero_()
        self._batches = 0

    def _gather(
        self, x_BHLK: Tensor, tokens_BHLK: Tensor, nearest_BHL: Tensor, mask_BL: Tensor | None
    ) -> None:
        tokens_BHLK = tokens_BHLK.to(self.new_sum.dtype)
        counted_BHL = torch.ones_like(tokens_BHLK[..., 0])
        if mask_BL is not None:
            counted_BHL = counted_BHL * mask_BL[:, None]
        count_HC, sum_HCK = _sums(tokens_BHLK, nearest_BHL, counted_BHL, self.means.shape[1])
        self.new_count += count_HC
        self.new_sum += sum_HCK
        self._batches += 1


def _scores(x_BHLK: Tensor, means_HCK: Tensor) -> Tensor:
    """Products with the centres: one matrix product a head, whatever the batch."""
    scores_HNC = x_BHLK.transpose(0, 1).flatten(1, 2) @ means_HCK.mT
    return torch.unflatten(scores_HNC, 1, (len(x_BHLK), x_BHLK.shape[2])).transpose(0, 1)


def _lloyd(x_BHLK: Tensor, means_HCK: Tensor, nearest_BHL: Tensor) -> Tensor:
    """The normalised sum of the tokens of each cluster; one that has none keeps its centre."""
    x_BHLK = x_BHLK.to(means_HCK.dtype)
    count_HC, sum_HCK = _sums(x_BHLK, nearest_BHL, torch.ones_like(x_BHLK[..., 0]), means_HCK.shape[1])
    return torch.where(count_HC[..., None] > 0, F.normalize(sum_HCK, dim=-1), means_HCK)


def _sums(x_BHLK: Tensor, cluster_BHL: Tensor, counted_BHL: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """How many tokens each cluster has, and their sum, over the whole batch: [H, C], [H, C, K]."""
    x_HNK, cluster_HN = x_BHLK.transpose(0, 1).flatten(1, 2), cluster_BHL.transpose(0, 1).flatten(1, 2)
    counted_HN = counted_BHL.transpose(0, 1).flatten(1, 2)
    count_HC = x_HNK.new_zeros(len(x_HNK), clusters).scatter_add(1, cluster_HN, counted_HN)
    index_HNK = cluster_HN[..., None].expand_as(x_HNK)
    sum_HCK = x_HNK.new_zeros(len(x_HNK), clusters, x_HNK.shape[2])
    return count_HC, sum_HCK.scatter_add(1, index_HNK, x_HNK * counted_HN[..., None])


def _centre_of(means_HCK: Tensor, cluster_BHL: Tensor) -> Tensor:
    heads_H1 = torch.arange(len(means_HCK), device=means_HCK.device)[:, None]
    return means_HCK[heads_H1, cluster_BHL]


def _over_processes(x: Tensor, mean: bool = False) -> Tensor:
    """The sum, or the mean, over the processes of a run."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(x)
        return x / torch.distributed.get_world_size() if mean else x
    return x
