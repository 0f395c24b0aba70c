"""`neuromix bench lif`: forward and backward of a layer of LIF neurons, against the peers and the machine's copy.

Set-ups: `vision`, one neuron layer over 512 k neurons at T = 4 and 16 (the shape of the first stage of an image
model); `linear`, a square linear layer and its neurons over 500 steps of a batch of 16.

The bytes that must move in float32, a neuron and step: forward reads x and writes s, 8; backward reads the
gradient and x and writes a gradient, 12. `copy` moves as many.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from neuromix.bench import peers
from neuromix.bench.contest import Contestant, OnTurn, contest, silent
from neuromix.bench.result import BenchResult, ratios

PEERS = ("neuromix", "compiled", "spikingjelly", "snntorch", "norse")
BYTES_PER_NEURON_STEP = 8 + 12


def run(
    *,
    rounds: int = 15,
    threads: int = 2,
    neurons: Sequence[int] = (512, 4096),
    set_ups: Sequence[str] = ("vision", "linear"),
    on_turn: OnTurn = silent,
) -> BenchResult:
    """Measures the set-ups; `neurons` are the widths of the linear one (16384 takes minutes a round)."""
    result = BenchResult.begin("lif", threads=threads, rounds=rounds)
    if "vision" in set_ups:
        for steps in (4, 16):
            options = {"steps": steps, "neurons": 512 * 1024}
            contestants = [_contestant(peer, "prepare_vision", options) for peer in PEERS]
            half = {**options, "peer": "neuromix", "dtype": "bfloat16"}
            contestants.append(Contestant("neuromix_bfloat16", f"{__name__}:prepare_vision", half))
            contestants.append(Contestant("copy", f"{__name__}:prepare_copy", options))
            outcome = contest(contestants, rounds=rounds, threads=threads, on_turn=on_turn)
            result.add(f"vision_T{steps}", outcome, ratios(outcome, "neuromix"))
    if "linear" in set_ups:
        for width in neurons:
            contestants = [_contestant(peer, "prepare_linear", {"width": width}) for peer in PEERS]
            outcome = contest(contestants, rounds=max(3, rounds // 3), threads=threads, on_turn=on_turn)
            result.add(f"linear_{width}", outcome, ratios(outcome, "neuromix"))
    return result


def _contestant(peer: str, prepare: str, options: Mapping[str, Any]) -> Contestant:
    return Contestant(peer, f"{__name__}:{prepare}", {**options, "peer": peer})


def prepare_vision(peer: str, steps: int, neurons: int, dtype: str = "float32") -> Callable[[], None]:
    """Neurons alone, forward and backward."""
    neuron = getattr(peers, peer)()
    generator = torch.Generator().manual_seed(0)
    x_TN = torch.randn(steps, neurons, generator=generator).to(getattr(torch, dtype)).requires_grad_()
    grad_TN = torch.randn(steps, neurons, generator=generator).to(x_TN.dtype)

    def once() -> None:
        x_TN.grad = None
        neuron(x_TN).backward(grad_TN)

    return once


def prepare_copy(steps: int, neurons: int) -> Callable[[], None]:
    """The bytes that a forward and a backward pass have to move, half of them read and half written."""
    count = steps * neurons * BYTES_PER_NEURON_STEP // 2 // 4
    source, target = torch.randn(count), torch.empty(count)

    def once() -> None:
        target.copy_(source)

    return once


def prepare_linear(peer: str, width: int, steps: int = 500, batch: int = 16) -> Callable[[], None]:
    """A linear layer and its neurons, forward and backward to the weights."""
    neuron = getattr(peers, peer)()
    linear = nn.Linear(width, width)
    x_TBN = torch.randn(steps, batch, width, generator=torch.Generator().manual_seed(0))

    def once() -> None:
        linear.zero_grad()
        neuron(linear(x_TBN)).sum().backward()

    return once
