"""masked-pretrain: an encoder learns without labels to rebuild hidden patches, then the classifier learns from there.

Two stages. In the first the model takes the form of an autoencoder, of which it is asked (`autoencoder()`), and each
batch shows a fresh random share of the patches; what is scored is the error of the hidden ones. In the second the
encoder goes on as a classifier (`classifier()`) on the task itself, the layers near the image at a lower rate. With
`finetune` false the run ends after the first stage, and its weights start another one:
`--set train.init=RUN --set 'train.fresh=["head.*", "decoder.*"]'`.

Shapes: B batch, K visible patches, L patches, P numbers of a patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from neuromix.core.batch import Batch
from neuromix.core.config import Config
from neuromix.core.errors import ConfigError
from neuromix.core.model import Model, call
from neuromix.core.registry import register_method
from neuromix.data.dataset import Dataset, Sample
from neuromix.layers.visible import choose_visible, hidden_error, patch_targets
from neuromix.training.method import Method, Stage
from neuromix.training.task import Losses, Task

if TYPE_CHECKING:
    from neuromix.training.run import Run


class Rebuilt(NamedTuple):
    """What an autoencoder made of a batch.

    Attributes:
        patches, target: [B, L, P].
        kept: numbers of the patches that it saw, [B, K].
    """

    patches: Tensor
    target: Tensor
    kept: Tensor


class MaskedReconstruction(Task):
    """The images of another task, without their labels: hidden patches are to be rebuilt.

    Args:
        task: whose images.
        mask: share of the patches that are hidden.
        patch: side of a patch, in pixels.
    """

    kind = "masked-reconstruction"
    score = "masked_mse"
    higher_is_better = False

    def __init__(self, task: Task, mask: float, patch: int) -> None:
        super().__init__(task.config)
        self.task, self.mask, self.patch = task, mask, patch

    def data(self, split: str, *, augment: bool = False) -> Dataset:
        return self.task.data(split, augment=augment)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        return self.task.collate(samples)

    def objective(self, model: Model, batch: Batch, generator: torch.Generator) -> Losses:
        return {"masked_mse": hidden_error(*self.predict(model, batch, generator))}

    def predict(self, model: Model, batch: Batch, generator: torch.Generator) -> Rebuilt:
        image = batch.tensor("image")
        patches = (image.shape[-2] // self.patch) * (image.shape[-1] // self.patch)
        kept_BK = choose_visible(len(image), patches, self.mask, generator).to(image.device)
        patches_BLP = call(model, Batch({"image": image, "kept": kept_BK}))
        with torch.no_grad():
            target_BLP = patch_targets(image, self.patch)
        return Rebuilt(patches_BLP, target_BLP, kept_BK)

    def metrics(self) -> MaskedError:
        return MaskedError()


class MaskedError:
    """masked_mse: the squared error of hidden patches; zero_mse: that of a guess of zero everywhere."""

    def __init__(self) -> None:
        from torchmetrics import MeanMetric

        self._means = {"masked_mse": MeanMetric(), "zero_mse": MeanMetric()}

    def to(self, device: torch.device) -> None:
        for mean in self._means.values():
            mean.to(device)

    def update(self, rebuilt: Rebuilt, batch: Batch) -> None:
        zero = rebuilt._replace(patches=torch.zeros_like(rebuilt.target))
        for mean, guess in zip(self._means.values(), (rebuilt, zero), strict=True):
            mean.update(hidden_error(*guess).float(), weight=len(rebuilt.target))

    def compute(self) -> dict[str, float]:
        return {name: round(float(mean.compute()), 6) for name, mean in self._means.items()}


@dataclass(frozen=True)
class MaskedPretrainConfig(Config):
    """Config of MaskedPretrain. Values of the decoder are those of the paper's group."""

    mask: float = 0.75  # share of hidden patches, in [0, 1)
    epochs: int | None = None  # of the pre-training; None: as many as the fine-tuning has
    finetune: bool = True  # go on with the classifier
    layer_decay: float = (
        0.75  # in fine-tuning, the rate of a layer as a share of that of the next one, in (0, 1]
    )
    decoder_dim: int = 256
    decoder_heads: int = 4
    decoder_depth: int = 4  # blocks

    def validate(self) -> None:
        self.require_within(0, 1, "mask")
        self.require(0 < self.layer_decay <= 1, f"layer_decay must be in (0, 1], got {self.layer_decay}")
        self.require(self.epochs is None or self.epochs > 0, f"epochs must be positive, got {self.epochs}")


@register_method("masked-pretrain")
class MaskedPretrain(Method):
    """Pre-trains the encoder by masked reconstruction, then fine-tunes the classifier; see the module."""

    Config: ClassVar[type[Config]] = MaskedPretrainConfig

    def stage(self, i: int, run: Run) -> Stage | None:
        config, task = self.config, run.task
        if i == 0:
            names = ("decoder_dim", "decoder_heads", "decoder_depth")
            model = _form(run.model, "autoencoder", **{name: getattr(config, name) for name in names})
            masked = MaskedReconstruction(task, config.mask, model.config.patch)
            return Stage("pretrain", model, masked, config.epochs or run.config.epochs)
        if i == 1 and config.finetune:
            task = task.task if isinstance(task, MaskedReconstruction) else task
            model = _form(run.model, "classifier")
            return Stage("finetune", model, task, run.config.epochs, self._rules(model))
        return None

    def _rules(self, model: Model) -> dict[str, dict[str, float]]:
        """A lower rate for each layer the nearer it is to the image."""
        layers = model.layers_in_order()  # type: ignore[operator]
        decay = self.config.layer_decay
        return {glob: {"lr_scale": decay**depth} for depth, glob in enumerate(reversed(layers))}


def _form(model: Model, form: str, **options: Any) -> Model:
    """The model as an autoencoder or as a classifier."""
    make = getattr(model, form, None)
    if not callable(make):
        name = model.name or type(model).__name__
        raise ConfigError(f"masked-pretrain: {name} has no {form}() to turn into; spikformer_v2 has")
    made: Model = make(**options)
    return made
