"""The CNN skeletons: the nets that their fields make, and the networks of SLTT."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import neuromix
from neuromix.core.checkpoint import create_model
from neuromix.core.errors import CheckpointError, ConfigError, ShapeError, UnknownNameError
from neuromix.layers.standardised_conv import StandardisedConv2d
from neuromix.models.vision.resnet import ResNet, ResNetConfig
from neuromix.models.vision.vgg import VGG, VGGConfig

VGG11 = (64, "A", 128, 256, "A", 512, 512, 512, "A", 512, 512)
VGG16 = (64, 64, "A", 128, 128, "A", 256, 256, 256, "A", 512, 512, 512, "A", 512, 512, 512)
VGG16_MAX = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")

# Nets of other papers as values of the fields, and how many parameters they have.
NETS = {
    "post-activation ResNet-18 for 32x32": (ResNetConfig(), 11_173_962),
    "the same for two channels": (ResNetConfig(in_channels=2), 11_173_386),
    "pre-activation ResNet-18 of base width 20": (
        ResNetConfig(order="pre", tail="activation", widths=(20, 40, 80, 160)),
        1_094_207 - 17,  # their neurons have a learnable threshold each
    ),
    "ResNet-18 for 224x224": (
        ResNetConfig(stem_kernel=7, stem_stride=2, stem_pool="max", num_classes=1000, activation="relu"),
        11_689_512,
    ),
    "ResNet-50 for 224x224": (
        ResNetConfig(
            blocks=(3, 4, 6, 3),
            bottleneck=True,
            stem_kernel=7,
            stem_stride=2,
            stem_pool="max",
            num_classes=1000,
        ),
        25_557_032,
    ),
    "VGGSNN": (
        VGGConfig(
            layers=(64, 128, "A", 256, 256, "A", 512, 512, "A", 512, 512), in_channels=2, num_classes=11
        ),
        9_228_299,
    ),
    "VGG-11 with hidden layers": (VGGConfig(layers=VGG11, map_side=4, hidden=(4096, 4096)), 61_374_026),
    "three convolutions": (
        VGGConfig(layers=(64, "A", 128, "A", 256), map_side=4),
        412_237 - 3,  # their neurons have a learnable threshold each
    ),
    "VGG-16 without norm": (
        VGGConfig(
            layers=VGG16,
            map_side=2,
            norm="none",
            bias=True,
            hidden=(4096, 4096),
            hidden_bias=False,
            head_bias=False,
        ),
        39_921_502 - 30,  # their neurons have a learnable threshold and leak each
    ),
    "VGG-16 with maximum pooling": (VGGConfig(layers=VGG16_MAX, bias=True, activation="relu"), 14_728_266),
}


@pytest.mark.parametrize(("config", "parameters"), NETS.values(), ids=NETS.keys())
def test_nets_of_other_papers_are_values_of_the_fields(config, parameters):
    with torch.device("meta"):
        net = (VGG if isinstance(config, VGGConfig) else ResNet)(config)
    assert net.num_parameters() == parameters


@torch.no_grad()
def test_post_activation_block_by_its_formula():
    torch.manual_seed(0)
    net = ResNet(ResNetConfig(blocks=(1, 1), widths=(4, 8), activation="relu")).eval()
    x = torch.randn(2, 4, 8, 8)
    for stage in net.stages:
        residual = stage[0].residual
        first, second = (unit.conv for unit in residual.branch)
        skip = residual.skip.module(x) if stage is net.stages[1] else x
        expected = F.relu(second(F.relu(first(x))) + skip)
        torch.testing.assert_close(stage(x[None])[0], expected)
        x = expected


@pytest.mark.parametrize("shortcut", ["input", "activated"])
@torch.no_grad()
def test_identity_shortcut_of_a_pre_activation_block(shortcut):
    torch.manual_seed(0)
    net = ResNet(
        ResNetConfig(blocks=(1,), widths=(4,), order="pre", shortcut=shortcut, activation="relu")
    ).eval()
    x = torch.randn(2, 4, 8, 8)
    block = net.stages[0][0]
    first = block.activate if shortcut == "activated" else block.residual.norm
    convs = [unit.conv for unit in block.residual.branch]
    a = F.relu(first.norm(x))
    expected = convs[1](F.relu(convs[0](a))) + (a if shortcut == "activated" else x)
    torch.testing.assert_close(block(x[None])[0], expected)


def test_normaliser_free_block_divides_by_the_deviation_it_expects():
    net = create_model("spiking_nf_resnet34", blocks=(3, 2), widths=(4, 8), alpha=0.5)
    blocks = [block for stage in net.stages for block in stage]
    firsts = [
        block.residual.norm if hasattr(block.residual.norm, "deviation") else block.activate
        for block in blocks
    ]
    # 1; + 1/4; + 1/4; + 1/4 and then a projection, after which it is 1 + 1/4.
    assert [first.deviation**2 for first in firsts] == pytest.approx([1, 1.25, 1.5, 1.75, 1.25])


def test_a_net_of_ordinary_activations_has_no_time_to_step_along():
    assert VGG(VGGConfig(layers=(4, "M"), activation="relu")).stream_axis is None
    assert VGG(VGGConfig(layers=(4, "M"))).stream_axis == 0


def test_a_static_image_goes_through_the_first_convolution_once():
    for name in ("spiking_preact_resnet_nano", "spiking_vgg11_bn_dvs_cifar10", "spiking_nf_resnet34"):
        net, sizes = create_model(name, time_steps=3), []
        first = next(module for module in net.modules() if isinstance(module, nn.Conv2d))
        first.register_forward_hook(lambda _, args, __, sizes=sizes: sizes.append(len(args[0])))
        image = torch.randn(2, net.config.in_channels, 32, 32)
        with torch.no_grad():
            static = net.eval()(image)
            frames = net(image.expand(3, *image.shape))
        assert sizes == [2, 6]
        torch.testing.assert_close(static, frames)


@pytest.mark.parametrize(
    "name", ["spiking_preact_resnet18", "spiking_vgg11_bn_dvs_cifar10", "spiking_nf_resnet50"]
)
@torch.no_grad()
def test_how_weights_start(name):
    torch.manual_seed(0)
    net = create_model(name)
    conv = net.get_submodule("stages.3.0.residual.branch.0") if "resnet" in name else net.stages[3][1]
    conv = next(module for module in conv.modules() if isinstance(module, nn.Conv2d))
    fan_out = conv.out_channels * conv.kernel_size[0] * conv.kernel_size[1]
    assert float(conv.weight.std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
    assert bool(conv.bias.any()) == (name == "spiking_preact_resnet18")
    assert not net.head.classify.bias.any()
    if "vgg" in name:
        assert float(net.head.classify.weight.std()) == pytest.approx(0.01, rel=0.05)
    if "nf" in name:
        assert not net.head.classify.weight.any()
        assert all(float(p) == 0 for n, p in net.named_parameters() if n.endswith("scale.gain"))


def authors_names(blocks, bottleneck):
    """The names in the released files of the normaliser-free nets."""
    names = [f"conv1.{part}" for part in ("weight", "bias", "gain")] + ["fc.weight", "fc.bias"]
    for stage, count in enumerate(blocks, 1):
        for block in range(count):
            layer = f"layer{stage}.{block}"
            convs = [f"{layer}.conv{number}" for number in range(1, 4 if bottleneck else 3)]
            if block == 0 and (bottleneck or stage > 1):
                convs.append(f"{layer}.downsample")
            names += [f"{conv}.{part}" for conv in convs for part in ("weight", "bias", "gain")]
            names.append(f"{layer}.skipinit_gain")
    return names


@pytest.mark.parametrize(
    ("name", "bottleneck"), [("spiking_nf_resnet34", False), ("spiking_nf_resnet50", True)]
)
def test_released_files_load_strictly(name, bottleneck, tmp_path):
    small = {"blocks": (3, 4, 6, 3), "widths": (2, 4, 4, 4), "num_classes": 5}
    net = create_model(name, **small)
    theirs = net.layouts(net.config)["authors"].to_theirs(net.state_dict())
    assert theirs.keys() == set(authors_names(small["blocks"], bottleneck))
    torch.save({"net": theirs, "optimizer": {}, "epoch": 99, "max_test_acc": 66.2}, tmp_path / "released.pth")
    again = neuromix.load_checkpoint(tmp_path / "released.pth", name, **small)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in net.state_dict().items())
    del theirs["conv1.gain"]
    torch.save({"net": theirs}, tmp_path / "short.pth")
    with pytest.raises(CheckpointError, match="missing"):
        neuromix.load_checkpoint(tmp_path / "short.pth", name, **small)


def test_fusing_folds_the_norms_behind_convolutions_and_the_standardisation():
    torch.manual_seed(0)
    for name, left in (("spiking_preact_resnet_nano", 5), ("spiking_nf_resnet34", 0)):
        net = create_model(name, blocks=(1, 1, 1, 1), widths=(4, 4, 8, 8)).double()
        for parameter in net.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.5)
        image = torch.randn(2, 3, 32, 32, dtype=torch.float64)
        net.train()(image)  # so that the running statistics are some
        fused = neuromix.apply_edit(net.eval(), "fuse")
        assert sum(isinstance(module, nn.BatchNorm2d) for module in fused.modules()) == left
        assert not any(isinstance(module, StandardisedConv2d) for module in fused.modules())
        torch.testing.assert_close(fused(image), net(image))


def test_smaller_and_larger_images():
    net = create_model("spiking_preact_resnet_nano").eval()
    for side in (8, 28, 64):
        assert net(torch.randn(1, 3, side, side)).shape == (1, 10)
    with pytest.raises(ShapeError, match="at least 32"):
        create_model("spiking_vgg11_bn_dvs_cifar10")(torch.randn(1, 2, 31, 31))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ResNetConfig(blocks=(1,), widths=(4, 8)), "one entry a stage"),
        (lambda: ResNetConfig(shortcut="activated"), 'needs order "pre"'),
        (lambda: ResNetConfig(alpha=0.2, order="pre"), 'alpha needs norm "none"'),
        (lambda: ResNetConfig(stem_kernel=4), "odd"),
        (lambda: ResNetConfig(dropout=1.0), "dropout must be in"),
        (lambda: VGGConfig(layers=("A", 4)), "start with a width"),
        (lambda: VGGConfig(layers=(4, "P")), "layers"),
        (lambda: VGGConfig(layers=(4, 0)), "positive"),
    ],
)
def test_wrong_values(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_unknown_activation():
    with pytest.raises(UnknownNameError, match="did you mean relu"):
        VGG(VGGConfig(layers=(4,), activation="reluu"))
