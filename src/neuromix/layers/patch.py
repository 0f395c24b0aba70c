"""PatchConv: the strided convolution that makes tokens of an image, or fewer tokens of a map.

Shapes: B batch, C channels, H W feature map.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor, nn

from neuromix.layers.init import truncated_normal


class Window(NamedTuple):
    """How a square convolution samples its input."""

    kernel: int
    stride: int
    padding: int

    def output_side(self, side: int) -> int:
        """Length of the output along an axis of length `side`; below 1 where the input is too small."""
        return (side + 2 * self.padding - self.kernel) // self.stride + 1

    def least_side(self, output_side: int) -> int:
        """The shortest input that gives `output_side`."""
        return max(1, (output_side - 1) * self.stride + self.kernel - 2 * self.padding)


class PatchConv(nn.Module):
    """A convolution with a norm before it (`norm_first`, over the input channels) or after it.

    `init` "truncated_normal" (deviation 0.02, bias zero) or "torch" (PyTorch's default) says how it starts.
    """

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        window: Window,
        norm: nn.Module,
        *,
        norm_first: bool = False,
        init: Literal["torch", "truncated_normal"] = "torch",
    ) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.norm = norm
        self.conv = nn.Conv2d(dim_in, dim_out, window.kernel, window.stride, window.padding)
        if init == "truncated_normal":
            truncated_normal(self.conv)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW: Tensor = self.conv(self.norm(x_BCHW)) if self.norm_first else self.norm(self.conv(x_BCHW))
        return y_BCHW

    def extra_repr(self) -> str:
        return f"norm_first={self.norm_first}"
