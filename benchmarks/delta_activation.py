"""What delta layers save on video: a small CNN on moving digits, plain, with an L1 penalty and with delta layers.

    python benchmarks/delta_activation.py --json results/delta_activation.json

Each net gets the same epochs. Sparsity is the share of numbers that a layer need not send: of the plain and of the L1
net those that are zero; of the delta net those that did not change since the last frame. Effective MACs of a frame are
the numbers that are sent times the outputs that each of them reaches. Then the delta net computes only what changes
(the edit "delta_inference"): over 50 frames its outputs are compared with those of whole frames, once in the same
arithmetic and once with the convolutions of PyTorch in float32, and the clock is read.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

import torch
from ledger import mean_and_spread, parser, report
from torch import Tensor

import neuromix
from neuromix.core.edits import apply_edit
from neuromix.core.model import Model
from neuromix.core.observe import record
from neuromix.core.state import state_bytes
from neuromix.data.video.moving_digits import Motion, MovingDigits
from neuromix.layers.delta import DeltaActivation, L1Activation, counted_events
from neuromix.training.api import train

CLIPS, LONG = 64, 50
METHODS: dict[str, dict[str, Any]] = {
    "plain": {"penalty": 0.0, "regulariser": "l1"},
    "L1": {"penalty": 1e-4, "regulariser": "l1"},
    "delta": {},
}


def clips(frames: int, count: int) -> Tensor:
    """Clips of the test part, [T, B, 1, H, W]."""
    source = MovingDigits(Motion(frames=frames), "test")
    unused = torch.Generator()
    return torch.stack([source.sample(i, unused)["image"] for i in range(count)], 1)  # type: ignore[arg-type]


class Sent(NamedTuple):
    """What a layer behind an activation sends in the frames of the clips, the first one of each left out."""

    layer: str
    events: int
    numbers: int
    macs: float  # of a frame of one clip: numbers that are sent times their receivers


@torch.no_grad()
def traffic(model: Model, x_T: Tensor) -> list[Sent]:
    """Of each layer, in the order in which they run."""
    later = (len(x_T) - 1) * x_T.shape[1]
    found: dict[str, tuple[int, int]] = {}
    if any(isinstance(module, DeltaActivation) for module in model.modules()):
        with counted_events(model) as counts:
            model.forward_steps(x_T)
        found = {path: (count.events, count.elements) for path, count in counts.items()}
        receivers = {path: model.get_submodule(path).config.fan_out for path in found}
    else:
        layers = {path: module for path, module in model.named_modules() if isinstance(module, L1Activation)}

        def see(path: str, a: Tensor) -> None:
            a_T = a.reshape(len(x_T), -1)[1:]
            found[path] = int(a_T.count_nonzero()), a_T.numel()

        for path, layer in layers.items():
            layer.register_forward_hook(lambda _, __, a, path=path: see(path, a))
        model.forward_steps(x_T)
        receivers = {path: layer.fan_out for path, layer in layers.items()}
    return [
        Sent(path, events, numbers, events / later * receivers[path])
        for path, (events, numbers) in found.items()
    ]


def learn(name: str, seed: int, epochs: int, folder: Path) -> tuple[Model, dict[str, Any]]:
    """A trained net, its test accuracy in percent and its traffic."""
    done = train(
        "delta_cnn_nano",
        "moving-digits",
        folder / f"{name}{seed}",
        method="delta",
        method_config=METHODS[name],
        epochs=epochs,
        seed=seed,
        threads=1,
    )
    model = done.model().eval()
    sent = traffic(model, clips(Motion().frames, CLIPS))
    hidden = [layer for layer in sent if not layer.layer.startswith("stem")]
    share = sum(layer.events for layer in hidden) / sum(layer.numbers for layer in hidden)
    found = {
        "accuracy": 100 * done.test["accuracy"],
        "sparsity": 100 * (1 - share),
        "macs": sum(layer.macs for layer in hidden),
        "layers": {layer.layer: 100 * (1 - layer.events / layer.numbers) for layer in sent},
    }
    print(f"seed {seed} {name}: {found}", flush=True)
    return model, found


@torch.no_grad()
def inference(model: Model) -> dict[str, Any]:
    """Frame by frame over long clips: the net on whole frames and on changes."""
    whole, updated = apply_edit(model, "fuse"), apply_edit(model, "delta_inference")
    x_T = clips(LONG, 1)
    seconds: dict[str, list[float]] = {"whole": [], "updated": []}
    outputs, sessions = {}, {}
    for _ in range(5):
        for name, net in (("whole", whole), ("updated", updated)):
            sessions[name] = neuromix.stream(net).session()
            start = time.perf_counter()
            outputs[name] = torch.stack([sessions[name].step(x) for x in x_T])
            seconds[name].append((time.perf_counter() - start) / LONG)
    alone = torch.stack([updated.forward_steps(x[None])[0] for x in x_T])
    with record(updated, "places") as places:
        updated.forward_steps(x_T)
    shares = {path: mean(map(float, seen[1:])) / float(seen[0]) for path, seen in places.items()}
    still_T = x_T[:1].expand(8, -1, -1, -1, -1)
    with counted_events(updated) as counts:
        updated.forward_steps(still_T)
    return {
        "difference": float((alone - outputs["updated"]).abs().max()),
        "difference_of_float32": float((outputs["whole"] - outputs["updated"]).abs().max()),
        "milliseconds": {name: 1e3 * median(times) for name, times in seconds.items()},
        "places": shares,
        "still_events": sum(count.events for count in counts.values()),
        "state_bytes": state_bytes(sessions["updated"].state),
    }


def table(runs: list[dict[str, dict[str, Any]]]) -> list[tuple[str, str, str]]:
    def every(name: str, key: str, digits: int = 1) -> str:
        return mean_and_spread([run[name][key] for run in runs], digits)

    rows = [(f"{name}: test accuracy, %", every(name, "accuracy"), "–") for name in METHODS]
    rows += [
        (f"{name}: sparsity behind the activations, %", every(name, "sparsity"), "–") for name in METHODS
    ]
    rows += [(f"{name}: effective MACs of a frame", every(name, "macs", 0), "–") for name in METHODS]
    for path in runs[0]["delta"]["layers"]:
        share = mean_and_spread([run["delta"]["layers"][path] for run in runs])
        rows.append((f"Delta: unchanged behind {path.removesuffix('.activate.activation')}, %", share, "–"))
    lost = [run["plain"]["accuracy"] - run["delta"]["accuracy"] for run in runs]
    gain = [run["delta"]["sparsity"] / run["plain"]["sparsity"] for run in runs]
    most = 100 / mean(run["plain"]["sparsity"] for run in runs)
    denser = [(100 - run["plain"]["sparsity"]) / (100 - run["delta"]["sparsity"]) for run in runs]
    saved = [run["plain"]["macs"] / max(run["delta"]["macs"], 1.0) for run in runs]
    rows += [
        ("Plain minus delta, points of accuracy", mean_and_spread(lost), "below 2"),
        (
            "Sparsity of delta over that of plain",
            mean_and_spread(gain, 2),
            f"at least 2; {most:.2f} is the most",
        ),
        ("Numbers sent: plain over delta", mean_and_spread(denser), "at least 2"),
        ("Effective MACs of plain over those of delta", mean_and_spread(saved), "above 1"),
    ]
    steps = [run["inference"] for run in runs]
    largest = max(step["difference"] for step in steps)
    single = max(step["difference_of_float32"] for step in steps)
    rows += [
        ("On changes, 50 frames: largest difference of a logit", f"{largest:.1g}", "at most 1e-05"),
        ("The same against convolutions in float32", f"{single:.1g}", "–"),
        ("Changes sent on a still clip", str(max(step["still_events"] for step in steps)), "0"),
        ("State of one clip, bytes, at any length", f"{steps[0]['state_bytes']:,}", "–"),
    ]
    for path in steps[0]["places"]:
        share = mean_and_spread([100 * step["places"][path] for step in steps])
        rows.append((f"Places computed in {path}, % of all", share, "–"))
    for name in ("whole", "updated"):
        times = mean_and_spread([step["milliseconds"][name] for step in steps], 2)
        rows.append((f"A frame of one clip, {name}, ms", times, "–"))
    return rows


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--epochs", type=int, default=12)
    options.set_defaults(seeds=2)
    args = options.parse_args()
    torch.set_num_threads(1)
    runs: list[dict[str, dict[str, Any]]] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(args.seeds):
            run: dict[str, dict[str, Any]] = {}
            for name in METHODS:
                model, run[name] = learn(name, seed, 2 if args.quick else args.epochs, Path(folder))
            runs.append({**run, "inference": inference(model)})  # the last one is the delta net
    report(args, ("Figure", "Found", "Expected"), table(runs), runs=runs, epochs=args.epochs)


if __name__ == "__main__":
    main()
