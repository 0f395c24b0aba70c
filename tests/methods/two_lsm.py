"""What each of two processes does in `test_lsm`: `torchrun --nproc_per_node 2 -m tests.methods.two_lsm FOLDER`."""

from __future__ import annotations

import copy
import os
import sys
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch.nn import functional as F

from neuromix.core.batch import Batch
from neuromix.core.checkpoint import create_model
from neuromix.core.config import Config, Spec
from neuromix.training.cached import Cached
from neuromix.training.config import TrainConfig
from neuromix.training.devices import make_fabric
from neuromix.training.method import Stack
from neuromix.training.run import Run
from neuromix.training.task import Task

folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])


class Classify(Task):
    def loss(self, output, batch):
        return {"cross_entropy": F.cross_entropy(output, batch.tensor("label"))}


def gradients(fabric, model, batch):
    """The gradients of the head on stored features."""
    model = copy.deepcopy(model)
    task = Cached(Classify(Config()), model)
    run = Run(TrainConfig(batch_size=4), fabric, Stack([Spec("bptt")]), task, model)
    head = [p for p in model.parameters() if p.requires_grad]
    run.net, run.optimiser = fabric.setup(model, torch.optim.SGD(head, lr=0.1))
    run.compute_gradients(batch)
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


torch.manual_seed(0)
options = {"liquid.hidden": 6, "in_channels": 3, "time_steps": 2, "num_classes": 3}
model = create_model("resistive_lsm_ntidigits", **options)
whole = Batch({"features_0": torch.rand(4, 6), "label": torch.tensor([0, 2, 1, 1])})
expected = gradients(Fabric(accelerator="cpu", devices=1), model, whole)
shared = gradients(
    make_fabric(TrainConfig(batch_size=4, device="cpu")), model, whole.select([2 * rank, 2 * rank + 1])
)
for name, gradient in expected.items():
    torch.testing.assert_close(shared[name], gradient, msg=name)
(folder / f"done-{rank}").touch()
