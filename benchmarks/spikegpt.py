"""SpikeGPT with two layers on a text, character by character: what it learns, how often it fires, what it costs.

    python benchmarks/spikegpt.py --data input.txt --json results/spikegpt.json

Trains spikegpt_nano for a few minutes and scores it on the last twentieth of the text, beside two figures of bigrams:
what a model with the bigrams of the training part (each counted once more) needs there, and the entropy of the
held-out part's own bigrams, which no bigram model can beat. Then, on held-out text: firing rates; operations as they
are computed, where a LayerNorm before each matrix makes every product a multiplication, and as the paper draws them,
where the spikes themselves go into the matrices; and the model token by token against the whole text at once.
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ledger import mean_and_spread, parser, report
from torch import Tensor

import neuromix
from neuromix.core.config import Spec
from neuromix.core.model import Model
from neuromix.core.state import state_bytes
from neuromix.data.text.dataset import Text, open_text
from neuromix.training.api import train

PICOJOULES = {"mac": 4.6, "ac": 0.9}  # of 32 bits at 45 nm, as in the paper
LENGTH = 128


def bigram_bits(text: Text) -> dict[str, float]:
    """Bits per character on the test part: of the training part's bigrams, and of its own."""
    size = text.tokeniser.vocab_size
    ids = {split: text.tokens(split) for split in ("train", "test")}
    counts = {}
    for split, tokens in ids.items():
        read, _ = tokens.read(0, len(tokens))
        counts[split] = np.bincount(read[:-1] * size + read[1:], minlength=size * size).reshape(size, size)
    test = counts["test"]

    def bits(model: Any) -> float:
        shares = model / np.maximum(model.sum(1, keepdims=True), 1)
        return float(-(test[test > 0] * np.log2(shares[test > 0])).sum() / test.sum())

    return {"bigram_model": bits(counts["train"] + 1.0), "own_bigrams": bits(test)}


def learn(data: Path, seed: int, steps: int, folder: Path) -> tuple[Model, dict[str, float]]:
    """A trained net, its bits per character on the test part, and how long that took."""
    start = time.perf_counter()
    done = train(
        "spikegpt_nano",
        "language-modelling",
        folder / str(seed),
        task_config={"data": str(data), "tokeniser": "characters", "length": LENGTH},
        batch_size=16,
        lr=2e-3,
        weight_decay=0.0,
        max_steps=steps,
        seed=seed,
        threads=1,
    )
    seconds = time.perf_counter() - start
    return done.model().eval(), {"bits": done.test["bits_per_token"], "seconds": seconds}


def held_out(text: Text, rows: int) -> Tensor:
    """Windows of the test part, int64 [rows, LENGTH]."""
    ids, _ = text.tokens("test").read(0, rows * LENGTH)
    return torch.from_numpy(ids).view(rows, LENGTH)


def costs(model: Model, ids_BL: Tensor) -> dict[str, Any]:
    """Firing rates, and operations and energy a token."""
    seen = neuromix.profile(model, ids_BL)
    rates = {neuron.path: neuron.firing_rate for neuron in seen.neurons}
    rates["embedding"] = float(model.step(model.embedding(ids_BL)).mean())
    drawn = {"mac": 0.0, "ac": 0.0}
    for layer in seen.layers:
        rate = rates.get(sender(layer.path))
        drawn["mac" if rate is None else "ac"] += layer.macs_dense / LENGTH * (1.0 if rate is None else rate)
    computed = {kind: seen.operations.get(f"{kind}32", 0.0) / LENGTH for kind in ("mac", "ac")}
    energy = {
        name: sum(PICOJOULES[kind] * number for kind, number in operations.items()) / 1e3
        for name, operations in (("computed", computed), ("drawn", drawn))
    }
    return {"rates": rates, "computed": computed, "drawn": drawn, "nanojoules": energy}


def sender(path: str) -> str:
    """The spikes that the paper draws into a matrix; "" where real numbers go in."""
    found = re.fullmatch(r"blocks\.(\d+)\.(time|channel)\..*\.(key|value|receptance)", path)
    if found is None or found.groups()[1:] == ("channel", "value"):
        return ""
    block, part = int(found[1]), found[2]
    if part == "channel":
        return f"blocks.{block}.time.branch.neuron.neuron"
    return f"blocks.{block - 1}.channel.branch.neuron.neuron" if block else "embedding"


def streaming(model: Model, ids_BL: Tensor) -> dict[str, float]:
    """The largest difference of logits token by token, bytes of the state, and tokens a second."""
    net, sizes = neuromix.stream(model), []
    with torch.no_grad():
        for length in (64, 1024):
            _, state = net.prefill(ids_BL.view(1, -1)[:, :length])
            sizes.append(state_bytes(state))
        session, start = net.session(), time.perf_counter()
        stepped = torch.stack([session.step(ids_B) for ids_B in ids_BL[:1].unbind(1)], 1)
        seconds = time.perf_counter() - start
        exact = neuromix.stream(model.double()).session()
        double = torch.stack([exact.step(ids_B) for ids_B in ids_BL[:1].unbind(1)], 1)
        difference = float((double - model(ids_BL[:1])).abs().max())
        float32 = float((stepped.double() - double).abs().max())
        model.float()
    return {
        "difference": difference,
        "difference_of_float32": float32,
        "state_64": sizes[0],
        "state_1024": sizes[1],
        "tokens_per_second": ids_BL.shape[1] / seconds,
    }


def table(runs: list[dict[str, Any]], bigrams: dict[str, float]) -> list[tuple[str, str, str]]:
    """What was found beside what was expected."""

    def every(*path: str, scale: float = 1.0, digits: int = 2) -> str:
        values = []
        for run in runs:
            for key in path:
                run = run[key]
            values.append(scale * float(run))  # type: ignore[arg-type]
        return mean_and_spread(values, digits)

    rates = [
        (f"Firing rate, {name.replace('.branch.neuron.neuron', '')}", f"{every('costs', 'rates', name)}", "–")
        for name in runs[0]["costs"]["rates"]
    ]
    limit = f"below {bigrams['own_bigrams']:.2f}"
    return [
        ("spikegpt_nano, bits per character on held-out text", every("bits"), limit),
        ("Model of the training part's bigrams", f"{bigrams['bigram_model']:.2f}", "–"),
        ("Entropy of the held-out bigrams", f"{bigrams['own_bigrams']:.2f}", "–"),
        ("Training and test, seconds", every("seconds", digits=0), "below 300"),
        *rates,
        ("As computed, a token: multiply-adds", every("costs", "computed", "mac", digits=0), "–"),
        ("As computed: additions", every("costs", "computed", "ac", digits=0), "–"),
        ("As computed: energy, nJ", every("costs", "nanojoules", "computed", digits=0), "–"),
        ("As drawn, a token: additions", every("costs", "drawn", "ac", digits=0), "–"),
        ("As drawn: multiply-adds that are left", every("costs", "drawn", "mac", digits=0), "–"),
        ("As drawn: energy, nJ", every("costs", "nanojoules", "drawn", digits=0), "–"),
        (
            "Token by token, float64: largest difference of a logit",
            f"{max(r['streaming']['difference'] for r in runs):.1g}",
            "at most 1e-06",
        ),
        ("State of a sequence after 64 tokens, bytes", f"{runs[0]['streaming']['state_64']:,}", "7,168"),
        ("State after 1024 tokens, bytes", f"{runs[0]['streaming']['state_1024']:,}", "7,168"),
        ("Tokens a second, one by one", every("streaming", "tokens_per_second", digits=0), "–"),
    ]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--data", type=Path, required=True, help="a text file")
    options.add_argument("--steps", type=int, default=400)
    options.set_defaults(seeds=1)
    args = options.parse_args()
    sys.argv = [Path(text).name if Path(text) == args.data else text for text in sys.argv]
    torch.set_num_threads(1)
    text = open_text(args.data, Spec("characters"))
    bigrams, runs = bigram_bits(text), []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(args.seeds):
            model, run = learn(args.data, seed, 4 if args.quick else args.steps, Path(folder))
            ids_BL = held_out(text, 8)
            with torch.no_grad():
                runs.append({**run, "costs": costs(model, ids_BL), "streaming": streaming(model, ids_BL)})
    report(
        args,
        ("Figure", "Found", "Expected"),
        table(runs, bigrams),
        runs=runs,
        bigrams=bigrams,
        data=args.data.name,
    )


if __name__ == "__main__":
    main()
