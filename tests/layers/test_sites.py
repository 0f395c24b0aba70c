"""Sites and the convolutions over them, against dense convolutions of the same grids.

Shapes: B samples, N sites, C channels.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from neuromix.core.batch import Ragged
from neuromix.core.errors import ShapeError
from neuromix.layers.sites import Sites
from neuromix.layers.sparse_conv import SiteNorm, SparseConv3d

DRAWS = {
    "counts": st.lists(st.integers(1, 20), min_size=1, max_size=3),
    "sides": st.tuples(*3 * [st.integers(1, 6)]),
    "seed": st.integers(0, 999),
}


def cloud_of(counts, sides, seed=0) -> Ragged:
    """Voxels drawn at random, in no order; at most as many as the grid has."""
    generator = torch.Generator().manual_seed(seed)
    grid_N3 = torch.cartesian_prod(*(torch.arange(side) for side in sides)).view(-1, 3)
    coords = [grid_N3[torch.randperm(len(grid_N3), generator=generator)[:count]] for count in counts]
    features = [torch.randn(len(each), 2, dtype=torch.float64, generator=generator) for each in coords]
    return Ragged.of(features, coords=coords)


def dense(x_NC: Tensor, sites: Sites) -> Tensor:
    """[B, C, ...] with zeros where there is no site."""
    x_BC = x_NC.new_zeros(sites.size, *sites.shape, x_NC.shape[1])
    x_BC[sites.batch_N, *sites.coords_N3.T] = x_NC
    return x_BC.movedim(-1, 1)


def read(y_BC: Tensor, sites: Sites) -> Tensor:
    return y_BC.movedim(1, -1)[sites.batch_N, *sites.coords_N3.T]


def conv_of(kernel: int) -> tuple[SparseConv3d, Tensor]:
    """A convolution, and its weight as PyTorch has it."""
    torch.manual_seed(0)
    conv = SparseConv3d(2, 3, kernel, init="kaiming_uniform").double()
    return conv, as_dense(conv.weight, kernel)


def as_dense(weight_KIO: Tensor, kernel: int) -> Tensor:
    """[O, I, k, k, k], as PyTorch has it."""
    return weight_KIO.detach().permute(2, 1, 0).unflatten(2, 3 * [kernel])


@settings(max_examples=40, deadline=None)
@given(**DRAWS, kernel=st.sampled_from([1, 3, 5]))
def test_submanifold_equals_dense_at_the_sites(counts, sides, seed, kernel):
    cloud = cloud_of(counts, sides, seed)
    sites = Sites.of(cloud)
    conv, weight = conv_of(kernel)
    neighbours = sites.neighbours(kernel)
    expected = F.conv3d(dense(cloud.values, sites), weight, padding=kernel // 2)
    torch.testing.assert_close(
        conv(cloud.values[None], neighbours)[0], read(expected, sites), rtol=0, atol=1e-12
    )
    assert sites.neighbours(kernel) is neighbours, "looked for once"


@settings(max_examples=40, deadline=None)
@given(**DRAWS, how=st.sampled_from([(2, 2, 0), (3, 2, 1), (3, 1, 1), (3, 3, 0)]))
def test_strided_equals_dense_and_its_inverse_the_transposed(counts, sides, seed, how):
    cloud = cloud_of(counts, sides, seed)
    sites = Sites.of(cloud)
    coarser, neighbours = sites.down(*how)
    kernel, stride, padding = how
    conv, weight = conv_of(kernel)
    y = conv(cloud.values[None], neighbours)[0]
    if 0 in coarser.shape:
        assert not len(coarser)
        return
    x_BC = dense(cloud.values, sites)
    occupied = F.conv3d(dense(torch.ones(len(sites), 1).double(), sites), torch.ones(1, 1, *3 * [kernel]).double(),
                        stride=stride, padding=padding)[:, 0] > 0  # fmt: skip
    expected = F.conv3d(x_BC, weight, stride=stride, padding=padding)
    assert coarser.shape == tuple(expected.shape[2:])
    found = torch.cat([coarser.batch_N[:, None], coarser.coords_N3], 1)
    assert torch.equal(found[coarser.sorted_rows()], occupied.nonzero())
    torch.testing.assert_close(y, read(expected, coarser), rtol=0, atol=1e-12)

    back = SparseConv3d(3, 2, kernel, init="kaiming_uniform").double()
    returned = back(y[None], neighbours.swapped())[0]
    sides = zip(sites.shape, coarser.shape, strict=True)
    extra = [side - ((c - 1) * stride - 2 * padding + kernel) for side, c in sides]
    whole = F.conv_transpose3d(
        dense(y, coarser), as_dense(back.weight, kernel).transpose(0, 1), stride=stride, padding=padding,
        output_padding=extra,
    )  # fmt: skip
    torch.testing.assert_close(returned.detach(), read(whole, sites), rtol=0, atol=1e-12)


def test_an_odd_side_loses_its_last_layer_and_gets_zeros_back():
    cloud = Ragged.of([torch.ones(3, 2).double()], coords=[torch.tensor([[0, 0, 0], [4, 1, 1], [3, 1, 0]])])
    coarser, neighbours = Sites.of(cloud, margin=1).down()
    assert coarser.shape == (2, 1, 1) and coarser.coords_N3.tolist() == [[0, 0, 0], [1, 0, 0]]
    y = conv_of(2)[0].double()(cloud.values[None], neighbours)
    back = SparseConv3d(3, 2, 2).double()(y, neighbours.swapped())[0]
    assert not back[1].any() and back[0].any() and back[2].any()
    assert len(Sites.of(cloud, margin=2).down().sites) == 3


def test_taps_follow_the_columns_of_the_coordinates():
    coords = torch.tensor([[1, 1, 1], [2, 1, 1], [1, 2, 1], [1, 1, 2]])
    sites = Sites.of(Ragged.of([torch.ones(4, 1)], coords=[coords]))
    weight = torch.arange(27.0).view(3, 3, 3)
    conv = SparseConv3d(1, 1)
    with torch.no_grad():
        conv.weight.copy_(weight.view(27, 1, 1))
    expected = weight[1, 1, 1] + weight[2, 1, 1] + weight[1, 2, 1] + weight[1, 1, 2]
    assert conv(torch.ones(1, 4, 1), sites.neighbours())[0, 0].item() == expected.item()


@pytest.mark.parametrize(
    ("coords", "told"),
    [
        (None, "needs an extra 'coords'"),
        ([[[0.0, 0, 0]], [[1, 1, 1]]], "whole numbers"),
        ([[[0, 0]], [[1, 1]]], "whole numbers"),
        ([[[0, 0, 0]], []], r"samples without: \[1\]"),
        ([[[0, 0, 0]], [[0, -2, 0]]], "begin at 0, got -2"),
        ([[[0, 0, 0]], [[1, 2, 3], [0, 0, 0], [1, 2, 3]]], r"two rows of sample 1 share voxel \[1, 2, 3\]"),
        ([[[0, 0, 0]], [[2**22, 2**22, 2**22]]], "larger voxels"),
    ],
)
def test_wrong_clouds_are_refused(coords, told):
    if coords is None:
        cloud = Ragged.of([torch.ones(2, 2)])
    else:
        rows = [torch.tensor(each) for each in coords]
        rows = [each if len(each) else torch.zeros(0, 3, dtype=torch.int64) for each in rows]
        cloud = Ragged.of([torch.ones(len(each), 2) for each in rows], coords=rows)
    with pytest.raises(ShapeError, match=told):
        Sites.of(cloud)


def test_no_sample_is_refused():
    with pytest.raises(ShapeError, match="at least one voxel"):
        Sites.of(Ragged(torch.ones(0, 2), torch.zeros(1).long(), {"coords": torch.zeros(0, 3).long()}))


@pytest.mark.parametrize("rows", [0, 1])
def test_a_norm_of_too_few_rows_goes_by_the_running_statistics(rows):
    norm = SiteNorm(3).train()
    norm.running_mean.fill_(2.0)
    x_TNC = torch.randn(1, rows, 3)
    torch.testing.assert_close(norm(x_TNC), (x_TNC - 2) / (1 + 1e-3) ** 0.5)
    assert norm.running_mean.eq(2).all()


def test_a_norm_is_that_of_all_sites_and_steps():
    norm = SiteNorm(3).train()
    x_TNC = torch.randn(2, 5, 3)
    torch.testing.assert_close(norm(x_TNC).mean((0, 1)), torch.zeros(3), atol=1e-6, rtol=0)
