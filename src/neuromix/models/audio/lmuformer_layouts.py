"""Weight names of the LMUFormer authors, and their constructor values.

Their 1x1 convolutions are our linear layers. Their files hold the fixed matrices of the memory, which ours leave out,
and, where they were saved from several GPUs, the prefix `module.`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from neuromix.core import registry
from neuromix.core.errors import ConfigError
from neuromix.core.layout import Layout, Rule, drop, rename, reshape
from neuromix.core.reference import load_reference, reference

# Constructor names of the authors -> ours.
MODELS = {
    "lmu_rnn_conv1d": "lmuformer",
    "slmu_rnn_ms_conv1d": "spiking_lmuformer",
    "slmu_rnn_conv1d": "spiking_lmuformer_on_spikes",
    "attn_ms_conv1d": "spiking_attention_former",
}
_MIXER, _CHANNELS = "blocks.{i}.mixer.branch", "blocks.{i}.channel_mixer.branch"


def layouts_of(rules: Sequence[Rule]) -> Mapping[str, Layout]:
    """The authors' names, and those of nets saved from several GPUs."""
    return {
        "authors": Layout(*rules),
        "authors, several GPUs": Layout(*(rule._replace(theirs=f"module.{rule.theirs}") for rule in rules)),
    }


def analog_rules() -> list[Rule]:
    """Of the net without spikes."""
    rules = [rename("patch_embed.rpe_conv.*", "embedding.position.0.*")]
    for i in range(4):
        rules += [
            rename(f"patch_embed.conv_layers.{i}.0.*", f"embedding.layers.{3 * i}.*"),
            rename(f"patch_embed.conv_layers.{i}.3.*", f"embedding.layers.{3 * i + 2}.*"),
        ]
    cell = f"{_MIXER}.0.mixer"
    rules += _cell_rules(cell)
    rules += _conv_rules("block.{i}.attn.proj_conv", f"{_MIXER}.1")
    rules += [rename("block.{i}.attn.proj_bn.*", f"{_MIXER}.2.*")]
    rules += _channel_rules(first=0, norms=(1, 4), second=3)
    return [*rules, rename("head.*", "head.*")]


def spiking_rules(shortcut: Literal["membrane", "spikes"]) -> list[Rule]:
    """Of the spiking nets with an LMU."""
    membrane = shortcut == "membrane"
    at = 2 if membrane else 0  # where the cell stands in its branch
    cell = f"{_MIXER}.{at}"
    rules = [*_embedding_rules(membrane), *_cell_rules(cell)]
    rules += [
        rename("block.{i}.attn.lmu.bn_u.*", f"{cell}.encode_spikes.0.*"),
        rename("block.{i}.attn.lmu.bn_m.*", f"{cell}.memory_spikes.0.*"),
        rename("block.{i}.attn.lmu.bn_h.*", f"{cell}.combine_spikes.0.*"),
    ]
    return [*rules, *_after_mixer(at), *_ends(membrane)]


def attention_rules() -> list[Rule]:
    """Of the spiking net with attention."""
    rules = _embedding_rules(membrane=True)
    for letter, ours in (("q", "query"), ("k", "key"), ("v", "value")):
        rules += _conv_rules(f"block.{{i}}.attn.{letter}_conv", f"{_MIXER}.2.{ours}.0")
        rules.append(rename(f"block.{{i}}.attn.{letter}_bn.*", f"{_MIXER}.2.{ours}.1.*"))
    return [*rules, *_after_mixer(2), *_ends(membrane=True)]


def _after_mixer(at: int) -> list[Rule]:
    rules = _conv_rules("block.{i}.attn.proj_conv", f"{_MIXER}.{at + 1}")
    return [*rules, rename("block.{i}.attn.proj_bn.*", f"{_MIXER}.{at + 2}.*")]


def _ends(membrane: bool) -> list[Rule]:
    """Channel mixer and head."""
    if not membrane:
        return [*_channel_rules(first=0, norms=(1, 4), second=3), rename("head.*", "head.*")]
    return [
        rename("block.{i}.attn.prev_bn.*", f"{_MIXER}.0.*"),
        *_channel_rules(first=2, norms=(0, 3), second=5),
        rename("head_bn.*", "head.0.*"),
        rename("head.*", "head.2.*"),
    ]


def _embedding_rules(membrane: bool) -> list[Rule]:
    """Four convolutions with their norms; with a membrane shortcut the last norm stands after the skip."""
    rules = []
    for i in range(4):
        number = str(i or "")
        rules.append(rename(f"patch_embed.proj_conv{number}.*", f"embedding.layers.{3 * i}.*"))
        norm = "position.0" if membrane and i == 3 else f"layers.{3 * i + 1}"
        rules.append(rename(f"patch_embed.proj_bn{number}.*", f"embedding.{norm}.*"))
    if membrane:
        return [*rules, rename("patch_embed.rpe_conv.*", "embedding.position.2.*")]
    return [
        *rules,
        rename("patch_embed.rpe_conv.*", "embedding.position.0.*"),
        rename("patch_embed.rpe_bn.*", "embedding.position.1.*"),
    ]


def _cell_rules(cell: str) -> list[Rule]:
    return [
        rename("block.{i}.attn.lmu.W_u.*", f"{cell}.encode.*"),
        rename("block.{i}.attn.lmu.W_h.*", f"{cell}.combine.*"),
        *(drop(f"block.{{i}}.attn.lmu.{name}") for name in ("A", "B", "H", "fft_H")),
    ]


def _channel_rules(first: int, norms: tuple[int, int], second: int) -> list[Rule]:
    rules = _conv_rules("block.{i}.mlp.fc1_conv", f"{_CHANNELS}.{first}")
    rules += _conv_rules("block.{i}.mlp.fc2_conv", f"{_CHANNELS}.{second}")
    return rules + [rename(f"block.{{i}}.mlp.fc{n}_bn.*", f"{_CHANNELS}.{norms[n - 1]}.*") for n in (1, 2)]


def _conv_rules(theirs: str, ours: str) -> list[Rule]:
    """A convolution of width 1 as a linear layer."""
    return [
        reshape(f"{theirs}.weight", f"{ours}.weight", _without_width, _with_width),
        rename(f"{theirs}.bias", f"{ours}.bias"),
    ]


def _without_width(weight_OC1: Tensor) -> Tensor:
    return weight_OC1.squeeze(2)


def _with_width(weight_OC: Tensor) -> Tensor:
    return weight_OC[..., None]


@reference("lmuformer")
def read_authors(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    """Constructor values of the authors' nets; most sizes the weights tell."""
    theirs = str(config.get("model", "lmu_rnn_conv1d"))
    if theirs not in MODELS:
        raise ConfigError(f"model is one of {', '.join(MODELS)}; given {theirs!r}")
    sizes = {name.removeprefix("module."): list(tensor.shape) for name, tensor in state.items()}
    first = "conv_layers.0.0" if theirs == "lmu_rnn_conv1d" else "proj_conv"
    needed = ("head.weight", f"patch_embed.{first}.weight", "block.0.mlp.fc1_conv.weight")
    missing = [name for name in needed if name not in sizes]
    if missing:
        raise ConfigError(f"the weights have no {', '.join(missing)}: not those of {theirs}")
    (classes, dim), (_, channels, _), (hidden, _, _) = (sizes[name] for name in needed)
    values: dict[str, Any] = {
        "in_channels": channels,
        "dim": dim,
        "depth": len({m[1] for name in sizes if (m := re.match(r"block\.(\d+)\.", name))}),
        "mlp_ratio": hidden / dim,
        "num_classes": classes,
        "theta": float(config.get("theta", config.get("seq_len", 128))),
    }
    if "block.0.attn.lmu.W_h.weight" in sizes:
        values["order"] = sizes["block.0.attn.lmu.W_h.weight"][1] - dim
    if theirs != "lmu_rnn_conv1d":
        values["neuron"] = ["lif", _neuron(config)]
    if theirs == "attn_ms_conv1d":
        values["heads"] = int(config.get("num_heads", 16))
    name = MODELS[theirs]
    return load_reference(name, registry.find("model", name)[1].replace(**values), state)


def _neuron(config: Mapping[str, Any]) -> dict[str, Any]:
    surrogate = re.fullmatch(
        r"(\w+)(?:\(alpha=([\d.]+)\))?.*", str(config.get("surrogate", "Sigmoid(alpha=4)"))
    )
    kind = surrogate[1].lower() if surrogate else ""
    if kind not in ("sigmoid", "atan"):
        raise ConfigError(f"surrogate is Sigmoid or ATan; given {config['surrogate']!r}")
    alpha = surrogate[2] if surrogate else None
    return {
        "tau": float(config.get("tau", 2.0)),
        "detach_reset": bool(config.get("detach_reset", True)),
        "v_threshold": float(config.get("v_threshold", 1.0)),
        "surrogate": [kind, {} if alpha is None else {"alpha": float(alpha)}],
    }
