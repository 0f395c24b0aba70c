"""deploy: a trained spiking model in the event-driven engine, compared with PyTorch on the same images.

Shapes: T spike time, B batch, C channels, H W image, K classes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuromix.core.model import Model
from neuromix.measure.spikes import recorded_spikes
from neuromix.runtime import Network, load, lower, quantize, write_program
from neuromix.runtime.export import calibration_images
from neuromix.training.task import Task

COMPARED = 100  # images whose spikes are compared one by one
TIMED = 50  # images that every contestant is timed on, in turn


@dataclass(frozen=True)
class Deployed:
    """How a file runs on the engine.

    Attributes:
        file: the program.
        size: of the file, in bytes.
        accuracy: on all test images.
        same_class: share of the test images on which PyTorch gives the same answer.
        milliseconds: for one image on one thread, median.
    """

    file: str
    size: int
    accuracy: float
    same_class: float
    milliseconds: float


@dataclass(frozen=True)
class Deployment:
    """The model with float32 and with int8 weights.

    Attributes:
        images: test images.
        pytorch_milliseconds: for one image on one thread, median, measured in turn with the engine.
        spike_mismatch: share of spikes and silences, of every neuron and step, in which float32 differs from PyTorch.
    """

    images: int
    pytorch_milliseconds: float
    spike_mismatch: float
    float32: Deployed
    int8: Deployed

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def deploy(model: Model, task: Task, image_BCHW: Tensor, label_B: Tensor, out: Path) -> Deployment:
    """Writes the model as two programs under `out`, and runs both and the model itself on the same images.

    Args:
        image_BCHW, label_B: the test images and their classes.

    Raises:
        NeuromixError: the engine is missing, or a file cannot be written.
    """
    model.eval()
    with torch.no_grad():
        expected_B = model(image_BCHW).argmax(-1)
    files = _write(model, task, tuple(image_BCHW.shape[1:]), out)
    networks = {name: load(path) for name, path in files.items()}
    images = list(image_BCHW.numpy())
    answers = {name: _answers(network, images) for name, network in networks.items()}
    runs: dict[str, Callable[[int], Any]] = {"pytorch": lambda i: _forward(model, image_BCHW[i : i + 1])}
    for name, network in networks.items():
        runs[name] = _runner(network, images)
    milliseconds = _in_turn(runs, min(TIMED, len(images)))
    deployed = {
        name: Deployed(
            file=str(path),
            size=path.stat().st_size,
            accuracy=float((answers[name] == label_B).float().mean()),
            same_class=float((answers[name] == expected_B).float().mean()),
            milliseconds=milliseconds[name],
        )
        for name, path in files.items()
    }
    mismatch = spike_mismatch(model, networks["float32"], image_BCHW[:COMPARED])
    return Deployment(len(images), milliseconds["pytorch"], mismatch, deployed["float32"], deployed["int8"])


def _write(model: Model, task: Task, shape: tuple[int, ...], out: Path) -> Mapping[str, Path]:
    names = task.class_names()
    exact = lower(model, classes=names, input_shape=shape)
    dense = lower(model, classes=names, input_shape=shape, factored=False)
    programs = {"float32": exact, "int8": quantize(dense, calibration_images(dense, task))}
    files = {name: out / f"{name}.nmx" for name in programs}
    for name, program in programs.items():
        write_program(program, files[name])
    return files


def _answers(network: Network, images: list[Any]) -> Tensor:
    session = network.session()
    return torch.tensor([int(session.run(image_CHW).argmax()) for image_CHW in images])


def _runner(network: Network, images: list[Any]) -> Callable[[int], Any]:
    session = network.session()
    return lambda i: session.run(images[i])


def _forward(model: Model, image_1CHW: Tensor) -> Tensor:
    with torch.inference_mode():
        logits_1K: Tensor = model(image_1CHW)
        return logits_1K


def _in_turn(runs: Mapping[str, Callable[[int], Any]], images: int) -> dict[str, float]:
    """Milliseconds of each, the median over the images; one image after the other goes to all of them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for i in range(images):
            for name, run in runs.items():
                begin = time.perf_counter()
                run(i)
                seconds[name].append(time.perf_counter() - begin)
    finally:
        torch.set_num_threads(threads)
    return {name: 1e3 * statistics.median(each) for name, each in seconds.items()}


def spike_mismatch(model: Model, network: Network, image_BCHW: Tensor) -> float:
    """Share of neurons and steps that spike in one of model and network, and not in the other."""
    session = network.session(keep_all=True)
    neurons = {node["name"]: i for i, node in enumerate(network.nodes) if node["op"] == "lif"}
    differing = total = 0
    for image_CHW in image_BCHW:
        with torch.no_grad(), recorded_spikes(model) as spikes:
            model(image_CHW[None])
        session.run(image_CHW.numpy())
        for path, expected_T1 in spikes.items():
            found = torch.from_numpy(session.value(neurons[path])).flatten()
            expected = _as_map(expected_T1[:, 0], tuple(network.nodes[neurons[path]]["shape"])).flatten()
            differing += int((expected != found).sum())
            total += found.numel()
    return differing / total


def _as_map(spikes_T: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Spikes in the order of a map [T, C, H, W]; those of attention are [T, heads, tokens, channels of a head]."""
    is_map = spikes_T.dim() != 4 or tuple(spikes_T.shape[1:]) == shape
    return spikes_T if is_map else spikes_T.transpose(-2, -1)
