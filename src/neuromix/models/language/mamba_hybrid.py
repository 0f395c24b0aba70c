"""Mamba-2-Hybrid: mostly Mamba-2 layers, a few of attention, and MLPs between (Waleffe et al., 2024).

A state of constant size cannot hold a long list word for word; some 8 % of attention layers bring back copying and
look-ups, at a small part of a Transformer's cache. Each layer - `M` Mamba-2, `*` attention with shared keys and values,
`-` MLP - is a branch of its own behind a norm; nothing tells positions.

Shapes: see `decoder`. Default values: the published 8B model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError
from neuromix.core.layout import Layout
from neuromix.core.model import ModelConfig
from neuromix.core.registry import Paper, register_model
from neuromix.models.language.decoder import BlockSpec, Decoder, DecoderConfig
from neuromix.models.language.megatron import megatron_layout

SYMBOLS = {"M": "Mamba-2", "*": "attention", "-": "MLP"}


def layer_pattern(layers: int, attention_ratio: float, mlp_ratio: float) -> str:
    """Where attention (`*`) and MLPs (`-`) stand among Mamba-2 layers (`M`), each spread evenly.

    Numbers of layers are rounded half to even. A counter starts at the length of a stretch between two layers of the
    kind; it falls by one at each layer, and below one half the next of them is placed.

    Raises:
        ConfigError: ratios outside [0, 1], or more than all layers together.

    Example:
        >>> layer_pattern(12, 0.25, 0.25)
        'MM*-MM*-M*M-'
    """
    attention, mlps = round(layers * attention_ratio), round(layers * mlp_ratio)
    if not (0 <= attention_ratio <= 1 and 0 <= mlp_ratio <= 1 and attention + mlps <= layers):
        raise ConfigError(
            "attention_ratio and mlp_ratio must be shares of the layers, together at most 1; got "
            f"{attention_ratio} and {mlp_ratio}"
        )
    rest = layers - attention
    pattern = _spread("M" * layers, "*", rest / (attention + 1))
    return _spread(pattern, "-", (rest - mlps) / mlps) if mlps else pattern


def _spread(pattern: str, symbol: str, stretch: float) -> str:
    left, symbols = stretch, list(pattern)
    for i, before in enumerate(symbols):
        if before != "M":
            continue
        if left < 0.5:
            symbols[i] = symbol
            left += stretch
        else:
            left -= 1
    return "".join(symbols)


@dataclass(frozen=True)
class MambaHybridConfig(DecoderConfig):
    """Config of MambaHybrid."""

    vocab_size: int = 256000
    dim: int = 4096
    tied: bool = False
    pattern: str | None = None  # one symbol a layer: M Mamba-2, * attention, - MLP; None: from the next three
    layers: int = 56
    attention_ratio: float = 0.08  # share of the layers, in [0, 1]
    mlp_ratio: float = 0.5
    mixer: Spec = Spec("mamba2", {"ngroups": 8, "chunk_size": 128})
    attention: Spec = Spec("attention", {"heads": 32, "kv_heads": 8, "head_dim": 128})
    ffn: Spec = Spec("mlp", {"bias": False})
    init_std: float = 0.02  # of linear maps at the start, > 0; a narrow net wants more, about dim^-0.5

    def validate(self) -> None:
        super().validate()
        self.require_positive("layers", "init_std")
        self.require(bool(self.symbols), "pattern must have a layer at least")
        unknown = sorted({symbol for symbol in self.symbols if symbol not in SYMBOLS})
        known = ", ".join(f"{symbol} {name}" for symbol, name in SYMBOLS.items())
        self.require(
            not unknown, f"pattern {self.pattern!r} has {', '.join(map(repr, unknown))}; known: {known}"
        )

    @property
    def symbols(self) -> str:
        """The pattern, given or worked out."""
        if self.pattern is not None:
            return self.pattern
        return layer_pattern(self.layers, self.attention_ratio, self.mlp_ratio)

    def blocks(self) -> tuple[BlockSpec, ...]:
        kinds = {
            "M": BlockSpec(self.mixer),
            "*": BlockSpec(self.attention),
            "-": BlockSpec(None, self.ffn),
        }
        return tuple(kinds[symbol] for symbol in self.symbols)


@register_model(
    "mamba_hybrid",
    paper=Paper(
        "An Empirical Study of Mamba-based Language Models", 2024, "", "https://arxiv.org/abs/2406.07887"
    ),
    tasks=("language-modelling",),
    family="sequence",
    provenance="authors' code",
    variants={
        "mamba_hybrid_8b": {},
        "mamba_hybrid_nano": {
            "vocab_size": 256,
            "dim": 128,
            "pattern": "M-M*-M-M-M-",
            "mixer": Spec("mamba2", {"d_state": 64, "headdim": 32, "chunk_size": 64}),
            "attention": Spec("attention", {"heads": 4, "kv_heads": 2}),
            "init_std": 0.08,
        },
    },
    tiny={
        "vocab_size": 29,
        "dim": 16,
        "pattern": "M-*M",
        "mixer": Spec("mamba2", {"d_state": 4, "headdim": 4, "ngroups": 2}),
        "attention": Spec("attention", {"heads": 4, "kv_heads": 2}),
    },
    published={"mamba_hybrid_8b": {"parameters": 8_654_517_248}},
)
class MambaHybrid(Decoder):
    """The hybrid; linear maps start normal with deviation `init_std`, those that end a branch by depth less."""

    Config: ClassVar[type[ModelConfig]] = MambaHybridConfig

    def __init__(self, config: MambaHybridConfig) -> None:
        super().__init__(config)
        end = config.init_std / (2 * len(config.symbols)) ** 0.5
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                ends_branch = name.endswith((".out_proj", ".out", ".contract"))
                nn.init.normal_(module.weight, std=end if ends_branch else config.init_std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def parameter_rules(self) -> dict[str, dict[str, float]]:
        """No weight decay of what sets the time scales."""
        return {f"*.branch.{name}": {"weight_decay": 0.0} for name in ("A_log", "D", "init_states")}

    @classmethod
    def layouts(cls, config: Any) -> Mapping[str, Layout]:
        """The names of Megatron."""
        return {"megatron": megatron_layout(config.symbols, config.attention.options)}
