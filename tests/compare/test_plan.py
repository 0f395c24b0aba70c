"""A plan is complete, and whatever does not fit is told before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from neuromix.compare.budget import Budget
from neuromix.compare.job import Job
from neuromix.compare.plan import Plan, make_plan, read_plan
from neuromix.core.config import Spec, parse_assignments
from neuromix.core.errors import ConfigError, NeuromixError, RunError
from tests.compare.fake import ANALOG, SPIKING, TINY, a_plan
from tests.tasks.test_image_classification import image_folder


def test_the_runs_of_a_plan():
    plan = a_plan([Spec(TINY, {"width": 4}), SPIKING], (0, 7), budget=Budget(epochs=3), train={"lr": 0.01})
    assert [job.folder for job in plan.jobs()] == [
        "runs/tiny_test_net/seed0",
        "runs/meta_spikeformer_nano/seed0",
        "runs/tiny_test_net/seed7",
        "runs/meta_spikeformer_nano/seed7",
    ]
    first, _, third, _ = plan.jobs()
    assert [job.seed for job in plan.of_model(TINY)] == [0, 7]
    train = third.recipe.train
    assert (train.epochs, train.seed, train.lr, train.threads, train.device) == (3, 7, 0.01, 1, "cpu")
    assert train.batch_size == 32  # what suits the digits
    assert first.recipe.model.options["width"] == 4


def test_a_plan_and_a_job_go_through_json(tmp_path):
    plan = a_plan([Spec(TINY, {"width": 4})], budget=Budget(minutes=1, joules_per_inference=1e-6))
    (tmp_path / "plan.json").write_text(json.dumps({"format": 1, **plan.to_dict()}))
    assert read_plan(tmp_path / "plan.json") == plan
    job = plan.jobs()[1]
    assert Job.from_dict(json.loads(json.dumps(job.to_dict()))) == job


def test_making_a_plan_leaves_chance_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    a_plan([SPIKING])
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"models": []}, "at least one model"),
        ({"models": [TINY, TINY]}, "tiny_test_net comes twice"),
        ({"models": ["tiny_tset_net"]}, "unknown model 'tiny_tset_net'; did you mean tiny_te.t_net"),
        ({"models": [Spec(TINY, {"widht": 3})]}, "unknown TinyConfig key 'widht'; did you mean width"),
        ({"models": [Spec(TINY, {"width": 0})]}, "width must be positive"),
        (
            {"models": [Spec(TINY, {"in_channels": 3})]},
            r"tiny_test_net cannot be trained on these data: .*got",
        ),
        ({"models": [Spec(TINY, {"num_classes": 3})]}, "tiny_test_net cannot be trained .* num_classes=10"),
        ({"models": ["tiny_text_net"]}, "tiny_text_net is made for language, not for image-classification"),
        ({"train": {"epochs": 3}}, "train.epochs is said by --budget epochs=N"),
        ({"train": {"seed": 3}}, "train.seed is said by --seeds N"),
        ({"train": {"lrr": 3}}, "unknown TrainConfig key 'lrr'"),
        ({"train": {"lr": -1}}, "lr must be positive"),
        ({"train": {"device": "cuda"}}, "no cuda device is available"),
        ({"seeds": []}, "needs seeds"),
        ({"seeds": [1, 1]}, "each once"),
    ],
    ids=str,
)
def test_what_does_not_fit(about, message):
    if "cuda" in str(about) and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(NeuromixError, match=message):
        a_plan(**about)


def test_unknown_task_and_data(tmp_path):
    with pytest.raises(NeuromixError, match="unknown task 'digit'; did you mean digits"):
        make_plan([TINY], "digit")
    with pytest.raises(NeuromixError, match="nowhere"):
        make_plan([TINY], Spec("image-classification", {"data": "nowhere"}))


def test_a_device_of_another_machine_is_taken_as_it_is():
    assert a_plan(train={"device": "cuda"}, remote=True).device == "cuda"


def test_data_are_found_from_anywhere(tmp_path, monkeypatch):
    image_folder(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    plan = make_plan([TINY], Spec("image-classification", {"data": "data"}))
    assert Path(plan.recipes[0].task.options["data"]) == tmp_path / "data"
    assert plan.recipes[0].model.options["num_classes"] == 2


def test_models_and_seeds_may_be_added_and_left_out():
    first, more = a_plan([TINY], (0, 1)), a_plan([SPIKING], (1, 2))
    both = more.merged(first)
    assert both.names == [SPIKING, TINY]
    assert both.seeds == (1, 2, 0)
    assert both.recipes == (more.recipes[0], first.recipes[0])
    assert first.merged(both).names == [TINY, SPIKING]


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"train": {"lr": 0.1}}, r"^train.lr \(was 0.005, now 0.1\)$"),
        ({"budget": Budget(epochs=4)}, r"^train.epochs \(was 30, now 4\)$"),
        ({"budget": Budget(minutes=2)}, r"^budget.minutes \(was None, now 2.0\)$"),
        ({"models": [Spec(TINY, {"width": 4}), SPIKING]}, r"^tiny_test_net.width \(was 8, now 4\)$"),
    ],
    ids=str,
)
def test_anything_else_makes_another_plan(about, message):
    with pytest.raises(ConfigError, match=message):
        a_plan(**about).merged(a_plan())


def test_an_energy_budget_needs_no_other_training():
    assert a_plan(budget=Budget(joules_per_inference=1.0)).merged(a_plan()).budget.joules_per_inference == 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "plan.json is damaged"),
        ("[]", "plan.json is damaged"),
        ('{"format": 2}', "format 2 and this version of neuromix reads up to 1; update neuromix"),
        (
            '{"format": 1, "modles": []}',
            "plan.json is damaged: unknown Plan key 'modles'; did you mean models",
        ),
    ],
)
def test_a_plan_that_cannot_be_read(tmp_path, text, message):
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(RunError, match=message):
        read_plan(tmp_path / "plan.json")


def test_the_command_of_a_run_can_be_pasted():
    plan: Plan = a_plan(
        [Spec(ANALOG, {"depths": [1, 1, 1], "mixers": "pool"}), TINY],
        (3,),
        train={"ema": 0.9, "fresh": ["a b"]},
    )
    words = (
        "neuromix train --task digits --model poolformer_nano --epochs 5 --seed 3 --set 'depths=[1,1,1]' "
        """--set mixers=pool --set train.threads=1 --set train.ema=0.9 --set 'train.fresh=["a b"]'"""
    )
    assert plan.jobs()[0].command(5) == words
    assert parse_assignments(['train.fresh=["a b"]', "x=5"]) == {"train.fresh": ["a b"], "x": 5}
