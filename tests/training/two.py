"""What each of two processes does in `test_processes`: `torchrun --nproc_per_node 2 -m tests.training.two FOLDER`."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

import tests.training.tiny  # noqa: F401 (registers the nets)
from neuromix.training import api
from neuromix.training.api import train
from neuromix.training.loop import Loop
from neuromix.training.observer import Observer
from neuromix.training.signals import Interrupted

OPTIONS: dict[str, Any] = {"epochs": 1, "batch_size": 128, "ema": 0.9, "checkpoint_steps": 3}
folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])


class Keeping(Loop):
    """Keeps what each process has trained."""

    def fit(self, *arguments: Any) -> None:
        super().fit(*arguments)
        weights = {name: value.contiguous() for name, value in self.run.model.state_dict().items()}
        save_file(weights, folder / f"{self.folder.path.name}-{rank}.safetensors")


class Interrupt(Observer):
    """A signal reaches the first process only."""

    def batch(self, done: int, loss: float) -> None:
        if done == 4:
            os.kill(os.getpid(), signal.SIGTERM)


def run(name: str, **options: Any) -> None:
    result = train("tiny_test_net", "digits", folder / name, **{**OPTIONS, **options})
    scores = {"test": result.test, "validation": result.validation}
    (folder / f"{name}-{rank}.json").write_text(json.dumps(scores))


api.Loop = Keeping  # type: ignore[misc]
run("whole")
run("spare", max_steps=2, model_config={"unused": True})
run("asking", max_steps=2, model_config={"unused": True, "asks": 0.5})
try:
    run("stopped", observer=Interrupt())
except Interrupted as stop:
    (folder / f"stopped-{rank}.txt").write_text(str(stop))
run("stopped", resume=True)
