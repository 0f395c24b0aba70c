"""Contestants run in processes of their own, in turn; one whose library is missing is left out and named."""

from __future__ import annotations

import pytest

from neuromix.bench.contest import Contestant, contest
from neuromix.bench.result import ratios
from neuromix.cli import main
from neuromix.core.errors import RunError

LIF = "neuromix.bench.lif:prepare_vision"
SMALL = {"steps": 2, "neurons": 64}


def test_a_contest_measures_each_and_names_who_is_missing():
    turns = []
    contestants = [
        Contestant("neuromix", LIF, {**SMALL, "peer": "neuromix"}),
        Contestant("copy", "neuromix.bench.lif:prepare_copy", SMALL),
        Contestant("absent", "a_library_that_is_not_there:prepare"),
    ]
    outcome = contest(contestants, rounds=2, threads=1, on_turn=turns.append)
    assert {name: len(m.seconds) for name, m in outcome.measurements.items()} == {"neuromix": 2, "copy": 2}
    assert outcome.missing == {"absent": "a_library_that_is_not_there is not installed"}
    assert turns[-4:] == ["neuromix", "copy", "neuromix", "copy"]
    assert ratios(outcome, "neuromix").keys() == {"neuromix_over_copy"}


def test_a_contestant_that_fails_is_told():
    broken = Contestant("broken", LIF, {**SMALL, "peer": "neuromix", "dtype": "no_such_dtype"})
    with pytest.raises(RunError, match=r"contestant broken failed: .*no_such_dtype"):
        contest([broken], rounds=1, threads=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "unknown benchmark 'nothing'"),
        (["lif", "--rounds", "0"], "must be at least 1"),
        (["lif", "--set-up", "visoin"], "did you mean vision"),
        (["train-step", "--neurons", "512"], "are for lif"),
    ],
)
def test_wrong_arguments(arguments, message, capsys):
    assert main(["bench", *arguments]) == 2
    assert message in capsys.readouterr().err
