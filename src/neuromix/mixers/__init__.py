"""Token mixers, one a file: what moves information between places."""
