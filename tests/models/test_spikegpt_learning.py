"""A small SpikeGPT learns more of a real text than its bigrams tell, and goes on from a prompt."""

from __future__ import annotations

import pydoc_data.topics

import numpy as np
import pytest

from neuromix.core.config import Spec
from neuromix.data.text.dataset import open_text
from neuromix.tasks.text_generation import open_text_model
from neuromix.training.api import train


@pytest.mark.slow
def test_it_beats_the_bigrams_of_the_held_out_part(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("\n".join(pydoc_data.topics.topics.values())[:400_000], encoding="utf-8")
    done = train(
        "spikegpt_nano",
        "language-modelling",
        tmp_path / "run",
        task_config={"data": str(file), "tokeniser": "characters", "length": 96},
        batch_size=16,
        lr=3e-3,
        weight_decay=0.0,
        threads=1,
        max_steps=400,
    )
    text = open_text(file, Spec("characters"))
    ids, _ = text.tokens("test").read(0, len(text.tokens("test")))
    size = text.tokeniser.vocab_size
    counts = np.bincount(ids[:-1] * size + ids[1:], minlength=size * size).reshape(size, size)
    rows = counts.sum(1, keepdims=True)
    pairs = counts > 0
    entropy = -(counts * np.log2(np.where(pairs, counts / np.maximum(rows, 1), 1))).sum() / counts.sum()
    assert done.test["bits_per_token"] < entropy
    continued = open_text_model(tmp_path / "run").generate("The ", 40)
    assert len(continued.tokens) == 40 and len(continued.text) > 0
