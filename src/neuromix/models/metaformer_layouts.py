"""How released MetaFormer weights are named: the code of the two papers, and timm.

The papers differ in where the head has its norm, and so this decides whose names "authors" are:

    before the mean (v1)   patch_embed.proj, network.{n}: stages, downsamplings and position tables in one list
    after the mean (v2)    downsample_layers.{i}, stages.{i}.{j}; 1x1 convolutions are linear layers [out, in]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from neuromix.core.layout import Layout, Rule, rename, reshape

if TYPE_CHECKING:
    from neuromix.models.metaformer import MetaFormerConfig


def metaformer_layouts(config: MetaFormerConfig) -> Mapping[str, Layout]:
    """Who released the weights -> the renaming to ours, for a net of this Config."""
    authors = _authors_v2(config) if config.norm_after_pool else _authors_v1(config)
    # timm has no net with position tables.
    return {"authors": authors} if any(config.pos_embeds) else {"authors": authors, "timm": _timm(config)}


def network_slots(config: MetaFormerConfig) -> list[tuple[str, int]]:
    """What the v1 authors' `network.{n}` is, in order of n: ("position" | "blocks" | "downsample", our stage)."""
    slots: list[tuple[str, int]] = []
    for stage in range(len(config.depths)):
        if stage > 0 and config.window(stage) is not None:
            slots.append(("downsample", stage))
        if config.pos_embeds and config.pos_embeds[stage] is not None:
            slots.append(("position", stage))
        slots.append(("blocks", stage))
    return slots


def _authors_v1(config: MetaFormerConfig) -> Layout:
    rules = [rename("patch_embed.proj.*", "stem.conv.*"), rename("patch_embed.norm.*", "stem.norm.*")]
    for n, (part, stage) in enumerate(network_slots(config)):
        if part == "downsample":
            rules += [
                rename(f"network.{n}.proj.*", f"stages.{stage}.downsample.conv.*"),
                rename(f"network.{n}.norm.*", f"stages.{stage}.downsample.norm.*"),
            ]
        elif part == "position":
            rules.append(rename(f"network.{n}.pos_embed", f"stages.{stage}.position.table"))
        else:
            rules += _block_rules(f"network.{n}.{{j}}", stage, "layer_scale_{n}", linear=False)
    # Named by the place in a list without position tables, whether there are any or not.
    rules += [rename(f"norm{2 * stage}.*", f"norms.{stage}.*") for stage in range(len(config.depths))]
    rules += [rename("norm.*", "head.norm.*"), *_classifier_rules(config, "head")]
    return Layout(*rules)


def _authors_v2(config: MetaFormerConfig) -> Layout:
    rules = [
        rename("downsample_layers.0.conv.*", "stem.conv.*"),
        rename("downsample_layers.0.post_norm.*", "stem.norm.*"),
        rename("downsample_layers.{i}.conv.*", "stages.{i}.downsample.conv.*"),
        rename("downsample_layers.{i}.pre_norm.*", "stages.{i}.downsample.norm.*"),
    ]
    for stage in range(len(config.depths)):
        rules += _block_rules(f"stages.{stage}.{{j}}", stage, "layer_scale{n}.scale", linear=True)
    rules += [rename("norm.*", "head.norm.*"), *_classifier_rules(config, "head")]
    return Layout(*rules)


def _timm(config: MetaFormerConfig) -> Layout:
    rules = [
        rename("stem.*", "stem.*"),
        rename("stages.{i}.downsample.*", "stages.{i}.downsample.*"),
    ]
    for stage, mixer in enumerate(config.per_stage("mixers")):
        # Stages with attention keep their tokens channels last, and so have linear layers.
        linear = mixer.name == "attention"
        rules += _block_rules(f"stages.{stage}.blocks.{{j}}", stage, "layer_scale{n}.scale", linear=linear)
    rules += [rename("head.norm.*", "head.norm.*"), *_classifier_rules(config, "head.fc")]
    return Layout(*rules)


def _block_rules(theirs: str, stage: int, layer_scale: str, *, linear: bool) -> list[Rule]:
    ours = f"stages.{stage}.blocks.{{j}}"
    token, channel = f"{ours}.mixer.branch", f"{ours}.channel_mixer.branch"
    rules = []
    for n, half in ((1, "mixer"), (2, "channel_mixer")):
        rules += [
            rename(f"{theirs}.norm{n}.*", f"{ours}.{half}.norm.*"),
            rename(f"{theirs}.{layer_scale.format(n=n)}", f"{ours}.{half}.scale.weight"),
            rename(f"{theirs}.res_scale{n}.scale", f"{ours}.{half}.skip.weight"),
        ]
    for their_name, our_name in (
        (f"{theirs}.mlp.fc1", f"{channel}.expand"),
        (f"{theirs}.mlp.fc2", f"{channel}.contract"),
        (f"{theirs}.token_mixer.pwconv1", f"{token}.expand"),
        (f"{theirs}.token_mixer.pwconv2", f"{token}.contract"),
    ):
        back = _linear if linear else _same
        rules.append(reshape(f"{their_name}.weight", f"{our_name}.weight", _convolution, back))
        rules.append(rename(f"{their_name}.bias", f"{our_name}.bias"))
    rules += [
        rename(f"{theirs}.token_mixer.dwconv.*", f"{token}.depthwise.*"),
        rename(f"{theirs}.token_mixer.act1.*", f"{token}.activation.*"),
        rename(f"{theirs}.token_mixer.*", f"{token}.*"),
        rename(f"{theirs}.mlp.act.*", f"{channel}.activation.*"),
        rename(f"{theirs}.mlp.*", f"{channel}.*"),
    ]
    return rules


def _classifier_rules(config: MetaFormerConfig, theirs: str) -> list[Rule]:
    if config.head == "linear":
        return [rename(f"{theirs}.*", "head.classifier.fc.*")]
    return [
        rename(f"{theirs}.fc1.*", "head.classifier.expand.*"),
        rename(f"{theirs}.norm.*", "head.classifier.norm.*"),
        rename(f"{theirs}.fc2.*", "head.classifier.fc.*"),
    ]


def _convolution(weight: Tensor) -> Tensor:
    """Weights [out, in] of a linear layer as those of a 1x1 convolution."""
    return weight[:, :, None, None] if weight.dim() == 2 else weight


def _linear(weight: Tensor) -> Tensor:
    return weight.flatten(1)


def _same(weight: Tensor) -> Tensor:
    return weight
