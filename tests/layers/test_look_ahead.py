from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from neuromix.core.errors import ConfigError, ShapeError
from neuromix.layers.look_ahead import LookAhead, LookAheadConv, Steps
from neuromix.layers.running_mean import RunningMean


def frames(length, channels=2, batch=3):
    return torch.randn(
        length, batch, channels, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.sampled_from([1, 3, 5]))
def test_pieces_give_the_whole(lengths, width):
    torch.manual_seed(0)
    layer, skip = LookAheadConv(2, 4, width).double(), LookAhead(width // 2)
    x = frames(sum(lengths))
    whole = F.conv1d(x.permute(1, 2, 0), layer.weight, padding=width // 2).permute(2, 0, 1)
    torch.testing.assert_close(layer(x), whole)
    assert torch.equal(skip(x), x)
    for leaf, wanted in ((layer, whole), (skip, x)):
        state, pieces, seen = None, [], 0
        for piece in x.split(lengths):
            y, state = leaf(piece, state, return_state=True)
            seen += len(piece)
            pieces.append(y)
            assert sum(map(len, pieces)) == max(0, seen - leaf.latency)
        late, _ = leaf(x[:0], state, return_state=True, ends=True)
        torch.testing.assert_close(torch.cat([*pieces, late]), wanted)


def test_what_follows_waits_for_steps():
    class OnSteps(nn.Module):
        def forward(self, x):
            assert len(x)
            return x

    assert Steps(LookAhead(1), OnSteps(), LookAheadConv(2, 4))(frames(0)).shape[0] == 0


def test_running_mean_in_pieces():
    x, layer = frames(7), RunningMean()
    whole = torch.stack([x[: t + 1].mean(0) for t in range(7)])
    torch.testing.assert_close(layer(x), whole)
    y, state = layer(x[:3], return_state=True)
    torch.testing.assert_close(torch.cat([y, layer(x[3:], state)]), whole)


def test_bad_input():
    with pytest.raises(ConfigError, match="odd width"):
        LookAheadConv(2, 2, 4)
    with pytest.raises(ConfigError, match="0 steps ahead or more"):
        LookAhead(-1)
    with pytest.raises(ShapeError, match=r"expected \[T, B, 3\]"):
        LookAheadConv(3, 2)(frames(4).float())
