"""Drives a coroutine on the event loop: the engine behind ``async def`` handlers.

A task sends the coroutine on; when it awaits a future, the task waits for that future and goes on in a later turn of
the loop. asyncio is not involved: a library that needs it runs on the companion loop
(:mod:`theater_tcp.asyncio_bridge`).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

from theater_tcp.future import Future

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import CoroutineType

    from theater_tcp.event_loop import EventLoop

__all__ = ["Task"]

logger = logging.getLogger("theater_tcp.task")

MAX_CLOSES = 100
"""How often a coroutine is ended that awaits in its clean-up."""


class Task:
    """A running coroutine.

    Args:
        loop: the loop on whose thread the coroutine runs.
        coroutine: what to run; it may await futures of this runtime.
        finished: called with ``(value, None)`` or ``(None, error)`` when it has ended, on the loop's thread.
    """

    __slots__ = ("_coroutine", "_finished", "_loop", "done")  # compared and hashed by identity: kept in loop.tasks

    def __init__(
        self,
        loop: EventLoop,
        coroutine: Coroutine[Any, Any, Any],
        finished: Callable[[Any, BaseException | None], object],
    ) -> None:
        self._loop = loop
        self._coroutine = coroutine
        self._finished = finished
        self.done = False

    def step(self) -> None:
        """Run the coroutine to its next wait. On the loop's thread."""
        if self.done:
            return
        try:
            awaited = self._coroutine.send(None)
            while not isinstance(awaited, Future):
                awaited = self._coroutine.throw(
                    TypeError(
                        f"an actor can't await {type(awaited).__name__!r} on the event loop; "
                        "run an asyncio coroutine by `await self.asyncio(coroutine)`"
                    )
                )
        except StopIteration as stop:
            self._end(stop.value, None)
        except BaseException as error:
            self._end(None, error)
        else:
            self._loop.tasks.add(self)
            awaited.on_done(self._resume)

    def cancel(self, error: BaseException) -> None:
        """End the coroutine where it waits (``GeneratorExit`` inside it); ``finished`` is called with ``error``, or
        with the ``SystemExit`` or its like that the coroutine raises meanwhile."""
        if not self.done:
            self.done = True
            self._loop.tasks.discard(self)
            try:
                self._close()
            except BaseException as stronger:  # SystemExit or its like: it ends more than this coroutine
                error = stronger
            self._finished(None, error)

    def _close(self) -> None:
        coroutine = cast("CoroutineType[Any, Any, Any]", self._coroutine)
        for _ in range(MAX_CLOSES):
            try:
                coroutine.close()
            except Exception:
                if coroutine.cr_frame is None:
                    logger.exception("a coroutine failed while it was ended")
            if coroutine.cr_frame is None:
                return
            # Else its `finally` awaits: there it is ended again.
        logger.error("a coroutine refuses to be ended: %r", coroutine)

    def _resume(self, _future: Future[Any]) -> None:
        self._loop.call_soon(self.step)

    def _end(self, value: Any, error: BaseException | None) -> None:
        self.done = True
        self._loop.tasks.discard(self)
        self._finished(value, error)
