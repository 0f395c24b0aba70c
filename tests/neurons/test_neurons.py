"""What every neuron must obey, whatever its kind; and the formula of each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch.utils import _pytree as pytree

import neuromix
from neuromix.core import registry
from neuromix.core import state as states
from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError, NeuromixError, ShapeError
from neuromix.core.model import Model, ModelConfig
from neuromix.core.observe import draws
from neuromix.core.time import Repeat, fold
from neuromix.neurons import (
    IELIF,
    IF,
    ILIF,
    LIF,
    PLIF,
    AdaptiveLIF,
    CubaLIF,
    LeakyIntegrator,
    StochasticIF,
    make_neuron,
)
from neuromix.ops import references_only

SPECS = {
    **{name: Spec(name) for name in registry.entries("neuron")},
    "lif soft": Spec("lif", {"v_reset": None, "detach_reset": False, "compare": ">"}),
    "lif shifted": Spec("lif", {"v_reset": -0.5, "tau": 3.0, "surrogate": "atan"}),
    "lif next": Spec("lif", {"v_reset": None, "reset": "next", "decay": 0.75, "detach_reset": False}),
    "lif of a ratio": Spec(
        "lif", {"surrogate_input": "ratio", "fire_at": 0.5, "height": "threshold", "v_init": 0.2}
    ),
    "lif a channel": Spec("lif", {"learnable": ["v_threshold", "decay"], "channels": 4}),
    "cuba that learns": Spec(
        "cuba_lif", {"learnable": ["decay", "synapse_decay", "v_threshold"], "decay_form": "clamped"}
    ),
    "adaptive that learns": Spec(
        "adaptive_lif", {"learnable": ["adaptation_decay", "adaptation_strength"], "decay_form": "sigmoid"}
    ),
    "leaky that learns": Spec("leaky_integrator", {"learnable": ["decay"], "channels": 4, "v_init": 0.5}),
}


@pytest.fixture(params=SPECS.values(), ids=SPECS.keys())
def neuron(request: Any) -> Any:
    torch.manual_seed(0)
    return make_neuron(request.param)


def currents(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2 + 0.5).to(dtype)


def run(neuron: nn.Module, *args: Any, seed: int = 1, **kwargs: Any) -> Any:
    """A call whose draws, if it makes any, come from the same seed every time."""
    with draws(neuron, torch.Generator().manual_seed(seed)):
        return neuron(*args, **kwargs)


def assert_all_equal(actual: Any, expected: Any) -> None:
    for one, other in zip(pytree.tree_leaves(actual), pytree.tree_leaves(expected), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_and_segments_equal_the_whole(neuron: Any, dtype: torch.dtype) -> None:
    x_T = currents(6, 3, 4, 5, dtype=dtype)
    whole, last = run(neuron, x_T, return_state=True)
    assert whole.shape == x_T.shape and whole.dtype == dtype
    assert torch.equal(run(neuron, x_T), whole)
    with draws(neuron, torch.Generator().manual_seed(1)):
        first, state = neuron(x_T[:2], return_state=True)
        second, state = neuron(x_T[2:], state, return_state=True)
    assert torch.equal(torch.cat([first, second]), whole)
    assert_all_equal(state, last)
    with draws(neuron, torch.Generator().manual_seed(1)):
        state, steps = neuron.initial_state(x_T[0]), []
        for x in x_T:
            y, state = neuron.step(x, state)
            steps.append(y)
    assert torch.equal(torch.stack(steps), whole)
    assert_all_equal(state, last)


def test_gradients_pass_through_the_state(neuron: Any) -> None:
    neuron = neuron.double()
    x_T, weights = currents(5, 2, 4, dtype=torch.float64), torch.linspace(-1, 1, 40).view(5, 2, 4)
    leaves = [x_T.requires_grad_(), *neuron.parameters()]
    whole = torch.autograd.grad((run(neuron, x_T) * weights).sum(), leaves)
    with draws(neuron, torch.Generator().manual_seed(1)):
        first, state = neuron(x_T[:2], return_state=True)
        second = neuron(x_T[2:], state)
    apart = torch.autograd.grad((torch.cat([first, second]) * weights).sum(), leaves)
    for one, other in zip(apart, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_state_is_batch_first_and_can_be_selected(neuron: Any) -> None:
    x_T = currents(3, 5, 4)
    _, state = run(neuron, x_T, return_state=True)
    indices = torch.tensor([3, 0])
    chosen = states.select(states.detach(state), indices)
    assert type(chosen) is type(state) and hasattr(state, "_fields")
    y_T, _ = run(neuron, x_T, state, return_state=True)
    if not isinstance(neuron, StochasticIF):  # whose draws depend on the shape
        assert torch.equal(run(neuron, x_T[:, indices], chosen), y_T[:, indices])


def test_dynamics_tell_the_same_story(neuron: Any) -> None:
    x_T = currents(5, 3, 4)
    y_T, last = run(neuron, x_T, return_state=True)
    with draws(neuron, torch.Generator().manual_seed(1)):
        trace = neuron.dynamics(x_T)
    assert torch.equal(trace.spikes, y_T)
    assert trace.membrane.shape == trace.membrane_after_reset.shape == x_T.shape
    assert_all_equal(trace.state, last)


def test_levels_tell_the_values(neuron: Any) -> None:
    values = run(neuron, currents(20, 8, 4, seed=2)).detach().unique()
    if neuron.levels == 0:
        assert len(values) > 20
        return
    unit = float(values[values > 0].min())
    assert len(values) == neuron.levels + 1
    torch.testing.assert_close(values, unit * torch.arange(neuron.levels + 1.0))


def test_config_goes_through_json(neuron: Any) -> None:
    config = neuron.config
    again = type(config).from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config and type(neuron).from_config(again).config == config


def test_empty_batches_and_bad_inputs(neuron: Any) -> None:
    assert run(neuron, torch.zeros(3, 0, 4)).shape == (3, 0, 4)
    for wrong in (torch.zeros(0, 2, 4), torch.zeros(2, 2, 4, dtype=torch.int32)):
        with pytest.raises(ShapeError, match="a neuron needs"):
            neuron(wrong)


class Net(Model):
    """Stem, neuron, linear, the same neuron again."""

    stream_axis = 0

    def __init__(self, neuron: nn.Module) -> None:
        super().__init__(ModelConfig())
        self.stem = Repeat(4, nn.Linear(3, 4))
        self.neuron = neuron
        self.linear = nn.Linear(4, 4)

    def forward_steps(self, x_T: Tensor) -> Tensor:
        spikes_T = self.neuron(self.stem(x_T))
        y_T: Tensor = self.neuron(fold(self.linear, spikes_T))
        return y_T


def test_stream_of_a_model(neuron: Any) -> None:
    if isinstance(neuron, StochasticIF):
        pytest.skip("used twice, it draws in another order step by step")
    model = Net(neuron)
    x_T = currents(1, 2, 3) * 3
    net = neuromix.stream(model)
    with torch.no_grad():
        whole = model.forward_steps(x_T)
        prefix, state = net.prefill(x_T.expand(2, 2, 3))
        rest, _ = net.prefill(x_T.expand(2, 2, 3), states.detach(state))
        session = net.session()
        stepped = torch.stack([session.step(x_T[0]) for _ in range(4)])
    assert torch.equal(torch.cat([prefix, rest]), whole)
    assert torch.equal(stepped, whole)


def test_compiles_to_one_op(neuron: Any) -> None:
    if isinstance(neuron, StochasticIF):
        pytest.skip("it has no kernel")
    x_T = currents(4, 2, 4).requires_grad_()

    def train(function: Any) -> list[Tensor]:
        y_T, state = function(x_T, return_state=True)
        loss = (y_T * torch.linspace(-1, 1, y_T.numel()).view_as(y_T)).sum() + sum(v.sum() for v in state)
        return [y_T, *state, *torch.autograd.grad(loss, [x_T, *neuron.parameters()])]

    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    torch._dynamo.reset()
    compiled = torch.compile(neuron, backend=aot_autograd(fw_compiler=keep), fullgraph=True)
    for one, other in zip(train(compiled), train(neuron), strict=True):
        torch.testing.assert_close(one, other)
    if os.environ.get("NEUROMIX_NO_NATIVE") != "1":
        for graph in graphs:
            assert sum("neuromix" in str(node.target) for node in graph.graph.nodes) == 1


def test_exports(neuron: Any) -> None:
    if isinstance(neuron, StochasticIF):
        pytest.skip("it draws")
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(neuron, (currents(4, 2, 4),), dynamic_shapes=({1: batch},))
    x_T = currents(4, 7, 4, seed=3)
    assert torch.equal(program.module()(x_T), neuron(x_T))


# Formulas.


def fires(h: Tensor, threshold: float | Tensor) -> Tensor:
    return (h >= threshold).to(h.dtype)


def loop(neuron: nn.Module, steps: Any, x_T: Tensor) -> None:
    expected = torch.stack(list(steps(x_T)))
    torch.testing.assert_close(neuron(x_T), expected, rtol=1e-12, atol=1e-12)
    assert 0.02 < float(expected.mean()) < 0.98


def test_lif_follows_its_formula() -> None:
    def steps(x_T: Tensor) -> Any:
        v = torch.full_like(x_T[0], -0.2)
        for x in x_T:
            h = v + (x - (v + 0.2)) / 3
            s = fires(h, 0.5)
            v = torch.where(s > 0, -0.2, h)
            yield s

    loop(LIF(tau=3.0, v_threshold=0.5, v_reset=-0.2), steps, currents(9, 40, dtype=torch.float64))


def test_if_and_soft_reset_follow_their_formula() -> None:
    def steps(x_T: Tensor) -> Any:
        v = torch.full_like(x_T[0], 0.5)
        for x in x_T:
            h = v + x
            s = fires(h, 1.0)
            v = h - s
            yield s

    loop(IF(v_reset=None, v_init=0.5), steps, currents(9, 40, dtype=torch.float64))


def test_delayed_reset_follows_its_formula() -> None:
    # As in snnTorch's Leaky: the spike is that of the potential of the step before, and strict.
    def steps(x_T: Tensor) -> Any:
        u = torch.zeros_like(x_T[0])
        for x in x_T:
            u = 0.65 * u + x - (u > 0.4).to(u) * 0.4
            yield (u > 0.4).to(u)

    neuron = LIF(decay=0.65, v_threshold=0.4, v_reset=None, decay_input=False, compare=">", reset="next")
    loop(neuron, steps, currents(9, 40, dtype=torch.float64) / 4)


def test_cuba_lif_follows_its_formula() -> None:
    def steps(x_T: Tensor) -> Any:
        i, v = torch.zeros_like(x_T[0]), torch.zeros_like(x_T[0])
        for x in x_T:
            i = 0.25 * i + x
            h = 0.75 * v + i
            s = fires(h, 1.0)
            v = h * (1 - s)
            yield s

    loop(CubaLIF(tau=4.0, synapse_decay=0.25), steps, currents(9, 40, dtype=torch.float64))


def test_adaptive_lif_follows_its_formula() -> None:
    def steps(x_T: Tensor) -> Any:
        a, v = torch.zeros_like(x_T[0]), torch.zeros_like(x_T[0])
        for x in x_T:
            h = 0.5 * v + x
            s = fires(h, 1 + 0.3 * a)
            a = 0.9 * a + s
            v = h - s
            yield s

    neuron = AdaptiveLIF(adaptation_decay=0.9, adaptation_strength=0.3)
    loop(neuron, steps, currents(9, 40, dtype=torch.float64))


def test_leaky_integrator_follows_its_formula() -> None:
    x_T = currents(5, 3, dtype=torch.float64)
    expected = torch.stack([sum(0.8 ** (t - i) * x_T[i] for i in range(t + 1)) for t in range(5)])
    torch.testing.assert_close(LeakyIntegrator(tau=5.0, decay_input=False)(x_T), expected)
    torch.testing.assert_close(LeakyIntegrator(decay=1.0, decay_input=False)(x_T), x_T.cumsum(0))


def test_plif_learns_its_leak_through_a_sigmoid() -> None:
    neuron = PLIF(tau=4.0).double()
    (logit,) = neuron.parameters()
    assert torch.sigmoid(logit).item() == pytest.approx(0.75)
    x_T = currents(3, 4, dtype=torch.float64) / 8  # nothing fires, so that the gradient is that of the leak
    narrow = PLIF(tau=4.0, surrogate=("rectangle", {"width": 1e-9})).double()
    _, state = narrow(x_T, return_state=True)
    (gradient,) = torch.autograd.grad(state.v.sum(), narrow.parameters())
    w = logit.detach().clone().requires_grad_()
    v, decay = torch.zeros(4, dtype=torch.float64), torch.sigmoid(w)
    for x in x_T:
        v = decay * v + (1 - decay) * x
    torch.testing.assert_close(gradient, torch.autograd.grad(v.sum(), w)[0])


def test_a_clamped_decay_stays_in_range() -> None:
    neuron = LIF(decay=0.5, learnable=("decay",), decay_form="clamped", decay_input=False, v_reset=None)
    with torch.no_grad():
        neuron.decay.fill_(1.5)
    x_T = torch.full((3, 1), 0.25)
    assert torch.equal(neuron(x_T, return_state=True)[1].v, torch.full((1,), 0.75))


def test_coefficients_of_a_channel() -> None:
    neuron = LIF(learnable=("v_threshold",), channels=3)
    with torch.no_grad():
        neuron.v_threshold.copy_(torch.tensor([0.1, 1.0, 100.0]))
    x_T = currents(4, 2, 3, 5)
    for channel, threshold in enumerate((0.1, 1.0, 100.0)):
        assert torch.equal(neuron(x_T)[:, :, channel], LIF(v_threshold=threshold)(x_T[:, :, channel]))
    last = LIF(learnable=("v_threshold",), channels=5, channel_axis=-1)
    assert torch.equal(last(x_T), LIF()(x_T))


def test_heights() -> None:
    x_T = currents(5, 20)
    s_T = LIF(v_threshold=0.5, fire_at=0.6, v_reset=None)(x_T)
    tall_T = LIF(v_threshold=0.5, fire_at=0.6, v_reset=None, height="threshold")(x_T)
    assert torch.equal(tall_T, s_T * 0.5) and 0 < s_T.mean() < 1


def test_integer_neurons_follow_their_formula() -> None:
    x_T = torch.tensor([[-1.0, 0.124, 0.125, 0.375, 0.6, 1.0, 3.0]], requires_grad=True)
    y_T = IELIF()(x_T)
    assert y_T.tolist() == [[0.0, 0.0, 0.25, 0.5, 0.5, 1.0, 1.0]]
    assert torch.autograd.grad(y_T.sum(), x_T)[0].tolist() == [[0, 1, 1, 1, 1, 0, 0]]
    y_T = IELIF(height=2.0)(x_T)
    assert y_T.tolist() == [[0.0, 0.0, 0.5, 1.0, 1.0, 2.0, 2.0]]
    assert torch.autograd.grad(y_T.sum(), x_T)[0].tolist() == [[0, 2, 2, 2, 2, 0, 0]]
    x_T = torch.tensor([[-0.5, 0.49, 0.5, 1.5, 2.5, 3.99, 4.0, 9.0]], requires_grad=True)
    y_T = ILIF()(x_T)
    assert y_T.tolist() == [[0, 0, 1, 2, 3, 4, 4, 4]]
    assert torch.autograd.grad(y_T.sum(), x_T)[0].tolist() == [[0, 1, 1, 1, 1, 1, 0, 0]]


@pytest.mark.parametrize("neuron", [ILIF(3), IELIF(4), IELIF(5, height=2.0)], ids=str)
def test_integer_neurons_run_as_binary_ones(neuron: Any) -> None:
    x_T = currents(3, 4, 6)
    y_T = neuron(x_T)
    s_T = neuron.expand(y_T)
    assert s_T.shape == (3 * neuron.levels, 4, 6) and set(s_T.unique().tolist()) == {0.0, 1.0}
    sub_steps = s_T.unflatten(0, (3, neuron.levels))
    torch.testing.assert_close(neuron.unit * sub_steps.sum(1), y_T, rtol=0, atol=1e-7)
    # The same spikes as a soft-reset neuron without leak gives, driven once and stepped D times.
    driven = torch.zeros_like(s_T)
    driven[:: neuron.levels] = neuron.gain * x_T
    binary = IF(v_reset=None, v_init=0.5)
    for t in range(3):
        steps = slice(t * neuron.levels, (t + 1) * neuron.levels)
        assert torch.equal(binary(driven[steps]), s_T[steps])


def test_stochastic_if_fires_with_its_probability() -> None:
    neuron = StochasticIF(v_reset=None, width=0.5)
    x_T = torch.full((1, 20_000), 0.7, dtype=torch.float64, requires_grad=True)
    y_T = run(neuron, x_T)
    p = torch.sigmoid((x_T.detach() - 1.0) / 0.5)
    assert float(y_T.mean()) == pytest.approx(float(p[0, 0]), abs=0.01)
    assert set(y_T.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(torch.autograd.grad(y_T.sum(), x_T)[0], p * (1 - p) / 0.5)


def test_stochastic_if_can_be_replayed() -> None:
    neuron, x_T = StochasticIF(), currents(3, 2, 5)
    values = list(torch.rand(3, 2, 5, generator=torch.Generator().manual_seed(5)))
    with draws(neuron, {"noise": values}):
        first = neuron(x_T)
    with draws(neuron, {"noise": values}):
        assert torch.equal(neuron(x_T), first)


# Configs.


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lif", {"tau": 0.5}, "tau must be at least 1"),
        ("lif", {"decay": 1.5}, r"decay must be in \[0, 1\]"),
        ("lif", {"decay": 0.5, "tau": 3.0}, "tau or decay"),
        ("lif", {"v_threshold": 0.0}, "v_threshold must be positive"),
        ("lif", {"v_reset": 2.0}, "v_reset must be below v_threshold"),
        ("lif", {"reset": "next"}, "needs v_reset None"),
        ("lif", {"learnable": ["tau"]}, "learnable must be out of v_threshold, decay"),
        ("lif", {"channels": 0, "learnable": ["decay"]}, "channels must be positive"),
        ("lif", {"compare": ">>"}, "compare must be one of"),
        ("lif", {"surrogate": "sgmoid"}, "did you mean sigmoid"),
        ("lif", {"taw": 2.0}, "did you mean tau"),
        ("plif", {"tau": 1.0}, r"a sigmoid reaches decays in \(0, 1\)"),
        ("cuba_lif", {"synapse_decay": -0.1}, "synapse_decay must be in"),
        ("adaptive_lif", {"reset": "next"}, "an adapting neuron resets now"),
        ("i_lif", {"levels": 0}, "levels must be positive"),
        ("stochastic_if", {"width": 0.0}, "width must be positive"),
    ],
)
def test_refused_configs(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(NeuromixError, match=message):
        make_neuron(Spec(name, options))


def test_the_fixed_call() -> None:
    neuron = LIF(
        tau=2.0, v_threshold=1.0, v_reset=0.0, decay_input=True, detach_reset=True, surrogate="sigmoid"
    )
    x_T = currents(4, 2, 3)
    spikes_T, state = neuron(x_T, return_state=True)
    assert torch.equal(neuron(x_T), spikes_T) and state.v.shape == (2, 3)
    with pytest.raises(ConfigError):
        LIF(2.0, "high")


WITHOUT_NATIVE = """
import sys, warnings, torch
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from neuromix.neurons import LIF, ILIF
    x_T = torch.linspace(-1, 4, 60).view(3, 4, 5).requires_grad_()
    loss = LIF()(x_T).sum() + ILIF()(x_T).sum() + LIF()(x_T).sum()
    loss.backward()
torch.save((loss.detach(), x_T.grad, [str(w.message) for w in caught if "extension" in str(w.message)]), sys.argv[1])
"""


def test_without_the_extension_everything_runs_with_one_warning(tmp_path: Any) -> None:
    file = tmp_path / "result.pt"
    environment = os.environ | {"NEUROMIX_NO_NATIVE": "1"}
    subprocess.run([sys.executable, "-c", WITHOUT_NATIVE, file], env=environment, check=True)
    loss, gradient, messages = torch.load(file)
    assert len(messages) == 1
    x_T = torch.linspace(-1, 4, 60).view(3, 4, 5).requires_grad_()
    expected = LIF()(x_T).sum() + ILIF()(x_T).sum() + LIF()(x_T).sum()
    expected.backward()
    assert torch.equal(loss, expected.detach())
    torch.testing.assert_close(gradient, x_T.grad)


def test_references_only_is_undone() -> None:
    x_T = currents(3, 2, 4)
    with references_only():
        graph = torch.fx.experimental.proxy_tensor.make_fx(LIF())(x_T)
    assert not any("neuromix" in str(node.target) for node in graph.graph.nodes)
    assert torch.equal(graph(x_T), LIF()(x_T))
