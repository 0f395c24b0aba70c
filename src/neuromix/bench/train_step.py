"""`neuromix bench train-step`: one training step of a whole spiking network, with our neurons and with a peer's.

Everything else - convolutions, batch-norm, optimiser - is the same code, so the difference is the neurons alone.
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
            Contestant(peer, f"{__name__}:prepare", {"network": name, "peer": peer})
            for peer in ("neuromix", "spikingjelly")
        ]
        outcome = contest(contestants, rounds=rounds, threads=threads, on_turn=on_turn)
        result.add(name, outcome, ratios(outcome, "neuromix"))
    return result


def prepare(network: str, peer: str) -> Callable[[], None]:
    """A step: forward, backward, AdamW."""
    name, side, batch, steps = NETWORKS[network]
    torch.manual_seed(0)
    model = create_model(name, time_steps=steps)
    if peer == "spikingjelly":
        with_spikingjelly(model)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    image, label = torch.randn(batch, 3, side, side), torch.arange(batch) % 10

    def once() -> None:
        optimiser.zero_grad()
        loss = F.cross_entropy(model(image), label)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    return once
