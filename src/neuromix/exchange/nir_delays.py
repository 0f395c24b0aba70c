"""Delays in NIR: a layer of synapses, each with a delay, as a sum of linear layers, each behind a node Delay.

With whole delays, y[t] = sum over d of W_d x[t - d], where W_d holds the weights of the synapses of delay d: a `Linear`
for each d that occurs, behind a `Delay` of d*dt seconds. All of them add up in the neuron that reads them.

NIR does not say how long a network goes on once its input has ended. Our layers give `tail` more steps and are silent
from then on; that is noted in the metadata: `tails`, JSON of node -> steps. Where there is a tail, a delay of 0 is
written too, so that the terms of a sum end together.

Shapes: T spike time, B batch, I inputs, O outputs, K synapses of a pair, F features.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuromix.core.config import Spec
from neuromix.core.edits import apply_edit, replace_modules
from neuromix.core.errors import CheckpointError, UnsupportedError
from neuromix.core.model import Model
from neuromix.core.state import Stateful
from neuromix.exchange.nir_node import GraphNode
from neuromix.layers.delay import Delay, DelayedSum, DelayState, DiscreteDelay
from neuromix.layers.sequence_dropout import SequenceDropout
from neuromix.runtime.node import MAX_ELEMENTS, MAX_STEPS

if TYPE_CHECKING:
    from nir import NIRGraph

M = TypeVar("M", bound=Model)
CLOSE = 1e-3  # of a time step: how far off a whole number of them a delay may be, as one in float32 is


class NIRDelay(Stateful):
    """y[t, b, ...] = x[t - delay, b, ...] with a delay for each place, and zeros before the start.

    Args:
        delay: in steps, int64, of the shape of a step's value without the batch.
        tail: steps that it goes on for after the end of its input.

    Example:
        y_TBF = NIRDelay(torch.tensor([0, 3]), tail=2)(x_TBF)   # [T, B, 2] to [T + 2, B, 2]
    """

    def __init__(self, delay: Tensor, tail: int = 0) -> None:
        super().__init__()
        self.register_buffer("delay", delay)
        self.delay: Tensor
        self.longest, self.tail = int(delay.max()), tail

    def initial_state(self, like: Tensor) -> DelayState:
        return DelayState(like.new_zeros(len(like), self.longest, *like.shape[1:]))

    def forward(
        self,
        x_T: Tensor,
        state: DelayState | None = None,
        *,
        return_state: bool = False,
        ends: bool | None = None,
    ) -> Any:
        """[T, B, ...] to [T + tail, B, ...], or to [T, B, ...] where more is to come; `ends` as in DelayedSum."""
        if state is None:
            state = self.initial_state(x_T.new_zeros(x_T.shape[1:]))
        seen_S = torch.cat([state.past.transpose(0, 1), x_T])
        state = DelayState(seen_S[len(seen_S) - self.longest :].transpose(0, 1))
        if not return_state if ends is None else ends:
            seen_S = F.pad(seen_S, (0, 0) * (seen_S.dim() - 1) + (0, self.tail))
        steps = len(seen_S) - self.longest
        last_T = torch.arange(self.longest, len(seen_S), device=seen_S.device)
        rows_T = last_T.reshape(-1, *[1] * self.delay.dim()) - self.delay
        y_T = seen_S.gather(0, rows_T[:, None].expand(steps, *seen_S.shape[1:]))
        return (y_T, state) if return_state else y_T

    def extra_repr(self) -> str:
        return f"[{self.delay.min()} to {self.longest}], tail={self.tail}"


# Writing.


class Tap(NamedTuple):
    """What a linear layer of a network without delays reads late.

    Attributes:
        delay: in steps, one for all of its inputs or one each.
        tail: steps that the input goes on for.
    """

    delay: Tensor
    tail: int


class Undelayed(nn.Module):
    """The linear layers of a DelayedSum, `steps_d` for each delay d, and their sum, as if none were delayed."""

    def __init__(self, layer: DelayedSum) -> None:
        super().__init__()
        layer = layer.discrete() if isinstance(layer, Delay) else layer
        assert isinstance(layer, DiscreteDelay)
        bias = layer.bias
        for steps in torch.unique(layer.delay).tolist():
            linear = nn.Linear(layer.in_channels, layer.out_channels, bias is not None).to(layer.weight)
            linear.weight.data = (layer.weight.data * (layer.delay == steps)).sum(2)
            if bias is not None:
                linear.bias.data, bias = bias.data, None
            self.add_module(f"steps_{steps}", linear)

    def forward(self, x_T: Any) -> Any:
        first, *others = (linear(x_T) for linear in self.children())
        return sum(others, first)


def without_delays(model: M) -> tuple[M, Mapping[str, Tap]]:
    """A copy, with batch-norms folded, in which nothing is delayed, and the path of each linear layer that should be.

    A node Delay that was read becomes a linear layer that passes on its input.

    Raises:
        UnsupportedError: delays that are between two steps in evaluation; delays of a map.
    """
    if not any(isinstance(module, DelayedSum | NIRDelay) for module in model.modules()):
        return model, {}
    model = apply_edit(model.cpu().double(), Spec("fuse", {"factored": False}))  # type: ignore[assignment]
    taps: dict[str, Tap] = {}
    opened: dict[nn.Module, nn.Module] = {}
    for path, module in model.named_modules():
        if isinstance(module, DelayedSum):
            _require_whole(module, f"{model.name}.{path.removeprefix('net.')}")
            opened[module] = layers = Undelayed(module)
            for name, _ in layers.named_children():
                steps = int(name.removeprefix("steps_"))
                if steps or module.tail:
                    taps[f"{path}.{name}"] = Tap(torch.tensor(steps), module.tail)
        elif isinstance(module, NIRDelay):
            if module.delay.dim() != 1:
                raise UnsupportedError(
                    f"{model.name}.{path.removeprefix('net.')}: only features [F] are delayed"
                )
            opened[module] = _same(len(module.delay))
            taps[path] = Tap(module.delay, module.tail)
        elif isinstance(module, SequenceDropout):
            opened[module] = nn.Identity()
    replace_modules(model, opened.get)
    return model, taps


def _require_whole(layer: DelayedSum, name: str) -> None:
    if isinstance(layer, Delay) and layer.learns and not layer.rounds:
        raise UnsupportedError(
            f"{name}: its delays lie between two steps, which has no form in NIR; round them with "
            '--set round_delays=true, or by the edit "discretise"'
        )


def _same(features: int) -> nn.Linear:
    layer = nn.Linear(features, features, bias=False, dtype=torch.float64)
    layer.weight.data = torch.eye(features, dtype=torch.float64)
    return layer


def with_delays(graph: NIRGraph, taps: Mapping[str, Tap], dt: float) -> NIRGraph:
    """The graph of a network without delays, with a node Delay before each of these nodes.

    One that only passes on its input becomes the Delay itself.

    Raises:
        UnsupportedError: one of the nodes is no linear layer.
    """
    import nir

    nodes, edges, tails = dict(graph.nodes), list(graph.edges), {}
    for name, tap in taps.items():
        layer = nodes[name]
        if not isinstance(layer, nir.Linear | nir.Affine):
            raise UnsupportedError(f"{name}: only the features of a linear layer are delayed")
        features = layer.weight.shape[1]
        delay = nir.Delay(np.broadcast_to(tap.delay.numpy() * dt, features).copy())
        if tap.delay.dim() and _passes_on(layer):
            late, nodes[name] = name, delay
        else:
            late = f"{name}.delay"
            while late in nodes:
                late += "_"
            nodes[late] = delay
            edges = [(start, late if end == name else end) for start, end in edges] + [(late, name)]
        if tap.tail:
            tails[late] = tap.tail
    metadata = {**graph.metadata, **({"tails": json.dumps(tails)} if tails else {})}
    return nir.NIRGraph(nodes, edges, metadata=metadata)


def _passes_on(layer: Any) -> bool:
    return np.array_equal(layer.weight, np.eye(len(layer.weight))) and not np.any(getattr(layer, "bias", 0))


# Reading.


def read_tails(metadata: Mapping[str, Any]) -> Mapping[str, int]:
    """What the metadata of a graph says of the steps after its input.

    Raises:
        CheckpointError: something else than whole numbers from 0 on.
    """
    text = metadata.get("tails", "{}")
    try:
        tails = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        tails = None
    if not isinstance(tails, dict) or not all(
        type(steps) is int and 0 <= steps <= MAX_STEPS for steps in tails.values()
    ):
        raise CheckpointError(
            f"the metadata's tails must be JSON of node -> steps, whole numbers from 0 to {MAX_STEPS}, "
            f"got {str(text)[:80]!r}"
        )
    return tails


def read_delay(node: GraphNode) -> NIRDelay:
    """A node Delay, whose delays are in seconds.

    Raises:
        CheckpointError: delays that are negative, no whole numbers of steps, too long, or of another shape.
    """
    seconds, dt = node.over("delay"), node.reading.dt
    if (seconds < 0).any():
        raise node.damaged(f"a delay is 0 or more, got {seconds.min():g}")
    with np.errstate(over="ignore"):
        steps = seconds / dt
    whole = np.rint(steps)
    if whole.max() > MAX_STEPS or whole.max() * whole.size > MAX_ELEMENTS:
        raise node.damaged(
            f"a delay is at most {MAX_STEPS} time steps dt={dt:g}, and those of a node hold at most {MAX_ELEMENTS} "
            f"elements; got {whole.max():.4g} steps of {whole.size}"
        )
    if (off := np.abs(steps - whole)).max() > CLOSE:
        raise node.damaged(
            f"a delay must be a whole number of time steps dt={dt:g}, got {seconds.flat[off.argmax()]:g}"
        )
    return NIRDelay(torch.tensor(whole, dtype=torch.int64), node.reading.tails.get(node.name, 0))
