"""Recall tasks: exact answers are scored, and lengths can be changed after training."""

from __future__ import annotations

import pytest
import torch

from neuromix.core import registry
from neuromix.core.errors import ConfigError
from neuromix.data.dataset import Loader
from neuromix.models.language.decoder import DecoderConfig
from neuromix.training.api import evaluate_run, train
from neuromix.training.task import total

NAMES = ("induction-heads", "induction-heads-h3", "associative-recall", "selective-copying", "phonebook")
TINY = {"dim": 16, "layers": 1, "attention": ["attention", {"heads": 2, "rotary": 8}]}


@pytest.mark.parametrize("name", NAMES)
def test_batches(name):
    task = registry.build("task", [name, {"held_out": 4}])
    (batch,) = Loader(task.data("test"), 8)
    assert task.kind == "language-modelling" and batch.size == 4
    assert task.prepare(DecoderConfig()) == {"vocab_size": task.source.vocab_size}
    assert (batch["labels"] != -100).any(1).all()


def test_a_sample_is_right_if_all_of_its_answer_is():
    task = registry.build("task", ["phonebook", {"held_out": 3}])
    (batch,) = Loader(task.data("test"), 3)
    best = batch["labels"].clamp(min=0)
    best[0, -1] = 0  # one of four
    best[1, 0] = 5  # is not scored
    metrics = task.metrics()
    metrics.update(torch.nn.functional.one_hot(best, 40).float(), batch)
    assert metrics.compute() == pytest.approx({"accuracy": 2 / 3, "token_accuracy": 11 / 12}, abs=1e-6)


def test_other_tokens_count_as_asked():
    logits = torch.randn(2, 31, 20, generator=torch.Generator().manual_seed(0))
    (batch,) = Loader(registry.build("task", ["induction-heads-h3", {"held_out": 2}]).data("test"), 2)

    def loss(**options):
        return registry.build("task", ["induction-heads-h3", options]).loss(logits, batch)

    whole = torch.cat([batch["ids"][:, 1:], batch["labels"][:, -1:]], 1)
    mean = torch.nn.functional.cross_entropy(logits.flatten(0, 1), whole.flatten())
    torch.testing.assert_close(total(loss()) / 31, mean)
    assert loss(others=0.0).keys() == {"answer"}
    with pytest.raises(ConfigError, match="others must be 0 or more"):
        registry.build("task", ["phonebook", {"others": -1.0}])


def test_a_run_is_scored_at_another_length(tmp_path):
    options = {"held_out": 8, "samples": 64, "length": 12}
    done = train(
        "transformer_nano",
        "induction-heads",
        tmp_path / "run",
        model_config=TINY,
        task_config=options,
        epochs=1,
    )
    assert set(done.test) == {"accuracy", "token_accuracy"}
    assert 0 <= evaluate_run(done.run, task_config={"length": 40}).scores["accuracy"] <= 1
    with pytest.raises(ConfigError, match="the model has vocab_size=16"):
        evaluate_run(done.run, task_config={"vocab": 20})


@pytest.mark.slow
def test_attention_learns_induction(tmp_path):
    config = {"dim": 32, "layers": 2, "attention": ["attention", {"heads": 2, "rotary": 16}]}
    done = train(
        "transformer_nano",
        "induction-heads",
        tmp_path / "run",
        model_config=config,
        task_config={"length": 16, "vocab": 8, "held_out": 200},
        epochs=4,
        threads=1,
    )
    assert done.test["accuracy"] > 0.9
