"""Robustness: what an attack did to the samples of a model, and the hook that lets it work in an evaluation.

Shapes: B batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor

from neuromix.core.batch import Batch
from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError
from neuromix.core.model import Model
from neuromix.methods.attacks.attack import Attack
from neuromix.methods.attacks.victim import FIELD, IMAGES, Range, Victim

FEW = (200, 800)  # changed values, below which a success counts as a sparse one


@dataclass
class Robustness:
    """Counts over samples. Those that are taken wrongly without an attack are not attacked.

    Attributes:
        samples: how many there were.
        attacked: of these, taken rightly before the attack.
        values: of one sample: pixels of all channels and frames.
        l0: of each success, how many values were changed.
        linf: of each success, the largest change.
    """

    samples: int = 0
    attacked: int = 0
    values: int = 0
    l0: list[int] = field(default_factory=list)
    linf: list[float] = field(default_factory=list)

    @property
    def clean_accuracy(self) -> float:
        """Share of the samples that is taken rightly."""
        return self.attacked / self.samples if self.samples else 0.0

    @property
    def adversarial_accuracy(self) -> float:
        """Share of the samples that still is."""
        return (self.attacked - len(self.l0)) / self.samples if self.samples else 0.0

    @property
    def success_rate(self) -> float:
        """(clean - adversarial accuracy) / clean accuracy: the share of the attacked that is taken wrongly now."""
        return len(self.l0) / self.attacked if self.attacked else 0.0

    def success_below(self, values: int) -> float:
        """Share of the attacked that is taken wrongly with fewer values changed."""
        return sum(changed < values for changed in self.l0) / self.attacked if self.attacked else 0.0

    def add(self, x: Tensor, changed: Tensor, is_wrong_B: Tensor) -> None:
        """Takes in attacked samples x and what became of them."""
        self.attacked += len(x)
        self.values = math.prod(x.shape[1:])
        change = (changed - x).abs().flatten(1)[is_wrong_B]
        self.l0 += (change > 0).sum(1).tolist()
        self.linf += change.amax(1).tolist()

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values; None for what only successes have, where there is none."""
        found = bool(self.l0)
        return {
            "samples": self.samples,
            "attacked": self.attacked,
            "successes": len(self.l0),
            "clean_accuracy": self.clean_accuracy,
            "adversarial_accuracy": self.adversarial_accuracy,
            "attack_success_rate": self.success_rate,
            **{f"success_rate_l0_below_{few}": self.success_below(few) for few in FEW},
            "values": self.values,
            "l0_mean": fmean(self.l0) if found else None,
            "l0_median": median(self.l0) if found else None,
            "l0_median_share": median(self.l0) / self.values if found else None,
            "l0_max": max(self.l0) if found else None,
            "linf_mean": fmean(self.linf) if found else None,
            "linf_max": max(self.linf) if found else None,
        }


class Perturbation:
    """An attack in the place of `perturb`, which keeps count: `evaluate(model, task, perturb=Perturbation(FGSM()))`.

    Each batch is given to the model as it is shown to it: normalised and coded. Samples that are taken wrongly anyway
    stay as they are.

    Args:
        attack: what is done.
        range, coding, surrogate: see Victim. The batch has values as the range normalises them.
    """

    def __init__(
        self,
        attack: Attack,
        range: Range = IMAGES,
        coding: str = "direct",
        surrogate: Spec | str = "pdsg",
    ) -> None:
        self.attack, self.range, self.coding, self.surrogate = attack, range, coding, surrogate
        self.found = Robustness()

    def __call__(self, model: Model, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch, attacked.

        Raises:
            ConfigError: the batch has no image or no label of one class a sample; or as the attack says.
        """
        x, label_B = self._fields(batch)
        victim = Victim(model, self.surrogate, self.coding, self.range, generator)
        if self.coding == "binary":
            x = victim.shown(x).detach()  # what is counted and attacked are the frames that the model sees
        self.attack.check(victim, x)
        right_B = victim.answers(x) == label_B
        changed = x.clone()
        if right_B.any():
            changed[right_B] = self.attack(victim, x[right_B], label_B[right_B], generator).detach()
        with torch.no_grad():
            shown = victim.shown(changed)
            wrong_B = victim.said_of(shown).argmax(1) != label_B
        self.found.samples += len(x)
        self.found.add(x[right_B], changed[right_B], wrong_B[right_B])
        return batch.replace(**{FIELD: shown})

    def _fields(self, batch: Batch) -> tuple[Tensor, Tensor]:
        image, label = batch.get(FIELD), batch.get("label")
        if not isinstance(image, Tensor) or not isinstance(label, Tensor) or label.dim() != 1:
            raise ConfigError(
                f"attacks change images and event frames with one label each; the batch has {', '.join(batch)}"
            )
        return self.range.restored(image), label
