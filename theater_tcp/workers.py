"""Threads for what blocks: a bounded pool that settles this runtime's futures.

``concurrent.futures`` would make a second future for each job, with a condition of its own, and hand it through three
locks: 50 to 90 µs a job. Here a job is a tuple in a queue written in C.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from theater_tcp.errors import LimitReached, ShutDown

if TYPE_CHECKING:
    from collections.abc import Callable

    from theater_tcp.future import Future

__all__ = ["Workers"]


class Workers:
    """Daemon threads that are started as they are needed.

    Args:
        limit: the most threads; further jobs wait.
        name: names the threads.
    """

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._jobs: SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...], Future[Any]] | None] = SimpleQueue()
        self._lock = threading.RLock()  # a signal handler may submit while its thread does
        self._idle = 0  # threads that wait for a job which is not on its way yet
        self._threads = 0
        self._closed = False

    def submit(self, call: Callable[..., Any], args: tuple[Any, ...], outcome: Future[Any]) -> None:
        """Settle ``outcome`` with ``call(*args)``, done by one of the threads. Any thread may ask."""
        with self._lock:
            if self._closed:
                outcome.set_exception_value(ShutDown())
                return
            if self._idle:
                self._idle -= 1
            elif self._threads < self._limit:
                try:
                    name = f"{self._name}-{self._threads + 1}"
                    threading.Thread(target=self._work, name=name, daemon=True).start()
                    self._threads += 1
                except RuntimeError as error:  # the system's limit is lower
                    if not self._threads:
                        outcome.set_exception_value(LimitReached(f"threads: {error}"))
                        return
            self._jobs.put((call, args, outcome))

    def close(self) -> None:
        """Take no more jobs; those that wait fail with ``ShutDown``, those under way go on."""
        with self._lock:
            self._closed = True
            while True:
                try:
                    job = self._jobs.get_nowait()
                except Empty:
                    break
                if job is not None:
                    job[2].set_exception_value(ShutDown())
            for _ in range(self._threads):
                self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            call, args, outcome = job
            try:
                value = call(*args)
            except asyncio.CancelledError as error:  # no Exception: it would stop all actors, as SystemExit does
                failure = concurrent.futures.CancelledError("the call was cancelled")
                failure.__cause__ = error
                outcome.set_exception_value(failure)
                del failure
            except BaseException as error:
                outcome.set_exception_value(error)
            else:
                outcome.set(value)
                del value
            del job, call, args, outcome  # nothing is kept alive while the thread waits
            with self._lock:
                # A job that waits already is taken next, without being announced to an idle thread.
                self._idle += self._jobs.empty()
