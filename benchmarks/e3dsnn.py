"""E-3DSNN: shapes told apart, scenes cut up, and what a sparse convolution costs beside a dense one.

    python benchmarks/e3dsnn.py --json results/e3dsnn.json

Times of two ways are taken in turn, round by round, and the figure is the median of the rounds' ratios; larger than 1
means that the sparse kernel is faster. About five minutes on two cores. The detection backbone is left out.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ledger import mean_and_spread, parser, report
from torch import Tensor
from torch.nn import functional as F

import neuromix
from neuromix.core.batch import Ragged, collate
from neuromix.data.dataset import sample_generator
from neuromix.data.points import Views, open_points
from neuromix.layers.sites import Sites
from neuromix.measure import forward_memory, profile
from neuromix.ops import references_only
from neuromix.ops.sparse_conv import sparse_conv

CHANNELS = 32  # of the layer that is timed
RATE = 0.25  # of its inputs are not zero
TASKS = {"shapes": ("e3dsnn_nano", "accuracy", 5), "scenes": ("e3dsnn_seg_nano", "miou", 5)}  # epochs


def trained(task: str, seed: int, quick: bool) -> dict[str, float]:
    """Score in per cent and minutes of a training."""
    model, score, epochs = TASKS[task]
    steps = {"max_steps": 2} if quick else {}
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = neuromix.train(model, task, Path(folder) / "run", epochs=epochs, seed=seed, **steps)
    return {"score": 100 * result.test[score], "minutes": (time.perf_counter() - began) / 60}


def seconds(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def ratio(slow: Callable[[], Any], fast: Callable[[], Any], rounds: int) -> float:
    """Time of `slow` over time of `fast`: the median over rounds in which both ran, one after the other."""
    slow(), fast()
    return statistics.median(seconds(slow) / seconds(fast) for _ in range(rounds))


def clouds(count: int, voxel: float) -> Ragged:
    """Some test shapes as voxels."""
    data = open_points("shapes", Views(points=2048, voxel=voxel)).split("test")
    cloud = collate([data.sample(i, sample_generator(0, 0, i)) for i in range(count)])["cloud"]
    assert isinstance(cloud, Ragged)
    return cloud


def apart(cloud: Ragged, factor: int) -> Ragged:
    """The same voxels with blocks of 16 of them `factor` times as far apart: only empty space is added."""
    coords = cloud.extras["coords"]
    return Ragged(cloud.values, cloud.offsets, {"coords": coords // 16 * 16 * factor + coords % 16})


def occupancy(rounds: int) -> dict[str, float]:
    """A net on clouds with twice the empty space along each axis, over the same without: eight times the grid."""
    torch.manual_seed(0)
    net = neuromix.create_model("e3dsnn_t").eval()
    near, far = apart(clouds(8, 0.05), 2), apart(clouds(8, 0.05), 4)

    def run(cloud: Ragged) -> Callable[[], Any]:
        return torch.no_grad()(lambda: net(cloud))

    counted = [profile(net, {"cloud": cloud}, batch_size=8).macs_dense for cloud in (near, far)]
    memory = [forward_memory(net, {"cloud": cloud}) for cloud in (near, far)]
    grids = [torch.tensor(Sites.of(cloud).shape).prod().item() for cloud in (near, far)]
    return {
        "voxels": len(near.values),
        "grid": grids[1] / grids[0],
        "time": ratio(run(far), run(near), rounds),
        "memory": memory[1] / memory[0],
        "multiply_adds": counted[1] / counted[0],
    }


def kernels(rounds: int) -> dict[str, float]:
    """One submanifold layer of spikes on sixteen clouds: the kernel against its formula and a dense convolution."""
    cloud = clouds(16, 0.1)
    sites = Sites.of(cloud)
    neighbours = sites.neighbours()
    generator = torch.Generator().manual_seed(0)
    spikes_NC = torch.randint(1, 5, (len(sites), CHANNELS), generator=generator).float()
    spikes_NC *= torch.rand(spikes_NC.shape, generator=generator) < RATE
    weight_KIO = torch.randn(27, CHANNELS, CHANNELS, generator=generator).requires_grad_()
    kernel = weight_KIO.detach().permute(2, 1, 0).reshape(CHANNELS, CHANNELS, 3, 3, 3)
    kernel = kernel.contiguous().requires_grad_()
    grid = spikes_NC.new_zeros(sites.size, CHANNELS, *sites.shape)
    grid[sites.batch_N, :, *sites.coords_N3.T] = spikes_NC
    at = (sites.batch_N, slice(None), *sites.coords_N3.T)

    def sparse() -> Tensor:
        return sparse_conv(spikes_NC.requires_grad_(), weight_KIO, *neighbours)

    def formula() -> Tensor:
        with references_only():
            return sparse()

    def dense() -> Tensor:
        return F.conv3d(grid.requires_grad_(), kernel, padding=1)

    def trained(forward: Callable[[], Tensor]) -> Callable[[], Any]:
        def run() -> None:
            with references_only() if forward is formula else torch.enable_grad():
                forward().sum().backward()

        return run

    with torch.no_grad():
        largest = float((sparse() - dense()[at]).abs().max())
        forward = {
            "formula": ratio(formula, sparse, rounds),
            "dense": ratio(dense, sparse, rounds),
        }
    return {
        "voxels": len(sites),
        "occupied": len(sites) / grid[:, 0].numel(),
        "difference_to_dense": largest,
        "formula_over_kernel_forward": forward["formula"],
        "dense_over_kernel_forward": forward["dense"],
        "formula_over_kernel_training": ratio(trained(formula), trained(sparse), rounds),
        "dense_over_kernel_training": ratio(trained(dense), trained(sparse), rounds),
    }


def whole_net(rounds: int) -> float:
    """A training step of a net by the formula, over one by the kernels."""
    torch.manual_seed(0)
    net, cloud = neuromix.create_model("e3dsnn_nano").train(), clouds(16, 0.1)

    def step() -> None:
        net(cloud).square().sum().backward()

    def by_formula() -> None:
        with references_only():
            step()

    return ratio(by_formula, step, rounds)


def main() -> None:
    assert __doc__ is not None
    options = parser(__doc__).parse_args()
    rounds = 2 if options.quick else 15
    cost, layer, net = occupancy(rounds), kernels(rounds), whole_net(rounds)
    runs = {task: [trained(task, seed, options.quick) for seed in range(options.seeds)] for task in TASKS}
    scores = {task: mean_and_spread([run["score"] for run in each]) for task, each in runs.items()}
    minutes = {task: max(run["minutes"] for run in each) for task, each in runs.items()}
    rows = [
        ("accuracy on four shapes, %", scores["shapes"], "95 or more"),
        ("longest of these trainings, minutes", f"{minutes['shapes']:.1f}", "2 or less"),
        ("mean IoU on scenes of five classes, %", scores["scenes"], "not claimed"),
        (
            f"a net on a grid {cost['grid']:.1f} times as large: time",
            f"x {cost['time']:.2f}",
            "x 1.2 or less",
        ),
        ("the same: peak memory", f"x {cost['memory']:.2f}", "x 1.2 or less"),
        ("the same: multiply-adds", f"x {cost['multiply_adds']:.2f}", "x 1"),
        (
            "layer of spikes, formula over kernel, forward",
            f"{layer['formula_over_kernel_forward']:.1f}",
            "above 1",
        ),
        ("the same, forward and backward", f"{layer['formula_over_kernel_training']:.1f}", "above 1"),
        (
            f"layer of spikes, dense conv3d ({layer['occupied']:.1%} occupied) over kernel, forward",
            f"{layer['dense_over_kernel_forward']:.1f}",
            "above 1",
        ),
        ("the same, forward and backward", f"{layer['dense_over_kernel_training']:.1f}", "above 1"),
        ("training step of e3dsnn_nano, formula over kernels", f"{net:.1f}", "above 1"),
    ]
    report(options, ("Measured", "Found", "Claimed"), rows, runs=runs, occupancy=cost, layer=layer, step=net)


if __name__ == "__main__":
    main()
