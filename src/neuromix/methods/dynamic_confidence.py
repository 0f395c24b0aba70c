"""Dynamic confidence: a spiking classifier stops for each sample as soon as it is sure (Li, Jones & Furber, ICCV 2023).

The logits of the steps add up, and the largest probability of their softmax grows into a confidence. A sample whose
confidence passes a threshold leaves the batch, and the others go on without it. Nothing is trained: a divisor makes
the confidence honest and a threshold is chosen, both on held-out samples that ran to the end once.

Works on every model that steps along spike time and gives logits a step.

Shapes: T spike time, B batch, K classes, N samples.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from neuromix.core.batch import Batch
from neuromix.core.config import Config
from neuromix.core.errors import ShapeError
from neuromix.core.model import Model, arguments
from neuromix.core.stream import stream
from neuromix.methods.segments import require_spike_time, unrolled


def _margin(probability_BK: Tensor) -> Tensor:
    best = probability_BK.topk(min(2, probability_BK.shape[-1]), -1).values
    return best[..., 0] - best[..., 1:].sum(-1)


def _certainty(probability_BK: Tensor) -> Tensor:
    entropy: Tensor = torch.special.entr(probability_BK).sum(-1)
    return 1 - entropy / math.log(max(probability_BK.shape[-1], 2))


CONFIDENCES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "probability": lambda probability_BK: probability_BK.amax(-1),
    "margin": _margin,
    "entropy": _certainty,
}
GRID = (*(i / 100 for i in range(100)), 0.995, 0.999, 0.9995, 0.9999, 1.0)  # thresholds that are tried


@dataclass(frozen=True)
class ExitPolicy(Config):
    """When a sample stops: at the first step whose confidence in the running output is above `threshold`.

    The running output is O[t] = O[t-1] + z[t] / divisor, z[t] the logits of step t, and its softmax p gives the
    confidence: the largest probability, its margin over the second, or 1 - entropy(p) / log K; all are in [0, 1].
    """

    threshold: float = 0.6  # from 1 on no sample stops early
    divisor: float = 30.0  # of the logits, > 0
    confidence: Literal["probability", "margin", "entropy"] = "probability"

    def validate(self) -> None:
        self.require_positive("divisor")
        self.require(self.threshold >= 0, f"threshold must not be negative, got {self.threshold}")

    def confidence_of(self, running: Tensor) -> Tensor:
        """Confidence [...] in running outputs [..., K]."""
        return CONFIDENCES[self.confidence](running.softmax(-1))


class Exit(NamedTuple):
    """What samples left with.

    Attributes:
        logits: their running output, [B, K].
        steps: how many steps each took, [B], int64, from 1.
        time_steps: how many each could have taken.
    """

    logits: Tensor
    steps: Tensor
    time_steps: int


class Tradeoff(NamedTuple):
    """Mean steps a sample and the share of right answers at a threshold (None: an oracle's)."""

    threshold: float | None
    steps: float
    accuracy: float


def early_exit(model: Model, policy: ExitPolicy, *inputs: Tensor) -> Exit:
    """Runs a batch step by step; samples that are done leave it, so that the later steps cost less.

    The answers and steps are those that each sample has alone. The model should be in eval mode.

    Args:
        inputs: as of the model's forward.

    Raises:
        ConfigError: the model does not step along spike time.
        ShapeError: a step does not give logits [B, K].
    """
    require_spike_time(model, "early exit")
    with torch.no_grad():
        x_T = unrolled(model, model.encode(*inputs))
        session = stream(model).session()
        alive_B = torch.arange(x_T.shape[1], device=x_T.device)
        steps_B, running, left = torch.zeros_like(alive_B), None, []
        for t, x in enumerate(x_T):
            z = _logits(model.readout(session.step(x if len(alive_B) == len(x) else x[alive_B])[None]))
            running = z / policy.divisor if running is None else running + z / policy.divisor
            done = policy.confidence_of(running) > policy.threshold
            if t == len(x_T) - 1:
                done = torch.ones_like(done)
            if not done.any():
                continue
            left.append((alive_B[done], running[done]))
            steps_B[alive_B[done]] = t + 1
            stay = (~done).nonzero().squeeze(1)
            if len(stay) == 0:
                break
            session.select(stay)
            alive_B, running = alive_B[stay], running[stay]
    order = torch.cat([indices for indices, _ in left]).argsort()
    return Exit(torch.cat([logits for _, logits in left])[order], steps_B, len(x_T))


def summed_logits(model: Model, *inputs: Tensor) -> Tensor:
    """z[0] + ... + z[t] for every step t, [T, B, K]: all that a policy decides by.

    Raises:
        ConfigError, ShapeError: as `early_exit`.
    """
    require_spike_time(model, "early exit")
    with torch.no_grad():
        x_T = unrolled(model, model.encode(*inputs))
        session = stream(model).session()
        return torch.stack([_logits(model.readout(session.step(x)[None])) for x in x_T]).cumsum(0)


def exits(sum_TBK: Tensor, policy: ExitPolicy) -> Exit:
    """What `early_exit` gives, from the sums of a run to the end."""
    running_TBK = sum_TBK / policy.divisor
    at_B = _first_above(policy.confidence_of(running_TBK), policy.threshold)
    return Exit(running_TBK[at_B, torch.arange(len(at_B), device=at_B.device)], at_B + 1, len(sum_TBK))


def sweep(
    sum_TBK: Tensor, label_B: Tensor, policy: ExitPolicy, thresholds: Sequence[float] = GRID
) -> list[Tradeoff]:
    """Steps and accuracy at each threshold; the other fields of `policy` stay.

    Raises:
        ShapeError: there are no samples.
    """
    _require_samples(sum_TBK, label_B)
    right_TB = sum_TBK.argmax(-1) == label_B
    confidence_TB = policy.confidence_of(sum_TBK / policy.divisor)
    found = []
    for threshold in thresholds:
        at_B = _first_above(confidence_TB, threshold)
        found.append(Tradeoff(threshold, _mean(at_B + 1), _mean(right_TB.gather(0, at_B[None]))))
    return found


def pareto(points: Sequence[Tradeoff]) -> list[Tradeoff]:
    """The points that no other beats in both steps and accuracy, from few steps to many."""
    front: list[Tradeoff] = []
    for point in sorted(points, key=lambda p: (p.steps, -p.accuracy)):
        if not front or point.accuracy > front[-1].accuracy:
            front.append(point)
    return front


def potential(sum_TBK: Tensor, label_B: Tensor) -> Tradeoff:
    """The bound of all policies: every sample stops at the first step at which its answer is right.

    A sample that never is right takes all steps.

    Raises:
        ShapeError: there are no samples.
    """
    _require_samples(sum_TBK, label_B)
    right_TB = sum_TBK.argmax(-1) == label_B
    ever_B = right_TB.any(0)
    steps_B = torch.where(ever_B, right_TB.int().argmax(0) + 1, len(right_TB))
    return Tradeoff(None, _mean(steps_B), _mean(ever_B))


def calibrated_divisor(sum_TBK: Tensor, label_B: Tensor) -> float:
    """The divisor at which the softmax of the running output fits the labels best: the least cross-entropy.

    Temperature scaling (Guo et al., ICML 2017) of the running outputs of all steps together.

    Raises:
        ShapeError: there are no samples.
    """
    from scipy.optimize import minimize_scalar

    _require_samples(sum_TBK, label_B)
    sum_MK, label_M = sum_TBK.double().flatten(0, 1), label_B.repeat(len(sum_TBK))
    # Sums grow with the steps, and with the scale of the logits: the divisor is sought in units of both.
    unit = len(sum_TBK) * float(
        sum_TBK.diff(dim=0, prepend=torch.zeros_like(sum_TBK[:1])).double().std() or 1.0
    )

    def loss(log_ratio: float) -> float:
        return float(F.cross_entropy(sum_MK / (unit * math.exp(log_ratio)), label_M))

    found = minimize_scalar(loss, bounds=(-8.0, 8.0), method="bounded")
    return unit * math.exp(float(found.x))


def choose_policy(
    sum_TBK: Tensor,
    label_B: Tensor,
    *,
    threshold: float | None = None,
    divisor: float | None = None,
    confidence: str = "probability",
    lasting: bool = True,
) -> ExitPolicy:
    """The policy for held-out samples that ran to the end.

    The divisor is calibrated. The threshold is that of the point on the Pareto front with the fewest steps whose
    accuracy is not below that of all steps. Either is taken as given if it is given.

    Args:
        sum_TBK: of these samples, see `summed_logits`.
        lasting: only points count that are followed by none of less accuracy than all steps have, up to the
            largest threshold: with few samples a threshold may be good by luck. False: as in the paper.

    Raises:
        ShapeError: there are no samples.
    """
    if divisor is None:
        divisor = calibrated_divisor(sum_TBK, label_B)
    policy = ExitPolicy.from_dict({"threshold": 1.0, "divisor": divisor, "confidence": confidence})
    if threshold is None:
        points = sweep(sum_TBK, label_B, policy)
        full = points[-1].accuracy
        if lasting:
            points = list(itertools.takewhile(lambda point: point.accuracy >= full, reversed(points)))
        threshold = next(point.threshold for point in pareto(points) if point.accuracy >= full)
    return policy.replace(threshold=threshold)


class Bin(NamedTuple):
    """Samples whose confidence is in one bin: how many, their mean confidence, the share of right answers."""

    samples: int
    confidence: float
    accuracy: float


def reliability(confidence_N: Tensor, right_N: Tensor, bins: int = 10) -> list[Bin]:
    """The reliability diagram: bins of equal width over [0, 1], those without samples left out."""
    index_N = (confidence_N * bins).long().clamp(0, bins - 1)
    found = []
    for number in range(bins):
        inside_N = index_N == number
        if inside_N.any():
            found.append(Bin(int(inside_N.sum()), _mean(confidence_N[inside_N]), _mean(right_N[inside_N])))
    return found


class EarlyExit:
    """Predicts with a policy, in the place of a task: `evaluate(model, task, predict=EarlyExit(policy))`."""

    def __init__(self, policy: ExitPolicy) -> None:
        self.policy = policy

    def __call__(self, model: Model, batch: Batch, generator: torch.Generator) -> Exit:
        return early_exit(model, self.policy, *arguments(model, batch))


class StepSums(NamedTuple):
    """The prediction of a run to the end, with the sums of every step.

    Attributes:
        logits: [B, K].
        sums: [T, B, K], see `summed_logits`.
    """

    logits: Tensor
    sums: Tensor


def every_step(model: Model, batch: Batch, generator: torch.Generator) -> StepSums:
    """Predicts by all steps, in the place of a task, and keeps what each gave."""
    sum_TBK = summed_logits(model, *arguments(model, batch))
    return StepSums(sum_TBK[-1] / len(sum_TBK), sum_TBK)


def _first_above(confidence_TB: Tensor, threshold: float) -> Tensor:
    """The first step with more confidence than the threshold, or the last one; [B]."""
    done_TB = confidence_TB > threshold
    done_TB[-1] = True
    return done_TB.int().argmax(0)


def _logits(output: Any) -> Tensor:
    logits = output if isinstance(output, Tensor) else output[0]
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ShapeError(f"early exit needs logits [B, K] of every step, the model gives {shape}")
    return logits


def _require_samples(sum_TBK: Tensor, label_B: Tensor) -> None:
    if sum_TBK.dim() != 3 or 0 in sum_TBK.shape or label_B.shape != sum_TBK.shape[1:2]:
        raise ShapeError(
            f"expected sums [T, B, K] and labels [B] of at least one sample, got {list(sum_TBK.shape)} and "
            f"{list(label_B.shape)}"
        )


def _mean(values: Tensor) -> float:
    return float(values.double().mean())
