"""Observer: what a run tells those who watch it; the command line draws a progress bar of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Observer:
    """Base of all observers: hears everything and does nothing. Only the first process of a run has one."""

    def note(self, text: str) -> None:
        """Something the user should know, as one line."""

    def stage(self, name: str, number: int, steps: int, done: int) -> None:
        """A stage of `steps` steps begins, or goes on after `done` of them."""

    def batch(self, done: int, loss: float) -> None:
        """`done` steps of the stage are done; the loss is that of the last one."""

    def evaluating(self, split: str, done: int, batches: int) -> None:
        """The model is scored on a split, of which `done` batches are done."""

    def epoch(self, record: Mapping[str, Any]) -> None:
        """An epoch is over; the record is what metrics.jsonl gets."""

    def close(self) -> None:
        """The run has ended, well or not."""


class Observers(Observer):
    """Several, told one after the other."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def note(self, text: str) -> None:
        for observer in self._observers:
            observer.note(text)

    def stage(self, name: str, number: int, steps: int, done: int) -> None:
        for observer in self._observers:
            observer.stage(name, number, steps, done)

    def batch(self, done: int, loss: float) -> None:
        for observer in self._observers:
            observer.batch(done, loss)

    def evaluating(self, split: str, done: int, batches: int) -> None:
        for observer in self._observers:
            observer.evaluating(split, done, batches)

    def epoch(self, record: Mapping[str, Any]) -> None:
        for observer in self._observers:
            observer.epoch(record)

    def close(self) -> None:
        for observer in self._observers:
            observer.close()
