"""Ensemble VPR: place recognition by many small spiking circuits, each for a region (Hussaini et al., ICRA 2023).

Every module is a Diehl & Cook circuit (`ops/diehl_cook.py`) that learns a few places by itself, with no labels and no
gradients (`methods/stdp.py`). A query goes to all of them, and the place whose neurons fire most wins. A module
knows nothing of other regions, so some of its neurons fire for any image: those hyperactive neurons are found by
showing every module the references of all places, and silenced.

It cannot be stepped by `stream`: its steps are 0.1 ms, its inputs events with a delay a synapse. All modules and
images are simulated together (`neurons.conductance`); each image meets circuits at rest.

Shapes: M modules, B images, I inputs (pixels), N neurons a population, P places, K places a module, S spikes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from neuromix.core.batch import Batch
from neuromix.core.checkpoint import build_model
from neuromix.core.errors import ShapeError
from neuromix.core.layout import transfer
from neuromix.core.model import Model, ModelConfig, require_image
from neuromix.core.observe import Noise
from neuromix.core.registry import Paper, register_model
from neuromix.layers.poisson_events import poisson_events
from neuromix.layers.votes import NO_NEURON, assign, hyperactive, place_scores, weighted_scores
from neuromix.neurons.conductance import ConductanceCircuits
from neuromix.ops.diehl_cook import Circuit
from neuromix.ops.synapses import Events

PAPER = Paper(
    "Ensembles of Compact, Region-specific & Regularized Spiking Neural Networks for Scalable Place Recognition",
    2023,
    "ICRA",
    "https://arxiv.org/abs/2209.08723",
)


@dataclass(frozen=True)
class EnsembleVPRConfig(ModelConfig):
    """Config of EnsembleVPR."""

    places: int = 25  # P, which are dealt to modules
    places_per_module: int = 25  # K
    neurons: int = 400  # N
    input_size: tuple[int, int] = (28, 28)  # (height, width)
    intensity: float = 4.0  # a pixel 0 ... 255 fires at pixel / intensity Hz
    column_sum: float = 78.0  # of a neuron's input weights before each example it learns from
    example_ms: float = 350.0  # for which an image is shown
    rest_ms: float = 150.0  # after it
    initial_rest_ms: float = 500.0  # before the first
    delay_ms: float = 10.0  # longest delay of an input synapse; they are uniform from 0 on
    theta: float = 0.02  # volt, with which adaptive thresholds start
    theta_plus: float = 5e-5  # volt, by which a spike raises them in training
    tau_ge_ms: float = 1.0
    tau_gi_ms: float = 0.5
    w_ei: float = 10.4
    w_ie: float = 17.0
    shuffle: bool = True  # deal places in random order; False: region by region
    members: int = 1  # of an ensemble: each has all places, dealt anew, and their scores are added
    assignment: Literal["single", "weighted"] = "single"  # whether a neuron may stand for several places
    input_seed: int = 0  # of the input spikes in evaluation, which all images share

    def validate(self) -> None:
        self.require_positive("places", "places_per_module", "neurons", "members", "input_size")
        self.require_positive("intensity", "column_sum", "example_ms", "theta", "tau_ge_ms", "tau_gi_ms")
        self.require(self.input_seed >= 0, f"input_seed must be 0 or more, got {self.input_seed}")
        self.require(
            self.initial_rest_ms >= 0, f"initial_rest_ms must be 0 or more, got {self.initial_rest_ms}"
        )
        self.require(
            0 <= self.delay_ms <= self.rest_ms,
            f"the rest must not be shorter than the longest delay, got rest_ms={self.rest_ms} and "
            f"delay_ms={self.delay_ms}",
        )
        self.require(self.feature_levels == (), "it has no feature maps, so feature_levels is ()")

    @property
    def modules(self) -> int:
        """M, those of all members."""
        return self.members * math.ceil(self.places / self.places_per_module)


class Recognition(NamedTuple):
    """What the modules say about queries; a place that no neuron stands for has the score -1, others 0 or more.

    Attributes:
        scores: [B, P], without hyperactive neurons.
        unregularised: [B, P], with them.
        unassigned: mean count of the neurons that never fired in training, [B]; -1 where there are none.
        counts: spikes of each neuron, [B, M * N].
    """

    scores: Tensor
    unregularised: Tensor
    unassigned: Tensor
    counts: Tensor


def _chosen(config: EnsembleVPRConfig, *names: str) -> dict[str, Any]:
    return {name: getattr(config, name) for name in names}


def _size(modules: int) -> dict[str, Any]:
    return {"parameters": modules * (784 * 400 + 400), "scope": "trainable"}


@register_model(
    "ensemble_vpr",
    paper=PAPER,
    tasks=("place-recognition",),
    family="spiking",
    provenance="reconstructed",
    variants={
        "ensemble_vpr_nordland": {"places": 2700},
        "ensemble_vpr_robotcar": {"places": 375},
        "ensemble_vpr_sfu_mountain": {"places": 300},
        "ensemble_vpr_synthia": {"places": 225},
        "ensemble_vpr_st_lucia": {"places": 1037},
        # Ours, for a few places: thresholds rise faster, for there is less to learn from.
        "ensemble_vpr_nano": {"places": 15, "places_per_module": 5, "neurons": 25, "theta_plus": 1.5e-4},
    },
    tiny={
        "places": 4,
        "places_per_module": 2,
        "neurons": 3,
        "input_size": [4, 4],
        "column_sum": 8.0,
        "example_ms": 60.0,
        "rest_ms": 20.0,
    },
    published={
        "ensemble_vpr_nordland": _size(108),
        "ensemble_vpr_robotcar": _size(15),
        "ensemble_vpr_sfu_mountain": _size(12),
        "ensemble_vpr_synthia": _size(9),
        "ensemble_vpr_st_lucia": _size(42),
    },
    methods=("stdp",),
    no_compile="how much there is to do depends on the spikes",
)
class EnsembleVPR(Model):
    """Images [B, 1, H, W] in [0, 1], patch-normalised, to a Recognition.

    In evaluation all images share one table of random numbers for their input spikes, so that an image always gets
    the same answer; in training they are drawn anew.
    """

    Config: ClassVar[type[ModelConfig]] = EnsembleVPRConfig
    differentiable: ClassVar[bool] = False

    def __init__(self, config: EnsembleVPRConfig) -> None:
        super().__init__(config)
        modules, neurons, per_module = config.modules, config.neurons, config.places_per_module
        circuit = Circuit(**_chosen(config, "tau_ge_ms", "tau_gi_ms", "w_ei", "w_ie", "theta_plus"))
        options = _chosen(
            config, "theta", "delay_ms", "example_ms", "rest_ms", "initial_rest_ms", "column_sum"
        )
        self.circuits = ConductanceCircuits(
            modules, math.prod(config.input_size), neurons, circuit, **options
        )
        dealt = torch.full((config.members, modules * per_module // config.members), -1)
        for member in dealt:
            order = torch.randperm(config.places) if config.shuffle else torch.arange(config.places)
            member[: config.places] = order
        self.register_buffer("place_of", dealt.view(modules, per_module))  # -1: a slot that is left over
        self.register_buffer("response", torch.zeros(modules, neurons, per_module))
        self.register_buffer("responses", torch.zeros(modules, neurons, dtype=torch.int64))
        self.register_buffer("hyperactive_threshold", torch.zeros((), dtype=torch.int64))
        self.noise = Noise()

    place_of: Tensor
    response: Tensor
    responses: Tensor
    hyperactive_threshold: Tensor

    def forward(self, *inputs: Tensor) -> Recognition:
        (image,) = inputs
        counts_MBN = self.circuits.respond(self.spikes(image), len(image))
        return self.recognise(counts_MBN.transpose(0, 1).flatten(1))

    def spikes(self, image: Tensor) -> Events:
        """Input spikes of images for the duration of an example, whose row is the image.

        Raises:
            ShapeError: not images [B, 1, H, W] of the model's size, in [0, 1].
        """
        require_image(image, 1)
        if tuple(image.shape[2:]) != self.config.input_size:
            raise ShapeError(
                f"expected images of {list(self.config.input_size)} pixels, got {list(image.shape[2:])}"
            )
        rate_BI = image.flatten(1) * (255 / self.config.intensity)
        steps = self.circuits.example_steps
        if self.training:
            return poisson_events(rate_BI, steps, lambda: self.noise.uniform(tuple(rate_BI.shape), rate_BI))
        chance = torch.Generator().manual_seed(self.config.input_seed)
        inputs = rate_BI.shape[1]
        return poisson_events(rate_BI, steps, lambda: torch.rand(inputs, generator=chance).to(rate_BI.device))

    def slots(self, place_B: Tensor) -> tuple[Tensor, Tensor]:
        """The module of each member that a place is dealt to, and which of its places it is; [B, members] each.

        Raises:
            ShapeError: a place that the model does not have.
        """
        config = self.config
        if len(place_B) and not bool(((place_B >= 0) & (place_B < config.places)).all()):
            raise ShapeError(
                f"the model has places 0 to {config.places - 1}, the data {int(place_B.min())} to "
                f"{int(place_B.max())}: set places"
            )
        dealt = self.place_of.view(config.members, -1)
        at = dealt.argsort(stable=True, dim=1)[:, -config.places :]  # slots that are left over come first
        at += dealt.shape[1] * torch.arange(config.members, device=at.device)[:, None]
        at_BX = at[:, place_B].T
        return at_BX // config.places_per_module, at_BX % config.places_per_module

    @torch.no_grad()
    def assign_by(self, counts_MBN: Tensor, place_B: Tensor) -> None:
        """Assigns the neurons of each module by the counts of images that show its places."""
        module_BX, slot_BX = self.slots(place_B)
        image_BX = torch.arange(len(place_B), device=place_B.device)[:, None].expand_as(module_BX)
        self.remember(module_BX.flatten(), slot_BX.flatten(), counts_MBN[module_BX, image_BX].flatten(0, 1))

    @torch.no_grad()
    def remember(self, module_R: Tensor, slot_R: Tensor, counts_RN: Tensor) -> None:
        """Keeps the mean count of each neuron for each place, by which neurons are assigned, in place of older ones."""
        sums_MKN = torch.zeros_like(self.response).transpose(1, 2).contiguous()
        sums_MKN.index_put_((module_R, slot_R), counts_RN.to(sums_MKN), accumulate=True)
        shown_MK = torch.zeros_like(self.place_of)
        shown_MK.index_put_((module_R, slot_R), torch.ones_like(module_R), accumulate=True)
        self.response.copy_((sums_MKN / shown_MK.clamp(min=1)[..., None]).transpose(1, 2))

    @property
    def assignment(self) -> Tensor:
        """The place of each neuron, [M, N], int64; -1 where it never fired in training."""
        slot_MN = assign(self.response.flatten(0, 1)).view(self.responses.shape)
        return torch.where(slot_MN >= 0, self.place_of.gather(1, slot_MN.clamp(min=0)), -1)

    @property
    def silenced(self) -> Tensor:
        """Hyperactive neurons, [M, N], bool."""
        return hyperactive(self.responses, int(self.hyperactive_threshold))

    def recognise(self, counts_BX: Tensor) -> Recognition:
        """What counts [B, M * N] of spikes say."""
        counts = counts_BX.to(self.response.dtype)
        never_X = self.assignment.flatten() < 0
        return Recognition(
            self._scores(counts.masked_fill(self.silenced.flatten(), 0)),
            self._scores(counts),
            place_scores(counts, never_X.long() - 1, 1)[:, 0],  # as those of a place 0
            counts,
        )

    def member(self, number: int) -> EnsembleVPR:
        """One member of the ensemble as a model of its own."""
        size = self.config.modules // self.config.members
        other = build_model(self.name or "ensemble_vpr", self.config.replace(members=1)).to(self.response)
        own = {
            name: tensor[number * size : (number + 1) * size] if tensor.dim() else tensor
            for name, tensor in self.state_dict().items()
        }
        transfer(other, own)
        assert isinstance(other, EnsembleVPR)
        return other.train(self.training)

    def _scores(self, counts_BX: Tensor) -> Tensor:
        """The sum of the members' scores."""
        members = zip(
            counts_BX.chunk(self.config.members, 1),
            self.assignment.chunk(self.config.members),
            self.place_of.chunk(self.config.members),
            self.response.chunk(self.config.members),
            strict=True,
        )
        scores = torch.stack([self._member_scores(*member) for member in members])
        known = (scores >= 0).any(0)
        return torch.where(known, scores.clamp(min=0).sum(0), NO_NEURON)

    def _member_scores(
        self, counts_BX: Tensor, place_MN: Tensor, place_MK: Tensor, response_MNK: Tensor
    ) -> Tensor:
        places = self.config.places
        if self.config.assignment == "single":
            return place_scores(counts_BX, place_MN.flatten(), places)
        modules, neurons, _ = response_MNK.shape
        response = response_MNK.new_zeros(
            modules, neurons, places + 1
        )  # the last for slots that are left over
        response.scatter_(2, (place_MK % (places + 1))[:, None].expand_as(response_MNK), response_MNK)
        return weighted_scores(counts_BX, response.flatten(0, 1)[:, :places])

    def example(self, batch_size: int, generator: torch.Generator | None = None) -> Batch:
        return Batch({"image": torch.rand(batch_size, 1, *self.config.input_size, generator=generator)})
