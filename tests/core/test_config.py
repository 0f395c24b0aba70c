from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuromix.core.config import Config, Spec, parse_assignments
from neuromix.core.errors import ConfigError, UnknownNameError


@dataclass(frozen=True)
class Inner(Config):
    width: int = 3


@dataclass(frozen=True)
class Outer(Config):
    depths: tuple[int, ...] = (2, 2)
    pair: tuple[int, float] = (1, 0.5)
    rate: float | None = None
    kind: Literal["a", "b"] = "a"
    neuron: Spec = Spec("lif", {"tau": 2.0})
    inner: Inner = Inner()
    flag: bool = False

    RELEASED: ClassVar = {"flag": True, "rate": 0.25}

    def validate(self) -> None:
        self.require_positive("depths")


@dataclass(frozen=True)
class Needy(Config):
    size: int
    name: str


def test_json_values_become_the_declared_types():
    config = Outer.from_dict({"depths": [1, 2, 3], "rate": 1, "neuron": ["if", {}], "inner": {"width": 4}})
    assert config.depths == (1, 2, 3)
    assert config.rate == 1.0 and isinstance(config.rate, float)
    assert config.neuron == Spec("if", {}) and config.inner == Inner(4)


def test_dotted_keys_reach_into_specs_and_configs():
    config = Outer.from_dict({"neuron.tau": 4.0, "inner.width": 7})
    assert config.neuron.options == {"tau": 4.0} and config.inner.width == 7
    assert Outer().replace(**{"neuron.v_threshold": 0.5}).neuron.options == {"tau": 2.0, "v_threshold": 0.5}


def test_released_behaviour_is_a_preset_that_explicit_values_win_over():
    assert Outer.released({}).flag and Outer.released({}).rate == 0.25
    assert Outer.released({"flag": False}).flag is False


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"depths": [0]}, "depths must be positive"),
        ({"depths": ["one"]}, r"depths\[0\] must be int"),
        ({"depths": 3}, "depths must be"),
        ({"pair": [1]}, "needs 2 values, got 1"),
        ({"kind": "c"}, "must be one of 'a', 'b'"),
        ({"flag": 1}, "flag must be bool"),
        ({"inner": {"width": 1.5}}, "width must be int"),
        ({"neuron": 3}, "neuron must be Spec"),
        ({"rate": "fast"}, "float or null"),
        ({"rate": float("nan")}, "float or null"),
        ({"depths.x": 1}, "neither a spec nor a config"),
    ],
)
def test_wrong_values_are_refused(values: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        Outer.from_dict(values)


def test_unknown_keys_name_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean depths"):
        Outer.from_dict({"depth": 1})
    with pytest.raises(UnknownNameError, match="did you mean width"):
        Outer.from_dict({"inner": {"widht": 1}})


def test_missing_values_are_named():
    with pytest.raises(ConfigError, match="needs a value for size, name"):
        Needy.from_dict({})


specs = st.builds(
    Spec, st.text(min_size=1), st.dictionaries(st.text(), st.integers() | st.booleans() | st.text())
)


@given(
    depths=st.lists(st.integers(1, 9)),
    rate=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    neuron=specs,
    width=st.integers(),
)
def test_configs_round_trip_through_json(depths, rate, neuron, width):
    config = Outer.from_dict({"depths": depths, "rate": rate, "neuron": neuron, "inner": Inner(width)})
    assert Outer.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_assignments_are_json_where_they_can_be():
    values = parse_assignments(["a=1", "b=[1,2]", "c=text", "d=null", "e=x=y"])
    assert values == {"a": 1, "b": [1, 2], "c": "text", "d": None, "e": "x=y"}
    for wrong in ("nothing", "=1"):
        with pytest.raises(ConfigError, match="expected key=value"):
            parse_assignments([wrong])
