"""Generators of recall tasks: what each sequence is made of, and that the parts are disjoint."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuromix.core.errors import ConfigError
from neuromix.data.dataset import sample_generator
from neuromix.data.recall import (
    AssociativeRecall,
    InductionHeads,
    Phonebook,
    RecallSamples,
    SelectiveCopying,
)
from neuromix.data.recall.dataset import Sizes
from neuromix.data.text import NOT_SCORED

SEEDS = st.integers(0, 2**32 - 1)


def drawn(source, seed):
    example = source.draw(torch.Generator().manual_seed(seed))
    tokens = example.tokens.tolist()
    assert example.tokens.dtype == torch.int64 and 0 <= min(tokens) <= max(tokens) < source.vocab_size
    return tokens[: -example.answer], tokens[-example.answer :]


@given(length=st.integers(4, 40), vocab=st.integers(5, 20), reserved=st.integers(0, 2), seed=SEEDS)
def test_induction_heads(length, vocab, reserved, seed):
    ids, answer = drawn(InductionHeads(length, vocab, reserved), seed)
    special = vocab - 1
    first = ids.index(special)
    assert len(ids) == length and ids[-1] == special and ids.count(special) == 2
    assert first < length - 3 and answer == [ids[first + 1]] and min(ids) >= reserved


def test_induction_heads_as_in_h3():
    places = {drawn(InductionHeads(31, 20, 1), seed)[0].index(19) for seed in range(600)}
    assert places == set(range(28))


@given(pairs=st.integers(1, 30), half=st.integers(2, 10), missing=st.booleans(), seed=SEEDS)
def test_associative_recall(pairs, half, missing, seed):
    vocab = 2 * half + 2
    ids, (answer,) = drawn(AssociativeRecall(vocab, pairs, missing), seed)
    keys, values, (marker, asked) = ids[:-2:2], ids[1:-2:2], ids[-2:]
    assert len(ids) == 2 * pairs + 2 and marker == vocab - 1
    assert all(1 <= key <= half < value <= 2 * half for key, value in zip(keys, values, strict=True))
    book = dict(zip(keys, values, strict=True))
    assert all(book[key] == value for key, value in zip(keys, values, strict=True))
    assert answer == book.get(asked, 0) and (missing or asked in book) and 1 <= asked <= half


@given(length=st.integers(1, 80), vocab=st.integers(4, 20), data=st.integers(1, 20), seed=SEEDS)
def test_selective_copying(length, vocab, data, seed):
    if data > length:
        with pytest.raises(ConfigError, match="length must be"):
            SelectiveCopying(length, vocab, data)
        return
    ids, answer = drawn(SelectiveCopying(length, vocab, data), seed)
    assert len(ids) == length + 1 and ids[-1] == vocab - 1
    assert [token for token in ids[:-1] if token != 0] == answer and len(answer) == data
    assert all(0 < token < vocab - 1 for token in answer)


@given(
    pairs=st.integers(1, 12),
    name=st.integers(1, 3),
    number=st.integers(1, 3),
    vocab=st.integers(4, 12),
    shots=st.integers(0, 2),
    reverse=st.booleans(),
    seed=SEEDS,
)
def test_phonebook(pairs, name, number, vocab, shots, reverse, seed):
    if shots >= pairs or pairs > vocab**name:
        with pytest.raises(ConfigError):
            Phonebook(pairs, name, number, vocab, 5, shots, reverse)
        return
    source = Phonebook(pairs, name, number, vocab, 5, shots, reverse)
    ids, answer = drawn(source, seed)
    before = []
    if reverse:
        before, ids = ids[: name + 2], ids[name + 2 :]
    entry, look_up = name + number + 1, name + number + 3
    book = {tuple(row[:name]): row[name:-1] for row in chunks(ids[: pairs * entry], entry)}
    assert len(book) == pairs and all(0 not in key for key in book)
    assert all(3 <= token < 3 + vocab for key in book for token in key)
    assert all(3 + vocab <= token < source.vocab_size for value in book.values() for token in value)
    *shown, asked = chunks(ids[pairs * entry :], look_up)
    assert len(shown) == shots and all(book[tuple(row[1 : name + 1])] == row[name + 2 : -1] for row in shown)
    assert asked[0] == 1 and asked[-1] == 2 and book[tuple(asked[1:-1])] == answer
    assert len({tuple(row[1 : name + 1]) for row in [*shown, asked]}) == shots + 1
    assert before == ([1, *asked[1:-1], 0] if reverse else [])


def chunks(row, size):
    return [row[start : start + size] for start in range(0, len(row), size)]


def test_all_names_may_be_taken():
    ids, _ = drawn(Phonebook(64, 1, 1, 64, 5), 0)
    assert sorted(ids[: 3 * 64 : 3]) == list(range(3, 67))


def rows(source, split, sizes, seed=0, epoch=0):
    data = RecallSamples(source, split, sizes)
    samples = [data.sample(index, sample_generator(seed, epoch, index)) for index in range(len(data))]
    return [(*sample["ids"].tolist(), int(sample["labels"][-1])) for sample in samples]


def test_parts_are_disjoint_however_few_sequences_there_are():
    source, sizes = InductionHeads(6, 4), Sizes(samples=400, held_out=60)
    parts = [set(rows(source, split, sizes)) for split in ("train", "validation", "test")]
    assert all(parts) and not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])


def test_too_few_sequences_for_three_parts_are_refused():
    with pytest.raises(ConfigError, match="too few different ones"):
        for split in ("train", "validation", "test"):
            rows(InductionHeads(4, 3), split, Sizes(samples=1, held_out=1))


def test_held_out_parts_are_the_same_in_every_run():
    source, sizes = AssociativeRecall(), Sizes(samples=4, held_out=4)
    assert rows(source, "test", sizes, seed=0) == rows(source, "test", sizes, seed=1, epoch=3)
    assert rows(source, "test", sizes) != rows(source, "validation", sizes)
    assert rows(source, "train", sizes, epoch=0) != rows(source, "train", sizes, epoch=1)
    assert rows(source, "train", sizes, seed=1) == rows(source, "train", sizes, seed=1)
    fixed = Sizes(samples=4, held_out=4, fresh=False)
    assert rows(source, "train", fixed, epoch=0) == rows(source, "train", fixed, seed=2, epoch=1)


def test_only_the_answer_is_scored():
    source = SelectiveCopying(30, 8, 5)
    sample = RecallSamples(source, "test", Sizes()).sample(0, torch.Generator())
    ids, labels = sample["ids"], sample["labels"]
    assert len(ids) == len(labels) == 30 + 1 + 5 - 1
    assert (labels[:-5] == NOT_SCORED).all() and torch.equal(labels[-5:-1], ids[-4:])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InductionHeads(3), "length must be 4 or more"),
        (lambda: InductionHeads(8, 3, 1), "vocab must leave 2"),
        (lambda: AssociativeRecall(7), "vocab must be even"),
        (lambda: Phonebook(pairs=700), "make 676 names"),
        (lambda: Phonebook(shots=-1), "shots must be"),
        (lambda: Sizes(samples=0), "samples must be positive"),
    ],
)
def test_values_out_of_range_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
