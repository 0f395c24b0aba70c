"""What papers print, and what is counted here of the same models at the same input."""

from __future__ import annotations

import functools
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import neuromix
from neuromix.core import registry
from neuromix.core.errors import ForwardError, UnsupportedError
from neuromix.measure import dense_macs, profile
from neuromix.measure.published import PublishedFigure, published_figures
from tests.catalogue import own_entries

PUBLISHED = {
    name: figures for entry in own_entries("model").values() for name, figures in entry.published.items()
}
WITH_MACS = sorted(name for name, figures in PUBLISHED.items() if "gmacs" in figures)
TOLERANCE = 0.02  # figures are printed with two digits

of = functools.cache(published_figures)  # takes a second for a large net


@pytest.mark.parametrize("name", WITH_MACS)
def test_multiply_adds_of_the_papers(name):
    figures = of(name)
    for key, figure in figures.items():
        if key.startswith("gmacs"):
            assert figure.counted is not None
            assert abs(figure.difference) <= TOLERANCE or figure.note, (key, figure)


@pytest.mark.parametrize("name", [name for name in WITH_MACS if "gmacs_without_norms" in PUBLISHED[name]])
def test_multiply_adds_counted_on_the_authors_code(name):
    """These have all their digits."""
    assert of(name)["gmacs_without_norms"].counted == pytest.approx(
        PUBLISHED[name]["gmacs_without_norms"], abs=6e-5
    )


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_parameters_of_the_papers(name):
    figures = of(name)
    assert figures["parameters"].difference == 0
    for key in ("parameters_m", "frozen_parameters"):
        if key in figures:
            assert abs(figures[key].difference) < 0.005
    json.dumps({key: figure.to_dict() for key, figure in figures.items()})


def test_every_paper_with_multiply_adds_says_of_what_input():
    assert len(WITH_MACS) > 15
    assert all(len(PUBLISHED[name]["gmacs_at"]["input"]) == 3 for name in WITH_MACS)


def test_energy_is_compared_only_where_it_was_counted_as_in_the_paper():
    name = "meta_spikeformer_15m"
    net = neuromix.create_model(name, time_steps=1)
    image_BCHW = torch.rand(1, 3, 32, 32)  # small: what is told of its shape counts here
    at = {"shape": (3, 224, 224), "time_steps": 1}
    seen = profile(net, image_BCHW, "paper")
    figures = published_figures(name, seen, **at)
    assert figures["mj_t1"].counted == seen.energy["45nm"]
    assert figures["mj_t4"].counted is None and "trained weights" in figures["mj_t4"].note
    exact = published_figures(name, profile(net, image_BCHW, "exact"), **at)
    assert exact["mj_t1"].counted is None
    assert published_figures(name, seen, (3, 32, 32), 1)["mj_t1"].counted is None
    assert exact["top1_t4"] == PublishedFigure(74.1, None, "a score: see neuromix eval")


def test_a_model_without_a_paper_has_none():
    assert published_figures("poolformer_nano") == {}
    assert published_figures("no such model") == {}


@pytest.mark.parametrize("name", sorted(own_entries("model")))
def test_dense_macs_are_those_of_the_profile(name):
    entry = registry.entries("model")[name]
    config = entry.config.from_dict(entry.tiny)
    net = entry.build(config).eval()
    batch = net.example(2, torch.Generator().manual_seed(0))
    expected = 2 * profile(net, batch).macs_dense
    assert dense_macs(net, batch) == expected
    with torch.device("meta"):
        without_values = entry.build(config).eval()
    try:
        found = dense_macs(without_values, batch.to("meta"))
    except ForwardError as error:
        assert "meta tensor" in str(error)
        pytest.skip("its shapes depend on values")
    assert found == expected


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3))
def test_dense_macs_of_any_number_of_samples(one, more):
    net = torch.nn.Conv2d(2, 3, 3)
    macs = {size: dense_macs(net, torch.rand(size, 2, 5, 5)) for size in (one, more, one + more)}
    assert macs[one] + macs[more] == macs[one + more]


def test_dense_macs_refuse_what_they_do_not_know():
    with pytest.raises(UnsupportedError, match=r"aten\._trilinear"):
        dense_macs(torch.nn.Bilinear(3, 4, 5), [torch.rand(2, 3), torch.rand(2, 4)])
