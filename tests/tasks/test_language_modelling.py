"""The language task: its loss, its scores in bytes of text, and the tokeniser that a run keeps."""

from __future__ import annotations

import math

import pytest
import torch

from neuromix.core import registry
from neuromix.core.batch import Batch
from neuromix.core.errors import ConfigError, DataError, ShapeError
from neuromix.core.model import ModelConfig, arguments
from neuromix.data.dataset import Loader
from neuromix.models.language.decoder import Decoder, DecoderConfig
from neuromix.tasks.token_scores import mean_cross_entropy
from neuromix.training.api import open_run, train
from neuromix.training.evaluate import evaluate
from tests.data.text.subwords import write_bpe

TINY = {"dim": 16, "layers": 1, "attention": ["attention", {"heads": 2, "rotary": 8}]}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NEUROMIX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the cat sat on the mat, é\n" * 60, encoding="utf-8")
    return path


def task_of(file, **values):
    return registry.build("task", ["language-modelling", {"data": str(file), "length": 16, **values}])


class Uniform(Decoder):
    """All tokens are equally likely."""

    def __init__(self, size):
        super(Decoder, self).__init__(ModelConfig())
        self.logit = torch.nn.Parameter(torch.zeros(size))

    def forward(self, ids_BL, mask_BL=None, segments_BL=None):
        return self.logit.expand(*ids_BL.shape, -1)


@pytest.mark.parametrize("tokeniser", ["bytes", "characters", "subwords"])
def test_bits_are_of_the_bytes_of_the_text(file, tmp_path, tokeniser):
    task = task_of(file, tokeniser=str(write_bpe(tmp_path)) if tokeniser == "subwords" else tokeniser)
    scores = evaluate(Uniform(task.vocab_size), task, "test", batch_size=3)
    bits, text = math.log2(task.vocab_size), task.text.tokens("test")
    assert scores["bits_per_token"] == pytest.approx(bits, rel=1e-5)
    assert scores["perplexity"] == pytest.approx(task.vocab_size, rel=1e-5)
    assert scores["bits_per_byte"] == pytest.approx(bits * len(text) / task.text.size("test"), rel=1e-5)
    assert task.text.size("test") == round(0.05 * file.stat().st_size)


def test_scores_are_means_over_scored_tokens(file):
    task = task_of(file)
    (batch,) = Loader(task.data("test"), 64)
    logits = torch.randn(*batch["labels"].shape, 256, generator=torch.Generator().manual_seed(0))
    metrics = task.metrics()
    metrics.update(logits, batch)
    scored = batch["labels"] != -100
    log_N = logits.log_softmax(-1).gather(2, batch["labels"].clamp(min=0)[..., None])[..., 0][scored]
    assert metrics.compute()["bits_per_token"] == pytest.approx(float(-log_N.mean() / math.log(2)), rel=1e-5)
    right = (logits.argmax(-1) == batch["labels"])[scored].float().mean()
    assert metrics.compute()["accuracy"] == pytest.approx(float(right), abs=1e-6)
    torch.testing.assert_close(task.loss(logits, batch)["cross_entropy"], -log_N.mean())


def test_batches_of_unlike_sizes_weigh_by_their_tokens(file):
    task = task_of(file)
    net = Uniform(256)
    with torch.no_grad():
        net.logit.copy_(torch.linspace(-3, 3, 256))
    one, other = (evaluate(net, task, "test", batch_size=size) for size in (1, 5))
    assert one == pytest.approx(other, rel=1e-5)


def test_nothing_scored_is_no_loss():
    assert mean_cross_entropy(torch.randn(1, 2, 3), torch.full((1, 2), -100)) == 0


def test_documents_reach_the_model_as_segments(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in "abc":
        (folder / name).write_text("some text of " + name)
    task = task_of(folder, length=8, validation=0.0, test=0.3)
    batch = next(iter(Loader(task.data("train", augment=True), 2)))
    net = registry.build("model", ["transformer_nano", TINY])
    ids, mask, segments = arguments(net, batch)
    assert torch.equal(ids, batch["ids"]) and mask is None and torch.equal(segments, batch["segments"])
    assert net(ids, mask, segments).shape == (2, 8, 256)


def test_a_model_of_too_few_tokens_is_told_how_many(file):
    task = task_of(file)
    batch = next(iter(Loader(task.data("test"), 2)))
    for shape in ((2, 16, 200), (2, 256)):
        with pytest.raises(ShapeError, match="set vocab_size=256"):
            task.loss(torch.zeros(shape), batch)
    assert task.prepare(DecoderConfig()) == {"vocab_size": 256} and task.prepare(ModelConfig()) == {}


def test_values_out_of_range_are_refused(file):
    with pytest.raises(ConfigError, match=r"--data FILE\.txt"):
        registry.build("task", "language-modelling")
    with pytest.raises(ConfigError, match="at most 1 together"):
        task_of(file, test=0.7, validation=0.5)
    with pytest.raises(ConfigError, match="context must be"):
        task_of(file, context=16)
    with pytest.raises(DataError, match=r"--set task\.length="):
        task_of(file, length=5000).data("train", augment=True)
    with pytest.raises(DataError, match="test part of the text is empty"):
        task_of(file, test=0.0).data("test")


def test_a_run_keeps_its_alphabet(file, tmp_path):
    options = {"data": str(file), "length": 16, "tokeniser": "characters"}
    run = train(
        "transformer_nano",
        "language-modelling",
        tmp_path / "run",
        model_config=TINY,
        task_config=options,
        max_steps=2,
    ).run
    other = tmp_path / "other.txt"
    other.write_text("zebras at the mat" * 20)
    opened = open_run(run, task_config={"data": str(other), "test": 1.0, "validation": 0.0})
    assert opened.task.text.tokeniser.config.alphabet == "".join(
        sorted(set(file.read_text(encoding="utf-8")))
    )
    assert opened.task.notes() == ["test: 60 of 340 tokens stand for something that the vocabulary lacks"]
    with pytest.raises(ConfigError, match="the model has vocab_size="):
        open_run(run, task_config={"tokeniser": "bytes"})


@pytest.mark.slow
def test_it_learns(file, tmp_path):
    options = {"data": str(file), "length": 16}
    done = train(
        "transformer_nano",
        "language-modelling",
        tmp_path / "run",
        model_config=TINY,
        task_config=options,
        epochs=150,
        max_steps=300,
        lr=1e-2,
        threads=1,
    )
    assert done.test["bits_per_byte"] < 1.5


def test_a_field_is_passed_by_its_place(file):
    batch = Batch(
        {"ids": torch.zeros(1, 2, dtype=torch.int64), "labels": torch.zeros(1, 2, dtype=torch.int64)}
    )
    assert len(arguments(Uniform(4), batch)) == 1
