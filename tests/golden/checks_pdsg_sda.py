"""Checks of the PDSG-SDA fixtures: neurons under PDSG, dense attacks on images, the sparse attack on binary frames.

Shapes: T spike time, B batch, K classes, N pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import neuromix
from neuromix.core.model import Model
from neuromix.methods.attacks.losses import cross_entropy
from neuromix.methods.attacks.sda import SDA, certainty, flipped
from neuromix.methods.attacks.signs import FGSM, PGD
from neuromix.methods.attacks.victim import Victim
from neuromix.models.vision.pdsg_victims import read_neuron
from neuromix.neurons import make_neuron
from neuromix.neurons.swapped import swapped
from tests.golden.compare import assert_close, assert_equal
from tests.golden.fixtures import Fixture

NODES = ("node", "node_lin", "node_rect")


def check_gradient(fixture: Fixture) -> None:
    known = {"logits", "fgsm", "pgd", *(f"{name}_spikes" for name in NODES)}
    assert fixture.outputs.keys() <= known, f"no check for {sorted(fixture.outputs.keys() - known)}"
    assert fixture.grads.keys() <= {"x", *NODES}, f"no check for {sorted(fixture.grads)}"
    for name in NODES:
        if name in fixture.inputs:
            _check_neuron(fixture, name)
    model = _model(fixture)
    x, label = fixture.inputs["x"].double(), fixture.inputs["y"]
    for mode in (True, False):
        for module in model.modules():  # norms stay in eval mode, as the attack has them
            if not isinstance(module, nn.BatchNorm2d):
                module.training = mode
        _check_input_gradient(model, x, label, fixture)
    model.eval()
    eps, steps = float(fixture.config.get("eps", 8 / 255)), int(fixture.config.get("pgd_steps", 10))
    attacks = {"fgsm": FGSM(eps=eps), "pgd": PGD(eps=eps, steps=steps, random_start=False)}
    for name, attack in attacks.items():
        if name in fixture.outputs:
            changed = attack(Victim(model), x, label, torch.Generator())
            assert_close(changed, fixture.outputs[name], name=name)


def _check_neuron(fixture: Fixture, name: str) -> None:
    neuron = make_neuron(read_neuron(fixture.config))
    x_T = fixture.inputs[name].double().requires_grad_()
    upstream = fixture.inputs.get(f"{name}_up", torch.ones_like(x_T))
    with swapped(neuron):
        spikes = neuron(x_T)
    assert_equal(spikes, fixture.outputs[f"{name}_spikes"], name=name)
    (gradient,) = torch.autograd.grad(spikes, x_T, upstream.double())
    assert_close(gradient, fixture.grads[name], name=f"gradient of {name}")


def _check_input_gradient(model: Model, x: Tensor, label: Tensor, fixture: Fixture) -> None:
    x = x.clone().requires_grad_()
    with swapped(model):
        logits = model(x)
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, label), x)
    assert_close(logits, fixture.outputs["logits"], name="logits")
    assert_close(gradient, fixture.grads["x"], name="gradient of x")
    found = Victim(model).sensitivity(x, label, cross_entropy)
    assert_close(found.gradient / len(x), fixture.grads["x"], name="gradient of x by the attack")


def check_sda(fixture: Fixture) -> None:
    known = {"l0", "adv", "adv_logits", "clean_logits", "cw_loss"}
    assert fixture.outputs.keys() <= known, f"no check for {sorted(fixture.outputs.keys() - known)}"
    assert fixture.grads.keys() <= {"x"}, f"no check for {sorted(fixture.grads)}"
    victim = Victim(_model(fixture), coding="binary")
    x = fixture.inputs["x"].double().transpose(0, 1)  # ours has the samples first
    label = fixture.inputs["y"]
    first = victim.sensitivity(x, label, certainty)
    assert_close(first.logits_BK, fixture.outputs["clean_logits"], name="clean logits")
    assert_close(first.loss_B, fixture.outputs["cw_loss"], name="loss")
    assert_close(first.gradient.transpose(0, 1), fixture.grads["x"], name="gradient")
    attack = SDA(
        pixels=fixture.config.get("k_init", 10),
        iterations=fixture.config.get("N", 500),
        copies=fixture.config.get("batch_limit", 64),
    )
    for seed in (0, 1):  # chance fills in gradients of zero, which decide nothing here
        changed = attack(victim, x, label, torch.Generator().manual_seed(seed))
        assert_equal(changed.transpose(0, 1), fixture.outputs["adv"], name="adversarial frames")
        assert int((changed != x).sum()) == int(fixture.outputs["l0"])
    assert_close(victim.logits(changed), fixture.outputs["adv_logits"], name="adversarial logits")
    _check_generation(attack, victim, x, label, int(fixture.outputs["l0"]))


def _check_generation(attack: SDA, victim: Victim, x: Tensor, label: Tensor, l0: int) -> None:
    effect_N = attack.generate(victim, x, label, torch.Generator())
    if effect_N is None:
        assert l0 == 0
        return
    assert int(effect_N.isfinite().sum()) >= l0
    assert victim.answers(flipped(x, effect_N.isfinite())) != label


def _model(fixture: Fixture) -> Model:
    model = neuromix.from_reference(fixture.slug, fixture.config, fixture.state).double()
    assert isinstance(model, Model)
    return model


CHECKS = {("pdsg-sda", "gradient"): check_gradient, ("pdsg-sda", "sda_binary"): check_sda}
