"""What there is: the names of the registered models, by task and family."""

from __future__ import annotations

import fnmatch

from neuromix.core import registry


def list_models(task: str | None = None, family: str | None = None, pattern: str = "*") -> list[str]:
    """Names for `create_model`, in alphabetical order.

    Args:
        task: only models for this task, e.g. "image-classification".
        family: only this family, e.g. "spiking".
        pattern: a glob that the name must match.

    Example:
        >>> list_models(pattern="poolformer_s*")
        ['poolformer_s12', 'poolformer_s24', 'poolformer_s36']
    """
    return sorted(
        name
        for entry in registry.entries("model").values()
        if (task is None or task in entry.tasks) and (family is None or family == entry.family)
        for name in (entry.variants or (entry.name,))
        if fnmatch.fnmatchcase(name, pattern)
    )
