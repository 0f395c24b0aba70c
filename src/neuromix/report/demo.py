"""run_demo: trains a spiking network and its analog twin on handwritten digits, measures both, and reports."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from neuromix.core import registry
from neuromix.core.batch import Batch
from neuromix.core.errors import RunError
from neuromix.core.files import write_json, write_text
from neuromix.core.model import Model
from neuromix.measure.energy import energy_models
from neuromix.measure.profile import Profile, profile
from neuromix.measure.rules import CountingRule, counting_rule
from neuromix.measure.spikes import SpikeTrain, last_of_each_stage, recorded_spikes, spike_trains, stage
from neuromix.report.demo_page import Shown, demo_page
from neuromix.report.deployed import Deployment, deploy
from neuromix.report.measured import Curve, Measured
from neuromix.report.page import render, require_extra
from neuromix.runtime.session import has_engine
from neuromix.training.api import RunResult, train
from neuromix.training.observer import Observer
from neuromix.training.run_folder import ENVIRONMENT, RunFolder
from neuromix.training.task import Task

MODELS: Mapping[str, str] = {"spiking": "meta_spikeformer_nano", "analog": "poolformer_nano"}
TASK = "digits"
FIGURES, PAGE = "demo.json", "report.html"
ENERGY = "45nm"  # the energy model of the papers
EPOCHS = 25
# Averaged weights, for the few validation images tell the last epochs apart by chance.
TRAINING: Mapping[str, Any] = {"ema": 0.98}


# Counting rules: as the network was trained; after its exact fusion, as it would be run; as the paper counts.
RULES: Mapping[str, CountingRule] = {
    "exact": counting_rule("exact"),
    "fused": counting_rule("exact").replace(structure="fused"),
    "paper": counting_rule("paper"),
}


@dataclass(frozen=True)
class Twin:
    """One of the two networks, trained and measured."""

    result: RunResult
    model: Model
    profiles: Mapping[str, Profile]  # by counting rule
    seconds: float

    def figures(self) -> dict[str, Any]:
        """What demo.json says of it; names and units are those of `neuromix profile`, counted exactly."""
        exact = self.profiles["exact"]
        others = {
            rule: {"synaptic_operations": profile.synaptic_operations, "energy": dict(profile.energy)}
            for rule, profile in self.profiles.items()
            if rule != "exact"
        }
        return {
            "model": self.model.name,
            "accuracy": self.result.test["accuracy"],
            "parameters": exact.parameters,
            "macs_dense": exact.macs_dense,
            "synaptic_operations": exact.synaptic_operations,
            "firing_rate": exact.firing_rate,
            "energy": dict(exact.energy),
            **others,
            "seconds": round(self.seconds, 1),
            "run": str(self.result.run),
        }

    def measured(self, role: str) -> Measured:
        """The same for the page."""
        exact = self.profiles["exact"]
        return Measured(
            model=self.model.name,
            role=role,
            accuracy=self.result.test["accuracy"],
            parameters=exact.parameters,
            macs_dense=exact.macs_dense,
            synaptic_operations={rule: p.synaptic_operations for rule, p in self.profiles.items()},
            firing_rate=exact.firing_rate,
            energy={rule: p.energy[ENERGY] for rule, p in self.profiles.items()},
            multiplying={rule: _multiplying(p) for rule, p in self.profiles.items()},
            seconds=self.seconds,
            curve=_curve(self.result.run),
            layers={neuron.path: neuron.firing_rate for neuron in exact.neurons},
        )


class Demo(NamedTuple):
    """A finished demo.

    Attributes:
        record: what demo.json holds: `spiking`, `analog`, `runtime`, `report`, `command`, `environment`.
        models: the figures of both networks.
        deployment: the spiking one in the event-driven engine; None where the engine is not installed.
    """

    record: dict[str, Any]
    models: tuple[Measured, Measured]
    deployment: Deployment | None


def run_demo(
    out: str | Path,
    *,
    epochs: int = EPOCHS,
    seed: int = 0,
    time_steps: int = 4,
    overwrite: bool = False,
    observer: Observer | None = None,
) -> Demo:
    """Trains and measures both networks, deploys the spiking one, and writes runs, programs and report under `out`.

    Args:
        epochs: of each network.
        time_steps: of the spiking network, >= 1.
        overwrite: put this demo in the place of the one in `out`.
        observer: is told how the trainings go.

    Raises:
        MissingExtraError: the page cannot be made.
        RunError: `out` holds a demo already, or cannot be written.
        ConfigError: a number out of its range.
    """
    require_extra()
    out = Path(out)
    _require_free(out, overwrite)
    configs: dict[str, dict[str, Any]] = {"spiking": {"time_steps": time_steps}, "analog": {}}
    for role, config in configs.items():  # a wrong number is told before anything is trained
        registry.find("model", MODELS[role])[1].replace(**config)
    task: Task = registry.build("task", TASK)
    test = _all_of(task, "test")
    twins = {}
    for role, config in configs.items():
        begin = time.perf_counter()
        result = train(
            MODELS[role],
            TASK,
            out / role,
            model_config=config,
            overwrite=overwrite,
            observer=observer,
            epochs=epochs,
            seed=seed,
            **TRAINING,
        )
        twins[role] = _measure(result, test, time.perf_counter() - begin)
    options = {"out": out, "epochs": epochs, "seed": seed, "time-steps": time_steps}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = shlex.join(["neuromix", "demo", *words])
    environment = _environment(twins["spiking"].result.run)
    spiking, analog = twins["spiking"].measured("Spiking"), twins["analog"].measured("Analog")
    deployment = _deployed(twins["spiking"].model, task, test, out)
    page = demo_page(
        spiking,
        analog,
        _shown(twins["spiking"].model, task),
        deployment,
        time_steps=time_steps,
        command=command,
        environment=environment,
        prices=energy_models()[ENERGY].picojoules,
    )
    write_text(out / PAGE, render(page))
    record: dict[str, Any] = {role: twin.figures() for role, twin in twins.items()}
    record |= {"runtime": None if deployment is None else deployment.to_dict()}
    record |= {"report": str(out / PAGE), "command": command, "environment": environment}
    write_json(out / FIGURES, record)
    return Demo(record, (spiking, analog), deployment)


def _deployed(model: Model, task: Task, test: Batch, out: Path) -> Deployment | None:
    if not has_engine():
        return None
    return deploy(model, task, test.tensor("image"), test.tensor("label"), out)


def _measure(result: RunResult, test: Batch, seconds: float) -> Twin:
    model = result.model().eval()
    return Twin(result, model, {name: profile(model, test, rule) for name, rule in RULES.items()}, seconds)


def _require_free(out: Path, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise RunError(f"{out} is a file; a demo needs a folder")
    ours = (FIGURES, PAGE, *MODELS)
    if not overwrite and any((out / name).exists() for name in ours):
        raise RunError(f"{out} already holds a demo; --overwrite replaces it, or give another --out")


def _all_of(task: Task, split: str) -> Batch:
    data = task.data(split)
    chance = torch.Generator().manual_seed(0)
    return task.collate([data.sample(index, chance) for index in range(len(data))])


def _multiplying(measured: Profile) -> float:
    """mJ that multiply-accumulates take."""
    price = energy_models()[ENERGY].picojoules
    return 1e-9 * sum(
        number * price[name] for name, number in measured.operations.items() if name.startswith("mac")
    )


def _curve(run: Path) -> Curve:
    records = RunFolder(run).records()
    return Curve(
        epochs=[record["epoch"] for record in records],
        loss=[record["train"]["loss"] for record in records],
        score=[record["validation"]["accuracy"] for record in records],
    )


def _environment(run: Path) -> dict[str, str]:
    values = json.loads((run / ENVIRONMENT).read_text(encoding="utf-8"))
    return {name: str(value) for name, value in values.items()}


def _shown(model: Model, task: Task) -> Shown:
    """The first test image, and what the network does with it, step by step."""
    sample = task.collate([task.data("test").sample(0, torch.Generator())])
    image_1CHW = sample.tensor("image")
    with torch.no_grad(), recorded_spikes(model) as spikes:
        logits_T1K = model.forward_steps(model.encode(image_1CHW))
    answers_T = logits_T1K[:, 0].cumsum(0).argmax(-1)  # after t steps: of the mean over 1 to t
    trains: list[SpikeTrain] = spike_trains(
        {stage(path): spikes[path] for path in last_of_each_stage(list(spikes))}
    )
    pixels_HW = image_1CHW[0, 0]
    low, high = pixels_HW.aminmax()
    return Shown(
        pixels=((pixels_HW - low) / (high - low)).tolist(),
        label=str(int(sample.tensor("label"))),
        predictions=[str(int(answer)) for answer in answers_T],
        trains=trains,
    )
