"""Figures that papers print, beside what is counted here of the same model.

An entry keeps them under `published[variant]`: `parameters`, `parameters_m` (in millions), `frozen_parameters`,
`gmacs` and other keys that begin so (1e9 multiply-adds), `mj_tN` (mJ at N time steps), and scores. What they are
figures of is kept beside them: `scope` (the parameters that count), `counting` (the paper's rule), `gmacs_at` (the
input of the multiply-adds, and Config values), `gmacs_note` (why a count differs).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from neuromix.core import registry
from neuromix.core.checkpoint import create_model
from neuromix.core.edits import apply_edit
from neuromix.measure.dense import dense_macs
from neuromix.measure.energy import FIRST
from neuromix.measure.parameters import count_parameters
from neuromix.measure.profile import Profile
from neuromix.measure.rules import counting_rule

# Keys that say what the figures are of.
ABOUT = ("scope", "counting", "gmacs_at", "gmacs_note")


@dataclass(frozen=True)
class PublishedFigure:
    """A figure of a paper.

    Attributes:
        published: as printed.
        counted: the same by this library, in the same unit; None for what is not counted.
        note: why it is not, or why it differs.
    """

    published: float
    counted: float | None = None
    note: str = ""

    @property
    def difference(self) -> float | None:
        """counted / published - 1."""
        return None if self.counted is None else self.counted / self.published - 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "published": self.published,
            "counted": self.counted,
            "difference": self.difference,
            "note": self.note,
        }


def published_figures(
    name: str, seen: Profile | None = None, shape: Sequence[int] = (), time_steps: int | None = None
) -> dict[str, PublishedFigure]:
    """The figures that the paper of a registered model prints of it, by key; none for a model without a paper.

    Parameters and multiply-adds are counted on the meta device, of the variant `name` at the paper's input, so it
    takes neither weights nor their memory.

    Args:
        seen: a profile of the model with trained weights; its energy is compared where it was counted by the
            paper's rule at the paper's input.
        shape, time_steps: of that profile; the shape of one sample.

    Example:
        >>> published_figures("poolformer_s12")["gmacs"]
        PublishedFigure(published=1.8, counted=1.812267008, note='')
    """
    if name not in registry.names("model"):
        return {}
    published = registry.find("model", name)[0].published.get(name, {})
    figures = {key: value for key, value in published.items() if key not in ABOUT}
    if not figures:
        return {}
    with torch.device("meta"):
        net = create_model(name)
    counted = {**_parameters(net, published), **_multiply_adds(name, published)}
    if seen is not None and _as_in_paper(name, seen, shape, published):
        counted[f"mj_t{time_steps}"] = seen.energy[FIRST]
    return {
        key: PublishedFigure(value, counted.get(key), _note(key, published, counted))
        for key, value in figures.items()
    }


def _as_in_paper(name: str, seen: Profile, shape: Sequence[int], published: Mapping[str, Any]) -> bool:
    """Whether an energy was counted as the paper does, of the same network."""
    input_shape = published.get("gmacs_at", {}).get("input", ())
    rule = counting_rule("paper", name).to_dict()
    return FIRST in seen.energy and seen.counting == rule and tuple(shape) == tuple(input_shape)


def _parameters(net: nn.Module, published: Mapping[str, Any]) -> dict[str, float]:
    scope = published.get("scope", "trainable")
    whole = apply_edit(net, "fuse") if scope == "fused" else net  # type: ignore[arg-type]
    number = count_parameters(whole, trainable_only=scope != "all")
    frozen = count_parameters(net, trainable_only=False) - count_parameters(net)
    return {"parameters": number, "parameters_m": number / 1e6, "frozen_parameters": frozen}


def _multiply_adds(name: str, published: Mapping[str, Any]) -> dict[str, float]:
    """1e9 multiply-adds at the paper's input, for each key that means them."""
    keys = [key for key in published if key.startswith("gmacs") and key not in ABOUT]
    if not keys or "gmacs_at" not in published:
        return {}
    at = dict(published["gmacs_at"])
    with torch.device("meta"):
        image_BCHW = torch.empty(1, *at.pop("input"))
        net = create_model(name, **at).eval()
    return dict.fromkeys(keys, dense_macs(net, image_BCHW) / 1e9)


def _note(key: str, published: Mapping[str, Any], counted: Mapping[str, float]) -> str:
    if key.startswith("gmacs"):
        unknown = "" if key in counted else "the entry does not say of what input (gmacs_at)"
        return str(published.get("gmacs_note", unknown))
    if key.startswith("mj_") and key not in counted:
        return "depends on firing rates: needs trained weights, the paper's input and rule"
    return "" if key in counted else "a score: see neuromix eval"
