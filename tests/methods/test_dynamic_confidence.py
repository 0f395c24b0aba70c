"""Early exit: in a batch as one by one, at thresholds and divisors chosen on held-out samples.

Shapes: T spike time, B batch, K classes.
"""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromix.cli import main
from neuromix.core.checkpoint import create_model
from neuromix.core.edits import apply_edit
from neuromix.core.errors import ConfigError, ShapeError
from neuromix.methods.dynamic_confidence import (
    CONFIDENCES,
    ExitPolicy,
    Tradeoff,
    calibrated_divisor,
    choose_policy,
    early_exit,
    exits,
    pareto,
    potential,
    reliability,
    summed_logits,
    sweep,
)
from neuromix.methods.early_exit import evaluate_early_exit
from neuromix.training.api import train


def make_net(name):
    torch.manual_seed(0)
    if name == "converted":
        tiny = {"blocks": (1, 1), "widths": (4, 8), "time_steps": 6, "num_classes": 4}
        return apply_edit(create_model("quantised_resnet", **tiny).double().eval(), "ann_to_snn")
    if name == "surrogate gradients":
        tiny = {
            "layers": (6, "A", 8, "A"),
            "map_side": 2,
            "num_classes": 4,
            "time_steps": 6,
            "in_channels": 3,
        }
        net = create_model("spiking_vgg_nano", **tiny)
        torch.nn.init.normal_(net.head.classify.weight)
        return net.double().eval()
    tiny = {"num_classes": 4, "in_channels": 3, "time_steps": 6}
    net = create_model("meta_spikeformer_nano", **tiny)
    for module in net.modules():  # an untrained one hardly fires
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.constant_(module.bias, 0.5)
    return net.double().eval()


def make_images(samples=6):
    """Samples that differ, [B, 3, 16, 16], in float64."""
    contrast_B = torch.linspace(0.2, 5, samples, dtype=torch.float64)
    return contrast_B.view(-1, 1, 1, 1) * torch.randn(samples, 3, 16, 16, dtype=torch.float64)


def policy_between(sum_TBK, confidence="probability"):
    """A policy by which some samples leave early and some late."""
    policy = ExitPolicy(divisor=float(sum_TBK.std()), confidence=confidence)
    levels = policy.confidence_of(sum_TBK / policy.divisor)
    middle = (
        levels.flatten().sort().values[levels.numel() // 2 :][:2]
    )  # not at a level, where rounding decides
    return policy.replace(threshold=float(middle.mean()))


def make_sums(seed=0, steps=8, samples=400, classes=5, noise=2.0):
    """Logits that point to the label, in noise that is new at every step."""
    generator = torch.Generator().manual_seed(seed)
    label_B = torch.randint(classes, (samples,), generator=generator)
    signal_BK = torch.nn.functional.one_hot(label_B, classes)
    z_TBK = signal_BK + noise * torch.randn(steps, samples, classes, generator=generator)
    return z_TBK.cumsum(0), label_B


@pytest.mark.parametrize("name", ["converted", "surrogate gradients", "transformer"])
def test_a_batch_leaves_as_its_samples_alone(name):
    net = make_net(name)
    x = make_images()
    sum_TBK = summed_logits(net, x)
    with torch.no_grad():
        torch.testing.assert_close(sum_TBK, net.forward_steps(net.encode(x)).expand(6, 6, 4).cumsum(0))
    policy = policy_between(sum_TBK)
    together, alone = early_exit(net, policy, x), [early_exit(net, policy, one[None]) for one in x]
    assert len(together.steps.unique()) > 1
    for found in (exits(sum_TBK, policy), together):
        assert found.steps.tolist() == [int(one.steps) for one in alone]
        torch.testing.assert_close(found.logits, torch.cat([one.logits for one in alone]))


def test_samples_that_left_cost_nothing():
    net = make_net("converted")
    x = make_images()
    policy, sizes, spikes = policy_between(summed_logits(net, x)), [], []
    net.head.register_forward_hook(lambda _, args, __: sizes.append(args[0].shape[1]))
    neuron = net.stem[0].activate.activation
    neuron.register_forward_hook(
        lambda _, __, y: spikes.append(int((y if torch.is_tensor(y) else y[0]).count_nonzero()))
    )
    found = early_exit(net, policy, x)
    assert sum(sizes) == int(found.steps.sum()) < 6 * 6
    early = sum(spikes)
    spikes.clear()
    early_exit(net, policy.replace(threshold=2.0), x)
    assert 0 < early < sum(spikes)


def test_a_threshold_of_one_gives_the_whole_run():
    net = make_net("converted")
    x = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    found = early_exit(net, ExitPolicy(threshold=1.0, divisor=6.0), x)
    assert found.steps.tolist() == [6, 6, 6] and found.time_steps == 6
    with torch.no_grad():
        torch.testing.assert_close(found.logits, net(x))


def test_frames_are_steps():
    net = make_net("surrogate gradients")
    x_T = torch.randn(6, 2, 3, 16, 16, dtype=torch.float64)
    found = early_exit(net, ExitPolicy(threshold=1.0, divisor=6.0), x_T)
    with torch.no_grad():
        torch.testing.assert_close(found.logits, net(x_T))


def test_nets_without_spike_time_are_refused():
    with pytest.raises(ConfigError, match="early exit works along spike time, and poolformer_nano has none"):
        early_exit(create_model("poolformer_nano"), ExitPolicy(), torch.randn(1, 1, 8, 8))


def test_policies_are_checked():
    for wrong in ({"threshold": -0.1}, {"divisor": 0.0}, {"confidence": "luck"}):
        with pytest.raises(ConfigError):
            ExitPolicy.from_dict(wrong)


@pytest.mark.parametrize("name", CONFIDENCES)
def test_confidences_go_from_none_to_full(name):
    policy = ExitPolicy(confidence=name)
    uniform, sure = torch.zeros(2, 4), torch.tensor([[100.0, 0, 0, 0]])
    assert policy.confidence_of(sure).item() == pytest.approx(1)
    assert policy.confidence_of(uniform)[0] == pytest.approx(0.25 if name == "probability" else 0, abs=1e-6)


@settings(deadline=None)
@given(st.integers(0, 999), st.integers(1, 6), st.integers(1, 9), st.sampled_from(sorted(CONFIDENCES)))
def test_sweep_and_potential_follow_their_definitions(seed, steps, samples, confidence):
    sum_TBK, label_B = make_sums(seed, steps, samples)
    policy = ExitPolicy(divisor=2.0, confidence=confidence)
    for point in sweep(sum_TBK, label_B, policy, (0.0, 0.3, 0.7, 1.0)):
        found = exits(sum_TBK, policy.replace(threshold=point.threshold))
        assert point.steps == pytest.approx(found.steps.double().mean().item())
        assert point.accuracy == pytest.approx((found.logits.argmax(-1) == label_B).double().mean().item())
    firsts = []
    for b, label in enumerate(label_B):
        right = [t + 1 for t in range(steps) if sum_TBK[t, b].argmax() == label]
        firsts.append(right[0] if right else None)
    best = potential(sum_TBK, label_B)
    assert best.accuracy == pytest.approx(sum(first is not None for first in firsts) / samples)
    assert best.steps == pytest.approx(sum(first or steps for first in firsts) / samples)


def test_pareto_keeps_what_nothing_beats():
    points = [
        Tradeoff(t, s, a)
        for t, s, a in ((0.1, 1, 0.5), (0.2, 2, 0.4), (0.3, 2, 0.7), (0.4, 3, 0.7), (0.5, 4, 0.9))
    ]
    assert [point.threshold for point in pareto(points)] == [0.1, 0.3, 0.5]


def test_divisor_makes_the_confidence_honest():
    sum_TBK, label_B = make_sums(samples=4000)
    divisor = calibrated_divisor(sum_TBK, label_B)
    right_TB = sum_TBK.argmax(-1) == label_B

    def error(divisor):
        bins = reliability(ExitPolicy().confidence_of(sum_TBK / divisor).flatten(), right_TB.flatten())
        assert sum(b.samples for b in bins) == right_TB.numel()
        return sum(b.samples * abs(b.confidence - b.accuracy) for b in bins) / right_TB.numel()

    # With normal noise of deviation 2 the posterior is softmax(sum / 4): the divisor is known.
    assert divisor == pytest.approx(4.0, rel=0.1)
    assert error(divisor) < 0.02 < error(divisor / 5)
    assert calibrated_divisor(100 * sum_TBK, label_B) == pytest.approx(100 * divisor, rel=1e-3)


def test_chosen_policy_saves_steps_at_no_loss_of_accuracy():
    held_out, unseen = make_sums(0, steps=24, noise=1.0), make_sums(1, steps=24, noise=1.0, samples=4000)
    for lasting in (True, False):
        policy = choose_policy(*held_out, lasting=lasting)
        early, full = sweep(*held_out, policy, (policy.threshold, 1.0))
        assert early.accuracy >= full.accuracy and early.steps < 0.8 * full.steps
    lasting = choose_policy(*held_out)
    assert lasting.threshold >= policy.threshold
    early, full = sweep(*unseen, lasting, (lasting.threshold, 1.0))
    assert early.accuracy > full.accuracy - 0.01


def test_what_is_given_is_not_chosen():
    policy = choose_policy(*make_sums(), threshold=0.7, divisor=3.0, confidence="entropy")
    assert policy == ExitPolicy(0.7, 3.0, "entropy")


def test_no_samples_are_refused():
    with pytest.raises(ShapeError, match="at least one sample"):
        choose_policy(torch.zeros(3, 0, 2), torch.zeros(0, dtype=torch.int64))


def test_command_line_runs_a_policy(tmp_path, capsys):
    options = {"model_config": {"layers": (4, "A"), "map_side": 1, "dropout": 0.0}, "max_steps": 1}
    run = str(train("spiking_vgg_nano", "digits", tmp_path / "run", **options).run)
    assert main(["eval", run, "--early-exit", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["test"] == told["early_exit"]["full"]
    assert told["early_exit"]["steps"] == told["early_exit"]["time_steps"] == 4
    assert main(["eval", run, "--early-exit", "0", "--divisor", "3"]) == 0
    assert "1.00 of 4" in capsys.readouterr().out
    for wrong in (["--early-exit", "soon"], ["--early-exit", "auto", "--confidence", "luck"]):
        assert main(["eval", run, *wrong]) == 2


def test_a_net_that_cannot_be_converted_is_not_trained(tmp_path):
    options = {"model_config": {"layers": (4, "A"), "map_side": 1}, "max_steps": 1}
    with pytest.raises(ConfigError, match="no quantised activation"):
        train("spiking_vgg_nano", "digits", tmp_path / "run", method="ann-to-snn", **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_converted_net_keeps_its_accuracy_at_fewer_steps(tmp_path, capsys):
    run = train("quantised_resnet_nano", "digits", tmp_path / "run", method="ann-to-snn", epochs=6).run
    found = evaluate_early_exit(run)
    assert found.full.scores["accuracy"] > 0.94
    assert found.evaluation.scores["accuracy"] >= found.full.scores["accuracy"] - 0.005
    assert found.steps <= 0.7 * found.time_steps == 0.7 * 16
    assert main(["eval", str(run), "--early-exit", "2", "--json"]) == 0
    never = json.loads(capsys.readouterr().out)
    assert never["test"] == never["early_exit"]["full"] == found.full.scores
    assert never["early_exit"]["steps"] == 16
    assert main(["eval", str(run), "--early-exit", "auto", "--confidence", "margin"]) == 0
    assert "of 16" in capsys.readouterr().out
