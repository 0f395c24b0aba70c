"""The charts of a comparison: the score against what it costs, and how it was learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from neuromix.report import comparison_words as words
from neuromix.report.blocks import Chart
from neuromix.report.charts import Point, Series, lines, points
from neuromix.report.contestants import Contestant, Quantity, Record, is_share, mean, quantities_of, score_of


def cost_chart(models: Sequence[Contestant], cost: Quantity, record: Record) -> Chart | None:
    """The score of each model against what it takes, at the means over seeds; None where nothing is known of that."""
    score = score_of(record)
    known = [
        (one, x, y, (one.figure(cost).std or 0.0, one.figure(score).std or 0.0))
        for one in models
        if (x := one.figure(cost).mean) is not None and (y := one.figure(score).mean) is not None
    ]
    if not known:
        return None
    x_title, size = cost.axis([x for _, x, _, _ in known])
    marks = [
        Point(one.name, x / size, y, spread[0] / size, spread[1], _told(one, record), one.number)
        for one, x, y, spread in known
    ]
    return points(
        f"{score.heading} against {cost.title}",
        marks,
        x_title=x_title,
        y_title=score.title,
        y_format=_format(score),
        front=pareto_front([(mark.x, mark.y) for mark in marks], higher_is_better=record["higher_is_better"]),
        height=420,
        span="full",
        note="A mark is a model at the means over its seeds, with a standard deviation to each side. The dotted line "
        "is the Pareto front: to the left of it and beyond it there is no model, judged by the means alone.",
    )


def pareto_front(
    marks: Sequence[tuple[float, float]], *, higher_is_better: bool
) -> list[tuple[float, float]]:
    """Corners of the line that bounds what was reached, from the cheapest model to the highest cost.

    Args:
        marks: (cost, score) of each model.
    """
    sign = 1 if higher_is_better else -1
    corners: list[tuple[float, float]] = []
    for x, y in sorted(marks, key=lambda mark: (mark[0], -sign * mark[1])):
        if not corners or sign * y > sign * corners[-1][1]:
            corners.append((x, y))
    worst = min((y for _, y in marks), key=lambda y: sign * y)
    return [(corners[0][0], worst), *corners, (max(x for x, _ in marks), corners[-1][1])]


def learning_chart(models: Sequence[Contestant], what: Literal["score", "loss"], record: Record) -> Chart:
    """Means over seeds, up to the last epoch that every run of a model reached, in a band from lowest to highest."""
    score = score_of(record)
    return lines(
        f"Validation {score.title}" if what == "score" else "Training loss",
        [_curve(one, what) for one in models],
        x_title="epoch",
        y_title="",
        y_format=_format(score) if what == "score" else "",
        may_be_log=what == "loss",
        legend=False,
        height=340,
    )


def has_curve(model: Contestant) -> bool:
    """Whether a run of it noted how it learned."""
    return bool(_curves(model))


def _curves(model: Contestant) -> list[Record]:
    return [run["curve"] for run in model.runs if (run.get("curve") or {}).get("epoch")]


def _curve(model: Contestant, what: str) -> Series:
    """Mean and range over the runs of a model."""
    curves = _curves(model)
    epochs = min((curve["epoch"] for curve in curves), key=len)
    by_epoch = [[curve[what][at] for curve in curves] for at in range(len(epochs))]
    several = len(curves) > 1
    return Series(
        model.name,
        epochs,
        [mean(values) for values in by_epoch],
        low=[min(values) if None not in values else None for values in by_epoch] if several else (),
        high=[max(values) if None not in values else None for values in by_epoch] if several else (),
        style=model.number,
    )


def _told(model: Contestant, record: Record) -> list[str]:
    """All figures of a model, a line each."""
    score, *others = quantities_of(record)
    told = [f"{score.title} {words.with_spread(model.figure(score), score)}"]
    for quantity in others:
        mean = model.figure(quantity).mean
        if mean is not None:
            told.append(f"{quantity.title} {quantity.show(mean)}")
    return told


def _format(score: Quantity) -> str:
    return ".2~%" if is_share(score.key) else ""
