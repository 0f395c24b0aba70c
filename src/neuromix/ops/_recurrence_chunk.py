"""`recurrence` in chunks, with one decay for each head (the state-space dual form of Mamba-2, and retention).

Inside a chunk every pair of steps meets in a matrix product, weighted by the decay between them; the state carries
what came before. Sums of log decays are added up anew between every two steps, never taken as a difference of two
running sums: -inf (a reset) would give nan, and -1e4 would leave no digits of what comes after it.

Shapes: B batch, L tokens, N chunks, Q steps of a chunk (t reads s), G heads of queries and keys, R heads of values
for each of them, K key width, V value width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def chunk_by_heads(
    q_BLGK: Tensor,
    k_BLGK: Tensor,
    v_BLHV: Tensor,
    log_decay_BLH: Tensor,
    bonus_HK: Tensor | None,
    state_BHKV: Tensor,
    exclusive: bool,
    chunk_size: int,
) -> tuple[Tensor, Tensor]:
    """As `recurrence`, of operands of one dtype and L >= 1; the batch of log_decay may be 1."""
    length, heads, values = v_BLHV.shape[1:]
    groups = q_BLGK.shape[2]
    repeats = heads // groups
    q_BNGQK, k_BNGQK = (_to_chunks(t, chunk_size).transpose(2, 3) for t in (q_BLGK, k_BLGK))
    v_BNGQRV = torch.unflatten(_to_chunks(v_BLHV, chunk_size), 3, (groups, repeats)).transpose(2, 3)
    g_BNGRQ = torch.unflatten(_to_chunks(log_decay_BLH, chunk_size), 3, (groups, repeats)).permute(
        0, 1, 3, 4, 2
    )

    # Pairs of a chunk: scores once for heads that share keys, decays for each.
    scores_BNGQQ = q_BNGQK @ k_BNGQK.mT
    weights_BNGRQQ = scores_BNGQQ.unsqueeze(3) * decay_between(g_BNGRQ, exclusive)
    o_BNGQRV = (weights_BNGRQQ @ v_BNGQRV.transpose(3, 4)).transpose(3, 4)

    # What each chunk adds to the state, and the states that they start from.
    to_end_BNGQR = sum_after(g_BNGRQ).exp().mT
    added_BNGKRV = torch.unflatten(
        (k_BNGQK.mT @ (to_end_BNGQR.unsqueeze(5) * v_BNGQRV).flatten(4)), 4, (repeats, values)
    )
    kept_BNGR = g_BNGRQ.sum(4).exp()
    state_BGKRV = torch.unflatten(state_BHKV, 1, (groups, repeats)).transpose(2, 3)
    starts_BNGKRV, state_BGKRV = pass_states(added_BNGKRV, kept_BNGR[:, :, :, None, :, None], state_BGKRV)

    carried_BNGQRV = torch.unflatten((q_BNGQK @ starts_BNGKRV.flatten(4)), 4, (repeats, values))
    o_BNGQRV = o_BNGQRV + sum_before(g_BNGRQ, exclusive).exp().mT.unsqueeze(5) * carried_BNGQRV
    o_BLHV = o_BNGQRV.transpose(2, 3).flatten(1, 2).flatten(2, 3)[:, :length]
    if bonus_HK is not None:
        bonus_GRK = torch.unflatten(bonus_HK, 0, (groups, repeats))
        own_BLH = torch.einsum("blgk,grk->blgr", q_BLGK * k_BLGK, bonus_GRK).flatten(2)
        o_BLHV = o_BLHV + own_BLH.unsqueeze(3) * v_BLHV
    return o_BLHV, state_BGKRV.transpose(2, 3).flatten(1, 2)


def decay_between(g_Q: Tensor, exclusive: bool) -> Tensor:
    """[..., Q, Q]: exp of the sum of g over s < u <= t, 0 where s > t. Exclusive: over s < u < t, 0 where s >= t."""
    size = g_Q.shape[-1]
    ones_QQ = torch.ones(size, size, dtype=torch.bool, device=g_Q.device)
    later_QQ = ones_QQ.triu(1)  # of s, u
    sums_QQ = torch.where(later_QQ, g_Q.unsqueeze(-2), 0.0).cumsum(-1)  # of s, t
    if exclusive:
        sums_QQ = F.pad(sums_QQ[..., :-1], (1, 0))
    reads_QQ = later_QQ if exclusive else ones_QQ.triu()
    return torch.where(reads_QQ, sums_QQ, float("-inf")).exp().mT


def sum_before(g_Q: Tensor, exclusive: bool) -> Tensor:
    """The sum of g over u <= t; exclusive: over u < t."""
    return F.pad(g_Q[..., :-1], (1, 0)).cumsum(-1) if exclusive else g_Q.cumsum(-1)


def sum_after(g_Q: Tensor) -> Tensor:
    """The sum of g over u > s."""
    return F.pad(g_Q[..., 1:], (0, 1)).flip(-1).cumsum(-1).flip(-1)


def pass_states(added_BN: Tensor, kept_BN: Tensor, state_B: Tensor) -> tuple[Tensor, Tensor]:
    """The state before each chunk, [B, N, ...], and after the last: S_{n+1} = kept_n S_n + added_n."""
    starts = []
    for added_B, kept_B in zip(added_BN.unbind(1), kept_BN.unbind(1), strict=True):
        starts.append(state_B)
        state_B = kept_B * state_B + added_B
    return torch.stack(starts, 1), state_B


def _to_chunks(x_BL: Tensor, size: int) -> Tensor:
    """[B, N, Q, ...]; the last chunk is filled up with steps that neither decay nor add."""
    missing = -x_BL.shape[1] % size
    x_BL = F.pad(x_BL, (0, 0) * (x_BL.dim() - 2) + (0, missing)) if missing else x_BL
    return torch.unflatten(x_BL, 1, (x_BL.shape[1] // size, size))
