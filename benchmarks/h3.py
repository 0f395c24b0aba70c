"""H3: associative recall by two layers, and a convolution of 16,384 tokens in chunks against one transform.

    python benchmarks/h3.py --json results/h3.json

Recall: four keys, four values, 20 tokens of pairs, then a key; two layers of width 32 train 1000 steps of 64 sequences.
The convolution is that of a diagonal state space (4 channels, 32 complex states, 4 rows, float32); its memory is that
of all tensors that are held at one time, kernel and output among them.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from ledger import mean_and_spread, parser, report

from neuromix.core import registry
from neuromix.core.config import Spec
from neuromix.layers.state_space import DiagonalSSM
from neuromix.measure import peak_memory
from neuromix.ops.fft_conv import diagonal_kernel, fft_conv, long_conv
from neuromix.training.api import train
from neuromix.training.evaluate import evaluate

LENGTH, CHUNK = 16384, 2048
TASK = {"vocab": 10, "pairs": 10, "others": 0.25, "samples": 6400}


def recall(seed: int, folder: Path, quick: bool) -> float:
    """Share of right answers in percent."""
    run = train(
        "h3_recall",
        "associative-recall",
        folder,
        task_config={**TASK, "samples": 128} if quick else TASK,
        epochs=1 if quick else 10,
        batch_size=64,
        lr=5e-3,
        weight_decay=0.1,
        seed=seed,
    )
    task = registry.build("task", Spec("associative-recall", TASK))
    return 100 * evaluate(run.model().eval(), task, "test")["accuracy"]


def seconds(run, times: int) -> float:
    """Median time of a call."""
    taken = []
    for _ in range(times):
        begin = time.perf_counter()
        run()
        taken.append(time.perf_counter() - begin)
    return median(taken)


@torch.no_grad()
def convolution() -> dict[str, float]:
    """Memory and time of chunks as a share of one transform, and how far they are from it."""
    torch.manual_seed(0)
    system, u_BDL = DiagonalSSM(4, 32).discrete(), torch.randn(4, 4, LENGTH)

    def one() -> torch.Tensor:
        weight = (system.B * system.C).to(torch.complex64)
        return fft_conv(u_BDL, diagonal_kernel(system.log_A, weight, LENGTH))

    def chunks() -> torch.Tensor:
        return long_conv(u_BDL, *system, chunk_size=CHUNK)[0]

    whole = one()
    return {
        "memory": peak_memory(chunks) / peak_memory(one),
        "time": seconds(chunks, 7) / seconds(one, 7),
        "error": ((chunks() - whole).abs().max() / whole.abs().max()).item(),
    }


def main() -> None:
    options = parser(__doc__).parse_args()
    torch.set_num_threads(min(2, torch.get_num_threads()))
    with tempfile.TemporaryDirectory() as path:
        accuracies = [
            recall(seed, Path(path) / str(seed), options.quick)
            for seed in range(1 if options.quick else options.seeds)
        ]
    conv = convolution()
    rows = [
        ("associative recall, right answers", f"{mean_and_spread(accuracies)} %", "98 or more"),
        ("chunks of 2K of 16K tokens: memory of one transform", f"{100 * conv['memory']:.0f} %", "below 40"),
        ("their largest difference, of the largest output", f"{conv['error']:.1e}", "at most 1e-5"),
        ("their time, over that of one transform", f"{conv['time']:.1f}", "–"),
    ]
    report(options, ("", "Found", "Expected"), rows, accuracy=accuracies, convolution=conv, task=TASK)


if __name__ == "__main__":
    main()
