"""GLA: chunks against a loop of steps, memory over length, and what learning to forget is worth.

    python benchmarks/gla.py --json results/gla.json

The op has the sizes of a layer of the 340M model (4 heads, keys of 128, values of 256), 2048 tokens of one row in
float32. The language models read the documentation that Python carries (`pydoc_data.topics`), byte by byte: two layers
of width 128, windows of 128 bytes, as many steps for both; the last tenth of the text is for the test, in windows of
128 and of 512 bytes.
"""

from __future__ import annotations

import math
import time
from pydoc_data.topics import topics
from statistics import median
from typing import Any

import torch
from ledger import mean_and_spread, parser, report
from torch.nn import functional as F

from neuromix.core.config import Spec
from neuromix.measure import peak_memory
from neuromix.mixers.sequence import make_sequence_mixer
from neuromix.models.language.gla import GLALM, GLALMConfig
from neuromix.ops.recurrence import recurrence

LENGTH, BATCH, STEPS = 128, 16, 300
FORMS = ("loop", "chunk")
DECAYS = {
    "learnt decay": Spec("gla", {"heads": 2}),
    "no decay": Spec("linear_attention", {"heads": 2, "expand_k": 0.5}),
}


def speed(length: int, times: int) -> dict[str, float]:
    """Milliseconds of each form, forward alone and with backward; the forms take turns."""
    torch.manual_seed(0)
    q, k = (torch.randn(1, length, 4, 128) for _ in range(2))
    v, gate = torch.randn(1, length, 4, 256), F.logsigmoid(torch.randn(1, length, 4, 128)) / 16
    leaves = [each.requires_grad_() for each in (q, k, v, gate)]

    def forward(form: str) -> None:
        with torch.no_grad():
            recurrence(q, k, v, gate, form=form)

    def training(form: str) -> None:
        o, _ = recurrence(q, k, v, gate, form=form)
        torch.autograd.grad(o.sum(), leaves)

    taken: dict[str, list[float]] = {}
    for _ in range(times):
        for name, run in (("forward", forward), ("training", training)):
            for form in FORMS:
                begin = time.perf_counter()
                run(form)
                taken.setdefault(f"{name}, {form}", []).append(1000 * (time.perf_counter() - begin))
    return {name: median(each) for name, each in taken.items()}


def memory(lengths: tuple[int, ...]) -> dict[int, int]:
    """Bytes of the tensors that a training step of a layer holds at most, by its tokens."""
    layer = make_sequence_mixer("gla", 128)

    def step(length: int) -> None:
        layer.zero_grad()
        layer(torch.ones(1, length, 128)).sum().backward()

    return {length: peak_memory(lambda length=length: step(length)) for length in lengths}


def windows(text: torch.Tensor, length: int) -> torch.Tensor:
    """[N, length + 1], each beginning where the one before ended."""
    return text.unfold(0, length + 1, length)


def train(mixer: Spec, text: torch.Tensor, steps: int, seed: int) -> GLALM:
    torch.manual_seed(seed)
    net = GLALM(GLALMConfig(vocab_size=256, dim=128, layers=2, tied=True, mixer=mixer))
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.01, fused=True)
    for step in range(steps):
        begins = torch.randint(len(text) - LENGTH, (BATCH,))
        ids = torch.stack([text[b : b + LENGTH + 1] for b in begins])
        for group in optimiser.param_groups:
            group["lr"] = (
                1e-3 * min(1, (step + 1) / (0.1 * steps)) * (0.55 + 0.45 * math.cos(math.pi * step / steps))
            )
        loss = F.cross_entropy(net(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
    return net.eval()


@torch.no_grad()
def perplexity(net: GLALM, text: torch.Tensor, length: int) -> float:
    losses = [
        F.cross_entropy(net(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).item()
        for ids in windows(text, length).split(4096 // length)
    ]
    return math.exp(sum(losses) / len(losses))


def language(steps: int, seed: int) -> dict[str, dict[int, float]]:
    """Test perplexity of both nets, at the training length and at four times of it."""
    joined = "\n".join(topics[name] for name in sorted(topics)).encode()
    text = torch.frombuffer(bytearray(joined), dtype=torch.uint8).long()
    cut = len(text) * 9 // 10
    held_out = text[cut : cut + 4 * LENGTH * 64 + 1]  # both lengths score the same bytes
    nets = {name: train(mixer, text[:cut], steps, seed) for name, mixer in DECAYS.items()}
    return {
        name: {length: perplexity(net, held_out, length) for length in (LENGTH, 4 * LENGTH)}
        for name, net in nets.items()
    }


def main() -> None:
    options = parser(__doc__).parse_args()
    torch.set_num_threads(min(2, torch.get_num_threads()))
    quick = options.quick
    times = speed(256 if quick else 2048, 1 if quick else 3)
    held = memory((256, 512) if quick else (1024, 2048, 4096))
    runs = [language(5 if quick else STEPS, seed) for seed in range(1 if quick else options.seeds)]
    *_, half, full = held.values()
    rows: list[tuple[Any, ...]] = [
        (
            f"2048 tokens, {what}: loop of steps over chunks",
            f"{times[f'{what}, loop'] / times[f'{what}, chunk']:.1f}",
            "5 or more" if what == "forward" else "–",
        )
        for what in ("forward", "training")
    ]
    rows += [("memory of a training step at 4096 tokens over 2048", f"{full / half:.2f}", "2")]
    rows += [
        (
            f"perplexity a byte, {name}, {length} bytes",
            mean_and_spread([run[name][length] for run in runs], 2),
            "–",
        )
        for name in DECAYS
        for length in (LENGTH, 4 * LENGTH)
    ]
    gains = [run["no decay"][LENGTH] / run["learnt decay"][LENGTH] for run in runs]
    longer = [run["learnt decay"][4 * LENGTH] / run["learnt decay"][LENGTH] for run in runs]
    rows += [
        ("perplexity without decay over that with learnt decay", mean_and_spread(gains, 2), "above 1"),
        ("perplexity at four times the length, learnt decay", mean_and_spread(longer, 2), "at most 1"),
    ]
    report(
        options,
        ("", "Found", "Expected"),
        rows,
        milliseconds=times,
        bytes_held=held,
        perplexity=runs,
        steps=STEPS,
    )


if __name__ == "__main__":
    main()
