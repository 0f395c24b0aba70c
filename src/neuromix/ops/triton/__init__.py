"""The kernels for CUDA, in Triton. `launch` is imported where an op first runs on a GPU, never with neuromix itself."""
