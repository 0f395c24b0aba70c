"""Released files of Ensemble VPR: a folder a module, with NumPy arrays.

`XeAe.npy` [I * N, 3] has a row (input, neuron, weight) for each synapse, `theta_A.npy` [N] the adaptive thresholds in
volt. The number after `offset` in a folder's name is the module's first place. Delays are not among the files: they
are drawn. Which place a neuron stands for is found out by showing references: `EnsembleVPR.assign_by`.

Shapes: I inputs, N neurons.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from neuromix.core.arrays import DamagedArrayError, load_arrays
from neuromix.core.checkpoint import build_model
from neuromix.core.errors import CheckpointError, ConfigError, ShapeError
from neuromix.core.reference import reference
from neuromix.models.vision.ensemble_vpr import EnsembleVPR, EnsembleVPRConfig


def read_release(
    folders: str | Path | Sequence[str | Path], places_per_module: int = 25, **values: Any
) -> EnsembleVPR:
    """The modules whose files lie in these folders, or in the folders `*offset*` of one folder, by their offsets.

    Args:
        values: further Config values.

    Raises:
        CheckpointError: a file is missing, damaged, a pickle, or does not hold what it should.
    """
    if isinstance(folders, str | Path):
        found = sorted(Path(folders).glob("*offset*"))
        if not found:
            raise CheckpointError(
                f"{folders} has no folders named *offset*, which hold XeAe.npy and theta_A.npy"
            )
    else:
        found = [Path(folder) for folder in folders]
    modules = [_read_module(folder) for folder in sorted(found, key=_offset)]
    weight_IN, theta_N = modules[0]
    side = math.isqrt(len(weight_IN))
    size = (side, side) if side * side == len(weight_IN) else (1, len(weight_IN))
    config = {
        "places": len(modules) * places_per_module,
        "places_per_module": places_per_module,
        "neurons": len(theta_N),
        "input_size": size,
        "shuffle": False,
    }
    model = build_model("ensemble_vpr", EnsembleVPRConfig.from_dict({**config, **values}))
    assert isinstance(model, EnsembleVPR)
    for number, (weight_IN, theta_N) in enumerate(modules):
        try:
            load_module(model, number, weight_IN, theta_N)
        except ShapeError as error:
            raise CheckpointError(f"the modules differ in size: {error}") from error
    return model.eval()


def load_module(model: EnsembleVPR, module: int, weight_IN: Tensor, theta_N: Tensor) -> None:
    """Gives one module its weights and thresholds.

    Raises:
        ShapeError: they are of another size.
    """
    circuits = model.circuits
    with torch.no_grad():
        for ours, given in ((circuits.weight[module], weight_IN), (circuits.theta[module], theta_N)):
            if ours.shape != given.shape:
                raise ShapeError(f"a module has {list(ours.shape)} of these, got {list(given.shape)}")
            ours.copy_(given)


def _read_module(folder: Path) -> tuple[Tensor, Tensor]:
    """Weights [I, N] and thresholds [N]."""
    theta_N = _read(folder / "theta_A.npy")
    if theta_N.ndim != 1 or len(theta_N) == 0:
        raise CheckpointError(
            f"{folder / 'theta_A.npy'} has {list(theta_N.shape)} instead of one threshold a neuron"
        )
    path, neurons = folder / "XeAe.npy", len(theta_N)
    rows = _read(path)
    if rows.ndim != 2 or rows.shape[1] != 3 or len(rows) == 0 or len(rows) % neurons:
        raise CheckpointError(
            f"{path} has {list(rows.shape)} instead of [inputs * {neurons}, 3], a row a synapse"
        )
    weight = np.full((len(rows) // neurons, neurons), np.nan)
    source, target = rows[:, 0], rows[:, 1]
    inside = (source >= 0) & (source < len(weight)) & (target >= 0) & (target < neurons)
    if not inside.all():
        raise CheckpointError(f"{path} has a synapse outside {len(weight)} inputs and {neurons} neurons")
    weight[source.astype(np.int64), target.astype(np.int64)] = rows[:, 2]
    if np.isnan(weight).any():
        raise CheckpointError(f"{path} lacks a weight between {len(weight)} inputs and {neurons} neurons")
    return torch.from_numpy(weight), torch.from_numpy(theta_N)


def _read(path: Path) -> npt.NDArray[np.float64]:
    try:
        array = load_arrays(path)
    except FileNotFoundError:
        raise CheckpointError(f"no file {path}") from None
    except DamagedArrayError as error:
        raise CheckpointError(f"{path} is damaged, or not a plain NumPy array: {error}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise CheckpointError(f"{path} is not an array of numbers")
    if not np.isfinite(array).all():
        raise CheckpointError(f"{path} has numbers that are not finite")
    return array.astype(np.float64)


def _offset(folder: Path) -> tuple[int, str]:
    found = re.search(r"offset_?(\d+)", folder.name)
    return (int(found[1]) if found else 0, folder.name)


@reference("ensemble-vpr", kind="simulation")
def read_simulation(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    """One module with start weights w0 [I, N] and thresholds theta0 [N]; its delays are drawn, not theirs."""
    inputs, neurons = state["w0"].shape
    if config.get("n_i", neurons) != neurons:
        raise ConfigError(f"as many inhibitory as excitatory neurons, got {config['n_i']} and {neurons}")
    ours = {name: config[theirs] for theirs, name in _NAMES.items() if theirs in config}
    size = {"places": 1, "places_per_module": 1, "neurons": neurons, "input_size": (1, inputs)}
    model = build_model("ensemble_vpr", EnsembleVPRConfig.from_dict({**size, **ours}))
    assert isinstance(model, EnsembleVPR)
    model.to(state["w0"].dtype)
    load_module(model, 0, state["w0"], state["theta0"])
    return model


_NAMES = {
    "colsum": "column_sum",
    "tc_ge": "tau_ge_ms",
    "tc_gi": "tau_gi_ms",
    "example_ms": "example_ms",
    "rest_ms": "rest_ms",
    "initial_rest_ms": "initial_rest_ms",
    "w_ei": "w_ei",
    "w_ie": "w_ie",
}
