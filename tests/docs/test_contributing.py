"""The page says that a paper is added in one file; this follows it to the letter."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

import neuromix
from neuromix.core import registry
from neuromix.core.checkpoint import build_model
from neuromix.training.api import train
from tests.contracts import test_models as contracts
from tests.docs.pages import ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
_EXAMPLE = re.compile(
    r"<!-- example: \S+/(?P<name>\w+)\.py -->\n```python\n(?P<text>.*?)^```", re.DOTALL | re.MULTILINE
)
# What the contracts ask of a model that is given nothing but itself.
CONTRACTS: list[Callable[..., None]] = [
    contract
    for name, contract in vars(contracts).items()
    if name.startswith("test_")
    and set(inspect.signature(contract).parameters) <= {"entry", "model", "tmp_path"}
]


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The example file in a package of somebody else, imported; the registry forgets it afterwards."""
    match = _EXAMPLE.search(PAGE)
    assert match is not None
    package = tmp_path / "somebody_else"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / f"{match['name']}.py").write_text(match["text"], encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    registry.entries("model")
    yield importlib.import_module(f"somebody_else.{match['name']}")
    for name in [name for name in sys.modules if name.startswith("somebody_else")]:
        del sys.modules[name]
    for known in registry._entries.values():
        for name in [name for name, entry in known.items() if entry.origin.startswith("somebody_else")]:
            del known[name]


def test_example_is_short() -> None:
    match = _EXAMPLE.search(PAGE)
    assert match is not None
    assert sum(bool(line.strip()) for line in match["text"].splitlines()) < 60


def test_it_is_found_by_name(added: ModuleType) -> None:
    assert "convmixer_768_32" in neuromix.list_models(family="convolutional")
    model = neuromix.create_model("convmixer_768_32", depth=1, dim=16)
    assert isinstance(model, added.ConvMixer)
    assert model(torch.randn(2, 3, 28, 28)).shape == (2, 1000)


def test_it_has_the_published_size(added: ModuleType) -> None:
    entry, config = registry.find("model", "convmixer_768_32")
    with torch.device("meta"):
        assert entry.build(config).num_parameters() == entry.published["convmixer_768_32"]["parameters"]


def test_wrong_values_are_refused(added: ModuleType) -> None:
    with pytest.raises(neuromix.NeuromixError, match="depth must be positive"):
        neuromix.create_model("convmixer_768_32", depth=-1)
    with pytest.raises(neuromix.NeuromixError, match="multiples of 2"):
        neuromix.create_model("convmixer_768_32", depth=1, dim=4, patch=2)(torch.randn(1, 3, 7, 7))


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.__name__)
def test_it_keeps_the_contracts(added: ModuleType, contract: Callable[..., None], tmp_path: Path) -> None:
    entry, _ = registry.find("model", "convmixer")
    torch.manual_seed(0)
    given = {
        "entry": entry,
        "model": build_model("convmixer", entry.config.from_dict(entry.tiny)),
        "tmp_path": tmp_path,
    }
    contract(**{name: given[name] for name in inspect.signature(contract).parameters})


def test_it_trains(added: ModuleType, tmp_path: Path) -> None:
    size = {"dim": 8, "depth": 1, "kernel": 3, "patch": 2}
    result = train("convmixer_768_32", "digits", tmp_path / "run", model_config=size, epochs=1, max_steps=1)
    assert 0 <= result.test["accuracy"] <= 1
    assert result.model().config.num_classes == 10
