"""The MetaFormer spine: sizes, names, mixers in any stage, and what the paper says of them."""

from __future__ import annotations

import inspect
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import neuromix
from neuromix.core import registry
from neuromix.core.errors import CheckpointError, ConfigError, ShapeError, UnknownNameError
from neuromix.core.layout import transfer
from neuromix.core.observe import Noise
from neuromix.layers.chance import DropPath
from neuromix.layers.norm import ChannelNorm
from neuromix.layers.residual import Residual, Scale
from neuromix.mixers.mixer import OneStep, SpatialMixer, make_mixer
from neuromix.models.metaformer import MetaFormer, MetaFormerConfig
from neuromix.models.metaformer_reading import (
    activation_spec,
    channel_mixer_spec,
    mixer_spec,
    norm_eps,
    norm_name,
)

PARAMETERS = {
    "poolformer_s12": 11_915_176,
    "poolformer_s24": 21_388_968,
    "poolformer_s36": 30_862_760,
    "poolformer_m36": 56_172_520,
    "poolformer_m48": 73_473_448,
    "metaformer_id_s12": 11_915_176,
    "metaformer_rand_s12": 11_915_176,
    "metaformer_pppa_s12_224": 14_038_440,
    "metaformer_ppaa_s12_224": 16_535_592,
    "metaformer_pppf_s12_224": 11_919_978,
    "metaformer_ppff_s12_224": 12_150_474,
    "identityformer_s12": 11_891_712,
    "randformer_s12": 11_891_712,
    "poolformerv2_s12": 11_891_712,
    "convformer_s18": 26_774_448,
    "caformer_s18": 26_341_656,
}
FROZEN = {"metaformer_rand_s12": 21_133_602, "randformer_s12": 235_298}
VARIANTS = [
    name
    for entry in ("poolformer", "metaformer_baselines")
    for name in registry.entries("model")[entry].variants
]
MIXERS = [
    name
    for name, entry in registry.entries("mixer").items()
    if inspect.isclass(entry.build) and issubclass(entry.build, SpatialMixer)
]


def tiny(**values):
    torch.manual_seed(0)
    small = {"depths": (1, 2), "dims": (8, 16), "num_classes": 5, "layer_scale": None}
    return MetaFormer(MetaFormerConfig.from_dict({**small, **values}))


def on_meta(name, **overrides):
    with torch.device("meta"):
        return neuromix.create_model(name, **overrides)


@pytest.fixture
def image():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


# Sizes


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_parameters_are_those_of_the_papers_code(name, count):
    net = on_meta(name)
    assert net.num_parameters() == count
    assert net.num_parameters(trainable_only=False) - count == FROZEN.get(name, 0)


@pytest.mark.parametrize(
    ("change", "count"),
    [
        ({"channel_mixers": None}, 2_451_368),
        ({"num_classes": 0}, 11_915_176 - 513_000),
        ({"layer_scale": None}, 11_915_176 - 2 * (2 * 64 + 2 * 128 + 6 * 320 + 2 * 512)),
        ({"residual": False}, 11_915_176),
    ],
)
def test_parameters_of_the_ablations(change, count):
    assert on_meta("poolformer_s12", **change).num_parameters() == count


def test_nano_is_small_and_takes_small_images():
    net = neuromix.create_model("poolformer_nano", in_channels=3).eval()
    assert net.num_parameters() < 300_000
    for side in (8, 28, 32):
        assert net(torch.zeros(1, 3, side, side)).shape == (1, 10)


@pytest.mark.parametrize(("side", "stem"), [(224, 56), (64, 16), (71, 18), (72, 18), (90, 22), (96, 24)])
def test_map_sizes_follow_the_floor_rule(side, stem):
    sizes = MetaFormerConfig(input_size=(side, side)).map_sizes()
    assert sizes[0] == (stem, stem)
    assert sizes[1] == (-(-stem // 2),) * 2


# Names


@pytest.mark.parametrize("name", VARIANTS)
def test_layouts_go_there_and_back(name):
    net = on_meta(name)
    state = net.state_dict()
    for who, layout in net.layouts(net.config).items():
        theirs = layout.to_theirs(state)
        assert len(theirs) == len(state), who
        assert not layout.unexplained(theirs), who
        back = layout.to_ours(theirs)
        assert {key: tensor.shape for key, tensor in back.items()} == {
            k: t.shape for k, t in state.items()
        }, who


def test_layouts_keep_the_values():
    for name in ("poolformer", "metaformer_baselines"):
        entry = registry.entries("model")[name]
        net = entry.build(entry.config.from_dict(entry.tiny))
        for layout in net.layouts(net.config).values():
            back = layout.to_ours(layout.to_theirs(net.state_dict()))
            assert all(torch.equal(back[key], tensor) for key, tensor in net.state_dict().items())


def test_names_of_the_releases():
    def theirs(name, who):
        net = on_meta(name)
        return {k: list(t.shape) for k, t in net.layouts(net.config)[who].to_theirs(net.state_dict()).items()}

    v1 = theirs("metaformer_ppaa_s12_224", "authors")
    assert v1["patch_embed.proj.weight"] == [64, 3, 7, 7]
    assert v1["network.4.pos_embed"] == [1, 320, 14, 14]
    assert v1["network.5.5.token_mixer.qkv.weight"] == [960, 320]
    assert v1["network.6.proj.weight"] == [512, 320, 3, 3]
    assert v1["network.7.1.layer_scale_2"] == [512]
    assert v1["network.2.0.mlp.fc1.weight"] == [512, 128, 1, 1]
    assert theirs("metaformer_pppa_s12_224", "authors")["network.6.pos_embed"] == [1, 512, 7, 7]
    assert theirs("metaformer_pppf_s12_224", "authors")["network.6.0.token_mixer.fc.weight"] == [49, 49]
    timm = theirs("poolformer_s12", "timm")
    assert timm["stages.1.downsample.conv.bias"] == [128]
    assert timm["stages.2.blocks.5.layer_scale1.scale"] == [320]
    assert timm["head.fc.weight"] == [1000, 512] and timm["head.norm.bias"] == [512]
    v2 = theirs("caformer_s18", "authors")
    assert v2["downsample_layers.0.post_norm.weight"] == [64]
    assert v2["stages.0.2.token_mixer.pwconv1.weight"] == [128, 64]
    assert v2["stages.0.2.token_mixer.dwconv.weight"] == [128, 1, 7, 7]
    assert v2["stages.3.0.res_scale2.scale"] == [512]
    assert v2["stages.0.0.mlp.act.scale"] == [1]
    assert v2["head.fc1.weight"] == [2048, 512] and v2["head.norm.weight"] == [2048]


def test_features_are_loaded_under_the_authors_names():
    net = on_meta("poolformer_s12", features_only=True, out_indices=(1, 3))
    theirs = net.layouts(net.config)["authors"].to_theirs(net.state_dict())
    assert {name for name in theirs if name.startswith("norm")} == {
        "norm2.weight",
        "norm2.bias",
        "norm6.weight",
        "norm6.bias",
    }


def test_reader_of_whole_nets_tells_the_papers_apart():
    for name in ("poolformer", "metaformer_baselines"):
        entry = registry.entries("model")[name]
        net = entry.build(entry.config.from_dict({**entry.tiny, "drop_path": 0.0})).double().eval()
        theirs = net.layouts(net.config)["authors"].to_theirs(net.state_dict())
        told = {} if name == "poolformer" else {"token_mixers": ["sepconv", "attention(head_dim=4)"]}
        again = neuromix.from_reference("poolformer", told, theirs)
        assert isinstance(again, MetaFormer) and again.config.norm_after_pool == (name != "poolformer")
        x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
        torch.testing.assert_close(again(x), net(x))
    with pytest.raises(CheckpointError, match="no MetaFormer"):
        neuromix.from_reference("poolformer", {}, {"stem.weight": torch.zeros(1)})


V1 = {"num_classes": 3, "layer_scale": 0.5}
V2 = {
    "num_classes": 3,
    "layer_scale": None,
    "norm_eps": 1e-6,
    "norm_bias": False,
    "stem_norm": "channel",
    "down_norm": "channel",
    "head_norm": "channel",
    "norm_after_pool": True,
}
STAR = ["mlp", {"activation": "star_relu", "bias": False}]


@pytest.mark.parametrize(
    ("kind", "values", "told"),
    [
        ("classifier", {**V1, "layer_scale": None, "mixers": ["pool", {"size": 7}]}, {"pool_size": 7}),
        (
            "classifier",
            {
                **V1,
                "channel_mixers": (
                    ["mlp", {"ratio": 2.5, "activation": "silu"}],
                    ["mlp", {"activation": "silu"}],
                ),
                "norms": "batch",
            },
            {"act": "SiLU", "norm": "BatchNorm2d"},
        ),
        (
            "classifier",
            {
                **V1,
                "num_classes": 0,
                "in_stride": 2,
                "in_channels": 1,
                "depths": (3, 1, 2),
                "dims": (4, 4, 8),
            },
            {"in_stride": 2},
        ),
        (
            "classifier",
            {**V1, "downsamples": False, "dims": (8, 8, 12), "depths": (1, 1, 1), "norms": "none"},
            {"norm": "none"},
        ),
        (
            "features",
            {
                "feature_levels": (0, 1),
                "mixers": ("identity", ["attention", {"head_dim": 4}]),
                "norms": "channel",
                "pos_embeds": (None, (4, 4)),
            },
            {"fork_feat": True, "token_mixers": ["identity", "attention(head_dim=4)"]},
        ),
        ("features", {"feature_levels": (1,)}, {"fork_feat": True}),
        (
            "hybrid_full",
            {
                **V1,
                "mixers": (["attention", {"head_dim": 2, "qkv_bias": True}], "spatial_fc"),
                "norms": "channel",
                "norm_eps": 1e-3,
                "pos_embeds": ((8, 8), (4, 4)),
                "input_size": (32, 32),
            },
            {
                "token_mixers": ["attention(head_dim 2)", "spatial_fc(4x4)"],
                "norm": "LayerNormChannel eps 1e-3",
            },
        ),
        (
            "v2",
            {
                **V2,
                "mixers": (
                    ["sepconv", {"kernel": 3, "expansion": 1.5}],
                    ["attention", {"head_dim": 16, "width": 16}],
                ),
                "channel_mixers": STAR,
                "norms": ("channel", "group"),
                "layer_scale": (0.3, None),
                "res_scale": (None, 1.0),
            },
            {
                "mixers": ["sepconv3", "attention(head_dim=16)"],
                "norms": ["LN", "GN1"],
                "layer_scale": [0.3, None],
            },
        ),
        (
            "baselines",
            {
                **V2,
                "mixers": ("random", "identity"),
                "input_size": (32, 32),
                "channel_mixers": ["mlp", {"ratio": 3, "activation": "gelu"}],
                "head": "mlp",
                "norm_bias": True,
            },
            {"token_mixers": ["random(64)", "identity"], "act": "GELU"},
        ),
        (
            "baselines",
            {**V2, "num_classes": 0, "stem_norm": "none", "channel_mixers": STAR},
            {"depths": [1, 2]},
        ),
    ],
)
def test_readers_take_any_options(kind, values, told):
    net = tiny(**{"head_norm": values.get("norms", "group"), **values}).double().eval()
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())).double() * 0.3
    theirs = net.layouts(net.config)["authors"].to_theirs(net.state_dict())
    again = neuromix.from_reference("poolformer", told, theirs, kind)
    image = torch.randn(2, net.config.in_channels, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(again(image), net(image))


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("pool3", "pool", {"size": 3}),
        ("pooling(k=7)", "pool", {"size": 7}),
        ("pool", "pool", {"size": 9}),
        (None, "pool", {"size": 9}),
        ("nn.Identity", "identity", {}),
    ],
)
def test_mixers_without_weights_are_read_from_texts(text, name, options):
    assert mixer_spec({}, 8, text, pool_size=9) == (name, options)


@pytest.mark.parametrize(
    ("text", "head_dim"),
    [
        ("attention(head_dim 16, no qkv bias)", 16),
        ("attention(head_dim=8)", 8),
        ("attention", 32),
        (None, 32),
        ("attention(4 heads)", 16),
        ("attention(num_heads=2)", 32),
    ],
)
def test_attention_is_read_from_weights_and_text(text, head_dim):
    weights = {"token_mixer.qkv.weight": torch.zeros(192, 24), "token_mixer.proj.weight": torch.zeros(24, 64)}
    spec = mixer_spec(weights, 24, text)
    assert spec.name == "attention"
    assert spec.options == {"head_dim": head_dim, "width": 64, "qkv_bias": False, "proj_bias": False}
    make_mixer(spec, 24)


def test_a_mixer_that_no_text_or_weight_names_is_refused():
    with pytest.raises(ConfigError, match="cannot tell which token mixer 'fourier'"):
        mixer_spec({}, 8, "fourier")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("GroupNorm(1) eps 1e-5", "group"),
        ("GN1 no bias 1e-6", "group"),
        ("mean/var over H,W,C, scale only, eps 1e-6", "group"),
        ("LayerNormGeneral((1, 2, 3))", "group"),
        ("LN no bias 1e-6", "channel"),
        ("LayerNorm over C, no bias", "channel"),
        ("channel LayerNorm eps 1e-5", "channel"),
        ("LayerNormChannel", "channel"),
        ("none", "none"),
        (None, "group"),
    ],
)
def test_norms_are_read_from_texts(text, name):
    assert norm_name(text, {}, "group") == name


def test_numbers_and_activations_are_read_from_texts():
    assert norm_eps([None, "LN, eps 1e-6"], 1e-5) == 1e-6
    assert norm_eps(["GN1 no bias 1e-4"], 1e-5) == 1e-4
    assert norm_eps(["eps=0.001"], 1e-5) == 1e-3
    assert norm_eps(["GroupNorm(1)"], 1e-5) == 1e-5
    assert [activation_spec(t, "silu") for t in ("gelu exact", "nn.ReLU", "StarReLU", None)] == [
        "gelu",
        "relu",
        "star_relu",
        "silu",
    ]


@pytest.mark.parametrize("dim", range(1, 60))
def test_hidden_widths_are_read_exactly(dim):
    for hidden in range(1, 4 * dim):
        weights = {"mlp.fc1.weight": torch.empty(hidden, dim, device="meta")}
        spec = channel_mixer_spec(weights, dim, None, "gelu")
        assert spec is not None and int(dim * spec.options["ratio"]) == hidden


# Mixers in any stage


@pytest.mark.parametrize("stage", [0, 1])
@pytest.mark.parametrize("name", MIXERS)
def test_any_mixer_in_any_stage(name, stage):
    mixers = ["pool", "pool"]
    mixers[stage] = name
    net = tiny(mixers=mixers, dims=(32, 64), input_size=(32, 48))
    place = net.stages[stage].blocks[0].mixer.branch
    place = place.mixer if isinstance(place, OneStep) else place
    assert isinstance(place, registry.entries("mixer")[name].build)
    assert place.dim == (32, 64)[stage] and place.size == ((8, 12), (4, 6))[stage]
    logits = net(torch.randn(2, 3, 32, 48))
    assert logits.shape == (2, 5) and logits.isfinite().all()
    logits.square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
    assert net.stem.conv.weight.grad.abs().sum() > 0


def test_pool_is_the_mean_of_real_neighbours_minus_the_centre():
    x = torch.arange(9.0).view(1, 1, 3, 3)
    y = make_mixer("pool", 1)(x)
    assert y[0, 0, 1, 1] == 0
    assert y[0, 0, 0, 0] == (0 + 1 + 3 + 4) / 4 - 0


def test_random_matrix_is_row_stochastic_frozen_saved_and_seeded():
    torch.manual_seed(3)
    mixer = make_mixer("random", 4, (2, 3))
    torch.manual_seed(3)
    again = make_mixer("random", 4, (2, 3))
    matrix = mixer.random_matrix
    torch.testing.assert_close(matrix.sum(-1), torch.ones(6))
    assert not matrix.requires_grad and "random_matrix" in mixer.state_dict()
    assert torch.equal(matrix, again.random_matrix)
    x = torch.randn(1, 4, 2, 3)
    torch.testing.assert_close(mixer(x).flatten(2), torch.einsum("mn,bcn->bcm", matrix, x.flatten(2)))


def test_attention_is_attention():
    mixer = make_mixer(("attention", {"head_dim": 4}), 8).double()
    x = torch.randn(2, 8, 2, 3, dtype=torch.float64)
    q, k, v = mixer.qkv(x.flatten(2).mT).view(2, 6, 3, 2, 4).unbind(2)
    weights = torch.einsum("bnhk,bmhk->bhnm", q, k).div(2).softmax(-1)
    expected = mixer.proj(torch.einsum("bhnm,bmhk->bnhk", weights, v).flatten(2)).mT.view(2, 8, 2, 3)
    torch.testing.assert_close(mixer(x), expected)


def test_depthwise_and_separable_convolutions_take_options():
    x = torch.randn(1, 4, 5, 5)
    assert make_mixer(("depthwise_conv", {"kernel": 5, "bias": False}), 4)(x).shape == x.shape
    sepconv = make_mixer(("sepconv", {"expansion": 1.5, "kernel": 3, "activation": "relu"}), 4)
    assert sepconv(x).shape == x.shape and sepconv.depthwise.weight.shape == (6, 1, 3, 3)


def test_star_relu_may_start_at_the_papers_numbers():
    star = ["star_relu", {"scale": 0.8944, "bias": -0.4472}]
    net = tiny(channel_mixers=["mlp", {"activation": star}])
    y = net.stages[0].blocks[0].channel_mixer.branch.activation(torch.randn(100_000))
    assert abs(y.mean()) < 0.02 and abs(y.std() - 1) < 0.03


# The block


def test_block_is_the_formula(image):
    net = tiny(layer_scale=0.3, res_scale=0.7, mixers="depthwise_conv").eval()
    block = net.stages[0].blocks[0]
    x = net.stem(image)
    y = 0.7 * x + 0.3 * block.mixer.branch(F.group_norm(x, 1))
    z = 0.7 * y + 0.3 * block.channel_mixer.branch(F.group_norm(y, 1))
    torch.testing.assert_close(block(x), z)


def test_options_of_one_stage():
    net = tiny(
        channel_mixers=(["mlp", {"ratio": 2, "bias": False}], None),
        norms=("channel", "batch"),
        layer_scale=(None, 0.5),
        res_scale=(1.0, None),
    )
    first, second = net.stages[0].blocks[0], net.stages[1].blocks[1]
    assert first.channel_mixer.branch.expand.weight.shape == (16, 8, 1, 1)
    assert first.channel_mixer.branch.expand.bias is None
    assert isinstance(first.mixer.norm, ChannelNorm) and isinstance(second.mixer.norm, nn.BatchNorm2d)
    assert isinstance(first.mixer.skip, Scale) and isinstance(first.mixer.scale, nn.Identity)
    assert isinstance(second.mixer.scale, Scale) and isinstance(second.channel_mixer, nn.Identity)


def test_without_skip_connections_a_block_forgets_its_input(image):
    net = tiny(residual=False, layer_scale=0.0).eval()
    block = net.stages[0].blocks[0]
    assert block(net.stem(image)).abs().sum() == 0


def test_drop_path_rises_linearly_and_is_seeded(image):
    net = tiny(depths=(2, 3), drop_path=0.4)
    rates = [m.drop_path.rate for m in net.modules() if isinstance(m, Residual)]
    torch.testing.assert_close(rates[::2], [0.0, 0.1, 0.2, 0.3, 0.4])
    assert rates[::2] == rates[1::2]
    assert sum(isinstance(m, DropPath) for m in net.modules()) == 10

    def drawn(seed):
        with neuromix.draws(net, torch.Generator().manual_seed(seed)):
            return net(image)

    assert torch.equal(drawn(0), drawn(0)) and not torch.equal(drawn(0), drawn(1))
    # A draw of 0 keeps every branch, and divides it by the probability of that.
    every = {path: [torch.zeros(2, 1, 1, 1)] for path, m in net.named_modules() if isinstance(m, Noise)}
    whole = net.eval()(image)
    for m in net.train().modules():
        if isinstance(m, DropPath):
            m.register_forward_hook(lambda path, _, y: y * (1 - path.rate))
    with neuromix.draws(net, every):
        torch.testing.assert_close(net(image), whole)


def test_initial_weights():
    net = neuromix.create_model("metaformer_pppf_s12_224").requires_grad_(False)
    assert net.head.classifier.fc.weight.std() == pytest.approx(0.02, rel=0.02)
    assert net.head.classifier.fc.bias.abs().sum() == 0
    block = net.stages[3].blocks[0]
    assert block.channel_mixer.branch.expand.weight.std() == pytest.approx(0.02, rel=0.02)
    assert block.channel_mixer.branch.contract.bias.abs().sum() == 0
    assert block.mixer.branch.fc.weight.std() == pytest.approx(0.02, rel=0.1)
    assert (block.mixer.scale.weight == 1e-5).all()
    # PyTorch's default: uniform within 1/sqrt(fan-in).
    assert net.stages[1].downsample.conv.weight.std() == pytest.approx((9 * 64) ** -0.5 / 3**0.5, rel=0.02)
    baselines = neuromix.create_model("poolformerv2_s12").requires_grad_(False)
    assert baselines.stages[1].downsample.conv.weight.std() == pytest.approx(0.02, rel=0.02)
    assert baselines.stages[1].downsample.conv.bias.abs().sum() == 0


# Features


def test_pyramid_of_a_published_net():
    info = on_meta("poolformer_s12").feature_info()
    assert [tuple(level) for level in info] == [(4, 64), (8, 128), (16, 320), (32, 512)]
    maps = on_meta("poolformer_s12", features_only=True)(torch.empty(1, 3, 96, 64, device="meta"))
    assert [tuple(m.shape[1:]) for m in maps] == [(64, 24, 16), (128, 12, 8), (320, 6, 4), (512, 3, 2)]


def test_features_are_the_trunk_through_their_norms():
    whole = tiny(mixers="pool").eval()
    image = torch.randn(1, 3, 45, 52)
    backbone = tiny(mixers="pool", feature_levels=(0, 1)).eval()
    trunk = {name: tensor for name, tensor in whole.state_dict().items() if not name.startswith("head.")}
    transfer(backbone, trunk, fresh=("norms.*",))
    expected = [F.group_norm(x, 1) for x in whole.forward_features(image)]
    torch.testing.assert_close(backbone(image), expected)


def test_only_the_norms_and_stages_that_are_asked_for_are_built():
    net = tiny(feature_levels=(0,))
    assert list(net.norms) == ["0"] and len(net.stages) == 1
    x = net(torch.randn(1, 3, 32, 32))
    assert len(x) == 1
    x[0].sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_maps_keep_their_size_without_downsampling():
    net = tiny(dims=(8, 8), downsamples=False)
    assert [level.stride for level in net.feature_info()] == [4, 4]
    assert isinstance(net.stages[1].downsample, nn.Identity)
    assert net(torch.randn(1, 3, 32, 32)).shape == (1, 5)


# Errors


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dims": (8,)}, "depths and dims need one entry a stage"),
        ({"mixers": ("pool", "pool", "pool")}, "mixers needs one value, or one for each of 2 stages"),
        ({"norms": ("group",)}, "norms needs one value"),
        ({"norms": "layer"}, "norms must be"),
        ({"drop_path": 1.0}, r"drop_path must be in \[0, 1\)"),
        ({"in_stride": 0}, "in_stride must be positive"),
        ({"num_classes": -1}, "num_classes"),
        ({"pos_embeds": ((4, 4),)}, "pos_embeds needs one entry for each of 2 stages"),
        ({"pos_embeds": ((4, 4), None), "input_size": (32, 32)}, r"maps of \(4, 4\), but input_size"),
        ({"input_size": (2, 32), "in_pad": 0}, "input_size must be at least 7 by 7"),
        ({"mixers": ["attention", {"head_dim": 5}]}, "head_dim 5 does not divide the width 8"),
        ({"mixers": ["pool", {"size": 4}]}, "size must be odd and positive, got 4"),
        ({"mixers": "random"}, r"needs a fixed map size \(H, W\); give the input size"),
        ({"mixers": ["random", {"tokens": 5}], "input_size": (32, 32)}, "given 5 tokens, but its map"),
        ({"channel_mixers": ["mlp", {"ratio": 0.01}]}, "no hidden channel"),
        ({"feature_levels": (2,)}, "feature_levels must be ascending numbers"),
    ],
)
def test_values_that_do_not_fit_are_named(values, message):
    with pytest.raises(ConfigError, match=message):
        tiny(**values)


def test_names_that_do_not_exist_are_named():
    with pytest.raises(UnknownNameError, match="did you mean attention"):
        tiny(mixers="atention")
    with pytest.raises(UnknownNameError, match="did you mean size"):
        tiny(mixers=["pool", {"sise": 3}])


def test_images_that_do_not_fit_are_refused(image):
    with pytest.raises(ShapeError, match="at least 7"):
        tiny(in_pad=0)(image[..., :6])
    with pytest.raises(ShapeError, match=r"built for 64 tokens, got a map of \(8, 4\)"):
        tiny(mixers=("spatial_fc", "pool"), input_size=(32, 32))(image[..., :16])
    with pytest.raises(ShapeError, match=r"position table is for maps of \(8, 8\)"):
        tiny(pos_embeds=((8, 8), None))(image[..., :16])


# What the paper claims


def digits(side, generator):
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    images = F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False)
    labels = torch.tensor(data.target)
    order = torch.randperm(len(labels), generator=generator)
    mean, deviation = images[order[:1297]].mean(), images[order[:1297]].std()
    images = (images - mean) / deviation
    return images[order[:1297]], labels[order[:1297]], images[order[1297:]], labels[order[1297:]]


def accuracy_after_training(net, epochs, side):
    """Test accuracy in percent on the handwritten digits of scikit-learn: 1297 to learn from, 500 to test."""
    generator = torch.Generator().manual_seed(0)
    images, labels, test_images, test_labels = digits(side, generator)
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.05)
    batches = -(-len(labels) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=epochs * batches)
    for _ in range(epochs):
        for batch in torch.randperm(len(labels), generator=generator).split(64):
            optimiser.zero_grad()
            F.cross_entropy(net(images[batch]), labels[batch]).backward()
            optimiser.step()
            schedule.step()
    with torch.no_grad():
        hits = net.eval()(test_images).argmax(1) == test_labels
    return 100 * hits.float().mean().item()


@pytest.mark.slow
def test_the_mixer_alone_makes_the_difference(capsys):
    """One isotropic stage, so that nothing but the mixer mixes: identity < random < pooling < spatial FC."""
    isotropic = {
        "depths": (6,),
        "dims": (48,),
        "in_patch_size": 4,
        "in_stride": 4,
        "in_pad": 0,
        "in_channels": 1,
        "input_size": (32, 32),
        "norms": "channel",  # one over the whole map would leak
        "head_norm": "channel",
        "layer_scale": 1.0,
        "num_classes": 10,
    }
    reached = {}
    for mixer in ("identity", "random", "pool", "spatial_fc"):
        reached[mixer] = accuracy_after_training(tiny(**isotropic, mixers=mixer), epochs=7, side=32)
    with capsys.disabled():
        print("\ndigits, isotropic, test accuracy (%):", {k: round(v, 1) for k, v in reached.items()})
    values = list(reached.values())
    assert all(b - a >= 10 for a, b in pairwise(values)), reached


@pytest.mark.slow
def test_nano_learns_digits(capsys):
    torch.manual_seed(0)
    reached = accuracy_after_training(neuromix.create_model("poolformer_nano"), epochs=16, side=8)
    with capsys.disabled():
        print(f"\ndigits, poolformer_nano, test accuracy (%): {reached:.1f}")
    assert reached >= 97
