"""Snapshot: everything besides the weights that going on exactly needs, as named tensors.

A checkpoint carries it beside the weights, so that both are of the same moment: `optimiser/NAME/KEY`, `ema/NAME`,
`method/METHOD/KEY`, `sums/LOSS`, and `state`, which is JSON as bytes - where the run is, its best score, the
gradient scaler, and what methods keep that is no tensor. No random state is among it: see `chance`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuromix.core.checkpoint import load_checkpoint, read_weights
from neuromix.core.errors import CheckpointError
from neuromix.core.layout import transfer
from neuromix.core.model import Model
from neuromix.training.optimiser import load_optimiser_tensors, optimiser_tensors
from neuromix.training.run import Best, Point, Run

_EXTRA = "extra/"  # under which a checkpoint keeps more tensors


class Snapshot:
    """A saved moment of a run.

    Args:
        state: point, step, best, lines of metrics, and more.
        tensors: by name, see the module.
        model: with its weights at that moment.
    """

    def __init__(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor], model: Model) -> None:
        self.state, self.tensors, self.model = state, tensors, model

    @classmethod
    def take(cls, run: Run, sums: Mapping[str, Tensor], lines: int) -> Snapshot:
        """The present moment of a run.

        Args:
            sums: the losses of the epoch so far.
            lines: of metrics.jsonl that belong to it.
        """
        tensors = _under("optimiser", optimiser_tensors(run.optimiser.optimizer, run.model)) | _under(
            "sums", sums
        )
        if run.ema is not None:
            tensors |= _under("ema", run.ema.model.state_dict())
        kept: dict[str, dict[str, Any]] = {}
        for name, method in run.method.methods.items():
            own = method.state_dict()
            tensors |= _under(f"method/{name}", {key: v for key, v in own.items() if isinstance(v, Tensor)})
            kept[name] = {key: value for key, value in own.items() if not isinstance(value, Tensor)}
        state = {
            "point": run.point,
            "step": run.step,
            "best": run.best,
            "lines": lines,
            "processes": run.fabric.world_size,
            "scaler": run.fabric.strategy.precision.state_dict(),
            "methods": kept,
        }
        return cls(state, tensors, run.model)

    def packed(self) -> dict[str, Tensor]:
        """Everything as tensors, for `save_checkpoint(..., extra=)`."""
        text = json.dumps(self.state).encode()
        tensors = {name: tensor.detach().contiguous().clone() for name, tensor in self.tensors.items()}
        return {**tensors, "state": torch.frombuffer(bytearray(text), dtype=torch.uint8)}

    @classmethod
    def load(cls, path: Path) -> Snapshot:
        """Reads what `packed` gave, and the model, from a checkpoint.

        Raises:
            CheckpointError: the file is damaged, or is not the last checkpoint of a run.
        """
        _, content = read_weights(path)
        tensors = {name.removeprefix(_EXTRA): t for name, t in content.items() if name.startswith(_EXTRA)}
        try:
            state = json.loads(tensors.pop("state").numpy().tobytes())
        except (KeyError, ValueError) as error:
            raise CheckpointError(
                f"{path} does not say where its run was; it is not a last checkpoint"
            ) from error
        return cls(state, tensors, load_checkpoint(path))

    @property
    def point(self) -> Point:
        """Where the run was."""
        return Point(*self.state["point"])

    @property
    def sums(self) -> dict[str, Tensor]:
        """The losses of the epoch so far."""
        return self.part("sums")

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names start with `prefix/`, without it."""
        return {
            k.removeprefix(f"{prefix}/"): v for k, v in self.tensors.items() if k.startswith(f"{prefix}/")
        }

    def restore_methods(self, run: Run) -> None:
        """Gives the methods back what they kept."""
        for name, method in run.method.methods.items():
            method.load_state_dict({**self.part(f"method/{name}"), **self.state["methods"][name]})

    def restore_training(self, run: Run) -> None:
        """Puts optimiser, averages and counters of a stage that was under way back into the run."""
        load_optimiser_tensors(run.optimiser.optimizer, run.model, self.part("optimiser"))
        if run.ema is not None:
            transfer(run.ema.model, self.part("ema"))
        run.step = self.state["step"]
        run.best = Best(*self.state["best"]) if self.state["best"] is not None else None
        run.fabric.strategy.precision.load_state_dict(self.state["scaler"])


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}
