"""Training: one loop with hooks, stages, checkpoints and exact resume, over lightning-fabric."""
