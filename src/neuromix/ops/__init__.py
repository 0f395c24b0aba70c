"""Pure functions with state as an argument. Each has a PyTorch reference that reads like its formula."""
