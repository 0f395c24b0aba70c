"""The nets of Transfer-for-DVS: their sizes with both heads, their blocks, and the authors' weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import neuromix
from neuromix.core import registry
from neuromix.core.checkpoint import build_model, create_model, load_checkpoint
from neuromix.core.config import Spec
from neuromix.core.edits import apply_edit
from neuromix.core.errors import CheckpointError
from neuromix.core.layout import transfer
from neuromix.models.vision.transfer_dvs import WITH_BRANCH

TINY = {
    "transfer_vgg": {"layers": (4, 6, "A", 8, "A"), "map_side": 2},
    "transfer_resnet": {"blocks": (1, 2), "widths": (4, 8)},
}


@pytest.mark.parametrize("name", ["transfer_vgg_ncaltech101", "transfer_resnet18_cep_dvs"])
def test_counts_of_the_paper_hold_both_heads_and_the_coefficients(name):
    entry, config = registry.find("model", name)
    with torch.device("meta"):
        model = entry.build(config)
    edited = apply_edit(model, Spec("static_branch", {"time_steps": config.time_steps}))
    assert edited.num_parameters() == entry.published[name]["parameters_in_training"]
    assert model.num_parameters() == entry.published[name]["parameters"]


def test_a_frame_of_48_pixels_fits():
    net = create_model("transfer_vgg_ncaltech101", layers=(4, 4, "A", 4, 4, "A", 4, 4, "A", 4, 4, "A"))
    net.head.pool.register_forward_hook(
        lambda _, given, output: output if (given[0] == output).all() else 1 / 0
    )
    assert net(torch.rand(1, 2, 48, 48)).shape == (1, 101)


@torch.no_grad()
def test_a_projection_has_a_norm_and_a_neuron_of_its_own():
    torch.manual_seed(0)
    net = create_model("transfer_resnet", **TINY["transfer_resnet"], num_classes=3, time_steps=1).double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias, 0.5)
            module.running_mean.normal_()
    block, x = net.stages[1][0].eval(), 2 * torch.randn(1, 2, 4, 6, 6, dtype=torch.float64)

    def spikes(norm, x_BCHW):
        return (norm(x_BCHW) / 2 > 0.5).double()

    branch, skip = block.residual.branch, block.residual.skip
    first = branch[0].conv.conv(spikes(block.residual.norm.norm, x[0]))
    expected = branch[1].conv(spikes(branch[0].conv.bn, first))
    expected = expected + skip[1].module(spikes(skip[0].norm, x[0]))
    torch.testing.assert_close(block(x)[0], expected)


@pytest.mark.parametrize("name", TINY)
def test_released_weights_give_the_net_with_or_without_its_branch(name, tmp_path):
    torch.manual_seed(0)
    net = create_model(name, **TINY[name], num_classes=3, time_steps=4)
    net = apply_edit(net, Spec("static_branch", {"time_steps": 4}))
    nn.init.normal_(net.static_branch.coefficient[1])
    theirs = net.layouts(net.config)[WITH_BRANCH].to_theirs(net.state_dict())
    ending = ".1" if name == "transfer_vgg" else ""
    assert {f"rgb_fc{ending}.weight", f"dvs_fc{ending}.bias", "coefficient.3"} <= theirs.keys()
    # The constants that the authors' neurons carry along.
    neuron = "feature.1.node" if name == "transfer_vgg" else "layer1.0.node1"
    theirs |= {f"{neuron}.threshold": torch.tensor(0.5), f"{neuron}.act_fun.alpha": torch.tensor(2.0)}
    again = neuromix.from_reference("transfer-for-dvs", {"T": 4}, theirs)
    transfer(net, again.state_dict())  # strictly: the same names and shapes
    torch.save({"state_dict": theirs}, tmp_path / "released.pth")
    plain = load_checkpoint(tmp_path / "released.pth", name, **TINY[name], num_classes=3, time_steps=4)
    image = 3 * torch.rand(2, 2, 8, 8)
    assert plain.edits == () and torch.equal(plain.eval()(image), again.eval()(image))
    for key in [key for key in theirs if key.startswith(("rgb_fc", "coefficient"))]:
        del theirs[key]
    assert neuromix.from_reference("transfer-for-dvs", {"T": 4}, theirs).edits == ()


def test_other_weights_are_refused():
    for names in (["fc.weight"], ["feature.0.conv.weight"]):
        with pytest.raises(CheckpointError, match="no weights of"):
            neuromix.from_reference("transfer-for-dvs", {}, {name: torch.rand(2, 2, 3, 3) for name in names})


def test_nano_nets_take_small_sensors():
    for name in ("transfer_vgg_nano", "transfer_resnet_nano"):
        net = build_model(name, registry.find("model", name)[1])
        assert net(torch.rand(4, 2, 2, 16, 16)).shape == (2, 10)
