"""spt: fine-tunes a pre-trained Transformer cheaply, by sparsification (Gui et al., 2023).

The model is converted by the edit "spt" as training begins: all its weights are frozen, linear layers and embeddings
get corrections of low rank (LoRA), feed-forward networks run half of their blocks for each token, and attention keeps
the keys whose codes match best. What learns are corrections, routers and codewords. Start it from a trained model:
`--set train.init=RUN`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from neuromix.core.config import Config, Spec, field_types
from neuromix.core.edits import apply_edit
from neuromix.core.registry import register_method
from neuromix.mixers.spt import SPTConfig
from neuromix.training.method import Method, Stage

if TYPE_CHECKING:
    from neuromix.training.run import Run


@dataclass(frozen=True)
class SPTMethodConfig(SPTConfig):
    """Config of SPT: the fields of the edit, and whether attention is dense for a while."""

    dense_epochs: int = (
        0  # with dense attention first, beside which codewords are trained; 0: sparse from the start
    )

    def validate(self) -> None:
        super().validate()
        self.require(self.dense_epochs >= 0, f"dense_epochs must be 0 or more, got {self.dense_epochs}")


@register_method("spt")
class SPT(Method):
    """Converts the model, then trains what is new in it, on the loss of the quantisers (`loss_weight`) as well."""

    Config: ClassVar[type[Config]] = SPTMethodConfig

    def training(self) -> dict[str, Any]:
        return {"lr": 1e-3, "weight_decay": 0.1, "clip_norm": 1.0}

    def stage(self, i: int, run: Run) -> Stage | None:
        config: SPTMethodConfig = self.config
        edit = {name: getattr(config, name) for name in field_types(SPTConfig)}
        plan = [("sparse", config.sparse, run.config.epochs)]
        if config.dense_epochs and config.sparse:
            plan.insert(0, ("dense", False, config.dense_epochs))
        if i >= len(plan):
            return None
        name, sparse, epochs = plan[i]
        model = apply_edit(run.model, Spec("spt", {**edit, "sparse": sparse}))
        learning = model.num_parameters()
        whole = model.num_parameters(trainable_only=False)
        note = f"spt: {name} attention; {learning:,} of {whole:,} parameters learn ({learning / whole:.1%})"
        return Stage(name, model, run.task, epochs, note=note)
