"""Fine-tuning by sparsification: what attention keeps for backward, what the kept keys are worth, how well it learns.

    python benchmarks/spt.py --data input.txt --json results/spt.json

Kept for backward: bytes that autograd holds after one attention (8 heads of 64 numbers, one row of 1024 tokens, its
queries, keys and values included), against softmax attention by its formula; PyTorch's fused attention keeps no weights
either.
Fine-tuning: a Transformer of 4 layers of width 128 is trained on the first half of the text, and then tuned for the
same steps with LoRA alone and with SPT (rank 4) on the second half, in capital letters.
Attention mass: of the tuned net's dense attention weights, in rows of 256, that of the kept keys over that of as many
keys with the largest weights; queries with fewer keys than are kept are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ledger import mean_and_spread, parser, report
from torch import Tensor, nn
from torch.nn import functional as F

import neuromix
from neuromix.core.config import Spec
from neuromix.core.edits import apply_edit
from neuromix.core.model import Model
from neuromix.mixers.pq_attention import PQAttention, PQAttentionConfig
from neuromix.ops.selected_attention import selected_attention
from neuromix.training.auxiliary import AuxiliaryLosses

LENGTH, BATCH = 256, 8
NET = {
    "dim": 128,
    "layers": 4,
    "attention": Spec("attention", {"heads": 4, "rotary": 32}),
    "ffn": Spec("mlp", {}),
}
EDITS = {
    "LoRA": Spec("lora", {"rank": 4}),
    "SPT": Spec("spt", {"rank": 4, "codeword_dim": 8}),
}


def kept_for_backward(attend: Callable[..., Tensor], *inputs: Tensor) -> int:
    """Bytes of what is held after the forward pass, each storage once."""
    kept: dict[int, tuple[int, Tensor]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        held = attend(*inputs)
    del held
    return sum(size for size, _ in kept.values())


def attention_bytes(length: int = 1024) -> dict[str, int]:
    """Of sparse attention, of the formula, and of the fused form."""
    q, k, v = (torch.randn(8, length, 64, requires_grad=True) for _ in range(3))
    mixer = PQAttention(PQAttentionConfig(heads=1), 64)
    hidden = torch.ones(length, length, dtype=torch.bool).triu(1)

    def sparse(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return selected_attention(q, k, v, mixer.selected(q, k), scale=0.125, clamp=10.0)

    def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.mT * 0.125).masked_fill(hidden, -math.inf).softmax(-1) @ v

    def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)

    return {f.__name__: kept_for_backward(f, q, k, v) for f in (sparse, dense, fused)}


def windows(text: Tensor, number: int, generator: torch.Generator) -> Tensor:
    first = torch.randint(len(text) - LENGTH, (number, 1), generator=generator)
    return text[first + torch.arange(LENGTH + 1)].long()


def fit(model: Model, text: Tensor, steps: int, rate: float, seed: int) -> None:
    """Trains what learns in a model, with the losses that its layers ask for."""
    generator = torch.Generator().manual_seed(seed)
    learning = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learning, rate, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        ids = windows(text, BATCH, generator)
        with AuxiliaryLosses(model.train()) as auxiliary:
            logits = model(ids[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimiser.zero_grad()
        (loss + sum(auxiliary.losses().values())).backward()
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimiser.step()
        schedule.step()


@torch.no_grad()
def loss_of(model: Model, text: Tensor) -> float:
    """Cross-entropy of a token in windows of the text."""
    ids = windows(text, 32, torch.Generator().manual_seed(0))
    return float(F.cross_entropy(model.eval()(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()))


@torch.no_grad()
def mass(model: Model, text: Tensor) -> float:
    """Of the kept keys over that of the best ones, in percent."""
    found: list[Tensor] = []

    class Looking(PQAttention):
        def selected(self, q_NLK: Tensor, k_NSK: Tensor, visible_B1LS: Tensor | None = None) -> Tensor:
            index = super().selected(q_NLK, k_NSK, visible_B1LS)
            hidden = torch.ones(q_NLK.shape[1], k_NSK.shape[1], dtype=torch.bool).triu(1)
            weights = (q_NLK @ k_NSK.mT * self.head_dim**-0.5).masked_fill(hidden, -math.inf).softmax(-1)
            ours = weights.gather(-1, index.clamp(min=0).long()) * (index >= 0)
            best = weights.topk(index.shape[-1], -1).values
            found.append((ours.sum(-1) / best.sum(-1))[:, index.shape[-1] :])
            return index

    for module in model.modules():
        if isinstance(module, PQAttention):
            module.__class__ = Looking
    model.eval()(windows(text, 8, torch.Generator().manual_seed(1))[:, :-1])
    return 100 * float(torch.stack([ratio.mean() for ratio in found]).mean())


def tuned(
    first: Tensor, second: Tensor, held_out: Tensor, steps: tuple[int, int], seed: int
) -> dict[str, Any]:
    """Trains, converts and tunes; losses on the held-out text, shares that learn, mass."""
    torch.manual_seed(seed)
    base = neuromix.create_model("transformer", **NET)
    fit(base, first, steps[0], 2e-3, seed)
    found: dict[str, Any] = {"before": loss_of(base, held_out)}
    frozen = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    for name, edit in EDITS.items():
        model = apply_edit(base, edit)
        learns = model.num_parameters() / model.num_parameters(trainable_only=False)
        fit(model, second, steps[1], 2e-3, seed + 1)
        after = model.state_dict()
        found[name] = {
            "loss": loss_of(model, held_out),
            "learns": 100 * learns,
            "unchanged": all(torch.equal(after[key], tensor) for key, tensor in frozen.items()),
        }
        print(f"seed {seed} {name}: {found[name]}", flush=True)
    found["mass"] = mass(model, held_out)
    return found


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--data", type=Path, required=True, help="a text file")
    options.add_argument("--steps", type=int, nargs=2, default=(400, 200), help="of training, of tuning")
    options.set_defaults(seeds=1)
    args = options.parse_args()
    raw = args.data.read_bytes()
    text = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
    capitals = torch.frombuffer(bytearray(raw.upper()), dtype=torch.uint8)
    half, tenth = len(text) // 2, len(text) // 10
    second, held_out = capitals[half:-tenth], capitals[-tenth:]
    steps = (3, 2) if args.quick else tuple(args.steps)
    kept = attention_bytes()
    runs = [tuned(text[:half], second, held_out, steps, seed) for seed in range(args.seeds)]
    assert all(run[name]["unchanged"] for run in runs for name in EDITS)
    more = [100 * (run["SPT"]["loss"] / run["LoRA"]["loss"] - 1) for run in runs]
    rows = [
        ("kept for backward, of dense attention", f"{kept['sparse'] / kept['dense']:.2f}", "at most 0.30"),
        ("kept for backward, of fused attention", f"{kept['sparse'] / kept['fused']:.2f}", "–"),
        (
            "attention mass of the kept keys",
            f"{mean_and_spread([run['mass'] for run in runs])} %",
            "at least 80 %",
        ),
        ("parameters that learn", f"{runs[0]['SPT']['learns']:.1f} %", "below 15 %"),
        ("loss before tuning", mean_and_spread([run["before"] for run in runs], 3), "–"),
        ("loss with LoRA", mean_and_spread([run["LoRA"]["loss"] for run in runs], 3), "–"),
        ("loss with SPT", mean_and_spread([run["SPT"]["loss"] for run in runs], 3), "–"),
        ("loss with SPT over that with LoRA", f"{mean_and_spread(more)} % more", "at most 5 % more"),
    ]
    report(args, ("Measure", "Found", "Expected"), rows, kept=kept, runs=runs, steps=list(steps))


if __name__ == "__main__":
    main()
