"""The record says what was found, and ranks nothing on a difference that may be chance."""

from __future__ import annotations

import json
import math

import pytest

from neuromix.compare.budget import Budget
from neuromix.compare.record import Found, make_record
from neuromix.core.config import Spec
from tests.compare.fake import ANALOG, SPIKING, TINY, a_plan, a_result, a_timing, samples

NAMES = (TINY, SPIKING, ANALOG)


@pytest.fixture(scope="module")
def plan():
    return a_plan(NAMES, (0, 1, 2), budget=Budget(epochs=3))


def record_of(plan, rights, **about):
    """Of runs that have so many samples right: model -> one number a seed, None for a run that failed."""
    found = {}
    for job in plan.jobs():
        right = rights[job.model.name][plan.seeds.index(job.seed)]
        result = None if right is None else a_result(right, **about.get(job.model.name, {}))
        found[job.folder] = Found(result, a_timing(), None if result else "the loss is not finite")
    return make_record(plan, found, "neuromix compare ...")


def pairs_of(record):
    return {(pair["a"], pair["b"]): pair for pair in record["differences"]}


CLEAR = {TINY: (40, 42, 41), SPIKING: (80, 82, 84), ANALOG: (81, 80, 85)}


def test_everything_is_in_it(plan):
    record = record_of(plan, CLEAR)
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record.keys() == {
        "command", "environment", "task", "data", "score", "higher_is_better", "class_names", "budget", "seeds",
        "energy_models", "models", "differences", "page",
    }  # fmt: skip
    assert record["class_names"] == [str(digit) for digit in range(10)]
    assert (record["task"], record["data"], record["score"]) == ("digits", None, "accuracy")
    assert (record["budget"], record["seeds"], record["page"]) == ({"epochs": 3}, [0, 1, 2], None)
    assert record["energy_models"]["45nm"]["picojoules"]["mac32"] == 4.6
    assert all(isinstance(value, str) for value in record["environment"].values())
    model = record["models"][1]
    assert (model["name"], model["family"], model["config"]) == (SPIKING, "spiking", {})
    run = model["runs"][2]
    assert run.keys() == {
        "seed", "status", "error", "folder", "command", "test", "validation", "train_seconds", "epochs", "curve",
        "parameters", "macs_dense", "synaptic_operations", "firing_rate", "energy", "latency", "throughput",
        "peak_memory", "layers", "neurons", "not_counted", "confusion", "raster",
    }  # fmt: skip
    assert (run["seed"], run["folder"]) == (2, f"runs/{SPIKING}/seed2")
    assert run["command"].startswith(f"neuromix train --task digits --model {SPIKING} --epochs 3 --seed 2")
    assert model["summary"]["accuracy"]["mean"] == pytest.approx(0.82)
    assert model["summary"]["accuracy"]["std"] == pytest.approx(0.02)
    assert model["summary"]["energy 45nm"]["mean"] == 1e-3
    assert model["summary"]["latency"] == {"mean": 0.002, "std": 0.0, "low": 0.002, "high": 0.002, "n": 3}
    assert model["summary"]["firing_rate"]["n"] == 0


def test_clear_differences_rank(plan):
    record = record_of(plan, CLEAR)
    pairs = pairs_of(record)
    assert [pair["significant"] for pair in pairs.values()] == [True, True, False]
    assert pairs[TINY, SPIKING]["difference"] == pytest.approx(-0.41)
    assert pairs[TINY, SPIKING]["low"] < -0.41 < pairs[TINY, SPIKING]["high"] < 0
    assert [model["rank"] for model in record["models"]] == [3, 1, 1]


def test_a_lower_score_may_be_the_better_one(plan, monkeypatch):
    from neuromix.tasks.image_classification import ImageClassification

    monkeypatch.setattr(ImageClassification, "higher_is_better", False)
    assert [model["rank"] for model in record_of(plan, CLEAR)["models"]] == [1, 2, 2]


def test_differences_of_lucky_seeds_do_not_rank(plan):
    rights = {TINY: (40, 95, 60), SPIKING: (99, 70, 98), ANALOG: (80, 85, 90)}
    record = record_of(plan, rights)
    assert pairs_of(record)[TINY, SPIKING]["p_samples"] < 0.05 < pairs_of(record)[TINY, SPIKING]["p_seeds"]
    assert [model["rank"] for model in record["models"]] == [1, 1, 1]


def test_differences_of_a_lucky_test_split_do_not_rank(plan):
    # Always three samples better, on a split of a hundred.
    record = record_of(plan, {TINY: (90, 91, 92), SPIKING: (93, 94, 95), ANALOG: (93, 94, 95)})
    assert pairs_of(record)[TINY, SPIKING]["p_seeds"] < 0.05 < pairs_of(record)[TINY, SPIKING]["p_samples"]
    assert [model["rank"] for model in record["models"]] == [1, 1, 1]


def test_one_seed_ranks_nothing():
    plan = a_plan((TINY, SPIKING), (4,))
    record = record_of(plan, {TINY: (10,), SPIKING: (99,)})
    (pair,) = record["differences"]
    assert (pair["p_seeds"], pair["low"], pair["high"], pair["significant"]) == (None, None, None, False)
    assert pair["p_samples"] < 1e-3
    assert [model["rank"] for model in record["models"]] == [1, 1]
    assert record["models"][0]["summary"]["accuracy"]["std"] is None


def test_scores_of_samples_that_are_not_known_rank_nothing(plan):
    record = record_of(plan, CLEAR, **{SPIKING: {"sample_scores": None}})
    assert pairs_of(record)[TINY, SPIKING]["p_samples"] is None
    assert [model["rank"] for model in record["models"]] == [2, 1, 1]  # by the two others


def test_only_the_samples_of_common_seeds_are_paired(plan):
    record = record_of(plan, {**CLEAR, TINY: (40, None, 41)})
    pair = pairs_of(record)[TINY, SPIKING]
    assert pair["difference"] == pytest.approx((0.40 - 0.80 + 0.41 - 0.84) / 2)
    tiny = record["models"][0]
    assert tiny["summary"]["accuracy"]["n"] == 2
    assert tiny["runs"][1] == {
        "seed": 1,
        "status": "failed",
        "error": "the loss is not finite",
        "folder": f"runs/{TINY}/seed1",
        "command": tiny["runs"][1]["command"],
    }
    assert "--seed 1" in tiny["runs"][1]["command"]


def test_a_model_of_which_every_run_failed(plan):
    record = record_of(plan, {**CLEAR, TINY: (None, None, None)})
    tiny = record["models"][0]
    assert (tiny["summary"], tiny["rank"], tiny["over_budget"]) == ({}, None, False)
    assert list(pairs_of(record)) == [(SPIKING, ANALOG)]


def test_a_model_over_the_energy_budget_is_kept_and_not_ranked():
    plan = a_plan(NAMES, (0, 1, 2), budget=Budget(joules_per_inference=2e-6))
    # 1.9 and 2.1 µJ
    record = record_of(plan, CLEAR, **{SPIKING: {"energy": 2.1e-3}, TINY: {"energy": 1.9e-3}})
    assert [model["over_budget"] for model in record["models"]] == [False, True, False]
    # SPIKING is better than TINY, and pushes it nowhere.
    assert [model["rank"] for model in record["models"]] == [2, None, 1]
    assert len(record["differences"]) == 3
    assert record["budget"] == {"epochs": 30, "joules_per_inference": 2e-6}


def test_budget_in_minutes_and_settings_of_a_model():
    plan = a_plan([Spec(TINY, {"width": 4})], (0,), budget=Budget(minutes=1.5))
    record = record_of(plan, {TINY: (50,)})
    assert record["budget"] == {"minutes": 1.5}
    assert record["models"][0]["config"] == {"width": 4}
    assert "--epochs 3" in record["models"][0]["runs"][0]["command"]  # as many as the pilot found


def test_numbers_that_are_not_finite_are_not_known(plan):
    about = {"train_seconds": math.nan, "curve": {"epoch": [1], "loss": [math.inf], "score": [0.5]}}
    run = record_of(plan, CLEAR, **{TINY: about})["models"][0]["runs"][0]
    assert (run["train_seconds"], run["curve"]["loss"]) == (None, [None])


def test_what_was_not_timed(plan):
    found = {job.folder: Found(a_result(), None) for job in plan.jobs()}
    model = make_record(plan, found)["models"][0]
    assert (model["runs"][0]["latency"], model["runs"][0]["throughput"]) == (None, None)
    assert model["summary"]["latency"]["mean"] is None


def test_made_up_samples_agree_with_their_score():
    assert sum(samples(37)) / 100 == a_result(37)["test"]["accuracy"]
