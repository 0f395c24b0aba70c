"""Pure functions with state as an argument. Each has a PyTorch reference that reads like its formula."""

from neuromix.ops._kernels import references_only

__all__ = ["references_only"]
