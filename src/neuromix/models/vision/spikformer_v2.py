"""Spikformer V2: a convolutional stem, and pre-training by masked reconstruction (Zhou et al., 2024).

The spiking convolutional stem (`layers.spiking_stem.ConvStem`) takes the place of the first version's, and deep nets
are pre-trained without labels: a quarter of the patches goes through the encoder as if the others did not exist, and
a plain light decoder rebuilds the hidden ones. No code was ever released: the stem is rebuilt from the paper's
outline and the published number of parameters, the constants of the pre-training are those of spiking masked
autoencoders of the same group.

Shapes: T spike time, B batch, C channels, H W image, h w grid of L = h*w patches, K visible patches, D width of the
encoder, E width of the decoder, P numbers of a patch. Default values: 8-512, and a decoder of 4 blocks of width 256.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn

from neuromix.core.batch import Batch
from neuromix.core.checkpoint import build_model
from neuromix.core.config import Spec, field_types
from neuromix.core.errors import ConfigError, ShapeError
from neuromix.core.layout import Layout, Rule, rename, reshape, transfer
from neuromix.core.model import Field
from neuromix.core.reference import load_reference, reference
from neuromix.core.registry import Paper, register_model
from neuromix.layers.block import Block
from neuromix.layers.init import truncated_normal
from neuromix.layers.mlp import make_channel_mixer
from neuromix.layers.norm import ChannelNorm
from neuromix.layers.position import sincos_positions
from neuromix.layers.residual import Residual
from neuromix.layers.visible import choose_visible, grid_mask, grown, visible_only
from neuromix.mixers.mixer import make_mixer
from neuromix.models.vision.spikformer import (
    TINY,
    Spikformer,
    SpikformerConfig,
    SpikformerEncoder,
    SpikformerV1Config,
    read_config,
)

PAPER = Paper(
    "Spikformer V2: Join the High Accuracy Club on ImageNet with an SNN Ticket", 2024, "arXiv:2401.02020"
)
# What an autoencoder has and a classifier has not, and the other way round.
DECODER, HEAD = "decoder.*", "head.*"


@dataclass(frozen=True)
class MaskedSpikformerConfig(SpikformerConfig):
    """Config of MaskedSpikformer; `num_classes` is of the classifier that it will become."""

    decoder_dim: int = 256  # E, a multiple of 4 and of the heads
    decoder_heads: int = 4
    decoder_depth: int = 4  # blocks

    def validate(self) -> None:
        super().validate()
        self.require_positive("decoder_dim", "decoder_heads", "decoder_depth")
        self.require(
            self.decoder_dim % 4 == 0, f"decoder_dim must be a multiple of 4, got {self.decoder_dim}"
        )
        self.require(
            self.decoder_dim % self.decoder_heads == 0,
            f"decoder_heads must divide decoder_dim, got {self.decoder_heads} for {self.decoder_dim}",
        )


class Decoder(nn.Module):
    """Visible tokens [B, D, K] to the pixels of every patch, [B, L, P]: a plain vision transformer."""

    def __init__(self, config: MaskedSpikformerConfig) -> None:
        super().__init__()
        dim, width, side = config.dim, config.decoder_dim, config.patch
        self.norm = nn.BatchNorm1d(dim)
        self.embed = truncated_normal(nn.Linear(dim, width))
        self.mask_token = nn.Parameter(torch.zeros(width))
        nn.init.normal_(self.mask_token, std=0.02)
        self.blocks = nn.Sequential(
            *(_decoder_block(width, config.decoder_heads) for _ in range(config.decoder_depth))
        )
        self.last_norm = ChannelNorm(width, 1e-6)
        self.predict = truncated_normal(nn.Linear(width, side * side * config.in_channels))

    def forward(self, visible_BDK: Tensor, kept_BK: Tensor, height: int, width: int) -> Tensor:
        seen_BKE = self.embed(self.norm(visible_BDK).transpose(1, 2))
        z_BLE = self.mask_token.expand(len(kept_BK), height * width, -1)
        z_BLE = z_BLE.scatter(1, kept_BK.unsqueeze(-1).expand_as(seen_BKE), seen_BKE.to(z_BLE.dtype))
        z_BEhw = rearrange(z_BLE, "B (h w) E -> B E h w", h=height)
        z_BEhw = z_BEhw + sincos_positions(z_BEhw.shape[1], height, width).to(z_BEhw)
        z_BEhw = self.last_norm(self.blocks(z_BEhw))
        patches_BLP: Tensor = self.predict(z_BEhw.flatten(2).transpose(1, 2))
        return patches_BLP


def _decoder_block(dim: int, heads: int) -> Block:
    mixer = make_mixer(Spec("attention", {"head_dim": dim // heads}), dim)
    return Block(
        Residual(mixer, ChannelNorm(dim, 1e-6)),
        Residual(make_channel_mixer("mlp", dim), ChannelNorm(dim, 1e-6)),
    )


@register_model(
    "spikformer_v2",
    paper=PAPER,
    tasks=("image-classification", "event-classification"),
    family="spiking",
    provenance="reconstructed",
    variants={
        "spikformer_v2_8_384": {"dim": 384},
        "spikformer_v2_8_512": {},
        "spikformer_v2_16_768": {"dim": 768, "depth": 16, "time_steps": 1},
        # Ours, for images of 8 to 32 pixels.
        "spikformer_v2_nano": {
            "strides": (1, 2),
            "stem_ratio": 2,
            "dim": 64,
            "depth": 2,
            "mlp_ratio": 2,
            # At the published scale and threshold so narrow a net on so small a map sends a third of the spikes, its
            # attention next to none at the start, and it learns several times more slowly.
            "mixer": ("ssa", {"heads": 4, "scale": 0.5}),
            "neuron.v_threshold": 0.5,
            "in_channels": 1,
            "num_classes": 10,
        },
    },
    tiny={
        **TINY,
        "stem_ratio": 2,
        "num_classes": 3,
    },
    published={
        "spikformer_v2_8_384": {
            "parameters": 29_111_272,
            "parameters_m": 29.11,
            "top1_t4": 78.80,
            "mj_t4": 4.69,
            "counting": {"static_stem": "once"},
        },
        "spikformer_v2_8_512": {
            "parameters": 51_545_064,
            "parameters_m": 51.55,
            "top1_t4": 80.38,
            "mj_t4": 9.36,
            "counting": {"static_stem": "once"},
        },
        "spikformer_v2_16_768": {
            "parameters": 172_278_760,
            "parameters_m": 172.70,
            "top1_t1": 81.10,
            "counting": {"static_stem": "once"},
        },
    },
)
class SpikformerV2(Spikformer):
    """A Spikformer with the convolutional stem, which can be pre-trained without labels."""

    def autoencoder(self, **options: Any) -> MaskedSpikformer:
        """An autoencoder whose encoder starts with the weights of this net.

        Args:
            options: of the decoder: `decoder_dim`, `decoder_heads`, `decoder_depth`.
        """
        if self.edits:
            raise ConfigError("a net that was edited - fused, quantised - cannot be pre-trained")
        config = MaskedSpikformerConfig.from_dict({**self.config.to_dict(), **options})
        model = build_model("spikformer_v2_ssl", config)
        assert isinstance(model, MaskedSpikformer)
        transfer(model, self.state_dict(), (DECODER, HEAD))
        return model


@register_model(
    "spikformer_v2_ssl",
    paper=PAPER,
    tasks=("masked-reconstruction",),
    family="spiking",
    provenance="reconstructed",
    tiny={
        **TINY,
        "stem_ratio": 2,
        "decoder_dim": 16,
        "decoder_heads": 2,
        "decoder_depth": 1,
    },
    no_compile="how many places of a map are visible depends on the data",
)
class MaskedSpikformer(SpikformerEncoder):
    """The autoencoder of the pre-training: image [B, C, H, W] and visible patches to all patches [B, L, P].

    `kept` [B, K] int64 holds the row-major numbers of the visible patches, squares of `config.patch` pixels. Hidden
    pixels reach nothing: the stem runs as if their places did not exist, and the blocks get the visible tokens only.
    A patch is in the order row, column, channel. It cannot be stepped: what is visible is a second input.
    """

    Config = MaskedSpikformerConfig
    inputs: ClassVar[tuple[Field, ...]] = (Field("image", "BCHW"), Field("kept", "BK"))

    def __init__(self, config: MaskedSpikformerConfig) -> None:
        super().__init__(config)
        self.decoder = Decoder(config)

    def forward(self, *inputs: Tensor) -> Tensor:
        image, kept_BK = inputs
        height, width = (side // self.config.patch for side in image.shape[-2:])
        tokens_TBDK = self.visible_tokens(image, kept_BK)
        patches_BLP: Tensor = self.decoder(tokens_TBDK.mean(0), kept_BK, height, width)
        return patches_BLP

    def visible_tokens(self, image: Tensor, kept_BK: Tensor) -> Tensor:
        """What the encoder makes of the visible patches, [T, B, D, K].

        Raises:
            ShapeError: the image does not fit, or `kept` is not [B, K] with numbers of its patches.
        """
        map_TBDhw = self.masked_stem(image, kept_BK)
        index_TBDK = kept_BK[None, :, None].expand(*map_TBDhw.shape[:3], -1)
        tokens_TBDK: Tensor = self.blocks(map_TBDhw.flatten(3).gather(3, index_TBDK).unsqueeze(-1)).squeeze(
            -1
        )
        return tokens_TBDK

    def masked_stem(self, image: Tensor, kept_BK: Tensor) -> Tensor:
        """The map behind the stem [T, B, D, h, w], zero where a patch is hidden; raises as `visible_tokens`."""
        x_TBCHW = self.encode(image)
        height, width = (side // self.config.patch for side in image.shape[-2:])
        _require_places(kept_BK, x_TBCHW.shape[1], height * width)
        visible_Bhw = grid_mask(kept_BK, height, width)
        pixels_BHW = grown(visible_Bhw, image.shape[-2])
        with visible_only(self.stem, visible_Bhw):
            map_TBDhw: Tensor = self.stem(x_TBCHW * pixels_BHW[:, None])
        return map_TBDhw

    def classifier(self) -> Spikformer:
        """The classifier that goes on from this encoder, with a fresh head."""
        values = {name: getattr(self.config, name) for name in field_types(SpikformerConfig)}
        model = build_model("spikformer_v2", SpikformerConfig(**values))
        assert isinstance(model, Spikformer)
        transfer(model, self.state_dict(), (DECODER, HEAD))
        return model

    def example(self, batch_size: int, generator: torch.Generator | None = None) -> Batch:
        image = super().example(batch_size, generator)["image"]
        kept_BK = choose_visible(batch_size, 16, 0.75, generator)
        return Batch({"image": image, "kept": kept_BK})

    @classmethod
    def layouts(cls, config: SpikformerConfig) -> Mapping[str, Layout]:
        layouts = super().layouts(config)
        return {who: Layout(*_decoder_rules(), *layout.rules) for who, layout in layouts.items()}


def _require_places(kept_BK: Tensor, batch_size: int, patches: int) -> None:
    fits = kept_BK.dim() == 2 and len(kept_BK) == batch_size and kept_BK.dtype == torch.int64
    if not fits or kept_BK.shape[1] == 0 or int(kept_BK.min()) < 0 or int(kept_BK.max()) >= patches:
        raise ShapeError(
            f"kept must be int64 [{batch_size}, K] with numbers of patches, 0 to {patches - 1}, got {kept_BK.dtype} "
            f"{list(kept_BK.shape)}"
        )


def _decoder_rules() -> list[Rule]:
    block = "decoder.blocks.{i}"
    rules = [
        rename("norm.*", "decoder.norm.*"),
        rename("decoder_embed.*", "decoder.embed.*"),
        reshape(
            "mask_token", "decoder.mask_token", lambda token: token[0, 0], lambda token: token[None, None]
        ),
        rename("decoder_norm.*", "decoder.last_norm.*"),
        rename("decoder_pred.*", "decoder.predict.*"),
        rename("decoder_blocks.{i}.norm1.*", f"{block}.mixer.norm.*"),
        rename("decoder_blocks.{i}.norm2.*", f"{block}.channel_mixer.norm.*"),
        rename("decoder_blocks.{i}.qkv.*", f"{block}.mixer.branch.qkv.*"),
        rename("decoder_blocks.{i}.proj.*", f"{block}.mixer.branch.proj.*"),
    ]
    for number, name in ((1, "expand"), (2, "contract")):
        theirs, ours = f"decoder_blocks.{{i}}.fc{number}", f"{block}.channel_mixer.branch.{name}"
        rules += [
            reshape(
                f"{theirs}.weight", f"{ours}.weight", lambda w: w[..., None, None], lambda w: w[..., 0, 0]
            ),
            rename(f"{theirs}.bias", f"{ours}.bias"),
        ]
    return rules


@reference("spikformer-v2")
def read_authors(given: Mapping[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    """A classifier of either version: the names of its weights tell which."""
    values = read_config(given, state)
    if values["stem"] == "sps":
        return load_reference("spikformer", SpikformerV1Config(**values), state)
    return load_reference("spikformer_v2", SpikformerConfig(**values), state)


@reference("spikformer-v2", kind="pretrain")
def read_pretraining(given: Mapping[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    """The autoencoder, decoder and all."""
    depth = {name.split(".")[1] for name in state if name.startswith("decoder_blocks.")}
    config = MaskedSpikformerConfig(
        **read_config(given, state),
        decoder_dim=len(state["decoder_embed.weight"]),
        decoder_heads=given.get("decoder_heads", 4),
        decoder_depth=len(depth),
    )
    return load_reference("spikformer_v2_ssl", config, state)
