"""Attention of each query to a few chosen keys, in memory that grows with their number.

Gathering the chosen keys and values takes more memory than all logits would; so queries are worked off in blocks, and
only indices and one number a query are kept for the backward pass, which gathers again.

Shapes: N rows (batch and heads), L queries, S keys, J chosen keys of a query, K width of queries and keys, V of values.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_AT_ONCE = 1 << 20  # gathered numbers of a block


def selected_attention(
    q_NLK: Tensor,
    k_NSK: Tensor,
    v_NSV: Tensor,
    index_NLJ: Tensor,
    *,
    scale: float,
    clamp: float | None = None,
) -> Tensor:
    """o = softmax_j(s_j) v_j over the chosen keys j, s = q . k * scale, limited to [-clamp, clamp]: [N, L, V].

    Gradients go through chosen pairs only.

    Args:
        index_NLJ: integers in [0, S); -1 is no key. A query without keys gives 0.
    """
    o_NLV: Tensor = _SelectedAttention.apply(q_NLK, k_NSK, v_NSV, index_NLJ.int(), scale, clamp)  # type: ignore[no-untyped-call]
    return o_NLV


def selected_weights(
    q_NLK: Tensor, k_NSK: Tensor, index_NLJ: Tensor, *, scale: float, clamp: float | None = None
) -> Tensor:
    """The weights [N, L, J] by the formula: exp(s) / max(sum of exp(s), 1e-9), zero where there is no key."""
    s_NLJ = torch.einsum("nlk,nljk->nlj", q_NLK, _chosen(k_NSK, index_NLJ)) * scale
    if clamp is not None:
        s_NLJ = s_NLJ.clamp(-clamp, clamp)
    e_NLJ = s_NLJ.exp() * (index_NLJ >= 0)
    return e_NLJ / e_NLJ.sum(-1, keepdim=True).clamp(min=1e-9)


def selected_attention_reference(
    q_NLK: Tensor,
    k_NSK: Tensor,
    v_NSV: Tensor,
    index_NLJ: Tensor,
    *,
    scale: float,
    clamp: float | None = None,
) -> Tensor:
    """`selected_attention` as one formula, for any depth of gradients."""
    weights_NLJ = selected_weights(q_NLK, k_NSK, index_NLJ, scale=scale, clamp=clamp)
    return torch.einsum("nlj,nljv->nlv", weights_NLJ, _chosen(v_NSV, index_NLJ))


class _SelectedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q_NLK: Tensor,
        k_NSK: Tensor,
        v_NSV: Tensor,
        index_NLJ: Tensor,
        scale: float,
        clamp: float | None,
    ) -> Tensor:
        outputs, norms = [], []
        for part in _blocks(index_NLJ, k_NSK.shape[-1] + v_NSV.shape[-1]):
            index = index_NLJ[:, part]
            s, _ = _logits(q_NLK[:, part], _chosen(k_NSK, index), index, scale, clamp)
            norm_NL1 = s.logsumexp(-1, keepdim=True).nan_to_num(neginf=0.0)
            norms.append(norm_NL1)
            outputs.append(_mix((s - norm_NL1).exp(), _chosen(v_NSV, index)))
        ctx.scale, ctx.clamp = scale, clamp
        ctx.save_for_backward(q_NLK, k_NSK, v_NSV, index_NLJ, torch.cat(norms, 1))
        return torch.cat(outputs, 1).to(v_NSV.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_NLV: Tensor) -> tuple[Tensor | None, ...]:
        q_NLK, k_NSK, v_NSV, index_NLJ, norm_NL1 = ctx.saved_tensors
        q_grad = []
        k_grad, v_grad = (torch.zeros_like(x, dtype=norm_NL1.dtype) for x in (k_NSK, v_NSV))
        for part in _blocks(index_NLJ, k_NSK.shape[-1] + v_NSV.shape[-1]):
            index, q, grad = index_NLJ[:, part], q_NLK[:, part], grad_NLV[:, part].to(norm_NL1.dtype)
            k, v = _chosen(k_NSK, index), _chosen(v_NSV, index)
            s, free = _logits(q, k, index, ctx.scale, ctx.clamp)
            w = (s - norm_NL1[:, part]).exp()
            dw = (grad[:, :, None] @ v.mT.to(grad.dtype))[:, :, 0]
            ds = w * (dw - (w * dw).sum(-1, keepdim=True)) * free * ctx.scale
            q_grad.append(_mix(ds, k))
            _spread(k_grad, index, ds[..., None] * q[:, :, None])
            _spread(v_grad, index, w[..., None] * grad[:, :, None])
        grads = (torch.cat(q_grad, 1).to(q_NLK.dtype), k_grad.to(k_NSK.dtype), v_grad.to(v_NSV.dtype))
        return (*grads, None, None, None)


def _blocks(index_NLJ: Tensor, width: int) -> list[slice]:
    rows, length, chosen = index_NLJ.shape
    size = max(1, _AT_ONCE // max(1, rows * chosen * width))
    return [slice(i, i + size) for i in range(0, max(1, length), size)]


def _chosen(x_NSK: Tensor, index_NLJ: Tensor) -> Tensor:
    """[N, L, J, K]; the first key where there is none."""
    flat = index_NLJ.clamp(min=0).long().flatten(1)
    rows = x_NSK.gather(1, flat[..., None].expand(-1, -1, x_NSK.shape[-1]))
    return torch.unflatten(rows, 1, index_NLJ.shape[1:])


def _logits(
    q: Tensor, k_NLJK: Tensor, index: Tensor, scale: float, clamp: float | None
) -> tuple[Tensor, Tensor]:
    """Limited logits, -inf where there is no key; and where a gradient passes the limit."""
    s = (q[:, :, None] @ k_NLJK.mT)[:, :, 0]
    s = s.to(torch.promote_types(s.dtype, torch.float32)) * scale
    free = torch.ones_like(s, dtype=torch.bool) if clamp is None else s.abs() <= clamp
    limited = s if clamp is None else s.clamp(-clamp, clamp)
    return limited.masked_fill(index < 0, float("-inf")), free


def _mix(w_NLJ: Tensor, x_NLJK: Tensor) -> Tensor:
    return (w_NLJ[:, :, None] @ x_NLJK.to(w_NLJ.dtype))[:, :, 0]


def _spread(grad_NSK: Tensor, index: Tensor, x_NLJK: Tensor) -> None:
    """Adds to the rows that were chosen; where there was no key, x is zero."""
    flat = index.clamp(min=0).long().flatten(1)[..., None].expand(-1, -1, grad_NSK.shape[-1])
    grad_NSK.scatter_add_(1, flat, x_NLJK.flatten(1, 2).to(grad_NSK.dtype))
