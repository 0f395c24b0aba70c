"""The page of `neuromix compare`, from its record as plain JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from neuromix.report import comparison_words as words
from neuromix.report.blocks import (
    Block,
    Choice,
    Code,
    Facts,
    Fold,
    Legend,
    Mark,
    Page,
    Section,
    Tiles,
)
from neuromix.report.comparison_charts import cost_chart, has_curve, learning_chart
from neuromix.report.comparison_tables import differences_table, models_table
from neuromix.report.contestants import (
    LATENCY,
    MEMORY,
    PARAMETERS,
    Contestant,
    Record,
    contestants,
    energies_of,
    score_of,
)
from neuromix.report.marks import FRONT, mark
from neuromix.report.one_model import one_model


def comparison_page(record: Mapping[str, Any]) -> Page:
    """Lays out the report of a comparison.

    Args:
        record: what `comparison.json` holds.
    """
    models = contestants(record)
    measured = [one for one in models if one.runs]
    who = models[0].name if len(models) == 1 else f"{len(models)} models"
    return Page(
        title=f"{who} on {record['task']}",
        kicker="neuromix compare",
        lead=words.lead(record),
        sections=[
            Section(
                "Side by side", [Tiles(words.tiles(record)), *words.notices(record), models_table(record)]
            ),
            *_costs(measured, record),
            *_differences(record),
            *_learning(measured, record),
            *_inside(measured, record),
            _origin(models, record),
        ],
        footer="Every figure on this page comes from the comparison.json beside it.",
    )


def _costs(models: Sequence[Contestant], record: Record) -> list[Section]:
    if len(models) < 2:
        return []
    score = score_of(record)
    quantities = [*energies_of(record), LATENCY, MEMORY, PARAMETERS]
    charts = {quantity.heading: cost_chart(models, quantity, record) for quantity in quantities}
    options = {name: [chart] for name, chart in charts.items() if chart is not None}
    if not options:
        return []
    return [
        Section(
            f"What {score.title} costs",
            [Legend("Shown", [*_marks(models), FRONT]), Choice("Cost", options)],
            intro="The further up and to the left, the better."
            if record["higher_is_better"]
            else "The further down and to the left, the better.",
        )
    ]


def _differences(record: Record) -> list[Section]:
    if not record["differences"]:
        return []
    return [
        Section(
            "Which differences are real",
            [differences_table(record)],
            intro="Every pair of models, on the same seeds and the same test samples.",
        )
    ]


def _learning(models: Sequence[Contestant], record: Record) -> list[Section]:
    learned = [one for one in models if has_curve(one)]
    if not learned:
        return []
    several = any(len(one.runs) > 1 for one in learned)
    return [
        Section(
            "How they learned",
            [
                Legend("Shown", _marks(learned)),
                learning_chart(learned, "score", record),
                learning_chart(learned, "loss", record),
            ],
            intro="Lines are means over seeds, up to the last epoch that every run of a model reached; bands go from "
            "the lowest seed to the highest."
            if several
            else "",
        )
    ]


def _inside(models: Sequence[Contestant], record: Record) -> list[Section]:
    options = {one.name: one_model(one, record) for one in models}
    return [Section("One model at a time", [Choice("Model", options)])] if options else []


def _origin(models: Sequence[Contestant], record: Record) -> Section:
    runs = [(one.name, run) for one in models for run in one.record["runs"]]
    commands = [f"# {' '.join(name.split())}, seed {run['seed']}\n{run['command']}" for name, run in runs]
    facts = {
        "Task": str(record["task"]),
        "Data": str(record.get("data") or "that of the task"),
        "Budget": f"{words.budget(record)} a run",
        "Seeds": ", ".join(map(str, record["seeds"])),
    }
    energies = {name: _priced(model) for name, model in (record.get("energy_models") or {}).items()}
    blocks: list[Block] = [
        *([Code(record["command"])] if record.get("command") else []),
        Fold("The training command of each run", [Code("\n\n".join(commands))]),
        Facts(facts, title="Comparison"),
        Facts({name: str(value) for name, value in record["environment"].items()}, title="Environment"),
    ]
    if energies:
        blocks.append(Facts(energies, title="Energy models", span="full"))
    return Section("How this page was made", blocks)


def _priced(energy_model: Record) -> str:
    """What an energy model prices, how, and where that is from."""
    prices = ", ".join(f"{name} {price:g}" for name, price in (energy_model.get("picojoules") or {}).items())
    told = (energy_model.get("notes"), f"pJ: {prices}." if prices else "", energy_model.get("source"))
    return " ".join(str(text) for text in told if text)


def _marks(models: Sequence[Contestant]) -> list[Mark]:
    return [mark(one.name, one.number) for one in models]
