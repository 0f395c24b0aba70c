"""The rules of the library's own leaves: neurons, attention, and what knows of time.

A rule takes the module and the arguments of its forward. It is found by the type of the module, or the nearest of
its bases that has one; a module without a rule is lowered by going through its forward.

Shapes: T spike time, B batch, C channels, H W feature map, h heads, N tokens, K channels of a head.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from neuromix.core.state import Stateful
from neuromix.core.time import Repeat, fold
from neuromix.layers.integer_weights import IntegerConv2d, IntegerLinear
from neuromix.layers.sequence_dropout import SequenceDropout
from neuromix.mixers.sdsa import SDSA, SpikeAttention
from neuromix.neurons.integer import IntegerNeuron
from neuromix.neurons.integrate_and_fire import MembraneNeuron
from neuromix.ops.lif import LIFParameters
from neuromix.runtime.arguments import on_map, over_channels, pair, read
from neuromix.runtime.function_rules import convolve, linear
from neuromix.runtime.node import BINARY, MAX_LEVELS, REAL
from neuromix.runtime.traced import R, Rule, Traced

_RULES: dict[type[nn.Module], Rule] = {}


def lowers(*types: type[nn.Module]) -> Callable[[R], R]:
    """Registers the rule of module types: `rule(module, *inputs)` gives what its forward would."""

    def decorate(rule: R) -> R:
        _RULES.update(dict.fromkeys(types, rule))
        return rule

    return decorate


def rule_of(module: nn.Module) -> Rule | None:
    """The rule of the nearest base that has one."""
    return next((_RULES[base] for base in type(module).__mro__ if base in _RULES), None)


# `fold` as it is, on what stands for a tensor.
_fold = cast("Callable[[nn.Module, Traced], Traced]", fold)


@lowers(Stateful)
def refuse(module: Stateful, x_T: Traced, *_: Any) -> Traced:
    known = ", ".join(sorted(base.__name__ for base in _RULES if base is not Stateful))
    raise x_T.graph.unsupported(f"its state over time has no form in an .nmx file; known: {known}")


@lowers(SequenceDropout)
def pass_through(module: nn.Module, x_T: Traced) -> Traced:
    return x_T


@lowers(Repeat)
def repeat(module: Repeat, x_T: Traced) -> Traced:
    """The stem alone: how often its input is shown is for the run to say."""
    return _fold(module.stem, x_T)


@lowers(MembraneNeuron)
def membrane(neuron: MembraneNeuron, x_T: Traced) -> Traced:
    """`ops.lif` with its coefficients as one number a channel."""
    p, graph = neuron.constants(), x_T.graph
    if type(neuron).forward is not MembraneNeuron.forward:
        raise graph.unsupported(
            "a neuron with chance or with an equation of its own has no form in an .nmx file"
        )
    _require_expressible(p, x_T)
    x = graph.real(_timed(x_T))

    def each(value: float | Tensor) -> Tensor:
        return over_channels(x, torch.as_tensor(value, dtype=torch.float64))

    gain = each(p.gain)
    spikes = graph.add(
        "lif",
        (x,),
        axes=x.axes,
        leading=2,
        decay=each(p.decay),
        gain=gain * x.factor,
        offset=each(p.offset) + gain * x.shift,
        threshold=each(p.v_threshold),
        reset="none" if not p.fires else "soft" if p.v_reset is None else "hard",
        v_reset=float(p.v_reset or 0.0),
        v_init=float(p.v_init),
        fire_at=float(p.fire_at),
        strict=p.strict,
    )
    return spikes.scaled(each(p.height)) if p.fires else spikes


def _require_expressible(p: LIFParameters, x: Traced) -> None:
    if p.extra != "none":
        state = {"synapse": "a synaptic current", "adaptation": "an adapting threshold"}[p.extra]
        raise x.graph.unsupported(f"a neuron with {state} has no form in an .nmx file")
    if p.reset == "next":
        raise x.graph.unsupported("a reset one step later has no form in an .nmx file; reset 'now' has")
    is_per_channel = any(isinstance(value, Tensor) and value.dim() for value in p)
    if is_per_channel and p.channel_axis != 1:
        raise x.graph.unsupported(f"coefficients along axis {p.channel_axis}; those of axis 1 have a form")


@lowers(IntegerNeuron)
def integer(neuron: IntegerNeuron, x_T: Traced) -> Traced:
    """Integers; the unit that they count is left to whoever reads them."""
    graph, x = x_T.graph, _timed(x_T)
    if neuron.levels > MAX_LEVELS:
        raise graph.unsupported(f"levels must be at most {MAX_LEVELS}, got {neuron.levels}")
    if bool((x.factor != x.factor[0]).any() or (x.shift != 0).any()):
        x = graph.applied(x)
    x = graph.real(x)
    gain = float(neuron.gain * x.factor[0])
    return graph.add("levels", (x,), axes=x.axes, leading=2, gain=gain, levels=neuron.levels).scaled(
        neuron.unit
    )


def _timed(x_T: Traced) -> Traced:
    if x_T.leading != 2:
        raise x_T.graph.unsupported(f"a neuron needs a time axis, got {list(x_T.shape)}")
    return read(x_T)


@lowers(IntegerConv2d)
def integer_convolution(module: IntegerConv2d, x_BCHW: Traced) -> Traced:
    """Its integers, with a scale for each output, where all inputs are of one height; else its weights."""
    x, geometry = on_map(x_BCHW), module.geometry
    if _differs(x):
        return convolve(x, module.weight, module.bias, *geometry)
    return x.graph.add(
        "conv",
        (x,),
        leading=1,
        weight=module.integers(),
        scale=module.step * x.factor[0],
        bias=module.bias,
        stride=pair(geometry.stride),
        padding=pair(geometry.padding),
        dilation=pair(geometry.dilation),
        groups=geometry.groups,
    )


@lowers(IntegerLinear)
def integer_linear(module: IntegerLinear, x: Traced) -> Traced:
    """As a convolution whose kernel covers the map; see `integer_convolution`."""
    graph, integers = x.graph, module.integers()
    if _differs(x) or x.resize is not None or len(x.axes) != 1:
        return linear(x, module.weight, module.bias)
    return graph.add(
        "conv",
        (x,),
        axes=(len(integers),),
        leading=x.leading,
        weight=integers.view(len(integers), *graph.shape(x.node)),
        scale=module.step * x.factor[0],
        bias=module.bias,
        stride=[1, 1],
        padding=[0, 0],
        dilation=[1, 1],
        groups=1,
    )


def _differs(x: Traced) -> bool:
    """Whether channels have factors of their own, or shifts."""
    return bool((x.factor != x.factor[0]).any() or (x.shift != 0).any())


@lowers(SDSA)
def sdsa(mixer: SDSA, x_TBCHW: Traced) -> Traced:
    """Its forward, where the axes of heads and tokens are only another view."""
    heads = mixer.config.heads
    channels, height, width = on_map(x_TBCHW, leading=None).axes

    def spikes(name: str) -> Any:
        y_TBCHW: Any = mixer.neurons[name](_fold(mixer.projections[name], x_TBCHW))
        return y_TBCHW.replace(axes=(heads, height * width, channels // heads))

    q, k, v = (spikes(name) if name in mixer.projections else None for name in "qkv")
    y_TBhNK = mixer.attention(q, k, v)
    return _fold(mixer.out, y_TBhNK.replace(axes=(channels, height, width)))


@lowers(SpikeAttention)
def attention(module: SpikeAttention, q: Traced, k: Traced | None, v: Traced) -> Any:
    """Forms 1 and 2 open a gate for each channel, 3 and 4 multiply queries, keys and values.

    Integers are products of their binary steps, each of a query with each of a key and each of a value.
    """
    graph, heads = q.graph, q.axes[0]
    if any(graph.type(x) == REAL for x in (q, k, v) if x is not None):
        raise graph.unsupported("attention on real numbers has no form in an .nmx file; on spikes it has")
    if module.form in (1, 2):
        if any(graph.type(x) != BINARY for x in (q, k, v) if x is not None):
            raise graph.unsupported(
                "gates of integers have no form in an .nmx file; those of binary spikes have"
            )
        summed, gated = ((k, v), q) if module.form == 1 else ((q,), v)
        current = graph.add("token_sum", summed, axes=(heads, 1, q.axes[2]), leading=2)  # type: ignore[arg-type]
        for x in summed:
            assert x is not None
            current = current.scaled(x.factor)
        gate = module.neuron(current)
        return graph.add("gate", (gate, gated), axes=q.axes, leading=2).scaled(gate.factor * gated.factor)
    assert k is not None
    scale = module.scale if module.form == 3 else 1.0
    products = _uniform(q) * _uniform(k) * scale
    terms = [
        graph.add("attend", steps, axes=q.axes, leading=2, heads=heads, scale=products)
        for steps in itertools.product(*map(_binary_steps, (q, k, v)))
    ]
    current = terms[0] if len(terms) == 1 else graph.add("add", tuple(terms), axes=q.axes, leading=2)
    return module.neuron(current.scaled(v.factor))


def _binary_steps(x: Traced) -> list[Traced]:
    """Binary values whose sum is the value of the node: itself, or of an integer n the steps [n > d]."""
    graph, levels = x.graph, x.graph.type(x).levels
    if graph.type(x) == BINARY:
        return [x]
    ones = torch.ones_like(x.factor)
    n = graph.real(Traced.of(graph, x.node, x.axes, x.leading))
    return [
        graph.add(
            "lif",
            (n,),
            axes=x.axes,
            leading=2,
            decay=0 * ones,
            gain=ones,
            offset=0 * ones,
            threshold=(step + 0.5) * ones,
            reset="hard",
            v_reset=0.0,
            v_init=0.0,
            fire_at=1.0,
            strict=False,
        )
        for step in range(levels)
    ]


def _uniform(x: Traced) -> float:
    """The one height of spikes whose channels are summed over."""
    if bool((x.factor != x.factor[0]).any()):
        raise x.graph.unsupported(
            "queries or keys with spikes of another height in each channel have no form"
        )
    return float(x.factor[0])
