"""What the functions that a guest imports do, by whichever road its calls come.

One :class:`GuestCalls` for each guest. A method takes and returns plain Python values, raises a
:class:`~theater_tcp.errors.TheaterError` for the error of the interface's ``result``, and returns a
:class:`~theater_tcp.future.Future` where the guest has to wait. Ids are texts, looked up among what the guest owns;
so a guest can't even ask about what isn't its own.
"""

from __future__ import annotations

import logging
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from theater_tcp.errors import InvalidArgument, LimitReached, NotFound, NotOwner, ShutDown, TheaterError
from theater_tcp.fields import check_field, from_text, unknown_name
from theater_tcp.future import Future
from theater_tcp.guest.interface import PACKAGE
from theater_tcp.log_allowance import LogAllowance
from theater_tcp.settings import Options

if TYPE_CHECKING:
    from collections.abc import Callable

    from theater_tcp.guest.wit_types import Function
    from theater_tcp.guest_settings import Limits
    from theater_tcp.ownership import Owner
    from theater_tcp.tcp import ConnectionHandle, ListenerHandle, Tcp

__all__ = ["ARRIVES", "GuestCalls", "method_of"]

logger = logging.getLogger("theater_tcp.guest")

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
"""The cases of ``runtime.level``."""

ARRIVES: Any = type("Arrives", (), {"__repr__": lambda _: "ARRIVES"})()
"""What ``receive`` gives in place of a future where the data will be told to :attr:`GuestCalls.arrival`."""

MAX_LOG_LINE = 4096
"""Characters of a guest's line in the log."""

MAX_TEXT = 1024
"""Characters of a text that names something: an address, a mode, an option. What is longer isn't even looked at."""

MAX_SHOWN = 100
"""Characters of an unknown id that an error shows."""

MAX_COUNT_DIGITS = 5

BUFFERS = frozenset({"read_buffer_limit", "write_buffer_limit", "write_buffer_hard_limit"})
"""Options by which a connection costs memory of the host: a guest may lower them, and raise them up to what they were.
A frame is never longer than ``read_buffer_limit``."""


class GuestCalls:
    """The host's side of one guest.

    Args:
        name: what the log calls the guest.
        tcp: its interface to TCP.
        owner: it, as an owner of connections and listeners.
        limits: what it may use.
        shut_down: called when the guest asks for its own end.
    """

    __slots__ = (
        "_allowance",
        "_drained",
        "_limits",
        "_name",
        "_owner",
        "_shut_down",
        "_tcp",
        "arrival",
        "handles",
        "listeners",
    )

    def __init__(self, name: str, tcp: Tcp, owner: Owner, limits: Limits, shut_down: Callable[[], None]) -> None:
        self._name = name
        self._tcp = tcp
        self._owner = owner
        self._limits = limits
        self._shut_down = shut_down
        self.handles: dict[str, ConnectionHandle] = {}
        """The connections that the guest knows of, by id."""
        self.arrival: Any = None
        """Is told what a ``receive`` waited for, as a future is settled; without it there is a future for each."""
        self.listeners: dict[str, ListenerHandle] = {}
        self._drained: set[str] | None = None  # the connections whose guest was told that the runtime is about to end
        self._allowance = LogAllowance(limits.log_lines)

    # -- tcp ------------------------------------------------------------------------------------------------------

    def connect(self, address: str) -> Future[str]:
        """``tcp.connect``."""
        self._check_room()
        return self._told(self._tcp.connect(_short(address)))

    def listen(self, address: str) -> str:
        """``tcp.listen``."""
        if len(self._owner.listeners) >= self._limits.listeners:
            raise LimitReached(f"a guest may have {self._limits.listeners} listeners")
        return self.add_listener(self._tcp.listen(_short(address), **self.listen_limits()))

    def accept(self, listener_id: str) -> Future[str]:
        """``tcp.accept``."""
        self._check_room()
        return self._told(self._listener(listener_id).accept())

    def activate(self, connection_id: str) -> None:
        """``tcp.activate``."""
        self._connection(connection_id).activate()

    def set_active(self, connection_id: str, mode: str) -> None:
        """``tcp.set-active``."""
        counts = mode.isascii() and mode.isdecimal() and len(mode) <= MAX_COUNT_DIGITS
        self._connection(connection_id).set_active(int(mode) if counts else _short(mode))

    def transfer(self, connection_id: str, target: str) -> None:
        """``tcp.transfer``."""
        handle = self._connection(connection_id)
        handle.transfer(_short(target))
        if self.handles.get(connection_id) is handle and handle._core.owner is not self._owner:
            del self.handles[connection_id]

    def peer_address(self, connection_id: str) -> str:
        """``tcp.peer-address``."""
        return self._connection(connection_id).peer_address

    def send(self, connection_id: str, data: bytes) -> int | Future[int]:
        """``tcp.send``: at once where there is room, else when there is."""
        handle = self.handles.get(connection_id)
        if handle is None:
            raise self._stranger(connection_id)
        core = handle._core
        if core.output is None and len(data) <= core.options.write_buffer_limit:
            return handle.send(data)
        core.check_owner(handle)
        sent = core.send_in_pieces(handle, data)
        return sent.get() if sent.done else sent

    def send_view(self, connection_id: str, data: memoryview) -> int | Future[int]:
        """:meth:`send` of what still lies in the guest's memory: the kernel takes it from there."""
        handle = self.handles.get(connection_id)
        if handle is None:
            raise self._stranger(connection_id)
        core = handle._core
        if not core.sends_directly or core.handle is not handle or len(data) > core.options.write_buffer_limit:
            return self.send(connection_id, data.tobytes())
        return core.send_directly(data)

    def receive(self, connection_id: str, max_bytes: int) -> Any:
        """``tcp.receive``."""
        handle = self.handles.get(connection_id)
        if handle is None:
            raise self._stranger(connection_id)
        if self._drained is not None and connection_id not in self._drained:
            self._drained.add(connection_id)
            raise ShutDown
        outcome = handle._core.receive(handle, max_bytes, None, self.arrival)
        return ARRIVES if outcome is self.arrival and outcome is not None else outcome

    def close(self, connection_id: str) -> None:
        """``tcp.close``."""
        self._connection(connection_id).close()
        self.forget(connection_id)

    def close_listener(self, listener_id: str) -> None:
        """``tcp.close-listener``."""
        self._listener(listener_id).close()
        del self.listeners[listener_id]

    def upgrade_to_tls_server(self, connection_id: str) -> Future[None]:
        """``tcp.upgrade-to-tls-server``."""
        return self._connection(connection_id).upgrade_to_tls_server()

    def upgrade_to_tls_client(self, connection_id: str, server_name: str) -> Future[None]:
        """``tcp.upgrade-to-tls-client``."""
        return self._connection(connection_id).upgrade_to_tls_client(_short(server_name))

    # -- tcp-ext --------------------------------------------------------------------------------------------------

    def local_address(self, connection_id: str) -> str:
        """``tcp-ext.local-address``."""
        return self._connection(connection_id).local_address

    def listener_address(self, listener_id: str) -> str:
        """``tcp-ext.listener-address``."""
        return self._listener(listener_id).address

    def shutdown_write(self, connection_id: str) -> None:
        """``tcp-ext.shutdown-write``."""
        self._connection(connection_id).shutdown_write()

    def abort(self, connection_id: str) -> None:
        """``tcp-ext.abort``."""
        self._connection(connection_id).abort()
        self.forget(connection_id)

    def set_framing(self, connection_id: str, framing: str, max_frame: int) -> None:
        """``tcp-ext.set-framing``."""
        self._connection(connection_id).set_framing(_short(framing), max_frame or None)

    def set_option(self, connection_id: str, name: str, value: str) -> None:
        """``tcp-ext.set-option``: by the name and in the units of a manifest."""
        handle: Any = self._connection(connection_id)
        if name in ("server_tls", "client_tls"):
            raise InvalidArgument(f"{name}: certificates are for the manifest to name")
        if name not in Options.field_names():  # also what Python would take for a parameter of its own
            raise unknown_name(_short(name), Options.field_names())
        option = _option(name, _short(value))
        if name in BUFFERS:
            check_field(Options, name, option)
            most = getattr(handle.began, name)
            if option > most:
                raise LimitReached(f"{name}: {option} is above {most}, with which the guest got the connection")
        handle.set_options(**{name: option})

    def tls_info(self, connection_id: str) -> dict[str, Any] | None:
        """``tcp-ext.tls-info``: the record, or None."""
        info = self._connection(connection_id).tls_info
        if info is None:
            return None
        certificate = info.peer_certificate
        shown = (
            {
                "subject": certificate.subject,
                "issuer": certificate.issuer,
                "names": list(certificate.names),
                "fingerprint": certificate.fingerprint,
            }
            if certificate is not None
            else None
        )
        return {
            "version": info.version,
            "cipher": info.cipher,
            "alpn": info.alpn,
            "server-name": info.server_name,
            "resumed": info.resumed,
            "peer-certificate": shown,
        }

    def tls_available(self, connection_id: str) -> bool:
        """``tcp-ext.tls-available``."""
        return self._connection(connection_id).tls_available

    # -- runtime and clock ----------------------------------------------------------------------------------------

    def log(self, level: str, message: str) -> None:
        """``runtime.log``: one line, whatever is in the message, and not too many."""
        if not self._allowance.take(time.monotonic()):
            return
        self.tell_dropped()
        text = message[:MAX_LOG_LINE]
        if not text.isprintable():
            text = text.encode("unicode_escape").decode("ascii")
        logger.log(LEVELS[level], "%s: %s", self._name, text)

    def self_id(self) -> str:
        """``runtime.self``."""
        return self._owner.actor.actor_urn

    def shutdown(self) -> None:
        """``runtime.shutdown``."""
        self._shut_down()

    def now(self) -> int:
        """``clock.now``: milliseconds since the epoch."""
        return time.time_ns() // 1_000_000

    # -- for the actor --------------------------------------------------------------------------------------------

    def tell_dropped(self) -> None:
        """Log how many lines of the guest's were not logged since the last time."""
        dropped = self._allowance.dropped()
        if dropped:
            logger.warning("%s: %d lines of its log were dropped", self._name, dropped)

    def learn(self, handle: ConnectionHandle) -> str:
        """The guest hears of a connection; its id."""
        connection_id = handle.id
        self.handles[connection_id] = handle
        return connection_id

    def forget(self, connection_id: str) -> None:
        """A connection isn't the guest's any more."""
        self.handles.pop(connection_id, None)

    def add_listener(self, handle: ListenerHandle) -> str:
        """The guest has a listener; its id."""
        self.listeners[handle.id] = handle
        return handle.id

    def listen_limits(self) -> dict[str, Any]:
        """The options of a listener of this guest that come from its limits: no more connections than it may own."""
        own = self._owner.settings.listener.max_connections
        limit = self._limits.connections
        return {"max_connections": limit if own is None else min(own, limit)}

    def drain(self) -> None:
        """The runtime is about to end: one ``receive`` of each connection, the one that waits or else the next, is
        ``shutdown``, so that the guest can say goodbye; the connection goes on."""
        self._drained = {
            name for name, handle in list(self.handles.items()) if handle._core.interrupt_receive(ShutDown())
        }

    # -- inside ---------------------------------------------------------------------------------------------------

    def _connection(self, connection_id: str) -> ConnectionHandle:
        handle = self.handles.get(connection_id)
        if handle is None:
            raise self._stranger(connection_id)
        return handle

    def _listener(self, listener_id: str) -> ListenerHandle:
        handle = self.listeners.get(listener_id)
        if handle is not None:
            return handle
        if listener_id in self._tcp.network.listeners:
            raise NotOwner(listener_id)
        raise NotFound(listener_id[:MAX_SHOWN])

    def _stranger(self, connection_id: str) -> TheaterError:
        for connection in self._tcp.network.connections:
            if connection.known_as(connection_id):
                return NotOwner(connection_id)
        return NotFound(connection_id[:MAX_SHOWN])

    def _check_room(self) -> None:
        if len(self._owner.connections) >= self._limits.connections:
            raise LimitReached(f"a guest may have {self._limits.connections} connections")

    def _told(self, opened: Future[ConnectionHandle]) -> Future[str]:
        """A future of the id in place of the handle."""
        told: Future[str] = Future()

        def settle(_: Future[ConnectionHandle]) -> None:
            try:
                told.set(self.learn(opened.get()))
            except TheaterError as error:
                told.set_exception_value(error)

        opened.on_done(settle)
        return told


def method_of(function: Function) -> Callable[..., Any]:
    """What does a function of the interface: a method of :class:`GuestCalls`, mostly of the same name."""
    name = "self_id" if function.full_name == f"{PACKAGE}/runtime#self" else function.name.replace("-", "_")
    method: Callable[..., Any] = getattr(GuestCalls, name)
    return method


def _short(text: str) -> str:
    """A text that names something, which nothing of any length does.

    Raises:
        InvalidArgument: it is longer than :data:`MAX_TEXT`.
    """
    if len(text) > MAX_TEXT:
        raise InvalidArgument(f"a text of more than {MAX_TEXT} characters")
    return text


WORDS = {"true": True, "false": False, "null": None, "none": None}
"""What these mean as the value of an option, as in a manifest."""


@lru_cache(maxsize=256)  # a guest says the same of each of its connections
def _option(name: str, text: str) -> Any:
    """The value of an option, from the way a manifest has it."""
    text = text.strip()
    value: Any = WORDS.get(text.lower(), text)
    for number in (int, float):
        try:
            value = number(text)
        except ValueError:
            continue
        break
    return from_text(Options, name, value)
