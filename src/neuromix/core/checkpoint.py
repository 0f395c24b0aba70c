"""Checkpoints: safetensors with the model's name, Config and edits as JSON in the header. Nothing unpickles.

Released weights of authors are read as well: safetensors, or `.pth` through PyTorch's weights-only reader.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from neuromix.core import registry
from neuromix.core.config import Config, Spec
from neuromix.core.edits import apply_edit
from neuromix.core.errors import CheckpointError, NeuromixError, RunError
from neuromix.core.files import replacing
from neuromix.core.layout import load_layout, transfer
from neuromix.core.model import Model

FORMAT = 1
_HEADER = "neuromix"


def create_model(
    name: str,
    *,
    features_only: bool = False,
    out_indices: tuple[int, ...] | None = None,
    **overrides: Any,
) -> Model:
    """Builds a registered model, in the published size that its name says.

    Args:
        features_only: give a list of feature maps, finest first, instead of logits; `model.feature_info()`
            tells stride and channels of each level.
        out_indices: which levels (default: all); implies features_only.
        overrides: Config fields that differ from the variant's; `a.b` reaches into a spec.

    Raises:
        UnknownNameError: no such model or field, with the nearest names.
        ConfigError: a value out of range.

    Example:
        >>> create_model("poolformer_s12", num_classes=10).num_parameters()
        11407306
    """
    entry, config = registry.find("model", name)
    if features_only or out_indices is not None:
        levels = range(len(_skeleton(entry, config).feature_info())) if out_indices is None else out_indices
        overrides["feature_levels"] = tuple(levels)
    return build_model(name, config.replace(**overrides))


def build_model(name: str, config: Config) -> Model:
    """Builds the model `name` with a whole Config."""
    entry, _ = registry.find("model", name)
    model: Model = entry.build(config)
    model.name = name
    return model


def rebuild(model: Model, *, fresh: tuple[str, ...] = (), **overrides: Any) -> Model:
    """The same net with other Config values - time steps, classes, a second head - and the same tensors.

    Args:
        fresh: globs over tensors that start afresh in the new net.

    Raises:
        CheckpointError: a tensor does not fit.

    Example:
        longer = rebuild(model, time_steps=4)
    """
    other = build_model(model.name, model.config.replace(**overrides))
    for edit in model.edits:
        other = apply_edit(other, edit)
    transfer(other, model.state_dict(), fresh)
    return other


def _skeleton(entry: registry.Entry, config: Config) -> Model:
    with torch.device("meta"):
        skeleton: Model = entry.build(config)
    return skeleton


def save_checkpoint(model: Model, path: str | Path, extra: Mapping[str, Tensor] | None = None) -> None:
    """Writes a model so that `load_checkpoint` makes it again.

    Args:
        extra: more tensors to keep in the same file, under names that start with `extra/`.
    """
    header = {
        "format": FORMAT,
        "model": model.name,
        "config": model.config.to_dict(),
        "edits": [list(edit) for edit in model.edits],
    }
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in model.state_dict().items()}
    tensors |= {f"extra/{name}": tensor for name, tensor in (extra or {}).items()}
    with replacing(Path(path)) as temporary:
        try:
            save_file(tensors, temporary, metadata={_HEADER: json.dumps(header)})
        except SafetensorError as error:  # how it tells of a full disk
            raise RunError(f"cannot write {path}: {error}") from error


def load_checkpoint(path: str | Path, model: str | None = None, **overrides: Any) -> Model:
    """Makes the model that a weights file holds.

    Args:
        path: a checkpoint of ours, or a released weights file (`.safetensors`, `.pth`, `.pt`, `.pth.tar`).
        model: the name of the model; needed for a released file, checked for one of ours.
        overrides: Config values, for a released file.

    Raises:
        CheckpointError: the file is missing, damaged, a pickle, or of another model.
    """
    header, state = read_weights(path)
    if header is None:
        if model is None:
            raise CheckpointError(f"{path} does not say which model it is of; name one (model=...)")
        net = create_model(model, **overrides)
        layouts = {**net.layouts(net.config)}
        try:
            load_layout(net, layouts, state)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error
        return net
    if model is not None and model != header["model"]:
        raise CheckpointError(f"{path} holds {header['model']}, not {model}")
    net = _from_header(path, header)
    try:
        transfer(net, {name: tensor for name, tensor in state.items() if not name.startswith("extra/")})
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return net


def read_weights(path: str | Path) -> tuple[dict[str, Any] | None, dict[str, Tensor]]:
    """The header of ours, or None, and the tensors of a weights file."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no weights file at {path}")
    with open(path, "rb") as file:
        start = file.read(9)
    # A safetensors file starts with the length of its JSON header, in 8 bytes that may be any.
    if start[8:] != b"{" and start.startswith((b"PK\x03\x04", b"\x80")):
        return None, _read_pth(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged or not a safetensors file: {error}") from error
    return _parse_header(path, metadata.get(_HEADER)), state


def _read_pth(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or hostile pickle makes the reader raise
        raise CheckpointError(
            f"{path} is a pickle that holds more than weights, or is damaged; it is not opened"
        ) from error
    for wrapper in ("model", "state_dict", "net"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path} holds no table of weights")
    return {str(name): tensor for name, tensor in content.items()}


def _parse_header(path: Path, text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        header = json.loads(text)
        version = header["format"]
        fits = isinstance(header["model"], str) and isinstance(header["config"], dict)
        fits = fits and isinstance(header["edits"], list)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: its neuromix header is malformed") from error
    if not isinstance(version, int) or version > FORMAT:
        raise CheckpointError(f"{path} is of format {version}; this version of neuromix reads up to {FORMAT}")
    if not fits:
        raise CheckpointError(f"{path}: its neuromix header is malformed")
    return dict(header)


def _from_header(path: str | Path, header: Mapping[str, Any]) -> Model:
    try:
        entry, _ = registry.find("model", header["model"])
        model = build_model(header["model"], entry.config.from_dict(header["config"]))
        for edit in header["edits"]:
            model = apply_edit(model, Spec.of(edit))
        return model
    except NeuromixError as error:
        raise CheckpointError(f"{path}: {error}") from error
