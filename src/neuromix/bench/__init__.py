"""Side-by-side measurements against peers: each contestant in a process of its own, one round in turn."""
