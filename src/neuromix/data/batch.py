"""Batch and Ragged live in neuromix.core.batch; import them from there."""

from neuromix.core.batch import Batch, Ragged, collate

__all__ = ["Batch", "Ragged", "collate"]
