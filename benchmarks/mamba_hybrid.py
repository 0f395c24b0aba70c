"""Phonebook: a hybrid with one attention layer out of eight, and a pure Mamba-2 net of the same size and steps.

    python benchmarks/mamba_hybrid.py --json results/mamba_hybrid.json

A list of names and numbers, each one token, then names whose numbers are asked for. The nets train on lists of 8, then
of 16 entries, by the answers to questions for all of them; the last of five is scored, on held-out lists. A third net,
pure with states four times as large, tells whether these are what the pure one lacks. On one thread a seed takes some
five minutes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

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

STAGES = ((8, 350), (16, 250))  # entries of a list, steps
PAIRS = (5, 8, 16, 24)
# Pattern, and numbers of a state for each channel.
NETS = {"hybrid": ("M-M*M-M-", 8), "pure": ("M-MMM-M-", 8), "pure, larger states": ("M-MMM-M-", 32)}
BATCH, RATE, WARM_UP = 32, 3e-3, 50


def build(name: str, vocab_size: int, seed: int) -> Model:
    """A net of the pattern, eight layers of width 32.

    Two heads of attention, each as wide as the net. The embedding starts about as large as what the layers add to it:
    from 0.02 on, one of three seeds learnt far more slowly.
    """
    torch.manual_seed(seed)
    pattern, d_state = NETS[name]
    net = neuromix.create_model(
        "mamba_hybrid",
        vocab_size=vocab_size,
        dim=32,
        pattern=pattern,
        init_std=0.18,
        mixer=Spec("mamba2", {"d_state": d_state, "headdim": 32, "chunk_size": 32}),
        attention=Spec("attention", {"heads": 2, "head_dim": 32}),
        ffn=Spec("mlp", {"hidden": 64, "bias": False}),
    )
    torch.nn.init.normal_(net.get_submodule("embedding").weight, std=0.5)
    return net


def phonebook(pairs: int, shots: int) -> dict[str, int]:
    """Options of the task and of its lists."""
    return {"pairs": pairs, "name_tokens": 1, "number_tokens": 1, "shots": shots}


def learn(net: Model, seed: int, stages: Iterable[tuple[int, int]]) -> None:
    """AdamW on what follows each arrow; a warm-up, and half a cosine down to a tenth of the rate.

    Stages are pairs: entries of a list, steps.
    """
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(net.parameters(), betas=(0.9, 0.95), weight_decay=0.01)
    lengths = [pairs for pairs, steps in stages for _ in range(steps)]
    for step, pairs in enumerate(lengths):
        cosine = math.cos(math.pi * step / len(lengths))
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / WARM_UP) * (0.55 + 0.45 * cosine)
        source = Phonebook.from_dict(phonebook(pairs, pairs - 1))
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
            learn(net, seed, [(pairs, 2 if options.quick else steps) for pairs, steps in STAGES])
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
    rows += [
        (
            f"{name}, state after 64 and 1024 tokens",
            " and ".join(f"{n / 1024:.1f} KiB" for n in sizes[name]),
            "grows in its attention layer" if "*" in NETS[name][0] else "the same",
        )
        for name in NETS
    ]
    larger = "more, by the larger states"
    rows += [
        (f"{name}, parameters", f"{weights[name]:,}", larger if NETS[name][1] > 8 else "about the same")
        for name in NETS
    ]
    report(options, ("", "Found", "Expected"), rows, accuracy=found, state_bytes=sizes, parameters=weights)


if __name__ == "__main__":
    main()
