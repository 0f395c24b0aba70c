"""Models, one paper a file, in a room named after what it is for."""
