"""A stage for TLS: owners that hear of it too, and meetings with a peer from which an upgrade is one step away.

Which end of TLS the runtime has is a *side*: ``server`` (it accepted, and its peer is a TLS client) or ``client`` (it
connected to a plain listening socket, and its peer is a TLS server).
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.test_calls import CALLS, kind_of_outcome
from tests.peers import TIMEOUT, eventually, host_and_port
from tests.support import AsyncProbe, LoopProbe, Owner, Script, Stage, ThreadProbe, outcome_of
from tests.tls_peer import TlsPeer, client_context, server_context
from theater_tcp.connection_state import Phase
from theater_tcp.errors import NotFound, TheaterError
from theater_tcp.ownership import CALLBACKS
from theater_tcp.tls_settings import ClientTls, ServerTls

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable

    import pykka

    from tests.certificates_fixture import Certificates
    from theater_tcp import Settings
    from theater_tcp.tls_settings import CertificateFiles

__all__ = ["SIDES", "UPGRADES", "TlsOwner", "TlsStage", "listening_socket", "upgrade_call"]

SIDES = ("server", "client")

UPGRADES: dict[str, Callable[[Any, Any], Any]] = {
    "upgrade-to-tls-server": lambda connection, _target: connection.upgrade_to_tls_server(),
    "upgrade-to-tls-client": lambda connection, _target: connection.upgrade_to_tls_client("localhost"),
}
"""The rows that upgrades add to the calls of ``tests/contract/test_calls.py``."""


class TlsLoopProbe(LoopProbe):
    """As its base, and it hears of upgrades."""

    def on_tls(self, connection: Any) -> Any:
        return self.script.hear(self, "on_tls", connection)


class TlsAsyncProbe(AsyncProbe):
    """As its base, and it hears of upgrades."""

    async def on_tls(self, connection: Any) -> None:
        await self.hear("on_tls", connection)


class TlsThreadProbe(ThreadProbe):
    """As its base, and it hears of upgrades."""

    def on_tls(self, connection: Any) -> None:
        self.hear("on_tls", connection)


PROBES: dict[str, type[Any]] = {"loop": TlsLoopProbe, "async": TlsAsyncProbe, "thread": TlsThreadProbe}


def listening_socket(address: str = "127.0.0.1:0") -> tuple[socket.socket, str]:
    """A plain socket that listens, and its address as the interface writes it."""
    if address.startswith("unix:"):
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(address.removeprefix("unix:"))
    else:
        host, port = host_and_port(address)
        listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        listening.bind((host, port))
        address = f"{address.rpartition(':')[0]}:{listening.getsockname()[1]}"
    listening.listen()
    listening.settimeout(TIMEOUT)
    return listening, address


class TlsOwner(Owner):
    """An actor of the stage that has TLS. Arguments as for :class:`tests.support.Owner`."""

    stage: TlsStage

    def __init__(
        self, stage: TlsStage, kind: str, without: Iterable[str], hooks: dict[str, Callable[..., Any]]
    ) -> None:
        self.stage = stage
        self.kind = kind
        self.script = Script(hooks)
        actor_class = type("Owner", (PROBES[kind],), dict.fromkeys(without))
        self.ref = stage.theater.spawn(actor_class, self.script)

    # -- plaintext that may become TLS ---------------------------------------------------------------------------

    def meet_plain(self, side: str, address: str = "127.0.0.1:0", **options: Any) -> tuple[Any, TlsPeer]:
        """A new connection in plaintext, open and passive, with settings for an upgrade, and its peer."""
        stage = self.stage
        options = {**stage.tls_options(auto_handshake=False), **options}
        if side == "server":
            connection, sock = self.meet(address, "passive", **options)
        else:
            listening, address = listening_socket(address)
            with listening:
                connecting = self.ref.ask(lambda actor: actor.tcp.connect(address, **options), block=False)
                sock = self.stage.accept_from(listening)
                connection = outcome_of(connecting)
        return connection, stage.tls_peer(side, sock)

    def begin_upgrade(self, side: str, connection: Any, *name: str) -> pykka.Future[Any]:
        """Let the actor call for the upgrade; the handshake has begun when this returns, and nobody waits for it."""
        call = upgrade_call(side, connection, *name)
        state = connection.actor_ref.actor_inbox.actor.state
        upgrading: pykka.Future[Any] = self.ref.ask(lambda _actor: call(), block=False)
        eventually(lambda: state.phase is not Phase.OPEN or state.epoch == 1)
        self.stage.pass_turns()
        return upgrading

    def upgrade(self, side: str, connection: Any, peer: TlsPeer) -> None:
        """Upgrade, to the end on both sides."""
        upgrading = self.begin_upgrade(side, connection)
        peer.handshake()
        assert outcome_of(upgrading) is None
        assert self.expect("on_tls").connection is connection

    def during(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call something while an upgrade runs: an actor with a thread of its own waits in it, so the test calls."""
        return call(*args, **kwargs) if self.kind == "thread" else self.call(call, *args, **kwargs)

    def sees_upgrade_fail(self, connection: Any, upgrading: pykka.Future[Any], kind: type[TheaterError]) -> str:
        """The upgrade failed, and with it the connection ended; returns the reason, which is told twice, the same."""
        with pytest.raises(kind) as caught:
            outcome_of(upgrading)
        reason = str(caught.value)
        assert self.expect("on_close", reason).connection is connection
        self.hears_nothing()
        eventually(lambda: not connection.actor_ref.is_alive())
        calls = {**CALLS, **UPGRADES}.items()
        kinds = {name: kind_of_outcome(self, call, connection, self.ref) for name, call in calls}
        assert set(kinds.values()) == {NotFound.kind}, "nothing usable is left"
        eventually(lambda: self.stage.theater.metrics().connections == 0)
        return reason

    # -- TLS ----------------------------------------------------------------------------------------------------

    def speaks(self, connection: Any, peer: TlsPeer) -> None:
        """The connection is open and passive, and carries data both ways, encrypted."""
        self.call(connection.send, b"from the runtime")
        assert peer.receive_exactly(16) == b"from the runtime"
        peer.send(b"to the runtime")
        assert self.call(connection.receive, 100) == b"to the runtime"

    def meet_tls(
        self,
        side: str,
        address: str = "127.0.0.1:0",
        *,
        at_once: bool = False,
        mode: str | int = "passive",
        context: ssl.SSLContext | None = None,
        **options: Any,
    ) -> tuple[Any, TlsPeer]:
        """A new encrypted connection, open, and its peer.

        Args:
            side: see above.
            address: where to listen, or where the peer listens.
            at_once: TLS from the first byte, instead of by an upgrade.
            mode: the data mode that it gets.
            context: the peer's; by default it trusts the test's CA, or shows a certificate for localhost.
            options: of the connection.
        """
        if not at_once:
            connection, peer = self.meet_plain(side, address, **options)
            if context is not None:
                peer = TlsPeer(peer.sock, context)
            self.upgrade(side, connection, peer)
        else:
            connection, peer = self._meet_at_once(side, address, context, **options)
        if mode != "passive":
            self.call(connection.set_active, mode)
        return connection, peer

    def _meet_at_once(
        self, side: str, address: str, context: ssl.SSLContext | None, **options: Any
    ) -> tuple[Any, TlsPeer]:
        stage = self.stage
        options = {**stage.tls_options(auto_handshake=True), **options}
        if side == "server":
            peer = stage.tls_peer(side, stage.dial(self.listen(address, **options).address), context).handshake()
            connection = self.expect("handle_connection").connection
            self.call(connection.activate)
            return connection, peer
        listening, address = listening_socket(address)
        with listening:
            if address.startswith("unix:"):
                options["client_tls"] = options["client_tls"].replaced(server_name="localhost")
            connecting = self.ref.ask(lambda actor: actor.tcp.connect(address, **options), block=False)
            peer = stage.tls_peer(side, stage.accept_from(listening), context).handshake()
            return outcome_of(connecting), peer


def upgrade_call(side: str, connection: Any, *name: str) -> Callable[[], Any]:
    """The call that upgrades a connection; the name is the server's, for a client."""
    if side == "server":
        return connection.upgrade_to_tls_server  # type: ignore[no-any-return]
    return lambda: connection.upgrade_to_tls_client(*name or ("localhost",))


class _Failures(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.reasons: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.args, tuple) and record.args and isinstance(record.args[-1], TheaterError):
            self.reasons.append(str(record.args[-1]))


class TlsStage(Stage):
    """A running Theater whose owners have TLS.

    Args:
        certificates: the test's.
        settings: of the Theater.
    """

    def __init__(self, certificates: Certificates, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.certificates = certificates
        self._failures = _Failures()
        logging.getLogger("theater_tcp.tls").addHandler(self._failures)
        logging.getLogger("theater_tcp.tls").setLevel(logging.INFO)

    def close(self, check: bool = True) -> None:
        """End everything."""
        logging.getLogger("theater_tcp.tls").removeHandler(self._failures)
        logging.getLogger("theater_tcp.tls").setLevel(logging.NOTSET)
        super().close(check)

    def reasons(self) -> list[str]:
        """Why handshakes failed, in order: an owner never hears of one that failed at accept, only the log does."""
        return self._failures.reasons

    def owner(self, kind: str = "loop", *, without: Iterable[str] = (), **hooks: Callable[..., Any]) -> TlsOwner:
        """A new actor; see :class:`tests.support.Owner`."""
        assert set(hooks) | set(without) <= set(CALLBACKS)
        return TlsOwner(self, kind, without, hooks)

    def server_tls(self, files: CertificateFiles | None = None, **changes: Any) -> ServerTls:
        """Settings of a server with the certificate for localhost, or with another one."""
        files = files if files is not None else self.certificates.server
        return ServerTls(cert=files.cert, key=files.key, chain=files.chain, password=files.password, **changes)

    def client_tls(self, **changes: Any) -> ClientTls:
        """Settings of a client that trusts the test's CA."""
        return ClientTls(**{"ca_cert": self.certificates.ca, **changes})

    def tls_options(self, auto_handshake: bool) -> dict[str, Any]:
        """Options of a connection that can become TLS as either end."""
        return {
            "server_tls": self.server_tls(auto_handshake=auto_handshake),
            "client_tls": self.client_tls(auto_handshake=auto_handshake),
        }

    def tls_peer(self, side: str, sock: socket.socket, context: ssl.SSLContext | None = None) -> TlsPeer:
        """The peer of a connection of this side, over its socket; nothing is sent yet."""
        return TlsPeer(sock, context if context is not None else self.peer_context(side))

    def peer_context(self, side: str, **changes: Any) -> ssl.SSLContext:
        """What the peer of a connection of this side shows and trusts; by default all is well.

        Args:
            side: the runtime's.
            changes: arguments of :func:`~tests.tls_peer.client_context` or :func:`~tests.tls_peer.server_context`.
        """
        if side == "server":
            return client_context(**{"ca": self.certificates.ca, **changes})
        return server_context(**{"files": self.certificates.server, **changes})

    def accept_from(self, listening: socket.socket) -> socket.socket:
        """The peer's end of a connection that the runtime made; closed with the stage."""
        sock, _ = listening.accept()
        sock.settimeout(TIMEOUT)
        self.peers.append(sock)
        return sock
