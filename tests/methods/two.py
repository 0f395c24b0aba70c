"""What each of two processes does in `test_processes`: `torchrun --nproc_per_node 2 -m tests.methods.two FOLDER`."""

from __future__ import annotations

import copy
import os
import sys
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.nn import functional as F

from neuromix.core.batch import Batch
from neuromix.core.checkpoint import create_model
from neuromix.core.config import Spec
from neuromix.training.config import TrainConfig
from neuromix.training.devices import make_fabric
from neuromix.training.method import Stack
from neuromix.training.run import Run
from neuromix.training.task import Task

folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
METHODS = [Spec("sltt"), Spec("sltt", {"k": 1}), Spec("bptt", {"checkpoint": True, "loss": "tet"})]


class Classify(Task):
    def loss(self, output, batch):
        return {"cross_entropy": F.cross_entropy(output, batch.tensor("label"))}


def gradients(fabric, method, model, batch, *, seed, parts):
    """The gradients that a method leaves; processes that draw for themselves would have unlike seeds."""
    model = copy.deepcopy(model)
    run = Run(TrainConfig(batch_size=4, accumulate=parts), fabric, Stack([method]), Classify(None), model)
    run.net, run.optimiser = fabric.setup(model, torch.optim.SGD(model.parameters(), lr=0.1))
    run.generator = torch.Generator().manual_seed(seed)
    for one in run.method:
        one.before_step(run)
    run.compute_gradients(batch)
    return {name: parameter.grad for name, parameter in model.named_parameters()}


torch.manual_seed(0)
model = create_model("spiking_nf_resnet34", blocks=(1, 1), widths=(4, 8), num_classes=3, time_steps=4)
for parameter in model.parameters():
    if not parameter.any():
        nn.init.normal_(parameter, std=0.3)
whole = Batch({"image": torch.randn(4, 3, 8, 8), "label": torch.tensor([0, 2, 1, 1])})
several = make_fabric(TrainConfig(batch_size=4, device="cpu"))
alone = Fabric(accelerator="cpu", devices=1)
for method in METHODS:
    expected = gradients(alone, method, model, whole, seed=5, parts=1)
    for parts in (1, 2):
        own = whole.select([2 * rank, 2 * rank + 1])
        shared = gradients(several, method, model, own, seed=5 + rank, parts=parts)
        for name, gradient in shared.items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5, msg=f"{method} {name}")
(folder / f"done-{rank}").touch()
