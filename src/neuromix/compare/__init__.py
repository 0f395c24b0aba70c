"""Comparing models: candidates trained under one budget, what each costs, and which differences are real."""
