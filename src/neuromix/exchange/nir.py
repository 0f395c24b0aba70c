"""NIR, the Neuromorphic Intermediate Representation: networks that other tools and chips read and write.

`to_nir` and `from_nir` work on graphs, `write_nir` on a file, which it reads back and compares with the model.
"""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from neuromix.core.errors import RunError
from neuromix.core.files import replacing
from neuromix.exchange.nir_export import Written, reads_features, reads_images, to_nir, written
from neuromix.exchange.nir_import import from_nir
from neuromix.exchange.nir_network import NIRNetwork
from neuromix.exchange.nir_neurons import DT
from neuromix.neurons.integer import IntegerNeuron
from neuromix.neurons.neuron import Neuron

__all__ = ["to_nir", "from_nir", "write_nir", "NIRComparison", "NIRExport", "NIRNetwork"]

SAMPLES, STEPS = 3, 4  # of the random input that a file is checked on
TOLERANCE = 1e-4  # of outputs, relative to the largest: weights are rounded to float32
MOST_FLIPS = 0.01  # the share of spikes that this alone may turn over


class NIRComparison(NamedTuple):
    """A file, read back, against the model that it was written from, on random inputs in float64.

    Attributes:
        difference: the largest of the outputs.
        scale: the largest output itself.
        spikes: of all neurons of the model, integers by their value; without any, nothing is known.
        flipped: share of the neurons' outputs that differ.
    """

    difference: float
    scale: float
    spikes: int
    flipped: float


@dataclass(frozen=True)
class NIRExport:
    """What a file of NIR holds.

    Attributes:
        input_shape: of one step, [C, H, W] or [F].
        time_steps: how often the model is shown a static input.
        dt: the time step in seconds.
        nodes: how many of each kind the graph has.
        comparison: None if it was not checked.
    """

    path: Path
    bytes: int
    input_shape: tuple[int, ...]
    time_steps: int
    dt: float
    nodes: dict[str, int]
    comparison: NIRComparison | None


def write_nir(
    model: nn.Module,
    path: str | Path,
    example: Tensor | None = None,
    *,
    dt: float = DT,
    check: bool = True,
) -> NIRExport:
    """Writes a feed-forward spiking network as a file of NIR; arguments and errors of `to_nir`.

    Args:
        check: read the file, and compare its spikes and outputs with the model's on random inputs.

    Raises:
        RunError: they are not the same, or the file cannot be written. Then none is.

    Example:
        write_nir(model, "net.nir")
    """
    made = written(model, example, dt=dt)
    import nir

    with replacing(Path(path)) as temporary:
        nir.write(temporary, made.graph)
        comparison = _compare(model, made, temporary, str(path)) if check else None
        size = temporary.stat().st_size
    return NIRExport(
        path=Path(path),
        bytes=size,
        input_shape=tuple(int(side) for side in made.graph.nodes["input"].input_type["input"]),
        time_steps=made.program.time_steps,
        dt=dt,
        nodes=dict(Counter(type(node).__name__ for node in made.graph.nodes.values()).most_common()),
        comparison=comparison,
    )


def _compare(model: nn.Module, made: Written, file: Path, path: str) -> NIRComparison:
    """Runs both on random inputs.

    Raises:
        RunError: the file does not do what the model does.
    """
    is_own = reads_images(model)
    net = from_nir(file, readout=made.program.readout if is_own else getattr(model, "reading", None))
    net = net.double().eval()
    model = copy.deepcopy(model).cpu().double().eval()
    shape = (SAMPLES, *net.input_shape) if is_own else (STEPS, SAMPLES, *net.input_shape)
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    neurons = {p or "net": m for p, m in model.named_modules() if isinstance(m, Neuron)}
    expected, sent = _watched(model.forward_steps if reads_features(model) else model, neurons, x)
    actual, parts = _watched(net, {name: net.nodes[key] for name, key in net.keys.items()}, x)
    spikes = [
        (one, torch.stack([parts[name][0] for name in names]).sum(0).reshape(one.shape))
        for neuron in made.spikes
        for one, names in zip(sent[neuron], made.spikes[neuron], strict=True)
    ]
    wrong = sum(int((one != other).sum()) for one, other in spikes)
    comparison = NIRComparison(
        difference=float((actual - expected).abs().max()),
        scale=float(expected.abs().max()),
        spikes=sum(int(one.sum()) for one, _ in spikes),
        flipped=wrong / max(1, sum(one.numel() for one, _ in spikes)),
    )
    is_close = comparison.difference <= TOLERANCE * comparison.scale + 1e-6
    if comparison.flipped > MOST_FLIPS or not (comparison.flipped or is_close):
        raise RunError(
            f"{path} is not written, as the graph gives other numbers than the model: outputs differ by up to "
            f"{comparison.difference:.2g} of {comparison.scale:.2g}, {comparison.flipped:.2%} of the spikes"
        )
    return comparison


def _watched(
    net: Callable[[Tensor], Tensor], modules: Mapping[str, nn.Module], x: Tensor
) -> tuple[Tensor, Mapping[str, Sequence[Tensor]]]:
    """The output of a network, and what each of these modules sends at each call: numbers of spikes."""
    seen: dict[str, list[Tensor]] = defaultdict(list)

    def note(name: str, module: nn.Module, _: Any, output: Tensor) -> None:
        unit = module.unit if isinstance(module, IntegerNeuron) else None
        spikes = (output != 0).to(output.dtype) if unit is None else (output / unit).round()
        seen[name].append(spikes.detach())

    handles = [module.register_forward_hook(partial(note, name)) for name, module in modules.items()]
    try:
        with torch.no_grad():
            y: Tensor = net(x)
    finally:
        for handle in handles:
            handle.remove()
    return y, seen
