"""Chips: what a network costs on one, and what one does to its weights."""
