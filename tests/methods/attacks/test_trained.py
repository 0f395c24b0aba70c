"""Attacks on small trained nets: what the paper is about, on data that are there.

Shapes: B batch.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from neuromix.core.registry import build
from neuromix.methods.attacks.attack_run import attack_run
from neuromix.methods.attacks.sda import SDA
from neuromix.methods.attacks.victim import Victim
from neuromix.training.api import train

pytestmark = pytest.mark.slow
FRAMES = {"representation": ["count", {"frames": 4, "most": 1}]}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("digits") / "run"
    run = train("pdsg_resnet_nano", "digits", folder, epochs=6, threads=1)
    assert run.test["accuracy"] > 0.8
    return folder


def test_pgd_by_pdsg_beats_pgd_by_a_narrow_surrogate(digits: Path) -> None:
    pgd = ("pgd", {"eps": 16 / 255})
    rates = {}
    for surrogate in ("pdsg", ("rectangle", {"width": 0.02})):
        found = attack_run(digits, pgd, surrogate=surrogate, samples=200, train_config={"batch_size": 200})
        rates[str(surrogate)[:4]] = found.robustness.success_rate
    assert rates["pdsg"] > rates["('re"] + 0.05


def test_more_eps_and_more_steps_fool_more(digits: Path) -> None:
    rates = [
        attack_run(digits, attack, samples=100).robustness.success_rate
        for attack in (
            ("fgsm", {"eps": 4 / 255}),
            ("pgd", {"eps": 16 / 255}),
            ("apgd", {"eps": 32 / 255, "steps": 20}),
        )
    ]
    assert rates[0] < rates[1] < rates[2]


def test_sda_flips_few_pixels_of_binary_events(tmp_path: Path) -> None:
    run = train("pdsg_resnet_nano", "digits-dvs", tmp_path / "run", task_config=FRAMES, epochs=5, threads=1)
    assert run.test["accuracy"] > 0.4
    task = build("task", ("digits-dvs", FRAMES))
    data, nobody = task.data("test"), torch.Generator()
    batch = task.collate([data.sample(i, nobody) for i in range(16)])
    victim = Victim(run.model().eval(), coding="binary")
    x, label_B = batch.tensor("image"), batch.tensor("label")
    right_B = victim.answers(x) == label_B
    x, label_B = x[right_B], label_B[right_B]
    changed = SDA()(victim, x, label_B, torch.Generator().manual_seed(0))
    assert set(changed.unique().tolist()) == {0.0, 1.0}
    assert len(x) > 4 and bool((victim.answers(changed) != label_B).all())
    share_B = (changed != x).flatten(1).float().mean(1)
    assert share_B.min() > 0 and share_B.median() < 0.05
