"""How weights of the HLOP authors become a net of `hlop`: heads joined, lateral matrices beside their layers."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from neuromix.core.config import Spec
from neuromix.core.edits import apply_edit
from neuromix.core.errors import CheckpointError, ConfigError
from neuromix.core.model import Model
from neuromix.core.reference import load_reference, reference
from neuromix.layers.projected import projectable
from neuromix.models.vision.hlop import HLOPCNNConfig, HLOPMLPConfig, HLOPResNetConfig, neuron


@reference("hlop")
def read_authors(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    """Constructor values of the authors' nets; which net it is, and its sizes, the weights tell.

    Their heads become outputs of one classifier, and their lateral matrices a block of rows each.
    """
    lateral = {name: tensor for name, tensor in state.items() if "hlop_modules." in name}
    own = _one_head({name: tensor for name, tensor in state.items() if name not in lateral})
    options: dict[str, Any] = {
        "activation": neuron(
            float(config.get("tau", 1.0)),
            float(config.get("delta_t", 0.05)),
            float(config.get("Vth", 0.3)),
            float(config.get("alpha", 0.3)),
            float(config.get("Vth_bound", 5e-4)),
        ),
        "time_steps": int(config.get("timesteps", 20)),
        "num_classes": len(own["classifiers.0.weight"]),
        "head_bias": "classifiers.0.bias" in own,
    }
    if "fc1.weight" in own:
        model = load_reference("hlop_mlp", HLOPMLPConfig(**options, **_read_mlp(config, own)), own)
    elif "conv1.weight" in own:
        model = load_reference("hlop_resnet", HLOPResNetConfig(**options, **_read_resnet(own)), own)
    else:
        model = load_reference("hlop_cnn", HLOPCNNConfig(**options, **_read_cnn(own)), own)
    assert isinstance(model, Model)
    return _with_lateral(model, lateral) if lateral else model


def _one_head(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The heads `classifiers.{t}` as one; those without a bias get one of 0 where others have it."""
    numbers = sorted({int(m[1]) for name in state if (m := re.match(r"classifiers\.(\d+)\.weight", name))})
    if not numbers:
        raise ConfigError("the weights have no classifiers.0: not a net of the HLOP authors")
    weights = [state[f"classifiers.{t}.weight"] for t in numbers]
    biases = [state.get(f"classifiers.{t}.bias") for t in numbers]
    joined = {name: tensor for name, tensor in state.items() if not name.startswith("classifiers.")}
    joined["classifiers.0.weight"] = torch.cat(weights)
    if any(bias is not None for bias in biases):
        zeros = (weight.new_zeros(len(weight)) for weight in weights)
        joined["classifiers.0.bias"] = torch.cat(
            [zero if bias is None else bias for bias, zero in zip(biases, zeros, strict=True)]
        )
    return joined


def _read_mlp(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    widths = [state[f"fc{i}.weight"] for i in range(1, 99) if f"fc{i}.weight" in state]
    features = widths[0].shape[1]
    side = math.isqrt(features)
    size = config.get("input_size", (side, side) if side**2 == features else (1, features))
    hidden = tuple(len(weight) for weight in widths)
    return {"hidden": hidden, "input_size": tuple(size), "in_channels": features // math.prod(size)}


def _read_cnn(state: Mapping[str, Tensor]) -> dict[str, Any]:
    found = [(int(m[1]), t) for n, t in state.items() if (m := re.fullmatch(r"features\.(\d+)\.weight", n))]
    convs = sorted((place, weight) for place, weight in found if weight.dim() == 4)
    if not convs:
        raise ConfigError("the weights have neither fc1, conv1 nor features: not a net of the HLOP authors")
    places = [place for place, _ in convs]
    layers: list[int | str] = []
    for place, weight in convs:  # convolution, norm and neuron, and a pooling where a place is left over
        last = place == places[-1]
        layers += [len(weight), *(["A"] if last or place + 4 in places else [])]
    width, features = len(convs[-1][1]), state["classifiers.0.weight"].shape[1]
    return {
        "layers": tuple(layers),
        "map_side": math.isqrt(features // width),
        "in_channels": convs[0][1].shape[1],
    }


def _read_resnet(state: Mapping[str, Tensor]) -> dict[str, Any]:
    numbers = sorted({int(m[1]) for n in state if (m := re.match(r"layers\.(\d+)\.conv1\.weight", n))})
    firsts = [n for n in numbers if n == 0 or f"layers.{n}.downsample.weight" in state]
    widths = tuple(len(state[f"layers.{n}.conv1.weight"]) for n in firsts)
    stem, kernel = len(state["conv1.weight"]), state["conv1.weight"].shape[-1]
    return {
        "blocks": tuple(end - start for start, end in itertools.pairwise([*firsts, len(numbers)])),
        "widths": widths,
        "stem_width": None if stem == widths[0] else stem,
        "stem_kernel": kernel,
        "stem_stride": 2 if kernel == 5 else 1,
        "in_channels": state["conv1.weight"].shape[1],
    }


def _with_lateral(model: Model, lateral: Mapping[str, Tensor]) -> Model:
    """The net with its lateral matrices, each of which is one block: the files do not tell more."""

    def places(kind: str) -> list[Tensor]:
        names = sorted((name for name in lateral if name.endswith(f".{kind}")), key=_numbers)
        return [lateral[name] for name in names]

    weights, momenta = places("weight"), places("delta_weight_momentum")
    paths = projectable(model)[: len(weights)]
    if len(paths) != len(weights) or len(momenta) not in (0, len(weights)):
        raise CheckpointError(f"{len(weights)} lateral matrices for {len(paths)} layers do not fit the net")
    blocks = {path: [len(weight)] for path, weight in zip(paths, weights, strict=True)}
    model = apply_edit(model, Spec("projected", {"blocks": blocks}))
    for number, path in enumerate(paths):
        subspace: Any = model.get_submodule(path).subspace
        subspace.weight = weights[number].to(subspace.weight)
        subspace.momentum = (
            momenta[number].to(subspace.weight) if momenta else torch.zeros_like(subspace.weight)
        )
    return model


def _numbers(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]
