"""Recall: made-up sequences whose end can only be told by one who remembers their beginning."""

from neuromix.data.recall.associative import AssociativeRecall
from neuromix.data.recall.copying import SelectiveCopying
from neuromix.data.recall.dataset import Example, RecallGenerator, RecallSamples
from neuromix.data.recall.induction import InductionHeads
from neuromix.data.recall.phonebook import Phonebook

__all__ = [
    "AssociativeRecall",
    "Example",
    "InductionHeads",
    "Phonebook",
    "RecallGenerator",
    "RecallSamples",
    "SelectiveCopying",
]
