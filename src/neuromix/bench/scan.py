"""`neuromix bench scan`: the selective scan at growing length, forward and backward, against what else does its job.

Contestants, all at batch 1 in float32:

- `neuromix`: `ops.selective_scan` as it is chosen on this machine; `chunk`: its form in plain PyTorch;
- `reference`: the algorithm of the authors' PyTorch reference, which makes the decays and inputs of all steps at once
  and then goes through them; over unbound steps, since indexed ones cost a backward that is quadratic in length;
- `loop`: our own loop, which makes them step by step;
- `attention`: PyTorch's fused causal attention over as many channels, heads of 64 wide;
- `mixer`: a whole Mamba mixer of ours, and `transformers`: the same mixer of Hugging Face on its CPU path.

What the scan costs at least, for L tokens, D channels and N states, each measured as what this machine takes for it:

- `copy`: forward reads x and delta and writes y, backward reads both again with the gradient of y and writes two
  gradients, 8 L D numbers in all; B and C are small;
- `exponentials`: L D N of them forward and as many again backward, by PyTorch on numbers that stay in the cache;
- `products`: 10 multiply-adds a state and step forward and 17 backward, 7 of them each way for the exponential, as a
  matrix product of as many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuromix.bench.contest import Contestant, OnTurn, Outcome, contest, silent
from neuromix.bench.result import BenchResult, ratios

CHANNELS, STATES, WIDTH, HEAD = 1536, 16, 768, 64
LENGTHS = (256, 1024, 4096, 16384, 32768)
NUMBERS_PER_TOKEN_AND_CHANNEL, PRODUCTS_PER_STATE = 8, 27
# Beyond these lengths a contestant is left out: it would take minutes a run, or more memory than there may be.
LONGEST = {"chunk": 4096, "reference": 4096, "loop": 4096, "attention": 16384, "transformers": 1024}
FLOORS = ("copy", "exponentials", "products")


def run(
    *, rounds: int = 5, threads: int = 2, lengths: Sequence[int] = LENGTHS, on_turn: OnTurn = silent
) -> BenchResult:
    """Measures every length; the longest run, attention over 16,384 tokens, takes some 25 s."""
    result = BenchResult.begin("scan", threads=threads, rounds=rounds)
    for length in lengths:
        contestants = [_scan(form, length) for form in ("auto", "chunk", "loop")]
        contestants += [
            _other(name, f"prepare_{name}", length) for name in ("reference", "attention", *FLOORS)
        ]
        _measure(result, f"scan_L{length}", contestants, length, "neuromix", rounds, threads, on_turn)
        mixers = [_other(name, f"prepare_{name}", length) for name in ("mixer", "transformers")]
        _measure(result, f"mixer_L{length}", mixers, length, "mixer", rounds, threads, on_turn)
    return result


def _scan(form: str, length: int) -> Contestant:
    name = "neuromix" if form == "auto" else form
    return Contestant(name, f"{__name__}:prepare_scan", {"form": form, "length": length})


def _other(name: str, prepare: str, length: int) -> Contestant:
    return Contestant(name, f"{__name__}:{prepare}", {"length": length})


def _measure(
    result: BenchResult,
    set_up: str,
    contestants: Sequence[Contestant],
    length: int,
    ours: str,
    rounds: int,
    threads: int,
    on_turn: OnTurn,
) -> None:
    taking_part = [c for c in contestants if length <= LONGEST.get(c.name, length)]
    outcome = contest(taking_part, rounds=rounds, threads=threads, on_turn=on_turn)
    result.add(set_up, outcome, {**ratios(outcome, ours, FLOORS), **memory_ratios(outcome, ours)})
    left_out = {c.name for c in contestants} - {c.name for c in taking_part}
    result.missing |= {f"{name} at L = {length}": "it would take too long" for name in left_out}


def memory_ratios(outcome: Outcome, ours: str) -> dict[str, float]:
    """ "PEER_memory_over_OURS": peak memory of a peer over ours."""
    peaks = {name: measured.peak_bytes for name, measured in outcome.measurements.items()}
    least = max(peaks[ours], 1)
    return {
        f"{name}_memory_over_{ours}": round(peak / least, 3)
        for name, peak in peaks.items()
        if name not in (ours, *FLOORS)
    }


def prepare_scan(form: str, length: int) -> Callable[[], None]:
    """Forward and backward to every input."""
    from neuromix.ops.selective_scan import selective_scan

    return _forward_and_backward(lambda *inputs: selective_scan(*inputs, form=form)[0], length)


def prepare_reference(length: int) -> Callable[[], None]:
    """Forward and backward of `reference_scan`."""
    return _forward_and_backward(reference_scan, length)


def reference_scan(x_BLD: Tensor, delta_BLD: Tensor, A_DN: Tensor, B_BLN: Tensor, C_BLN: Tensor) -> Tensor:
    """y [B, L, D]: all decays and inputs at once, [B, D, L, N], and a loop over their steps."""
    decay_BDLN = torch.exp(torch.einsum("bld,dn->bdln", delta_BLD, A_DN))
    input_BDLN = torch.einsum("bld,bln,bld->bdln", delta_BLD, B_BLN, x_BLD)
    state_BDN, outputs = torch.zeros_like(decay_BDLN[:, :, 0]), []
    for decay_BDN, input_BDN, C_BN in zip(
        decay_BDLN.unbind(2), input_BDLN.unbind(2), C_BLN.unbind(1), strict=True
    ):
        state_BDN = decay_BDN * state_BDN + input_BDN
        outputs.append(torch.einsum("bdn,bn->bd", state_BDN, C_BN))
    return torch.stack(outputs, 1)


def _forward_and_backward(scan: Callable[..., Tensor], length: int) -> Callable[[], None]:
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    x_BLD, grad_BLD = normal(1, length, CHANNELS), normal(1, length, CHANNELS)
    delta_BLD = F.softplus(normal(1, length, CHANNELS) - 4)
    A_DN = -torch.arange(1.0, STATES + 1).expand(CHANNELS, -1).clone()
    inputs = [x_BLD, delta_BLD, A_DN, normal(1, length, STATES), normal(1, length, STATES)]
    for tensor in inputs:
        tensor.requires_grad_()

    def once() -> None:
        for tensor in inputs:
            tensor.grad = None
        torch.autograd.backward(scan(*inputs), grad_BLD)

    return once


def prepare_attention(length: int) -> Callable[[], None]:
    """Causal attention, forward and backward."""
    q, k, v = (torch.randn(1, CHANNELS // HEAD, length, HEAD).requires_grad_() for _ in range(3))
    grad = torch.randn_like(q)

    def once() -> None:
        q.grad = k.grad = v.grad = None
        torch.autograd.backward(F.scaled_dot_product_attention(q, k, v, is_causal=True), grad)

    return once


def prepare_copy(length: int) -> Callable[[], None]:
    """The numbers that a forward and a backward pass of the scan have to move, half read and half written."""
    count = length * CHANNELS * NUMBERS_PER_TOKEN_AND_CHANNEL // 2
    source, target = torch.randn(count), torch.empty(count)

    def once() -> None:
        target.copy_(source)

    return once


def prepare_exponentials(length: int) -> Callable[[], None]:
    """Those of a forward and a backward pass."""
    size = 2**18  # stays in the caches of two threads
    exponents, powers = -torch.rand(size), torch.empty(size)

    def once() -> None:
        for _ in range(2 * length * CHANNELS * STATES // size):
            torch.exp(exponents, out=powers)

    return once


def prepare_products(length: int) -> Callable[[], None]:
    """As many multiply-adds as a forward and a backward pass take."""
    rows = length * CHANNELS * STATES * PRODUCTS_PER_STATE // 512**2
    left, right, product = torch.randn(rows, 512), torch.randn(512, 512), torch.empty(rows, 512)

    def once() -> None:
        torch.mm(left, right, out=product)

    return once


def prepare_mixer(length: int) -> Callable[[], None]:
    """A Mamba mixer of ours."""
    from neuromix.mixers.sequence import make_sequence_mixer

    return _train(make_sequence_mixer("mamba", WIDTH), length)


def prepare_transformers(length: int) -> Callable[[], None]:
    """The mixer of the same sizes of Hugging Face's transformers."""
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    return _train(MambaMixer(MambaConfig(hidden_size=WIDTH, state_size=STATES), layer_idx=0), length)


def _train(mixer: nn.Module, length: int) -> Callable[[], None]:
    x_BLD = torch.randn(1, length, WIDTH, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def once() -> None:
        mixer.zero_grad()
        x_BLD.grad = None
        mixer(x_BLD).sum().backward()

    return once
