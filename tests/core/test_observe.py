from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import neuromix
from neuromix.core.errors import NeuromixError
from neuromix.core.observe import Noise, Tap
from neuromix.layers.chance import Dropout, DropPath


def test_taps_record_only_while_asked():
    net = nn.Sequential(nn.Identity(), Tap("query"), Tap("key"), Tap("query"))
    x = torch.ones(2)
    with neuromix.record(net, "query") as seen:
        net(x)
        net(2 * x)
    net(3 * x)
    assert {path: [t[0].item() for t in tensors] for path, tensors in seen.items()} == {
        "1": [1, 2],
        "3": [1, 2],
    }


def test_a_copy_of_a_net_that_is_looked_at_is_not():
    net = nn.Sequential(nn.Linear(2, 2), Tap("query"))
    with neuromix.record(net, "query") as seen:
        net(torch.ones(2))
        copy.deepcopy(net)(torch.ones(2))
    assert len(seen["1"]) == 1


@pytest.mark.slow
def test_taps_of_a_compiled_net_record_whether_or_not_it_has_run_before():
    for before in (0, 1):
        torch.compiler.reset()
        net = nn.Sequential(nn.Linear(2, 2), Tap("query"))
        compiled = torch.compile(net, backend="aot_eager")
        for _ in range(before):
            compiled(torch.ones(2))
        for _ in range(10):  # more often than PyTorch compiles anew
            net.zero_grad()
            with neuromix.record(net, "query") as seen:
                compiled(torch.ones(2))
            (query,) = seen["1"]
            query.sum().backward()
            assert net[0].weight.grad.tolist() == [[1, 1], [1, 1]]
        compiled(torch.ones(2))
        assert len(seen["1"]) == 1


def test_chance_is_seeded_and_replayed_from_outside():
    net, x = nn.Sequential(Dropout(0.5), Dropout(0.5)), torch.ones(50)
    with neuromix.draws(net, torch.Generator().manual_seed(3)):
        first = net(x)
    with neuromix.draws(net, torch.Generator().manual_seed(3)):
        again = net(x)
    torch.manual_seed(3)
    with neuromix.draws(net, {"0.noise": [torch.zeros(50)], "1.noise": [torch.linspace(0, 0.99, 50)]}):
        replayed = net(x)
    assert torch.equal(first, again) and set(first.unique().tolist()) == {0.0, 4.0}
    assert torch.equal(replayed, 4.0 * (torch.linspace(0, 0.99, 50) < 0.5))
    with (
        neuromix.draws(net, {"0.noise": [torch.zeros(3)]}),
        pytest.raises(NeuromixError, match="does not fit"),
    ):
        net(x)
    assert all(m.generator is None and m.replay is None for m in net.modules() if isinstance(m, Noise))


def test_drop_path_drops_whole_samples():
    drop, x = DropPath(0.5, batch_axis=1), torch.ones(4, 64, 3)
    y = drop(x)
    assert all(sample.unique().numel() == 1 for sample in y.unbind(1)) and set(y.unique().tolist()) == {
        0.0,
        2.0,
    }
    assert torch.equal(drop.eval()(x), x)
