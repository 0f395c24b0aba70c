"""A model as a function of tensors alone, in few and plain operators: what an exporter can trace.

Shapes: T spike time, B batch, C channels, H W feature map, K classes.
"""

from __future__ import annotations

import copy
import functools
from collections import Counter
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from neuromix.core.errors import UnsupportedError
from neuromix.core.model import Model
from neuromix.core.observe import Noise
from neuromix.core.stream import ModelState, Stream, outermost_stateful, stream
from neuromix.neurons.integrate_and_fire import MembraneNeuron
from neuromix.neurons.neuron import Neuron
from neuromix.ops.lif import Coefficient, over_channels


def written_out(model: Model) -> Model:
    """A copy whose neurons run by a few plain operators, and in which nothing may draw random numbers."""
    model = copy.deepcopy(model)
    for path, module in model.named_modules():
        if isinstance(module, Noise):
            module.uniform = functools.partial(_refuse_chance, path)  # type: ignore[method-assign]
        if isinstance(module, MembraneNeuron) and type(module).forward is MembraneNeuron.forward:
            p = module.constants()
            if p.fires and p.extra == "none" and p.reset == "now":  # the others run by their reference
                module.forward = functools.partial(fire, module)  # type: ignore[method-assign]
    return model


def _refuse_chance(path: str, *_: Any) -> NoReturn:
    owner = path.rpartition(".")[0] or path
    raise UnsupportedError(f"{owner} draws random numbers, which an ONNX file would not give again")


def fire(neuron: MembraneNeuron, x_T: Tensor, state: Any = None, *, return_state: bool = False) -> Any:
    """The forward of an integrate-and-fire neuron: the numbers of `lif_reference`, with half the operators.

    Steps keep a time axis of 1, so that they need no operators but one split and one concatenation.
    """
    p = over_channels(x_T, neuron.constants())
    fire_at, has_offset = p.fire_at * p.v_threshold, isinstance(p.offset, Tensor) or p.offset != 0
    v: Tensor | None = None
    if state is not None:
        v = state[0].unsqueeze(0)
    elif p.v_init:
        v = torch.tensor(p.v_init, dtype=x_T.dtype)
    fired = []
    current_T = _times(p.gain, x_T)
    for x in torch.split(current_T, 1) if len(x_T) > 1 else (current_T,):
        h = x if v is None else _times(p.decay, v) + x
        h = h + p.offset if has_offset else h
        fires = h > fire_at if p.strict else h >= fire_at
        v = torch.where(fires, h - p.v_threshold if p.v_reset is None else p.v_reset, h)
        fired.append(fires)
    spikes_T = _times(p.height, torch.cat(fired).to(x_T.dtype))
    return (spikes_T, neuron.State(v.squeeze(0))) if return_state and v is not None else spikes_T


def _times(factor: Coefficient, x: Tensor) -> Tensor:
    return x if isinstance(factor, float) and factor == 1 else factor * x


class StateSlot(NamedTuple):
    """One tensor of the states of a model: `name` before a step, `name.next` after it, both [B, *shape].

    Attributes:
        module: path of the module that owns it.
        initial: its value before the first step.
    """

    name: str
    module: str
    shape: tuple[int, ...]
    initial: float


class TensorFunction(nn.Module):
    """A model as a function of tensors: image and states to logits, next states, and what each neuron sends.

    Args:
        image_BCHW: an example.
        step: one time step, with states; else the whole model, without.

    Attributes:
        example: its inputs for the image, with the states before the first step.
        slots: what the states are.
    """

    def __init__(self, model: Model, image_BCHW: Tensor, step: bool) -> None:
        super().__init__()
        self.model = model
        self.neurons = [m for m in model.modules() if isinstance(m, Neuron) and m.levels]  # those that spike
        self.net: Stream | None = stream(model) if step else None
        initial = {} if self.net is None else _initial_states(self.net, image_BCHW)
        states, self.structure = pytree.tree_flatten(initial)
        self.example: tuple[Tensor, ...] = (image_BCHW, *states)
        owners = [
            (f"state.{number}.{field}", path)
            for number, ((path, _), state) in enumerate(initial.items())
            for field in type(state)._fields  # type: ignore[attr-defined]
        ]
        self.slots = tuple(
            StateSlot(name, path, tuple(state.shape[1:]), float(state.flatten()[0]))
            for (name, path), state in zip(owners, states, strict=True)
        )

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        image_BCHW, *states = inputs
        sent: list[Tensor] = []

        def watch(_: nn.Module, __: Any, output: Any) -> None:
            sent.append(output if isinstance(output, Tensor) else output[0])

        after: ModelState = {}
        handles = [neuron.register_forward_hook(watch) for neuron in self.neurons]
        try:
            if self.net is None:
                y = self.model(image_BCHW)
            else:
                y, after = self.net.step(image_BCHW, pytree.tree_unflatten(states, self.structure))
        finally:
            for handle in handles:
                handle.remove()
        logits_BK = y if isinstance(y, Tensor) else y[0]
        return (logits_BK, *pytree.tree_leaves(after), *sent)


def _initial_states(net: Stream, image_BCHW: Tensor) -> ModelState:
    """The states before the first step, in the order in which a step comes to their owners."""
    found: ModelState = {}
    calls: Counter[str] = Counter()

    def enter(path: str, leaf: Any, args: tuple[Tensor, ...]) -> None:
        found[path, calls[path]] = leaf.initial_state(args[0].select(leaf.time_axis, 0))
        calls[path] += 1

    handles = [
        leaf.register_forward_pre_hook(functools.partial(enter, path))
        for path, leaf in outermost_stateful(net.model).items()
    ]
    try:
        net.step(image_BCHW)
    finally:
        for handle in handles:
            handle.remove()
    return found
