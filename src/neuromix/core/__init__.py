"""The protocols: Config and registry, models, stateful leaves and their drivers, edits, checkpoints."""
