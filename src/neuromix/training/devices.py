"""Where a run computes: device, precision, and the processes that share its batches."""

from __future__ import annotations

import logging
import os
import platform
import sys
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

import neuromix
from neuromix.core.errors import ConfigError
from neuromix.training.config import TrainConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def make_fabric(config: TrainConfig, *, find_unused: bool = False) -> Fabric:
    """One process on one device, or this process's part where `torchrun` started several.

    Args:
        find_unused: in a step some weights may get no gradient; looking for them costs time.

    Raises:
        ConfigError: the device is not there, or the batch cannot be shared evenly.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

    device = _device(config)
    local, world = _processes()
    if config.batch_size % world:
        raise ConfigError(
            f"TrainConfig: batch_size must be a multiple of {world} processes, got {config.batch_size}"
        )
    several = DDPStrategy(find_unused_parameters=find_unused) if world > 1 else "auto"
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces what it was told
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hints on settings that are chosen here
        fabric = Fabric(
            accelerator=device,
            devices=local,
            num_nodes=world // local,
            strategy=several,
            precision=_precision(config, device),  # type: ignore[arg-type]
        )
        fabric.launch()
    return fabric


def environment(fabric: Fabric) -> dict[str, Any]:
    """What the exact numbers of a run depend on besides its Config."""
    device = fabric.device
    return {
        "neuromix": neuromix.__version__,
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": fabric.world_size,
        "precision": fabric.strategy.precision.precision,
    }


def to_channels_last(model: nn.Module) -> None:
    """Puts tensors with four axes, the weights of 2-D convolutions among them, in the memory order N, H, W, C.

    Maps take the order of the weights that made them. What has five axes, as the weights of 3-D convolutions have,
    stays as it is.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.to(memory_format=torch.channels_last)


def processor_name() -> str:
    """The model of the CPU, as the system calls it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def default_workers(config: TrainConfig, fabric: Fabric) -> int:
    """Processes that read data: as asked, else none on a CPU, which they would take away from the training."""
    if config.workers is not None:
        return config.workers
    return 0 if fabric.device.type == "cpu" else min(8, os.cpu_count() or 1)


def _device(config: TrainConfig) -> str:
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if config.device == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if there[name])
    if not there[config.device]:
        raise ConfigError(f"TrainConfig: no {config.device} device is available here; use device=auto or cpu")
    return config.device


def _precision(config: TrainConfig, device: str) -> str:
    if config.precision != "auto":
        return config.precision
    return "bf16-mixed" if device == "cuda" and torch.cuda.is_bf16_supported() else "32-true"


def _processes() -> tuple[int, int]:
    """(on this machine, altogether): what torchrun started."""
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        world = int(os.environ["WORLD_SIZE"])
        return int(os.environ.get("LOCAL_WORLD_SIZE", world)), world
    return 1, 1
