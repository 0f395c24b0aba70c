"""Weights of 4 bits and integer spikes (qsd_transformer_nano) against the float net of the same shape, on the digits.

    python benchmarks/qsd_transformer.py --json results/qsd_transformer.json

Trained for the same epochs on the handwritten digits of scikit-learn brought to 32x32 pixels: meta_spikeformer_nano
(binary spikes, T = 4), qsd_transformer_nano (T = 1, integer spikes 0..4), and the latter guided by caformer_nano (the
method fgd). Bytes are those of a checkpoint as it is deployed: batch-norms folded, integer weights packed.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ledger import mean_and_spread, parser, report

from neuromix import save_checkpoint
from neuromix.core.edits import apply_edit
from neuromix.core.model import Model
from neuromix.training.api import train

SIZE = 32
# Maps of 8x8 and then 4x4 places behind the first stages, as the nets have them at 8x8 pixels.
SHAPE = {"strides": (2, 2, 2, 2, 1)}
TEACHER = {"in_patch_size": 7, "in_stride": 4, "in_pad": 2}


def jobs(teacher: Path) -> dict[str, dict[str, Any]]:
    """What is trained, in this order: arguments of `train`."""
    guided = {"method": "fgd", "method_config": {"teacher": str(teacher)}}
    return {
        "teacher": {"model": "caformer_nano", "model_config": TEACHER},
        "float": {"model": "meta_spikeformer_nano", "model_config": SHAPE},
        "w4": {"model": "qsd_transformer_nano", "model_config": SHAPE},
        "w4_fgd": {"model": "qsd_transformer_nano", "model_config": SHAPE, **guided},
    }


def packed_bytes(model: Model, folder: Path) -> int:
    """Size of a checkpoint of the net as it is deployed."""
    file = folder / "deployed.safetensors"
    save_checkpoint(apply_edit(model, ("fuse", {"factored": True})), file)
    return file.stat().st_size


def measure(seed: int, epochs: int, folder: Path) -> dict[str, dict[str, float]]:
    """Test accuracy in percent and bytes of each net."""
    found = {}
    for name, job in jobs(folder / "teacher").items():
        done = train(
            task="digits",
            task_config={"size": SIZE},
            out=folder / name,
            epochs=epochs,
            seed=seed,
            ema=0.98,
            **job,
        )
        model = done.model().eval()
        found[name] = {"accuracy": 100 * done.test["accuracy"], "bytes": packed_bytes(model, folder)}
        print(f"seed {seed} {name}: {found[name]}", flush=True)
    return found


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--epochs", type=int, default=20)
    args = options.parse_args()
    runs = []
    for seed in range(args.seeds):
        with tempfile.TemporaryDirectory() as folder:
            runs.append(measure(seed, 1 if args.quick else args.epochs, Path(folder)))
    rows = [
        (
            name,
            f"{mean_and_spread([run[name]['accuracy'] for run in runs])} %",
            f"{runs[0][name]['bytes']:,.0f}",
            "–",
        )
        for name in runs[0]
    ]
    lost = [run["float"]["accuracy"] - run["w4"]["accuracy"] for run in runs]
    gain = [run["w4_fgd"]["accuracy"] - run["w4"]["accuracy"] for run in runs]
    rows += [
        ("float minus w4, points", mean_and_spread(lost), "–", "at most 1.5"),
        ("w4 with fgd minus without, points", mean_and_spread(gain), "–", "above 0"),
    ]
    report(args, ("Net", "Test accuracy", "Bytes", "Expected"), rows, runs=runs, epochs=args.epochs)


if __name__ == "__main__":
    main()
