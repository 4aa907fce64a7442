"""A poller over sockets in memory, with epoll's rules: level-triggered, hang-ups and errors reported unasked."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from theater_tcp.poller import ERROR, HANGUP
from theater_tcp.testing.memory_socket import Descriptor

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MemoryPoller"]


class MemoryPoller:
    """What an :class:`~theater_tcp.event_loop.EventLoop` waits with when its sockets are in memory.

    It never waits: in one thread, nothing becomes ready by itself. Descriptors of the system, as the loop's own
    wake-up, can be registered and are never ready.

    Args:
        order: told the ready descriptors of a turn in the order of their registration; it may change that order in
            place, since epoll promises none.
    """

    def __init__(self, order: Callable[[list[tuple[int, int]]], object] | None = None) -> None:
        self._masks: dict[int, int] = {}
        self._order = order

    def __repr__(self) -> str:
        return f"<MemoryPoller {len(self.watched)} sockets>"

    @property
    def watched(self) -> dict[int, int]:
        """The sockets in memory that are registered, with their masks."""
        return {fd: mask for fd, mask in self._masks.items() if isinstance(fd, Descriptor)}

    def poll(self, timeout: float = -1, maxevents: int = -1) -> list[tuple[int, int]]:
        """What is ready now.

        Raises:
            RuntimeError: nothing is, and the caller wants to wait for ever.
        """
        found: list[tuple[int, int]] = []
        for fd, mask in self._masks.items():
            if isinstance(fd, Descriptor) and fd.source.fileno() == fd:  # a closed one is silent
                ready = fd.source.readiness() & (mask | ERROR | HANGUP)
                if ready:
                    found.append((fd, ready))
        if not found and timeout < 0:
            raise RuntimeError("nothing is ready in memory, and waiting would not change it: use run_once(block=False)")
        if self._order is not None:
            self._order(found)
        return found if maxevents < 0 else found[:maxevents]

    def register(self, fd: int, eventmask: int) -> None:
        """Watch a descriptor; a second time is an error (EEXIST)."""
        if fd < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if fd in self._masks:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        self._masks[fd] = eventmask

    def modify(self, fd: int, eventmask: int) -> None:
        """Watch it for something else (ENOENT: it is not watched)."""
        self._check(fd)
        self._masks[fd] = eventmask

    def unregister(self, fd: int) -> None:
        """Watch it no more (ENOENT: it is not watched)."""
        self._check(fd)
        del self._masks[fd]

    def close(self) -> None:
        """Forget everything."""
        self._masks.clear()

    def _check(self, fd: int) -> None:
        if fd not in self._masks:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
