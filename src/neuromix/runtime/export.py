"""export_nmx: from a trained model to its `.nmx` file, with what the lowering did to its accuracy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from neuromix.core.errors import UnsupportedError
from neuromix.core.model import Model
from neuromix.data.dataset import Dataset, Loader, Sample
from neuromix.runtime.lowering import lower
from neuromix.runtime.node import Shape
from neuromix.runtime.program import Program
from neuromix.runtime.program_file import write_program
from neuromix.runtime.quantization import quantize
from neuromix.runtime.reference import run_reference
from neuromix.training.task import Task

Progress = Callable[[str, int, int], None]  # what is being done, batches done, batches
CALIBRATION = 128  # images that are enough to know the mean input of a channel
LARGEST_RUN = 2**26  # elements of one value over all steps and images: what memory is asked for at a time


def export_nmx(
    model: Model,
    path: str | Path,
    *,
    task: Task | None = None,
    input_shape: Shape | None = None,
    weights: Literal["float32", "int8"] = "float32",
    samples: int = 1000,
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Lowers a model, rounds its weights if asked to, writes the file, and tells how it compares.

    Args:
        path: of the file.
        task: gives class names, calibration images and test images; without one, calibration is on noise and
            no accuracy is known.
        input_shape: [C, H, W] of one step, by default that of the task's images or of the model's example.
        weights: of the convolutions that spikes feed.
        samples: test images that the accuracies are of.

    Returns:
        file, bytes, nodes, operations (how many of each), input, time_steps, int8_layers, and accuracy: that of
        the model, of the program, their difference, and the number of samples; None without a task.

    Raises:
        UnsupportedError: the model cannot be lowered.
        NeuromixError: data that cannot be read, or a file that cannot be written.
    """
    shape = input_shape or (None if task is None else image_shape(task))
    names = () if task is None else task.class_names()
    program = lower(model, classes=names, input_shape=shape, factored=weights == "float32")
    if weights == "int8":
        progress("calibrating", 0, 1)
        images = calibration_images(program, task)
        program = quantize(program, images, frames=has_frames(images))
    accuracy = None if task is None else compare(model, program, task, samples, progress)
    write_program(program, path)
    return {
        "file": str(path),
        "bytes": Path(path).stat().st_size,
        "nodes": len(program.nodes),
        "operations": dict(Counter(node.op for node in program.nodes)),
        "input": list(program.input_shape),
        "time_steps": program.time_steps,
        "int8_layers": sum("scale" in node.keys for node in program.nodes if node.op == "conv"),
        "accuracy": accuracy,
    }


def image_shape(task: Task) -> Shape:
    """[C, H, W] of the task's images, or of one of its frames.

    Raises:
        UnsupportedError: it has none.
    """
    batch = task.collate([task.data("test").sample(0, torch.Generator())])
    if "image" not in batch:
        raise UnsupportedError(
            f"only a classifier of images or frames can be exported; the task gives {', '.join(batch)}"
        )
    channels, height, width = batch.tensor("image").shape[-3:]
    return channels, height, width


def calibration_images(program: Program, task: Task | None) -> Tensor:
    """Training images from all over the set, or noise, as many as memory allows; [B, C, H, W], or [B, T, C, H, W]."""
    largest = max(torch.Size(edge.shape).numel() for edge in program.edges) * program.time_steps
    count = min(CALIBRATION, max(1, LARGEST_RUN // largest))
    if task is None:
        return torch.randn(count, *program.input_shape, generator=torch.Generator().manual_seed(0))
    images = _Chosen(task.data("train"), count)
    return next(iter(Loader(images, len(images), collate=task.collate))).tensor("image")


def has_frames(images: Tensor) -> bool:
    """Whether a batch of a task has an image a time step, [B, T, C, H, W], or one for all, [B, C, H, W]."""
    return images.dim() == 5


def compare(model: Model, program: Program, task: Task, samples: int, progress: Progress) -> dict[str, float]:
    """The task's score of a model and of its program, on the same test images."""
    chosen = _Chosen(task.data("test"), samples)
    largest = max(torch.Size(edge.shape).numel() for edge in program.edges) * program.time_steps
    batches = Loader(chosen, min(64, len(chosen), max(1, LARGEST_RUN // largest)), collate=task.collate)
    of_model, of_program = task.metrics(), task.metrics()
    model.eval()
    with torch.no_grad():
        for number, batch in enumerate(batches):
            progress("comparing", number, len(batches))
            of_model.update(task.predict(model, batch, torch.Generator()), batch)
            images = batch.tensor("image")
            output_BK = run_reference(program, images, frames=has_frames(images), keep=()).output
            of_program.update(output_BK, batch)
    before, after = of_model.compute()[task.score], of_program.compute()[task.score]
    return {"model": before, "program": after, "difference": after - before, "samples": len(chosen)}


class _Chosen:
    """Some samples from all over a data set, in its order."""

    def __init__(self, dataset: Dataset, count: int) -> None:
        self.dataset = dataset
        size = len(dataset)
        self.indices = [number * size // count for number in range(count)] if count < size else [*range(size)]

    def __len__(self) -> int:
        return len(self.indices)

    def sample(self, index: int, generator: torch.Generator) -> Sample:
        return self.dataset.sample(self.indices[index], generator)
