"""Tasks: where data and scores come from, one a file."""
