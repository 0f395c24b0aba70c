"""Training methods: one a file, made of the hooks of the training loop."""
