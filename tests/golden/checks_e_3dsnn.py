"""Checks of the E-3DSNN fixtures: a classifier and a segmenter, level by level, their spikes and gradients.

Shapes: N voxels, C channels, B samples, K classes.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor
from torch.nn import functional as F

import neuromix
from neuromix.core.batch import Ragged
from neuromix.core.layout import Layout, rename
from neuromix.core.model import Model
from neuromix.layers.sites import Sites
from neuromix.measure.spikes import recorded_spikes
from tests.golden.compare import assert_close, assert_equal
from tests.golden.fixtures import Fixture

# Where the authors' neurons are in our nets.
NEURONS = Layout(
    rename("stem.2", "encoder.stem.neurons.0"),
    rename("stem.5", "encoder.stem.neurons.1"),
    rename("enc.{i}.down.0", "encoder.stages.{i}.neuron"),
    rename("enc.{i}.blocks.{j}.block.0", "encoder.stages.{i}.blocks.{j}.first.norm"),
    rename("enc.{i}.blocks.{j}.voxel_block.0", "encoder.stages.{i}.blocks.{j}.second.norm"),
    rename("enc.{i}.blocks.{j}.voxel_block.3", "encoder.stages.{i}.blocks.{j}.second.branch.neurons.0"),
    rename("dec.{i}.up.0", "decoder.{i}.neuron"),
    rename("dec.{i}.fuse.0", "decoder.{i}.fuse.branch.neurons.0"),
    rename("dec.{i}.fuse.3", "decoder.{i}.fuse.branch.neurons.1"),
)


def check_model(fixture: Fixture) -> None:
    model = neuromix.from_reference(fixture.slug, fixture.config, fixture.state).double()
    assert isinstance(model, Model)
    if "n_params" in fixture.config:
        assert model.num_parameters() == fixture.config["n_params"]
    checked = {*_check_eval(model, fixture), *_check_training(model, fixture)}
    assert checked >= fixture.outputs.keys(), f"no check for {sorted(fixture.outputs.keys() - checked)}"


def _cloud(fixture: Fixture, feat_NC: Tensor | None = None) -> Ragged:
    offsets = F.pad(fixture.inputs["offset"], (1, 0))
    feat_NC = fixture.inputs["feat"].double() if feat_NC is None else feat_NC
    return Ragged(feat_NC, offsets, {"coords": fixture.inputs["grid_coord"]})


def _check_eval(model: Model, fixture: Fixture) -> set[str]:
    seen: dict[str, Tensor] = {}
    convs = {"stem0_conv": "encoder.stem.convs.0.conv", "final_out": "head", "stem": "encoder.stem"}
    handles = [
        model.get_submodule(path).register_forward_hook(
            lambda _, inputs, y, name=name: seen.update({name: y[0], f"{name}_in": inputs[0][0]})
        )
        for name, path in convs.items()
    ]
    with torch.no_grad(), recorded_spikes(model) as spikes:
        levels = model.levels(_cloud(fixture))
        logits = _logits(model(_cloud(fixture)))
    for handle in handles:
        handle.remove()
    for name in ("stem0_conv", "stem"):
        _compare(fixture, name, seen[name])
    _compare(fixture, "logits", logits)
    _check_levels(fixture, levels[1:])
    _check_final(fixture, model, seen["final_out_in"], seen["final_out"])
    order = NEURONS.to_ours(dict.fromkeys(fixture.config["neuron_order"], torch.empty(0)))
    _compare(fixture, "mean_spike", torch.stack([spikes[path].mean() for path in order]))
    of_levels = {name for name in fixture.outputs if re.fullmatch(r"enc\d+/(indices|features)", name)}
    return {"stem0_conv", "stem", "logits", "final_in", "final_out", "mean_spike", *of_levels}


def _check_levels(fixture: Fixture, levels: list) -> None:
    numbers = {int(match[1]) for name in fixture.outputs if (match := re.match(r"enc(\d+)/", name))}
    assert numbers <= set(range(len(levels)))
    for number in numbers:
        x_TNC, sites = levels[number]
        assert isinstance(sites, Sites)
        rows = sites.sorted_rows()
        indices = torch.cat([sites.batch_N[:, None], sites.coords_N3], 1)[rows]
        _compare(fixture, f"enc{number}/indices", indices, exactly=True)
        _compare(fixture, f"enc{number}/features", x_TNC[0][rows])


def _check_final(fixture: Fixture, model: Model, inputs_NC: Tensor, outputs_NK: Tensor) -> None:
    """Some (input, output) pairs of the last layer, in an order of rows that means nothing."""
    if "final_in" not in fixture.outputs:
        return
    with torch.no_grad():
        _compare(fixture, "final_out", model.head(fixture.outputs["final_in"].double()))
    distance = torch.cdist(fixture.outputs["final_in"].double(), inputs_NC)
    _compare(fixture, "final_in", inputs_NC[distance.argmin(1)])
    _compare(fixture, "final_out", outputs_NK[distance.argmin(1)])


def _check_training(model: Model, fixture: Fixture) -> set[str]:
    feat_NC = fixture.inputs["feat"].double().requires_grad_()
    logits = _logits(model.train()(_cloud(fixture, feat_NC)))
    smoothing = 0.0 if hasattr(model, "decoder") else 0.2
    loss = F.cross_entropy(logits, fixture.inputs["labels"], label_smoothing=smoothing)
    # Stored in float32.
    _compare(fixture, "train_logits", logits, atol=1e-7)
    _compare(fixture, "train_loss", loss)
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    theirs = {**model.layouts(model.config)["authors"].to_theirs(gradients), "feat": feat_NC.grad}
    for name, gradient in fixture.grads.items():
        expected = gradient.double()
        # Those, too: they are exact to 1e-6 of their largest entry.
        assert_close(
            theirs[re.sub(r"^(module\.)?(backbone\.)?", "", name)],
            expected,
            name=f"gradient of {name}",
            atol=1e-6 * float(expected.abs().max()),
        )
    return {"train_logits", "train_loss"}


def _logits(output: Tensor | Ragged) -> Tensor:
    return output.values if isinstance(output, Ragged) else output


def _compare(
    fixture: Fixture, name: str, actual: Tensor, *, exactly: bool = False, atol: float = 1e-9
) -> None:
    if name not in fixture.outputs:
        return
    if exactly:
        assert_equal(actual, fixture.outputs[name], name=name)
    else:
        assert_close(actual, fixture.outputs[name], name=name, atol=atol)


CHECKS = {("e-3dsnn", "model"): check_model}
