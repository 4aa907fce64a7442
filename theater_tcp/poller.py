"""What waits for readiness: epoll where the system has it, the ``selectors`` module elsewhere.

Both speak epoll's dialect: a mask of the bits below, level-triggered, hang-ups and errors reported unasked.
"""

from __future__ import annotations

import select
import selectors
from typing import Protocol

__all__ = ["ERROR", "HANGUP", "PEER_SHUTDOWN", "READ", "WRITE", "Poller", "SelectorsPoller", "best_poller"]

READ = 0x001
WRITE = 0x004
ERROR = 0x008
HANGUP = 0x010
PEER_SHUTDOWN = 0x2000
"""Bits of an event mask, with epoll's values (epoll_ctl(2)). The peer's FIN is ``PEER_SHUTDOWN``."""


class Poller(Protocol):
    """The part of ``select.epoll`` that the event loop uses. File descriptors are ints, timeouts seconds."""

    def poll(self, timeout: float = -1, maxevents: int = -1) -> list[tuple[int, int]]: ...

    def register(self, fd: int, eventmask: int) -> None: ...

    def modify(self, fd: int, eventmask: int) -> None: ...

    def unregister(self, fd: int) -> None: ...

    def close(self) -> None: ...


class SelectorsPoller:
    """The same over ``selectors.DefaultSelector`` (kqueue, poll, select), which knows readable and writable only.

    A mask without ``READ`` and ``WRITE`` keeps the descriptor out of the selector, since there is nothing to ask for.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def poll(self, timeout: float = -1, maxevents: int = -1) -> list[tuple[int, int]]:
        ready = self._selector.select(None if timeout < 0 else timeout)
        return [
            (key.fd, (READ if events & selectors.EVENT_READ else 0) | (WRITE if events & selectors.EVENT_WRITE else 0))
            for key, events in ready
        ]

    def register(self, fd: int, eventmask: int) -> None:
        events = self._events(eventmask)
        if events:
            self._selector.register(fd, events)

    def modify(self, fd: int, eventmask: int) -> None:
        events = self._events(eventmask)
        if fd not in self._selector.get_map():
            self.register(fd, eventmask)
        elif events:
            self._selector.modify(fd, events)
        else:
            self._selector.unregister(fd)

    def unregister(self, fd: int) -> None:
        if fd in self._selector.get_map():
            self._selector.unregister(fd)

    def close(self) -> None:
        self._selector.close()

    @staticmethod
    def _events(mask: int) -> int:
        return (selectors.EVENT_READ if mask & READ else 0) | (selectors.EVENT_WRITE if mask & WRITE else 0)


def best_poller() -> Poller:
    """The fastest poller that this system has."""
    if hasattr(select, "epoll"):
        return select.epoll()
    return SelectorsPoller()
