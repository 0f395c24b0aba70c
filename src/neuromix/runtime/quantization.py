"""quantize: int8 weights for the convolutions that spikes feed, with their mean error taken out.

Shapes: T spike time, B batch, C channels, H W map, O output channels, R scales that are tried.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neuromix.runtime.node import Node
from neuromix.runtime.program import Program
from neuromix.runtime.reference import as_steps, evaluate

LARGEST = 127  # symmetric: -128 is not used
# Fractions of the largest weight that are tried as the clipping point of a channel.
CLIPPING = torch.linspace(1.0, 0.5, 26)


def quantize(
    program: Program, images: Any, *, time_steps: int | None = None, frames: bool = False
) -> Program:
    """The program with int8 weights, one scale an output channel, where it adds up spikes or integers.

    A channel is clipped where its squared error is least. What rounding does to the mean input of a channel over
    the images - in this layer and all before it - is corrected in the bias of each convolution, in the order of
    the nodes. First layers and others that read real numbers keep their float32 weights.

    Args:
        images: calibration inputs [B, C, H, W]; with `frames`, [B, T, C, H, W].
        time_steps: of the calibration, by default as the program says.

    Raises:
        ShapeError: the images do not fit.
    """
    x_T, steps = as_steps(program, images, time_steps, frames)
    last_reader = {source: index for index, node in enumerate(program.nodes) for source in node.inputs}
    exact, rounded = {0: x_T.float()}, {0: x_T.float()}
    nodes = [program.nodes[0]]
    for index, node in enumerate(program.nodes[1:], 1):
        exact[index] = evaluate(node, [exact[source] for source in node.inputs], steps)
        node = _with_int8(node) if is_quantizable(program, index) else node
        value = evaluate(node, [rounded[source] for source in node.inputs], steps)
        if node.op == "conv":
            shift_C = (exact[index] - value).mean((0, 1, 3, 4))
            node = node.replace(bias=shift_C if node["bias"] is None else node["bias"] + shift_C)
            value = value + shift_C[:, None, None]
        rounded[index] = value
        nodes.append(node)
        for source in set(node.inputs):
            if last_reader[source] == index:
                del exact[source], rounded[source]
    return program.replace(nodes=tuple(nodes))


def is_quantizable(program: Program, index: int) -> bool:
    """Whether a node is a convolution of spikes or integers with float32 weights."""
    node = program.nodes[index]
    is_event_driven = node.op == "conv" and program.edges[node.inputs[0]].type.levels > 0
    return is_event_driven and node["weight"].dtype == torch.float32


def _with_int8(conv: Node) -> Node:
    weight_OIHW, scale_O = round_weights(conv["weight"])
    return conv.replace(weight=weight_OIHW, scale=scale_O)


def round_weights(weight_OIHW: Tensor) -> tuple[Tensor, Tensor]:
    """int8 weights and their scales [O], such that scale * weight is near the given ones.

    Each channel takes, out of the scales that clip at `CLIPPING` of its largest weight, the one of least squared
    error.
    """
    weight_OF = weight_OIHW.flatten(1)
    largest_O = weight_OF.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny * LARGEST)
    scale_RO = CLIPPING[:, None] * largest_O / LARGEST
    error_RO = torch.stack(
        [
            (weight_OF - _rounded(weight_OF, scale_O) * scale_O[:, None]).square().sum(1)
            for scale_O in scale_RO
        ]
    )
    scale_O = scale_RO.gather(0, error_RO.argmin(0, keepdim=True))[0]
    return _rounded(weight_OF, scale_O).to(torch.int8).view(weight_OIHW.shape), scale_O


def _rounded(weight_OF: Tensor, scale_O: Tensor) -> Tensor:
    return (weight_OF / scale_O[:, None]).round().clamp(-LARGEST, LARGEST)
