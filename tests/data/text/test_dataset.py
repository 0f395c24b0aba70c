"""Windows over texts: all of a held-out part once, samples as functions of seed, epoch and index."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuromix.core.config import Spec
from neuromix.core.errors import DataError, RunError
from neuromix.data.dataset import Loader, sample_generator
from neuromix.data.text import NOT_SCORED, ShiftedWindows, TextWindows, open_text
from neuromix.data.text import tokens as tokens_module
from tests.data.text.subwords import write_bpe


def numbers(tmp_path, count, name="a.txt"):
    file = tmp_path / name
    file.write_bytes(bytes(1 + i % 251 for i in range(count)))
    return open_text(file, Spec("bytes"), 0, 0).tokens("train")


def scored(windows):
    """What the windows score: (token before, label) in order."""
    pairs = []
    for index in range(len(windows)):
        sample = windows.sample(index, torch.Generator())
        ids, labels = sample["ids"], sample["labels"]
        assert ids.shape == labels.shape == (windows.length,) and ids.dtype == labels.dtype == torch.int64
        pairs += [(int(a), int(b)) for a, b in zip(ids, labels, strict=True) if b != NOT_SCORED]
    return pairs


@given(count=st.integers(2, 60), length=st.integers(1, 20), data=st.data())
def test_every_token_is_scored_once_after_the_one_before_it(tmp_path_factory, count, length, data):
    text = numbers(tmp_path_factory.mktemp("text"), count)
    context = data.draw(st.integers(0, length - 1))
    windows = TextWindows(text, length, context)
    assert scored(windows) == [(i + 1, i + 2) for i in range(count - 1)]
    samples = [windows.sample(i, torch.Generator()) for i in range(len(windows))]
    assert sum(sample["bytes"] for sample in samples) == count - 1


def test_context_is_read_and_not_scored(tmp_path):
    windows = TextWindows(numbers(tmp_path, 20), 8, 3)
    second = windows.sample(1, torch.Generator())
    assert second["ids"].tolist() == [6, 7, 8, 9, 10, 11, 12, 13]
    assert second["labels"].tolist() == [NOT_SCORED] * 3 + [10, 11, 12, 13, 14]


@given(
    count=st.integers(2, 200), length=st.integers(1, 30), index=st.integers(0, 100), epoch=st.integers(0, 3)
)
def test_training_windows_are_shifted_and_whole(tmp_path_factory, count, length, index, epoch):
    text = numbers(tmp_path_factory.mktemp("text"), count)
    if count <= length:
        with pytest.raises(DataError, match=f"a window of {length} needs {length + 1}"):
            ShiftedWindows(text, length)
        return
    windows = ShiftedWindows(text, length)
    index %= len(windows)
    one, other = (windows.sample(index, sample_generator(0, epoch, index)) for _ in range(2))
    assert torch.equal(one["ids"], other["ids"])
    start = int(one["ids"][0]) - 1
    assert one["ids"].tolist() == list(range(start + 1, start + 1 + length))
    assert one["labels"].tolist() == list(range(start + 2, start + 2 + length))
    assert index * length <= start < (index + 1) * length or start == count - 1 - length


def test_another_epoch_has_other_windows(tmp_path):
    loader = Loader(ShiftedWindows(numbers(tmp_path, 250), 16), 8)
    first, second = (next(loader.batches(epoch))["ids"] for epoch in (0, 1))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("tokeniser", ["bytes", "characters"])
def test_documents_are_segments(tmp_path, tokeniser):
    for name, text in (("a", "aaa"), ("b", "bb"), ("c", "cccc")):
        (tmp_path / name).write_text(text)
    text = open_text(tmp_path, Spec(tokeniser), 0, 0)
    windows = TextWindows(text.tokens("train"), 5)
    one, two = (windows.sample(i, torch.Generator()) for i in range(2))
    assert text.tokeniser.decode(one["ids"].tolist()) == "aaabb"
    assert one["segments"].tolist() == [0, 0, 0, 1, 1] and two["segments"].tolist() == [2, 2, 2, 2, 2]
    assert [label == NOT_SCORED for label in one["labels"].tolist()] == [False, False, True, False, True]
    assert one["bytes"] == 3 and two["bytes"] == 3


def test_one_document_has_no_segments(tmp_path):
    assert "segments" not in TextWindows(numbers(tmp_path, 9), 4).sample(0, torch.Generator())


def test_a_text_of_one_token_has_nothing_to_predict(tmp_path):
    with pytest.raises(DataError, match="nothing to predict"):
        TextWindows(numbers(tmp_path, 1), 4)


@pytest.mark.parametrize("tokeniser", ["characters", "subwords"])
def test_tokens_are_cached_and_found_again(tmp_path, cache, tokeniser, monkeypatch):
    spec = Spec("characters") if tokeniser == "characters" else Spec(str(write_bpe(tmp_path)))
    file = tmp_path / "a.txt"
    file.write_text("the cat sat\non the mat, ✓\n" * 40)
    text = open_text(file, spec, 0.1, 0.1)
    first = text.tokens("train").read(0, 100)[0]
    assert (
        text.tokeniser.decode(first.tolist())
        == file.read_text()[: len(text.tokeniser.decode(first.tolist()))]
    )
    monkeypatch.setattr(tokens_module, "texts", None)  # it is not read again
    again = open_text(file, text.tokeniser.spec, 0.1, 0.1).tokens("train")
    assert np.array_equal(again.read(0, 100)[0], first) and again.size == text.size("train")
    for table in cache.rglob("*.json"):
        table.unlink()
    with pytest.raises(TypeError):
        open_text(file, text.tokeniser.spec, 0.1, 0.1).tokens("train")


def test_blocks_do_not_matter_to_subwords(tmp_path, monkeypatch):
    spec, file = Spec(str(write_bpe(tmp_path))), tmp_path / "a.txt"
    file.write_text("the cat sat on the mat, ✓\n" * 50)
    whole = open_text(file, spec, 0, 0).tokens("train")
    monkeypatch.setattr("neuromix.data.text.corpus.BLOCK", 64)
    file.touch()
    blocks = open_text(file, spec, 0, 0).tokens("train")
    assert whole.files != blocks.files and len(whole) == len(blocks)
    assert np.array_equal(whole.read(0, len(whole))[0], blocks.read(0, len(blocks))[0])


def test_a_text_that_fails_leaves_no_cache(tmp_path, cache):
    before = set(cache.rglob("*"))
    (tmp_path / "a.txt").write_bytes(b"good text " * 10 + b"\xff")
    with pytest.raises(DataError, match="byte 100 is 0xff"):
        open_text(tmp_path / "a.txt", Spec("characters", {"alphabet": "gx"}), 0, 0).tokens("train")
    assert {path for path in cache.rglob("*") if path.is_file()} <= before


def test_a_cache_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    (tmp_path / "no-folder").write_text("")
    (tmp_path / "a.txt").write_text("some text")
    monkeypatch.setenv("NEUROMIX_CACHE", str(tmp_path / "no-folder"))
    with pytest.raises(RunError, match="cannot write"):
        open_text(tmp_path / "a.txt", Spec("characters"), 0, 0).tokens("train")


def test_a_file_that_has_shrunk_is_told(tmp_path):
    text = numbers(tmp_path, 50)
    (tmp_path / "a.txt").write_bytes(b"short")
    with pytest.raises(DataError, match="has become shorter"):
        text.read(3, 20)


def test_unknown_characters_are_counted(tmp_path):
    (tmp_path / "a.txt").write_text("abab" * 10 + "éabé")
    text = open_text(tmp_path / "a.txt", Spec("characters"), 0, 6 / 46)
    assert text.tokens("test").unknown == 2 and text.tokens("train").unknown == 0
