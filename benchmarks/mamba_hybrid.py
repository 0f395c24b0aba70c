"""Phonebook: a hybrid with one attention layer out of eight, and a pure Mamba-2 net of the same size and steps.

    python benchmarks/mamba_hybrid.py --json results/mamba_hybrid.json

A list of names and numbers, each one token, then names whose numbers are asked for. Both nets train on lists of 4, then
of 8, then of 16 entries, by the answers to up to nine questions a list; the last of five is scored, on held-out lists.
"""

from __future__ import annotations

import math

import torch
from ledger import mean_and_spread, parser, report
from torch.nn import functional as F

import neuromix
from neuromix.core import registry
from neuromix.core.config import Spec
from neuromix.core.model import Model
from neuromix.core.state import state_bytes
from neuromix.data.recall.phonebook import ARROW, Phonebook
from neuromix.training.evaluate import evaluate

STAGES = ((4, 300), (8, 300), (16, 500))  # entries of a list, steps
PAIRS = (6, 16, 24)
# Pattern and hidden units of the MLPs, which make up for the difference between the two kinds of layers.
NETS = {"hybrid": ("M-M*M-M-", 64), "pure": ("M-MMM-M-", 41)}
BATCH, RATE = 32, 5e-3


def build(name: str, vocab_size: int, seed: int) -> Model:
    """A net of the pattern, eight layers of width 32."""
    torch.manual_seed(seed)
    pattern, hidden = NETS[name]
    return neuromix.create_model(
        "mamba_hybrid",
        vocab_size=vocab_size,
        dim=32,
        pattern=pattern,
        init_std=0.18,
        mixer=Spec("mamba2", {"d_state": 16, "headdim": 32, "chunk_size": 64}),
        attention=Spec("attention", {"heads": 4, "kv_heads": 2}),
        ffn=Spec("mlp", {"hidden": hidden, "bias": False}),
    )


def phonebook(pairs: int, shots: int) -> dict[str, int]:
    """Options of the task and of its lists."""
    return {"pairs": pairs, "name_tokens": 1, "number_tokens": 1, "shots": shots}


def learn(net: Model, seed: int, quick: bool) -> None:
    """AdamW on what follows each arrow; a warm-up and half a cosine in each stage."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(net.parameters(), betas=(0.9, 0.95), weight_decay=0.01)
    for pairs, steps in STAGES:
        source = Phonebook.from_dict(phonebook(pairs, min(pairs - 1, 8)))
        for step in range(5 if quick else steps):
            for group in optimiser.param_groups:
                group["lr"] = (
                    RATE * min(1, (step + 1) / 50) * (0.55 + 0.45 * math.cos(math.pi * step / steps))
                )
            ids_BL = torch.stack([source.draw(generator).tokens for _ in range(BATCH)])
            asked_BL = ids_BL[:, :-1] == ARROW
            loss = F.cross_entropy(net(ids_BL[:, :-1])[asked_BL], ids_BL[:, 1:][asked_BL])
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()


def scores(net: Model) -> dict[int, float]:
    """Share of right answers in percent, for each length of the list."""
    tasks = {p: registry.build("task", Spec("phonebook", phonebook(p, 4))) for p in PAIRS}
    return {p: 100 * evaluate(net.eval(), task, "test")["accuracy"] for p, task in tasks.items()}


def cache_bytes(net: Model, length: int) -> int:
    """What the state of one sequence weighs after so many tokens."""
    with torch.no_grad():
        _, state = neuromix.stream(net).prefill(torch.zeros(1, length, dtype=torch.int64))
    return state_bytes(state)


def main() -> None:
    options = parser(__doc__).parse_args()
    torch.set_num_threads(min(2, torch.get_num_threads()))
    seeds = 1 if options.quick else options.seeds
    found: dict[str, list[dict[int, float]]] = {name: [] for name in NETS}
    sizes, weights = {}, {}
    vocab_size = Phonebook.from_dict(phonebook(16, 4)).vocab_size
    for name, runs in found.items():
        for seed in range(seeds):
            net = build(name, vocab_size, seed)
            learn(net, seed, options.quick)
            runs.append(scores(net))
        weights[name] = net.num_parameters()
        sizes[name] = [cache_bytes(net, length) for length in (64, 1024)]
    expected = {("hybrid", 16): "90 or more", ("pure", 16): "clearly lower"}
    rows = [
        (
            f"{name}, {pairs} entries",
            f"{mean_and_spread([run[pairs] for run in runs])} %",
            expected.get((name, pairs), "–"),
        )
        for name, runs in found.items()
        for pairs in PAIRS
    ]
    grows = {"pure": "the same", "hybrid": "grows in its attention layer"}
    rows += [
        (
            f"{name}, state after 64 and 1024 tokens",
            " and ".join(f"{n / 1024:.1f} KiB" for n in sizes[name]),
            grows[name],
        )
        for name in NETS
    ]
    rows += [(f"{name}, parameters", f"{weights[name]:,}", "about the same") for name in NETS]
    report(options, ("", "Found", "Expected"), rows, accuracy=found, state_bytes=sizes, parameters=weights)


if __name__ == "__main__":
    main()
