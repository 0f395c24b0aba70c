"""Modules of any origin: counted or named, never silently free; left as they were; failing in one clear line."""

from __future__ import annotations

import copy
import ctypes

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention.flex_attention import flex_attention

from neuromix.core.errors import ForwardError, NeuromixError, ShapeError
from neuromix.measure import profile


class Op(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        return x @ weight

    @staticmethod
    def backward(ctx, grad):
        return grad, None


TWO = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).eval()
X = 0.5 + torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
FULLGRAPH = torch.compile(lambda x: x @ x.mT, fullgraph=True)


@pytest.mark.parametrize(
    ("net", "macs"),
    [
        (Op(lambda x: Doubled.apply(x, torch.ones(4, 2))), 24),
        (Op(lambda x: torch.einsum("bi,ij,kj->bk", x, torch.ones(4, 5), torch.ones(6, 5))), 60 + 90),
        (Op(lambda x: torch.vmap(lambda row: torch.ones(2, 4) @ row)(x)), 24),
        (Op(lambda x: torch.utils.checkpoint.checkpoint(TWO, x, use_reentrant=False)), 90),
        (torch.compile(TWO, fullgraph=True), 90),
        (nn.Sequential(torch.compile(nn.Linear(4, 5), fullgraph=True), nn.Linear(5, 2)), 90),
        (Op(FULLGRAPH), 36),
        (nn.utils.parametrizations.weight_norm(nn.Linear(4, 2)), 24),
    ],
    ids=["autograd", "einsum", "vmap", "checkpoint", "compiled", "compiled part", "function", "norm"],
)
def test_counted(net, macs):
    seen = profile(net, X, batch_size=1)
    assert (seen.macs_dense, seen.not_counted) == (macs, {})


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_scripted_modules_count_for_the_module_around_them():
    assert profile(torch.jit.trace(TWO, X), X, batch_size=1).macs_dense == 90
    whole = profile(torch.jit.script(TWO), X, batch_size=1)
    part = profile(nn.Sequential(torch.jit.script(nn.Linear(4, 5)), nn.Linear(5, 2)), X, batch_size=1)
    assert [(row.path, row.macs_dense) for row in whole.layers] == [("", 90)]
    assert [(row.path, row.macs_dense) for row in part.layers] == [("", 60), ("1", 30)]


def test_attention_of_pytorch():
    x = torch.rand(2, 5, 8)
    seen = profile(nn.MultiheadAttention(8, 2, batch_first=True), (x, x, x), batch_size=2)
    assert (seen.macs_dense, seen.not_counted) == (4 * 5 * 64 + 2 * 5 * 5 * 8, {})


@torch.library.custom_op("neuromix_test::folded", mutates_args=())
def folded(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a @ b


@torch.library.custom_op("neuromix_test::filled", mutates_args=("out",))
def filled(out: torch.Tensor, a: torch.Tensor) -> None:
    out.copy_(a @ a.mT)


def fill(x):
    out = torch.empty(3, 3)
    filled(out, x)
    return out + 1


def in_numpy(x):
    return torch.from_numpy(x.numpy() @ np.ones((4, 2), np.float32)) + 1


def by_address(x):
    """A kernel that is called past the dispatcher, as those of CUDA extensions are."""
    out = torch.empty(3, 2)
    ctypes.memset(out.data_ptr(), 0, out.nbytes)
    return out


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize(
    ("function", "names"),
    [
        (lambda x: folded(x, torch.ones(4, 2)), {"neuromix_test.folded"}),
        (fill, {"neuromix_test.filled"}),
        (lambda x: F.bilinear(x, x, torch.ones(2, 4, 4)), {"aten._trilinear"}),
        (lambda x: torch.sparse.mm(torch.eye(3).to_sparse(), x), {"aten._to_sparse", "aten._sparse_addmm"}),
        (lambda x: torch.cond(x.sum() > 0, lambda a: a @ a.mT, lambda a: a, (x,)), {"higher_order.cond"}),
        (lambda x: flex_attention(*3 * [x.expand(1, 1, 3, 4)]), {"higher_order.flex_attention"}),
        (in_numpy, {"NumPy outside PyTorch, in the model itself"}),
        (lambda x: torch.as_tensor(np.asarray(x)), {"NumPy outside PyTorch, in the model itself"}),
        (lambda x: torch.from_dlpack(x.mul(2)), {"DLPack outside PyTorch, in the model itself"}),
        (by_address, {"a kernel outside PyTorch, in the model itself"}),
        (lambda x: by_address(x) * 2, {"a kernel outside PyTorch, in the model itself"}),
    ],
    ids=[
        "op",
        "mutating",
        "bilinear",
        "sparse",
        "cond",
        "flex",
        "numpy",
        "array",
        "dlpack",
        "kernel",
        "used",
    ],
)
def test_named(function, names):
    assert profile(Op(function), X).not_counted.keys() == names


def test_memory_that_ops_fill_is_no_kernel():
    def parts(x):
        out = torch.empty(3, 6)
        out[:, :4] = x
        torch.mul(x[:, :2], 2, out=out[:, 4:])
        scratch = torch.empty_like(out).uniform_()
        return out + scratch + torch.empty(3, 6).copy_(out), torch.empty(0, 3)

    assert not profile(Op(parts), X).not_counted


def test_the_place_of_a_kernel_is_named():
    net = nn.Sequential(nn.Linear(4, 4), nn.Sequential(Op(by_address), nn.Linear(2, 2)))
    assert profile(net, X).not_counted == {"a kernel outside PyTorch, in 1.0": 1}


class Remembers(nn.Module):
    """Keeps states in all the ways that modules of other libraries do."""

    def __init__(self):
        super().__init__()
        self.v = 0.0
        self.potential = torch.zeros(4)
        self.memories = {"v": 0.0, "trace": [torch.zeros(4)]}
        self.seen = {1}
        self.register_buffer("mem", torch.zeros(0))
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        self.v = self.v + x
        self.potential += x.sum(0)
        self.memories["v"] = self.memories["v"] + x
        self.memories["trace"].append(x)
        self.memories["trace"][0].add_(1)
        self.memories["new"] = 1
        self.seen.add(len(self.seen) + 1)
        self.mem = x
        self.later = x
        return self.linear(x + self.v)


def state_of(net):
    return copy.deepcopy({name: value for name, value in vars(net).items() if name not in ("_modules",)})


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def test_states_that_modules_keep_are_left_as_they_were():
    net = Remembers()
    net(X)
    before, twice = state_of(net), [profile(net, X).operations for _ in range(2)]
    assert twice[0] == twice[1]
    assert equal(before, state_of(net))


def test_neurons_of_snntorch():
    snn = pytest.importorskip("snntorch", reason="profiles neurons of snntorch")

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)
            self.synaptic = snn.Synaptic(alpha=0.9, beta=0.8, threshold=0.1)
            self.leaky = snn.Leaky(beta=0.8, threshold=0.1, init_hidden=True)

        def forward(self, x):
            syn, mem = self.synaptic.reset_mem()
            for _ in range(5):
                spikes, syn, mem = self.synaptic(self.linear(x), syn, mem)
                last = self.leaky(spikes)
            return last

    net = Net()
    nn.init.ones_(net.linear.weight)
    before = copy.deepcopy(net.state_dict())
    first, second = (profile(net, X) for _ in range(2))
    assert first == second and not first.not_counted
    assert before.keys() == net.state_dict().keys()
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in before.items())
    synaptic, leaky = first.neurons
    assert (synaptic.path, synaptic.type, synaptic.elements) == ("synaptic", "Synaptic", 15)
    assert 0 < synaptic.firing_rate <= 1
    assert synaptic.traffic["state_read32"] == 2 * 15  # it gives a current and a potential beside its spikes
    assert leaky.traffic["state_read32"] == 15  # it gives none: one potential each


def test_neurons_of_spikingjelly():
    pytest.importorskip("spikingjelly", reason="profiles neurons of spikingjelly")
    from spikingjelly.activation_based import layer, neuron, surrogate

    options = {"step_mode": "m", "surrogate_function": surrogate.ATan()}
    torch.manual_seed(0)
    net = nn.Sequential(
        layer.Linear(4, 6, step_mode="m"),
        neuron.LIFNode(v_threshold=0.1, **options),
        layer.Linear(6, 2, step_mode="m"),
        neuron.ParametricLIFNode(v_threshold=0.1, **options),
    )
    x_TBC = torch.rand(5, 2, 4)
    first, second = (profile(net, x_TBC, batch_size=2) for _ in range(2))
    assert first == second and not first.not_counted
    assert net[1].v == 0.0
    assert [(row.path, row.elements) for row in first.neurons] == [("1", 30), ("3", 10)]
    assert first.neurons[0].traffic["state_write32"] == 30
    assert first.firing_rate == pytest.approx(1 - first.activation_sparsity)
    assert [row.input for row in first.layers] == ["real", "spike"]


def test_neurons_of_norse():
    norse = pytest.importorskip("norse.torch", reason="profiles neurons of norse")
    net = norse.SequentialState(nn.Linear(4, 3), norse.LIFBoxCell())
    (row,) = profile(net, X).neurons
    assert (row.type, row.elements, row.traffic["state_read32"]) == ("LIFBoxCell", 3, 3)


class Threshold(nn.Module):
    """A neuron that nobody knows."""

    def forward(self, x):
        return (x > 1).float(), x


class WithThreshold(nn.Module):
    def __init__(self):
        super().__init__()
        self.neuron, self.linear = Threshold(), nn.Linear(4, 2)

    def forward(self, x):
        return self.linear(self.neuron(x)[0])


def test_neurons_of_the_user():
    net = WithThreshold()
    assert profile(net, X).neurons == ()
    (row,) = profile(net, X, neurons=[Threshold]).neurons
    assert row.firing_rate == int((X > 1).sum()) / X.numel()
    assert row.traffic["state_read32"] == 4


class Deep(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Identity(), nn.Sequential(Remembers(), Raises(error))])

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


class Raises(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, x):
        raise self.error


def test_a_failing_module_is_named_and_the_model_left_as_it_was():
    error = RuntimeError("two\nlines")
    net = Deep(error).train()
    net.blocks[0].eval()
    before = state_of(net.blocks[1][0])
    with pytest.raises(
        ForwardError, match=r"failed in blocks\.1\.1 \(Raises\): RuntimeError: two;"
    ) as raised:
        profile(net, X)
    assert raised.value.__cause__ is error
    assert "\n" not in str(raised.value)
    assert equal(before, state_of(net.blocks[1][0]))
    assert [module.training for module in net.modules()].count(False) == 1
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in net.modules())
    assert torch.overrides._get_current_function_mode() is None


def test_a_wrong_shape_is_told_as_pytorch_tells_it():
    with pytest.raises(ForwardError, match=r"failed in 0 \(Linear\): RuntimeError: mat1 and mat2 shapes"):
        profile(TWO, torch.rand(3, 5))
    with pytest.raises(ForwardError, match="failed in the model itself"):
        profile(nn.Linear(4, 2), (X, X))


def test_an_error_of_the_library_goes_through_as_it_is():
    with pytest.raises(ShapeError, match=r"^no$"):
        profile(Deep(ShapeError("no")), X)
    with pytest.raises(KeyboardInterrupt):
        profile(Deep(KeyboardInterrupt()), X)


def test_lazy_parameters():
    with pytest.raises(NeuromixError, match="lazy parameters: run it once"):
        profile(nn.LazyLinear(3), X)
