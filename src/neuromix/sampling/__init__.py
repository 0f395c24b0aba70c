"""Sampling: what a trained model makes up."""

from neuromix.sampling.autoregressive import Generated, generate, left_padded

__all__ = ["Generated", "generate", "left_padded"]
