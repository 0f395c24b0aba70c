"""fgd: fine-grained distillation, by the similarity of tokens inside attention (QSD-Transformer, ICLR 2025).

A student with few levels cannot copy the queries, keys and values of a float teacher, but tokens that are alike there
should be alike here. For each attention layer and each f of q, k and v, per head,

    G = f f^T / ||f f^T||_F,    loss = mean over layers of the sum over f of mean ||G_student - G_teacher||_F.

The paper divides by the root of the width of a head as well, which the norm takes out again.

Shapes: T spike time, B batch, h heads, N tokens, K channels of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from neuromix.core.batch import Batch
from neuromix.core.checkpoint import load_checkpoint
from neuromix.core.config import Config
from neuromix.core.errors import ConfigError
from neuromix.core.model import Model, call
from neuromix.core.observe import record
from neuromix.core.registry import register_method
from neuromix.training.method import Method
from neuromix.training.run_folder import RunFolder
from neuromix.training.task import Losses

if TYPE_CHECKING:
    from neuromix.training.run import Run


class Features(NamedTuple):
    """What enters the products of one attention layer, [B, h, N, K] each."""

    query: Tensor
    key: Tensor
    value: Tensor


class Recorder:
    """Keeps what passes through the attention layers of a model while its context is open."""

    def __init__(self, model: nn.Module) -> None:
        self._model, self._stack = model, ExitStack()

    def __enter__(self) -> Recorder:
        self._seen = [self._stack.enter_context(record(self._model, role)) for role in Features._fields]
        self._stack.callback(self._model.register_forward_pre_hook(lambda *_: self._forget()).remove)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def layers(self) -> list[Features]:
        """The layers of the last run of the model, in order; of spikes, their mean over time. Forgets them."""
        of_roles = [[_over_time(tensors) for tensors in seen.values() if tensors] for seen in self._seen]
        self._forget()
        return [Features(*layer) for layer in zip(*of_roles, strict=False)]

    def _forget(self) -> None:
        for seen in self._seen:
            for tensors in seen.values():
                tensors.clear()


def _over_time(tensors: list[Tensor]) -> Tensor:
    """[B, h, N, K] of what one place gave: [T, B, h, N, K], perhaps in several pieces, or no T at all."""
    return torch.cat([x if x.dim() == 5 else x.unsqueeze(0) for x in tensors]).mean(0)


def similarity(x_BhNK: Tensor) -> Tensor:
    """x x^T over its norm, a head: [B, h, N, N]; zero where x is."""
    gram = x_BhNK @ x_BhNK.transpose(-2, -1)
    norm = torch.linalg.vector_norm(gram, dim=(-2, -1), keepdim=True)
    return gram / torch.where(norm > 0, norm, 1.0)


def fgd_loss(student: Sequence[Features], teacher: Sequence[Features]) -> Tensor:
    """The loss of the module's formula. Where numbers of heads differ, similarities are averaged over them.

    Raises:
        ConfigError: the numbers of layers or of tokens differ, or there is no attention layer.
    """
    if not student or len(student) != len(teacher):
        raise ConfigError(
            f"fgd pairs the attention layers in order: the student has {len(student)}, the teacher {len(teacher)}"
        )
    return torch.stack([_layer_loss(*pair) for pair in zip(student, teacher, strict=True)]).mean()


def _layer_loss(student: Features, teacher: Features) -> Tensor:
    losses = []
    for of_student, of_teacher in zip(student, teacher, strict=True):
        if of_student.shape[-2] != of_teacher.shape[-2]:
            raise ConfigError(
                f"fgd compares tokens: an attention layer of the student has {of_student.shape[-2]}, its partner in "
                f"the teacher {of_teacher.shape[-2]}; take a teacher whose maps have the same size"
            )
        ours, theirs = similarity(of_student), similarity(of_teacher.to(of_student))
        if ours.shape[1] != theirs.shape[1]:
            ours, theirs = ours.mean(1, keepdim=True), theirs.mean(1, keepdim=True)
        losses.append(torch.linalg.vector_norm(ours - theirs, dim=(-2, -1)).mean())
    return torch.stack(losses).sum()


def information_entropy(x: Tensor) -> float:
    """Bits that an element of x carries, by how often each value occurs: 0 where all are equal."""
    _, counts = torch.unique(x, return_counts=True)
    share = counts / x.numel()
    return float(-(share * share.log2()).sum())


@dataclass(frozen=True)
class FGDConfig(Config):
    """Config of FGD."""

    teacher: str = ""  # a run, or a checkpoint, of a model with attention over as many tokens
    weight: float = 1.0  # of the loss, > 0

    def validate(self) -> None:
        self.require_positive("weight")


@register_method("fgd")
class FGD(Method):
    """Adds the distance between the token similarities of the model in training and those of a frozen teacher."""

    Config: ClassVar[type[Config]] = FGDConfig

    def __init__(self, config: FGDConfig) -> None:
        super().__init__(config)
        if not config.teacher:
            raise ConfigError("fgd needs a teacher: --set method.teacher=RUN, or the file of its weights")
        path = Path(config.teacher)
        weights = RunFolder(path).weights if path.is_dir() else path
        self.teacher: Model = load_checkpoint(weights).eval().requires_grad_(False)
        self._student: Recorder | None = None

    def before_step(self, run: Run) -> None:
        self._close()
        self.teacher.to(run.fabric.device)
        self._student = Recorder(run.model).__enter__()

    def losses(self, run: Run, batch: Batch, output: Any) -> Losses:
        assert self._student is not None
        student = self._student.layers()
        with torch.no_grad(), run.fabric.autocast():
            teacher = attention_features(self.teacher, batch)
        return {"fgd": self.config.weight * fgd_loss(student, teacher)}

    def after_backward(self, run: Run) -> None:
        self._close()

    def _close(self) -> None:
        if self._student is not None:
            self._student.__exit__()
            self._student = None


def attention_features(model: Model, batch: Batch) -> list[Features]:
    """Queries, keys and values of each attention layer of a model, for a batch."""
    with Recorder(model) as recorder:
        call(model, batch)
        return recorder.layers()
