"""Fine-tuning by sparsification, and auxiliary losses of layers, as runs."""

from __future__ import annotations

import json

import pytest
import torch

import neuromix
from neuromix.core.errors import ConfigError
from neuromix.mixers.pq_attention import PQAttention
from neuromix.training.api import train

TEXT = "the cat sat on the mat and the dog sat on the log. " * 40
TRANSFORMER = {
    "dim": 16,
    "layers": 1,
    "attention": ["attention", {"heads": 2}],
    "ffn": ["mlp", {"ratio": 2.0}],
}
QUICK = {"epochs": 1, "batch_size": 8, "device": "cpu", "max_steps": 6, "threads": 1}
CONVERSION = {"rank": 2, "codeword_dim": 4, "blocks": 4}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NEUROMIX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    return {"data": str(tmp_path / "text.txt"), "length": 16}


def run(text, out, **options):
    return train(
        "transformer",
        "language-modelling",
        out,
        model_config=TRANSFORMER,
        task_config=text,
        **{**QUICK, **options},
    )


@pytest.mark.slow
def test_weights_that_were_there_stay_to_the_last_bit(text, tmp_path):
    before = run(text, tmp_path / "base").model()
    options = {"method": "spt", "method_config": CONVERSION, "init": str(tmp_path / "base")}
    done = run(text, tmp_path / "spt", **options, max_steps=50, epochs=5)
    after = done.model()
    old, new = before.state_dict(), after.state_dict()
    assert all(torch.equal(new[name], tensor) for name, tensor in old.items())
    learnt = [name for name, p in after.named_parameters() if p.requires_grad]
    assert {name.rsplit(".", 2)[-2 if "router" in name or "quantiser" in name else -1] for name in learnt} == {
        "left", "right", "router", "quantiser",
    }  # fmt: skip
    assert after.num_parameters() < after.num_parameters(trainable_only=False)
    attention = [m for m in after.modules() if isinstance(m, PQAttention)]
    assert attention and all(m.config.sparse for m in attention)
    ids = torch.randint(31, (1, 16))
    net, state = neuromix.stream(after.eval()), None
    with torch.no_grad():
        for ids_B in ids.unbind(1):
            y, state = net.step(ids_B, state)
    torch.testing.assert_close(y, after(ids)[:, -1])
    lines = [json.loads(line) for line in (tmp_path / "spt" / "metrics.jsonl").read_text().splitlines()]
    assert all(line["train"]["auxiliary"] > 0 for line in lines)


def test_dense_first(text, tmp_path):
    options = {"method": "spt", "method_config": {**CONVERSION, "dense_epochs": 1}, "init": None}
    done = run(text, tmp_path / "spt", **options)
    lines = [json.loads(line) for line in (tmp_path / "spt" / "metrics.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["dense", "sparse"]
    assert [edit.name for edit in done.model().edits] == ["spt", "spt"]


def test_the_auxiliary_loss_of_parts_is_that_of_the_whole(text, tmp_path):
    """One accumulated step moves centres once."""
    sizes = {"dim": 16, "depth": 1, "heads": 4, "max_length": 16, "window": 4}
    found = {}
    for parts in (1, 2):
        done = train(
            "routing_transformer", "language-modelling", tmp_path / str(parts), model_config=sizes, task_config=text,
            **{**QUICK, "max_steps": 1, "accumulate": parts},
        )  # fmt: skip
        line = json.loads((tmp_path / str(parts) / "metrics.jsonl").read_text().splitlines()[0])
        found[parts] = line["train"]["auxiliary"]
        model = done.model()
        assert bool(model.layers[0].attention.branch.routing.centroids.initialised)
    assert found[1] == pytest.approx(found[2], rel=1e-3) and found[1] > 0


def test_a_model_without_attention_is_refused(text, tmp_path):
    with pytest.raises(ConfigError, match="no causal attention"):
        train(
            "routing_transformer", "language-modelling", tmp_path / "run", method="spt", task_config=text,
            model_config={"dim": 16, "depth": 1, "max_length": 16, "window": 4}, **QUICK,
        )  # fmt: skip
