"""transfer-dvs: a net for event cameras learns from still images of the same classes as well (He et al., AAAI 2024).

Recordings of event cameras are few, images are many. Each recording of a batch comes with an image of its class. One
spiking trunk sees both, the image over and over for all time steps, and a classifier of its own reads each of the
two. What the trunk makes of them is brought together step by step: their kernel alignment is to rise. In the course of
training recordings take the places of more and more images (sliding training). In the end the classifier of the images
is thrown away, and what is left is the plain net.

    L = (1 - l) mean_t CE(o_s[t], y)             + l mean_t MSE(o_s[t], 1/2)                  images
      + (1 - l) mean_t (1 - s[t]) CE(o_e[t], y)  + l mean_t (1 - s[t]) MSE(o_e[t], 1/2)       events
      + 1/2 mean_t s[t] (1 - |CKA(F_s[t], F_e[t])|)                                           domain

s[t] = sigmoid(coefficient[t]) is learnt. Nothing holds it: where CE > (1 - CKA) / 2 it rises, towards 1, where the
classifier of the events learns no more; `most` is a limit to it.

Shapes: T spike time, B batch, P = 2 polarities, H W sensor, D features, K classes.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from neuromix.core.batch import Batch
from neuromix.core.config import Config, Spec
from neuromix.core.edits import apply_edit
from neuromix.core.errors import ConfigError
from neuromix.core.model import Model, arguments
from neuromix.core.registry import register_method
from neuromix.core.stream import stream
from neuromix.data.dataset import Dataset
from neuromix.data.events.dataset import EventDataset
from neuromix.data.events.paired import (
    FIELD,
    PairedEvents,
    Partners,
    find_partners,
    replacement_probability,
    shown,
    with_replaced,
)
from neuromix.layers.alignment import linear_cka
from neuromix.layers.static_branch import EDIT, branch_of, static_classifier, without_static_branch
from neuromix.methods.segments import require_spike_time, unrolled
from neuromix.methods.sltt import share_gradients
from neuromix.methods.step_features import Steps, run_steps
from neuromix.training.auxiliary import AuxiliaryLosses
from neuromix.training.method import Method, Stage
from neuromix.training.task import Losses, Task, total

if TYPE_CHECKING:
    from neuromix.training.run import Run


@dataclass(frozen=True)
class TransferDVSConfig(Config):
    """Config of TransferDVS."""

    static: str = (
        ""  # images by class, as `open_images` takes them; "": those that the recordings are simulated from
    )
    balanced: bool = False  # draw recordings so that every class comes equally often
    # Whose membrane potential after the reset is aligned, or of a layer that is no neuron, whose input is; None: what
    # the model names (`aligned_at`), else its last neuron.
    feature: str | None = None
    classifier: str | None = (
        None  # the layer that gives the logits; None: the last linear one with `num_classes`
    )
    domain: float = 0.5  # weight of the domain loss, >= 0
    s: float | Literal["learnt", "off"] = "learnt"  # weight of a step; a number in (0, 1) is that for all
    most: float = 1.0  # largest learnt s, in (0, 1]; below 1 events are always learnt from
    sliding: bool = (
        True  # False: images alone, in the second half of the epochs recordings alone, and no domain loss
    )
    power: float = 3.0  # of the sliding, > 0
    mse: float = 1e-3  # l, the share of the squared error, in [0, 1]
    mse_target: float = 0.5  # of all logits: the firing threshold

    def validate(self) -> None:
        self.require_positive("power")
        self.require(self.domain >= 0, f"domain must not be negative, got {self.domain}")
        self.require(0 <= self.mse <= 1, f"mse must be in [0, 1], got {self.mse}")
        self.require(0 < self.most <= 1, f"most must be in (0, 1], got {self.most}")
        fixed = isinstance(self.s, float)
        self.require(not fixed or 0 < self.s < 1, f"a fixed s must be in (0, 1), got {self.s}")  # type: ignore[operator]


class Weights(NamedTuple):
    """How much each time step counts, [T] each: in the domain loss, in the two losses of the events."""

    domain: Tensor
    event: Tensor
    event_mse: Tensor


def step_weights(coefficient_T: Tensor, config: TransferDVSConfig) -> Weights:
    """s and 1 - s; 1 where they are off. A fixed s leaves the squared error of the events alone."""
    one_T = torch.ones_like(coefficient_T)
    if config.s == "off":
        return Weights(one_T, one_T, one_T)
    if config.s == "learnt":
        s_T = coefficient_T.sigmoid().clamp(max=config.most)
        return Weights(s_T, 1 - s_T, 1 - s_T)
    return Weights(config.s * one_T, (1 - config.s) * one_T, one_T)


def transfer_losses(
    static: Steps,
    event: Steps,
    coefficient_T: Tensor,
    loss: Callable[[Tensor], Tensor],
    config: TransferDVSConfig,
) -> dict[str, Tensor]:
    """The three losses, by name; see the module.

    Args:
        static, event: what the net made of the images and of the recordings.
        loss: of the logits [B, K] of a step, such as a cross-entropy with the labels.
    """
    weights, l = step_weights(coefficient_T, config), config.mse  # noqa: E741 (as in the formula)

    def errors(logits_TBK: Tensor) -> tuple[Tensor, Tensor]:
        squares_T = (logits_TBK - config.mse_target).square().mean((1, 2))
        return torch.stack([loss(logits_BK) for logits_BK in logits_TBK]), squares_T

    ce_T, mse_T = errors(static.logits)
    losses = {"static": ((1 - l) * ce_T + l * mse_T).mean()}
    ce_T, mse_T = errors(event.logits)
    losses["event"] = ((1 - l) * weights.event * ce_T + l * weights.event_mse * mse_T).mean()
    if config.domain > 0 and config.sliding:
        cka_T = linear_cka(static.features, event.features)
        losses["domain"] = config.domain * (weights.domain * (1 - cka_T.abs())).mean()
    return losses


def two_branches(
    model: Model,
    static_BTPHW: Tensor,
    batch: Batch,
    *,
    at: str | None = None,
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
) -> tuple[Steps, Steps]:
    """What a model with a static branch makes of images, and then of the events of the batch.

    Args:
        static_BTPHW: images in the form of frames, of which recordings may have taken the places.
        at: see `run_steps`.
    """
    net = stream(model)
    with static_classifier(model):
        static = run_steps(net, _input(model, batch.replace(image=static_BTPHW)), at, autocast)
    return static, run_steps(net, _input(model, batch), at, autocast)


def _input(model: Model, batch: Batch) -> Tensor:
    return unrolled(model, model.encode(*arguments(model, batch)))


@register_method("transfer-dvs")
class TransferDVS(Method):
    """Trains a spiking classifier of events with labelled still images of the same classes; see the module.

    It works on every model that steps along spike time, and on the task event-classification with frames. The model
    that is trained has a `static_branch`; validation and test run without it, and it is gone from the result.
    """

    Config: ClassVar[type[Config]] = TransferDVSConfig

    def __init__(self, config: TransferDVSConfig) -> None:
        super().__init__(config)
        self._epochs = self._batches = 1

    def stage(self, i: int, run: Run) -> Stage | None:
        if i > 0:
            return None
        config: TransferDVSConfig = self.config
        require_spike_time(run.model, "transfer-dvs")
        events = _recordings(run.task)
        self._epochs, self._batches = run.config.epochs, max(1, len(events) // run.config.batch_size)
        branch = {
            "classifier": config.classifier or find_classifier(run.model),
            "time_steps": len(events.sample(0, torch.Generator())["image"]),  # type: ignore[arg-type]
        }
        model = apply_edit(run.model, Spec(EDIT, branch))
        task = _paired(run.task, find_partners(events, config.static), config.balanced)
        return Stage("transfer", model, task, run.config.epochs)

    def step(self, run: Run, batch: Batch) -> Losses:
        config: TransferDVSConfig = self.config
        image_BTPHW = batch.tensor("image")
        p = replacement_probability(
            run.point.batch,
            run.point.epoch,
            self._batches,
            self._epochs,
            config.power,
            sliding=config.sliding,
        )
        still_BTPHW = shown(batch.tensor(FIELD), image_BTPHW)
        static_BTPHW = with_replaced(still_BTPHW, image_BTPHW, p, run.generator)
        at = config.feature or getattr(run.model, "aligned_at", None)
        with AuxiliaryLosses(run.model) as auxiliary:
            static, event = two_branches(run.model, static_BTPHW, batch, at=at, autocast=run.fabric.autocast)

        def loss(logits_BK: Tensor) -> Tensor:
            return total(run.task.loss(logits_BK, batch))

        losses: Losses = transfer_losses(static, event, branch_of(run.model).coefficient_T(), loss, config)
        losses = run.method.with_added(losses, run, batch, event.logits.mean(0), auxiliary)
        run.backward(total(losses))
        share_gradients(run)
        return losses

    def finish(self, run: Run) -> Model:
        return without_static_branch(run.model)


def find_classifier(model: Model) -> str:
    """The path of the last linear layer that gives `num_classes` numbers.

    Raises:
        ConfigError: there is none.
    """
    classes = getattr(model.config, "num_classes", None)
    found: list[str] = [
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == classes
    ]
    if not found:
        raise ConfigError(
            f"transfer-dvs finds no linear layer of {model.name or type(model).__name__} that gives its {classes} "
            "logits; name the layer that does: --set method.classifier=PATH"
        )
    return found[-1]


def _paired(task: Task, partners: Partners, balanced: bool) -> Task:
    """The task in all but what is trained on."""

    def data(split: str, *, augment: bool = False) -> Dataset:
        plain = task.data(split, augment=augment)
        if not augment or not isinstance(plain, EventDataset):
            return plain
        return PairedEvents(plain, partners, balanced)

    paired = copy.copy(task)
    paired.__dict__["data"] = data
    return paired


def _recordings(task: Task) -> EventDataset:
    """The training recordings of a task, which must give them as frames, a frame a time step.

    Raises:
        ConfigError: it does not.
    """
    data = task.data("train")
    frames = isinstance(data, EventDataset) and data.representation.field == "image"
    if not frames or task.kind != "event-classification":
        raise ConfigError(
            "transfer-dvs trains on recordings of an event camera, in frames that are time steps: "
            '--task events --data digits-dvs, with the layout "steps"'
        )
    assert isinstance(data, EventDataset)
    return data
