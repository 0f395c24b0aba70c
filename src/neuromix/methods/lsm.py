"""lsm: a head is trained on stored features, for a model whose encoder nothing trains (Lin et al., 2025).

Every sample goes through the encoder once; after that an epoch is a few products of small matrices. Before it, the
gain of a random liquid can be set so that its neurons fire at a given rate: a liquid that is silent, or that fires all
the time, tells little of its input.

Shapes: T spike time, B batch, N inputs of a step.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from neuromix.core.batch import Batch
from neuromix.core.checkpoint import rebuild
from neuromix.core.config import Config
from neuromix.core.errors import ConfigError, DataError
from neuromix.core.model import Model, arguments
from neuromix.core.registry import register_method
from neuromix.data.dataset import Loader
from neuromix.models.events.liquid import Liquid
from neuromix.training.cached import Cached
from neuromix.training.method import Method, Stage
from neuromix.training.task import Task

if TYPE_CHECKING:
    from neuromix.training.run import Run

RANGE = 12.0  # how far `const` is sought: up to 2^12 times smaller or larger


@torch.no_grad()
def const_for_rate(liquid: Liquid, x_TBN: Tensor, rate: float = 0.05) -> float:
    """The `const` at which the neurons of a liquid fire in this share of the steps, on these inputs.

    All weights are in proportion to `const`, and so the rate rises with it, though not smoothly: a crossing of the
    rate is found by Brent's method.

    Raises:
        ConfigError: a rate that is not in (0, 1).
        DataError: no const gives this rate, as where the inputs are silent.
    """
    from scipy.optimize import brentq

    if not 0 < rate < 1:
        raise ConfigError(f"firing_rate is in (0, 1), such as 0.05; got {rate}")
    trial = copy.deepcopy(liquid)
    weights = [p for p in trial.parameters() if p.dim() > 1]
    originals = [p.clone() for p in weights]

    def excess(log_gain: float) -> float:
        for weight, original in zip(weights, originals, strict=True):
            weight.copy_(original * 2**log_gain)
        return float(trial(x_TBN).mean()) - rate

    if excess(RANGE) <= 0 or excess(-RANGE) >= 0:
        raise DataError(
            f"no const between 2^-{RANGE:g} and 2^{RANGE:g} times {liquid.config.const} makes the liquid fire in "
            f"{rate:.1%} of the steps; are its inputs silent?"
        )
    return float(liquid.config.const * 2 ** brentq(excess, -RANGE, RANGE, xtol=1e-3))


def tuned(model: Model, batch: Batch, rate: float = 0.05) -> Model:
    """The model with the `const` of each of its liquids set for a firing rate on a batch; its head stays.

    Raises:
        ConfigError: the model has no liquid.
        DataError: see `const_for_rate`.
    """
    encoders = getattr(model, "encoders", None)
    if encoders is None:
        raise ConfigError(f"{model.name} has no liquid whose firing rate could be set; resistive_lsm has")
    found = {
        f"{prefix}liquid.const": const_for_rate(liquid, x_TBN, rate)
        for prefix, (liquid, x_TBN) in encoders(*arguments(model, batch)).items()
    }
    return rebuild(model, fresh=("*liquid.*",), **found)


@dataclass(frozen=True)
class LSMConfig(Config):
    """Config of LSMHead."""

    copies: int = 1  # times that the training samples are encoded, each augmented afresh
    firing_rate: float | None = (
        None  # of a liquid on training samples, in (0, 1); null: its const stays as it is
    )
    tuning_batch: int = 128  # training samples that this is measured on

    def validate(self) -> None:
        self.require_positive("copies", "tuning_batch")
        rate = self.firing_rate
        self.require(rate is None or 0 < rate < 1, f"firing_rate must be in (0, 1), got {rate}")


@register_method("lsm")
class LSMHead(Method):
    """Encodes all samples once and trains the model's head on what is stored.

    It works on every model that has `features` and `from_features` and of which nothing but `head` is trained.
    """

    Config: ClassVar[type[Config]] = LSMConfig

    def stage(self, i: int, run: Run) -> Stage | None:
        if i > 0:
            return None
        config, model, seed = self.config, run.model, run.config.seed
        _require_head(model)
        model.to(run.fabric.device)
        if config.firing_rate is not None:
            batch = _training_batch(run.task, config.tuning_batch, seed).to(run.fabric.device)
            model = tuned(model, batch, config.firing_rate).to(run.fabric.device)
        task = Cached(run.task, model, config.copies, run.config.batch_size, seed)
        return Stage("head", model, task, run.config.epochs, note=_note(model, config))


def _require_head(model: Model) -> None:
    """Refuses a model that has no stored form.

    Raises:
        ConfigError: with the reason.
    """
    if not (hasattr(model, "features") and hasattr(model, "from_features")):
        raise ConfigError(f"lsm trains a head on stored features; {model.name} has none, resistive_lsm has")
    others = [n for n, p in model.named_parameters() if p.requires_grad and not n.startswith("head.")]
    if others:
        raise ConfigError(
            f"lsm stores what a frozen encoder makes; {model.name} also trains {others[0]}: use --method bptt"
        )
    if getattr(model, "spiking", None) is not None:
        raise ConfigError(
            f"lsm: {model.name} has a spiking read-out, which needs the spikes of every step: use --method bptt"
        )


def _note(model: Model, config: Any) -> str:
    if config.firing_rate is None:
        return ""
    consts = {key.config.const for key in model.modules() if isinstance(key, Liquid)}
    return f"const for a firing rate of {config.firing_rate:.1%}: {', '.join(f'{c:.4g}' for c in sorted(consts))}"


def _training_batch(task: Task, size: int, seed: int) -> Batch:
    """Training samples without augmentation, drawn by the seed: the same in all processes."""
    data = task.data("train")
    loader = Loader(data, min(size, len(data)), seed=seed, shuffle=True, collate=task.collate)
    return next(iter(loader.batches(0, 0)))
