"""Networks for event cameras and other event-based sensors, one paper a file."""
