"""Hidden patches: which they are, what is to be rebuilt, and that a net runs as if they were not there.

Shapes: B batch, C channels, H W image, h w grid of L patches, K visible ones, P numbers of a patch.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from neuromix.core.errors import ConfigError
from neuromix.core.time import Repeat
from neuromix.layers.norm import BatchNorm2d
from neuromix.layers.position import sincos_positions
from neuromix.layers.visible import (
    choose_visible,
    grid_mask,
    grown,
    hidden_error,
    patch_targets,
    visible_only,
)


def test_each_patch_is_as_likely_as_the_other():
    kept_BK = choose_visible(4000, 10, 0.75, torch.Generator().manual_seed(0))
    assert kept_BK.shape == (4000, 2)  # floor(10 * 0.25)
    assert bool((kept_BK[:, 0] < kept_BK[:, 1]).all())
    share = torch.bincount(kept_BK.flatten(), minlength=10) / len(kept_BK)
    assert share.sub(0.2).abs().max() < 0.03
    assert torch.equal(kept_BK, choose_visible(4000, 10, 0.75, torch.Generator().manual_seed(0)))
    with pytest.raises(ConfigError, match=r"mask 0\.99 leaves none of 16 patches visible"):
        choose_visible(1, 16, 0.99)


def test_masks_are_row_major_and_grow_with_the_map():
    mask_Bhw = grid_mask(torch.tensor([[1, 5]]), 2, 3)
    assert mask_Bhw.int().tolist() == [[[0, 1, 0], [0, 0, 1]]]
    assert grown(mask_Bhw, 4)[0].int().tolist() == [[0, 0, 1, 1, 0, 0]] * 2 + [[0, 0, 0, 0, 1, 1]] * 2


def test_targets_are_normalised_patches_in_the_order_row_column_channel():
    image = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    target_BLP = patch_targets(image, 2)
    assert target_BLP.shape == (2, 6, 12)
    patch = image[1, :, 2:4, 4:6].permute(1, 2, 0).flatten()  # the last one
    expected = (patch - patch.mean()) / (patch.var(correction=1) + 1e-6).sqrt()
    torch.testing.assert_close(target_BLP[1, 5], expected)


def test_only_hidden_patches_are_scored():
    target = torch.zeros(2, 3, 4)
    patches = torch.tensor([[1.0, 2.0, 9.0], [9.0, 3.0, 1.0]])[..., None].expand(2, 3, 4)
    kept = torch.tensor([[2], [0]])
    assert hidden_error(patches, target, kept) == pytest.approx((1 + 4 + 9 + 1) / 4)


def test_norms_see_visible_places_alone():
    torch.manual_seed(0)
    norm = BatchNorm2d(3).double()
    x = torch.randn(4, 3, 4, 4, dtype=torch.float64)
    visible = grid_mask(torch.tensor([[0], [3]]), 2, 2)
    places = grown(visible, 4).repeat(2, 1, 1)  # two time steps, folded into the batch
    with visible_only(norm, visible):
        y = norm(x)
    assert not norm._forward_hooks and not norm._forward_pre_hooks
    seen = x.movedim(1, -1)[places]
    torch.testing.assert_close(norm.running_mean, 0.1 * seen.mean(0))
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * seen.var(0))
    expected = (seen - seen.mean(0)) / (seen.var(0, correction=0) + norm.eps).sqrt()
    torch.testing.assert_close(y.movedim(1, -1)[places], expected)
    assert not y.movedim(1, -1)[~places].any()


def test_repeated_images_count_as_often_as_they_are_shown():
    torch.manual_seed(0)
    once, shown = (Repeat(3, BatchNorm2d(2)).double() for _ in range(2))
    image = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    visible = grid_mask(torch.tensor([[0, 1], [2, 3]]), 2, 2)
    with visible_only(once, visible), visible_only(shown, visible):
        torch.testing.assert_close(once(image[None]), shown(image.expand(3, *image.shape)))
    torch.testing.assert_close(once.stem.running_var, shown.stem.running_var)


def test_hooks_go_even_where_the_run_fails():
    net = nn.Sequential(BatchNorm2d(2))
    with pytest.raises(RuntimeError), visible_only(net, torch.ones(1, 2, 2, dtype=torch.bool)):
        net(torch.zeros(1, 3, 4, 4))
    assert not net[0]._forward_hooks


def test_positions_of_columns_and_rows():
    table = sincos_positions(8, 2, 3)
    assert table.shape == (8, 2, 3)
    for k, angle in enumerate((2.0, 2 * 10000**-0.5)):
        assert table[k, 1, 2] == pytest.approx(math.sin(angle))
        assert table[2 + k, 0, 2] == pytest.approx(math.cos(angle))
        assert table[4 + k, 1, 0] == pytest.approx(math.sin(angle / 2))
        assert table[6 + k, 1, 2] == pytest.approx(math.cos(angle / 2))
    with pytest.raises(ConfigError, match="a width that 4 divides, got 6"):
        sincos_positions(6, 2, 2)
