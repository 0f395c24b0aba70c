"""SLTT, SLTT-K and BPTT in segments: what they have in common, and what they keep in memory.

Shapes: T spike time, B batch, K classes.
"""

from __future__ import annotations

import copy
from contextlib import contextmanager

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.nn import functional as F

from neuromix.core.batch import Batch
from neuromix.core.checkpoint import create_model
from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError
from neuromix.core.observe import draws
from neuromix.core.stream import stream
from neuromix.methods.bptt import BPTT, BPTTConfig
from neuromix.methods.segments import in_segments, unrolled
from neuromix.methods.sltt import SLTT, SLTTConfig, choose_steps, sltt
from neuromix.methods.step_loss import StepLossConfig, mixed_with_mse, outputs_of_steps
from neuromix.training.config import TrainConfig
from neuromix.training.method import Method, Stack
from neuromix.training.run import Run
from neuromix.training.task import Task, total

TINY = {"blocks": (1, 1), "widths": (4, 8), "num_classes": 3}
LABEL = torch.tensor([0, 2, 1])


class Classify(Task):
    def loss(self, output, batch):
        return {"cross_entropy": F.cross_entropy(output, batch.tensor("label"))}


def make_model(steps, name="spiking_preact_resnet18", **overrides):
    torch.manual_seed(0)
    model = create_model(name, **{**TINY, "time_steps": steps, **overrides}).double().train()
    for parameter in model.parameters():  # what starts at zero would hide a part of the net
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3)
    return model


def make_frames(steps=4, seed=1):
    """A frame a step, [T, B, C, H, W], in float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(steps, len(LABEL), 3, 8, 8, generator=generator, dtype=torch.float64)


def cross_entropy(output):
    return {"cross_entropy": F.cross_entropy(output, LABEL)}


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters()}


def by_sltt(model, x_T, chosen=None):
    model = copy.deepcopy(model)
    for _ in sltt(stream(model), x_T, cross_entropy, chosen=chosen):
        pass
    return model


def by_bptt(model, x_T, segment=1, checkpoint=False, source=None):
    """With the loss of each step, as SLTT has it."""
    model = copy.deepcopy(model)
    with draws(model, source) if source is not None else contextmanager(lambda: (yield))():
        with in_segments(model, segment, checkpoint=checkpoint) as seen:
            model(x_T)
        losses = [total(cross_entropy(output)) for output in outputs_of_steps(model, seen[-1])]
        torch.stack(losses).mean().backward()
    return model


def assert_same(one, other, **tolerance):
    tolerance = tolerance or {"rtol": 0, "atol": 0}
    for name, gradient in gradients(one).items():
        torch.testing.assert_close(
            gradient, gradients(other)[name], **tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )
    for (name, buffer), expected in zip(one.named_buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(buffer, expected, rtol=0, atol=0, msg=lambda m, n=name: f"{n}: {m}")


class Held:
    """Bytes that autograd keeps for backward, apart from the parameters: now, and at most."""

    def __init__(self):
        self.now = self.most = 0

    def __enter__(self):
        self._hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda x: _Kept(self, x), lambda kept: kept.tensor
        )
        self._hooks.__enter__()
        return self

    def __exit__(self, *error):
        self._hooks.__exit__(*error)


class _Kept:
    def __init__(self, held, tensor):
        self.held, self.tensor = held, tensor
        self.bytes = 0 if isinstance(tensor, nn.Parameter) else tensor.nbytes
        held.now += self.bytes
        held.most = max(held.most, held.now)

    def __del__(self):
        self.held.now -= self.bytes


# --- the rules against one another ---------------------------------------------------------------------------------


def test_choosing_all_steps_is_sltt():
    model, x_T = make_model(4), make_frames(4)
    chosen = choose_steps(4, 4, torch.Generator().manual_seed(0))
    assert_same(by_sltt(model, x_T, chosen), by_sltt(model, x_T))


def test_one_step_is_bptt():
    model, x_T = make_model(1), make_frames(1)
    assert_same(by_sltt(model, x_T), by_bptt(model, x_T, segment=None), rtol=1e-12, atol=1e-15)


def test_without_a_path_through_time_sltt_is_bptt():
    # At tau 1 a membrane potential forgets all at every step.
    neuron = ("lif", {"tau": 1.0, "decay_input": False, "v_reset": None, "surrogate": "triangle"})
    model, x_T = make_model(3, activation=neuron), make_frames(3)
    assert_same(by_sltt(model, x_T), by_bptt(model, x_T), rtol=1e-9, atol=1e-13)
    model = make_model(3)
    assert not torch.allclose(
        by_sltt(model, x_T).stem.stem[0].weight.grad, by_bptt(model, x_T).stem.stem[0].weight.grad
    )


def test_chosen_steps_alone_give_gradients_and_all_move_the_statistics():
    model, x_T = make_model(4), make_frames(4)
    parts = [by_sltt(model, x_T, [t]) for t in range(4)]
    whole = by_sltt(model, x_T)
    for name, gradient in gradients(whole).items():
        torch.testing.assert_close(sum(gradients(part)[name] for part in parts), gradient)
    for part in parts:
        assert part.tail.norm.num_batches_tracked == 4
        torch.testing.assert_close(part.tail.norm.running_var, whole.tail.norm.running_var)


def test_skipping_the_rest_changes_no_gradient():
    model, x_T = make_model(5), make_frames(5)
    whole, short = by_sltt(model, x_T, [1]), copy.deepcopy(model)
    steps = list(sltt(stream(short), x_T, cross_entropy, chosen=[1], skip_rest=True))
    assert len(steps) == short.tail.norm.num_batches_tracked == 2
    for name, gradient in gradients(whole).items():
        assert torch.equal(gradients(short)[name], gradient)


# --- BPTT in segments ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("segment", [1, 2, 3, 7])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_rebuilding_segments_changes_no_number(segment, dropout):
    model, x_T = make_model(5, dropout=dropout), make_frames(5)

    def run(checkpoint):
        return by_bptt(model, x_T, segment, checkpoint, torch.Generator().manual_seed(3))

    assert_same(run(True), run(False))


def test_segments_are_the_whole_where_no_norm_sees_them():
    model, x_T = make_model(5, "spiking_nf_resnet34"), make_frames(5)
    for segment in (1, 2, 5):
        assert_same(by_bptt(model, x_T, segment), by_bptt(model, x_T, None), rtol=1e-12, atol=1e-12)


def test_static_image_is_a_frame_a_step():
    model, image = make_model(3), make_frames(1)[0]
    frames = image.expand(3, *image.shape)
    assert_same(by_bptt(model, image, 1, True), by_bptt(model, frames, 1))
    assert torch.equal(unrolled(model, model.encode(image)), frames)


def test_replayed_noise_is_replayed_again_in_backward():
    model, x_T = make_model(3, dropout=0.5), make_frames(3)
    masks = {
        path: [torch.rand(3, *shape, generator=torch.Generator().manual_seed(1))]
        for path, shape in (
            ("stages.0.0.residual.branch.0.dropout.noise", (4, 8, 8)),
            ("stages.1.0.residual.branch.0.dropout.noise", (8, 4, 4)),
            ("head.hidden.0.noise", (8,)),
        )
    }
    assert_same(by_bptt(model, x_T, 1, True, masks), by_bptt(model, x_T, 1, False, masks))


def test_backward_may_run_inside_the_context():
    model, x_T = make_model(4), make_frames(4)
    expected = by_bptt(model, x_T, 2)
    with in_segments(model, 2, checkpoint=True) as seen:
        model(x_T)
        losses = [total(cross_entropy(output)) for output in outputs_of_steps(model, seen[-1])]
        torch.stack(losses).mean().backward()
    assert_same(model, expected)
    assert "forward_steps" not in vars(model)


# --- memory --------------------------------------------------------------------------------------------------------


def peak(rule, steps):
    model, x_T = make_model(steps), make_frames(steps)
    with Held() as held:
        rule(model, x_T)
    return held.most


def test_memory_of_sltt_is_flat():
    assert peak(by_sltt, 64) <= 1.1 * peak(by_sltt, 4)


def test_memory_of_bptt_grows_with_the_steps():
    assert peak(by_bptt, 16) == pytest.approx(4 * peak(by_bptt, 4), rel=0.1)
    assert peak(by_bptt, 4) > 3 * peak(by_sltt, 4)


# --- losses --------------------------------------------------------------------------------------------------------


def test_squared_error_to_a_constant_and_to_the_label():
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    batch = Batch({"label": LABEL})
    losses = {"ce": torch.tensor(2.0)}
    ones = mixed_with_mse(losses, logits, batch, StepLossConfig(mse=0.25, mse_target=1.0))
    assert total(ones) == pytest.approx(0.75 * 2 + 0.25 * float(((logits - 1) ** 2).mean()), rel=1e-6)
    labels = mixed_with_mse(losses, logits, batch, StepLossConfig(mse=0.25, mse_target="one_hot"))
    expected = float(((logits - F.one_hot(LABEL, 4)) ** 2).mean())
    assert total(labels) == pytest.approx(0.75 * 2 + 0.25 * expected, rel=1e-6)
    assert mixed_with_mse(losses, logits, batch, StepLossConfig()) is losses


# --- as methods of a run -------------------------------------------------------------------------------------------


def make_run(method, model, seed=5, **train):
    stack = Stack([Spec.of(one) for one in ([method] if isinstance(method, str | tuple) else method)])
    run = Run(
        TrainConfig(batch_size=3, **train), Fabric(accelerator="cpu", devices=1), stack, Classify(None), model
    )
    run.net, run.optimiser = run.fabric.setup(model, torch.optim.SGD(model.parameters(), lr=0.1))
    run.generator = torch.Generator().manual_seed(seed)
    return run


def batch_of(image):
    return Batch({"image": image, "label": LABEL})


def step(method, model, seed=5, image=None, **train):
    """The gradients that a method leaves, and its losses."""
    model = copy.deepcopy(model)
    run = make_run(method, model, seed, **train)
    for one in run.method:
        one.before_step(run)
    parts = run.compute_gradients(batch_of(make_frames(1)[0] if image is None else image))
    return model, {name: sum(share * losses[name].item() for share, losses in parts) for name in parts[0][1]}


def test_sltt_is_the_rule_as_a_method():
    model, image = make_model(4), make_frames(1)[0]
    trained, losses = step("sltt", model)
    expected = by_sltt(model, unrolled(model, model.encode(image)))
    assert_same(trained, expected)
    assert losses.keys() == {"cross_entropy"} and losses["cross_entropy"] > 0


def test_sltt_k_draws_from_the_generator_of_the_run():
    model = make_model(4)

    def once(seed):
        return step(("sltt", {"k": 1}), model, seed)[0]

    assert_same(once(1), once(1))
    different = {float(once(seed).head.classify.weight.grad.norm()) for seed in range(8)}
    assert len(different) > 1


def test_parts_of_a_batch_learn_from_the_same_steps():
    # Without a batch-norm, parts add up to the whole if, and only if, they choose the same steps.
    model = make_model(4, "spiking_nf_resnet34")
    for seed in range(4):
        whole, whole_losses = step(("sltt", {"k": 1}), model, seed)
        parts, losses = step(("sltt", {"k": 1}), model, seed, accumulate=3)
        for name, gradient in gradients(whole).items():
            torch.testing.assert_close(gradients(parts)[name], gradient, rtol=1e-9, atol=1e-14)
        assert losses == pytest.approx(whole_losses)


def test_each_step_is_as_likely_as_the_other():
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(5)
    for _ in range(1000):
        chosen = choose_steps(2, 5, generator)
        assert len(chosen) == 2
        counts[list(chosen)] += 1
    assert ((counts - 400).abs() < 80).all()


def test_tet_and_rate_loss_of_bptt():
    model = make_model(4)
    merged, image = copy.deepcopy(model), make_frames(1)[0]
    with torch.no_grad():
        logits_TBK = merged.forward_steps(merged.encode(image))
    each = torch.stack([F.cross_entropy(logits_BK, LABEL) for logits_BK in logits_TBK]).mean()
    mean = F.cross_entropy(logits_TBK.mean(0), LABEL)
    assert step(("bptt", {"loss": "tet"}), model)[1]["cross_entropy"] == pytest.approx(float(each))
    assert step("bptt", model)[1]["cross_entropy"] == pytest.approx(float(mean))
    mixed = step(("bptt", {"mse": 0.5}), model)[1]
    assert mixed["cross_entropy"] == pytest.approx(float(mean) / 2)
    assert mixed["mse"] == pytest.approx(float(((logits_TBK.mean(0) - 1) ** 2).mean()) / 2)


def test_checkpoint_of_bptt_is_bptt_with_single_steps():
    model = make_model(4, dropout=0.3)
    for loss in ("rate", "tet"):
        torch.manual_seed(0)
        rebuilt, losses = step(("bptt", {"checkpoint": True, "loss": loss}), model)
        torch.manual_seed(0)
        kept, expected = step(("bptt", {"segment": 1, "loss": loss}), model)
        assert_same(rebuilt, kept)
        assert losses == expected


def test_mixed_precision():
    model = make_model(3)
    for method in ("sltt", ("bptt", {"checkpoint": True, "loss": "tet"})):
        run = make_run(method, copy.deepcopy(model).float())
        run.fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
        run.net = run.fabric.setup_module(run.model)
        losses = run.method.step(run, batch_of(make_frames(1)[0].float()))
        assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in run.model.parameters())
        assert all(loss.dtype == torch.float32 for loss in losses.values())


class Added(Method):
    """A method that adds a loss of every output that it is given, and keeps the outputs."""

    def __init__(self, name="added"):
        super().__init__(None)
        self.name, self.outputs = name, []

    def losses(self, run, batch, output):
        self.outputs.append(output)
        return {self.name: output.square().mean()}


def step_with_added(method, model, added):
    """The model with its gradients, and the losses, where `added` is stacked on the method."""
    run = make_run(method, copy.deepcopy(model))
    run.method.methods["added"] = added
    return run.model, run.method.step(run, batch_of(make_frames(1)[0]))


@pytest.mark.parametrize(
    "options", [{}, {"mse": 0.5}, {"loss": "tet"}, {"loss": "tet", "mse": 0.5}, {"segment": 3}], ids=str
)
def test_losses_that_methods_add_are_minimised_once(options):
    model, added = make_model(3), Added()
    trained, losses = step_with_added(("bptt", options), model, added)
    expected = copy.deepcopy(model)
    output = expected(make_frames(1)[0])
    output.square().mean().backward()
    assert len(added.outputs) == 1
    torch.testing.assert_close(added.outputs[0], output)
    torch.testing.assert_close(losses["added"], output.square().mean())
    alone, losses_alone = step(("bptt", options), model)
    assert losses.keys() == {*losses_alone, "added"}
    for name, gradient in gradients(trained).items():
        torch.testing.assert_close(gradient, gradients(alone)[name] + gradients(expected)[name])


def test_losses_that_methods_add_are_minimised_at_every_step_that_learns_by_itself():
    model, added = make_model(3), Added()
    trained, losses = step_with_added("sltt", model, added)
    assert losses.keys() == {"cross_entropy", "added"} and len(added.outputs) == 3
    alone, _ = step("sltt", model)
    assert not torch.equal(trained.head.classify.weight.grad, alone.head.classify.weight.grad)


@pytest.mark.parametrize("method", ["bptt", ("bptt", {"loss": "tet"}), ("bptt", {"mse": 0.5}), "sltt"])
def test_two_losses_of_one_name_are_refused(method):
    name = "mse" if "mse" in str(method) else "cross_entropy"
    with pytest.raises(ConfigError, match=f"two losses are called {name}"):
        step_with_added(method, make_model(3), Added(name))


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SLTTConfig(k=0), "k must be at least 1, got 0"),
        (lambda: SLTTConfig(loss="rate"), "each step learns before"),
        (lambda: SLTTConfig(mse=1.5), "mse must be in"),
        (lambda: BPTTConfig(segment=0), "segment must be positive"),
        (lambda: BPTTConfig(mse_target="ones"), "mse_target must be"),
    ],
)
def test_wrong_values(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_more_steps_than_there_are():
    with pytest.raises(ConfigError, match=r"k is 5, and there are only 4 time steps"):
        step(("sltt", {"k": 5}), make_model(4))


@pytest.mark.parametrize("method", ["sltt", ("bptt", {"checkpoint": True}), ("bptt", {"loss": "tet"})])
def test_a_model_without_spike_time(method):
    model = create_model("poolformer_s12", num_classes=3, depths=(1, 1, 1, 1), dims=(4, 4, 4, 4))
    with pytest.raises(ConfigError, match=r"along spike time|has none") as error:
        step(method, model, image=torch.zeros(3, 3, 32, 32))
    assert "\n" not in str(error.value)


class Own(Method):
    def objective(self, run, batch):
        return {"own": torch.zeros(())}


def test_an_objective_that_is_no_loss_of_an_output():
    run = make_run("sltt", make_model(3))
    run.method.methods["own"] = Own(None)
    with pytest.raises(ConfigError, match="Own has an objective of its own"):
        run.method.step(run, batch_of(make_frames(1)[0]))


def test_only_one_method_takes_the_step():
    with pytest.raises(ConfigError, match="sltt and bptt cannot be stacked"):
        Stack([Spec("sltt"), Spec("bptt")])
    assert isinstance(Stack([Spec("sltt")]).methods["sltt"], SLTT)
    assert isinstance(Stack([Spec("bptt")]).methods["bptt"], BPTT)
