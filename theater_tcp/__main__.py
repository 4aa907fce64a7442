"""``python -m theater_tcp``: the command line without its script."""

from __future__ import annotations

import sys

from theater_tcp.cli import main

if __name__ == "__main__":
    sys.exit(main())
