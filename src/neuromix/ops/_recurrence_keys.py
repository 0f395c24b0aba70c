"""`recurrence` in chunks, with a decay for each key (gated linear attention, RWKV-6, diagonal state spaces).

A chunk is halved again and again. Whatever a step t of the second half reads from a step s of the first passes the
border between them, so the decay from s to t splits into two factors of at most 1, and the pairs are one matrix
product: (q_t exp(sum from the border to t)) . (k_s exp(sum from s to the border)). The halves go on by themselves,
down to single steps. No sum is ever subtracted and no exponential is above 1, however strong the decays are; -inf is
an exact reset.

Shapes: B batch, L tokens, H heads, N chunks, Q steps of a chunk, M steps of half a block, K key width, V value width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from neuromix.ops._recurrence_chunk import pass_states


def chunk_by_keys(
    q_BLGK: Tensor,
    k_BLGK: Tensor,
    v_BLHV: Tensor,
    log_decay_BLHK: Tensor,
    bonus_HK: Tensor | None,
    state_BHKV: Tensor,
    exclusive: bool,
    chunk_size: int,
) -> tuple[Tensor, Tensor]:
    """As `recurrence`, of operands of one dtype and L >= 1; the batch of log_decay may be 1."""
    length, heads = v_BLHV.shape[1:3]
    size = 1 << (chunk_size - 1).bit_length()
    repeats = heads // q_BLGK.shape[2]
    q_BLHK, k_BLHK = (t.repeat_interleave(repeats, 2) if repeats > 1 else t for t in (q_BLGK, k_BLGK))
    q, k, v, g = (_by_head(t, size) for t in (q_BLHK, k_BLHK, v_BLHV, log_decay_BLHK))

    o_BHLV = _own(q, k, v, bonus_HK, exclusive) + _pairs(q, k, v, g, exclusive, size)

    q_BHNQK, k_BHNQK, v_BHNQV, g_BHNQK = (
        torch.unflatten(t, 2, (t.shape[2] // size, size)) for t in (q, k, v, g)
    )
    added_BHNKV = (k_BHNQK * _sum_after(g_BHNQK).exp()).mT @ v_BHNQV
    kept_BNHK1 = g_BHNQK.sum(3).exp().transpose(1, 2).unsqueeze(4)
    starts_BNHKV, state_BHKV = pass_states(added_BHNKV.transpose(1, 2), kept_BNHK1, state_BHKV)
    carried_BHNQV = (q_BHNQK * _sum_before(g_BHNQK, exclusive).exp()) @ starts_BNHKV.transpose(1, 2)
    o_BHLV = o_BHLV + carried_BHNQV.flatten(2, 3)
    return o_BHLV.transpose(1, 2)[:, :length], state_BHKV


def _own(
    q_BHLK: Tensor, k_BHLK: Tensor, v_BHLV: Tensor, bonus_HK: Tensor | None, exclusive: bool
) -> Tensor | float:
    """What a step reads of its own product."""
    if exclusive and bonus_HK is None:
        return 0.0
    q_BHLK = q_BHLK if bonus_HK is None else q_BHLK * bonus_HK.unsqueeze(1)
    return (q_BHLK * k_BHLK).sum(3, keepdim=True) * v_BHLV


def _pairs(
    q_BHLK: Tensor, k_BHLK: Tensor, v_BHLV: Tensor, g_BHLK: Tensor, exclusive: bool, size: int
) -> Tensor | float:
    """What steps read of earlier steps of their chunk: a product for each level of halves."""
    o_BHLV: Tensor | float = 0.0
    half = size // 2
    while half:
        q_M, k_M, v_M, g_M = (_halves(t, half) for t in (q_BHLK, k_BHLK, v_BHLV, g_BHLK))
        first_M, second_M = g_M.unbind(3)
        reader_MK = q_M[:, :, :, 1] * _sum_before(second_M, exclusive).exp()
        writer_MK = k_M[:, :, :, 0] * _sum_after(first_M).exp()
        read_MV = (reader_MK @ writer_MK.mT) @ v_M[:, :, :, 0]
        o_BHLV = o_BHLV + F.pad(read_MV, (0, 0, half, 0)).flatten(2, 3)
        half //= 2
    return o_BHLV


def _halves(x_BHL: Tensor, half: int) -> Tensor:
    """[B, H, blocks, 2, M, ...]"""
    return torch.unflatten(x_BHL, 2, (x_BHL.shape[2] // (2 * half), 2, half))


def _sum_before(g_MK: Tensor, exclusive: bool) -> Tensor:
    """The sum of g over u <= t; exclusive: over u < t."""
    return (F.pad(g_MK[..., :-1, :], (0, 0, 1, 0)) if exclusive else g_MK).cumsum(-2)


def _sum_after(g_MK: Tensor) -> Tensor:
    """The sum of g over u > s."""
    return F.pad(g_MK[..., 1:, :], (0, 0, 0, 1)).flip(-2).cumsum(-2).flip(-2)


def _by_head(x_BLH: Tensor, size: int) -> Tensor:
    """[B, H, L, ...], L filled up to a multiple of `size` with steps that neither decay nor add."""
    x_BHL = x_BLH.transpose(1, 2)
    missing = -x_BHL.shape[2] % size
    return F.pad(x_BHL, (0, 0, 0, missing)) if missing else x_BHL.contiguous()
