"""Weights of few bits: the quantiser, the edits that make and fix them, and what stays the same.

Shapes: B batch, C channels, H W feature map, O output channels.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import neuromix
from neuromix.core.edits import apply_edit
from neuromix.core.errors import ConfigError
from neuromix.layers.conv import ConvBN, RepConvBN
from neuromix.layers.integer_weights import IntegerConv2d, IntegerLinear, effective_weight, pack, unpack
from neuromix.layers.lsq import LSQConv2d, LSQLayer, LSQLinear, Range, initial_step, lsq, quantise_layers


def by_definition(weight, alpha, bits):
    """Straight-through rounding and a scaled gradient of the step, put together from differentiable parts."""
    low, high = Range.of(bits)
    g = 1 / math.sqrt(weight.numel() * high)
    step = (alpha * g + (alpha - alpha * g).detach()).view(-1, *(1,) * (weight.dim() - 1))
    z = (weight / step).clamp(low, high)
    return (z + (z.round() - z).detach()) * step


@settings(max_examples=25, deadline=None)
@given(
    shape=st.sampled_from([(3, 4), (2, 3, 1, 1), (4, 1, 3, 3), (1, 2, 5, 2)]),
    bits=st.integers(2, 8),
    seed=st.integers(0, 99),
)
def test_numbers_and_gradients_are_those_of_the_definition(shape, bits, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    alpha = (initial_step(weight, bits) * 0.5).requires_grad_()  # so small that some weights are clipped
    factor = torch.randn(shape, generator=generator, dtype=torch.float64)
    expected = by_definition(weight, alpha, bits)
    torch.testing.assert_close(lsq(weight, alpha, bits), expected)
    of_definition = torch.autograd.grad((expected * factor).sum(), (weight, alpha))
    torch.testing.assert_close(
        torch.autograd.grad((lsq(weight, alpha, bits) * factor).sum(), (weight, alpha)), of_definition
    )
    with torch.no_grad():
        assert torch.equal(lsq(weight, alpha, bits), lsq(weight, alpha, bits))


def test_rounds_half_to_even_and_starts_from_the_mean():
    assert lsq(torch.tensor([[0.5, 1.5, -0.5, 99.0, -99.0]]), torch.ones(1), 4).tolist() == [[0, 2, 0, 7, -8]]
    weight = torch.tensor([[1.0, -3.0], [0.0, 4.0]])
    torch.testing.assert_close(initial_step(weight, 4), torch.full((2,), 2 * 2.0 / math.sqrt(7)))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-8, 7), min_size=1, max_size=40))
def test_four_bits_are_packed_two_a_byte(values):
    integers = torch.tensor(values, dtype=torch.int8)
    codes = pack(integers)
    assert codes.dtype == torch.uint8 and len(codes) == -(-len(values) // 2)
    assert torch.equal(unpack(codes, (len(values),)), integers)


@pytest.fixture
def net():
    torch.manual_seed(0)
    model = neuromix.create_model(
        "poolformer_nano", dims=(8, 8, 16), depths=(1, 1, 1), head_norm="batch", norms="batch"
    )
    return model.eval()


@pytest.fixture
def image():
    return torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def test_quantise_any_model_and_replay_it(net, image, tmp_path):
    edited = apply_edit(net, ("quantise", {"bits": 3, "skip": ["head.*"]}))
    layers = {path: m for path, m in edited.named_modules() if isinstance(m, LSQLayer)}
    assert layers and not any(path.startswith("head.") for path in layers)
    assert not any(isinstance(m, LSQLayer) for m in net.modules()), "the given model is left as it was"
    for layer in layers.values():
        assert layer.bits == 3 and bool((layer.alpha > 0).all())
        steps = effective_weight(layer) / layer.alpha.view(-1, 1, 1, 1)
        torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-5)
        assert steps.min() >= -4.1 and steps.max() <= 3.1
    edited.train()(image).sum().backward()
    assert all(layer.alpha.grad.isfinite().all() for layer in layers.values())
    neuromix.save_checkpoint(edited, tmp_path / "net.safetensors")
    again = neuromix.load_checkpoint(tmp_path / "net.safetensors").eval()
    assert torch.equal(again(image), edited.eval()(image))


def test_packed_is_equal_to_the_bit_and_smaller(net, image, tmp_path):
    quantised = apply_edit(net, "quantise").double()
    packed = apply_edit(quantised, "pack")
    assert torch.equal(packed(image.double()), quantised(image.double()))
    assert {type(m) for m in packed.modules()} >= {IntegerConv2d, IntegerLinear}
    for name, model in (("float", net), ("packed", apply_edit(apply_edit(net, "quantise"), "pack"))):
        neuromix.save_checkpoint(model, tmp_path / f"{name}.safetensors")
    sizes = {file.stem: file.stat().st_size for file in tmp_path.iterdir()}
    assert sizes["packed"] < sizes["float"] / 2
    again = neuromix.load_checkpoint(tmp_path / "packed.safetensors")
    assert torch.equal(again(image), apply_edit(apply_edit(net, "quantise"), "pack")(image))


def test_seven_bits_are_kept_one_a_byte(net, image):
    quantised = apply_edit(net, ("quantise", {"bits": 7}))
    packed = apply_edit(quantised, "pack")
    assert torch.equal(packed(image), quantised(image))
    assert {m.codes.dtype for m in packed.modules() if isinstance(m, IntegerConv2d)} == {torch.int8}


@pytest.mark.parametrize(
    "make", [lambda: ConvBN(3, 4, 3, bias=True), lambda: RepConvBN(4, 6)], ids=["conv", "rep"]
)
def test_folded_batch_norms_leave_integers(make):
    torch.manual_seed(0)
    module = make().double()
    quantise_layers(module, 4)
    x_BCHW = torch.randn(2, 3 if isinstance(module, ConvBN) else 4, 5, 5, dtype=torch.float64)
    for bn in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(bn.weight, -1, 1)  # a step may come out negative
        nn.init.normal_(bn.bias)
    module(x_BCHW)
    expected = module.eval()(x_BCHW)
    torch.testing.assert_close(module.fused()(x_BCHW), expected)
    if isinstance(module, RepConvBN):
        factors = module.factored()
        torch.testing.assert_close(nn.Sequential(*factors)(x_BCHW), expected)
        before = [module.reduce, module.depthwise, module.expand]
        for factor, layer in zip(factors, before, strict=True):
            assert torch.equal(factor.integers(), layer.integers())
    else:
        assert torch.equal(module.fused().integers(), module.conv.integers())


def test_a_linear_layer_and_its_fixed_form():
    torch.manual_seed(0)
    linear = LSQLinear(nn.Linear(5, 3), 4)
    x = torch.randn(2, 4, 5)
    expected = F.linear(x, effective_weight(linear), linear.bias)
    torch.testing.assert_close(linear(x), expected)
    assert torch.equal(linear.fused()(x), linear(x))


def test_steps_stay_positive():
    layer = LSQConv2d(nn.Conv2d(2, 3, 1), 4)
    with torch.no_grad():
        layer.alpha[0] = -0.1
    layer.after_step()
    assert bool((layer.alpha > 0).all())


def test_what_cannot_be_quantised_is_told(net):
    with pytest.raises(ConfigError, match="bits must be 2 to 8, got 1"):
        apply_edit(net, ("quantise", {"bits": 1}))
    with pytest.raises(ConfigError, match="poolformer_nano has no layer that is not skipped"):
        apply_edit(net, ("quantise", {"skip": ["*"]}))
    with pytest.raises(ConfigError, match="no quantised layer; apply the edit quantise first"):
        apply_edit(net, "pack")
    with pytest.raises(ConfigError, match="pads with zeros, not with reflect"):
        LSQConv2d(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), 4)
