"""A model says which values of a task suit it; what the user says goes first."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from neuromix.compare.plan import make_plan
from neuromix.core.config import Spec
from neuromix.core.errors import UnknownNameError
from neuromix.core.registry import find, register_model
from neuromix.training.recipe import Request, new_recipe
from tests.training.tiny import TinyConfig, TinyNet


@dataclass(frozen=True)
class SurfaceConfig(TinyConfig):
    in_channels: int = 2
    tau: float = 1000.0


@register_model("tiny_frames_net", tasks=("event-classification", "image-classification"))
class FramesNet(TinyNet):
    Config = SurfaceConfig

    def forward(self, x_BTCHW):
        return super().forward(x_BTCHW.mean(1))


@register_model("tiny_surface_net", tasks=("event-classification", "image-classification"))
class SurfaceNet(FramesNet):
    @classmethod
    def task_values(cls, config):
        surface = ["surface", {"frames": config.time_steps, "tau": config.tau}]
        return {"representation": surface, "data": "digits-dvs", "size": 12, "no such field": 1}


def task_of(task="events", model_config=None, **task_config):
    request = Request("tiny_surface_net", task, task_config=task_config, model_config=model_config or {})
    return new_recipe(request)[0].task.options


def test_fields_that_are_not_set_take_the_value_of_the_model():
    options = task_of()
    assert options["representation"] == ["surface", {"frames": 2, "tau": 1000.0}]
    assert options["data"] == "digits-dvs" and options["size"] == 12
    assert "no such field" not in options


def test_the_value_follows_the_config_of_the_model():
    assert task_of(model_config={"tau": 5.0})["representation"] == ["surface", {"frames": 2, "tau": 5.0}]


def test_what_the_user_sets_goes_first():
    assert task_of(representation="time")["representation"] == "time"
    assert task_of(size=14)["size"] == 14


def test_the_user_may_reach_into_the_value_of_the_model():
    assert task_of(**{"representation.frames": 3})["representation"] == [
        *("surface", {"frames": 3, "tau": 1000.0})
    ]


def test_what_the_name_of_the_task_says_is_set():
    assert task_of("digits")["data"] == "digits"


def test_a_wrong_key_of_the_user_is_still_told():
    with pytest.raises(UnknownNameError, match="sise"):
        task_of(sise=3)


def test_models_that_say_nothing_leave_the_task_alone():
    entry, config = find("model", "tiny_test_net")
    assert entry.task_values(config) == {}


def test_a_comparison_gives_every_model_its_own():
    models = [Spec("tiny_surface_net"), Spec("tiny_frames_net")]
    plan = make_plan(models, Spec("events", {"data": "digits-dvs", "size": 12}))
    surface, frames = (recipe.task.options["representation"] for recipe in plan.recipes)
    assert surface[0] == "surface" and frames == "count"
    assert plan.merged(make_plan(models[1:], plan.task)).names == plan.names
