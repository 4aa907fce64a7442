"""The Theater: one runtime with its event loop, its actors, and an orderly way down.

The way down has one road (:mod:`theater_tcp.drain`). The listeners close; every actor that implements ``on_drain``
hears that it is time to finish; the connections have ``drain_timeout`` seconds to end by themselves; what is left is
reset, and its owner hears ``shutdown``. Then the actors are stopped, the last one first, and the loop ends.
"""

from __future__ import annotations

import logging
import threading
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar
from weakref import WeakSet

import msgspec
import pykka

from theater_tcp import pykka_internals
from theater_tcp.actor import LoopActor, hosting
from theater_tcp.actor_class import check_actor_class
from theater_tcp.asyncio_bridge import CompanionLoop
from theater_tcp.blocking import BlockingListenerHandle, TcpMixin
from theater_tcp.drain import Drain, is_there, loop_actor_of, loop_of
from theater_tcp.errors import BlockingCall, LimitReached, ShutDown
from theater_tcp.event_loop import EventLoop, running_loop
from theater_tcp.fields import check_field
from theater_tcp.future import Future, refuse_to_block
from theater_tcp.guest import guests_of
from theater_tcp.guest_settings import GuestOptions, Limits, as_config
from theater_tcp.listener import info_of
from theater_tcp.metrics import Metrics
from theater_tcp.network import Network
from theater_tcp.opening import open_listener
from theater_tcp.ownership import own_settings
from theater_tcp.permissions import NO_PERMISSIONS, Permissions
from theater_tcp.settings import Settings, checked_settings
from theater_tcp.tcp import ListenerHandle, TcpActor

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Mapping

    from theater_tcp.guest.guest_actor import GuestProgram
    from theater_tcp.guest.guests import Guests
    from theater_tcp.listener import ListenerInfo

__all__ = ["Theater"]

logger = logging.getLogger("theater_tcp.runtime")

A = TypeVar("A", bound=pykka.Actor)


class Theater:
    """A runtime: an event loop, and the actors and connections on it.

    Args:
        settings: limits and timeouts; the defaults when absent.
        name: names the threads and the log lines.
        loop: the event loop to run; one of its own when absent. :mod:`theater_tcp.testing` steps one by hand.

    It runs on a thread of its own (:meth:`start`, or ``with Theater() as theater``) or on the caller's (:meth:`run`),
    once.
    """

    def __init__(self, settings: Settings | None = None, name: str = "theater", loop: EventLoop | None = None) -> None:
        pykka_internals.install()
        self.name = name
        self.settings = Settings() if settings is None else checked_settings(settings)
        self.loop = loop if loop is not None else EventLoop(name=name)
        self.network = Network(self.loop, self.settings)
        self.ownership = self.network.ownership
        self._with_threads: WeakSet[pykka.ActorRef[Any]] = WeakSet()
        self._companion = CompanionLoop(f"{name}-asyncio")
        self._thread: threading.Thread | None = None
        self._began = False
        self._lock = threading.RLock()  # a signal handler may interrupt its holder, and ask for it
        self._stopped = threading.Event()
        self._drain: Drain | None = None
        self._failure: BaseException | None = None
        self._tokens: list[Any] = []
        self._guests: Guests | None = None

    def __repr__(self) -> str:
        return f"<Theater {self.name}>"

    # -- running ------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Run the event loop on a thread of its own."""
        self._begin()
        thread = threading.Thread(target=self._run_loop, name=self.name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the system has no more
            self._close()
            raise LimitReached(f"threads: {error}") from None
        self._thread = thread
        return self

    def run(self, first: Callable[[], object] | None = None) -> None:
        """Run the event loop on the calling thread; returns when the runtime has gone down.

        Args:
            first: called on the loop before anything else, to spawn the first actors. A future that it returns
                (``lambda: theater.spawn_async(Echo)``) is followed.

        Raises:
            Exception: what ``first`` raised, or its future failed with; the runtime has gone down then.
        """
        self._begin()
        began: Future[Any] = Future()
        if first is not None:
            began.on_done(lambda _: self.request_shutdown(0) if began.failed else None)
            self.loop.submit(first, into=began)
        self._run_loop()
        if began.failed:
            began.get()
        if self._failure is not None:
            raise self._failure

    def wait(self, timeout: float | None = None) -> bool:
        """Whether the runtime has gone down: waits for that, or an interrupt (SIGINT), at most ``timeout`` seconds."""
        self._refuse_on_loop("wait()")
        try:
            return self._stopped.wait(timeout)
        except KeyboardInterrupt:
            return self._stopped.is_set()

    def shutdown(self, drain_timeout: float | None = None) -> bool:
        """Go down, and wait for it.

        Args:
            drain_timeout: seconds that connections have to end; by default the setting of that name. Zero resets them
                at once. A second call can only make the time shorter.

        Returns:
            whether every connection ended by itself.

        Raises:
            InvalidArgument: the time is none.
            RuntimeError: the event loop had failed.
        """
        self._refuse_on_loop("shutdown()")
        self.request_shutdown(drain_timeout)
        self._stopped.wait()
        if self._thread is not None:
            self._thread.join()
        if self._failure is not None:
            raise RuntimeError(f"the event loop of {self!r} failed") from self._failure
        return self._drain is None or self._drain.clean

    def request_shutdown(self, drain_timeout: float | None = None) -> None:
        """Begin to go down, without waiting. From any thread, or a signal handler. See :meth:`shutdown`."""
        if drain_timeout is not None:
            check_field(Settings, "drain_timeout", drain_timeout)
        with self._lock:
            if not self._began:
                self._began = True
                self._close()
                return
        timeout = self.settings.drain_timeout if drain_timeout is None else drain_timeout
        self.loop.call_soon(partial(self._begin_drain, timeout))

    def __enter__(self) -> Self:
        self.start()
        self._tokens.append(hosting.set(self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        hosting.reset(self._tokens.pop())
        self.shutdown(0 if error is not None else None)

    # -- actors ---------------------------------------------------------------------------------------------------

    def spawn(self, actor_class: type[A], *args: Any, **kwargs: Any) -> pykka.ActorRef[A]:
        """Start an actor in this runtime; returns when its ``on_start`` has.

        Args:
            actor_class: any class of pykka actors.
            args, kwargs: for its constructor.

        Raises:
            InvalidArgument: the class is no actor's.
            ShutDown: the runtime is going down.
            BlockingCall: on the loop's own thread, where ``on_start`` has to wait: ``await spawn_async(...)`` there.
            Exception: what the constructor or ``on_start`` raised; the actor has ended then.
        """
        here = running_loop()
        check_actor_class(actor_class)
        if here is not None and (here is not self.loop or not issubclass(actor_class, LoopActor)):
            raise BlockingCall(f"spawn() waits for {actor_class.__name__}: use `await spawn_async(...)` on the loop")
        actor = self._construct(actor_class, args, kwargs)
        started = self._start(actor)
        if here is not None and not started.done:
            actor.actor_ref.stop(block=False)
            started.on_done(is_there)  # it is no failure that nobody heard of
            raise BlockingCall(f"on_start of {actor_class.__name__} waits: use `await spawn_async(...)` on the loop")
        return started.get()

    def spawn_async(self, actor_class: type[A], *args: Any, **kwargs: Any) -> Future[pykka.ActorRef[A]]:
        """A future of the reference, settled when ``on_start`` has returned. See :meth:`spawn`."""
        return self._start(self._construct(actor_class, args, kwargs))

    def spawn_with(self, settings: Settings, actor_class: type[A], *args: Any, **kwargs: Any) -> pykka.ActorRef[A]:
        """As :meth:`spawn`, with the actor's own settings in place of the runtime's for what it opens.

        Args:
            settings: whose ``options``, ``listener`` and ``connect_timeout`` the actor's connections and listeners have
                where it says nothing else, and whose ``permissions`` hold for it. What is counted or shared by all
                actors stays the runtime's.
            actor_class, args, kwargs: see :meth:`spawn`.

        Raises:
            InvalidArgument: something is wrong with a file that the TLS settings name; nothing has been started.
            Exception: see :meth:`spawn`.
        """
        checked_settings(settings)
        self._check_running()
        if running_loop() is self.loop:
            self.network.credentials.prepare(settings.options)
        else:
            prepared: Future[None] = Future()
            self.loop.submit(self.network.credentials.prepare, settings.options, into=prepared)
            prepared.get()
        token = own_settings.set(settings)
        try:
            return self.spawn(actor_class, *args, **kwargs)
        finally:
            own_settings.reset(token)

    def load_guest(self, guest: str | Path | bytes, grants: Collection[str] = ()) -> GuestProgram:
        """A compiled WebAssembly guest, for :meth:`spawn_guest`. The same content is compiled once.

        Args:
            guest: the path of a file, or what is in it: a component or a core module.
            grants: the interfaces that it may import beyond the usual ones: ``clock``, ``wasi``.

        Raises:
            InvalidArgument: it is no guest, or imports what isn't granted.
            BlockingCall: on an event loop's thread.
        """
        return self._guests_here().load(guest, grants)

    def spawn_guest(
        self,
        guest: str | Path | bytes | GuestProgram,
        config: bytes | str | Mapping[str, Any] | None = None,
        *,
        name: str | None = None,
        grants: Collection[str] = (),
        limits: Limits | None = None,
        per_connection: bool = False,
        pool: int = 0,
        recycle_after: int = 100,
        permissions: Permissions | None = NO_PERMISSIONS,
        settings: Settings | None = None,
    ) -> pykka.ActorRef[Any]:
        """Start a WebAssembly guest; returns when its ``init`` has.

        Args:
            guest: the path of a file, what is in it, or what :meth:`load_guest` gave.
            config: for its ``init``: bytes, a text, or a mapping, which it gets as JSON.
            name: what the log calls it, and other guests in ``transfer``; no other living actor may have it.
            grants: see :meth:`load_guest`.
            limits: what it may use; the defaults when absent.
            per_connection: a new guest for each connection, instead of one for all.
            pool: with ``per_connection``, how many guests are kept warm.
            recycle_after: with ``pool``, connections that a guest serves before it is replaced.
            permissions: what it may connect to and listen at by itself: nothing, where nothing is said; None is
                everything.
            settings: its options, see :meth:`spawn_with`; the runtime's when absent.

        Returns:
            the reference of the actor that takes connections for the guest.

        Raises:
            InvalidArgument: see :meth:`load_guest`; or an argument is wrong.
            TheaterError: its ``init`` failed, or it broke a limit.
        """
        self._check_running()
        own = (self.settings if settings is None else checked_settings(settings)).replaced(permissions=permissions)
        options = GuestOptions(
            name="guest" if name is None else name,
            grants=grants,  # type: ignore[arg-type]  # it keeps a tuple
            limits=Limits() if limits is None else limits,
            per_connection=per_connection,
            pool=pool,
            recycle_after=recycle_after,
        )
        if name is not None:
            self.ownership.refuse_name(name)
        guests = self._guests_here()
        actor_class, arguments = guests.actor_for(guests.load(guest, grants), as_config(config), options)
        ref = self.spawn_with(own, actor_class, *arguments)
        if name is not None:
            self.ownership.name(name, ref.actor_urn)
        return ref

    def listen_for(self, actor_ref: pykka.ActorRef[Any], address: str, **options: Any) -> ListenerInfo:
        """Open a listener on behalf of an actor, which owns it and gets its connections; its permissions don't count.

        Args:
            actor_ref: an actor of this runtime.
            address, options: see :meth:`theater_tcp.tcp.Tcp.listen`.
        """
        self._check_running()
        if running_loop() is self.loop:
            return self._listen_for(actor_ref, address, options)
        refuse_to_block("listen_for() from another runtime's loop")
        info: Future[ListenerInfo] = Future()
        self.loop.submit(self._listen_for, actor_ref, address, options, into=info)
        return info.get()

    def to_thread(self, call: Callable[..., Any], *args: Any) -> Future[Any]:
        """A future of ``call(*args)``, done by a worker thread. Any thread may ask."""
        outcome: Future[Any] = Future()
        self.network.workers.submit(call, args, outcome)
        return outcome

    def run_asyncio(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
        """A future of what an asyncio coroutine returns; it runs on the companion loop. Any thread may ask."""
        return self._companion.run(coroutine)

    def reload_certificates(self) -> None:
        """Look at all certificate files now, instead of at the end of their ``reload`` interval. From any thread.

        Changed files are taken up for the handshakes to come; wrong ones are refused with a line in the log, and what
        was there before is kept.
        """
        self.loop.call_soon(self.network.credentials.refresh)

    # -- looking ------------------------------------------------------------------------------------------------

    def metrics(self) -> Metrics:
        """What has been counted so far: a copy."""
        metrics = msgspec.structs.replace(self.network.metrics)
        metrics.listeners = len(self.network.listeners)
        metrics.connections = metrics.accepted + metrics.connected - metrics.closed
        return metrics

    def listeners(self) -> list[ListenerInfo]:
        """The open listeners."""
        listeners = list(self.network.listeners.values())  # whose owners the loop may take away from now on
        return [info_of(listener, owner) for listener in listeners if (owner := listener.owner) is not None]

    # -- inside ---------------------------------------------------------------------------------------------------

    def _guests_here(self) -> Guests:
        with self._lock:
            if self._guests is None:
                self._guests = guests_of(self.name, self.settings)
            return self._guests

    def _begin(self) -> None:
        with self._lock:
            if self._began:
                raise RuntimeError(f"{self!r} runs or ran already; make another one")
            self.network.credentials.prepare(self.settings.options)  # nothing starts without the TLS it was to have
            self._began = True

    def _run_loop(self) -> None:
        token = hosting.set(self)
        try:
            self.loop.run()
        except BaseException as error:
            self._failure = error
            if not isinstance(error, KeyboardInterrupt):  # Ctrl-C on the thread of run() is no surprise
                logger.critical("the event loop failed", exc_info=error)
            self.request_shutdown(0)
            self.loop.run()  # nothing is left open: the same way down, in a hurry
        finally:
            hosting.reset(token)
            self._close()

    def _close(self) -> None:
        self.network.draining = True
        self.network.connector.close()
        self.loop.close()
        for task in list(self.loop.tasks):
            task.cancel(ShutDown())
        for ref in self._living():  # what did not even end now
            if (actor := loop_actor_of(ref)) is not None:
                actor.actor_abandon()
        self._companion.close()
        if self._guests is not None:
            self._guests.close()
        self.network.workers.close()
        self._stopped.set()

    def _construct(self, actor_class: type[A], args: tuple[Any, ...], kwargs: dict[str, Any]) -> A:
        check_actor_class(actor_class)
        self._check_running()
        token = hosting.set(self)
        try:
            actor = actor_class(*args, **kwargs)
        finally:
            hosting.reset(token)
        if not hasattr(actor, "_theater_owner" if isinstance(actor, (TcpActor, TcpMixin)) else "_actor_ref"):
            raise pykka_internals.unconstructed(actor_class)
        return actor

    def _check_running(self) -> None:
        if self.network.draining or self._stopped.is_set():
            raise ShutDown
        if not self._began:
            raise RuntimeError(f"{self!r} does not run yet: start() it first")

    def _start(self, actor: pykka.Actor) -> Future[pykka.ActorRef[Any]]:
        if isinstance(actor, LoopActor):
            if running_loop() is self.loop:
                return self._start_on_loop(actor)
            started: Future[pykka.ActorRef[Any]] = Future()
            self.loop.submit(self._start_on_loop, actor, into=started)  # fails if the loop ends before
            return started
        with self._lock:  # the way down comes before, or finds it
            if self.network.draining:
                raise ShutDown
            self._with_threads.add(actor.actor_ref)
            return pykka_internals.start_threading_actor(actor)

    def _start_on_loop(self, actor: LoopActor) -> Future[pykka.ActorRef[Any]]:
        if self.network.draining:
            raise ShutDown
        return actor.actor_launch_now()

    def _listen_for(self, actor_ref: pykka.ActorRef[Any], address: str, options: dict[str, Any]) -> ListenerInfo:
        owner = self.ownership.resolve(actor_ref)
        handles: Any = ListenerHandle if owner.loop_actor is not None else BlockingListenerHandle
        return info_of(open_listener(self.network, owner, address, options, handles, granted=True), owner)

    def _refuse_on_loop(self, what: str) -> None:
        if running_loop() is not None:
            raise BlockingCall(f"{what} on the event loop's own thread would block it: use request_shutdown()")

    def _begin_drain(self, timeout: float) -> None:
        if self._drain is None:
            self._drain = Drain(self.network, self._living, timeout)
        else:
            self._drain.shorten(timeout)

    def _living(self) -> list[pykka.ActorRef[Any]]:
        """Every actor of this runtime, however it was started, in the order of the starts."""
        with self._lock:
            own = {*self._with_threads, *(owner.actor.actor_ref for owner in self.ownership.owners())}
            return [ref for ref in pykka_internals.registry() if ref in own or loop_of(ref) is self.loop]
