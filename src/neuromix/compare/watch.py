"""Watch: what a comparison tells those who watch it; the command line makes lines and a progress bar of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neuromix.compare.job import Job
    from neuromix.compare.process import Outcome, What


class Watch:
    """Base of those who watch a comparison: hears everything and does nothing."""

    def note(self, text: str) -> None:
        """Something the user should know, as one line."""

    def begin(self, what: What, jobs: Sequence[Job], done: Sequence[Job]) -> None:
        """These jobs are to be done; others are done already."""

    def started(self, what: What, job: Job) -> None:
        """A job begins, or goes on."""

    def working(self, jobs: Sequence[Job]) -> None:
        """These are at work; told every moment."""

    def ended(self, what: What, job: Job, outcome: Outcome) -> None:
        """A job has ended."""
