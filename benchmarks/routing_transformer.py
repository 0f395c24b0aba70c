"""Memory of routing attention, and what clusters of content are good for: copying from beyond the local window.

    python benchmarks/routing_transformer.py --json results/routing_transformer.json

Memory: the most bytes of tensors in one training step of routing heads alone (2 heads of 32 numbers, one row) with
sqrt(T) clusters of sqrt(T) tokens; the slope is that of log bytes over log T.
Copying: a row is a random text of 32 letters, twice; what is scored is the second time. Local heads see at most 16
letters back. Both nets have the same widths; local heads have keys of their own, so that the net of local heads alone
has 4 % more parameters.
Empty clusters: the share that no token of 32 new rows is nearest to, after training.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from ledger import mean_and_spread, parser, report
from torch import Tensor, nn
from torch.nn import functional as F

import neuromix
from neuromix.core.model import Model
from neuromix.core.observe import record
from neuromix.measure.memory import training_memory
from neuromix.mixers.routing_attention import RoutingAttention
from neuromix.mixers.routing_heads import RoutingHeads, RoutingHeadsConfig
from neuromix.mixers.sequence import Tokens
from neuromix.training.auxiliary import AuxiliaryLosses

LENGTHS = (1024, 2048, 4096, 8192)
LETTERS, HALF = 16, 32
NET = {
    "vocab_size": LETTERS, "dim": 64, "depth": 3, "heads": 4, "max_length": 2 * HALF, "window": 8, "look_back": 1,
    "strict": True, "decay": 0.99,
}  # fmt: skip
NETS: dict[str, dict[str, Any]] = {
    "local heads alone": {"local_heads": (4,)},
    "local and routing heads": {"local_heads": (2,)},
}


class Heads(nn.Module):
    """Routing heads as a net of one input [1, T, 2, K]."""

    def __init__(self, length: int, strict: bool) -> None:
        super().__init__()
        side = round(math.sqrt(length))
        self.heads = RoutingHeads(RoutingHeadsConfig(clusters=side, window=side, strict=strict), 2, 32)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x_BLHK: Tensor) -> Tensor:
        x_BLHK = x_BLHK * self.scale
        if not self.heads.config.strict:
            y: Tensor = self.heads(x_BLHK, None, x_BLHK)
            return y
        count_B = torch.zeros(len(x_BLHK), dtype=torch.int64)
        return self.heads.go_on(x_BLHK, x_BLHK, None, count_B, Tokens())[0]


class Dense(nn.Module):
    """Softmax attention by its formula."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x_BLHK: Tensor) -> Tensor:
        x_BHLK = (x_BLHK * self.scale).transpose(1, 2)
        return (x_BHLK @ x_BHLK.mT).softmax(-1) @ x_BHLK


def memory(lengths: tuple[int, ...]) -> dict[str, dict[int, int]]:
    """Peak bytes of a training step by form and length."""
    found: dict[str, dict[int, int]] = {"as published": {}, "strict": {}, "dense": {}}
    for length in lengths:
        x = torch.randn(1, length, 2, 32)
        found["as published"][length] = training_memory(Heads(length, False), x)
        found["strict"][length] = training_memory(Heads(length, True), x)
        if length <= 2048:
            found["dense"][length] = training_memory(Dense(), x)
    return found


def slope(by_length: dict[int, int]) -> float:
    """Slope of log bytes over log length, by least squares."""
    x, y = (torch.tensor(list(v), dtype=torch.float64).log() for v in (by_length.keys(), by_length.values()))
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


def rows(number: int, generator: torch.Generator) -> Tensor:
    return torch.randint(LETTERS, (number, HALF), generator=generator).repeat(1, 2)


def copied(options: dict[str, Any], steps: int, seed: int) -> dict[str, float]:
    """Trains a net to copy; its accuracy on the second half of new rows, its size, and empty clusters."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = neuromix.create_model("routing_transformer", **{**NET, **options})
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    for _ in range(steps):
        ids = rows(32, generator)
        with AuxiliaryLosses(model) as auxiliary:
            logits = model(ids[:, :-1])
        loss = F.cross_entropy(logits[:, HALF - 1 :].flatten(0, 1), ids[:, HALF:].flatten())
        optimiser.zero_grad()
        (loss + sum(auxiliary.losses().values())).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        model.after_step()
    return tested(model.eval(), generator)


@torch.no_grad()
def tested(model: Model, generator: torch.Generator) -> dict[str, float]:
    ids = rows(32, generator)
    with record(model, "clusters") as seen:
        logits = model(ids[:, :-1])
    right = (logits[:, HALF:].argmax(-1) == ids[:, HALF + 1 :]).double().mean()
    found = {"accuracy": 100 * float(right), "parameters": float(model.num_parameters())}
    if any(isinstance(m, RoutingAttention) and m.routing is not None for m in model.modules()):
        clusters = NET["max_length"] // NET["window"]
        empty = [
            1 - len(head.unique()) / clusters for (nearest,) in seen.values() for head in nearest.unbind(1)
        ]
        found["empty"] = 100 * sum(empty) / len(empty)
    return found


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--steps", type=int, default=800)
    args = options.parse_args()
    lengths, steps = (LENGTHS[:2], 5) if args.quick else (LENGTHS, args.steps)
    peaks = memory(lengths)
    runs = {
        name: [copied(values, steps, seed) for seed in range(args.seeds)] for name, values in NETS.items()
    }
    table = [
        (
            f"memory slope, {name}",
            f"{slope(by_length):.2f}",
            "at most 1.6" if name != "dense" else "2 by the formula",
        )
        for name, by_length in peaks.items()
    ]
    for name, each in runs.items():
        size = f"{each[0]['parameters']:,.0f} parameters"
        accuracy = mean_and_spread([run["accuracy"] for run in each])
        table.append((f"copying, {name} ({size})", f"{accuracy} %", f"chance: {100 / LETTERS:.1f} %"))
    empty = mean_and_spread([run["empty"] for run in runs["local and routing heads"]])
    table.append(("empty clusters after training", f"{empty} %", "at most 10 %"))
    report(args, ("Measure", "Found", "Expected"), table, peaks=peaks, runs=runs, steps=steps)


if __name__ == "__main__":
    main()
