"""A run that is stopped from inside, without a process of its own."""

from __future__ import annotations

from neuromix.training.observer import Observer


class Stop(Exception):
    pass


class StopAfter(Observer):
    """Ends a run as a kill would, after so many steps of all stages."""

    def __init__(self, steps):
        self.left = steps

    def batch(self, done, loss):
        self.left -= 1
        if self.left == 0:
            raise Stop
