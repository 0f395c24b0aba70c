"""Spikformer of both versions: what its trunk carries, its stems, and the way from autoencoder to classifier.

Shapes: T spike time, B batch, C channels, H W image, K visible patches.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

import neuromix
from neuromix.core.config import field_types
from neuromix.core.edits import apply_edit
from neuromix.core.errors import ConfigError, ShapeError
from neuromix.layers.visible import choose_visible
from neuromix.models.vision.spikformer import SpikformerConfig
from tests.runtime.lowered import lively

SMALL = {"strides": (1, 2), "dim": 16, "depth": 2, "mixer.heads": 2, "num_classes": 3}


def make(name="spikformer_v2_nano", **values):
    torch.manual_seed(0)
    return neuromix.create_model(name, **{**SMALL, **values}).double()


@pytest.fixture
def image():
    return torch.randn(2, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("stem", ["sps", "scs"])
def test_the_trunk_carries_small_integers(stem, image):
    net, trunk = lively("spikformer_v2_nano", (1, 8, 8), **SMALL, stem=stem).double(), []
    net.stem.register_forward_hook(lambda _, __, y: trunk.append(y))
    for block in net.blocks:
        block.register_forward_hook(lambda _, __, y: trunk.append(y))
    net(image)
    for depth, y in enumerate(trunk):
        assert torch.equal(y, y.round()) and y.min() >= 0 and y.max() <= 2 + 2 * depth
    assert trunk[-1].max() > 1


@pytest.mark.parametrize("stem", ["sps", "scs"])
def test_a_static_image_is_convolved_once_and_is_the_image_at_every_step(stem, image):
    once, repeated, sizes = make(stem=stem), make(stem=stem), []
    first = next(module for module in once.modules() if isinstance(module, nn.Conv2d))
    first.register_forward_hook(lambda _, args, __: sizes.append(len(args[0])))
    torch.testing.assert_close(once(image), repeated(image.expand(4, *image.shape)))
    assert sizes == [2]
    for (name, a), b in zip(once.state_dict().items(), repeated.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}")


def test_every_layer_but_the_first_and_the_last_sees_integers(image):
    net, seen = make().eval(), {}
    for path, module in net.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda _, args, __, path=path: seen.__setitem__(path, args[0]))
    net(image)
    real = [path for path, x in seen.items() if not torch.equal(x, x.round())]
    assert real == ["stem.stages.0.0.0.stem.conv", "head"]


def test_strides_of_the_stems():
    image = torch.randn(1, 1, 24, 16, dtype=torch.float64)
    for stem in ("sps", "scs"):
        net = make(stem=stem, strides=(2, 1, 2))
        assert net.stem(image[None]).shape == (4, 1, 16, 6, 4)
        assert net.config.patch == 4
    with pytest.raises(ConfigError, match="a stem of 4 stages needs a width that 8 divides, got 12"):
        make(strides=(1, 1, 1, 2), dim=12)


def test_other_releases_of_the_first_version():
    """Linear layers with biases for CIFAR, Conv1d in the MLP for DVS: other names and axes of the same net."""
    of_cifar = {"block.0.attn.q_linear.weight": 2, "block.0.mlp.fc1_linear.weight": 2}
    of_dvs = {"block.0.attn.q_conv.weight": 3, "block.0.mlp.fc1_conv.weight": 3}
    for name, who, axes in (
        ("spikformer_4_384_cifar10", "authors, CIFAR", of_cifar),
        ("spikformer_2_256_dvs", "authors, DVS", of_dvs),
    ):
        net = neuromix.create_model(name, dim=16, depth=1, **{"mixer.heads": 2})
        layout = net.layouts(net.config)[who]
        theirs = layout.to_theirs(net.state_dict())
        assert {key: theirs[key].dim() for key in axes} == axes
        assert ("block.0.attn.q_linear.bias" in theirs) == (who == "authors, CIFAR")
        theirs |= {"pos_embed": torch.zeros(1)} if who == "authors, DVS" else {}
        assert layout.to_ours(theirs).keys() == net.state_dict().keys()


def test_released_names_load(tmp_path):
    net = make("spikformer_8_384", in_channels=1)
    theirs = net.layouts(net.config)["authors"].to_theirs(net.state_dict())
    torch.save({"state_dict": theirs}, tmp_path / "released.pth")
    values = {**SMALL, "in_channels": 1}
    again = neuromix.load_checkpoint(tmp_path / "released.pth", "spikformer_8_384", **values)
    assert all(
        torch.equal(a, b)
        for a, b in zip(again.state_dict().values(), net.float().state_dict().values(), strict=True)
    )


def test_only_the_head_is_missing_after_pre_training(image):
    net = make()
    ssl = net.autoencoder(decoder_dim=8, decoder_heads=2, decoder_depth=1)
    with torch.no_grad():
        for parameter in ssl.parameters():
            parameter.add_(0.1)
    again = ssl.classifier()
    assert type(again) is type(net) and again.name == "spikformer_v2"
    assert all(
        getattr(again.config, name) == getattr(net.config, name) for name in field_types(SpikformerConfig)
    )
    own, pretrained = again.state_dict(), ssl.state_dict()
    assert {name for name in own if name not in pretrained} == {"head.weight", "head.bias"}
    assert all(torch.equal(own[name], tensor) for name, tensor in pretrained.items() if name in own)
    assert {name.split(".")[0] for name in pretrained if name not in own} == {"decoder"}
    with pytest.raises(ConfigError, match="edited"):
        apply_edit(net.eval(), "fuse").autoencoder()


def test_hidden_pixels_reach_nothing(image):
    ssl = lively_autoencoder()
    kept = torch.tensor([[0, 5, 10, 15], [1, 2, 3, 4]])
    tokens = ssl.visible_tokens(image, kept)
    assert tokens.shape == (4, 2, 16, 4)
    changed = image.clone()
    changed[0, :, 0:2, 2:4] += 9  # patch 1: hidden in the first image alone
    changed[1, :, 6:8, 6:8] += 9  # patch 15: hidden in the second
    assert torch.equal(ssl.visible_tokens(changed, kept), tokens)
    changed[0, :, 0:2, 0:2] += 9  # patch 0: seen
    assert not torch.equal(ssl.visible_tokens(changed, kept)[:, 0], tokens[:, 0])
    assert torch.equal(ssl.visible_tokens(changed, kept)[:, 1], tokens[:, 1])


def lively_autoencoder():
    classifier = lively("spikformer_v2_nano", (1, 8, 8), **SMALL).double()
    return classifier.autoencoder(decoder_dim=8, decoder_heads=2, decoder_depth=1).double().eval()


def test_all_patches_visible_is_the_classifier_s_encoder(image):
    ssl = lively_autoencoder()
    kept = torch.arange(16).expand(2, -1)
    expected = ssl.blocks(ssl.stem(image[None])).flatten(3)
    torch.testing.assert_close(ssl.visible_tokens(image, kept), expected)


def test_mask_tokens_stand_for_hidden_patches(image):
    """Each place has its own position, and a hidden one no more than that: its pixels change nothing anywhere."""
    ssl = lively_autoencoder()
    kept = choose_visible(2, 16, 0.75, torch.Generator().manual_seed(0))
    patches = ssl(image, kept)
    assert patches.shape == (2, 16, 4)
    hidden = [n for n in range(16) if n not in kept[0].tolist()]
    assert len(patches[0, hidden].unique(dim=0)) == len(hidden)


@pytest.mark.parametrize(
    "kept",
    [
        torch.zeros(3, 2).long(),
        torch.zeros(2, 0).long(),
        torch.full((2, 2), 16),
        torch.zeros(2, 2),
        torch.zeros(2).long(),
    ],
    ids=["batch", "none", "range", "dtype", "axes"],
)
def test_wrong_places_are_refused(kept, image):
    with pytest.raises(ShapeError, match=r"kept must be int64 \[2, K\] with numbers of patches, 0 to 15"):
        make().autoencoder(decoder_dim=8, decoder_heads=2, decoder_depth=1).double()(image, kept)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"time_steps": 0}, "time_steps must be positive, got 0"),
        ({"strides": ()}, "strides needs one entry a stage"),
        ({"mixer.heads": 3}, "heads must divide the width, got 3 heads for width 16"),
        ({"stem": "conv"}, "must be one of 'sps', 'scs'"),
        ({"feature_levels": (0,)}, "feature_levels must be ascending numbers"),
    ],
)
def test_wrong_values_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        make(**values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder_dim": 6}, "decoder_dim must be a multiple of 4, got 6"),
        ({"decoder_dim": 8, "decoder_heads": 3}, "decoder_heads must divide decoder_dim, got 3 for 8"),
    ],
)
def test_wrong_decoders_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        make().autoencoder(**options)


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 1, 7, 8), (2, 1, 0, 8), (1, 8, 8)])
def test_wrong_images_are_refused(shape):
    with pytest.raises(ShapeError, match="multiples of 2, got"):
        make()(torch.zeros(shape, dtype=torch.float64))
