"""Six language models of one million parameters, trained on the bytes of one text with the same number of tokens.

    python benchmarks/language_models.py --data input.txt --json results/language_models.json

Each is trained on windows of 256 bytes by the same optimiser, on one thread. bits per byte are those of the test part,
its last 5 %; tokens a second of generation are of single steps after a context of 256 bytes, one text at a time. The
ledger is written after each model, and a benchmark that was stopped goes on with those that it lacks.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ledger import mean_and_spread, parser, report

from neuromix.core.checkpoint import create_model
from neuromix.core.model import Model
from neuromix.core.state import state_bytes
from neuromix.core.stream import stream
from neuromix.sampling import generate
from neuromix.training.api import train
from neuromix.training.run_folder import RunFolder

# What makes each of them have a million parameters, at most 5 % more or less.
MODELS: Mapping[str, Mapping[str, Any]] = {
    "transformer_nano": {},
    "mamba_nano": {},
    "gla_nano": {"dim": 120},
    "h3_nano": {"dim": 132},
    "spikegpt_nano": {"dim": 132, "layers": 4},
    "mamba_hybrid_nano": {"dim": 112, "tied": True},
}
PARAMETERS, VOCABULARY = 1_000_000, 256
LENGTH, BATCH, RATE = 256, 8, 2e-3
CONTEXTS = (256, 4096)  # tokens after which a state is measured
COLUMNS = (
    "model",
    "parameters",
    "bits per byte",
    "training, tokens/s",
    "training, minutes",
    "generation, tokens/s",
)


def sized(name: str) -> dict[str, Any]:
    """The Config values of a model; it must have the parameters that are asked for."""
    config = {"vocab_size": VOCABULARY, **MODELS[name]}
    with torch.device("meta"):
        count = create_model(name, **config).num_parameters()
    if abs(count / PARAMETERS - 1) > 0.05:
        raise SystemExit(f"{name} has {count} parameters with {config}; wanted are {PARAMETERS} ± 5 %")
    return config


def trained(name: str, data: Path, tokens: int, seed: int, folder: Path) -> tuple[dict[str, float], Model]:
    """What training comes to, and the model."""
    steps = max(1, tokens // (LENGTH * BATCH))
    text = {"data": str(data), "length": LENGTH}
    begin = time.perf_counter()
    done = train(
        name,
        "language-modelling",
        folder / f"{name}-{seed}",
        model_config=sized(name),
        task_config=text,
        epochs=math.ceil(tokens / (0.9 * data.stat().st_size)),
        max_steps=steps,
        batch_size=BATCH,
        lr=RATE,
        seed=seed,
        threads=1,
        device="cpu",
    )
    seconds = time.perf_counter() - begin
    speeds = [record["samples_per_second"] * LENGTH for record in RunFolder(done.run).records()]
    found = {**done.test, "seconds": seconds, "training_tokens_per_second": sum(speeds) / len(speeds)}
    return found, done.model().eval()


@torch.no_grad()
def generating(model: Model, tokens: int, contexts: tuple[int, ...]) -> dict[str, float]:
    """Tokens a second of step mode, and the bytes of the state after contexts."""
    ids_1L = torch.randint(VOCABULARY, (1, contexts[-1]), generator=torch.Generator().manual_seed(0))
    net = stream(model)
    found = {f"state_bytes_{n}": float(state_bytes(net.prefill(ids_1L[:, :n])[1])) for n in contexts}
    moments: list[float] = []
    generate(
        model,
        ids_1L[:, : contexts[0]],
        max_tokens=tokens,
        temperature=0,
        on_token=lambda _: moments.append(time.perf_counter()),
    )
    # The first token comes with the reading of the prompt, and is the start of the time.
    found["generation_tokens_per_second"] = (tokens - 1) / (moments[-1] - moments[0])
    return found


def shortened(data: Path, folder: Path) -> Path:
    """The first 20 000 bytes of a text."""
    short = folder / data.name
    with open(data, "rb") as file:
        short.write_bytes(file.read(20_000))
    return short


def row_of(name: str, runs: list[dict[str, float]], contexts: tuple[int, ...]) -> tuple[str, ...]:
    """A line of the table."""

    def mean(key: str) -> float:
        return sum(run[key] for run in runs) / len(runs)

    return (
        name,
        f"{mean('parameters'):,.0f}",
        mean_and_spread([run["bits_per_byte"] for run in runs], 3),
        f"{mean('training_tokens_per_second'):,.0f}",
        f"{mean('seconds') / 60:.1f}",
        f"{mean('generation_tokens_per_second'):,.0f}",
        *(f"{mean(f'state_bytes_{length}') / 1024:,.0f}" for length in contexts),
    )


def known(options: argparse.Namespace, settings: Mapping[str, Any]) -> dict[str, list[dict[str, float]]]:
    """The models that a ledger of the same settings has already, without those that are to be done again."""
    if options.json is None or not options.json.is_file():
        return {}
    ledger = json.loads(options.json.read_text(encoding="utf-8"))
    models = ledger["models"] if ledger.get("settings") == settings else {}
    again = options.models if options.again else ()
    return {name: runs for name, runs in models.items() if name not in again}


def main() -> None:
    command = parser(__doc__ or "")
    command.set_defaults(seeds=1)
    command.add_argument("--data", type=Path, required=True, help="a text file")
    command.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    command.add_argument("--tokens", type=int, default=1_000_000, help="that each model is trained with")
    command.add_argument("--again", action="store_true", help="also those models that the ledger has already")
    options = command.parse_args()
    tokens = 2 * LENGTH * BATCH if options.quick else options.tokens
    contexts = (16, 64) if options.quick else CONTEXTS
    torch.set_num_threads(1)
    settings = {
        "text": options.data.name,
        "bytes": options.data.stat().st_size,
        "tokens": tokens,
        "length": LENGTH,
        "batch_size": BATCH,
        "lr": RATE,
        "seeds": options.seeds,
        "contexts": list(contexts),
    }
    models = {} if options.quick else known(options, settings)
    columns = (*COLUMNS, *(f"state after {n} tokens, KiB" for n in contexts))

    def write() -> None:
        rows = [row_of(name, models[name], contexts) for name in MODELS if name in models]
        report(options, columns, rows, models=models, settings=settings)

    missing = [name for name in options.models if name not in models]
    for name in missing:
        with tempfile.TemporaryDirectory() as folder:
            runs = []
            for seed in range(options.seeds):
                data = shortened(options.data, Path(folder)) if options.quick else options.data
                found, model = trained(name, data, tokens, seed, Path(folder))
                found |= generating(model, 8 if options.quick else 128, contexts)
                runs.append({"parameters": float(model.num_parameters()), **found})
        models[name] = runs
        write()
    if not missing:  # so that the ledger tells the command that makes all of it
        write()


if __name__ == "__main__":
    main()
