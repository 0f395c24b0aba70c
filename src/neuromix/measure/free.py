"""Ops that cost no multiply-accumulates: an explicit list, so that an op that nobody thought of is not on it.

What the field leaves uncharged: moving and making data, element-wise functions (activations, neurons, residual
sums, scales), reductions and pooling, and norms, which fold into their neighbours or are charged by no one.
"""

from __future__ import annotations

from typing import Any

import torch

_MAKE = """
    empty empty_like empty_strided empty_permuted new_empty new_empty_strided zeros zeros_like new_zeros ones
    ones_like new_ones full full_like new_full arange linspace logspace eye scalar_tensor lift lift_fresh
    lift_fresh_copy rand rand_like randn randn_like randint randint_like randperm bernoulli bernoulli_ uniform
    uniform_ normal normal_ normal_functional exponential_ multinomial native_dropout tril_indices triu_indices
    complex polar
"""
_MOVE = """
    _to_copy copy copy_ _copy_from fill fill_ zero zero_ cat concat stack repeat repeat_interleave tile index
    _unsafe_index index_put index_put_ _index_put_impl_ _unsafe_index_put index_select index_copy index_copy_
    index_fill index_fill_ gather scatter scatter_ select_scatter slice_scatter diagonal_scatter as_strided_scatter
    as_strided_copy take take_along_dim masked_select masked_scatter masked_scatter_ flip roll rot90
    constant_pad_nd pad reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d
    replication_pad3d pixel_shuffle pixel_unshuffle channel_shuffle im2col col2im unfold_copy embedding
    _embedding_bag _embedding_bag_forward_only tril tril_ triu triu_ diag diag_embed _unsafe_view _reshape_alias
    _reshape_copy resize_ set_ resolve_conj resolve_neg view_as_real view_as_complex unique_dim _unique2
    unique_consecutive nonzero sort topk kthvalue argsort searchsorted bucketize histc bincount
    _local_scalar_dense item equal is_same_size is_nonzero is_pinned _assert_async _fused_sdp_choice sym_size sym_numel
    sym_stride upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d
    _upsample_nearest_exact2d _upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d
    upsample_trilinear3d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa grid_sampler_2d
    grid_sampler_3d affine_grid_generator transpose_ t_ squeeze_ unsqueeze_ swapaxes_ swapdims_ as_strided_
    unsafe_split unsafe_split_with_sizes unsafe_chunk
"""
_REDUCE = """
    sum nansum mean prod amax amin aminmax max min any all argmax argmin median nanmedian mode var var_mean std
    std_mean norm linalg_vector_norm logsumexp count_nonzero cumsum cumsum_ cumprod cumprod_ cummax cummin
    logcumsumexp scatter_add scatter_add_ scatter_reduce scatter_reduce_ index_add index_add_ index_reduce
    segment_reduce diff trace isin allclose
    avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d max_pool2d_with_indices
    max_pool3d_with_indices mkldnn_max_pool2d adaptive_avg_pool1d _adaptive_avg_pool2d _adaptive_avg_pool3d
    adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    fractional_max_pool2d fractional_max_pool3d max_unpool2d max_unpool3d
"""
_NORM = """
    native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training _batch_norm_with_update
    _batch_norm_no_update cudnn_batch_norm miopen_batch_norm native_layer_norm native_group_norm rms_norm
    _fused_rms_norm _weight_norm_interface
"""
_ELEMENTWISE = """
    _softmax _log_softmax _safe_softmax glu _prelu_kernel hardswish hardswish_ log_sigmoid_forward rrelu
    rrelu_with_noise celu selu mish clamp_ clip softshrink hardshrink floor_divide
"""

# Ops of this library: neurons, which may also run without reaching the dispatcher.
_NEURONS = frozenset(
    (
        "neuromix::lif",
        "neuromix::lif_backward",
        "neuromix::integer_levels",
        "neuromix::integer_levels_backward",
    )
)
FREE = frozenset(" ".join((_MAKE, _MOVE, _REDUCE, _NORM, _ELEMENTWISE)).split())


def is_free(op: Any) -> bool:
    """Whether an op multiplies and accumulates nothing that the field charges for."""
    if op.namespace not in ("aten", "prim", "prims"):
        return op.name().partition(".")[0] in _NEURONS
    return bool(op.is_view) or torch.Tag.pointwise in op.tags or op._opname in FREE
