"""Checks of the MetaFormer fixtures: nets of both papers, as classifiers and as backbones.

Two sets use two conventions. In one, gradients are those of sum(y * ct) with a cotangent `in/ct`; in the other,
of the sum over all outputs of sum(y * cos(arange)), which is kept as `out/loss`.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

import neuromix
from neuromix.models.metaformer import MetaFormer
from neuromix.models.metaformer_layouts import network_slots
from tests.golden.compare import assert_close
from tests.golden.fixtures import Fixture

# Inside a net: name in the fixture -> path of the module in ours whose output it is, {i} counted from 0.
INSIDE = {
    r"embed": "stem",
    r"block0": "stages.0.blocks.0",
    r"block0_norm1": "stages.0.blocks.0.mixer.norm",
    r"block0_mixer": "stages.0.blocks.0.mixer.branch",
    r"block0_norm2": "stages.0.blocks.0.channel_mixer.norm",
    r"block0_mlp": "stages.0.blocks.0.channel_mixer.branch",
    r"stage(\d+)(_BHWC)?": "stages.{0}",
}
SLOTS = {
    "blocks": "stages.{0}.blocks",
    "downsample": "stages.{0}.downsample",
    "position": "stages.{0}.position",
}


def check(fixture: Fixture) -> None:
    state = {name: t.double() if t.is_floating_point() else t for name, t in fixture.state.items()}
    model = neuromix.from_reference(fixture.slug, fixture.config, state, fixture.kind).double()
    assert isinstance(model, MetaFormer)
    x = fixture.inputs["x"].double().requires_grad_()
    seen = _keep_inside(model, fixture)
    outputs = _as_list(model(x))
    seen |= _named(outputs, model)
    seen["loss"] = loss = _loss(outputs, fixture)
    loss.backward()
    grads = _gradients(model, x)
    model.zero_grad()
    if any(name == "y_train" or name.startswith("after/") for name in fixture.outputs):
        seen |= _train(model, x)

    unknown = fixture.outputs.keys() - seen.keys()
    assert not unknown, f"outputs that nothing here computes: {sorted(unknown)}"
    for name, expected in fixture.outputs.items():
        assert_close(seen[name], expected, name=name, rtol=1e-9)
    unknown = fixture.grads.keys() - grads.keys()
    assert not unknown, f"gradients that nothing here computes: {sorted(unknown)}"
    for name, expected in fixture.grads.items():
        assert_close(grads[name], expected, name=f"grad of {name}", rtol=1e-7)


def _as_list(output: Tensor | list[Tensor]) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else output


def _named(outputs: list[Tensor], model: MetaFormer) -> dict[str, Tensor]:
    levels = model.config.feature_levels
    if levels:
        names = [{f"feat{level}": y, f"y{level}": y} for level, y in zip(levels, outputs, strict=True)]
        return {name: y for level in names for name, y in level.items()}
    return {"y": outputs[0], "logits": outputs[0]}


def _loss(outputs: list[Tensor], fixture: Fixture) -> Tensor:
    if "ct" in fixture.inputs:
        return (outputs[0] * fixture.inputs["ct"]).sum()
    return torch.stack(
        [(y * torch.arange(y.numel(), dtype=y.dtype).cos().reshape(y.shape)).sum() for y in outputs]
    ).sum()


def _keep_inside(model: MetaFormer, fixture: Fixture) -> dict[str, Tensor]:
    """Fills itself, in the model's next eval forward, with those inner outputs that the fixture has."""
    store: dict[str, Tensor] = {}
    for name in fixture.outputs:
        path = _path_inside(model, name)
        if path is not None:
            _keep_output(model.get_submodule(path), name, store)
    return store


def _path_inside(model: MetaFormer, name: str) -> str | None:
    network = re.fullmatch(r"network(\d+)", name)
    if network:
        part, stage = network_slots(model.config)[int(network[1])]
        return SLOTS[part].format(stage)
    matches = ((re.fullmatch(pattern, name), path) for pattern, path in INSIDE.items())
    return next((path.format(*match.groups()) for match, path in matches if match), None)


def _keep_output(module: nn.Module, name: str, store: dict[str, Tensor]) -> None:
    def keep(_: nn.Module, __: tuple[Tensor, ...], y: Tensor) -> None:
        if not module.training:
            store[name] = y.movedim(1, -1) if name.endswith("_BHWC") else y

    module.register_forward_hook(keep)


def _gradients(model: MetaFormer, x: Tensor) -> dict[str, Tensor]:
    ours = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    theirs = model.layouts(model.config)["authors"].to_theirs(ours)
    assert x.grad is not None
    return {**theirs, "in/x": x.grad}


def _train(model: MetaFormer, x: Tensor) -> dict[str, Tensor]:
    """Train-mode outputs, and the tensors of the net after that one step forward."""
    (y, *_) = _as_list(model.train()(x))
    after = model.layouts(model.config)["authors"].to_theirs(model.state_dict())
    return {"y_train": y, **{f"after/{name}": tensor for name, tensor in after.items()}}


CHECKS = {
    ("poolformer", kind): check
    for kind in ("model", "classifier", "features", "hybrid", "hybrid_full", "baselines", "v2")
}
