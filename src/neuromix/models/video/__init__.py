"""Models of video, one paper a file."""
