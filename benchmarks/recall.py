"""What four models of equal size remember: a number of a phonebook, and what followed a special token.

    python benchmarks/recall.py --json results/recall.json

About 100 000 parameters each, the same sequences and the same steps of the same optimiser, on one thread. Phonebook: a
list of names and numbers, then names that are asked for; trained on lists of 8 as `mamba_hybrid.py` does it, by the
answers to questions for all of them, and scored by the last of five, for lists of 8 and of 16. Induction heads: trained
on 32 tokens, scored on 32 and on 256. Accuracies are of held-out sequences all of whose answer is right. The ledger is
written after each model, so that one that was stopped holds what was done.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from ledger import mean_and_spread, parser, report
from mamba_hybrid import learn, phonebook, scores

from neuromix.core.checkpoint import create_model
from neuromix.data.recall.phonebook import Phonebook
from neuromix.training.api import evaluate_run, train

PARAMETERS = 100_000
VOCABULARY = Phonebook.from_dict(phonebook(16, 4)).vocab_size
_MAMBA2 = ["mamba2", {"d_state": 32, "headdim": 16}]
MODELS: Mapping[str, Mapping[str, Any]] = {
    "mamba_nano": {"dim": 64, "layers": 3},
    "mamba2_nano": {"dim": 64, "layers": 3, "mixer": _MAMBA2},
    "mamba_hybrid_nano": {
        "dim": 64,
        "pattern": "MM*-",
        "tied": True,
        "mixer": _MAMBA2,
        "attention": ["attention", {"heads": 2}],
        "init_std": 0.125,
        "ffn": ["mlp", {"ratio": 2.0, "bias": False}],
    },
    "transformer_nano": {"dim": 64, "layers": 2, "attention": ["attention", {"heads": 2, "rotary": 16}]},
}


class Trial(NamedTuple):
    """A task, its options, those that make it harder, and how a model is trained and scored."""

    task: str
    options: Mapping[str, Any]
    harder: Mapping[str, Any]
    steps: int
    score: Callable[[str, Trial, int, bool], dict[str, float]]


BATCH, RATE, HELD_OUT = 64, 5e-3, 500  # of tasks that are trained as the library does it


def by_answers(name: str, trial: Trial, seed: int, quick: bool) -> dict[str, float]:
    """As `by_task`, for the phonebook: every question of a list counts in training."""
    torch.manual_seed(seed)
    net = create_model(name, vocab_size=VOCABULARY, **MODELS[name])
    begin = time.perf_counter()
    learn(net, seed, [(trial.options["pairs"], 2 if quick else trial.steps)])
    seconds = time.perf_counter() - begin
    found = scores(net)
    trained, harder = (found[options["pairs"]] for options in (trial.options, trial.harder))
    return {"trained": trained, "harder": harder, "seconds": seconds}


def by_task(name: str, trial: Trial, seed: int, quick: bool) -> dict[str, float]:
    """Test accuracies in percent, as trained and harder, and the seconds that training took."""
    steps, held_out = (2, 8) if quick else (trial.steps, HELD_OUT)
    options = {**trial.options, "samples": steps * BATCH, "held_out": held_out}
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        done = train(
            name,
            trial.task,
            Path(folder) / "run",
            model_config=MODELS[name],
            task_config=options,
            epochs=1,
            batch_size=BATCH,
            lr=RATE,
            weight_decay=0.0,
            seed=seed,
            threads=1,
            device="cpu",
        )
        seconds = time.perf_counter() - begin
        harder = evaluate_run(done.run, task_config=trial.harder).scores
    return {"trained": 100 * done.test["accuracy"], "harder": 100 * harder["accuracy"], "seconds": seconds}


TRIALS = (
    Trial("phonebook", {"pairs": 8}, {"pairs": 16}, 400, by_answers),
    Trial("induction-heads", {"length": 32}, {"length": 256}, 300, by_task),
)


def parameters(name: str) -> int:
    """Those of a model, with the vocabulary of the phonebook; they must be as many as are asked for."""
    with torch.device("meta"):
        count = create_model(name, vocab_size=VOCABULARY, **MODELS[name]).num_parameters()
    if abs(count / PARAMETERS - 1) > 0.1:
        raise SystemExit(f"{name} has {count} parameters; wanted are {PARAMETERS} ± 10 %")
    return count


def main() -> None:
    command = parser(__doc__ or "")
    command.set_defaults(seeds=1)
    command.add_argument("--steps", type=float, default=1.0, help="so many times the steps of each task")
    command.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    options = command.parse_args()
    torch.set_num_threads(1)
    trials = [trial._replace(steps=round(options.steps * trial.steps)) for trial in TRIALS]
    seeds = range(1 if options.quick else options.seeds)
    counts = {name: parameters(name) for name in options.models}
    columns = ["model", "parameters"]
    for trial in trials:
        ((key, longer),) = trial.harder.items()
        columns += [f"{trial.task}, {value} {key} (%)" for value in (trial.options[key], longer)]
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    rows = []
    for name, count in counts.items():
        found[name] = {t.task: [t.score(name, t, seed, options.quick) for seed in seeds] for t in trials}
        scores = [
            mean_and_spread([run[kind] for run in runs])
            for runs in found[name].values()
            for kind in ("trained", "harder")
        ]
        rows.append((name, f"{count:,}", *scores))
        settings = {trial.task: {**trial.options, "steps": trial.steps} for trial in trials}
        report(options, columns, rows, models=found, settings=settings)


if __name__ == "__main__":
    main()
