"""What a command line says of budget and seeds."""

from __future__ import annotations

import pytest

from neuromix.compare.budget import Budget, parse_budget, parse_seeds
from neuromix.core.errors import ConfigError, NeuromixError


def test_a_budget():
    assert parse_budget([]) == Budget()
    assert parse_budget(["epochs=20"]) == Budget(epochs=20)
    assert parse_budget(["minutes=2, joules-per-inference=2e-6"]) == Budget(
        minutes=2.0, joules_per_inference=2e-6
    )
    assert parse_budget(["epochs=3", "joules_per_inference=1"]).given() == {
        "epochs": 3,
        "joules_per_inference": 1.0,
    }


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["epochs"], "expected key=value, got 'epochs'"),
        (["epochs=3,"], "expected key=value, got ''"),
        (["epoch=3"], "unknown budget 'epoch'; did you mean epochs?"),
        (["epochs=0"], "epochs must be positive, got 0"),
        (["epochs=2.5"], "Budget.epochs must be"),
        (["minutes=-1"], "minutes must be positive, got -1.0"),
        (["minutes=soon"], "Budget.minutes must be"),
        (["minutes=NaN"], "Budget.minutes must be"),
        (["epochs=3", "epochs=4"], "epochs is given twice"),
        (["epochs=3,minutes=1"], "give one of them"),
        (["joules-per-inference=0"], "joules_per_inference must be positive"),
    ],
    ids=str,
)
def test_a_wrong_budget(texts, message):
    with pytest.raises(NeuromixError, match=message):
        parse_budget(texts)


def test_seeds():
    assert parse_seeds("3") == (0, 1, 2)
    assert parse_seeds("0,5, 7") == (0, 5, 7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0", "at least one seed"),
        ("-1", "got '-1'"),
        ("many", "got 'many'"),
        ("1,", "got '1,'"),
        ("", "got ''"),
        ("1.5", "got '1.5'"),
        ("3,5,3", "a seed comes twice in 3,5,3"),
    ],
)
def test_wrong_seeds(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_seeds(text)
