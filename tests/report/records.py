"""Made-up records of comparisons, of any size, as `comparison.json` holds them."""

from __future__ import annotations

import json
import random
import statistics
from typing import Any

from neuromix.compare.statistics import ranks, summary

NAMES = (
    "meta_spikeformer_nano",
    "poolformer_nano",
    "spikformer_nano",
    "s4_tiny",
    "qkformer_tiny",
    "convmixer_nano",
    "spike_driven_transformer_v2_tiny",
    "mamba_tiny",
    "sew_resnet_small",
    "mlp_mixer_nano",
    "spikingformer_tiny",
    "fnet_tiny",
)
FAMILIES = ("spiking", "pooling", "spiking", "state-space", "spiking", "convolutional")
CLASSES = [str(digit) for digit in range(10)]
ENERGIES = ("45nm", "7nm")
PICOJOULES = {"45nm": (4.6, 0.9), "7nm": (1.31, 0.38)}  # of a multiply-accumulate and an addition
LAYERS = tuple(
    f"stages.{stage}.blocks.{block}.{part}.branch.{layer}"
    for stage in range(3)
    for block in range(2)
    for part, layer in (("mixer", "query"), ("mixer", "project"), ("channel_mixer", "expand"))
)


def record(
    models: int = 3,
    seeds: int = 3,
    failures: int = 0,
    *,
    names: tuple[str, ...] = NAMES,
    score: str = "accuracy",
    energy_models: tuple[str, ...] = ENERGIES,
    epochs: int = 20,
    **changes: Any,
) -> dict[str, Any]:
    """A record with `failures` runs that failed: the last seed of the last model, then of the one before, ...

    Args:
        changes: keys of the record with other values.
    """
    chance = random.Random(models + 100 * seeds)
    wanted = list(range(seeds))
    shown = [
        _model(names[number], number, wanted, score, energy_models, epochs, chance)
        for number in range(models)
    ]
    for number in range(failures):
        run = shown[models - 1 - number % models]["runs"][seeds - 1 - number // models]
        error = "ShapeError: the model takes 3 channels, the data have 1"
        keep = {key: run[key] for key in ("seed", "folder", "command")}
        run.clear()
        run.update(status="failed", error=error, **keep)
    for model in shown:
        model["summary"] = _summary(model["runs"], score, energy_models)
    differences = _differences(shown, score)
    better: dict[str, list[str]] = {model["name"]: [] for model in shown}
    for pair in differences:
        if pair["significant"]:
            a_wins = (pair["difference"] > 0) == (score == "accuracy")
            winner, loser = (pair["a"], pair["b"]) if a_wins else (pair["b"], pair["a"])
            better[loser].append(winner)
    scored = [model["name"] for model in shown if model["summary"][score]["n"]]
    rank = ranks(scored, better)
    for model in shown:
        model["rank"] = rank.get(model["name"])
    made: dict[str, Any] = {
        "command": f"neuromix compare --task digits --models {','.join(names[:models])} --seeds {seeds}",
        "environment": {
            "neuromix": "0.1.0",
            "torch": "2.13.0",
            "python": "3.12.4",
            "machine": "x86_64",
            "processor": "a processor",
            "threads": "1",
        },
        "task": "digits",
        "data": None,
        "score": score,
        "higher_is_better": score == "accuracy",
        "class_names": CLASSES,
        "budget": {"epochs": epochs},
        "seeds": wanted,
        "energy_models": {
            name: {
                "source": f"A paper on {name}, 2014",
                "notes": "Arithmetic alone.",
                "picojoules": dict(zip(("mac32", "ac32"), PICOJOULES.get(name, (4.6, 0.9)), strict=True)),
            }
            for name in energy_models
        },
        "models": shown,
        "differences": differences,
        "page": "index.html",
        **changes,
    }
    assert json.loads(json.dumps(made, allow_nan=False)) == made, "plain JSON"
    return made


def _model(
    name: str,
    number: int,
    seeds: list[int],
    score: str,
    energy_models: tuple[str, ...],
    epochs: int,
    chance: random.Random,
) -> dict[str, Any]:
    family = FAMILIES[number % len(FAMILIES)]
    runs = [
        _run(name, number, family == "spiking", seed, score, energy_models, epochs, chance) for seed in seeds
    ]
    config = {"time_steps": 4} if family == "spiking" else {}
    return {"name": name, "config": config, "family": family, "runs": runs, "over_budget": False}


def _run(
    name: str,
    number: int,
    spiking: bool,
    seed: int,
    score: str,
    energy_models: tuple[str, ...],
    epochs: int,
    chance: random.Random,
) -> dict[str, Any]:
    level = 0.985 - 0.012 * (number // 2) + chance.gauss(0, 0.002)
    level = level if score == "accuracy" else 1.2 - level
    scale = 1.0 + 0.9 * ((number * 7) % 12)
    rate = max(0.02, 0.14 + chance.gauss(0, 0.01)) if spiking else None
    macs = int(1_526_208 * scale) * (4 if spiking else 1)
    latency = 0.0019 * scale * (2.5 if spiking else 1.0) * chance.uniform(0.98, 1.02)
    layers = [_layer(path, macs / len(LAYERS), spiking, energy_models, chance) for path in LAYERS]
    return {
        "seed": seed,
        "status": "done",
        "error": None,
        "folder": f"runs/{name}/seed{seed}",
        "command": f"neuromix train --task digits --model {name} --epochs {epochs} --seed {seed}",
        "test": {score: level},
        "validation": {score: level},
        "train_seconds": 33.0 * scale,
        "epochs": epochs,
        "curve": _curve(epochs, level, score, chance),
        "parameters": int(226_258 * scale**0.7),
        "macs_dense": macs,
        "synaptic_operations": macs * rate if rate else 0.0,
        "firing_rate": rate,
        "energy": {name: sum(layer["energy"][name] for layer in layers) for name in energy_models},
        "latency": {
            "median": latency,
            "low": 0.95 * latency,
            "high": 1.12 * latency,
            "batch_size": 1,
            "threads": 1,
            "warm_up": 5,
            "runs": 30,
        },
        "throughput": 1.6 / latency,
        "peak_memory": int(1_300_000 * scale),
        "layers": layers,
        "neurons": _neurons(chance) if spiking else [],
        "not_counted": {},
        "confusion": _confusion(level if score == "accuracy" else 0.95, chance),
        "raster": _raster(chance) if spiking else None,
    }


def _layer(
    path: str, macs: float, spiking: bool, energy_models: tuple[str, ...], chance: random.Random
) -> dict[str, Any]:
    macs *= chance.uniform(0.3, 2.0)
    rate = chance.uniform(0.05, 0.25) if spiking else None
    costs = {name: PICOJOULES.get(name, (4.6, 0.9)) for name in energy_models}
    return {
        "path": path,
        "type": "Conv2d",
        "macs_dense": macs,
        "synaptic_operations": macs * rate if rate else 0.0,
        "firing_rate": rate,
        "energy": {
            name: 1e-9 * macs * (rate * add if rate else multiply) for name, (multiply, add) in costs.items()
        },
    }


def _neurons(chance: random.Random) -> list[dict[str, Any]]:
    return [
        {"path": f"{path}.neuron", "type": "LIF", "elements": 512, "firing_rate": chance.uniform(0.03, 0.3)}
        for path in LAYERS
    ]


def _curve(epochs: int, level: float, score: str, chance: random.Random) -> dict[str, Any]:
    steps = list(range(1, epochs + 1))
    gap = [0.6 * 0.75**step + abs(chance.gauss(0, 0.01)) for step in steps]
    sign = 1 if score == "accuracy" else -1
    return {
        "epoch": steps,
        "loss": [0.05 + 3 * one for one in gap],
        "score": [level - sign * one for one in gap],
    }


def _confusion(level: float, chance: random.Random) -> list[list[int]]:
    counts = [[0] * len(CLASSES) for _ in CLASSES]
    for row in range(len(CLASSES)):
        for _ in range(36):
            counts[row][row if chance.random() < level else chance.randrange(len(CLASSES))] += 1
    return counts


def _raster(chance: random.Random) -> dict[str, Any]:
    trains = [
        {
            "name": name,
            "neurons": 512,
            "spikes": [[int(chance.random() < 0.2) for _ in range(96)] for _ in range(4)],
        }
        for name in ("stage 0", "stage 1", "stage 2", "head")
    ]
    return {"label": "7", "predictions": ["1", "7", "7", "7"], "trains": trains}


def _summary(runs: list[dict[str, Any]], score: str, energy_models: tuple[str, ...]) -> dict[str, Any]:
    done = [run for run in runs if run["status"] == "done"]
    keys = (
        "throughput",
        "peak_memory",
        "parameters",
        "macs_dense",
        "synaptic_operations",
        "firing_rate",
        "train_seconds",
    )
    return {
        score: summary([run["test"][score] for run in done]),
        **{f"energy {name}": summary([run["energy"][name] for run in done]) for name in energy_models},
        "latency": summary([run["latency"]["median"] for run in done]),
        **{key: summary([run[key] for run in done]) for key in keys},
    }


def _differences(models: list[dict[str, Any]], score: str) -> list[dict[str, Any]]:
    """Every pair; a difference of more than twice its deviation counts here, where there are several seeds."""
    found = []
    for place, a in enumerate(models):
        for b in models[place + 1 :]:
            pairs = [
                (x["test"][score], y["test"][score])
                for x, y in zip(a["runs"], b["runs"], strict=True)
                if x["status"] == y["status"] == "done"
            ]
            if not pairs:
                continue
            values = [x - y for x, y in pairs]
            mean, several = statistics.mean(values), len(values) > 1
            half = 2 * statistics.stdev(values) if several else 0.0
            significant = several and abs(mean) > half
            found.append(
                {
                    "a": a["name"],
                    "b": b["name"],
                    "difference": mean,
                    "low": mean - half if several else None,
                    "high": mean + half if several else None,
                    "p_seeds": (0.01 if significant else 0.4) if several else None,
                    "p_samples": 0.003 if significant else 0.2,
                    "significant": significant,
                }
            )
    return found
