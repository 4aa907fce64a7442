"""The incoming half of a connection's data: cut into chunks by the framing, and taken from by whoever is to have it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from theater_tcp import errors
from theater_tcp.connection_state import CLOSING, Phase
from theater_tcp.errors import Closed, LimitReached, TheaterError
from theater_tcp.framing import InputBuffer, prefix_size
from theater_tcp.secure_transport import SecureTransport
from theater_tcp.settings import Options

if TYPE_CHECKING:
    import socket

    from theater_tcp.network import Network

__all__ = ["InputStream"]


class InputStream(SecureTransport):
    """A transport, secure or not, whose input comes in chunks.

    Args:
        network, sock, peer, options, phase: see :class:`~theater_tcp.transport.Transport`.
    """

    __slots__ = ("_input", "_leftover")

    def __init__(self, network: Network, sock: socket.SocketType, peer: Any, options: Options, phase: Phase) -> None:
        SecureTransport.__init__(self, network, sock, peer, options, phase)
        self._input: InputBuffer | None = None
        self._leftover = b""  # the end of a chunk that was larger than the `max` of a receive

    def fail(self, reason: str, flush: bool = False) -> None:
        """End the connection for ``reason``."""
        raise NotImplementedError

    def _next_chunk(self) -> bytes | None:
        """The next chunk by the framing, read from the socket as needed; None: not there yet, or the stream ended."""
        if self._leftover:
            leftover, self._leftover = self._leftover, b""
            return leftover
        options = self.options
        buffer = self._input
        if options.framing == "raw" and not buffer:
            return self.read(options.read_buffer_limit)
        if buffer is None:
            buffer = self._input = InputBuffer()
        limit = options.read_buffer_limit if options.framing == "raw" else options.frame_limit
        try:
            chunk = self._whole_chunk(buffer, limit)
            while chunk is None:
                data = self.read(options.read_buffer_limit - len(buffer) + prefix_size(options.framing))
                if data is None:
                    return self._last_chunk(buffer)
                buffer.feed(data)
                chunk = self._whole_chunk(buffer, limit)
                if chunk is None and (self.eof or self.reason is not None):  # by TLS, data and the end come at once
                    return self._last_chunk(buffer)
                if self.tls is None or not self.tls.buffered:
                    break  # the socket's next event goes on; for what the engine has, there is none
            return chunk
        except LimitReached as error:
            self.fail(str(error))
            return None

    def _whole_chunk(self, buffer: InputBuffer, limit: int) -> bytes | None:
        """The next chunk in the buffer; empty frames carry nothing and are passed over."""
        while (chunk := buffer.take(self.options.framing, limit)) == b"":
            pass
        return chunk

    def _last_chunk(self, buffer: InputBuffer) -> bytes | None:
        """What an ended stream leaves in the buffer: a line without its end is a chunk, a part of a frame is none.

        Where the stream was cut off (``reset``, ``tls-truncated``) that line is none either: ``DELETE 1`` may have been
        the beginning of ``DELETE 10``.
        """
        if not buffer and self._input is buffer:
            self._input = None
        if not (self.eof or self.reason is not None) or not buffer:
            return None
        if self.options.framing == "line" and self.eof:
            return buffer.take_rest()
        buffer.clear()
        if self.reason is None:
            self.reason = "io: the stream ended inside of a frame"
        return None

    def _input_has_chunk(self) -> bool:
        if self._leftover or self.eof or self.reason is not None:
            return True
        buffer = self._input
        try:
            return buffer is not None and buffer.has_chunk(self.options.framing, self.options.frame_limit)
        except LimitReached:
            return True  # taking it will fail the connection

    def _take(self, size: int) -> bytes | None:
        """What a ``receive`` gets: 1 to ``size`` bytes, b"" at the end of the stream, None if it has to wait."""
        closing = self.state.phase is CLOSING
        options, buffer = self.options, self._input
        if options.framing == "raw" and not self._leftover:  # cut off no more than is asked for: framing may change
            limit = min(size, options.read_buffer_limit)
            chunk = buffer.take("raw", limit) if buffer else self.read(limit)
        else:
            chunk = self._next_chunk()
            if chunk and len(chunk) > size:
                chunk, self._leftover = chunk[:size], chunk[size:]
        if chunk:
            return chunk
        if closing:
            raise Closed
        if self.reason is not None:
            raise self.error()
        return b"" if self.eof else None

    def take_unread(self) -> bytes:
        """What was read from the socket and not handed over, taken away."""
        unread, self._leftover = self._leftover, b""
        buffer, self._input = self._input, None
        return unread + buffer.take_rest() if buffer else unread

    def error(self) -> TheaterError:
        """The error for the reason why this connection ended."""
        return self._as_error(self.reason or "closed")

    @staticmethod
    def _as_error(reason: str) -> TheaterError:
        kind, _, detail = reason.partition(": ")
        return errors.by_kind.get(kind, Closed)(detail)
