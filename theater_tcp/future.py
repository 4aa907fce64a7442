"""The runtime's future: a pykka future that can be awaited, and that never blocks the event loop.

It is settled once, from any thread. It can be waited for in four ways: ``get()`` blocks a thread; ``await`` suspends an
actor on the loop; ``await`` in an asyncio task suspends that task; ``on_done`` calls back. On the loop's own
thread ``get()`` of an unsettled future raises :class:`~theater_tcp.errors.BlockingCall`, since the loop would wait for
itself. A failure that nobody ever looked at is logged when the future is dropped.
"""

from __future__ import annotations

import asyncio
import linecache
import logging
import queue
import sys
import threading
import traceback
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import pykka

from theater_tcp.errors import BlockingCall
from theater_tcp.event_loop import running_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence
    from types import TracebackType

__all__ = ["Future", "arrival_of", "refuse_to_block"]

logger = logging.getLogger("theater_tcp.future")

T = TypeVar("T")
R = TypeVar("R")

_PENDING: Any = object()
_guard = threading.RLock()
"""Held for a few instructions when a waiter comes or a future is settled: one lock for all, since a lock for each
future costs more than the rare wait for this one. Reentrant: the garbage collector or a signal may run foreign code
anywhere, here too."""


def refuse_to_block(what: str) -> None:
    """Raise :class:`BlockingCall` if this thread runs an event loop: ``what`` would make the loop wait for itself."""
    if running_loop() is not None:
        raise BlockingCall(f"{what} would block the event loop's own thread; await it instead")


class _Unseen:
    """Rides on a failure until somebody looks at it; dropped before that, it logs the failure."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error: BaseException | None = error

    def __del__(self) -> None:
        error = self.error
        if error is not None:
            # Without the underlining of traceback, which parses the source: this may run in the middle of a parse.
            lines = ["Traceback (most recent call last):"]
            for frame, number in traceback.walk_tb(error.__traceback__):
                code = frame.f_code
                lines.append(f'  File "{code.co_filename}", line {number}, in {code.co_name}')
                lines.append(f"    {linecache.getline(code.co_filename, number).strip()}")
            text = "\n".join([*lines, *(line.rstrip() for line in traceback.format_exception_only(error))])
            logger.error("a future failed and nobody looked at it:\n%s", text)


class Future(pykka.Future[T], Generic[T]):
    """A value that is available now or later. The methods of :class:`pykka.Future`, and those below."""

    _value: Any = _PENDING
    _error: BaseException | None = None
    _traceback: TracebackType | None = None
    _unseen: _Unseen | None = None
    _waiters: list[Callable[[Future[T]], object]] | None = None
    _hook: Callable[[float | None], T] | None = None
    _sources: tuple[pykka.Future[Any], ...] = ()

    def __init__(self) -> None:
        pass  # everything has its default in the class: an ask makes one of these, and most never need more

    def __repr__(self) -> str:
        if self._error is not None:
            return f"<Future failed: {self._error!r}>"
        return "<Future pending>" if self._value is _PENDING else "<Future settled>"

    # -- settling -------------------------------------------------------------------------------------------------

    def set(self, value: T | None = None) -> None:
        """Settle with a value. A second settling raises ``queue.Full``, as pykka's threading future does."""
        with _guard:
            if self._value is not _PENDING or self._error is not None or self._hook is not None:
                raise queue.Full("the future is settled already")
            self._value = value
            waiters, self._waiters = self._waiters, None
        if waiters:
            self._call(waiters)

    def set_exception(
        self, exc_info: tuple[Any, Any, TracebackType | None] | tuple[None, None, None] | None = None
    ) -> None:
        """Settle with an exception: a ``sys.exc_info()`` triple, by default that of the ``except`` block around."""
        kind, error, _ = exc_info if exc_info is not None else sys.exc_info()
        self.set_exception_value(error if isinstance(error, BaseException) else cast("type[BaseException]", kind)())

    def set_exception_value(self, error: BaseException) -> None:
        """Settle with an exception."""
        with _guard:
            if self._value is not _PENDING or self._error is not None or self._hook is not None:
                raise queue.Full("the future is settled already")
            waiters, self._waiters = self._waiters, None
            if not waiters:
                self._unseen = _Unseen(error)
            self._traceback = error.__traceback__
            self._error = error  # the last: another thread that finds it, without the lock, is to find the rest
        if waiters:
            self._call(waiters)

    def set_get_hook(self, func: Callable[[float | None], T]) -> None:
        """Compute the value by ``func(timeout)`` when it is first asked for."""
        with _guard:
            if self._value is not _PENDING or self._error is not None:
                raise queue.Full("the future is settled already")
            self._hook = func
            waiters, self._waiters = self._waiters, None
        if waiters:
            self._call(waiters)

    # -- looking --------------------------------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        """Whether the outcome is there: ``get`` returns or raises at once."""
        return self._value is not _PENDING or self._error is not None

    @property
    def failed(self) -> bool:
        """Whether the outcome is an exception."""
        return self._error is not None

    def get(self, *, timeout: float | None = None) -> T:
        """The value, after waiting for it at most ``timeout`` seconds (None: for ever).

        Raises:
            pykka.Timeout: it did not come in time.
            BlockingCall: it is not there yet, and this is the thread of an event loop.
            Exception: what the future was settled with.
        """
        if self._hook is None and not self.done:
            self._block(timeout)
        return self._result(timeout)

    def on_done(self, call: Callable[[Future[T]], object]) -> None:
        """Call ``call(self)`` when the outcome is there: at once, or on the thread that settles it."""
        if self._hook is not None:
            _when_all(self._sources, partial(call, self))
            return
        with _guard:
            if not self.done:
                if self._waiters is None:
                    self._waiters = []
                self._waiters.append(call)
                return
        call(self)

    def follow_into(self, other: Future[Any], value: Any = _PENDING) -> None:
        """Settle ``other`` with this future's outcome, or with ``value`` in place of this one's value."""
        self.on_done(lambda _: self._copy_to(other, value))

    def __await__(self) -> Generator[Any, None, T]:
        if not self.done:
            if self._hook is not None:
                for source in self._sources:
                    yield from source.__await__()
            elif running_loop() is not None:
                yield self  # to the task that drives the actor's coroutine
            else:
                yield from self._asyncio_future().__await__()
        return self.get()

    # -- combining: as pykka has it, and awaitable -----------------------------------------------------------------

    def filter(self: Future[Iterable[Any]], func: Callable[[Any], bool]) -> Future[Iterable[Any]]:
        """A future of the items for which ``func(item)`` is true."""
        return self._derived(super().filter(func), self)

    def join(self: Future[Any], *futures: pykka.Future[Any]) -> Future[Iterable[Any]]:
        """A future of the list of all values."""
        return self._derived(super().join(*futures), self, *futures)

    def map(self, func: Callable[[T], R]) -> Future[R]:
        """A future of ``func(value)``."""
        return self._derived(super().map(func), self)

    def reduce(self: Future[Iterable[Any]], func: Callable[[Any, Any], Any], *args: Any) -> Future[Any]:
        """A future of the items folded by ``func``."""
        return self._derived(super().reduce(func, *args), self)

    # -- inside ---------------------------------------------------------------------------------------------------

    @staticmethod
    def _derived(future: pykka.Future[Any], *sources: pykka.Future[Any]) -> Future[Any]:
        derived = cast("Future[Any]", future)
        derived._sources = sources
        return derived

    def _result(self, timeout: float | None = None) -> T:
        if self._hook is not None and self._value is _PENDING:
            self._value = self._hook(timeout)
        if self._error is not None:
            if self._unseen is not None:
                self._unseen.error = None
                self._unseen = None
            raise self._error.with_traceback(self._traceback)  # or it would grow with each who looks
        return cast("T", self._value)

    def _copy_to(self, other: Future[Any], instead: Any) -> None:
        try:
            value = self._result()
        except BaseException as error:
            other.set_exception_value(error)
        else:
            other.set(value if instead is _PENDING else instead)

    def _block(self, timeout: float | None) -> None:
        refuse_to_block("get() of an unsettled future")
        gate = threading.Lock()
        gate.acquire()

        def arrived(_: Future[T]) -> None:
            gate.release()

        self.on_done(arrived)
        if not gate.acquire(timeout=-1 if timeout is None else max(timeout, 0)):
            with _guard:
                if self._waiters is not None:
                    self._waiters.remove(arrived)  # a failure that comes now is one that nobody waits for
                    raise pykka.Timeout(f"{timeout} seconds")

    def _call(self, waiters: list[Callable[[Future[T]], object]]) -> None:
        for call in waiters:
            try:
                call(self)
            except Exception:
                logger.exception("a future's callback failed")

    def _asyncio_future(self) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        arrived: asyncio.Future[None] = loop.create_future()

        def settle() -> None:
            if not arrived.done():  # else the task was cancelled
                arrived.set_result(None)

        def tell(_: Future[T]) -> None:
            try:
                loop.call_soon_threadsafe(settle)
            except RuntimeError:
                pass  # the asyncio loop has been closed: nobody awaits any more

        self.on_done(tell)
        return arrived


def _when_all(sources: Sequence[pykka.Future[Any]], call: Callable[[], object]) -> None:
    """Call ``call()`` when every one of the futures has its outcome."""
    if not sources:
        call()
        return
    first, *others = sources
    arrival_of(first).on_done(lambda _: _when_all(others, call))


def arrival_of(future: pykka.Future[Any]) -> Future[Any]:
    """A future of this kind with the outcome of any future of pykka's; a thread waits for one of another kind."""
    if isinstance(future, Future):
        return future
    arrived: Future[Any] = Future()

    def wait() -> None:
        try:
            value = future.get()
        except BaseException as error:
            arrived.set_exception_value(error)
        else:
            arrived.set(value)

    threading.Thread(target=wait, name="await-pykka-future", daemon=True).start()
    return arrived
