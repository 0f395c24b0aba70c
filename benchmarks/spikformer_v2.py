"""The small Spikformer V2 on the digits at 32x32 pixels: from scratch, and after masked pre-training without labels.

    python benchmarks/spikformer_v2.py --json results/spikformer_v2.json

The first row trains the autoencoder alone, on 200 images for 200 steps, with three quarters of the patches hidden; its
error is that of the hidden patches, for which predicting zero gives about 1.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from ledger import mean_and_spread, parser, report

from neuromix.core import registry
from neuromix.core.checkpoint import create_model
from neuromix.core.config import Spec
from neuromix.layers.visible import hidden_error
from neuromix.methods.masked_pretrain import MaskedReconstruction
from neuromix.training.api import train
from neuromix.training.task import total

SIZE = 32
MODEL: dict[str, Any] = {"model": "spikformer_v2_nano", "model_config": {"strides": (2, 2, 2)}}
DECODER = {"decoder_dim": 64, "decoder_depth": 1}


def masked_error(seed: int, steps: int) -> dict[str, float]:
    """Error of the hidden patches of 200 images after some steps on them, and that of zeros."""
    digits = registry.build("task", Spec("digits", {"size": SIZE}))
    torch.manual_seed(seed)
    plain = create_model(MODEL["model"], in_channels=1, num_classes=10, **MODEL["model_config"])
    model = plain.autoencoder(**DECODER)  # type: ignore[operator]
    task = MaskedReconstruction(digits, 0.75, model.config.patch)
    generator = torch.Generator().manual_seed(seed)
    images = task.collate([task.data("train").sample(i, generator) for i in range(200)])
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95))
    for _ in range(steps):
        batch = images.select(torch.randint(200, (16,), generator=generator))
        optimiser.zero_grad()
        total(task.objective(model, batch, generator)).backward()
        optimiser.step()
    with torch.no_grad():
        rebuilt = task.predict(model.eval(), images, generator)
        return {"error": float(hidden_error(*rebuilt)), "zero": float(rebuilt.target.square().mean())}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--epochs", type=int, default=15)
    args = options.parse_args()
    epochs, steps = (1, 3) if args.quick else (args.epochs, 200)
    errors = [masked_error(seed, steps) for seed in range(args.seeds)]
    scores: dict[str, list[float]] = {"from scratch": [], "after masked pre-training": []}
    for seed in range(args.seeds):
        for name, method in zip(
            scores, ({}, {"method": "masked-pretrain", "method_config": DECODER}), strict=True
        ):
            with tempfile.TemporaryDirectory() as folder:
                done = train(
                    task="digits",
                    task_config={"size": SIZE},
                    out=Path(folder) / "run",
                    epochs=epochs,
                    seed=seed,
                    ema=0.98,
                    **MODEL,
                    **method,
                )
            scores[name].append(100 * done.test["accuracy"])
            print(f"seed {seed}, {name}: {scores[name][-1]:.1f} %", flush=True)
    share = [one["error"] / one["zero"] for one in errors]
    rows = [("masked error over that of zeros, 200 steps", mean_and_spread(share, 3), "below 0.9")]
    expected = {"from scratch": "at least 95 %", "after masked pre-training": "above from scratch"}
    rows += [
        (f"test accuracy {name}", f"{mean_and_spread(values)} %", expected[name])
        for name, values in scores.items()
    ]
    report(args, ("", "Found", "Expected"), rows, accuracy=scores, masked=errors, epochs=epochs)


if __name__ == "__main__":
    main()
