"""Delta layers: changes, steps and their gradients, counters, step form; inference on changes; the edits.

Shapes: T frames, B batch, C channels, H W map.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import neuromix
from neuromix.core.edits import apply_edit
from neuromix.core.errors import ConfigError, ShapeError
from neuromix.core.observe import record
from neuromix.core.state import state_bytes
from neuromix.layers.delta import DeltaActivation, DeltaConfig, EventCount, L1Activation, counted_events
from neuromix.layers.delta_conv import DeltaConv2d, DeltaLinear
from neuromix.layers.delta_edits import DeltaInferenceConfig
from neuromix.models.vision.resnet import ResNet, ResNetConfig


def frames(steps=6, batch=2, shape=(3, 5, 4), seed=0, changing=0.3, dtype=torch.float64):
    """Frames of which each differs from the one before in a share of its pixels."""
    generator = torch.Generator().manual_seed(seed)
    x, made = torch.randn(batch, *shape, generator=generator, dtype=dtype), []
    for _ in range(steps):
        made.append(x)
        new = torch.randn(batch, *shape, generator=generator, dtype=dtype)
        changes = torch.rand(batch, 1, *shape[1:], generator=generator) < changing
        x = torch.where(changes, new, x)
    return torch.stack(made)


def layer(shape=(3, 5, 4), **options):
    return DeltaActivation(DeltaConfig(**{"threshold": 0.3, **options}), shape).double()


def test_rounding_is_half_to_even_and_a_step_has_no_sign():
    made = layer((1,), threshold=-0.5)
    x_T = torch.tensor([0.25, 0.75, -0.6, 1.2], dtype=torch.float64).view(4, 1, 1)
    assert made(x_T).flatten().tolist() == [0.0, 1.0, -0.5, 1.0]


def test_levels_say_the_same():
    x_T = frames()
    o_T = layer(activation="relu")(x_T)
    sent_T = layer(activation="relu", level=1)(x_T)
    torch.testing.assert_close(sent_T.cumsum(0), o_T)
    assert torch.equal(sent_T[0], o_T[0])
    changes_T = layer(activation="relu", level=2)(x_T)
    assert not changes_T[0].any() and torch.equal(changes_T[1:], sent_T[1:])
    released_T = layer(activation="relu", level=2, background="released")(x_T)
    assert torch.equal(released_T[1:], -sent_T[1:]) and torch.equal(released_T[0], released_T[1])


def test_a_frame_that_does_not_move_sends_nothing():
    x_T = frames(1).expand(5, -1, -1, -1, -1)
    made = layer(level=1)
    with counted_events(made) as counts:
        y_T = made(x_T)
    assert y_T[0].any() and not y_T[1:].any()
    assert counts[""] == EventCount(0, 4 * 2 * 3 * 5 * 4) and counts[""].sparsity == 1


@settings(deadline=None, max_examples=15)
@given(
    steps=st.integers(1, 5),
    cut=st.integers(1, 4),
    level=st.sampled_from([0, 1, 2]),
    summed=st.booleans(),
    pool=st.sampled_from([None, 2, 3]),
    granularity=st.sampled_from(["channel", "neuron", "layer"]),
)
def test_parts_are_the_whole(steps, cut, level, summed, pool, granularity):
    made = layer(
        level=level, sum=summed, max_pool=pool, granularity=granularity, bias=True, activation="relu"
    )
    x_T = frames(steps)
    with counted_events(made) as whole_count:
        whole, last = made(x_T, return_state=True)
    parts, state = [], None
    with counted_events(made) as count:
        for part in x_T.split(cut):
            y_T, state = made(part, state, return_state=True)
            parts.append(y_T)
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=0)
    assert count == whole_count
    assert all(torch.equal(a, b) for a, b in zip(last, state, strict=True))


def test_the_state_does_not_grow():
    sizes = [state_bytes(layer(level=1, sum=True)(frames(steps), return_state=True)[1]) for steps in (2, 30)]
    assert sizes[0] == sizes[1]


def test_gradients_of_a_step():
    """Release: minus the sum of g times the level; LSQ: of g times what rounding added, in steps."""
    x_T = torch.tensor([0.4, -1.3, 2.2], dtype=torch.float64).view(3, 1, 1).requires_grad_()
    g = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    for rule in ("release", "lsq"):
        made = layer((1,), threshold=-0.5, grad_rule=rule)
        x_T.grad = None
        (made(x_T).flatten() * g).sum().backward()
        ratios = x_T.detach().flatten() / 0.5
        levels = ratios.round()
        of_step = -(g * levels).sum() if rule == "release" else (g * (levels - ratios)).sum()
        torch.testing.assert_close(made.threshold.grad, -of_step[None])  # the threshold is negative
        torch.testing.assert_close(x_T.grad.flatten(), g)


def test_the_penalty_raises_steps():
    made = layer(penalty=1.0, activation="relu")
    before = made.threshold.detach().clone()
    optimiser = torch.optim.SGD(made.parameters(), lr=1e-2)
    for _ in range(5):
        with record(made, "aux_loss") as seen:
            made(frames())
        optimiser.zero_grad()
        seen["aux_loss"][0].backward()
        optimiser.step()
    assert (made.threshold > before).all()


def test_a_step_of_nothing_is_held_off_zero():
    made = layer((1,))
    nn.init.zeros_(made.threshold)
    x_T = torch.ones(2, 1, 1, dtype=torch.float64)
    torch.testing.assert_close(made(x_T), x_T)


def test_the_baseline_counts_activations():
    made = L1Activation(0.5, 10)
    with record(made, "aux_loss") as seen:
        y = made(torch.tensor([[-1.0, 3.0]]))
    assert y.tolist() == [[0.0, 3.0]] and seen["aux_loss"][0].item() == 0.5 * 10 * 1.5


def test_softmax_is_over_channels():
    y_T = layer((3,), activation="softmax", threshold=1e-9)(frames(shape=(3,)))
    torch.testing.assert_close(y_T.sum(2), torch.ones(6, 2, dtype=torch.float64))


@settings(deadline=None, max_examples=25)
@given(
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2, 4]),
    bias=st.booleans(),
    changing=st.sampled_from([0.0, 0.1, 0.4]),
)
def test_updates_are_the_convolution(kernel, stride, padding, dilation, groups, bias, changing):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 8, kernel, stride, padding, dilation, groups, bias).double()
    x_T = frames(shape=(4, 9, 8), changing=changing)
    made = DeltaConv2d(conv, dense_above=1.0)
    with torch.no_grad(), record(made, "places") as seen:
        y_T = made(x_T)
        for x, y in zip(x_T, y_T, strict=True):
            torch.testing.assert_close(y, conv(x))
    places = [int(count) for count in seen["places"]]
    moved = [int((b != a).any(1).sum()) for a, b in itertools.pairwise(x_T)]
    assert places == [2 * 9 * 8, *moved]


def test_updates_of_a_linear_layer_and_of_many_changes():
    torch.manual_seed(0)
    linear, x_T = nn.Linear(5, 3).double(), frames(shape=(5,))
    for options in ({}, {"dense_above": 0.0}, {"dense_above": 1.0}):
        with torch.no_grad():
            torch.testing.assert_close(DeltaLinear(linear, **options)(x_T), linear(x_T))


def test_sums_do_not_drift_away():
    torch.manual_seed(0)
    conv, x_T = nn.Conv2d(2, 3, 3, padding=1), frames(400, 1, (2, 6, 6), dtype=torch.float32)
    with torch.no_grad():
        expected = torch.stack([DeltaConv2d(conv)(x[None])[0] for x in x_T])
        y_T = DeltaConv2d(conv, dense_above=1.0)(x_T)
    assert y_T.dtype == torch.float32
    torch.testing.assert_close(y_T, expected, rtol=1e-6, atol=1e-9)


def edited(**options):
    torch.manual_seed(0)
    model = neuromix.create_model("delta_cnn", layers=(4, "A", 6, "M", 6), hidden=(5,)).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.02, 0.05)
    return apply_edit(model, ("delta", {"threshold": 0.2, **options}))


def test_the_edit_puts_a_layer_behind_every_activation():
    model = edited()
    found = {n: m for n, m in model.named_modules() if isinstance(m, DeltaActivation)}
    assert [tuple(m.threshold.shape) for m in found.values()] == [(1,), (4,), (6,), (6,), (5,)]
    assert [m.config.fan_out for m in found.values()] == [4 * 9, 6 * 9, 6 * 9, 5, 10]
    assert model.stream_axis == 0
    baseline = edited(regulariser="l1")
    assert sum(isinstance(m, L1Activation) for m in baseline.modules()) == 4
    steps = edited(threshold=(0.1, 0.2, 0.3, 0.4, 0.5), input=True)
    assert [m.config.threshold for m in steps.modules() if isinstance(m, DeltaActivation)] == [
        0.1,
        0.2,
        0.3,
        0.4,
        0.5,
    ]


def test_inference_on_changes_is_that_on_frames():
    """A net with its batch-norms folded, on 50 frames in float32, at once and frame by frame."""
    model = edited().eval()
    streaming = apply_edit(model, "delta_inference")
    assert sum(isinstance(m, DeltaConv2d | DeltaLinear) for m in streaming.modules()) == 5
    assert not any(isinstance(m, nn.BatchNorm2d) for m in streaming.modules())
    x_T = frames(50, 1, (1, 8, 8), changing=0.05, dtype=torch.float32).abs()
    session = neuromix.stream(streaming).session()
    with torch.no_grad():
        folded = apply_edit(model, "fuse")
        expected = folded.forward_steps(x_T)
        torch.testing.assert_close(streaming.forward_steps(x_T), expected, rtol=0, atol=1e-5)
        stepped = torch.stack([session.step(x) for x in x_T])
    torch.testing.assert_close(stepped, expected, rtol=0, atol=1e-5)


def test_a_static_clip_costs_nothing_after_its_first_frame():
    model = edited().eval()
    streaming = apply_edit(model, "delta_inference")
    x_T = frames(1, 1, (1, 8, 8), dtype=torch.float32).expand(4, -1, -1, -1, -1)
    with torch.no_grad(), counted_events(streaming) as counts, record(streaming, "places") as places:
        streaming.forward_steps(x_T)
    assert len(counts) == 5 and all(count.events == 0 < count.elements for count in counts.values())
    assert all([int(n) for n in seen][1:] == [0, 0, 0] and int(seen[0]) > 0 for seen in places.values())


def test_memory_is_the_same_after_any_number_of_frames():
    streaming = apply_edit(edited().eval(), "delta_inference")
    net, sizes = neuromix.stream(streaming), []
    for steps in (2, 20):
        with torch.no_grad():
            _, state = net.prefill(frames(steps, 1, (1, 8, 8), dtype=torch.float32))
        sizes.append(state_bytes(state))
    assert sizes[0] == sizes[1] > 0


def test_an_edited_model_is_saved_and_comes_back(tmp_path):
    x_T = frames(3, 1, (1, 8, 8), dtype=torch.float32)
    for model in (edited().eval(), apply_edit(edited().eval(), "delta_inference")):
        neuromix.save_checkpoint(model, tmp_path / "net.safetensors")
        again = neuromix.load_checkpoint(tmp_path / "net.safetensors").eval()
        with torch.no_grad():
            assert torch.equal(again.forward_steps(x_T), model.forward_steps(x_T))


def test_the_edits_work_on_a_residual_network():
    torch.manual_seed(0)
    net = ResNet(ResNetConfig(activation="relu", blocks=(1, 1), widths=(4, 6), in_channels=1)).eval()
    made = apply_edit(net, ("delta", {"threshold": 0.2}))
    assert sum(isinstance(m, DeltaActivation) for m in made.modules()) >= 4
    streaming = apply_edit(made.eval(), "delta_inference")
    x_T = frames(5, 1, (1, 16, 16), dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(streaming.forward_steps(x_T), made.forward_steps(x_T), rtol=0, atol=1e-4)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="threshold"):
        DeltaConfig(threshold=0.0)
    with pytest.raises(ConfigError, match="level"):
        DeltaConfig(level=3)
    with pytest.raises(ShapeError, match="expects"):
        layer()(torch.zeros(2, 3))
    with pytest.raises(ShapeError, match="two"):
        layer(level=2, background="released")(frames(1))
    with pytest.raises(ConfigError, match="already"):
        apply_edit(edited(), "delta")
    with pytest.raises(ConfigError, match="thresholds"):
        edited(threshold=(0.1, 0.2))
    with pytest.raises(ConfigError, match="frames"):
        apply_edit(neuromix.create_model("poolformer_nano"), "delta")
    with pytest.raises(ConfigError, match="dense_above"):
        DeltaInferenceConfig(dense_above=2.0)
    with pytest.raises(ShapeError, match="frames"):
        DeltaConv2d(nn.Conv2d(2, 3, 1))(torch.zeros(1, 1, 5, 4, 4))
