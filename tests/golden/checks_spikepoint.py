"""Checks of the SpikePoint fixtures: points to groups, groups to spikes, features, logits, rates and gradients.

Shapes: T spike time, B batch, N points, M groups, K neighbours, X = 3 axes, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import neuromix
from neuromix.core.model import Model
from neuromix.core.observe import draws
from neuromix.data.events.grouping import corners, group, relative
from neuromix.neurons.neuron import Neuron
from tests.golden.compare import assert_close, assert_equal
from tests.golden.fixtures import Fixture

TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}


def check_model(fixture: Fixture) -> None:
    model = neuromix.from_reference(fixture.slug, fixture.config, fixture.state).double()
    assert isinstance(model, Model)
    if "n_params" in fixture.config:
        assert model.num_parameters() == fixture.config["n_params"]
    groups_BXMK = _check_grouping(model, fixture)
    noise_TBXMK = _joined(fixture.inputs["noise_rel"], fixture.inputs["noise_min"])
    _check_eval(model, fixture, groups_BXMK, noise_TBXMK)
    _check_training(model, fixture, groups_BXMK, noise_TBXMK)


def _check_grouping(model: Model, fixture: Fixture) -> Tensor:
    points_BNX, config = fixture.inputs["points"], model.config
    assert config.points == points_BNX.shape[1]
    grouped = group(points_BNX, config.groups, config.neighbours)
    assert_equal(grouped.centres_BM, fixture.outputs["centroid_idx"], name="centroid_idx")
    assert_equal(grouped.members_BMK, fixture.outputs["knn_idx"], name="knn_idx")
    relative_BMKX, corner_BMX = relative(points_BNX, grouped), corners(points_BNX, grouped)
    assert_close(relative_BMKX, fixture.outputs["rel"], name="rel", **TOLERANCE)
    assert_close(corner_BMX, fixture.outputs["group_min"], name="group_min", **TOLERANCE)
    return _joined(relative_BMKX, corner_BMX)


def _joined(relative_MKX: Tensor, corner_MX: Tensor) -> Tensor:
    """[..., M, K, X] and [..., M, X] as [..., X, M, K+1]."""
    return torch.cat([relative_MKX, corner_MX.unsqueeze(-2)], -2).movedim(-1, -3)


def _check_eval(model: Model, fixture: Fixture, groups_BXMK: Tensor, noise_TBXMK: Tensor) -> None:
    expected = fixture.outputs
    with torch.no_grad(), draws(model, {"coder.noise": [noise_TBXMK]}), _rates(model) as rates:
        spikes_TBXMK = model.encode(groups_BXMK)
        votes_TBK = model.forward_steps(spikes_TBXMK)
    assert_equal(spikes_TBXMK[..., :-1], expected["spikes_rel"], name="spikes_rel")
    assert_equal(spikes_TBXMK[..., -1], expected["spikes_min"], name="spikes_min")
    with torch.no_grad():
        local_TBCM1 = model.local_features(spikes_TBXMK)
        whole_TBCM1 = model.features(spikes_TBXMK)
    assert_close(local_TBCM1[..., 0], expected["f_local"], name="f_local", **TOLERANCE)
    assert_close(whole_TBCM1[..., 0], expected["f_global"], name="f_global", **TOLERANCE)
    assert_close(model.readout(votes_TBK), expected["logits"], name="logits", **TOLERANCE)
    names = [_our_neuron(name) for name in fixture.config["firing_rate_order"]]
    assert sorted(names) == sorted(rates)
    found = torch.tensor([rates[name] for name in names], dtype=torch.float64)
    assert_close(found, expected["firing_rate"], name="firing_rate", **TOLERANCE)


@contextmanager
def _rates(model: nn.Module) -> Iterator[dict[str, float]]:
    """Mean output of each neuron layer, by its path."""
    rates: dict[str, float] = {}
    handles = [
        module.register_forward_hook(lambda _, __, y, path=path: rates.update({path: float(y.mean())}))
        for path, module in model.named_modules()
        if isinstance(module, Neuron)
    ]
    try:
        yield rates
    finally:
        for handle in handles:
            handle.remove()


def _our_neuron(theirs: str) -> str:
    """`glob.0.res.lif1` -> `trunk.0.residual.norm`."""
    if theirs in ("lif", "head_lif"):
        return {"lif": "neuron", "head_lif": "vote"}[theirs]
    stage, _, rest = theirs.replace("glob.", "trunk.").replace(".res.lif", ".res_lif").rpartition(".")
    stage = {"local": "relative", "centre": "corner"}.get(stage, stage)
    parts = {"lif": "conv.neuron", "res_lif1": "residual.norm", "res_lif2": "residual.branch.neuron"}
    return f"{stage}.{parts[rest]}"


def _check_training(model: Model, fixture: Fixture, groups_BXMK: Tensor, noise_TBXMK: Tensor) -> None:
    model.train()
    with draws(model, {"coder.noise": [noise_TBXMK]}):
        logits_BK = model(groups_BXMK)
    loss = F.cross_entropy(logits_BK, fixture.inputs["labels"])
    assert_close(logits_BK, fixture.outputs["train_logits"], name="train_logits", **TOLERANCE)
    assert_close(loss, fixture.outputs["train_loss"], name="train_loss", **TOLERANCE)
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    ours = model.layouts(model.config)["reference"].to_theirs(gradients)
    for name, gradient in fixture.grads.items():
        assert_close(ours[name], gradient, name=f"gradient of {name}")


CHECKS = {("spikepoint", "model"): check_model}
