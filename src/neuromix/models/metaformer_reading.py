"""Reading the authors' constructor values of a MetaFormer, with the help of the weights that come with them.

What weights tell for certain - widths, the parts that a block has, the size of a table - is taken from them. The
rest is taken from the constructor values, where classes are named by loose texts such as
"attention(head_dim=16)", "pool3" or "LayerNorm over C, no bias, eps 1e-6".
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError
from neuromix.layers.norm import NormName

Given = Mapping[str, Any]
Weights = Mapping[str, Tensor]

ACTIVATIONS = ("star_relu", "squared_relu", "relu", "gelu", "silu")  # "relu" after the names that contain it


def below(state: Weights, prefix: str) -> dict[str, Tensor]:
    """The weights under `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def numbers_below(state: Weights, prefix: str) -> list[int]:
    """The numbers that follow `prefix` in the names of weights, ascending."""
    found = (re.match(r"(\d+)\.", rest) for rest in below(state, prefix))
    return sorted({int(match[1]) for match in found if match})


def texts_per_stage(given: Given, *keys: str, stages: int) -> list[str | None]:
    """The first of `keys` that is given, as one text a stage: of a list, or the same for all; None where absent."""
    value = next((given[key] for key in keys if given.get(key) is not None), None)
    values = list(value) if isinstance(value, list | tuple) else [value] * stages
    if len(values) != stages:
        raise ConfigError(f"{keys[0]} needs one entry for each of {stages} stages, got {value!r}")
    return [None if value is None else str(value) for value in values]


def mixer_spec(block: Weights, dim: int, text: str | None, pool_size: int = 3) -> Spec:
    """The token mixer of a block with these weights; `text` tells what they do not.

    Raises:
        ConfigError: no weights, and a text that does not name a mixer without any.
    """
    weights, text = below(block, "token_mixer."), (text or "pool").lower()
    if "qkv.weight" in weights:
        width = weights["qkv.weight"].shape[0] // 3
        options: dict[str, Any] = {
            "head_dim": _head_dim(text, width),
            "width": None if width == dim else width,
            "qkv_bias": "qkv.bias" in weights,
            "proj_bias": "proj.bias" in weights,
        }
        return Spec("attention", options)
    if "fc.weight" in weights:
        return Spec("spatial_fc", {"tokens": weights["fc.weight"].shape[0]})
    if "random_matrix" in weights:
        return Spec("random", {"tokens": weights["random_matrix"].shape[0]})
    if "pwconv1.weight" in weights:
        options = {
            "expansion": _ratio(weights["pwconv1.weight"].shape[0], dim),
            "kernel": weights["dwconv.weight"].shape[-1],
            "activation": "star_relu" if "act1.scale" in weights else activation_spec(text, "squared_relu"),
            "bias": "pwconv1.bias" in weights,
        }
        return Spec("sepconv", options)
    if "ident" in text:
        return Spec("identity")
    if "pool" in text:
        size = re.search(r"pool\D*(\d+)", text)
        return Spec("pool", {"size": int(size[1]) if size else pool_size})
    raise ConfigError(f"cannot tell which token mixer {text!r} with weights {sorted(weights)} is")


def channel_mixer_spec(block: Weights, dim: int, activation: str | None, default: str) -> Spec | None:
    """The channel MLP of a block with these weights; None where it has none."""
    weights = below(block, "mlp.")
    if "fc1.weight" not in weights:
        return None
    name = "star_relu" if "act.scale" in weights else activation_spec(activation, default)
    ratio = _ratio(weights["fc1.weight"].shape[0], dim)
    return Spec("mlp", {"ratio": ratio, "activation": name, "bias": "fc1.bias" in weights})


def activation_spec(text: str | None, default: str) -> str:
    """The activation that a text names: "gelu exact", "nn.ReLU", "StarReLU"."""
    plain = re.sub(r"[^a-z]", "", (text or default).lower())
    return next((name for name in ACTIVATIONS if name.replace("_", "") in plain), default)


def norm_name(text: str | None, block: Weights, default: NormName) -> NormName:
    """The norm that a text names: "GroupNorm(1)", "mean/var over H,W,C", "LayerNormChannel", "LN no bias 1e-6"."""
    if "norm1.running_mean" in block:
        return "batch"
    plain = re.sub(r"[^a-z]", "", (text or "").lower())
    # Norms over the whole map first: they may call themselves modified layer-norms.
    whole_map = re.search(r"1, ?2, ?3", text or "")  # the axes of a channels-last map
    if whole_map or any(word in plain for word in ("group", "gn", "mln", "modified", "hwc", "chw")):
        return "group"
    if any(word in plain for word in ("channel", "layernorm", "ln", "overc")):
        return "channel"
    return "none" if "identity" in plain or "none" in plain else default


def norm_eps(texts: list[str | None], default: float) -> float:
    """The eps that the texts of norms name."""
    found = (re.search(r"eps\D*?([\d.]+(?:e-?\d+)?)|(\d[\d.]*e-\d+)", text or "") for text in texts)
    return next((float(match[1] or match[2]) for match in found if match), default)


def input_size(given: Given) -> tuple[int, int] | None:
    """(H, W) of the image, where the constructor values tell it."""
    value = given.get("input")
    return (value[-2], value[-1]) if isinstance(value, list | tuple) and len(value) >= 2 else None


def _head_dim(text: str, width: int) -> int:
    heads = re.search(r"heads\D{0,3}(\d+)|(\d+)\s*heads", text)
    if heads:
        return width // int(heads[1] or heads[2])
    number = re.search(r"head_?dim\D*(\d+)|dim_?head\D*(\d+)|attention\D{0,2}(\d+)", text)
    return 32 if number is None else int(next(filter(None, number.groups())))


def _ratio(hidden: int, dim: int) -> float:
    ratio = hidden / dim
    # The quotient may be rounded down, and with it int(dim * ratio).
    return ratio if int(dim * ratio) == hidden else math.nextafter(ratio, math.inf)
