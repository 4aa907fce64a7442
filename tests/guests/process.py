"""What this process has of the system: for tests that nothing is left behind."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["descriptors", "environment", "maps", "resident"]


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def maps() -> int:
    """Memory maps of this process."""
    return Path("/proc/self/maps").read_text().count("\n")


def descriptors() -> int:
    """Open descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


def environment() -> dict[str, str]:
    """The environment for a program that imports what this one can."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
