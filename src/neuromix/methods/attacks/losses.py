"""What attacks drive up, of each sample: larger is nearer to a wrong answer.

Shapes: B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from neuromix.core.errors import ConfigError

LossName: TypeAlias = Literal["ce", "cw", "dlr"]
Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # (logits_BK, label_B) -> loss_B


def cross_entropy(logits_BK: Tensor, label_B: Tensor) -> Tensor:
    """-log softmax(z)_y."""
    return F.cross_entropy(logits_BK, label_B, reduction="none")


def margin(logits_BK: Tensor, label_B: Tensor) -> Tensor:
    """max_{j != y} z_j - z_y (Carlini & Wagner, S&P 2017): above 0 the answer is wrong."""
    right_B1 = logits_BK.gather(1, label_B[:, None])
    others_BK = logits_BK.scatter(1, label_B[:, None], -torch.inf)
    return others_BK.amax(1) - right_B1[:, 0]


def logits_ratio(logits_BK: Tensor, label_B: Tensor) -> Tensor:
    """The margin over the distance of the largest logit from the third (Croce & Hein, ICML 2020): knows no scale.

    Raises:
        ConfigError: fewer than three classes.
    """
    if logits_BK.shape[1] < 3:
        raise ConfigError(f"loss dlr needs 3 classes or more, the model has {logits_BK.shape[1]}: take cw")
    best_B3 = logits_BK.topk(3, 1).values
    return margin(logits_BK, label_B) / (best_B3[:, 0] - best_B3[:, 2] + 1e-12)


LOSSES: Mapping[str, Loss] = {"ce": cross_entropy, "cw": margin, "dlr": logits_ratio}
