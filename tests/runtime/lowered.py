"""Models with batch-norms out of their initial state, and how a program compares with its model.

Shapes: T spike time, B batch, C channels, H W feature map.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from neuromix import create_model
from neuromix.core import registry
from neuromix.core.model import Model
from neuromix.neurons.neuron import Neuron
from neuromix.runtime.program import Program
from neuromix.runtime.reference import as_steps, evaluate, read_over_time, run_reference

META = "meta_spikeformer"


def tiny_meta(**overrides: Any) -> dict[str, Any]:
    """The values of a tiny Meta-SpikeFormer for images [1, 8, 8] whose attention fires."""
    mixer = {"heads": 2, "scale": 1.0, **overrides.pop("attention", {})}
    lively = {"in_channels": 1, "time_steps": 3, "mixer": ("sdsa", mixer)}
    return tiny(
        META, **{"neuron.v_threshold": 0.5} if "neuron" not in overrides else {}, **{**lively, **overrides}
    )


def tiny(name: str, **overrides: Any) -> dict[str, Any]:
    """The values that make the tiny net of a registered model."""
    return {**registry.entries("model")[name].tiny, **overrides}


def lively(name: str, shape: tuple[int, int, int], **overrides: Any) -> Model:
    """A model whose neurons fire: batch-norms with statistics of noise, then moved, and gains that are not 0."""
    torch.manual_seed(0)
    model = create_model(name, **overrides)
    return randomised(model, shape)


def randomised(model: Model, shape: tuple[int, int, int]) -> Model:
    """The model with random numbers where training would have put some."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.randn(16, *shape))
        for norm in norms:
            norm.running_mean += 0.2 * torch.randn_like(norm.running_mean) * norm.running_var.sqrt()
            norm.running_var *= 0.5 + torch.rand_like(norm.running_var)
            norm.weight.uniform_(0.8, 1.6)
            norm.bias.normal_(0.2, 0.3)
        for path, parameter in model.named_parameters():
            if path.endswith("scale.gain"):
                parameter.fill_(0.7)
            if path.endswith("classify.weight"):
                parameter.normal_(0, 0.1)
    return model.eval()


def images(shape: tuple[int, int, int], count: int = 3) -> Tensor:
    """Noise [B, C, H, W]."""
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(1))


def require_same(model: Model, program: Program, x: Tensor, *, frames: bool = False) -> None:
    """Asserts that the program gives the model's answers, spike for spike.

    Node by node, each fed with what the model's neurons sent: else one spike that rounding moves - a few in a
    million are at the threshold - would change everything behind it.

    Args:
        x: [B, C, H, W]; with `frames`, [B, T, C, H, W].
    """
    x_T, steps = as_steps(program, x, None, frames)
    sent, expected = _spikes(model, x_T if frames else x)
    values, wrong, total = {0: x_T}, 0, 0
    for index, node in enumerate(program.nodes[1:], 1):
        value = evaluate(node, [values[source] for source in node.inputs], steps)
        if node.op in ("lif", "levels"):
            model_value = _as_maps(sent.pop(node.name), value)
            wrong += int(((value - model_value).abs() > 1e-4).sum())
            total += model_value.numel()
            value = model_value
        values[index] = value
    assert not sent, "neurons that the program lacks"
    assert wrong <= max(1, 1e-5 * total)
    output = read_over_time(program, values[program.output], steps)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    free = run_reference(program, x, frames=frames, keep=()).output
    same = torch.isclose(free, expected, rtol=1e-4, atol=1e-5).all(1)
    assert same.float().mean() >= 0.5


def _spikes(model: Model, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """What each neuron of the model sends, in units of a spike, and the model's output."""
    sent: dict[str, Tensor] = {}

    def keep(neuron: Neuron, y_T: Tensor, path: str) -> None:
        if neuron.levels == 1:
            y_T = (y_T != 0).to(y_T.dtype)
        sent[path] = (y_T / getattr(neuron, "unit", 1.0)).round() if neuron.levels > 1 else y_T

    neurons = {path: module for path, module in model.named_modules() if isinstance(module, Neuron)}
    hooks = [
        neuron.register_forward_hook(lambda neuron, _, y_T, path=path: keep(neuron, y_T, path))
        for path, neuron in neurons.items()
    ]
    with torch.no_grad():
        output = model(x)
    for hook in hooks:
        hook.remove()
    rates = [float((y_T != 0).float().mean()) for y_T in sent.values()]
    assert max(rates) > 0.1, "nothing fires"
    return sent, output


def _as_maps(y_T: Tensor, like: Tensor) -> Tensor:
    """[T, B, C, H, W] of what a neuron gives in the axes of the model: features, or heads and tokens."""
    if y_T.dim() == 5 and y_T.shape[2:] != like.shape[2:]:
        y_T = y_T.transpose(-2, -1)  # heads, channels of a head, tokens
    y_T = y_T.reshape(*y_T.shape[:2], *like.shape[2:])
    return y_T[:1] if len(like) == 1 else y_T.expand_as(like)
