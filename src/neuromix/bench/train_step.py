"""`neuromix bench train-step`: one training step of a whole spiking network, with our neurons and with a peer's.

Convolutions, batch-norm, data and optimiser are the same code. Each neuron has a step as the PyTorch documentation
writes it ("plain"), and one as `neuromix train` runs it: maps with the channels last, and the fused optimiser. So
spikingjelly_plain_over_neuromix is what changing to neuromix brings, and spikingjelly_over_neuromix and
spikingjelly_plain_over_neuromix_plain what the neurons alone do.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from neuromix.bench.contest import Contestant, OnTurn, contest, silent
from neuromix.bench.peers import with_spikingjelly
from neuromix.bench.result import BenchResult, ratios
from neuromix.core.checkpoint import create_model

# name -> model, side of its images, batch, time steps
NETWORKS = {
    "meta_spikeformer_15m_64": ("meta_spikeformer_15m", 64, 4, 4),
    "spiking_resnet18_32": ("spiking_preact_resnet18", 32, 8, 4),
}


def run(*, rounds: int = 7, threads: int = 2, on_turn: OnTurn = silent) -> BenchResult:
    """Measures both networks."""
    result = BenchResult.begin("train-step", threads=threads, rounds=rounds)
    for name in NETWORKS:
        contestants = [
            Contestant(
                f"{peer}{suffix}", f"{__name__}:prepare", {"network": name, "peer": peer, "tuned": tuned}
            )
            for suffix, tuned in (("", True), ("_plain", False))
            for peer in ("neuromix", "spikingjelly")
        ]
        outcome = contest(contestants, rounds=rounds, threads=threads, on_turn=on_turn)
        found = ratios(outcome, "neuromix")
        neurons = outcome.ratio("spikingjelly_plain", "neuromix_plain")
        if neurons is not None:
            found["spikingjelly_plain_over_neuromix_plain"] = round(neurons, 3)
        result.add(name, outcome, found)
    return result


def prepare(network: str, peer: str, tuned: bool = True) -> Callable[[], None]:
    """A step: forward, backward, AdamW; `tuned` as `neuromix train` does it."""
    name, side, batch, steps = NETWORKS[network]
    torch.manual_seed(0)
    model = create_model(name, time_steps=steps)
    if peer == "spikingjelly":
        with_spikingjelly(model)
    image, label = torch.randn(batch, 3, side, side), torch.arange(batch) % 10
    if tuned:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        image = image.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=tuned)

    def once() -> None:
        optimiser.zero_grad()
        loss = F.cross_entropy(model(image), label)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    return once
