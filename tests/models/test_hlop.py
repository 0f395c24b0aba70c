"""The nets of HLOP: the authors' names, heads and lateral weights; what they give at the least."""

from __future__ import annotations

import pytest
import torch

import neuromix
from neuromix.core.errors import CheckpointError, ConfigError, ShapeError
from neuromix.layers.projected import projectable
from neuromix.ops.rate import weighted_rate

TINY = {
    "hlop_mlp": {"hidden": (12, 8), "input_size": (4, 4), "num_classes": 4},
    "hlop_cnn": {"layers": (4, "A", 8, 6, "A"), "map_side": 2, "num_classes": 4},
    "hlop_resnet": {"blocks": (2, 1), "widths": (4, 8), "num_classes": 4},
}
LATERAL = {
    "hlop_mlp": ["hlop_modules.0", "hlop_modules.1", "hlop_modules.2"],
    "hlop_cnn": ["hlop_modules.0", "hlop_modules.1", "hlop_modules.2"],
    "hlop_resnet": [
        "hlop_modules.0",
        *(
            f"layers.{i}.hlop_modules.{j}"
            for i, j in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2))
        ),
    ],
}


def theirs(model):
    return dict(model.layouts(model.config)["authors"].to_theirs(model.state_dict()))


@pytest.mark.parametrize("name", TINY)
def test_authors_weights_give_the_same_net(name):
    torch.manual_seed(0)
    model = neuromix.create_model(name, **TINY[name])
    with torch.no_grad():  # so that something fires
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(1 / parameter.std())
    again = neuromix.from_reference("hlop", {}, theirs(model))
    image = model.example(2, torch.Generator().manual_seed(1))["image"]
    logits = model.eval()(image)
    assert logits.abs().max() > 0
    torch.testing.assert_close(again(image), logits)
    assert again.config.replace(time_steps=1) == model.config.replace(time_steps=1)


@pytest.mark.parametrize("name", TINY)
def test_lateral_matrices_stand_beside_their_layers(name):
    model = neuromix.create_model(name, **TINY[name])
    paths = projectable(model)[: len(LATERAL[name])]
    lateral = {}
    for number, (theirs_name, path) in enumerate(zip(LATERAL[name], paths, strict=True)):
        inputs = model.get_submodule(path).weight[0].numel()
        lateral[f"{theirs_name}.weight"] = torch.full((2, inputs), float(number))
        lateral[f"{theirs_name}.delta_weight_momentum"] = torch.full((2, inputs), -float(number))
    again = neuromix.from_reference("hlop", {}, {**theirs(model), **lateral})
    for number, path in enumerate(paths):
        subspace = again.get_submodule(path).subspace
        assert (
            subspace.blocks == (2,)
            and (subspace.weight == number).all()
            and (subspace.momentum == -number).all()
        )
    assert len(paths) in (len(projectable(model)), len(projectable(model)) - 1)


def test_heads_become_outputs_of_one_classifier():
    model = neuromix.create_model("hlop_mlp", **TINY["hlop_mlp"])
    weights = theirs(model)
    more = {"classifiers.1.weight": torch.ones(3, 8), "classifiers.1.bias": torch.ones(3)}
    again = neuromix.from_reference("hlop", {}, {**weights, **more})
    assert again.config.num_classes == 7 and again.config.head_bias
    assert torch.equal(again.classify.weight, torch.cat([weights["classifiers.0.weight"], torch.ones(3, 8)]))
    assert again.classify.bias.tolist() == [0, 0, 0, 0, 1, 1, 1]


def test_the_output_is_the_weighted_rate_of_the_last_layer():
    model = neuromix.create_model("hlop_mlp_nano").eval()
    y_TBK = torch.randn(10, 2, 10, generator=torch.Generator().manual_seed(0))
    decay = model.layers[0].neuron.rate_response().decay
    assert decay == pytest.approx(0.904837, abs=1e-6)  # exp(-0.1)
    torch.testing.assert_close(model.readout(y_TBK), weighted_rate(y_TBK, decay))
    spiking = neuromix.create_model("hlop_mlp_nano", activation="lif")
    torch.testing.assert_close(spiking.readout(y_TBK), y_TBK.mean(0))


def test_bad_input():
    model = neuromix.create_model("hlop_mlp_nano")
    with pytest.raises(ShapeError, match=r"expected images of \(8, 8\), got \(9, 8\)"):
        model(torch.zeros(1, 1, 9, 8))
    with pytest.raises(ConfigError, match="hidden needs a width"):
        neuromix.create_model("hlop_mlp_nano", hidden=())
    for state in ({}, {"classifiers.0.weight": torch.zeros(2, 3)}):
        with pytest.raises(ConfigError, match="not a net of the HLOP authors"):
            neuromix.from_reference("hlop", {}, state)
    weights = theirs(neuromix.create_model("hlop_mlp", **TINY["hlop_mlp"]))
    many = {f"hlop_modules.{i}.weight": torch.zeros(1, 16) for i in range(4)}
    with pytest.raises(CheckpointError, match="4 lateral matrices for 3 layers"):
        neuromix.from_reference("hlop", {}, {**weights, **many})
