"""E-3DSNN: what the paper says of it, beside the recorded numbers of the authors' code.

Shapes: N voxels, C channels.
"""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import neuromix
from neuromix.core import registry
from neuromix.core.batch import Ragged
from neuromix.core.edits import apply_edit
from neuromix.core.errors import ConfigError, ShapeError
from neuromix.core.model import call
from neuromix.measure import counting_rule, profile
from neuromix.measure.sparse_products import SparseConvolution
from neuromix.measure.spikes import recorded_spikes
from neuromix.neurons import Neuron
from neuromix.ops import references_only

NETS = ("e3dsnn", "e3dsnn_seg")


def tiny(name: str, **overrides):
    return neuromix.create_model(name, **{**registry.entries("model")[name].tiny, **overrides})


def lively(name: str, **overrides):
    """In eval mode, with statistics by which its neurons fire; and a batch."""
    torch.manual_seed(0)
    net = tiny(name, norm_momentum=0.5, **overrides).double()
    batch = example(net, 3)
    with torch.no_grad():
        for _ in range(8):
            net.train()(batch)
    return net.eval(), batch


def example(net, size: int, seed: int = 0) -> Ragged:
    cloud = net.example(size, torch.Generator().manual_seed(seed))["cloud"]
    return Ragged(cloud.values.double(), cloud.offsets, cloud.extras)


def values(output):
    return output.values if isinstance(output, Ragged) else output


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("e3dsnn_t", 1_874_216),
        ("e3dsnn_s", 3_271_144),
        ("e3dsnn_l", 17_330_600),
        ("e3dsnn_h", 46_574_248),
        ("e3dsnn_seg", 20_049_683),
    ],
)
def test_counted_parameters(name, parameters):
    with torch.device("meta"):
        assert neuromix.create_model(name).num_parameters() == parameters


@pytest.mark.parametrize("name", NETS)
def test_sites_never_grow_but_where_they_are_made(name):
    net, cloud = lively(name)
    seen = []
    for path, module in net.named_modules():
        if path.endswith("conv"):
            module.register_forward_hook(
                lambda _, x, y, path=path: seen.append((path, x[0].shape[1], y.shape[1]))
            )
    with torch.no_grad():
        net(cloud)
    assert len(seen) > 10
    for path, before, after in seen:
        if ".down." in path:
            assert after < before
        elif ".up." in path:
            assert after > before
        else:
            assert after == before, path


@pytest.mark.parametrize("name", NETS)
def test_binary_steps_equal_integers_on_a_whole_net(name):
    net, cloud = lively(name)
    binary = apply_edit(net, "binary_steps")
    with torch.no_grad(), recorded_spikes(binary) as spikes:
        torch.testing.assert_close(values(binary(cloud)), values(net(cloud)), rtol=0, atol=1e-9)
    assert all(set(sent.unique().tolist()) <= {0.0, 1.0} for sent in spikes.values())
    assert all(len(sent) == 4 for sent in spikes.values())
    assert sum(bool(sent.any()) for sent in spikes.values()) > 5, "the neurons fire"


@pytest.mark.parametrize("name", NETS)
def test_kernels_and_formula_give_the_same_net(name):
    net, cloud = lively(name)
    results = []
    for within in (torch.enable_grad, references_only):
        net.zero_grad()
        with within():
            output = values(net.train()(cloud))
            output.square().sum().backward()
        results.append([output.detach(), *(p.grad.clone() for p in net.parameters())])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9 * max(1.0, float(other.abs().max())))


@pytest.mark.parametrize("name", NETS)
def test_the_order_of_voxels_means_nothing(name):
    net, cloud = lively(name)
    one = cloud.select([0])
    order = torch.randperm(len(one.values), generator=torch.Generator().manual_seed(0))
    other = Ragged(one.values[order], one.offsets, {"coords": one.extras["coords"][order]})
    with torch.no_grad():
        expected, actual = values(net(one)), values(net(other))
    torch.testing.assert_close(actual, expected[order] if isinstance(net(one), Ragged) else expected)


def test_where_a_cloud_lies_in_its_grid_matters_by_the_raster_only():
    net, cloud = lively("e3dsnn")
    moved = Ragged(
        cloud.values, cloud.offsets, {"coords": cloud.extras["coords"] + 4}
    )  # two stages halve 4 evenly
    with torch.no_grad():
        torch.testing.assert_close(net(moved), net(cloud))


def test_released_segmenters_lose_odd_layers():
    config = registry.find("model", "e3dsnn_seg")[1]
    assert config.margin == 96 and type(config).released({}).margin == 1
    net, _ = lively("e3dsnn_seg")
    short, _ = lively("e3dsnn_seg", margin=1)
    short.load_state_dict(net.state_dict())
    coords = torch.cartesian_prod(*3 * [torch.arange(5)])  # of odd sides
    cloud = Ragged.of([torch.randn(125, 4).double()], coords=[coords])
    with torch.no_grad():
        whole, less = net.levels(cloud), short.levels(cloud)
    assert [len(level.sites) for level in whole] == [125, 27, 8]
    assert [len(level.sites) for level in less] == [125, 8, 1]


def test_clouds_that_are_hardly_there():
    net, _ = lively("e3dsnn")
    seg, _ = lively("e3dsnn_seg", margin=1)
    one = {"coords": torch.zeros(1, 3).long()}
    for model in (net, seg):
        channels = model.config.in_channels
        cloud = Ragged(torch.ones(1, channels).double(), torch.tensor([0, 1]), one)
        for mode in (model.train(), model.eval()):  # a single voxel has no variance to norm by
            output = values(mode(cloud))
            assert output.isfinite().all() and len(output) == 1
            output.sum().backward()


@pytest.mark.parametrize("name", NETS)
def test_wrong_clouds_are_refused(name):
    net, cloud = lively(name)
    coords = cloud.extras["coords"]
    wrong = {
        "features": Ragged(cloud.values[:, :1], cloud.offsets, {"coords": coords}),
        "floating-point": Ragged(cloud.values.long(), cloud.offsets, {"coords": coords}),
        "expected a Ragged": cloud.values,
        "needs an extra 'coords'": Ragged(cloud.values, cloud.offsets),
        "begin at 0": Ragged(cloud.values, cloud.offsets, {"coords": coords - 1}),
        "share voxel": Ragged(cloud.values, cloud.offsets, {"coords": coords * 0}),
        "at least one voxel": Ragged(
            cloud.values, torch.cat([cloud.offsets, cloud.offsets[-1:]]), {"coords": coords}
        ),
    }
    for told, given in wrong.items():
        with pytest.raises(ShapeError, match=told):
            net(given)


@pytest.mark.parametrize(
    "values", [{"dims": (4,)}, {"margin": 0}, {"stem_dim": 0}, {"dims": (), "depths": ()}, {"num_classes": 0}]
)
def test_wrong_values_are_refused(values):
    with pytest.raises(ConfigError):
        tiny("e3dsnn", **values)
    with pytest.raises(ConfigError):
        tiny("e3dsnn_seg", **values)


def test_a_segmenter_needs_a_decoder_for_each_stage():
    with pytest.raises(ConfigError, match="decoder_dims needs one entry a stage"):
        tiny("e3dsnn_seg", decoder_dims=(4,))


def test_released_names_are_read_with_their_prefixes(tmp_path):
    net, cloud = lively("e3dsnn")
    for who in ("authors", "Pointcept", "Pointcept, data parallel"):
        theirs = net.layouts(net.config)[who].to_theirs(net.state_dict())
        again = neuromix.from_reference("e-3dsnn", {}, theirs)
        with torch.no_grad():
            torch.testing.assert_close(again(cloud), net(cloud), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("config", "state", "told"),
    [
        ({}, {"fc.weight": torch.ones(2, 2)}, "not a net of the E-3DSNN authors"),
        ({"spatial_shape_rule": "fixed"}, None, "spatial_shape_rule is max"),
    ],
)
def test_wrong_weights_are_refused(config, state, told):
    if state is None:
        net = tiny("e3dsnn")
        state = net.layouts(net.config)["authors"].to_theirs(net.state_dict())
    with pytest.raises(ConfigError, match=told):
        neuromix.from_reference("e-3dsnn", config, state)


# What it costs


def spread(cloud: Ragged, factor: int) -> Ragged:
    """The same voxels in blocks of 16 that lie `factor` times as far apart: more empty space between."""
    coords = cloud.extras["coords"]
    return Ragged(cloud.values, cloud.offsets, {"coords": coords // 16 * 16 * factor + coords % 16})


def test_cost_follows_pairs_and_not_the_grid():
    net, cloud = lively("e3dsnn")
    corner = torch.tensor([[0, 0, 0], [40, 0, 0], [0, 40, 40]]).repeat_interleave(cloud.lengths, 0)
    cloud = Ragged(cloud.values, cloud.offsets, {"coords": cloud.extras["coords"] + 8 * corner})
    near, far = (profile(net, {"cloud": spread(cloud, factor)}, batch_size=3) for factor in (1, 50))
    assert near.operations == far.operations and near.macs_dense == far.macs_dense > 0
    assert near.not_counted == {} == far.not_counted
    pairs = int((net.levels(cloud)[0].sites.neighbours().table_KM >= 0).sum())
    first = near.layers[0]
    assert first.path == "encoder.stem.convs.0.conv" and first.macs_dense == round(pairs * 6 * 6 / 3)
    assert first.operations == {"mac32": first.macs_dense}, "the first convolution reads real numbers"


def test_synaptic_operations_are_those_of_the_pairs_that_spike():
    net, cloud = lively("e3dsnn")
    conv = net.encoder.stem.convs[1].conv
    seen = []
    conv.register_forward_hook(lambda _, x, y: seen.append(x[0][0]))
    counted = next(
        layer
        for layer in profile(net, {"cloud": cloud}, batch_size=1).layers
        if layer.path.endswith("convs.1.conv")
    )
    table = net.levels(cloud)[0].sites.neighbours().table_KM
    additions = sum(float(seen[0][n].sum()) for row in table.tolist() for n in row if n >= 0) * 6
    assert counted.synaptic_operations == additions > 0


def test_the_kernel_and_the_formula_are_counted_alike():
    net, cloud = lively("e3dsnn_seg")
    native = profile(net, {"cloud": cloud}, batch_size=1)
    with references_only():
        formula = profile(net, {"cloud": cloud}, batch_size=1)
    assert formula.macs_dense == native.macs_dense
    assert formula.synaptic_operations == native.synaptic_operations
    sums = [seen.effective_macs + seen.effective_acs for seen in (formula, native)]
    assert sums[0] == sums[1]


def test_energy_of_the_paper():
    """4.6 pJ times the pairs of the first convolution, 0.9 pJ times pairs times mean spike of the others."""
    net, cloud = lively("e3dsnn")
    inputs = []
    for path, module in net.named_modules():
        if path.endswith("conv"):
            module.register_forward_hook(lambda m, x, y: inputs.append((m.weight[0].numel(), *x)))
    net.head.register_forward_hook(lambda m, x, y: head.append(x[0].numel() * m.out_features))
    head: list[int] = []
    seen = profile(net, {"cloud": cloud}, counting_rule("paper", "e3dsnn"), batch_size=1)
    sizes = [size * int((nb.table_KM >= 0).sum()) for size, _, nb in inputs]
    rates = [float(x.mean()) for _, x, _ in inputs]
    first, *others = sizes
    expected = 4.6 * (first + head[0]) + 0.9 * sum(s * r for s, r in zip(others, rates[1:], strict=True))
    # The authors leave their last layer out, which reads real numbers.
    assert seen.energy["45nm"] == pytest.approx(expected * 1e-9, rel=1e-9)


def test_effective_products():
    table = torch.tensor([[0, -1], [1, 0]], dtype=torch.int32)
    x, weight = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[[1.0], [0.0]], [[3.0], [5.0]]])
    product = SparseConvolution(x, weight, table)
    assert (product.macs, product.dense, product.outputs) == (6, 6, 2)
    assert product.effective() == 3  # row 0 by tap 0, rows 1 and 0 by tap 1
    assert (product.additions(0, True, False), product.additions(0, False, False)) == (5, 3)


def test_every_weight_learns():
    for name in NETS:
        net = tiny(name).train()
        batch = net.example(3, torch.Generator().manual_seed(0))
        output = values(call(net, batch))
        F.cross_entropy(output, torch.zeros(len(output), dtype=torch.int64)).backward()
        assert all(p.grad is not None for p in net.parameters())
        assert {type(m).__name__ for m in net.modules() if isinstance(m, Neuron)} == {"ILIF"}
