"""The way to asyncio: a companion loop on a thread of its own, for libraries that need one.

The other way needs nothing: an asyncio task awaits the runtime's futures as they are (:mod:`theater_tcp.future`).
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from theater_tcp.errors import InvalidArgument, LimitReached, ShutDown
from theater_tcp.future import Future

if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Coroutine

__all__ = ["CompanionLoop"]

logger = logging.getLogger("theater_tcp.asyncio_bridge")

CLOSE_TIMEOUT = 5.0
"""Seconds that coroutines may take to end after they were cancelled."""


class CompanionLoop:
    """An asyncio loop on a daemon thread, started when it is first needed."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._under_way: set[Future[Any]] = set()
        self._ended = False

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
        """A future of what the coroutine returns. Any thread may ask.

        Raises:
            InvalidArgument: it is no coroutine.
        """
        if not asyncio.iscoroutine(coroutine):
            raise InvalidArgument(f"expected a coroutine, as a call of an async function gives, not {coroutine!r}")
        outcome: Future[Any] = Future()
        self._under_way.add(outcome)
        outcome.on_done(self._under_way.discard)
        with self._lock:
            if self._closed:
                coroutine.close()
                outcome.set_exception_value(ShutDown())
                return outcome
            try:
                loop = self._loop if self._loop is not None else self._start()
            except (OSError, RuntimeError) as error:  # no descriptor, or no thread
                coroutine.close()
                outcome.set_exception_value(LimitReached(f"the asyncio loop: {error}"))
                return outcome
            running = asyncio.run_coroutine_threadsafe(coroutine, loop)

        def settle(done: concurrent.futures.Future[Any]) -> None:
            if outcome.done:
                return  # given up by close()
            if done.cancelled() and self._closed:
                outcome.set_exception_value(ShutDown("the asyncio loop has ended"))
                return
            if done.cancelled():  # by itself: a failure as any other, and an Exception, which asyncio's own is not
                outcome.set_exception_value(CancelledError("the coroutine was cancelled"))
                return
            error = done.exception()
            if error is not None:
                outcome.set_exception_value(error)
            else:
                outcome.set(done.result())

        running.add_done_callback(settle)
        return outcome

    def close(self) -> None:
        """Cancel what runs and end the thread. A coroutine that lets neither happen is left to its daemon thread."""
        with self._lock:
            self._closed = True
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._end(), loop)
        thread.join(CLOSE_TIMEOUT)
        if thread.is_alive():
            logger.warning("a coroutine on the asyncio loop did not end in %g s", CLOSE_TIMEOUT)
            for outcome in list(self._under_way):
                try:
                    outcome.set_exception_value(ShutDown("the coroutine did not end with the runtime"))
                except queue.Full:
                    pass  # it did, at this moment

    def _start(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._run, args=(loop,), name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            loop.close()
            raise
        self._loop, self._thread = loop, thread
        return loop

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._ended:
            try:
                loop.run_forever()
            except BaseException as error:  # SystemExit in a coroutine: its awaiter has it, the others go on
                logger.debug("%r on the asyncio loop", error)
        loop.close()

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.get_running_loop().shutdown_asyncgens()
        self._ended = True
        asyncio.get_running_loop().stop()
