"""Video: generators of clips."""
