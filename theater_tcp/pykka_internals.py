"""Everything that leans on a private name of pykka: this module and :mod:`theater_tcp.actor`, which it vouches for.

Three things of pykka don't scale to one process with tens of thousands of actors, or block the event loop:

- ``ActorRegistry`` keeps a list, and stopping one of n actors scans it twice (2.5 ms beside 50 000).
  :class:`RefTable` takes the list's place: a dict with the few list methods that the registry uses, each O(1).
- ``ThreadingFuture.get`` on the loop's thread would stop the loop, for ever if the answer has to come through it.
  Called there it raises :class:`~theater_tcp.errors.BlockingCall`; awaited there, or in an asyncio task, a helper
  thread does the waiting.
- ``Actor.start`` can't tell what became of ``on_start``; :func:`start_threading_actor` can.

And an actor that has ended doesn't tell why; :func:`ended_by_failure` does.

The self-test at the end runs at import and names pykka's version if one of these names has gone.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import threading
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakSet

import pykka
from pykka import ActorRegistry, ThreadingFuture
from pykka._envelope import Envelope
from pykka.messages import ProxyCall, ProxyGetAttr, ProxySetAttr, _ActorStop

from theater_tcp.errors import BlockingCall, LimitReached
from theater_tcp.event_loop import running_loop
from theater_tcp.future import Future, arrival_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

__all__ = [
    "STOP",
    "Envelope",
    "RefTable",
    "ended_by_failure",
    "install",
    "new_urn",
    "registry",
    "start_threading_actor",
    "unconstructed",
]

STOP = _ActorStop()
"""pykka's message that asks an actor to stop."""

_install_lock = threading.Lock()
_failed: WeakSet[pykka.ActorRef[Any]] = WeakSet()
_serials = itertools.count(1)


def _new_prefix() -> str:
    digits = os.urandom(9).hex()
    return f"urn:uuid:{digits[:8]}-{digits[8:12]}-4{digits[12:15]}-8{digits[15:18]}-"


_urn_prefix = _new_prefix()


def _renew_prefix() -> None:
    global _urn_prefix  # noqa: PLW0603  # a forked child must not give out its parent's names
    _urn_prefix = _new_prefix()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_prefix)


def new_urn() -> str:
    """A URN that pykka's users can treat as any other: a version-4 UUID (RFC 9562, 5.4) with 60 random bits for each
    process and a serial number in its last field, since ``uuid4()`` costs 4 µs."""
    return f"{_urn_prefix}{next(_serials):012x}"


class RefTable(dict[Any, None]):
    """A set in order of insertion with the list methods that ``ActorRegistry`` uses.

    Every method is one operation on the dict, atomic among threads, so that an actor on the loop may come and go
    without the registry's lock.
    """

    def append(self, ref: Any) -> None:
        """Add a reference at the end."""
        self[ref] = None

    def remove(self, ref: Any) -> None:
        """Remove a reference; a missing one is ignored, as it may have gone by another way."""
        self.pop(ref, None)

    def __getitem__(self, index: Any) -> Any:
        return list(dict.keys(self))[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(list(dict.keys(self)))


def install() -> None:
    """Put the stand-ins in their places. Harmless when they are there already.

    Raises:
        RuntimeError: this Python runs without a GIL. The table and the mailboxes have no locks of their own.
    """
    if not getattr(sys, "_is_gil_enabled", lambda: True)():  # from 3.13 on
        raise RuntimeError("a Theater counts on the GIL, which this Python runs without: PYTHON_GIL=1 brings it back")
    with _install_lock, ActorRegistry._actor_refs_lock:
        if not isinstance(ActorRegistry._actor_refs, RefTable):
            table = RefTable.fromkeys(ActorRegistry._actor_refs)
            ActorRegistry._actor_refs = cast("Any", table)
            ThreadingFuture.get = _guarded(ThreadingFuture.get)  # type: ignore[method-assign]
            ThreadingFuture.__await__ = _await_in_a_thread(ThreadingFuture.__await__)  # type: ignore[method-assign]
            pykka.Actor._handle_failure = _noted(pykka.Actor._handle_failure)  # type: ignore[method-assign]


def registry() -> RefTable:
    """pykka's table of living actors."""
    return cast("RefTable", ActorRegistry._actor_refs)


def ended_by_failure(ref: pykka.ActorRef[Any]) -> bool:
    """Whether an exception has ended an actor, whichever hook or handler raised it: pykka has logged it then."""
    return ref in _failed


def start_threading_actor(actor: pykka.Actor) -> Future[pykka.ActorRef[Any]]:
    """Start an actor that has been constructed, and tell what became of its ``on_start``.

    Args:
        actor: an actor of any class of pykka's; not started yet.

    Returns:
        a future of its reference, settled when ``on_start`` has returned, or failed with what it raised.
    """
    vars(actor)  # one __dict__ for two threads: see LoopActor._settle
    started: Future[pykka.ActorRef[Any]] = Future()
    on_start = actor.on_start

    def fail(error: BaseException) -> None:
        ActorRegistry.unregister(actor.actor_ref)  # as pykka does, but for the log: who spawned it is told
        actor.actor_stopped.set()
        actor._actor_loop_teardown()  # already, for what the actor has opened; and again at the end of its thread
        started.set_exception_value(error)

    def reporting() -> None:
        try:
            on_start()
        except BaseException as error:
            fail(error)
        else:
            started.set(actor.actor_ref)
        finally:
            del actor.on_start  # the class's own again

    actor.on_start = reporting  # type: ignore[method-assign]
    ActorRegistry.register(actor.actor_ref)
    try:
        actor._start_actor_loop()
    except RuntimeError as error:
        fail(LimitReached(f"threads: {error}"))
    return started


def unconstructed(actor_class: type[pykka.Actor]) -> RuntimeError:
    """The error for an actor that lacks what the constructor of its base would have made."""
    return RuntimeError(f"the constructor of {actor_class.__name__} does not call super().__init__()")


def _noted(handle_failure: Callable[..., None]) -> Callable[..., None]:
    def noted(self: pykka.Actor, *error: Any) -> None:
        _failed.add(self.actor_ref)
        handle_failure(self, *error)

    return noted


def _guarded(get: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(self: ThreadingFuture[Any], *, timeout: float | None = None) -> Any:
        if running_loop() is None:
            return get(self, timeout=timeout)
        try:
            return get(self, timeout=0)
        except pykka.Timeout:
            if self._result is not None:
                raise  # that is its outcome
            raise BlockingCall("get() of an unsettled future would block the event loop; await it instead") from None

    return guarded


def _in_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _await_in_a_thread(plain: Callable[..., Any]) -> Callable[..., Any]:
    def awaiting(self: ThreadingFuture[Any]) -> Generator[Any, Any, Any]:
        if running_loop() is None and not _in_asyncio():
            return cast("Generator[Any, Any, Any]", plain(self))
        return arrival_of(self).__await__()

    return awaiting


def _self_test() -> None:
    """Fail at import, with pykka's version, if a private name that is used here or in ``actor`` has changed."""
    used = [
        (pykka.Actor, "_create_actor_inbox"),
        (pykka.Actor, "_create_future"),
        (pykka.Actor, "_actor_loop_running"),
        (pykka.Actor, "_actor_loop_teardown"),
        (pykka.Actor, "_actor_loop_setup"),
        (pykka.Actor, "_handle_receive"),
        (pykka.Actor, "_handle_failure"),
        (pykka.Actor, "_stop"),
        (pykka.Actor, "_start_actor_loop"),
        (ActorRegistry, "_actor_refs"),
        (ActorRegistry, "_actor_refs_lock"),
    ]
    missing = [f"{owner.__name__}.{name}" for owner, name in used if not hasattr(owner, name)]
    sample = pykka.ThreadingActor()  # for what only instances have
    if not all(issubclass(message, tuple) for message in (_ActorStop, ProxyCall, ProxyGetAttr, ProxySetAttr)):
        missing.append("messages that are tuples")
    if not hasattr(sample, "_actor_ref"):
        missing.append("Actor._actor_ref")
    elif not hasattr(sample.actor_ref, "_actor_weakref"):
        missing.append("ActorRef._actor_weakref")
    envelope = Envelope(ProxyCall(attr_path=("x",), args=(), kwargs={}), reply_to=None)
    if not hasattr(envelope, "message") or not hasattr(envelope, "reply_to"):
        missing.append("Envelope.message/reply_to")
    if not hasattr(ThreadingFuture(), "_result"):
        missing.append("ThreadingFuture._result")
    if missing:
        raise ImportError(f"pykka {version('pykka')} is not supported: it has no {', '.join(missing)}")


_self_test()
