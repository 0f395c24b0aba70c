"""The tables of a comparison: what every model scores and costs, and how sure the differences are."""

from __future__ import annotations

import json
from collections.abc import Sequence

from neuromix.report import comparison_words as words
from neuromix.report import numbers
from neuromix.report.blocks import Table, Value
from neuromix.report.contestants import (
    LATENCY,
    Contestant,
    Quantity,
    Record,
    contestants,
    is_share,
    quantities_of,
    score_of,
)

_MOST_PAIRS = 15  # that are shown without being asked for


def models_table(record: Record) -> Table:
    """A row a model, the best first."""
    models = sorted(contestants(record), key=lambda one: (one.rank is None, one.rank or 0))
    quantities = quantities_of(record)
    return Table(
        columns=["Model", "Rank", *(quantity.heading for quantity in quantities), "Family"],
        rows=[
            [
                one.name,
                numbers.NOTHING if one.rank is None else str(one.rank),
                *(_cell(one, quantity, record) for quantity in quantities),
                str(one.record.get("family") or numbers.NOTHING),
            ]
            for one in models
        ],
        values=[
            [
                one.name,
                one.rank,
                *(one.figure(quantity).mean for quantity in quantities),
                one.record.get("family"),
            ]
            for one in models
        ],
        caption="All models",
        notes=_notes(record),
        sortable=True,
        export="comparison.csv",
        sheet=_sheet(models, quantities),
    )


def differences_table(record: Record) -> Table:
    """A row a pair, which reads as a sentence."""
    pairs = [words.in_favour(pair, record) for pair in record["differences"]]
    factor, unit = (100, " (points)") if is_share(record["score"]) else (1, "")
    keys = ("difference", "low", "high", "p_seeds", "p_samples")
    return Table(
        columns=[
            "Model",
            "Verdict",
            "Against",
            f"Difference{unit}",
            "95 % interval",
            "p, seeds",
            "p, samples",
        ],
        rows=[
            [
                pair["a"],
                words.verdict(pair),
                pair["b"],
                _signed(pair["difference"], factor),
                _interval(pair, factor),
                _p(pair.get("p_seeds")),
                _p(pair.get("p_samples")),
            ]
            for pair in pairs
        ],
        values=[
            [pair["a"], words.verdict(pair), pair["b"], *(pair.get(key) for key in keys if key != "high")]
            for pair in pairs
        ],
        caption=f"Differences in {score_of(record).title}, {len(pairs)} {'pair' if len(pairs) == 1 else 'pairs'}",
        notes=[
            "The model that is better on average stands first. Its difference to the other is the mean over the seeds "
            "that both were trained from; the interval and the first p come from the seeds, the second p from the test "
            "samples. It is called better where both find the difference, after correction for the number of pairs."
            + (" A point is one percent of the test samples." if factor != 1 else ""),
        ],
        folded=len(pairs) > _MOST_PAIRS,
        sortable=True,
        export="differences.csv",
        sheet=[
            ["model", "against", *keys, "significant"],
            *(
                [pair["a"], pair["b"], *(pair.get(key) for key in keys), str(pair["significant"])]
                for pair in pairs
            ),
        ],
    )


def _cell(model: Contestant, quantity: Quantity, record: Record) -> str:
    figure = model.figure(quantity)
    if quantity.key == record["score"]:
        return words.with_spread(figure, quantity) + (f" ({figure.n})" if figure.n else "")
    text = quantity.show(figure.mean)
    ends = model.range(quantity) if quantity is LATENCY else None
    if figure.mean is None or ends is None:
        return text
    _, size = numbers.unit_of([figure.mean], quantity.units)
    low, high = (numbers.significant(end / size) for end in ends)
    return f"{text} ({low}–{high})"


def _notes(record: Record) -> list[str]:
    timed = [run["latency"] for one in contestants(record) for run in one.runs if run.get("latency")]
    notes = [
        f"The {score_of(record).title} is that on test data: mean ± standard deviation over seeds, and their number. "
        "Models between which no difference is certain share a rank; a model is ranked behind all that are surely "
        "better.",
        "Operations, energy, latency and memory are those of an inference, as means over seeds. Energy is what the "
        "energy model at the head of the column prices; the models are told at the end of this page.",
    ]
    if timed:
        one = timed[0]
        notes.append(
            f"A latency is the median of {one['runs']} runs with a batch of {one['batch_size']} on "
            f"{one['threads']} {'thread' if one['threads'] == 1 else 'threads'}, on the machine below; in brackets, "
            "where most of them lie."
        )
    return notes


def _sheet(models: Sequence[Contestant], quantities: Sequence[Quantity]) -> list[list[Value]]:
    """All that is known of the models: means, deviations and numbers of seeds, each a column."""
    head: list[Value] = ["model", "family", "config", "rank", "over budget"]
    for quantity in quantities:
        unit = f" ({quantity.unit})" if quantity.unit else ""
        head += [f"{quantity.key} mean{unit}", f"{quantity.key} std{unit}", f"{quantity.key} n"]
    rows: list[list[Value]] = []
    for one in models:
        config = json.dumps(one.record.get("config") or {})
        row: list[Value] = [
            one.name,
            one.record.get("family"),
            config,
            one.rank,
            str(one.record.get("over_budget")),
        ]
        for quantity in quantities:
            row += [*one.figure(quantity)]
        rows.append(row)
    return [head, *rows]


def _signed(difference: float | None, factor: float) -> str:
    return numbers.NOTHING if numbers.is_unknown(difference) else _written(difference or 0.0, factor)


def _interval(pair: Record, factor: float) -> str:
    low, high = pair.get("low"), pair.get("high")
    if low is None or high is None:
        return numbers.NOTHING
    return f"{_written(low, factor)} to {_written(high, factor)}"


def _written(difference: float, factor: float) -> str:
    text = f"{factor * difference:+.2f}" if factor != 1 else f"{difference:+.3g}"
    return text.replace("-", "−")


def _p(p: float | None) -> str:
    if p is None:
        return numbers.NOTHING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
