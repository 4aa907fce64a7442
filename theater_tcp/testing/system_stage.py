"""A stage on the system's own sockets and clock: what holds in memory is held against the real thing with it."""

from __future__ import annotations

import errno
import os
import socket
import time
from typing import TYPE_CHECKING, Any

from theater_tcp.address import HostPort, parse
from theater_tcp.event_loop import EventLoop
from theater_tcp.testing.peer import Peer
from theater_tcp.testing.stage import SteppedTheater

if TYPE_CHECKING:
    from collections.abc import Callable

    from theater_tcp.settings import Settings

__all__ = ["SystemStage"]

PAUSE = 0.005
"""Seconds to wait for the kernel, or for another thread, before the condition is looked at again."""


class SystemStage(SteppedTheater):
    """Actors on real sockets, whose loop the test's thread runs turn by turn.

    Not deterministic: the kernel and other threads have a say. Actors with a thread of their own can live here; what
    they ask of the loop is done while the test waits in :meth:`~theater_tcp.testing.stage.SteppedTheater.until`.

    Args:
        settings: limits and timeouts; the defaults when absent.
        address: where ``connect_to`` lets its actors listen: ``127.0.0.1:0``, ``[::1]:0`` or ``unix:/path``.
        patience: seconds that ``until`` waits before it fails.
    """

    def __init__(self, settings: Settings | None = None, address: str = "127.0.0.1:0", patience: float = 10.0) -> None:
        super().__init__(settings, EventLoop(name="system-stage"), address)
        self.can_reset = not address.startswith("unix:")
        self._patience = patience
        self._deadline: float | None = None

    def until(self, condition: Callable[[], bool], otherwise: Callable[[], str] | str = "it never came to it") -> None:
        """See :meth:`SteppedTheater.until <theater_tcp.testing.stage.SteppedTheater.until>`; waits for ``patience``."""
        self._deadline = time.monotonic() + self._patience
        super().until(condition, otherwise)

    def dial(self, address: str, **capacities: Any) -> Peer:
        """See :meth:`~theater_tcp.testing.stage.SteppedTheater.dial`; the capacities are the kernel's own affair."""
        if capacities:
            raise ValueError(f"the kernel decides on {', '.join(capacities)}")
        parsed = parse(address)
        sock = socket.socket(parsed.family if isinstance(parsed, HostPort) else socket.AF_UNIX)
        sock.setblocking(False)
        peer = self.peer_at(sock)
        code = sock.connect_ex(parsed.sockaddr())
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, os.strerror(code))
        if not _connected(sock):  # asked before the actor can do anything to it
            self.until(lambda: _connected(sock), f"no connection to {address}")
        self.settle()
        return peer

    def _wait_for_more(self, otherwise: Callable[[], str] | str) -> None:
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise AssertionError(otherwise if isinstance(otherwise, str) else otherwise())
        # Level-triggered: what it sees is there for the loop's next turn, too. The calls of other threads don't end it:
        # so each has a pause in which to go on before the loop does, and a test has less to fear from races.
        self.loop.poller.poll(PAUSE)

    def _run_to_the_end(self) -> None:
        while not self.loop.stopping:
            self.loop.run_once()


def _connected(sock: socket.socket) -> bool:
    """Whether a connecting socket has come through.

    Raises:
        OSError: it was refused.
    """
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))
    try:
        sock.getpeername()
    except OSError:
        return False
    return True
