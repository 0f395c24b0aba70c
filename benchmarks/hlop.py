"""Three tasks one after another: orthogonal projection (HLOP) against plain sequential training, on permuted digits.

    python benchmarks/hlop.py --json results/hlop.json

hlop_mlp_nano (100-100 spiking neurons) learns the handwritten digits of scikit-learn three times, each time with the
pixels in another order, three epochs a task. "At once" is the same net on all three orders together, for as many
epochs: what could be reached if nothing had to be kept. Besides, on synthetic data of low rank: whether lateral weights
find the principal subspace, and how much of a gradient is left in it.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from ledger import mean_and_spread, parser, report
from scipy.linalg import subspace_angles
from torch import Tensor

from neuromix.layers.hebbian import HebbianSubspace
from neuromix.layers.projected import ProjectedConfig, ProjectedConv2d, ProjectedLinear
from neuromix.training.api import train
from neuromix.training.run_folder import RunFolder

MODEL, TASK, EPOCHS = "hlop_mlp_nano", "permuted-digits", 3
RANK, FEATURES, SAMPLES = 8, 64, 1000


def continual(method: str, seed: int, epochs: int, folder: Path) -> dict[str, float]:
    """What a method comes to, in points of test accuracy."""
    out = folder / f"{method}-{seed}"
    train(MODEL, TASK, out, method=method, epochs=epochs, seed=seed)
    found = RunFolder(out).results()["sequence"]
    rows = found["accuracy_matrix"]
    return {
        "average": 100 * found["average_accuracy"],
        "backward_transfer": 100 * found["backward_transfer"],
        "forgetting": 100 * found["forgetting"],
        "first_before": 100 * rows[0][0],
        "first_after": 100 * rows[-1][0],
        "first_lost": 100 * (rows[0][0] - rows[-1][0]),
    }


def at_once(seed: int, epochs: int, folder: Path) -> float:
    """Accuracy of all tasks learnt together, by the same optimiser."""
    options: dict[str, Any] = {"optimiser": "sgd", "momentum": 0.0, "lr": 0.1, "warmup": 0.0, "final_lr": 1.0}
    options |= {"weight_decay": 0.0, "clip_norm": None}
    done = train(MODEL, TASK, folder / f"once-{seed}", epochs=epochs, seed=seed, **options)
    return 100 * done.test["accuracy"]


def samples(seed: int) -> Tensor:
    """Noisy samples of a subspace of RANK dimensions."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(FEATURES, RANK, generator=generator, dtype=torch.float64)).Q.T
    signal = torch.randn(SAMPLES, RANK, generator=generator, dtype=torch.float64) @ basis
    return signal + 0.05 * torch.randn(SAMPLES, FEATURES, generator=generator, dtype=torch.float64)


def learnt(x: Tensor, seed: int) -> HebbianSubspace:
    """Lateral weights that have seen these samples."""
    subspace = HebbianSubspace(FEATURES).double()
    subspace.add(RANK, torch.Generator().manual_seed(seed))
    for _ in range(100):
        for batch in x.split(100):
            subspace.learn(batch, 0.05)
    return subspace


def angle_to_principal(x: Tensor, subspace: HebbianSubspace) -> float:
    """The largest angle between the learnt and the principal subspace, in degrees."""
    principal = torch.linalg.svd(x, full_matrices=False).Vh[:RANK]
    return math.degrees(subspace_angles(subspace.weight.T.numpy(), principal.T.numpy()).max())


def left_in_subspace(x: Tensor, subspace: HebbianSubspace, seed: int) -> float:
    """The size of a projected gradient in the subspace, as a share of that of the unprojected one there."""
    torch.manual_seed(seed)
    layer = ProjectedLinear(FEATURES, 10).double()
    layer.prepare(ProjectedConfig())
    layer.subspace = subspace
    sizes = []
    for blocks in ((RANK,), (RANK, 0)):
        subspace.blocks = blocks
        layer.weight.grad = None
        layer(x).square().mean().backward()
        assert layer.weight.grad is not None
        sizes.append(float((layer.weight.grad @ subspace.weight.T).norm()))
    return sizes[1] / sizes[0]


def between_sides(seed: int) -> float:
    """How much two ways to project the gradient of a convolution differ."""
    x = torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    gradients = []
    for side in ("weight", "input"):
        torch.manual_seed(seed)
        conv = ProjectedConv2d(3, 5, 3, 2, 1).double()
        conv.prepare(ProjectedConfig(side=side))  # type: ignore[arg-type]
        conv.subspace.add(10, torch.Generator().manual_seed(seed))
        conv.subspace.add(0)
        conv(x).square().sum().backward()
        assert conv.weight.grad is not None
        gradients.append(conv.weight.grad)
    return float((gradients[0] - gradients[1]).abs().max())


def main() -> None:
    options = parser(__doc__ or "").parse_args()
    seeds = range(1 if options.quick else options.seeds)
    epochs = 1 if options.quick else EPOCHS
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = {
            method: [continual(method, seed, epochs, folder) for seed in seeds]
            for method in ("hlop", "sequential")
        }
        once = [at_once(seed, epochs, folder) for seed in seeds]
    data = [samples(seed) for seed in seeds]
    subspaces = [learnt(x, seed) for x, seed in zip(data, seeds, strict=True)]
    angles = [angle_to_principal(x, h) for x, h in zip(data, subspaces, strict=True)]
    left = [left_in_subspace(x, h, seed) for x, h, seed in zip(data, subspaces, seeds, strict=True)]
    sides = [between_sides(seed) for seed in seeds]

    def of(method: str, figure: str) -> list[float]:
        return [run[figure] for run in found[method]]

    more = [a - b for a, b in zip(of("sequential", "first_lost"), of("hlop", "first_lost"), strict=True)]
    rows = [
        ("points of task 1 lost after task 3, HLOP", mean_and_spread(of("hlop", "first_lost")), "at most 3"),
        ("the same, sequential", mean_and_spread(of("sequential", "first_lost")), ""),
        ("how much more sequential training loses", mean_and_spread(more), "10 or more"),
        ("average accuracy, HLOP (%)", mean_and_spread(of("hlop", "average")), ""),
        ("average accuracy, sequential (%)", mean_and_spread(of("sequential", "average")), ""),
        ("average accuracy, all tasks at once (%)", mean_and_spread(once), ""),
        ("backward transfer, HLOP (points)", mean_and_spread(of("hlop", "backward_transfer")), ""),
        (
            "backward transfer, sequential (points)",
            mean_and_spread(of("sequential", "backward_transfer")),
            "",
        ),
        ("largest angle to the principal subspace (degrees)", f"{max(angles):.2f}", "below 5"),
        ("gradient left in the learnt subspace (share)", f"{max(left):.1e}", "below 1e-2"),
        ("projection of a convolution, by inputs or weights: difference", f"{max(sides):.1e}", "1e-10"),
    ]
    figures = {"at_once": once, "angles": angles, "left": left, "between_sides": sides, "epochs": epochs}
    report(options, ("measured", "found", "claimed"), rows, **found, **figures)


if __name__ == "__main__":
    main()
