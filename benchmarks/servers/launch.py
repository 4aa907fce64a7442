"""What every Python server of the comparison does alike: its listening socket, its announcement, its end.

All of them get the same treatment by the garbage collector: one collection and one ``gc.freeze()`` after everything
was imported and before the first connection, so that no figure depends on how much code a library brings along. After
that the collector runs as Python ships it.
"""

from __future__ import annotations

import gc
import os
import resource
import socket
import sys
import threading
from collections.abc import Callable, Mapping

__all__ = ["BACKLOG", "READ_SIZE", "announce", "listen", "raise_descriptor_limit"]

BACKLOG = 4096
"""Connections the kernel may hold for each server until it accepts them."""

READ_SIZE = 65536
"""Bytes a server asks for in one read, where it is the program that chooses."""


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open descriptors to the hard one.

    Returns:
        The number of descriptors this process may have open now.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def listen() -> socket.socket:
    """A non-blocking listening socket on a free port of 127.0.0.1."""
    raise_descriptor_limit()
    listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    listener.setblocking(False)
    return listener


def announce(port: int, answers: Mapping[str, Callable[[], object]] | None = None) -> None:
    """Print ``READY <port>``; from then on end the process when standard input closes.

    Args:
        port: the port the server listens on.
        answers: what to print for a line of standard input: for each word the function that gives the answer.
    """
    threading.Thread(target=_follow_stdin, args=(answers or {},), name="stdin", daemon=True).start()
    gc.collect()
    gc.freeze()
    print(f"READY {port}", flush=True)


def _follow_stdin(answers: Mapping[str, Callable[[], object]]) -> None:
    for line in sys.stdin:
        answer = answers.get(line.strip())
        print(answer() if answer else "unknown", flush=True)
    os._exit(0)
