"""Attacks on trained classifiers: how little of an input has to change before the answer does."""
