"""What the tests of the contract share: owners of every kind that record what they hear, and plain sockets as peers.

A :class:`Stage` is a running Theater with its owners and peers. Owners come in three kinds, so that one test holds for
all: ``loop`` (callbacks are ``def``), ``async`` (``async def``, suspended once before each callback) and ``thread`` (a
``ThreadingActor`` whose calls block). A test drives them by :meth:`Owner.call`, waits for what they hear by
:meth:`Owner.expect`, and gives them callbacks of its own as hooks.
"""

from __future__ import annotations

import inspect
import logging
import queue
import socket
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import pykka

from tests.peers import TIMEOUT, dial, eventually
from theater_tcp import Future, Settings, TcpActor, TcpMixin, Theater
from theater_tcp.ownership import CALLBACKS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

__all__ = [
    "KINDS",
    "Echo",
    "Heard",
    "Owner",
    "Stage",
    "let_pass",
    "outcome_of",
    "result_of",
    "settled",
]

KINDS = ("loop", "async", "thread")


class Heard(NamedTuple):
    """A callback that an owner got: its name, the connection's handle, and the data or reason."""

    name: str
    connection: Any
    value: Any = None


async def settled(outcome: Any) -> Any:
    """What a call of the interface gave, on the loop (a future) and on a thread (the value): hooks are written once."""
    return await outcome if isinstance(outcome, Future) else outcome


async def let_pass(stage: Stage, actor: Any) -> None:
    """Let the loop look at its sockets, from inside of a callback."""
    if hasattr(actor, "sleep"):
        await actor.sleep(0.02)
    else:
        stage.pass_turns()


class Script:
    """What an owner has heard, and what it does about it.

    Args:
        hooks: by the callback's name, what to call with the actor and the callback's arguments: ``def`` or ``async
            def``.
    """

    def __init__(self, hooks: dict[str, Callable[..., Any]]) -> None:
        self.hooks = hooks
        self.heard: queue.SimpleQueue[Heard] = queue.SimpleQueue()

    def hear(self, actor: Any, name: str, connection: Any = None, value: Any = None) -> Any:
        """Record a callback and run its hook; what an ``async def`` hook returns is for the caller to drive."""
        self.heard.put(Heard(name, connection, value))
        hook = self.hooks.get(name)
        return hook(actor, *(part for part in (connection, value) if part is not None)) if hook else None


class LoopProbe(TcpActor):
    """An owner on the loop with plain callbacks."""

    def __init__(self, script: Script) -> None:
        super().__init__()
        self.script = script

    def on_receive(self, message: Any) -> Any:
        return message(self)

    def handle_connection(self, connection: Any) -> Any:
        return self.script.hear(self, "handle_connection", connection)

    def handle_connection_transfer(self, connection: Any) -> Any:
        return self.script.hear(self, "handle_connection_transfer", connection)

    def on_data(self, connection: Any, data: bytes) -> Any:
        return self.script.hear(self, "on_data", connection, data)

    def on_passive(self, connection: Any) -> Any:
        return self.script.hear(self, "on_passive", connection)

    def on_close(self, connection: Any, reason: str) -> Any:
        return self.script.hear(self, "on_close", connection, reason)

    def on_drain(self) -> Any:
        return self.script.hear(self, "on_drain")


class AsyncProbe(TcpActor):
    """An owner on the loop whose callbacks wait."""

    def __init__(self, script: Script) -> None:
        super().__init__()
        self.script = script

    def on_receive(self, message: Any) -> Any:
        return message(self)

    async def handle_connection(self, connection: Any) -> None:
        await self.hear("handle_connection", connection)

    async def handle_connection_transfer(self, connection: Any) -> None:
        await self.hear("handle_connection_transfer", connection)

    async def on_data(self, connection: Any, data: bytes) -> None:
        await self.hear("on_data", connection, data)

    async def on_passive(self, connection: Any) -> None:
        await self.hear("on_passive", connection)

    async def on_close(self, connection: Any, reason: str) -> None:
        await self.hear("on_close", connection, reason)

    async def on_drain(self) -> None:
        await self.hear("on_drain", None)

    async def hear(self, name: str, connection: Any, value: Any = None) -> None:
        await self.sleep(0)
        outcome = self.script.hear(self, name, connection, value)
        if inspect.isawaitable(outcome):
            await outcome


def result_of(outcome: Any) -> Any:
    """What a hook gave, ``async def`` or not, where every call that it makes has waited already."""
    if not inspect.iscoroutine(outcome):
        return outcome
    try:
        outcome.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("a hook waited where everything blocks")


class ThreadProbe(TcpMixin, pykka.ThreadingActor):
    """An owner with a thread of its own. An ``async def`` hook never waits here: calls have blocked already."""

    use_daemon_thread = True

    def __init__(self, script: Script) -> None:
        super().__init__()
        self.script = script

    def on_receive(self, message: Any) -> Any:
        return result_of(message(self))

    def handle_connection(self, connection: Any) -> None:
        self.hear("handle_connection", connection)

    def handle_connection_transfer(self, connection: Any) -> None:
        self.hear("handle_connection_transfer", connection)

    def on_data(self, connection: Any, data: bytes) -> None:
        self.hear("on_data", connection, data)

    def on_passive(self, connection: Any) -> None:
        self.hear("on_passive", connection)

    def on_close(self, connection: Any, reason: str) -> None:
        self.hear("on_close", connection, reason)

    def on_drain(self) -> None:
        self.hear("on_drain", None)

    def hear(self, name: str, connection: Any, value: Any = None) -> None:
        result_of(self.script.hear(self, name, connection, value))


class Echo(TcpActor):
    """Sends back what it gets."""

    def handle_connection(self, connection: Any) -> None:
        connection.activate()
        connection.set_active("active")

    def on_data(self, connection: Any, data: bytes) -> None:
        connection.send(data)


PROBES: dict[str, type[Any]] = {"loop": LoopProbe, "async": AsyncProbe, "thread": ThreadProbe}


class Owner:
    """An actor of the stage, driven from the test's thread.

    Args:
        stage: where it lives.
        kind: one of :data:`KINDS`.
        without: callbacks that it does not implement.
        hooks: see :class:`Script`.
    """

    def __init__(self, stage: Stage, kind: str, without: Iterable[str], hooks: dict[str, Callable[..., Any]]) -> None:
        self.stage = stage
        self.kind = kind
        self.script = Script(hooks)
        actor_class = type("Owner", (PROBES[kind],), dict.fromkeys(without))
        self.ref: pykka.ActorRef[Any] = stage.theater.spawn(actor_class, self.script)

    def begin(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> pykka.Future[Any]:
        """Let the actor call something, without waiting for it; a ``receive`` or ``accept`` waits when this returns."""
        over: list[bool] = []
        before = _waiting(call)

        def run(_actor: Any) -> Any:
            try:
                return call(*args, **kwargs)
            finally:
                over.append(True)

        outcome = self.ref.ask(run, block=False)
        if before is not None:  # it is on its way from the actor's thread to the loop's
            eventually(lambda: bool(over) or _waiting(call) != before)
        return outcome

    def call(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Let the actor call something; returns what it returned or, on the loop, what the future of it held."""
        return outcome_of(self.begin(call, *args, **kwargs))

    def act(self, call: Callable[[Any], Any]) -> Any:
        """As :meth:`call`, with the actor as the argument; ``async def`` is driven to its end."""
        return outcome_of(self.ref.ask(call, block=False))

    def listen(self, address: str = "127.0.0.1:0", **options: Any) -> Any:
        """The handle of a new listener of this actor."""
        return self.act(lambda actor: actor.tcp.listen(address, **options))

    def connect(self, address: str, timeout: float | None = None, **options: Any) -> Any:
        """The handle of a new connection of this actor."""
        return self.act(lambda actor: actor.tcp.connect(address, timeout, **options))

    def meet(
        self, address: str = "127.0.0.1:0", mode: str | int = "pending", **options: Any
    ) -> tuple[Any, socket.socket]:
        """A new connection of this actor, accepted by a listener with these options, and its peer.

        Args:
            address: where to listen.
            mode: ``pending`` leaves it so; else it is activated and gets this data mode.
        """
        peer = self.stage.dial(self.listen(address, **options).address)
        connection = self.expect("handle_connection").connection
        if mode != "pending":
            self.call(connection.activate)
            self.call(connection.set_active, mode)
        return connection, peer

    def expect(self, name: str, *value: Any) -> Heard:
        """The next thing that the actor hears; it must be this callback, with this data or reason if one is given."""
        try:
            heard = self.script.heard.get(timeout=TIMEOUT)
        except queue.Empty:
            raise AssertionError(f"nothing was heard for {TIMEOUT:g} s, {name}{value} was expected") from None
        fits = heard.name == name and value in ((), (heard.value,))
        assert fits, f"heard {heard}, expected {name}{value}"
        return heard

    def collect(self, size: int) -> bytes:
        """The data of as many ``on_data`` as make up ``size`` bytes."""
        data = b""
        while len(data) < size:
            data += self.expect("on_data").value
        assert len(data) == size
        return data

    def hears_nothing(self) -> None:
        """Everything that is on its way has arrived, and none of it is a callback of this actor."""
        self.stage.pass_turns()
        self.call(lambda: None)
        self.stage.pass_turns()
        self.call(lambda: None)
        left = []
        while not self.script.heard.empty():
            left.append(self.script.heard.get())
        assert not left


class Stage:
    """A running Theater with owners and peers. Nothing that the runtime logs as an error may go unforeseen.

    Args:
        settings: of the Theater; by default those of the contract, but without time to drain.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.theater = Theater(settings if settings is not None else Settings(drain_timeout=0)).start()
        self.peers: list[socket.socket] = []
        self.log = _Log()
        self.foreseen: set[str] = set()
        logging.getLogger("theater_tcp").addHandler(self.log)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(check=kind is None)

    def close(self, check: bool = True) -> None:
        """End everything."""
        for peer in self.peers:
            peer.close()
        self.theater.shutdown(0)
        logging.getLogger("theater_tcp").removeHandler(self.log)
        if check:
            assert not [line for name, line in self.log.errors if name not in self.foreseen]

    def foresee_callback_failures(self) -> None:
        """The test lets callbacks raise."""
        self.foreseen.add("theater_tcp.connection")

    def owner(self, kind: str = "loop", *, without: Iterable[str] = (), **hooks: Callable[..., Any]) -> Owner:
        """A new actor; see :class:`Owner`."""
        assert set(hooks) | set(without) <= set(CALLBACKS)
        return Owner(self, kind, without, hooks)

    def dial(self, address: str) -> socket.socket:
        """A plain socket connected to a listener's address; closed with the stage."""
        peer = dial(address)
        self.peers.append(peer)
        return peer

    def pass_turns(self, turns: int = 5) -> None:
        """Let the event loop look at its sockets a few times."""
        for _ in range(turns):
            looked: Future[None] = Future()
            self.theater.loop.submit(lambda: None, into=looked)
            looked.get(timeout=TIMEOUT)


def _waiting(call: Callable[..., Any]) -> int | None:
    """How many calls as this one wait at the connection or listener that it is of; None for calls that don't wait."""
    name, core = getattr(call, "__name__", ""), getattr(getattr(call, "__self__", None), "_core", None)
    if core is None or name not in {"receive", "accept"}:
        return None
    return len(core._accepts) if name == "accept" else int(core._receiver is not None)


class _Log(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[tuple[str, str]] = []
        self.errors: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        line = logging.Formatter().format(record)
        self.lines.append((record.name, line))
        if record.levelno >= logging.ERROR:
            self.errors.append((record.name, line))


def outcome_of(future: Any) -> Any:
    """What :meth:`Owner.begin` led to; a future in a future is followed."""
    while isinstance(future, pykka.Future):
        future = future.get(timeout=TIMEOUT)
    return future
