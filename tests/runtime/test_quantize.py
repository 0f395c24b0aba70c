"""int8 weights: near the best that rounding can do, and with the mean error of each channel taken out."""

from __future__ import annotations

import pytest
import torch

from neuromix.core.errors import ShapeError
from neuromix.runtime.lowering import lower
from neuromix.runtime.quantization import is_quantizable, quantize, round_weights
from neuromix.runtime.reference import run_reference
from tests.runtime.lowered import images, lively

DIGIT = (1, 8, 8)


@pytest.fixture(scope="module")
def program():
    return lower(lively("meta_spikeformer_nano", DIGIT), input_shape=DIGIT)


def test_rounding_clips_where_the_error_is_least():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(8, 512, 3, 3, generator=generator) * torch.logspace(-3, 3, 8)[:, None, None, None]
    rounded, scale = round_weights(weight)
    assert rounded.dtype == torch.int8 and rounded.shape == weight.shape and scale.shape == (8,)
    assert rounded.abs().max() <= 127
    error = (weight - rounded * scale[:, None, None, None]).square().sum((1, 2, 3))
    largest = weight.abs().amax((1, 2, 3), keepdim=True) / 127
    plain_error = (weight - (weight / largest).round() * largest).square().sum((1, 2, 3))
    assert (error <= plain_error * (1 + 1e-5)).all()
    assert (error < 0.98 * plain_error).any()


def test_channels_of_zeros_and_of_tiny_weights():
    weight = torch.zeros(3, 2, 1, 1)
    weight[1] = 1e-30
    rounded, scale = round_weights(weight)
    assert scale.isfinite().all() and (scale > 0).all()
    assert not rounded[0].any()
    torch.testing.assert_close(rounded[1] * scale[1], weight[1])


def test_what_becomes_int8(program):
    rounded = quantize(program, images(DIGIT))
    for index, (before, after) in enumerate(zip(program.nodes, rounded.nodes, strict=True)):
        assert before.inputs == after.inputs
        if before.op == "conv":
            reads_spikes = program.edges[before.inputs[0]].type.name == "binary"
            assert (after["weight"].dtype == torch.int8) == reads_spikes == is_quantizable(program, index)
        else:
            assert before is after
    assert rounded.nodes[1]["weight"].dtype == torch.float32
    assert rounded.weight_bytes() < 0.4 * program.weight_bytes()
    assert quantize(rounded, images(DIGIT)).edges == rounded.edges  # int8 stays as it is


def test_mean_input_of_each_neuron_is_corrected(program):
    """Over the calibration images, each convolution has the mean output of the float32 program."""
    x = images(DIGIT, 16)
    rounded = quantize(program, x)
    exact, after = run_reference(program, x).values, run_reference(rounded, x).values
    convolutions = [index for index, node in enumerate(program.nodes) if node.op == "conv"]
    for index in convolutions:
        torch.testing.assert_close(
            after[index].mean((0, 1, 3, 4)), exact[index].mean((0, 1, 3, 4)), rtol=1e-3, atol=1e-4
        )


def test_outputs_stay_near(program):
    x = torch.randn(64, *DIGIT, generator=torch.Generator().manual_seed(3))
    rounded = quantize(program, images(DIGIT, 64))
    before, after = run_reference(program, x).output, run_reference(rounded, x).output
    assert (before - after).abs().mean() < 0.35 * before.std()
    assert (before.argmax(1) == after.argmax(1)).float().mean() > 0.6


def test_frames_calibrate_too():
    model = lively("spiking_vgg", (2, 8, 8), layers=(4, "A", 8), map_side=2, num_classes=3, time_steps=3)
    program = lower(model, input_shape=(2, 8, 8))
    rounded = quantize(program, torch.randn(4, 3, 2, 8, 8), frames=True)
    assert rounded.edges == program.edges


def test_images_that_do_not_fit(program):
    with pytest.raises(ShapeError, match=r"expected \[B, ...\] of \[1, 8, 8\], got \[3, 3, 8, 8\]"):
        quantize(program, images((3, 8, 8)))
