"""S-Mamba: forecasting with a scan over the variates (Wang et al., "Is Mamba Effective for Time Series Forecasting?").

One token is the whole past of one variate, or of one calendar feature. A linear map turns it into a vector, Mamba in
both directions over the tokens lets the variates hear one another at a cost linear in their number, a feed-forward
network works on each by itself, and a linear map reads the future off it. No weight depends on the number of variates;
their order matters, though, since a scan goes along it.

Shapes: B batch, L look-back, S horizon, N variates, F calendar features, M = N + F tokens, D width, Q quantiles.
Default values: the authors' scripts, for ETTh1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor, nn

from neuromix.core import registry
from neuromix.core.batch import Batch
from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError
from neuromix.core.layout import Layout, Rule, drop, rename, reshape
from neuromix.core.model import Field, Model, ModelConfig
from neuromix.core.reference import load_reference, reference
from neuromix.core.registry import Paper, register_model
from neuromix.layers.chance import Dropout
from neuromix.layers.ffn import FeedForward, FeedForwardConfig
from neuromix.layers.residual import Residual
from neuromix.layers.window_norm import WindowNorm, require_series, split_quantiles
from neuromix.mixers.sequence import make_sequence_mixer

PAPER = Paper(
    "Is Mamba Effective for Time Series Forecasting?",
    2024,
    "Neurocomputing",
    "https://arxiv.org/abs/2403.11144",
)
MIXER = Spec("mamba", {"d_state": 2, "d_conv": 2, "expand": 1.0})


@dataclass(frozen=True)
class SMambaConfig(ModelConfig):
    """Config of SMamba."""

    look_back: int = 96  # L
    horizon: int = 96  # S
    variates: int = 7  # N of the data; no weight depends on it
    calendar: int = 4  # F of the data, 0 without; no weight depends on it
    dim: int = 256  # D
    depth: int = 2  # blocks
    hidden: int | None = None  # units of the feed-forward network; null: as many as dim
    mixer: Spec = (
        MIXER  # a sequence mixer over the tokens; with directions none, a mixer of maps, such as attention
    )
    directions: Literal["both", "forward", "none"] = "both"  # two scans with weights of their own, or one
    # What works on each token by itself; mamba: an ablation, the mixer once more in its place.
    channel_mixer: Literal["mlp", "mamba"] = "mlp"
    activation: Spec = Spec("gelu")
    dropout: float = 0.1  # in [0, 1)
    normalise: bool = (
        True  # take mean and deviation of each variate over the look-back away, and put them back
    )
    quantiles: int = 0  # Q numbers for each step and variate; 0: one, without an axis of its own

    def validate(self) -> None:
        self.require_positive("look_back", "horizon", "variates", "dim", "depth")
        self.require(self.hidden is None or self.hidden > 0, f"hidden must be positive, got {self.hidden}")
        self.require(self.calendar >= 0, f"calendar must be 0 or more, got {self.calendar}")
        self.require(self.quantiles >= 0, f"quantiles must be 0 or more, got {self.quantiles}")
        self.require_within(0, 1, "dropout")


class BothWays(nn.Module):
    """onward(x) + flip(reverse(flip(x))), flipped along the tokens: each token hears all others."""

    def __init__(self, mixer: Spec, dim: int) -> None:
        super().__init__()
        self.onward, self.reverse = make_sequence_mixer(mixer, dim), make_sequence_mixer(mixer, dim)

    def forward(self, x_BMD: Tensor) -> Tensor:
        y_BMD: Tensor = self.onward(x_BMD) + self.reverse(x_BMD.flip(1)).flip(1)
        return y_BMD


class OneWay(nn.Module):
    """onward(x): a token hears those before it only. An ablation."""

    def __init__(self, mixer: Spec, dim: int) -> None:
        super().__init__()
        self.onward = make_sequence_mixer(mixer, dim)

    def forward(self, x_BMD: Tensor) -> Tensor:
        y_BMD: Tensor = self.onward(x_BMD)
        return y_BMD


class AsMap(nn.Module):
    """A mixer of maps over the tokens, which stand in one column of a map: no order but what the mixer sees."""

    def __init__(self, mixer: Spec, dim: int) -> None:
        super().__init__()
        self.onward: nn.Module = registry.build("mixer", mixer, dim)

    def forward(self, x_BMD: Tensor) -> Tensor:
        y_BDM1: Tensor = self.onward(x_BMD.mT[..., None])
        return y_BDM1[..., 0].mT


_MIXING: Mapping[str, type[nn.Module]] = {"both": BothWays, "forward": OneWay, "none": AsMap}


class VariateBlock(nn.Module):
    """x1 = norm(x + mix(x)); y = norm(x1 + channel_mixer(x1)): [B, M, D] to the same shape."""

    def __init__(self, config: SMambaConfig) -> None:
        super().__init__()
        mixing = _MIXING[config.directions](config.mixer, config.dim)
        self.mixer = Residual(mixing, nn.LayerNorm(config.dim), where="post")
        self.channel_mixer = Residual(
            nn.Sequential(_channel_mixer(config), Dropout(config.dropout)),
            nn.LayerNorm(config.dim),
            where="post",
        )

    def forward(self, x_BMD: Tensor) -> Tensor:
        y_BMD: Tensor = self.channel_mixer(self.mixer(x_BMD))
        return y_BMD


def _channel_mixer(config: SMambaConfig) -> nn.Module:
    if config.channel_mixer == "mamba":
        return make_sequence_mixer(config.mixer, config.dim)
    hidden = config.hidden or config.dim
    ffn = FeedForwardConfig(hidden=hidden, activation=config.activation, dropout=config.dropout)
    return FeedForward(ffn, config.dim)


def _published(parameters: int) -> dict[str, Any]:
    return {"parameters": parameters, "scope": "trainable"}


def _net(dim: int, depth: int, d_state: int, **more: Any) -> dict[str, Any]:
    return {"dim": dim, "depth": depth, "mixer": MIXER.with_options(d_state=d_state), **more}


@register_model(
    "s_mamba",
    paper=PAPER,
    tasks=("forecasting",),
    family="state-space",
    provenance="authors' code",
    # One a data set; horizons that the authors give another net have it in the name. Any horizon can be set.
    variants={
        "s_mamba": {},
        "s_mamba_etth1": {},
        "s_mamba_etth2": {},
        "s_mamba_ettm1_96": {},
        "s_mamba_ettm1": _net(128, 2, 2, horizon=720),
        "s_mamba_ettm2_96": {},
        "s_mamba_ettm2": _net(128, 2, 2, horizon=720),
        "s_mamba_weather": _net(512, 3, 2, variates=21),
        "s_mamba_electricity_96": _net(512, 3, 16, variates=321),
        "s_mamba_electricity": _net(512, 3, 32, variates=321, horizon=192),
        "s_mamba_traffic": _net(512, 4, 32, variates=862),
        "s_mamba_exchange": _net(128, 2, 32, variates=8),
        "s_mamba_solar": _net(512, 2, 32, variates=137, calendar=0),
        "s_mamba_pems03": _net(512, 4, 32, variates=358, calendar=0, horizon=12),
        "s_mamba_pems03_48": _net(512, 5, 32, variates=358, calendar=0, horizon=48),
        "s_mamba_pems04": _net(1024, 4, 32, variates=307, calendar=0, horizon=12, normalise=False),
        "s_mamba_pems07_12": _net(512, 2, 32, variates=883, calendar=0, horizon=12, normalise=False),
        "s_mamba_pems07": _net(512, 4, 32, variates=883, calendar=0, horizon=48, normalise=False),
        "s_mamba_pems08_12": _net(512, 2, 32, variates=170, calendar=0, horizon=12),
        "s_mamba_pems08": _net(256, 4, 32, variates=170, calendar=0, horizon=48),
    },
    tiny={
        "look_back": 12,
        "horizon": 4,
        "variates": 3,
        "calendar": 2,
        "dim": 16,
        "depth": 2,
        "hidden": 24,
        "mixer": MIXER.with_options(d_state=3),
    },
    published={
        "s_mamba": _published(1_145_696),
        "s_mamba_etth1": _published(1_145_696),
        "s_mamba_etth2": _published(1_145_696),
        "s_mamba_ettm1": _published(383_056),
        "s_mamba_weather": _published(6_631_008),
        "s_mamba_electricity_96": _published(6_760_032),
        "s_mamba_traffic": _published(9_176_672),
        "s_mamba_pems04": _published(35_568_652),
    },
)
class SMamba(Model):
    """series [B, L, N] and, where given, calendar [B, L, F] to the forecast [B, S, N], or [B, S, N, Q].

    It cannot be stepped: all steps of a variate are one token.
    """

    Config: ClassVar[type[ModelConfig]] = SMambaConfig
    inputs = (Field("series", "BLN"), Field("calendar", "BLF", optional=True))

    def __init__(self, config: SMambaConfig) -> None:
        super().__init__(config)
        self.window_norm = WindowNorm(config.normalise)
        self.embed = nn.Linear(config.look_back, config.dim)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.Sequential(*(VariateBlock(config) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(config.dim)
        self.head = nn.Linear(config.dim, config.horizon * max(1, config.quantiles))

    @classmethod
    def task_values(cls, config: SMambaConfig) -> Mapping[str, Any]:
        return {
            "look_back": config.look_back,
            "horizon": config.horizon,
            "calendar": config.calendar > 0,
        }

    def forward(self, *inputs: Tensor) -> Tensor:
        series_BLN, *calendar = inputs
        require_series(series_BLN, self.config.look_back)
        x_BLN, scale = self.window_norm(series_BLN)
        for calendar_BLF in calendar:
            require_series(calendar_BLF, self.config.look_back, "calendar", len(series_BLN))
            x_BLN = torch.cat([x_BLN, calendar_BLF], 2)
        x_BMD = self.blocks(self.dropout(self.embed(x_BLN.mT)))
        y_BSN: Tensor = self.head(self.norm(x_BMD[:, : series_BLN.shape[2]])).mT
        forecast: Tensor = scale.undo(split_quantiles(y_BSN, self.config.quantiles))
        return forecast

    def example(self, batch_size: int, generator: Generator | None = None) -> Batch:
        config: SMambaConfig = self.config
        fields = {"series": config.variates, "calendar": config.calendar}
        return Batch(
            {
                name: torch.randn(batch_size, config.look_back, size, generator=generator)
                for name, size in fields.items()
                if size
            }
        )

    @classmethod
    def layouts(cls, config: SMambaConfig) -> Mapping[str, Layout]:
        layer, block = "encoder.attn_layers.{i}", "blocks.{i}"
        mixing, mlp = f"{block}.mixer.branch", f"{block}.channel_mixer.branch.0"
        return {
            "authors": Layout(
                rename("enc_embedding.value_embedding.*", "embed.*"),
                # Built in every layer of the release, and never called.
                *(drop(f"{layer}.{dead}.*") for dead in ("man", "man2", "a")),
                rename(f"{layer}.attention.conv1d.*", f"{mixing}.onward.conv.conv.*"),
                rename(f"{layer}.attention_r.conv1d.*", f"{mixing}.reverse.conv.conv.*"),
                rename(f"{layer}.attention.*", f"{mixing}.onward.*"),
                rename(f"{layer}.attention_r.*", f"{mixing}.reverse.*"),
                *_pointwise(f"{layer}.conv1", f"{mlp}.expand"),
                *_pointwise(f"{layer}.conv2", f"{mlp}.contract"),
                rename(f"{layer}.norm1.*", f"{block}.mixer.norm.*"),
                rename(f"{layer}.norm2.*", f"{block}.channel_mixer.norm.*"),
                rename("encoder.norm.*", "norm.*"),
                rename("projector.*", "head.*"),
            )
        }


def _pointwise(theirs: str, ours: str) -> tuple[Rule, Rule]:
    """A convolution of one tap is a linear map of each token."""
    return (
        reshape(f"{theirs}.weight", f"{ours}.weight", lambda w: w[..., 0], lambda w: w[..., None]),
        rename(f"{theirs}.bias", f"{ours}.bias"),
    )


@reference("s-mamba")
def read_authors(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    """Constructor values of the authors' net; its sizes the weights tell."""
    layer = "encoder.attn_layers.0"
    try:
        embed, head = state["enc_embedding.value_embedding.weight"], state["projector.weight"]
        scan = {
            key: state[f"{layer}.attention.{key}"] for key in ("A_log", "conv1d.weight", "dt_proj.weight")
        }
        hidden = len(state[f"{layer}.conv1.weight"])
    except KeyError as error:
        raise ConfigError(f"the weights have no {error.args[0]}: not a net of the S-Mamba authors") from error
    dim, look_back = embed.shape
    channels, d_state = scan["A_log"].shape
    mixer = Spec(
        "mamba",
        {
            "d_state": d_state,
            "d_conv": scan["conv1d.weight"].shape[2],
            "expand": channels / dim,
            "dt_rank": scan["dt_proj.weight"].shape[1],
        },
    )
    values = SMambaConfig(
        look_back=look_back,
        horizon=len(head),
        variates=int(config.get("n_vars", 7)),
        calendar=int(config.get("n_marks", 0)),
        dim=dim,
        depth=len({name.split(".")[2] for name in state if name.startswith("encoder.attn_layers.")}),
        hidden=hidden,
        mixer=mixer,
        directions="both" if f"{layer}.attention_r.A_log" in state else "forward",
        # As the authors take it: whatever is not relu is gelu.
        activation=Spec("relu" if config.get("activation", "gelu") == "relu" else "gelu"),
        dropout=float(config.get("dropout", 0.1)),
        normalise=bool(config.get("use_norm", True)),
    )
    return load_reference("s_mamba", values, state)
