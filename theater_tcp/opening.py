"""``listen`` and ``connect`` for an owner of whatever kind, as far as its permissions go.

Whoever opens a socket for an actor comes through here, so this is the one place where permissions are heeded. A refusal
is the error ``denied``, a count, and a warning in the log with the actor, the address and the reason, for so many in a
second. It comes before a name is asked for that no pattern allows, and in every case before a packet goes to the peer.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from theater_tcp.address import Address, HostPort, parse
from theater_tcp.connection import Connection
from theater_tcp.connection_state import OPEN
from theater_tcp.errors import Denied, InvalidArgument, ShutDown, TheaterError
from theater_tcp.event_loop import running_loop
from theater_tcp.fields import check_field
from theater_tcp.future import Future
from theater_tcp.listener import Listener
from theater_tcp.log_allowance import LogAllowance
from theater_tcp.settings import Settings
from theater_tcp.socket_options import apply_to_socket

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from theater_tcp.connector import Target
    from theater_tcp.network import Network
    from theater_tcp.ownership import Owner
    from theater_tcp.permissions import Permissions

__all__ = ["open_connection", "open_listener"]

logger = logging.getLogger("theater_tcp.permissions")

MAX_REFUSALS = 10
"""Refusals of one owner that are logged in a second: an actor that isn't trusted may ask as often as it likes."""


def open_listener(
    network: Network,
    owner: Owner,
    address: str,
    options: dict[str, Any],
    make_handle: Callable[[Listener], Any],
    *,
    granted: bool = False,
) -> Listener:
    """Listen for an owner. On the loop's thread.

    Args:
        network: where.
        owner: who gets the listener and its connections.
        address: see :meth:`theater_tcp.tcp.Tcp.listen`, as for ``options``.
        options: what the call named.
        make_handle: makes the owner's handle.
        granted: the application itself wants it so, on the owner's behalf: the owner's permissions don't count.
    """
    _check_thread(network, "listen")
    if network.draining or not owner.alive:
        raise ShutDown
    parsed = parse(address, listening=True)
    permissions = owner.settings.permissions
    if permissions is not None and not granted:
        why = permissions.why_not_listen(parsed)
        if why:
            raise _refused(network, owner, "listen at", parsed, why)
    for_connections, for_listener = owner.settings.for_listener(**options)
    tls = for_connections.server_tls
    if tls is not None and tls.enabled:
        network.credentials.server(tls)  # before there is a socket: never one without the TLS that was asked for
    sock = network.open_listening_socket(parsed, for_connections, for_listener)
    return Listener(network, sock, parsed, owner, for_connections, for_listener, make_handle)


def open_connection(
    network: Network, owner: Owner, address: str, timeout: float | None, options: dict[str, Any]
) -> Future[Any]:
    """Connect for an owner: a future of its handle. On the loop's thread.

    Args:
        network: where.
        owner: who gets the connection.
        address: see :meth:`theater_tcp.tcp.Tcp.connect`, as for ``timeout`` (seconds) and ``options``.
        timeout: what the call named, or None.
        options: what the call named.
    """
    _check_thread(network, "connect")
    if network.draining or not owner.alive:
        raise ShutDown
    parsed = parse(address)
    permissions = owner.settings.permissions
    permitted = None if permissions is None else _permitted(network, owner, permissions, parsed)
    if timeout is not None:
        check_field(Settings, "connect_timeout", timeout)
    for_connection = owner.settings.for_connection(**options)
    tls = for_connection.client_tls
    credentials = network.credentials.client(tls) if tls is not None and tls.enabled else None
    server_name = ""
    if tls is None or not tls.auto_handshake:
        credentials = None  # it was looked at all the same: wrong files are told now, and not at the upgrade
    else:
        server_name = tls.server_name or (parsed.host if isinstance(parsed, HostPort) else "")
        if credentials is not None and not server_name:
            raise InvalidArgument(f"{address}: TLS needs a server_name, since the address has no host")
    opened: Future[Any] = Future()

    def settle(future: Future[socket.SocketType]) -> None:
        try:
            sock = future.get()
        except Denied:
            opened.set_exception_value(_refused(network, owner, "connect to", parsed, str(permitted)))
            return
        except TheaterError as error:
            network.metrics.connect_failures += 1
            opened.set_exception_value(error)
            return
        if not owner.alive:  # nobody is left to have it
            sock.close()
            opened.set_exception_value(ShutDown("the actor that connected has ended"))
            return
        apply_to_socket(sock, for_connection)
        network.metrics.connected += 1
        connection = Connection(network, sock, None, for_connection, OPEN, owner)
        if credentials is None:
            connection.opened()
            opened.set(connection.handle)
            return
        handle = connection.handle
        try:
            connection.connect_tls(credentials, server_name).follow_into(opened, handle)
        except InvalidArgument as error:
            connection.abort(handle)
            opened.set_exception_value(error)

    wait = timeout if timeout is not None else owner.settings.connect_timeout
    network.connector.connect(parsed, wait, permitted).on_done(settle)
    return opened


class _Permitted:
    """Which of the addresses that a name resolves to may be connected to; as text, why the others may not.

    Args:
        permissions: of the actor that connects.
    """

    __slots__ = ("_permissions", "_reasons")

    def __init__(self, permissions: Permissions) -> None:
        self._permissions = permissions
        self._reasons: dict[str, None] = {}

    def __call__(self, target: Target) -> bool:
        _, (host, port, *_) = target
        why = self._permissions.why_not_reach(host, port)
        if why:
            self._reasons[f"{host}: {why}"] = None
        return not why

    def __str__(self) -> str:
        return "; ".join(self._reasons)


def _permitted(network: Network, owner: Owner, permissions: Permissions, address: Address) -> _Permitted | None:
    """What judges the addresses of a name; None where there are none to come.

    Raises:
        Denied: by what is known already.
    """
    why = permissions.why_not_connect(address)
    if why:
        raise _refused(network, owner, "connect to", address, why)
    return _Permitted(permissions) if isinstance(address, HostPort) and address.is_name else None


def _refused(network: Network, owner: Owner, what: str, address: Address, why: str) -> Denied:
    network.metrics.denied += 1
    if owner.refusals is None:
        owner.refusals = LogAllowance(MAX_REFUSALS)
    if owner.refusals.take(network.loop.now):
        owner.tell_refusals()
        logger.warning("%s may not %s %s: %s", owner, what, address, why)
    return Denied(str(address))


def _check_thread(network: Network, call: str) -> None:
    if running_loop() is not network.loop:
        raise RuntimeError(f"{call} belongs on the event loop's thread: call it in on_start or later, not in __init__")
