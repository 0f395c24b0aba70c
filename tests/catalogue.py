"""What the library itself registers; tests register nets of their own beside it."""

from __future__ import annotations

from neuromix.core import registry
from neuromix.core.registry import Entry


def own_entries(kind: str) -> dict[str, Entry]:
    """The entries of a kind, by name, without those of tests."""
    return {
        name: entry for name, entry in registry.entries(kind).items() if entry.origin.startswith("neuromix.")
    }
