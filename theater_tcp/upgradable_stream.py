"""An owned stream that its owner, or whoever opened it, may make TLS.

What the handshake does to the bytes is in :mod:`theater_tcp.secure_transport`; here is who may begin one, with which
certificates, and who hears how it went.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from theater_tcp.connection_state import SECURE, UPGRADE
from theater_tcp.errors import Busy, Closed, InvalidArgument, PlaintextBeforeTls, TheaterError, TlsNotConfigured
from theater_tcp.future import Future
from theater_tcp.host_names import ascii_name
from theater_tcp.owned_stream import OwnedStream
from theater_tcp.secure_transport import Handshake
from theater_tcp.tls_engine import TlsEngine, TlsInfo

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable

    from theater_tcp.connection_state import Phase
    from theater_tcp.credentials import ClientCredentials, ServerCredentials
    from theater_tcp.network import Network
    from theater_tcp.ownership import Owner
    from theater_tcp.settings import Options

__all__ = ["UpgradableStream"]

logger = logging.getLogger("theater_tcp.tls")


class UpgradableStream(OwnedStream):
    """A stream with an owner, and with TLS.

    Args:
        network, sock, peer, options, phase, owner, listener: see :class:`~theater_tcp.owned_stream.OwnedStream`.
    """

    __slots__ = ("hidden",)

    def __init__(
        self,
        network: Network,
        sock: socket.SocketType,
        peer: Any,
        options: Options,
        phase: Phase,
        owner: Owner,
        listener: Any,
    ) -> None:
        OwnedStream.__init__(self, network, sock, peer, options, phase, owner, listener)
        self.hidden = False  # TLS from the first byte is not through, and the owner knows nothing of the connection

    # -- what a subclass decides -----------------------------------------------------------------------------------

    def opened(self) -> None:
        """The connection is open from now on."""
        raise NotImplementedError

    def look_for_idleness(self, delay: float | None) -> None:
        """See in ``delay`` seconds whether anything comes or goes; None: never."""
        raise NotImplementedError

    # -- beginning one -------------------------------------------------------------------------------------------------

    def upgrade_to_tls_server(self, handle: Any) -> Future[None]:
        """See :meth:`theater_tcp.tcp.ConnectionHandle.upgrade_to_tls_server`."""
        self._check_upgrade(handle)
        tls = self.options.server_tls
        if tls is None or not tls.enabled:
            raise TlsNotConfigured("there is no server_tls")
        return self._upgrade(self._server_engine(self.network.credentials.server(tls)), True, boundary=True)

    def upgrade_to_tls_client(self, handle: Any, server_name: str) -> Future[None]:
        """See :meth:`theater_tcp.tcp.ConnectionHandle.upgrade_to_tls_client`."""
        self._check_upgrade(handle)
        tls = self.options.client_tls
        if tls is None or not tls.enabled:
            raise TlsNotConfigured("there is no client_tls")
        make_engine = self._client_engine(self.network.credentials.client(tls), server_name)
        return self._upgrade(make_engine, False, boundary=True)

    def accept_tls(self, credentials: ServerCredentials) -> None:
        """TLS from the first byte of an accepted connection, which is ``HANDSHAKING``; the listener hears when it is
        secure, and the owner from that."""
        self.hidden = True
        make_engine = self._server_engine(credentials)
        self.begin_handshake(Handshake(make_engine, True, self.options.handshake_timeout, None, boundary=False))

    def connect_tls(self, credentials: ClientCredentials, server_name: str) -> Future[None]:
        """TLS from the first byte of a connection that was opened here: a future that is settled when it is secure.

        Raises:
            InvalidArgument: ``server_name`` is no name.
        """
        make_engine = self._client_engine(credentials, server_name)
        self.hidden = True
        return self._upgrade(make_engine, False, boundary=False)

    def tls_info(self) -> TlsInfo | None:
        """What was agreed on; None in plaintext."""
        return self.tls.info() if self.tls is not None and self.tls.secured else None

    def tls_available(self) -> bool:
        """Whether the connection is plaintext, and could become TLS as the server."""
        tls = self.options.server_tls
        return tls is not None and tls.enabled and not self.state.epoch

    def _check_upgrade(self, handle: Any) -> None:
        self.check_owner(handle)
        self.state.check(UPGRADE)
        if self._receiver is not None:
            raise Busy("a receive waits")
        if self.reason is not None:  # it has ended, and the owner is still to hear of that
            raise self.error()
        if self.write_closed:
            raise Closed("the sending side was shut down")

    def _upgrade(self, make_engine: Callable[[], TlsEngine], server_side: bool, boundary: bool) -> Future[None]:
        secured: Future[None] = Future()
        secured.on_done(lambda _: None)  # nobody has to look at it: on_tls and on_close tell the same
        self.state.apply(UPGRADE)
        self.direct = self.sends_directly = False
        timeout = self.options.handshake_timeout
        self.begin_handshake(Handshake(make_engine, server_side, timeout, secured, boundary))
        return secured

    @staticmethod
    def _server_engine(credentials: ServerCredentials) -> Callable[[], TlsEngine]:
        return lambda: TlsEngine(credentials.context, server_side=True)  # of the moment when it is needed

    def _client_engine(self, credentials: ClientCredentials, server_name: str) -> Callable[[], TlsEngine]:
        """The engine is made at once, so that a wrong name is refused before anything changes."""
        if not isinstance(server_name, str) or not server_name:
            raise InvalidArgument(f"{server_name!r} is no server name")
        try:
            name = ascii_name(server_name.removesuffix(".")).removeprefix("[").removesuffix("]")
        except InvalidArgument as error:
            raise InvalidArgument(f"{server_name!r} is a server name that {error.detail}") from None
        name = name.partition("%")[0]  # the zone of an address is this host's own (RFC 4007, 11.2)
        key = (self.peer_address(), name)
        context = credentials.context
        engine = TlsEngine(context, server_side=False, server_name=name, session=credentials.session_for(key))
        self.session_ended = partial(_keep_session, credentials, key, context)
        return lambda: engine

    # -- how it went ---------------------------------------------------------------------------------------------------

    def stream_ended(self) -> None:
        """The peer has ended, or the socket failed: whoever knows of the connection is told."""
        if self.hidden:
            self.fail(self.reason or "eof")
        else:
            OwnedStream.stream_ended(self)

    def tls_secured(self, handshake: Handshake) -> None:
        """The handshake is complete."""
        self.state.apply(SECURE)
        if self.listener is not None and self.hidden:
            self.listener.secured(self)
            return
        if self.hidden:
            self.hidden = False
            self.opened()
        else:
            if self.owner is not None and self.owner.hears("on_tls"):
                self._tls_news = True
            if self.options.idle_timeout is not None:  # one that passed during the handshake did not count
                self.look_for_idleness(self.options.idle_timeout)
        if handshake.future is not None:
            handshake.future.set(None)
        if self._tls_news:
            self.offer(at_once=True)  # an I/O handler, as every last step of a handshake is
        self.settle()

    def tls_failed(self, handshake: Handshake, error: TheaterError) -> None:
        """The handshake can't succeed: the connection ends, and never goes on in plaintext."""
        logger.info("TLS with %s failed: %s", self.peer_address() or "a peer that is gone", error)
        self.fail(str(error), flush=not isinstance(error, PlaintextBeforeTls))
        if handshake.future is not None:
            handshake.future.set_exception_value(error)


def _keep_session(
    credentials: ClientCredentials, key: tuple[str, str], context: ssl.SSLContext, engine: TlsEngine
) -> None:
    session = engine.session
    if session is not None:
        credentials.keep(key, session, context)
