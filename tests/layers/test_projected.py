"""Lateral weights find principal subspaces, and projected layers change nothing that those of earlier tasks see."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles
from torch import nn

import neuromix
from neuromix.core.config import Spec
from neuromix.core.edits import apply_edit
from neuromix.core.errors import ConfigError, ShapeError
from neuromix.layers.hebbian import HebbianSubspace
from neuromix.layers.projected import (
    ProjectedConfig,
    ProjectedConv2d,
    ProjectedLinear,
    projectable,
    without_projection,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def low_rank(rank, features, samples, seed=0):
    """Samples of a subspace of so many dimensions, and an orthonormal basis of it, [rank, features]."""
    basis = torch.linalg.qr(torch.randn(features, rank, generator=generator(seed), dtype=torch.float64)).Q.T
    spread = torch.linspace(2, 1, rank, dtype=torch.float64)
    return torch.randn(
        samples, rank, generator=generator(seed + 1), dtype=torch.float64
    ) * spread @ basis, basis


def learnt(x, rows, steps=300, lr=0.05, subspace=None):
    subspace = subspace or HebbianSubspace(x.shape[1]).double()
    subspace.add(rows, generator())
    for batch in x.split(len(x) // 10) * (steps // 10):
        subspace.learn(batch, lr)
    return subspace


def layer(side="weight", feedback="weight", conv=False, stride=1, **options):
    torch.manual_seed(0)
    made = ProjectedConv2d(3, 4, 3, stride, 1) if conv else ProjectedLinear(12, 5)
    made.double().prepare(ProjectedConfig(side=side, feedback=feedback, **options), generator(5))
    return made


def with_fixed_rows(made, rows=4):
    made.subspace.add(rows, generator())
    made.subspace.add(2, generator(1))
    return made


def gradients(made, x, up=None):
    x = x.clone().requires_grad_()
    y = made(x)
    y.backward(torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y))
    return y.detach(), x.grad, made.weight.grad, made.bias.grad


def test_rows_come_to_span_the_top_principal_components():
    signal, _ = low_rank(5, 20, 400)
    x = signal + 0.1 * torch.randn(400, 20, generator=generator(9), dtype=torch.float64)
    top = torch.linalg.svd(x, full_matrices=False).Vh[:5]
    rows = learnt(x, 5).weight
    assert math.degrees(subspace_angles(rows.T.numpy(), top.T.numpy()).max()) < 5
    torch.testing.assert_close(rows @ rows.T, torch.eye(5, dtype=torch.float64), atol=0.02, rtol=0)


def test_a_new_block_learns_what_the_fixed_one_leaves_over():
    x, first = low_rank(3, 24, 400)
    y, second = low_rank(3, 24, 400, seed=7)
    subspace = learnt(x, 3)
    fixed = subspace.weight.clone()
    learnt(torch.cat([x, y])[torch.randperm(800, generator=generator())], 3, steps=600, subspace=subspace)
    assert subspace.blocks == (3, 3) and subspace.fixed == 3
    torch.testing.assert_close(subspace.weight[:3], fixed, rtol=0, atol=0)
    both = torch.cat([first, second])
    assert math.degrees(subspace_angles(subspace.weight.T.numpy(), both.T.numpy()).max()) < 5
    subspace.merge()
    assert subspace.blocks == (6,) and subspace.fixed == 0


def test_after_learning_the_gradient_of_old_inputs_is_gone():
    x, _ = low_rank(4, 12, 400)
    made = layer()
    learnt(x, 4, subspace=made.subspace)
    free = gradients(made, x)[2].clone()
    made.weight.grad = made.bias.grad = None
    made.subspace.add(0)
    projected = gradients(made, x)[2]
    rows = made.subspace.weight
    assert (projected @ rows.T).norm() < 1e-2 * (free @ rows.T).norm()
    assert free.norm() > 1
    # So a step does not change the answer to these inputs.
    before = made(x)
    with torch.no_grad():
        made.weight -= 0.1 * projected
    assert (made(x) - before).norm() < 0.02 * (0.1 * x @ free.T).norm()


@pytest.mark.parametrize("stride", [1, 2])
def test_input_and_weight_projection_of_a_convolution_agree(stride):
    x = torch.randn(2, 3, 7, 7, generator=generator(), dtype=torch.float64)
    by_weight, by_input = (
        with_fixed_rows(layer(side, conv=True, stride=stride)) for side in ("weight", "input")
    )
    for one, other in zip(gradients(by_weight, x), gradients(by_input, x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@settings(deadline=None, max_examples=20)
@given(
    batch=st.integers(1, 4),
    channels=st.integers(1, 3),
    out=st.integers(1, 4),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    padding=st.integers(0, 2),
)
def test_sides_agree_for_any_geometry(batch, channels, out, kernel, stride, dilation, padding):
    x = torch.randn(batch, channels, 6, 7, generator=generator(), dtype=torch.float64)
    grads = []
    for side in ("weight", "input"):
        torch.manual_seed(0)
        made = ProjectedConv2d(channels, out, kernel, stride, padding, dilation).double()
        made.prepare(ProjectedConfig(side=side))
        rows = min(2, channels * kernel**2)
        made.subspace.add(rows, generator())
        made.subspace.add(0)
        grads.append(gradients(made, x)[2])
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-9)


def test_input_and_weight_projection_of_a_linear_layer_agree():
    x = torch.randn(6, 12, generator=generator(), dtype=torch.float64)
    both = (with_fixed_rows(layer(side)) for side in ("weight", "input"))
    for one, other in zip(*(gradients(made, x) for made in both), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_without_fixed_rows_or_when_switched_off_it_is_the_plain_layer():
    x = torch.randn(6, 12, generator=generator(), dtype=torch.float64)
    plain = nn.Linear(12, 5).double()
    made = layer()
    plain.load_state_dict({"weight": made.weight, "bias": made.bias})
    expected = gradients(plain, x)
    for one, other in zip(gradients(made, x), expected, strict=True):
        torch.testing.assert_close(one, other)
    made.weight.grad = made.bias.grad = None
    with_fixed_rows(made).projects = False
    for one, other in zip(gradients(made, x), expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("conv", [False, True])
@pytest.mark.parametrize("feedback", ["random", "sign"])
def test_feedback_carries_gradients_back_by_other_weights(conv, feedback):
    shape = (2, 3, 6, 6) if conv else (6, 12)
    x = torch.randn(shape, generator=generator(), dtype=torch.float64)
    made, usual = layer(feedback=feedback, conv=conv), layer(conv=conv)
    y, grad_x, grad_w, grad_b = gradients(made, x)
    y_usual, grad_x_usual, grad_w_usual, grad_b_usual = gradients(usual, x)
    torch.testing.assert_close((y, grad_w, grad_b), (y_usual, grad_w_usual, grad_b_usual))
    assert not torch.allclose(grad_x, grad_x_usual)
    back = layer(conv=conv)
    with torch.no_grad():
        scale = (2 / (9 * 4)) ** 0.5 if conv else 12**-0.5
        back.weight.copy_(made.feedback_weight if feedback == "random" else usual.weight.sign() * scale)
    torch.testing.assert_close(grad_x, gradients(back, x)[1])


def test_lateral_spikes_round_responses():
    subspace = HebbianSubspace(3, spiking=(2.0, 10)).double()
    subspace.add(2)
    subspace.weight[:] = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])
    y = subspace.respond(torch.tensor([[0.49, -7.0, 1.0]], dtype=torch.float64))
    torch.testing.assert_close(y, torch.tensor([[0.4, -2.0]], dtype=torch.float64))


def test_the_edit_keeps_outputs_and_goes_through_a_checkpoint(tmp_path):
    model = neuromix.create_model("hlop_cnn_nano")
    paths = projectable(model)
    assert paths == ["stages.0.0.conv.stem.conv", "stages.1.0.conv.conv", "head.classify"]
    x = torch.randn(2, 1, 8, 8, generator=generator())
    once = apply_edit(model, Spec("projected", {"blocks": {path: [3] for path in paths}}))
    twice = apply_edit(once, Spec("projected", {"blocks": {path: [3, 2] for path in paths}, "seed": 1}))
    torch.testing.assert_close(twice(x), model(x))
    assert twice.num_parameters(trainable_only=False) == model.num_parameters()
    neuromix.save_checkpoint(twice, tmp_path / "net.safetensors")
    again = neuromix.load_checkpoint(tmp_path / "net.safetensors")
    for path in paths:
        one, other = twice.get_submodule(path).subspace, again.get_submodule(path).subspace
        assert one.blocks == other.blocks == (3, 2)
        assert torch.equal(one.weight, other.weight)
        assert torch.equal(one.weight[:3], once.get_submodule(path).subspace.weight)
    plain = without_projection(again)
    assert not plain.edits and plain.state_dict().keys() == model.state_dict().keys()
    torch.testing.assert_close(plain(x), model(x))


def test_bad_input():
    model = neuromix.create_model("hlop_mlp_nano")
    for blocks, message in (
        ({"classify": [0.5]}, "blocks of classify must be numbers of rows"),
        ({"classify": []}, "blocks of classify must be numbers of rows"),
        ({"nothing": [1]}, "no layer 'nothing'"),
        ({"layers.0.neuron": [1]}, "no plain linear layer"),
    ):
        with pytest.raises(ConfigError, match=message):
            apply_edit(model, Spec("projected", {"blocks": blocks}))
    grown = apply_edit(model, Spec("projected", {"blocks": {"classify": [5]}}))
    with pytest.raises(ConfigError, match="classify has 5 rows, blocks \\[3\\] are fewer"):
        apply_edit(grown, Spec("projected", {"blocks": {"classify": [3]}}))
    with pytest.raises(ConfigError, match='needs side "input"'):
        ProjectedConfig(spiking_steps=10)
    with pytest.raises(ShapeError, match=r"expected samples \[N, 4\], got \[2, 3\]"):
        HebbianSubspace(4).learn(torch.zeros(2, 3), 0.1)
