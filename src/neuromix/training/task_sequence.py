"""TaskSequence: several tasks that come one after another, and what continual learning is judged by.

A sequence is a task itself, that of learning everything at once: any method can be trained on it so, which is what a
continual one is compared with. Its parts are tasks as well: one task alone, or all up to one.

Three scenarios differ in what is known when a sample is to be classified. "task": which task it belongs to; each task
has classes, and so outputs of the net, of its own. "domain": that is not known and not needed, for all tasks share
their classes. "class": tasks have classes of their own, and one has to be chosen out of all that were seen. So there
are two accuracies: a task-aware one chooses among the classes of the sample's task, a task-agnostic one among all.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, Self, TypeAlias

from neuromix.core.errors import ConfigError
from neuromix.training.task import Gathered, Task

Scenario: TypeAlias = Literal["task", "domain", "class"]
Rows: TypeAlias = tuple[tuple[float, ...], ...]


class TaskAccuracies(Gathered, Protocol):
    """The accuracy on each task of a part."""

    def compute(self) -> dict[str, list[float]]:
        """{"task_aware": accuracies, "task_agnostic": accuracies}, in the order of the tasks."""
        ...


class TaskSequence(Task):
    """Base of the sequences. Batches have a field `task` [B], int64, that numbers the tasks from 0.

    Attributes:
        task_names: what each task of the whole sequence is called.
        scenario: see the module.
        numbers: the tasks that this part is made of; of the whole sequence: all.
        seen: tasks whose classes are known: a task-agnostic choice is among these.
        per_class: training samples of each class of each task that this part has at most; None: all.
        whole: the sequence that this is a part of; of the whole sequence: itself.
    """

    task_names: tuple[str, ...]
    scenario: Scenario
    numbers: tuple[int, ...]
    seen: int
    per_class: int | None = None
    whole: TaskSequence

    def begin(self, names: Sequence[str], scenario: Scenario) -> None:
        """Makes this the whole sequence."""
        self.task_names, self.scenario = tuple(names), scenario
        self.numbers, self.seen = tuple(range(len(self.task_names))), len(self.task_names)
        self.whole = self

    def __len__(self) -> int:
        """Number of tasks of the whole sequence."""
        return len(self.task_names)

    def stage(self, i: int) -> Self:
        """Task i alone, as it comes after the tasks before it.

        Raises:
            ConfigError: there is no such task.
        """
        if not 0 <= i < len(self):
            raise ConfigError(f"the sequence has tasks 0 to {len(self) - 1}, there is no task {i}")
        return self._part((i,), i + 1)

    def first(self, count: int, per_class: int | None = None) -> Self:
        """The first tasks together.

        Raises:
            ConfigError: there are not so many, or none is asked for.
        """
        if not 1 <= count <= len(self):
            raise ConfigError(f"the sequence has {len(self)} tasks, the first {count} cannot be taken")
        return self._part(tuple(range(count)), count, per_class)

    def accuracies(self) -> TaskAccuracies:
        """A fresh count of right answers on each task."""
        raise NotImplementedError

    def _part(self, numbers: tuple[int, ...], seen: int, per_class: int | None = None) -> Self:
        part = copy.copy(self)
        part.numbers, part.seen, part.per_class = numbers, seen, per_class
        return part


@dataclass(frozen=True)
class AccuracyMatrix:
    """Accuracies after each task: row i holds, after task i was learnt, those on the tasks 0..i.

    With R[i][j] for n tasks (Lopez-Paz & Ranzato, NeurIPS 2017; Chaudhry et al., ECCV 2018):
    average accuracy = mean_j R[n-1][j]; backward transfer = mean_{j<n-1} (R[n-1][j] - R[j][j]);
    forgetting = mean_{j<n-1} (max_{i<n-1} R[i][j] - R[n-1][j]). With one task nothing can have been forgotten: the
    last two are not defined, and None.
    """

    rows: Rows = ()

    def with_row(self, i: int, row: Sequence[float]) -> AccuracyMatrix:
        """The matrix after task i, in the place of whatever it said of that and later ones."""
        if not len(row) == i + 1 <= len(self.rows) + 1:
            raise ConfigError(f"row {i} of {len(self.rows)} has {len(row)} accuracies")
        return AccuracyMatrix((*self.rows[:i], tuple(row)))

    @property
    def average(self) -> float | None:
        """The mean over the tasks, after the last of them; None before the first."""
        return _mean(self.rows[-1]) if self.rows else None

    @property
    def backward_transfer(self) -> float | None:
        """How much better tasks are known in the end than just after they were learnt."""
        return _mean([self.rows[-1][j] - row[j] for j, row in enumerate(self.rows[:-1])])

    @property
    def forgetting(self) -> float | None:
        """How much better tasks were known at their best than they are in the end."""
        before = self.rows[:-1]
        return _mean([max(row[j] for row in before[j:]) - self.rows[-1][j] for j in range(len(before))])

    def to_dict(self) -> dict[str, Any]:
        """Matrix and figures, as JSON."""
        return {
            "accuracy_matrix": [list(row) for row in self.rows],
            "average_accuracy": _rounded(self.average),
            "backward_transfer": _rounded(self.backward_transfer),
            "forgetting": _rounded(self.forgetting),
        }


@dataclass(frozen=True)
class SequenceReport:
    """What is known of a sequence after some of its tasks."""

    scenario: str
    tasks: tuple[str, ...]
    matrices: Mapping[str, AccuracyMatrix]  # by "task_aware" and "task_agnostic"

    KINDS: ClassVar[tuple[str, str]] = ("task_aware", "task_agnostic")

    def after(self, i: int, accuracies: Mapping[str, Sequence[float]]) -> SequenceReport:
        """The report with the accuracies after task i."""
        rows = {kind: self.matrices[kind].with_row(i, accuracies[kind]) for kind in self.KINDS}
        return SequenceReport(self.scenario, self.tasks, rows)

    @property
    def main(self) -> AccuracyMatrix:
        """The matrix of the accuracy that the scenario asks for."""
        return self.matrices["task_aware" if self.scenario == "task" else "task_agnostic"]

    def to_dict(self) -> dict[str, Any]:
        """The figures of the scenario, and both matrices, as JSON."""
        about = {"scenario": self.scenario, "tasks": list(self.tasks), **self.main.to_dict()}
        return about | {kind: matrix.to_dict() for kind, matrix in self.matrices.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SequenceReport:
        """Undoes `to_dict`."""
        rows = {kind: tuple(map(tuple, values[kind]["accuracy_matrix"])) for kind in cls.KINDS}
        matrices = {kind: AccuracyMatrix(each) for kind, each in rows.items()}
        return cls(values["scenario"], tuple(values["tasks"]), matrices)

    @classmethod
    def of(cls, sequence: TaskSequence) -> SequenceReport:
        """Of a sequence that has not begun."""
        empty = {kind: AccuracyMatrix() for kind in cls.KINDS}
        return cls(sequence.scenario, sequence.task_names, empty)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
