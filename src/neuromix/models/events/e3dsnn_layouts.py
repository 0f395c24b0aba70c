"""How the authors name the tensors of E-3DSNN nets, and how these lie in memory.

Shapes: I input and O output channels, C channels, K classes, k side of a kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from neuromix.core.layout import Layout, Rule, rename, reshape


def _conv_rules(theirs: str, first: int, ours: str) -> list[Rule]:
    """A convolution at place `first` of a list of the authors, and the norm behind it."""
    return [
        reshape(f"{theirs}.{first}.weight", f"{ours}.conv.weight", _to_taps, _from_taps),
        rename(f"{theirs}.{first + 1}.*", f"{ours}.norm.*"),
    ]


def _to_taps(weight: Tensor) -> Tensor:
    """[O, k, k, k, I] to [k*k*k, I, O]."""
    return weight.flatten(1, 3).permute(1, 2, 0)


def _from_taps(weight: Tensor) -> Tensor:
    side = round(len(weight) ** (1 / 3))
    return weight.permute(2, 0, 1).reshape(weight.shape[2], side, side, side, weight.shape[1])


def encoder_rules() -> list[Rule]:
    """Stem, stages and head."""
    block, blocks = "enc.{i}.blocks.{j}", "encoder.stages.{i}.blocks.{j}"
    return [
        *(rule for n in range(3) for rule in _conv_rules("stem", 3 * n, f"encoder.stem.convs.{n}")),
        *_conv_rules("enc.{i}.down", 1, "encoder.stages.{i}.down"),
        *_conv_rules(f"{block}.block", 1, f"{blocks}.first.branch.convs.0"),
        *_conv_rules(f"{block}.voxel_block", 1, f"{blocks}.second.branch.convs.0"),
        *_conv_rules(f"{block}.voxel_block", 4, f"{blocks}.second.branch.convs.1"),
        # Their library reads the memory of [K, 1, 1, 1, C] as a matrix (C, K).
        reshape(
            "final.weight",
            "head.weight",
            lambda weight: weight.reshape(weight.shape[-1], len(weight)).T,
            lambda weight: weight.T.reshape(len(weight), 1, 1, 1, -1),
        ),
        rename("final.bias", "head.bias"),
    ]


def decoder_rules() -> list[Rule]:
    """The stages of the segmenter that go up again."""
    rules = _conv_rules("dec.{i}.up", 1, "decoder.{i}.up")
    for n in range(2):
        rules += [
            rename(f"dec.{{i}}.fuse.{3 * n + 1}.*", f"decoder.{{i}}.fuse.branch.linears.{n}.*"),
            rename(f"dec.{{i}}.fuse.{3 * n + 2}.*", f"decoder.{{i}}.fuse.branch.norms.{n}.*"),
        ]
    return rules


_PREFIXES = {"authors": "", "Pointcept": "backbone.", "Pointcept, data parallel": "module.backbone."}


def with_prefixes(rules: Sequence[Rule]) -> dict[str, Layout]:
    """The layouts that name all tensors by these rules, alone or as a part of a training framework."""
    return {
        who: Layout(*(rule._replace(theirs=prefix + rule.theirs) for rule in rules))
        for who, prefix in _PREFIXES.items()
    }
