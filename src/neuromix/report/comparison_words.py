"""What a comparison says in words. Nothing is called better, or less, that may be so by chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from neuromix.report import numbers
from neuromix.report.blocks import Notice, Tile
from neuromix.report.contestants import (
    LATENCY,
    MEMORY,
    PARAMETERS,
    Contestant,
    Figure,
    Quantity,
    Record,
    contestants,
    energies_of,
    is_share,
    score_of,
)

NOISE = "inside the noise"
_INDISTINCT = f"the differences between them are {NOISE}"


class Least(NamedTuple):
    """The model with the smallest mean, and those that may need as little."""

    model: Contestant
    value: float
    unsure: list[Contestant]
    next: tuple[Contestant, float] | None  # of those that surely need more


def lead(record: Record) -> str:
    """The result in a few sentences."""
    return " ".join([_what(record), *_best(record), *_cheapest(record), *_failures(record)])


def tiles(record: Record) -> list[Tile]:
    """The best score and the lowest costs, with those that are as good."""
    score, models = score_of(record), contestants(record)
    first = _first(record)
    shown = []
    if first:
        best, *others = sorted(first, key=lambda one: _badness(one, score, record))
        value = score.show(best.figure(score).mean)
        label = f"Best {score.title}" if len(models) > 1 else score.heading
        shown.append(Tile(label, value, _with(best, others, NOISE)))
    costs = [("Least", energy) for energy in energies_of(record)[:1]]
    costs += [("Shortest", LATENCY), ("Smallest", MEMORY), ("Fewest", PARAMETERS)]
    for most, quantity in costs:
        least = least_of(models, quantity)
        if least is not None:
            label = f"{most} {quantity.title}" if len(models) > 1 else quantity.heading
            note = _with(least.model, least.unsure, "not told apart")
            shown.append(Tile(label, quantity.show(least.value), note))
    done, failed = _counts(models)
    note = f"{len(models)} {_plural('model', len(models))}, {_seeds(record)}"
    shown.append(Tile("Runs finished", f"{done} of {done + failed}", note))
    return shown


def notices(record: Record) -> list[Notice]:
    """What must be known before the figures are read."""
    models = contestants(record)
    found = []
    failed = [
        f"{one.name}, seed {run['seed']}: {run.get('error') or 'no error line'}"
        for one in models
        for run in one.failed
    ]
    if failed:
        title = f"{len(failed)} {_plural('run', len(failed))} failed"
        found.append(Notice(title, [*failed, "The figures of a model are those of its other runs."]))
    over = [one for one in models if one.record.get("over_budget")]
    if over:
        budget = numbers.energy(1e3 * record["budget"]["joules_per_inference"])
        text = (
            f"{listed([one.name for one in over])}: more than {budget} an inference. Shown, and not ranked."
        )
        found.append(Notice("Over the energy budget", [text]))
    missed = [f"{one.name}: {ops}" for one in models if (ops := _not_counted(one))]
    if missed:
        text = (
            "Operations and energy of these models are lower bounds: they contain operations without a count."
        )
        found.append(Notice("Not everything was counted", [text, *missed]))
    return found


def least_of(models: Sequence[Contestant], quantity: Quantity) -> Least | None:
    """Which needs least of something; a model is told apart if the ranges of their values do not meet."""
    known = [(one, mean) for one in models if (mean := one.figure(quantity).mean) is not None]
    if not known:
        return None
    known.sort(key=lambda pair: pair[1])
    (model, value), *others = known
    apart = [(one, mean) for one, mean in others if _is_below(model, one, quantity)]
    unsure = [one for one, _ in others if one not in [surely for surely, _ in apart]]
    return Least(model, value, unsure, apart[0] if apart else None)


def with_spread(figure: Figure, quantity: Quantity) -> str:
    """98.4 ± 0.2 %: mean and standard deviation."""
    if figure.mean is None or figure.std is None:
        return quantity.show(figure.mean)
    if is_share(quantity.key):
        return f"{100 * figure.mean:.1f} ± {100 * figure.std:.1f}\u00a0%"
    return f"{quantity.show(figure.mean)} ± {numbers.significant(figure.std, 2)}"


def in_favour(pair: Record, record: Record) -> Record:
    """The same difference with the model first that is the better one on average."""
    if pair["difference"] == 0 or (pair["difference"] > 0) == record["higher_is_better"]:
        return pair
    low, high = (None if pair.get(end) is None else -pair[end] for end in ("high", "low"))
    turned = {"a": pair["b"], "b": pair["a"], "difference": -pair["difference"], "low": low, "high": high}
    return {**pair, **turned}


def verdict(pair: Record) -> str:
    """How the first model of a pair stands to the other."""
    return "better than" if pair["significant"] else f"{NOISE} of"


def listed(names: Sequence[str], most: int = 4) -> str:
    """a, b and c; of many the first and how many more."""
    if len(names) > most:
        return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} others"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def budget(record: Record) -> str:
    """20 epochs."""
    given = record.get("budget") or {}
    parts = [
        f"{given[unit]:g} {_plural(unit[:-1], given[unit])}"
        for unit in ("epochs", "minutes")
        if given.get(unit)
    ]
    return " and ".join(parts) or "as many epochs as suit the task"


def _what(record: Record) -> str:
    models = contestants(record)
    who = models[0].name if len(models) == 1 else f"{len(models)} models"
    verb = "was" if len(models) == 1 else "were"
    each = "" if len(models) == 1 else " each"
    return f"{who} {verb} trained on {record['task']} with {budget(record)}{each}, from {_seeds(record)}."


def _best(record: Record) -> list[str]:
    """Who is ahead, as far as that is certain."""
    score, models, first = score_of(record), contestants(record), _first(record)
    scored = [one for one in models if one.figure(score).mean is not None]
    if not scored:
        return ["No run gave a score."]
    if len(models) == 1:
        return [f"Its {score.title} on test data is {with_spread(scored[0].figure(score), score)}."]
    if len(record["seeds"]) == 1:
        return [f"From one seed nothing can be said about which is better by {score.title}."]
    if not first:
        return []
    ranked = [one for one in models if one.rank is not None]
    within = (
        " of those within the energy budget" if any(one.record.get("over_budget") for one in models) else ""
    )
    means = sorted(mean for one in first if (mean := one.figure(score).mean) is not None)
    low, high = score.show(means[0]), score.show(means[-1])
    by = f"By {score.title} on test data"
    if len(first) > 1:
        names = listed([one.name for one in first])
        who = names if len(first) < len(ranked) else "both" if len(first) == 2 else f"all {len(first)}"
        at = low if low == high else f"{low} to {high}"
        return [f"{by}, {who}{within} share the first place, at {at}: {_INDISTINCT}."]
    (best,) = first
    if len(ranked) > 1 and _beats(best, ranked, record):
        return [f"{by}, {best.name} is ahead{within} with {high}: further than chance explains."]
    return [f"{by}, none{within} is better than {best.name} with {high}."]


def _beats(best: Contestant, ranked: Sequence[Contestant], record: Record) -> bool:
    """Whether it is surely better than every other that is ranked."""
    others = {one.name for one in ranked} - {best.name}
    pairs = [in_favour(pair, record) for pair in record["differences"] if pair["significant"]]
    return others <= {pair["b"] for pair in pairs if pair["a"] == best.name}


def _cheapest(record: Record) -> list[str]:
    """Who surely needs the least energy, and by which energy models."""
    energies, models = energies_of(record), contestants(record)
    found = [(energy, least_of(models, energy)) for energy in energies]
    sure = [(energy, least) for energy, least in found if least and least.next and not least.unsure]
    by: dict[str, list[str]] = {}
    for energy, least in sure:
        by.setdefault(least.model.name, []).append(energy.path[-1])
    if len(by) > 1:
        told = "; ".join(f"{name} by {listed(names)}" for name, names in by.items())
        return [f"Which needs the least energy depends on the energy model: {told}."]
    for energy, least in sure[:1]:
        assert least.next is not None
        model, value = least.next
        names = by[least.model.name]
        how = "every energy model" if len(names) == len(energies) > 1 else listed(names)
        times = f"{numbers.significant(value / least.value, 2)} times less" if least.value else "less"
        amount = (
            f"{energy.show(least.value)} an inference{f' by {energy.path[-1]}' if len(names) > 1 else ''}"
        )
        return [
            f"{least.model.name} needs the least energy by {how}: {amount}, {times} than the next, {model.name}."
        ]
    return []


def _failures(record: Record) -> list[str]:
    _, failed = _counts(contestants(record))
    return [f"{failed} {_plural('run', failed)} failed."] if failed else []


def _first(record: Record) -> list[Contestant]:
    return [one for one in contestants(record) if one.rank == 1]


def _badness(model: Contestant, score: Quantity, record: Record) -> float:
    """Smaller is better."""
    mean = model.figure(score).mean or 0.0
    return -mean if record["higher_is_better"] else mean


def _is_below(a: Contestant, b: Contestant, quantity: Quantity) -> bool:
    """Whether every value of a is below every value of b."""
    range_a, range_b = a.range(quantity), b.range(quantity)
    return range_a is not None and range_b is not None and range_a[1] < range_b[0]


def _counts(models: Sequence[Contestant]) -> tuple[int, int]:
    """Runs that were finished, and that failed."""
    return sum(len(one.runs) for one in models), sum(len(one.failed) for one in models)


def _with(model: Contestant, others: Sequence[Contestant], why: str) -> str:
    """A name, and those that are as good."""
    return f"{model.name}; {why}: {listed([one.name for one in others], most=2)}" if others else model.name


def _not_counted(model: Contestant) -> str:
    calls: dict[str, int] = {}
    for run in model.runs:
        for op, number in (run.get("not_counted") or {}).items():
            calls[op] = max(calls.get(op, 0), number)
    return ", ".join(f"{op} ({number} {_plural('call', number)})" for op, number in calls.items())


def _seeds(record: Record) -> str:
    return f"{len(record['seeds'])} {_plural('seed', len(record['seeds']))}"


def _plural(word: str, number: float) -> str:
    return word if number == 1 else f"{word}s"
