"""The two ends of a connection for a check: an owner that notes what it hears, and the line from it to a peer."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from theater_tcp.errors import TheaterError
from theater_tcp.future import Future
from theater_tcp.tcp import ConnectionHandle, TcpActor
from theater_tcp.testing.peer import Peer

if TYPE_CHECKING:
    from collections.abc import Callable

    from theater_tcp.testing.stage import SteppedTheater

__all__ = ["GO_AHEAD", "STARTTLS", "Line", "Owner", "expect", "receive_exactly", "refusal", "spawn"]

STARTTLS = b"STARTTLS\n"
"""What who wants TLS on a connection that began without says, in plaintext."""

GO_AHEAD = b"go ahead\n"
"""The answer, behind which TLS begins."""


def expect(found: object, wanted: object, what: str) -> None:
    """Fail with both values if they differ.

    Raises:
        AssertionError: they do.
    """
    if found != wanted:
        raise AssertionError(f"{what}: {_shown(found)} instead of {_shown(wanted)}")


def refusal(stage: SteppedTheater, call: Callable[[], object]) -> str:
    """The kind of the error that a call raises, or that the future it gives fails with; empty if it does not."""
    try:
        outcome = call()
        if isinstance(outcome, Future):
            stage.result(outcome)
    except TheaterError as error:
        return error.kind
    return ""


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:100]} … {text[-60:]} ({len(text)} characters)"


class Owner(TcpActor):
    """Owns the connections of a check and notes what it hears of them.

    Where the options have TLS that does not begin with the first byte, it upgrades each connection before it counts as
    arrived: on a connection that it accepted after the peer's line :data:`STARTTLS`, which it answers by
    :data:`GO_AHEAD`; on one that it opened, as :meth:`on_receive` says, it is the other way round.
    """

    def __init__(self, tell: Callable[[Owner], object]) -> None:
        super().__init__()
        tell(self)
        self.arrived: list[ConnectionHandle] = []
        self.chunks: list[bytes] = []
        self.closed: list[str] = []
        self.passive = 0
        self._awaited: dict[ConnectionHandle, Callable[[], object]] = {}
        self.reaction: Callable[[ConnectionHandle, bytes], object] = lambda _connection, _data: None

    @property
    def data(self) -> bytes:
        """All that was pushed to it."""
        return b"".join(self.chunks)

    def on_receive(self, message: tuple[str, str]) -> None:
        """Connect: the message is the address, and the name that the server's certificate must show if TLS is begun
        in the middle."""
        address, server_name = message

        def opened(future: Future[ConnectionHandle]) -> None:
            connection = future.get()
            tls = self.tcp.options.client_tls
            if tls is None or tls.auto_handshake:
                self.arrived.append(connection)
            else:
                connection.send(STARTTLS)
                self._await_line(connection, lambda: connection.upgrade_to_tls_client(server_name))

        self.tcp.connect(address).on_done(opened)

    def handle_connection(self, connection: ConnectionHandle) -> None:
        connection.activate()
        if connection.tls_available:

            def upgrade() -> None:
                connection.send(GO_AHEAD)
                connection.upgrade_to_tls_server()

            self._await_line(connection, upgrade)
        else:
            self.arrived.append(connection)

    def _await_line(self, connection: ConnectionHandle, then: Callable[[], object]) -> None:
        connection.set_framing("line", 64)
        self._awaited[connection] = then
        connection.set_active("once")

    def on_tls(self, connection: ConnectionHandle) -> None:
        connection.set_framing("raw")
        self.arrived.append(connection)

    def handle_connection_transfer(self, connection: ConnectionHandle) -> None:
        self.arrived.append(connection)

    def on_data(self, connection: ConnectionHandle, data: bytes) -> None:
        awaited = self._awaited.pop(connection, None)
        if awaited is not None:
            awaited()
            return
        self.chunks.append(data)
        self.reaction(connection, data)

    def on_passive(self, _connection: ConnectionHandle) -> None:
        self.passive += 1

    def on_close(self, _connection: ConnectionHandle, reason: str) -> None:
        self.closed.append(reason)


class Line(NamedTuple):
    """A connection with both of its ends: the owner, its handle, and the peer."""

    owner: Owner
    connection: ConnectionHandle
    peer: Peer

    @classmethod
    def on(cls, stage: SteppedTheater) -> Line:
        """A new one, open and passive."""
        owner = spawn(stage)
        peer = stage.connect_to(owner.actor_ref)
        stage.until(lambda: bool(owner.arrived), "the connection did not reach its owner")
        return cls(owner, owner.arrived[0], peer)


def spawn(stage: SteppedTheater, kind: type[Owner] = Owner) -> Owner:
    """A new owner, the actor itself: a stage is on its thread."""
    owners: list[Owner] = []
    stage.spawn(kind, owners.append)
    return owners[0]


def receive_exactly(stage: SteppedTheater, connection: ConnectionHandle, size: int) -> bytes:
    """What ``receive`` gives, called until it is ``size`` bytes."""
    data = b""
    while len(data) < size:
        more = stage.result(connection.receive(size - len(data)))
        if not more:
            raise AssertionError(f"the stream ended after {len(data)} of {size} bytes")
        data += more
    return data
