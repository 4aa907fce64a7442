"""TLS between the socket and the stream: the same connection, its bytes encrypted from some moment on.

:class:`SecureTransport` puts a :class:`~theater_tcp.tls_engine.TlsEngine` in the way of the bytes. All that
:class:`~theater_tcp.transport.Transport` does for plaintext it does for ciphertext: what waits to be sent is encrypted
already, and it is ciphertext that the limits of the output count.

The moment itself is the *boundary*, in :meth:`SecureTransport._cross`. What was sent in plaintext has gone to the
kernel before it; what the peer sent in plaintext must have been handled, for whatever is still unread there may have
been slipped in by somebody between the two ends and would pass for something that came encrypted (CVE-2011-0411). So it
ends the connection. The one exception: a client's first handshake record may be there early. From the boundary on every
byte goes to the engine alone.
"""

from __future__ import annotations

import logging
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from theater_tcp.errors import LimitReached, PlaintextBeforeTls, TheaterError, TlsFailed, TlsTruncated
from theater_tcp.network import MAX_CIPHERTEXT
from theater_tcp.poller import READ, WRITE
from theater_tcp.tls_engine import RECORD, TlsEngine
from theater_tcp.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable

    from theater_tcp.connection_state import Phase
    from theater_tcp.future import Future
    from theater_tcp.network import Network
    from theater_tcp.settings import Options

__all__ = ["PIECE", "Handshake", "SecureTransport"]

logger = logging.getLogger("theater_tcp.tls")

HANDSHAKE_RECORD = b"\x16"
"""The first byte of every TLS handshake record, so of a ClientHello too (RFC 8446, 5.1)."""

RECORD_OVERHEAD = 512
"""Bytes that a record may be longer than what it carries, generously (RFC 8446, 5.2: 256; RFC 5246: 2048 at most)."""

PIECE = 128 << 10
"""Bytes encrypted at one time, which bounds the engine's output and the memory that it keeps."""


class Handshake:
    """A handshake that is under way, or that waits for the plaintext to go out.

    Args:
        make_engine: makes the engine when it is needed: a peer that says nothing costs nothing.
        server_side: which end this is.
        timeout: seconds for all of it.
        future: settled when it is over.
        boundary: whether plaintext may have gone over this connection before.
    """

    __slots__ = ("boundary", "crossed", "future", "make_engine", "server_side", "timeout")

    def __init__(
        self,
        make_engine: Callable[[], TlsEngine],
        server_side: bool,
        timeout: float,
        future: Future[None] | None,
        boundary: bool,
    ) -> None:
        self.make_engine = make_engine
        self.server_side = server_side
        self.timeout = timeout
        self.future = future
        self.boundary = boundary
        self.crossed = False


class SecureTransport(Transport):
    """A transport whose bytes may become encrypted.

    Args:
        network, sock, peer, options, phase: see :class:`~theater_tcp.transport.Transport`.
    """

    __slots__ = ("handshake", "session_ended", "tls")

    def __init__(self, network: Network, sock: socket.SocketType, peer: Any, options: Options, phase: Phase) -> None:
        Transport.__init__(self, network, sock, peer, options, phase)
        self.tls: TlsEngine | None = None
        self.handshake: Handshake | None = None
        self.session_ended: Callable[[TlsEngine], None] | None = None  # told when the socket is released

    # -- what a subclass decides -----------------------------------------------------------------------------------

    def take_unread(self) -> bytes:
        """What was read from the socket and not handed over, taken away."""
        raise NotImplementedError

    def tls_secured(self, handshake: Handshake) -> None:
        """The handshake is complete."""
        raise NotImplementedError

    def tls_failed(self, handshake: Handshake, error: TheaterError) -> None:
        """The handshake can't succeed; the connection is to end."""
        raise NotImplementedError

    # -- the handshake -------------------------------------------------------------------------------------------

    def begin_handshake(self, handshake: Handshake) -> None:
        """Begin as soon as all plaintext has gone out. The phase is the handshake's already."""
        self.handshake = handshake
        self.sends_directly = False
        self.network.handshake_deadlines.set(self, handshake.timeout)
        if self.output is None:
            self._cross()
        self.update_interest()

    def on_ready(self, mask: int) -> None:
        """The socket is ready for one of the bits of ``mask``."""
        handshake = self.handshake
        if handshake is None:
            Transport.on_ready(self, mask)
            return
        if mask & WRITE:
            self.flush()
        if self.fd >= 0 and mask & ~WRITE and self.handshake is handshake:
            if handshake.crossed:
                self._flight_ready(handshake)
            else:  # the plaintext is still on its way out, and nobody is there for it
                self._handshake_failed(TlsFailed("the peer ended the connection"))

    def update_interest(self, stop_reading: bool = False) -> None:
        """Wait for what the state wants now."""
        handshake = self.handshake
        if handshake is None:
            Transport.update_interest(self, stop_reading)
        elif self.fd >= 0:
            mask = READ if handshake.crossed else 0
            if self.output is not None and self.output.size:
                mask |= WRITE
            self._set_interest(mask)

    def output_empty(self) -> None:
        """The last byte of the output has been taken."""
        handshake = self.handshake
        if handshake is not None and not handshake.crossed:
            self._cross()

    def _cross(self) -> None:
        """The boundary: plaintext before, ciphertext from here on."""
        handshake = self.handshake
        assert handshake is not None
        handshake.crossed = True
        unread = self.take_unread()
        first = unread[:1]
        if handshake.boundary and not unread:
            try:
                first = self.sock.recv(1, socket.MSG_PEEK)
            except OSError:
                pass  # nothing is there, or the next read tells what happened
        if first and not (handshake.server_side and first == HANDSHAKE_RECORD):
            self.network.metrics.plaintext_before_tls += 1
            self._handshake_failed(PlaintextBeforeTls())
        elif unread or not handshake.server_side:
            self._step(handshake, unread)

    def _flight_ready(self, handshake: Handshake) -> None:
        try:
            size = self.sock.recv_into(self.network.read_view(RECORD + RECORD_OVERHEAD))
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._handshake_failed(TlsFailed((error.strerror or "the connection failed").lower()))
            return
        self.last_activity = self.network.loop.now
        self._step(handshake, self.network.read_view(size) if size else None)

    def _step(self, handshake: Handshake, ciphertext: bytes | memoryview | None) -> None:
        """One step of the handshake with what the peer sent; None: it has ended its stream."""
        try:
            engine = self.tls
            if engine is None:
                engine = self.tls = handshake.make_engine()
            if ciphertext is None:
                engine.feed_eof()
            elif ciphertext:
                engine.feed(ciphertext)
            done = engine.handshake()
        except TheaterError as error:
            self._handshake_failed(error)
            return
        self.answer(engine)
        if done and self.handshake is handshake:
            self._handshake_over()
            metrics = self.network.metrics
            metrics.handshakes += 1
            metrics.resumed_sessions += engine.resumed
            self.fin_seen = False
            self.tls_secured(handshake)

    def _handshake_failed(self, error: TheaterError) -> None:
        """Tell the peer why, if there is an alert for it, and give up."""
        handshake = self.handshake
        if handshake is None:
            return
        self._handshake_over()
        if self.tls is not None:
            self.answer(self.tls)
        self.network.metrics.handshake_failures += 1
        self.tls_failed(handshake, error)

    def _handshake_over(self) -> None:
        handshake, self.handshake = self.handshake, None
        if handshake is not None:
            self.network.handshake_deadlines.clear(self, handshake.timeout)

    def handshake_expired(self) -> None:
        """``handshake_timeout`` is over."""
        self.network.metrics.timeouts += 1
        self._handshake_failed(TlsFailed("handshake timeout"))

    def drop_handshake(self, error: TheaterError) -> None:
        """The connection ends for another reason than its handshake."""
        handshake = self.handshake
        if handshake is not None:
            self._handshake_over()
            if handshake.future is not None:
                handshake.future.set_exception_value(error)

    # -- reading --------------------------------------------------------------------------------------------------

    def read(self, limit: int) -> bytes | None:
        """What the peer sent, at most ``limit`` bytes, decrypted where it came encrypted."""
        engine = self.tls
        if engine is None:
            return Transport.read(self, limit)
        if self.eof or not engine.secured:
            return None
        data = self.decrypted(engine, limit)
        if not data and not self.eof:
            if not self._receive(engine, min(max(limit, RECORD) + RECORD_OVERHEAD, MAX_CIPHERTEXT)):
                return None
            data = self.decrypted(engine, limit)
        if data and self.fin_seen:  # what stood before the end is being read: look for the end again
            self.fin_seen = False
            self.update_interest()
        return data or None

    def decrypted(self, engine: TlsEngine, limit: int) -> bytes:
        """What the engine has; how the stream ended, if it did."""
        try:
            data = engine.read(limit)
            if engine.held:
                engine.write_held()
            if engine.outgoing.pending:  # this, and answers of the protocol itself, as to a key update
                self.pass_on(engine)
        except TheaterError as error:
            self._tls_broken(engine, error)
            return b""
        if engine.ended and not engine.buffered:
            self.eof = True
        return data

    def _receive(self, engine: TlsEngine, limit: int) -> bool:
        """Feed the engine from the socket; whether there was something, be it the end of the stream."""
        if self.fd < 0:
            return False
        network = self.network
        try:
            size = self.sock.recv_into(network.read_view(limit))
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self.broken(error, tell=False)
            return False
        if size:
            self.last_activity = network.loop.now
            engine.feed(network.read_view(size))
        else:
            engine.feed_eof()
        return True

    def _tls_broken(self, engine: TlsEngine, error: TheaterError) -> None:
        """A record was wrong, or the stream was cut off: nothing more can be read or written."""
        if self.reason is None:
            self.reason = self.cut if self.cut is not None and isinstance(error, TlsTruncated) else str(error)
        self.answer(engine)  # an alert, if the peer is to know
        self.release_socket()

    def peek(self) -> None:
        """See whether the peer's end of stream is next. What is behind it in records has to be decrypted for that;
        the engine keeps it."""
        engine = self.tls
        if engine is None:
            Transport.peek(self)
            return
        if self.fd < 0 or self.eof:
            return
        try:
            while not engine.look_ahead() and not engine.ended:
                if not self._receive(engine, RECORD + RECORD_OVERHEAD):
                    if self.fd < 0:
                        self.stream_ended()
                    return
            if engine.held:
                engine.write_held()
            self.pass_on(engine)
        except TheaterError as error:
            self._tls_broken(engine, error)
            self.stream_ended()
            return
        if engine.buffered:
            self.fin_seen = True
            self.update_interest(stop_reading=True)
        else:
            self.eof = True
            self.update_interest()
            self.stream_ended()

    # -- writing --------------------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send, encrypted if the connection is."""
        engine = self.tls
        if engine is None:
            Transport.write(self, data)
        elif self.fd >= 0 and self.write_error is None and data:
            view = memoryview(data)
            for start in range(0, len(view), PIECE):
                engine.write(view[start : start + PIECE])
                self.pass_on(engine)

    def answer(self, engine: TlsEngine) -> None:
        """What the protocol itself has to say, as an alert. If that is too much, the connection has ended by it, and
        nobody is here who could be told by an error."""
        with suppress(LimitReached):
            self.pass_on(engine)

    def pass_on(self, engine: TlsEngine) -> None:
        """What the engine has for the peer goes the way of all output. Errors as in :meth:`queue_output`."""
        ciphertext = engine.take_output()
        if ciphertext and self.fd >= 0 and not self.write_closed:
            self.transmit(ciphertext)

    def end_output(self) -> None:
        """Half-close: close_notify and FIN after what waits to be sent."""
        self.say_goodbye()
        Transport.end_output(self)

    def finish(self) -> None:
        """Flush, say close_notify, and close, at most for ``linger_timeout``."""
        self.say_goodbye()
        Transport.finish(self)

    def say_goodbye(self) -> None:
        """close_notify, if TLS is there to say it: nobody has cut off what ends here."""
        engine = self.tls
        if engine is not None and engine.secured and self.fd >= 0 and not self.write_closed:
            engine.close()
            self.pass_on(engine)

    # -- the end --------------------------------------------------------------------------------------------------

    def release_socket(self) -> None:
        """Close the socket; harmless when it is closed."""
        if self.session_ended is not None and self.tls is not None and self.tls.secured and self.fd >= 0:
            self.session_ended(self.tls)
            self.session_ended = None
        Transport.release_socket(self)
