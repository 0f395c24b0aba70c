from __future__ import annotations

import pytest
import torch
from torch import nn

from neuromix.core.errors import CheckpointError
from neuromix.core.layout import Layout, drop, load_layout, rename, reshape, transfer

LAYOUT = Layout(
    rename("net.{i}.fc.*", "blocks.{i}.linear.*"),
    reshape("taps", "kernel", lambda t: t.unsqueeze(-1), lambda t: t.squeeze(-1)),
    drop("net.{i}.cache"),
)


def test_names_and_forms_change_and_change_back():
    theirs = {"net.3.fc.weight": torch.ones(2), "taps": torch.zeros(2, 3), "net.3.cache": torch.ones(1)}
    ours = LAYOUT.to_ours(theirs)
    assert {name: tuple(t.shape) for name, t in ours.items()} == {
        "blocks.3.linear.weight": (2,),
        "kernel": (2, 3, 1),
    }
    back = LAYOUT.to_theirs(ours)
    assert back.keys() == theirs.keys() - {"net.3.cache"} and back["taps"].shape == (2, 3)


def test_unexplained_names_are_told():
    state = {"net.x.fc.weight": torch.ones(1)}
    assert LAYOUT.unexplained(state) == ["net.x.fc.weight"]
    with pytest.raises(CheckpointError, match=r"no rule explains the weight 'net\.x"):
        LAYOUT.to_ours(state)


def test_the_layout_that_explains_every_name_is_taken():
    layouts = {"a": Layout(rename("x.*", "*")), "b": Layout(rename("y.*", "*"))}
    linear = nn.Linear(2, 1)
    load_layout(linear, layouts, {"y.weight": torch.full((1, 2), 5.0), "y.bias": torch.zeros(1)})
    assert linear.weight[0, 0] == 5
    with pytest.raises(CheckpointError, match="of another model; names left over as a: z"):
        load_layout(linear, layouts, {"z": torch.ones(1)})


def test_transfer_is_strict():
    linear = nn.Linear(2, 1)
    with pytest.raises(
        CheckpointError, match=r"missing bias; unknown extra; weight has \[3, 2\] instead of \[1, 2\]"
    ):
        transfer(linear, {"weight": torch.ones(3, 2), "extra": torch.ones(1)})
    bias = linear.bias.detach().clone()
    transfer(
        linear,
        {"weight": torch.full((1, 2), 7.0), "bias": torch.ones(5), "best": torch.ones(1)},
        fresh=("b*",),
    )
    assert linear.weight[0, 0] == 7 and torch.equal(linear.bias, bias)


def test_of_tied_tensors_one_name_is_enough():
    net = nn.ModuleDict({"embedding": nn.Embedding(3, 2), "head": nn.Linear(2, 3, bias=False)})
    net["head"].weight = net["embedding"].weight
    transfer(net, {"embedding.weight": torch.ones(3, 2)})
    assert net["head"].weight is net["embedding"].weight and net["head"].weight.eq(1).all()
    with pytest.raises(CheckpointError, match=r"missing embedding\.weight"):
        transfer(net, {})
