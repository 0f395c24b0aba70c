"""The nets of PDSG-SDA: their sizes, and that the authors' weights are read.

Shapes: T spike time, B batch.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import neuromix
from neuromix.core import registry
from neuromix.core.checkpoint import build_model
from neuromix.core.errors import CheckpointError, ConfigError
from neuromix.core.model import Model
from neuromix.neurons import LIF

COUNTED = {
    "pdsg_resnet18": 11_173_962,
    "pdsg_resnet18_cifar100": 11_220_132,
    "pdsg_resnet18_dvs": 11_173_386,
    "pdsg_vggsnn": 9_228_299,
    "pdsg_vgg11": 61_374_026,
}


@pytest.mark.parametrize("name", COUNTED)
def test_counted_parameters(name: str) -> None:
    entry, config = registry.find("model", name)
    with torch.device("meta"):
        assert entry.build(config).num_parameters() == COUNTED[name]


def test_the_neuron_of_the_authors() -> None:
    model = neuromix.create_model("pdsg_resnet_nano")
    config = next(module.config for module in model.modules() if isinstance(module, LIF))
    found = (config.tau, config.decay_input, config.v_threshold, config.v_reset, config.detach_reset)
    assert found == (2.0, False, 1.0, 0.0, False)


def theirs_of(model: Model) -> dict[str, Tensor]:
    return model.layouts(model.config)["authors"].to_theirs(model.state_dict())


@pytest.mark.parametrize(
    ("name", "overrides", "side", "names"),
    [
        (
            "pdsg_vggsnn",
            {"layers": (4, 4, "A", 6, 6, "A", 8, 8, "A", 8, 8)},
            16,
            {0, 1, 3, 4, 7, 8, 10, 11, 14, 15, 17, 18, 21, 22, 24, 25, 29},
        ),
        (
            "pdsg_vgg11",
            {"layers": (4, "A", 4, 6, "A", 8, 8, 8, "A", 8, 8), "hidden": (12, 10)},
            32,
            {0, 1, 4, 5, 7, 8, 11, 12, 14, 15, 17, 18, 21, 22, 24, 25, 28, 30, 32},
        ),
        ("pdsg_resnet18", {"widths": (4, 6, 8, 10)}, 16, {0, 1, 3, 4, 5, 6, 9}),
        ("pdsg_resnet18", {"widths": (4, 8), "blocks": (1, 2)}, 8, {0, 1, 3, 4, 7}),
    ],
)
def test_the_authors_weights_are_read(
    name: str, overrides: dict[str, object], side: int, names: set[int]
) -> None:
    torch.manual_seed(0)
    model = neuromix.create_model(name, **overrides).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 1, 2)
    state = theirs_of(model)
    assert {int(key.split(".")[1]) for key in state} == names
    again = neuromix.from_reference("pdsg-sda", {"T": model.config.time_steps}, state)
    assert isinstance(again, Model) and type(again) is type(model)
    ours, read = model.config.to_dict(), again.config.to_dict()
    differing = {name for name in ours if ours[name] != read[name]}
    assert differing <= {"stem_width", "activation"}  # told by other values that mean the same
    x = torch.rand(2, model.config.in_channels, side, side)
    with torch.no_grad():
        assert torch.equal(again(x), model(x))


def test_neuron_values_of_the_authors_are_read() -> None:
    state = theirs_of(neuromix.create_model("pdsg_resnet18", widths=(4, 8), blocks=(1, 1)))
    values = {"tau": 3.0, "decay_input": True, "v_reset": None, "v_threshold": 0.5, "detach_reset": True}
    model = neuromix.from_reference("pdsg-sda", values, state)
    config = next(module.config for module in model.modules() if isinstance(module, LIF))
    assert {name: getattr(config, name) for name in values} == values


def test_other_weights_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"no net\.0\.weight"):
        neuromix.from_reference("pdsg-sda", {}, {"conv1.weight": torch.zeros(4, 3, 3, 3)})
    state = theirs_of(build_model("pdsg_resnet", registry.find("model", "pdsg_resnet_nano")[1]))
    with pytest.raises(CheckpointError, match=r"names left over as authors: net\.2\.weight"):
        neuromix.from_reference("pdsg-sda", {}, {**state, "net.2.weight": torch.zeros(3)})
    del state["net.1.bias"]
    with pytest.raises(CheckpointError, match=r"missing stem\.0\.conv\.stem\.bn\.bias"):
        neuromix.from_reference("pdsg-sda", {}, state)
