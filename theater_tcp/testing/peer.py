"""The peer of a connection under test: the other end of its socket, with calls that let the actors go on meanwhile.

A peer may speak TLS, from the first byte on or after some plaintext (:meth:`Peer.start_tls`). Then ``send`` and
``receive`` are about what is encrypted, while faults and capacities stay those of the socket: a short read cuts a
record in two, and a network of ten bytes carries a handshake in pieces of ten bytes.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import TYPE_CHECKING, Any

from theater_tcp.testing.peer_tls import PeerTls, trusting_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from theater_tcp.testing.stage import SteppedTheater

__all__ = ["Peer"]

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_CHUNK = 1 << 16
_RECORD = 1 << 14
_HANDSHAKE = b"\x16"


class Peer:
    """Who an actor talks to. Made by ``stage.dial``, ``stage.connect_to`` or ``stage.accept``.

    Args:
        stage: where the actors are; it goes on whenever the peer has to wait.
        sock: the peer's own non-blocking socket, of the system or in memory. Faults of the *connection's* socket are
            queued at ``peer.socket.other_end`` (in memory only).
    """

    def __init__(self, stage: SteppedTheater, sock: Any) -> None:
        self.stage = stage
        self.socket = sock
        self.ended = ""
        """``"eof"`` when the end of the stream was read, ``"reset"`` after RST, else empty. Over TLS the stream ends
        with close_notify; without that it is ``"truncated"``."""
        self.unsent = bytearray()
        """What :meth:`send` was given and the network has not taken, encrypted over TLS. It stays here when the
        connection is gone."""
        self._unread = bytearray()
        self._then: Callable[[], object] | None = None  # what follows the last unsent byte
        self._was_reset = False
        self._tls: PeerTls | None = None

    def __repr__(self) -> str:
        return f"<Peer {self.ended or 'open'}, {len(self.unsent)} unsent, {len(self._unread)} unread>"

    # -- TLS ------------------------------------------------------------------------------------------------------

    @property
    def tls(self) -> ssl.SSLObject | None:
        """The peer's side of TLS, for its ``version()``, ``getpeercert()``, ``session``; None in plaintext."""
        return self._tls.object if self._tls is not None else None

    def start_tls(
        self,
        server_name: str | None = None,
        context: ssl.SSLContext | None = None,
        session: ssl.SSLSession | None = None,
    ) -> None:
        """Go on in TLS as the client: at once where TLS begins with the first byte, else when the actor has agreed.

        Args:
            server_name: the name that is asked for (SNI).
            context: whom this peer trusts and what it shows; None trusts anybody.
            session: an earlier session of the same context, to take up again.

        Raises:
            ssl.SSLError: the handshake failed, by the certificate (``SSLCertVerificationError``), by an alert of the
                actor's side, or because that ended the connection (``SSLEOFError``).
            ConnectionResetError: it reset the connection.
            AssertionError: the actor does not go on with it; or it sent more in plaintext than was received.
        """
        self._shake_hands(PeerTls(context or trusting_context(), False, server_name, session))

    def start_tls_server(self, context: ssl.SSLContext) -> None:
        """Go on in TLS as the server, with an actor that connects; see :meth:`start_tls`.

        Args:
            context: with the certificate that this peer shows.
        """
        self._shake_hands(PeerTls(context, True))

    def _shake_hands(self, tls: PeerTls) -> None:
        while self._read():
            pass
        unread = bytes(self._unread)
        if unread and not (tls.object.server_side and unread.startswith(_HANDSHAKE)):
            raise AssertionError(f"{unread!r} came in plaintext and was not received: no TLS behind that")
        self._unread.clear()
        self._tls = tls
        if unread:  # the client's first words are here already
            tls.feed(unread)
        if self.ended == "eof":
            tls.feed(b"")
        self._step()

        def secured() -> bool:
            while not tls.secured:
                if self.ended == "reset":
                    raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
                if not self._read():
                    return False
            return True

        self.stage.until(secured, "the actor does not go on with the TLS handshake")
        self.stage.settle()
        while not self._unread and self._read():  # session tickets: unread, they would make a reset of every close
            self.stage.settle()

    def _step(self) -> None:
        """Handle what TLS was fed with: a step of the handshake, or data."""
        tls = self._tls
        assert tls is not None
        try:
            if tls.secured or tls.handshake():
                self._unread += tls.read()
        finally:
            self.unsent += tls.take_output()
            self.pump()

    # -- sending --------------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Send it, and let the actor handle it. What the network does not take now follows as the actor reads."""
        self.unsent += self._tls.write(data) if self._tls is not None else data
        self.stage.settle()

    def offer(self, data: bytes | bytearray | memoryview) -> int:
        """Send what the network takes at once, and do not let the actor go on.

        Returns:
            the number of bytes taken, 0 if it takes none now. Over TLS it takes a record when the one before has gone.

        Raises:
            OSError: the connection is gone (``ConnectionResetError``, ``BrokenPipeError``).
        """
        if self._tls is None:
            return self._put(data)
        if self.unsent:
            del self.unsent[: self._put(self.unsent)]
            if self.unsent:
                return 0
        record = bytes(memoryview(data)[:_RECORD])
        self.unsent += self._tls.write(record)
        del self.unsent[: self._put(self.unsent)]
        return len(record)

    def _put(self, data: bytes | bytearray | memoryview) -> int:
        try:
            return int(self.socket.send(data))
        except BlockingIOError:
            return 0

    def pump(self) -> bool:
        """Send what the network takes of what is unsent; the stage does it. Whether anything moved."""
        if not self.unsent:
            return False
        try:
            taken = self._put(self.unsent)
        except OSError as error:
            self._was_reset = error.errno == errno.ECONNRESET  # which is told once, and not to receive any more
            return False
        del self.unsent[:taken]
        if not self.unsent and self._then is not None:
            self._then()
        return taken > 0

    def _when_sent(self, call: Callable[[], object]) -> None:
        if self.unsent:
            self._then = call
        else:
            call()
        self.stage.settle()

    # -- receiving ------------------------------------------------------------------------------------------------

    def receive(self) -> bytes:
        """What has come by the time when the stage is at rest; empty if there is nothing, or no more."""
        self.stage.settle()
        while self._read():
            self.stage.settle()
        data = bytes(self._unread)
        self._unread.clear()
        return data

    def receive_exactly(self, size: int) -> bytes:
        """The next ``size`` bytes.

        Raises:
            AssertionError: they don't come.
        """
        self._until_there(lambda: len(self._unread) >= size, f"{size} bytes")
        data = bytes(self._unread[:size])
        del self._unread[:size]
        return data

    def receive_until(self, end: bytes) -> bytes:
        """The next bytes up to and with ``end``, as ``b"\\r\\n"``.

        Raises:
            AssertionError: it does not come.
        """
        self._until_there(lambda: end in self._unread, f"bytes up to {end!r}")
        return self.receive_exactly(self._unread.index(end) + len(end))

    def receive_all(self) -> bytes:
        """Everything up to the end of the stream, however it ends; see :attr:`ended`.

        Raises:
            AssertionError: it does not end.
        """
        self._until_there(lambda: bool(self.ended), "the end of the stream")
        data = bytes(self._unread)
        self._unread.clear()
        return data

    def _until_there(self, there: Callable[[], bool], what: str) -> None:
        def look() -> bool:
            while not there():
                if not self._read():
                    return False
            return True

        self.stage.until(look, lambda: f"no {what}: {bytes(self._unread)!r} came{self._ending()}")

    def _ending(self) -> str:
        return f", then {self.ended}" if self.ended else ""

    def _read(self) -> bool:
        """Read what is there; whether that was anything."""
        if self.ended or self.socket.fileno() < 0:
            return False
        try:
            data = self.socket.recv(_CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            self.ended = "reset"
            return True
        tls = self._tls
        if not data and self._was_reset:
            self.ended = "reset"
        elif tls is None:
            self._unread += data
            self.ended = "" if data else "eof"
        else:
            tls.feed(data)
            self._step()
            self.ended = "eof" if tls.ended else "" if data else "truncated"
        return True

    # -- the end --------------------------------------------------------------------------------------------------

    def shutdown_write(self) -> None:
        """Half-close when all is sent: the actor gets the end of the stream, and may still send. Over TLS it begins
        with close_notify, as :meth:`close` does."""
        self._say_goodbye()
        self._when_sent(lambda: self.socket.shutdown(socket.SHUT_WR))

    def close(self) -> None:
        """Close when all is sent: FIN, or RST if there are unread bytes, as always in TCP."""
        self._say_goodbye()
        self.cut_off()

    def cut_off(self) -> None:
        """Close when all is sent as :meth:`close`, but over TLS without close_notify: as an attacker, or a crash."""
        self._when_sent(self.socket.close)

    def _say_goodbye(self) -> None:
        if self._tls is not None:
            self.unsent += self._tls.close()
            self.pump()

    def abort(self) -> None:
        """RST, at once."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.socket.close()
        self.stage.settle()
