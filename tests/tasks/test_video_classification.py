"""Moving digits, the task that is made of them, and a network that learns to send changes only."""

from __future__ import annotations

import pytest
import torch

import neuromix
from neuromix.core.errors import ConfigError, DataError
from neuromix.core.model import call
from neuromix.data.video.moving_digits import Motion, MovingDigits, moving
from neuromix.layers.delta import DeltaActivation
from neuromix.tasks.video_classification import VideoClassification, VideoClassificationConfig
from neuromix.training.api import train


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_clip_is_a_digit_that_slides():
    digit_HW = torch.ones(8, 8)
    motion = Motion(frames=40, size=16, speed=2, stand=0.3, clutter=0.0)
    clip_T1HW = moving(digit_HW, motion, generator(4))
    assert clip_T1HW.shape == (40, 1, 16, 16)
    assert (clip_T1HW.sum((1, 2, 3)) == 64).all()  # never cut off
    tops, lefts = ((clip_T1HW[:, 0].amax(axis) > 0).int().argmax(1) for axis in (2, 1))
    assert all(places.diff().abs().max() <= 2 for places in (tops, lefts))
    assert len(set(zip(tops.tolist(), lefts.tolist(), strict=True))) > 4
    still = (clip_T1HW.diff(dim=0) == 0).all((1, 2, 3)).float().mean()
    assert 0 < still < 1


def test_the_background_stands_still():
    clip_T1HW = moving(torch.zeros(8, 8), Motion(clutter=0.5), generator())
    assert not clip_T1HW.diff(dim=0).any() and 0.3 < (clip_T1HW[0] > 0).float().mean() < 0.7
    assert clip_T1HW.max() <= 0.3


def test_clips_are_the_same_or_fresh():
    fixed, fresh = MovingDigits(part="test"), MovingDigits(part="test", fresh=True)
    assert torch.equal(fixed.sample(3, generator(1))["image"], fixed.sample(3, generator(2))["image"])
    assert not torch.equal(fresh.sample(3, generator(1))["image"], fresh.sample(3, generator(2))["image"])
    assert torch.equal(fresh.sample(3, generator(1))["image"], fresh.sample(3, generator(1))["image"])
    assert len({len(MovingDigits(part=part)) for part in ("train", "validation", "test")}) > 1


def test_a_batch_goes_through_a_model_frame_by_frame():
    task = VideoClassification(VideoClassificationConfig(motion=Motion(frames=3)))
    batch = task.collate([task.data("test").sample(i, generator()) for i in range(2)])
    assert batch["image"].shape == (2, 3, 1, 24, 24)
    model = neuromix.create_model(
        "delta_cnn_nano", **task.prepare(neuromix.create_model("delta_cnn_nano").config)
    )
    with torch.no_grad():
        logits_BK = call(model.eval(), batch)
        one = call(model, type(batch)({**batch, "image": batch["image"][:, :1]}))
    assert logits_BK.shape == (2, 10) and not torch.allclose(one, logits_BK)
    assert task.loss(logits_BK, batch)["cross_entropy"] > 0


def test_what_does_not_fit_is_refused():
    with pytest.raises(DataError, match="moving-digits"):
        VideoClassification(VideoClassificationConfig(data="films"))
    for wrong in ({"size": 4}, {"frames": 0}, {"stand": 2.0}, {"speed": -1}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            Motion(**wrong)


@pytest.mark.slow
def test_the_method_trains_in_two_stages(tmp_path):
    done = train(
        "delta_cnn",
        "moving-digits",
        tmp_path / "run",
        model_config={"layers": (8, "A", 16)},
        task_config={"motion": {"frames": 2, "size": 10}},
        method_config={"penalty": 1e-3, "threshold": 0.15},
        epochs=8,
        threads=1,
    )
    model = done.model()
    layers = [module for module in model.modules() if isinstance(module, DeltaActivation)]
    assert len(layers) == 3 and model.edits[0].name == "delta"
    assert any((layer.threshold != 0.15).any() for layer in layers)
    assert done.test["accuracy"] > 0.3
