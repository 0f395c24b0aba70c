from __future__ import annotations

import pytest
import torch
from torch import nn

import neuromix
from neuromix.core.edits import apply_edit
from neuromix.core.errors import ConfigError, ShapeError
from neuromix.models.vision.meta_spikeformer import Distilled
from neuromix.neurons import Neuron

TINY = {"dims": (4, 4, 8, 8), "conv_depths": (1, 1, 1), "depths": (1, 1), "mixer.heads": 2, "num_classes": 3}


def make(**values):
    torch.manual_seed(0)
    return neuromix.create_model("meta_spikeformer_nano", **{**TINY, **values}).double()


@pytest.fixture
def image():
    return torch.randn(2, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shortcut", ["membrane", "sew", "vanilla"])
def test_trunk_carries_what_its_shortcut_says(shortcut, image):
    net = make(shortcut=shortcut).eval()
    trunk = []
    net.stages[3].register_forward_hook(lambda _, __, y: trunk.append(y))
    net(image)
    values = set(trunk[0].unique().tolist())
    if shortcut == "vanilla":
        assert values <= {0.0, 1.0}
    elif shortcut == "sew":
        assert all(value == int(value) for value in values)
    else:
        assert any(value != int(value) for value in values)


@pytest.mark.parametrize("form", [1, 2, 3, 4])
def test_attention_family_trains(form, image):
    net = make(**{"mixer.form": form})
    net(image).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert ("k" in net.stages[3].blocks[0].mixer.branch.projections) == (form != 2)


def test_static_image_is_the_image_at_every_step_statistics_included(image):
    once, repeated = make(), make()
    y = once(image)
    torch.testing.assert_close(y, repeated(image.expand(4, *image.shape)))
    for (name, a), b in zip(once.state_dict().items(), repeated.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}")


def test_stem_of_a_static_image_runs_once(image):
    net, sizes = make(), []
    net.stages[0].downsample.stem.conv.register_forward_hook(
        lambda _, args, __: sizes.append(args[0].shape[0])
    )
    net(image)
    assert sizes == [2]


def test_every_layer_but_the_first_sees_spikes(image):
    net = make().eval()
    seen = {}
    for path, module in net.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda _, args, __, path=path: seen.__setitem__(path, args[0]))
    net(image)
    # Inside a RepConv, and behind the depthwise convolution, the linear chain goes on without a neuron.
    linear = ("depthwise", "expand", "project.conv")
    for path, x in seen.items():
        chained = path.endswith(linear) and ("branch.projections" in path or "branch.out" in path)
        chained |= "mixer.branch.project.conv" in path
        chained |= path.endswith("downsample.stem.conv")
        assert chained or set(x.unique().tolist()) <= {0.0, 1.0}, path


def test_fused_net_is_the_same_and_has_no_batch_norm(image):
    net = make()
    net(image)  # moves the running statistics away from 0 and 1
    fused = apply_edit(net.eval(), "fuse")
    torch.testing.assert_close(fused(image), net(image), rtol=1e-8, atol=1e-10)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
    assert any(isinstance(m, nn.BatchNorm2d) for m in net.modules())


def test_distillation_head(image):
    net = make(distillation=True)
    output = net(image)
    assert isinstance(output, Distilled) and output.logits.shape == (2, 3)
    net.eval()
    both = net(image)
    spikes = []
    net.head.neuron.register_forward_hook(lambda _, __, s: spikes.append(s))
    net(image)
    rate = spikes[0].mean(0)
    torch.testing.assert_close(both, (net.head.classify(rate) + net.head.distill(rate)) / 2)


def test_segmentation_pyramid_is_averaged_over_time(image):
    net = make(pyramid="segmentation", feature_levels=(0, 3)).eval()
    maps = net(image)
    assert [tuple(y.shape) for y in maps] == [(2, 2, 8, 8), (2, 8, 2, 2)]


def test_event_frames_enter_step_by_step():
    frames = torch.randn(4, 2, 1, 8, 8, dtype=torch.float64)
    net = make().eval()
    session = neuromix.stream(net).session()
    torch.testing.assert_close(torch.stack([session.step(x) for x in frames]).mean(0), net(frames))
    with pytest.raises(ShapeError, match=r"3 time steps; expected 1 .* or 4"):
        net(frames[:3])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"time_steps": 0}, "time_steps must be positive, got 0"),
        ({"depths": (-1, 1)}, "depths must be positive"),
        ({"mixer.heads": 3}, "heads must divide the width, got 3 heads for width 8"),
        ({"dims": (3, 4, 8, 8)}, "the first of dims must be even"),
        ({"stem_kernel": 2}, "stem_kernel must be odd"),
        ({"shortcut": "long"}, "must be one of 'membrane'"),
        ({"neuron.tau": 0.5}, "tau must be at least 1"),
        ({"neuron.v_threshold": 0.0}, "v_threshold must be positive"),
    ],
)
def test_wrong_values_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        make(**values)


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 1, 6, 8), (2, 1, 0, 8), (1, 8, 8)])
def test_wrong_images_are_refused(shape):
    with pytest.raises(ShapeError, match="multiples of 4, got"):
        make()(torch.zeros(shape, dtype=torch.float64))


def test_every_neuron_counts_its_levels():
    assert {m.levels for m in make().modules() if isinstance(m, Neuron)} == {1}
