"""`neuromix bench generate`: one more token after a context of growing length, in step mode.

Contestants are language models of four layers of width 256 with random weights, at batch 1 in float32: our Mamba,
whose state is constant; our Transformer, PyTorch's fused attention over all keys and values so far; and
`transformers`, the same Mamba of Hugging Face with its cache, on its CPU path.

What a step costs at least: every weight is read once, 4 bytes each, and for the Transformer 2 * 4 * L * D bytes a layer
of keys and values besides. `memory` is of the whole process, the reading of the context included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from neuromix.bench.contest import Contestant, OnTurn, contest, silent
from neuromix.bench.result import BenchResult, ratios
from neuromix.bench.scan import memory_ratios
from neuromix.core.checkpoint import create_model
from neuromix.core.config import Spec
from neuromix.core.stream import stream

LENGTHS = (100, 256, 1024, 4096, 16384, 32768, 100_000)
SIZES: dict[str, Any] = {"dim": 256, "layers": 4, "vocab_size": 256}
SEGMENT = 2048  # tokens that a context is read by
TOKENS = 16  # of a run
CONTESTANTS = ("mamba", "transformer", "transformers")
LONGEST = {"transformer": 32768, "transformers": 32768}


def run(
    *, rounds: int = 5, threads: int = 2, lengths: Sequence[int] = LENGTHS, on_turn: OnTurn = silent
) -> BenchResult:
    """Measures `TOKENS` tokens after each context length; times are of all of them together."""
    result = BenchResult.begin("generate", threads=threads, rounds=rounds)
    for length in lengths:
        names = [name for name in CONTESTANTS if length <= LONGEST.get(name, length)]
        contestants = [Contestant(n, f"{__name__}:prepare_{n}", {"length": length}) for n in names]
        outcome = contest(contestants, rounds=rounds, threads=threads, on_turn=on_turn)
        found = {**ratios(outcome, "mamba"), **memory_ratios(outcome, "mamba")}
        result.add(f"after_{length}", outcome, found)
    if len(lengths) > 1:
        _compare_ends(result, min(lengths), max(lengths))
    return result


def _compare_ends(result: BenchResult, first: int, last: int) -> None:
    """The time of a late token over that of an early one, by contestant: 1 where the state is constant."""
    early, late = (result.measurements[f"after_{length}"] for length in (first, last))
    for name in early.keys() & late.keys():
        ratio = late[name]["median_s"] / early[name]["median_s"]
        result.ratios[f"{name}_at_{last}_over_at_{first}"] = round(ratio, 3)


def prepare_mamba(length: int) -> Callable[[], None]:
    """Our Mamba, which has read the context in segments."""
    return _ours("mamba", {}, length)


def prepare_transformer(length: int) -> Callable[[], None]:
    """Our Transformer, with the keys and values of the context."""
    return _ours("transformer", {"attention": Spec("attention", {"heads": 4, "rotary": 64})}, length)


def prepare_transformers(length: int) -> Callable[[], None]:
    """Hugging Face's Mamba of the same sizes."""
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(
        hidden_size=SIZES["dim"], num_hidden_layers=SIZES["layers"], vocab_size=SIZES["vocab_size"]
    )
    model: nn.Module = MambaForCausalLM(config)
    model.eval()
    ids_BL = _context(length)
    with torch.no_grad():
        cache = model(ids_BL, use_cache=True).cache_params

    @torch.no_grad()
    def once() -> None:
        for _ in range(TOKENS):
            model(ids_BL[:, -1:], cache_params=cache, use_cache=True)

    return once


def _ours(name: str, options: dict[str, Any], length: int) -> Callable[[], None]:
    net = stream(create_model(name, **SIZES, **options).eval())
    ids_BL, state = _context(length), None
    with torch.no_grad():
        for part in torch.split(ids_BL, SEGMENT, 1):
            _, state = net.prefill(part, state)

    @torch.no_grad()
    def once() -> None:
        after = state
        for _ in range(TOKENS):
            _, after = net.step(ids_BL[:, -1], after)

    return once


def _context(length: int) -> torch.Tensor:
    return torch.randint(SIZES["vocab_size"], (1, length), generator=torch.Generator().manual_seed(0))
