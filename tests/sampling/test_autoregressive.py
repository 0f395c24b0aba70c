"""Generation: greedy equals the arg max of whole passes; rows of a batch are what each would be alone."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import neuromix
from neuromix.core.errors import ConfigError, ShapeError
from neuromix.sampling import generate, left_padded
from neuromix.sampling.autoregressive import choose

PROMPTS = [[1, 2, 3, 4, 5, 6], [7], [8, 9, 10]]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    attention = ["attention", {"heads": 2, "rotary": 8}]
    net = neuromix.create_model(
        "transformer_nano", vocab_size=13, vocab_multiple=8, dim=16, layers=2, attention=attention
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(4)  # so that what comes before matters
    return net.double()


def ids_of(*rows):
    return torch.tensor(rows)


def test_greedy_is_the_likeliest_token_of_whole_passes(model):
    found = generate(model, ids_of([1, 2, 3]), max_tokens=8, temperature=0)
    sequence, logs = [1, 2, 3], []
    with torch.no_grad():
        for _ in range(8):
            log_V = model(ids_of(sequence))[0, -1, :13].log_softmax(-1)
            logs.append(log_V.max())
            sequence.append(int(log_V.argmax()))
    assert found.ids_BN.tolist() == [sequence[3:]] and found.lengths_B.tolist() == [8]
    torch.testing.assert_close(
        found.log_probabilities_BN[0].double(), torch.stack(logs), atol=1e-5, rtol=1e-5
    )


def test_nothing_is_computed_twice(model):
    lengths = []
    handle = model.embedding.register_forward_hook(lambda _, args, __: lengths.append(args[0].shape[1]))
    generate(model, ids_of([1, 2, 3]), max_tokens=5)
    handle.remove()
    assert lengths == [3, 1, 1, 1, 1]


@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": 1.5, "top_k": 9, "top_p": 0.95}])
def test_padded_prompts_give_what_each_gives_alone(model, options):
    def chance():
        return [torch.Generator().manual_seed(seed) for seed in range(3)]

    ids_BL, mask_BL = left_padded(PROMPTS)
    together = generate(model, ids_BL, mask_BL=mask_BL, max_tokens=7, generator=chance(), **options)
    for row, prompt in enumerate(PROMPTS):
        alone = generate(model, ids_of(prompt), max_tokens=7, generator=[chance()[row]], **options)
        assert together.ids_BN[row].tolist() == alone.ids_BN[0].tolist()
        torch.testing.assert_close(together.log_probabilities_BN[row], alone.log_probabilities_BN[0])


def test_the_same_generator_gives_the_same_text(model):
    one, same, other = (
        generate(model, ids_of([1, 2]), max_tokens=20, generator=torch.Generator().manual_seed(seed)).ids_BN
        for seed in (3, 3, 4)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert int(one.max()) < 13  # the rows that the vocabulary is rounded up by are never chosen


def test_a_row_ends_at_a_stop_token(model):
    greedy = generate(model, ids_of([1, 2, 3], [3, 2, 1]), max_tokens=12, temperature=0)
    stop = int(greedy.ids_BN[0, 3])
    told = []
    found = generate(
        model, ids_of([1, 2, 3], [3, 2, 1]), max_tokens=12, temperature=0, stop=[stop], on_token=told.append
    )
    for row, length in enumerate(found.lengths_B.tolist()):
        whole = greedy.ids_BN[row].tolist()
        expected = whole.index(stop) + 1 if stop in whole else 12
        assert length == expected
        assert found.ids_BN[row, :length].tolist() == whole[:length]
        assert not found.log_probabilities_BN[row, length:].any()
        assert set(found.ids_BN[row, length:].tolist()) <= {stop}
    assert found.ids_BN.shape[1] == max(found.lengths_B) and torch.equal(torch.stack(told, 1), found.ids_BN)


def test_the_model_stays_as_it_was(model):
    model.train()
    generate(model, ids_of([1]), max_tokens=2)
    assert model.training
    model.eval()


@given(
    size=st.integers(1, 12),
    u=st.floats(0, 1, exclude_max=True),
    temperature=st.floats(0.05, 5),
    top_k=st.none() | st.integers(1, 15),
    top_p=st.none() | st.floats(0.01, 1),
    seed=st.integers(0, 999),
)
def test_only_kept_tokens_are_chosen(size, u, temperature, top_k, top_p, seed):
    logits_V = torch.randn(size, generator=torch.Generator().manual_seed(seed)).double() * 3
    token = int(choose(logits_V[None], torch.tensor([u], dtype=torch.float64), temperature, top_k, top_p))
    probabilities = (logits_V / temperature).softmax(0)
    larger = probabilities[probabilities > probabilities[token]]
    assert top_k is None or len(larger) < top_k
    assert top_p is None or float(larger.sum()) < top_p + 1e-9


def test_tokens_come_as_often_as_they_are_likely():
    logits_BV = torch.tensor([0.5, 0.2, 0.2, 0.1]).log().expand(1000, 4)
    u_B = (torch.arange(1000) + 0.5) / 1000

    def shares(**options):
        return (choose(logits_BV, u_B, **options).bincount(minlength=4) / 1000).tolist()

    assert shares() == pytest.approx([0.5, 0.2, 0.2, 0.1], abs=2e-3)
    assert shares(top_k=2) == pytest.approx([5 / 7, 2 / 7, 0, 0], abs=2e-3)
    assert shares(top_p=0.71) == pytest.approx([5 / 9, 2 / 9, 2 / 9, 0], abs=2e-3)
    assert shares(top_p=0.5) == [1, 0, 0, 0]
    squares = [0.25 / 0.34, 0.04 / 0.34, 0.04 / 0.34, 0.01 / 0.34]
    assert shares(temperature=0.5) == pytest.approx(squares, abs=2e-3)
    assert shares(temperature=0) == [1, 0, 0, 0]


def test_left_padding():
    ids_BL, mask_BL = left_padded([[5, 6, 7], [8]])
    assert ids_BL.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert mask_BL.tolist() == [[True, True, True], [False, False, True]]
    for wrong in ([], [[1], []]):
        with pytest.raises(ShapeError, match="every prompt must have a token"):
            left_padded(wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 0}, "max_tokens is 1 or more"),
        ({"temperature": -1}, "temperature is 0 or more"),
        ({"temperature": math.nan}, "temperature is 0 or more"),
        ({"top_k": 0}, "top_k is 1 or more"),
        ({"top_p": 0.0}, "top_p is above 0"),
        ({"top_p": 1.5}, "top_p is above 0"),
        ({"generator": []}, "1 prompts need a generator each"),
    ],
)
def test_values_out_of_range_are_refused(model, options, message):
    with pytest.raises(ConfigError, match=message):
        generate(model, ids_of([1]), **options)


@pytest.mark.parametrize(
    ("prompt", "mask", "message"),
    [
        (torch.zeros(1, 0, dtype=torch.int64), None, "at least one token"),
        (torch.zeros(1, 2), None, "int64"),
        (torch.tensor([[1, 13]]), None, r"in \[0, 13\)"),
        (torch.tensor([[1, 2]]), torch.tensor([[1, 1]]), "a mask is bool"),
        (torch.tensor([[1, 2]]), torch.tensor([[True, False]]), "padded on the left"),
        (torch.tensor([[1, 2, 3]]), torch.tensor([[True, False, True]]), "padded on the left"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(model, prompt, mask, message):
    with pytest.raises(ShapeError, match=message):
        generate(model, prompt, mask_BL=mask, max_tokens=2)


def test_a_model_of_images_is_refused():
    net = neuromix.create_model("meta_spikeformer_nano")
    with pytest.raises(ConfigError, match="along spike time"):
        generate(net, ids_of([1]))
