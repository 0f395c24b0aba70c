"""stdp: places are learnt by the timing of spikes, without gradients or an optimiser (Hussaini et al., ICRA 2023).

Each image of a batch is shown to the module that has its place, all modules at once, and changes its weights and
thresholds as it goes (`ops.synapses.Plasticity`). What neurons answered in an epoch says afterwards which place each
stands for. Then the references of all places are shown to every module; neurons that answer to too many are
silenced, and what is too many is chosen by queries that are no test queries.

Works on models with `learn`: ensemble_vpr.

Shapes: B images, R modules that learn at once, M modules, N neurons, K places a module.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from neuromix.core.batch import Batch
from neuromix.core.config import Config
from neuromix.core.errors import ConfigError
from neuromix.core.model import Model, call
from neuromix.core.registry import register_method
from neuromix.core.state import map_state
from neuromix.data.dataset import Loader
from neuromix.layers.votes import responses
from neuromix.models.vision.ensemble_vpr import EnsembleVPR
from neuromix.neurons.conductance import Memory
from neuromix.ops.diehl_cook import State
from neuromix.ops.synapses import Plasticity
from neuromix.training.method import Method
from neuromix.training.task import Losses, Task

if TYPE_CHECKING:
    from neuromix.training.run import Run


@dataclass(frozen=True)
class STDPConfig(Config):
    """Config of STDP."""

    rate_pre: float = 1e-4  # by which a weight changes when an input spike arrives
    rate_post: float = 1e-2  # when the neuron fires
    # An input spike that arrives soon after the neuron fired adds to its weight; Diehl & Cook (2015) subtract.
    pre_rule: Literal["add", "subtract"] = "add"
    normalise: bool = True  # scale a neuron's weights to the model's column_sum before each example
    hyperactive: int | None = None  # silence neurons that answer to so many references, 0: none; None: chosen
    candidates: tuple[int, ...] = (0, 5, 10, *range(20, 201, 20))  # out of which it is chosen
    reference: int = 0  # the traverse whose images are those references
    # Do so after every epoch, so that the best one is found with hyperactive neurons silenced; False: at the end, once.
    regularise_each_epoch: bool = True

    def validate(self) -> None:
        self.require_positive("rate_pre", "rate_post")
        self.require(
            min(self.candidates, default=-1) >= 0, "candidates are one number or more, each 0 or more"
        )
        self.require(
            self.hyperactive is None or self.hyperactive >= 0,
            f"hyperactive must be 0 or more, got {self.hyperactive}",
        )


@register_method("stdp")
class STDP(Method):
    """Trains by spike timing, assigns, and silences hyperactive neurons; see the module.

    What is told as loss is the mean change of a weight in a batch.
    """

    Config: ClassVar[type[Config]] = STDPConfig

    def __init__(self, config: STDPConfig) -> None:
        super().__init__(config)
        self.rule = Plasticity(
            config.rate_pre, config.rate_post, pre_sign=1.0 if config.pre_rule == "add" else -1.0
        )
        self.memory: Memory | None = None
        self.answers: list[Tensor] = []  # of this epoch, a row each: module, which of its places, counts [N]

    @torch.no_grad()
    def step(self, run: Run, batch: Batch) -> Losses:
        model, config = _learner(run), self.config
        circuits = model.circuits
        module_BX, slot_BX = model.slots(batch.tensor("label"))
        image_BX = torch.arange(batch.size, device=module_BX.device)[:, None].expand_as(module_BX)
        module, slot, image = (x.flatten() for x in (module_BX, slot_BX, image_BX))
        device = circuits.weight.device  # what a checkpoint brought is on a CPU
        self.memory = map_state(lambda x: x.to(device), self.memory or circuits.begin())
        before = circuits.weight.detach().clone()
        for turn in rounds(module):
            events = model.spikes(batch.tensor("image")[image[turn]])
            counts_RN = circuits.learn(
                events, module[turn], self.memory, self.rule, normalise=config.normalise
            )
            self.answers.append(torch.cat([module[turn, None], slot[turn, None], counts_RN], 1).cpu())
        return {"weight_change": (circuits.weight.detach() - before).abs().mean()}

    def after_epoch(self, run: Run) -> None:
        model = _learner(run)
        if self.answers:
            answers_RX = torch.cat(self.answers).to(model.response.device)
            model.remember(answers_RX[:, 0], answers_RX[:, 1], answers_RX[:, 2:])
        self.answers = []
        if self.config.regularise_each_epoch:
            self._regularise(run, model)
            model.train()

    def finish(self, run: Run) -> Model:
        model = _learner(run)
        if not self.config.regularise_each_epoch:
            self._regularise(run, model)
        return model

    def _regularise(self, run: Run, model: EnsembleVPR) -> None:
        config, batch_size = self.config, run.config.batch_size
        count_responses(model, run.task, config.reference, batch_size)
        if config.hyperactive is None:
            choose_threshold(model, run.task, config.candidates, batch_size)
        else:
            model.hyperactive_threshold.fill_(config.hyperactive)

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {}
        if self.memory is not None:
            circuits, *rest = self.memory
            state |= circuits._asdict() | dict(zip(Memory._fields[1:], rest, strict=True))
        return state | ({"answers": torch.cat(self.answers)} if self.answers else {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if "v" in state:
            circuits = State(*(state[name] for name in State._fields))
            self.memory = Memory(circuits, *(state[name] for name in Memory._fields[1:]))
        self.answers = [state["answers"]] if "answers" in state else []


def rounds(module_B: Tensor) -> list[Tensor]:
    """Indices of images such that in each round a module gets one at most; of a module they keep their order."""
    order_B = module_B.argsort(stable=True)
    per_M = torch.bincount(module_B)
    first_M = per_M.cumsum(0) - per_M
    turn_B = torch.arange(len(module_B), device=module_B.device) - first_M[module_B[order_B]]
    return [order_B[turn_B == turn] for turn in range(int(per_M.max()) if len(per_M) else 0)]


@torch.no_grad()
def count_responses(model: EnsembleVPR, task: Task, traverse: int, batch_size: int) -> None:
    """Counts, for each neuron, the references of a traverse of all places to which it responds.

    Raises:
        ConfigError: the data have no such traverse.
    """
    model.eval()
    model.responses.zero_()
    shown = 0
    data = task.data("train")
    for batch in Loader(data, min(batch_size, len(data)), collate=task.collate):
        image = batch.tensor("image")[batch.tensor("traverse") == traverse].to(model.response.device)
        counts_MBN = model.circuits.respond(model.spikes(image), len(image))
        model.responses += responses(counts_MBN.transpose(0, 1))
        shown += len(image)
    if not shown:
        raise ConfigError(f"the data have no reference traverse {traverse}; set method.reference")


@torch.no_grad()
def choose_threshold(model: EnsembleVPR, task: Task, candidates: Sequence[int], batch_size: int) -> int:
    """Sets the threshold of hyperactive neurons with which the validation queries are scored best.

    Of equal scores the mean of all metrics decides, then the threshold that silences fewer.
    """
    model.eval()
    data = task.data("validation")
    loader = Loader(data, min(batch_size, len(data)), collate=task.collate)
    batches = [batch.to(model.response.device) for batch in loader]
    counts = [call(model, batch).counts for batch in batches]

    def merit(threshold: int) -> tuple[float, ...]:
        model.hyperactive_threshold.fill_(threshold)
        metrics = task.metrics()
        metrics.to(model.response.device)
        for batch, counts_BX in zip(batches, counts, strict=True):
            metrics.update(model.recognise(counts_BX), batch)
        scores = metrics.compute()
        regularised = [value for name, value in scores.items() if not name.endswith("_unregularised")]
        return scores[task.score], fmean(regularised), threshold or math.inf

    best = max(candidates, key=merit)
    model.hyperactive_threshold.fill_(best)
    return best


def _learner(run: Run) -> EnsembleVPR:
    model = run.model
    if not isinstance(model, EnsembleVPR):
        raise ConfigError(
            f"stdp changes the synapses of spiking circuits, which {model.name or type(model).__name__} does not "
            "have; ensemble_vpr_nano has"
        )
    if run.fabric.world_size > 1:
        raise ConfigError("stdp runs in one process: all modules learn at once already")
    return model
