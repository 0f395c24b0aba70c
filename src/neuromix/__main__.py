"""`python -m neuromix` is the command `neuromix`; `torchrun -m neuromix` starts it in several processes."""

from __future__ import annotations

import sys

from neuromix.cli import main

if __name__ == "__main__":
    sys.exit(main())
