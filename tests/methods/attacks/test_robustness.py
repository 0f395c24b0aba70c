"""What an attack did, counted; attacks inside an evaluation and on a run.

Shapes: B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neuromix.core.batch import Batch
from neuromix.core.errors import ConfigError, NeuromixError, RunError
from neuromix.core.model import Model, call
from neuromix.methods.attacks.attack_run import SomeOf, attack_run
from neuromix.methods.attacks.robustness import Perturbation, Robustness
from neuromix.methods.attacks.sda import SDA
from neuromix.methods.attacks.signs import FGSM, PGD
from neuromix.methods.attacks.victim import Range
from neuromix.tasks.image_classification import ImageClassification, ImageClassificationConfig
from neuromix.training.api import train
from neuromix.training.evaluate import evaluate
from tests.methods.attacks.nets import Linear, chance, normal, spiking, uniform

NET = {"blocks": (1,), "widths": (4,), "time_steps": 2}


def digits() -> ImageClassification:
    return ImageClassification(ImageClassificationConfig(data="digits"))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 12)), min_size=1, max_size=9))
def test_figures_by_hand(cases: Sequence[tuple[bool, int]]) -> None:
    x = torch.zeros(len(cases), 3, 2, 2)
    changed = x.clone()
    for sample, (_, changes) in zip(changed, cases, strict=True):
        sample.view(-1)[:changes] = 0.5
    found = Robustness(samples=len(cases) + 2)
    found.add(x, changed, torch.tensor([is_wrong for is_wrong, _ in cases]))
    successes = [changes for is_wrong, changes in cases if is_wrong]
    figures = found.to_dict()
    assert found.l0 == successes and figures["values"] == 12 and figures["attacked"] == len(cases)
    assert found.success_rate == pytest.approx(len(successes) / len(cases))
    assert found.success_below(5) == pytest.approx(sum(n < 5 for n in successes) / len(cases))
    difference = found.clean_accuracy - found.adversarial_accuracy
    assert difference / found.clean_accuracy == pytest.approx(found.success_rate)
    if successes:
        assert figures["l0_median"] == sorted(successes)[len(successes) // 2] or len(successes) % 2 == 0
        assert figures["l0_mean"] == pytest.approx(sum(successes) / len(successes))
        assert figures["linf_max"] == (0.5 if any(successes) else 0.0)
    else:
        assert figures["l0_mean"] is None and figures["linf_max"] is None


def test_nothing_seen_gives_no_division_by_zero() -> None:
    figures = Robustness().to_dict()
    assert figures["clean_accuracy"] == figures["attack_success_rate"] == 0.0


def test_only_what_is_taken_rightly_is_attacked() -> None:
    model, x = Linear(normal(3, 12)), uniform(6, 3, 2, 2)
    label_B = model(x).argmax(1)
    label_B[::2] = (label_B[::2] + 1) % 3
    perturbation = Perturbation(FGSM(eps=1.0), surrogate="keep")
    batch = perturbation(model, Batch({"image": x, "label": label_B}), chance())
    moved_B = (batch.tensor("image") != x).flatten(1).any(1)
    assert moved_B.tolist() == [False, True] * 3
    assert (perturbation.found.samples, perturbation.found.attacked) == (6, 3)


def test_a_batch_that_is_all_wrong_is_left_alone() -> None:
    model, x = Linear(normal(3, 12)), uniform(2, 3, 2, 2)
    label_B = (model(x).argmax(1) + 1) % 3
    perturbation = Perturbation(FGSM(), surrogate="keep")
    assert torch.equal(perturbation(model, Batch({"image": x, "label": label_B}), chance())["image"], x)
    assert perturbation.found.to_dict()["attack_success_rate"] == 0.0


def test_normalised_batches_are_attacked_as_images() -> None:
    values, image = Range(1.0, (0.3,) * 3, (0.2,) * 3), uniform(4, 3, 8, 8)
    victim = spiking(range=values)
    batch = Batch({"image": values.normalised(image), "label": victim.answers(image)})
    perturbation = Perturbation(FGSM(eps=0.1), values)
    changed = values.restored(perturbation(victim.model, batch, chance()).tensor("image"))
    assert float((changed - image).abs().max()) == pytest.approx(0.1)
    assert changed.min() >= 0 and changed.max() <= 1


def test_counts_are_made_binary_where_that_is_the_coding() -> None:
    counts = torch.randint(0, 4, (3, 3, 2, 8, 8), generator=chance()).double()
    victim = spiking(channels=2, coding="binary")
    batch = Batch({"image": counts, "label": victim.answers(counts)})
    perturbation = Perturbation(SDA(pixels=20, iterations=3), Range(None), "binary")
    shown = perturbation(victim.model, batch, chance()).tensor("image")
    assert set(shown.unique().tolist()) <= {0.0, 1.0}
    changed = (shown != (counts >= 1)).flatten(1).sum(1)
    assert sorted(changed[changed > 0].tolist()) == sorted(perturbation.found.l0)
    with pytest.raises(ConfigError, match="take the coding binary"):
        Perturbation(SDA(), Range(None), "integer")(victim.model, batch, chance())


@pytest.mark.parametrize("fields", [{"image": uniform(2, 3, 4, 4)}, {"label": torch.tensor([0, 1])}])
def test_batches_without_images_or_labels_are_refused(fields: dict[str, Tensor]) -> None:
    with pytest.raises(ConfigError, match="images and event frames with one label each"):
        Perturbation(FGSM())(spiking().model, Batch(fields), chance())


def test_evaluate_scores_what_perturb_gives() -> None:
    torch.manual_seed(0)
    model, task, seen = Linear(normal(10, 64).float()), SomeOf(digits(), 40, 0), []

    def blank(model: Model, batch: Batch, generator: torch.Generator) -> Batch:
        assert torch.is_grad_enabled() and not model.training
        seen.append(torch.rand((), generator=generator))
        return batch.replace(image=torch.zeros_like(batch.tensor("image")))

    scores = [evaluate(model.train(), task, batch_size=16, perturb=blank) for _ in range(2)]
    assert model.training and seen[:3] == seen[3:] and len(set(map(float, seen))) == 3
    labels = [task.data("test").sample(i, chance())["label"] for i in range(40)]
    assert scores[0] == scores[1] and scores[0]["accuracy"] == pytest.approx(labels.count(0) / 40)


def test_evaluation_under_attack_is_the_counted_accuracy() -> None:
    task = SomeOf(digits(), 60, 1)
    values = Range(1.0, tuple(task.task.images.mean), tuple(task.task.images.std))  # type: ignore[attr-defined]
    batch = task.collate([task.data("test").sample(i, chance()) for i in range(60)])
    label_B = batch.tensor("label")
    weights = torch.stack([batch.tensor("image")[label_B == k].mean(0).flatten() for k in range(10)])
    model = Linear(weights - weights.mean(0))  # the class whose mean is nearest in direction
    perturbation = Perturbation(PGD(eps=0.4, steps=4), values, surrogate="keep")
    scores = evaluate(model, task, batch_size=25, perturb=perturbation)
    found = perturbation.found
    assert found.samples == 60 and found.clean_accuracy == pytest.approx(evaluate(model, task)["accuracy"])
    assert scores["accuracy"] == pytest.approx(found.adversarial_accuracy, abs=1e-6)
    assert found.clean_accuracy > 0.5 > found.adversarial_accuracy
    assert call(model, batch).shape == (60, 10)


def test_samples_are_drawn_without_repetition() -> None:
    task = digits()

    def drawn(seed: int) -> list[tuple[float, ...]]:
        part = SomeOf(task, 30, seed).data("test")
        images = [torch.as_tensor(part.sample(i, chance())["image"]) for i in range(30)]
        return [tuple(image.flatten().tolist()) for image in images]

    assert len(set(drawn(0))) == 30 and drawn(0) == drawn(0) != drawn(1)
    assert len(SomeOf(task, 10**6, 0).data("test")) == 500


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of two steps: on digits and on binary frames of moved digits; and one of an analog net."""
    folder: Path = tmp_path_factory.mktemp("runs")
    quick: dict[str, Any] = {"epochs": 1, "max_steps": 2, "threads": 1}
    train("pdsg_resnet", "digits", folder / "digits", model_config=NET, **quick)
    frames = {"representation": ["count", {"frames": 2, "most": 1}], "size": 8}
    train("pdsg_resnet", "digits-dvs", folder / "dvs", model_config=NET, task_config=frames, **quick)
    train("poolformer_nano", "digits", folder / "analog", **quick)
    return folder


def test_a_run_is_attacked_on_its_test_data(runs: Path) -> None:
    report = attack_run(runs / "digits", ("pgd", {"eps": 0.1, "steps": 2}), samples=40)
    figures = report.to_dict()
    assert (figures["attack"], figures["eps"], figures["coding"]) == ("pgd", 0.1, "direct")
    assert figures["samples"] == 40 and (figures["linf_max"] or 0) <= 0.1 + 1e-6
    assert report.scores["accuracy"] == pytest.approx(report.robustness.adversarial_accuracy, abs=1e-6)
    assert attack_run(runs / "digits", ("pgd", {"eps": 0.1, "steps": 2}), samples=40) == report
    other = attack_run(runs / "digits", ("pgd", {"eps": 0.1, "steps": 2}), samples=40, seed=1)
    assert other.robustness != report.robustness


def test_a_run_on_binary_frames_is_attacked_sparsely(runs: Path) -> None:
    report = attack_run(runs / "dvs", ("sda", {"pixels": 20, "iterations": 2}), samples=12)
    figures = report.to_dict()
    assert (figures["coding"], figures["values"]) == ("binary", 2 * 2 * 8 * 8)
    assert figures["linf_max"] in (1.0, None)


def test_an_analog_run_is_attacked_as_it_is(runs: Path) -> None:
    assert attack_run(runs / "analog", "fgsm", surrogate="keep", samples=20).robustness.samples == 20
    with pytest.raises(ConfigError, match="no spiking neuron whose surrogate could be swapped"):
        attack_run(runs / "analog", "fgsm", samples=20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attack": "fgms"}, "unknown attack 'fgms'"),
        ({"attack": "sda"}, "sda flips pixels that are 0 or 1"),
        ({"surrogate": "pdgs"}, "unknown surrogate 'pdgs'; did you mean pdsg"),
        ({"coding": "poison"}, "unknown coding 'poison'; did you mean poisson"),
        ({"coding": "binary"}, "coding binary is for event frames"),
        ({"samples": 0}, "samples is 1 or more"),
        ({"split": "tests"}, "unknown split 'tests'"),
        ({"attack": ("fgsm", {"eps": 3.0})}, "eps is above 0 and at most 1"),
    ],
)
def test_what_is_refused(runs: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(NeuromixError, match=message):
        attack_run(runs / "digits", **options)


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no run"):
        attack_run(tmp_path)
