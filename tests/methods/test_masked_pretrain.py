"""Masked pre-training: its task, its two stages, and runs that go on from it.

Shapes: B batch, C channels, H W image, L patches, P numbers of a patch.
"""

from __future__ import annotations

import json

import pytest
import torch

import neuromix
from neuromix.core import registry
from neuromix.core.batch import Batch
from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError
from neuromix.core.model import call
from neuromix.layers.visible import hidden_error, patch_targets
from neuromix.methods.masked_pretrain import MaskedReconstruction
from neuromix.models.vision.spikformer_v2 import MaskedSpikformer, SpikformerV2
from neuromix.training.api import train
from neuromix.training.config import TrainConfig
from neuromix.training.method import Stack
from neuromix.training.run import Run
from tests.training.stopped import Stop, StopAfter
from tests.training.tiny import assert_same_weights

SMALL = {"dim": 16, "depth": 1, "mixer.heads": 2, "time_steps": 2}
DECODER = {"decoder_dim": 8, "decoder_heads": 2, "decoder_depth": 1}


@pytest.fixture(scope="module")
def digits():
    return registry.build("task", "digits")


@pytest.fixture
def run(digits):
    torch.manual_seed(0)
    model = neuromix.create_model("spikformer_v2_nano", **SMALL)
    method = Stack([Spec("masked-pretrain", {"mask": 0.5, "epochs": 3, **DECODER})])
    return Run(TrainConfig(epochs=7), None, method, digits, model)


def test_first_the_autoencoder_then_the_classifier(run, digits):
    first = run.method.stage(0, run)
    assert (first.name, first.epochs) == ("pretrain", 3)
    assert isinstance(first.model, MaskedSpikformer) and first.model.name == "spikformer_v2_ssl"
    assert torch.equal(
        first.model.blocks[0].mixer.branch.out.conv.weight, run.model.blocks[0].mixer.branch.out.conv.weight
    )
    assert isinstance(first.task, MaskedReconstruction) and (first.task.mask, first.task.patch) == (0.5, 2)
    run.model, run.task = first.model, first.task
    second = run.method.stage(1, run)
    assert (second.name, second.epochs) == ("finetune", 7)
    assert type(second.model) is SpikformerV2 and second.task is digits
    assert second.rules == {
        "head.*": {"lr_scale": 1.0},
        "blocks.0.*": {"lr_scale": 0.75},
        "stem.*": {"lr_scale": 0.5625},
    }
    run.task = digits  # as a run that is resumed has it
    assert run.method.stage(1, run).task is digits
    assert run.method.stage(2, run) is None


def test_without_fine_tuning_there_is_one_stage(run):
    run.method = Stack([Spec("masked-pretrain", {"finetune": False, **DECODER})])
    assert run.method.stage(0, run).epochs == 7
    assert run.method.stage(1, run) is None


def test_hidden_patches_are_scored_against_a_guess_of_zero(run, digits):
    first = run.method.stage(0, run)
    task, model = first.task, first.model.eval()
    batch = digits.collate([digits.data("train").sample(i, torch.Generator()) for i in range(6)])
    losses = task.objective(model, batch, torch.Generator().manual_seed(1))
    rebuilt = task.predict(model, batch, torch.Generator().manual_seed(1))
    patches = call(model, Batch({"image": batch["image"], "kept": rebuilt.kept}))
    target = patch_targets(batch["image"], 2)
    torch.testing.assert_close(losses["masked_mse"], hidden_error(patches, target, rebuilt.kept))
    assert losses["masked_mse"].requires_grad and not rebuilt.target.requires_grad
    metrics = task.metrics()
    for part in (batch.select([0, 1]), batch.select([2, 3, 4, 5])):
        metrics.update(task.predict(model, part, torch.Generator().manual_seed(2)), part)
    scores = metrics.compute()
    assert scores.keys() == {"masked_mse", "zero_mse"} and task.score in scores
    kept = [task.predict(model, batch, torch.Generator().manual_seed(seed)).kept for seed in (3, 3, 4)]
    assert torch.equal(kept[0], kept[1]) and not torch.equal(kept[0], kept[2])


def test_nets_that_have_no_such_form_are_told(digits):
    model = neuromix.create_model("poolformer_nano")
    run = Run(TrainConfig(), None, Stack([Spec("masked-pretrain")]), digits, model)
    with pytest.raises(
        ConfigError, match=r"poolformer_nano has no autoencoder\(\) to turn into; spikformer_v2 has"
    ):
        run.method.stage(0, run)
    for options, message in (
        ({"mask": 1.0}, r"mask must be in \[0, 1\)"),
        ({"layer_decay": 0.0}, r"layer_decay must be in \(0, 1\]"),
        ({"epochs": 0}, "epochs must be positive"),
    ):
        with pytest.raises(ConfigError, match=message):
            Stack([Spec("masked-pretrain", options)])


def once(out, **more):
    return train(
        "spikformer_v2_nano", "digits", out, method="masked-pretrain", model_config=SMALL, epochs=1, threads=1,
        method_config={**DECODER, **more.pop("method", {})}, **more,
    )  # fmt: skip


@pytest.mark.slow
def test_a_run_that_is_stopped_in_either_stage_goes_on_exactly(tmp_path):
    whole = once(tmp_path / "whole", max_steps=4)
    assert json.loads((whole.run / "metrics.json").read_text())["test"].keys() >= {"accuracy"}
    for steps in (2, 6):
        folder = tmp_path / f"after{steps}"
        with pytest.raises(Stop):
            once(folder, max_steps=4, checkpoint_steps=1, observer=StopAfter(steps))
        train(out=folder, resume=True)
        for name in ("best.safetensors", "last.safetensors"):
            assert_same_weights(folder / name, whole.run / name)


@pytest.mark.slow
def test_pre_trained_weights_start_a_classifier(tmp_path):
    """Only the head is fresh; the decoder stays behind."""
    first = once(tmp_path / "pretrain", max_steps=4, method={"finetune": False})
    assert first.test.keys() == {"masked_mse", "zero_mse"}
    second = train(
        "spikformer_v2_nano", "digits", tmp_path / "finetune", model_config=SMALL, epochs=1, max_steps=1, lr=1e-9,
        init=str(first.run), fresh=("head.*", "decoder.*"), threads=1,
    )  # fmt: skip
    pretrained, trained = first.model().state_dict(), second.model().state_dict()
    for name in trained:
        if not name.startswith("head.") and trained[name].is_floating_point() and "running" not in name:
            torch.testing.assert_close(trained[name], pretrained[name], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_hidden_patches_are_learnt_from_200_images(tmp_path):
    """Within 200 steps at a mask of 0.75 the error falls below 0.9 of that of a guess of zero."""
    digits = registry.build("task", ("digits", {"size": 32}))
    torch.manual_seed(0)
    classifier = neuromix.create_model("spikformer_v2_nano", strides=(2, 2), dim=32, depth=1, time_steps=2)
    model = classifier.autoencoder(decoder_dim=64, decoder_heads=4, decoder_depth=1).train()
    task = MaskedReconstruction(digits, 0.75, model.config.patch)
    images = digits.collate([digits.data("train").sample(i, torch.Generator()) for i in range(200)])
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95))
    generator, losses = torch.Generator().manual_seed(0), []
    for _ in range(200):
        batch = images.select(torch.randint(200, (16,), generator=generator))
        (loss,) = task.objective(model, batch, generator).values()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    rebuilt = task.predict(model.eval(), images, generator)
    zero = float(hidden_error(torch.zeros_like(rebuilt.target), rebuilt.target, rebuilt.kept))
    last = sum(losses[-20:]) / 20
    evaluated = hidden_error(*rebuilt).item()
    print(f"zero {zero:.3f}, first {losses[0]:.3f}, last 20 {last:.3f}, in eval mode {evaluated:.3f}")
    assert max(last, evaluated) < 0.9 * zero
