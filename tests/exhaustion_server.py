"""A server in a process of its own, which runs out of descriptors: run by the tests of the limits.

It prints its address, then answers each line on its standard input: ``report`` with one line of JSON (the metrics, the
lines that were logged), anything else by ending.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
from typing import Any

import msgspec

from tests.support import Echo
from theater_tcp import Settings, Theater


class Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def main(spare: int) -> None:
    """Serve an echo with ``spare`` descriptors for connections."""
    log = Lines()
    logging.getLogger("theater_tcp").addHandler(log)
    with Theater(Settings(drain_timeout=0, accept_pause=0.02)) as theater:
        echo: Any = theater.spawn(Echo)
        address = theater.listen_for(echo, "127.0.0.1:0").address
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        for fd in range(3, highest):  # no holes below: the limit counts numbers, not descriptors
            try:
                os.fstat(fd)
            except OSError:
                os.dup2(0, fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + spare, highest + spare))
        print(address, flush=True)
        for line in sys.stdin:
            if line != "report\n":
                break
            report = {"metrics": msgspec.to_builtins(theater.metrics()), "lines": log.lines}
            print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
