"""Weights of 4 bits and integer spikes against the float net, and both Spikformer stems' small net, on the digits.

    python benchmarks/quantised_digits.py --json results/quantised_digits.json

It trains, on the handwritten digits of scikit-learn brought to 32x32 pixels and for the same epochs,

    float       meta_spikeformer_nano, binary spikes and float weights, T = 4
    w4          qsd_transformer_nano, the same shape with weights of 4 bits and integer spikes, T = 1
    w4_fgd      the same, guided by a float teacher (caformer_nano) through the method fgd
    spikformer  spikformer_v2_nano, T = 4
    pretrained  the same after masked pre-training on the same images

and tells test accuracy, seconds, and the bytes of the checkpoint (of the quantised nets: packed, batch-norms folded).
The ratios are `float_over_w4_bytes`, and differences of accuracy in points: `w4_minus_float`,
`w4_fgd_minus_w4`, `pretrained_minus_spikformer`.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from neuromix import save_checkpoint
from neuromix.core.edits import apply_edit
from neuromix.core.model import Model
from neuromix.training.api import train

# Maps of 8x8 and then 4x4 places behind the first stages, whatever the side of the image.
STRIDES = {8: (1, 1, 2, 2, 1), 16: (2, 1, 2, 2, 1), 32: (2, 2, 2, 2, 1)}
STEM_STRIDES = {8: (1, 2), 16: (2, 2), 32: (2, 2, 2)}


def jobs(size: int, folder: Path) -> dict[str, dict[str, Any]]:
    """What is trained, in this order: arguments of `train`."""
    meta = {"model_config": {"strides": STRIDES[size]}}
    spikformer = {"model": "spikformer_v2_nano", "model_config": {"strides": STEM_STRIDES[size]}}
    stem = {8: (3, 1, 1), 16: (3, 2, 1), 32: (7, 4, 2)}[size]
    teacher = {"model_config": dict(zip(("in_patch_size", "in_stride", "in_pad"), stem, strict=True))}
    return {
        "teacher": {"model": "caformer_nano", **teacher},
        "float": {"model": "meta_spikeformer_nano", **meta},
        "w4": {"model": "qsd_transformer_nano", **meta},
        "w4_fgd": {
            "model": "qsd_transformer_nano",
            **meta,
            "method": "fgd",
            "method_config": {"teacher": str(folder / "teacher")},
        },
        "spikformer": spikformer,
        "pretrained": {
            **spikformer,
            "method": "masked-pretrain",
            "method_config": {"decoder_dim": 64, "decoder_depth": 1},
        },
    }


def run(name: str, job: dict[str, Any], args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Trains one net, and tells how it did."""
    begin = time.perf_counter()
    done = train(
        task="digits",
        out=folder / name,
        task_config={"size": args.size},
        epochs=args.epochs,
        seed=args.seed,
        threads=args.threads,
        ema=0.98,
        **job,
    )
    model = done.model().eval()
    return {
        "model": model.name,
        "accuracy": done.test["accuracy"],
        "parameters": model.num_parameters(),
        "bytes": packed_bytes(model, folder),
        "seconds": round(time.perf_counter() - begin, 1),
    }


def packed_bytes(model: Model, folder: Path) -> int:
    """Size of a checkpoint of the net as it is deployed: batch-norms folded, integer weights packed."""
    file = folder / "deployed.safetensors"
    save_checkpoint(apply_edit(model, ("fuse", {"factored": True})), file)
    return file.stat().st_size


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All trainings, and what follows from them."""
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        chosen = {name: job for name, job in jobs(args.size, folder).items() if name in (args.only or [name])}
        measured = {name: run(name, job, args, folder) for name, job in chosen.items()}
    pairs = (("w4", "float"), ("w4_fgd", "w4"), ("pretrained", "spikformer"))
    ratios = {
        f"{one}_minus_{other}": round(measured[one]["accuracy"] - measured[other]["accuracy"], 4)
        for one, other in pairs
        if {one, other} <= measured.keys()
    }
    if {"float", "w4"} <= measured.keys():
        ratios["float_over_w4_bytes"] = round(measured["float"]["bytes"] / measured["w4"]["bytes"], 2)
    about = {name: getattr(args, name) for name in ("size", "epochs", "seed", "threads")}
    environment = {"torch": torch.__version__, "machine": platform.machine(), **about}
    return {"ratios": ratios, "measurements": measured, "environment": environment}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, choices=sorted(STRIDES), default=32, help="side of the images")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", help="some of the nets: teacher, float, w4, ...")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    args = parser.parse_args()
    result = measure(args)
    for name, one in result["measurements"].items():
        print(f"{name:12} {one['accuracy']:.4f}  {one['bytes']:>9,} bytes  {one['seconds']:.0f} s")
    for name, ratio in result["ratios"].items():
        print(f"{name:28} {ratio:+.4f}")
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
