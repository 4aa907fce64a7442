"""The client: an actor that sends each submission over a connection of its own.

It waits for the server in the middle of its handler, so one submission is sent after the other; who wants several at a
time spawns several clients. The connection is passive: nothing is read that nobody waits for, and the upgrade to TLS
finds nothing unread but what somebody slipped in.
"""

from __future__ import annotations

import ipaddress
import logging
from contextlib import suppress
from typing import Any, Literal

import msgspec

from actors.smtp_client.receipt import Receipt
from actors.smtp_client.session import Session, Step
from actors.smtp_client.settings import ClientSettings, Timeouts
from actors.smtp_client.submission import Submission
from theater_tcp import ClientTls, ConnectionHandle, Future, TcpActor, TheaterError
from theater_tcp.errors import InvalidArgument, TimedOut

__all__ = ["SmtpClient", "address_literal"]

logger = logging.getLogger("actors.smtp_client")

_CHUNK = 65_536
"""The most that is received at once, in octets."""


class SmtpClient(TcpActor):
    """Sends mail to one server: ``client.ask(Submission(...))``, or ``client.proxy().submit(Submission(...))``.

    Args:
        server: ``host:port``, ``[v6]:port`` or ``unix:/path``; the other arguments are those of
            :class:`~actors.smtp_client.settings.ClientSettings`, and None leaves the default there.

    Raises:
        InvalidArgument: an argument is wrong.
    """

    def __init__(
        self,
        server: str,
        *,
        tls: Literal["required", "opportunistic", "implicit", "none"] | None = None,
        verify: bool | None = None,
        ca_cert: str | None = None,
        server_name: str | None = None,
        cert: str | None = None,
        key: str | None = None,
        name: str | None = None,
        timeouts: Timeouts | dict[str, float] | None = None,
        max_reply_line: int | None = None,
        max_reply_lines: int | None = None,
        max_reply_size: int | None = None,
    ) -> None:
        arguments = locals()
        named = {field: arguments[field] for field in ClientSettings.__struct_fields__}
        try:
            settings = msgspec.convert(
                {field: value for field, value in named.items() if value is not None}, type=ClientSettings
            )
        except msgspec.ValidationError as error:
            raise InvalidArgument(_with_name_first(str(error))) from None
        super().__init__()
        self._settings = settings
        timeouts = settings.timeouts
        self._options: dict[str, Any] = {
            "framing": "raw",
            "receive_timeout": None,  # how long each step may take is judged here
            "send_timeout": timeouts.block,
            "handshake_timeout": timeouts.handshake,
            "client_tls": _client_tls(settings),
        }

    async def on_receive(self, message: Any) -> Any:
        """Take a submission; the answer is its receipt."""
        if isinstance(message, Submission):
            return await self.submit(message)
        return super().on_receive(message)  # which logs that it was not expected

    async def submit(self, submission: Submission) -> Receipt:
        """Send a message, and tell what became of it. Whatever happens, there is a receipt."""
        settings = self._settings
        session = Session(settings, submission)
        connection: ConnectionHandle | None = None
        try:
            connection = await self.tcp.connect(settings.server, settings.timeouts.connect, **self._options)
            session.connected(address_literal(connection.local_address), _tls_text(connection))
            await self._converse(connection, session)
        except TheaterError as error:
            session.fail(str(error))
        finally:
            if connection is not None:
                with suppress(TheaterError):  # it has ended by itself
                    connection.close()
        receipt = session.receipt
        logger.debug("%s: %s", settings.server, receipt)
        return receipt

    async def _converse(self, connection: ConnectionHandle, session: Session) -> None:
        """Carry the session to its end.

        Raises:
            TheaterError: the connection ended, or something took too long.
        """
        step = Step()
        while not step.close:
            if step.output:
                connection.send(step.output)
            if step.start_tls:
                await connection.upgrade_to_tls_client(self._settings.host)
                step = session.tls_started(_tls_text(connection))
                continue
            incoming = connection.receive(_CHUNK)
            if step.send_content:
                await self._send_content(connection, session, incoming)
            step = await self._next_step(connection, session, incoming)

    async def _send_content(self, connection: ConnectionHandle, session: Session, incoming: Future[bytes]) -> None:
        """Send the message, as fast as the server takes it, and as long as it says nothing."""
        for piece in session.content():
            connection.send(piece)
            room = connection.drained()
            await _first_of(room, incoming)
            if not incoming.done:
                await self.sleep(0)  # while there was no room nothing was read
            if incoming.done:
                return
            await room

    async def _next_step(self, connection: ConnectionHandle, session: Session, incoming: Future[bytes]) -> Step:
        """Receive until a reply is whole. One that comes byte by byte gets no more time than another."""
        expired: Future[None] = Future()
        timer = self.theater.loop.call_later(session.timeout, expired.set)
        try:
            while True:
                await _first_of(incoming, expired)
                if not incoming.done:
                    raise TimedOut(f"{session.awaited}: no reply within {session.timeout:g} s")
                step = session.receive(await incoming)
                if step is not None:
                    return step
                incoming = connection.receive(_CHUNK)
        finally:
            timer.cancel()


def _first_of(*futures: Future[Any]) -> Future[None]:
    """A future that is settled with the first of these, whatever its outcome."""
    first: Future[None] = Future()

    def arrived(_: Future[Any]) -> None:
        if not first.done:
            first.set()

    for future in futures:
        future.on_done(arrived)
    return first


def _client_tls(settings: ClientSettings) -> ClientTls | None:
    if settings.tls == "none":
        return None
    return ClientTls(
        ca_cert=settings.ca_cert,
        skip_verify=not settings.verifies,
        auto_handshake=settings.tls == "implicit",
        cert=settings.cert,
        key=settings.key,
        server_name=settings.host,
    )


def _tls_text(connection: ConnectionHandle) -> str:
    info = connection.tls_info
    return "" if info is None else f"{info.version} {info.cipher}"


def address_literal(address: str) -> str:
    """The address literal (RFC 5321, 4.1.3) for the address of a socket."""
    host = address.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        return "localhost"  # a Unix socket
    return f"[{host}]" if version == 4 else f"[IPv6:{host}]"


def _with_name_first(message: str) -> str:
    """msgspec's message with the name of the setting in front, where it names one."""
    reason, _, place = message.replace("`", "'").partition(" - at '$.")
    return f"{place.rstrip(chr(39))}: {reason[0].lower()}{reason[1:]}" if place else reason
